"""Pictures: drawn for every kind of history, matrix and image, written whole or not at all, without pyplot."""

from __future__ import annotations

import builtins
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cnet.interop import figures
from cnet.training import History

matplotlib = pytest.importorskip("matplotlib")
image = pytest.importorskip("matplotlib.image")


def make_history(epochs: int = 2, steps: int = 30, *, validation: bool = True, accuracy: bool = True) -> History:
    history = History()
    for epoch in range(epochs):
        for step in range(steps):
            place = epoch * steps + step
            history.add_step(2.5 * np.exp(-place / 10), place / (epochs * steps) if accuracy else np.nan, 0.1)
        measured = {"validation_loss": 1.0 / (epoch + 1), "validation_accuracy": 0.9} if validation else {}
        if not accuracy:
            measured.pop("validation_accuracy", None)
        history.add_epoch(1.0, 0.5 if accuracy else np.nan, seconds=1.0, images=64, **measured)
    return history


def texts(figure: Any) -> list[str]:
    figure.draw_without_rendering()
    return [text.get_text() for text in figure.findobj(matplotlib.text.Text) if text.get_text()]


def assert_nothing_is_clipped(figure: Any) -> None:
    """All that is drawn lies within the picture, to a hundredth of an inch."""
    figure.draw_without_rendering()
    width, height = figure.get_size_inches()
    box = figure.get_tightbbox()
    assert min(box.x0, box.y0, width - box.x1, height - box.y1) > -0.01, box


# ---- learning curves


@pytest.mark.parametrize(
    "history",
    [
        make_history(),
        make_history(validation=False),
        make_history(accuracy=False),
        make_history(validation=False, accuracy=False),
        make_history(1, 1),
        make_history(25, 3),
    ],
    ids=["all", "no validation", "no accuracy", "loss only", "one step", "many epochs"],
)
def test_curves_are_drawn_of_any_history(history: History) -> None:
    figure = figures.learning_curves(history)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    known = np.isfinite(history.accuracy).any()
    assert titles == (["Loss", "Accuracy", "Learning rate"] if known else ["Loss", "Learning rate"])
    assert all(axes.get_xlabel() == "epoch" and axes.get_ylabel() for axes in figure.axes)
    assert_nothing_is_clipped(figure)


def test_curves_are_drawn_of_epochs_without_steps() -> None:
    history = History()
    for loss in (2.0, 1.0):
        history.add_epoch(loss, 0.5, seconds=1.0, images=10)
    figure = figures.learning_curves(history)
    assert figure.axes[0].lines[0].get_ydata().tolist() == [2.0, 1.0]


def test_curves_of_a_falling_loss_are_logarithmic_and_leave_out_its_start() -> None:
    loss = figures.learning_curves(make_history(3, 100)).axes[0]
    assert loss.get_yscale() == "log"
    assert loss.get_ylim()[1] < 2.5
    flat = History()
    for _ in range(20):
        flat.add_step(1.0)
    flat.add_epoch(1.0, seconds=1.0, images=1)
    loss = figures.learning_curves(flat).axes[0]
    assert loss.get_yscale() == "linear"
    assert loss.get_ylim()[0] == 0.0


def test_validation_stands_at_the_ends_of_the_epochs() -> None:
    axes = figures.learning_curves(make_history(3)).axes[0]
    (line,) = [line for line in axes.lines if "validation" in str(line.get_label())]
    assert line.get_xdata().tolist() == [1, 2, 3]
    assert line.get_ydata().tolist() == [1.0, 0.5, 1.0 / 3]


def test_curves_refuse_what_has_no_epochs() -> None:
    with pytest.raises(ValueError, match=r"^learning_curves: history has no epochs, expected at least one\. Call fit"):
        figures.learning_curves(History())
    with pytest.raises(TypeError, match=r"^learning_curves: history is a dict, expected a History\.$"):
        figures.learning_curves({})  # type: ignore[arg-type]


# ---- confusion matrix


def matrix(classes: int) -> np.ndarray:
    counts = np.random.default_rng(0).poisson(0.4, (classes, classes))
    counts[np.arange(classes), np.arange(classes)] = 1000
    return counts


@pytest.mark.parametrize("classes", [1, 2, 10, 12, 13, 30, 31, 100])
def test_matrices_of_any_size_are_drawn(classes: int) -> None:
    figure = figures.confusion_matrix(matrix(classes))
    assert_nothing_is_clipped(figure)
    found = texts(figure)
    assert ("1,000" in found) == (classes <= 30)
    assert any("%" in text for text in found)


