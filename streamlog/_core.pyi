"""The core in C, which may be missing: import it from `records/core.py`."""

from array import array
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, final, overload

from .types import Buffer

C = TypeVar("C")
T = TypeVar("T")

def seal(
    seed: int,
    keys: Sequence[bytes | None] | None,
    values: Sequence[bytes | None] | None,
    timestamps: Sequence[int] | int,
    count: int,
    /,
) -> tuple[bytes, int, bytes, int, int, int] | None: ...
def encode_one(
    seed: int,
    key: bytes | None,
    value: bytes,
    timestamp: int,
    base_offset: int,
    leader_epoch: int,
    append_ms: int,
    producer_id: int = ...,
    producer_epoch: int = ...,
    base_sequence: int = ...,
    attributes: int = ...,
    /,
) -> bytes: ...
def end_of_whole_batches(buffer: Buffer, position: int, end: int, /) -> int: ...
def bisect_offsets(offsets: array[int], offset: int, /) -> int: ...
def gather(batches: list[Columns], kind: int, /) -> memoryview | tuple[bytes | None, memoryview, memoryview] | None: ...
def find_batch(data: Buffer, seed: int, offset: int, /) -> tuple[int, int, None] | None: ...

@final
class RecordReader:
    def __init__(
        self,
        data: Buffer,
        at: int,
        position: int,
        seed: int,
        record_type: type[tuple[Any, ...]],
        topic: str,
        partition: int,
        leader_epoch: int,
        hides: bool,
        /,
    ) -> None: ...
    @property
    def at(self) -> int: ...
    @property
    def position(self) -> int: ...
    @property
    def is_inside(self) -> bool: ...
    def take(self, out: list[Any], n: int, /) -> int: ...
    def next_batch(self) -> Columns | None: ...
    def take_batches(
        self, out: list[T], n: int, exactly: bool, make: Callable[[Columns, C], T], context: C, /
    ) -> int: ...

@final
class Column(Sequence[bytes | None]):
    @overload
    def __getitem__(self, at: int) -> bytes | None: ...
    @overload
    def __getitem__(self, at: slice) -> list[bytes | None]: ...
    def __len__(self) -> int: ...

@final
class Columns:
    @property
    def base_offset(self) -> int: ...
    @property
    def next_offset(self) -> int: ...
    @property
    def base_timestamp(self) -> int: ...
    @property
    def record_count(self) -> int: ...
    @property
    def batch_len(self) -> int: ...
    def offsets(self) -> range: ...
    def timestamps(self) -> list[int]: ...
    def keys(self) -> Column | None: ...
    def values(self) -> Column | None: ...
    def headers(self) -> None: ...
    def key_buffers(self) -> tuple[bytes | None, memoryview, memoryview] | None: ...
    def value_buffers(self) -> tuple[bytes | None, memoryview, memoryview] | None: ...

@final
class PackedRows:
    def __len__(self) -> int: ...
    @overload
    def __getitem__(self, at: int) -> tuple[Any, ...]: ...
    @overload
    def __getitem__(self, at: slice) -> list[tuple[Any, ...]]: ...
    def append(self, row: tuple[Any, ...], /) -> int: ...
    def seal(
        self, seed: int, count: int, /
    ) -> tuple[tuple[bytes, int, bytes, int, int, int], list[int] | int] | None: ...

@final
class SendMethod:
    def __new__(
        cls,
        function: Any,
        otherwise: Any,
        producer: type[Any],
        topic: type[Any],
        queue: type[Any],
        batch: type[Any],
        delivery: type[Any],
        overhead: int,
    ) -> Any: ...
