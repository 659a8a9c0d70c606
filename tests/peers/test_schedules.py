"""Schedules against those of torch and optax, with the variant set equal.

Ours count from 1. optax counts from 0, and so does torch, where the rate of step `t` is that after
``t - 1`` calls of ``scheduler.step()``.
"""

import math
import random

import pytest

from instep.schedules import (
    Constant,
    Cosine,
    CosineRestarts,
    Cyclic,
    Exponential,
    InverseTime,
    Join,
    Linear,
    OneCycle,
    Polynomial,
    ReduceOnPlateau,
    StepDecay,
    WarmUp,
    WarmUpStableDecay,
)

pytestmark = pytest.mark.peers

STEPS = 30


def ours(schedule, steps=STEPS):
    return [schedule(step) for step in range(1, steps + 1)]


def assert_close(got, expected):
    assert len(got) == len(expected)
    for step, (a, b) in enumerate(zip(got, expected, strict=True), 1):
        assert a == pytest.approx(b, rel=1e-12, abs=1e-12), f"step {step}"


def torch_rates(make_scheduler, start=1.0, steps=STEPS):
    """Return the rates of the steps under a scheduler of torch."""
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=start)
    scheduler = make_scheduler(optimizer, torch.optim.lr_scheduler)
    rates = []
    for _ in range(steps):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize(
    ("schedule", "make", "steps"),
    [
        (Constant(1.0), lambda o, s: s.ConstantLR(o, factor=1.0), STEPS),
        (
            Linear(0.25, 0.75, steps=10),
            lambda o, s: s.LinearLR(o, start_factor=0.25, end_factor=0.75, total_iters=10),
            STEPS,
        ),
        (
            Polynomial(1.0, 0.0, steps=10, power=2.5),
            lambda o, s: s.PolynomialLR(o, total_iters=10, power=2.5),
            STEPS,
        ),
        (StepDecay(1.0, 0.5, every=4), lambda o, s: s.StepLR(o, step_size=4, gamma=0.5), STEPS),
        (Exponential(1.0, 0.9), lambda o, s: s.ExponentialLR(o, gamma=0.9), STEPS),
        (
            Cosine(1.0, steps=20, end=0.1),
            lambda o, s: s.CosineAnnealingLR(o, T_max=20, eta_min=0.1),
            21,  # it rises again later
        ),
        (
            CosineRestarts(1.0, steps=4, end=0.1, growth=2),
            lambda o, s: s.CosineAnnealingWarmRestarts(o, T_0=4, T_mult=2, eta_min=0.1),
            STEPS,
        ),
        (
            CosineRestarts(1.0, steps=7),
            lambda o, s: s.CosineAnnealingWarmRestarts(o, T_0=7),
            STEPS,
        ),
        (
            Join([1.0, 0.5, 0.25], boundaries=[4, 9]),
            lambda o, s: s.MultiStepLR(o, milestones=[4, 9], gamma=0.5),
            STEPS,
        ),
        (
            Join([Linear(0.5, 1.0, steps=5), Exponential(1.0, 0.9)], boundaries=[5]),
            lambda o, s: s.SequentialLR(
                o,
                [s.LinearLR(o, start_factor=0.5, total_iters=5), s.ExponentialLR(o, gamma=0.9)],
                milestones=[5],
            ),
            STEPS,
        ),
        (
            Exponential(1.0, 0.9) * Join([0.5, 1.0], boundaries=[7]) * Linear(0.25, 1.0, steps=12),
            lambda o, s: s.ChainedScheduler(
                [
                    s.ExponentialLR(o, gamma=0.9),
                    s.ConstantLR(o, factor=0.5, total_iters=7),
                    s.LinearLR(o, start_factor=0.25, total_iters=12),
                ]
            ),
            STEPS,
        ),
        (
            WarmUp(5, then=Cosine(1.0, steps=30), start=0.1),
            lambda o, s: s.SequentialLR(
                o,
                [s.LinearLR(o, start_factor=0.1, total_iters=5), s.CosineAnnealingLR(o, T_max=30)],
                milestones=[5],
            ),
            STEPS,
        ),
    ],
    ids=lambda value: repr(value) if hasattr(value, "span") else "",
)
def test_torch_has_the_same_rates(schedule, make, steps):
    assert_close(ours(schedule, steps), torch_rates(make, steps=steps))


@pytest.mark.parametrize(("up", "down"), [(1, 1), (4, None), (5, 2), (3, 9)])
@pytest.mark.parametrize(
    ("keywords", "theirs"),
    [
        ({}, {"mode": "triangular"}),
        ({"factor": 0.5}, {"mode": "triangular2"}),
        ({"factor": 0.93, "each": "step"}, {"mode": "exp_range", "gamma": 0.93}),
    ],
    ids=str,
)
def test_torch_has_the_same_cycles(up, down, keywords, theirs):
    schedule = Cyclic(0.25, 2.0, up, down, **keywords)

    def make(optimizer, schedulers):
        bounds = {"base_lr": 0.25, "max_lr": 2.0, "step_size_up": up, "step_size_down": down}
        return schedulers.CyclicLR(optimizer, **bounds, **theirs, cycle_momentum=False)

    assert_close(ours(schedule, 100), torch_rates(make, steps=100))


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
@pytest.mark.parametrize("curve", ["cosine", "linear"])
@pytest.mark.parametrize(
    ("rising", "phases"),
    [(0.0, 2), (0.3, 2), (0.5, 2), (0.77, 2), (0.0, 3), (0.01, 3), (0.2, 3), (0.41, 3), (0.5, 3)],
)
def test_torch_has_the_same_one_cycle(curve, rising, phases):
    schedule = OneCycle(
        2.0,
        steps=31,
        rising=rising,
        start_divisor=10,
        end_divisor=100,
        curve=curve,
        phases=phases,
    )

    def make(optimizer, schedulers):
        return schedulers.OneCycleLR(
            optimizer,
            max_lr=2.0,
            total_steps=31,
            pct_start=rising,
            anneal_strategy=curve[:6] if curve == "linear" else "cos",
            div_factor=10,
            final_div_factor=100,
            three_phase=phases == 3,
            cycle_momentum=False,
        )

    assert_close(ours(schedule, 31), torch_rates(make, steps=31))


