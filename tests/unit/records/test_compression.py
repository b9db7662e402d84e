"""Codecs: what goes in comes out, and what is damaged or hostile comes out as a ValueError within bounds."""

import builtins
import pickle
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Callable
from typing import Any, cast

import cramjam
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streamlog.errors import ConfigError, MissingExtraError, UnsupportedCompressionTypeError
from streamlog.records import compression
from streamlog.records.compression import GZIP, LZ4, NONE, SNAPPY, ZSTD, codec_id, codec_name, compress, decompress

MIB = 1 << 20
CODECS = [NONE, GZIP, SNAPPY, LZ4, ZSTD]
COMPRESSED = CODECS[1:]
TEXT = b"the same words over and over, " * 40


def xerial(*blocks: bytes) -> bytes:
    framed = b"".join(
        len(raw).to_bytes(4, "big") + raw for raw in (bytes(cramjam.snappy.compress_raw(b)) for b in blocks)
    )
    return b"\x82SNAPPY\x00" + (1).to_bytes(4, "big") + (1).to_bytes(4, "big") + framed


def test_ids_and_names_are_kafkas() -> None:
    assert [codec_name(i) for i in range(5)] == ["none", "gzip", "snappy", "lz4", "zstd"]
    assert [codec_id(name) for name in ("none", "gzip", "snappy", "lz4", "zstd")] == CODECS
    assert codec_id(None) == codec_id("uncompressed") == NONE


def test_a_misspelt_codec_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match="did you mean 'snappy'") as caught:
        codec_id("snapy")
    assert isinstance(caught.value, UnsupportedCompressionTypeError)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    with pytest.raises(ConfigError, match="did you mean 'gzip'"):
        codec_id("GZIP")


def test_a_codec_that_is_no_string_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="int, 4"):
        codec_id(cast(Any, 4))


@pytest.mark.parametrize("codec", [-1, 5, 7])
def test_an_unknown_codec_id_is_unsupported_rather_than_corrupt(codec: int) -> None:
    for call in (lambda: codec_name(codec), lambda: decompress(codec, b"", 0, MIB), lambda: compress(codec, b"")):
        with pytest.raises(UnsupportedCompressionTypeError, match=f"codec {codec} ") as caught:
            call()
        assert not isinstance(caught.value, ValueError)


@pytest.mark.parametrize("name", [None, "none", "gzip", "snappy", "lz4", "zstd"])
def test_require_returns_the_id_of_a_usable_codec(name: str) -> None:
    assert compression.require(name) == codec_id(name)


@pytest.mark.parametrize("name", ["snappy", "lz4", "zstd"])
def test_without_cramjam_the_extra_to_install_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_cramjam(module: str, *args: Any, **kwargs: Any) -> Any:
        if module == "cramjam":
            raise ImportError("No module named 'cramjam'")
        return real(module, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_cramjam)
    for call in (
        lambda: compression.require(name),
        lambda: compress(codec_id(name), TEXT),
        lambda: decompress(codec_id(name), b"whatever", 3, MIB),
    ):
        with pytest.raises(MissingExtraError, match=r"pip install 'streamlog-py\[compression\]'"):
            call()
    assert decompress(GZIP, compress(GZIP, TEXT), len(TEXT), MIB) == TEXT


def test_importing_the_module_imports_no_optional_package() -> None:
    script = "import sys, streamlog.records.compression; sys.exit('cramjam' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


@pytest.mark.parametrize("codec", CODECS)
@given(data=st.binary(max_size=4096) | st.builds(lambda part, n: part * n, st.binary(max_size=8), st.integers(0, 999)))
@example(b"")
def test_every_codec_returns_what_it_was_given(codec: int, data: Any) -> None:
    packed = compress(codec, data)
    assert type(packed) is bytes
    unpacked = decompress(codec, packed, len(data), max(len(data), 1))
    assert type(unpacked) is bytes
    assert unpacked == data
    assert decompress(codec, memoryview(packed), len(data), len(data)) == data
    assert compress(codec, memoryview(data)) == packed


