"""Hyperparameters: the numbers and options of a rule, their domains, and schedules of them."""

import dataclasses
import inspect
import math
import numbers
import re
import typing
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass
from functools import partial
from types import FunctionType
from typing import Annotated, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from instep import arrays


class ToldSchedule(Protocol):
    """A schedule that is called with the value of the objective, too."""

    @property
    def needs_value(self) -> bool: ...
    def __call__(self, step: int, value: float, /) -> float: ...


#: A function from the step number, counted from 1, to the value of a hyperparameter.
Schedule = Callable[[int], float] | ToldSchedule


class RealArray(Protocol):
    """An array of real numbers, one for each element of a parameter."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> Any: ...


@dataclass(frozen=True)
class Domain:
    """The values that a hyperparameter may take: finite, within an interval.

    They are finite in the dtype of the arithmetic too: 1e39 is refused at the first step on
    float32 parameters, in which it would be infinite. With `infinite`, infinities are allowed,
    and so is what becomes one. With `integer`, only whole numbers are. With `survives_rounding`,
    a value that is not zero must not become zero when it is rounded to the dtype of the
    arithmetic, as an eps of 1e-50 does in float32. With `fixed`, the value is given once, as a
    number. With `decays`, it is a rate of decay, whose product over the steps rules may read.

    An array has real floating-point elements. With `booleans`, it may have booleans, or integers
    of 8 bits, too, which a rule sees as 0.0 and 1.0; with `complex_numbers`, complex ones.
    """

    lower: float = -math.inf
    upper: float = math.inf
    open_lower: bool = False
    open_upper: bool = False
    survives_rounding: bool = False
    infinite: bool = False
    integer: bool = False
    fixed: bool = False
    decays: bool = False
    booleans: bool = False
    complex_numbers: bool = False

    def __contains__(self, value: float) -> bool:
        above = value > self.lower if self.open_lower else value >= self.lower
        below = value < self.upper if self.open_upper else value <= self.upper
        finite = math.isfinite(value) or (self.infinite and not math.isnan(value))
        whole = not self.integer or value.is_integer()
        return finite and above and below and whole

    def contains(self, x: NDArray[Any]) -> NDArray[np.bool_]:
        """Return which elements of an array are values that the hyperparameter may take."""
        if np.iscomplexobj(x):
            return self.contains(x.real) & self.contains(x.imag)
        with np.errstate(all="ignore"):  # a bound may be infinite in the dtype of the array
            above = x > self.lower if self.open_lower else x >= self.lower
            below = x < self.upper if self.open_upper else x <= self.upper
        finite = ~np.isnan(x) if self.infinite else np.isfinite(x)
        found: NDArray[np.bool_] = above & below & finite
        return found & (x == np.floor(x)) if self.integer else found

    def __str__(self) -> str:
        if self.integer:
            if self.upper < math.inf:
                return f"an integer from {self.lower:g} to {self.upper:g}"
            return f"an integer >= {self.lower:g}"
        if self.lower > -math.inf and self.upper < math.inf:
            left, right = "[("[self.open_lower], "])"[self.open_upper]
            return f"a finite number in {left}{self.lower:g}, {self.upper:g}{right}"
        what = "a number" if self.infinite else "a finite number"
        if self.lower > -math.inf:
            return f"{what} {'>' if self.open_lower else '>='} {self.lower:g}"
        return what

    @property
    def contents(self) -> str:
        """What an array may hold, in words."""
        kinds = ("booleans", self.booleans), ("complex numbers", self.complex_numbers)
        return " or ".join([*(name for name, may_be in kinds if may_be), "floats"])

    def may_hold(self, dtype: str) -> bool:
        """Return whether an array may have a dtype, of those that a rule can be given."""
        is_mask, is_complex = dtype in MASKS, dtype.startswith(("complex", "c8", "c16"))
        return (
            bool(_REAL.match(dtype))
            or (is_mask and self.booleans)
            or (is_complex and self.complex_numbers)
        )

    @property
    def otherwise(self) -> str:
        """What a number may be instead, in messages."""
        return (
            f", or a schedule (a function from the step number to a float), or an array of "
            f"{self.contents} of the shape of the parameter"
        )


#: The dtypes of arrays of booleans, which are all of 8 bits.
MASKS = frozenset({"bool", "int8", "uint8"})

#: Learning rates, weight decays.
NonNegative = Annotated[float | Schedule | RealArray, Domain(lower=0.0)]
#: Factors that must not be zero.
Positive = Annotated[
    float | Schedule | RealArray, Domain(lower=0.0, open_lower=True, survives_rounding=True)
]
#: Decay rates of running means: 1 would never forget and divide by zero in bias corrections.
DecayRate = Annotated[
    float | Schedule | RealArray, Domain(lower=0.0, upper=1.0, open_upper=True, decays=True)
]
#: Shares of a whole.
Share = Annotated[float | Schedule | RealArray, Domain(lower=0.0, upper=1.0)]
#: Small terms that keep a division finite.
Epsilon = Annotated[float | Schedule | RealArray, Domain(lower=0.0, survives_rounding=True)]


@dataclass(frozen=True)
class Hyperparameter:
    """What is known of one field of an optimizer: its name, domain, and whether it is an option.

    An option is a boolean or a string. A rule may branch on it, and each value is a kernel of
    its own; all other hyperparameters are numbers that are handed to the kernel at every step.

    Attributes
    ----------
    kinds
        The types of an option, bool or str; empty for a number.
    choices
        The values of an option that is annotated with `Literal`; empty where all are.
    """

    name: str
    domain: Domain
    kinds: tuple[type, ...] = ()
    choices: tuple[bool | str, ...] = ()

    @property
    def option(self) -> bool:
        """Whether this is an option."""
        return bool(self.kinds)

    def source(self, value: Any) -> str:
        """Return a value as Python source: whole numbers as such, though rules have floats."""
        is_count = self.domain.integer and isinstance(value, float)
        return repr(int(value)) if is_count and value.is_integer() else source(value)

    def validate(self, owner: str, value: Any) -> Any:
        """Return `value` as a float, an option, a schedule or an array, or raise."""
        if self.option:
            return self._chosen(owner, value)
        value = _held(value)
        if is_array(value) and not self.domain.fixed:
            self._check_elements(owner, value)
            return value
        is_schedule = (
            callable(value) and not _is_number(value) and not _is_class_of_schedules(value)
        )
        if is_schedule and not self.domain.fixed:
            self._check_call(owner, value)
            return value
        return self.number(
            owner, value, otherwise="" if self.domain.fixed else self.domain.otherwise
        )

    def _check_call(self, owner: str, schedule: Any) -> None:
        """Raise if a function of Python cannot be called with the number of a step."""
        if not isinstance(schedule, FunctionType) or getattr(schedule, "needs_value", False):
            return
        try:
            inspect.signature(schedule, follow_wrapped=False).bind(1)
        except TypeError as error:
            raise TypeError(
                f"{owner}: {self.name} is a function that cannot be called with the number of a "
                f"step ({error}); write one such as lambda step: 0.1 / step"
            ) from None

    def _check_elements(self, owner: str, value: Any) -> None:
        """Raise unless every element of an array is in the domain."""
        text = f"{owner}: {self.name} must be {self.domain}{self.domain.otherwise}"
        if arrays.is_traced(value):
            raise TypeError(f"{text}, got {described(value)}")
        dtype = arrays.dtype_name(value).lstrip("<>")
        if not self.domain.may_hold(dtype):
            contents = self.domain.contents
            raise TypeError(f"{text}, got {arrays.describe(value)}; convert it to {contents}")
        if dtype == "bool":
            return
        x = elements(value)
        wrong = np.argwhere(~self.domain.contains(x))
        if len(wrong):
            place = tuple(wrong[0].tolist())
            found = complex(x[place]) if np.iscomplexobj(x) else float(x[place])
            raise ValueError(f"{text}, got {found!r} at {place} of {arrays.describe(value)}")

    def number(self, owner: str, value: Any, *, otherwise: str = "", source: str = "") -> float:
        """Return `value` as a float of the domain, or raise."""
        text = f"{owner}: {self.name} must be {self.domain}"
        try:
            number = real(value)
        except TypeError:
            raise TypeError(f"{text}{otherwise}, got {described(value)}{source}") from None
        except OverflowError:
            raise ValueError(f"{text}, got {described(value)}{source}") from None
        if number not in self.domain:
            raise ValueError(f"{text}, got {described(value)}{source}")
        return number

    def _chosen(self, owner: str, value: Any) -> bool | str:
        """Return the value of an option, or raise."""
        value = _held(value)
        is_one = isinstance(value, self.kinds)
        if is_one and not self.choices:
            return value  # type: ignore[no-any-return]
        for choice in self.choices:
            if isinstance(value, type(choice)) and choice == value:
                return choice
        names = {bool: "True or False", str: "a string"}
        what = ", ".join(repr(choice) for choice in self.choices)
        what = f"one of {what}" if what else " or ".join(names[kind] for kind in self.kinds)
        error = ValueError if is_one else TypeError
        raise error(f"{owner}: {self.name} must be {what}, got {described(value)}")

    def at(self, owner: str, value: Any, step: int) -> float:
        """Return the value at `step`, following a schedule."""
        if isinstance(value, float):
            return value
        try:
            number = value(step)
        except OverflowError as error:
            raise ValueError(
                f"{owner}, schedule at step {step}: {self.name} must be {self.domain}, got a "
                f"number beyond the range of floats from {value!r}; end it before, with Join"
            ) from error
        if type(number) is float and number in self.domain:
            return number
        where = f"{owner}, schedule at step {step}"
        return self.number(where, number, source=f" from {value!r}")


def is_array(value: Any) -> bool:
    """Return whether a value is an array with dimensions, and so none of the other kinds."""
    if value.__class__ is float or arrays.library(value) is None:
        return False
    return tuple(getattr(value, "shape", ())) != ()


def elements(array: Any) -> NDArray[Any]:
    """Return the elements of an array of any library as an array of NumPy, to be looked at."""
    found: NDArray[Any] = array if isinstance(array, np.ndarray) else arrays.to_numpy(array)
    return found


def source(value: Any) -> str:
    """Return hyperparameters as Python source, but for arrays: their dtypes and shapes."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key!r}: {source(entry)}' for key, entry in value.items())}}}"
    if is_array(value):
        return f"array({arrays.dtype_name(value)}, {tuple(value.shape)})"
    return repr(value)


