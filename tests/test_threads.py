# ruff: noqa: SLF001  (it looks inside on purpose)
"""Threads, processes and interrupts: none of them changes a bit or leaves half a step."""

import array
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

from instep import LAMB, SGD, Adam, Momentum, Optimizer
from instep.engines.native import control_groups
from instep.graph.program import Program


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
def test_the_number_of_threads_changes_no_bit(engine, eager_threads):
    engine_runs.require(engine)
    case = cases.Case(Adam, None)
    expected = path_of(case, engine, 1)
    for threads in (2, 3, 7, 64, None):
        engine_runs.assert_same_run(path_of(case, engine, threads), expected)


ELEMENTWISE = [case for case in cases.CLASSES if case.elementwise]


@engine_runs.every_engine
def test_several_optimizers_run_in_several_threads(engine, eager_threads):
    engine_runs.require(engine)
    step_in_eight_threads(engine)


def step_in_eight_threads(engine):
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
params = {"w": rng.standard_normal(600_003).astype("float32")}
gradients = [{"w": rng.standard_normal(600_003).astype("float32")} for _ in range(3)]
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


SPAWNING_PROGRAM = """
import multiprocessing
import numpy as np
from instep import Adam

def path(threads):
    w = np.zeros(600_003, "float32")
    optimizer = Adam(engine="native", threads=threads)
    for t in range(3):
        optimizer.update(w, np.full(600_003, t + 1.0, "float32"))
    return w.tobytes()

if __name__ == "__main__":
    expected = path(2)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.map(path, [1, 2, 3]) == [expected] * 3
        pool.close()
        pool.join()
"""


def test_spawned_processes_have_threads_of_their_own(tmp_path):
    engine_runs.require("native")
    script = tmp_path / "spawning.py"
    script.write_text(SPAWNING_PROGRAM)
    ran = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=120, check=False
    )
    assert ran.returncode == 0, ran.stderr


# The pool ---------------------------------------------------------------------------------------


@pytest.fixture
def pool():
    engine_runs.require("native")
    return importlib.import_module("instep.engines.native.pool")


@pytest.fixture
def waking(pool, monkeypatch):
    """Let steps on a few thousand elements wake other threads."""
    launch = importlib.import_module("instep.engines.native.launch")
    monkeypatch.setattr(launch, "worth_waking", engine_runs.all_threads)
    monkeypatch.setattr(launch, "SMALLEST_CHUNK", 1024)


@pytest.mark.parametrize("excess", [0, 1, 1025])
@pytest.mark.parametrize("optimizer", [Adam, LAMB])
def test_steps_that_just_wake_others_have_the_bits_of_one_thread(
    optimizer, excess, pool, monkeypatch
):
    waking = importlib.import_module("instep.engines.native.waking")
    monkeypatch.setattr(waking, "_elements_to_wake", lambda graph: waking.LEAST)
    case, size = cases.Case(optimizer, None), waking.LEAST + excess
    expected = path_of(case, "native", 1, size)
    for threads in (2, 3, 64):
        engine_runs.assert_same_run(path_of(case, "native", threads, size), expected)


def test_what_a_wake_takes_decides_from_where_on_another_thread_is_woken(pool, monkeypatch):
    waking = importlib.import_module("instep.engines.native.waking")
    (graph,) = Program(Adam()).passes("float32", ())
    (light,) = Program(SGD()).passes("float32", ())
    monkeypatch.setattr(waking, "_speeds", lambda: (4e-11, 1e-10))
    found = {}
    for wake in (1e-6, 15e-6, 1.0):
        monkeypatch.setattr(waking, "wake_seconds", lambda wake=wake: wake)
        waking._elements_to_wake.cache_clear()
        found[wake] = [waking._elements_to_wake(one) for one in (graph, light)]
    waking._elements_to_wake.cache_clear()
    assert found[1e-6] == [waking.LEAST] * 2
    assert waking.LEAST < found[15e-6][0] < found[15e-6][1] < waking.MOST
    assert found[1.0] == [waking.MOST] * 2


