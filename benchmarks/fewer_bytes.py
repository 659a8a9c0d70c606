"""Measures what fewer-bytes.md shows: how training ends where parameters or state have fewer bits.

    python benchmarks/fewer_bytes.py run digits      writes docs/fewer-bytes/digits.json
    python benchmarks/fewer_bytes.py run text toys
    python benchmarks/fewer_bytes.py draw            tables and figure of what was measured

It needs PyTorch, and `instep[compare]`. Runs that are in the file already are not repeated: delete
the file to measure anew. Where bitsandbytes is not installed, its rows are left out.
"""

import argparse
import importlib.util
import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import fewer_bytes_page
import ml_dtypes
import numpy as np
import torch
from rounded_states import (
    E4M3,
    E5M2,
    UNSIGNED_E4M4,
    UNSIGNED_E5M3,
    Minifloat,
    Root,
    RoundedAdam,
    Words,
)
from small_networks import Digits, Text

from instep import Adam

FOLDER = Path(__file__).parents[1] / "docs" / "fewer-bytes"
PROBLEMS = {"digits": Digits, "text": Text}
SEEDS = 5
#: So many steps are one point of a curve, and the last 100 are the final loss.
WINDOW, LAST = 20, 100

#: Changes a line of parameters, given gradients.
Step = Callable[[np.ndarray, np.ndarray], None]


def kit(**settings) -> Callable:
    """Return what makes a step of the kit's Adam on float32 parameters."""
    return lambda problem, seed: Adam(lr=problem.lr, threads=1, seed=seed, **settings).update


def nudged(problem, seed: int) -> Step:
    """Return a step with a rate that is larger by its last bits: how far equal runs come apart."""
    return Adam(lr=lambda t: problem.lr(t) * (1 + 1e-6), threads=1).update


def narrow(x: np.ndarray) -> np.ndarray:
    """Return an array as bfloat16, rounded to nearest."""
    return x.astype(ml_dtypes.bfloat16)


def kit_on_bfloat16(**settings) -> Callable:
    """Return what makes a step of the kit's Adam on bfloat16 parameters and gradients.

    The network computes in float32: it reads the parameters widened.
    """

    def make(problem, seed: int) -> Step:
        weights, optimizer = narrow(problem.line), kit(**settings)(problem, seed)

        def step(line: np.ndarray, grads: np.ndarray) -> None:
            optimizer(weights, narrow(grads))
            line[...] = weights

        return step

    return make


def fused(problem, seed: int) -> Step:
    """Return a step of PyTorch's fused Adam on bfloat16 parameters, gradients and state."""
    weights = torch.from_numpy(problem.line).to(torch.bfloat16).requires_grad_()
    optimizer = torch.optim.Adam([weights], fused=True)
    rates = map(problem.lr, range(1, len(problem.batches) + 1))

    def step(line: np.ndarray, grads: np.ndarray) -> None:
        optimizer.param_groups[0]["lr"] = next(rates)
        weights.grad = torch.from_numpy(grads).to(torch.bfloat16)
        optimizer.step()
        line[...] = weights.detach().float().numpy()

    return step


def bitsandbytes(problem, seed: int) -> Step:
    """Return a step of bitsandbytes' Adam with state in 8 bits."""
    from bitsandbytes.optim import Adam8bit

    weights = torch.nn.Parameter(torch.zeros(problem.line.shape))
    optimizer = Adam8bit([weights])
    rates = map(problem.lr, range(1, len(problem.batches) + 1))

    def step(line: np.ndarray, grads: np.ndarray) -> None:
        optimizer.param_groups[0]["lr"] = next(rates)
        weights.data, weights.grad = torch.from_numpy(line), torch.from_numpy(grads)
        optimizer.step()

    return step


def simulated(*formats, by_chance: bool = True, words: str = "one") -> Callable:
    """Return what makes a step of Adam whose moments are rounded to formats."""
    return lambda problem, seed: (
        RoundedAdam(problem.lr, formats, Words(seed, words) if by_chance else None).update
    )


#: What is measured: whether the parameters are bfloat16, and what makes the step.
VARIANTS = {
    "float32": (False, kit()),
    "float32, rate 0.0001 % larger": (False, nudged),
    "bfloat16 parameters": (True, kit_on_bfloat16()),
    "bfloat16 parameters, PyTorch's fused Adam": (True, fused),
    "bfloat16 parameters, by chance": (True, kit_on_bfloat16(rounding="stochastic")),
    "bfloat16 parameters, master": (True, kit_on_bfloat16(master=True)),
    "bfloat16 parameters, master, bfloat16 state": (
        True,
        kit_on_bfloat16(master=True, state_dtype="bfloat16"),
    ),
    "bfloat16 state": (False, kit(state_dtype="bfloat16")),
    "bfloat16 state, to nearest": (False, kit(state_dtype="bfloat16", rounding="nearest")),
    "float8 state": (False, kit(state_dtype="float8")),
    "float8 state, to nearest": (False, kit(state_dtype="float8", rounding="nearest")),
    "bitsandbytes' Adam8bit": (False, bitsandbytes),
    "m in e4m3, root of v in e4m4": (False, simulated(E4M3, Root(UNSIGNED_E4M4))),
    "m in e5m2, root of v in e4m4": (False, simulated(E5M2, Root(UNSIGNED_E4M4))),
    "m in e4m3, root of v in e5m3": (False, simulated(E4M3, Root(UNSIGNED_E5M3))),
    "m in e4m3, v in e5m3": (False, simulated(E4M3, UNSIGNED_E5M3)),
    "e4m3, e4m4, roots may become 0": (False, simulated(E4M3, Root(Minifloat(4, 4, 480)))),
    "e4m3, e4m4, 8 random bits": (False, simulated(E4M3, Root(UNSIGNED_E4M4), words="eight")),
    "e4m3, e4m4, two random words": (False, simulated(E4M3, Root(UNSIGNED_E4M4), words="two")),
}


