# ruff: noqa: SLF001  (it looks inside on purpose)
"""Rules against optax, with the variant set equal: 30 steps in float64, to 1e-12."""

import math
import operator
from dataclasses import dataclass, field

import cases
import numpy as np
import pytest
import textbook

import instep

jax = pytest.importorskip("jax")
optax = pytest.importorskip("optax")

pytestmark = pytest.mark.peers

STEPS = 30


@dataclass(frozen=True)
class Peer:
    """A rule of instep and its keywords, beside optax's function and its keywords.

    Gradients are noise, and `pull` times the parameters: distances are estimated where it leads.
    """

    rule: str
    peer: str
    ours: dict = field(default_factory=dict)
    theirs: dict = field(default_factory=dict)
    tolerance: float = 1e-12
    pull: float = 0.0

    def __str__(self):
        arguments = ", ".join(f"{name}={value}" for name, value in self.ours.items())
        return f"{self.rule}({arguments})"


IN_SQRT = {"eps_in_sqrt": True}

PEERS = [
    Peer("SGD", "sgd", {"lr": 0.1}),
    Peer("Momentum", "sgd", {"lr": 0.1}, {"momentum": 0.9}),
    Peer("Nesterov", "sgd", {"lr": 0.1}, {"momentum": 0.9, "nesterov": True}),
    Peer("AdaGrad", "adagrad", {"lr": 0.1, **IN_SQRT, "initial_accumulator_value": 0.1}),
    Peer(
        "AdaGrad",
        "adagrad",
        {"lr": 0.1, "eps": 0.0},
        {"initial_accumulator_value": 0.0, "eps": 0.0},
    ),
    Peer("RMSProp", "rmsprop", {"lr": 0.1}, {"decay": 0.9, "eps": 1e-7, "eps_in_sqrt": False}),
    Peer(
        "RMSProp",
        "rmsprop",
        {"lr": 0.1, "eps": 0.5, **IN_SQRT, "initial_accumulator_value": 0.5},
        {"decay": 0.9, "eps": 0.5, "initial_scale": 0.5},
    ),
    Peer(
        "RMSProp",
        "rmsprop",
        {"lr": 0.1, "eps": 0.5, **IN_SQRT, "centered": True, "momentum": 0.5},
        {"decay": 0.9, "eps": 0.5, "centered": True, "momentum": 0.5},
    ),
    Peer(
        "RMSProp",
        "rmsprop",
        {"lr": 0.1, "centered": True, "momentum": 0.5},
        {"decay": 0.9, "eps": 1e-7, "eps_in_sqrt": False, "centered": True, "momentum": 0.5},
    ),
    Peer(
        "RMSProp",
        "rmsprop",
        {"lr": 0.1, "momentum": 0.5, "nesterov": True},
        {"decay": 0.9, "eps": 1e-7, "eps_in_sqrt": False, "momentum": 0.5, "nesterov": True},
    ),
    Peer("Adam", "adam", {"lr": 0.1}),
    Peer(
        "Adam",
        "adam",
        {"lr": 0.1, "beta1": 0.5, "beta2": 0.75, "eps": 1e-3},
        {"b1": 0.5, "b2": 0.75, "eps": 1e-3},
    ),
    Peer("AdamW", "adamw", {"lr": 0.1, "weight_decay": 0.25}, {"weight_decay": 0.25}),
    Peer("AdaDelta", "adadelta", {"lr": 1.0}, {"rho": 0.95, "eps": 1e-6}),
    Peer("NAdam", "nadam", {"lr": 0.1, "psi": math.inf}),
    Peer(
        "NAdam",
        "nadam",
        {"lr": 0.1, "psi": math.inf, "beta1": 0.5, "beta2": 0.9, "eps": 0.5},
        {"b1": 0.5, "b2": 0.9, "eps": 0.5},
    ),
    Peer("AMSGrad", "amsgrad", {"lr": 0.1, "beta2": 0.5, "bias_correction": "before"}, {"b2": 0.5}),
    Peer(
        "AMSGrad",
        "amsgrad",
        {"lr": 0.1, "beta2": 0.5, "bias_correction": "none"},
        {"b2": 0.5, "bias_correction_mu": False, "bias_correction_nu": False},
    ),
    Peer(
        "RAdam",
        "radam",
        {"lr": 0.1, "beta2": 0.9, "eps": 0.5, "form": "epsilon"},
        {"b2": 0.9, "eps": 0.5},
    ),
    Peer(
        "RAdam",
        "radam",
        {"lr": 0.1, "beta2": 0.9, "eps": 0.0, "threshold": 4.0},
        {"b2": 0.9, "eps": 0.0, "threshold": 4.0},
    ),
    Peer("RAdam", "radam", {"lr": 0.1, "eps": 0.0}, {"eps": 0.0}),
    Peer("RAdam", "radam", {"lr": 0.1, "beta2": 0.9, "eps": 0.0}, {"b2": 0.9, "eps": 0.0}),
    Peer("AdaMax", "adamax", {"lr": 0.1, "eps": 0.0}, {"eps": 0.0}),
    Peer("AdaMax", "adamax", {"lr": 0.1, "eps": 0.5, "eps_in_max": True}, {"eps": 0.5}),
    Peer("AdaBelief", "adabelief", {"lr": 0.1}),
    Peer(
        "AdaBelief",
        "adabelief",
        {"lr": 0.1, "beta2": 0.5, "eps": 1e-3},
        {"b2": 0.5, "eps": 1e-3, "eps_root": 1e-3},
    ),
    Peer("Yogi", "yogi", {"lr": 0.1}),
    Peer("Yogi", "yogi", {"lr": 0.1, "beta2": 0.5}, {"b2": 0.5}),
    Peer("Lion", "lion", {"lr": 0.1}, {"weight_decay": 0.0}),
    Peer(
        "Lion",
        "lion",
        {"lr": 0.1, "beta1": 0.5, "beta2": 0.75, "weight_decay": 0.25},
        {"b1": 0.5, "b2": 0.75, "weight_decay": 0.25},
    ),
    # optax has the factor 1 - beta2 where the paper (and the authors' code) has beta2.
    Peer("Adan", "adan", {"lr": 0.1, "beta2": 0.5}, {"b2": 0.5, "eps_root": 0.0}),
    # With decay, optax divides by the norm of the sum.
    Peer("LARS", "lars", {"lr": 10.0}),
    Peer(
        "LARS",
        "lars",
        {"lr": 10.0, "momentum": 0.5, "eta": 0.01},
        {"momentum": 0.5, "trust_coefficient": 0.01},
    ),
    Peer("LAMB", "lamb", {"lr": 0.1, "weight_decay": 0.25}, {"weight_decay": 0.25}),
    Peer("ScheduleFreeAdamW", "contrib.schedule_free_adamw", {"lr": 0.1}),
    Peer(
        "ScheduleFreeAdamW",
        "contrib.schedule_free_adamw",
        {"lr": 0.1, "beta1": 0.5, "weight_decay": 0.25},
        {"b1": 0.5, "weight_decay": 0.25},
    ),
    Peer("AdEMAMix", "contrib.ademamix", {"lr": 0.1}),
    Peer(
        "AdEMAMix",
        "contrib.ademamix",
        {"lr": 0.1, "beta3": 0.9, "alpha": 2.0, "weight_decay": 0.25},
        {"b3": 0.9, "alpha": 2.0, "weight_decay": 0.25},
    ),
    Peer("ADOPT", "contrib.adopt", {"lr": 0.1}),
    Peer(
        "ADOPT",
        "contrib.adopt",
        {"lr": 0.1, "beta1": 0.5, "beta2": 0.5, "eps": 0.5},
        {"b1": 0.5, "b2": 0.5, "eps": 0.5},
    ),
    Peer("ScheduleFreeSGD", "contrib.schedule_free_sgd", {"lr": 0.1}),
    Peer("ScheduleFreeSGD", "contrib.schedule_free_sgd", {"lr": 0.1, "beta": 0.5}, {"b1": 0.5}),
    Peer("COCOB", "contrib.cocob", {"lr": 1.0}),
    Peer(
        "COCOB",
        "contrib.cocob",
        {"lr": 0.5, "alpha": 10.0, "eps": 0.1},
        {"alpha": 10.0, "eps": 0.1},
    ),
    Peer("OptimisticGD", "optimistic_gradient_descent", {"lr": 0.1}),
    Peer(
        "OptimisticGD",
        "optimistic_gradient_descent",
        {"lr": 0.1, "optimism": 0.5},
        {"beta": 0.5},
    ),
    Peer("Fromage", "fromage", {"lr": 0.1}),
    Peer("NovoGrad", "novograd", {"lr": 0.1}, {"b1": 0.95, "b2": 0.98, "eps": 1e-8}),
    Peer(
        "NovoGrad",
        "novograd",
        {"lr": 0.1, "beta1": 0.5, "beta2": 0.75, "eps": 1e-3, "weight_decay": 0.25},
        {"b1": 0.5, "b2": 0.75, "eps": 1e-3, "weight_decay": 0.25},
    ),
    Peer("DoG", "contrib.dog", {"lr": 1.0}),
    Peer(
        "DoG",
        "contrib.dog",
        {"lr": 0.5, "movement": 0.1, "eps": 0.5},
        {"init_step": ("heuristic", 0.1), "eps": 0.5},
    ),
    Peer("DoWG", "contrib.dowg", {"lr": 1.0}),
    Peer(
        "DoWG",
        "contrib.dowg",
        {"lr": 0.5, "distance": 0.5, "eps": 0.5},
        {"init_estim_sq_dist": 0.25, "eps": 0.5},
    ),
    Peer("PolyakSGD", "polyak_sgd", {"lr": 1.0}),
    Peer(
        "PolyakSGD",
        "polyak_sgd",
        {"lr": 0.5, "lowest": 15.0, "eps": 0.5},
        {"f_min": 15.0, "eps": 0.5, "variant": "sps+"},
    ),
    Peer("MoMo", "contrib.momo", {"lr": 1.0}),
    Peer(
        "MoMo",
        "contrib.momo",
        {"lr": 0.5, "beta": 0.5, "lowest": 5.0},
        {"beta": 0.5, "lower_bound": 5.0},
    ),
    Peer("MoMoAdam", "contrib.momo_adam", {"lr": 0.1}),
    Peer(
        "MoMoAdam",
        "contrib.momo_adam",
        {"lr": 1.0, "beta1": 0.5, "beta2": 0.9, "eps": 1e-3, "lowest": 5.0},
        {"b1": 0.5, "b2": 0.9, "eps": 1e-3, "lower_bound": 5.0},
    ),
    Peer("Prodigy", "contrib.prodigy", {"lr": 1.0}, pull=1.0),
    Peer(
        "Prodigy",
        "contrib.prodigy",
        {"lr": 0.5, "beta1": 0.5, "beta2": 0.9, "eps": 1e-3, "weight_decay": 0.25, "initial": 0.01},
        {"betas": (0.5, 0.9), "eps": 1e-3, "weight_decay": 0.25, "estim_lr0": 0.01},
        pull=1.0,
    ),
    Peer("DAdaptAdamW", "contrib.dadapt_adamw", {"lr": 1.0}, pull=1.0),
    Peer(
        "DAdaptAdamW",
        "contrib.dadapt_adamw",
        {"lr": 0.5, "beta1": 0.5, "beta2": 0.9, "eps": 1e-3, "weight_decay": 0.25, "initial": 0.01},
        {"betas": (0.5, 0.9), "eps": 1e-3, "weight_decay": 0.25, "estim_lr0": 0.01},
        pull=1.0,
    ),
    Peer(
        "Adafactor",
        "adafactor",
        {"lr": 0.1, "relative_step": False},
        {"min_dim_size_to_factor": 1},
        tolerance=1e-6,  # optax computes the decay rate in float32
    ),
    Peer(
        "Adafactor",
        "adafactor",
        {"lr": 0.1, "relative_step": False, "decay": 0.5, "d": 0.25},
        {"min_dim_size_to_factor": 1, "decay_rate": 0.5, "clipping_threshold": 0.25},
        tolerance=1e-6,
    ),
]