def test_a_wake_is_measured_and_few_elements_ask_for_none(pool, monkeypatch):
    waking = importlib.import_module("instep.engines.native.waking")
    assert 1e-7 < waking.wake_seconds() < 10
    monkeypatch.setattr(waking, "wake_seconds", None)
    (graph,) = Program(Adam()).passes("float32", ())
    assert waking.worth_waking(8, waking.LEAST - 1, graph) == 1
    assert waking.worth_waking(2, waking.MOST, graph) == 2
    assert waking.worth_waking(1, waking.LEAST, graph) == 1


@pytest.mark.parametrize("optimizer", [Adam, LAMB])
def test_many_threads_with_little_to_do_have_the_bits_of_one(optimizer, waking):
    case = cases.Case(optimizer, None)
    expected = path_of(case, "native", 1)
    for threads in (2, 3, 64):
        engine_runs.assert_same_run(path_of(case, "native", threads), expected)


def test_optimizers_that_step_at_once_share_the_pool(waking):
    step_in_eight_threads("native")


def test_short_steps_with_other_gradients_each_have_the_bits_of_one_thread(waking):
    rng = np.random.default_rng(0)
    w = rng.standard_normal(5000).astype("float32")
    paths = {threads: (w.copy(), Adam(engine="native", threads=threads)) for threads in (1, 2, 4)}
    gradient = np.empty_like(w)
    for _ in range(2000):
        for parameter, optimizer in paths.values():
            gradient[:] = w
            optimizer.update(parameter, gradient)
            gradient[:] = np.nan  # what a thread would read that came after the step
        w = paths[1][0].copy()
        for parameter, _ in paths.values():
            np.testing.assert_array_equal(parameter, w)


# Words of the block that it is given: the next cell, the number of cells, a value, the turns that
# a cell takes, and the cells.
FILL = """
define void @run(ptr %block) {
entry:
  %count_at = getelementptr i64, ptr %block, i64 1
  %value_at = getelementptr i64, ptr %block, i64 2
  %turns_at = getelementptr i64, ptr %block, i64 3
  %cells = getelementptr i64, ptr %block, i64 4
  br label %take

take:
  %i = atomicrmw add ptr %block, i64 1 monotonic
  %count = load i64, ptr %count_at
  %more = icmp ult i64 %i, %count
  br i1 %more, label %turn, label %done

turn:
  %t = phi i64 [ 0, %take ], [ %t_next, %turn ]
  %turns = load volatile i64, ptr %turns_at
  %t_next = add i64 %t, 1
  %again = icmp ult i64 %t_next, %turns
  br i1 %again, label %turn, label %fill

fill:
  %value = load i64, ptr %value_at
  %cell = getelementptr i64, ptr %cells, i64 %i
  store i64 %value, ptr %cell
  br label %take

done:
  ret void
}
"""


def compiled(ir):
    compile_module = importlib.import_module("instep.engines.native.compile")
    return compile_module.address_of(compile_module.compile_kernel(ir))


def test_no_thread_touches_the_memory_of_a_job_that_is_over(pool):
    kernel, spent = compiled(FILL), []
    for number in range(20_000):
        cells = 1 + number % 7
        # Long ones every now and then: whoever is done first has to wait for the other.
        turns = 10 * (number % 50) if number % 100 else 300_000
        block = array.array("q", [0, cells, number, turns, *[-1] * cells])
        pool.run_on_threads(kernel, block.buffer_info()[0], 2 + number % 3)
        assert block[4:].tolist() == [number] * cells
        block[0] = 0  # who came now would take a cell, and fill it
        block[2] = -2
        spent.append((block, block.tobytes()))
        if number % 100 == 0:
            time.sleep(0.0005)  # let the threads fall asleep
    for block, before in spent:
        assert block.tobytes() == before


