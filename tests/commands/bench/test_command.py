# ruff: noqa: SLF001  (it looks inside on purpose)
"""`instep bench` and what it stands on, on tiny cases. No test looks at a time."""

import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest

from instep.commands.bench import (
    Case,
    Result,
    Worker,
    clocks,
    command,
    environment,
    figures,
    measure,
    measuring,
    system,
    tables,
)
from instep.commands.bench.cases import trees
from instep.commands.bench.contenders import KIT
from instep.commands.bench.worker import available_cpus
from instep.commands.cli import main
from instep.commands.tables import show
from instep.graph.dtypes import DTYPES

TINY = command.Extent(large=50, sizes=(1, 10), tensors=(1, 3), budget=0.0)


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(command, "QUICK", TINY)
    monkeypatch.setattr(clocks, "FEWEST_ROUNDS", 2)
    monkeypatch.setattr(system, "load_average", lambda: 0.0)


@pytest.fixture(scope="module")
def worker():
    with Worker(threads=1) as worker:
        yield worker


def refusal(capsys, *arguments):
    """Run a request that cannot be met; return its one line."""
    try:
        code = main(["bench", *arguments])
    except SystemExit as stop:  # argparse
        code = stop.code
    printed = capsys.readouterr()
    assert code == 2
    assert printed.out == ""
    return printed.err.strip().splitlines()[-1]


def test_case_survives_json():
    case = Case("Adam", ((3, 2), (4,), (4,), ()), "some", dtype="float64", threads=2)
    assert Case.from_json(json.loads(json.dumps(case.to_json()))) == case


@pytest.mark.parametrize("dtype", DTYPES)
def test_trees_have_the_shapes_and_dtype_of_a_case(dtype):
    if not hasattr(np, dtype):
        pytest.importorskip("ml_dtypes")
    params, grads = trees(Case("Adam", ((3, 2), (0,), ()), "some", dtype=dtype))
    for tree in (params, grads):
        assert [array.shape for array in tree.values()] == [(3, 2), (0,), ()]
        assert {array.dtype.name for array in tree.values()} == {dtype}
    assert list(params) == list(grads) == sorted(params)


def test_turns_go_there_and_back_and_give_each_contender_as_many_rounds(monkeypatch):
    class Counting(clocks.Clock):
        def time(self, step, number):
            step()
            return 1.0

    monkeypatch.setattr(clocks, "FEWEST_ROUNDS", 3)
    order = []
    steps = {name: lambda name=name: order.append(name) for name in "ab"}
    seconds = clocks.in_turns(steps, Counting(), budget=0.0)
    assert seconds == {"a": [1.0] * 3, "b": [1.0] * 3}
    assert "".join(order[-6:]) == "abbaab"


def test_measuring_gives_a_time_a_round_and_the_traffic_of_the_step():
    pytest.importorskip("llvmlite")  # of which the stream is made
    case = Case.uniform("Adam", 2, 5)
    result = measure(case, [KIT, "listing", "stream"], budget=0.0)
    assert list(result.seconds) == [KIT, "listing"]
    assert len({len(values) for values in result.seconds.values()}) == 1
    assert result.bytes_per_element == 28
    assert result.launches == 1
    assert result.share is None
    assert result.skipped == {"stream": "so little memory that the caches serve it"}
    assert Result.from_json(json.loads(json.dumps(result.to_json()))).ran == ("listing",)


def test_ratio_is_that_to_the_fastest_peer_that_ran():
    case = Case.uniform("Adam", 1, 100)
    seconds = {KIT: [2.0, 1.0, 9.0], "a": [4.0], "b": [8.0], "stream": [1.0], "stream add": [1.5]}
    result = Result(case, seconds, bytes_per_element=28)
    assert result.ratio("a", "b", "c") == 2.0
    assert result.ratio("c") is None
    assert result.ran == ("a", "b")
    assert result.share == 0.5
    assert result.bytes_per_second == 1400