def real(rng, shape):
    return rng.standard_normal(shape)


def complex_numbers(rng, shape):
    return rng.standard_normal(shape) + 1j * rng.standard_normal(shape)


@pytest.mark.parametrize("entry", PEERS, ids=str)
def test_a_rule_agrees_with_optax(entry):
    compare(entry, real)


def compare(entry, draw):
    rng = np.random.default_rng(0)
    params = {"a": draw(rng, (4, 5)), "b": draw(rng, 7)}
    theirs = jax.tree.map(jax.numpy.asarray, {name: w.copy() for name, w in params.items()})
    ours = getattr(instep, entry.rule)(**entry.ours)
    transform = optax.with_extra_args_support(
        operator.attrgetter(entry.peer)(optax)(entry.ours["lr"], **entry.theirs)
    )
    state = transform.init(theirs)
    for t in range(1, STEPS + 1):
        grads = {k: draw(rng, w.shape) + entry.pull * w for k, w in params.items()}
        given = jax.tree.map(jax.numpy.asarray, grads)
        updates, state = transform.update(given, state, theirs, value=textbook.value(t))
        theirs = optax.apply_updates(theirs, updates)
        cases.step(ours, params, grads)
        for name, w in params.items():
            assert theirs[name].dtype == w.dtype
            np.testing.assert_allclose(
                w, theirs[name], rtol=entry.tolerance, atol=entry.tolerance, err_msg=f"step {t}"
            )