# Counts the threads that call it: the first waits for the second, but not for ever.
MEET = """
define void @run(ptr %block) {
entry:
  %taken = atomicrmw add ptr %block, i64 1 monotonic
  br label %look

look:
  %i = phi i64 [ 0, %entry ], [ %i_next, %look ]
  %count = load atomic i64, ptr %block monotonic, align 8
  %alone = icmp ult i64 %count, 2
  %i_next = add i64 %i, 1
  %may_look = icmp ult i64 %i_next, 10000000
  %again = and i1 %alone, %may_look
  br i1 %again, label %look, label %done

done:
  ret void
}
"""


def test_another_thread_takes_part(pool):
    kernel = compiled(MEET)
    for rest in (0.0, 0.0, 0.003, 0.003):
        for _ in range(100):
            time.sleep(rest)
            block = array.array("q", [0])
            pool.run_on_threads(kernel, block.buffer_info()[0], 2)
            if block[0] == 2:
                break
        assert block[0] == 2


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="Linux can be asked")
def test_threads_stay_on_the_cpus_of_the_process(pool, waking):
    before = os.sched_getaffinity(0)
    for _ in range(20):
        path_of(cases.Case(Momentum, None), "native", 3)
        time.sleep(0.002)  # after a rest a thread may have to leave the CPU of this one
    assert os.sched_getaffinity(0) == before
    for thread in threading.enumerate():
        if thread.name == "instep":
            assert os.sched_getaffinity(thread.native_id) <= before


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="no such signal on this system")
def test_a_signal_wakes_no_thread_for_good(pool, waking):
    case = cases.Case(Momentum, None)
    expected = path_of(case, "native", 1)
    seen = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: seen.append(number))
    try:
        for _ in range(3):
            engine_runs.assert_same_run(path_of(case, "native", 3), expected)
            for thread in threading.enumerate():
                if thread.name == "instep":
                    signal.pthread_kill(thread.ident, signal.SIGUSR1)
            time.sleep(0.01)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert seen


def test_a_step_goes_on_alone_where_no_thread_can_be_had(pool, waking, monkeypatch):
    def start(thread):
        raise RuntimeError("can't start new thread")

    case = cases.Case(Momentum, None)
    expected = path_of(case, "native", 1)
    monkeypatch.setattr(pool, "_POOL", pool.Pool())
    monkeypatch.setattr(threading.Thread, "start", start)
    engine_runs.assert_same_run(path_of(case, "native", 3), expected)


POOL_PROGRAM = """
import atexit
import os
import threading
import time
import numpy as np
from instep import Adam

params = {"w": np.zeros(600_003, "float32")}
grads = {"w": np.ones(600_003, "float32")}

def step(threads=3):
    optimizer = Adam(lr=1.0, beta1=0.0, beta2=0.0, eps=0.0, engine="native", threads=threads)
    before = params["w"][0]
    optimizer.update(params, grads)
    assert (params["w"] == before - 1).all()

def workers():
    return sum(thread.name == "instep" for thread in threading.enumerate())

"""

ENDS = {
    "after a step": ("step()", 0, ""),
    "with an error": ("step()\nraise SystemExit('as it should')", 1, "as it should\n"),
    "without cleaning up": ("step()\nos._exit(3)", 3, ""),
    "with a step": ("step()\natexit.register(step)", 0, ""),
    "with the first step": ("atexit.register(step)", 0, ""),
    "while another thread steps": (
        """
def go_on():
    while True:
        step()

threading.Thread(target=go_on, daemon=True).start()
while workers() == 0:
    time.sleep(0.001)
time.sleep(0.01)
""",
        0,
        "",
    ),
}


