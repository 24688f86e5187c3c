"""The benchmarks, as far as no clock is concerned: which nets and layers they measure, and how they add up."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cnet import layers
from cnet.data import write_idx
from cnet.kernels import probe

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
if not BENCHMARKS.is_dir():
    pytest.skip("the benchmarks are not installed", allow_module_level=True)


def load(name: str) -> ModuleType:
    """A module of the benchmarks, which are scripts in a folder and no package."""
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    assert spec and spec.loader
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# In an order in which each finds those it imports; not "kernels", which is also a folder of tests.
nets, timing, libraries, sweep, epoch = map(load, ("nets", "timing", "libraries", "sweep", "epoch"))

SPECS = sweep.generate(seed=0, count=300)
TEXTS = [*nets.NETS.values(), *(nets.split_batch(spec)[1] for spec in SPECS)]
# Drawing more weights than that takes long.
LIGHT = [text for text in TEXTS if sum(nets.count_weights(*step) for step in nets.walk(text)) < 600_000]


# ---- texts of nets


def test_texts_survive_reading_and_writing() -> None:
    for text in TEXTS:
        assert nets.write(*nets.parse(text)) == text


def test_parse_reads_sizes_pairs_and_fractions() -> None:
    shape, (conv, pool, drop, flatten) = nets.parse("3x32x28 c16k3x5s2p1x2g1 pool2 drop0.5 flatten")
    assert shape == (3, 32, 28)
    assert conv == ("c", 16, {"k": (3, 5), "s": 2, "p": (1, 2), "g": 1})
    assert conv.windows() == ((3, 5), (2, 2), (1, 2), (1, 1))
    assert pool.windows() == ((2, 2), (2, 2), (0, 0), (1, 1))
    assert (drop.size, flatten.size) == (0.5, None)


@pytest.mark.parametrize("word", ["c16", "ck3", "relu2", "pool", "fc", "c16k3z2", "pool2k2", "gelu", "C16k3", "c16k3x"])
def test_parse_refuses_unknown_words(word: str) -> None:
    with pytest.raises(ValueError, match=f"'{word}' is no layer"):
        nets.parse(f"3x8x8 {word}")


@pytest.mark.parametrize("text", ["relu", "3x relu", "28 x28"])
def test_parse_refuses_a_text_without_a_shape(text: str) -> None:
    with pytest.raises(ValueError):
        nets.parse(text)


def test_spec_is_a_batch_before_a_text() -> None:
    assert nets.split_batch("64x1x28x28 c32k3") == (64, "1x28x28 c32k3")
    assert nets.split_batch("64x784 fc10") == (64, "784 fc10")
    with pytest.raises(ValueError, match="no batch"):
        nets.split_batch("relu")


@pytest.mark.parametrize("text", LIGHT)
def test_shapes_weights_and_operations_are_those_of_the_library(text: str) -> None:
    steps = list(nets.walk(text))
    for (shape, layer), built in zip(steps, nets.build(text, layers), strict=True):
        after = built.output_shape(shape)
        assert nets.output_shape(shape, layer) == after
        if layer.kind in ("c", "fc"):
            assert nets.count_weights(shape, layer) == math.prod(built.weight.shape)
            assert nets.count_flops(shape, layer) + math.prod(after) == built.flops(shape)


# ---- layers of a sweep


def test_sweep_is_a_function_of_its_seed() -> None:
    assert sweep.generate(seed=0, count=300) == SPECS
    assert sweep.generate(seed=1, count=300) != SPECS
    assert sweep.generate(seed=0, count=100) == SPECS[:100]


def test_sweep_has_as_many_different_layers_as_asked_for() -> None:
    assert len(set(SPECS)) == len(SPECS) == 300


def test_sweep_stays_inside_its_limits() -> None:
    for spec in sweep.generate(seed=2, count=600):
        batch, text = nets.split_batch(spec)
        ((shape, layer),) = nets.walk(text)
        after = nets.output_shape(shape, layer)
        assert 1 <= batch <= 256 and min(after) >= 1, spec
        assert batch * nets.count_flops(shape, layer) <= 1e9, spec
        assert 4 * (batch * (math.prod(shape) + math.prod(after)) + nets.count_weights(shape, layer)) <= 80e6, spec
        if layer.kind == "fc":
            assert 1 <= shape[0] <= 4096 and 1 <= after[0] <= 4096, spec
        else:
            assert max(shape[0], after[0]) <= 512 and all(7 <= size <= 64 for size in shape[1:]), spec
        if layer.kind == "c":
            kernel, stride, padding, dilation = layer.windows()
            assert max(kernel) <= 7 and max(stride) <= 3 and max(dilation) <= 2, spec
            assert all(pad < size for pad, size in zip(padding, kernel, strict=True)), spec
            assert shape[0] % layer.groups == after[0] % layer.groups == 0, spec


def test_sweep_meets_every_kind_of_layer() -> None:
    kinds = {sweep.kind_of(spec) for spec in SPECS}
    assert kinds == {"conv", "conv 1x1", "conv depthwise", "conv groups", "linear", "pool", "norm", "activation"}
    convolutions = [next(nets.walk(nets.split_batch(spec)[1])) for spec in SPECS if " c" in spec]
    assert any(shape[0] % 2 and shape[0] > 8 for shape, _ in convolutions)
    for option in range(3):
        assert any(len(set(layer.windows()[option])) == 2 for _, layer in convolutions)


@pytest.mark.parametrize("kind", sweep.KINDS)
def test_sweep_of_one_kind(kind: str) -> None:
    assert {sweep.kind_of(spec).split()[0] for spec in sweep.generate(0, 20, only=kind)} == {kind}


def test_kind_of_refuses_a_net() -> None:
    with pytest.raises(ValueError, match="has 2 layers"):
        sweep.kind_of("64x1x28x28 c32k3 relu")


def test_sweep_report_counts_and_leaves_out_disturbed_layers(capsys: pytest.CaptureFixture[str]) -> None:
    def result(spec: str, ratio: float, load: float) -> dict[str, Any]:
        numbers = {"median": ratio, "least": ratio, "most": ratio}
        one_pass = {"milliseconds": {"cnet": 1.0, "NCHW": ratio}, "ratio": numbers}
        return {"spec": spec, "kind": "conv", "other_cores": [0.0, load], "forward": one_pass}

    results = [result("a", 0.5, 0.0), result("b", 2.0, 0.05), result("c", 99.0, 0.5)]
    sweep.report(results, "forward", "cnet")
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "forward: 2 layers; 1 more left out, which others disturbed"
    assert lines[2] == "median 1.25, quartiles 0.88 and 1.62; below 0.9: 1, below 1: 1"
    assert lines[3] == "geometric means: conv 1.00 (2)"
    assert [line.split()[0] for line in lines[4:]] == ["spec", "a", "b"]
    sweep.report(results[2:], "forward", "cnet")
    assert "forward: 1 layers; all disturbed by others" in capsys.readouterr().out


# ---- rounds, tables and processes


def answers_of(loads: list[float]) -> tuple[list[str], list[dict[str, Any]]]:
    """The order of asking, and the rounds kept, where the rounds meet such loads of others."""
    asked: list[str] = []

    def ask(side: Any) -> dict[str, Any]:
        number = len(asked) // 2
        asked.append(side.name)
        return {"milliseconds": {"train": number + 1.0}, "other_cores": loads[number]}

    rounds = timing.rounds([SimpleNamespace(name="a"), SimpleNamespace(name="b")], 3, ask)
    return asked, [answers["a"]["milliseconds"]["train"] for answers in rounds]


def test_rounds_ask_forth_and_back() -> None:
    asked, kept = answers_of([0.0] * 6)
    assert asked == ["a", "b", "b", "a", "a", "b"]
    assert kept == [1, 2, 3]


@pytest.mark.parametrize(
    ("loads", "kept"),
    [([0.5, 0, 0.5, 0, 0, 9], [2, 4, 5]), ([0.5] * 6, [4, 5, 6]), ([0, 0.5, 0.5, 0.5, 0.5, 0.5], [1, 5, 6])],
)
def test_rounds_repeat_disturbed_ones_but_not_for_ever(loads: list[float], kept: list[int]) -> None:
    assert answers_of(loads)[1] == kept


def test_compare_takes_the_median_of_the_rounds_ratios() -> None:
    times = [{"cnet": 1.0, "x": 3.0, "y": 2.0}, {"cnet": 2.0, "x": 2.0, "y": 9.0}, {"cnet": 1.0, "x": 8.0, "y": 9.0}]
    rounds = [{side: {"milliseconds": {"train": time}} for side, time in one.items()} for one in times]
    assert timing.compare(rounds, "cnet", "train") == {
        "milliseconds": {"cnet": 1.0, "x": 3.0, "y": 9.0},
        "ratio": {"median": 2.0, "least": 1.0, "most": 8.0},
    }


def test_table_aligns_cuts_and_marks_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    table = timing.Table(("net", "<4"), ("ms", "7.2f"), ("n", "3"))
    table.row("lenet5", 1.234, None)
    assert capsys.readouterr().out == "net       ms   n\nlene    1.23   -\n"


def test_numbers_are_above_zero() -> None:
    assert timing.numbers("1,64") == [1, 64]
    for text in ("0", "1,", "a", "-1"):
        with pytest.raises(ValueError):
            timing.numbers(text)


def test_json_holds_machine_settings_and_results(tmp_path: Path) -> None:
    machine = timing.machine()
    timing.write_json(machine, argparse.Namespace(rounds=3, json=str(tmp_path / "out.json"), data="a folder"), [1, 2])
    content = json.loads((tmp_path / "out.json").read_text())
    assert content == {"machine": machine, "settings": {"rounds": 3}, "results": [1, 2]}
    assert {"cpu", "cores", "python", "numpy", "cnet", "isas"} <= set(machine)


def test_torch_sides_are_formats_times_allocators() -> None:
    arguments = argparse.Namespace(isa="avx2", tcmalloc="lib.so", torch_python="python")
    sides = libraries.torch_sides(arguments)
    assert [side.name for side in sides] == ["NCHW", "NHWC", "NCHW tcmalloc", "NHWC tcmalloc"]
    assert all(side.environment["ONEDNN_MAX_CPU_ISA"] == "AVX2" for side in sides)
    assert ["LD_PRELOAD" in side.environment for side in sides] == [False, False, True, True]
    arguments.tcmalloc = "none"
    assert [side.name for side in libraries.torch_sides(arguments, images=False)] == ["NCHW"]


def test_worker_measures_layers_and_nets() -> None:
    path = os.pathsep.join(entry for entry in sys.path if entry)
    side = libraries.cnet_side(argparse.Namespace(isa="baseline"))
    side = dataclasses.replace(side, environment={**side.environment, "PYTHONPATH": path})
    with side.start(threads=1) as worker:
        assert worker.ask(task="describe") == {"cnet_isa": "baseline"}
        options = {"batch": 2, "seconds": 0.001}
        layer = worker.ask(task="layer", text="2x8x8 c4k3p1", channels_last=True, **options)
        assert set(layer["milliseconds"]) == {"forward", "training"}
        net = worker.ask(task="train", text="1x8x8 c4k3 relu pool2 flatten fc10", **options)
        assert net["milliseconds"]["train"] > 0 and net["megabytes"] >= 0 and net["pool_megabytes"] > 0
        rows = worker.ask(task="profile", text="8 fc4 relu fc10", **options)["rows"]
        assert [row[0] for row in rows[3:]] == ["loss", "optimizer step", "zero_grad"]


@pytest.mark.parametrize("name", ["vs_torch", "sweep", "kernels", "epoch"])
def test_script_explains_itself(name: str) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry), "COLUMNS": "100"}
    command = [sys.executable, "-W", "error", str(BENCHMARKS / f"{name}.py"), "--help"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"python benchmarks/{name}.py" in done.stdout and "--json FILE" in done.stdout


# ---- kernels


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> Any:
    """benchmarks/kernels.py, with small arrays."""
    spec = importlib.util.spec_from_file_location("benchmark_kernels", BENCHMARKS / "kernels.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "DENSE", ["3x8 fc5"])
    monkeypatch.setattr(module, "CONVOLUTIONS", ["2x3x7x7 c4k3p1", "2x8x7x7 c8k3p1g8"])
    return module


def test_kernels_all_run_and_say_what_they_move(kernels: Any, isa: str) -> None:
    levels = {"L2": kernels.Level("L2", 1 << 16, 1 << 15), "memory": kernels.Level("memory", None, 1 << 17)}
    names = set()
    for case in kernels.all_cases(levels):
        for threads in (1, 2):
            case.run(threads)
        assert case.operations > 0 and case.bytes > 0
        names.add(case.name)
    families = {"dense", "conv", "depthwise", "max-pool", "relu", "batch", "softmax", "sgd", "dropout", "transpose"}
    assert families <= {name.split()[0] for name in names}
    assert {"conv forward", "conv dX", "conv dW"} <= names


def test_kernels_know_caches_and_memory(kernels: Any) -> None:
    levels = kernels.find_levels()
    assert next(iter(levels)) == "L2" and list(levels)[-1] == "memory"
    assert levels["L2"].holds(levels["L2"].bytes, 1)
    assert not levels["L2"].holds(1 << 40, 1) and levels["memory"].holds(1 << 40, 1)


def test_private_caches_add_up(kernels: Any) -> None:
    private, shared = kernels.Level("L2", 1000, 8), kernels.Level("L3", 1000, 8, sharing=4)
    assert [level.holds(2000, threads) for level in (private, shared) for threads in (1, 2, 4)] == [
        False, True, True, False, False, False,
    ]  # fmt: skip


def test_labels_of_the_roofline_keep_apart(kernels: Any) -> None:
    places = [(1.0, 1.0), (1.0, 1.0), (1.01, 1.0), (100.0, 50.0)]
    offsets = np.array(kernels.label_offsets(places, 400))
    assert offsets.shape == (4, 2)
    distances = np.hypot(*(offsets[:3, None] - offsets[None, :3]).T)
    assert distances[~np.eye(3, dtype=bool)].min() > 6


def test_roofline_is_drawn(kernels: Any, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    common = {"isa": "avx2", "threads": 2, "size": "8 floats", "peak_gflops": 100.0, "peak_gigabytes": 10.0}
    common |= {"percent_of_peak": 5.0, "percent_of_bandwidth": 50.0}
    results = [
        {"kernel": "conv dX", "level": "L2", "operations": 100, "bytes": 10, "gflops": 50.0, **common},
        {"kernel": "relu forward", "level": "memory", "operations": 1, "bytes": 8, "gflops": 1.0, **common},
    ]
    kernels.draw(results, tmp_path / "roofline.png")
    assert (tmp_path / "roofline.png").read_bytes().startswith(b"\x89PNG")


def test_probes_do_what_they_are_counted_for(isa: str) -> None:
    for size in (0, 1, 63, 64, 65, 1000):
        x, y = np.arange(size, dtype=np.float32), np.ones(size, np.float32)
        for threads in (1, 2, 3):
            y[:] = 1
            assert probe.memory(x, y, threads) == 12 * size
            np.testing.assert_array_equal(y, x + 1)
    assert probe.arithmetic(10, 2) == 2 * probe.arithmetic(10, 1) > 0


# ---- the files that PyTorch reads


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_epoch_reads_idx_files_as_the_library_does(suffix: str, tmp_path: Path) -> None:
    (tmp_path / "MNIST" / "raw").mkdir(parents=True)
    images = np.arange(2 * 28 * 28, dtype=np.int64).astype(np.uint8).reshape(2, 28, 28)
    write_idx(tmp_path / "MNIST" / "raw" / f"train-images-idx3-ubyte{suffix}", images)
    np.testing.assert_array_equal(epoch.read_idx(tmp_path, "train", "images"), images)
