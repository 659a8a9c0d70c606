"""Gradients that are compared with the values of an objective."""

import bits
import numpy as np
import pytest

from instep import check_gradient
from instep.arrays import to_numpy

DTYPES = ["float64", "float32", "complex128", "complex64", "float16"]


class Quadratic:
    """Half of ``scales * abs(w - target)**2``, summed over a tree, whose gradients may be wrong."""

    def __init__(self, params, xp=np):
        rng = np.random.default_rng(3)
        self.xp, self.calls = xp, 0
        self.parts = {}
        for key, w in params.items():
            scales = rng.uniform(0.5, 2.0, w.shape)
            target = rng.standard_normal(w.shape) + 1j * rng.standard_normal(w.shape)
            real = str(w.dtype).rpartition(".")[2].replace("complex64", "float32")
            real = getattr(xp, real.replace("complex128", "float64"))
            target = xp.asarray(target if "complex" in str(w.dtype) else target.real)
            self.parts[key] = xp.astype(xp.asarray(scales), real), xp.astype(target, w.dtype)

    def __call__(self, params):
        self.calls += 1
        total, grads = 0.0, {}
        for key, w in params.items():
            scales, target = self.parts[key]
            way = w - target
            grads[key] = scales * way
            square = self.xp.abs(way) ** 2
            total += float(self.xp.sum(scales * square)) / 2
        return total, grads


def trees(dtype="float64", xp=np):
    rng = np.random.default_rng(0)
    return {
        "a": xp.asarray(bits.ordinary(rng, (5, 7), dtype)),
        "b": xp.asarray(bits.ordinary(rng, (11,), dtype)),
    }


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_right_gradient_is_right(dtype):
    params = trees(dtype)
    function = Quadratic(params)
    check = check_gradient(function, params)
    assert check.ok, check
    assert bool(check)
    assert list(check.leaves) == ["a", "b"]
    if dtype in ("float64", "complex128"):  # values are not rounded so much that it looks twice
        assert function.calls == 1 + 3 * 2 * 3 * (2 if "complex" in dtype else 1)
    assert repr(check).startswith("GradientCheck: right\n")


def test_every_library_sees_the_same_directions(xp):
    params, like = trees("float32", xp), trees("float32")
    check = check_gradient(Quadratic(params, xp), params)
    assert check.ok, check
    for key, leaf in check_gradient(Quadratic(like), like).leaves.items():
        assert check.leaves[key].given == leaf.given
        # Values are sums in another order.
        assert check.leaves[key].measured == pytest.approx(leaf.measured, rel=1e-2)
    for key, w in params.items():
        bits.assert_same_bits(to_numpy(w), like[key], key)


def wrong(change, *keys):
    """Return a function whose gradients of some leaves are changed."""

    def make(params):
        function = Quadratic(params)

        def value_and_grad(p):
            value, grads = function(p)
            return value, {k: change(g) if k in keys else g for k, g in grads.items()}

        return value_and_grad

    return make


FAULTS = {
    "sign": ("float64", lambda g: -g, "the sign is wrong"),
    "sign, float32": ("float32", lambda g: -g, "the sign is wrong"),
    "twice": ("float64", lambda g: 2 * g, "2 times what it should be"),
    "half": ("float32", lambda g: g / 2, "0.5 times what it should be"),
    "mean": ("float64", lambda g: g / 35, "1/35 times what it should be: it has 35 elements"),
    "sum": ("float64", lambda g: g * 35, "35 times what it should be: it has 35 elements"),
    "axis": ("float64", lambda g: g / 7, "1/7 times what it should be: an axis has 7 elements"),
    "odd": ("float64", lambda g: -0.3 * g, "-0.3 times what it should be"),
    "none": ("float64", lambda g: 0 * g, "zero, although the objective depends on it"),
    "turned": ("float64", lambda g: g[::-1].copy(), "not the gradient of the objective"),
    "NaN": ("float64", lambda g: g * np.nan, "not finite"),
    "complex": ("float64", lambda g: g + 0j, "complex, and the parameter is real"),
    "conjugate": ("complex128", np.conj, "conjugated; put instep.transforms.conjugate"),
    "Wirtinger": (
        "complex128",
        lambda g: np.conj(g) / 2,
        "conjugated, and 0.5 times what it should be; put",
    ),
    "real part": ("complex64", lambda g: g.real, "the imaginary part is missing"),
    "half, complex": ("complex128", lambda g: g / 2, "0.5 times what it should be"),
    "sign, complex": ("complex64", lambda g: -g, "the sign is wrong"),
}


@pytest.mark.parametrize(("dtype", "change", "fault"), FAULTS.values(), ids=FAULTS)
def test_common_faults_are_named(dtype, change, fault):
    params = trees(dtype)
    check = check_gradient(wrong(change, "a")(params), params)
    assert check.leaves["a"].fault.startswith(fault)
    assert check.leaves["b"].ok
    assert not check.ok
    assert not check.together.ok
    assert fault in repr(check)
    assert repr(check).startswith("GradientCheck: wrong\n")


def test_one_wrong_element_of_many_is_seen():
    params = {"w": np.random.default_rng(0).standard_normal(1000)}
    function = Quadratic(params)

    def value_and_grad(p):
        value, grads = function(p)
        grads["w"][500] *= 1.5
        return value, grads

    assert not check_gradient(value_and_grad, params).ok


