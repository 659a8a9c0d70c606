"""In float32, the error against a float64 oracle is no larger than that of torch, fused or not."""

from dataclasses import dataclass, field

import numpy as np
import pytest
import textbook

import instep

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.peers

ELEMENTS = 4000
WAYS = {"foreach": {"foreach": True}, "fused": {"fused": True}}

# The error of an element is as good as random: a mean over 4,000 of them scatters by 1.2 %.
CHANCE = 1.03


@dataclass(frozen=True)
class Contest:
    """A rule of instep, its textbook loop, and torch's class with the variant set equal."""

    rule: str
    oracle: object
    peer: str
    theirs: dict = field(default_factory=dict)
    ways: tuple = ("foreach", "fused")


CONTESTS = [
    Contest("SGD", textbook.sgd, "SGD", {"lr": 0.01}),
    Contest("Momentum", textbook.momentum, "SGD", {"lr": 0.01, "momentum": 0.9}),
    Contest("AdaGrad", textbook.adagrad, "Adagrad", {"lr": 0.01, "eps": 1e-7}),
    Contest(
        "RMSProp",
        textbook.rmsprop,
        "RMSprop",
        {"lr": 0.01, "alpha": 0.9, "eps": 1e-7},
        ("foreach",),
    ),
    Contest("Adam", textbook.adam, "Adam"),
    Contest("AdamW", textbook.adamw, "AdamW"),
]


class Problem:
    """A start, and gradients of many scales with a drift, which come round after a while."""

    def __init__(self, elements):
        rng = np.random.default_rng(0)
        self.start = rng.standard_normal(elements).astype("float32")
        scale = 10.0 ** rng.uniform(-3, 1, size=elements)
        self.gradients = [
            ((rng.standard_normal(elements) + 0.1) * scale).astype("float32") for _ in range(997)
        ]

    def gradient(self, t):
        return self.gradients[t % len(self.gradients)]


def oracle(contest, problem, marks):
    """Return {step: (w, unit in the last place of the largest value on the way)}."""
    gradients = (problem.gradient(t).astype("float64") for t in range(1, max(marks) + 1))
    largest, found = abs(problem.start.astype("float64")), {}
    for t, w in enumerate(contest.oracle(problem.start.astype("float64"), gradients), 1):
        largest = np.maximum(largest, abs(w))
        if t in marks:
            found[t] = w, np.spacing(largest.astype("float32")).astype("float64")
    return found


def ours(contest, problem, marks):
    w, optimizer = problem.start.copy(), getattr(instep, contest.rule)(threads=1)
    for t in range(1, max(marks) + 1):
        optimizer.update(w, problem.gradient(t))
        if t in marks:
            yield t, w.astype("float64")


def theirs(contest, problem, marks, way):
    parameter = torch.nn.Parameter(torch.asarray(problem.start.copy()))
    optimizer = getattr(torch.optim, contest.peer)([parameter], **contest.theirs, **WAYS[way])
    for t in range(1, max(marks) + 1):
        parameter.grad = torch.asarray(problem.gradient(t))
        optimizer.step()
        if t in marks:
            yield t, parameter.detach().numpy().astype("float64")


def mean_errors(exact, run):
    """Return {step: mean error in units in the last place}."""
    return {t: float(np.mean(abs(w - exact[t][0]) / exact[t][1])) for t, w in run}


def assert_no_less_accurate(contest, problem, marks):
    exact = oracle(contest, problem, marks)
    errors = mean_errors(exact, ours(contest, problem, marks))
    peers = {way: mean_errors(exact, theirs(contest, problem, marks, way)) for way in contest.ways}
    for t in marks:
        best = min(peer[t] for peer in peers.values())
        assert errors[t] <= CHANCE * best, f"step {t}: {errors}, torch {peers}"


@pytest.mark.parametrize("contest", CONTESTS, ids=lambda contest: contest.rule)
def test_error_after_a_thousand_steps(contest):
    assert_no_less_accurate(contest, Problem(ELEMENTS), (1, 10, 100, 1000))


@pytest.mark.slow
def test_error_after_ten_thousand_steps():
    contest = next(contest for contest in CONTESTS if contest.rule == "Adam")
    assert_no_less_accurate(contest, Problem(ELEMENTS), (10_000,))


@pytest.mark.slow
def test_error_after_a_million_steps():
    contest = next(contest for contest in CONTESTS if contest.rule == "Adam")
    assert_no_less_accurate(contest, Problem(500), (1_000_000,))
