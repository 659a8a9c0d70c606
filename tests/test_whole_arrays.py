"""Rules that apply a function of the array library to whole arrays: Muon, Adafactor, a user's."""

import copy
import math

import array_api_compat.numpy
import bits
import cases
import engine_runs
import numpy as np
import pytest
import stand_in
import textbook

from instep import SGD, SOAP, Adafactor, Muon, Optimizer, Shampoo, chain
from instep.graph import FusionError
from instep.optimizers.muon import orthogonalized
from instep.rule import Form
from instep.transforms import clip_by_global_norm

SHAPES = [(6, 4), (4, 6), (1, 5), (5, 1), (1, 1), (2, 3, 4), (7,), ()]


class Whitened(Optimizer):
    """Steps along the gradient less its mean, with the mean's history: a user's rule."""

    lr: float = 0.1
    keep: float = 0.5

    slots = ("m", "mean")

    def form_for(self, shape):
        return Form(slots=("m",), whole={"mean": ()}, between=("centered",))

    @staticmethod
    def rule(xp, w, g, s, h):
        m = h.keep * s.m + g
        centered, mean = xp.apply(subtract_mean, m, s.mean, keep=h.keep)
        return w - h.lr * centered, {"m": m, "mean": mean}


def subtract_mean(xp, x, mean, *, keep):
    mean = keep * mean + (1 - keep) * xp.sum(x) / max(1, math.prod(x.shape))
    x -= mean  # in place: it is given a copy
    return x, mean


RULES = [Muon, SOAP, Shampoo, Adafactor, Whitened]

#: What Muon does by default to the operand of its function.
ORIGINAL = {
    "ns_steps": 5,
    "ns_a": 3.4445,
    "ns_b": -4.775,
    "ns_c": 2.0315,
    "adjust_lr": "original",
    "beyond_2d": "adamw",
}
every_rule = pytest.mark.parametrize("rule", RULES)


def drawn(rng, shape, dtype):
    """Return an array of normal numbers, real or complex."""
    array = np.asarray(rng.standard_normal(shape)).astype(dtype)
    imaginary = 1j * rng.standard_normal(shape) if np.iscomplexobj(array) else 0
    return (array + imaginary).astype(dtype)


def problem(dtype="float64", steps=5):
    rng = np.random.default_rng(0)
    params = {str(shape): drawn(rng, shape, dtype) for shape in SHAPES}
    params["view"] = drawn(rng, (10, 8), dtype)[::2, ::-1]
    params["Fortran"] = np.asfortranarray(drawn(rng, (5, 8), dtype))
    params["empty"] = np.zeros((0, 3), dtype)
    gradients = [
        {key: drawn(rng, w.shape, dtype) for key, w in params.items()} for _ in range(steps)
    ]
    return params, gradients


def run(rule, dtype="float64", steps=5, **keywords):
    params, gradients = problem(dtype, steps)
    optimizer = rule(**keywords)
    for grads in gradients:
        optimizer.update(params, grads)
    return params, optimizer


@pytest.mark.parametrize(
    ("rule", "loop", "keywords"),
    [
        (Muon, textbook.muon, {}),
        (Muon, textbook.muon, {"weight_decay": 0.5, "momentum": 0.5, "lr": cases.changing(0.1)}),
        (Muon, textbook.muon, {"beyond_2d": "flatten", "nesterov": False}),
        (Muon, textbook.muon, {"beyond_2d": "batch", "adjust_lr": "match_rms_adamw"}),
        (Muon, textbook.muon, {"ns_steps": 3, "ns_a": 2.0, "ns_b": -1.5, "ns_c": 0.5}),
        (SOAP, textbook.soap, {}),
        (SOAP, textbook.soap, {"every": 1, "lr": cases.changing(0.1), "beta1": 0.5}),
        (SOAP, textbook.soap, {"every": 3, "weight_decay": 0.5, "beyond_2d": "flatten"}),
        (SOAP, textbook.soap, {"every": 4, "longest": 5, "beyond_2d": "batch", "eps": 0.1}),
        (Shampoo, textbook.shampoo, {}),
        (Shampoo, textbook.shampoo, {"every": 3, "beyond_2d": "flatten", "eps": 0.1}),
        (Shampoo, textbook.shampoo, {"lr": cases.changing(0.1), "longest": 5, "eps": 1e-3}),
        (Shampoo, textbook.shampoo, {"beyond_2d": "batch", "eps": 1e-3, "longest": 3}),
        (Adafactor, textbook.adafactor, {}),
        (Adafactor, textbook.adafactor, {"lr": 0.1, "decay": 0.5, "d": 0.1}),
        (Adafactor, textbook.adafactor, {"eps1": 0.7, "eps1_as": "bound"}),
        (Adafactor, textbook.adafactor, {"lr": cases.changing(0.1), "relative_step": False}),
    ],
)
def test_matrices_follow_their_textbook(rule, loop, keywords):
    start, gradients = problem(steps=30)
    params, _ = run(rule, steps=30, **keywords)
    for key, w in params.items():
        if w.size:
            *_, expected = loop(start[key], [grads[key] for grads in gradients], **keywords)
            np.testing.assert_allclose(w, expected, rtol=1e-12, atol=1e-12, err_msg=key)