@pytest.mark.parametrize("codec", CODECS)
def test_compressing_twice_gives_the_same_bytes(codec: int) -> None:
    assert compress(codec, TEXT) == compress(codec, TEXT)


@pytest.mark.parametrize("codec", COMPRESSED)
def test_other_implementations_read_what_is_written(codec: int) -> None:
    reader = {GZIP: cramjam.gzip.decompress, SNAPPY: cramjam.snappy.decompress_raw, LZ4: cramjam.lz4.decompress}
    assert bytes(reader.get(codec, cramjam.zstd.decompress)(compress(codec, TEXT))) == TEXT


def test_lz4_frames_have_independent_blocks_and_a_checksum_as_java_readers_demand() -> None:
    flags = compress(LZ4, TEXT)[4]
    assert flags & 0b0010_0000, "blocks are linked"
    assert flags & 0b0000_0100, "no content checksum"


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("wrong", [-1, 1, 300])
def test_another_length_than_the_header_states_is_refused(codec: int, wrong: Any) -> None:
    with pytest.raises(ValueError, match=codec_name(codec)):
        decompress(codec, compress(codec, TEXT), len(TEXT) + wrong, MIB)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize(("size", "limit"), [(MIB + 1, MIB), (1 << 60, MIB), (-1, MIB), (1, 0)])
def test_a_stated_length_beyond_the_limit_is_refused_before_anything_is_allocated(
    codec: int, size: int, limit: int
) -> None:
    with pytest.raises(ValueError, match=f"states {size} uncompressed bytes, and {limit}"):
        decompress(codec, compress(codec, TEXT), size, limit)


@pytest.mark.parametrize("codec", COMPRESSED)
def test_every_truncation_is_refused(codec: int) -> None:
    packed = compress(codec, TEXT)
    for cut in range(len(packed)):
        with pytest.raises(ValueError, match=codec_name(codec)):
            decompress(codec, packed[:cut], len(TEXT), MIB)


@pytest.mark.parametrize("codec", [GZIP, SNAPPY, ZSTD])
@pytest.mark.parametrize("tail", [b"\x00" * 8, b"more", "itself"])
def test_bytes_after_the_end_are_refused(codec: int, tail: Any) -> None:
    packed = compress(codec, TEXT)
    with pytest.raises(ValueError, match=codec_name(codec)):
        decompress(codec, packed + (packed if tail == "itself" else tail), len(TEXT), MIB)


def outcome(codec: int, data: bytes, size: int) -> bytes | str:
    """What `decompress` returns, or the reason it gives."""
    try:
        return decompress(codec, data, size, MIB)
    except ValueError as error:
        return str(error)


@pytest.mark.parametrize("tail", [b"\x00" * 8, b"more", compress(LZ4, TEXT)])
def test_bytes_after_an_lz4_frame_are_refused_or_ignored(tail: bytes) -> None:
    got = outcome(LZ4, compress(LZ4, TEXT) + tail, len(TEXT))
    # cramjam before 2.14 stops reading at the end of the frame, whose checksum was right.
    assert got == TEXT or "lz4: damaged" in str(got)


@pytest.mark.parametrize("codec", COMPRESSED)
@given(data=st.data())
def test_damaged_bytes_give_a_value_error_or_bytes_of_the_stated_length(codec: int, data: Any) -> None:
    packed = bytearray(compress(codec, TEXT))
    for _ in range(data.draw(st.integers(1, 4))):
        packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    got = outcome(codec, bytes(packed), len(TEXT))
    assert codec_name(codec) in got if isinstance(got, str) else len(got) == len(TEXT)


@pytest.mark.parametrize("codec", COMPRESSED)
@given(garbage=st.binary(max_size=200), size=st.integers(0, 1000))
def test_garbage_gives_a_value_error_or_bytes_of_the_stated_length(codec: int, garbage: bytes, size: int) -> None:
    got = outcome(codec, garbage, size)
    assert codec_name(codec) in got if isinstance(got, str) else len(got) == size


