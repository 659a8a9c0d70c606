# ruff: noqa: SLF001  (it looks inside on purpose)
"""A step is taken or it is not, whatever comes in its way: never a part of it."""

import contextlib
import copy
import gc
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections import Counter
from pathlib import Path

import engine_runs
import faults
import numpy as np
import pytest
import whole_steps
from remembering import Remembering
from whole_steps import PLAIN, STRIDED, Problem, assert_whole, same

from instep import (
    LAMB,
    SGD,
    SOAP,
    Adam,
    Momentum,
    Muon,
    NAdam,
    ScheduleFreeAdamW,
    chain,
    interrupts,
    partition,
)
from instep.engines import blocked
from instep.plan import step as plan
from instep.transforms import (
    accumulate,
    average,
    clip_by_global_norm,
    dynamic_scale,
    skip_nonfinite,
    weight_decay,
)

PROBLEMS = {
    "plain": Problem(Adam),
    "strided": Problem(Momentum, STRIDED, stride=2),
    "strided, in several blocks": Problem(SGD, {"s1": (70_000,), "s2": (70_000,)}, stride=5),
    "strided, in two passes": Problem(
        lambda **settings: chain(clip_by_global_norm(0.5), Adam(), **settings),
        STRIDED,
        stride=5,
    ),
    "grouped": Problem(
        lambda **settings: Momentum(overrides={"b": {"lr": 0.5}}, **settings),
        PLAIN | {"c": (2,)},
        missing=("c",),
        stride=2,
    ),
    "with arrays": Problem(
        lambda **settings: chain(
            clip_by_global_norm(0.5),
            Momentum(
                overrides={"b": {"lr": np.full((3, 4), 0.5), "momentum": np.full((3, 4), 0.5)}}
            ),
            **settings,
        ),
        stride=5,
    ),
    "chained": Problem(
        lambda **settings: chain(
            skip_nonfinite(),
            accumulate(2),
            weight_decay(0.1),
            LAMB(),
            average(0.9),
            **settings,
        ),
        stride=7,
    ),
    "partitioned": Problem(
        lambda **settings: chain(
            *(skip_nonfinite(), clip_by_global_norm(0.5)),
            partition({"a": NAdam(), "b": Remembering(), "*": chain(Momentum(), average(0.9))}),
            **settings,
        ),
        PLAIN | {"c": (2,)},
        missing=("c",),
        stride=11,
    ),
    "turned away": Problem(
        lambda **settings: chain(
            dynamic_scale(8.0, interval=1), clip_by_global_norm(0.5), Remembering(), **settings
        ),
        stride=7,
        bad=(0, 2, 3),
    ),
    "turned away, in groups": Problem(
        lambda **settings: chain(
            *(dynamic_scale(8.0), accumulate(2), NAdam(), average(0.9)),
            overrides={"b": {"lr": 0.5}},
            **settings,
        ),
        PLAIN | {"c": (2,)},
        missing=("c",),
        stride=7,
        bad=(1, 3),
    ),
    "with numbers": Problem(Remembering, PLAIN | {"c": (2,)}, missing=("c",), stride=5),
    "in 8 bits": Problem(
        lambda **settings: Adam(state_dtype="float8", min_float8_size=0, **settings),
        {"a": (300,), "s1": (3, 100)},
        stride=7,
    ),
    "whole arrays": Problem(Muon, PLAIN | {"s1": (3, 5)}, stride=7),
    "bases": Problem(
        lambda **settings: SOAP(every=2, **settings), PLAIN | {"s1": (3, 5)}, stride=11
    ),
}


@pytest.mark.slow  # all of them together
@engine_runs.every_engine
@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
def test_an_exception_at_any_line_leaves_all_of_a_step_or_nothing(engine, problem, monkeypatch):
    engine_runs.require(engine)
    if engine == "native":  # first a whole step, or one that prepares the next, in many lines
        assert_whole(problem, 3, {"engine": engine, "threads": 2}, stride=max(problem.stride, 5))
        monkeypatch.setattr("instep.plan.whole.PATIENCE", sys.maxsize)
    settings = {"engine": engine, "threads": 2}
    # Compiled code has few lines of Python around it.
    stride = min(problem.stride, 2) if engine == "native" else problem.stride
    not_taken, taken = assert_whole(problem, 3, settings, stride=stride)
    assert not_taken > 3
    assert taken > 1


