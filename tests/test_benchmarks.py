"""What only the benchmark suite stands on, on tiny cases. No test looks at a time."""

import importlib.util
import json
import math
import time

import breakdown
import networks
import processes
import pytest
import records

from instep.commands.bench import Case, Worker
from instep.commands.bench.cases import CHAIN
from instep.commands.bench.contenders import KIT

needs_llvmlite = pytest.mark.skipif(
    importlib.util.find_spec("llvmlite") is None, reason="llvmlite is not installed"
)


@pytest.mark.parametrize(
    ("name", "tensors", "elements"),
    [("ResNet-50", 161, 25_557_032), ("GPT-2 small", 148, 124_439_808)],
)
def test_networks_have_as_many_parameters_as_their_papers_say(name, tensors, elements):
    shapes = networks.NETWORKS[name]()
    assert len(shapes) == tensors
    assert sum(map(math.prod, shapes)) == elements


def test_claims_stand_beside_the_share_of_the_limit_and_what_it_allows():
    claim = {"name": "large", "threads": 1, "measured": 1.02, "goal": 1.2, "share": 0.945}
    small = {"name": "small", "threads": 2, "measured": 12.0, "goal": 5.0, "share": None}
    small["at_limit"], claim["at_limit"] = None, 1.07
    table = records.of_claims([claim, small, {**small, "goal": None}])
    assert [heading.replace("\n", " ") for heading in table.headings] == [
        *("claim", "threads", "measured", "goal", "met", "of the limit", "at the limit")
    ]
    assert table.rows == (
        ("large", "1", "1.02", "1.20", "no", "94 %", "1.07"),
        ("small", "2", "12.0", "5.00", "yes", "", ""),
        ("small", "2", "12.0", "", "", "", ""),
    )


@needs_llvmlite
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("optimizer", ["Adam", CHAIN])
def test_parts_of_a_small_step_add_up_to_the_step(optimizer, threads):
    case = Case.uniform(optimizer, 20, 10, threads=threads)
    found = breakdown.parts_of_step(case.to_json(), budget=0.0)
    parts = found["parts"]
    assert tuple(parts) == breakdown.PARTS
    # Each was timed. The cost of the stopwatch, an average, is taken off: on a machine that
    # does other work a short part may come out below nothing.
    assert all(seconds != 0 for name, seconds in parts.items() if name != breakdown.REMAINDER)
    assert sum(parts.values()) >= found["seconds"] * (1 - 1e-9)
    assert Case.from_json(found["case"]) == case
    (row,) = records.of_parts([json.loads(json.dumps(found))]).rows
    assert row[:2] == ("20 tensors of 10", str(threads))
    assert len(row) == 3 + len(parts)


@needs_llvmlite
def test_passes_of_a_step_are_timed_beside_streams_of_their_arrays(monkeypatch):
    monkeypatch.setattr("instep.commands.bench.contenders.streams.SMALLEST", 0)
    found = breakdown.passes_of_step(Case.uniform(CHAIN, 2, 1000).to_json(), budget=0.0)
    counts = [(entry["reads"], entry["writes"]) for entry in found["passes"]]
    assert counts == [(1, 0), (5, 4)]
    assert sum(entry["seconds"] for entry in found["passes"]) < found["seconds"]
    rows = records.of_passes([json.loads(json.dumps(found))]).rows
    assert [row[1:4] for row in rows] == [
        ("1: reads 1, writes 0", "1", "4"),
        ("2: reads 5, writes 4", "1", "36"),
        ("the step", "1", "40"),
    ]


def test_stopwatch_counts_the_time_of_an_inner_call_once(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    watch = breakdown.Stopwatch()

    def wait(seconds):
        now[0] += seconds

    inner = watch.around("inner", wait)
    watch.around("outer", lambda: [wait(1.0), inner(4.0), inner(8.0), wait(2.0)])()
    assert watch.seconds == {"inner": 12.0, "outer": 3.0}


def test_first_step_and_peak_memory_are_measured_in_a_process_of_their_own():
    case = Case.uniform("Adam", 1, 1000).to_json()
    with Worker(threads=1) as worker:
        assert worker.ask(processes.first_step, case=case, name=KIT) > 0
        peak = worker.ask(processes.peak_memory, case=case, name="listing")
    assert peak["traced"] > 1  # the arithmetic of a line makes new arrays