@given(st.lists(st.binary(max_size=300), max_size=5))
def test_snappy_framed_as_java_does_is_read(blocks: Any) -> None:
    whole = b"".join(blocks)
    assert decompress(SNAPPY, xerial(*blocks), len(whole), max(len(whole), 1)) == whole


def test_framed_snappy_is_never_mistaken_for_a_raw_block() -> None:
    with pytest.raises(cramjam.DecompressionError):
        cramjam.snappy.decompress_raw(xerial(TEXT))


@pytest.mark.parametrize("cut", range(8, 30))
def test_framed_snappy_that_is_cut_is_refused(cut: int) -> None:
    with pytest.raises(ValueError, match="snappy"):
        decompress(SNAPPY, xerial(TEXT)[:cut], len(TEXT), MIB)


def test_a_framed_snappy_block_cannot_claim_more_than_there_is() -> None:
    hostile = bytearray(xerial(TEXT))
    hostile[16:20] = b"\xff\xff\xff\xff"
    with pytest.raises(ValueError, match="bytes past the end"):
        decompress(SNAPPY, hostile, len(TEXT), MIB)


def _pieces(compressor: Any, piece: bytes, count: int) -> bytes:
    parts = []
    for _ in range(count):
        compressor.compress(piece)
        parts.append(bytes(compressor.flush()))
    return b"".join([*parts, bytes(compressor.finish())])


def _zstd_of_window(log2: int, blocks: Any) -> bytes:
    """A frame that asks for a window of 2**log2 bytes and fills it with run-length blocks of 128 KiB."""
    sizes = [(1 << 17) << 3 | 1 << 1 | (i == blocks - 1) for i in range(blocks)]
    descriptor = bytes([0, (log2 - 10) << 3])
    return b"\x28\xb5\x2f\xfd" + descriptor + b"".join(n.to_bytes(3, "little") + b"A" for n in sizes)


ZEROS = bytes(MIB)
BOMBS: dict[str, tuple[int, Callable[[], bytes]]] = {
    "gzip": (GZIP, lambda: _gzip_bomb(64)),
    "snappy": (SNAPPY, lambda: bytes(cramjam.snappy.compress_raw(bytes(64 * MIB)))),
    "snappy, framed": (SNAPPY, lambda: xerial(*[ZEROS] * 64)),
    "lz4": (LZ4, lambda: _pieces(cramjam.lz4.Compressor(), ZEROS, 64)),
    "zstd that states its size": (ZSTD, lambda: bytes(cramjam.zstd.compress(bytes(64 * MIB)))),
    "zstd that hides its size": (ZSTD, lambda: _pieces(cramjam.zstd.Compressor(3), ZEROS, 64)),
    "zstd with a huge window": (ZSTD, lambda: _zstd_of_window(27, 512)),
    "zstd with a window that is refused": (ZSTD, lambda: _zstd_of_window(31, 512)),
}


def _gzip_bomb(mebibytes: int) -> bytes:
    stream = zlib.compressobj(wbits=31)
    return b"".join([*(stream.compress(ZEROS) for _ in range(mebibytes)), stream.flush()])


MEASURE = """
import sys
from streamlog.records import compression

def peak() -> int:  # of resident memory, in KiB; per process, so other tests do not count
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))

codec, bomb = int(sys.argv[1]), sys.stdin.buffer.read()
compression.decompress(codec, compression.compress(codec, b"warm"), 4, 4)
before = peak()
try:
    compression.decompress(codec, bomb, 1 << 20, 1 << 20)
except ValueError as error:
    print(peak() - before, error)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads resident memory from /proc")
@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_of_64_mib_costs_little_more_than_the_stated_length(name: str) -> None:
    codec, make = BOMBS[name]
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, str(codec)], input=make(), capture_output=True, check=True, timeout=60
    )
    grown, _, reason = run.stdout.decode().partition(" ")
    assert codec_name(codec) in reason
    assert int(grown) < 12 * 1024, f"{grown} KiB for an allowed output of 1 MiB"


def test_the_output_is_held_once_while_it_is_decompressed() -> None:
    size = 8 * MIB
    packed = compress(ZSTD, bytes(size))
    decompress(ZSTD, compress(ZSTD, b"warm"), 4, 4)
    tracemalloc.start()
    try:
        decompress(ZSTD, packed, size, size)
        assert tracemalloc.get_traced_memory()[1] < 1.25 * size
    finally:
        tracemalloc.stop()


# -- a client's batch, which states no length --------------------------------------------------------------


def streamed(codec: int, data: bytes) -> bytes:
    """As a client's streaming compressor does, which does not state the length."""
    if codec == ZSTD:
        zstd = cramjam.zstd.Compressor(level=3)
        zstd.compress(data)
        return bytes(zstd.finish())
    return compress(codec, data)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("data", [b"", b"a", TEXT, bytes(300_000), bytes(range(256)) * 2000], ids=len)
