"""The base class of transforms: rule fragments that fuse with an optimizer's rule."""

from typing import ClassVar, Literal

from instep.rule import Rule


class Transform(Rule):
    """A fragment of a rule that stands before or after an optimizer in a `chain`.

    A transform of the gradient returns the new gradient, one of the parameter the new parameter,
    each with a dict of new slots::

        class clip_by_value(Transform):
            stage = "gradient"

            limit: float = 1.0

            @staticmethod
            def rule(xp, w, g, s, h):
                return xp.clip(g, -h.limit, h.limit), {}

    For a transform of the parameter, `w` is the parameter after the step. A transform of the
    gradient that returns None instead of a gradient ends the step there: what stands after it
    does not run in this call, and neither does the optimizer. It must then derive a boolean
    named ``complete`` in `scalars`, true in every n-th call, and have an attribute `period`, this
    n, by which what stands after it counts its steps. One that calls `xp.require` says so with
    the class attribute ``guarded = True``.
    """

    #: What the fragment works on, ``"gradient"`` before the step or ``"parameter"`` after it.
    stage: ClassVar[Literal["gradient", "parameter"]]

    def __post_init__(self) -> None:
        super().__post_init__()
        stage = getattr(self, "stage", None)
        if stage not in ("gradient", "parameter"):
            raise TypeError(
                f'{self.name}: the class attribute `stage` must be "gradient" or "parameter", '
                f"got {stage!r}"
            )
