"""Initialisers: distributions, bounds, names and refusals; parity of the bounds with PyTorch where it is installed."""

# The tests of refusals pass wrong types on purpose.
# mypy: disable-error-code="arg-type, list-item"

from __future__ import annotations

import math
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnet import initializers
from cnet.initializers import (
    Constant,
    FanInUniform,
    Initializer,
    KaimingNormal,
    KaimingUniform,
    Normal,
    Ones,
    Uniform,
    XavierNormal,
    XavierUniform,
    Zeros,
    calculate_fan_in_and_fan_out,
    calculate_gain,
)

LINEAR = (300, 200)
CONVOLUTION = (64, 32, 5, 3)  # fan_in 480, fan_out 960
RELU_GAIN = math.sqrt(2.0)

UNIFORM_CASES: list[tuple[Initializer, tuple[int, ...], float, float]] = [
    (Uniform(), LINEAR, 0.0, 1.0),
    (Uniform(-0.3, 0.7), LINEAR, -0.3, 0.7),
    (XavierUniform(), LINEAR, -math.sqrt(6 / 500), math.sqrt(6 / 500)),
    (XavierUniform(gain=5 / 3), CONVOLUTION, -5 / 3 * math.sqrt(6 / 1440), 5 / 3 * math.sqrt(6 / 1440)),
    (KaimingUniform(), LINEAR, -math.sqrt(6 / 200), math.sqrt(6 / 200)),
    (KaimingUniform(mode="fan_out"), CONVOLUTION, -math.sqrt(6 / 960), math.sqrt(6 / 960)),
    (KaimingUniform(a=2.0), CONVOLUTION, -math.sqrt(6 / 5 / 480), math.sqrt(6 / 5 / 480)),
    (KaimingUniform(nonlinearity="linear"), LINEAR, -math.sqrt(3 / 200), math.sqrt(3 / 200)),
    (FanInUniform(), LINEAR, -1 / math.sqrt(200), 1 / math.sqrt(200)),
    (FanInUniform(), CONVOLUTION, -1 / math.sqrt(480), 1 / math.sqrt(480)),
]

NORMAL_CASES: list[tuple[Initializer, tuple[int, ...], float, float]] = [
    (Normal(), LINEAR, 0.0, 1.0),
    (Normal(0.5, 0.02), CONVOLUTION, 0.5, 0.02),
    (XavierNormal(), LINEAR, 0.0, math.sqrt(2 / 500)),
    (XavierNormal(gain=RELU_GAIN), CONVOLUTION, 0.0, RELU_GAIN * math.sqrt(2 / 1440)),
    (KaimingNormal(), CONVOLUTION, 0.0, math.sqrt(2 / 480)),
    (KaimingNormal(mode="fan_out"), LINEAR, 0.0, math.sqrt(2 / 300)),
    (KaimingNormal(nonlinearity="tanh"), LINEAR, 0.0, 5 / 3 / math.sqrt(200)),
]

EVERY = [Constant(0.5), Zeros(), Ones(), *(case[0] for case in UNIFORM_CASES), *(case[0] for case in NORMAL_CASES)]


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def kolmogorov_smirnov(sample: np.ndarray, distribution: np.ndarray) -> float:
    """The largest distance between the empirical and the stated distribution function, at the sorted sample."""
    count = sample.size
    above = np.arange(1, count + 1) / count - distribution
    below = distribution - np.arange(count) / count
    return float(max(above.max(), below.max()))


def critical(count: int) -> float:
    """Asymptotic Kolmogorov-Smirnov bound at a significance of 0.001: sqrt(-log(0.001 / 2) / 2) / sqrt(n)."""
    return math.sqrt(-math.log(0.0005) / 2 / count)


