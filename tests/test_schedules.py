"""Schedules: values, validation, composition, and what a schedule has to do as an object."""

import copy
import dataclasses
import inspect
import itertools
import math
import pickle
from fractions import Fraction
from pathlib import Path

import bits
import engine_runs
import faults
import numpy as np
import pytest

from instep import SGD, Adam, Nesterov, ScheduleFreeAdamW, schedules
from instep.schedules import (
    REX,
    After,
    Chebyshev,
    Constant,
    Cosine,
    CosineRestarts,
    Cyclic,
    Exponential,
    InverseTime,
    Join,
    Linear,
    NesterovMomentum,
    OneCycle,
    Polynomial,
    Product,
    ReduceOnPlateau,
    StepDecay,
    Sum,
    WarmUp,
    WarmUpStableDecay,
)

EXAMPLES = [
    Constant(0.1),
    Linear(1.0, 0.1, steps=7),
    Polynomial(1.0, 0.1, steps=7, power=2.5),
    StepDecay(1.0, factor=0.5, every=3),
    Exponential(1.0, factor=0.9),
    InverseTime(1.0, rate=0.1),
    InverseTime(1.0, rate=1.0, power=0.5),
    Cosine(1.0, steps=7, end=0.1),
    Cosine(1.0, steps=7, end=0.1, power=2.5),
    REX(1.0, steps=7, end=0.1),
    CosineRestarts(1.0, steps=3, end=0.1, growth=2),
    Cyclic(0.1, 1.0, up=3),
    Cyclic(0.1, 1.0, up=3, down=2, factor=0.5),
    Cyclic(0.1, 1.0, up=3, down=2, factor=0.9, each="step"),
    OneCycle(1.0, steps=20),
    OneCycle(1.0, steps=20, curve="linear"),
    OneCycle(1.0, steps=20, phases=3),
    NesterovMomentum(),
    Chebyshev(0.1, 1.0, steps=12),
    WarmUp(3, then=Cosine(1.0, steps=7)),
    WarmUp(3, then=0.5, start=0.1),
    Join([0.1, Linear(1.0, 0.0, steps=4), Constant(0.2)], boundaries=[2, 5]),
    WarmUpStableDecay(1.0, warm_up=3, stable=4, decay=5),
    WarmUpStableDecay(1.0, warm_up=0, stable=0, decay=5, curve="sqrt"),
    After(3, of=Cosine(1.0, steps=7)),
    Cosine(1.0, steps=7) + Linear(0.0, 0.5, steps=9),
    0.5 * Cosine(1.0, steps=7) * Exponential(1.0, factor=0.9),
    (1 + Cosine(1.0, steps=7)) * (Linear(0.0, 0.5, steps=9) + 2),
    ReduceOnPlateau(0.1),
]

every_example = pytest.mark.parametrize("schedule", EXAMPLES, ids=repr)


def values(schedule, steps=40):
    return [schedule(step) for step in range(1, steps + 1)]


def test_every_class_has_an_example():
    classes = {getattr(schedules, name) for name in schedules.__all__} - {schedules.Schedule}
    assert classes == {type(schedule) for schedule in EXAMPLES}


@every_example
def test_values_are_finite_python_floats_from_step_1_on(schedule):
    for value in [*values(schedule), schedule(10**9)]:
        assert type(value) is float
        assert math.isfinite(value)


@every_example
def test_step_0_is_an_error(schedule):
    with pytest.raises(ValueError, match="steps count from 1, got step 0"):
        schedule(0)


@every_example
def test_repr_makes_an_equal_schedule(schedule):
    again = eval(repr(schedule), vars(schedules))
    assert again == schedule
    assert values(again) == values(schedule)


@every_example
def test_pickle_and_copy_make_an_equal_schedule(schedule):
    for again in (pickle.loads(pickle.dumps(schedule)), copy.deepcopy(schedule)):
        assert again == schedule
        assert values(again) == values(schedule)


def test_schedules_of_other_arguments_are_not_equal():
    for a, b in itertools.combinations(EXAMPLES, 2):
        assert a != b
    assert Linear(1.0, 0.0, steps=3) != Linear(1.0, 0.0, steps=4)


def test_all_but_reduce_on_plateau_are_frozen_and_hashable():
    for schedule in EXAMPLES:
        if not isinstance(schedule, ReduceOnPlateau):
            name = dataclasses.fields(schedule)[0].name
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(schedule, name, 1.0)
            assert hash(schedule) == hash(copy.deepcopy(schedule))


@every_example
def test_numbers_of_other_types_are_taken_over_as_python_numbers(schedule):
    """A NumPy number or an integer makes an equal schedule with an equal repr."""
    arguments = {
        field.name: getattr(schedule, field.name)
        for field in dataclasses.fields(schedule)
        if field.init
    }
    converted = {
        name: np.float64(value)
        if type(value) is float
        else np.int64(value)
        if type(value) is int
        else value
        for name, value in arguments.items()
    }
    assert repr(type(schedule)(**converted)) == repr(schedule)
    assert repr(Linear(1, 0, 5)) == "Linear(start=1.0, end=0.0, steps=5)"


# Where they begin and end: a change over n steps has arrived at step n + 1.