@pytest.mark.parametrize("entry", PEERS, ids=str)
def test_a_rule_agrees_with_optax_on_complex_numbers(entry):
    if entry.rule in ("AdaDelta", "DAdaptAdamW", "MoMoAdam", "Prodigy"):
        pytest.skip("optax takes complex squares there, which have a phase, and not moduli")
    if entry.rule in ("ADOPT", "COCOB"):
        pytest.skip("optax compares complex numbers there")
    compare(entry, complex_numbers)


@pytest.mark.parametrize(
    ("rule", "nesterov"), [("Momentum", False), ("Nesterov", True)], ids=["trace", "nesterov"]
)
def test_a_changing_learning_rate_agrees_with_the_trace_of_optax(rule, nesterov):
    rng = np.random.default_rng(0)
    w = rng.standard_normal(9)
    theirs = jax.numpy.asarray(w.copy())
    ours = getattr(instep, rule)(lr=lambda t: 0.1 / t, lr_in_velocity=False)
    transform = optax.sgd(lambda count: 0.1 / (count + 1), momentum=0.9, nesterov=nesterov)
    state = transform.init(theirs)
    for t in range(1, STEPS + 1):
        g = rng.standard_normal(9)
        updates, state = transform.update(jax.numpy.asarray(g), state, theirs)
        theirs = optax.apply_updates(theirs, updates)
        ours.update(w, g)
        np.testing.assert_allclose(w, theirs, rtol=1e-12, atol=1e-12, err_msg=f"step {t}")


