"""`RecordTuple`: some records at once, as `head`, `tail` and `at` of a topic give them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, SupportsIndex, overload

from ..types import K, Record, V
from . import extras

if TYPE_CHECKING:
    import pandas
    import polars
    import pyarrow

_SHOWN = 10  # records in the repr


class RecordTuple(tuple[Record[K, V], ...], Generic[K, V]):
    """Some records of a topic, all in memory. Made by `topic.head`, `topic.tail` and `topic.at`.

    A tuple of Records: it has a length and can be indexed, and be shown, iterated over, compared, copied and pickled as often
    as one likes. `Records`, which `topic.read` returns, is an iterator over any number of them, which can be
    read once. The repr has the first few; a notebook shows a table of them. A slice is a RecordTuple too. `to_arrow`,
    `to_pandas` and `to_polars` make tables of them.

    >>> import streamlog
    >>> with streamlog.open() as log:
    ...     orders = log.create_topic("orders")
    ...     _ = orders.send_many(["9.50", "20.00", "3.25"])
    ...     first = orders.head(2)
    ...     len(first), first[-1].value, [record.offset for record in first[1:]]
    (2, b'20.00', [1])
    """

    __slots__ = ()

    @overload
    def __getitem__(self, index: SupportsIndex, /) -> Record[K, V]: ...
    @overload
    def __getitem__(self, index: slice, /) -> RecordTuple[K, V]: ...
    def __getitem__(self, index: Any, /) -> Any:
        """The record at an index, or, of a slice, another RecordTuple."""
        found: Any = super().__getitem__(index)
        return RecordTuple(found) if isinstance(index, slice) else found

    def to_arrow(self) -> pyarrow.Table:
        """The records as a table of Arrow: partition, offset, timestamp (UTC, ms), key, value, headers. Needs pyarrow.

        Keys and values are as the serdes of the topic made them: bytes, text, numbers, times, and of mappings structs. What
        Arrow has no type for, and a column in which types are mixed, is text: the repr of each. For typed columns of a whole
        topic see `StreamLog.topic`, `schema`.

        Raises MissingExtraError.

        >>> import streamlog
        >>> with streamlog.open() as log:
        ...     _ = log.create_topic("orders").send_many(['{"price": 9.5}', '{"price": 20}'])
        ...     orders = log.topic("orders", value_serde=streamlog.serde.json)
        ...     orders.tail(1).to_arrow().select(["offset", "value"]).to_pylist()
        [{'offset': 1, 'value': {'price': 20}}]
        """
        made: pyarrow.Table = extras.frames().records_to_arrow(self)
        return made

    def to_pandas(self) -> pandas.DataFrame:
        """`to_arrow`, as a data frame of pandas, which has to be installed."""
        extras.pandas()
        frame: pandas.DataFrame = self.to_arrow().to_pandas()
        return frame

    def to_polars(self) -> polars.DataFrame:
        """`to_arrow`, as a data frame of polars, which has to be installed."""
        frame: polars.DataFrame = extras.polars().DataFrame(self.to_arrow())
        return frame

    def __repr__(self) -> str:
        """The first records, each in a line, and how many more there are."""
        lines = [repr(record) for record in self[:_SHOWN]]
        if len(self) > _SHOWN:
            lines.append(f"… and {len(self) - _SHOWN} more")
        shown = ",\n ".join(lines)
        return f"({shown}{',' if len(self) == 1 else ''})"

    def _repr_html_(self) -> str:
        """For notebooks: a table of the first records. It raises nothing."""
        html: str = extras.notebook().of_record_tuple(self)
        return html
