"""`instep compare`: the experiments, from the request to the files."""

import pathlib
import platform
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from typing import Any

import numpy as np

from instep.commands import choice, info
from instep.commands.compare import (
    backends,
    digits,
    folder,
    paths,
    report,
    surfaces,
    training,
    tuning,
)
from instep.commands.errors import CommandError, extra
from instep.commands.progress import progress
from instep.commands.tables import Table, show

EXPERIMENTS = ("paths", "mnist")

#: The optimizers whose paths, and whose training, the source text shows.
PATH_OPTIMIZERS = ("SGD", "Momentum", "AdaGrad", "Adam")
MNIST_OPTIMIZERS = ("SGD", "Momentum", "AdaGrad", "RMSProp", "Adam")

FIRST_RATE, LAST_RATE = 1.0, 0.5
DEFAULT_EPOCHS, FULL_SET_EPOCHS, QUICK_EPOCHS = 20, 3, 2


@dataclass(frozen=True)
class Request:
    """What to compare, on what, and where to write it.

    `optimizers` and `epochs` are None for the defaults of each experiment. `lr` are learning rates
    on MNIST by the names of optimizers, and `tune` whether rates around them are tried.
    """

    out: pathlib.Path
    experiments: tuple[str, ...] = EXPERIMENTS
    optimizers: tuple[str, ...] | None = None
    lr: tuple[tuple[str, float], ...] = ()
    tune: bool = False
    backend: str = "numpy"
    engine: str = "auto"
    threads: int | None = None
    seed: int = 0
    steps: int = 20
    epochs: int | None = None
    mnist: pathlib.Path | None = None
    quick: bool = False
    figures: bool = True
    html: bool = False


@dataclass
class Outcome:
    """What the experiments have shown; `data` is None where no digits were trained on."""

    walked: list[paths.Path] = field(default_factory=list)
    data: digits.Digits | None = None
    runs: list[training.Training] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    trials: list[tuning.Trial] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)

    def tell(self, table: Table) -> None:
        """Keep a table, and print it."""
        self.tables.append(table)
        show([table])


def run(request: Request) -> None:
    """Run the experiments; print the tables; write results.json, then the figures.

    Raises
    ------
    CommandError
        Something in the request cannot be met. It is found out before the work begins, as far as
        it can be.
    """
    with progress("starting"):
        if request.figures:
            extra("matplotlib.figure")
        backend, rates = checked(request)
        outcome = Outcome(data=load_digits(request) if "mnist" in request.experiments else None)
        out = folder.prepared(request.out)
    compute(request, backend, rates, outcome)
    numbers = results(request, outcome)
    stale = folder.write_numbers(report.as_json(numbers), out)
    drawn = folder.draw(drawings(outcome), out) if request.figures else []
    written = list(drawn)
    if request.html:
        text = page(numbers, outcome, figures=request.figures)
        folder.write(folder.PAGE, text.encode(), out)
        written.append(folder.PAGE)
    gone = sorted(set(stale) - set(written))
    if gone:
        sys.stdout.write(f"removed, for they were of an earlier run: {', '.join(gone)}\n")
    names = [folder.NUMBERS, *([folder.PAGE] if request.html else [])]
    names += [f"{len(drawn)} figures"] if drawn else []
    sys.stdout.write(f"in {out}: {', '.join(names)}\n")


def checked(request: Request) -> tuple[backends.Backend, dict[str, float]]:
    """Return the backend and learning rates of a request, after a look at all of it."""
    extra("rich.console")
    if "mnist" in request.experiments:
        extra("threadpoolctl")
    elif request.lr or request.tune:
        option = "--tune" if request.tune else "--lr"
        raise CommandError(
            f"{option} is for MNIST, and --only leaves it out; leave out one of them"
        )
    backend = backends.load(request.backend)
    for name in choice.select(request.optimizers, (*PATH_OPTIMIZERS, "RMSProp")):
        check(name, request, backend)
    return backend, tuning.rates(request.lr, choice.select(request.optimizers, MNIST_OPTIMIZERS))