@pytest.mark.parametrize(
    ("schedule", "first", "steps", "last"),
    [
        (Linear(1.0, 0.1, steps=7), 1.0, 7, 0.1),
        (Polynomial(1.0, 0.1, steps=7, power=2.5), 1.0, 7, 0.1),
        (Cosine(1.0, steps=7, end=0.1), 1.0, 7, 0.1),
        (Cosine(1.0, steps=7, end=0.1, power=2.5), 1.0, 7, 0.1),
        (REX(1.0, steps=7, end=0.1), 1.0, 7, 0.1),
        (WarmUp(7, then=0.5), 0.0, 7, 0.5),
        (WarmUp(7, then=0.5, start=0.1), 0.1, 7, 0.5),
        (WarmUpStableDecay(1.0, 3, 4, 5, start=0.2, end=0.1), 0.2, 12, 0.1),
        (OneCycle(1.0, steps=20), 1 / 25, 19, 1 / 25 / 1e4),
        (OneCycle(1.0, steps=20, phases=3), 1 / 25, 19, 1 / 25 / 1e4),
    ],
    ids=repr,
)
def test_first_and_last_values(schedule, first, steps, last):
    assert schedule(1) == pytest.approx(first, rel=1e-15)
    assert schedule(steps) != pytest.approx(last, rel=1e-6)
    assert schedule(steps + 1) == pytest.approx(last, rel=1e-12)
    assert schedule(steps + 100) == pytest.approx(last, rel=1e-12)


def test_a_schedule_inside_another_counts_its_own_steps_from_1():
    seen = []

    def inner(step):
        seen.append(step)
        return 1.0

    warm_up = WarmUp(2, then=inner)
    assert [warm_up(step) for step in (1, 2)] == [0.0, 0.5]
    seen.clear()
    assert [warm_up(step) for step in (3, 4)] == [1.0, 1.0]
    assert seen == [1, 2]
    seen.clear()
    values(Join([0.5, inner], boundaries=[3]), 5)
    assert seen == [1, 2]


def test_join_of_numbers_is_piecewise_constant():
    assert values(Join([1.0, 0.5, 0.25], boundaries=[2, 3]), 5) == [1.0, 1.0, 0.5, 0.25, 0.25]
    assert values(Join([1.0], boundaries=[]), 2) == [1.0, 1.0]


# Arithmetic


def test_sums_and_products_have_the_values_of_floats():
    a, b, c = Cosine(0.1, steps=30), Exponential(0.3, factor=0.9), Polynomial(1.0, 0.1, 25, 1.5)
    for step in range(1, 41):
        x, y, z = a(step), b(step), c(step)
        assert (a + b + c)(step) == x + y + z
        assert (a + (b + c))(step) == x + (y + z)
        assert (a * b * c)(step) == x * y * z
        assert (a * (b * c))(step) == x * (y * z)
        assert (a * b + c * 3)(step) == x * y + z * 3
        assert ((0.1 + a) * (b + 0.7))(step) == (0.1 + x) * (y + 0.7)
        assert (2 * a + math.sqrt)(step) == 2 * x + math.sqrt(step)
        assert sum([a, b, c])(step) == 0 + x + y + z


def test_arithmetic_is_equal_where_it_is_written_the_same():
    a, b, c = Cosine(0.1, steps=30), Exponential(0.3, factor=0.9), ReduceOnPlateau(0.5)
    assert a + b + c == Sum([a, b, c]) == (a + b) + c != a + (b + c)
    assert a * b * c == Product([a, b, c]) == (a * b) * c != a * (b * c)
    assert a * b != b * a
    assert a + b != a * b
    assert a * np.float32(0.5) == a * 0.5 != np.float64(0.5) * a == 0.5 * a
    assert (
        repr(2 * Constant(1) + 3) == "Sum(parts=(Product(parts=(2.0, Constant(value=1.0))), 3.0))"
    )


def test_a_part_of_a_product_can_be_told_something():
    optimizer = SGD(lr=ReduceOnPlateau(1.0, factor=0.5, patience=0) * WarmUp(2, then=1.0))
    again = pickle.loads(pickle.dumps(optimizer.lr))
    for schedule in (optimizer.lr, again):
        schedule.parts[0].report(3.0)
        assert values(schedule, 3) == [0.0, 0.5, 1.0]
        schedule.parts[0].report(3.0)
        assert values(schedule, 3) == [0.0, 0.25, 0.5]
    assert again == optimizer.lr
    w = np.zeros(1)
    for _ in range(3):
        optimizer.update(w, np.ones(1))
    assert w == -0.75


@pytest.mark.parametrize("shape", [(3,), (2, 2)])
def test_arithmetic_with_an_array_is_refused_in_words(xp, shape):
    schedule, array = Constant(0.1), xp.ones(shape)
    text = "one value for all elements; set `array \\* schedule\\(step\\)` before each step"
    for call, message in [
        (lambda: schedule * array, rf"^Product: parts\[1\] is .*{text}"),
        (lambda: schedule + array, rf"^Sum: parts\[1\] is .*{text}"),
        # array-api-strict does not ask the other side.
        (lambda: array * schedule, rf"^Product: parts\[0\] is .*{text}|^Expected Array"),
        (lambda: array + schedule, rf"^Sum: parts\[0\] is .*{text}|^Expected Array"),
    ]:
        with pytest.raises(TypeError, match=message):
            call()


