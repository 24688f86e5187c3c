"""Which instruction set is in use, and that the Cython declarations of the kernels are those of the C sources."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from kernel_cases import run_in_child

from cnet.kernels import _dispatch

BEST_FIRST = ["avx512", "avx2", "neon", "baseline"]
REPORT = "from cnet.kernels import _dispatch; print(_dispatch.isa())"
ROOT = Path(__file__).resolve().parents[2]
ROWS, DECLARATIONS = ROOT / "csrc" / "kernels.def", ROOT / "cnet" / "kernels" / "_dispatch.pxd"


def test_isas_come_best_first() -> None:
    names = _dispatch.isas()
    assert list(names) == [name for name in BEST_FIRST if name in names]
    assert names[-1] == "baseline"


def test_isa_defaults_to_the_best() -> None:
    result = run_in_child(REPORT, CNET_ISA="")
    assert (result.stdout.strip(), result.returncode) == (_dispatch.isas()[0], 0), result.stderr


@pytest.mark.parametrize("name", _dispatch.isas())
def test_isa_follows_the_environment(name: str) -> None:
    result = run_in_child(REPORT, CNET_ISA=name)
    assert (result.stdout.strip(), result.returncode) == (name, 0), result.stderr


@pytest.mark.parametrize("name", ["sse9", "AVX2", "avx", "avx2 "])
def test_isa_unknown_in_the_environment_is_refused(name: str) -> None:
    result = run_in_child(REPORT, CNET_ISA=name)
    assert result.returncode == 1
    expected = f"ValueError: CNET_ISA: {name!r} is not available, expected one of {', '.join(_dispatch.isas())}."
    assert result.stderr.splitlines()[-1] == expected


def test_set_isa_switches(isa: str) -> None:
    assert _dispatch.isa() == isa


def test_set_isa_refuses_unknown_names_and_keeps_the_one_in_use(isa: str) -> None:
    with pytest.raises(ValueError, match=f"'sse9' is not available, expected one of {', '.join(_dispatch.isas())}"):
        _dispatch.set_isa("sse9")
    for wrong in (None, b"avx2", 1):
        with pytest.raises(TypeError):
            _dispatch.set_isa(wrong)  # type: ignore[arg-type]
    assert _dispatch.isa() == isa


def test_tile_is_whole_vectors(isa: str) -> None:
    lanes, rows, columns = _dispatch.tile()
    assert lanes in (4, 8, 16) and rows >= 1 and columns > 0 and columns % lanes == 0


def test_release_threads_may_be_called_at_any_time() -> None:
    _dispatch.release_threads()
    _dispatch.release_threads()


def without_comments(text: str) -> str:
    return re.sub(r"#.*", "", re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL))


def arguments(text: str) -> list[str]:
    """``type name`` of each argument, with one way of writing spaces."""
    return [re.sub(r"\s*\*\s*", "* ", " ".join(argument.split())) for argument in text.split(",")]


@pytest.mark.skipif(not (ROWS.exists() and DECLARATIONS.exists()), reason="the sources are not here")
def test_cython_declares_every_kernel_as_c_does() -> None:
    rows = re.findall(r"CN_KERNEL\((\w+),\s*\(([^()]*)\)\)", without_comments(ROWS.read_text()))
    declarations = re.findall(
        r"void \(\*(\w+)\)\(([^()]*)\)\s*noexcept nogil", without_comments(DECLARATIONS.read_text())
    )
    assert len(rows) == without_comments(ROWS.read_text()).count("CN_KERNEL")
    assert {name for name, _ in declarations} == {name for name, _ in rows}
    declared = dict(declarations)
    for name, text in rows:
        assert arguments(declared[name]) == arguments(text), name


@pytest.mark.skipif(not (ROOT / "csrc" / "isa").exists(), reason="the sources are not here")
def test_tile_is_what_the_isa_header_says(isa: str) -> None:
    text = (ROOT / "csrc" / "isa" / f"{isa}.h").read_text()
    numbers = {name: int(value) for name, value in re.findall(r"#define CN_(\w+) (\d+)", text)}
    assert re.search(r"#define CN_ISA (\w+)", text)[1] == isa  # type: ignore[index]
    lanes, rows, vectors = numbers["LANES"], numbers["TILE_ROWS"], numbers["TILE_VECTORS"]
    assert _dispatch.tile() == (lanes, rows, lanes * vectors)
