"""Weights in files: what comes back, what a file holds, and that neither file nor model is ever half of anything."""

from __future__ import annotations

import io
import os
import pathlib
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnet import _atomic, layers
from cnet.random import manual_seed
from cnet.training import load_weights, save_weights


def make_model(seed: int = 0, out: int = 3) -> layers.Sequential:
    manual_seed(seed)
    return layers.Sequential(
        layers.Conv2d(1, 4, 3, padding=1), layers.PReLU(), layers.Flatten(), layers.Linear(16, out)
    )


def state_bytes(model: layers.Layer) -> dict[str, bytes]:
    return {name: value.tobytes() for name, value in model.state_dict().items()}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "weights.npz"
    save_weights(make_model(), path)
    return path


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("content") / "weights.npz"
    save_weights(make_model(), path)
    return path.read_bytes()


def test_weights_come_back_bit_for_bit(saved: Path) -> None:
    model = make_model(seed=1)
    assert state_bytes(model) != state_bytes(make_model())
    load_weights(model, str(saved))
    assert state_bytes(model) == state_bytes(make_model())


def test_file_is_what_numpy_reads_without_pickle(saved: Path) -> None:
    expected = make_model().state_dict()
    with np.load(saved, allow_pickle=False) as archive:
        assert list(archive) == list(expected)
        for name in archive:
            assert archive[name].dtype == np.float32
            np.testing.assert_array_equal(archive[name], expected[name])


def test_a_file_numpy_wrote_loads(tmp_path: Path) -> None:
    path = tmp_path / "other.npz"
    source = make_model(seed=5)
    np.savez_compressed(path, **{name: value.astype(np.float64) for name, value in source.state_dict().items()})
    model = make_model()
    load_weights(model, path)
    assert state_bytes(model) == state_bytes(source)