@pytest.mark.slow  # all of them together
@engine_runs.every_engine
@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
def test_an_exception_in_the_first_step_leaves_all_of_it_or_nothing(engine, problem):
    engine_runs.require(engine)
    settings = {"engine": engine, "threads": 2}
    not_taken, taken = assert_whole(problem, 0, settings, "Plan.step", 2 * problem.stride)
    assert not_taken > 3
    assert taken > 1


@pytest.mark.slow  # all of them together
@engine_runs.every_engine
def test_an_exception_while_the_plan_is_made_changes_nothing(engine):
    engine_runs.require(engine)
    problem = PROBLEMS["chained"]
    not_taken, _ = assert_whole(problem, 0, {"engine": engine}, stride=37)
    assert not_taken > 10


@engine_runs.every_engine
def test_what_a_handler_raises_within_numpy_is_not_lost(engine):
    """Some of its functions take any exception for an answer."""
    engine_runs.require(engine)
    problem, numpy_folder = PROBLEMS["plain"], str(Path(np.__file__).parent)
    before, after = (problem.begin(3 + n, engine=engine) for n in range(2))
    line = 1
    while True:
        fault = faults.Fault(line, TimeoutError(), source=numpy_folder)
        run = whole_steps.interrupted(problem, 3, {"engine": engine}, fault)
        if not fault.raised:
            break
        assert same(run, before) or same(run, after), fault.place
        line += 1


def test_the_exception_of_a_second_handler_waits_too():
    problem = Problem(Momentum, STRIDED)
    run, after = (problem.begin(3 + n, engine="blocked") for n in range(2))
    calls, real = [], interrupts.at_once

    def raising(step):
        calls.append(step)
        real(step)
        if len(calls) in (2, 4):
            raise TimeoutError(len(calls))

    with pytest.MonkeyPatch.context() as patch:
        for module in (plan, blocked):
            patch.setattr(module, "at_once", raising)
        with pytest.raises(TimeoutError):
            problem.step(run, 3)
    assert same(run, after)


@pytest.mark.parametrize("taken", [False, True])
def test_a_second_handler_does_not_hide_whether_a_single_call_has_run(taken, monkeypatch):
    engine_runs.require("native")
    monkeypatch.setattr("instep.plan.whole.PATIENCE", sys.maxsize)  # Python is to make the call
    optimizer = chain(clip_by_global_norm(0.5), SGD(), engine="native")
    w, g = np.zeros(9, "f4"), np.ones(9, "f4")
    for _ in range(3):
        optimizer.update(w, g)
    call, before = optimizer._state.plan._repetition.last.joined, w.copy()
    run, outcome, second = call.run, call.outcome, [TimeoutError()]

    def interrupted(*scalars):
        if taken:
            run(*scalars)
        raise KeyboardInterrupt

    def interrupted_again():
        if second:
            raise second.pop()
        return outcome()

    call.run, call.outcome = interrupted, interrupted_again
    with pytest.raises(KeyboardInterrupt):
        optimizer.update(w, g)
    assert optimizer.t == 3 + taken
    assert np.array_equal(w, before) != taken


SIGNALS = """
import signal
import numpy as np
from instep import Adam

w, g = np.zeros(2_000_000, "f4"), np.ones(2_000_000, "f4")
optimizer = Adam(lr=1.0, beta1=0.0, beta2=0.0, eps=0.0, engine=ENGINE, threads=2)
optimizer.update(w, g)

def handler(number, frame):
    raise TimeoutError

signal.signal(signal.SIGALRM, handler)
caught = 0
while caught < 30:
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0002 * (1 + caught))
        while True:
            optimizer.update(w, g)
    except TimeoutError:
        caught += 1
        assert (w == -optimizer.t).all(), (w[0], w[-1], optimizer.t)
"""

