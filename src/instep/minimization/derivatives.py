"""Whether gradients are those of an objective: measured along random directions."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from instep import arrays, tree, words
from instep.hyperparameters import described
from instep.interrupts import finish
from instep.minimization.objective import Objective, ValueAndGrad
from instep.minimization.trees import on_host

#: Slopes along directions. Of complex parameters, each is that along a direction, and, as the
#: imaginary part, that along i times the direction.
Slopes = tuple[Any, ...]


@dataclass(frozen=True)
class LeafCheck:
    """What `check_gradient` has found of an array, or of all together.

    Attributes
    ----------
    measured
        Slopes of the objective along each direction, as its values tell. Of a complex array, the
        imaginary parts are the slopes along i times the direction.
    given
        The same, as the gradient tells.
    error
        The largest difference of the two, relative to the larger of them.
    fault
        What is wrong, in words; empty if nothing is.
    """

    measured: Slopes
    given: Slopes
    error: float
    fault: str

    @property
    def ok(self) -> bool:
        """Whether the gradient is right, as far as can be told."""
        return not self.fault


@dataclass(frozen=True, repr=False)
class GradientCheck:
    """What `check_gradient` has found. It prints as a table.

    Attributes
    ----------
    leaves
        What was found of each array with a gradient, by its path; that of a single array is ``""``.
    together
        What was found of all arrays, changed together.
    """

    leaves: Mapping[str, LeafCheck]
    together: LeafCheck

    @property
    def ok(self) -> bool:
        """Whether all is right, as far as can be told."""
        return self.together.ok and all(leaf.ok for leaf in self.leaves.values())

    def __bool__(self) -> bool:
        return self.ok

    def __repr__(self) -> str:
        rows: list[tuple[str, ...]] = [("", "measured", "given", "relative error", "")]
        entries = [(key or "params", leaf) for key, leaf in self.leaves.items()]
        for name, leaf in [*entries, ("all together", self.together)]:
            worst = max(
                zip(leaf.measured, leaf.given, strict=True),
                key=lambda pair: _difference(*pair),
                default=(math.nan, math.nan),
            )
            numbers = [f"{number:.6g}" for number in worst]
            rows.append((name, *numbers, f"{leaf.error:.1e}", leaf.fault or "right"))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        head = f"GradientCheck: {'right' if self.ok else 'wrong'}"
        return "\n".join([head, *(_line(row, widths) for row in rows)])


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    name, *numbers, verdict = row
    cells = [name.ljust(widths[0]), *map(str.rjust, numbers, widths[1:])]
    return "  ".join([*cells, verdict]).rstrip()


def check_gradient(
    value_and_grad: ValueAndGrad, params: Any, *, directions: int = 3, seed: int = 0
) -> GradientCheck:
    r"""Compare gradients with what the values of an objective tell, along random directions.

    For each array, and for all together, with a direction :math:`d` of random numbers of the size
    of the parameters, and gradients :math:`g`,

    .. math::
        \frac{f(w + h d) - f(w - h d)}{2 h} = \mathrm{Re} \langle g, d \rangle + O(h^2)

    Parameters
    ----------
    value_and_grad
        As for `minimize`.
    params
        A tree of arrays, as `Optimizer.update` takes it. They are changed in place for a while, and
        are as they were afterwards, bit for bit, whatever is raised.
    directions
        Number of directions for each array. Of complex arrays, each is taken times i, too.
    seed
        An integer, from which the directions follow: they are the same for arrays of all libraries.

    Returns
    -------
    A `GradientCheck`, which is true if all is right, and prints as a table. It names the common
    faults: a wrong sign, a factor, a gradient that is missing where the objective depends on an
    array; and of complex arrays, one that is conjugated, or has no imaginary part. The gradient of
    a complex number is the direction of steepest ascent in both parts. Arrays whose gradient is
    None are left alone.

    Raises
    ------
    ValueError
        If the objective is not finite at the parameters, or a number makes no sense.
    TypeError
        If the trees do not match.

    Notes
    -----
    The first step :math:`h` is the cube root of the relative spacing of the coarsest dtype, 6e-6 in
    float64 and 5e-3 in float32, where truncation and rounding are alike (Press et al., Numerical
    Recipes, section 5.7). Where slopes differ by more than twice that, relatively, a tenth, ten
    times and a hundred times as long ones are tried, and the nearest slope counts, of those that
    rounding lets tell. The change of the parameters is taken as it was rounded. It evaluates the
    objective twice for each step.

    Examples
    --------
    >>> import numpy as np
    >>> from instep import check_gradient
    >>> def value_and_grad(p):
    ...     return (p["a"] ** 2).sum() + p["b"].sum(), {"a": p["a"], "b": np.ones(2)}
    >>> check = check_gradient(value_and_grad, {"a": np.ones(3), "b": np.zeros(2)})
    >>> check.ok, check.leaves["a"].fault, check.leaves["b"].ok
    (False, '0.5 times what it should be', True)
    """
    count: Any = directions
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ValueError(
            f"check_gradient: directions must be an integer >= 1, got {described(directions)}"
        )
    return _Check(Objective(value_and_grad, call="check_gradient"), params).found(directions, seed)


#: The steps that are tried, of the cube root of the relative spacing of numbers.
_SIZES = 1.0, 0.1, 10.0, 100.0

#: Roundings of a value that a sum of many terms may be wrong by.
_ROUNDINGS = 10


@dataclass(frozen=True)
class _Leaf:
    """A parameter to be checked: where it is in the tree, and copies of it and its gradient."""

    place: int
    path: tree.Path
    value: NDArray[Any]
    gradient: NDArray[Any]

    @property
    def is_complex(self) -> bool:
        return self.value.dtype.kind == "c"

    def direction(self, seed: int, number: int, scale: float) -> NDArray[Any]:
        """Return random numbers of the size of the parameter, each at least half of it."""
        place = words.halves(words.place_of(seed, tree.join_path(self.path)))
        own = float(np.sqrt(np.mean(np.abs(self.value.astype(complex)) ** 2)))
        drawn = words.random(0, self.value.size, place, 0, number).reshape(self.value.shape)
        signs = np.where(drawn & 1, -0.5, 0.5)
        found: NDArray[Any] = (own or scale) * signs * (1 + (drawn >> 8) * 2.0**-24)
        return found


class _Check:
    """A check at work."""

    def __init__(self, objective: Objective, params: Any) -> None:
        self._objective, self._params = objective, params
        self._given = [leaf for _, leaf in tree.flatten(params)]
        for path, leaf in tree.flatten(params):
            if not (arrays.is_number(leaf) or arrays.library(leaf) is not None):
                raise TypeError(
                    f"check_gradient: {tree.format_path('params', path)} is "
                    f"{arrays.describe(leaf)}; {tree.remedy(leaf)}"
                )
            if isinstance(leaf, np.ndarray) and not leaf.flags.writeable:
                raise ValueError(
                    f"check_gradient: {tree.format_path('params', path)} is read-only; give a copy"
                )
        evaluation = objective.at(params)
        self._value = evaluation.value
        if not math.isfinite(self._value):
            raise ValueError(
                f"check_gradient: the objective is {self._value} at the parameters; give some "
                f"where it is finite"
            )
        self._leaves = list(self._matched(evaluation.grads))
        dtypes = [_spacing(leaf) for leaf in self._given]
        self._spacing = max(dtypes, default=_SPACINGS["float64"])

    def _matched(self, grads: Any) -> list[_Leaf]:
        found, flat = [], tree.flatten(grads)
        paths = [path for path, _ in tree.flatten(self._params)]
        if [path for path, _ in flat] != paths:
            other = min({*map(tree.join_path, paths)} ^ {tree.join_path(path) for path, _ in flat})
            raise TypeError(
                f"check_gradient: parameters and gradients are not trees of the same structure: "
                f"only one of them has {other!r}; return a tree like the parameters"
            )
        for place, (path, gradient) in enumerate(flat):
            if gradient is None:
                continue
            value, own = on_host(self._given[place]), np.asarray(on_host(gradient))
            if own.shape != value.shape:
                raise ValueError(
                    f"check_gradient: {tree.format_path('params', path)} has the shape "
                    f"{value.shape}, and its gradient {own.shape}; return one like the parameter"
                )
            if value.size:
                found.append(_Leaf(place, path, value, own))
        return found

    def found(self, directions: int, seed: int) -> GradientCheck:
        """Return what is found."""
        sizes = [np.abs(leaf.value.astype(complex)).max() for leaf in self._leaves]
        scale = float(max(sizes, default=0.0)) or 1.0
        ways = {
            leaf.place: [leaf.direction(seed, n, scale) for n in range(directions)]
            for leaf in self._leaves
        }
        checked = {
            tree.join_path(leaf.path): self._checked([leaf], [ways[leaf.place]], directions)
            for leaf in self._leaves
        }
        every = [ways[leaf.place] for leaf in self._leaves]
        together = self._checked(self._leaves, every, directions, is_all=True)
        return GradientCheck(checked, together)

    def _checked(
        self,
        leaves: Sequence[_Leaf],
        ways: Sequence[Sequence[NDArray[Any]]],
        directions: int,
        *,
        is_all: bool = False,
    ) -> LeafCheck:
        """Return what is found where some leaves are changed."""
        if not all(np.isfinite(leaf.gradient).all() for leaf in leaves):
            return LeafCheck((), (), math.inf, "not finite")
        if any(leaf.gradient.dtype.kind == "c" and not leaf.is_complex for leaf in leaves):
            return LeafCheck(
                (), (), math.inf, "complex, and the parameter is real; take its real part"
            )
        measured, given, agree = [], [], []
        for n in range(directions):
            change = [way[n] for way in ways]
            pairs = [self._slopes(leaves, change)]
            if any(leaf.is_complex for leaf in leaves):
                turned = [
                    1j * x if leaf.is_complex else x for leaf, x in zip(leaves, change, strict=True)
                ]
                pairs.append(self._slopes(leaves, turned))
            agree += [pair.agrees for pair in pairs]
            as_one: Callable[..., Any] = complex if len(pairs) == 2 else float
            measured.append(as_one(*(pair.measured for pair in pairs)))
            given.append(as_one(*(pair.given for pair in pairs)))
        error = max(map(_difference, measured, given), default=0.0)
        if all(agree):
            fault = ""
        elif is_all:
            fault = "does not agree"
        else:
            fault = _fault(measured, given, leaves[0].value, self._tolerance)
        return LeafCheck(tuple(measured), tuple(given), error, fault)

    @property
    def _tolerance(self) -> float:
        return 2 * float(np.cbrt(self._spacing))

    def _slopes(self, leaves: Sequence[_Leaf], ways: Sequence[NDArray[Any]]) -> "_Pair":
        """Return the slopes along a direction: those of the first step that agree, or the best."""
        spacing, pairs = self._spacing, []
        for size in _SIZES:
            pair = self._pair(leaves, ways, size * float(np.cbrt(spacing)))
            if self._spacing > spacing:  # values are coarser than it seemed
                return self._slopes(leaves, ways)
            if pair.coincides:
                return pair
            pairs.append(pair)
        finite = [pair for pair in pairs if math.isfinite(pair.measured)]
        if not finite:
            return pairs[0]
        finite = _with_drift(sorted(finite, key=lambda pair: pair.step))
        telling = [pair for pair in finite if pair.tells]
        if telling:
            return min(telling, key=lambda pair: pair.error)
        return min(finite, key=lambda pair: pair.doubt)

    def _pair(self, leaves: Sequence[_Leaf], ways: Sequence[NDArray[Any]], step: float) -> "_Pair":
        """Return the slopes over a step of this length to both sides."""
        ends, values = [], []
        for sign in (step, -step):
            end = [
                _moved(leaf, self._given[leaf.place], sign * way)
                for leaf, way in zip(leaves, ways, strict=True)
            ]
            ends.append(end)
            values.append(self._value_at(leaves, end))
        given = math.fsum(
            float(np.vdot(leaf.gradient.astype(complex), _wide(a) - _wide(b)).real)
            for leaf, a, b in zip(leaves, *ends, strict=True)
        )
        if values[0] != values[1] and all(map(_is_single, values)):
            self._spacing = max(self._spacing, _SPACINGS["float32"])
        noise = _ROUNDINGS * self._spacing * max(abs(self._value), *map(abs, values))
        length = 2 * step
        measured = (values[0] - values[1]) / length
        return _Pair(step, measured, given / length, noise / length, self._tolerance)

    def _value_at(self, leaves: Sequence[_Leaf], values: Sequence[NDArray[Any]]) -> float:
        """Return the objective where leaves have other values; put theirs back."""
        try:
            params = self._with(leaves, values)
            return self._objective.value_at(params).value
        finally:
            finish(partial(self._restore, leaves))

    def _with(self, leaves: Sequence[_Leaf], values: Sequence[NDArray[Any]]) -> Any:
        """Return the tree where leaves have these values."""
        new = list(self._given)
        for leaf, value in zip(leaves, values, strict=True):
            new[leaf.place] = _filled(self._given[leaf.place], value)
        return tree.rebuild(self._params, new)

    def _restore(self, leaves: Sequence[_Leaf]) -> None:
        for leaf in leaves:
            given = self._given[leaf.place]
            if not _is_replaced(given):
                _filled(given, leaf.value)
        tree.rebuild(self._params, self._given)


@dataclass(frozen=True)
class _Pair:
    """A slope that was measured, and the same as a gradient gives it.

    Attributes
    ----------
    step
        The step over which they are.
    measured, given
        The two.
    noise
        By how much the first may be wrong, for values are rounded.
    tolerance
        How much they may differ, of the larger.
    drift
        By how much it may be wrong, for the step is long.
    """

    step: float
    measured: float
    given: float
    noise: float
    tolerance: float
    drift: float = 0.0

    @property
    def error(self) -> float:
        """Their relative difference."""
        return _difference(self.measured, self.given)

    @property
    def coincides(self) -> bool:
        """Whether they are the same, and that is no chance."""
        return self.error <= self.tolerance and self.noise <= 0.25 * abs(self.measured)

    @property
    def doubt(self) -> float:
        """By how much the slope may be wrong that was measured."""
        return self.noise + self.drift

    @property
    def tells(self) -> bool:
        """Whether that is less than what is looked for."""
        return self.doubt <= self.tolerance * max(abs(self.measured), abs(self.given))

    @property
    def agrees(self) -> bool:
        """Whether they are the same, as far as can be told."""
        allowed = 0.0 if self.tells or self.coincides else self.doubt
        largest = max(abs(self.measured), abs(self.given))
        return abs(self.measured - self.given) <= self.tolerance * largest + allowed


def _with_drift(pairs: Sequence[_Pair]) -> list[_Pair]:
    """Return pairs, in the order of their steps, with what a shorter step says of a longer one."""
    drifts = [
        max(abs(longer.measured - shorter.measured) - shorter.noise, 0.0)
        for shorter, longer in pairwise(pairs)
    ]
    # Of the shortest it is less than of the next one, as the squares of the steps.
    first = drifts[0] * (pairs[0].step / pairs[1].step) ** 2 if drifts else 0.0
    return [replace(pair, drift=drift) for pair, drift in zip(pairs, [first, *drifts], strict=True)]


def _difference(a: Any, b: Any) -> float:
    """Return the relative difference of two numbers."""
    largest = max(abs(a), abs(b))
    return float(abs(a - b) / largest) if largest else 0.0


#: The spacing of numbers at 1, by dtype.
_SPACINGS = {
    "float64": 2.0**-52,
    "complex128": 2.0**-52,
    "float32": 2.0**-23,
    "complex64": 2.0**-23,
    "float16": 2.0**-10,
    "bfloat16": 2.0**-7,
}


def _spacing(leaf: Any) -> float:
    name = np.asarray(leaf).dtype.name if arrays.is_number(leaf) else arrays.dtype_name(leaf)
    return _SPACINGS.get(name, _SPACINGS["float64"])


def _is_single(value: float) -> bool:
    """Return whether a value seems to have been computed in float32."""
    return math.isfinite(value) and abs(value) < _LARGEST and float(np.float32(value)) == value


#: Of float32.
_LARGEST = float(np.finfo(np.float32).max)


def _wide(x: NDArray[Any]) -> NDArray[Any]:
    return x.astype(complex if x.dtype.kind == "c" else float)


def _moved(leaf: _Leaf, held: Any, way: NDArray[Any]) -> NDArray[Any]:
    """Return a parameter somewhere else, rounded as it will be where it is held."""
    moved = np.asarray(_wide(leaf.value) + way).astype(leaf.value.dtype)
    if arrays.is_number(held) or arrays.dtype_name(held) != "bfloat16":
        return moved
    # The upper half of a float32, rounded to the nearest, and to an even one of two.
    bits = moved.view(np.uint32)
    half = np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    rounded: NDArray[Any] = ((bits + half) & np.uint32(0xFFFF0000)).view(np.float32)
    return rounded


def _is_replaced(leaf: Any) -> bool:
    """Return whether another takes the place of a leaf whose value changes."""
    return arrays.is_number(leaf) or arrays.is_immutable(leaf)


def _filled(leaf: Any, value: NDArray[Any]) -> Any:
    if arrays.is_number(leaf):
        return arrays.number_of_type(type(leaf), value)
    if arrays.is_immutable(leaf):
        return arrays.filled(leaf, value)
    arrays.filled(arrays.view(leaf), value)
    return leaf


def _fault(
    measured: Sequence[Any], given: Sequence[Any], value: NDArray[Any], tolerance: float
) -> str:
    """Return what is wrong with a gradient, in words."""
    true, own = np.asarray(measured), np.asarray(given)
    if not np.isfinite(true).all():
        return "the objective is not finite near the parameters"
    size = float(np.abs(true).max())
    if size == 0:
        return "the objective does not depend on it, as far as can be seen"
    if np.abs(own).max() <= tolerance * size:
        return "zero, although the objective depends on it"
    fault = _complex_fault(true, own, value, tolerance) if np.iscomplexobj(true) else ""
    ratio = _ratio(true, own, tolerance)
    if fault or not ratio:
        return fault or "not the gradient of the objective"
    return "the sign is wrong" if ratio == -1 else _factor(ratio, value)


def _complex_fault(
    true: NDArray[Any], own: NDArray[Any], value: NDArray[Any], tolerance: float
) -> str:
    """Return what complex numbers alone can be wrong by."""
    is_real = np.abs(own.imag).max() <= tolerance * np.abs(true).max()
    if is_real and _ratio(true.real, own.real, tolerance) == 1:
        return "the imaginary part is missing"
    ratio = _ratio(true.conj(), own, tolerance)
    if not ratio:
        return ""
    factor = "" if ratio == 1 else f", and {_factor(ratio, value)}"
    return f"conjugated{factor}; put instep.transforms.conjugate() before the optimizer"


def _ratio(true: NDArray[Any], own: NDArray[Any], tolerance: float) -> float:
    """Return by which factor gradients are wrong; 0 if there is none."""
    square = float(np.vdot(true, true).real)
    ratio = float(np.vdot(true, own).real) / square if square else 0.0
    if not np.abs(own - ratio * true).max() <= 2 * tolerance * np.abs(own).max():
        return 0.0
    for simple in (1.0, -1.0, 2.0, 0.5):
        if abs(ratio - simple) <= 2 * tolerance * abs(simple):
            return simple
    return ratio


def _factor(ratio: float, value: NDArray[Any]) -> str:
    """Return a factor in words: what it is of the number of elements, or along an axis."""
    for count, whole in ((value.size, "it"), *((n, "an axis") for n in value.shape)):
        for number, name in ((float(count), f"{count}"), (1 / count, f"1/{count}")):
            if count > 2 and abs(ratio / number - 1) <= 1e-3:
                return f"{name} times what it should be: {whole} has {count} elements"
    return f"{ratio:.4g} times what it should be"
