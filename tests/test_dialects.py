"""Forms of the rules that other libraries and listings have: the same numbers, and the same state.

The loops are written from the equations that those publish; `tests/peers` has the libraries.
"""

import math

import bits
import numpy as np
import pytest

from instep import (
    AdaDelta,
    AdaGrad,
    Adam,
    AdaMax,
    AdamW,
    AMSGrad,
    Momentum,
    Muon,
    NAdam,
    Nesterov,
    RAdam,
    RMSProp,
    chain,
)
from instep.transforms import clip_by_norm

STEPS = 30


def listing_momentum(w, gradients, lr=0.01, momentum=0.9):
    """A textbook's, and DeZero's MomentumSGD."""
    v = np.zeros_like(w)
    for g in gradients:
        v = momentum * v - lr * g
        w = w + v
        yield w


def listing_adagrad(w, gradients, lr=0.01, eps=1e-7):
    """A textbook's; DeZero's with lr 0.001 and eps 1e-8."""
    h = np.zeros_like(w)
    for g in gradients:
        h = h + g * g
        w = w - lr * g / (np.sqrt(h) + eps)
        yield w


def listing_adam(w, gradients, lr=0.001, beta1=0.9, beta2=0.999, eps=1e-8):
    """A textbook's: the learning rate is corrected, and not the means."""
    m, v = np.zeros_like(w), np.zeros_like(w)
    for t, g in enumerate(gradients, 1):
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g * g
        w = w - lr * np.sqrt(1 - beta2**t) / (1 - beta1**t) * m / (np.sqrt(v) + eps)
        yield w


def dezero_adam(w, gradients, lr=0.001, beta1=0.9, beta2=0.999, eps=1e-8):
    """DeZero: means that move by a share of the difference, as in Keras."""
    m, v = np.zeros_like(w), np.zeros_like(w)
    for t, g in enumerate(gradients, 1):
        m = m + (1 - beta1) * (g - m)
        v = v + (1 - beta2) * (g * g - v)
        rate = lr * math.sqrt(1 - math.pow(beta2, t)) / (1 - math.pow(beta1, t))
        w = w - rate * m / (np.sqrt(v) + eps)
        yield w


def dezero_adadelta(w, gradients, lr=1.0, rho=0.95, eps=1e-6):
    """DeZero: one root of the quotient."""
    msg, msdx = np.zeros_like(w), np.zeros_like(w)
    for g in gradients:
        msg = rho * msg + (1 - rho) * g * g
        dx = np.sqrt((msdx + eps) / (msg + eps)) * g
        msdx = rho * msdx + (1 - rho) * dx * dx
        w = w - lr * dx
        yield w


def thinc_adam(w, gradients, lr=0.001, beta1=0.9, beta2=0.999, eps=1e-8):
    """Thinc: gradients are clipped, tensor by tensor, to a norm of 1."""
    m, v = np.zeros_like(w), np.zeros_like(w)
    for t, g in enumerate(gradients, 1):
        norm = np.linalg.norm(g)
        clipped = g * (1.0 / norm) if norm >= 1.0 else g
        m = m * beta1 + clipped * (1 - beta1)
        v = v * beta2 + clipped * clipped * (1 - beta2)
        rate = lr * (1 - beta2**t) ** 0.5 / (1 - beta1**t)
        w = w - rate * (m / (np.sqrt(v) + eps))
        yield w


def clipped_adam(**keywords):
    return chain(clip_by_norm(1.0), Adam(form="epsilon_hat", **keywords))


def hatted_adam(**keywords):
    return Adam(form="epsilon_hat", **keywords)


LISTINGS = [
    (listing_momentum, Momentum, {"lr": 0.1}),
    (listing_adagrad, AdaGrad, {"lr": 0.1}),
    (listing_adagrad, AdaGrad, {"lr": 0.001, "eps": 1e-8}),
    (listing_adam, hatted_adam, {}),
    (listing_adam, hatted_adam, {"lr": 0.1, "beta1": 0.5, "beta2": 0.9, "eps": 0.5}),
    (dezero_adam, hatted_adam, {}),
    (dezero_adam, hatted_adam, {"lr": 0.1, "beta1": 0.5, "beta2": 0.9, "eps": 0.5}),
    (dezero_adadelta, AdaDelta, {}),
    (thinc_adam, clipped_adam, {}),
    (thinc_adam, clipped_adam, {"lr": 0.1, "beta2": 0.9, "eps": 0.5}),
]