def is_same(a: Any, b: Any) -> bool:
    """Return whether hyperparameters, or dicts of them, are the same: arrays are if they are one.

    An array is compared as an object, for its elements may be other ones since.
    """
    if a is b:
        return True
    if type(a) is type(b) is dict or (isinstance(a, Mapping) and isinstance(b, Mapping)):
        if a.keys() != b.keys():
            return False
        for key, value in a.items():  # without a generator, for a step asks it of overrides
            if value is not b[key] and not is_same(value, b[key]):
                return False
        return True
    return not (is_array(a) or is_array(b)) and bool(a == b)


def real(value: Any) -> float:
    """Return a real number, Python's, NumPy's or an array without dimensions, as a float.

    Raises
    ------
    TypeError
        If it is none: a boolean, a string, a complex number, an array with dimensions, or what
        stands for a number while JAX or PyTorch transforms a function.
    OverflowError
        If it is beyond the range of floats.
    """
    if type(value) is float:
        return value
    value = _held(value)
    if getattr(value, "requires_grad", False):
        value = value.detach()  # PyTorch warns of a number that forgets its graph
    if not _is_number(value):
        raise TypeError(f"not a real number: {described(value)}")
    try:
        return float(value)
    except OverflowError:
        raise
    except Exception as error:  # of a class of the user's, or of another library
        raise TypeError(f"not a real number: {described(value)}") from error