def test_after_goes_on_where_another_schedule_would_be():
    whole = WarmUp(3, then=Cosine(1.0, steps=7))
    assert values(After(4, of=whole), 20) == values(whole, 24)[4:]
    assert values(After(0, of=whole)) == values(whole)
    assert After(2, of=math.sqrt)(7) == 3.0
    assert After(2, of=0.5)(7) == 0.5
    assert [After(n, of=whole).span for n in (0, 3, 50)] == [whole.span, whole.span - 3, 1]


@pytest.mark.parametrize("curve", ["linear", "cosine", "sqrt"])
def test_the_level_part_can_be_made_longer_without_changing_what_was(curve):
    short = WarmUpStableDecay(1.0, warm_up=3, stable=4, decay=5, curve=curve)
    longer = dataclasses.replace(short, stable=10)
    assert values(short, 7) == values(longer, 7)
    assert values(short, 20)[7:13] == values(longer, 20)[13:19]


def test_one_cycle_rises_to_the_peak_and_falls():
    schedule = OneCycle(1.0, steps=10, rising=0.5)
    path = values(schedule, 10)
    assert max(path) == path[4] == 1.0
    assert path[:5] == sorted(path[:5])
    assert path[4:] == sorted(path[4:], reverse=True)


@pytest.mark.parametrize("rising", [0.0, 0.05, 0.1, 1.0])
def test_one_cycle_may_rise_never_or_always(rising):
    path = values(OneCycle(1.0, steps=10, rising=rising), 10)
    assert all(0 < value <= 1 for value in path)


@pytest.mark.parametrize("curve", ["linear", "cosine"])
def test_one_cycle_of_three_phases_comes_back_to_the_start_before_it_goes_below(curve):
    path = values(OneCycle(1.0, steps=22, rising=0.5, curve=curve, phases=3), 22)
    assert max(path) == path[10] == 1.0
    assert path[:11] == sorted(path[:11])
    assert path[:11] == pytest.approx(path[10:21][::-1], rel=1e-12)
    assert path[20] == pytest.approx(1 / 25)
    assert path[21] == 1 / 25 / 1e4


@pytest.mark.parametrize("curve", ["linear", "cosine"])
@pytest.mark.parametrize("rising", [0.0, 0.05, 0.1, 0.3, 0.5])
@pytest.mark.parametrize("steps", [2, 3, 10])
def test_one_cycle_of_three_phases_ends_where_that_of_two_does(curve, rising, steps):
    two, three = (OneCycle(1.0, steps, rising, curve=curve, phases=n) for n in (2, 3))
    assert two(steps) == three(steps) == three(steps + 5) == 1 / 25 / 1e4
    assert all(0 < value <= 1 for value in values(three, steps))


@pytest.mark.parametrize(("up", "down"), [(1, 1), (3, None), (4, 2), (1, 5)])
@pytest.mark.parametrize(("factor", "each"), [(1.0, "cycle"), (0.5, "cycle"), (0.9, "step")])
def test_cyclic_goes_up_and_down_as_a_loop_does(up, down, factor, each):
    expected, height = [], Fraction(1)
    while len(expected) < 40:
        falling = up if down is None else down
        path = [Fraction(i, up) for i in range(up)]
        path += [Fraction(falling - i, falling) for i in range(falling)]
        for share in path:
            expected.append(float(Fraction(0.25) + Fraction(0.5) * share * height))
            height *= Fraction(factor) if each == "step" else 1
        height *= Fraction(factor) if each == "cycle" else 1
    schedule = Cyclic(0.25, 0.75, up, down, factor, each)
    assert values(schedule) == pytest.approx(expected[:40], rel=1e-14)


def test_cosine_to_a_power_and_rex_have_the_values_of_their_equations():
    for t in range(1, 31):
        z = Fraction(min(t - 1, 24), 24)
        half = (1 + math.cos(math.pi * z)) / 2
        for power in (0.5, 1.0, 2.0, 3.3):
            schedule = Cosine(0.7, steps=24, end=0.1, power=power)
            assert schedule(t) == pytest.approx(0.1 + 0.6 * half**power, rel=1e-14)
        left = (1 - z) / (Fraction(1, 2) + Fraction(1, 2) * (1 - z))
        assert REX(0.7, steps=24, end=0.1)(t) == pytest.approx(0.1 + 0.6 * float(left), rel=1e-14)


# What theory gives


