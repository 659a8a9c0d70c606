"""Rules against Keras, on JAX, with the variant set equal: 30 steps in float64, to 1e-12."""

import os

import numpy as np
import pytest

import instep

pytest.importorskip("jax")
os.environ.setdefault("KERAS_BACKEND", "jax")
keras = pytest.importorskip("keras")

pytestmark = pytest.mark.peers

STEPS = 30


@pytest.fixture(autouse=True)
def float64():
    """Let Keras keep its scalars in float64, too."""
    keras.backend.set_floatx("float64")
    yield
    keras.backend.set_floatx("float32")


HAT = {"form": "epsilon_hat"}

# Keras has the "epsilon hat" form of Adam, and RMSProp's eps inside the root.
PEERS = [
    ("SGD", "SGD", {}, {}),
    ("Momentum", "SGD", {}, {"momentum": 0.9}),
    ("Nesterov", "SGD", {}, {"momentum": 0.9, "nesterov": True}),
    ("RMSProp", "RMSprop", {"eps": 0.0, "momentum": 0.5}, {"epsilon": 0.0, "momentum": 0.5}),
    ("RMSProp", "RMSprop", {"eps": 0.0, "centered": True}, {"epsilon": 0.0, "centered": True}),
    ("RMSProp", "RMSprop", {"eps": 0.5, "eps_in_sqrt": True}, {"epsilon": 0.5}),
    (
        "RMSProp",
        "RMSprop",
        {"eps": 0.5, "eps_in_sqrt": True, "centered": True, "momentum": 0.5},
        {"epsilon": 0.5, "centered": True, "momentum": 0.5},
    ),
    ("AdaGrad", "Adagrad", {"eps": 0.0}, {"initial_accumulator_value": 0.0, "epsilon": 0.0}),
    ("AdaGrad", "Adagrad", {"eps_in_sqrt": True, "initial_accumulator_value": 0.1}, {}),
    (
        "AdaGrad",
        "Adagrad",
        {"eps": 0.5, "eps_in_sqrt": True, "initial_accumulator_value": 1.0},
        {"epsilon": 0.5, "initial_accumulator_value": 1.0},
    ),
    ("Adam", "Adam", {"eps": 0.0}, {"epsilon": 0.0}),
    ("Adam", "Adam", {**HAT, "eps": 1e-7}, {}),
    (
        "Adam",
        "Adam",
        {**HAT, "eps": 0.5, "amsgrad": True, "beta2": 0.5},
        {"epsilon": 0.5, "amsgrad": True, "beta_2": 0.5},
    ),
    ("AdamW", "AdamW", {**HAT, "eps": 1e-7, "weight_decay": 0.004}, {}),
    (
        "AdamW",
        "AdamW",
        {**HAT, "eps": 0.5, "weight_decay": 0.25},
        {"epsilon": 0.5, "weight_decay": 0.25},
    ),
    (
        "AMSGrad",
        "Adam",
        {**HAT, "eps": 0.5, "beta2": 0.5},
        {"epsilon": 0.5, "beta_2": 0.5, "amsgrad": True},
    ),
    ("AdaDelta", "Adadelta", {"eps": 1e-7}, {}),
    ("AdamW", "AdamW", {"eps": 0.0}, {"epsilon": 0.0, "weight_decay": 0.01}),
    (
        "AMSGrad",
        "Adam",
        {"eps": 0.0, "beta2": 0.5},
        {"epsilon": 0.0, "beta_2": 0.5, "amsgrad": True},
    ),
    ("NAdam", "Nadam", {"psi": 1.0}, {"epsilon": 1e-8}),
    ("AdaDelta", "Adadelta", {}, {"epsilon": 1e-6}),
    ("AdaMax", "Adamax", {}, {"epsilon": 1e-8}),
    ("Lion", "Lion", {}, {}),
    ("Lion", "Lion", {"weight_decay": 0.25}, {"weight_decay": 0.25}),
    ("LAMB", "Lamb", {"weight_decay": 0.0}, {"epsilon": 1e-6}),
    ("Adafactor", "Adafactor", {}, {}),
    (
        "Adafactor",
        "Adafactor",
        {"decay": 0.5, "d": 0.25},
        {"beta_2_decay": -0.5, "clip_threshold": 0.25},
    ),
    # Keras has no factor for matrices with more rows than columns; another one is switched off.
    (
        "Muon",
        "Muon",
        {"adamw_lr": 0.01, "beta2": 0.999, "eps": 1e-3, **HAT},
        {
            "rms_rate": None,
            "weight_decay": 0.0,
            "adam_lr_ratio": 0.1,
            "adam_weight_decay": 0.0,
            "epsilon": 1e-3,
        },
    ),
]


#: Keras takes means and norms in float32, whatever the dtype.
TOLERANCES = {"Adafactor": 1e-6, "Muon": 1e-6}


@pytest.mark.parametrize(("rule", "peer", "ours", "theirs"), PEERS)
def test_a_rule_agrees_with_keras(rule, peer, ours, theirs):
    tolerance = TOLERANCES.get(rule, 1e-12)
    rng = np.random.default_rng(0)
    params = {"a": rng.standard_normal((4, 5)), "b": rng.standard_normal(7)}
    variables = {name: keras.Variable(w.copy(), name=name) for name, w in params.items()}
    optimizer = getattr(instep, rule)(lr=0.1, **ours)
    other = getattr(keras.optimizers, peer)(learning_rate=0.1, **theirs)
    for t in range(1, STEPS + 1):
        grads = {name: rng.standard_normal(w.shape) for name, w in params.items()}
        other.apply(
            [keras.ops.convert_to_tensor(g) for g in grads.values()], list(variables.values())
        )
        optimizer.update(params, grads)
        for name, w in params.items():
            np.testing.assert_allclose(
                w,
                np.asarray(variables[name]),
                rtol=tolerance,
                atol=tolerance,
                err_msg=f"{name}, step {t}",
            )