@pytest.mark.parametrize("end", ENDS)
def test_a_process_ends_while_threads_wait(end):
    engine_runs.require("native")
    program, code, error = ENDS[end]
    ran = subprocess.run(
        [sys.executable, "-c", POOL_PROGRAM + program],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (code, error)


GROWING_PROGRAM = """
from instep.engines.native import launch, pool

launch.worth_waking = lambda threads, elements, graph: min(threads, 2 * elements)
counts = []
pool.MOST_WORKERS = 5
for threads in (1, 2, 4, 3, 64):
    step(threads)
    counts.append(workers())
assert counts == [0, 1, 3, 3, 5], counts
"""


def test_the_pool_grows_to_the_threads_that_are_asked_for():
    engine_runs.require("native")
    program = POOL_PROGRAM + GROWING_PROGRAM
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


def limited(root, cgroup, files, cpus=64):
    """Return the number of threads on a machine of 64 CPUs with these files of Linux."""
    threads = importlib.import_module("instep.engines.native.threads")
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(cgroup, "ascii")
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "ascii")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "sched_getaffinity", lambda pid: set(range(cpus)), raising=False)
        patch.setattr(control_groups, "SYSTEM", root)
        return threads.available_threads()


V1 = "5:memory:/box\n4:cpu,cpuacct:/box/inner\n0::/\n"


@pytest.mark.parametrize(
    ("cgroup", "files", "expected"),
    [
        ("0::/\n", {}, 64),
        ("0::/box\n", {"box/cpu.max": "max 100000\n"}, 64),
        ("0::/box\n", {"box/cpu.max": "300000 100000\n"}, 3),
        ("0::/box\n", {"box/cpu.max": "150000 100000\n"}, 2),
        ("0::/box\n", {"box/cpu.max": "5000 100000\n"}, 1),
        # The group of a group, whichever has less; a container's, whose path is the host's.
        ("0::/a/b\n", {"a/cpu.max": "200000 100000", "a/b/cpu.max": "max 100000"}, 2),
        ("0::/a/b\n", {"a/cpu.max": "400000 100000", "a/b/cpu.max": "200000 100000"}, 2),
        ("0::/host/path\n", {"cpu.max": "500000 100000"}, 5),
        ("0::/../other\n", {"cpu.max": "500000 100000"}, 5),
        ("0::/box\n", {"box/cpu.max": "nonsense\n"}, 64),
        (V1, {"cpu/box/inner/cpu.cfs_quota_us": "-1", "cpu/box/inner/cpu.cfs_period_us": "9"}, 64),
        (
            V1,
            {
                "cpu/box/inner/cpu.cfs_quota_us": "250000",
                "cpu/box/inner/cpu.cfs_period_us": "99999",
            },
            3,
        ),
        (V1, {"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1),
    ],
)
def test_a_share_of_the_cpus_bounds_the_threads(tmp_path, cgroup, files, expected):
    assert limited(tmp_path, cgroup, files) == expected


def test_the_cpus_of_the_process_bound_a_larger_share(tmp_path):
    assert limited(tmp_path, "0::/\n", {"cpu.max": "800000 100000"}, cpus=2) == 2


def test_without_control_groups_all_cpus_of_the_process_are_used(tmp_path, monkeypatch):
    threads = importlib.import_module("instep.engines.native.threads")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 5, 7}, raising=False)
    monkeypatch.setattr(control_groups, "SYSTEM", tmp_path / "nothing")
    assert threads.available_threads() == 3


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


@pytest.fixture
def interrupts():
    """Let SIGINT raise KeyboardInterrupt, as Python does on a terminal."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    sys.settrace(None)
    signal.signal(signal.SIGINT, before)


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
def test_a_step_leaves_handlers_of_signals_alone(engine, interrupts):
    engine_runs.require(engine)
    seen = []
    handler = seen.append
    signal.signal(signal.SIGINT, handler)
    for _ in range(3):
        path_of(cases.Case(Momentum, None), engine, 2, 1000)
    assert signal.getsignal(signal.SIGINT) is handler


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
