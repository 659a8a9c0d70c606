# ruff: noqa: SLF001  (it looks inside on purpose)
"""Steps that one call of compiled code takes, and what they must leave to Python."""

import collections.abc
import gc
import importlib
import inspect
import os
import sys
import threading
import weakref
from typing import NamedTuple

import bits
import engine_runs
import numpy as np
import pytest

from instep import SGD, Adam, AdamW, Lion, Optimizer, RMSProp, chain, partition
from instep.plan import whole
from instep.plan.step import Plan
from instep.transforms import clip_by_global_norm, clip_by_value, weight_decay

pytest.importorskip("llvmlite")
check = importlib.import_module("instep.engines.native.check")
Word = importlib.import_module("instep.engines.native.whole_step_code").Word
WholeStep = importlib.import_module("instep.engines.native.whole_step").WholeStep

pytestmark = pytest.mark.skipif(
    engine_runs.why_not("native") is not None or not check.is_supported(),
    reason="needs compiled code that reads NumPy's arrays",
)

MAKES = {
    "SGD": SGD,
    "Adam": Adam,
    "AdamW": AdamW,
    "RMSProp": RMSProp,
    "Lion": Lion,
    "elements clipped": lambda: chain(clip_by_value(0.5), weight_decay(0.1), Adam()),
    "a norm clipped": lambda: chain(clip_by_global_norm(0.5), Adam()),
    "two rules": lambda: partition({"a": SGD(0.5), "*": Adam()}),
    "a leaf that missed a step": Adam,
}


@pytest.fixture
def pythonic(monkeypatch):
    """Collect the steps that Python has taken."""
    taken = []

    def counting(run):
        def count(self, *arguments):
            result = run(self, *arguments)
            taken.extend([run] * (result is not False))
            return result

        return count

    for name in ("repeat", "step"):
        monkeypatch.setattr(Plan, name, counting(getattr(Plan, name)))
    return taken


def problem():
    generator = np.random.default_rng(0)
    params = {name: generator.standard_normal(7).astype("float32") for name in "ba"}
    return params, {name: w[::-1].copy() for name, w in params.items()}


def settled(optimizer, params, grads):
    """Return an optimizer whose next step may be a whole one."""
    for _ in range(6):
        optimizer.update(params, grads)
    assert optimizer._state.plan.whole is not None
    return optimizer


def run(make, change, monkeypatch, patience, *, misses=False):
    """Take steps, one of them after a change; return parameters, and the optimizer."""
    monkeypatch.setattr(whole, "PATIENCE", patience)
    params, grads = problem()
    optimizer, seen = make(), []
    for t in range(16):
        if t == 10:
            change(optimizer, params, grads)
        grads = {name: g * np.float32(1.5) for name, g in grads.items() if g is not None}
        given = {name: grads.get(name) for name in params}
        if t == 3 and misses:
            given["a"] = None
        optimizer.update(params, given)
        seen.append((optimizer.t, dict(optimizer.readings), dict(optimizer.readings.leaves)))
    return params, optimizer, seen


def nothing(optimizer, params, grads):
    pass


@pytest.mark.parametrize("name", MAKES)
def test_whole_steps_leave_what_others_leave(name, monkeypatch, pythonic):
    misses = "missed" in name
    params, one, seen = run(MAKES[name], nothing, monkeypatch, 1, misses=misses)
    assert len(pythonic) <= 9
    others, other, as_seen = run(MAKES[name], nothing, monkeypatch, sys.maxsize, misses=misses)
    for key, w in params.items():
        bits.assert_same_bits(w, others[key])
    assert seen == as_seen
    engine_runs.assert_same_state(one, other)


def _move(optimizer, params, grads):
    params["a"] = params["a"].copy()


def _replace_dtype(optimizer, params, grads):
    grads["a"] = grads["a"].astype("float64")


def _forget_one(optimizer, params, grads):
    grads["b"] = None


def _add_a_leaf(optimizer, params, grads):
    params["c"], grads["c"] = params["a"].copy(), grads["a"].copy()


def _load(optimizer, params, grads):
    optimizer.load_state_dict(optimizer.state_dict())


