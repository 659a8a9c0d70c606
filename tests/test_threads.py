"""Threads, processes and interrupts: none of them changes a bit or leaves half a step."""

import collections
import importlib
import os
import signal
import subprocess
import sys
import threading
import time

import cases
import engine_runs
import numpy as np
import pytest
from conftest import why_missing

from instep import Adam, Momentum, Optimizer
from instep import plan as plan_module


def problem(size=200_003, dtype="float32"):
    rng = np.random.default_rng(0)
    w = rng.standard_normal(size).astype(dtype)
    return w, [rng.standard_normal(size).astype(dtype) for _ in range(3)]


def path_of(case, engine, threads, size=200_003):
    w, gradients = problem(size)
    optimizer = case.make(engine=engine, threads=threads)
    for gradient in gradients:
        optimizer.update({"w": w}, {"w": gradient})
    return {"w": w}, optimizer


@pytest.mark.parametrize("engine", ["native", "blocked", "array_api"])
def test_the_number_of_threads_changes_no_bit(engine):
    engine_runs.require(engine)
    case = cases.Case(Adam, None)
    expected = path_of(case, engine, 1)
    for threads in (2, 3, 7, 64, None):
        engine_runs.assert_same_run(path_of(case, engine, threads), expected)


ELEMENTWISE = [case for case in cases.CLASSES if case.elementwise]


@engine_runs.every_engine
def test_several_optimizers_run_in_several_threads(engine):
    engine_runs.require(engine)
    case = cases.Case(Momentum, None)
    expected = path_of(case, engine, 2, 70_001)
    results, errors = [None] * 8, []

    def work(number):
        try:
            for _ in range(5):
                results[number] = path_of(case, engine, 1 + number % 3, 70_001)
        except BaseException as error:  # noqa: BLE001 - it is raised below
            errors.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    for got in results:
        engine_runs.assert_same_run(got, expected)


@engine_runs.every_engine
def test_rules_may_be_compiled_in_several_threads_at_once(engine):
    engine_runs.require(engine)
    results, errors = [], []
    barrier = threading.Barrier(8)

    def work(number):
        class Fresh(Optimizer):
            factor: float = 1.0

            @staticmethod
            def rule(xp, w, g, s, h):
                return w - h.factor * g / (number + 2.0), {}

        try:
            barrier.wait()
            w = np.ones(5)
            Fresh(engine=engine).update(w, np.full(5, number + 2.0))
            results.append(w.tolist())
        except BaseException as error:  # noqa: BLE001 - it is raised below
            errors.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert results == [[0.0] * 5] * 8


# Processes --------------------------------------------------------------------------------------


FORKING_PROGRAM = """
import multiprocessing
import warnings
import numpy as np
from instep import Adam

# Python 3.12 and later warn of a fork where there are threads: it is what is tried here.
warnings.simplefilter("ignore", DeprecationWarning)
rng = np.random.default_rng(0)
params = {"w": rng.standard_normal(200_003).astype("float32")}
gradients = [{"w": rng.standard_normal(200_003).astype("float32")} for _ in range(3)]
Adam(engine=ENGINE, threads=2).update({"w": params["w"].copy()}, gradients[0])  # now there are some
optimizer = Adam(engine=ENGINE, threads=2)
for grads in gradients[:TAKEN]:
    optimizer.update(params, grads)

def child(connection):
    for grads in gradients:
        optimizer.update(params, grads)
    connection.send(params["w"].tobytes())

context = multiprocessing.get_context("fork")
here, there = context.Pipe(duplex=False)
process = context.Process(target=child, args=(there,))
process.start()
assert here.poll(60), "the child hangs"
received = here.recv()
process.join(60)
assert process.exitcode == 0
assert optimizer.t == TAKEN
for grads in gradients:
    optimizer.update(params, grads)
assert params["w"].tobytes() == received
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize("taken", [0, 3], ids=["a new optimizer", "one that has taken steps"])
@engine_runs.every_engine
def test_a_forked_process_goes_on(engine, taken):
    """The threads of the parent do not exist there. JAX must not be here: it forbids a fork."""
    engine_runs.require(engine)
    program = FORKING_PROGRAM.replace("ENGINE", repr(engine)).replace("TAKEN", str(taken))
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False
    )
    assert ran.returncode == 0, ran.stderr


# The number of threads ------------------------------------------------------------------------


def threads_of(monkeypatch, value, requested):
    threads = importlib.import_module("instep.engines.native.threads")
    if value is None:
        monkeypatch.delenv("INSTEP_NUM_THREADS", raising=False)
    else:
        monkeypatch.setenv("INSTEP_NUM_THREADS", value)
    return threads.thread_count(requested)


def test_the_environment_bounds_the_threads(monkeypatch):
    assert threads_of(monkeypatch, "1", None) == 1
    assert threads_of(monkeypatch, "1", 8) == 1
    assert threads_of(monkeypatch, "8", 2) == 2
    assert threads_of(monkeypatch, None, 3) == 3
    assert threads_of(monkeypatch, None, None) >= 1


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5", ""])
def test_a_wrong_bound_in_the_environment_is_an_error(monkeypatch, value):
    engine_runs.require("native")
    monkeypatch.setenv("INSTEP_NUM_THREADS", value)
    w = np.ones(3)
    optimizer = Adam(engine="native")
    with pytest.raises(
        ValueError, match=f"INSTEP_NUM_THREADS must be an integer >= 1, got '{value}'"
    ):
        optimizer.update(w, np.ones(3))
    assert optimizer.t == 0
    assert (w == 1).all()


# Interrupts --------------------------------------------------------------------------------------


class Interrupter:
    """Raises a real SIGINT at the n-th line that runs in some modules of instep.

    In a loop, the first two times of a line count.
    """

    def __init__(self, line, modules):
        self.remaining = line
        self.files = {module.__file__ for module in modules}
        self.times = collections.Counter()

    def __enter__(self):
        sys.settrace(self.enter)

    def __exit__(self, *_):
        sys.settrace(None)

    def enter(self, frame, event, _):
        return self.line if frame.f_code.co_filename in self.files else None

    def line(self, frame, event, _):
        place = frame.f_code, frame.f_lineno
        self.times[place] += event == "line"
        if event == "line" and self.times[place] <= 2:
            self.remaining -= 1
            if self.remaining == 0:
                sys.settrace(None)
                signal.raise_signal(signal.SIGINT)
        return self.line


@pytest.fixture
def interrupts():
    """Let SIGINT raise KeyboardInterrupt, as Python does on a terminal."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    sys.settrace(None)
    signal.signal(signal.SIGINT, before)


