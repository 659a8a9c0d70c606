"""The command line: `instep compare`, `instep bench`, `instep info`.

Nothing heavy is imported here; each command imports what it needs.
"""

import argparse
import io
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the exit code: 0, or 2 for a request that cannot be met.

    Without a command, the commands are listed.
    """
    from instep.commands.errors import CommandError

    root = parser()
    given = sys.argv[1:] if arguments is None else list(arguments)
    options, unknown = root.parse_known_args(given)
    if unknown:
        root.error(f"unrecognized arguments: {' '.join(unknown)}{hint(given, unknown)}")
    if options.run is None:
        root.print_help()
        return 0
    if isinstance(sys.stdout, io.TextIOWrapper):  # of a pipe, too, somebody reads the lines
        sys.stdout.reconfigure(line_buffering=True)
    try:
        options.run(options)
    except CommandError as error:
        print(f"instep: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("instep: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read has enough; Python is not to write the rest at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return 0


def hint(given: Sequence[str], unknown: Sequence[str]) -> str:
    """Return what to do about unknown arguments that a list with a space has left over."""
    before = given[given.index(unknown[0]) - 1] if unknown[0] in given[1:] else ""
    if not before.endswith(",") and not unknown[0].startswith(","):
        return ""
    joined = f"{before.rstrip(',')},{unknown[0].strip(',')}"
    return f"; write lists without spaces: {joined}"


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    from instep import __version__

    root = argparse.ArgumentParser(
        prog="instep",
        description="Gradient-based optimizers for plain NumPy and CuPy arrays: what they do, how "
        "fast they are, and what they run on here.",
        epilog="instep COMMAND --help lists the options of a command.",
    )
    root.add_argument("--version", action="version", version=f"instep {__version__}")
    root.set_defaults(run=None)
    commands = root.add_subparsers(title="commands", metavar="COMMAND")
    add_compare(commands)
    add_bench(commands)
    add_info(commands)
    return root


def add_compare(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `instep compare`."""
    command = commands.add_parser(
        "compare",
        help="compare optimizers on two surfaces and on MNIST digits",
        description="Follow optimizers over two test surfaces, and train a network on MNIST "
        "digits with each; write figures and all numbers. Needs the extra: "
        "pip install 'instep[compare]'.",
        epilog=f"Optimizers: {known()}.",
    )
    add = command.add_argument
    add("--out", type=place, default=Path("results"), help="folder to write to (results)")
    add("--only", type=names, metavar="NAME,...", help="experiments to run: paths, mnist (both)")
    add(
        "--optimizers",
        type=names,
        metavar="all|NAME,...",
        help="optimizers to compare; they are listed below (SGD, Momentum, AdaGrad, Adam; on MNIST "
        "also RMSProp)",
    )
    add(
        "--lr",
        type=rate,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="learning rate of an optimizer on MNIST; may be given for several",
    )
    add(
        "--tune",
        action="store_true",
        help="train on MNIST with 0.03, 0.1, 0.3, 1, 3 and 10 times each learning rate, and take "
        "that of the lowest held-out loss",
    )
    add(
        "--backend",
        default="numpy",
        metavar="NAME",
        help="arrays to run on: numpy, cupy, torch, jax, array_api_strict (numpy)",
    )
    add("--engine", default="auto", metavar="NAME", help="engine that takes the steps (auto)")
    add("--threads", type=positive, metavar="N", help="threads of the engine (all)")
    add("--seed", type=seed, default=0, metavar="N", help="seed of all random numbers (0)")
    add("--steps", type=positive, default=20, metavar="N", help="steps of a path (20)")
    add("--epochs", type=positive, metavar="N", help="epochs on MNIST (20; 3 with --mnist)")
    add("--mnist", type=Path, metavar="DIR", help="folder of the full MNIST set, as IDX files")
    add("--no-figures", action="store_true", help="draw no figures")
    add(
        "--html",
        action="store_true",
        help="write a page, too, with tables, figures and a map on which to try paths: one file "
        "that needs no network",
    )
    add("--quick", action="store_true", help="two epochs on MNIST")
    command.set_defaults(run=compare)


