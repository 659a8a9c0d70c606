"""A process that measures: it has a number of CPUs, and its libraries know of no more.

Threads are not bounded by asking each library: XLA has no such setting once it runs. The process
may run on so many CPUs and no others, from before anything is imported. It reads requests from
its standard input, a line of JSON each, and answers in the same way.
"""

import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import IO, Any, Self

from instep.commands.bench.cases import Case
from instep.commands.bench.system import exit_text
from instep.commands.errors import CommandError

#: What bounds the threads of a library that does not look at the CPUs of the process.
_BOUNDS = (
    "INSTEP_NUM_THREADS",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMEXPR_MAX_THREADS",
)


_PROGRAM = "from instep.commands.bench.worker import serve; serve()"


class Worker:
    """A process with `threads` CPUs, as a context.

    Examples
    --------
    >>> from instep.commands.bench import Case, Worker
    >>> with Worker(threads=1) as worker:
    ...     result = worker.measure(Case.uniform("Adam", 1, 1000), ["instep"], budget=0.01)
    >>> result.median() < 1.0
    True
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._process: subprocess.Popen[str] | None = None
        self._errors: IO[str] | None = None

    def __enter__(self) -> Self:
        environment = dict(os.environ) | dict.fromkeys(_BOUNDS, str(self.threads))
        environment["PYTHONPATH"] = os.pathsep.join(sys.path)  # what is asked for is found there
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")
        self._process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", "-c", _PROGRAM, str(self.threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            encoding="utf-8",
            env=environment,
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._process is not None
        assert self._errors is not None
        if kind is not None:
            self._process.kill()
        self._process.communicate()
        self._errors.close()

    def ask(self, function: Callable[..., Any], **arguments: Any) -> Any:
        """Run a function of a module there, on plain data; return what it returned."""
        process, errors = self._process, self._errors
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        assert errors is not None
        try:
            task = {"module": function.__module__, "name": function.__name__}
            process.stdin.write(json.dumps({**task, "arguments": arguments}) + "\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        except OSError:  # a broken pipe; Windows calls it an invalid argument
            answer = ""
        if not answer:
            code = process.wait()
            errors.seek(0)
            last = (errors.read().strip().splitlines() or ["it said nothing"])[-1]
            raise CommandError(f"the measuring process ended (exit code {exit_text(code)}): {last}")
        found = json.loads(answer)
        if "error" in found:
            raise CommandError(found["error"])
        return found["result"]

    def measure(self, case: Case, names: Sequence[str], *, budget: float) -> Any:
        """Measure contenders on a case there; see `instep.commands.bench.measure`."""
        from instep.commands.bench.measuring import Result

        answer = self.ask(measured, case=case.to_json(), names=[*names], budget=budget)
        return Result.from_json(answer)


def measured(case: dict[str, Any], names: list[str], budget: float) -> dict[str, Any]:
    """Measure a case that came as plain data."""
    from instep.commands.bench.measuring import measure

    return measure(Case.from_json(case), names, budget=budget).to_json()


def available_cpus() -> int:
    """Return the number of CPUs that this process may run on."""
    from instep.engines.native.threads import available_threads

    return available_threads()


def _bind(threads: int) -> None:
    """Keep this process to so many CPUs: the last ones, for the first serves interrupts.

    macOS and Windows offer no such call to Python: there the bounds in the environment must do.
    """
    if hasattr(os, "sched_setaffinity"):
        cpus = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cpus[-threads:])


def _answer_all(requests: IO[str], answer: Callable[[dict[str, Any]], None]) -> None:
    for line in requests:
        request = json.loads(line)
        module, name = request["module"], request["name"]
        try:
            function = getattr(importlib.import_module(module), name)
            answer({"result": function(**request["arguments"])})
        except Exception as error:  # noqa: BLE001 - whatever a peer raises is told, and all
            text = str(error).strip().partition("\n")[0]
            task = f"{module.rpartition('.')[2]}.{name}"
            answer({"error": f"{task}: {type(error).__name__}: {text}"})


def serve() -> None:
    """Answer requests until there are no more; the command line gives the number of CPUs."""
    _bind(int(sys.argv[1]))
    # Libraries print as they like; what they print must not get among the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(found: dict[str, Any]) -> None:
        answers.write(json.dumps(found) + "\n")
        answers.flush()

    _answer_all(sys.stdin, answer)