@pytest.mark.parametrize("friction", [3.0, 4.5])
def test_nesterov_momentum_takes_the_path_of_accelerated_gradient_descent(friction):
    """On the function that is hardest for first-order methods (Nesterov 2004, section 2.1.2)."""
    n, steps, lr = 101, 150, 0.25
    hessian = 2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)
    target = np.zeros(n)
    target[0] = 1.0
    lowest = -target @ np.linalg.solve(hessian, target) / 2

    def loss(w):
        return w @ hessian @ w / 2 - target @ w - lowest

    def descend(optimizer):
        w = np.zeros(n)
        for _ in range(steps):
            w = optimizer.update(w, hessian @ w - target)
        return loss(w)

    x = y = np.zeros(n)
    for t in range(1, steps + 1):
        x, old = y - lr * (hessian @ y - target), x
        y = x + (t - 1) / (t - 1 + friction) * (x - old)
    accelerated = descend(Nesterov(lr, momentum=NesterovMomentum(friction)))
    assert accelerated == pytest.approx(loss(y), rel=0.05)  # its velocity lags one momentum behind
    assert accelerated < descend(SGD(lr)) / 5


def growth(rates, smallest, largest):
    """Return by how much errors grow at most until a step, from one to the end, and over all."""
    eigenvalues = np.geomspace(smallest, largest, 2001)
    factors = np.abs(1 - np.array(rates)[:, None] * eigenvalues)
    until, since = np.cumprod(factors, axis=0), np.cumprod(factors[::-1], axis=0)
    return until.max(), since.max(), until[-1].max()


@pytest.mark.parametrize("condition", [1.0, 10.0, 1e4])
@pytest.mark.parametrize("steps", [1, 2, 3, 5, 8, 12, 31, 64, 100, 127, 129, 333])
def test_chebyshev_steps_do_what_they_promise(steps, condition):
    a, b = 0.02, 0.02 * condition
    rates = values(Chebyshev(a, b, steps), steps)
    until, since, whole = growth(rates, a, b)
    q = (math.sqrt(b) - math.sqrt(a)) / (math.sqrt(b) + math.sqrt(a))
    bound = 2 * q**steps / (1 + q ** (2 * steps))
    assert whole <= bound * (1 + 1e-9) + 1e-15
    assert whole >= 0.9 * bound  # at the ends of the interval, of which both are looked at
    assert max(until, since) <= max(condition, 1.0)


def test_chebyshev_steps_in_falling_order_would_let_errors_grow():
    rates = values(Chebyshev(0.01, 1.0, 128), 128)
    until, since, _ = growth(sorted(rates, reverse=True), 0.01, 1.0)
    assert until > 1e50
    until, since, _ = growth(sorted(rates), 0.01, 1.0)
    assert since > 1e50


def test_chebyshev_steps_solve_a_quadratic_problem():
    """The heat in a rod, whose eigenvalues are known, in an order that is stable and in one not."""
    n, steps = 49, 128
    hessian = 2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)
    heat = np.linspace(-1.0, 1.0, n) ** 3
    solution = np.linalg.solve(hessian, heat)
    a, b = (4 * math.sin(math.pi * k / 100) ** 2 for k in (1, n))
    rates = Chebyshev(a, b, steps)
    q = (math.sqrt(b) - math.sqrt(a)) / (math.sqrt(b) + math.sqrt(a))
    rising = Join(sorted(values(rates, steps)), range(1, steps))
    for order, low, high in [(rates, 0.0, 2 * q**steps), (rising, 1e20, math.inf)]:
        w, optimizer = np.zeros(n), SGD(lr=order)
        for _ in range(steps):
            w = optimizer.update(w, hessian @ w - heat)
        error = np.linalg.norm(w - solution) / np.linalg.norm(solution)
        assert low <= error <= high


def lebedev_finogenov(size):
    order = [1]
    while len(order) < size:
        order = [k for entry in order for k in (entry, 2 * len(order) + 1 - entry)]
    return [k - 1 for k in order]


@pytest.mark.parametrize("steps", [1, 2, 3, 6, 7, 16, 21, 100, 128])
def test_chebyshev_steps_are_in_the_order_of_the_next_power_of_two(steps):
    a, b = 1.0, 100.0
    angles = [math.pi * (2 * k + 1) / (2 * steps) for k in range(steps)]
    by_root = [1 / ((a + b) / 2 + (b - a) / 2 * math.cos(angle)) for angle in angles]
    taken = lebedev_finogenov(2 ** math.ceil(math.log2(steps)))[:steps]
    expected = [by_root[sorted(taken).index(k)] for k in taken]
    schedule = Chebyshev(a, b, steps)
    assert values(schedule, steps) == pytest.approx(expected, rel=1e-12)
    assert values(schedule, 3 * steps) == values(schedule, steps) * 3


@pytest.mark.parametrize(
    ("schedule", "step", "expected"),
    [
        (Cosine(2.0, steps=1000, power=2.5), 413, "0x1.4af1c175ea82cp-1"),
        (Cyclic(0.0, 1.0, up=7, factor=0.99, each="step"), 504, "0x1.dd8063be4c950p-11"),
        (Chebyshev(0.01, 10.0, steps=1000), 1, "0x1.9999aa245359cp-4"),
        (Chebyshev(0.01, 10.0, steps=1000), 2, "0x1.8fc0efc32fc13p+6"),
    ],
    ids=repr,
)
def test_values_have_the_same_bits_everywhere(schedule, step, expected):
    assert schedule(step).hex() == expected


# Reduce on plateau


def test_reduce_on_plateau_drops_after_more_bad_reports_than_its_patience():
    schedule = ReduceOnPlateau(1.0, factor=0.5, patience=2)
    drops = []
    for loss in [3.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0]:
        schedule.report(loss)
        drops.append(schedule(1))
    assert drops == [1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.25]


