"""What holds for every layer, over the table in ``cases.py``."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from layers.cases import CASES, Case, assert_close
from numpy.typing import NDArray

import cnet.layers
from cnet import layout
from cnet.layers import (
    BatchNorm1d,
    BatchNorm2d,
    Conv2d,
    Dropout,
    Flatten,
    Layer,
    LeakyReLU,
    Linear,
    MaxPool2d,
    PReLU,
    Residual,
    Sequential,
    Softmax,
)

Floats = NDArray[np.float32]

each_case = pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
WITH_PARAMETERS = [case for case in CASES if case.new().parameters()]
each_case_with_parameters = pytest.mark.parametrize("case", WITH_PARAMETERS, ids=[c.name for c in WITH_PARAMETERS])
LEAVES = [case for case in CASES if not case.make().children() and "Sequential" not in case.text]
each_leaf = pytest.mark.parametrize("case", LEAVES, ids=[case.name for case in LEAVES])


def public_layers() -> Iterator[type[Layer]]:
    """Every layer class of the package that computes something."""
    for module in pkgutil.iter_modules(cnet.layers.__path__, "cnet.layers."):
        for name, value in vars(importlib.import_module(module.name)).items():
            is_layer = inspect.isclass(value) and issubclass(value, Layer) and not name.startswith("_")
            if is_layer and value._forward is not Layer._forward:
                yield value


def same_bits(a: Any, b: Any) -> bool:
    """Equal in shape and in every bit, whatever the order in memory."""
    a, b = np.asarray(a), np.asarray(b)
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


def gradients(layer: Layer) -> dict[str, Floats]:
    return {name: parameter.grad.copy() for name, parameter in layer.named_parameters()}


def run(layer: Layer, x: Any, dy: Any) -> tuple[Floats, Floats, dict[str, Floats]]:
    """Output, input gradient and parameter gradients of one pass, starting from gradients of zero."""
    layer.zero_grad()
    y = layer.forward(x).copy()
    dx = layer.backward(dy)
    assert dx is not None
    return y, dx.copy(), gradients(layer)


def assert_same_pass(one: tuple[Any, Any, Any], other: tuple[Any, Any, Any], what: str) -> None:
    assert same_bits(one[0], other[0]), f"{what}: the output differs"
    assert same_bits(one[1], other[1]), f"{what}: the input gradient differs"
    assert one[2].keys() == other[2].keys()
    for name in one[2]:
        assert same_bits(one[2][name], other[2][name]), f"{what}: the gradient of {name} differs"


@pytest.fixture(autouse=True)
def poisoned_pool() -> None:
    """Fill memory that waits to be used again with NaN, so that an output not written to shows."""
    arrays = [layout.empty((size,)) for size in range(128, 4096, 32) for _ in range(4)]
    for array in arrays:
        array.fill(np.nan)


# ---- the table


def test_table_has_a_row_for_every_layer() -> None:
    rows = {type(part) for case in CASES for _, part in case.make().named_layers()}
    missing = {layer.__name__ for layer in public_layers()} - {layer.__name__ for layer in rows}
    assert not missing, f"add rows for {sorted(missing)} to tests/layers/cases.py"


def test_public_layers_are_exported() -> None:
    missing = {layer.__name__ for layer in public_layers()} - set(cnet.layers.__all__)
    assert not missing, f"export {sorted(missing)} from cnet.layers"


def test_names_of_the_table_are_unique() -> None:
    assert len({case.name for case in CASES}) == len(CASES)


# ---- what is computed


@each_case
def test_forward_matches_oracle(case: Case, isa: str) -> None:
    layer = case.new()
    y = layer.forward(case.x)
    assert type(y) is np.ndarray and y.dtype == np.float32
    assert_close(y, case.reference(case.x, layer), "output")


@each_case
def test_output_shape_is_that_of_the_output(case: Case) -> None:
    expected = case.reference(case.x, case.new()).shape[1:]
    assert case.make().output_shape(case.shape[1:]) == expected
    layer = case.make()
    assert layer.forward(case.x).shape[1:] == expected
    assert layer.output_shape(case.shape[1:]) == expected


@each_case
def test_backward_matches_differences_of_the_oracle(case: Case, isa: str) -> None:
    layer = case.new()
    layer.forward(case.x)
    dx = layer.backward(case.dy)
    expected_dx, expected = case.gradients
    assert type(dx) is np.ndarray and dx.dtype == np.float32
    assert_close(dx, expected_dx, "input gradient")
    assert gradients(layer).keys() == expected.keys()
    for name, gradient in gradients(layer).items():
        assert_close(gradient, expected[name], f"gradient of {name}")


@pytest.mark.parametrize("case", [case for case in CASES if not case.mixes], ids=lambda case: case.name)
@pytest.mark.parametrize("samples", [1, 2, 7])
def test_samples_do_not_mix(case: Case, samples: int) -> None:
    """Each sample of a batch gets the output it gets alone."""
    x = np.resize(case.x, (samples, *case.shape[1:]))
    layer = case.new()
    together = layer.forward(x)
    assert together.shape[0] == samples
    for index in range(samples):
        assert_close(together[index : index + 1], layer.forward(x[index : index + 1]), f"sample {index}")


@each_case
def test_eval_matches_oracle(case: Case) -> None:
    layer = case.new().eval()
    y = layer.forward(case.x)
    assert_close(y, case.reference(case.x, layer), "output in evaluation")
    if case.eval_oracle is None:
        assert same_bits(y, case.new().forward(case.x))


@each_case
def test_flops_are_counted(case: Case) -> None:
    flops = case.new().flops(case.shape[1:])
    assert type(flops) is int and flops >= 0
    if WITH_PARAMETERS.count(case):
        assert flops > 0


# ---- the contract of backward


@each_case_with_parameters
def test_gradients_accumulate(case: Case) -> None:
    layer = case.new()
    start = {name: np.full(p.data.shape, 0.5) for name, p in layer.named_parameters()}
    for name, parameter in layer.named_parameters():
        parameter.grad[...] = start[name]
    for _ in range(2):
        layer.forward(case.x)
        layer.backward(case.dy)
    for name, gradient in gradients(layer).items():
        assert_close(gradient, start[name] + 2 * case.gradients[1][name], f"gradient of {name}")


@each_case_with_parameters
def test_zero_grad_starts_anew(case: Case) -> None:
    layer = case.new()
    first = run(layer, case.x, case.dy)
    layer.zero_grad()
    assert all(not gradient.any() for gradient in gradients(layer).values())
    assert_same_pass(run(layer, case.x, case.dy), first, "after zero_grad")


@each_case
def test_without_input_grad_returns_none_and_the_same_parameter_gradients(case: Case) -> None:
    layer, other = case.new(), case.new()
    _, _, expected = run(layer, case.x, case.dy)
    other.forward(case.x)
    assert other.backward(case.dy, input_grad=False) is None
    for name, gradient in gradients(other).items():
        assert same_bits(gradient, expected[name]), name


@each_case
def test_backward_before_forward_is_refused(case: Case) -> None:
    layer = case.new()
    with pytest.raises(RuntimeError, match=rf"^{type(layer).__name__}: backward comes before forward"):
        layer.backward(case.dy)


@each_case
@pytest.mark.parametrize("input_grad", [True, False])
def test_second_backward_is_refused(case: Case, input_grad: bool) -> None:
    layer = case.new()
    layer.forward(case.x)
    layer.backward(case.dy, input_grad=input_grad)
    before = gradients(layer)
    with pytest.raises(RuntimeError, match=rf"^{type(layer).__name__}: backward comes a second time"):
        layer.backward(case.dy)
    assert all(same_bits(gradient, before[name]) for name, gradient in gradients(layer).items())


@each_case
def test_eval_keeps_nothing(case: Case) -> None:
    layer = case.new()
    layer.forward(case.x)
    layer.eval()
    layer.forward(case.x)
    for _, part in layer.named_layers():
        with pytest.raises(RuntimeError, match="evaluation mode, which keeps nothing"):
            part.backward(case.dy)
    layer.train()
    layer.forward(case.x)
    assert layer.backward(case.dy) is not None


@each_case
def test_dy_of_another_shape_is_refused_and_may_be_corrected(case: Case) -> None:
    layer = case.new()
    expected = run(case.new(), case.x, case.dy)
    y = layer.forward(case.x)
    for wrong in (case.dy[None], case.dy[:0], np.repeat(case.dy, 2, axis=0), case.dy.ravel()[0], np.ones((1, 2, 3))):
        with pytest.raises(ValueError, match=rf"^{type(layer).__name__}: dy has shape .*, expected that of the output"):
            layer.backward(wrong)
    with pytest.raises(TypeError, match=rf"^{type(layer).__name__}: dy "):
        layer.backward(case.dy.astype(complex))
    assert not any(gradient.any() for gradient in gradients(layer).values())
    assert_same_pass((y, layer.backward(case.dy), gradients(layer)), expected, "after wrong gradients")


@each_case
def test_forward_without_backward_changes_no_gradient(case: Case) -> None:
    layer = case.new()
    expected = run(case.new(), case.x, case.dy)
    layer.forward(case.x * 3)
    layer.forward(case.x[:2])
    assert_same_pass(run(layer, case.x, case.dy), expected, "after forward passes without backward")


# ---- what may be passed


def whole_numbers(shape: tuple[int, ...]) -> Floats:
    """Values from 0 to 9, which every real dtype can hold."""
    return np.random.default_rng(3).integers(0, 10, shape).astype(np.float32)


def channels_last(x: Floats) -> Floats:
    return np.ascontiguousarray(np.moveaxis(x, 1, -1)).transpose(0, x.ndim - 1, *range(1, x.ndim - 1))


def reversed_view(x: Floats) -> Floats:
    if x.ndim == 0:
        return x
    every = tuple(slice(None, None, -1) for _ in x.shape)
    return np.ascontiguousarray(x[every])[every]


def gapped(x: Floats) -> Floats:
    wide = np.full(tuple(2 * size for size in x.shape), np.nan, np.float32)
    view = wide[tuple(slice(1, None, 2) for _ in x.shape)]
    view[...] = x
    return view


def misaligned(x: Floats) -> Floats:
    buffer = np.zeros(x.nbytes + 1, np.uint8)
    view = buffer[1:].view(np.float32).reshape(x.shape)
    view[...] = x
    return view


def broadcast(x: Floats) -> Floats:
    """Strides of zero: every sample is the first."""
    return np.broadcast_to(x[:1], x.shape)


FORMS: dict[str, Callable[[Floats], Any]] = {
    **{
        name: lambda x, name=name: x.astype(name)
        for name in ("uint8", "int8", "int16", "int64", "uint64", "float16", "float64", "longdouble", ">f4", ">i2")
    },
    "list": lambda x: x.tolist(),
    "list of integers": lambda x: x.astype(int).tolist(),
    "tuple of arrays": lambda x: tuple(x),
    "memoryview": lambda x: memoryview(np.ascontiguousarray(x)),
    "Fortran order": np.asfortranarray,
    "channels last": lambda x: channels_last(x) if x.ndim > 1 else x,
    "channels first": np.ascontiguousarray,
    "reversed": reversed_view,
    "gapped": gapped,
    "misaligned": misaligned,
    "subclass": lambda x: x.view(type("Subclass", (np.ndarray,), {})),
}


@each_case
def test_form_of_the_input_does_not_matter(case: Case) -> None:
    layer, x = case.new(), whole_numbers(case.shape)
    expected = run(layer, x, case.dy)
    for name, form in FORMS.items():
        given = form(x)
        assert same_bits(np.asarray(given, np.float32), x)
        assert_same_pass(run(layer, given, case.dy), expected, name)


@each_case
def test_form_of_the_output_gradient_does_not_matter(case: Case) -> None:
    layer, dy = case.new(), whole_numbers(case.dy.shape)
    expected = run(layer, case.x, dy)
    for name, form in FORMS.items():
        assert_same_pass(run(layer, case.x, form(dy)), expected, name)


@each_case
def test_broadcast_inputs_are_accepted(case: Case) -> None:
    layer = case.new()
    x, dy = broadcast(case.x), broadcast(case.dy)
    expected = run(layer, np.ascontiguousarray(x), np.ascontiguousarray(dy))
    assert_same_pass(run(layer, x, dy), expected, "broadcast")


@each_case
@pytest.mark.parametrize("order", [np.ascontiguousarray, channels_last], ids=["channels-first", "channels-last"])
def test_inputs_are_only_read(case: Case, order: Callable[[Floats], Floats]) -> None:
    layer = case.new()
    x, dy = (order(array) if array.ndim > 1 else array.copy() for array in (case.x, case.dy))
    x.flags.writeable = dy.flags.writeable = False
    expected = run(case.new(), case.x, case.dy)
    assert_same_pass(run(layer, x, dy), expected, "read-only")
    assert same_bits(x, case.x) and same_bits(dy, case.dy)


@each_case
def test_bool_is_zero_and_one(case: Case) -> None:
    layer, x = case.new(), whole_numbers(case.shape) > 4
    assert same_bits(layer.forward(x).copy(), layer.forward(x.astype(np.float32)))


@each_case
def test_images_have_channels_last_in_memory(case: Case) -> None:
    layer = case.new()
    y, dx = layer.forward(channels_last(case.x) if case.x.ndim == 4 else case.x), layer.backward(case.dy)
    for array in (y, dx):
        if array is not None and array.ndim == 4 and layer.children() != {}:
            assert array.transpose(0, 2, 3, 1).flags.c_contiguous


# ---- what may not

REFUSED: dict[str, tuple[Any, type[Exception], str]] = {
    "complex": (lambda x: x.astype(complex), TypeError, "x has dtype complex128, expected real numbers"),
    "object": (lambda x: x.astype(object), TypeError, "x has dtype object, expected real numbers"),
    "string": (lambda x: x.astype(str), TypeError, "x has dtype <U32, expected real numbers"),
    "date": (lambda x: x.astype("datetime64[s]"), TypeError, r"x has dtype datetime64\[s\], expected real numbers"),
    "none": (lambda x: None, TypeError, "x is a NoneType, expected an array of real numbers"),
    "dict": (lambda x: {}, TypeError, "x is a dict, expected an array of real numbers"),
    "word": (lambda x: "one", TypeError, "x has dtype <U3, expected real numbers"),
    "ragged": (lambda x: [[1.0], [1.0, 2.0]], TypeError, "x is a ragged sequence, expected a rectangular array"),
    "empty batch": (lambda x: x[:0], ValueError, r"x has shape \(0,.*\), expected at least one element"),
    "number": (lambda x: 1.0, ValueError, r"x has shape \(\), expected a batch"),
    "array without axes": (lambda x: np.array(x.flat[0]), ValueError, r"x has shape \(\), expected a batch"),
}


@each_case
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_batch_of_numbers_is_refused(case: Case, name: str) -> None:
    spoil, error, message = REFUSED[name]
    layer = case.new()
    with pytest.raises(error, match=rf"^{type(layer).__name__}: {message}"):
        layer.forward(spoil(case.x))
    expected = run(case.new(), case.x, case.dy)
    run(layer, case.x, case.dy)
    with pytest.raises(error, match=rf"^{type(layer).__name__}: {message}"):
        layer.forward(spoil(case.x))
    assert_same_pass(run(layer, case.x, case.dy), expected, f"after {name}")


def images(*shape: int) -> Floats:
    return np.ones(shape, np.float32)


WRONG_SHAPES: list[tuple[Callable[[], Layer], tuple[int, ...], str]] = [
    (lambda: Linear(5, 3), (4, 6), r"Linear: x has shape \(N, 6\), expected \(N, 5\). Set in_features=6 or reshape x."),
    (lambda: Linear(5, 3), (4, 1, 5), r"Linear: x has shape \(N, 1, 5\), expected \(N, 5\). Put a Flatten before it."),
    (lambda: Linear(5, 3), (5,), r"Linear: x has shape \(N,\), expected \(N, 5\)"),
    (lambda: Linear(None, 3), (2, 3, 4), r"Linear: x has shape \(N, 3, 4\), expected \(N, features\)"),
    (lambda: Linear(None, 3), (2, 0), "Linear: input_shape is 0, expected an integer >= 1"),
    (lambda: Conv2d(3, 8, 3), (2, 4, 9, 9), r"Conv2d: x has shape \(N, 4, 9, 9\), expected \(N, 3, H, W\). Set in_ch"),
    (lambda: Conv2d(3, 8, 3), (3, 9, 9), r"Conv2d: x has shape \(N, 9, 9\), expected \(N, 3, H, W\). Reshape x"),
    (lambda: Conv2d(None, 8, 3), (3, 9), r"Conv2d: x has shape \(N, 9\), expected \(N, C, H, W\). Reshape x"),
    (
        lambda: Conv2d(3, 8, 3),
        (2, 3, 2, 9),
        r"Conv2d: x has shape \(N, 3, 2, 9\), expected images no smaller.*\(3, 3\)",
    ),
    (lambda: Conv2d(3, 8, 3), (2, 3, 9, 2), r"Conv2d: .* expected images no smaller, after padding \(0, 0\), than"),
    (
        lambda: Conv2d(1, 1, 3, padding=(0, 1), dilation=(1, 3)),
        (1, 1, 9, 4),
        r"Conv2d: x has shape \(N, 1, 9, 4\), expected images .* after padding \(0, 1\), than the window \(3, 7\)",
    ),
    (lambda: Conv2d(None, 4, 3, groups=2), (1, 3, 5, 5), "Conv2d: in_channels is 3, expected a multiple of groups=2"),
    (lambda: Conv2d(1, 1, 1), (2, 1, 0, 5), "Conv2d: "),
    (lambda: MaxPool2d(2), (2, 3, 4), r"MaxPool2d: x has shape \(N, 3, 4\), expected \(N, C, H, W\). Reshape x"),
    (
        lambda: MaxPool2d(3),
        (2, 3, 2, 4),
        r"MaxPool2d: x has shape \(N, 3, 2, 4\), expected images no smaller.*\(3, 3\)",
    ),
    (lambda: MaxPool2d(2, dilation=4), (2, 3, 4, 5), "MaxPool2d: .* expected images no smaller"),
    (lambda: PReLU(3), (2, 4), r"PReLU: x has shape \(N, 4\), expected \(N, 3\) or \(N, 3, H, W\). Set num_param.*=4"),
    (lambda: PReLU(3), (2, 4, 3, 3), r"PReLU: x has shape \(N, 4, 3, 3\), expected \(N, 3\) or \(N, 3, H, W\)"),
    (lambda: PReLU(3), (2, 3, 3), r"PReLU: x has shape \(N, 3, 3\), expected"),
    (Softmax, (2, 3, 4, 5), r"Softmax: x has shape \(N, 3, 4, 5\), expected \(N, classes\). Put a Flatten before it."),
    (Softmax, (3,), r"Softmax: x has shape \(N,\), expected \(N, classes\)"),
    (Flatten, (3,), r"Flatten: x has shape \(N,\), expected "),
    (lambda: BatchNorm1d(3), (2, 4), r"BatchNorm1d: x has shape \(N, 4\), expected \(N, 3\). Set num_features=4."),
    (lambda: BatchNorm1d(3), (2, 3, 5, 5), r"BatchNorm1d: x has shape \(N, 3, 5, 5\), expected \(N, 3\)"),
    (lambda: BatchNorm2d(3), (2, 3), r"BatchNorm2d: x has shape \(N, 3\), expected \(N, 3, H, W\)"),
    (lambda: BatchNorm2d(3), (2, 2, 5, 5), r"BatchNorm2d: x has shape \(N, 2, 5, 5\), expected \(N, 3, H, W\)"),
    (lambda: Sequential(Flatten(), Linear(5, 3)), (2, 2, 3), r"Linear: x has shape \(N, 6\), expected \(N, 5\)"),
    (
        lambda: Sequential(Conv2d(1, 2, 3), Conv2d(3, 2, 3)),
        (1, 1, 9, 9),
        r"Conv2d: x has shape \(N, 2, 7, 7\), expected",
    ),
    (lambda: Residual(Linear(5, 3)), (2, 5), r"Residual: the body's output has shape \(3,\), expected .*\(5,\)"),
    (
        lambda: Residual(Conv2d(2, 4, 3), Conv2d(2, 4, 1)),
        (1, 2, 5, 5),
        r"Residual: the body's output has shape \(4, 3, 3\), expected that of the shortcut, \(4, 5, 5\)",
    ),
]


@pytest.mark.parametrize(("make", "shape", "message"), WRONG_SHAPES, ids=[str(row[1]) for row in WRONG_SHAPES])
def test_wrong_shape_is_refused_by_name(make: Callable[[], Layer], shape: tuple[int, ...], message: str) -> None:
    layer = make()
    before = [(parameter.shape, parameter.arena) for parameter in layer.parameters()]
    with pytest.raises(ValueError, match=f"^{message}"):
        layer.forward(images(*shape))
    assert [(parameter.shape, parameter.arena) for parameter in layer.parameters()] == before


@pytest.mark.parametrize(("layer", "shape"), [(BatchNorm1d(3), (1, 3)), (BatchNorm2d(3), (1, 3, 1, 1))], ids=repr)
def test_batch_norm_of_one_value_is_refused_in_training_only(layer: Layer, shape: tuple[int, ...]) -> None:
    before = layer.state_dict()
    with pytest.raises(ValueError, match=f"^{type(layer).__name__}: one value for each channel.*Use a larger batch"):
        layer.forward(images(*shape))
    assert all(same_bits(value, before[name]) for name, value in layer.state_dict().items())
    assert layer.eval().forward(images(*shape)).shape == shape


@pytest.mark.parametrize("momentum", [0.25, None])
def test_batch_norm_tracks_mean_and_unbiased_variance(momentum: float | None) -> None:
    layer = BatchNorm2d(3, momentum=momentum)
    mean, variance = np.zeros(3), np.ones(3)
    for number in range(1, 4):
        x = np.random.default_rng(number).normal(number, number, (4, 3, 2, 5))
        layer.forward(x)
        share = 1 / number if momentum is None else momentum
        mean += share * (x.mean(axis=(0, 2, 3)) - mean)
        variance += share * (x.var(axis=(0, 2, 3), ddof=1) - variance)
        assert_close(layer.running_mean, mean, "running mean")
        assert_close(layer.running_var, variance, "running variance")
        assert layer.num_batches_tracked == number
    before = layer.state_dict()
    layer.eval().forward(x)
    assert all(same_bits(value, before[name]) for name, value in layer.state_dict().items())


NONSENSE: list[tuple[Callable[[], Layer], type[Exception], str]] = [
    (lambda: Linear(0, 3), ValueError, "Linear: in_features is 0, expected an integer >= 1"),
    (lambda: Linear(3, -1), ValueError, "Linear: out_features is -1, expected an integer >= 1"),
    (lambda: Linear(3, None), TypeError, "Linear: out_features is None, expected an integer >= 1"),  # type: ignore[arg-type]
    (lambda: Linear(3.0, 2), TypeError, "Linear: in_features is 3.0, expected an integer"),  # type: ignore[arg-type]
    (lambda: Linear(True, 2), TypeError, "Linear: in_features is True, expected an integer"),
    (lambda: Linear(3, 2, bias=1), TypeError, "Linear: bias is 1, expected True or False"),  # type: ignore[arg-type]
    (lambda: Linear(3, 2, init="kaiming_norml"), ValueError, "'kaiming_norml'.*Did you mean 'kaiming_normal'"),
    (lambda: Conv2d(0, 1, 1), ValueError, "Conv2d: in_channels is 0, expected an integer >= 1"),
    (lambda: Conv2d(1, 0, 1), ValueError, "Conv2d: out_channels is 0, expected an integer >= 1"),
    (lambda: Conv2d(1, 1, 0), ValueError, "Conv2d: kernel_size is 0, expected an integer >= 1"),
    (lambda: Conv2d(1, 1, (3, 0)), ValueError, r"Conv2d: kernel_size\[1\] is 0, expected an integer >= 1"),
    (lambda: Conv2d(1, 1, (3, 3, 3)), ValueError, r"Conv2d: kernel_size is \(3, 3, 3\), expected an integer or a pair"),  # type: ignore[arg-type]
    (lambda: Conv2d(1, 1, "3"), TypeError, "Conv2d: kernel_size is '3', expected an integer"),  # type: ignore[arg-type]
    (lambda: Conv2d(1, 1, 1.5), TypeError, "Conv2d: kernel_size is 1.5, expected an integer"),  # type: ignore[arg-type]
    (lambda: Conv2d(1, 1, 1, stride=0), ValueError, "Conv2d: stride is 0, expected an integer >= 1"),
    (lambda: Conv2d(1, 1, 1, padding=-1), ValueError, "Conv2d: padding is -1, expected an integer >= 0"),
    (lambda: Conv2d(1, 1, 1, padding="sme"), ValueError, "Conv2d: padding is 'sme', .*Did you mean 'same'"),
    (lambda: Conv2d(1, 1, 1, padding=None), TypeError, "Conv2d: padding is None, expected an integer"),  # type: ignore[arg-type]
    (lambda: Conv2d(1, 1, 3, stride=2, padding="same"), ValueError, r"Conv2d: padding is 'same' with stride \(2, 2\)"),
    (lambda: Conv2d(1, 1, 1, dilation=0), ValueError, "Conv2d: dilation is 0, expected an integer >= 1"),
    (lambda: Conv2d(1, 1, 1, groups=0), ValueError, "Conv2d: groups is 0, expected an integer >= 1"),
    (lambda: Conv2d(3, 4, 1, groups=2), ValueError, "Conv2d: in_channels is 3, expected a multiple of groups=2"),
    (lambda: Conv2d(4, 3, 1, groups=2), ValueError, "Conv2d: out_channels is 3, expected a multiple of groups=2"),
    (lambda: Conv2d(None, 3, 1, groups=2), ValueError, "Conv2d: out_channels is 3, expected a multiple of groups=2"),
    (lambda: Conv2d(1, 1, 1, bias=None), TypeError, "Conv2d: bias is None, expected True or False"),  # type: ignore[arg-type]
    (lambda: MaxPool2d(0), ValueError, "MaxPool2d: kernel_size is 0, expected an integer >= 1"),
    (lambda: MaxPool2d(2, stride=0), ValueError, "MaxPool2d: stride is 0, expected an integer >= 1"),
    (lambda: MaxPool2d(2, padding=2), ValueError, r"MaxPool2d: the vertical padding is 2, expected .* in \[0, 1\]"),
    (lambda: MaxPool2d((4, 3), padding=(1, 2)), ValueError, r"MaxPool2d: the horizontal padding is 2, .* in \[0, 1\]"),
    (lambda: MaxPool2d(2, padding=-1), ValueError, "MaxPool2d: padding is -1, expected an integer >= 0"),
    (lambda: MaxPool2d(2, dilation=0), ValueError, "MaxPool2d: dilation is 0, expected an integer >= 1"),
    (lambda: MaxPool2d(2, ceil_mode=1), TypeError, "MaxPool2d: ceil_mode is 1, expected True or False"),  # type: ignore[arg-type]
    (lambda: MaxPool2d((257, 256)), ValueError, "MaxPool2d: the number of taps is 65792, expected"),
    (lambda: LeakyReLU(float("nan")), ValueError, "LeakyReLU: negative_slope is nan, expected a finite number"),
    (lambda: LeakyReLU("0.1"), TypeError, "LeakyReLU: negative_slope is '0.1', expected a finite number"),  # type: ignore[arg-type]
    (lambda: PReLU(0), ValueError, "PReLU: num_parameters is 0, expected an integer >= 1"),
    (lambda: PReLU(init=float("inf")), ValueError, "PReLU: init is inf, expected a finite number"),
    (lambda: BatchNorm1d(0), ValueError, "BatchNorm1d: num_features is 0, expected an integer >= 1"),
    (lambda: BatchNorm2d(None), TypeError, "BatchNorm2d: num_features is None, expected an integer >= 1"),  # type: ignore[arg-type]
    (lambda: BatchNorm1d(1, eps=-1), ValueError, "BatchNorm1d: eps is -1, expected a finite number >= 0"),
    (lambda: BatchNorm1d(1, momentum=1.5), ValueError, r"BatchNorm1d: momentum is 1.5, expected .* in \[0, 1\]"),
    (lambda: BatchNorm2d(1, affine=1), TypeError, "BatchNorm2d: affine is 1, expected True or False"),  # type: ignore[arg-type]
    (lambda: Dropout(-0.1), ValueError, r"Dropout: p is -0.1, expected a finite number in \[0, 1\]"),
    (lambda: Dropout(1.1), ValueError, r"Dropout: p is 1.1, expected a finite number in \[0, 1\]"),
    (lambda: Dropout(float("nan")), ValueError, r"Dropout: p is nan, expected a finite number in \[0, 1\]"),
    (lambda: Dropout(True), TypeError, "Dropout: p is True, expected a finite number"),
    (lambda: Dropout(None), TypeError, "Dropout: p is None, expected a finite number"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(
    ("make", "error", "message"), NONSENSE, ids=[re.sub(r",? expected.*|\\\\", "", row[2]) for row in NONSENSE]
)
def test_nonsense_arguments_are_refused_by_name(
    make: Callable[[], Layer], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make()


@each_case
def test_build_refuses_what_is_no_shape(case: Case) -> None:
    layer = case.make()
    subject = type(layer).__name__
    with pytest.raises(TypeError, match=f"^{subject}: input_shape is 28, expected a tuple of integers"):
        layer.build(28)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=f"^{subject}: input_shape is 1.5, expected an integer"):
        layer.build((1.5,))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=f"^{subject}: input_shape is -1, expected an integer >= 1"):
        layer.build((-1, 3))


# ---- how it shows and is saved


@each_case
def test_repr_shows_the_class_and_its_arguments(case: Case) -> None:
    assert repr(case.new()) == case.text


@each_leaf
def test_repr_is_a_constructor_call(case: Case) -> None:
    layer = case.new()
    again = eval(repr(layer), dict(vars(cnet.layers)))
    assert type(again) is type(layer) and repr(again) == case.text


@each_case
def test_state_dict_holds_copies_by_the_names_of_the_parameters(case: Case) -> None:
    layer = case.new()
    state = layer.state_dict()
    parameters = dict(layer.named_parameters())
    assert list(state) == [*parameters, *dict(layer.named_buffers())]
    for name, parameter in parameters.items():
        assert type(state[name]) is np.ndarray and state[name].flags.c_contiguous and state[name].flags.writeable
        assert same_bits(state[name], parameter.data)
        assert not np.shares_memory(state[name], parameter.data)


@each_case
def test_state_dict_round_trip(case: Case) -> None:
    saved, layer = case.new(), case.make().build(case.shape[1:])
    expected = run(saved, case.x, case.dy)
    layer.load_state_dict(saved.state_dict())
    assert all(same_bits(value, saved.state_dict()[name]) for name, value in layer.state_dict().items())
    assert_same_pass(run(layer, case.x, case.dy), expected, "after loading")


@each_case_with_parameters
def test_state_may_be_any_real_arrays(case: Case) -> None:
    saved = case.new().state_dict()
    for form in (
        lambda value: np.array(value, order="F"),
        np.ndarray.tolist,
        lambda value: value.astype(np.float64),
        reversed_view,
    ):
        layer = case.make().build(case.shape[1:])
        layer.load_state_dict({name: form(value) for name, value in saved.items()})
        assert all(same_bits(value, saved[name]) for name, value in layer.state_dict().items())


@each_case_with_parameters
def test_load_errors_change_nothing(case: Case) -> None:
    layer = case.new()
    good = {name: value + 1 for name, value in layer.state_dict().items()}
    last = list(dict(layer.named_parameters()))[-1]
    before, subject = layer.state_dict(), type(layer).__name__
    spoilt: list[tuple[dict[str, Any], type[Exception], str]] = [
        (
            {name: value for name, value in good.items() if name != last},
            KeyError,
            rf"missing \['{last}'\], unknown \[\]",
        ),
        ({**good, "stranger": np.ones(1)}, KeyError, r"missing \[\], unknown \['stranger'\]"),
        ({**good, last: good[last][None]}, ValueError, rf"{last} has shape \(1, .*\), expected \("),
        ({**good, last: np.float32(1)}, ValueError, rf"{last} has shape \(\), expected \("),
        ({**good, last: good[last].astype(complex)}, TypeError, f"{last} has dtype complex128"),
        ({**good, last: good[last].astype(str)}, TypeError, f"{last} has dtype <U32"),
        ({**good, last: None}, TypeError, f"{last} is a NoneType"),
    ]
    for state, error, message in spoilt:
        with pytest.raises(error, match=f"{subject}.*: {message}"):
            layer.load_state_dict(state)
        assert all(same_bits(value, before[name]) for name, value in layer.state_dict().items())


@each_case_with_parameters
def test_load_of_some_names(case: Case) -> None:
    layer = case.new()
    before, name = layer.state_dict(), next(iter(layer.state_dict()))
    layer.load_state_dict({name: before[name] + 1, "stranger": "anything"}, strict=False)
    after = layer.state_dict()
    assert same_bits(after[name], before[name] + 1)
    assert all(same_bits(after[other], before[other]) for other in after if other != name)


@each_case
def test_count_parameters_is_their_number(case: Case) -> None:
    layer = case.new()
    assert layer.count_parameters() == sum(layer.state_dict()[name].size for name, _ in layer.named_parameters())


@each_case
def test_train_and_eval_return_the_layer_and_reach_all_inside(case: Case) -> None:
    layer = case.new()
    assert layer.training
    assert layer.eval() is layer and not any(part.training for _, part in layer.named_layers())
    assert layer.train() is layer and all(part.training for _, part in layer.named_layers())
    with pytest.raises(TypeError, match=f"^{type(layer).__name__}: mode is 0, expected True or False"):
        layer.train(0)  # type: ignore[arg-type]
    assert all(part.training for _, part in layer.named_layers())
