r"""Initial values of parameters.

An initialiser is a small immutable object, called with a shape and a generator::

    weight = KaimingNormal()((64, 32, 3, 3), generator)
    bias = FanInUniform()((64,), generator, fan_in=32 * 3 * 3)

Shapes are logical, as in PyTorch: ``(out, in)`` for a linear weight, ``(out, in / groups, kh, kw)`` for a convolution.
Values are drawn in that order, so they do not depend on how the parameter lies in memory.

Most distributions depend on how many values meet in one output (``fan_in``) or leave one input (``fan_out``). Both
follow from the shape of a weight. A bias has neither: pass those of the weight it belongs to.
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from cnet import _check

if TYPE_CHECKING:
    # NumPy loads numpy.random at its first use, and importing cnet is not one.
    from numpy.random import Generator

__all__ = [
    "Constant",
    "FanInUniform",
    "Initializer",
    "KaimingNormal",
    "KaimingUniform",
    "Normal",
    "Ones",
    "Uniform",
    "XavierNormal",
    "XavierUniform",
    "Zeros",
    "calculate_fan_in_and_fan_out",
    "calculate_gain",
    "get",
]

Shape = tuple[int, ...]
Fan = int | None
FanMode = Literal["fan_in", "fan_out"]
Nonlinearity = Literal[
    "linear",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "sigmoid",
    "tanh",
    "relu",
    "leaky_relu",
    "selu",
]

_FLOAT32_MAX = float(np.finfo(np.float32).max)
_LINEAR = ("linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
_GAINS = {**dict.fromkeys(_LINEAR, 1.0), "sigmoid": 1.0, "tanh": 5.0 / 3.0, "relu": math.sqrt(2.0), "selu": 0.75}


def calculate_fan_in_and_fan_out(shape: Iterable[int]) -> tuple[int, int]:
    r"""Count the connections into an output and out of an input of a weight.

    For a shape :math:`(o, i, k_1, k_2, \dots)`: :math:`fan_{in} = i \prod k`, :math:`fan_{out} = o \prod k`.

    Parameters
    ----------
    shape : iterable of int
        Logical shape of the weight, at least two sizes, each ``>= 1``.

    Returns
    -------
    fan_in : int
        Connections into an output, in elements.
    fan_out : int
        Connections out of an input, in elements.

    Raises
    ------
    TypeError
        If ``shape`` is not a sequence of integers.
    ValueError
        If ``shape`` has fewer than two sizes, or a size below 1.

    Notes
    -----
    With ``groups > 1`` the second size is ``in / groups``, so ``fan_in`` is exact, while ``fan_out`` counts the outputs
    of all groups, as in PyTorch.

    References
    ----------
    PyTorch, ``torch.nn.init._calculate_fan_in_and_fan_out``.

    Examples
    --------
    >>> from cnet.initializers import calculate_fan_in_and_fan_out
    >>> calculate_fan_in_and_fan_out((10, 128))
    (128, 10)
    >>> calculate_fan_in_and_fan_out((64, 32, 3, 3))
    (288, 576)
    """
    sizes = _sizes("calculate_fan_in_and_fan_out", shape)
    if len(sizes) < 2:
        raise _check.shape_error(
            "calculate_fan_in_and_fan_out", "the weight", sizes, "at least two dimensions", _FAN_REMEDY
        )
    return _fans(sizes)


def calculate_gain(nonlinearity: Nonlinearity, param: float | None = None) -> float:
    r"""Return the factor by which the weights before a nonlinearity are scaled.

    ===================================  =============================
    linear, conv1d ... conv_transpose3d  :math:`1`
    sigmoid                              :math:`1`
    tanh                                 :math:`5 / 3`
    relu                                 :math:`\sqrt 2`
    leaky_relu                           :math:`\sqrt{2 / (1 + a^2)}`
    selu                                 :math:`3 / 4`
    ===================================  =============================

    Parameters
    ----------
    nonlinearity : str
        A name from the table.
    param : float, optional
        The negative slope :math:`a` of ``"leaky_relu"``, finite; default 0.01. The other names ignore it.

    Returns
    -------
    float
        The gain.

    Raises
    ------
    TypeError
        If ``param`` is not a number.
    ValueError
        If the name is unknown or ``param`` is not finite.

    Notes
    -----
    Self-normalising networks need the gain of ``"linear"``, not that of ``"selu"``.

    References
    ----------
    PyTorch, ``torch.nn.init.calculate_gain``. K. He et al., "Delving Deep into Rectifiers: Surpassing Human-Level
    Performance on ImageNet Classification", ICCV 2015.

    Examples
    --------
    >>> from cnet.initializers import calculate_gain
    >>> round(calculate_gain("relu"), 6), calculate_gain("leaky_relu", 1.0)
    (1.414214, 1.0)
    """
    return _gain("calculate_gain", "param", nonlinearity, param)


class Initializer(ABC):
    r"""Base of all initialisers: checks the arguments, then calls :meth:`draw`.

    A subclass gives the distribution :math:`w \sim p(fan_{in}, fan_{out})` by overriding :meth:`draw`; whatever real
    dtype that returns is rounded to float32.

    Notes
    -----
    Instances hold no random state and never change, so many layers and threads may share one.

    References
    ----------
    PyTorch, ``torch.nn.init``; Keras, ``keras.initializers``.

    Examples
    --------
    A distribution of one's own:

    >>> import numpy as np
    >>> from cnet.initializers import Initializer
    >>> class Signs(Initializer):
    ...     def draw(self, shape, generator, fan_in, fan_out):
    ...         return generator.choice([-1.0, 1.0], size=shape)
    >>> weight = Signs()((2, 3), np.random.default_rng(0))
    >>> weight.shape, weight.dtype.name, np.unique(weight).tolist()
    ((2, 3), 'float32', [-1.0, 1.0])
    """

    def __call__(
        self, shape: Iterable[int], generator: Generator, *, fan_in: Fan = None, fan_out: Fan = None
    ) -> _check.Float32Array:
        """Return a new array of initial values.

        Parameters
        ----------
        shape : iterable of int
            Logical shape of the parameter; each size ``>= 1``.
        generator : numpy.random.Generator
            Where the numbers come from; advanced by the call.
        fan_in, fan_out : int, optional
            Connections, in elements, ``>= 1``; default: from a ``shape`` of two or more dimensions.

        Returns
        -------
        ndarray of float32
            In C order.

        Raises
        ------
        TypeError
            If ``generator`` is not a generator, or a size is not an integer.
        ValueError
            If a size is below 1, or a fan is needed that neither ``shape`` nor the arguments give.
        """
        subject = type(self).__name__
        sizes = _sizes(subject, shape)
        if not isinstance(generator, np.random.Generator):
            received = f"generator is a {type(generator).__name__}"
            remedy = "Pass numpy.random.default_rng(seed) or cnet.random.default_generator()."
            raise TypeError(_check.message(subject, received, "a numpy.random.Generator", remedy))
        derived = _fans(sizes) if len(sizes) >= 2 else (None, None)
        fan_in = derived[0] if fan_in is None else _check.integer(subject, "fan_in", fan_in, 1)
        fan_out = derived[1] if fan_out is None else _check.integer(subject, "fan_out", fan_out, 1)
        values = _check.float32(subject, "the draw", self.draw(sizes, generator, fan_in, fan_out))
        if values.shape != sizes:
            raise _check.shape_error(subject, "the draw", values.shape, str(sizes), "Correct its draw method.")
        return np.asarray(values, order="C")

    @abstractmethod
    def draw(self, shape: Shape, generator: Generator, fan_in: Fan, fan_out: Fan) -> NDArray[Any]:
        """Draw the values; the arguments have been checked.

        Parameters
        ----------
        shape : tuple of int
            Logical shape of the parameter.
        generator : numpy.random.Generator
            Where the numbers come from.
        fan_in, fan_out : int or None
            Connections, in elements; ``None`` where neither the shape nor the caller tells.

        Returns
        -------
        ndarray
            Values of that shape, of any real dtype.
        """


@dataclass(frozen=True)
class Constant(Initializer):
    r"""The same value everywhere: :math:`w = value`.

    Parameters
    ----------
    value : float
        Finite in float32; default 0.

    Raises
    ------
    TypeError
        If ``value`` is not a number.
    ValueError
        If ``value`` is not finite in float32.

    Notes
    -----
    The generator is not advanced. Weights that are all equal stay equal under training: meant for biases and scales.

    References
    ----------
    PyTorch, ``torch.nn.init.constant_``; the default value is that of Keras.

    Examples
    --------
    >>> import numpy as np
    >>> from cnet.initializers import Constant
    >>> Constant(0.25)((3,), np.random.default_rng(0)).tolist()
    [0.25, 0.25, 0.25]
    """

    value: float = 0.0

    def __post_init__(self) -> None:
        _fix(self, "value", _in_float32(self, "value", self.value))

    def draw(self, shape: Shape, generator: Generator, fan_in: Fan, fan_out: Fan) -> NDArray[Any]:
        return np.full(shape, self.value, dtype=np.float32)


@dataclass(frozen=True)
class Zeros(Initializer):
    r"""Zeros: :math:`w = 0`.

    Notes
    -----
    The generator is not advanced. The usual start of a bias; a hidden layer whose weights are all zero does not learn.

    References
    ----------
    PyTorch, ``torch.nn.init.zeros_``.

    Examples
    --------
    >>> import numpy as np
    >>> from cnet.initializers import Zeros
    >>> Zeros()((2,), np.random.default_rng(0)).tolist()
    [0.0, 0.0]
    """

    def draw(self, shape: Shape, generator: Generator, fan_in: Fan, fan_out: Fan) -> NDArray[Any]:
        return np.zeros(shape, dtype=np.float32)


@dataclass(frozen=True)
class Ones(Initializer):
    r"""Ones: :math:`w = 1`.

    Notes
    -----
    The generator is not advanced. The usual start of the scale of a normalisation layer.

    References
    ----------
    PyTorch, ``torch.nn.init.ones_``.

    Examples
    --------
    >>> import numpy as np
    >>> from cnet.initializers import Ones
    >>> Ones()((2,), np.random.default_rng(0)).tolist()
    [1.0, 1.0]
    """

    def draw(self, shape: Shape, generator: Generator, fan_in: Fan, fan_out: Fan) -> NDArray[Any]:
        return np.ones(shape, dtype=np.float32)


@dataclass(frozen=True)
class Uniform(Initializer):
    r"""Uniform between two bounds: :math:`w \sim U[low, high)`.

    Parameters
    ----------
    low, high : float
        Bounds, finite in float32, ``low <= high``; default 0 and 1.

    Raises
    ------
    TypeError
        If a bound is not a number.
    ValueError
        If a bound is not finite in float32, or ``low > high``.

    Notes
    -----
    Drawn in float64 and rounded to float32, which may round a draw just below ``high`` up to it. The defaults are
    PyTorch's; weights usually want something narrower and centred, such as ``Uniform(-0.05, 0.05)``, Keras's default.

    References
    ----------
    PyTorch, ``torch.nn.init.uniform_``.

    Examples
    --------
    >>> import numpy as np
    >>> from cnet.initializers import Uniform
    >>> weight = Uniform(-0.05, 0.05)((100, 100), np.random.default_rng(0))
    >>> bool(abs(weight).max() <= np.float32(0.05))
    True
    """

    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        _fix(self, "low", _in_float32(self, "low", self.low))
        _fix(self, "high", _in_float32(self, "high", self.high))
        if self.low > self.high:
            raise ValueError(
                _check.message("Uniform", f"low is {self.low:g}, high is {self.high:g}", "low <= high", "Swap them.")
            )

    def draw(self, shape: Shape, generator: Generator, fan_in: Fan, fan_out: Fan) -> NDArray[Any]:
        return generator.uniform(self.low, self.high, shape)


@dataclass(frozen=True)
class Normal(Initializer):
    r"""Normal: :math:`w \sim N(mean, std^2)`.

    Parameters
    ----------
    mean : float
        Finite in float32; default 0.
    std : float
        Standard deviation, ``>= 0``, finite in float32; default 1.

    Raises
    ------
    TypeError
        If an argument is not a number.
    ValueError
        If an argument is not finite in float32, or ``std`` is negative.

    Notes
    -----
    Not truncated. The defaults are PyTorch's; weights usually want a smaller ``std``, such as 0.05, Keras's default.

    References
    ----------
    PyTorch, ``torch.nn.init.normal_``.

    Examples
    --------
    >>> import numpy as np
    >>> from cnet.initializers import Normal
    >>> weight = Normal(std=0.05)((200, 200), np.random.default_rng(0))
    >>> round(float(weight.std()), 3)
    0.05
    """

    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        _fix(self, "mean", _in_float32(self, "mean", self.mean))
        _fix(self, "std", _in_float32(self, "std", self.std, 0.0))

    def draw(self, shape: Shape, generator: Generator, fan_in: Fan, fan_out: Fan) -> NDArray[Any]:
        return generator.normal(self.mean, self.std, shape)


class _Scaled(Initializer):
    """A centred distribution, uniform or normal, whose standard deviation follows from the fans."""

    _uniform: ClassVar[bool]

    @abstractmethod
    def _std(self, shape: Shape, fan_in: Fan, fan_out: Fan) -> float: ...

    def draw(self, shape: Shape, generator: Generator, fan_in: Fan, fan_out: Fan) -> NDArray[Any]:
        std = self._std(shape, fan_in, fan_out)
        if self._uniform:
            bound = math.sqrt(3.0) * std
            return generator.uniform(-bound, bound, shape)
        return generator.normal(0.0, std, shape)


@dataclass(frozen=True)
class _Xavier(_Scaled):
    gain: float = 1.0

    def __post_init__(self) -> None:
        _fix(self, "gain", _check.real(type(self).__name__, "gain", self.gain, 0.0, _FLOAT32_MAX, open_low=True))

    def _std(self, shape: Shape, fan_in: Fan, fan_out: Fan) -> float:
        fans = _required(self, "fan_in", fan_in, shape) + _required(self, "fan_out", fan_out, shape)
        return self.gain * math.sqrt(2.0 / fans)


@dataclass(frozen=True)
class XavierUniform(_Xavier):
    r"""Xavier (Glorot) uniform: :math:`w \sim U(-b, b)`, :math:`b = gain \sqrt{6 / (fan_{in} + fan_{out})}`.

    Parameters
    ----------
    gain : float
        Scale, ``> 0``, see :func:`calculate_gain`; default 1.

    Raises
    ------
    TypeError
        If ``gain`` is not a number.
    ValueError
        If ``gain`` is not positive and finite.

    Notes
    -----
    Keeps the variance of both activations and gradients where the nonlinearity is nearly linear, such as tanh.

    References
    ----------
    X. Glorot, Y. Bengio, "Understanding the Difficulty of Training Deep Feedforward Neural Networks", AISTATS 2010.
    PyTorch, ``torch.nn.init.xavier_uniform_``.

    Examples
    --------
    >>> import numpy as np
    >>> from cnet.initializers import XavierUniform
    >>> weight = XavierUniform()((20, 130), np.random.default_rng(0))
    >>> bool(abs(weight).max() <= np.float32(0.2))
    True
    """

    _uniform = True


@dataclass(frozen=True)
class XavierNormal(_Xavier):
    r"""Xavier (Glorot) normal: :math:`w \sim N(0, s^2)`, :math:`s = gain \sqrt{2 / (fan_{in} + fan_{out})}`.

    Parameters
    ----------
    gain : float
        Scale, ``> 0``, see :func:`calculate_gain`; default 1.

    Raises
    ------
    TypeError
        If ``gain`` is not a number.
    ValueError
        If ``gain`` is not positive and finite.

    Notes
    -----
    Not truncated, as in PyTorch; Keras's ``glorot_normal`` cuts the tails off at two standard deviations.

    References
    ----------
    X. Glorot, Y. Bengio, "Understanding the Difficulty of Training Deep Feedforward Neural Networks", AISTATS 2010.
    PyTorch, ``torch.nn.init.xavier_normal_``.

    Examples
    --------
    >>> import numpy as np
    >>> from cnet.initializers import XavierNormal
    >>> weight = XavierNormal()((100, 100), np.random.default_rng(0))
    >>> round(float(weight.std()), 2)
    0.1
    """

    _uniform = False


@dataclass(frozen=True)
class _Kaiming(_Scaled):
    a: float = 0.0
    mode: FanMode = "fan_in"
    nonlinearity: Nonlinearity = "leaky_relu"

    def __post_init__(self) -> None:
        subject = type(self).__name__
        _fix(self, "a", _check.real(subject, "a", self.a, -_FLOAT32_MAX, _FLOAT32_MAX))
        _check.choice(subject, "mode", self.mode, ("fan_in", "fan_out"))
        _gain(subject, "a", self.nonlinearity, self.a)

    def _std(self, shape: Shape, fan_in: Fan, fan_out: Fan) -> float:
        fan = _required(self, self.mode, fan_in if self.mode == "fan_in" else fan_out, shape)
        return _gain(type(self).__name__, "a", self.nonlinearity, self.a) / math.sqrt(fan)


@dataclass(frozen=True)
class KaimingUniform(_Kaiming):
    r"""Kaiming (He) uniform: :math:`w \sim U(-b, b)`, :math:`b = gain \sqrt{3 / fan}`.

    Parameters
    ----------
    a : float
        Negative slope of the rectifier that follows; only ``"leaky_relu"`` uses it; default 0, a ReLU.
    mode : {"fan_in", "fan_out"}
        Keep the variance of the activations (default) or of the gradients.
    nonlinearity : str
        A name :func:`calculate_gain` knows; default ``"leaky_relu"``.

    Raises
    ------
    TypeError
        If ``a`` is not a number or a name not a string.
    ValueError
        If ``a`` is not finite or a name unknown.

    Notes
    -----
    With the defaults the gain is :math:`\sqrt 2`. With ``nonlinearity="linear"`` this is LeCun's uniform.

    References
    ----------
    K. He et al., "Delving Deep into Rectifiers: Surpassing Human-Level Performance on ImageNet Classification",
    ICCV 2015. PyTorch, ``torch.nn.init.kaiming_uniform_``.

    Examples
    --------
    >>> import numpy as np
    >>> from cnet.initializers import KaimingUniform
    >>> weight = KaimingUniform()((64, 6, 5, 5), np.random.default_rng(0))
    >>> bool(abs(weight).max() <= np.float32(0.2))
    True
    """

    _uniform = True


@dataclass(frozen=True)
class KaimingNormal(_Kaiming):
    r"""Kaiming (He) normal: :math:`w \sim N(0, s^2)`, :math:`s = gain / \sqrt{fan}`.

    Parameters
    ----------
    a : float
        Negative slope of the rectifier that follows; only ``"leaky_relu"`` uses it; default 0, a ReLU.
    mode : {"fan_in", "fan_out"}
        Keep the variance of the activations (default) or of the gradients.
    nonlinearity : str
        A name :func:`calculate_gain` knows; default ``"leaky_relu"``.

    Raises
    ------
    TypeError
        If ``a`` is not a number or a name not a string.
    ValueError
        If ``a`` is not finite or a name unknown.

    Notes
    -----
    Not truncated, as in PyTorch; Keras's ``he_normal`` cuts the tails off at two standard deviations.

    References
    ----------
    K. He et al., "Delving Deep into Rectifiers: Surpassing Human-Level Performance on ImageNet Classification",
    ICCV 2015. PyTorch, ``torch.nn.init.kaiming_normal_``.

    Examples
    --------
    >>> import numpy as np
    >>> from cnet.initializers import KaimingNormal
    >>> weight = KaimingNormal()((100, 200), np.random.default_rng(0))
    >>> round(float(weight.std()), 2)
    0.1
    """

    _uniform = False


@dataclass(frozen=True)
class FanInUniform(_Scaled):
    r"""PyTorch's default for linear and convolution layers: :math:`w \sim U(-b, b)`, :math:`b = 1 / \sqrt{fan_{in}}`.

    The bias has the same distribution with the ``fan_in`` of its weight, which is why that must be passed.

    Notes
    -----
    PyTorch writes it ``kaiming_uniform_(weight, a=sqrt(5))``, whose gain is :math:`\sqrt{1/3}`. The variance,
    :math:`1 / (3 fan_{in})`, is a sixth of what keeps that of activations through ReLU: fine for shallow networks and
    for those with normalisation layers; deep plain ones want :class:`KaimingNormal`.

    References
    ----------
    PyTorch, ``torch.nn.Linear.reset_parameters``. Y. LeCun et al., "Efficient BackProp", in "Neural Networks: Tricks of
    the Trade", 1998.

    Examples
    --------
    >>> import numpy as np
    >>> from cnet.initializers import FanInUniform
    >>> generator = np.random.default_rng(0)
    >>> weight = FanInUniform()((10, 100), generator)
    >>> bias = FanInUniform()((10,), generator, fan_in=100)
    >>> bool(abs(weight).max() <= np.float32(0.1)), bool(abs(bias).max() <= np.float32(0.1))
    (True, True)
    """

    _uniform = True

    def _std(self, shape: Shape, fan_in: Fan, fan_out: Fan) -> float:
        return math.sqrt(1.0 / 3.0) / math.sqrt(_required(self, "fan_in", fan_in, shape))


_NAMES: dict[str, Callable[[], Initializer]] = {
    "constant": Constant,
    "fan_in_uniform": FanInUniform,
    "glorot_normal": XavierNormal,
    "glorot_uniform": XavierUniform,
    "he_normal": KaimingNormal,
    "he_uniform": KaimingUniform,
    "kaiming_normal": KaimingNormal,
    "kaiming_uniform": KaimingUniform,
    "lecun_normal": functools.partial(KaimingNormal, nonlinearity="linear"),
    "lecun_uniform": functools.partial(KaimingUniform, nonlinearity="linear"),
    "normal": Normal,
    "ones": Ones,
    "uniform": Uniform,
    "xavier_normal": XavierNormal,
    "xavier_uniform": XavierUniform,
    "zeros": Zeros,
}


def get(initializer: str | Initializer, *, subject: str = "initializers.get", name: str = "initializer") -> Initializer:
    r"""Return the initialiser of a name; an initialiser passes through.

    The names map :math:`name \mapsto` class with default arguments: ``"zeros"``, ``"ones"``, ``"constant"``,
    ``"uniform"``, ``"normal"``, ``"xavier_uniform"`` or ``"glorot_uniform"``, ``"xavier_normal"`` or
    ``"glorot_normal"``, ``"kaiming_uniform"`` or ``"he_uniform"``, ``"kaiming_normal"`` or ``"he_normal"``,
    ``"lecun_uniform"``, ``"lecun_normal"`` (Kaiming with gain 1) and ``"fan_in_uniform"``.

    Parameters
    ----------
    initializer : str or Initializer
        A name or an instance.
    subject, name : str
        What an error calls the caller and its argument; for layers.

    Returns
    -------
    Initializer
        The instance.

    Raises
    ------
    TypeError
        If ``initializer`` is neither a string nor an instance.
    ValueError
        If the name is unknown; the message suggests the nearest.

    Notes
    -----
    Names are lower case. For arguments other than the defaults, pass an instance.

    References
    ----------
    PyTorch, ``torch.nn.init``; Keras, ``keras.initializers.get``.

    Examples
    --------
    >>> from cnet import initializers
    >>> initializers.get("he_normal")
    KaimingNormal(a=0.0, mode='fan_in', nonlinearity='leaky_relu')
    >>> initializers.get(initializers.Constant(0.25))
    Constant(value=0.25)
    """
    if isinstance(initializer, Initializer):
        return initializer
    if isinstance(initializer, str):
        return _NAMES[_check.choice(subject, name, initializer, _NAMES)]()
    remedy = ""
    if isinstance(initializer, type) and issubclass(initializer, Initializer):
        remedy = f"Call it: {initializer.__name__}()."
    raise TypeError(_check.message(subject, f"{name} is {initializer!r}", "an Initializer or the name of one", remedy))


_FAN_REMEDY = "A bias has no fan of its own: pass fan_in= (and fan_out=) of the weight it belongs to."


def _sizes(subject: str, shape: Iterable[int]) -> tuple[int, ...]:
    if isinstance(shape, str) or not isinstance(shape, Iterable):
        raise TypeError(_check.message(subject, f"shape is {shape!r}", "a tuple of integers"))
    return tuple(_check.integer(subject, f"shape[{axis}]", size, 1) for axis, size in enumerate(shape))


def _fans(sizes: tuple[int, ...]) -> tuple[int, int]:
    receptive_field = math.prod(sizes[2:])
    return sizes[1] * receptive_field, sizes[0] * receptive_field


def _required(initializer: Initializer, name: str, fan: int | None, shape: tuple[int, ...]) -> int:
    if fan is None:
        subject = type(initializer).__name__
        raise ValueError(_check.message(subject, f"{name} is unknown for shape {shape}", remedy=_FAN_REMEDY))
    return fan


def _gain(subject: str, param_name: str, nonlinearity: str, param: float | None) -> float:
    _check.choice(subject, "nonlinearity", nonlinearity, (*_GAINS, "leaky_relu"))
    if nonlinearity != "leaky_relu":
        return _GAINS[nonlinearity]
    slope = 0.01 if param is None else _check.real(subject, param_name, param, -_FLOAT32_MAX, _FLOAT32_MAX)
    return math.sqrt(2.0 / (1.0 + slope**2))


def _in_float32(initializer: Initializer, name: str, value: Any, low: float = -_FLOAT32_MAX) -> float:
    return _check.real(type(initializer).__name__, name, value, low, _FLOAT32_MAX)


def _fix(initializer: Initializer, name: str, value: float) -> None:
    # A frozen dataclass lets __post_init__ put a checked value in place only past its own __setattr__.
    object.__setattr__(initializer, name, value)