def modules_of(engine):
    names = {
        "array_api": ["instep.engines.array_api"],
        "blocked": ["instep.engines.blocked", "instep.engines.host"],
        "native": ["instep.engines.native.bucket", "instep.engines.host"],
    }[engine]
    return [plan_module, *(importlib.import_module(name) for name in names)]


def interrupted_step(engine, line, taken, array):
    """Interrupt the step after `taken` ones at a line; return what is left, or None at the end."""
    rng = np.random.default_rng(0)
    params = {name: array(rng.standard_normal(9)) for name in "abc"}
    optimizer = Momentum(engine=engine, threads=2)
    for t in range(taken):
        optimizer.update(params, {name: array(np.full(9, t + 1.0)) for name in params})
    grads = {name: array(np.full(9, taken + 1.0)) for name in params}
    interrupter = Interrupter(line, modules_of(engine))
    try:
        with interrupter:
            optimizer.update(params, grads)
    except KeyboardInterrupt:
        pass
    return (params, optimizer) if interrupter.remaining <= 0 else None


@engine_runs.every_engine
@pytest.mark.parametrize(("library", "taken"), [("numpy", 0), ("numpy", 2), ("jax.numpy", 2)])
def test_an_interrupt_leaves_all_of_a_step_or_nothing(engine, taken, library, interrupts):
    engine_runs.require(engine)
    if why_missing(library):
        pytest.skip(why_missing(library))
    if library != "numpy" and engine != "array_api":
        pytest.skip("this engine is for NumPy arrays")
    array = importlib.import_module(library).asarray
    array = array if library != "numpy" else np.array
    done = {t: after(t, engine, array) for t in (taken, taken + 1, taken + 2)}
    counts = {taken: 0, taken + 1: 0}
    line = 1
    while (left := interrupted_step(engine, line, taken, array)) is not None:
        params, optimizer = left
        assert optimizer.t in counts
        counts[optimizer.t] += 1
        engine_runs.assert_same_run(left, done[optimizer.t])
        optimizer.update(params, {name: array(np.full(9, optimizer.t + 1.0)) for name in params})
        engine_runs.assert_same_run(left, done[optimizer.t])
        line += 1
    assert counts[taken] > 3
    assert counts[taken + 1] > 3


def after(steps, engine, array):
    """Return what an undisturbed run leaves after `steps`."""
    rng = np.random.default_rng(0)
    params = {name: array(rng.standard_normal(9)) for name in "abc"}
    optimizer = Momentum(engine=engine, threads=2)
    for t in range(steps):
        optimizer.update(params, {name: array(np.full(9, t + 1.0)) for name in params})
    return params, optimizer


INTERRUPTED_PROGRAM = """
import signal
import time
import numpy as np
from instep import Adam

# A shell lets what it runs in the background ignore the signal.
signal.signal(signal.SIGINT, signal.default_int_handler)

params = {str(i): np.zeros(400_000, "float32") for i in range(3)}
grads = {name: np.ones(400_000, "float32") for name in params}
optimizer = Adam(lr=1.0, beta1=0.0, beta2=0.0, eps=0.0, engine=ENGINE, threads=2)
optimizer.update(params, grads)
caught = 0
while caught < 20:
    deadline = time.monotonic() + 60
    try:
        print("ready", flush=True)
        while time.monotonic() < deadline:
            optimizer.update(params, grads)
        raise SystemExit("no interrupt within a minute")
    except KeyboardInterrupt:
        caught += 1
        for w in params.values():  # each step is 1 long
            assert (w == -optimizer.t).all(), (w[0], optimizer.t)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT to another process needs POSIX")
@engine_runs.every_engine
def test_ctrl_c_from_outside_leaves_whole_steps(engine):
    engine_runs.require(engine)
    program = INTERRUPTED_PROGRAM.replace("ENGINE", repr(engine))
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        for i in range(20):
            assert process.stdout.readline() == "ready\n", process.stderr.read()
            time.sleep(0.003 * (i % 5))
            process.send_signal(signal.SIGINT)
        error = process.stderr.read()
        assert process.wait(60) == 0, error


@engine_runs.every_engine
def test_a_handler_of_the_users_own_is_called(engine, interrupts):
    engine_runs.require(engine)
    seen = []
    signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))
    line = 1
    while interrupted_step(engine, line, 1, np.array) is not None:
        assert len(seen) == line
        line += 1
    assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler


@engine_runs.every_engine
def test_steps_outside_of_the_main_thread_need_no_signals(engine):
    engine_runs.require(engine)
    result = []
    thread = threading.Thread(
        target=lambda: result.append(path_of(cases.Case(Momentum, None), engine, 2, 1000))
    )
    thread.start()
    thread.join(60)
    engine_runs.assert_same_run(result[0], path_of(cases.Case(Momentum, None), engine, 2, 1000))
