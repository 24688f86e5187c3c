"""The floors of the house: an import never goes up, and the meanings of floor 3 do not import each other."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "cnet"

# Longest match wins, so a module may stand on another floor than its package.
FLOORS = {
    "cnet.kernels": 1,
    "cnet._check": 2,
    "cnet._atomic": 2,
    "cnet._threads": 2,
    "cnet.layout": 2,
    "cnet.parameter": 2,
    "cnet.initializers": 2,
    "cnet.random": 2,
    "cnet.layers": 3,
    "cnet.losses": 3,
    "cnet.optimizers": 3,
    "cnet.schedulers": 3,
    "cnet.metrics": 3,
    "cnet.data": 4,
    "cnet.training": 4,
    "cnet.interop": 5,
    "cnet": 6,
}
MEANINGS = {name for name, floor in FLOORS.items() if floor == 3}
# The packages of these floors may call compiled kernels; the floors above reach them through layers.
MAY_CALL_KERNELS = {1, 2, 3}

SOURCES = sorted(path for path in PACKAGE.rglob("*") if path.suffix in (".py", ".pyx"))


def room(module):
    """The entry of FLOORS that a module belongs to; the public face itself is only ``cnet``."""
    parts = module.split(".")
    while parts:
        name = ".".join(parts)
        if name in FLOORS and (name != "cnet" or module == "cnet"):
            return name
        parts.pop()
    raise AssertionError(f"{module} stands on no floor: add it to FLOORS")


def module_name(path):
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path):
    """Modules of cnet that a source imports, wherever the import stands."""
    text = path.read_text()
    if path.suffix == ".pyx":
        found = re.findall(r"^\s*(?:from|cimport|import)\s+(cnet[\w.]*)", text, re.MULTILINE)
        return set(found)
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {candidate(f"{node.module}.{alias.name}", node.module) for alias in node.names}
    return {name for name in found if name == "cnet" or name.startswith("cnet.")}


def candidate(full, module):
    """``from package import thing`` names a module if there is one of that name, else the package."""
    path = ROOT.joinpath(*full.split("."))
    exists = path.is_dir() or any(path.with_suffix(suffix).exists() for suffix in (".py", ".pyx"))
    return full if exists else module


@pytest.mark.parametrize("path", SOURCES, ids=[str(path.relative_to(ROOT)) for path in SOURCES])
def test_imports_never_go_up(path):
    own = room(module_name(path))
    for name in imports(path):
        other = room(name)
        if other == own:
            continue
        assert FLOORS[other] <= FLOORS[own], f"{own} imports {name} from a higher floor"
        if own in MEANINGS:
            assert other not in MEANINGS, f"{own} imports its sibling {name}"
        if other == "cnet.kernels":
            assert FLOORS[own] in MAY_CALL_KERNELS or name.rsplit(".", 1)[-1] == "_dispatch", f"{own} calls {name}"


def test_c_sources_know_neither_python_nor_threads_nor_the_heap():
    forbidden = re.compile(r"Python\.h|omp\.h|#pragma omp|\b(?:malloc|calloc|realloc|free|printf|abort|exit)\s*\(")
    for path in (ROOT / "csrc").rglob("*.[ch]"):
        assert not forbidden.search(path.read_text()), path


def test_sources_are_small():
    limits = {"layers": 250, "kernels": 400}
    for path in SOURCES:
        limit = limits.get(path.relative_to(PACKAGE).parts[0])
        if limit:
            assert len(path.read_text().splitlines()) <= limit, path
    for path in (ROOT / "csrc").rglob("*.c"):
        assert len(path.read_text().splitlines()) <= 400, path


def test_only_layout_permutes_axes():
    for path in PACKAGE.rglob("*.py"):
        if path.name not in ("layout.py",) and path.relative_to(PACKAGE).parts[0] in ("layers", "losses", "optimizers"):
            assert ".transpose(" not in path.read_text() and "moveaxis" not in path.read_text(), path