def test_ratio_at_the_limit_is_that_of_the_fastest_peer_to_the_faster_stream():
    case = Case.uniform("Adam", 1, 100)
    seconds = {KIT: [2.0], "a": [4.0], "b": [8.0], "stream": [1.0], "stream add": [1.5]}
    result = Result(case, seconds, bytes_per_element=28)
    assert result.ratio_at_limit("a", "b", "c") == 4.0
    assert result.ratio_at_limit("stream", "stream add") == 1.0
    assert result.ratio_at_limit("c") is None
    assert result.share_of("a") == 0.25
    assert Result(case, {KIT: [2.0], "a": [4.0]}).ratio_at_limit("a") is None


@pytest.fixture
def crowded(monkeypatch):
    """Results of a machine with so little memory that the kit finds none."""
    monkeypatch.setattr(measuring, "free_memory", lambda: 1000)
    few, many = (Case.uniform("Adam", 1, size, threads=1) for size in (10, 100_000))
    return {name: [measure(many, [KIT], budget=0.0)] for name in figures.PANELS} | {
        "size": [measure(case, [KIT, "listing"], budget=0.0) for case in (few, many)]
    }


def test_case_that_finds_no_memory_has_an_empty_row(crowded):
    few, many = crowded["size"]
    assert many.skipped[KIT] == "needs 0.0 GiB, 0.0 GiB are left"
    assert many.bytes_per_second is many.share is many.ratio("listing") is None
    table = tables.of_results("Crowded", [few, many])
    assert table.rows[0][:2] == ("10", tables.duration(few.median()))
    assert set(table.rows[1][1:]) == {""}
    assert Result.from_json(json.loads(json.dumps(many.to_json()))).seconds == {}