@engine_runs.every_numpy_engine
@pytest.mark.parametrize("dtype", bits.DTYPES)
@every_rule
def test_numpy_engines_agree_to_the_bit(rule, dtype, engine, threads):
    engine_runs.require(engine)
    got = run(rule, dtype, engine=engine, threads=threads)
    engine_runs.assert_same_run(got, run(rule, dtype, engine="array_api"))


@every_rule
def test_array_libraries_agree_to_rounding(rule, xp):
    if rule in (SOAP, Shampoo) and xp.__name__.endswith("cupy") and not stand_in.has_driver():
        pytest.skip("the stand-in for CuPy has no cuSOLVER")
    params, gradients = problem("float32")
    asarray = xp.asarray
    theirs = {key: asarray(w.copy()) for key, w in params.items() if key != "view"}
    optimizer, reference = rule(), rule()
    for grads in gradients:
        reference.update(params, grads)
        theirs = optimizer.update(theirs, {key: asarray(grads[key].copy()) for key in theirs})
    for key, w in theirs.items():
        got = w.get() if hasattr(w, "get") else np.asarray(w)
        np.testing.assert_allclose(got, params[key], rtol=2e-4, atol=2e-5, err_msg=key)


def test_muon_keeps_one_slot_for_a_matrix_and_adafactor_a_row_and_a_column():
    for rule, matrix, vector in [
        (Muon, {"m": (6, 4)}, {"m": (7,), "v": (7,)}),
        (Adafactor, {"rows": (6,), "columns": (4,)}, {"root": (7,)}),
    ]:
        _, optimizer = run(rule, steps=1)
        slots = engine_runs.slots_of(optimizer)
        assert {name: slot.shape for name, slot in slots["(6, 4)"].items()} == matrix
        assert {name: slot.shape for name, slot in slots["(7,)"].items()} == vector
    assert engine_runs.slots_of(optimizer)["(2, 3, 4)"]["rows"].shape == (2, 3)
    assert engine_runs.slots_of(optimizer)["(2, 3, 4)"]["columns"].shape == (2, 4)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_adafactor_leaves_rows_and_columns_without_gradients_alone(dtype):
    rng = np.random.default_rng(2)
    w = np.ones((6, 4), dtype)
    optimizer = Adafactor()
    for _ in range(3):
        g = rng.standard_normal((6, 4)).astype(dtype)
        g[2] = g[:, 1] = 0
        optimizer.update(w, g)
    assert np.isfinite(w).all()
    assert (w[2] == 1).all()
    assert (w[:, 1] == 1).all()
    assert (np.delete(np.delete(w, 2, axis=0), 1, axis=1) != 1).mean() > 0.5


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64"])
@pytest.mark.parametrize("shape", [(6, 4), (4, 6)])
def test_muon_takes_the_same_step_whatever_the_size_of_the_gradient(shape, dtype):
    g = bits.by_parts(lambda rng, s, d: rng.standard_normal(s).astype(d))(
        np.random.default_rng(3), shape, np.dtype(dtype)
    )
    expected = np.zeros(shape, dtype)
    Muon(lr=1.0).update(expected, g)
    assert np.linalg.norm(expected) > 1
    for power in (-120, -30, 60, 120):
        w = np.zeros(shape, dtype)
        Muon(lr=1.0).update(w, g * np.array(2.0**power, dtype))
        bits.assert_same_bits(w, expected, f"scaled by 2**{power}")


def test_muon_leaves_a_matrix_without_gradients_alone():
    w = np.ones((3, 2), "float32")
    Muon(lr=1.0).update(w, np.zeros((3, 2), "float32"))
    assert (w == 1).all()


