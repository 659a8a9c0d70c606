"""L-BFGS beside that of SciPy and PyTorch: how many evaluations, and how long an iteration takes.

    python benchmarks/minimization.py counts
    python benchmarks/minimization.py speed [elements]

Both print tables. SciPy's L-BFGS-B keeps as many pairs. Evaluations are counted up to the first
whose value is within a millionth of the way from the start to the lowest value. For the speed all
take turns on one thread and on two, and the time of the objective is taken off.
"""

import sys

import iterations
import problems

from instep.commands.bench import Worker
from instep.commands.errors import CommandError

ELEMENTS, ROUNDS = 2**22, 5


def smooth() -> dict[str, problems.Problem]:
    """Return the problems with many parameters, by name."""
    rng = problems.np.random.default_rng(0)
    chained = problems.rosenbrock(10_000)
    between = problems.Problem(chained.value_and_grad, rng.random(10_000), lowest=0.0)
    return {
        "tomography, nowhere negative": problems.tomography(),
        "Rosenbrock, 2": problems.rosenbrock(2),
        "Rosenbrock, 100": problems.rosenbrock(100),
        "Rosenbrock, 100, from zeros": problems.rosenbrock(100, from_zeros=True),
        "Rosenbrock, 10,000, from random numbers in [0, 1)": between,
        "logistic regression of digits, 7,840": problems.digits(),
    }


def counts() -> None:
    """Print how many evaluations the kit and SciPy take."""
    print("| problem | instep | SciPy | ratio |\n|---|---|---|---|")
    for name, problem in smooth().items():
        kit, scipy = problems.values_of_kit(problem), problems.values_of_scipy(problem)
        lowest = min(kit + scipy) if problem.lowest is None else problem.lowest
        own, its = (problems.arrival(values, lowest) for values in (kit, scipy))
        ratio = f"{own / its:.2f}" if own and its else ""
        print(f"| {name} | {own or 'not'} | {its or 'not'} | {ratio} |")
    print("\n| Hock and Schittkowski | instep | SciPy | lowest value | instep | SciPy |")
    print("|---|---|---|---|---|---|")
    for name, problem in problems.hock_schittkowski().items():
        kit, scipy = problems.values_of_kit(problem), problems.values_of_scipy(problem)
        own, its = (problems.arrival(values, problem.lowest) for values in (kit, scipy))
        ends = " | ".join(f"{min(values) - problem.lowest:.0e}" for values in (kit, scipy))
        print(f"| {name} | {own or 'not'} | {its or 'not'} | {problem.lowest:.10g} | {ends} |")


def speed(elements: int) -> None:
    """Print what iterations take, in a process for each number of threads."""
    print(f"{elements:,} parameters, history {iterations.HISTORY}; medians")
    for threads in (1, 2):
        print(f"\n| threads: {threads} | ms an iteration | ratio | evaluations | ms of one |")
        print("|---|---|---|---|---|")
        with Worker(threads) as worker:
            names = [*iterations.CONTENDERS]
            found = worker.ask(
                iterations.measure, elements=elements, threads=threads, rounds=ROUNDS, names=names
            )
        own = found[names[0]]["seconds"]
        for name, its in found.items():
            ms, ratio = its["seconds"] * 1e3, its["seconds"] / own
            print(
                f"| {name} | {ms:,.1f} | {ratio:.2f} | {its['evaluations']:.2f} | "
                f"{its['objective'] * 1e3:.1f} |"
            )


def main(arguments: list[str]) -> int:
    """Print the tables that were asked for."""
    if arguments == ["counts"]:
        counts()
    elif arguments[:1] == ["speed"] and len(arguments) <= 2:
        try:
            speed(int(arguments[1]) if len(arguments) == 2 else ELEMENTS)
        except CommandError as error:
            print(f"minimization: {error}", file=sys.stderr)
            return 1
    else:
        print(__doc__, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
