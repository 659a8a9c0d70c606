"""Options, workers and the record of the benchmark suite.

pytest-benchmark times one function after the other. Here the contenders of a case take turns, in
a process of their own, and pytest-benchmark is told what came out: its clock replays the times
that were measured, so that its statistics, comparisons and files serve.
"""

from contextlib import ExitStack
from pathlib import Path

import pytest
import records

from instep.commands.bench import Worker, command, contenders, environment, measure
from instep.commands.bench.contenders import KIT, LIMITS
from instep.commands.bench.worker import available_cpus
from instep.engines import available


class ReplayedClock:
    """A clock that goes on only when it is told to."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


CLOCK = ReplayedClock()


#: Left out of the grid unless it is asked for in full: PyTorch's slowest way, and numexpr, which
#: needs three sweeps for what the others do in one.
SLOW = ("torch loop", "numexpr")

#: Budgets that a claim about large arrays gets. In one, five rounds find room: the same ratio was
#: 0.92 in one run and 1.03 in the next.
PATIENCE = 20


class Laboratory:
    """Measures each case once, and remembers everything."""

    def __init__(self, backend, peers, budget):
        self.backend, self.budget, self.long_budget = backend, budget, PATIENCE * budget
        own = (KIT, *(name for name in LIMITS if contenders.knows(name, backend)))
        asked = None if peers is None else () if peers == "none" else tuple(peers.split(","))
        #: All that may run, and those that run in the grid.
        self.names = (*own, *(contenders.peers(backend) if asked is None else asked))
        self.grid = tuple(n for n in self.names if asked is not None or n not in SLOW)
        self.measured_on = environment.describe((backend,))
        self.sections = {}
        self.claims = []
        self.processes = []
        self.profile = {"passes": [], "parts": []}
        self._results = {}
        self._workers = {}
        self._stack = ExitStack()

    def result(self, section, case, names=None, budget=None):
        """Return the result of a case, with all contenders or those named."""
        names = self.grid if names is None else tuple(n for n in names if n in self.names)
        missing = [n for n in names if (case, n) not in self._results]
        if missing:
            result = self._measure(case, names, budget or self.budget)
            self._results |= {(case, name): result for name in names}
        result = self._results[case, names[-1]]
        found = self.sections.setdefault(section, [])
        if result not in found:
            found.append(result)
        return result

    def _measure(self, case, names, budget):
        if case.backend != "numpy":
            return measure(case, names, budget=budget)
        return self.worker(case.threads).measure(case, names, budget=budget)

    def worker(self, threads):
        """Return the process that measures with so many CPUs."""
        if threads not in self._workers:
            self._workers[threads] = self._stack.enter_context(Worker(threads))
        return self._workers[threads]

    def enter(self, name, result, measured, goal, at_limit=None):
        """Enter a claim into the record; goals are those of a CPU."""
        self.claims.append(
            {
                "name": name,
                "threads": result.case.threads,
                "measured": rounded(measured),
                "goal": goal if self.backend == "numpy" else None,
                "share": rounded(result.share),
                "at_limit": rounded(at_limit),
            }
        )

    def close(self):
        self._stack.close()


def pytest_addoption(parser):
    group = parser.getgroup("instep")
    group.addoption("--backend", default="numpy", choices=contenders.BACKENDS)
    group.addoption("--peers", help="contenders, with commas, or none; those worth the time")
    group.addoption("--threads", help="numbers of threads, with commas; 1 and all CPUs")
    group.addoption("--budget", type=float, default=0.5, help="seconds to measure a case for")
    group.addoption("--full", action="store_true", help="also the product of all axes: hours")
    group.addoption("--record", type=Path, metavar="FILE", help="write all results as JSON")


def pytest_configure(config):
    if config.getoption("--backend") == "cupy":
        reason = available()["cuda"]
        if reason is not None:
            raise pytest.UsageError(f"--backend cupy: {reason}")


def pytest_ignore_collect(collection_path, config):
    return True if collection_path.stem == "test_product" and not config.option.full else None


def pytest_generate_tests(metafunc):
    if "threads" in metafunc.fixturenames:
        metafunc.parametrize("threads", thread_counts(metafunc.config), ids="{} threads".format)


def pytest_collection_modifyitems(items):
    for item in items:
        item.add_marker(pytest.mark.benchmark(timer=CLOCK))


def thread_counts(config):
    if config.getoption("--backend") != "numpy":
        return [1]
    asked = config.getoption("--threads")
    return [int(n) for n in asked.split(",")] if asked else sorted({1, available_cpus()})


@pytest.fixture(scope="session")
def laboratory(request):
    option = request.config.getoption
    laboratory = Laboratory(option("--backend"), option("--peers"), option("--budget"))
    if option("--full"):
        laboratory.grid = laboratory.names
    request.config.stash[LABORATORY] = laboratory
    yield laboratory
    laboratory.close()


LABORATORY = pytest.StashKey()


@pytest.fixture
def replay(benchmark, laboratory):
    """Tell pytest-benchmark what was measured: the seconds of each round."""

    def tell(seconds, /, **extra):
        durations = iter(seconds)

        def advance():
            CLOCK.now += next(durations)

        benchmark.pedantic(advance, rounds=len(seconds))
        machine = {
            "CPU": laboratory.measured_on["processor"],
            "CPUs": laboratory.measured_on["cpus"],
        }
        benchmark.extra_info.update(machine | extra)

    return tell


@pytest.fixture
def report(laboratory, replay):
    """Measure a case with all contenders, and tell pytest-benchmark."""

    def tell(section, case, names=None, budget=None):
        (kit,) = contenders.load([KIT], case.backend)
        reason = kit.refuses(case)
        if reason is not None:
            pytest.skip(reason)
        result = laboratory.result(section, case, names, budget)
        if KIT in result.skipped:  # there is too little memory
            pytest.skip(result.skipped[KIT])
        replay(result.seconds[KIT], **facts(result))
        return result

    return tell


def facts(result):
    """Return what is worth knowing of a result, for `extra_info`."""
    ratios = {name: round(result.ratio(name), 3) for name in result.ran}
    limits = {name: round(result.rate(name)) for name in LIMITS if name in result.seconds}
    return {
        "optimizer": result.case.optimizer,
        "parameters": result.case.label,
        "elements": result.case.elements,
        "dtype": result.case.dtype,
        "threads": result.case.threads,
        "backend": result.case.backend,
        "bytes an element": result.bytes_per_element,
        "bytes a second": round(result.bytes_per_second),
        "bytes a second of the memory": limits,
        "share of the memory limit": rounded(result.share),
        "launches a step": result.launches,
        "seconds on the host": result.host_seconds,
        "times faster than": ratios,
        "skipped": dict(result.skipped),
    }


def rounded(ratio):
    """Return a ratio to a thousandth, and None for none."""
    return None if ratio is None else round(ratio, 3)


def pytest_benchmark_update_machine_info(config, machine_info):
    machine_info["instep"] = environment.describe((config.getoption("--backend"),))


def pytest_terminal_summary(terminalreporter, config):
    laboratory = config.stash.get(LABORATORY, None)
    if laboratory is None:
        return
    if laboratory.claims:
        terminalreporter.write_line("")
        terminalreporter.write_line(records.of_claims(laboratory.claims).text())
    file = config.getoption("--record")
    if file is not None:
        more = {name: getattr(laboratory, name) for name in ("claims", "processes", "profile")}
        command.write_json(
            command.record(laboratory.sections, laboratory.measured_on, **more), file
        )
        terminalreporter.write_line(f"\nresults are in {file}")
