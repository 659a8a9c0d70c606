"""Steps that processes take together, under mpiexec: on_ranks.py has the cases."""

import ast
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("on_ranks.py")

#: Seconds until processes are taken for hanging. They take a fifth of it.
PATIENCE = 240

#: Numbers of processes.
RANKS = (1, 2, 3, 4)


def cases():
    body = ast.parse(SCRIPT.read_text("utf-8")).body
    functions = [x for x in body if isinstance(x, ast.FunctionDef)]
    return [x.name for x in functions if "case" in map(ast.unparse, x.decorator_list)]


def mpiexec():
    beside = Path(sys.executable).with_name("mpiexec")
    return str(beside) if beside.exists() else shutil.which("mpiexec")


def missing():
    if importlib.util.find_spec("mpi4py") is None:
        return "needs mpi4py (pip install mpi4py mpich)"
    return None if mpiexec() else "needs mpiexec (pip install mpich)"


pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))


def run(ranks, *names, python=(sys.executable,), **variables):
    """Run cases on so many processes; return what each printed, and kill what hangs."""
    command = [mpiexec(), "-n", str(ranks), *python, str(SCRIPT), *names]
    # One thread each: processes are more than cores, and wait for each other.
    environment = os.environ | {"INSTEP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", **variables}
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    ) as process:
        try:
            output, errors = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, errors = process.communicate()
            errors += f"\nprocesses hung for {PATIENCE} s"
    return output, errors, process.returncode


@cache
def outcomes(ranks):
    return read(*run(ranks))


def read(output, errors, status):
    found = dict(json.loads(line) for line in output.splitlines() if line.startswith("["))
    return found, f"mpiexec returned {status}\n{errors}"


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("name", cases())
def test_on_ranks(name, ranks):
    found, errors = outcomes(ranks)
    assert name in found, errors
    assert not found[name], "\n".join(found[name].values())


def test_on_ranks_with_arrays_of_a_device(cupy):
    names = ("elementwise_rules", "norms_of_tensors_and_the_tree", "guards")
    stand_in = ("-m", "cupy_on_cpu") if "cupy_on_cpu" in sys.modules else ()
    done = run(2, *names, python=(sys.executable, *stand_in), INSTEP_XP="cupy")
    found, errors = read(*done)
    assert found == {name: {} for name in names}, errors


def test_a_process_that_ends_takes_the_others_along():
    output, errors, status = run(2, "a_rank_that_dies")
    assert status != 0
    assert "alive" not in output, errors
