"""The paths: what the figures are to show, and the same bits everywhere."""

import itertools
import math

import pytest

import instep
import instep.engines
from instep import SGD, AdaGrad, Adam, Momentum
from instep.commands.compare import backends
from instep.commands.compare.paths import Decay, follow
from instep.commands.compare.surfaces import QUADRATIC, SECH, SURFACES

NUMPY = backends.load("numpy")
OPTIMIZERS = [SGD, Momentum, AdaGrad, Adam]
BACKENDS = {
    "numpy": "numpy",
    "array_api_strict": "array_api_strict",
    "array_api_compat.torch": "torch",
    "jax.numpy": "jax",
    "array_api_compat.cupy": "cupy",
}


def path(optimizer, surface=QUADRATIC, steps=20, backend=NUMPY):
    return follow(optimizer, surface, "constant", steps, backend)


def textbook(rule, surface, rates):
    """Follow the equations on Python floats."""
    w, v, h, m = list(surface.start), [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]
    points = [surface.start]
    for t, lr in enumerate(rates, start=1):
        for k, g in enumerate(surface.gradient(*w)):
            match rule.__name__:
                case "SGD":
                    w[k] -= lr * g
                case "Momentum":
                    v[k] = 0.9 * v[k] - lr * g
                    w[k] += v[k]
                case "AdaGrad":
                    h[k] += g * g
                    w[k] -= lr * g / (math.sqrt(h[k]) + 1e-7)
                case "Adam":
                    m[k] = 0.9 * m[k] + (1 - 0.9) * g
                    v[k] = 0.999 * v[k] + (1 - 0.999) * (g * g)
                    m_hat, v_hat = m[k] / (1 - 0.9**t), v[k] / (1 - 0.999**t)
                    w[k] -= lr * m_hat / (math.sqrt(v_hat) + 1e-8)
        points.append(tuple(w))
    return points


@pytest.mark.parametrize("surface", SURFACES, ids=lambda surface: surface.name)
@pytest.mark.parametrize("rule", OPTIMIZERS)
@pytest.mark.parametrize("rate", [1.0, Decay(1.0, 0.5, 20)], ids=["constant", "decay"])
def test_path_is_that_of_the_equations(rule, surface, rate):
    rates = [rate(step) if callable(rate) else rate for step in range(1, 21)]
    followed = path(rule(lr=rate), surface)
    # Float64 rounds each step to about 1e-16; the surfaces stretch differences by less than 3 a
    # step, and not for long.
    for here, expected in zip(followed.points, textbook(rule, surface, rates), strict=True):
        assert here == pytest.approx(expected, rel=1e-9, abs=1e-11)


def test_sgd_zigzags_across_the_valley_without_end():
    points = path(SGD(lr=1.0), steps=1000).points
    assert [y for _, y in points] == [-5.0 if step % 2 == 0 else 5.0 for step in range(1001)]


@pytest.mark.parametrize("rule", [AdaGrad, Adam])
def test_adagrad_and_adam_do_not_zigzag(rule):
    ys = [y for _, y in path(rule(lr=1.0)).points]
    turns = sum((b - a) * (c - b) < 0 for a, b, c in zip(ys, ys[1:], ys[2:], strict=False))
    assert turns <= 1
    assert abs(ys[-1]) < 1


def test_momentum_gets_nearer_than_sgd_and_still_overshoots():
    by_momentum, by_sgd = path(Momentum(lr=1.0)), path(SGD(lr=1.0))
    assert by_momentum.heights[-1] < by_sgd.heights[-1]
    assert max(x for x, _ in by_momentum.points) > 0


def test_adagrad_goes_straight_to_the_minimum():
    heights = path(AdaGrad(lr=1.0)).heights
    assert all(after < before for before, after in itertools.pairwise(heights))


def test_decaying_rate_ends_the_zigzag_of_sgd():
    ys = [y for _, y in path(SGD(lr=Decay(1.0, 0.5, 20))).points]
    assert abs(ys[-1]) < 1e-9
    assert all(abs(after) <= abs(before) for before, after in itertools.pairwise(ys))


def test_sgd_stays_on_the_plateau_that_adagrad_and_adam_leave():
    ends = {rule: path(rule(lr=1.0), SECH).heights[-1] for rule in OPTIMIZERS}
    assert ends[SGD] > 0.4
    assert ends[AdaGrad] < 1e-6
    assert ends[Adam] < 0.05


def test_rate_decays_evenly_from_the_first_step_to_the_last():
    decay = Decay(1.0, 0.5, 5)
    assert [decay(step) for step in range(1, 8)] == [1.0, 0.875, 0.75, 0.625, 0.5, 0.5, 0.5]


def test_rate_of_a_single_step_is_the_first():
    assert Decay(1.0, 0.5, 1)(1) == 1.0


@pytest.mark.parametrize("surface", SURFACES, ids=lambda surface: surface.name)
@pytest.mark.parametrize("rule", [*OPTIMIZERS, instep.RMSProp, instep.Nesterov, instep.AdamW])
def test_paths_are_the_same_bits_on_every_array_library(xp, rule, surface):
    backend = backends.load(BACKENDS.get(xp.__name__, "numpy"))
    for rate in (1.0, Decay(1.0, 0.5, 20)):
        here = path(rule(lr=rate), surface, backend=backend)
        expected = path(rule(lr=rate, engine="array_api"), surface).points
        assert here.points == expected


@pytest.mark.parametrize("engine", ["native", "blocked"])
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("rule", OPTIMIZERS)
def test_paths_are_the_same_bits_on_every_engine_and_number_of_threads(engine, threads, rule):
    reason = instep.engines.available()[engine]
    if reason is not None:
        pytest.skip(reason)
    for surface in SURFACES:
        here = path(rule(lr=1.0, engine=engine, threads=threads), surface)
        assert here.points == path(rule(lr=1.0, engine="array_api"), surface).points


def test_path_keeps_the_hyperparameters_it_began_with():
    followed = path(Momentum(lr=1.0), steps=2)
    assert followed.hyperparameters["lr"] == 1.0
    assert followed.hyperparameters["momentum"] == 0.9
    assert followed.optimizer == "Momentum"
    assert len(followed.points) == 3


def test_rule_with_an_answer_of_its_own_is_asked_for_it():
    class Averaging(SGD):
        def eval_params(self, params):
            return {"point": params["point"] / 2}

    plain, averaged = path(SGD(lr=1.0), steps=3), path(Averaging(lr=1.0), steps=3)
    assert averaged.points[1:] == tuple((x / 2, y / 2) for x, y in plain.points[1:])