def train(problem_name: str, variant: str, seed: int) -> dict:
    """Return how a problem trains."""
    problem = PROBLEMS[problem_name](seed)
    is_narrow, make = VARIANTS[variant]
    if is_narrow:
        problem.line[...] = narrow(problem.line)
    line, losses = problem.line.copy(), []
    step = make(problem, seed)
    for t in range(1, len(problem.batches) + 1):
        loss, grads = problem.gradients(line, t)
        step(line, grads)
        losses.append(loss)
    curve = np.mean(np.reshape(losses, (-1, WINDOW)), axis=1)
    return {
        "variant": variant,
        "seed": seed,
        "final": round(statistics.fmean(losses[-LAST:]), 5),
        "held out": round(problem.held_out(line), 5),
        "curve": [round(float(loss), 4) for loss in curve],
    }


def measure(problem_name: str, variants: list[str], seeds: int) -> None:
    """Train with every variant and seed that the file of a problem does not have, and add them."""
    file = FOLDER / f"{problem_name}.json"
    found = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
    known = {(run["variant"], run["seed"]) for run in found}
    for seed in range(seeds):
        for variant in variants:
            if (variant, seed) not in known:
                found.append(train(problem_name, variant, seed))
                write(file, found)


def write(file: Path, found: list) -> None:
    """Write what was found, one run a line."""
    lines = ",\n".join(map(json.dumps, found))
    file.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


@dataclass(frozen=True)
class Toy:
    """Weights that are all 1, and how many steps are taken, at a learning rate of 0.001."""

    line: np.ndarray
    batches: range

    def lr(self, t: int) -> float:
        """Return the learning rate of a step."""
        return 1e-3


def toys(variants: list[str]) -> None:
    """Measure two problems without a network."""
    found = []
    for name in variants:
        is_narrow, make = VARIANTS[name]
        if is_narrow or name == "float32":
            found.append({"toy": "ones", "variant": name, "end": ones(make)})
        if not is_narrow:
            found.append({"toy": "falling", "variant": name, "steps": falling(make)})
    write(FOLDER / "toys.json", found)


def ones(make: Callable) -> float:
    """Return the mean of weights that begin at 1, after 500 gradients of 1."""
    toy = Toy(np.ones((1, 256), np.float32), range(500))
    line, step = toy.line.copy(), make(toy, 0)
    for _ in toy.batches:
        step(line, np.ones_like(line))
    return round(float(line.mean(dtype=float)), 4)


def falling(make: Callable) -> float:
    """Return how long steps are after gradients have fallen to a tenth, in learning rates.

    Gradients are normal: 1,000 of deviation 1, and 5,000 of a tenth in every other place. The
    others go on, so that the largest number of each block stays large.
    """
    toy = Toy(np.zeros((16, 256), np.float32), range(6000))
    line, step, rng, squares = toy.line.copy(), make(toy, 0), np.random.default_rng(0), []
    for t in toy.batches:
        grads = rng.standard_normal(line.shape, np.float32)
        if t >= 1000:
            grads[:, ::2] *= np.float32(0.1)
        before = line[:, ::2].copy()
        step(line, grads)
        if t >= 5900:
            squares.append(np.square(line[:, ::2] - before, dtype=float).mean())
    return round(float(np.sqrt(np.mean(squares))) / toy.lr(1), 4)


def main() -> None:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=["run", "draw"])
    parser.add_argument("problems", nargs="*", help="digits, text or toys; nothing: all")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, metavar="VARIANT")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    asked = parser.parse_args()
    FOLDER.mkdir(exist_ok=True)
    if asked.action == "draw":
        fewer_bytes_page.draw(FOLDER, {name: each.title for name, each in PROBLEMS.items()}, WINDOW)
        return
    torch.set_num_threads(1)
    variants = asked.only or list(VARIANTS)
    if not importlib.util.find_spec("bitsandbytes"):
        variants = [name for name in variants if not name.startswith("bitsandbytes")]
    for problem in asked.problems or [*PROBLEMS, "toys"]:
        if problem == "toys":
            toys(variants)
        else:
            measure(problem, variants, asked.seeds)


if __name__ == "__main__":
    main()