def compute(
    request: Request, backend: backends.Backend, rates: dict[str, float], outcome: Outcome
) -> None:
    """Run the experiments, and print the table of each when it is done."""
    if "paths" in request.experiments:
        outcome.walked += walk(request, backend)
        outcome.tell(report.path_table(outcome.walked))
    if outcome.data is not None:
        train(request, backend, rates, outcome)
        if outcome.trials:
            outcome.tell(report.tuning_table(outcome.trials))
        outcome.tell(
            report.training_table(outcome.runs, outcome.seconds, tuned=bool(outcome.trials))
        )


def results(request: Request, outcome: Outcome) -> dict[str, Any]:
    """Return all numbers as plain data."""
    found: dict[str, Any] = {
        "request": described(request),
        "versions": versions(request.backend),
        "files": files(request, outcome),
    }
    if "paths" in request.experiments:
        found["paths"] = [report.path_record(path) for path in outcome.walked]
    if outcome.data is not None:
        found["mnist"] = {
            "source": outcome.data.source,
            "training_images": len(outcome.data.train_labels),
            "held_out_images": len(outcome.data.held_out_labels),
            "batch": training.BATCH,
            "runs": [report.training_record(each) for each in outcome.runs],
        }
        if outcome.trials:
            found["mnist"]["tuning"] = [tuning.record(trial) for trial in outcome.trials]
    return found


def files(request: Request, outcome: Outcome) -> list[str]:
    """Return the names of all files that are written: a later run may remove these, no others."""
    figures = [f"{name}.png" for name in drawings(outcome)] if request.figures else []
    return [folder.NUMBERS, *figures, *([folder.PAGE] if request.html else [])]


def make(name: str, request: Request, **hyperparameters: Any) -> Any:
    """Return a new optimizer, on the engine and with the threads of the request."""
    return choice.registry()[name](
        engine=request.engine, threads=request.threads, **hyperparameters
    )


def rate_of_a_point(name: str, rate: Any) -> dict[str, Any]:
    """Return the learning rate as keywords; what is no matrix, Muon hands to AdamW."""
    return {"lr": rate, "adamw_lr": rate} if name == "Muon" else {"lr": rate}


