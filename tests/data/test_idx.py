from __future__ import annotations

import gzip
import io
import os
import struct
import threading
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from cnet.data import read_idx, write_idx
from cnet.data._idx_codec import decode

DTYPES = [np.uint8, np.int8, np.int16, np.int32, np.float32, np.float64]


def decode_bytes(content: bytes, **options: int) -> np.ndarray:
    return decode(io.BufferedReader(io.BytesIO(content)), "the file", **options)


def plain(code: int, shape: tuple[int, ...], body: bytes) -> bytes:
    return struct.pack(f">HBB{len(shape)}I", 0, code, len(shape), *shape) + body


@given(
    array=st.sampled_from(DTYPES).flatmap(
        lambda dtype: st_numpy.arrays(dtype, st_numpy.array_shapes(min_dims=1, max_dims=5, min_side=0, max_side=4))
    ),
    suffix=st.sampled_from(["", ".gz"]),
    byte_order=st.sampled_from("<>"),
    memory_order=st.sampled_from("CF"),
)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_idx_round_trip(tmp_path: Path, array: np.ndarray, suffix: str, byte_order: str, memory_order: str) -> None:
    path = tmp_path / f"array{suffix}"
    write_idx(path, np.asarray(array, dtype=array.dtype.newbyteorder(byte_order), order=memory_order))
    result = read_idx(path)
    np.testing.assert_array_equal(result, array)
    assert result.dtype == array.dtype
    assert result.dtype.isnative
    assert result.flags.c_contiguous
    assert result.flags.writeable


@given(content=st.binary(max_size=200))
@example(b"")
@example(gzip.compress(b""))
@settings(deadline=None)
def test_idx_arbitrary_bytes_give_only_value_error(content: bytes) -> None:
    for wrapped in (content, b"\x1f\x8b" + content, gzip.compress(content), b"\x00\x00" + content):
        try:
            decode_bytes(wrapped)
        except ValueError as error:
            assert str(error).startswith("the file: ")


@given(data=st.data(), compressed=st.booleans())
@settings(deadline=None)
def test_idx_damaged_file_gives_only_value_error(data: st.DataObject, compressed: bool) -> None:
    content = bytearray(plain(0x0B, (3, 2), bytes(range(12))))
    if compressed:
        content = bytearray(gzip.compress(content, mtime=0))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        decode_bytes(bytes(content[: data.draw(st.integers(0, len(content)))]))
    except ValueError as error:
        assert str(error).startswith("the file: ")


@given(
    code=st.sampled_from([0x08, 0x09, 0x0B, 0x0C, 0x0D, 0x0E]),
    shape=st.lists(st.one_of(st.integers(0, 2), st.integers(0, 2**32 - 1)), min_size=1, max_size=40),
)
@settings(deadline=None)
def test_idx_lying_sizes_give_value_error_or_the_empty_array(code: int, shape: list[int]) -> None:
    try:
        assert decode_bytes(plain(code, tuple(shape), b"")).shape == tuple(shape)
    except ValueError as error:
        assert str(error).startswith("the file: ")


def test_idx_reads_known_bytes(tmp_path: Path) -> None:
    path = tmp_path / "known"
    path.write_bytes(bytes.fromhex("00000d02 00000001 00000002 3f800000 c0000000"))
    np.testing.assert_array_equal(read_idx(path), np.array([[1.0, -2.0]], dtype=np.float32))


def test_idx_recognises_gzip_by_content_not_name(tmp_path: Path) -> None:
    content = plain(0x08, (2,), b"ab")
    (tmp_path / "plain.gz").write_bytes(content)
    (tmp_path / "packed").write_bytes(gzip.compress(content))
    for name in ("plain.gz", "packed"):
        assert read_idx(str(tmp_path / name)).tobytes() == b"ab"


def test_idx_reads_gzip_of_two_members() -> None:
    content = plain(0x08, (4,), b"abcd")
    assert decode_bytes(gzip.compress(content[:9]) + gzip.compress(content[9:])).tobytes() == b"abcd"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_idx_reads_from_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(gzip.compress(plain(0x08, (2,), b"ab")),))
    writer.start()
    assert read_idx(pipe).tobytes() == b"ab"
    writer.join()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "ends after 0 bytes, expected an IDX header of at least 8"),
        (b"\x00\x00\x08", "ends after 3 bytes, expected an IDX header of at least 8"),
        (b"\x89PNG\r\n", "begins with the bytes 89 50, expected an IDX file"),
        (plain(0x0A, (1,), b"a"), r"has the IDX type code 0x0A, expected one of 0x08 \(uint8\), 0x09 \(int8\)"),
        (plain(0x08, (), b""), "declares 0 dimensions, expected 1 to 32"),
        (plain(0x08, (1,) * 33, b"a"), "declares 33 dimensions, expected 1 to 32"),
        (plain(0x08, (1, 2), b"")[:-1], "ends after 11 bytes, expected an IDX header of 12 for 2 dimensions"),
        (plain(0x0B, (10, 28, 28), b"a" * 99), r"ends after 99 bytes of elements, expected 15,680 for int16 of shape "),
        (plain(0x08, (3,), b"abcd"), "has more bytes after the 3 of its elements, expected the end"),
        (plain(0x0E, (2**32 - 1,) * 3, b""), "float64 elements of shape .*, expected at most"),
        (plain(0x0E, (2**32 - 1, 2**32 - 1, 0), b""), "float64 elements of shape .*, expected at most"),
    ],
)
@pytest.mark.parametrize("compressed", [False, True])
def test_idx_malformed_file_is_named_with_its_fault(
    tmp_path: Path, content: bytes, complaint: str, compressed: bool
) -> None:
    path = tmp_path / "bad-idx"
    path.write_bytes(gzip.compress(content) if compressed else content)
    with pytest.raises(ValueError, match=complaint) as caught:
        read_idx(path)
    assert str(caught.value).startswith(f"{path}: ")


