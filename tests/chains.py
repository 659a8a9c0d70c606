"""Chains that the tests run on every engine, and trees for them."""

import bits
import numpy as np

from instep import (
    LAMB,
    LARS,
    SGD,
    AdamW,
    Momentum,
    NAdam,
    RMSProp,
    ScheduleFreeAdamW,
    chain,
    partition,
)
from instep.schedules import Exponential
from instep.transforms import (
    accumulate,
    adaptive_clip,
    average,
    cautious,
    centralize,
    clip_by_global_norm,
    clip_by_norm,
    clip_by_value,
    clip_change,
    decoupled_weight_decay,
    dynamic_scale,
    grokfast,
    group_soft_threshold,
    lookahead,
    maximize,
    project,
    project_halfspace,
    project_l1,
    project_modulus,
    project_norm,
    project_simplex,
    scale_gradients,
    skip_nonfinite,
    soft_threshold,
    support,
    total_variation,
    trust_ratio,
    weight_decay,
)


def clipped_averaged_adamw(**settings):
    return chain(clip_by_global_norm(1.0), AdamW(), average(0.999), **settings)


#: Chains by name, and whether they take a norm: one NaN would spread from there to everything.
CHAINS = {
    "clipped, averaged AdamW": (clipped_averaged_adamw, True),
    "one pass of everything": (
        lambda **settings: chain(
            *(scale_gradients(0.5), clip_by_value(2.0), weight_decay(0.1), maximize()),
            *(Momentum(), project(-3.0, 3.0), lookahead(3), average(0.9)),
            **settings,
        ),
        False,
    ),
    "gathered before the norm": (
        lambda **settings: chain(
            skip_nonfinite(), accumulate(3), clip_by_global_norm(0.5), RMSProp(), **settings
        ),
        True,
    ),
    "scaled": (
        lambda **settings: chain(
            dynamic_scale(interval=3), clip_by_global_norm(1.0), Momentum(), **settings
        ),
        True,
    ),
    "norms everywhere": (
        lambda **settings: chain(
            clip_by_global_norm(3.0), clip_by_norm(2.0), LAMB(), project_norm(4.0), **settings
        ),
        True,
    ),
    "steps changed": (
        lambda **settings: chain(
            *(Momentum(Exponential(0.1, factor=0.9)), decoupled_weight_decay(0.1, corrected=True)),
            *(trust_ratio(0.5), cautious(), average(0.9)),
            **settings,
        ),
        True,
    ),
    "three rules": (
        lambda **settings: chain(
            *(skip_nonfinite(), accumulate(2), clip_by_global_norm(1.0)),
            partition(
                {
                    "[lr]*": LAMB(),
                    "*e*": chain(clip_by_global_norm(0.5), RMSProp()),
                    "*": chain(NAdam(), cautious()),
                }
            ),
            average(0.9),
            **settings,
        ),
        True,
    ),
    "unit by unit": (
        lambda **settings: chain(
            *(grokfast(1.5, 0.9), centralize(), adaptive_clip(0.1), adaptive_clip(units="last")),
            *(Momentum(), average(0.9)),
            **settings,
        ),
        True,
    ),
    "proximal steps": (
        lambda **settings: chain(
            *(Momentum(0.1), clip_change(0.5), soft_threshold(0.01), group_soft_threshold(0.1)),
            *(group_soft_threshold(0.1, "first"), group_soft_threshold(0.1, "last")),
            *(total_variation(0.1, 3), average(0.9)),
            **settings,
        ),
        True,
    ),
    "kept in sets": (
        lambda **settings: chain(
            *(clip_by_global_norm(1.0), ScheduleFreeAdamW(0.1), project_halfspace(-1.0, 2.0)),
            *(project_l1(20.0), project_l1(5.0, "last"), support(1.0), project_norm(3.0)),
            *(project_modulus(0.0, 2.0), average(0.9)),
            **settings,
        ),
        True,
    ),
    "shares": (
        lambda **settings: chain(
            *(SGD(0.1), project_simplex(3.0), project_simplex(1.0, "first")),
            **settings,
        ),
        True,
    ),
    "twice the same": (
        lambda **settings: chain(
            *(clip_by_norm(2.0), weight_decay(0.1), clip_by_norm(1.0)),
            *(LARS(), average(0.5), average(0.9)),
            **settings,
        ),
        True,
    ),
}


def steps_of(name):
    return 50 if name == "clipped, averaged AdamW" else 20


def trees(steps, ordinary):
    """Return parameters of several dtypes and layouts, and gradients of which some are missing."""
    rng = np.random.default_rng(12)
    draw = bits.ordinary if ordinary else bits.wild
    start = {
        "half": bits.ordinary(rng, (130,), "float16"),
        "large": bits.ordinary(rng, (50, 401), "float32"),
        "strided": bits.ordinary(rng, (60, 70), "float32")[::2, ::-1],
        "fortran": np.asfortranarray(bits.ordinary(rng, (30, 7), "float32")),
        "double": bits.ordinary(rng, (41, 9), "float64"),
        "empty": np.zeros((0, 3), "float32"),
        "scalar": np.array(2.5, "float32"),
    }
    gradients = []
    for step in range(steps):
        grads = {key: draw(rng, w.shape, w.dtype) for key, w in start.items()}
        for number, key in enumerate(start):
            if (step + number) % 5 == 0:
                grads[key] = None
        gradients.append(grads)
    return start, gradients
