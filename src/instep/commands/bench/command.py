"""`instep bench`: what a step costs on this machine, in about two minutes."""

import json
import pathlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from instep.commands.bench import contenders, environment, figures, tables
from instep.commands.bench.cases import Case
from instep.commands.bench.contenders import KIT, LIMITS
from instep.commands.bench.measuring import Result, measure
from instep.commands.bench.worker import Worker, available_cpus
from instep.commands.choice import select
from instep.commands.errors import CommandError
from instep.commands.tables import show
from instep.graph.dtypes import DTYPES

OPTIMIZERS = ("SGD", "Momentum", "AdaGrad", "RMSProp", "Adam", "AdamW")

TITLES = {
    "limit": "Against the memory limit",
    "size": "One tensor of growing size",
    "tensors": "A growing number of tensors",
}

#: Elements of a tensor where their number grows.
_SMALL = 100

#: A share of the memory limit beyond which it is not the step that is fast. On a quiet machine a
#: step and the stream that measures the limit differ by some percent either way.
IMPLAUSIBLE = 1.15

#: Version of the JSON.
FORMAT = 2


@dataclass(frozen=True)
class Request:
    """What to measure, and where to write it.

    Attributes
    ----------
    peers
        Names of contenders; None for all that are installed.
    threads
        Numbers of threads; None for as many as there are CPUs.
    """

    backends: tuple[str, ...] = ("numpy",)
    optimizers: tuple[str, ...] | None = None
    peers: tuple[str, ...] | None = None
    threads: tuple[int, ...] | None = None
    dtype: str = "float32"
    quick: bool = False
    json: pathlib.Path | None = None
    plot: pathlib.Path | None = None


@dataclass(frozen=True)
class Extent:
    """How much is measured."""

    large: int
    sizes: tuple[int, ...]
    tensors: tuple[int, ...]
    budget: float


FULL = Extent(
    2**24, (10, 100, 1_000, 10_000, 100_000, 1_000_000, 2**24), (1, 10, 100, 1_000, 10_000), 0.7
)
QUICK = Extent(2**23, (10, 1_000, 100_000, 2**23), (1, 10, 100, 1_000), 0.1)


def run(request: Request, extent: Extent | None = None) -> None:
    """Measure; print the tables; write what was asked for.

    Raises
    ------
    CommandError
        Something in the request cannot be met. It is found out before the work begins, as far as
        it can be.
    """
    optimizers = select(request.optimizers, OPTIMIZERS)
    threads = _checked(request)
    extent = extent or (QUICK if request.quick else FULL)
    measured_on = environment.describe(request.backends)
    sys.stdout.write(f"{environment.text(measured_on)}\n\n")
    if environment.busy(measured_on):
        _warn(
            f"{measured_on['load']:g} processes ran or waited in the last minute on "
            f"{measured_on['cpus']} CPUs: times will tell of them, too; measure on a quiet machine"
        )
    sections: dict[str, list[Result]] = {name: [] for name in TITLES}
    with ExitStack() as stack, _progress(sys.stderr) as report:
        asked = [
            (section, case)
            for backend in request.backends
            for count in (threads if backend == "numpy" else (1,))
            for section, case in cases(optimizers, extent, request.dtype, backend, count)
        ]
        workers: dict[int, Worker] = {}
        for done, (section, case) in enumerate(asked):
            report(f"{done + 1}/{len(asked)}  {case.optimizer}, {case.label}")
            names = (KIT, *LIMITS, *_peers(request.peers, case.backend))
            names = tuple(name for name in names if contenders.knows(name, case.backend))
            if case.backend != "numpy":
                result = measure(case, names, budget=extent.budget)
            else:
                if case.threads not in workers:
                    workers[case.threads] = stack.enter_context(Worker(case.threads))
                result = workers[case.threads].measure(case, names, budget=extent.budget)
            sections[section].append(result)
    shown = [t for name, found in sections.items() for t in tables.by_setting(TITLES[name], found)]
    show(shown)
    measured = [result for found in sections.values() for result in found]
    sys.stdout.write(tables.legend(measured))
    _tell_skipped(measured)
    _tell_implausible(measured)
    if request.json is not None:
        write_json(record(sections, measured_on), request.json)
    if request.plot is not None:
        figures.draw(sections, request.plot)


def cases(
    optimizers: Sequence[str], extent: Extent, dtype: str, backend: str, threads: int
) -> Iterator[tuple[str, Case]]:
    """Yield the sections and cases of one setting."""
    fields = {"dtype": dtype, "backend": backend, "threads": threads}
    for name in optimizers:
        yield "limit", Case.uniform(name, 1, extent.large, **fields)
    main = "Adam" if "Adam" in optimizers else optimizers[0]
    for size in extent.sizes:
        yield "size", Case.uniform(main, 1, size, **fields)
    for tensors in extent.tensors:
        yield "tensors", Case.uniform(main, tensors, _SMALL, **fields)