def test_reduce_on_plateau_of_an_accuracy():
    schedule = ReduceOnPlateau(1.0, factor=0.5, patience=0, best="largest")
    for accuracy in [0.1, 0.2, 0.3]:
        schedule.report(accuracy)
    assert schedule(1) == 1.0
    schedule.report(0.3)
    assert schedule(1) == 0.5


@pytest.mark.parametrize("best", ["smallest", "largest"])
@pytest.mark.parametrize("level", [-1e308, -1.0, -1e-300, 0.0, 1e-300, 1.0, 1e308])
def test_a_metric_that_stays_is_a_plateau_whatever_its_sign(best, level):
    schedule = ReduceOnPlateau(1.0, factor=0.5, patience=1, threshold=0.1, best=best)
    drops = []
    for _ in range(6):
        schedule.report(level)
        drops.append(schedule(1))
    assert drops == [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]


@pytest.mark.parametrize("best", ["smallest", "largest"])
@pytest.mark.parametrize("level", [-8.0, 8.0])
def test_an_improvement_counts_beyond_the_threshold_whatever_the_sign(best, level):
    for gain, value in [(1.0, 0.5), (1.25, 1.0)]:
        schedule = ReduceOnPlateau(1.0, factor=0.5, patience=0, threshold=0.125, best=best)
        schedule.report(level)
        schedule.report(level - gain if best == "smallest" else level + gain)
        assert schedule(1) == value


@pytest.mark.parametrize("threshold", [0.0, 1.0, 2.0])
def test_the_first_metric_is_the_best_whatever_the_threshold(threshold):
    for best, worse in (("smallest", 4.0), ("largest", 2.0)):
        schedule = ReduceOnPlateau(1.0, factor=0.5, patience=1, threshold=threshold, best=best)
        schedule.report(3.0)
        schedule.report(worse)
        assert schedule(1) == 1.0
        schedule.report(worse)
        assert schedule(1) == 0.5


def test_reports_while_it_cools_are_not_judged_but_their_best_is_noted():
    schedule = ReduceOnPlateau(1.0, factor=0.5, patience=0, threshold=0.0, cooldown=2)
    drops = []
    for loss in [3.0, 3.0, 2.0, 4.0, 2.5]:  # judged: 3.0, 3.0, 2.5
        schedule.report(loss)
        drops.append(schedule(1))
    assert drops == [1.0, 0.5, 0.5, 0.5, 0.25]


def test_a_report_that_is_interrupted_is_whole_or_not_at_all():
    before = ReduceOnPlateau(1.0, factor=0.5, patience=0, cooldown=1)
    before.report(3.0)
    after = copy.deepcopy(before)
    after.report(3.0)

    def run(fault):
        schedule = copy.deepcopy(before)
        try:
            with fault:
                schedule.report(3.0)
        except KeyboardInterrupt:
            pass
        return schedule

    found = [schedule for _, schedule in faults.each_line(run, [KeyboardInterrupt()])]
    assert len(found) > 10
    for schedule in found:
        assert schedule in (before, after)


def test_reduce_on_plateau_keeps_its_smallest_value_and_counts_nan_as_bad():
    schedule = ReduceOnPlateau(1.0, factor=0.1, patience=0, smallest=0.05)
    for _ in range(4):
        schedule.report(math.nan)
    assert schedule(1) == 0.05


def test_reduce_on_plateau_that_was_pickled_goes_on_where_it_was():
    schedule = ReduceOnPlateau(1.0, patience=1)
    schedule.report(1.0)
    schedule.report(1.0)
    again = pickle.loads(pickle.dumps(schedule))
    assert again == schedule != ReduceOnPlateau(1.0, patience=1)
    for each in (schedule, again):
        each.report(1.0)
    assert again(1) == schedule(1) == 0.1


def test_an_optimizer_follows_reduce_on_plateau():
    schedule = ReduceOnPlateau(0.5, factor=0.5, patience=0)
    optimizer, w = Adam(lr=schedule, eps=0), np.zeros(1)
    optimizer.update(w, np.ones(1))
    schedule.report(1.0)
    schedule.report(1.0)
    optimizer.update(w, np.ones(1))
    assert w == pytest.approx(-0.75)


def test_a_saved_state_is_not_changed_by_later_reports():
    schedule = ReduceOnPlateau(0.5, factor=0.5, patience=0)
    optimizer = Adam(lr=schedule)
    saved = optimizer.state_dict()
    schedule.report(1.0)
    schedule.report(1.0)
    assert schedule(1) == 0.25
    assert Adam().load_state_dict(saved).lr(1) == 0.5


