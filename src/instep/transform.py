"""The base class of transforms: rule fragments that fuse with an optimizer's rule."""

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from instep.rule import Rule

#: In the order in which they stand in a chain; the optimizer comes after the first.
STAGES = ("gradient", "step", "parameter")


class Transform(Rule):
    """A fragment of a rule that stands before or after an optimizer in a `chain`.

    Its class attribute `stage` says what it works on. A transform of the gradient stands before
    the optimizer and returns the new gradient, with a dict of new slots::

        class clip_by_value(Transform):
            stage = "gradient"

            limit: float = 1.0

            @staticmethod
            def rule(xp, w, g, s, h):
                return xp.clip(g, -h.limit, h.limit), {}

    A transform of the step comes next after the optimizer. It sees the parameter `w` from before
    the step, and the one that the optimizer proposes, `new`, and returns another one. `g` is the
    gradient that the optimizer was given, and ``h.lr`` the optimizer's learning rate, where the
    transform has none of its own::

        class decoupled_weight_decay(Transform):
            stage = "step"

            rate: float = 0.01

            @staticmethod
            def rule(xp, w, new, g, s, h):
                return new - h.lr * h.rate * w, {}

    A transform of the parameter comes last: its `w` is the parameter after the step, and it
    returns the one that is kept.

    A transform of the gradient that returns None instead of a gradient ends the step there: what
    stands after it does not run in this call, and neither does the optimizer. It must then derive
    a boolean named ``complete`` in `scalars`, true in every n-th call, and have an attribute
    `period`, this n, by which what stands after it counts its steps. One that calls `xp.require`
    says so with the class attribute ``guarded = True``.

    One of the parameter that keeps it in a set, as `project` does, says ``constrains = True``: what
    an optimizer answers with is kept there, too. It has no slots, and looks at each tensor by
    itself.
    """

    #: What the fragment works on, ``"gradient"`` before the step, ``"step"`` while parameters from
    #: before it are still known, ``"parameter"`` after it.
    stage: ClassVar[Literal["gradient", "step", "parameter"]]

    borrowed: ClassVar[tuple[str, ...]] = ()

    if TYPE_CHECKING:  # a constructor of one's own may call it with hyperparameters

        def __init__(self, **values: Any) -> None: ...

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        own = [entry.name for entry in cls.hyperparameters]
        cls.borrowed = ("lr",) if getattr(cls, "stage", "") == "step" and "lr" not in own else ()

    def __post_init__(self) -> None:
        super().__post_init__()
        stage = getattr(self, "stage", None)
        if stage not in STAGES:
            raise TypeError(
                f'{self.name}: the class attribute `stage` must be "gradient", "step" or '
                f'"parameter", got {stage!r}'
            )
        if self.constrains and (stage != "parameter" or self._keeps()):
            raise TypeError(
                f"{self.name}: with constrains, it is called with other points than the parameter, "
                f'of which it can remember nothing; give it the stage "parameter", and neither '
                f"slots nor numbers"
            )

    def _keeps(self) -> bool:
        """Return whether it has state, or turns calls away."""
        return bool(self.state_slots() or self.scalar_slots or self.numbers or self.guarded)