def signum(lr, beta):
    return optax.chain(optax.ema(beta, debias=False), optax.scale_by_sign(), optax.scale(-lr))


def test_signum_agrees_with_a_chain_of_optax(monkeypatch):
    monkeypatch.setattr(optax, "signum", signum, raising=False)
    test_a_rule_agrees_with_optax(Peer("Signum", "signum", {"lr": 0.1, "beta": 0.5}, {"beta": 0.5}))


def test_the_means_of_schedule_free_agree_with_optax():
    rng = np.random.default_rng(0)
    w = {"a": rng.standard_normal(9)}
    theirs = {"a": jax.numpy.asarray(w["a"].copy())}
    ours, transform = instep.ScheduleFreeAdamW(lr=0.1), optax.contrib.schedule_free_adamw(0.1)
    state = transform.init(theirs)
    for _ in range(STEPS):
        g = {"a": rng.standard_normal(9)}
        updates, state = transform.update({"a": jax.numpy.asarray(g["a"])}, state, theirs)
        theirs = optax.apply_updates(theirs, updates)
        ours.update(w, g)
    expected = optax.contrib.schedule_free_eval_params(state, theirs)
    np.testing.assert_allclose(ours.eval_params(w)["a"], expected["a"], rtol=1e-12, atol=1e-12)
    assert not np.allclose(w["a"], expected["a"])


@pytest.mark.parametrize("shape", [(4, 6), (6, 4), (1, 5), (5, 5)])
def test_orthogonalization_of_muon_agrees_with_optax(shape):
    """optax's Muon corrects biases inside Nesterov's sum, which turns the direction."""
    from instep.optimizers.muon import orthogonalized

    x = np.random.default_rng(0).standard_normal(shape)
    coefficients = jax.numpy.asarray((3.4445, -4.775, 2.0315))
    expected = optax.contrib._muon.orthogonalize_via_newton_schulz(
        jax.numpy.asarray(x), coefficients, eps=0.0
    )
    factor = max(1, shape[0] / shape[1]) ** 0.5
    numbers = {"ns_steps": 5, "ns_a": 3.4445, "ns_b": -4.775, "ns_c": 2.0315}
    ours = orthogonalized(np, x, **numbers, adjust_lr="original", beyond_2d="adamw")
    np.testing.assert_allclose(ours, factor * expected, rtol=1e-12, atol=1e-12)