MEMORY = """
import resource
import numpy as np
from instep import Adam, chain
from instep.transforms import clip_by_global_norm

params = {"a": np.zeros(1000, "f4"), "m": np.zeros((400_000, 2), "f4")[:, 0]}
grads = {"a": np.ones(1000, "f4"), "m": np.ones(400_000, "f4")}
adam = Adam(lr=1.0, beta1=0.0, beta2=0.0, eps=0.0)
# Another has imported all modules: without memory Python finds errors in their text.
chain(clip_by_global_norm(1e9), adam, engine=ENGINE).update(np.zeros(3, "f4"), np.ones(3, "f4"))
optimizer = chain(clip_by_global_norm(1e9), adam, engine=ENGINE)
for _ in range(STEPS):
    optimizer.update(params, grads)
pages = int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize(), -1))
hog = []
try:
    while True:
        hog.append(bytearray(1 << 16))
except MemoryError:
    pass
try:
    optimizer.update(params, grads)
except (MemoryError, OSError):
    pass
del hog
resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
for w in params.values():
    assert (w == -optimizer.t).all(), (w[0], w[-1], optimizer.t)
optimizer.update(params, grads)
for w in params.values():
    assert (w == -optimizer.t).all(), (w[0], w[-1], optimizer.t)
"""


def run_program(text, **values):
    for name, value in values.items():
        text = text.replace(name, repr(value))
    result = subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, check=False, timeout=120
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs timers of POSIX")
@engine_runs.every_engine
def test_a_timer_leaves_whole_steps(engine):
    engine_runs.require(engine)
    run_program(SIGNALS, ENGINE=engine)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
@pytest.mark.parametrize("steps", [0, 2])
@engine_runs.every_engine
def test_a_lack_of_memory_leaves_whole_steps(engine, steps):
    engine_runs.require(engine)
    run_program(MEMORY, ENGINE=engine, STEPS=steps)


def test_no_step_is_taken_where_calls_cannot_be_nested_to_its_end():
    optimizer, w, g = Momentum(), np.zeros(9, "f4"), np.ones(9, "f4")
    optimizer.update(w, g)

    def dive(depth, w):
        if depth:
            return dive(depth - 1, w)
        return optimizer.update(w, g)

    outcomes = set()
    for spare in range(2, 80):
        fresh, t = w.copy(), optimizer.t
        try:
            dive(sys.getrecursionlimit() - frames_in_use() - spare, fresh)
        except RecursionError:
            assert optimizer.t == t, f"{spare} frames"
            assert (fresh == w).all(), f"{spare} frames"
            outcomes.add("error")
        else:
            assert optimizer.t == t + 1
            outcomes.add("step")
    assert outcomes == {"error", "step"}


def frames_in_use():
    frame, count = sys._getframe(), 0
    while frame is not None:
        frame, count = frame.f_back, count + 1
    return count


# Loading, resetting ------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("call", ["load_state_dict", "reset"])
def test_state_is_replaced_whole_or_not_at_all(call):
    problem = PROBLEMS["chained"]
    _, other = problem.begin(5, engine="blocked")
    state = other.state_dict() | {"hyperparameters": problem.make().state_dict()["hyperparameters"]}
    state["hyperparameters"]["weight_decay_rate"] = 0.25

    def run(fault):
        run = problem.begin(3, engine="blocked")
        try:
            with fault:
                if call == "reset":
                    run[1].reset()
                else:
                    run[1].load_state_dict(state)
        except KeyboardInterrupt:
            pass
        return run[1].state_dict()

    old = run(faults.Fault(0, None))
    before = problem.begin(3, engine="blocked")[1].state_dict()
    seen = Counter()
    for fault, found in faults.each_line(run, [KeyboardInterrupt()]):
        matches = [np.array_equal(flat(found), flat(one)) for one in (before, old)]
        assert any(matches), fault.place
        seen[matches.index(True)] += 1
    assert seen[0] > 3
    assert flat(old) != flat(before)


def flat(state):
    """Return a state as text that can be compared."""
    return repr(state)


# Several callers ---------------------------------------------------------------------------------


@engine_runs.every_engine
def test_threads_take_turns_with_one_optimizer(engine):
    engine_runs.require(engine)
    optimizer = SGD(lr=1.0, engine=engine, threads=2)
    arrays_of = [np.zeros(70_000, "f4") for _ in range(3)]
    gradient, errors = np.ones(70_000, "f4"), []

    def work(w):
        try:
            for _ in range(50):
                optimizer.update(w, gradient)
        except Exception as error:  # noqa: BLE001  (the main thread raises it)
            errors.append(error)

    threads = [threading.Thread(target=work, args=(w,)) for w in arrays_of[1:]]
    for thread in threads:
        thread.start()
    work(arrays_of[0])
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert optimizer.t == 150
    for w in arrays_of:
        assert (w == -50).all()


