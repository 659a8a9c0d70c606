"""Schedules, `minimize` and its methods say what to write for arguments of other libraries."""

import copy
import dataclasses
import inspect
import pickle
import re

import numpy as np
import pytest

import instep
from instep import FISTA, LBFGS, Adam, ConjugateGradient, calls, minimize, schedules
from instep.schedules import Cosine, CosineRestarts, InverseTime, OneCycle, ReduceOnPlateau

METHODS = FISTA, LBFGS, ConjugateGradient
SCHEDULES = [getattr(schedules, name) for name in schedules.__all__]

CALLS = [
    (schedules.StepDecay, "gamma", "it is called factor here"),
    (schedules.StepDecay, "step_size", "it is called every here"),
    (schedules.Exponential, "decay_rate", "it is called factor here"),
    (InverseTime, "decay", "it is called rate here"),
    (Cosine, "T_max", "it is called steps here"),
    (Cosine, "eta_min", "it is called end here"),
    (Cosine, "stepss", "did you mean steps?"),
    (Cosine, "optimizer", "a schedule is given to an optimizer, as its lr"),
    (Cosine, "warmth", "it has start, steps, end, power"),
    (CosineRestarts, "T_mult", "it is called growth here"),
    (OneCycle, "max_lr", "it is called peak here"),
    (OneCycle, "pct_start", "it is called rising here"),
    (ReduceOnPlateau, "mode", 'best="smallest" is the mode "min"'),
    (schedules.WarmUp, "warmup_steps", "it is called steps here"),
    (LBFGS, "m", "it is called history here"),
    (LBFGS, "lr", "a line search finds the length of each step"),
    (LBFGS, "bounds", "give lower and upper to LBFGS"),
    (LBFGS, "max_iter", "give it to minimize, as steps"),
    (FISTA, "step_size", "it is called lr here"),
    (FISTA, "regularizer", "it is called prox here"),
    (ConjugateGradient, "gtol", "give it to minimize, as tolerance"),
    (minimize, "x0", "it is called params here"),
    (minimize, "jac", "let the function return value and gradients"),
    (minimize, "tol", "it is called tolerance here"),
    (minimize, "maxiter", "it is called steps here"),
    (minimize, "bounds", "give them to the method: LBFGS(lower=0.0, upper=1.0)"),
    (minimize, "warmth", "it has value_and_grad, params, method, steps"),
]


@pytest.mark.parametrize(("called", "name", "remedy"), CALLS)
def test_an_argument_of_another_library_is_refused_with_the_one_that_is_meant(called, name, remedy):
    text = f"^{called.__name__} has no argument {name!r}; {re.escape(remedy)}"
    with pytest.raises(TypeError, match=text):
        called(**{name: 3})


@pytest.mark.parametrize(
    ("functions", "called", "remedies"),
    [
        (SCHEDULES, calls.OF_SCHEDULES, calls.REMEDIES_OF_SCHEDULES),
        (METHODS, calls.OF_METHODS, calls.REMEDIES_OF_METHODS),
        ([minimize], calls.OF_MINIMIZE, calls.REMEDIES_OF_MINIMIZE),
    ],
    ids=["schedules", "methods", "minimize"],
)
def test_tables_speak_of_arguments_that_there_are(functions, called, remedies):
    own = {name for function in functions for name in inspect.signature(function).parameters}
    own |= set(inspect.signature(instep.StrongWolfe).parameters)
    assert set(called) <= own
    spelled = [word for words in called.values() for word in words.split()]
    assert spelled == [word.lower() for word in spelled]
    known = {*instep.__all__, *schedules.__all__, "report", "minimize", "project", "f", "schedule"}
    for text in remedies.values():
        assert set(re.findall(r"(\w+)\(", text)) <= known


def test_what_is_told_changes_nothing_else():
    schedule = Cosine(0.1, steps=3)
    assert pickle.loads(pickle.dumps(schedule)) == copy.deepcopy(schedule) == schedule
    assert dataclasses.replace(schedule, steps=4) == Cosine(0.1, 4)
    assert str(inspect.signature(Cosine)).startswith("(start: float, steps: int, end: float = 0.0")
    assert str(inspect.signature(minimize)).endswith(
        "resume: str | PathLike[str] | None = None) -> Result"
    )

    @dataclasses.dataclass(frozen=True)
    class Shifted(Cosine):
        shift: float = 1.0

        def at(self, step, value=None):
            return super().at(step) + self.shift

    assert Shifted(0.0, steps=3, shift=2.0)(1) == 2.0
    with pytest.raises(TypeError, match=r"missing 1 required positional argument: 'steps'"):
        Cosine(0.1)


@pytest.mark.parametrize("name", calls.ATTRIBUTES_OF_SCHEDULES)
def test_attributes_of_schedulers_say_what_to_do(name):
    text = f"^Cosine has no attribute '{name}'; {re.escape(calls.ATTRIBUTES_OF_SCHEDULES[name])}$"
    with pytest.raises(AttributeError, match=text):
        getattr(Cosine(0.1, steps=3), name)


def test_other_attributes_of_schedules_are_absent_as_usual():
    assert not hasattr(Cosine(0.1, steps=3), "warmth")
    with pytest.raises(AttributeError, match=r"^Cosine has no attribute 'warmth'$"):
        Cosine(0.1, steps=3).warmth  # noqa: B018


def test_a_schedule_that_is_told_about_still_works():
    optimizer = Adam(lr=Cosine(0.1, steps=10))
    w = optimizer.update(np.ones(3), np.ones(3))
    assert (w < 1).all()


def test_results_say_what_they_call_what_is_asked():
    result = minimize(lambda w: ((w**2).sum(), 2 * w), np.ones(3))
    names = dir(result)
    for name, remedy in calls.ATTRIBUTES_OF_RESULTS.items():
        assert name not in names
        with pytest.raises(AttributeError, match=f"^a result has no {name!r}; {remedy}$"):
            getattr(result, name)
        called = re.search(r"it is called (\w+) here", remedy)
        assert called is None or called[1] in names
    with pytest.raises(AttributeError, match=r"^a result has no 'warmth'; it has x, fun, jac, nit"):
        result.warmth  # noqa: B018
    assert pickle.loads(pickle.dumps(result)).fun == copy.deepcopy(result).fun == result.fun


def test_a_property_of_a_schedule_says_what_it_lacks_itself():
    class Own(schedules.Schedule):
        @property
        def span(self):
            return self.missing

        def at(self, step, value=None):
            return 1.0

    with pytest.raises(AttributeError, match=r"^Own has no attribute 'missing'$"):
        Own().span  # noqa: B018
