"""`instep compare`: the experiments, from the request to the files."""

import pathlib
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from instep.commands import choice, info
from instep.commands.compare import backends, digits, paths, report, surfaces, training
from instep.commands.errors import CommandError, extra

EXPERIMENTS = ("paths", "mnist")

#: The optimizers whose paths, and whose training, the source text shows.
PATH_OPTIMIZERS = ("SGD", "Momentum", "AdaGrad", "Adam")
MNIST_OPTIMIZERS = ("SGD", "Momentum", "AdaGrad", "RMSProp", "Adam")

#: Learning rates on MNIST: the source text's, and 0.001 for RMSProp. At its default, 0.01, the
#: first steps throw the loss of this network from 2.4 to 15-20, for RMSProp does not correct the
#: bias of its mean square, which starts at 0. Other optimizers have their defaults.
MNIST_LEARNING_RATES = {
    "SGD": 0.1,
    "Momentum": 0.01,
    "AdaGrad": 0.01,
    "RMSProp": 0.001,
    "Adam": 0.01,
}

FIRST_RATE, LAST_RATE = 1.0, 0.5
DEFAULT_EPOCHS, FULL_SET_EPOCHS, QUICK_EPOCHS = 20, 3, 2


@dataclass(frozen=True)
class Request:
    """What to compare, on what, and where to write it.

    `optimizers` and `epochs` are None for the defaults of each experiment.
    """

    out: pathlib.Path
    experiments: tuple[str, ...] = EXPERIMENTS
    optimizers: tuple[str, ...] | None = None
    backend: str = "numpy"
    engine: str = "auto"
    threads: int | None = None
    seed: int = 0
    steps: int = 20
    epochs: int | None = None
    mnist: pathlib.Path | None = None
    quick: bool = False
    figures: bool = True


def run(request: Request) -> None:
    """Run the experiments; write figures and results.json; print the tables.

    Raises
    ------
    CommandError
        Something in the request cannot be met. It is found out before the work begins, as far as
        it can be.
    """
    extra("rich.console")
    if request.figures:
        extra("matplotlib.figure")
    if "mnist" in request.experiments:
        extra("threadpoolctl")
    backend = backends.load(request.backend)
    for name in choice.select(request.optimizers, (*PATH_OPTIMIZERS, "RMSProp")):
        check(name, request, backend)
    data = load_digits(request) if "mnist" in request.experiments else None
    folder = prepared(request.out)

    console = extra("rich.console").Console()
    results: dict[str, Any] = {
        "request": described(request),
        "versions": versions(request.backend),
    }
    written: list[pathlib.Path] = []
    walked: list[paths.Path] = []
    runs: list[training.Training] = []
    seconds: list[float] = []
    if "paths" in request.experiments:
        walked = walk(request, backend)
        results["paths"] = [report.path_record(path) for path in walked]
        written += draw_paths(walked, folder) if request.figures else []
    if data is not None:
        runs, seconds = train(request, data, backend)
        results["mnist"] = {
            "source": data.source,
            "training_images": len(data.train_labels),
            "held_out_images": len(data.held_out_labels),
            "batch": training.BATCH,
            "runs": [report.training_record(each) for each in runs],
        }
        written += draw_training(runs, data.source, folder) if request.figures else []
    report.write_json(results, folder / "results.json")
    for table in report.tables(walked, runs, seconds):
        console.print(table)
    console.print(f"{len(written)} figures and results.json are in {folder}", highlight=False)


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


def prepared(folder: pathlib.Path) -> pathlib.Path:
    """Return the output folder, made if need be, after having written to it."""
    probe = folder / "results.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with probe.open("a"):
            pass
    except OSError as error:
        raise CommandError(
            f"--out {folder} cannot be written ({error.strerror}); give another folder"
        ) from error
    return folder


def described(request: Request) -> dict[str, Any]:
    """Return the part of a request that decides the numbers."""
    return {
        "experiments": list(request.experiments),
        "optimizers": list(request.optimizers) if request.optimizers else None,
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
    request: Request, data: digits.Digits, backend: backends.Backend
) -> tuple[list[training.Training], list[float]]:
    """Train with every optimizer, from the same start on the same batches; time each."""
    task = training.prepare(data, epochs(request), request.seed, backend)
    runs, seconds = [], []
    for name in choice.select(request.optimizers, MNIST_OPTIMIZERS):
        rate = MNIST_LEARNING_RATES.get(name)
        optimizer = make(name, request, **({} if rate is None else {"lr": rate}))
        started = time.perf_counter()
        with progress(f"MNIST, {name}", epochs(request)) as advance, one_blas_thread():
            runs.append(training.train(optimizer, task, advance))
        seconds.append(time.perf_counter() - started)
    return runs, seconds


def one_blas_thread() -> Any:
    """Keep matrix products on one thread, inside a `with`.

    How a product is split decides its last bits: the numbers would depend on the number of cores.
    Matrices of 100 rows gain nothing from a second thread, and on a busy machine, where OpenBLAS's
    threads wait for one another, lose a factor of 20 (measured on two cores).
    """
    return extra("threadpoolctl").threadpool_limits(1)


@contextmanager
def progress(task: str, total: int) -> Iterator[Callable[[], None]]:
    """Show a progress bar on the terminal, if standard error is one; give what advances it."""
    bars, console = extra("rich.progress"), extra("rich.console").Console(stderr=True)
    if not console.is_terminal:  # a bar that is disabled ends a line all the same, before rich 14.3
        yield lambda: None
        return
    with bars.Progress(
        bars.TextColumn("{task.description:<18}"),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TimeElapsedColumn(),
        console=console,
    ) as display:
        identifier = display.add_task(task, total=total)
        yield lambda: display.advance(identifier)


def draw_paths(walked: Sequence[paths.Path], folder: pathlib.Path) -> list[pathlib.Path]:
    """Draw the surfaces, the paths over each, and their heights."""
    from instep.commands.compare import figures

    drawn = {"surfaces": figures.surfaces(surfaces.SURFACES)}
    for surface in surfaces.SURFACES:
        for schedule in paths.HEADINGS:
            shown = [p for p in walked if p.surface is surface and p.schedule == schedule]
            drawn[f"paths_{surface.name}_{schedule}"] = figures.paths(shown)
    drawn["path_heights"] = figures.heights_by_step(walked)
    return save(drawn, folder)


def draw_training(
    runs: Sequence[training.Training], source: str, folder: pathlib.Path
) -> list[pathlib.Path]:
    """Draw loss and accuracy."""
    from instep.commands.compare import figures

    return save(
        {
            "mnist_loss": figures.loss(runs, source),
            "mnist_accuracy": figures.accuracy(runs, source),
        },
        folder,
    )


def save(drawn: dict[str, Any], folder: pathlib.Path) -> list[pathlib.Path]:
    """Write figures as PNG; return the files."""
    written = []
    for name, figure in drawn.items():
        file = folder / f"{name}.png"
        figure.savefig(file, dpi=150)
        written.append(file)
    return written
