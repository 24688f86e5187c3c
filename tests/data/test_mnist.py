from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cnet.data
from cnet.data import Dataset, _download, mnist, mnist_digits, read_idx, write_idx
from cnet.data._idx_codec import header

NAMES = ["train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep tests from the user's folders and from the network."""
    monkeypatch.delenv("CNET_DATA_DIR", raising=False)
    monkeypatch.setenv("CNET_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(mnist_digits, "_MIRRORS", ())
    return tmp_path / "cache" / "mnist"


def write(folder: Path, arrays: dict[str, np.ndarray], spelling: str = "{}") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        write_idx(folder / spelling.format(name), array)


def assert_holds(datasets: tuple[Dataset, Dataset], arrays: dict[str, np.ndarray]) -> None:
    for dataset, part, name in zip(datasets, ("train", "t10k"), ("MNIST train", "MNIST test"), strict=True):
        np.testing.assert_array_equal(dataset.x[:, 0], arrays[f"{part}-images-idx3-ubyte"])
        np.testing.assert_array_equal(dataset.y, arrays[f"{part}-labels-idx1-ubyte"])
        assert (dataset.name, dataset.normalise, dataset.classes) == (name, (0.1307, 0.3081), 10)
        assert (dataset.x.dtype, dataset.y.dtype, dataset.x.shape[1:]) == (np.uint8, np.int64, (1, 28, 28))


# The name


def test_mnist_is_the_function() -> None:
    from cnet.data import mnist as imported

    assert imported is mnist_digits.mnist
    assert cnet.data.mnist is mnist_digits.mnist


# The bundled subset


def test_mnist_bundled_subset(capsys: pytest.CaptureFixture[str]) -> None:
    train, test = mnist(download=False)
    assert train.x.shape == (5000, 1, 28, 28)
    assert test.x.shape == (1000, 1, 28, 28)
    assert np.bincount(train.y).tolist() == [500] * 10
    assert np.bincount(test.y).tolist() == [100] * 10
    assert capsys.readouterr().out == (
        "MNIST: bundled subset, 5,000 training and 1,000 test images "
        "(download=False and no copy in the cache; set CNET_DATA_DIR to use the full set)\n"
    )
    batch = train.to_float32(train.x)
    # Those of the full set, which its first images come near.
    assert abs(batch.mean()) < 0.02
    assert abs(batch.std() - 1) < 0.02


BUNDLED_HASHES = {
    "train-images-idx3-ubyte": "36cb395b94762f0009909e61c7df0bc6d23da1b3e0251f38b10b10501b652034",
    "train-labels-idx1-ubyte": "6bf07e4d2b09bd66291b74f06f4d0e8c9f34e62ddcb50269a3126f861d1e7d68",
    "t10k-images-idx3-ubyte": "b97c8bfeb834d8e7999eaa2d69239abe06653dc09c1e5d7eb0c974c5965bc6a9",
    "t10k-labels-idx1-ubyte": "41cf2f530031915ba9fbb241407c369dba1acd7515053edff48cebeee8b260f4",
}


def test_mnist_bundled_files() -> None:
    folder = Path(mnist_digits.__file__).parent / "bundled"
    assert {path.name for path in folder.iterdir()} == {f"{name}.gz" for name in NAMES} | {"ATTRIBUTION.txt"}
    assert sum(path.stat().st_size for path in folder.iterdir()) < 1_000_000
    for name, digest in BUNDLED_HASHES.items():
        content = (folder / f"{name}.gz").read_bytes()
        # gzip without a name or a time.
        assert content[:8] == b"\x1f\x8b\x08" + bytes(5)
        assert hashlib.sha256(gzip.decompress(content)).hexdigest() == digest
    attribution = (folder / "ATTRIBUTION.txt").read_text(encoding="utf-8")
    for words in ("LeCun", "Cortes", "Burges", "CC BY-SA 3.0", "[:count]"):
        assert words in attribution


FULL_MNIST = os.environ.get("CNET_DATA_DIR")


@pytest.mark.skipif(not FULL_MNIST, reason="needs CNET_DATA_DIR to name a folder with the full MNIST")
def test_mnist_bundled_subset_is_chosen_as_documented() -> None:
    for full, subset, count in zip(mnist(FULL_MNIST), mnist(download=False), (500, 100), strict=True):
        keep = np.sort(np.concatenate([np.flatnonzero(full.y == digit)[:count] for digit in range(10)]))
        np.testing.assert_array_equal(subset.x, full.x[keep])
        np.testing.assert_array_equal(subset.y, full.y[keep])


@pytest.mark.skipif(not FULL_MNIST, reason="needs CNET_DATA_DIR to name a folder with the full MNIST")
def test_mnist_hashes_are_those_of_the_original() -> None:
    places = [Path(FULL_MNIST or "") / below for below in mnist_digits._PLACES]
    paths = max(map(mnist_digits._locate, places), key=len)
    for name in NAMES:
        mnist_digits._genuine(name, read_idx(paths[name]))


# A folder of the user's


@pytest.mark.parametrize("below", ["", "mnist", "MNIST/raw"])
@pytest.mark.parametrize("spelling", ["{}", "{}.gz", "dotted", "dotted.gz"])
@pytest.mark.parametrize("by_variable", [False, True])
def test_mnist_folder(
    tmp_path: Path,
    small_mnist: dict[str, np.ndarray],
    below: str,
    spelling: str,
    by_variable: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    place = tmp_path / "own" / below
    place.mkdir(parents=True)
    for name, array in small_mnist.items():
        dotted = name.replace("-idx", ".idx")
        write_idx(place / spelling.format(name).replace("dotted", dotted), array)
    if by_variable:
        monkeypatch.setenv("CNET_DATA_DIR", str(tmp_path / "own"))
        datasets = mnist()
    else:
        monkeypatch.setenv("CNET_DATA_DIR", "a folder which must not be looked at")
        datasets = mnist(tmp_path / "own")
    assert_holds(datasets, small_mnist)
    assert capsys.readouterr().out == f"MNIST: {place}, 20 training and 10 test images\n"


def test_mnist_folder_in_the_home_folder(
    tmp_path: Path, small_mnist: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "own", small_mnist)
    assert_holds(mnist("~/own"), small_mnist)
    monkeypatch.setenv("CNET_DATA_DIR", "~/own")
    assert_holds(mnist(), small_mnist)


def test_mnist_prefers_the_complete_place(tmp_path: Path, small_mnist: dict[str, np.ndarray]) -> None:
    write(tmp_path / "MNIST" / "raw", small_mnist)
    # As unpacked by some archives: a folder with the name of the file.
    (tmp_path / NAMES[0]).mkdir()
    (tmp_path / NAMES[1]).touch()
    assert_holds(mnist(tmp_path), small_mnist)


def test_mnist_silent(tmp_path: Path, small_mnist: dict[str, np.ndarray], capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, small_mnist)
    mnist(tmp_path, verbose=False)
    mnist(download=False, verbose=False)
    assert capsys.readouterr() == ("", "")


def test_mnist_folder_without_files_says_which_to_put_where(
    tmp_path: Path, small_mnist: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    del small_mnist["t10k-labels-idx1-ubyte"]
    write(tmp_path / "mnist", small_mnist)
    with pytest.raises(FileNotFoundError) as caught:
        mnist(tmp_path)
    assert str(caught.value) == (
        f"mnist: folder {tmp_path / 'mnist'} has no t10k-labels-idx1-ubyte, expected all four files, plain or with "
        f".gz. Put the missing files there, or all four in {tmp_path}, {tmp_path / 'mnist'} or "
        f"{tmp_path / 'MNIST/raw'}."
    )
    monkeypatch.setenv("CNET_DATA_DIR", str(tmp_path / "absent"))
    with pytest.raises(FileNotFoundError, match=r"CNET_DATA_DIR .*absent has no .*, or unset CNET_DATA_DIR\.$"):
        mnist()


@pytest.mark.parametrize(
    ("name", "array", "complaint"),
    [
        (NAMES[0], np.zeros((20, 28, 28), np.int16), r"holds int16 of shape \(20, 28, 28\), expected images, uint8"),
        (NAMES[0], np.zeros((20, 32, 32), np.uint8), r"holds uint8 of shape \(20, 32, 32\), expected images"),
        (NAMES[2], np.zeros((0, 28, 28), np.uint8), r"holds uint8 of shape \(0, 28, 28\), expected images"),
        (NAMES[2], np.zeros(10, np.uint8), r"holds uint8 of shape \(10,\), expected images"),
        (NAMES[1], np.zeros(19, np.uint8), r"holds uint8 of shape \(19,\), expected labels, uint8 of shape \(20,\)"),
        (NAMES[1], np.zeros(20, np.int32), r"holds int32 of shape \(20,\), expected labels"),
        (NAMES[3], np.full(10, 10, np.uint8), "holds the label 10, expected labels from 0 to 9"),
    ],
)
def test_mnist_folder_with_other_content_names_the_file(
    tmp_path: Path, small_mnist: dict[str, np.ndarray], name: str, array: np.ndarray, complaint: str
) -> None:
    write(tmp_path, small_mnist | {name: array})
    with pytest.raises(ValueError, match=f"^{re.escape(str(tmp_path / name))}: {complaint}"):
        mnist(tmp_path)


def test_mnist_folder_with_a_damaged_file_names_it(tmp_path: Path, small_mnist: dict[str, np.ndarray]) -> None:
    write(tmp_path, small_mnist)
    (tmp_path / NAMES[0]).write_bytes(b"\0\0")
    with pytest.raises(ValueError, match=f"{NAMES[0]}: ends after 2 bytes"):
        mnist(tmp_path)


@pytest.mark.parametrize("arguments", [{"folder": 3}, {"folder": b"x"}, {"download": 1}, {"verbose": "yes"}])
def test_mnist_argument_of_wrong_type(arguments: dict[str, Any]) -> None:
    (name,) = arguments
    with pytest.raises(TypeError, match=f"mnist: {name} is "):
        mnist(**arguments)


# The cache and the download


def test_mnist_downloads_once(
    mirror: Any, small_mnist: dict[str, np.ndarray], cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert_holds(mnist(), small_mnist)
    assert mirror.requests == [f"/{name}.gz" for name in NAMES]
    assert capsys.readouterr().out == f"MNIST: downloaded to {cache}, 20 training and 10 test images\n"
    for _ in range(2):
        assert_holds(mnist(), small_mnist)
    assert_holds(mnist(download=False), small_mnist)
    assert len(mirror.requests) == 4
    assert set(capsys.readouterr().out.splitlines()) == {
        f"MNIST: cached copy in {cache}, 20 training and 10 test images"
    }
    assert sorted(path.name for path in cache.iterdir()) == sorted(f"{name}.gz" for name in NAMES)


@pytest.mark.usefixtures("mirror")
def test_mnist_download_false_asks_nobody(mirror: Any) -> None:
    assert len(mnist(download=False)[0]) == 5000
    assert mirror.requests == []


@pytest.mark.parametrize("damage", ["cut", "flipped", "other", "bomb", "empty"])
def test_mnist_damaged_cache_is_fetched_again(
    mirror: Any, small_mnist: dict[str, np.ndarray], cache: Path, damage: str
) -> None:
    mnist()
    path = cache / f"{NAMES[0]}.gz"
    good = path.read_bytes()
    damaged = {
        "cut": good[:1000],
        "flipped": good[:1000] + bytes([good[1000] ^ 1]) + good[1001:],
        "other": (cache / f"{NAMES[2]}.gz").read_bytes(),
        "bomb": gzip.compress(gzip.decompress(good) + bytes(1 << 20)),
        "empty": b"",
    }
    path.write_bytes(damaged[damage])
    mirror.requests.clear()
    assert_holds(mnist(), small_mnist)
    assert mirror.requests == [f"/{NAMES[0]}.gz"]
    assert path.read_bytes() == good


def test_mnist_damaged_cache_without_download_is_told(
    mirror: Any, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mnist()
    (cache / f"{NAMES[1]}.gz").write_bytes(b"")
    capsys.readouterr()
    assert len(mnist(download=False)[0]) == 5000
    assert f"(damaged in the cache: {NAMES[1]}; download=False and no " in capsys.readouterr().out


@pytest.mark.usefixtures("mirror")
def test_mnist_unreadable_cache_counts_as_absent(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache.mkdir(parents=True)
    (cache / f"{NAMES[0]}.gz").mkdir()
    assert len(mnist()[0]) == 5000
    assert f"(cannot write to the cache {cache}: Is a directory; set " in capsys.readouterr().out


def test_mnist_second_mirror(mirror: Any, small_mnist: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mnist_digits, "_MIRRORS", (mirror.url + "absent/", mirror.url))
    assert_holds(mnist(), small_mnist)


@pytest.mark.parametrize("fault", ["closed mid-body", "wrong content", "not gzip", "error"])
def test_mnist_broken_download_changes_nothing_in_the_cache(
    mirror: Any, cache: Path, fault: str, small_mnist: dict[str, np.ndarray], capsys: pytest.CaptureFixture[str]
) -> None:
    path = f"/{NAMES[2]}.gz"
    good = mirror.answers[path]
    assert isinstance(good, bytes)

    def close_early(handler: BaseHTTPRequestHandler) -> None:
        mirror.send(handler, good[: len(good) // 2], promised=len(good))

    other = np.zeros((10, 28, 28), np.uint8)
    faulty: dict[str, Any] = {
        "closed mid-body": close_early,
        "wrong content": gzip.compress(header(other) + other.tobytes()),
        "not gzip": b"<html>Log in to this network</html>",
        "error": 500,
    }
    mirror.answers[path] = faulty[fault]
    train, _ = mnist()
    assert len(train) == 5000
    reason = {
        "closed mid-body": f"closed after {len(good) // 2:,} of {len(good):,} bytes",
        "error": "answered 500 Internal Server Error",
    }.get(fault, "sent a damaged or different file")
    assert f"{reason}; set CNET_DATA_DIR to use the full set)\n" in capsys.readouterr().out
    # What came before the fault is whole and stays; there is no part of a file.
    assert sorted(file.name for file in cache.iterdir()) == sorted(f"{name}.gz" for name in NAMES[:2])
    mirror.answers[path] = good
    mirror.requests.clear()
    assert_holds(mnist(), small_mnist)
    assert mirror.requests == [f"/{name}.gz" for name in NAMES[2:]]


@pytest.mark.usefixtures("mirror")
def test_mnist_without_a_network(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def unreachable(url: str) -> None:
        import socket

        asked.append(url)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(mnist_digits, "_MIRRORS", ("http://one/", "http://two/"))
    monkeypatch.setattr(_download, "_open", unreachable)
    assert len(mnist()[0]) == 5000
    assert capsys.readouterr().out == (
        "MNIST: bundled subset, 5,000 training and 1,000 test images "
        "(no network; set CNET_DATA_DIR to use the full set)\n"
    )
    # One server for one file: the fallback costs one wait, not eight.
    assert asked == [f"http://one/{NAMES[0]}.gz"]


def test_mnist_cache_which_cannot_be_made(
    mirror: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("CNET_CACHE_DIR", str(tmp_path / "file"))
    assert len(mnist()[0]) == 5000
    assert re.search(r"\(cannot write to the cache .*file/mnist: Not a directory; set", capsys.readouterr().out)
    assert mirror.requests == []


def test_mnist_cache_which_cannot_be_written(
    mirror: Any, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Patched, as permissions do not bind the user root, whom tests often run as.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert len(mnist()[0]) == 5000
    assert f"(cannot write to the cache {cache}; set CNET_DATA_DIR" in capsys.readouterr().out
    assert mirror.requests == []


@pytest.mark.usefixtures("mirror")
def test_mnist_cache_on_a_full_disk(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert len(mnist()[0]) == 5000
    assert f"(cannot write to the cache {cache}: No space left on device; set" in capsys.readouterr().out
    assert list(cache.iterdir()) == []


def test_mnist_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for own, shared, expected in [
        ("/own", "/shared", Path("/own/mnist")),
        ("~/own", "", tmp_path / "own" / "mnist"),
        ("", "/shared", Path("/shared/cnet/mnist")),
        ("", "relative", tmp_path / ".cache" / "cnet" / "mnist"),
        ("", "", tmp_path / ".cache" / "cnet" / "mnist"),
    ]:
        monkeypatch.setenv("CNET_CACHE_DIR", own)
        monkeypatch.setenv("XDG_CACHE_HOME", shared)
        assert mnist_digits._cache_folder() == expected


def test_mnist_without_a_home_folder(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("CNET_CACHE_DIR")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    assert len(mnist()[0]) == 5000
    assert "(no home folder for a cache; set" in capsys.readouterr().out


CHILD = """
import json, sys
from cnet.data import mnist, mnist_digits
mnist_digits._FILES, mnist_digits._MIRRORS = json.loads(sys.argv[1])
train, test = mnist()
print(int(train.x.sum()) + int(test.x.sum()))
"""


@pytest.fixture
def start_child(mirror: Any) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Start a process which calls ``mnist()`` on the same mirror and cache; none outlives the test."""
    children = []

    def start() -> subprocess.Popen[str]:
        arguments = [sys.executable, "-c", CHILD, json.dumps([mnist_digits._FILES, [mirror.url]])]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        children.append(
            subprocess.Popen(arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
        return children[-1]

    yield start
    for child in children:
        child.kill()
        child.communicate()


def test_mnist_two_processes_fill_one_cache(
    mirror: Any, cache: Path, small_mnist: dict[str, np.ndarray], start_child: Callable[[], subprocess.Popen[str]]
) -> None:
    together = threading.Barrier(2, timeout=60)

    def answer_together(handler: BaseHTTPRequestHandler) -> None:
        # Each file is sent only when both processes have asked for it.
        together.wait()
        content = contents[handler.path]
        assert isinstance(content, bytes)
        mirror.send(handler, content)

    contents = dict(mirror.answers)
    mirror.answers.update(dict.fromkeys(contents, answer_together))
    children = [start_child() for _ in range(2)]
    expected = sum(int(array.sum()) for name, array in small_mnist.items() if "images" in name)
    for child in children:
        output, errors = child.communicate(timeout=60)
        assert errors == ""
        line, checksum = output.splitlines()
        assert line == f"MNIST: downloaded to {cache}, 20 training and 10 test images"
        assert int(checksum) == expected
    assert sorted(path.name for path in cache.iterdir()) == sorted(f"{name}.gz" for name in NAMES)
    assert_holds(mnist(download=False), small_mnist)


def test_mnist_process_killed_while_downloading_leaves_no_part(
    mirror: Any, cache: Path, small_mnist: dict[str, np.ndarray], start_child: Callable[[], subprocess.Popen[str]]
) -> None:
    path = f"/{NAMES[1]}.gz"
    content = mirror.answers[path]
    assert isinstance(content, bytes)
    half_sent = threading.Event()

    def send_half(handler: BaseHTTPRequestHandler) -> None:
        mirror.send(handler, content[: len(content) // 2], promised=len(content))
        half_sent.set()
        mirror.released.wait()

    mirror.answers[path] = send_half
    child = start_child()
    assert half_sent.wait(timeout=60)
    child.kill()
    child.communicate(timeout=60)
    assert [file.name for file in cache.iterdir()] == [f"{NAMES[0]}.gz"]
    mirror.answers[path] = content
    assert_holds(mnist(), small_mnist)
