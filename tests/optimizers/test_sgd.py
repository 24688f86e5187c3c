"""SGD: sequences worked by hand, closed forms on a quadratic, its options, and PyTorch."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import cnet
from cnet.optimizers import SGD
from cnet.parameter import Parameter

Array = NDArray[np.float32]


def run(gradients: list[float], start: float = 1.0, **options: Any) -> list[float]:
    """The value after each step of one number."""
    weight, values = Parameter([start]), []
    optimizer = SGD([weight], **options)
    for gradient in gradients:
        weight.grad[...] = gradient
        optimizer.step()
        values.append(float(weight.data[0]))
    return values


# All numbers are sums of powers of two, so the expected values are exact.
WORKED: list[tuple[dict[str, Any], list[float], list[float]]] = [
    ({"lr": 0.5}, [1, -1, 2], [0.5, 1.0, 0.0]),
    ({"lr": 0.0}, [1, 5], [1.0, 1.0]),
    # g = 2 + theta / 2 at each step.
    ({"lr": 0.5, "weight_decay": 0.5}, [2, 2], [-0.25, -1.1875]),
    # b = 1, 1/2 + 1, 3/4 + 1
    ({"lr": 1.0, "momentum": 0.5}, [1, 1, 1], [0.0, -1.5, -3.25]),
    # b = 1, 1/2 + 1/4, 3/8 + 1/4: the first step is not damped.
    ({"lr": 1.0, "momentum": 0.5, "dampening": 0.75}, [1, 1, 1], [0.0, -0.75, -1.375]),
    # steps g + b / 2 = 3/2, 7/4, 15/8
    ({"lr": 1.0, "momentum": 0.5, "nesterov": True}, [1, 1, 1], [-0.5, -2.25, -4.125]),
    ({"lr": 0.5, "maximize": True}, [1, 2], [1.5, 2.5]),
    # g = -1 + theta / 4 = -3/4; -1 + 11/8 / 4 = -21/32
    ({"lr": 0.5, "maximize": True, "weight_decay": 0.25}, [1, 1], [1.375, 1.703125]),
    # g = 1 + 1 = 2, b = 2, step 3; then theta = -2, g = -1, b = 0, step -1
    ({"lr": 1.0, "momentum": 0.5, "nesterov": True, "weight_decay": 1.0}, [1, 1], [-2.0, -1.0]),
]


@pytest.mark.parametrize(("options", "gradients", "expected"), WORKED, ids=[str(row[0]) for row in WORKED])
def test_worked_sequence(isa: str, options: dict[str, Any], gradients: list[float], expected: list[float]) -> None:
    assert run(gradients, **options) == expected


def test_plain_descent_on_a_quadratic_shrinks_geometrically(isa: str) -> None:
    """The gradient of ``a / 2 x^2`` is ``a x``, so ``x`` is multiplied by ``1 - lr a`` at each step."""
    curvature = np.float32([0.5, 1.0, 1.9, 2.5])
    weight = Parameter([1.0, -2.0, 3.0, 0.5])
    optimizer = SGD([weight], lr=0.8)
    start = weight.data.astype(np.float64)
    for step in range(1, 41):
        weight.grad[...] = curvature * weight.data
        optimizer.step()
        np.testing.assert_allclose(weight.data, start * (1 - 0.8 * curvature.astype(float)) ** step, rtol=1e-5)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_momentum_on_a_quadratic_follows_its_recurrence(isa: str, nesterov: bool, decay: float) -> None:
    """``(x, b)`` is multiplied by a constant matrix, whose powers are taken through its eigenvalues."""
    lr, momentum, curvature = 0.1, 0.9, 1.5
    slope = curvature + decay
    # b' = momentum b + slope x;  x' = x - lr b', or x - lr (slope x + momentum b').
    to_b = np.array([slope, momentum])
    to_x = np.array([1, 0]) - lr * (np.array([slope, 0]) + momentum * to_b if nesterov else to_b)
    eigenvalues, vectors = np.linalg.eig(np.array([to_x, to_b]))
    coefficients = np.linalg.solve(vectors, np.array([2.0, 0.0]))
    weight = Parameter([2.0])
    optimizer = SGD([weight], lr, momentum, weight_decay=decay, nesterov=nesterov)
    for step in range(1, 61):
        weight.grad[...] = np.float32(curvature) * weight.data
        optimizer.step()
        expected = (vectors[0] * eigenvalues**step * coefficients).sum().real
        assert float(weight.data[0]) == pytest.approx(expected, abs=1e-5)


def test_change_of_learning_rate_acts_on_the_whole_buffer(isa: str) -> None:
    weight = Parameter([0.0])
    optimizer = SGD([weight], lr=1.0, momentum=0.5)
    weight.grad[...] = 1
    optimizer.step()
    optimizer.param_groups[0]["lr"] = 0.25
    optimizer.step()
    assert weight.data.tolist() == [-1.375]


def test_every_size_is_stepped_alike(isa: str) -> None:
    for size in (1, 2, 7, 8, 15, 16, 17, 31, 33, 100, 5000):
        generator = np.random.default_rng(size)
        start, gradient = (generator.standard_normal(size).astype(np.float32) for _ in range(2))
        together, apart = Parameter(start), [Parameter(start[i : i + 1]) for i in range(min(size, 40))]
        options: dict[str, Any] = {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}
        one, other = SGD([together], **options), SGD(apart, **options)
        for _ in range(3):
            together.grad[...] = gradient
            one.step()
            for index, parameter in enumerate(apart):
                parameter.grad[...] = gradient[index]
            other.step()
        assert together.data[: len(apart)].tolist() == [float(parameter.data[0]) for parameter in apart]


def test_step_gives_the_same_bits_on_any_number_of_threads(isa: str) -> None:
    before, results = cnet.get_num_threads(), set()
    try:
        for threads in (1, 2, 3):
            cnet.set_num_threads(threads)
            generator = np.random.default_rng(1)
            weight = Parameter(generator.standard_normal(400_003))
            optimizer = SGD([weight], 0.1, 0.9, nesterov=True, weight_decay=0.01)
            for _ in range(3):
                weight.grad[...] = generator.standard_normal(weight.size)
                optimizer.step()
            results.add(weight.data.tobytes())
    finally:
        cnet.set_num_threads(before)
    assert len(results) == 1


def test_step_reads_the_gradient_only() -> None:
    weight = Parameter([1.0, 2.0])
    weight.grad[...] = [3, 4]
    optimizer = SGD([weight], 0.1, 0.9, nesterov=True, weight_decay=0.1, maximize=True)
    optimizer.step()
    optimizer.step()
    assert weight.grad.tolist() == [3, 4]


def test_nan_and_infinity_are_not_hidden(isa: str) -> None:
    weight = Parameter([1.0, 1.0, 1.0])
    weight.grad[...] = [np.nan, np.inf, 0]
    SGD([weight], lr=0.5).step()
    assert np.isfinite(weight.data).tolist() == [False, False, True] and weight.data[2] == 1


NONSENSE: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"lr": -0.1}, ValueError, "lr is -0.1, expected a finite number >= 0"),
    ({"lr": float("nan")}, ValueError, "lr is nan, expected a finite number >= 0"),
    ({"lr": float("inf")}, ValueError, "lr is inf, expected a finite number >= 0"),
    ({"lr": "0.1"}, TypeError, "lr is '0.1', expected a finite number >= 0"),
    ({"lr": None}, TypeError, "lr is None, expected a finite number >= 0"),
    ({"momentum": -1}, ValueError, "momentum is -1, expected a finite number >= 0"),
    ({"momentum": True}, TypeError, "momentum is True, expected a finite number >= 0"),
    ({"weight_decay": -1}, ValueError, "weight_decay is -1, expected a finite number >= 0"),
    ({"dampening": float("nan")}, ValueError, "dampening is nan, expected a finite number"),
    ({"nesterov": 1}, TypeError, "nesterov is 1, expected True or False"),
    ({"maximize": None}, TypeError, "maximize is None, expected True or False"),
    ({"nesterov": True}, ValueError, "nesterov with momentum 0.0 and dampening 0.0, expected momentum > 0 and damp"),
    ({"nesterov": True, "momentum": 0.9, "dampening": 0.1}, ValueError, "nesterov with momentum 0.9 and dampening 0.1"),
]


@pytest.mark.parametrize(("options", "error", "message"), NONSENSE, ids=[str(row[0]) for row in NONSENSE])
def test_nonsense_options_are_refused_by_name(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^SGD: {message}"):
        SGD([Parameter([1.0])], **options)
    with pytest.raises(error, match=f"^SGD: {message}"):
        SGD([{"params": [Parameter([1.0])], **options}])
    optimizer = SGD([Parameter([1.0])])
    with pytest.raises(error, match=f"^SGD: {message}"):
        optimizer.add_param_group({"params": [Parameter([1.0])], **options})
    assert len(optimizer.param_groups) == 1


def test_momentum_of_zero_keeps_no_buffer() -> None:
    weight = Parameter(np.ones(1_000_000))
    used = cnet.memory_stats()["used"]
    optimizer = SGD([weight], lr=0.1)
    optimizer.step()
    arena = weight.arena
    assert arena is not None
    # The step moves the parameter into an arena of its own, in place of the memory it had.
    assert cnet.memory_stats()["used"] - used < arena.data.nbytes / 2


def test_momentum_may_be_switched_on_and_off(isa: str) -> None:
    """As in PyTorch: the buffer starts, undamped, at the first step with momentum, and waits through steps without."""
    weight = Parameter([0.0])
    optimizer = SGD([weight], lr=1.0, dampening=0.5)
    (group,) = optimizer.param_groups
    values = []
    for momentum in (0.0, 0.5, 0.5, 0.0, 0.5):
        group["momentum"] = momentum
        weight.grad[...] = 1
        optimizer.step()
        values.append(float(weight.data[0]))
    # Steps of 1, then b = 1 and 1/2 + 1/2, then 1 without momentum, then b = 1/2 + 1/2 again.
    assert values == [-1.0, -2.0, -3.0, -4.0, -5.0]


def test_buffer_out_of_use_is_saved_too() -> None:
    """Saved while momentum is off, and loaded into a fresh optimizer, it is there when momentum is on again."""
    weights = [Parameter([0.0]), Parameter([0.0])]
    optimizers = [SGD([weight], lr=1.0) for weight in weights]
    for momentum in (0.5, 0.0):
        optimizers[0].param_groups[0]["momentum"] = momentum
        weights[0].grad[...] = 1
        optimizers[0].step()
    weights[1].data = weights[0].data
    optimizers[1].load_state_dict(optimizers[0].state_dict())
    for weight, optimizer in zip(weights, optimizers, strict=True):
        optimizer.param_groups[0]["momentum"] = 0.5
        weight.grad[...] = 1
        optimizer.step()
        assert weight.data.tolist() == [-3.5]


def test_state_may_be_saved_right_after_momentum_is_switched_on() -> None:
    weight = Parameter([0.0])
    optimizer = SGD([weight], lr=1.0)
    weight.grad[...] = 1
    optimizer.step()
    optimizer.param_groups[0]["momentum"] = 0.5
    state = optimizer.state_dict()
    optimizer.load_state_dict(state)
    optimizer.step()
    assert weight.data.tolist() == [-2.0]


def test_repr_shows_the_options() -> None:
    text = repr(SGD([{"params": [Parameter([1.0])], "lr": 0.5}, {"params": [Parameter([1.0])]}], momentum=0.9))
    assert text.startswith("SGD(lr=0.5, momentum=0.9,") and "; lr=0.001, momentum=0.9," in text


# ---- PyTorch

COMBINATIONS = [
    {"momentum": momentum, "dampening": dampening, "nesterov": nesterov, "weight_decay": decay, "maximize": maximize}
    for momentum, dampening, nesterov, decay, maximize in itertools.product(
        (0.0, 0.9), (0.0, 0.3), (False, True), (0.0, 0.05), (False, True)
    )
    if not nesterov or (momentum and not dampening)
]


@pytest.mark.parametrize("options", COMBINATIONS, ids=str)
def test_parity_with_pytorch_over_fifty_steps(isa: str, options: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    generator = np.random.default_rng(1)
    shapes = [(7, 5), (7,), (4, 3, 3, 2), (1,)]
    starts = [generator.standard_normal(shape).astype(np.float32) for shape in shapes]
    ours = [Parameter(start) for start in starts]
    theirs = [torch.nn.Parameter(torch.tensor(start)) for start in starts]
    optimizer, reference = SGD(ours, lr=0.05, **options), torch.optim.SGD(theirs, lr=0.05, **options)
    for step in range(50):
        if step == 25:
            optimizer.param_groups[0]["lr"] = reference.param_groups[0]["lr"] = 0.02
        for parameter, tensor in zip(ours, theirs, strict=True):
            # A part that depends on the weights makes errors grow as they would in training.
            gradient = generator.standard_normal(parameter.data.shape).astype(np.float32) + parameter.data
            parameter.grad[...] = gradient
            tensor.grad = torch.tensor(gradient)
        optimizer.step()
        reference.step()
    for parameter, tensor in zip(ours, theirs, strict=True):
        expected = tensor.detach().numpy()
        np.testing.assert_allclose(parameter.data, expected, rtol=0, atol=2e-5 * max(1, np.abs(expected).max()))
    state, reference_state = optimizer.state_dict(), reference.state_dict()
    assert set(state["param_groups"][0]) <= set(reference_state["param_groups"][0])
    if options["momentum"]:
        for index in range(len(shapes)):
            buffer = reference_state["state"][index]["momentum_buffer"].numpy()
            np.testing.assert_allclose(
                state["state"][index]["momentum_buffer"], buffer, rtol=0, atol=2e-5 * max(1, np.abs(buffer).max())
            )


def test_parity_of_changing_momentum_with_pytorch() -> None:
    torch = pytest.importorskip("torch")
    generator = np.random.default_rng(1)
    start = generator.standard_normal(20).astype(np.float32)
    parameter, tensor = Parameter(start), torch.nn.Parameter(torch.tensor(start))
    optimizer = SGD([parameter], lr=0.1, dampening=0.25)
    reference = torch.optim.SGD([tensor], lr=0.1, dampening=0.25)
    for momentum in (0.0, 0.0, 0.9, 0.9, 0.5, 0.0, 0.0, 0.9, 0.9):
        optimizer.param_groups[0]["momentum"] = reference.param_groups[0]["momentum"] = momentum
        gradient = generator.standard_normal(20).astype(np.float32)
        parameter.grad[...] = gradient
        tensor.grad = torch.tensor(gradient)
        optimizer.step()
        reference.step()
        np.testing.assert_allclose(parameter.data, tensor.detach().numpy(), rtol=1e-5, atol=1e-6)


def test_parity_of_groups_and_freezing_with_pytorch() -> None:
    torch = pytest.importorskip("torch")
    generator = np.random.default_rng(1)
    starts = [generator.standard_normal((5, 4)).astype(np.float32) for _ in range(3)]
    ours = [Parameter(start) for start in starts]
    theirs = [torch.nn.Parameter(torch.tensor(start)) for start in starts]
    groups = [{"momentum": 0.9, "dampening": 0.2}, {"lr": 0.01, "weight_decay": 0.1}]
    optimizer, reference = (
        kind([{"params": p[:2], **groups[0]}, {"params": p[2:], **groups[1]}], lr=0.1)
        for kind, p in ((SGD, ours), (torch.optim.SGD, theirs))
    )
    for step in range(20):
        # The first is frozen at first, so that its momentum begins later than the second's; then frozen again.
        moving = 5 <= step < 12
        ours[0].requires_grad = moving
        for number, (parameter, tensor) in enumerate(zip(ours, theirs, strict=True)):
            gradient = generator.standard_normal((5, 4)).astype(np.float32)
            parameter.grad[...] = gradient
            tensor.grad = torch.tensor(gradient) if number or moving else None
        optimizer.step()
        reference.step()
    for parameter, tensor in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(parameter.data, tensor.detach().numpy(), rtol=1e-5, atol=1e-6)