# Validation


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Constant("a"), TypeError, "Constant: value must be a finite number, got 'a'"),
        (lambda: Constant(True), TypeError, "Constant: value must be a finite number, got True"),
        (lambda: Constant(math.nan), ValueError, "Constant: value must be a finite number"),
        (lambda: Linear(math.inf, 0, 3), ValueError, "Linear: start must be a finite number"),
        (lambda: Linear(1, 0, 0), ValueError, "Linear: steps must be an integer >= 1, got 0"),
        (lambda: Linear(1, 0, 2.0), TypeError, r"Linear: steps must be an integer >= 1, got 2\.0"),
        (lambda: Polynomial(1, 0, 3, power=0), ValueError, "power must be a finite number > 0"),
        (lambda: StepDecay(1, -1, 3), ValueError, "factor must be a finite number >= 0, got -1"),
        (lambda: StepDecay(1, 0.5, every=0), ValueError, "every must be an integer >= 1"),
        (lambda: InverseTime(1, -0.1), ValueError, "rate must be a finite number >= 0"),
        (lambda: CosineRestarts(1, 3, growth=0), ValueError, "growth must be an integer >= 1"),
        (lambda: OneCycle(1, steps=1), ValueError, "steps must be an integer >= 2"),
        (lambda: OneCycle(1, 9, rising=1.5), ValueError, r"rising must be a finite number in \[0"),
        (lambda: OneCycle(1, 9, curve="round"), ValueError, "must be one of 'cosine', 'linear'"),
        (lambda: OneCycle(1, 9, phases=4), ValueError, r"phases must be an integer in \[2, 3\]"),
        (lambda: OneCycle(1, 9, 0.6, phases=3), ValueError, r"rising must be at most 0\.5 with 3"),
        (lambda: Cosine(1, 9, power=0), ValueError, "Cosine: power must be a finite number > 0"),
        (lambda: REX(1, 0), ValueError, "REX: steps must be an integer >= 1, got 0"),
        (lambda: Cyclic(0, 1, up=0), ValueError, "Cyclic: up must be an integer >= 1, got 0"),
        (lambda: Cyclic(0, 1, up=1, down=0), ValueError, "Cyclic: down must be an integer >= 1"),
        (lambda: Cyclic(0, 1, 1, 1.5), TypeError, r"down must be an integer >= 1, got 1\.5"),
        (lambda: Cyclic(0, 1, up=1, factor=-1), ValueError, "factor must be a finite number >= 0"),
        (lambda: Cyclic(0, 1, 1, each="epoch"), ValueError, "each must be one of 'cycle', 'step'"),
        (lambda: NesterovMomentum(0), ValueError, "friction must be a finite number > 0, got 0"),
        (lambda: Chebyshev(0, 1, 9), ValueError, "Chebyshev: smallest must be .* > 0, got 0"),
        (lambda: Chebyshev(2, 1, 9), ValueError, r"not be larger than largest=1\.0, got 2\.0"),
        (lambda: Chebyshev(1, 2, 0), ValueError, r"Chebyshev: steps must be an integer in \[1, "),
        (lambda: WarmUp(3, then="a"), TypeError, "WarmUp: then must be a finite number"),
        (lambda: WarmUp(0, then=1.0), ValueError, "WarmUp: steps must be an integer >= 1"),
        (lambda: Join([1.0, "a"], [3]), TypeError, r"Join: schedules\[1\] must be"),
        (lambda: Join([1.0, 2.0], []), ValueError, "2 schedules have 1 boundaries between them"),
        (lambda: Join([1.0, 2.0, 3.0], [5, 5]), ValueError, "boundaries must increase"),
        (lambda: Join([], []), ValueError, "Join: give at least one schedule, got none"),
        (lambda: Sum([]), ValueError, "Sum: give at least one schedule, got none"),
        (lambda: Product(0.5), TypeError, "Product: parts must be a list of .* numbers, got 0.5"),
        (lambda: Constant(1) * "a", TypeError, r"Product: parts\[1\] must be a finite number, got"),
        (
            lambda: None + Constant(1),
            TypeError,
            r"Sum: parts\[0\] must be a finite number, got None",
        ),
        (lambda: Constant(1) * math.nan, ValueError, r"Product: parts\[1\] must be a finite"),
        (lambda: Constant(1) * Constant, TypeError, r"parts\[1\] is the class Constant; write"),
        (lambda: WarmUp(3, np.ones(2)), TypeError, "WarmUp: then is numpy .* one value for all"),
        (lambda: After(-1, of=0.1), ValueError, "After: steps must be an integer >= 0, got -1"),
        (lambda: After(1, of="a"), TypeError, "After: of must be a finite number, got 'a'"),
        (lambda: WarmUpStableDecay(1, 0, 0, 0), ValueError, "decay must be an integer >= 1"),
        (lambda: ReduceOnPlateau(1, factor=1), ValueError, r"factor must be .* \(0, 1\), got 1"),
        (lambda: ReduceOnPlateau(1, patience=-1), ValueError, "patience must be an integer >= 0"),
        (lambda: ReduceOnPlateau(1, best="min"), ValueError, "one of 'smallest', 'largest'"),
    ],
)
def test_wrong_arguments_are_errors_that_say_what_fits(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_value_out_of_the_domain_of_the_hyperparameter_names_the_step():
    optimizer = Adam(lr=Linear(1.0, -1.0, steps=2))
    w = np.zeros(1)
    optimizer.update(w, np.ones(1))
    optimizer.update(w, np.ones(1))
    before = w.copy()
    with pytest.raises(ValueError, match="schedule at step 3: lr must be a finite number >= 0"):
        optimizer.update(w, np.ones(1))
    assert optimizer.t == 2
    assert np.array_equal(w, before)


GROWING = Exponential(1e-7, factor=1e150)  # beyond floats at step 4


@engine_runs.every_engine
@pytest.mark.parametrize(
    "schedule",
    [GROWING, WarmUp(1, then=GROWING), lambda step: 1e-7 * 1e150 ** (step - 1)],
    ids=["schedule", "inside another", "function"],
)
def test_a_schedule_beyond_floats_names_the_hyperparameter_and_the_step(schedule, engine):
    engine_runs.require(engine)
    taken = 4 if isinstance(schedule, WarmUp) else 3
    optimizer, w = SGD(lr=schedule, engine=engine), np.zeros(3)
    for _ in range(taken):
        optimizer.update(w, np.full(3, 1e-300))
    before = w.copy()
    message = f"SGD, schedule at step {taken + 1}: lr must be .* beyond the range of floats from "
    with pytest.raises(ValueError, match=message) as caught:
        optimizer.update(w, np.ones(3))
    assert repr(schedule) in str(caught.value)
    assert optimizer.t == taken
    bits.assert_same_bits(w, before)
    optimizer.lr = 1.0
    optimizer.update(w, np.zeros(3))
    assert optimizer.t == taken + 1


def test_a_value_beyond_floats_names_the_schedule_and_the_step():
    for schedule in (GROWING, WarmUp(3, then=lambda step: 10.0 ** (400 * step))):
        with pytest.raises(ValueError, match=r"at step 5 is beyond .* end it before") as caught:
            schedule(5)
        assert str(caught.value).startswith(repr(schedule))


# Documentation and plots


@pytest.mark.parametrize("name", schedules.__all__)
def test_every_schedule_is_in_the_reference(name):
    page = Path(__file__).parent.parent / "docs" / "schedules.md"
    assert page.read_text().count(f".. autoclass:: instep.schedules.{name}\n") == 1


def test_every_schedule_says_what_its_arguments_are():
    for schedule in EXAMPLES:
        documentation = inspect.getdoc(type(schedule))
        for field in dataclasses.fields(schedule):
            if field.init:
                assert field.name in documentation


@every_example
def test_plot_draws_one_point_for_each_step(schedule):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    from matplotlib.figure import Figure

    axes = schedule.plot(axes=Figure().subplots())
    (line,) = axes.lines
    assert line.get_xdata().tolist() == list(range(1, schedule.span + 1))
    assert line.get_ydata().tolist() == values(schedule, schedule.span)
    assert len(schedule.plot(7, axes=Figure().subplots()).lines[0].get_xdata()) == 7


def test_plot_makes_a_figure_of_its_own():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    axes = Cosine(1.0, steps=9).plot()
    assert axes.get_figure() is plt.gcf()
    plt.close(axes.get_figure())


def test_plot_without_matplotlib_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'instep\[plot\]'"):
        Constant(1.0).plot()


# Odd arguments --------------------------------------------------------------------------------

ODD = {
    **{repr(x): x for x in (None, "0.1", b"1", True, 1j, [], {}, [1, 2], math.nan, math.inf, -1)},
    **{repr(x): x for x in (0, 1e308, -1e308, 5e-324, np.int64(3), np.float32(0.5), abs, Linear)},
    **{repr(x): x for x in (np.array([1.0]), np.array(2), np.ma.masked, np.timedelta64(1, "s"))},
    "an object": object(),
    "10**400": 10**400,
    "-10**5000": -(10**5000),
    "-10**400": -(10**400),
    "10**30": 10**30,
    "a third": Fraction(1, 3),
    "text": lambda step: "0.1",
}

GOOD = {
    Constant: (0.1,),
    Linear: (1.0, 0.0, 4),
    Polynomial: (1.0, 0.0, 4, 2.0),
    StepDecay: (1.0, 0.5, 2),
    Exponential: (1.0, 0.5),
    InverseTime: (1.0, 0.5, 1.0),
    Cosine: (1.0, 4, 0.0, 2.0),
    REX: (1.0, 4, 0.0),
    Cyclic: (0.0, 1.0, 3, 2, 0.5, "step"),
    NesterovMomentum: (3.0,),
    Chebyshev: (0.1, 1.0, 6),
    CosineRestarts: (1.0, 2, 0.0, 2),
    OneCycle: (1.0, 11, 0.4, 4.0, 1e4, "linear", 3),
    WarmUpStableDecay: (1.0, 2, 3, 4, 0.0, 0.0, "linear"),
    WarmUp: (4, 0.1, 0.0),
    Join: ([1.0, 2.0], [3]),
    After: (2, 0.1),
    Sum: ([1.0, 2.0],),
    Product: ([1.0, 2.0],),
    ReduceOnPlateau: (0.1, 0.5, 1, 1e-4, 0, 0.0, "smallest"),
}

every_kind = pytest.mark.parametrize("kind", GOOD, ids=lambda kind: kind.__name__)
every_oddity = pytest.mark.parametrize("odd", ODD.values(), ids=ODD)


def attempt(kind, call):
    """Return what a call returns, or None where it is refused by the name of the schedule."""
    try:
        return call()
    except (TypeError, ValueError) as error:
        text = str(error)
        assert text.startswith(kind.__name__), text
        assert len(text) < 500, text
        return None


@every_kind
@every_oddity
def test_odd_arguments_are_refused_by_name_or_give_finite_numbers(kind, odd):
    for i in range(len(GOOD[kind])):
        arguments = [*GOOD[kind][:i], odd, *GOOD[kind][i + 1 :]]
        schedule = attempt(kind, lambda arguments=arguments: kind(*arguments))
        if schedule is None:
            continue
        for step in (1, 2, 5, 1000, 10**6, 2**63):
            value = attempt(kind, lambda schedule=schedule, step=step: schedule(step))
            assert value is None or (type(value) is float and math.isfinite(value))


@pytest.mark.parametrize("kind", [Sum, Product], ids=lambda kind: kind.__name__)
@every_oddity
def test_odd_parts_are_refused_by_name_or_give_finite_numbers(kind, odd):
    for combine in (lambda: kind([1.5, odd]), lambda: kind([odd, Constant(1.5)])):
        schedule = attempt(kind, combine)
        for step in (1, 2, 10**6):
            value = schedule and attempt(kind, lambda step=step, made=schedule: made(step))
            assert value is None or (type(value) is float and math.isfinite(value))


@every_kind
@every_oddity
def test_odd_steps_are_refused_by_name_or_give_finite_numbers(kind, odd):
    value = attempt(kind, lambda: kind(*GOOD[kind])(odd))
    assert value is None or (type(value) is float and math.isfinite(value))
    if isinstance(odd, str | bytes | bool | list | dict | complex) or callable(odd) or odd is None:
        assert value is None


@every_oddity
def test_odd_metrics_are_refused_and_change_nothing(odd):
    schedule = ReduceOnPlateau(0.1, patience=2)
    schedule.report(3.0)
    before = copy.deepcopy(schedule)
    attempt(ReduceOnPlateau, lambda: schedule.report(odd))
    if isinstance(odd, str | bytes | bool | list | dict | complex) or odd is None or callable(odd):
        assert schedule == before


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Constant(10**400), ValueError, "Constant: value must be a finite number, got an "),
        (lambda: Join(None, None), TypeError, "Join: schedules must be a list of .*, got None"),
        (lambda: Join([1.0], None), TypeError, "Join: boundaries must be a list .*, got None"),
        (lambda: Join("abc", [1]), TypeError, "Join: schedules must be a list .*, got 'abc'"),
        (lambda: Join({1.0, 2.0}, [1]), TypeError, "Join: schedules must be a list"),
        (lambda: Join([], []), ValueError, "Join: give at least one schedule"),
        (lambda: Join([Linear, 1.0], [1]), TypeError, r"schedules\[0\] is the class Linear; write"),
        (lambda: WarmUp(3, lambda t: True)(1), TypeError, "WarmUp: .* must return a finite .*True"),
        (lambda: WarmUp(3, lambda t: 1e999)(9), ValueError, "must return .* inf at its step 6"),
        (
            lambda: ReduceOnPlateau(0.1).report(None),
            TypeError,
            r"Plateau\.report: the metric must",
        ),
        (lambda: ReduceOnPlateau(0.1).report("1"), TypeError, "must be a number, got '1'"),
        (lambda: ReduceOnPlateau(0.1, best=[]), TypeError, "best must be one of 'smallest'"),
        (lambda: Exponential(1.0, 2.0)(2000), ValueError, "Exponential.*step 2000 is beyond"),
        (lambda: Linear(1.0, 0.0, 3)("2"), TypeError, "Linear: a step must be a number, .*'2'"),
        (lambda: SGD(Linear), TypeError, "SGD: lr must be .*, or a schedule .*Linear'"),
    ],
)
def test_what_is_odd_is_said_in_words(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_plateau_is_checked_when_it_is_changed():
    schedule = ReduceOnPlateau(0.1)
    before = copy.deepcopy(schedule)
    for name, value in [
        ("factor", 2.0),
        ("patience", "x"),
        ("best", "Least"),
        ("smallest", None),
    ]:
        with pytest.raises((TypeError, ValueError), match=f"ReduceOnPlateau: {name} must be"):
            setattr(schedule, name, value)
    assert schedule == before
    schedule.factor = 0.5
    assert schedule.factor == 0.5


@engine_runs.every_engine
@pytest.mark.parametrize(
    ("keywords", "taken"), [({"r": 400}, 5), ({"r": 1e308}, 1), ({"lr": 1e200}, 0)], ids=str
)
def test_weights_beyond_floats_are_a_named_error(keywords, taken, engine):
    engine_runs.require(engine)
    optimizer, w = ScheduleFreeAdamW(engine=engine, **keywords), np.zeros(3)
    for _ in range(taken):
        optimizer.update(w, np.ones(3))
    before = w.copy()
    with pytest.raises(ValueError, match=r"ScheduleFreeAdamW: the weights .* beyond .* smaller r"):
        optimizer.update(w, np.ones(3))
    bits.assert_same_bits(w, before)
    assert optimizer.t == taken