GOOD_GZIP = gzip.compress(
    plain(0x08, (1000,), bytes(np.random.default_rng(0).integers(256, size=1000, dtype=np.uint8)))
)


@pytest.mark.parametrize(
    "content",
    [
        GOOD_GZIP[:2],
        GOOD_GZIP[:9],
        GOOD_GZIP[:500],
        GOOD_GZIP[:-8],
        GOOD_GZIP[:-1],
        GOOD_GZIP[:-8] + bytes(8),
        GOOD_GZIP[:2] + b"\x07" + GOOD_GZIP[3:],
        GOOD_GZIP[:100] + bytes(100) + GOOD_GZIP[200:],
        GOOD_GZIP + b"trailing",
    ],
    ids=["magic", "header", "body", "no-checksum", "short-checksum", "wrong-checksum", "method", "data", "trailing"],
)
def test_idx_damaged_gzip_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad-idx.gz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"its gzip data is damaged or cut short \(.*\), expected a whole gzip file"):
        read_idx(path)


@pytest.mark.parametrize("compressed", [False, True])
def test_idx_lying_header_takes_no_memory(compressed: bool) -> None:
    content = plain(0x08, (1 << 31,), bytes(1000))
    content = gzip.compress(content) if compressed else content
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"ends after 1,000 bytes of elements, expected 2,147,483,648"):
        decode_bytes(content)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20


def test_idx_gzip_bomb_is_not_inflated() -> None:
    deflate = zlib.compressobj(9, wbits=31)
    bomb = deflate.compress(plain(0x08, (3,), b"abc"))
    bomb += b"".join(deflate.compress(bytes(1 << 20)) for _ in range(200)) + deflate.flush()
    tracemalloc.start()
    with pytest.raises(ValueError, match="has more bytes after the 3 of its elements"):
        decode_bytes(bomb)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20


def test_idx_decode_refuses_more_than_the_bound() -> None:
    content = plain(0x0B, (6,), bytes(12))
    assert decode_bytes(content, most_bytes=12).shape == (6,)
    with pytest.raises(ValueError, match="12 bytes, expected at most 11 bytes"):
        decode_bytes(content, most_bytes=11)


def test_read_idx_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent: no such file\. Check the path\.$"):
        read_idx(tmp_path / "absent")


@pytest.mark.parametrize("path", [3, None, b"bytes"])
def test_idx_path_of_wrong_type(path: object) -> None:
    with pytest.raises(TypeError, match=r"read_idx: path is .*, expected a str or path-like object"):
        read_idx(path)
    with pytest.raises(TypeError, match=r"write_idx: path is .*, expected a str or path-like object"):
        write_idx(path, np.zeros(1, np.uint8))


@pytest.mark.parametrize("dtype", [bool, np.int64, np.uint16, np.float16, np.longdouble])
def test_write_idx_unsupported_dtype(tmp_path: Path, dtype: type) -> None:
    with pytest.raises(
        TypeError, match=r"write_idx: array has dtype .*, expected one of uint8, int8, int16, .* astype"
    ):
        write_idx(tmp_path / "file", np.zeros(2, dtype))
    assert not list(tmp_path.iterdir())


def test_write_idx_unsupported_shape(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"write_idx: array has shape \(\), expected 1 to 32 dimensions"):
        write_idx(tmp_path / "file", np.float32(1.0))
    long = np.lib.stride_tricks.as_strided(np.zeros(1, np.uint8), (1 << 32,), (0,))
    with pytest.raises(ValueError, match=r"expected fewer than 2\*\*32 elements along each axis"):
        write_idx(tmp_path / "file", long)
    with pytest.raises(TypeError, match=r"write_idx: array has dtype complex128"):
        write_idx(tmp_path / "file", np.zeros(1, complex))


def test_write_idx_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"its folder does not exist. Create the folder first"):
        write_idx(tmp_path / "absent" / "file", np.zeros(1, np.uint8))


def test_write_idx_accepts_32_dimensions(tmp_path: Path) -> None:
    write_idx(tmp_path / "file", np.full((1,) * 32, 7, np.uint8))
    assert read_idx(tmp_path / "file").shape == (1,) * 32


def test_write_idx_gzip_is_reproducible_and_anonymous(tmp_path: Path) -> None:
    array = np.arange(100, dtype=np.int32)
    for name in ("a.gz", "b.gz"):
        write_idx(tmp_path / name, array)
    content = (tmp_path / "a.gz").read_bytes()
    assert content == (tmp_path / "b.gz").read_bytes()
    # No flags, so no name; time zero.
    assert content[3:8] == bytes(5)


def test_write_idx_follows_the_umask(tmp_path: Path) -> None:
    (tmp_path / "reference").touch()
    write_idx(tmp_path / "file", np.zeros(1, np.uint8))
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "reference").stat().st_mode


@pytest.mark.parametrize("failing", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_write_idx_failure_leaves_the_old_file_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str, error: BaseException
) -> None:
    path = tmp_path / "file"
    write_idx(path, np.array([1, 2], np.uint8))
    before = path.read_bytes()

    def fail(*args: object) -> None:
        raise error

    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(type(error)):
        write_idx(path, np.array([3], np.uint8))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