def test_muon_makes_the_step_nearly_orthogonal():
    rng = np.random.default_rng(1)
    w = np.zeros((30, 20))
    Muon(lr=1.0).update(w, rng.standard_normal(w.shape))
    singular_values = np.linalg.svd(w / np.sqrt(30 / 20), compute_uv=False)
    assert singular_values.min() > 0.6
    assert singular_values.max() < 1.3


@pytest.mark.parametrize("shape", [(5, 5), (3, 7), (7, 3)])
def test_muon_multiplies_no_matrix_by_a_view_of_itself(shape, monkeypatch):
    pairs = []

    def recorded(a, b, *others, **keywords):
        pairs.append((a, b))
        return multiply(a, b, *others, **keywords)

    xp = array_api_compat.numpy
    multiply = xp.matmul
    monkeypatch.setattr(xp, "matmul", recorded)
    x = np.random.default_rng(0).standard_normal(shape)
    orthogonalized(xp, x, **ORIGINAL)
    assert len(pairs) == 15
    for a, b in pairs:
        assert a is b or not np.shares_memory(a, b)
    assert any(np.array_equal(a, b.T) for a, b in pairs)


@engine_runs.every_numpy_engine
@pytest.mark.parametrize("beyond_2d", ["flatten", "batch"])
@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_engines_agree_on_arrays_that_muon_makes_matrices_of(dtype, beyond_2d, engine, threads):
    engine_runs.require(engine)
    keywords = {"beyond_2d": beyond_2d, "adjust_lr": "match_rms_adamw", "ns_steps": lambda t: t}
    got = run(Muon, dtype, engine=engine, threads=threads, **keywords)
    engine_runs.assert_same_run(got, run(Muon, dtype, engine="array_api", **keywords))
    assert engine_runs.slots_of(got[1])["(2, 3, 4)"].keys() == {"m"}


@engine_runs.every_numpy_engine
@pytest.mark.parametrize("beyond_2d", ["flatten", "batch"])
@pytest.mark.parametrize("dtype", ["float16", "complex64"])
def test_engines_agree_on_bases_of_sides_that_are_not_too_long(dtype, beyond_2d, engine, threads):
    engine_runs.require(engine)
    keywords = {"beyond_2d": beyond_2d, "every": 2, "longest": 5, "lr": lambda t: 0.1 / t}
    got = run(SOAP, dtype, engine=engine, threads=threads, **keywords)
    engine_runs.assert_same_run(got, run(SOAP, dtype, engine="array_api", **keywords))
    slots = engine_runs.slots_of(got[1])
    assert {name: slot.shape for name, slot in slots["(6, 4)"].items()} == {
        "m": (6, 4),
        "v": (6, 4),
        "R": (4, 4),
        "QR": (4, 4),
    }
    expected = {"R": (2, 4, 4), "L": (2, 3, 3)} if beyond_2d == "batch" else {"L": (2, 2)}
    assert expected.items() <= {k: x.shape for k, x in slots["(2, 3, 4)"].items()}.items()


@engine_runs.every_engine
@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_bases_are_orthogonal_and_nearly_diagonalize(dtype, engine):
    engine_runs.require(engine)
    _, optimizer = run(SOAP, dtype, steps=30, engine=engine, every=1)
    for key, slots in engine_runs.slots_of(optimizer).items():
        for side in ("L", "R") if "L" in slots else ():
            basis, of = slots[f"Q{side}"], slots[side]
            unit = basis.conj().T @ basis
            np.testing.assert_allclose(unit, np.eye(len(unit)), atol=1e-5, err_msg=key)
            diagonal = basis.conj().T @ of @ basis
            rest = diagonal - np.diag(np.diag(diagonal))
            assert np.linalg.norm(rest) < 0.5 * np.linalg.norm(diagonal), key


@engine_runs.every_engine
def test_a_first_step_on_numbers_that_are_not_finite_is_one_like_others(engine):
    engine_runs.require(engine)
    optimizer, w = SOAP(engine=engine), np.ones((3, 2))
    optimizer.update(w, np.full((3, 2), np.nan))
    assert (w == 1).all()
    optimizer.update(w, np.ones((3, 2)))
    assert np.isnan(w).all()


def test_matrices_of_a_batch_are_orthogonalized_each_by_itself():
    g = np.random.default_rng(4).standard_normal((3, 6, 4))
    g[1] *= 1e100
    w = Muon(lr=1.0, beyond_2d="batch").update(np.zeros_like(g), g)
    for each, gradient in zip(w, g, strict=True):
        alone = Muon(lr=1.0).update(np.zeros((6, 4)), gradient)
        np.testing.assert_allclose(each, alone, rtol=1e-12, atol=1e-12)


