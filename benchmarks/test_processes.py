"""What is measured in new processes: the import, the first step, and the peak of memory."""

import processes
import pytest

from instep.commands.bench import Case, Worker, contenders
from instep.commands.bench.contenders import KIT

FIRST_STEPS = (KIT, "torch fused", "optax", "numba")
MEMORY = (KIT, "torch fused", "torch foreach", "optax", "listing")

TIMES = 3


@pytest.fixture(autouse=True)
def on_the_host(laboratory):
    if laboratory.backend != "numpy":
        pytest.skip("measured with NumPy arrays")


def test_import(laboratory, replay):
    found = processes.import_seconds(7)
    laboratory.processes.append({"what": "import instep, NumPy being imported", **found})
    replay(found["seconds"], imported=found["imported"])
    assert found["imported"] == []  # compilers and GPU libraries wait until they are needed


@pytest.mark.parametrize("name", FIRST_STEPS)
def test_first_step(name, laboratory, replay):
    case = Case.uniform("Adam", 10, 1_000)
    skip_unless_it_runs(name, case, laboratory)
    seconds = []
    for _ in range(TIMES):
        with Worker(threads=1) as worker:
            seconds.append(worker.ask(processes.first_step, case=case.to_json(), name=name))
    what = f"first step of Adam on {case.label}: {name}"
    laboratory.processes.append(
        {"what": what, "median": sorted(seconds)[TIMES // 2], "seconds": seconds}
    )
    replay(seconds, contender=name)


@pytest.mark.parametrize("name", MEMORY)
def test_peak_memory(name, laboratory, replay):
    case = Case.uniform("Adam", 1, 2**23)
    skip_unless_it_runs(name, case, laboratory)
    with Worker(threads=1) as worker:
        peak = worker.ask(processes.peak_memory, case=case.to_json(), name=name)
    what = f"memory a step of Adam takes, in arrays like the parameter: {name}"
    laboratory.processes.append({"what": what, **peak})
    replay([peak.pop("seconds")], contender=name, **peak)
    if name == KIT:
        assert peak["traced"] < 0.01  # no temporary of the size of a parameter


def skip_unless_it_runs(name, case, laboratory):
    if name not in laboratory.names:
        pytest.skip("left out")
    (contender,) = contenders.load([name], "numpy")
    reason = contender.refuses(case)
    if reason is not None:
        pytest.skip(reason)
