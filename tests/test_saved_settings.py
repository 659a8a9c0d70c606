"""Schedules, functions, overrides and what is frozen come back with a state, or it says why not."""

import re
import threading

import numpy as np
import pytest

from instep import SGD, Adam, chain, partition
from instep.schedules import (
    After,
    Constant,
    Cosine,
    Exponential,
    Join,
    Linear,
    Product,
    ReduceOnPlateau,
    Schedule,
    Sum,
    WarmUp,
)
from instep.schedules.stored import _KIT
from instep.transforms import clip_by_global_norm, dynamic_scale, weight_decay


def halved(step):
    return 0.5**step


def quartered(step):
    return 0.25**step


class Rates:
    """Something of the user's with a lock, which cannot be copied."""

    def __init__(self):
        self.lock, self.rate = threading.Lock(), 0.5

    def at(self, step):
        return self.rate


def told(*losses, **arguments):
    schedule = ReduceOnPlateau(1.0, factor=0.5, patience=0, **arguments)
    for loss in losses:
        schedule.report(loss)
    return schedule


WAYS = {
    "file": lambda old, new, path, **kw: (old.save(path / "a.npz"), new.load(path / "a.npz", **kw)),
    "safetensors": lambda old, new, path, **kw: (
        pytest.importorskip("safetensors"),
        old.save(path / "a.safetensors"),
        new.load(path / "a.safetensors", **kw),
    ),
    "dict": lambda old, new, path, **kw: new.load_state_dict(old.state_dict(), **kw),
}


