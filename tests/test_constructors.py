# ruff: noqa: SLF001  (it looks inside on purpose)
"""A class of rules may have a constructor of its own, which leaves the rest to that of its base."""

import copy
import inspect
import pickle

import numpy as np
import pytest

from instep import Adam, Optimizer, Transform, chain
from instep.hyperparameters import NonNegative

ONES = np.ones(2)


class Scaled(Optimizer):
    """Gradient descent whose constructor takes another number than its hyperparameters."""

    lr: NonNegative = 0.1
    beta: float = 0.5
    nesterov: bool = False
    engine = "blocked"

    def __init__(self, scale=1.0, **settings):
        super().__init__(lr=0.25 * scale, **settings)
        self._scale = scale

    @staticmethod
    def rule(xp, w, g, s, h):
        return w - h.lr * g, {}


class Derived(Scaled):
    lr = 0.75
    gamma: float = 3


def test_hyperparameters_are_given_to_the_constructor_of_the_base_class():
    optimizer, w = Scaled(2.0, seed=3), np.zeros(2)
    optimizer.update(w, ONES)
    assert w.tolist() == [-0.5, -0.5]
    assert (optimizer.lr, optimizer.beta, optimizer.nesterov) == (0.5, 0.5, False)
    assert (optimizer.engine, optimizer.seed, optimizer._scale) == ("blocked", 3, 2.0)
    assert "Scaled(lr=0.5, beta=0.5, nesterov=False, seed=3) at t=1" in repr(optimizer)
    assert str(inspect.signature(Scaled)) == "(scale=1.0, **settings)"
    for other in (copy.copy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert (repr(other), other._scale) == (repr(optimizer), 2.0)


def test_what_is_given_is_validated():
    with pytest.raises(ValueError, match=r"^Scaled: lr must be a finite number >= 0.*got -0\.25"):
        Scaled(-1.0)
    with pytest.raises(TypeError, match=r"^Scaled: nesterov must be True or False, got 1"):
        Scaled(nesterov=1)
    with pytest.raises(TypeError, match=r"^Scaled has no hyperparameter 'lrr'; did you mean lr\?"):
        Scaled(lrr=1)


def test_a_class_without_one_has_that_of_its_base_class():
    optimizer = Derived(2.0)
    assert (optimizer.lr, optimizer.gamma, optimizer._scale) == (0.5, 3.0, 2.0)
    assert type(optimizer.gamma) is float


def test_defaults_of_a_subclass_are_those_that_count():
    class Quick(Adam):
        lr = 0.5
        eps: NonNegative = 1

        def __init__(self, beta1=0.5):
            super().__init__(beta1=beta1)

    assert repr(Quick()) == repr(Quick(0.5))
    assert (Quick().lr, Quick().beta1, Quick().beta2, Quick().eps) == (0.5, 0.5, 0.999, 1.0)


def test_what_was_set_before_stays():
    class Early(Scaled):
        def __init__(self, beta):
            self.beta = beta
            super().__init__()

    assert Early(0.25).beta == 0.25


def test_what_has_no_default_must_be_given():
    class Bare(Scaled):
        power: float

        def __init__(self, power=None):
            Optimizer.__init__(self, **({} if power is None else {"power": power}))

    assert Bare(2).power == 2.0
    with pytest.raises(TypeError, match=r"^Bare: power has no default; write super\(\)\.__init__"):
        Bare()


def test_values_are_looked_at_together():
    class Ordered(Scaled):
        low: float = 0.0
        high: float = 1.0

        def __init__(self, low):
            super().__init__(low=low)

        def check_values(self, values):
            if values["low"] > values["high"]:
                raise ValueError("low > high")

    assert Ordered(0.5).low == 0.5
    with pytest.raises(ValueError, match="low > high"):
        Ordered(1.5)


def test_a_transform_may_have_one():
    class times(Transform):  # noqa: N801  (as those of the kit)
        stage = "gradient"
        factor: float = 1.0

        def __init__(self, percent):
            super().__init__(factor=percent / 100)

        @staticmethod
        def rule(xp, w, g, s, h):
            return h.factor * g, {}

    w = np.zeros(2)
    chain(times(50), Scaled(4.0)).update(w, ONES)
    assert w.tolist() == [-0.5, -0.5]


def test_a_constructor_that_calls_no_other_is_an_error_at_once():
    class Forgetful(Scaled):
        def __init__(self, lr):
            self.lr = lr

    message = r"^Forgetful: its constructor has not called super\(\).__init__\(\); call it, with"
    with pytest.raises(TypeError, match=message):
        Forgetful(0.1)


def test_hyperparameters_are_given_by_their_names():
    class Unnamed(Optimizer):
        lr: float = 0.1
        rule = staticmethod(Scaled.rule)

        def __init__(self, lr):
            super().__init__(lr)

    with pytest.raises(
        TypeError, match=r"^Unnamed takes no arguments.*super\(\).__init__\(lr=\.\.\.\)"
    ):
        Unnamed(0.1)
    with pytest.raises(TypeError, match=r"^Adam takes at most 6 arguments without names, got 7"):
        Adam(*[0.1] * 7)


@pytest.mark.parametrize(
    ("value", "remedy"), [(0.5, "lr: float = 0.5"), (1, "lr: float = 1"), (True, "lr: bool = True")]
)
def test_a_default_without_annotation_is_told_from_a_name_that_does_not_exist(value, remedy):
    bare = type("Bare", (Optimizer,), {"lr": value, "rule": staticmethod(Scaled.rule)})
    message = f"^Bare has no hyperparameter 'lr'; annotate it in the class: {remedy}$"
    with pytest.raises(TypeError, match=message):
        bare(lr=value)
    with pytest.raises(AttributeError, match=message):
        bare().lr = value
    with pytest.raises(AttributeError, match="no hyperparameter 'guarded'; it has none"):
        bare().guarded = True


def test_an_attribute_of_ones_own_begins_with_an_underscore():
    with pytest.raises(AttributeError, match=r"; an attribute of your own .* underscore, _extra$"):
        Scaled().extra = 3
    optimizer = Scaled()
    optimizer._extra = 3
    assert optimizer._extra == 3


@pytest.mark.parametrize("base", [Optimizer, Transform])
def test_what_has_no_rule_is_told_of_the_class_that_is_documented(base):
    for cls in (base, type("Empty", (base,), {})):
        with pytest.raises(
            TypeError, match=f"^{cls.__name__} has no rule; .*class {base.__name__}"
        ):
            cls()