@pytest.mark.parametrize(("listing", "make", "keywords"), LISTINGS)
def test_a_listing_and_the_rule_of_its_form_walk_one_path(listing, make, keywords):
    rng = np.random.default_rng(0)
    w = rng.standard_normal((4, 5))
    gradients = [rng.standard_normal(w.shape) for _ in range(STEPS)]
    path = list(listing(w, gradients, **keywords))
    optimizer = make(**keywords)
    for g, expected in zip(gradients, path, strict=True):
        optimizer.update(w, g)
        np.testing.assert_allclose(w, expected, rtol=1e-12, atol=1e-12)


def test_the_forms_of_eps_differ_where_gradients_are_small():
    """In the first step by hand: m = .1 g and v = .001 g**2, with g = eps."""
    standard, hat = np.zeros(1), np.zeros(1)
    g = np.array([1e-3])
    Adam(lr=1.0, eps=1e-3).update(standard, g)
    Adam(lr=1.0, eps=1e-3, form="epsilon_hat").update(hat, g)
    assert standard[0] == pytest.approx(-1 / 2, rel=1e-12)  # g / (g + eps)
    share = math.sqrt(1e-3)
    assert hat[0] == pytest.approx(-share / (share + 1), rel=1e-12)  # eps is divided by the root


# What a form keeps ----------------------------------------------------------------------------

FORMS = [
    (Adam, {"form": "epsilon_hat"}, {"m", "v"}, 28),
    (Adam, {"form": "epsilon_hat", "amsgrad": True}, {"m", "v", "x"}, 36),
    (AdamW, {"form": "epsilon_hat"}, {"m", "v"}, 28),
    (AMSGrad, {"form": "epsilon_hat"}, {"m", "v", "x"}, 36),
    (AMSGrad, {"bias_correction": "before"}, {"m", "v", "x"}, 36),
    (AMSGrad, {"bias_correction": "none"}, {"m", "v", "x"}, 36),
    (NAdam, {"psi": math.inf}, {"m", "v"}, 28),
    (RAdam, {"form": "epsilon", "threshold": 4.0}, {"m", "v"}, 28),
    (AdaMax, {"eps_in_max": True}, {"m", "u"}, 28),
    (Momentum, {"lr_in_velocity": False}, {"b"}, 20),
    (Nesterov, {"lr_in_velocity": False}, {"b"}, 20),
    (AdaGrad, {"eps_in_sqrt": True, "initial_accumulator_value": 0.1}, {"h"}, 20),
    (RMSProp, {"eps_in_sqrt": True, "initial_accumulator_value": 0.1}, {"h"}, 20),
    (RMSProp, {"momentum": 0.9, "lr_in_velocity": False}, {"h", "buffer"}, 28),
]


@pytest.mark.parametrize(("rule", "form", "slots", "size"), FORMS)
def test_a_form_is_one_pass_and_keeps_what_its_equation_names(rule, form, slots, size):
    optimizer, w = rule(**form), np.ones(5, "float32")
    for _ in range(6):  # RAdam rectifies from its fifth or sixth step on
        optimizer.update(w, np.ones(5, "float32"))
    assert set(optimizer.state_dict()["states"][""]["slots"]) == slots
    (bucket,) = optimizer.explain(w).buckets
    assert (bucket.passes, bucket.bytes_per_element) == (1, size)
    for name, value in form.items():
        assert f"{name}={value!r}" in str(optimizer.explain(w))
        assert f"{name}={value!r}" in repr(optimizer)


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
@pytest.mark.parametrize(("rule", "form", "slots", "size"), FORMS)
def test_a_file_has_the_form_and_the_run_goes_on_in_it(rule, form, slots, size, suffix, tmp_path):
    if suffix == "safetensors":
        pytest.importorskip("safetensors")
    rng = np.random.default_rng(0)
    optimizer, w = rule(lr=0.1, **form), rng.standard_normal(9)
    for _ in range(3):
        optimizer.update(w, rng.standard_normal(9))
    optimizer.save(tmp_path / f"state.{suffix}")
    other, v = rule(), w.copy()
    other.load(tmp_path / f"state.{suffix}")
    assert {name: getattr(other, name) for name in form} == form
    for _ in range(3):
        g = rng.standard_normal(9)
        optimizer.update(w, g)
        other.update(v, g)
        bits.assert_same_bits(v, w)


@pytest.mark.parametrize(("rule", "form", "slots", "size"), FORMS)
def test_a_state_from_before_there_were_forms_is_taken_as_it_is(rule, form, slots, size):
    optimizer, w = rule(), np.ones(3)
    optimizer.update(w, np.ones(3))
    state = optimizer.state_dict()
    for name in form.keys() - {"psi", "momentum", "amsgrad"}:
        del state["hyperparameters"][name]
    restored = rule().load_state_dict(state)
    assert repr(restored) == repr(optimizer)
    bits.assert_same_bits(
        restored.update(w.copy(), np.ones(3)), optimizer.update(w.copy(), np.ones(3))
    )