def test_matrix_shows_counts_and_shares_of_the_row() -> None:
    figure = figures.confusion_matrix([[998, 2, 0], [1, 4999, 0], [0, 0, 0]], names=["cat", "dog", "fox"])
    found = texts(figure)
    for text in ("998", "99.8 %", "2", "0.2 %", "1", "< 0.1 %", "4,999", "99.98 %", "cat", "dog", "fox"):
        assert text in found
    assert "0" not in found
    assert "99.95 % of 6,000 samples right" in found


def test_a_single_confusion_among_a_thousand_is_visible() -> None:
    counts = np.diag([1000] * 4)
    counts[0, 1] = 1
    (drawn,) = figures.confusion_matrix(counts).axes[0].images
    colours = np.asarray(drawn.get_array())
    empty, slip, right = colours[2, 1], colours[0, 1], colours[0, 0]
    assert np.abs(slip - empty).max() > 0.05
    assert np.abs(slip - right).max() > 0.5


def test_only_what_is_all_right_is_a_hundred_percent() -> None:
    counts = np.array([[10**6, 1], [0, 10**6]])
    assert "99.99 % of 2,000,001 samples right" in texts(figures.confusion_matrix(counts))
    assert "100.00 % of 2 samples right" in texts(figures.confusion_matrix(np.eye(2, dtype=int)))


def test_long_names_are_not_clipped() -> None:
    names = ["T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle-boot"]
    assert_nothing_is_clipped(figures.confusion_matrix(matrix(10), names=names))


@pytest.mark.parametrize(
    ("counts", "names", "error", "words"),
    [
        ([[1, 2]], None, ValueError, r"matrix has shape \(1, 2\), expected \(classes, classes\)"),
        ([1, 2], None, ValueError, r"matrix has shape \(2,\)"),
        (np.zeros((0, 0), int), None, ValueError, r"matrix has shape \(0, 0\)"),
        ([[0, 0], [0, 0]], None, ValueError, "matrix holds no samples"),
        ([[1, -2], [0, 1]], None, ValueError, "matrix holds -2"),
        ([[0.5, 0.5], [0.0, 1.0]], None, TypeError, "matrix has dtype float64, expected integer counts"),
        ([[1, 0], [0, 1]], ["a"], ValueError, "names has 1 entries, expected 2"),
        ([[1, 0], [0, 1]], "ab", ValueError, "names is 'ab'"),
    ],
)
def test_matrix_refuses(counts: Any, names: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=rf"^confusion_matrix: {words}"):
        figures.confusion_matrix(counts, names=names)


# ---- mistakes


def answers(n: int = 50, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    return generator.integers(classes, size=n), generator.dirichlet(np.full(classes, 0.3), size=n)


@pytest.mark.parametrize("shape", [(1, 8, 8), (8, 8), (3, 8, 8), (1, 6, 9)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, bool])
def test_images_of_any_kind_are_drawn(shape: tuple[int, ...], dtype: Any) -> None:
    labels, chances = answers()
    images = (np.random.default_rng(0).random((50, *shape)) * 200).astype(dtype)
    figure = figures.worst_mistakes(images, labels, chances, count=5)
    assert len(figure.axes) == 5
    assert_nothing_is_clipped(figure)


def test_the_worst_mistakes_come_first_and_only_mistakes() -> None:
    labels, chances = answers()
    images = np.arange(50)[:, None, None] * np.ones((1, 2, 2))
    figure = figures.worst_mistakes(images, labels, chances, count=10)
    wrong = np.flatnonzero(chances.argmax(axis=1) != labels)
    expected = sorted(wrong, key=lambda index: chances[index, labels[index]])[:10]
    drawn = [int(np.asarray(axes.images[0].get_array())[0, 0]) for axes in figure.axes]
    assert drawn == expected
    assert figure.get_suptitle() == f"The worst 10 of {len(wrong)} mistakes among 50 images"


def test_captions_tell_both_classes_and_their_probabilities() -> None:
    figure = figures.worst_mistakes(
        np.zeros((2, 4, 4)), [0, 1], [[0.25, 0.75], [0.0, 1.0]], names=["cat", "a dog with a very long name"]
    )
    found = texts(figure)
    assert "said a dog with a ve…  75.0 %" in found
    assert "true cat  25.0 %" in found
    assert "The one mistake among 2 images" in found
    assert_nothing_is_clipped(figure)


def test_no_mistakes_are_a_picture_too() -> None:
    figure = figures.worst_mistakes(np.zeros((1, 4, 4)), [0], [[1.0, 0.0]])
    assert texts(figure) == ["No mistakes among 1 images"]
    assert figure.axes == []


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"images": np.zeros((3, 2, 4, 4))}, ValueError, r"images has shape \(3, 2, 4, 4\)"),
        ({"images": np.zeros((0, 4, 4))}, ValueError, r"images has shape \(0, 4, 4\)"),
        ({"labels": [0, 1]}, ValueError, r"labels has shape \(2,\), expected \(3,\)"),
        ({"labels": [0, 1, 2]}, ValueError, "labels holds 2, expected from 0 to 1"),
        ({"labels": [0, 1, -1]}, ValueError, "labels holds -1"),
        ({"labels": [0.0, 1.0, 1.0]}, TypeError, "labels has dtype float64"),
        ({"probabilities": [[0.5, 0.5]]}, ValueError, r"probabilities has shape \(1, 2\)"),
        ({"probabilities": [[3.0, -1.0]] * 3}, ValueError, "probabilities .*Pass what trainer.predict_proba returns"),
        ({"probabilities": [[np.nan, 1.0]] * 3}, ValueError, "probabilities "),
        ({"count": 0}, ValueError, "count is 0"),
        ({"count": 2.5}, TypeError, "count is 2.5"),
        ({"names": ["a"]}, ValueError, "names has 1 entries"),
    ],
)
def test_mistakes_refuse(change: dict[str, Any], error: type[Exception], words: str) -> None:
    good = {"images": np.zeros((3, 4, 4)), "labels": [0, 1, 0], "probabilities": [[0.5, 0.5]] * 3}
    with pytest.raises(error, match=rf"^worst_mistakes: {words}"):
        figures.worst_mistakes(**(good | change))