def record(
    sections: Mapping[str, Sequence[Result]], measured_on: Mapping[str, Any], **more: Any
) -> dict[str, Any]:
    """Return results with the machine they were measured on, as plain data.

    `measured_on` is what `environment.describe` returned before the measurement.
    """
    return {
        "format": FORMAT,
        "environment": measured_on,
        "sections": {name: [r.to_json() for r in found] for name, found in sections.items()},
        **more,
    }


def read(text: str) -> dict[str, Any]:
    """Return what `record` made, its sections as results again."""
    found: dict[str, Any] = json.loads(text)
    sections = {
        name: [Result.from_json(fields) for fields in results]
        for name, results in found["sections"].items()
    }
    return {**found, "sections": sections}


def write_json(recorded: Mapping[str, Any], file: pathlib.Path) -> None:
    """Write what `record` made, a line for each result."""
    text = json.dumps(recorded, allow_nan=False).replace('{"case"', '\n{"case"')
    try:
        file.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise CommandError(f"--json {file} cannot be written ({error.strerror})") from error


def _checked(request: Request) -> tuple[int, ...]:
    """Return the numbers of threads, after a look at the whole request."""
    for backend in request.backends:
        if backend not in contenders.BACKENDS:
            choices = ", ".join(contenders.BACKENDS)
            raise CommandError(f"--backend {backend}: choose among {choices}")
    if request.dtype not in DTYPES:
        raise CommandError(f"--dtype {request.dtype}: choose one of {', '.join(DTYPES)}")
    for backend in request.backends:
        (kit,) = contenders.load([KIT], backend)
        reason = kit.refuses(Case.uniform("SGD", 1, 1, dtype=request.dtype, backend=backend))
        if reason is not None:
            raise CommandError(f"--backend {backend} --dtype {request.dtype}: {reason}")
    known = dict.fromkeys(n for b in request.backends for n in contenders.peers(b))
    for name in request.peers or ():
        if name not in known:
            raise CommandError(f"--peers {name}: choose among {', '.join(known)}, or none")
    cpus = available_cpus()
    for count in request.threads or ():
        if count > cpus:
            raise CommandError(f"--threads {count}: this process may run on {cpus} CPUs")
    _check_files(request)
    return request.threads or (cpus,)


def _check_files(request: Request) -> None:
    for option, file in (("--json", request.json), ("--plot", request.plot)):
        if file is not None and not file.parent.is_dir():
            raise CommandError(f"{option} {file}: the folder {file.parent} does not exist")
    if request.plot is not None:
        if request.plot.suffix.lower() not in figures.FORMATS:
            raise CommandError(f"--plot {request.plot}: end it in {', '.join(figures.FORMATS)}")
        figures.check()


def _peers(asked: tuple[str, ...] | None, backend: str) -> tuple[str, ...]:
    if asked is None:
        return contenders.installed(backend)
    return tuple(name for name in asked if name in contenders.peers(backend))


def _tell_skipped(results: Sequence[Result]) -> None:
    """Say which peers were left out, and why: once each."""
    reasons = {
        (name, reason): None
        for result in results
        for name, reason in result.skipped.items()
        if name not in LIMITS
    }
    for name, reason in reasons:
        sys.stdout.write(f"{name} left out: {reason}\n")


def _tell_implausible(results: Sequence[Result]) -> None:
    """Say which steps seem to be faster than the limit that was measured beside them."""
    shares = {r.case.optimizer: r.share for r in results if (r.share or 0.0) > IMPLAUSIBLE}
    if shares:
        which = ", ".join(f"{name} ({tables.percent(share)})" for name, share in shares.items())
        _warn(
            f"more than the memory limit cannot be: {which}. Other processes, or another clock of "
            "the CPU, have disturbed the measurement of the limit; measure again on a quiet machine"
        )


def _warn(text: str) -> None:
    sys.stdout.flush()
    sys.stderr.write(f"instep: warning: {text}\n")


@contextmanager
def _progress(stream: Any) -> Iterator[Callable[[str], None]]:
    """Give what shows a line of progress, if `stream` is a terminal."""
    terminal = stream.isatty()

    def report(text: str) -> None:
        if terminal:
            stream.write(f"\r\x1b[K{text}")
            stream.flush()

    try:
        yield report
    finally:
        report("")