@pytest.mark.parametrize(("initializer", "shape", "low", "high"), UNIFORM_CASES, ids=repr)
def test_uniform_initializer_has_stated_distribution(
    initializer: Initializer, shape: tuple[int, ...], low: float, high: float
) -> None:
    sample = np.sort(initializer(shape, generator(1)).astype(np.float64), axis=None)
    width = high - low
    assert sample[0] >= np.float32(low)
    assert sample[-1] <= np.float32(high)
    # Of n draws the expected gap at each end is width / n; thirty times that has a chance of exp(-30).
    assert sample[0] < low + 30 * width / sample.size
    assert sample[-1] > high - 30 * width / sample.size
    assert abs(sample.mean() - (low + high) / 2) < 4 * width / math.sqrt(12 * sample.size)
    assert sample.std() == pytest.approx(width / math.sqrt(12), rel=0.02)
    assert kolmogorov_smirnov(sample, (sample - low) / width) < critical(sample.size)


@pytest.mark.parametrize(("initializer", "shape", "mean", "std"), NORMAL_CASES, ids=repr)
def test_normal_initializer_has_stated_distribution(
    initializer: Initializer, shape: tuple[int, ...], mean: float, std: float
) -> None:
    sample = np.sort(initializer(shape, generator(2)).astype(np.float64), axis=None)
    scores = (sample - mean) / std
    assert abs(scores.mean()) < 4 / math.sqrt(scores.size)
    assert scores.std() == pytest.approx(1.0, rel=0.02)
    assert (scores**4).mean() == pytest.approx(3.0, rel=0.1)  # not truncated: the kurtosis of N(0, 1)
    distribution = np.array([0.5 * (1 + math.erf(score / math.sqrt(2))) for score in scores])
    assert kolmogorov_smirnov(scores, distribution) < critical(scores.size)


def test_kolmogorov_smirnov_statistic_detects_wrong_bound() -> None:
    sample = np.sort(FanInUniform()(LINEAR, generator(1)).astype(np.float64), axis=None)
    bound = 1.05 / math.sqrt(200)
    assert kolmogorov_smirnov(sample, (sample + bound) / (2 * bound)) > critical(sample.size)


@pytest.mark.parametrize("initializer", EVERY, ids=repr)
@pytest.mark.parametrize("shape", [(7, 5), (4, 3, 3, 2), [6, 2]], ids=str)
def test_initializer_returns_fresh_c_ordered_float32(initializer: Initializer, shape: Any) -> None:
    first, second = initializer(shape, generator(3)), initializer(shape, generator(3))
    assert type(first) is np.ndarray
    assert first.dtype == np.float32
    assert first.shape == tuple(shape)
    assert first.flags.c_contiguous and first.flags.writeable
    assert first.tobytes() == second.tobytes()
    assert not np.shares_memory(first, second)


@pytest.mark.parametrize("initializer", [Constant(2.0), Zeros(), Ones(), Uniform(), Normal()], ids=repr)
@pytest.mark.parametrize("shape", [(), (1,), (5,)], ids=str)
def test_initializer_without_fan_takes_scalars_and_vectors(initializer: Initializer, shape: tuple[int, ...]) -> None:
    assert initializer(shape, generator()).shape == shape


@pytest.mark.parametrize(("initializer", "value"), [(Constant(-1.5), -1.5), (Zeros(), 0.0), (Ones(), 1.0)], ids=repr)
def test_constant_fills_and_leaves_generator(initializer: Initializer, value: float) -> None:
    source = generator()
    assert (initializer((3, 2), source) == np.float32(value)).all()
    assert source.bit_generator.state == generator().bit_generator.state


def test_bias_takes_fan_of_its_weight() -> None:
    bias = FanInUniform()((50_000,), generator(4), fan_in=784)
    bound = 1 / 28
    assert np.abs(bias).max() <= np.float32(bound)
    assert np.abs(bias).max() > 0.999 * bound


def test_explicit_fan_overrides_shape() -> None:
    by_shape = XavierUniform()((30, 20), generator(5))
    by_argument = XavierUniform()((600,), generator(5), fan_in=20, fan_out=30)
    assert by_argument.tobytes() == by_shape.tobytes()
    assert KaimingNormal()((30, 20), generator(5), fan_in=80) == pytest.approx(
        KaimingNormal()((30, 20), generator(5)) / 2, rel=1e-6
    )