def check(name: str, request: Request, backend: backends.Backend) -> None:
    """Try one step of an optimizer, so that an engine that cannot be had is found out early."""
    try:
        make(name, request).update(backend.array([0.0]), backend.array([1.0]), value=1.0)
    except (ImportError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        raise CommandError(
            f"--engine {request.engine} --backend {backend.name}: {error}"
        ) from error


def described(request: Request) -> dict[str, Any]:
    """Return the part of a request that decides the numbers."""
    return {
        "experiments": list(request.experiments),
        "optimizers": list(request.optimizers) if request.optimizers else None,
        "lr": dict(request.lr),
        "tune": request.tune,
        "backend": request.backend,
        "engine": request.engine,
        "threads": request.threads,
        "seed": request.seed,
        "steps": request.steps,
        "epochs": epochs(request),
    }


def versions(backend: str) -> dict[str, str]:
    """Return the versions of what has a part in the numbers and figures."""
    names = ["instep", "numpy", "array-api-compat", "llvmlite", "matplotlib"]
    names += {"torch": ["torch"], "jax": ["jax", "jaxlib"]}.get(backend, [])
    names += ["array-api-strict"] if backend == "array_api_strict" else []
    if backend == "cupy":
        names += ["cupy-cuda12x", "cupy-cuda13x", "cupy"]
    found = {"python": platform.python_version(), "machine": platform.machine()}
    return found | info.installed(names)


def epochs(request: Request) -> int:
    """Return how often training goes through the images."""
    if request.epochs is not None:
        return request.epochs
    if request.quick:
        return QUICK_EPOCHS
    return DEFAULT_EPOCHS if request.mnist is None else FULL_SET_EPOCHS


def walk(request: Request, backend: backends.Backend) -> list[paths.Path]:
    """Follow every optimizer over both surfaces, with a constant and a decaying rate."""
    walked = []
    rates = {
        "constant": FIRST_RATE,
        "decay": paths.Decay(FIRST_RATE, LAST_RATE, request.steps),
    }
    names = choice.select(request.optimizers, PATH_OPTIMIZERS)
    with progress("paths", len(surfaces.SURFACES) * len(rates) * len(names)) as advance:
        for surface in surfaces.SURFACES:
            for schedule, rate in rates.items():
                for name in names:
                    optimizer = make(name, request, **rate_of_a_point(name, rate))
                    walked.append(
                        paths.follow(optimizer, surface, schedule, request.steps, backend)
                    )
                    advance()
    return walked


def load_digits(request: Request) -> digits.Digits:
    """Return the digits that the request asks for."""
    if request.mnist is not None:
        return digits.full(request.mnist)
    return digits.small(np.random.default_rng((request.seed, 0)))


def train(
    request: Request, backend: backends.Backend, rates: dict[str, float], outcome: Outcome
) -> None:
    """Train with every optimizer, from the same start on the same batches; time each."""
    assert outcome.data is not None
    rounds = epochs(request)
    task = training.prepare(outcome.data, rounds, request.seed, backend)

    def trained(name: str, rate: float, advance: Callable[[], None]) -> training.Training:
        optimizer = make(name, request, lr=rate)
        started = time.perf_counter()
        with one_blas_thread():
            found = training.train(optimizer, task, advance)
        durations[name, rate] = time.perf_counter() - started
        return found

    durations: dict[tuple[str, float], float] = {}
    for name, rate in rates.items():
        count = rounds * (len(tuning.FACTORS) if request.tune else 1)
        with progress(f"MNIST, {name}", count) as advance:
            if request.tune:
                best, trials = tuning.tune(name, rate, partial(trained, advance=advance))
                outcome.trials += trials
            else:
                best = trained(name, rate, advance)
        outcome.runs.append(best)
        outcome.seconds.append(durations[name, best.hyperparameters["lr"]])


def one_blas_thread() -> Any:
    """Keep matrix products on one thread, inside a `with`.

    How a product is split decides its last bits: the numbers would depend on the number of cores.
    Matrices of 100 rows gain nothing from a second thread, and on a busy machine, where OpenBLAS's
    threads wait for one another, lose a factor of 20 (measured on two cores).
    """
    return extra("threadpoolctl").threadpool_limits(1)


def page(numbers: dict[str, Any], outcome: Outcome, *, figures: bool) -> str:
    """Return the page of the results; its figures are light or dark, and wide or for phones."""
    from instep.commands.compare import html, style

    drawn: dict[str, dict[tuple[str, str], bytes]] = {}
    for theme, shape in product(style.THEMES.values(), html.SHAPES) if figures else ():
        with style.themed(theme), style.narrowed() if shape == "narrow" else nullcontext():
            task = f"{theme.name} figures, {shape}"
            files = folder.as_png(drawings(outcome), task, dpi=160, colours=128)
        for name, file in files.items():
            drawn.setdefault(name, {})[theme.name, shape] = file
    facts = {
        "Versions": ", ".join(f"{name} {version}" for name, version in numbers["versions"].items()),
        "Asked for": ", ".join(
            f"{name} {' and '.join(map(str, value)) if isinstance(value, list) else value}"
            for name, value in numbers["request"].items()
            if value not in (None, False, {})
        ),
    }
    return html.page(facts, outcome.tables, drawn)


def drawings(outcome: Outcome) -> dict[str, Callable[[], Any]]:
    """Return what draws each figure, by name."""
    from instep.commands.compare import curves, figures

    found: dict[str, Callable[[], Any]] = {}
    if outcome.walked:
        found["surfaces"] = partial(figures.surfaces, surfaces.SURFACES)
        for surface in surfaces.SURFACES:
            for schedule in paths.HEADINGS:
                shown = [
                    p for p in outcome.walked if p.surface is surface and p.schedule == schedule
                ]
                found[f"paths_{surface.name}_{schedule}"] = partial(figures.paths, shown)
        found["path_heights"] = partial(figures.heights_by_step, outcome.walked)
    if outcome.data is not None:
        counts = len(outcome.data.train_labels), len(outcome.data.held_out_labels)
        found["mnist_loss"] = partial(curves.loss, outcome.runs, counts)
        found["mnist_accuracy"] = partial(curves.accuracy, outcome.runs, counts)
    return found
