"""Slots that are given each other's arrays, as L-BFGS does at every step."""

import bits
import engine_runs
import numpy as np
import pytest

from instep import Optimizer, chain
from instep.interrupts import at_once
from instep.stateful import turning
from instep.transforms import clip_by_global_norm

TURN = {"a": "b", "b": "c", "c": "a"}


class Ring(Optimizer):
    """Keeps the parameters of three steps, one of them in each."""

    lr: float = 0.5

    slots = exact_slots = ("a", "b", "c")
    positive_slots = ()
    tree_readings = ("sum",)

    @staticmethod
    def rule(xp, w, g, s, h):
        return w - h.lr * (g + 0.5 * s.a + 0.25 * s.b + s.c), {"c": w, "sum": xp.tree_sum(s.a)}


def tree():
    rng = np.random.default_rng(0)
    numbers = lambda *shape: rng.standard_normal(shape)  # noqa: E731
    return {
        "line": numbers(40),
        "columns": numbers(30, 20)[:, ::2],
        "fortran": np.asfortranarray(numbers(7, 5)),
        "large": numbers(20_000).astype("float32"),
        "none": numbers(0),
        "number": np.asarray(numbers()),
    }


def stepped(engine, threads, steps=7, *, turn=True):
    engine_runs.require(engine)
    params, optimizer = tree(), Ring(engine=engine, threads=threads, overrides={"l*": {"lr": 0.1}})
    read = []
    for number in range(steps):
        grads = {k: np.cos(number * x) for k, x in params.items()}
        optimizer.update(params, grads)
        read.append(optimizer.readings["sum"])
        if turn:
            at_once(turning(optimizer, TURN))
    return params, read


def expected(steps=7):
    """Return the same, written out."""
    params = tree()
    known = {k: [np.zeros_like(x)] * 3 for k, x in params.items()}
    for number in range(steps):
        for k, w in params.items():
            a, b, c = known[k]
            lr = w.dtype.type(0.1 if k.startswith("l") else 0.5)
            new = w - lr * (np.cos(number * w) + w.dtype.type(0.5) * a + w.dtype.type(0.25) * b + c)
            known[k] = [b, w.copy(), a]
            w[...] = new
    return params


@pytest.mark.parametrize(
    ("engine", "threads"), [("native", 1), ("native", 2), ("blocked", 1), ("array_api", 1)]
)
def test_a_turn_is_what_it_says_whatever_the_engine_and_the_layout(engine, threads):
    params, read = stepped(engine, threads)
    for key, x in expected().items():
        bits.assert_same_bits(params[key], x)
    _, numbers = stepped("array_api", None)
    assert read == numbers
    other, _ = stepped(engine, threads, turn=False)
    assert not np.array_equal(other["line"], params["line"])


def test_a_turn_is_for_all_plans_that_are_remembered():
    engine_runs.require("native")
    both = [tree(), tree()]
    optimizers = Ring(engine="native"), Ring(engine="array_api")
    for params, optimizer in zip(both, optimizers, strict=True):
        for number in range(8):
            grads = {k: np.sin(number + x) for k, x in params.items()}
            if number % 2:  # a plan of its own
                grads["line"] = None
            optimizer.update(params, grads)
            at_once(turning(optimizer, TURN))
    for key in both[0]:
        bits.assert_same_bits(both[0][key], both[1][key])


def test_a_chain_is_turned_by_the_names_of_its_state():
    engine_runs.require("native")
    names = {f"Ring_{new}": f"Ring_{old}" for new, old in TURN.items()}
    both = [{"w": np.ones(30)}, {"w": np.ones(30)}]
    for params, engine in zip(both, ("native", "array_api"), strict=True):
        optimizer = chain(clip_by_global_norm(0.1), Ring(), engine=engine)
        for _ in range(5):
            optimizer.update(params, {"w": np.linspace(1, 2, 30)})
            at_once(turning(optimizer, names))
    bits.assert_same_bits(both[0]["w"], both[1]["w"])