def test_a_leaf_that_does_not_matter_is_right():
    params = {"a": np.ones(3), "b": np.ones(2)}
    check = check_gradient(lambda p: (p["a"] @ p["a"], {"a": 2 * p["a"], "b": 0 * p["b"]}), params)
    assert check.ok, check


def test_a_gradient_of_what_does_not_matter_is_wrong():
    params = {"a": np.ones(3), "b": np.ones(2)}
    check = check_gradient(lambda p: (p["a"] @ p["a"], {"a": 2 * p["a"], "b": p["b"]}), params)
    assert "does not depend on it" in check.leaves["b"].fault


def test_values_that_are_rounded_to_float32_are_looked_at_from_farther():
    scales = np.geomspace(1, 100, 50)

    def value_and_grad(w):
        return np.float32(0.5 * (scales * w**2).sum()), scales * w

    assert check_gradient(value_and_grad, np.ones(50)).ok


def test_steep_functions_are_looked_at_from_nearer():
    w = np.array([0.3, 0.7])
    check = check_gradient(lambda w: (np.exp(300 * w).sum(), 300 * np.exp(300 * w)), w)
    assert check.ok, check


def test_numbers_frozen_leaves_and_empty_ones():
    params = {"a": 2.0, "b": np.float32(1.5), "c": np.zeros(0), "d": np.ones(2), "e": np.array(3.0)}

    def value_and_grad(p):
        value = p["a"] ** 2 + float(p["b"]) * p["a"] + float(p["e"]) ** 3
        grads = {"a": 2 * p["a"] + float(p["b"]), "b": p["a"], "e": 3 * p["e"] ** 2}
        return value, grads | {"c": np.zeros(0), "d": None}

    given = dict(params)
    check = check_gradient(value_and_grad, params)
    assert check.ok, check
    assert list(check.leaves) == ["a", "b", "e"]
    assert all(params[key] is given[key] for key in params)


def test_one_array():
    w = np.arange(4.0)
    check = check_gradient((lambda w: w @ w, lambda w: 2 * w), w)
    assert check.ok
    assert list(check.leaves) == [""]
    assert "params" in repr(check)


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt()])
def test_parameters_come_back_whatever_is_raised(error):
    params = trees("float32")
    before, function = {k: w.copy() for k, w in params.items()}, Quadratic(params)
    for call in range(1, 19):
        function.calls = 0

        def value_and_grad(p, call=call):
            if function.calls == call:
                raise error
            return function(p)

        with pytest.raises(type(error)):
            check_gradient(value_and_grad, params)
        for key, w in params.items():
            bits.assert_same_bits(w, before[key], key)


def test_gradients_in_a_buffer_that_is_used_again():
    w, buffer = np.arange(1.0, 5.0), np.zeros(4)

    def value_and_grad(w):
        buffer[...] = 2 * w
        return w @ w, buffer

    assert check_gradient(value_and_grad, w).ok


def test_the_seed_decides_the_directions():
    params = trees()
    found = [
        check_gradient(Quadratic(params), params, seed=seed, directions=2).leaves["a"].given
        for seed in (0, 0, 1)
    ]
    assert found[0] == found[1] != found[2]
    assert len(found[0]) == 2


def test_bfloat16():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    w = np.linspace(0.5, 2, 32).astype(ml_dtypes.bfloat16)
    before = w.copy()

    def value_and_grad(w):
        wide = w.astype("float32")
        return 0.5 * float((wide**2).sum()), wide

    assert check_gradient(value_and_grad, w).ok
    bits.assert_same_bits(w.view(np.uint16), before.view(np.uint16), "w")


def test_parameters_of_pytorch_with_gradients_of_its_own():
    torch = pytest.importorskip("torch")
    params = [torch.nn.Parameter(torch.linspace(-1, 1, 6)), torch.ones(2, dtype=torch.bfloat16)]
    before = [w.detach().clone() for w in params]

    def value_and_grad(p):
        p[0].grad = None
        value = (torch.cosh(p[0]) * torch.arange(1.0, 7.0)).sum()
        value.backward()
        return value + (p[1].float() ** 2).sum(), [p[0].grad, 2 * p[1].float()]

    check = check_gradient(value_and_grad, params)
    assert check.ok, check
    for w, its in zip(params, before, strict=True):
        assert torch.equal(w, its)


@pytest.mark.parametrize(
    ("function", "params", "error", "text"),
    [
        (lambda w: (np.nan, w), np.ones(2), ValueError, "the objective is nan at the parameters"),
        (lambda w: (1.0, [w]), np.ones(2), TypeError, "not trees of the same structure"),
        (lambda w: (1.0, w[:1]), np.ones(2), ValueError, r"has the shape \(2,\), and its"),
        (lambda w: (1.0, None), np.ones(2), TypeError, "check_gradient: value_and_grad returned"),
        (lambda w: 1.0, np.ones(2), TypeError, "check_gradient: value_and_grad must return two"),
        (lambda w: (1.0, w), "no", TypeError, "check_gradient: params is a str"),
        (lambda w: (1.0, w), np.broadcast_to(np.ones(1), 3), ValueError, "is read-only"),
    ],
)
def test_errors(function, params, error, text):
    with pytest.raises(error, match=text):
        check_gradient(function, params)


def test_directions_are_a_number():
    with pytest.raises(ValueError, match="check_gradient: directions must be an integer >= 1"):
        check_gradient(lambda w: (w @ w, 2 * w), np.ones(2), directions=0)