@pytest.mark.parametrize("call", ["update", "reset", "state_dict", "load_state_dict"])
def test_a_call_in_the_midst_of_a_step_is_refused(call):
    w, g = np.zeros(3), np.ones(3)
    calls = {
        "update": lambda: optimizer.update(w, g),
        "load_state_dict": lambda: optimizer.load_state_dict(SGD().state_dict()),
    }

    def schedule(step):
        if step == 2:
            calls.get(call, getattr(optimizer, call))()
        return 1.0

    optimizer = SGD(lr=schedule)
    optimizer.update(w, g)
    with pytest.raises(
        RuntimeError, match=f"SGD.{call}: called in the midst of a step, .* after update"
    ):
        optimizer.update(w, g)
    assert optimizer.t == 1
    assert (w == -1).all()
    optimizer.lr = 1.0
    optimizer.update(w, g)
    assert (w == -2).all()


def test_a_lock_that_an_exception_left_behind_is_taken_again():
    optimizer, w = SGD(lr=1.0), np.zeros(3)
    optimizer._lock.acquire()
    optimizer.update(w, np.ones(3))
    assert (w == -1).all()
    thread = threading.Thread(target=optimizer.update, args=(w, np.ones(3)))
    thread.start()
    thread.join(60)
    assert (w == -2).all()


# What a step leaves behind -----------------------------------------------------------------------


def test_settings_that_a_schedule_changes_take_effect():
    def schedule(step):
        if step == 2:
            optimizer.engine = "array_api"
            optimizer.frozen = ("b",)
        return 1.0

    optimizer = SGD(lr=schedule, engine="blocked")
    params = {"a": np.zeros(3), "b": np.zeros(3)}
    grads = {"a": np.ones(3), "b": np.ones(3)}
    for _ in range(3):
        optimizer.update(params, grads)
    assert optimizer.engine == "array_api"
    assert type(optimizer._state.plan.buckets[0]).__module__ == "instep.engines.array_api"
    assert (params["a"] == -3).all()
    assert (params["b"] == -2).all()


@pytest.mark.parametrize("make", [Adam, lambda: chain(accumulate(2), Adam(), average(0.9))])
def test_a_copy_has_state_of_its_own(make):
    optimizer, w, g = make(), np.zeros(3), np.arange(1.0, 4.0)
    for _ in range(3):
        optimizer.update(w, g)
    copied, before = copy.copy(optimizer), flat(optimizer.state_dict())
    assert flat(copied.state_dict()) == before
    copied.lr = 0.5
    copied.update(w.copy(), 100 * g)
    copied.update(w.copy(), 100 * g)
    assert flat(optimizer.state_dict()) == before
    assert optimizer.lr == Adam().lr


@engine_runs.every_engine
@pytest.mark.parametrize("make", [Adam, Muon, PROBLEMS["chained"].make], ids=["Adam", "Muon", "-"])
def test_state_is_freed_without_the_garbage_collector(engine, make):
    engine_runs.require(engine)
    optimizer, params = make(engine=engine), {"w": np.zeros((300, 4)), "b": np.zeros(3)}
    grads = {name: np.ones_like(w) for name, w in params.items()}
    for _ in range(3):
        optimizer.update(params, grads)
    slots = [weakref.ref(x) for s in optimizer._state.leaves.values() for x in s.slots.values()]
    gone = [weakref.ref(optimizer), weakref.ref(optimizer._state.plan), *slots]
    gc.disable()
    try:
        del optimizer
        assert [reference() for reference in gone if reference() is not None] == []
    finally:
        gc.enable()


@pytest.mark.parametrize("make", [Adam, lambda: chain(Adam(), average(0.5))])
def test_an_answer_keeps_no_parameters_until_the_garbage_collector_comes(make):
    optimizer, params = make(), {"w": np.zeros(3), "more": [np.zeros(2)]}
    optimizer.update(params, {"w": np.ones(3), "more": [np.ones(2)]})
    gc.disable()
    try:
        optimizer.answer(params)
        with optimizer.answer_in_place(params):
            pass
        alive = [weakref.ref(params["w"]), weakref.ref(params["more"][0])]
        del params
        assert [reference() for reference in alive] == [None, None]
    finally:
        gc.enable()