def add_bench(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `instep bench`."""
    command = commands.add_parser(
        "bench",
        help="measure steps against the memory limit and against other libraries",
        description="Measure, in about two minutes: optimizers against the memory limit, and one "
        "of them against the size and the number of tensors. Other libraries are measured in "
        "turns with instep, if they are installed.",
        epilog=f"Optimizers: {known()}.",
    )
    add = command.add_argument
    add("--backend", type=names, default=("numpy",), metavar="NAME,...", help="numpy, cupy (numpy)")
    add(
        "--optimizers",
        type=names,
        metavar="all|NAME,...",
        help="optimizers to measure; they are listed below (SGD, Momentum, AdaGrad, RMSProp, Adam, "
        "AdamW)",
    )
    add("--peers", type=names, metavar="none|NAME,...", help="contenders (all installed)")
    add("--threads", type=counts, metavar="N,...", help="numbers of threads (all CPUs)")
    add("--dtype", default="float32", metavar="NAME", help="dtype of the parameters (float32)")
    add("--quick", action="store_true", help="smaller and less often, in half a minute")
    add("--json", type=Path, metavar="FILE", help="write all measurements")
    add("--plot", type=Path, metavar="FILE", help="draw them, as PNG, SVG or PDF")
    command.set_defaults(run=bench)


def add_info(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `instep info`."""
    command = commands.add_parser(
        "info",
        help="show versions, engines, threads, SIMD target and GPU",
        description="Show versions, which engines can be had and why others cannot, threads, "
        "the SIMD target, and the GPU.",
    )
    command.set_defaults(run=info)


def compare(options: argparse.Namespace) -> None:
    """Run `instep compare`."""
    from instep.commands.compare import command as experiments
    from instep.commands.errors import CommandError
    from instep.engines import NAMES

    only = options.only or experiments.EXPERIMENTS
    for name in only:
        if name not in experiments.EXPERIMENTS:
            choices = ", ".join(experiments.EXPERIMENTS)
            raise CommandError(f"--only {name}: no such experiment; choose among {choices}")
    if options.engine not in ("auto", *NAMES):
        choices = ", ".join(("auto", *NAMES))
        raise CommandError(f"--engine {options.engine}: no such engine; choose one of {choices}")
    experiments.run(
        experiments.Request(
            out=options.out,
            experiments=tuple(each for each in experiments.EXPERIMENTS if each in only),
            optimizers=options.optimizers,
            lr=tuple(options.lr),
            tune=options.tune,
            backend=options.backend,
            engine=options.engine,
            threads=options.threads,
            seed=options.seed,
            steps=options.steps,
            epochs=options.epochs,
            mnist=options.mnist,
            quick=options.quick,
            figures=not options.no_figures,
            html=options.html,
        )
    )


def bench(options: argparse.Namespace) -> None:
    """Run `instep bench`."""
    from instep.commands.bench import command

    command.run(
        command.Request(
            backends=options.backend,
            optimizers=options.optimizers,
            peers=() if options.peers == ("none",) else options.peers,
            threads=options.threads,
            dtype=options.dtype,
            quick=options.quick,
            json=options.json,
            plot=options.plot,
        )
    )


def info(_: argparse.Namespace) -> None:
    """Run `instep info`."""
    from instep.commands.info import report

    print(report())


def known() -> str:
    """Return the names of all optimizers."""
    from instep.commands.choice import registry

    return ", ".join(registry())


def rate(text: str) -> tuple[str, float]:
    """Return the name and the learning rate in NAME=VALUE."""
    name, _, value = text.partition("=")
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not name.strip() or not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(
            f"expected NAME=VALUE with a positive value, such as Adam=0.001, got {text!r}"
        )
    return name.strip(), number


def place(text: str) -> Path:
    """Return the path in a text, which the shell may have left empty."""
    if not text.strip():
        raise argparse.ArgumentTypeError("expected the name of a folder, got nothing")
    return Path(text)


def names(text: str) -> tuple[str, ...]:
    """Return the names in a list with commas."""
    found = tuple(name.strip() for name in text.split(",") if name.strip())
    if not found:
        raise argparse.ArgumentTypeError("expected names with commas between them")
    return found


def counts(text: str) -> tuple[int, ...]:
    """Return the positive integers in a list with commas."""
    return tuple(dict.fromkeys(positive(part.strip()) for part in text.split(",")))


def positive(text: str) -> int:
    """Return an integer of at least 1."""
    return integer(text, 1)


def seed(text: str) -> int:
    """Return an integer of at least 0."""
    return integer(text, 0)


def integer(text: str, least: int) -> int:
    """Return an integer that is not below `least`."""
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if number < least:
        raise argparse.ArgumentTypeError(f"expected an integer of at least {least}, got {text!r}")
    return number
