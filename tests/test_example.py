"""The example for newcomers, run as they run it: a process of its own, on few real digits."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cnet.data import mnist, write_idx

SCRIPT = Path(__file__).resolve().parents[1] / "examples" / "train_mnist.py"

pytestmark = pytest.mark.skipif(not SCRIPT.is_file(), reason="the examples are not installed")

PICTURES = {"learning_curves.png", "confusion_matrix.png", "worst_mistakes.png"}


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in the form of MNIST with 600 training and 200 test images of the bundled subset."""
    folder = tmp_path_factory.mktemp("digits")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("CNET_DATA_DIR", raising=False)
        patch.setenv("CNET_CACHE_DIR", str(folder / "no cache"))
        train, test = mnist(download=False, verbose=False)
    for part, dataset, count in (("train", train, 600), ("t10k", test, 200)):
        # The subset may be in the order of its classes.
        few = dataset[np.random.default_rng(0).permutation(len(dataset))[:count]]
        write_idx(folder / f"{part}-images-idx3-ubyte", few.x[:, 0])
        write_idx(folder / f"{part}-labels-idx1-ubyte", few.y.astype(np.uint8))
    return folder


def run(*arguments: str | Path, cwd: Path, hide: str = "") -> subprocess.CompletedProcess[str]:
    """Run the example; ``hide`` is a library that it shall not find."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CNET_")}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    environment["COLUMNS"] = "80"
    start = f"import runpy, sys; sys.modules[{hide!r}] = None; runpy.run_path(sys.argv[0], run_name='__main__')"
    command = ["-c", f"import sys; sys.argv = sys.argv[1:]; {start}", SCRIPT] if hide else [SCRIPT]
    return subprocess.run(
        [sys.executable, "-W", "error", *map(str, command), *map(str, arguments)],
        env=environment,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize("arch", ["cnn", "lenet5", "mlp"])
def test_example_trains_and_writes_its_files(arch: str, digits: Path, tmp_path: Path) -> None:
    done = run("--arch", arch, "--data", digits, "--epochs", "2", "--batch-size", "32", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    pytest.importorskip("matplotlib")
    assert {path.name for path in (tmp_path / "runs" / f"mnist-{arch}").iterdir()} == PICTURES | {"weights.npz"}
    lines = done.stdout.splitlines()
    assert [line for line in lines if line.startswith("epoch 2/2  loss ")]
    assert any(line.startswith("test accuracy ") and line.endswith(" images/s") for line in lines)
    # The matrix has a row for each digit, and a count for each of the 200 images.
    start = next(index for index, line in enumerate(lines) if line.startswith("rows: true digits")) + 2
    rows = [[int(cell.replace(".", "0")) for cell in line.split()[1:]] for line in lines[start : start + 10]]
    assert np.sum(rows) == 200


def test_example_is_a_function_of_its_seed(digits: Path, tmp_path: Path) -> None:
    files = []
    for index, (seed, threads) in enumerate([("1", "1"), ("1", "2"), ("2", "1")]):
        folder = tmp_path / str(index)
        options = ["--arch", "mlp", "--epochs", "1", "--seed", seed, "--threads", threads, "--output", folder]
        done = run("--data", digits, *options, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        files.append((folder / "weights.npz").read_bytes())
    assert files[0] == files[1]
    assert files[0] != files[2]


@pytest.mark.parametrize("scheduler", ["cosine", "step", "none"])
def test_example_takes_every_scheduler(scheduler: str, digits: Path, tmp_path: Path) -> None:
    options = ["--arch", "mlp", "--epochs", "1", "--scheduler", scheduler, "--optimizer", "sgd"]
    done = run("--data", digits, *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_example_fails_below_the_accuracy_asked_for(digits: Path, tmp_path: Path) -> None:
    options = ["--arch", "mlp", "--epochs", "1", "--min-accuracy", "100"]
    done = run("--data", digits, *options, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("test accuracy ")
    assert done.stderr.endswith(" % is below 100 %\n")
    # What was learned is kept for whoever asks why.
    assert (tmp_path / "runs" / "mnist-mlp" / "weights.npz").is_file()


def test_example_without_matplotlib_leaves_out_the_pictures(digits: Path, tmp_path: Path) -> None:
    done = run("--data", digits, "--arch", "mlp", "--epochs", "1", cwd=tmp_path, hide="matplotlib")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].endswith("matplotlib is not installed. Run: pip install matplotlib.")
    assert [path.name for path in (tmp_path / "runs" / "mnist-mlp").iterdir()] == ["weights.npz"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--arch", "transformer"], "argument --arch: invalid choice: 'transformer'"),
        (["--epochs", "-1"], "error: argument --epochs: -1 is not above zero"),
        (["--batch-size", "many"], "error: argument --batch-size: invalid count value: 'many'"),
        (["--data", "nowhere"], "error: mnist: folder nowhere has no train-images-idx3-ubyte"),
        (["--lr", "-1"], "error: SGD: lr is -1, expected a finite number >= 0."),
    ],
)
def test_example_errors_are_one_line(options: list[str], words: str, digits: Path, tmp_path: Path) -> None:
    data = [] if "--data" in options else ["--data", digits]
    done = run(*data, *options, cwd=tmp_path)
    assert done.returncode != 0
    *usage, error = done.stderr.splitlines()
    assert words in error
    assert usage in ([], ["usage: train_mnist.py [options]"])


def test_example_help_fits_a_narrow_terminal(tmp_path: Path) -> None:
    done = run("--help", cwd=tmp_path)
    assert done.returncode == 0
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "--min-accuracy PERCENT" in done.stdout