@pytest.mark.parametrize("initializer", [FanInUniform(), XavierNormal(), KaimingUniform()], ids=repr)
def test_vector_without_fan_is_refused_with_remedy(initializer: Initializer) -> None:
    with pytest.raises(ValueError, match=r"fan_in is unknown for shape \(8,\).*pass fan_in="):
        initializer((8,), generator())


def test_xavier_needs_both_fans() -> None:
    with pytest.raises(ValueError, match="XavierUniform: fan_out is unknown"):
        XavierUniform()((8,), generator(), fan_in=4)


def test_kaiming_fan_out_needs_fan_out_only() -> None:
    assert KaimingUniform(mode="fan_out")((8,), generator(), fan_out=4).shape == (8,)
    with pytest.raises(ValueError, match="KaimingUniform: fan_out is unknown"):
        KaimingUniform(mode="fan_out")((8,), generator(), fan_in=4)


@pytest.mark.parametrize(
    ("shape", "fans"),
    [((10, 128), (128, 10)), ((64, 32, 3, 3), (288, 576)), ((8, 1, 5, 7), (35, 280)), ((3, 4, 2), (8, 6))],
)
def test_fans_follow_logical_shape(shape: tuple[int, ...], fans: tuple[int, int]) -> None:
    assert calculate_fan_in_and_fan_out(shape) == fans


def test_fans_of_vector_are_refused() -> None:
    with pytest.raises(ValueError, match=r"has shape \(5,\), expected at least two dimensions\..*fan_in="):
        calculate_fan_in_and_fan_out((5,))


@given(st.floats(-1e30, 1e30), st.floats(-1e30, 1e30), st.integers(0, 100))
def test_uniform_stays_in_its_float32_bounds(first: float, second: float, seed: int) -> None:
    low, high = min(first, second), max(first, second)
    values = Uniform(low, high)((50,), generator(seed))
    assert (values >= np.float32(low)).all() and (values <= np.float32(high)).all()


def test_gain_table() -> None:
    assert calculate_gain("linear") == calculate_gain("conv2d") == calculate_gain("sigmoid") == 1.0
    assert calculate_gain("tanh") == 5 / 3
    assert calculate_gain("relu") == RELU_GAIN
    assert calculate_gain("leaky_relu") == math.sqrt(2 / (1 + 0.01**2))
    assert calculate_gain("leaky_relu", 1) == 1.0
    assert calculate_gain("selu") == 0.75


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("constant", Constant()),
        ("zeros", Zeros()),
        ("ones", Ones()),
        ("uniform", Uniform()),
        ("normal", Normal()),
        ("xavier_uniform", XavierUniform()),
        ("glorot_uniform", XavierUniform()),
        ("xavier_normal", XavierNormal()),
        ("glorot_normal", XavierNormal()),
        ("kaiming_uniform", KaimingUniform()),
        ("he_uniform", KaimingUniform()),
        ("kaiming_normal", KaimingNormal()),
        ("he_normal", KaimingNormal()),
        ("lecun_uniform", KaimingUniform(nonlinearity="linear")),
        ("lecun_normal", KaimingNormal(nonlinearity="linear")),
        ("fan_in_uniform", FanInUniform()),
    ],
)
def test_get_by_name(name: str, expected: Initializer) -> None:
    assert initializers.get(name) == expected


def test_get_knows_every_initializer() -> None:
    named = {type(initializers.get(name)).__name__ for name in initializers._NAMES}
    assert named == {name for name in initializers.__all__ if name[0].isupper()} - {"Initializer"}


def test_get_passes_instance_through() -> None:
    initializer = Constant(0.25)
    assert initializers.get(initializer) is initializer