# ---- all


def draw(name: str, path: Path | None = None) -> Any:
    calls: dict[str, Any] = {
        "learning_curves": lambda: figures.learning_curves(make_history(), path),
        "confusion_matrix": lambda: figures.confusion_matrix(matrix(4), path),
        "worst_mistakes": lambda: figures.worst_mistakes(np.zeros((50, 4, 4)), *answers(), path),
    }
    return calls[name]()


ALL = pytest.mark.parametrize("name", figures.__all__)


@ALL
def test_pictures_are_written_sharp_on_white(name: str, tmp_path: Path) -> None:
    path = tmp_path / "picture"
    figure = draw(name, path)
    assert os.listdir(tmp_path) == ["picture"]
    pixels = image.imread(path, format="png")
    width, height = figure.get_size_inches()
    assert pixels.shape[:2] == (round(200 * height), round(200 * width))
    assert (pixels[[0, 0, -1, -1], [0, -1, 0, -1], :3] == 1).all()


@ALL
def test_a_failure_while_writing_keeps_the_old_picture(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(b"old")

    def fail(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        draw(name, path)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["picture.png"]


@ALL
def test_settings_of_the_user_neither_change_nor_show(name: str, tmp_path: Path) -> None:
    draw(name, tmp_path / "plain.png")
    with matplotlib.rc_context({"axes.facecolor": "black", "savefig.facecolor": "red", "font.size": 30}):
        before = dict(matplotlib.rcParams)
        draw(name, tmp_path / "styled.png")
        assert dict(matplotlib.rcParams) == before
    assert (tmp_path / "styled.png").read_bytes() == (tmp_path / "plain.png").read_bytes()


@ALL
def test_matplotlib_missing_says_what_to_install(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = builtins.__import__

    def refuse(module: str, *rest: Any) -> Any:
        if module.split(".")[0] == "matplotlib":
            raise ImportError(module)
        return real(module, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    expected = rf"^{name}: matplotlib is not installed\. Run: pip install matplotlib\.$"
    with pytest.raises(ImportError, match=expected):
        draw(name, tmp_path / "picture.png")
    assert os.listdir(tmp_path) == []


def test_neither_pyplot_nor_a_backend_is_loaded(tmp_path: Path) -> None:
    script = f"""
import sys
from cnet.interop import figures
assert "matplotlib" not in sys.modules
figures.confusion_matrix([[1, 0], [1, 2]], {str(tmp_path / "m.png")!r})
assert "matplotlib" in sys.modules
assert "matplotlib.pyplot" not in sys.modules
import matplotlib
assert matplotlib.get_backend(auto_select=False) in (None, "no backend")
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("MPLBACKEND", None)
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