def test_what_states_no_length_is_decompressed_within_a_limit(codec: int, data: bytes) -> None:
    for made in (compress(codec, data), streamed(codec, data)):
        assert compression.decompress_up_to(codec, made, len(data)) == data
        assert compression.decompress_up_to(codec, made, MIB) == data
        if len(data) > 1:
            with pytest.raises(ValueError, match=r"more than|damaged, or longer"):
                compression.decompress_up_to(codec, made, len(data) - 1)


@pytest.mark.parametrize("codec", COMPRESSED)
def test_a_bomb_takes_no_more_memory_than_the_limit(codec: int) -> None:
    made = streamed(codec, bytes(64 * MIB))
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"more than|damaged, or longer"):
        compression.decompress_up_to(codec, made, MIB)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * MIB + len(made)


@given(st.sampled_from(COMPRESSED), st.binary(max_size=200), st.integers(0, 120), st.binary(min_size=1, max_size=4))
def test_damage_of_what_states_no_length_takes_little_memory(codec: int, data: bytes, at: int, change: bytes) -> None:
    made = streamed(codec, data * 4)
    made = made[:at] + change + made[at + len(change) :]
    tracemalloc.start()
    try:
        assert len(compression.decompress_up_to(codec, made, MIB)) <= MIB
    except ValueError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 2 * MIB + 4096


def test_blocks_of_a_xerial_stream_are_summed() -> None:
    assert compression.decompress_up_to(SNAPPY, xerial(TEXT, b"", TEXT), MIB) == TEXT * 2


@pytest.mark.parametrize("store_size", [False, True])
@pytest.mark.parametrize("data", [b"", b"a", TEXT * 4000, bytes(range(256)) * 2000], ids=len)
def test_lz4_frames_of_every_kind_are_measured(store_size: bool, data: bytes) -> None:
    """Blocks that are stored, that are compressed; the length stated or not."""
    made = cramjam.lz4.compress(data) if store_size else compress(LZ4, data)
    assert compression.decompress_up_to(LZ4, made, len(data)) == data


@pytest.mark.parametrize(
    ("codec", "data", "why"),
    [
        (SNAPPY, b"", "does not state its length"),
        (SNAPPY, b"\xff" * 9, "does not state its length"),
        (LZ4, b"", "no frame"),
        (LZ4, b"\x04\x22\x4d\x18\x60\x40", "no frame"),
        (LZ4, b"\x04\x22\x4d\x18\x78\x40" + bytes(8), "cut short"),
        (LZ4, b"\x04\x22\x4d\x18\x61\x40\x00" + bytes(4) + b"\xff\xff\xff\x7f", "cut short"),
        (ZSTD, b"", "no frame"),
        (ZSTD, b"\x28\xb5\x2f\xfd", "no frame"),
        (ZSTD, b"\x28\xb5\x2f\xfd\x00\x58", "cut short"),
        (ZSTD, b"\x28\xb5\x2f\xfd\x00\x58\x02\xff\xff", "cut short"),
    ],
)
def test_a_frame_that_cannot_be_measured_is_refused(codec: int, data: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        compression.decompress_up_to(codec, data, MIB)
