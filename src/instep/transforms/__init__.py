"""Rule fragments of a few lines, to put before or after an optimizer in a `chain`."""

from typing import TYPE_CHECKING, Any

from instep.elsewhere import absent
from instep.transforms.averaging import average, lookahead
from instep.transforms.clipping import clip_by_global_norm, clip_by_norm, clip_by_value
from instep.transforms.control import accumulate, skip_nonfinite
from instep.transforms.gradients import (
    conjugate,
    grokfast,
    maximize,
    scale_gradients,
    weight_decay,
)
from instep.transforms.halfspace import project_halfspace
from instep.transforms.projection import (
    project,
    project_modulus,
    project_norm,
    project_real,
    support,
)
from instep.transforms.proximal import group_soft_threshold, soft_threshold, total_variation
from instep.transforms.scaling import dynamic_scale
from instep.transforms.simplex import project_l1, project_simplex
from instep.transforms.steps import cautious, clip_change, decoupled_weight_decay, trust_ratio
from instep.transforms.units import adaptive_clip, centralize

__all__ = [
    "accumulate",
    "adaptive_clip",
    "average",
    "cautious",
    "centralize",
    "clip_by_global_norm",
    "clip_by_norm",
    "clip_by_value",
    "clip_change",
    "conjugate",
    "decoupled_weight_decay",
    "dynamic_scale",
    "grokfast",
    "group_soft_threshold",
    "lookahead",
    "maximize",
    "project",
    "project_halfspace",
    "project_l1",
    "project_modulus",
    "project_norm",
    "project_real",
    "project_simplex",
    "scale_gradients",
    "skip_nonfinite",
    "soft_threshold",
    "support",
    "total_variation",
    "trust_ratio",
    "weight_decay",
]


def __dir__() -> list[str]:
    return sorted(__all__)


if not TYPE_CHECKING:  # type checkers would take every name for one that there is

    def __getattr__(name: str) -> Any:
        raise absent(__name__, name, {"instep.transforms.": __all__})
