"""Importing cnet is cheap and leaves the process as it was."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
from kernel_cases import run_in_child

# Modules that take long to load, or belong to an optional dependency; whoever needs one imports it when it is needed.
HEAVY = [
    "asyncio",
    "concurrent.futures",
    "gzip",
    "http.client",
    "importlib.metadata",
    "matplotlib",
    "mpi4py",
    "multiprocessing",
    "numpy.random",
    "onnx",
    "onnxruntime",
    "pandas",
    "PIL",
    "safetensors",
    "scipy",
    "sklearn",
    "socket",
    "sqlite3",
    "ssl",
    "tensorboard",
    "torch",
    "tqdm",
    "unittest",
    "urllib.request",
    "xml.etree",
    "zipfile",
]

SCRIPT = """
import json, os, sys, threading, warnings
import numpy

def facts():
    tasks = "/proc/self/task"
    return {
        "modules": sorted(sys.modules),
        "numpy errors": numpy.geterr(),
        "print options": str(numpy.get_printoptions()),
        "filters": [str(row) for row in warnings.filters],
        "environment": dict(os.environ),
        "path": sys.path,
        "hook": str(sys.excepthook),
        "python threads": threading.active_count(),
        "threads": len(os.listdir(tasks)) if os.path.isdir(tasks) else 0,
        "denormals": float(numpy.float32(1e-42) * numpy.float32(1)) > 0,
        "folder": sorted(os.listdir(".")),
    }

before = facts()
STATEMENT
after = facts()
import cnet
from cnet import random
print(json.dumps([before, after, random._generator is None, [hasattr(cnet, name) for name in cnet.__all__]]))
"""

STATEMENTS = {
    "package": "import cnet",
    "what-a-training-step-needs": "from cnet import layers, losses, optimizers, schedulers, metrics",
    "every-public-name": "import cnet; [getattr(cnet, name) for name in cnet.__all__]",
}


@pytest.fixture(scope="module", params=STATEMENTS)
def found(request: pytest.FixtureRequest) -> list[Any]:
    """What a fresh interpreter reports before and after the import, with warnings as errors."""
    result = run_in_child(SCRIPT.replace("STATEMENT", STATEMENTS[request.param]), PYTHONWARNINGS="error")
    assert result.returncode == 0, result.stderr
    assert not result.stderr
    facts: list[Any] = json.loads(result.stdout)
    return [*facts, request.param]


def test_import_loads_no_heavy_module(found: list[Any]) -> None:
    before, after, *_, statement = found
    new = set(after["modules"]) - set(before["modules"])
    # Data sets and checkpoints are compressed files.
    allowed = {"gzip", "zipfile"} if statement == "every-public-name" else set()
    assert new & set(HEAVY) <= allowed


def test_import_loads_nothing_but_numpy_and_the_standard_library(found: list[Any]) -> None:
    before, after, *_ = found
    new = {name.split(".")[0] for name in set(after["modules"]) - set(before["modules"])}
    # Compiled extensions register modules for what they share.
    foreign = {name for name in new - sys.stdlib_module_names - {"cnet", "numpy"} if "cython" not in name}
    assert not foreign


@pytest.mark.parametrize(
    "fact",
    ["numpy errors", "print options", "filters", "environment", "path", "hook", "python threads", "threads", "folder"],
)
def test_import_leaves_the_process_as_it_was(found: list[Any], fact: str) -> None:
    before, after, *_ = found
    assert after[fact] == before[fact]


def test_import_keeps_denormal_numbers(found: list[Any]) -> None:
    """A library linked with -ffast-math would flush them to zero in the whole process."""
    before, after, *_ = found
    assert before["denormals"] and after["denormals"]


def test_import_draws_no_random_numbers(found: list[Any]) -> None:
    assert found[2]


def test_every_public_name_exists(found: list[Any]) -> None:
    assert found[3] and all(found[3])


@pytest.mark.parametrize("isa", ["nonsense", "avx1024", "AVX2 "])
def test_unknown_instruction_set_is_refused_by_name(isa: str) -> None:
    result = run_in_child("import cnet.layers", CNET_ISA=isa)
    assert result.returncode != 0
    assert f"CNET_ISA: {isa!r} is not available, expected one of " in result.stderr


def test_empty_variables_are_no_choice() -> None:
    result = run_in_child("import cnet; print(cnet.get_num_threads() >= 1)", CNET_ISA="", CNET_NUM_THREADS="")
    assert result.returncode == 0 and result.stdout.strip() == "True", result.stderr


def test_import_works_without_assertions_and_docstrings() -> None:
    result = run_in_child(
        "import os, subprocess, sys\n"
        "script = 'import cnet; from cnet import layers; print(layers.Linear(2, 3)([[1, 2]]).shape)'\n"
        "sys.exit(subprocess.call([sys.executable, '-OO', '-c', script]))",
        PYTHONDONTWRITEBYTECODE="1",
    )
    assert result.returncode == 0 and result.stdout.strip() == "(1, 3)", result.stderr


def test_import_needs_no_home_and_no_writable_folder(tmp_path: Any) -> None:
    """Nothing is read from or written to the user's folders until it is asked for."""
    script = "import os; os.chdir(os.environ['FOLDER']); import cnet; print(os.listdir('.'))"
    result = run_in_child(script, HOME=str(tmp_path / "none"), FOLDER=str(tmp_path))
    assert result.returncode == 0 and result.stdout.strip() == "[]", result.stderr
