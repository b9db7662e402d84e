"""The codecs by which a payload may be compressed: Kafka's names and ids.

`none` 0, `gzip` 1, `snappy` 2, `lz4` 3, `zstd` 4. gzip comes with Python; the others come with
cramjam (extra `compression`), which is imported when a codec is first required, never at
`import streamlog`.

Reading trusts no input. The batch header states the uncompressed length; a buffer of exactly that
length is allocated, after a check against the caller's limit, and the codec writes into it. A codec
stops with an error where the buffer ends, so a decompression bomb costs the bytes that the header states
and no more. `cramjam.decompress(output_len=…)` was rejected: the hint limits nothing, and a zstd frame
that states its own size gets that much. Feeding a `Decompressor` piece by piece was rejected too: one
piece of 128 KiB may expand to gigabytes before its length can be checked. A zstd frame may ask for a
window of 128 MiB (the codec refuses more); only the pages of the window that get output are touched, so
resident memory stays with the buffer.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, TypeAlias

from ..config import CODECS
from ..errors import ConfigError, MissingExtraError, UnsupportedCompressionTypeError, did_you_mean

if TYPE_CHECKING:
    from ..types import Buffer

NONE, GZIP, SNAPPY, LZ4, ZSTD = range(5)
_IDS = {name: codec for codec, name in enumerate(CODECS)} | {"uncompressed": NONE}

# The levels of the Java client if none is set. cramjam's own lz4 default is seven times
# slower than the fast one for a fifth less output.
_GZIP_LEVEL, _LZ4_LEVEL, _ZSTD_LEVEL = 6, 0, 3
_GZIP_WBITS = 31

# A raw snappy block can never begin like this: read as one, its first element copies from before the start.
_XERIAL_MAGIC = b"\x82SNAPPY\x00"
_XERIAL_HEADER = 16

_Inflate: TypeAlias = "Callable[[Buffer, memoryview], int]"


class UnknownCodecError(UnsupportedCompressionTypeError, ConfigError):
    """A setting names an unknown codec: a bad setting and an unsupported codec, so either base class catches it."""


def codec_id(name: str | None) -> int:
    """The id of the codec called `name`; None, "none" and "uncompressed" are 0.

    Raises ConfigError for anything but a string, UnknownCodecError for a string that is not the name of a codec.

    >>> codec_id("zstd"), codec_id(None)
    (4, 0)
    """
    if name is None:
        return NONE
    if not isinstance(name, str):
        raise ConfigError(f"compression_type is a {type(name).__name__}, {name!r}; give one of {', '.join(CODECS)}")
    codec = _IDS.get(name)
    if codec is None:
        hint = did_you_mean(name.lower(), CODECS)
        raise UnknownCodecError(f"no codec is called {name!r}{hint}; compression_type is one of {', '.join(CODECS)}")
    return codec


def codec_name(codec: int) -> str:
    """The name of the codec with this id. Raises UnsupportedCompressionTypeError if there is none.

    >>> codec_name(3)
    'lz4'
    """
    if not 0 <= codec < len(CODECS):
        raise UnsupportedCompressionTypeError(
            f"codec {codec} is unknown here: the data was written by a newer version, or the header is damaged; "
            f"known are 0 to {len(CODECS) - 1} ({', '.join(CODECS)})"
        )
    return CODECS[codec]


def require(name: str | None) -> int:
    """Check, while a program is being configured, that the codec can be used; return its id.

    Costs the import of cramjam, a few milliseconds, for snappy, lz4 and zstd. Raises as `codec_id`
    does, and MissingExtraError if cramjam is not installed.

    >>> require("gzip")
    1
    """
    codec = codec_id(name)
    if codec >= SNAPPY:
        _cramjam(codec)
    return codec


def compress(codec: int, data: Buffer) -> bytes:
    """`data` compressed by itself: one gzip member, one lz4 or zstd frame, or a raw snappy block.

    The caller stores the codec and `len(data)`, which `decompress` needs. `data` is any contiguous buffer.

    >>> decompress(GZIP, compress(GZIP, b"a" * 1000), 1000, limit=1 << 20) == b"a" * 1000
    True
    """
    if codec == NONE:
        return bytes(data)
    if codec == GZIP:
        return zlib.compress(data, _GZIP_LEVEL, wbits=_GZIP_WBITS)
    cramjam = _cramjam(codec)
    if codec == SNAPPY:
        return bytes(cramjam.snappy.compress_raw(data))
    if codec == ZSTD:
        return bytes(cramjam.zstd.compress(data, level=_ZSTD_LEVEL))
    # The one-call function links its blocks, and Java's reader refuses linked blocks.
    frame = cramjam.lz4.Compressor(level=_LZ4_LEVEL, content_checksum=True, block_linked=False)
    frame.compress(bytes(data))
    return bytes(frame.finish())


def decompress(codec: int, data: Buffer, size: int, limit: int) -> bytes:
    """The `size` bytes that were given to `compress`.

    `size` is the length that the batch header states, and `limit` the most that the caller accepts: no more than
    `size` bytes are allocated (gzip: twice that, for a moment), whatever `data` states. Snappy may be raw or framed
    as Java's clients do (xerial).

    Raises ValueError with the reason if `data` is damaged, yields another length than `size`, or
    `size` exceeds `limit`: the caller knows file and position and makes it a CorruptRecordError.
    Raises UnsupportedCompressionTypeError for an unknown codec, MissingExtraError without cramjam.
    """
    name = codec_name(codec)
    if not 0 <= size <= limit:
        raise ValueError(f"{name}: the header states {size} uncompressed bytes, and {limit} are the most allowed")
    if codec == NONE:
        if len(data) != size:
            raise ValueError(f"none: {len(data)} bytes where the header states {size}")
        return bytes(data)
    if codec == GZIP:
        output = _gunzip(data, size)
        if len(output) != size:
            found = f"more than {size}" if len(output) > size else f"{len(output)}"
            raise ValueError(f"gzip: {found} bytes came out where the header states {size}")
        return output
    # getvalue returns the bytes that the view wrote to: there is no second copy of the output.
    buffer = io.BytesIO(bytes(size))
    with buffer.getbuffer() as view:
        written = _inflate_into(codec, data, view)
    if written != size:
        raise ValueError(f"{name}: {written} bytes came out where the header states {size}")
    return buffer.getvalue()


def decompress_up_to(codec: int, data: Buffer, limit: int) -> bytes:
    """What was compressed to `data`, if it is no longer than `limit`: for a client's batch, which states no length.

    The frame says how long it may be, block by block, before anything is decompressed; no more than that, and no more than
    `limit`, is allocated. Raises as `decompress`, ValueError also for what is longer than `limit`.
    """
    name = codec_name(codec)
    if codec in (NONE, GZIP):
        output = bytes(data) if codec == NONE else _gunzip(data, limit)
        if len(output) > limit:
            raise ValueError(f"{name}: more than the {limit} bytes allowed come out")
        return output
    bound = _BOUNDS[codec](memoryview(data))
    buffer = io.BytesIO(bytes(min(bound, limit)))
    with buffer.getbuffer() as view:
        written = _inflate_into(codec, data, view)
    buffer.truncate(written)
    return buffer.getvalue()


def _inflate_into(codec: int, data: Buffer, view: memoryview) -> int:
    cramjam = _cramjam(codec)
    try:
        if codec == ZSTD:
            return int(cramjam.zstd.decompress_into(data, view))
        if codec == LZ4:
            return int(cramjam.lz4.decompress_into(data, view))
        if bytes(data[: len(_XERIAL_MAGIC)]) == _XERIAL_MAGIC:
            return _unsnap_xerial(cramjam.snappy.decompress_raw_into, data, view)
        return int(cramjam.snappy.decompress_raw_into(data, view))
    except cramjam.DecompressionError as error:
        # Some codecs report a full buffer by the error for damage, so the message has to name both.
        reason = f"damaged, or longer than the {len(view)} bytes that it may have: {error}"
        raise ValueError(f"{codec_name(codec)}: {reason}") from error


def _unsnap_xerial(inflate: _Inflate, data: Buffer, view: memoryview) -> int:
    """Walk the blocks of a xerial stream, each a big-endian length and a raw block; return the bytes written."""
    source = memoryview(data)
    position, written = _XERIAL_HEADER, 0
    if len(source) < position:
        raise ValueError(f"snappy: a xerial header of {position} bytes is truncated after {len(source)}")
    while position < len(source):
        start = position + 4
        length = int.from_bytes(source[position:start], "big")
        position = start + length
        if start > len(source) or position > len(source):
            raise ValueError(f"snappy: a xerial block runs {position - len(source)} bytes past the end")
        written += inflate(source[start:position], view[written:])
    return written


def _gunzip(data: Buffer, most: int) -> bytes:
    """What one member has, or the first `most` + 1 bytes of what is longer."""
    stream = zlib.decompressobj(wbits=_GZIP_WBITS)
    try:
        # One byte more than allowed distinguishes "longer" from "exact"; and 0 would mean "no limit" to zlib.
        output = stream.decompress(data, most + 1)
    except zlib.error as error:
        raise ValueError(f"gzip: {error}") from error
    if len(output) > most:
        return output
    if not stream.eof:
        raise ValueError("gzip: the stream is truncated before its checksum")
    # Further members are refused, though the format allows them: no Kafka client writes any, and a
    # stream of thousands of empty ones costs quadratic time.
    if stream.unused_data:
        raise ValueError(f"gzip: {len(stream.unused_data)} bytes follow the end of the stream")
    return output


# -- how long what was compressed may be, as its own frame says -------------------------------------------


def _snappy_bound(data: memoryview) -> int:
    """The length that a raw block states, or the sum of those of a xerial stream."""
    if bytes(data[: len(_XERIAL_MAGIC)]) != _XERIAL_MAGIC:
        return _stated_snappy_len(data)
    at, total = _XERIAL_HEADER, 0
    while at < len(data):
        stop = at + 4 + int.from_bytes(data[at : at + 4], "big")
        total += _stated_snappy_len(data[at + 4 : stop])
        at = stop
    return total


def _stated_snappy_len(block: memoryview) -> int:
    total = 0
    for at, byte in enumerate(block[:5]):
        total |= (byte & 127) << 7 * at
        if byte < 128:
            return total
    raise ValueError("snappy: a block does not state its length")


def _lz4_bound(data: memoryview) -> int:
    """The sum of the most that each block of a frame may have. A block is at most 255 times as long uncompressed."""
    if bytes(data[:4]) != _LZ4_MAGIC or len(data) < 7:
        raise ValueError("lz4: no frame begins here")
    flags, most = data[4], 1 << 8 + 2 * (data[5] >> 4 & 7)
    checksum = 4 if flags & 16 else 0
    at, total = 7 + (8 if flags & 8 else 0) + (4 if flags & 1 else 0), 0
    while True:
        size = int.from_bytes(data[at : at + 4], "little")
        if at + 4 > len(data):
            raise ValueError("lz4: the frame is cut short")
        if not size:
            return total
        length = size & 0x7FFFFFFF
        total += length if size != length else min(most, 255 * length)
        at += 4 + length + checksum


def _zstd_bound(data: memoryview) -> int:
    """The sum of the most that each block of a frame may have."""
    if bytes(data[:4]) != _ZSTD_MAGIC or len(data) < 5:
        raise ValueError("zstd: no frame begins here")
    flags = data[4]
    single = flags >> 5 & 1
    at = 5 + (not single) + (0, 1, 2, 4)[flags & 3] + (single, 2, 4, 8)[flags >> 6]
    total = 0
    while True:
        block = int.from_bytes(data[at : at + 3], "little")
        if at + 3 > len(data):
            raise ValueError("zstd: the frame is cut short")
        is_last, kind, size = block & 1, block >> 1 & 3, block >> 3
        total += _ZSTD_BLOCK if kind == _ZSTD_COMPRESSED else size
        at += 3 + (1 if kind == _ZSTD_REPEATED else size)
        if is_last:
            return total


_LZ4_MAGIC, _ZSTD_MAGIC = b"\x04\x22\x4d\x18", b"\x28\xb5\x2f\xfd"
_ZSTD_REPEATED, _ZSTD_COMPRESSED = 1, 2
_ZSTD_BLOCK = 1 << 17
_BOUNDS = {SNAPPY: _snappy_bound, LZ4: _lz4_bound, ZSTD: _zstd_bound}


def _cramjam(codec: int) -> ModuleType:
    name = codec_name(codec)
    try:
        import cramjam
    except ImportError as error:
        raise MissingExtraError(
            f"{name} compression needs the package cramjam, which is not installed; "
            "run: pip install 'streamlog-py[compression]'"
        ) from error
    return cramjam