@pytest.mark.parametrize(("rule", "form"), [(rule, form) for rule, form, *_ in FORMS])
def test_a_form_that_is_set_in_mid_run_holds_from_the_next_step_on(rule, form):
    """It is traced anew; state of other names is kept, and starts at its own beginning."""
    g = np.full(3, 0.5)
    for before, after in (({}, form), (form, {})):
        defaults = {name: getattr(rule(), name) for name in form}
        optimizer, w = rule(lr=0.1, **{**defaults, **before}), np.ones(3)
        optimizer.update(w, g)
        for name, value in {**defaults, **after}.items():
            setattr(optimizer, name, value)
        optimizer.update(w, g)
        made = rule(lr=0.1, **{**defaults, **after})
        assert repr(optimizer) == f"<{made!r} at t=2>"
        restored, v = rule().load_state_dict(optimizer.state_dict()), w.copy()
        bits.assert_same_bits(restored.update(v, g), optimizer.update(w, g))


def test_the_learning_rate_is_felt_at_once_where_the_velocity_is_without_it():
    slow, quick = Momentum(lr=1.0), Momentum(lr=1.0, lr_in_velocity=False)
    a, b = np.zeros(1), np.zeros(1)
    for optimizer, w in ((slow, a), (quick, b)):
        optimizer.update(w, np.ones(1))
        optimizer.lr = 0.0
        optimizer.update(w, np.ones(1))
    assert (a[0], b[0]) == (-1.9, -1.0)


def test_a_state_without_the_velocity_is_refused():
    optimizer = Momentum()
    optimizer.update({"w": np.ones(3)}, {"w": np.ones(3)})
    state = optimizer.state_dict()
    del state["states"]["w"]["slots"]["v"]
    for lr_in_velocity in (True, False):
        with pytest.raises(ValueError, match="'w' has the slots none, expected b or v; pass"):
            Momentum(lr_in_velocity=lr_in_velocity).load_state_dict(state)


# Where a sum starts ---------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [AdaGrad, RMSProp])
def test_a_sum_of_squares_starts_where_it_is_told_leaf_by_leaf(rule):
    start = np.array([0.0, 3.0])
    optimizer = rule(
        lr=1.0,
        eps=0.0,
        initial_accumulator_value=8.0,
        overrides={
            "b": {"initial_accumulator_value": start},
            "c": {"initial_accumulator_value": lambda t: 3.0 if t == 1 else 99.0},
        },
    )
    params = {"a": np.zeros(2), "b": np.zeros(2), "c": np.zeros(2)}
    for _ in range(2):
        optimizer.update(params, {name: np.ones(2) for name in params})
    slots = {key: entry["slots"]["h"] for key, entry in optimizer.state_dict()["states"].items()}
    for name, first in (("a", 8.0), ("b", start), ("c", 3.0)):
        expected = first + 2.0 if rule is AdaGrad else 0.81 * (first - 1.0) + 1.0
        np.testing.assert_allclose(slots[name], np.full(2, expected), rtol=1e-15)


def test_a_deviation_has_no_start():
    message = "RMSProp: initial_accumulator_value .* centered=True keeps none.*centered=False"
    with pytest.raises(ValueError, match=message):
        RMSProp(centered=True, initial_accumulator_value=0.1)
    optimizer = RMSProp(initial_accumulator_value=np.ones(3))
    with pytest.raises(ValueError, match=message):
        optimizer.centered = True
    assert optimizer.centered is False


# What is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [Adam, AdamW, AMSGrad, RAdam, Muon])
@pytest.mark.parametrize(("value", "error"), [("hat", ValueError), (True, TypeError)])
def test_an_unknown_form_is_refused_with_those_that_there_are(rule, value, error):
    message = f"{rule.__name__}: form must be one of 'epsilon', 'epsilon_hat', got {value!r}"
    with pytest.raises(error, match=message):
        rule(form=value)
    optimizer = rule()
    before = repr(optimizer)
    with pytest.raises(error, match=message):
        optimizer.form = value
    assert repr(optimizer) == before


@pytest.mark.parametrize("bias_correction", ["before", "none"])
def test_forms_that_do_not_go_together_are_refused(bias_correction):
    message = f"AMSGrad: form='epsilon_hat' .*got '{bias_correction}'.*use form='epsilon'"
    with pytest.raises(ValueError, match=message):
        AMSGrad(form="epsilon_hat", bias_correction=bias_correction)


@pytest.mark.parametrize("threshold", [3.9, 0.0, math.inf])
def test_an_average_too_short_to_have_a_variance_is_no_threshold(threshold):
    """Below 4 there is no variance, and the factor is not real."""
    with pytest.raises(ValueError, match="RAdam: threshold must be a finite number >= 4"):
        RAdam(threshold=threshold)