def _held(value: Any) -> Any:
    """Return what an array without dimensions holds that is no number of NumPy's: any object."""
    if isinstance(value, np.bool_) or (type(value) is np.ndarray and value.ndim == 0):
        return value.item() if value.dtype.kind in "bOSU" else value
    return value


def _is_class_of_schedules(value: Any) -> bool:
    """Return whether a value is a class where one of its instances was meant: they are called."""
    return isinstance(value, type) and any("__call__" in vars(base) for base in value.__mro__)


def _is_number(value: Any) -> bool:
    if isinstance(value, bool | np.timedelta64):
        return False
    if isinstance(value, numbers.Real):
        return True
    dtype = getattr(value, "dtype", None)
    if dtype is None or getattr(value, "shape", None) != () or isinstance(value, np.ma.MaskedArray):
        return False
    kind = getattr(dtype, "kind", None)  # of NumPy, CuPy and JAX; "V" is also that of bfloat16
    is_real = (
        kind in "fiu" if kind not in (None, "V") else _REAL_NUMBER.match(arrays.dtype_name(value))
    )
    return bool(is_real) and not arrays.is_traced(value)


_REAL_NUMBER = re.compile("b?float|u?int")
_REAL = re.compile("b?float|f[248]|longdouble")


def described(value: Any) -> str:
    """Return a value that was refused, in words."""
    if arrays.is_traced(value):
        return (
            f"{' '.join(repr(value).split())}, which is traced by {arrays.library(value)} and has "
            f"no value; set numbers outside of the function that is compiled or transformed"
        )
    if isinstance(value, int) and value.bit_length() > 1000:
        return f"an integer of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) < 1000 else f"{text[:1000]}..."