CHANGES = {
    "a setting": lambda optimizer, *_: setattr(optimizer, "lr", 0.5),
    "a schedule": lambda optimizer, *_: setattr(optimizer, "lr", lambda step: 1 / step),
    "overrides": lambda optimizer, *_: setattr(optimizer, "overrides", {"a": {"lr": 0.5}}),
    "overrides in place": lambda optimizer, *_: optimizer.overrides.update({"a": {"lr": 0.5}}),
    "what is frozen": lambda optimizer, *_: setattr(optimizer, "frozen", ("a",)),
    "the engine": lambda optimizer, *_: setattr(optimizer, "engine", "blocked"),
    "all state": lambda optimizer, *_: optimizer.reset(),
    "a parameter's place": _move,
    "a gradient's dtype": _replace_dtype,
    "a missing gradient": _forget_one,
    "a new leaf": _add_a_leaf,
    "state that is loaded": _load,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_changes_is_heard_of(change, monkeypatch):
    params, one, seen = run(Adam, change, monkeypatch, 1)
    others, other, as_seen = run(Adam, change, monkeypatch, sys.maxsize)
    for key, w in params.items():
        bits.assert_same_bits(w, others[key])
    assert seen == as_seen
    engine_runs.assert_same_state(one, other)


class Pair(NamedTuple):
    b: object
    a: object


TREES = {
    "an array": lambda tree: tree["a"],
    "a list": lambda tree: list(tree.values()),
    "a tuple": lambda tree: tuple(tree.values()),
    "a named tuple": lambda tree: Pair(**tree),
    "numbers for keys": lambda tree: dict(enumerate(tree.values())),
    "an ordered dict": collections.OrderedDict,
    "branches": lambda tree: {"x": tree, "y": [tree["a"].copy()]},
}


@pytest.mark.parametrize("tree", TREES.values(), ids=TREES)
def test_trees_of_any_kind_are_read(tree, pythonic):
    params, grads = map(tree, problem())
    optimizer = settled(Adam(), params, grads)
    before = len(pythonic)
    for _ in range(5):
        assert optimizer.update(params, grads) is params
    assert len(pythonic) == before
    assert optimizer.t == 11


def same(tree):
    return tree


OTHERS = {
    "more parameters": (lambda tree: {**tree, "c": tree["a"]}, same),
    "fewer gradients": (same, lambda tree: {"a": tree["a"]}),
    "another name": (same, lambda tree: {"a": tree["a"], "c": tree["b"]}),
    "a list": (same, lambda tree: [*tree.values()]),
    "a branch": (same, lambda tree: {**tree, "a": tree}),
    "a number": (same, lambda tree: {**tree, "a": 1.0}),
    "a shorter one": (same, lambda tree: {**tree, "a": tree["a"][:3]}),
}


@pytest.mark.parametrize(("of_params", "of_grads"), OTHERS.values(), ids=OTHERS)
def test_other_trees_are_left_to_python(of_params, of_grads):
    params, grads = problem()
    optimizer = settled(Adam(), params, grads)
    before = {name: w.copy() for name, w in params.items()}
    with pytest.raises((TypeError, ValueError)):
        optimizer.update(of_params(params), of_grads(grads))
    assert optimizer.t == 6
    for name, w in params.items():
        bits.assert_same_bits(w, before[name])
    optimizer.update(params, grads)
    assert optimizer.t == 7


def test_more_groups_than_have_numbers_are_left_to_python(monkeypatch):
    monkeypatch.setattr("instep.plan.repetition.MOST_ROWS", 1)
    params, grads = problem()
    optimizer = Adam()
    optimizer.update(params, {**grads, "a": None})
    for _ in range(6):
        optimizer.update(params, grads)
    assert optimizer._state.plan.whole is None
    monkeypatch.setattr("instep.plan.repetition.MOST_ROWS", 2)
    settled(optimizer, params, grads)


class Ends(Optimizer):
    """Its rate has no value at one step."""

    lr: float = 1.0

    @staticmethod
    def rule(xp, w, g, s, h):
        return w - h.lr / (h.t - 9) * g, {}


def test_an_error_comes_out_before_anything_has_changed():
    params, grads = problem()
    optimizer = settled(Ends(), params, grads)
    optimizer.update(params, grads)
    optimizer.update(params, grads)
    before = {name: w.copy() for name, w in params.items()}
    for _ in range(3):
        with pytest.raises(ValueError, match="has no value"):
            optimizer.update(params, grads)
        assert optimizer.t == 8
        for name, w in params.items():
            bits.assert_same_bits(w, before[name])
    assert not optimizer._lock._is_owned()


def test_threads_take_turns():
    params, grads = problem()
    optimizer = settled(SGD(lr=1.0), params, grads)
    for w, g in zip(params.values(), grads.values(), strict=True):
        w[...], g[...] = 0, 1

    def steps():
        for _ in range(500):
            optimizer.update(params, grads)

    threads = [threading.Thread(target=steps) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert optimizer.t == 2006
    for w in params.values():
        assert (w == -2000).all()


def test_a_step_waits_for_a_call_of_another_thread():
    params, grads = problem()
    optimizer = settled(Adam(), params, grads)
    other = threading.Thread(target=optimizer.update, args=(params, grads))
    with optimizer._lock:
        other.start()
        other.join(0.05)
        assert other.is_alive()
        assert optimizer._state.t == 6
    other.join()
    assert optimizer.t == 7


def test_a_step_in_the_midst_of_another_is_refused():
    params, grads = problem()
    optimizer = settled(Adam(), params, grads)

    class Within(Adam):
        def again(self):
            with self._exclusive("save"):
                self.update(params, grads)

    optimizer = settled(Within(), params, grads)
    with pytest.raises(RuntimeError, match="in the midst"):
        optimizer.again()
    assert optimizer.t == 6


def test_nothing_is_kept_of_a_step_and_nothing_is_lost():
    params, grads = problem()
    optimizer = settled(Adam(lr=0.001), params, grads)
    given = {name: g.copy() for name, g in grads.items()}
    last = weakref.ref(given["a"])
    optimizer.update(params, given)
    del given
    assert last() is None
    rate, counts = optimizer.lr, [sys.getrefcount(x) for x in (*params.values(), optimizer.lr)]
    optimizer.update(params, grads)
    blocks = sys.getallocatedblocks()
    for _ in range(1000):
        optimizer.update(params, grads)
    assert sys.getallocatedblocks() < blocks + 100
    assert [sys.getrefcount(x) for x in (*params.values(), rate)] == counts


def test_an_optimizer_is_freed_at_once():
    params, grads = problem()
    optimizer = settled(Adam(), params, grads)
    gone = weakref.ref(optimizer)
    gc.disable()
    try:
        del optimizer
        assert gone() is None
    finally:
        gc.enable()


def test_optimizers_that_take_turns_hear_of_each_other(pythonic):
    params, grads = problem()
    one, other = settled(Adam(), params, grads), settled(SGD(), params, grads)
    for _ in range(3):  # one has heard that the other was made
        one.update(params, grads)
    before = len(pythonic)
    for _ in range(5):
        one.update(params, grads)
        other.update(params, grads)
    assert len(pythonic) == before
    other.lr = 0.5
    for _ in range(5):
        one.update(params, grads)
    assert len(pythonic) == before + 2
    assert (one.t, other.t) == (19, 11)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that are forked")
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_forked_process_has_threads_of_its_own():
    size = 1 << 20
    params, grads = {"w": np.ones(size, "float32")}, {"w": np.ones(size, "float32")}
    optimizer = settled(SGD(lr=1.0, threads=2), params, grads)
    child = os.fork()
    if child == 0:
        for _ in range(5):
            optimizer.update(params, grads)
        os._exit(int(not (optimizer.t == 11 and (params["w"] == -10).all())))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("name", ["lr", "frozen", "overrides"])
def test_what_is_set_while_the_next_step_is_prepared_is_heard_of(name, monkeypatch):
    params, grads = problem()
    optimizer, asked = SGD(lr=1.0), []
    construct = WholeStep.__init__

    def interrupted(self, *given, **named):
        construct(self, *given, **named)
        if not asked:  # as the handler of a signal would
            asked.append(name)
            value = {"lr": 0.0, "frozen": ("*",), "overrides": {"*": {"lr": 0.0}}}[name]
            setattr(optimizer, name, value)

    monkeypatch.setattr(WholeStep, "__init__", interrupted)
    while not asked:
        optimizer.update(params, grads)
    before = {key: w.copy() for key, w in params.items()}
    for _ in range(6):
        optimizer.update(params, grads)
    for key, w in params.items():
        assert np.array_equal(w, before[key])


def test_what_is_half_prepared_takes_no_step(monkeypatch):
    params, grads = problem()
    optimizer = settled(SGD(lr=1.0), params, grads)
    plan = optimizer._state.plan
    assert plan.whole is not None
    put = WholeStep._put

    def fails(self, where, *given):
        if where is Word.ROWS:
            raise TimeoutError
        put(self, where, *given)

    monkeypatch.setattr(WholeStep, "_put", fails)
    # As after a step that was no whole one because another thread was in the midst of its own.
    with pytest.raises(TimeoutError):
        plan.repeat(optimizer, optimizer._state, params, grads, None)
    assert plan.whole is None
    monkeypatch.undo()
    expected = params["a"] - 3 * grads["a"]
    for _ in range(3):
        optimizer.update(params, grads)
    assert np.allclose(params["a"], expected)


def test_where_there_are_no_frames_to_prepare_it_the_step_is_taken_all_the_same(monkeypatch):
    params, grads = problem()
    optimizer, renew, failed = SGD(lr=1.0), WholeStep.renew, []

    def fails(self, *given):
        if len(failed) < 2:
            failed.append(self)
            raise RecursionError
        renew(self, *given)

    monkeypatch.setattr(WholeStep, "renew", fails)
    for count in range(1, 40):
        optimizer.update(params, grads)
        assert optimizer.t == count
    assert len(failed) == 2
    assert optimizer._state.plan.whole is not None


@pytest.mark.parametrize("start", [2**31 - 3, 2**62 - 9, 2**63 - 9, 2**63 + 9, 2**80])
def test_steps_are_counted_without_end(start):
    found = {}
    for engine in ("native", "blocked"):
        params, grads = problem()
        optimizer = Adam(engine=engine)
        optimizer.update(params, grads)
        state = optimizer.state_dict()
        state["t"] = start
        for leaf in state["states"].values():
            leaf["taken"] = start
        optimizer.load_state_dict(state)
        for _ in range(20):
            optimizer.update(params, grads)
        assert optimizer.t == start + 20
        found[engine] = params
    for key, w in found["native"].items():
        assert np.array_equal(w, found["blocked"][key])


class Cut(collections.abc.Sequence):
    """A sequence that may iterate over fewer entries than it says to have."""

    def __init__(self, entries):
        self.entries, self.cut = entries, 0

    def __len__(self):
        return len(self.entries)

    def __getitem__(self, place):
        return self.entries[place]

    def __iter__(self):
        return iter(self.entries[: len(self) - self.cut])


@pytest.mark.parametrize("both", [False, True])
def test_a_sequence_that_has_fewer_entries_than_it_says_is_refused(both):
    params, grads = (Cut([np.ones(3) for _ in range(40)]) for _ in "pg")
    optimizer = SGD(1.0)
    settled(optimizer, params, grads)
    t = optimizer.t
    grads.cut = 39
    params.cut = 39 * both
    with pytest.raises((ValueError, RuntimeError), match=r"iterates over 1;|changed while"):
        optimizer.update(params, grads)
    assert optimizer.t == t
    grads.cut = params.cut = 0
    optimizer.update(params, grads)
    assert optimizer.t == t + 1


def test_an_exception_of_a_key_comes_out_before_the_step():
    class Key(str):
        __slots__ = ()
        is_armed = False

        def __hash__(self):
            return str.__hash__(self)

        def __eq__(self, other):
            if Key.is_armed:
                Key.is_armed = False
                raise KeyboardInterrupt
            return str.__eq__(self, other)

    params, grads = {Key("a"): np.ones(3)}, {"a": np.ones(3)}
    plain = {"a": params["a"]}
    optimizer = settled(SGD(0.5), plain, grads)
    optimizer.update(params, grads)
    t, before = optimizer.t, params["a"].copy()
    Key.is_armed = True
    with pytest.raises(KeyboardInterrupt):
        optimizer.update(params, grads)
    assert optimizer.t == t
    assert np.array_equal(before, plain["a"])


def test_near_the_limit_of_frames_a_step_is_taken_or_not():
    def at(depth, call):
        return call() if depth == 0 else at(depth - 1, call)

    limit, frames = sys.getrecursionlimit(), len(inspect.stack())
    sys.setrecursionlimit(frames + 260)
    try:
        for depth in range(140, 255, 3):
            params, grads = problem()
            optimizer = Adam()
            for _ in range(2):
                optimizer.update(params, grads)
            for _ in range(3):
                t = optimizer.t
                try:
                    at(depth, lambda: optimizer.update(params, grads))  # noqa: B023
                except RecursionError:
                    assert optimizer.t == t
                else:
                    assert optimizer.t == t + 1
    finally:
        sys.setrecursionlimit(limit)