def test_muon_says_what_its_options_may_be():
    with pytest.raises(ValueError, match="Muon: beyond_2d must be one of 'adamw', 'flatten', 'ba"):
        Muon(beyond_2d="stack")
    with pytest.raises(ValueError, match=r"Muon: ns_steps must be an integer >= 1, got 2\.5"):
        Muon(ns_steps=2.5)


@engine_runs.every_numpy_engine
@pytest.mark.parametrize("dtype", ["float16", "float32", "complex64"])
def test_engines_agree_on_an_adafactor_whose_eps_is_a_bound(dtype, engine, threads):
    engine_runs.require(engine)
    keywords = {"eps1": 0.5, "eps1_as": "bound"}
    got = run(Adafactor, dtype, engine=engine, threads=threads, **keywords)
    engine_runs.assert_same_run(got, run(Adafactor, dtype, engine="array_api", **keywords))


@engine_runs.every_engine
def test_a_bound_of_adafactor_lets_zeros_stay(engine):
    engine_runs.require(engine)
    for shape in [(3, 2), (3,)]:
        w = np.ones(shape, "float32")
        g = np.zeros(shape, "float32")
        g[0] = 2.0
        Adafactor(eps1=1e-7, eps1_as="bound", engine=engine).update(w, g)
        assert (w[0] < 1).all()
        assert (w[1:] == 1).all()


@engine_runs.every_engine
@every_rule
def test_a_saved_state_goes_on_with_the_same_bits(rule, engine):
    engine_runs.require(engine)
    params, gradients = problem(steps=6)
    optimizer = rule(engine=engine)
    for grads in gradients[:3]:
        optimizer.update(params, grads)
    saved = optimizer.state_dict()
    frozen = copy.deepcopy(saved)
    restored = rule(engine=engine).load_state_dict(saved)
    others = {key: w.copy() for key, w in params.items()}
    for grads in gradients[3:]:
        optimizer.update(params, grads)
        restored.update(others, grads)
    engine_runs.assert_same_run((others, restored), (params, optimizer))
    for key, entry in frozen["states"].items():
        for name, slot in entry["slots"].items():
            bits.assert_same_bits(saved["states"][key]["slots"][name], slot, f"{key} {name}")


def test_state_of_another_shape_is_an_error():
    _, optimizer = run(Adafactor, steps=1)
    with pytest.raises(ValueError, match=r"its state 'rows' from earlier steps is float64 \(6,\)"):
        optimizer.update({"(6, 4)": np.ones((5, 4))}, {"(6, 4)": np.ones((5, 4))})


class Failing(Whitened):
    """Fails in the function for whole arrays of one shape, when it is told to."""

    fails: float = 0.0

    @staticmethod
    def rule(xp, w, g, s, h):
        m = h.keep * s.m + g
        centered, mean = xp.apply(fail, m, s.mean, keep=h.keep, fails=h.fails)
        return w - h.lr * centered, {"m": m, "mean": mean}


def fail(xp, x, mean, *, keep, fails):
    if fails and x.shape == (7,):
        raise ArithmeticError("no convergence")
    return subtract_mean(xp, x, mean, keep=keep)


@engine_runs.every_engine
def test_a_function_that_fails_leaves_everything_as_it_was(engine):
    engine_runs.require(engine)
    params, gradients = problem(steps=3)
    expected, reference = run(Failing, steps=3, engine=engine)
    optimizer = Failing(engine=engine)
    optimizer.update(params, gradients[0])
    before = ({key: w.copy() for key, w in params.items()}, optimizer.state_dict())
    optimizer.fails = 1.0
    with pytest.raises(ArithmeticError, match="no convergence"):
        optimizer.update(params, gradients[1])
    for key, w in params.items():
        bits.assert_same_bits(w, before[0][key], key)
    assert optimizer.t == 1
    optimizer.fails = 0.0
    optimizer.update(params, gradients[1])
    optimizer.update(params, gradients[2])
    engine_runs.assert_same_run((params, optimizer), (expected, reference))


@pytest.mark.parametrize("rule", [Muon, SOAP, Shampoo, Adafactor])
def test_in_a_chain_it_is_the_same_rule(rule):
    params, gradients = problem()
    chained = chain(clip_by_global_norm(1e30), rule())
    for grads in gradients:
        chained.update(params, grads)
    expected, _ = run(rule)
    for key, w in params.items():
        np.testing.assert_allclose(w, expected[key], rtol=1e-12, atol=1e-12)