def test_case_that_finds_no_memory_is_left_out_of_figures(crowded, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is in the extra 'plot'")
    figures.draw(crowded, tmp_path / "bench.png")
    assert (tmp_path / "bench.png").read_bytes()[:4] == b"\x89PNG"


def test_worker_keeps_to_its_cpus(worker):
    code = "from instep.commands.bench.worker import available_cpus; print(available_cpus())"
    here = int(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    assert worker.ask(available_cpus) == min(1, here)


def test_worker_tells_what_went_wrong_and_goes_on(worker):
    with pytest.raises(command.CommandError, match="KeyError: 'nobody'"):
        worker.measure(Case.uniform("Adam", 1, 1), ["nobody"], budget=0.0)
    assert worker.measure(Case.uniform("Adam", 1, 1), [KIT], budget=0.0).ran == ()


def test_worker_that_dies_is_reported():
    with Worker(threads=1) as worker:
        worker._process.kill()
        with pytest.raises(command.CommandError, match=r"exit code (-9|1)\b"):
            worker.ask(available_cpus)


def test_command_prints_tables_and_writes_json(tmp_path, tiny, capsys):
    file = tmp_path / "bench.json"
    arguments = ["--quick", "--peers", "listing", "--threads", "1", "--optimizers", "SGD,Adam"]
    assert main(["bench", *arguments, "--json", str(file)]) == 0
    printed = capsys.readouterr()
    assert "Against the memory limit, 1 thread" in printed.out
    assert "10 means that its step takes ten times as long as instep's" in printed.out
    assert "listing: a textbook's loop, a line of array operations for each" in printed.out
    assert printed.err == ""
    found = command.read(file.read_text(encoding="utf-8"))
    assert found["format"] == command.FORMAT
    assert {"processor", "cpus", "versions", "load"} <= set(found["environment"])
    sections = found["sections"]
    assert [r.case.optimizer for r in sections["limit"]] == ["SGD", "Adam"]
    assert [r.case.elements for r in sections["size"]] == [1, 10]
    assert [len(r.case.shapes) for r in sections["tensors"]] == [1, 3]
    for result in (result for section in sections.values() for result in section):
        assert set(result.seconds) == {KIT, "listing"}


def test_command_begins_with_the_machine_and_the_versions(tiny, capsys):
    assert main(["bench", "--quick", "--peers", "none", "--threads", "1"]) == 0
    machine, versions, *_ = capsys.readouterr().out.splitlines()
    assert "CPU" in machine
    assert f"numpy {np.__version__}" in versions


@pytest.mark.parametrize(
    ("load", "cpus", "busy"),
    [(0.0, 1, False), (0.6, 1, True), (1.0, 2, False), (1.1, 2, True), (1.1, 64, True)],
)
def test_busy_machine_is_told(load, cpus, busy):
    assert environment.busy({"load": load, "cpus": cpus}) is busy


def test_system_that_counts_no_load_is_not_called_busy():
    assert not environment.busy({"load": None, "cpus": 2})


def test_command_warns_of_a_busy_machine(tiny, capsys, monkeypatch):
    monkeypatch.setattr(system, "load_average", lambda: 1000.0)
    assert main(["bench", "--quick", "--peers", "none", "--threads", "1"]) == 0
    assert "instep: warning: 1000 processes ran or waited" in capsys.readouterr().err


def test_command_warns_of_more_than_the_memory_limit(capsys):
    case = Case.uniform("Adam", 1, 100)
    fast = Result(case, {KIT: [1.0], "stream": [2.75]}, bytes_per_element=28)
    command._tell_implausible([fast])
    assert "more than the memory limit cannot be: Adam (275 %)" in capsys.readouterr().err
    command._tell_implausible([Result(case, {KIT: [1.0], "stream": [1.05]}, bytes_per_element=28)])
    assert capsys.readouterr().err == ""


def test_command_measures_a_gpu_beside_the_cpu(tmp_path, tiny, cupy, capsys):
    file = tmp_path / "bench.json"
    arguments = ["--quick", "--peers", "listing", "--threads", "1", "--optimizers", "Adam"]
    assert main(["bench", *arguments, "--backend", "numpy,cupy", "--json", str(file)]) == 0
    sections = command.read(file.read_text(encoding="utf-8"))["sections"]
    assert {r.case.backend for r in sections["limit"]} == {"numpy", "cupy"}
    assert "Against the memory limit, cupy" in capsys.readouterr().out


def test_command_draws_every_section(tmp_path, tiny):
    pytest.importorskip("matplotlib", reason="matplotlib is in the extra 'plot'")
    file = tmp_path / "bench.png"
    assert main(["bench", "--quick", "--peers", "none", "--threads", "1", "--plot", str(file)]) == 0
    assert file.read_bytes()[:4] == b"\x89PNG"


def test_tables_need_no_rich(monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "rich" else find(name)
    )
    result = Result(Case.uniform("Adam", 1, 100), {KIT: [2e-6], "torch fused": [3e-6]}, {}, 28)
    show(tables.by_setting("Small", [result]))
    assert capsys.readouterr().out.splitlines() == [
        "Small, 1 thread: Adam, 1 tensor of 100, float32",
        "",
        "               torch",
        " a step  GB/s  fused",
        "2.00 us  1.40   1.50",
        "",
    ]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--backend", "abacus"], "--backend abacus: choose among numpy, cupy"),
        (["--dtype", "int8"], f"--dtype int8: choose one of {', '.join(DTYPES)}"),
        (["--optimizers", "Newton"], "--optimizers Newton: unknown"),
        (["--peers", "nobody"], "--peers nobody: choose among torch fused"),
        (["--threads", "0"], "expected an integer of at least 1"),
        (["--threads", "100000"], "--threads 100000: this process may run on"),
        (["--json", "no/such/folder/x.json"], "the folder no/such/folder does not exist"),
        (["--plot", "x.doc"], "--plot x.doc: end it in .png, .svg, .pdf"),
    ],
)
def test_request_that_cannot_be_met_is_one_line(arguments, text, capsys):
    assert text in refusal(capsys, *arguments)