@engine_runs.every_engine
def test_arrays_are_released_after_a_schedule_has_raised(engine):
    engine_runs.require(engine)

    def schedule(step):
        if step == 3:
            raise ZeroDivisionError
        return 1.0

    optimizer = SGD(lr=schedule, engine=engine)
    params, grads = {"w": np.zeros(9)}, {"w": np.ones(9)}
    optimizer.update(params, grads)
    optimizer.update(params, grads)
    with pytest.raises(ZeroDivisionError):
        optimizer.update(params, grads)
    arrays_of = [weakref.ref(params["w"]), weakref.ref(grads["w"])]
    del params, grads
    gc.collect()
    assert [reference() for reference in arrays_of] == [None, None]


@pytest.mark.parametrize("settings", [{"engine": "blocked"}, {"engine": "array_api"}])
def test_settings_that_a_handler_changes_at_any_line_take_effect(settings):
    """The handler returns, and the step goes on; the next one knows of the change."""

    class Change(faults.Fault):
        def act(self):
            optimizer.frozen = ("b",)

    line = 1
    while True:
        optimizer = SGD(lr=1.0, **settings)
        params = {"a": np.zeros(3), "b": np.zeros(3)}
        grads = {"a": np.ones(3), "b": np.ones(3)}
        with Change(line, None, "Plan.step") as change:
            optimizer.update(params, grads)
        if not change.raised:
            break
        optimizer.update(params, grads)
        assert (params["a"] == -2).all()
        assert (params["b"] == -1).all(), change.place
        line += 2
    assert line > 20


def test_hyperparameters_that_a_schedule_sets_are_checked_at_the_next_step():
    optimizer, w = Adam(), np.zeros(3, "f4")

    def schedule(step):
        if step == 3:
            optimizer.eps = 1e-60  # 0 in float32
        return 1e-8

    optimizer.eps = schedule
    for _ in range(3):
        optimizer.update(w, np.ones(3, "f4"))
    for _ in range(2):
        with pytest.raises(ValueError, match="eps=1e-60 is 0 in float32"):
            optimizer.update(w, np.ones(3, "f4"))


def test_what_a_handler_raises_while_a_rule_is_traced_is_no_fault_of_the_rule():
    class Interrupted(SGD):
        @staticmethod
        def rule(xp, w, g, s, h):
            if not isinstance(g, np.ndarray):  # a symbol
                raise TimeoutError
            return w - h.lr * g, {}

    optimizer, w = Interrupted(), np.zeros(3)
    with pytest.raises(TimeoutError):
        optimizer.update(w, np.ones(3))
    assert optimizer.t == 0


# Averages, threads and forks ---------------------------------------------------------------------


def test_no_thread_steps_while_the_answer_is_in_place():
    optimizer, w, g = chain(SGD(lr=1.0), average(0.5)), np.zeros(3), np.ones(3)
    for _ in range(3):
        optimizer.update(w, g)
    swapped, refused = threading.Event(), []

    def step():
        swapped.wait(60)
        try:
            optimizer.update(w, g)
        except RuntimeError as error:
            refused.append(str(error))

    # The other thread waits for the lock that this one has before it does.
    thread = threading.Thread(target=step)
    thread.start()
    with optimizer._lock:
        swapped.set()
        thread.join(0.2)
        optimizer._lock.release()
        with optimizer.answer_in_place(w):
            thread.join(60)
        optimizer._lock.acquire()
    if not refused:  # it was first
        assert optimizer.t == 4
    else:
        assert "the answer is in their place" in refused[0]
        assert optimizer.t == 3


