"""The table of the bridge to optax: which rule keeps what in which state of optax, and how.

A field there is called by the named tuple that has it and its name in that: one of
``optax.adam`` is ``ScaleByAdamState.mu``. To add an optimizer is to add a row.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from instep import optimizers as own
from instep.bridges.fields import Field, Row, Values, same, times


@dataclass(frozen=True, kw_only=True)
class OptaxRow(Row):
    """A rule, and what the functions of optax that have it keep.

    Attributes
    ----------
    of_all
        Numbers that are kept of each parameter here, and of all at once there.
    counts
        Where the number of steps is kept, and what is added to it there.
    derived
        What is kept there and follows from hyperparameters, which both sides must have alike.
    begun
        What says there whether a step was taken, and its value after one.
    placed
        Leaves out what is kept in the place of something else.
    """

    of_all: Sequence[Field] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    derived: Mapping[str, Callable[[Values], float]] = field(default_factory=dict)
    begun: Mapping[str, Any] = field(default_factory=dict)
    placed: Callable[[Values], Values] | None = None


def fields(state: str, **names: str) -> tuple[Field, ...]:
    """Return the fields that are the same in a state of optax, by their names here."""
    return tuple(same(ours, f"{state}.{theirs}") for ours, theirs in names.items())


def counted(state: str, name: str = "count", more: int = 0) -> dict[str, int]:
    """Return where the number of steps is kept."""
    return {f"{state}.{name}": more}


_ADAM, _RMS = "ScaleByAdamState", "ScaleByRmsWithCountState"
_MEANS, _COUNT = fields(_ADAM, m="mu", v="nu"), counted(_ADAM)
_TRACE = "TraceState.trace"

# The trace comes before the learning rate in `optax.sgd`, and after it in others.
_VELOCITIES = (times(lambda h: -h["lr"], "v", _TRACE, divides="lr"), same("b", _TRACE))

# optax has no schedule of the first rate, so that the product of rates is a power.
_PRODUCT = Field(
    "product", f"{_ADAM}.count", lambda x, h: h["t"], lambda y, h: h["beta1"] ** h["t"]
)

_OF_FREE = fields("ScheduleFreeState", total="weight_sum", largest_lr="max_lr", place="b1")
_FREE = {**counted("ScheduleFreeState", "step_count", 1)}


def _are_swapped(shape: tuple[int, ...]) -> bool:
    """Return whether optax calls rows what are columns here: it sorts dimensions by size."""
    if sorted(shape)[-2:] != sorted(shape[-2:]):
        raise ValueError(
            f"the bridge to optax: of an array of shape {shape}, optax's adafactor takes means "
            f"over its two largest dimensions, and Adafactor over the last two; transpose it"
        )
    return shape[-2] > shape[-1]


def _factored(name: str, axis: int) -> Field:
    """Return a mean of squares over one of the last two dimensions, of which a root is here."""

    def theirs(shape: tuple[int, ...]) -> str:
        return "v_col" if (axis == -1) == _are_swapped(shape) else "v_row"

    def shape_of(x: Values) -> tuple[int, ...]:
        return (*x["rows"].shape, x["columns"].shape[-1])

    def write(x: Values, h: Values) -> Any:
        other = {"rows": "columns", "columns": "rows"}[name]
        return x[other if _are_swapped(shape_of(x)) else name] ** 2

    def read(y: Values, h: Values) -> Any:
        return np.sqrt(y[f"FactoredState.{theirs(h['shape'])}"])

    return Field(name, f"FactoredState.{'v_row' if axis == -1 else 'v_col'}", write, read)


def _without_placeholders(values: Values) -> Values:
    """Leave out the arrays of one zero that stand where optax keeps nothing of a parameter."""
    return {name: x for name, x in values.items() if np.shape(x) != (1,) or np.any(x)}


ROWS = (
    OptaxRow(own.SGD),
    OptaxRow(own.Fromage),
    OptaxRow(own.PolyakSGD),
    OptaxRow(own.Momentum, _VELOCITIES, needs={"dampening": 0.0}),
    OptaxRow(own.Nesterov, _VELOCITIES),
    OptaxRow(
        own.AdaGrad, fields("ScaleByRssState", h="sum_of_squares"), needs={"eps_in_sqrt": True}
    ),
    OptaxRow(
        own.RMSProp,
        (
            same("h", "ScaleByRmsState.nu"),
            same("mean", "ScaleByRStdDevState.mu"),
            Field(
                "deviation",
                "ScaleByRStdDevState.nu",
                lambda x, h: x["deviation"] ** 2 + x["mean"] ** 2,
                lambda y, h: np.sqrt(
                    np.maximum(y["ScaleByRStdDevState.nu"] - y["ScaleByRStdDevState.mu"] ** 2, 0)
                ),
            ),
            times(lambda h: -1.0, "velocity", _TRACE),
        ),
        needs={"lr_in_velocity": True},
    ),
    OptaxRow(own.AdaDelta, fields("ScaleByAdaDeltaState", v="e_g", u="e_x")),
    OptaxRow(own.Adam, _MEANS, counts=_COUNT, needs={"amsgrad": False, "form": "epsilon"}),
    OptaxRow(own.AdamW, _MEANS, counts=_COUNT, needs={"amsgrad": False, "form": "epsilon"}),
    OptaxRow(
        own.AMSGrad,
        fields("ScaleByAmsgradState", m="mu", v="nu", x="nu_max"),
        counts=counted("ScaleByAmsgradState"),
        needs={"form": "epsilon", "bias_correction": "before"},
    ),
    OptaxRow(
        own.NAdam,
        _MEANS,
        of_all=(_PRODUCT,),
        counts=_COUNT,
        needs={"amsgrad": False, "psi": math.inf},
    ),
    OptaxRow(own.RAdam, _MEANS, counts=_COUNT, needs={"form": "epsilon"}),
    OptaxRow(own.AdaMax, fields(_ADAM, m="mu", u="nu"), counts=_COUNT, needs={"eps_in_max": True}),
    OptaxRow(own.Yogi, _MEANS, counts=_COUNT, needs={"bias_correction": True}),
    OptaxRow(own.LAMB, _MEANS, counts=_COUNT),
    OptaxRow(own.ADOPT, _MEANS, counts=_COUNT),
    OptaxRow(
        own.AdaBelief,
        fields("ScaleByBeliefState", m="mu", s="nu"),
        counts=counted("ScaleByBeliefState"),
    ),
    OptaxRow(own.Lion, fields("ScaleByLionState", m="mu"), counts=counted("ScaleByLionState")),
    OptaxRow(own.Signum, fields("EmaState", m="ema"), counts=counted("EmaState")),
    OptaxRow(
        own.Adan,
        fields("ScaleByAdanState", m="m", u="v", n="n", previous="g"),
        counts=counted("ScaleByAdanState", "t"),
    ),
    OptaxRow(own.LARS, (times(lambda h: -1.0, "v", _TRACE),)),
    OptaxRow(
        own.NovoGrad,
        fields("ScaleByNovogradState", m="mu", v="nu"),
        counts=counted("ScaleByNovogradState"),
    ),
    OptaxRow(
        own.OptimisticGD,
        fields("ScaleByOptimisticGradientState", previous="previous_gradient"),
        begun={"ScaleByOptimisticGradientState.is_initial_step": False},
    ),
    OptaxRow(
        own.AdEMAMix,
        fields("ScaleByAdemamixState", m="m1", slow="m2", v="nu"),
        counts=counted("ScaleByAdemamixState") | counted("ScaleByAdemamixState", "count_m2"),
    ),
    OptaxRow(
        own.ScheduleFreeAdamW,
        (same("z", "ScheduleFreeState.z"), same("v", f"{_RMS}.nu")),
        of_all=_OF_FREE,
        counts=_FREE | counted(_RMS),
    ),
    OptaxRow(
        own.ScheduleFreeSGD,
        fields("ScheduleFreeState", z="z"),
        of_all=_OF_FREE,
        counts=_FREE,
    ),
    OptaxRow(
        own.COCOB,
        fields(
            "COCOBState",
            start="init_particles",
            largest="scale",
            total="subgradients",
            reward="reward",
            bets="cumulative_gradients",
        ),
    ),
    OptaxRow(
        own.DoG,
        fields("DoGState", start="init_params"),
        of_tree=fields("DoGState", distance="max_dist", total="sum_sq_norm_grads"),
        begun={"DoGState.is_init_step": False},
    ),
    OptaxRow(
        own.DoWG,
        fields("DoWGState", start="init_params"),
        of_tree=(
            same("total", "DoWGState.weighted_sq_norm_grads"),
            Field(
                "farthest",
                "DoWGState.estim_sq_dist",
                lambda x, h: x["farthest"] ** 2,
                lambda y, h: float(y["DoWGState.estim_sq_dist"]) ** 0.5,
            ),
        ),
    ),
    OptaxRow(
        own.MoMo,
        fields("MomoState", m="exp_avg"),
        of_tree=(
            *fields("MomoState", mean="barf", gamma="gamma"),
            Field("begun", "MomoState.count", lambda x, h: h["t"], lambda y, h: 1.0),
        ),
        counts=counted("MomoState"),
        derived={"MomoState.lb": lambda h: float(h["lowest"])},
    ),
    OptaxRow(
        own.MoMoAdam,
        fields("MomoAdamState", m="exp_avg", v="exp_avg_sq"),
        of_tree=fields("MomoAdamState", mean="barf", gamma="gamma"),
        counts=counted("MomoAdamState"),
        derived={"MomoAdamState.lb": lambda h: float(h["lowest"])},
    ),
    OptaxRow(
        own.Prodigy,
        fields("ProdigyState", m="exp_avg", v="exp_avg_sq", s="grad_sum", start="params0"),
        of_tree=fields("ProdigyState", d="estim_lr", r="numerator_weighted"),
        counts=counted("ProdigyState"),
    ),
    OptaxRow(
        own.DAdaptAdamW,
        fields("DAdaptAdamWState", m="exp_avg", v="exp_avg_sq", s="grad_sum"),
        of_tree=fields("DAdaptAdamWState", d="estim_lr", r="numerator_weighted"),
        counts=counted("DAdaptAdamWState"),
    ),
    OptaxRow(
        own.Adafactor,
        (
            Field(
                "root",
                "FactoredState.v",
                lambda x, h: x["root"] ** 2,
                lambda y, h: np.sqrt(y["FactoredState.v"]),
            ),
            _factored("rows", -1),
            _factored("columns", -2),
        ),
        needs={"relative_step": False, "eps1_as": "term"},
        hint=", made with min_dim_size_to_factor=1, for optax factors long dimensions alone",
        counts=counted("FactoredState"),
        needs_params=True,
        placed=_without_placeholders,
    ),
)

#: States that count the steps alone: of schedules.
COUNTERS = {
    "ScaleByScheduleState": "count",
    "WrappedScheduleState": "count",
    "InjectHyperparamsState": "count",
    "InjectStatefulHyperparamsState": "count",
}

#: What the functions of optax call hyperparameters.
NAMES = {
    "learning_rate": "lr",
    "b1": "beta1",
    "b2": "beta2",
    **{name: name for name in ("decay", "eps", "momentum", "rho", "weight_decay")},
}

#: States that hold other states, and where.
HOLDERS = {
    "MaskedState": ("inner_state",),
    "ScheduleFreeState": ("base_optimizer_state",),
    "InjectHyperparamsState": ("inner_state",),
    "InjectStatefulHyperparamsState": ("hyperparams_states", "inner_state"),
}