def inherit_annotations(cls: type) -> None:
    """Annotate new defaults of inherited fields, which need no annotation of their own."""
    inherited = {field.name: field for field in dataclasses.fields(cls)}
    given = {name: value for name, value in vars(cls).items() if name in inherited}
    annotations = inspect.get_annotations(cls) if given else {}
    for name, value in given.items():
        if name in annotations or isinstance(value, property):
            continue
        mutable = type(value).__hash__ is None
        default: Any = {"default_factory": partial(copy, value)} if mutable else {"default": value}
        field = dataclasses.field(kw_only=inherited[name].kw_only, **default)
        setattr(cls, name, field)
        annotations[name] = hints_of(cls.__base__).get(name, inherited[name].type)
        cls.__annotations__ = annotations


def hints_of(cls: type | None) -> dict[str, Any]:
    """Return how the fields of a class are annotated, as far as it can be told."""
    try:
        return typing.get_type_hints(cls, include_extras=True)
    except NameError:  # postponed annotations that name something local to a function
        return {}


def describe_fields(cls: type, excluded: frozenset[str]) -> tuple[Hyperparameter, ...]:
    """Return the hyperparameters that the fields of the dataclass `cls` declare."""
    hints, described = hints_of(cls), []
    for field in dataclasses.fields(cls):
        if field.name not in excluded:
            hint = hints.get(field.name)
            metadata = getattr(hint, "__metadata__", ())
            domain = next((entry for entry in metadata if isinstance(entry, Domain)), Domain())
            kinds, choices = _option(hint)
            if not kinds and isinstance(field.default, bool | str):
                kinds = (type(field.default),)
            described.append(Hyperparameter(field.name, domain, kinds, choices))
    return tuple(described)


def _option(hint: Any) -> tuple[tuple[type, ...], tuple[bool | str, ...]]:
    """Return the types and the choices of an option that is annotated so, or nothing."""
    parts = typing.get_args(hint)
    if typing.get_origin(hint) is Annotated:
        return _option(parts[0])
    if typing.get_origin(hint) is typing.Literal:
        kinds = tuple(dict.fromkeys(type(part) for part in parts))
        return (kinds, parts) if set(kinds) <= {bool, str} else ((), ())
    if hint in (bool, str):
        return (hint,), ()
    if parts and set(parts) == {bool, str}:
        return (bool, str), ()
    return (), ()