def test_get_suggests_nearest_name() -> None:
    with pytest.raises(ValueError, match=r"Linear: weight_init is 'he_norml'.*Did you mean 'he_normal'\?"):
        initializers.get("he_norml", subject="Linear", name="weight_init")


def test_get_refuses_class_with_remedy() -> None:
    with pytest.raises(TypeError, match=r"Call it: KaimingNormal\(\)\."):
        initializers.get(KaimingNormal)


@pytest.mark.parametrize("value", [None, 0.0, np.zeros(3)], ids=repr)
def test_get_refuses_other_objects(value: Any) -> None:
    with pytest.raises(TypeError, match="expected an Initializer or the name of one"):
        initializers.get(value)


@pytest.mark.parametrize("initializer", EVERY, ids=repr)
def test_initializer_is_an_immutable_value(initializer: Initializer) -> None:
    copied = pickle.loads(pickle.dumps(initializer))
    assert copied == initializer
    assert hash(copied) == hash(initializer)
    assert eval(repr(initializer), vars(initializers)) == initializer
    with pytest.raises(AttributeError):
        initializer.value = 1.0  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: Constant(math.nan), ValueError, "Constant: value is nan"),
        (lambda: Constant(1e39), ValueError, "Constant: value is 1e\\+39"),
        (lambda: Constant("1"), TypeError, "Constant: value is '1'"),
        (lambda: Uniform(0.5, -0.5), ValueError, "Uniform: low is 0.5, high is -0.5, expected low <= high. Swap"),
        (lambda: Uniform(-math.inf, 0), ValueError, "Uniform: low is -inf"),
        (lambda: Normal(std=-1), ValueError, "Normal: std is -1"),
        (lambda: Normal(mean=None), TypeError, "Normal: mean is None"),
        (lambda: XavierUniform(gain=0), ValueError, "XavierUniform: gain is 0"),
        (lambda: XavierNormal(gain=math.inf), ValueError, "XavierNormal: gain is inf"),
        (lambda: XavierNormal(gain=True), TypeError, "XavierNormal: gain is True"),
        (lambda: KaimingUniform(a=math.nan), ValueError, "KaimingUniform: a is nan"),
        (lambda: KaimingNormal(mode="fanin"), ValueError, "mode is 'fanin'.*Did you mean 'fan_in'"),
        (lambda: KaimingNormal(nonlinearity="rleu"), ValueError, "nonlinearity is 'rleu'.*Did you mean 'relu'"),
        (lambda: KaimingNormal(nonlinearity=3), TypeError, "nonlinearity is 3"),
        (lambda: calculate_gain("gelu"), ValueError, "calculate_gain: nonlinearity is 'gelu'"),
        (lambda: calculate_gain("leaky_relu", math.nan), ValueError, "calculate_gain: param is nan"),
        (lambda: calculate_gain("leaky_relu", True), TypeError, "calculate_gain: param is True"),
        (lambda: Zeros()((2, 0), generator()), ValueError, r"Zeros: shape\[1\] is 0"),
        (lambda: Zeros()((2, -3), generator()), ValueError, r"Zeros: shape\[1\] is -3"),
        (lambda: Zeros()((2, 1.5), generator()), TypeError, r"Zeros: shape\[1\] is 1.5"),
        (lambda: Zeros()(5, generator()), TypeError, "Zeros: shape is 5, expected a tuple"),
        (lambda: Zeros()("55", generator()), TypeError, "Zeros: shape is '55', expected a tuple"),
        (lambda: Normal()((5,), 0), TypeError, r"Normal: generator is a int.*default_rng\(seed\)"),
        (lambda: Normal()((5,), np.random), TypeError, "Normal: generator is a module"),
        (lambda: FanInUniform()((5,), generator(), fan_in=0), ValueError, "FanInUniform: fan_in is 0"),
        (lambda: FanInUniform()((5,), generator(), fan_in=2.0), TypeError, "FanInUniform: fan_in is 2.0"),
    ],
)
def test_nonsense_is_refused(make: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        make()


def test_subclass_result_is_checked() -> None:
    class Transposed(Initializer):
        def draw(self, shape: Any, generator: Any, fan_in: Any, fan_out: Any) -> Any:
            return generator.random(shape[::-1])

    with pytest.raises(ValueError, match=r"Transposed: the draw has shape \(3, 2\), expected \(2, 3\)"):
        Transposed()((2, 3), generator())
    square = Transposed()((2, 2), generator())
    assert square.dtype == np.float32


def test_subclass_result_becomes_c_ordered() -> None:
    class Fortran(Initializer):
        def draw(self, shape: Any, generator: Any, fan_in: Any, fan_out: Any) -> Any:
            return np.asfortranarray(generator.random(shape))

    assert Fortran()((2, 3), generator()).flags.c_contiguous


@pytest.mark.parametrize("shape", [(40, 30), (16, 8, 3, 5)], ids=str)
def test_bounds_equal_pytorch(shape: tuple[int, ...]) -> None:
    torch = pytest.importorskip("torch")
    init = torch.nn.init
    tensor = torch.empty(shape)
    assert calculate_fan_in_and_fan_out(shape) == init._calculate_fan_in_and_fan_out(tensor)

    seen: list[tuple[float, float]] = []

    class Recorder(torch.Tensor):  # type: ignore[misc, name-defined]
        def uniform_(self, low: float, high: float, generator: Any = None) -> Any:
            seen.append((low, high))
            return self

        def normal_(self, mean: float, std: float, generator: Any = None) -> Any:
            seen.append((mean, std))
            return self

    recorder = tensor.as_subclass(Recorder)
    five = math.sqrt(5)
    pairs: list[tuple[Initializer, Any]] = [
        (XavierUniform(gain=1.5), lambda: init.xavier_uniform_(recorder, gain=1.5)),
        (XavierNormal(), lambda: init.xavier_normal_(recorder)),
        (FanInUniform(), lambda: init.kaiming_uniform_(recorder, a=five)),
    ]
    for a, mode, nonlinearity in [
        (0.0, "fan_in", "leaky_relu"),
        (0.3, "fan_out", "leaky_relu"),
        (0.0, "fan_in", "selu"),
    ]:
        arguments: dict[str, Any] = {"a": a, "mode": mode, "nonlinearity": nonlinearity}
        pairs += [
            (KaimingUniform(**arguments), lambda arguments=arguments: init.kaiming_uniform_(recorder, **arguments)),
            (KaimingNormal(**arguments), lambda arguments=arguments: init.kaiming_normal_(recorder, **arguments)),
        ]
    for ours, theirs in pairs:
        seen.clear()
        theirs()
        ((first, second),) = seen
        # Of the two kinds only a normal one is recorded with a zero first, its mean.
        expected = generator(6).uniform(first, second, shape) if first else generator(6).normal(0.0, second, shape)
        np.testing.assert_allclose(ours(shape, generator(6)), expected, rtol=1e-6)


def test_gain_equals_pytorch() -> None:
    torch = pytest.importorskip("torch")
    for name in (*initializers._GAINS, "leaky_relu"):
        assert calculate_gain(name) == torch.nn.init.calculate_gain(name)
    assert calculate_gain("leaky_relu", 0.2) == torch.nn.init.calculate_gain("leaky_relu", 0.2)


def test_layer_default_equals_pytorch_layers() -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(8, 500, 3, groups=4)  # fan_in 18
    ours = FanInUniform()((500, 2, 3, 3), generator(7))
    bias = FanInUniform()((500,), generator(7), fan_in=18)
    for values, tensor in [(ours, layer.weight), (bias, layer.bias)]:
        theirs = tensor.detach().numpy()
        assert np.abs(values).max() == pytest.approx(np.abs(theirs).max(), rel=0.02)
        assert values.std() == pytest.approx(theirs.std(), rel=0.1)