def test_torch_has_the_same_inverse_time_decay_in_adagrad():
    torch = pytest.importorskip("torch")
    w = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    # A gradient of 1 and a huge initial sum: the step is the rate, but for a constant.
    optimizer = torch.optim.Adagrad([w], lr=1.0, lr_decay=0.1, initial_accumulator_value=1e30)
    steps = []
    for _ in range(STEPS):
        before = w.item()
        w.grad = torch.full_like(w, 1e15)
        optimizer.step()
        steps.append(before - w.item())
    assert steps[0] == pytest.approx(2**-0.5)
    rates = [step * math.sqrt(1 + t) for t, step in enumerate(steps, 1)]
    assert rates == pytest.approx(ours(InverseTime(1.0, rate=0.1)), rel=1e-12)


@pytest.mark.parametrize(
    ("keywords", "level"),
    [
        ({"patience": 2}, 0),
        ({"patience": 0, "factor": 0.7, "cooldown": 3}, 0),
        ({"patience": 1, "threshold": 0.1, "smallest": 0.01}, 0),
        ({"patience": 1, "best": "largest", "cooldown": 1}, 0),
        # Below zero torch agrees only where no threshold is.
        ({"patience": 1, "threshold": 0.0, "cooldown": 2}, -3),
        ({"patience": 2, "threshold": 0.0, "best": "largest"}, -3),
    ],
    ids=str,
)
def test_torch_reduces_on_the_same_plateaus(keywords, level):
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    names = {"smallest": "min_lr", "best": "mode"}
    modes = {"smallest": "min", "largest": "max"}
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer,
        **{names.get(key, key): modes.get(value, value) for key, value in keywords.items()},
        eps=0,
    )
    schedule = ReduceOnPlateau(1.0, **keywords)
    rng = random.Random(0)
    metrics = [level + abs(math.sin(t / 5)) + 0.1 * rng.random() for t in range(60)]
    metrics += [math.nan] * 3
    for metric in metrics:
        schedule.report(metric)
        scheduler.step(metric)
        assert schedule(1) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
    assert schedule(1) < 1.0


def optax_schedules():
    """Return (ours, theirs) where optax has the schedule."""
    optax = pytest.importorskip("optax")
    return [
        (Constant(0.3), optax.constant_schedule(0.3)),
        (Linear(1.0, 0.1, steps=10), optax.linear_schedule(1.0, 0.1, 10)),
        (Polynomial(1.0, 0.1, 10, power=2.5), optax.polynomial_schedule(1.0, 0.1, 2.5, 10)),
        (Exponential(1.0, 0.9), optax.exponential_decay(1.0, 1, 0.9)),
        (StepDecay(1.0, 0.5, 4), optax.exponential_decay(1.0, 4, 0.5, staircase=True)),
        (Cosine(1.0, steps=10, end=0.1), optax.cosine_decay_schedule(1.0, 10, alpha=0.1)),
        *(
            (
                Cosine(2.0, steps=10, end=0.1, power=power),
                optax.cosine_decay_schedule(2.0, 10, alpha=0.05, exponent=power),
            )
            for power in (0.5, 2.0, 3.3)
        ),
        (
            0.5 * Cosine(1.0, steps=10) + Linear(0.0, 0.2, steps=5),
            lambda step: (
                0.5 * optax.cosine_decay_schedule(1.0, 10)(step)
                + optax.linear_schedule(0.0, 0.2, 5)(step)
            ),
        ),
        (
            CosineRestarts(1.0, steps=5, growth=2),
            optax.sgdr_schedule(
                [
                    {"init_value": 1.0, "peak_value": 1.0, "warmup_steps": 0, "decay_steps": n}
                    for n in (5, 10, 20)
                ]
            ),
        ),
        (
            WarmUp(5, then=Cosine(1.0, steps=15), start=0.1),
            optax.warmup_cosine_decay_schedule(0.1, 1.0, 5, 20),
        ),
        (
            Join([0.5, Linear(1.0, 0.0, 8)], boundaries=[6]),
            optax.join_schedules(
                [optax.constant_schedule(0.5), optax.linear_schedule(1, 0, 8)], [6]
            ),
        ),
        (
            WarmUpStableDecay(1.0, warm_up=4, stable=6, decay=8, start=0.1, end=0.2),
            optax.join_schedules(
                [optax.linear_schedule(0.1, 1.0, 4), optax.linear_schedule(1.0, 0.2, 8)], [4 + 6]
            ),
        ),
        (
            WarmUpStableDecay(1.0, warm_up=4, stable=6, decay=8, curve="cosine"),
            optax.join_schedules(
                [optax.linear_schedule(0.0, 1.0, 4), optax.cosine_decay_schedule(1.0, 8)], [4 + 6]
            ),
        ),
    ]


@pytest.mark.parametrize("number", range(15))
def test_optax_has_the_same_values(number):
    jax = pytest.importorskip("jax")
    schedule, theirs = optax_schedules()[number]
    with jax.enable_x64(True):
        expected = [float(theirs(jax.numpy.asarray(step, dtype=float))) for step in range(STEPS)]
    assert_close(ours(schedule), expected)
