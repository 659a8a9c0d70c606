"""The table of the bridge to PyTorch: which rule is which class of `torch.optim`, and how.

A row has the fields of ``state_dict()["state"][i]`` and the options of a group of
``state_dict()["param_groups"]``. To add an optimizer is to add a row.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from instep import optimizers as own
from instep.bridges.fields import Field, Row, Values, same, squared, times


def _as_it_is(value: Any) -> Any:
    return value


@dataclass(frozen=True)
class Option:
    """A hyperparameter that is an option of a group there, or an element of one.

    Attributes
    ----------
    ours, theirs
        Its names.
    index
        Its place, where the option is a tuple.
    write, read
        Return what it is there, and what it is here.
    """

    ours: str
    theirs: str
    index: int | None = None
    write: Callable[[Any], Any] = _as_it_is
    read: Callable[[Any], Any] = _as_it_is


@dataclass(frozen=True, kw_only=True)
class TorchRow(Row):
    """A rule, and the class of `torch.optim` that has it.

    Attributes
    ----------
    peer
        Name of the class.
    options
        The hyperparameters that are options there.
    fixed
        The other options, with the values that make it this rule.
    ignored
        Options that change nothing of it.
    counts
        Whether the number of steps is kept there.
    derived
        Numbers that are kept there and follow from the number of steps and the hyperparameters.
    decay
        Which transforms of a chain are options there, of which ``weight_decay`` is the rate:
        ``"coupled"``, ``"decoupled"``, ``"either"``, as the option `decoupled_weight_decay` says,
        or ``""``.
    """

    peer: str
    options: Sequence[Option] = ()
    fixed: Values = field(default_factory=dict)
    ignored: Sequence[str] = ()
    counts: bool = True
    derived: Mapping[str, Callable[[Values], float]] = field(default_factory=dict)
    decay: str = "coupled"


_LR = Option("lr", "lr")
_EPS = Option("eps", "eps")
_BETAS = (Option("beta1", "betas", 0), Option("beta2", "betas", 1))
_ADAM = (_LR, *_BETAS, _EPS)
_MEANS = (same("m", "exp_avg"), same("v", "exp_avg_sq"))
_LARGEST = same("x", "max_exp_avg_sq")

# torch's velocity lacks the learning rate, and has the sign of the gradient.
_VELOCITIES = (
    times(lambda h: -h["lr"], "v", "momentum_buffer", divides="lr"),
    same("b", "momentum_buffer"),
)


def _eta(h: Values) -> float:
    eta: float = h["lr"] / (1 + h["weight_decay"] * h["lr"] * h["t"]) ** h["alpha"]
    return eta


def _shape_of_factored(values: Values) -> tuple[int, ...]:
    """Return the shape of a parameter, of which rows are (..., R, 1) and columns (..., 1, C)."""
    if "row_var" in values and "col_var" in values:
        return (*np.shape(values["row_var"])[:-1], *np.shape(values["col_var"])[-1:])
    return np.shape(values.get("variance", ()))


ROWS = (
    TorchRow(
        own.SGD,
        peer="SGD",
        options=(_LR,),
        fixed={"momentum": 0, "dampening": 0, "nesterov": False},
        counts=False,
    ),
    TorchRow(
        own.Momentum,
        _VELOCITIES,
        peer="SGD",
        options=(_LR, Option("momentum", "momentum"), Option("dampening", "dampening")),
        fixed={"nesterov": False},
        counts=False,
    ),
    TorchRow(
        own.Nesterov,
        _VELOCITIES,
        peer="SGD",
        options=(_LR, Option("momentum", "momentum")),
        fixed={"nesterov": True, "dampening": 0},
        counts=False,
    ),
    TorchRow(
        own.Adam,
        (*_MEANS, _LARGEST),
        needs={"form": "epsilon"},
        peer="Adam",
        options=(*_ADAM, Option("amsgrad", "amsgrad")),
        fixed={"decoupled_weight_decay": False},
    ),
    TorchRow(
        own.AMSGrad,
        (*_MEANS, _LARGEST),
        needs={"form": "epsilon", "bias_correction": "after"},
        peer="Adam",
        options=_ADAM,
        fixed={"decoupled_weight_decay": False, "amsgrad": True},
    ),
    TorchRow(
        own.AdamW,
        (*_MEANS, _LARGEST),
        needs={"form": "epsilon"},
        peer="AdamW",
        options=(
            *_ADAM,
            Option("weight_decay", "weight_decay"),
            Option("amsgrad", "amsgrad"),
        ),
        fixed={"decoupled_weight_decay": True},
        decay="",
    ),
    TorchRow(
        own.NAdam,
        (*_MEANS, same("product", "mu_product")),
        needs={"amsgrad": False},
        peer="NAdam",
        options=(*_ADAM, Option("psi", "momentum_decay")),
        decay="either",
    ),
    TorchRow(
        own.RAdam,
        _MEANS,
        needs={"threshold": 5.0, "form": "epsilon_hat"},
        peer="RAdam",
        options=_ADAM,
        decay="either",
    ),
    TorchRow(
        own.AdaMax,
        (same("m", "exp_avg"), same("u", "exp_inf")),
        needs={"eps_in_max": True},
        peer="Adamax",
        options=_ADAM,
    ),
    TorchRow(
        own.AdaGrad,
        (same("h", "sum"),),
        needs={"eps_in_sqrt": False},
        peer="Adagrad",
        options=(
            *(_LR, _EPS),
            Option("initial_accumulator_value", "initial_accumulator_value"),
        ),
        fixed={"lr_decay": 0},
    ),
    TorchRow(
        own.AdaDelta,
        (same("v", "square_avg"), same("u", "acc_delta")),
        peer="Adadelta",
        options=(_LR, Option("rho", "rho"), _EPS),
    ),
    TorchRow(
        own.RMSProp,
        (
            same("h", "square_avg"),
            same("mean", "grad_avg"),
            Field(
                "deviation",
                "square_avg",
                lambda x, h: x["deviation"] ** 2 + x["mean"] ** 2,
                lambda y, h: np.sqrt(np.maximum(y["square_avg"] - y["grad_avg"] ** 2, 0)),
            ),
            times(lambda h: h["lr"], "velocity", "momentum_buffer", divides="lr"),
            same("buffer", "momentum_buffer"),
        ),
        needs={"nesterov": False, "eps_in_sqrt": False, "initial_accumulator_value": 0.0},
        peer="RMSprop",
        options=(
            *(_LR, Option("decay", "alpha"), _EPS),
            *(Option("centered", "centered"), Option("momentum", "momentum")),
        ),
    ),
    TorchRow(
        own.Rprop,
        (same("size", "step_size"), same("previous", "prev")),
        peer="Rprop",
        options=(
            *(_LR, Option("shrink", "etas", 0), Option("grow", "etas", 1)),
            *(Option("smallest", "step_sizes", 0), Option("largest", "step_sizes", 1)),
        ),
        decay="",
    ),
    TorchRow(
        own.ASGD,
        (same("mean", "ax"),),
        peer="ASGD",
        options=(
            *(_LR, Option("weight_decay", "lambd")),
            *(Option("alpha", "alpha"), Option("t0", "t0")),
        ),
        derived={"eta": _eta, "mu": lambda h: 1 / max(1, h["t"] - h["t0"])},
    ),
    TorchRow(
        own.Adafactor,
        (
            squared("root", "variance"),
            Field(
                "rows",
                "row_var",
                lambda x, h: (x["rows"] ** 2)[..., None],
                lambda y, h: np.sqrt(y["row_var"][..., 0]),
            ),
            Field(
                "columns",
                "col_var",
                lambda x, h: (x["columns"] ** 2)[..., None, :],
                lambda y, h: np.sqrt(y["col_var"][..., 0, :]),
            ),
        ),
        needs={"relative_step": True, "eps1_as": "bound"},
        shape=_shape_of_factored,
        peer="Adafactor",
        options=(
            *(_LR, Option("decay", "beta2_decay", None, lambda x: -x, lambda y: -y)),
            *(Option("d", "d"), Option("eps1", "eps", 0), Option("eps2", "eps", 1)),
        ),
        decay="decoupled",
    ),
    TorchRow(
        own.Muon,
        (times(lambda h: 1 / (1 - h["momentum"]), "m", "momentum_buffer"),),
        peer="Muon",
        options=(
            *(_LR, Option("weight_decay", "weight_decay"), Option("momentum", "momentum")),
            *(Option("nesterov", "nesterov"), Option("ns_steps", "ns_steps", None, int)),
            *(Option(f"ns_{x}", "ns_coefficients", i) for i, x in enumerate("abc")),
            Option("adjust_lr", "adjust_lr_fn", None, _as_it_is, lambda y: y or "original"),
        ),
        ignored=("eps",),  # what norms are at least that divide a gradient: it need not be zero
        counts=False,
        decay="",
    ),
)

#: Options of a group that change no number of a step, or belong to the schedulers of torch.
IGNORED = frozenset(
    {
        *("params", "param_names", "foreach", "fused", "capturable", "differentiable"),
        *("initial_lr", "max_lr", "min_lr", "base_momentum", "max_momentum", "swa_lr"),
    }
)


def epsilon_of(dtype: str) -> float:
    """Return what torch's Adafactor takes as its first eps where none is given."""
    digits = {"float64": 52, "float32": 23, "float16": 10, "bfloat16": 7}
    return math.ldexp(1.0, -digits[dtype])
