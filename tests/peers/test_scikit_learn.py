"""Rules against the optimizers inside scikit-learn's networks: 30 steps in float64, to 1e-12."""

import numpy as np
import pytest

import instep

optimizers = pytest.importorskip("sklearn.neural_network._stochastic_optimizers")

pytestmark = pytest.mark.peers

STEPS = 30

PEERS = [
    ("SGD", "SGDOptimizer", {}, {"momentum": 0.0, "nesterov": False}),
    ("Momentum", "SGDOptimizer", {}, {"momentum": 0.9, "nesterov": False}),
    ("Nesterov", "SGDOptimizer", {}, {"momentum": 0.9, "nesterov": True}),
    ("Adam", "AdamOptimizer", {"form": "epsilon_hat"}, {}),
    (
        "Adam",
        "AdamOptimizer",
        {"form": "epsilon_hat", "beta1": 0.5, "beta2": 0.75, "eps": 0.5},
        {"beta_1": 0.5, "beta_2": 0.75, "epsilon": 0.5},
    ),
]


@pytest.mark.parametrize(("rule", "peer", "ours", "theirs"), PEERS)
def test_a_rule_agrees_with_scikit_learn(rule, peer, ours, theirs):
    rng = np.random.default_rng(0)
    params = [rng.standard_normal((4, 5)), rng.standard_normal(5)]
    others = [w.copy() for w in params]
    optimizer = getattr(instep, rule)(lr=0.1, **ours)
    other = getattr(optimizers, peer)(others, 0.1, **theirs)
    for t in range(1, STEPS + 1):
        grads = [rng.standard_normal(w.shape) for w in params]
        optimizer.update(params, grads)
        other.update_params(others, grads)
        for w, expected in zip(params, others, strict=True):
            np.testing.assert_allclose(w, expected, rtol=1e-12, atol=1e-12, err_msg=f"step {t}")


def test_its_inverse_scaling_is_a_schedule():
    """`iteration_ends` is told how many samples there were: here one a step."""
    rng = np.random.default_rng(0)
    w = rng.standard_normal(9)
    others = [w.copy()]
    optimizer = instep.Nesterov(lr=lambda t: 0.1 / t**0.5)
    other = optimizers.SGDOptimizer(others, 0.1, lr_schedule="invscaling")
    for t in range(1, STEPS + 1):
        g = rng.standard_normal(9)
        optimizer.update(w, g)
        other.update_params(others, [g])
        other.iteration_ends(t)
        np.testing.assert_allclose(w, others[0], rtol=1e-12, atol=1e-12, err_msg=f"step {t}")