def written(value):
    """Return how a value is written, without where in memory it is: names of tests are alike."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


every_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)

SCHEDULES = [
    Constant(0.5),
    Cosine(1.0, steps=10),
    WarmUp(3, then=Cosine(1.0, steps=10)),
    Join([1.0, Linear(0.5, 0.0, steps=2)], boundaries=[3]),
    After(2, of=WarmUp(4, then=Exponential(1.0, 0.5))),
    2 * Linear(1.0, 0.5, steps=4) + 0.25,
    told(3.0, 2.0, 2.0, 2.0, 2.0),
    ReduceOnPlateau(1.0),  # whose best metric is infinite
    Product((told(1.0, 2.0), WarmUp(2, then=1.0))),
]


@every_way
@pytest.mark.parametrize("schedule", SCHEDULES, ids=written)
@pytest.mark.parametrize("kind", ["plain", "other arguments"])
def test_a_schedule_of_the_kit_comes_back_as_it_was(schedule, kind, way, tmp_path):
    old = SGD(schedule)
    new = SGD(0.125) if kind == "plain" else SGD(other_arguments(schedule))
    way(old, new, tmp_path)
    assert new.lr == schedule
    assert repr(new) == repr(old)
    assert new.lr is not schedule
    assert [new.lr(step) for step in range(1, 20)] == [schedule(step) for step in range(1, 20)]


def other_arguments(schedule):
    """Return a schedule of the same classes, of which some number is another."""
    others = {
        Constant: Constant(0.25),
        Cosine: Cosine(2.0, steps=3, end=1.0),
        WarmUp: WarmUp(5, then=Cosine(2.0, steps=3, end=1.0), start=0.125),
        Join: Join([2.0, Linear(1.0, 0.5, steps=2)], boundaries=[4]),
        After: After(1, of=WarmUp(2, then=Exponential(0.5, 0.25))),
        Product: Product((ReduceOnPlateau(4.0), WarmUp(3, then=2.0))),
        ReduceOnPlateau: ReduceOnPlateau(8.0, patience=3),
        Sum: 4 * Linear(0.25, 0.5, steps=8) + 0.75,
    }
    return others[type(schedule)]


def test_every_schedule_of_the_kit_is_known_to_files():
    def below(cls):
        for sub in cls.__subclasses__():
            yield sub
            yield from below(sub)

    kit = {
        cls
        for cls in below(Schedule)
        if cls.__module__.startswith("instep.") and not cls.__name__.startswith("_")
    }
    assert kit == set(_KIT)


@every_way
def test_a_plateau_goes_on_where_it_was_and_stays_the_object_that_is_told(way, tmp_path):
    old = SGD(told(3.0, 3.0, 3.0, 3.0))
    assert old.lr(1) == 0.125
    mine = ReduceOnPlateau(1.0, factor=0.5, patience=0)
    new = SGD(mine)
    way(old, new, tmp_path)
    assert new.lr is mine
    assert mine(1) == 0.125
    mine.report(3.0)
    assert (new.lr(1), old.lr(1)) == (0.0625, 0.125)


def test_a_plateau_that_two_rules_have_stays_one(tmp_path):
    shared = told(3.0, 3.0)
    old = partition({"a": SGD(shared), "*": Adam(shared)})
    old.save(tmp_path / "state.npz")
    for new in (
        partition({"a": SGD(), "*": Adam()}).load(tmp_path / "state.npz"),
        partition({"a": SGD(), "*": Adam()}).load_state_dict(old.state_dict()),
    ):
        first, second = (branch.lr for branch in new.branches.values())
        assert first is second
        assert first == shared


def test_what_is_told_later_does_not_change_a_state(tmp_path):
    optimizer = SGD(told(3.0))
    state = optimizer.state_dict()
    optimizer.lr.report(3.0)
    assert state["hyperparameters"]["lr"](1) == 1.0
    assert optimizer.load_state_dict(state).lr(1) == 1.0


MISMATCHES = [
    (Cosine(1.0, steps=10), Linear(1.0, 0.0, steps=10)),
    (WarmUp(3, then=Cosine(1.0, steps=10)), WarmUp(3, then=Linear(1.0, 0.0, steps=10))),
    (WarmUp(3, then=Cosine(1.0, steps=10)), WarmUp(3, then=halved)),
    (WarmUp(3, then=1.0), WarmUp(3, then=halved)),
    (Cosine(1.0, steps=10), halved),
    (halved, Cosine(1.0, steps=10)),
    (halved, quartered),
    (0.5, halved),
    (0.5, Cosine(1.0, steps=10)),
    (WarmUp(3, then=halved), WarmUp(3, then=quartered)),
]


@every_way
@pytest.mark.parametrize(("saved", "present"), MISMATCHES, ids=written)
def test_what_does_not_go_together_is_an_error_or_stays_as_it_is(saved, present, way, tmp_path):
    old, new, w = SGD(saved), SGD(present), np.zeros(2)
    old.update(w, w + 1)
    with pytest.raises(ValueError, match=r"SGD\.load.*: lr.* was saved as .*, and here it is"):
        way(old, new, tmp_path)
    assert (new.t, new.lr) == (0, present)
    way(old, new, tmp_path, strict=False)
    assert (new.t, new.lr) == (1, present)


@every_way
@pytest.mark.parametrize(
    "nest",
    [lambda f: f, lambda f: WarmUp(3, then=f), lambda f: f * Constant(2)],
    ids=["alone", "in a schedule", "in a product"],
)
def test_a_function_goes_with_the_one_of_its_name(nest, way, tmp_path):
    old, new = SGD(nest(halved)), SGD(nest(halved))
    present = new.lr
    way(old, new, tmp_path)
    assert new.lr is present


def test_a_file_has_of_a_function_the_name_alone(tmp_path):
    SGD(WarmUp(3, then=halved)).save(tmp_path / "state.npz")
    plain = SGD(0.25)
    with pytest.raises(ValueError, match=r"lr was saved with the function .*\.halved, of which a"):
        plain.load(tmp_path / "state.npz")
    assert plain.lr == 0.25
    assert plain.load(tmp_path / "state.npz", strict=False).lr == 0.25
    # A state in memory has the function itself.
    state = SGD(halved).state_dict()
    assert state["hyperparameters"]["lr"] is halved
    assert plain.load_state_dict(state).lr is halved


def test_the_object_of_a_method_is_neither_copied_nor_replaced():
    rates = Rates()
    optimizer = SGD(rates.at)
    before = optimizer.lr
    state = optimizer.state_dict()
    assert state["hyperparameters"]["lr"].__self__ is rates
    other = Rates()
    new = SGD(other.at).load_state_dict(state)
    assert new.lr.__self__ is other
    optimizer.load_state_dict(state)
    assert optimizer.lr is before
    rates.rate = 0.25
    assert optimizer.update(np.zeros(1), np.ones(1)) == [-0.25]


# What chooses leaves -------------------------------------------------------------------------


def is_vector(path, w):
    return w.ndim == 1


def trees():
    return {"a": np.ones(2), "b": np.ones((2, 2))}, {"a": np.ones(2), "b": np.ones((2, 2))}


@every_way
@pytest.mark.parametrize(
    "wrap", [SGD, lambda **kw: chain(SGD(), **kw)], ids=["alone", "in a chain"]
)
def test_what_is_frozen_stays_frozen_after_a_resume_through_a_plain_constructor(
    wrap, way, tmp_path
):
    old = wrap(frozen=("a",), overrides={"b": {"lr": Linear(1.0, 0.0, steps=4)}}, seed=5)
    params, grads = trees()
    old.update(params, grads)
    new = wrap()
    way(old, new, tmp_path)
    assert repr(new) == repr(old)
    new.update(params, grads)
    assert params["a"].tolist() == [1.0, 1.0]
    assert params["b"].tolist() == [[-0.75, -0.75]] * 2


@every_way
def test_settings_that_are_the_same_stay_the_objects_that_they_are(way, tmp_path):
    def make(rate):
        return SGD(frozen=(is_vector,), overrides={is_vector: {"lr": halved}, "b": {"lr": rate}})

    old, new, same = make(0.5), make(0.25), make(0.5)
    before, given = new.overrides, same.overrides
    way(old, new, tmp_path)
    assert new.overrides == {is_vector: {"lr": halved}, "b": {"lr": 0.5}}
    assert before["b"] == {"lr": 0.25}  # the user's dict is not changed
    way(old, same, tmp_path)
    assert same.overrides is given
    assert same.frozen == (is_vector,)


@every_way
@pytest.mark.parametrize(
    ("saved", "present"),
    [
        ({"frozen": ("a",)}, {"frozen": ("b",)}),
        ({}, {"frozen": ("b",)}),
        ({"overrides": {"a": {"lr": 0.5}}}, {"overrides": {"b": {"lr": 0.5}}}),
        ({"overrides": {"a": {"lr": 0.5}}}, {"overrides": {"a": {"momentum": 0.5}}}),
        ({"overrides": {"a": {"lr": halved}}}, {"overrides": {"a": {"lr": quartered}}}),
        ({}, {"overrides": {"b": {"lr": 0.5}}}),
    ],
    ids=written,
)
def test_settings_that_differ_are_an_error_or_stay_as_they_are(saved, present, way, tmp_path):
    old, new = SGD(**saved), SGD(**present)
    text = repr(new)
    with pytest.raises(ValueError, match=r"SGD\.load.*: (frozen|overrides).* was saved as"):
        way(old, new, tmp_path)
    assert repr(new) == text
    way(old, new, tmp_path, strict=False)
    assert repr(new) == text


@every_way
@pytest.mark.parametrize("number", [np.float32(0.5), np.array(0.5), np.int64(1), 1], ids=written)
def test_any_number_in_overrides_is_saved(number, way, tmp_path):
    new = SGD()
    way(SGD(overrides={"a": {"lr": number}}), new, tmp_path)
    assert new.overrides == {"a": {"lr": float(number)}}


@every_way
def test_an_array_in_overrides_is_saved(way, tmp_path):
    array, new = np.array([0.5, 0.25]), SGD(overrides={"a": {"lr": np.zeros(2)}})
    way(SGD(overrides={"a": {"lr": array}}), new, tmp_path)
    assert new.overrides["a"]["lr"].tolist() == [0.5, 0.25]
    assert new.overrides["a"]["lr"] is not array


def test_functions_that_choose_are_named_in_files(tmp_path):
    old = SGD(frozen=(is_vector,), overrides={is_vector: {"lr": 0.5}})
    old.save(tmp_path / "state.npz")
    with pytest.raises(ValueError, match=r"was saved with the function .*\.is_vector, of which"):
        SGD().load(tmp_path / "state.npz")
    assert SGD().load_state_dict(old.state_dict()).frozen == (is_vector,)


# Names of parameters -------------------------------------------------------------------------


def stepped(*names, optimizer=None):
    optimizer = optimizer or Adam(0.1)
    params = {name: np.ones(2) for name in names}
    optimizer.update(params, {name: np.ones(2) for name in names})
    return optimizer


@every_way
def test_parameters_of_other_names_are_an_error_at_the_first_step(way, tmp_path):
    old, new = stepped("v", "w"), Adam(0.1)
    way(old, new, tmp_path)
    params = {"v": np.ones(2), "module.w": np.ones(2)}
    grads = {"v": np.ones(2), "module.w": np.ones(2)}
    for _ in range(2):
        with pytest.raises(ValueError, match=r"Adam\.update: .*of 'w', which .* of 'module\.w'"):
            new.update(params, grads)
    assert new.t == 1
    assert params["v"].tolist() == [1.0, 1.0]
    way(old, new, tmp_path, strict=False)
    new.update(params, grads)
    assert new.t == 2
    other = stepped("v", "w").load_state_dict(old.state_dict())
    stepped("v", "w", optimizer=other)  # the right names


def test_a_step_on_a_part_of_the_tree_and_a_tree_that_grows_are_no_misses():
    state = stepped("a", "b", "c").state_dict()
    for names in (["a"], ["a", "b", "c", "new"]):
        stepped(*names, optimizer=Adam(0.1).load_state_dict(state))
    # One after the other; and in the second round something new.
    optimizer = Adam(0.1).load_state_dict(state)
    for names in (["a"], ["b"], ["a"], ["new"]):
        stepped(*names, optimizer=optimizer)
    # A renamed one of several, which are stepped one after the other.
    optimizer = Adam(0.1).load_state_dict(state)
    stepped("a", optimizer=optimizer)
    with pytest.raises(ValueError, match=r"of 'b', 'c', which this tree has not.* of 'module\.b'"):
        stepped("module.b", optimizer=optimizer)


def test_a_gradient_of_none_and_a_frozen_leaf_are_no_misses():
    state = stepped("a", "b", "c").state_dict()
    optimizer = Adam(0.1, frozen=("c",)).load_state_dict(state, strict=False)
    assert optimizer.frozen == ("c",)
    optimizer = Adam(0.1).load_state_dict(state)
    optimizer.frozen = ("c",)
    params = {name: np.ones(2) for name in ("a", "b", "c", "new")}
    optimizer.update(params, {"a": np.ones(2), "b": None, "c": None, "new": np.ones(2)})
    assert optimizer.t == 2


# Damage --------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0.0, -1.0, np.nan, np.inf, 1e300])
def test_a_damaged_scale_is_refused(scale):
    optimizer = stepped("w", optimizer=chain(dynamic_scale(8.0), SGD()))
    state = optimizer.state_dict()
    state["numbers"]["dynamic_scale_loss_scale"] = scale
    with pytest.raises(ValueError, match="'dynamic_scale_loss_scale' must be a finite number in"):
        optimizer.load_state_dict(state)
    assert optimizer.scale == 8.0


@pytest.mark.parametrize("streak", [-1.0, 0.5, np.nan])
def test_a_damaged_streak_is_refused(streak):
    optimizer = stepped("w", optimizer=chain(dynamic_scale(8.0), SGD()))
    state = optimizer.state_dict()
    state["numbers"]["dynamic_scale_streak"] = streak
    with pytest.raises(ValueError, match="'dynamic_scale_streak' must be an integer >= 0"):
        optimizer.load_state_dict(state)


@pytest.mark.parametrize(
    ("entry", "value", "message"),
    [
        ("overrides", [], "'overrides' must be a dict"),
        ("overrides", {"a": 1}, r"overrides\['a'\] must be a dict"),
        ("overrides", {1: {}}, "overrides must have patterns"),
        ("frozen", "a", "'frozen' must be a list"),
        ("frozen", [1], "frozen must have patterns"),
        ("seed", 0.5, "'seed' must be an integer"),
        ("numbers", {"dynamic_scale_loss_scale": 10**400}, "has the numbers|within the range"),
    ],
)
def test_damaged_settings_change_nothing(entry, value, message):
    optimizer = stepped("w", optimizer=chain(clip_by_global_norm(1.0), weight_decay(), SGD()))
    text = repr(optimizer)
    with pytest.raises((TypeError, ValueError), match=message):
        optimizer.load_state_dict(optimizer.state_dict() | {entry: value})
    assert repr(optimizer) == text