@pytest.mark.slow
def test_the_answer_is_in_place_as_a_whole_or_not_at_all():
    def run(fault):
        params = {"a": np.zeros(3), "b": np.zeros(3)}
        optimizer = chain(SGD(lr=1.0), average(0.5), engine="blocked")
        for _ in range(3):
            optimizer.update(params, {"a": np.ones(3), "b": np.ones(3)})
        answer, within = float(optimizer.answer(params)["a"][0]), None
        try:
            with fault, optimizer.answer_in_place(params):
                within = [float(w[0]) for w in params.values()]
                assert within == [answer, answer]
        except KeyboardInterrupt:
            pass
        optimizer.update(params, {"a": np.zeros(3), "b": np.zeros(3)})
        return within is not None, [float(w[0]) for w in params.values()]

    seen = set()
    for fault, (entered, values) in faults.each_line(run, [KeyboardInterrupt()], stride=3):
        assert values == [-3.0, -3.0], fault.place
        seen.add(entered)
    assert seen == {False, True}


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers send signals here")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Python's own
def test_the_parameters_come_back_where_one_signal_follows_another_at_once():
    optimizer, params = chain(SGD(lr=1.0), average(0.5), engine="blocked"), {"a": np.zeros(3)}
    for _ in range(3):
        optimizer.update(params, {"a": np.ones(3)})
    left = 0

    def handler(number, frame):
        nonlocal left
        if left:
            left -= 1
            # The second comes while the first is on its way out of the block.
            signal.setitimer(signal.ITIMER_REAL, 2e-5 if left else 0)
            raise KeyboardInterrupt

    def interrupted():
        try:
            signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-6, 2e-3))
            with optimizer.answer_in_place(params):
                time.sleep(1e-3)
        except KeyboardInterrupt:
            while left:  # the second is still to come
                # Not a bare loop: CPython may overlook a signal that comes while it looks for
                # others, until the thread takes the lock of the interpreter again.
                time.sleep(1e-5)
            return True
        return False

    before, hits, rng = signal.signal(signal.SIGALRM, handler), 0, np.random.default_rng(0)
    gc.disable()  # what is called when it runs takes no exceptions
    try:
        for _ in range(300):
            left = 2
            try:
                hits += interrupted()
            except KeyboardInterrupt:
                hits += 1
            left = 0
            assert not optimizer._is_answering
            assert params["a"].tolist() == [-3.0] * 3
    finally:
        left = 0
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        gc.enable()
    assert hits > 0


def test_no_answer_is_in_place_where_calls_cannot_be_nested_to_the_end():
    params = {"a": np.zeros(3), "b": np.zeros(3)}
    optimizer = chain(SGD(lr=1.0), average(0.5), engine="array_api")
    for _ in range(3):
        optimizer.update(params, {"a": np.ones(3), "b": np.ones(3)})
    optimizer.answer(params)

    def enter():
        with optimizer.answer_in_place(params):
            pass

    def dive(depth):
        return dive(depth - 1) if depth else enter()

    for spare in range(2, 120):
        with contextlib.suppress(RecursionError):
            dive(sys.getrecursionlimit() - frames_in_use() - spare)
        assert not optimizer._is_answering, spare
        assert [float(w[0]) for w in params.values()] == [-3.0, -3.0], spare


@pytest.mark.parametrize("make", [SGD, lambda: chain(clip_by_global_norm(1e9), SGD())])
def test_a_chain_takes_a_lock_that_was_left_behind(make):
    optimizer, w = make(), np.zeros(3)
    for call in (lambda: optimizer.update(w, np.ones(3)), optimizer.state_dict, optimizer.reset):
        optimizer._lock.acquire()
        call()
        assert not optimizer._lock._is_owned()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no processes are forked on this system")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_steps_though_another_thread_was_in_a_step():
    optimizer, w = SGD(engine="blocked"), np.zeros(3)
    held, go_on = threading.Event(), threading.Event()

    def hold():
        with optimizer._lock:
            held.set()
            go_on.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(60)
    child = os.fork()
    if not child:
        signal.alarm(20)
        optimizer.update(w, np.ones(3))
        os._exit(0 if optimizer.t == 1 else 1)
    go_on.set()
    thread.join(60)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("make", [ScheduleFreeAdamW, lambda: chain(ScheduleFreeAdamW())])
def test_means_are_of_one_step_though_another_thread_steps(make):
    optimizer, w, g = make(), np.zeros(3), np.ones(3)
    optimizer.update(w, g)
    with optimizer._lock:  # as another thread would hold it
        thread = threading.Thread(target=optimizer.eval_params, args=(w,))
        thread.start()
        thread.join(0.1)
        assert thread.is_alive(), "it waits"
    thread.join(60)
    assert not thread.is_alive()
