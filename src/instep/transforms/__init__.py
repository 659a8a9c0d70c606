"""Rule fragments of a few lines, to put before or after an optimizer in a `chain`."""

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
from instep.transforms.projection import project, project_modulus, project_norm, project_real
from instep.transforms.scaling import dynamic_scale
from instep.transforms.steps import cautious, decoupled_weight_decay, trust_ratio
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
    "conjugate",
    "decoupled_weight_decay",
    "dynamic_scale",
    "grokfast",
    "lookahead",
    "maximize",
    "project",
    "project_modulus",
    "project_norm",
    "project_real",
    "scale_gradients",
    "skip_nonfinite",
    "trust_ratio",
    "weight_decay",
]