@engine_runs.every_numpy_engine
@pytest.mark.parametrize("rule", [Muon, SOAP, Shampoo, Adafactor])
def test_engines_agree_on_a_chain(rule, engine, threads):
    engine_runs.require(engine)

    def chained(**keywords):
        return chain(clip_by_global_norm(1.0), rule(), **keywords)

    got = run(chained, "float32", engine=engine, threads=threads)
    engine_runs.assert_same_run(got, run(chained, "float32", engine="array_api"))


def test_explain_shows_the_function_between_the_passes():
    text = str(Muon(engine="blocked").explain({"w": np.ones((3, 3))}))
    assert "pass 1 of 2: reads g, m; writes direction; 24 bytes an element" in text
    assert "then direction = orthogonalized(direction), by the array library" in text
    assert "pass 2 of 2: reads w, g, m, direction; writes w, m; 48 bytes an element" in text
    adafactor = Adafactor(engine="blocked").explain({"w": np.ones((3, 3), "float32")})
    assert adafactor.buckets[0].passes == 3


def broken(**replacements):
    """Return the user's rule with another method."""
    return type("Broken", (Whitened,), replacements)(engine="blocked")


def with_rule(rule):
    return broken(rule=staticmethod(rule))


@pytest.mark.parametrize(
    ("optimizer", "error", "message"),
    [
        (
            with_rule(lambda xp, w, g, s, h: (w - s.mean, {})),
            FusionError,
            "it works on the slot 'mean', which has another shape than the parameter",
        ),
        (
            with_rule(lambda xp, w, g, s, h: (w - s.mean * 2.0, {})),
            FusionError,
            "hand such a slot to the function of xp.apply only",
        ),
        (
            with_rule(lambda xp, w, g, s, h: (xp.apply(subtract_mean, g, s.mean, keep=0.5)[0], {})),
            FusionError,
            "does not return the slot 'mean' as xp.apply has left it",
        ),
        (
            with_rule(lambda xp, w, g, s, h: (xp.apply(subtract_mean, g, w, keep=0.5)[0], {})),
            FusionError,
            "xp.apply is given more than one array",
        ),
        (
            with_rule(lambda xp, w, g, s, h: (xp.apply(same, xp.apply(same, g)), {})),
            FusionError,
            "applies functions to more than 1 arrays .*; name one more array in `between`",
        ),
        (
            with_rule(lambda xp, w, g, s, h: (xp.apply(lambda xp, x: x[:1], g), {})),
            ValueError,
            r"must return an array of shape \(2, 2\), got \(1, 2\)",
        ),
    ],
)
def test_wrong_rules_are_errors_that_say_what_is_wrong(optimizer, error, message):
    w = np.ones((2, 2))
    with pytest.raises(error, match=message):
        optimizer.update(w, np.ones((2, 2)))
    assert np.array_equal(w, np.ones((2, 2)))


def same(xp, x):
    return x


@engine_runs.every_engine
def test_what_overflows_in_the_dtype_of_the_arithmetic_is_infinite_without_a_warning(engine):
    engine_runs.require(engine)

    def enlarge(xp, x, mean):
        return xp.astype(x, xp.float64) * 2.0**200, mean

    def rule(xp, w, g, s, h):
        large, mean = xp.apply(enlarge, g, s.mean)
        return large, {"mean": mean}

    optimizer = type(with_rule(rule))(engine=engine)
    assert np.isinf(optimizer.update(np.ones(2, "float32"), np.ones(2, "float32"))).all()


def test_rules_of_one_form_do_not_know_about_forms():
    optimizer = SGD()
    assert optimizer.form_for((3, 4)) == Form(slots=())


@engine_runs.every_engine
def test_a_function_may_return_the_same_memory_for_every_leaf(engine):
    engine_runs.require(engine)
    buffer = np.empty(3)

    def add(xp, x, m):
        return x * 2, np.add(m, x, out=buffer)

    class Same(Optimizer):
        lr: float = 1.0

        slots = ("m",)

        def form_for(self, shape):
            return Form(slots=(), whole={"m": shape}, between=("draft",))

        @staticmethod
        def rule(xp, w, g, s, h):
            y, m = xp.apply(add, g, s.m)
            return w - h.lr * y, {"m": m}

    optimizer = Same(engine=engine)
    params = {"a": np.zeros(3), "b": np.zeros(3)}
    for _ in range(2):
        optimizer.update(params, {"a": np.full(3, 1.0), "b": np.full(3, 10.0)})
    slots = engine_runs.slots_of(optimizer)
    assert [slots[key]["m"].tolist() for key in "ab"] == [[2.0] * 3, [20.0] * 3]