def test_equal_weights_give_equal_files(saved: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.npz"
    save_weights(make_model(), again)
    assert again.read_bytes() == saved.read_bytes()


def test_path_is_used_as_given(tmp_path: Path) -> None:
    save_weights(make_model(), tmp_path / "weights")
    assert [path.name for path in tmp_path.iterdir()] == ["weights"]
    load_weights(make_model(seed=1), tmp_path / "weights")


def test_names_that_numpy_would_take_for_its_own_arguments(tmp_path: Path) -> None:
    model = layers.Sequential({"file": layers.Linear(2, 2), "args": layers.Linear(2, 2)})
    save_weights(model, tmp_path / "w.npz")
    load_weights(model, tmp_path / "w.npz")


def test_model_without_weights_is_saved_too(tmp_path: Path) -> None:
    save_weights(layers.Flatten(), tmp_path / "w.npz")
    load_weights(layers.Flatten(), tmp_path / "w.npz")


@pytest.mark.parametrize("moment", ["write", "flush", "replace"])
def test_a_failure_while_saving_keeps_the_old_file(moment: str, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def fail(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    targets = {"write": (np.lib.format, "write_array"), "flush": (os, "fsync"), "replace": (os, "replace")}
    monkeypatch.setattr(*targets[moment], fail)
    with pytest.raises(KeyboardInterrupt):
        save_weights(make_model(seed=1), saved)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_bytes_are_on_the_disk_before_they_take_the_name(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    real_sync, real_replace = os.fsync, os.replace
    monkeypatch.setattr(_atomic.os, "fsync", lambda number: (calls.append("fsync"), real_sync(number)))
    monkeypatch.setattr(_atomic.os, "replace", lambda a, b: (calls.append("replace"), real_replace(a, b)))
    save_weights(make_model(seed=1), saved)
    assert calls[:2] == ["fsync", "replace"]


def refuse(model: layers.Layer, path: Path, error: type[Exception] = ValueError) -> str:
    """Load, expect an error of one line that names the file, and an unchanged model."""
    before = state_bytes(model)
    with pytest.raises(error) as caught:
        load_weights(model, path)
    assert state_bytes(model) == before
    text = str(caught.value)
    assert text.startswith(str(path))
    assert "\n" not in text
    return text


def test_truncated_files_are_refused_at_every_length(content: bytes, tmp_path: Path) -> None:
    path, model = tmp_path / "weights.npz", make_model(seed=1)
    for length in [*range(64), *range(64, len(content), 7), *range(len(content) - 64, len(content))]:
        path.write_bytes(content[:length])
        refuse(model, path)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_flipped_bit_is_refused_or_without_effect(data: st.DataObject, content: bytes) -> None:
    flipped = bytearray(content)
    flipped[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    model, genuine = make_model(seed=1), state_bytes(make_model())
    before = state_bytes(model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pathlib.Path, "read_bytes", lambda _: bytes(flipped))
        try:
            load_weights(model, "weights.npz")
        except ValueError as error:
            assert "\n" not in str(error)
            assert state_bytes(model) == before
        else:
            assert state_bytes(model) == genuine


@settings(max_examples=100, deadline=None)
@given(noise=st.binary(max_size=300))
def test_noise_is_refused(noise: bytes) -> None:
    model = make_model()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pathlib.Path, "read_bytes", lambda _: b"PK" + noise)
        with pytest.raises(ValueError, match=r"^weights\.npz: "):
            load_weights(model, "weights.npz")


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    model, path = make_model(), tmp_path / "w.npz"
    path.write_bytes(b"")
    assert "is empty" in refuse(model, path)
    path.write_text("epoch,loss\n1,0.5\n")
    assert "is no .npz file" in refuse(model, path)
    np.save(path.with_suffix(".npy"), np.zeros(3))
    assert "is no .npz file" in refuse(model, path.with_suffix(".npy"))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert "is damaged" in refuse(model, path)


def test_pickled_objects_are_never_loaded(tmp_path: Path) -> None:
    path = tmp_path / "w.npz"
    np.savez(path, weight=np.array([{"a": 1}], dtype=object))
    assert "is damaged (Object arrays cannot be loaded" in refuse(make_model(), path)


def test_files_of_another_model_are_refused(saved: Path, tmp_path: Path) -> None:
    assert "3.weight has shape (3, 16), expected (5, 16)" in refuse(make_model(out=5), saved)
    smaller = layers.Sequential(layers.Conv2d(1, 4, 3, padding=1))
    assert "also holds '1.weight' and 2 more, expected the model's names" in refuse(smaller, saved)
    larger = layers.Sequential(*make_model(), layers.Linear(3, 3))
    assert "holds no '4.bias' and 1 more" in refuse(larger, saved)


def test_arrays_without_numbers_are_refused(tmp_path: Path) -> None:
    path, model = tmp_path / "w.npz", layers.Linear(2, 1)
    np.savez(path, weight=np.array([["a", "b"]]), bias=np.zeros(1))
    assert "weight has dtype <U1" in refuse(model, path, TypeError)


def test_missing_files_are_refused(saved: Path) -> None:
    assert refuse(make_model(), saved.with_name("other.npz"), FileNotFoundError).endswith("other.npz: no such file.")
    text = refuse(make_model(), saved.with_suffix(""), FileNotFoundError)
    assert text.endswith(f"no such file. Pass {saved}.")


def test_missing_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="folder"):
        save_weights(make_model(), tmp_path / "runs" / "w.npz")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        load_weights(make_model(), tmp_path)


@pytest.mark.parametrize("function", [save_weights, load_weights])
def test_wrong_types_are_refused(function: Any, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=rf"^{function.__name__}: model is a dict, expected a Layer"):
        function({}, tmp_path / "w.npz")
    with pytest.raises(TypeError, match=rf"^{function.__name__}: path is 7, expected a str"):
        function(make_model(), 7)


@pytest.mark.parametrize("function", [save_weights, load_weights])
def test_models_not_built_are_refused(function: Any, saved: Path) -> None:
    before = saved.read_bytes()
    with pytest.raises(RuntimeError, match=r"model\.build"):
        function(layers.Linear(None, 3), saved)
    assert saved.read_bytes() == before


def test_weights_may_be_saved_while_a_reader_has_the_old_file_open(saved: Path) -> None:
    before = saved.read_bytes()
    with open(saved, "rb") as stream:
        save_weights(make_model(seed=1), saved)
        assert io.BytesIO(stream.read()).getvalue() == before
