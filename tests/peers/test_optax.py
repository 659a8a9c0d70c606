"""Rules against optax, with the variant set equal: 30 steps in float64, to 1e-12."""

from dataclasses import dataclass, field

import numpy as np
import pytest

import instep

jax = pytest.importorskip("jax")
optax = pytest.importorskip("optax")

pytestmark = pytest.mark.peers

STEPS = 30


@dataclass(frozen=True)
class Peer:
    """A rule of instep and its keywords, beside optax's function and its keywords."""

    rule: str
    peer: str
    ours: dict = field(default_factory=dict)
    theirs: dict = field(default_factory=dict)

    def __str__(self):
        arguments = ", ".join(f"{name}={value}" for name, value in self.ours.items())
        return f"{self.rule}({arguments})"


PEERS = [
    Peer("SGD", "sgd", {"lr": 0.1}),
    Peer("Momentum", "sgd", {"lr": 0.1}, {"momentum": 0.9}),
    Peer("Nesterov", "sgd", {"lr": 0.1}, {"momentum": 0.9, "nesterov": True}),
    # optax has eps inside the root, so without one.
    Peer(
        "AdaGrad", "adagrad", {"lr": 0.1, "eps": 0.0}, {"initial_accumulator_value": 0.0, "eps": 0.0}
    ),
    Peer("RMSProp", "rmsprop", {"lr": 0.1}, {"decay": 0.9, "eps": 1e-7, "eps_in_sqrt": False}),
    Peer(
        "RMSProp",
        "rmsprop",
        {"lr": 0.1, "centered": True, "momentum": 0.5},
        {"decay": 0.9, "eps": 1e-7, "eps_in_sqrt": False, "centered": True, "momentum": 0.5},
    ),
    Peer("Adam", "adam", {"lr": 0.1}),
    Peer(
        "Adam",
        "adam",
        {"lr": 0.1, "beta1": 0.5, "beta2": 0.75, "eps": 1e-3},
        {"b1": 0.5, "b2": 0.75, "eps": 1e-3},
    ),
    Peer("AdamW", "adamw", {"lr": 0.1, "weight_decay": 0.25}, {"weight_decay": 0.25}),
]


@pytest.mark.parametrize("entry", PEERS, ids=str)
def test_a_rule_agrees_with_optax(entry):
    rng = np.random.default_rng(0)
    params = {"a": rng.standard_normal((4, 5)), "b": rng.standard_normal(7)}
    theirs = jax.tree.map(jax.numpy.asarray, {name: w.copy() for name, w in params.items()})
    ours = getattr(instep, entry.rule)(**entry.ours)
    transform = getattr(optax, entry.peer)(entry.ours["lr"], **entry.theirs)
    state = transform.init(theirs)
    for t in range(1, STEPS + 1):
        grads = {name: rng.standard_normal(w.shape) for name, w in params.items()}
        updates, state = transform.update(jax.tree.map(jax.numpy.asarray, grads), state, theirs)
        theirs = optax.apply_updates(theirs, updates)
        ours.update(params, grads)
        for name, w in params.items():
            assert theirs[name].dtype == "float64"
            np.testing.assert_allclose(
                w, theirs[name], rtol=1e-12, atol=1e-12, err_msg=f"step {t}"
            )
