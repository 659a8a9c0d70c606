"""Complex parameters as numbers with a modulus: the same bits everywhere, and the right ones."""

import functools

import bits
import cases
import chains
import engine_runs
import numpy as np
import pytest
from bits import COMPLEX, ordinary, wild
from hypothesis import given, settings
from hypothesis import strategies as st

from instep import SGD, Adam, AdaMax, Optimizer, Rprop, Yogi, chain
from instep.transforms import (
    average,
    clip_by_global_norm,
    clip_by_value,
    conjugate,
    project,
    project_modulus,
    project_real,
    skip_nonfinite,
)

STEPS = 20

CLASSES = [case for case in cases.CLASSES if case.moduli]

every_modulus = pytest.mark.parametrize("case", cases.MODULI, ids=str)
every_class = pytest.mark.parametrize("case", CLASSES, ids=lambda case: case.optimizer.__name__)
both = pytest.mark.parametrize("dtype", COMPLEX)


def run(case, leaves, gradients, **settings):
    params = {name: w for name, (w, _) in leaves.items()}
    optimizer = case.make(**settings)
    optimizer.lr = cases.changing(optimizer.lr)
    for grads in gradients:
        cases.step(optimizer, params, grads)
    return params, optimizer


@pytest.fixture(scope="module")
def reference():
    """Runs on `array_api`, which is the specification; each is computed once."""

    @functools.cache
    def find(number, dtype):
        case, gradients = CLASSES[number], bits.gradients_of(dtype, STEPS)
        return run(case, bits.leaves_of(dtype), gradients, engine="array_api")

    return find


# The same bits ------------------------------------------------------------------------------


@pytest.mark.slow  # all of them together
@engine_runs.divided(*COMPLEX)
@every_class
def test_engines_agree_on_every_layout(case, dtype, engine, threads, reference, eager_threads):
    engine_runs.require(engine)
    gradients = bits.gradients_of(dtype, STEPS)
    got = run(case, bits.leaves_of(dtype), gradients, engine=engine, threads=threads)
    engine_runs.assert_same_run(got, reference(CLASSES.index(case), dtype))


@pytest.mark.slow  # all of them together
@engine_runs.every_numpy_engine
@both
@pytest.mark.parametrize("name", sorted(set(chains.CHAINS) - {"one pass of everything", "shares"}))
def test_engines_agree_on_chains(name, dtype, engine, threads, eager_threads):
    engine_runs.require(engine)
    make, _ = chains.CHAINS[name]
    runs = []
    for where in ({"engine": "array_api"}, {"engine": engine, "threads": threads}):
        rng = np.random.default_rng(2)
        params = {
            "long": ordinary(rng, (40_003,), dtype),
            "matrix": ordinary(rng, (30, 7), dtype)[:, ::2],
            "one": ordinary(rng, (), dtype),
            "none": ordinary(rng, (0, 3), dtype),
        }
        optimizer = make(**where)
        for _ in range(7):
            optimizer.update(params, {k: ordinary(rng, w.shape, dtype) for k, w in params.items()})
        runs.append((params, optimizer))
    engine_runs.assert_same_run(*runs)


@engine_runs.every_numpy_engine
@pytest.mark.parametrize("gradient", ["float16", "float32", "float64", *COMPLEX])
@both
def test_gradients_of_every_dtype_are_taken(dtype, gradient, engine, threads):
    engine_runs.require(engine)
    rng = np.random.default_rng(0)
    part = np.dtype(dtype).type(0).real.dtype
    w = ordinary(rng, (40, 33), dtype)
    expected, optimizers = w.copy(), [Adam(0.1, engine=engine, threads=threads), Adam(0.1)]
    for _ in range(3):
        g = ordinary(rng, w.shape, gradient)
        wide = g.astype(dtype) if g.dtype.kind == "c" else g.astype(part) + np.zeros((), dtype)
        optimizers[0].update(w, np.asfortranarray(g))
        optimizers[1].update(expected, wide)
    bits.assert_same_bits(w, expected)


@both
def test_parts_are_stepped_with_what_is_around_them(dtype):
    """The real part of one field and the imaginary part of another are real parameters."""
    runs = []
    for engine in ("array_api", "blocked", "native"):
        if engine_runs.why_not(engine) is None:
            rng = np.random.default_rng(1)
            a, b = ordinary(rng, (50, 3), dtype), ordinary(rng, (21,), dtype)
            params = {"re": a.real, "im": b.imag, "whole": ordinary(rng, (5,), dtype)}
            optimizer = Adam(0.1, engine=engine)
            for _ in range(3):
                grads = {k: ordinary(rng, w.shape, w.dtype) for k, w in params.items()}
                optimizer.update(params, grads)
            runs.append(({**params, "a": a, "b": b}, optimizer))
    for other in runs[1:]:
        engine_runs.assert_same_run(other, runs[0])


@settings(max_examples=60, deadline=None)
@given(data=st.data(), case=st.sampled_from([case for case in cases.MODULI if case.elementwise]))
def test_any_numbers_in_any_layout(data, case):
    dtype = np.dtype(data.draw(st.sampled_from(COMPLEX)))
    width = dtype.itemsize * 8
    elements = st.complex_numbers(width=width, allow_nan=True, allow_infinity=True)
    shape = data.draw(st.sampled_from([(), (3,), (2, 5), (1, 4, 2)]))
    draw = lambda: np.array(  # noqa: E731
        data.draw(st.lists(elements, min_size=int(np.prod(shape)), max_size=int(np.prod(shape)))),
        dtype,
    ).reshape(shape)
    start, grads = draw(), [draw() for _ in range(2)]
    layouts = [bits.LAYOUTS[data.draw(st.sampled_from(sorted(bits.LAYOUTS)))] for _ in range(2)]
    runs = []
    for engine in ("array_api", "blocked", "native"):
        if engine_runs.why_not(engine) is None:
            w, optimizer = layouts[0](start), case.make(engine=engine)
            for g in grads:
                optimizer.update(w, layouts[1](g))
            runs.append(({"w": w}, optimizer))
    for other in runs[1:]:
        engine_runs.assert_same_run(other, runs[0])


# The right bits -----------------------------------------------------------------------------


@every_modulus
def test_a_rule_follows_its_textbook(case):
    rng = np.random.default_rng(0)
    shape = (12, 8)
    start = ordinary(rng, shape, "complex128")
    gradients = [ordinary(rng, shape, "complex128") for _ in range(STEPS)]
    optimizer, w = case.make(), start.copy()
    for g, expected in zip(gradients, case.follow(start, gradients), strict=True):
        cases.step(optimizer, w, g)
        np.testing.assert_allclose(w, expected, rtol=1e-9, atol=1e-12)


@every_modulus
def test_complex64_is_complex128_to_rounding(case):
    rng = np.random.default_rng(0)
    start = rng.standard_normal((12, 8)) + 1j * rng.standard_normal((12, 8))
    narrow, wide = start.astype("complex64"), start.astype("complex64").astype("complex128")
    optimizers = case.make(), case.make()
    for _ in range(5):
        g = (rng.standard_normal((12, 8)) + 1j * rng.standard_normal((12, 8))).astype("complex64")
        cases.step(optimizers[0], narrow, g)
        cases.step(optimizers[1], wide, g.astype("complex128"))
    np.testing.assert_allclose(narrow, wide, rtol=1e-3, atol=1e-4)


@both
@every_modulus
def test_real_numbers_are_stepped_as_real_arrays_are(case, dtype):
    rng = np.random.default_rng(3)
    part = np.dtype(dtype).type(0).real.dtype
    w, gradients = ordinary(rng, (12, 8), part), [ordinary(rng, (12, 8), part) for _ in range(9)]
    z, optimizers = w.astype(dtype), [case.make(), case.make()]
    for g in gradients:
        cases.step(optimizers[0], w, g)
        cases.step(optimizers[1], z, g.astype(dtype))
    np.testing.assert_allclose(z.real, w, rtol=2e-3 if part == "float32" else 1e-9, atol=1e-7)
    assert (z.imag == 0).all()


@both
@every_modulus
def test_a_constant_phase_turns_the_path(case, dtype):
    """Multiplied gradients give multiplied parameters; but the mean of Yogi starts at 1e-6."""
    rng = np.random.default_rng(3)
    phase = np.exp(0.7j)
    w = ordinary(rng, (12, 8), "complex128")
    turned = (phase * w).astype(dtype)
    w, optimizers = w.astype(dtype), [case.make(lr=0.05), case.make(lr=0.05)]
    for _ in range(9):
        g = rng.standard_normal((12, 8)) + 1j * rng.standard_normal((12, 8))
        cases.step(optimizers[0], w, g.astype(dtype))
        cases.step(optimizers[1], turned, (phase * g).astype(dtype))
    tolerance = {"complex64": 5e-4, "complex128": 1e-10}[dtype]
    if case.optimizer is Yogi:
        tolerance = 5e-4
    np.testing.assert_allclose(turned, phase * w, rtol=tolerance, atol=tolerance)


@both
def test_the_first_step_of_adam(dtype):
    w = Adam(lr=1.0, eps=0).update(np.zeros(1, dtype), np.array([3 + 4j], dtype))
    np.testing.assert_allclose(w, [-0.6 - 0.8j], rtol=1e-6)


class Magnitude(Optimizer):
    """Keeps what functions of complex numbers make of the gradient."""

    slots = ("size", "sign", "root", "ratio")
    real_slots = ("size",)

    @staticmethod
    def rule(xp, w, g, s, h):
        slots = {"size": xp.abs(g), "sign": xp.sign(g), "root": xp.sqrt(g), "ratio": w / g}
        return w, slots


@engine_runs.every_engine
@both
def test_magnitudes_neither_overflow_nor_vanish(dtype, engine):
    engine_runs.require(engine)
    scales = [1e-30, 1e30, 1.0] + ([1e300, 1e-300, 1e-320] if dtype == "complex128" else [1e-44])
    g = np.array([scale * z for scale in scales for z in (3 + 4j, -4 + 3j, -5j, 5)], dtype)
    optimizer = Magnitude(engine=engine)
    optimizer.update({"w": (g / 2).astype(dtype)}, {"w": g})
    slots = engine_runs.slots_of(optimizer)["w"]
    exact = g.astype("clongdouble")
    eps = np.finfo(dtype).eps
    least = np.finfo(dtype).smallest_subnormal
    size = np.hypot(exact.real, exact.imag)
    assert (abs(slots["size"] - size) <= 2 * eps * size + least).all()
    assert (abs(abs(slots["sign"].astype("clongdouble")) - 1) <= 4 * eps).all()
    assert (abs(slots["sign"] - exact / size) <= 4 * eps).all()
    root = slots["root"].astype("clongdouble")
    assert (abs(root * root - exact) <= 8 * eps * size + 4 * least).all()
    assert (slots["root"].real >= 0).all()
    tiny = size < 100 * np.finfo(dtype).tiny  # there half of it is rounded
    assert (abs(slots["ratio"] - 0.5) <= 4 * eps)[~tiny].all()


@engine_runs.every_engine
@both
def test_zero_has_no_sign_and_the_root_zero(dtype, engine):
    engine_runs.require(engine)
    optimizer = Magnitude(engine=engine)
    optimizer.update({"w": np.zeros(2, dtype)}, {"w": np.array([0, -0.0], dtype)})
    slots = engine_runs.slots_of(optimizer)["w"]
    assert (slots["size"] == 0).all()
    assert (slots["sign"] == 0).all()
    assert (slots["root"] == 0).all()


@engine_runs.every_engine
@both
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("case", [case for case in CLASSES if case.elementwise], ids=str)
def test_what_is_not_finite_stays_in_its_element(case, bad, dtype, engine):
    engine_runs.require(engine)
    rng = np.random.default_rng(0)
    g = ordinary(rng, (40,), dtype)
    g.real[7], g.imag[20] = bad, bad
    w = ordinary(rng, (40,), dtype)
    expected, others = w.copy(), np.delete(np.arange(40), [7, 20])
    optimizers = case.make(engine=engine), case.make(engine=engine)
    for _ in range(3):
        optimizers[0].update(w, g)
        optimizers[1].update(expected, np.where(np.isfinite(g), g, 0).astype(dtype))
    bits.assert_same_bits(w[others], expected[others])


@engine_runs.every_engine
@both
def test_subnormal_numbers_and_signs_of_zeros_are_kept(dtype, engine):
    engine_runs.require(engine)
    least = np.finfo(dtype).smallest_subnormal
    w = np.array([complex(-0.0, 3 * least), complex(5 * least, -0.0)], dtype)
    before = w.copy()
    SGD(lr=1.0, engine=engine).update(w, np.array([complex(0.0, least), 0.0], dtype))
    assert w.tolist() == [complex(-0.0, 2 * least), complex(5 * least, 0.0)]
    assert np.signbit(w.real).tolist() == [True, False]
    assert np.signbit(w.imag).tolist() == [False, True]
    SGD(lr=0.0, engine=engine).update(before, np.ones(2, dtype))
    kept = np.array([complex(-0.0, 3 * least), complex(5 * least, -0.0)], dtype)
    bits.assert_same_bits(before, kept)


# Transforms ---------------------------------------------------------------------------------


def step(*rules, w=0j, g=0j, engine="auto"):
    w = np.array([w], "complex128")
    return chain(*rules, engine=engine).update(w, np.array([g], "complex128"))[0]


@engine_runs.every_engine
def test_transforms_of_complex_numbers(engine):
    engine_runs.require(engine)
    go = functools.partial(step, engine=engine)
    assert go(clip_by_value(1.0), SGD(1.0), g=3 - 4j) == pytest.approx(-0.6 + 0.8j)
    assert go(clip_by_value(5.5), SGD(1.0), g=3 - 4j) == -3 + 4j
    assert np.isnan(go(clip_by_value(1.0), SGD(1.0), g=complex(np.nan, 1)))
    assert go(clip_by_global_norm(2.5), SGD(1.0), g=3 - 4j) == -1.5 + 2j
    assert go(conjugate(), SGD(1.0), g=3 - 4j) == -3 - 4j
    assert go(SGD(1.0), project_real(), w=1j, g=-3 - 4j) == 3
    assert go(SGD(1.0), project_modulus(upper=1.0), g=3 - 4j) == pytest.approx(-0.6 + 0.8j)
    assert go(SGD(1.0), project_modulus(lower=10.0), g=3 - 4j) == pytest.approx(-6 + 8j)
    assert go(SGD(1.0), project_modulus(1.0, 1.0)) == 1
    assert go(SGD(1.0), project_modulus(1.0, 6.0), g=3 - 4j) == -3 + 4j
    assert go(skip_nonfinite(), SGD(1.0), w=1j, g=complex(1, np.inf)) == 1j


def test_transforms_of_real_numbers_that_are_made_for_complex_ones():
    w = np.array([3.0, -0.25, 0.0])
    assert chain(conjugate(), SGD(1.0)).update(w.copy(), np.ones(3)).tolist() == [2.0, -1.25, -1.0]
    assert chain(SGD(0.0), project_real()).update(w.copy(), w).tolist() == w.tolist()
    bounded = chain(SGD(0.0), project_modulus(0.5, 2.0)).update(w.copy(), w)
    assert bounded.tolist() == [2.0, -0.5, 0.5]


@engine_runs.every_engine
def test_bounds_of_moduli_may_be_arrays(engine):
    engine_runs.require(engine)
    bounds = project_modulus(lower=np.array([0.0, 10.0]), upper=np.array([2.5, np.inf]))
    w = chain(SGD(1.0), bounds, engine=engine).update(np.zeros(2, complex), np.full(2, 3 - 4j))
    np.testing.assert_allclose(w, [-1.5 + 2j, -6 + 8j])


def test_bounds_of_moduli_must_not_cross():
    w, optimizer = np.zeros(2, complex), chain(SGD(), project_modulus(lambda t: 1.0 * t, 2.5))
    for _ in range(2):
        optimizer.update(w, np.zeros(2, complex))
    with pytest.raises(ValueError, match="project_modulus, step 3: lower must not be above upper"):
        optimizer.update(w, np.zeros(2, complex))
    with pytest.raises(ValueError, match="project_modulus: lower must not be above upper"):
        project_modulus(2.0, 1.0)
    with pytest.raises(ValueError, match="lower"):
        project_modulus(-1.0)


# State --------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("engine", ["native", "blocked", "array_api"])
def test_state_is_saved_and_resumed_to_the_bit(dtype, engine, tmp_path):
    engine_runs.require(engine)
    rng = np.random.default_rng(0)
    make = functools.partial(chain, clip_by_global_norm(1.0), Adam(0.1), average(0.9))
    w = ordinary(rng, (30,), dtype)
    first, other = make(engine=engine), make(engine="blocked")
    first.update(w, ordinary(rng, (30,), dtype))
    first.save(tmp_path / "state.npz")
    other.load(tmp_path / "state.npz")
    v, g = w.copy(), ordinary(rng, (30,), dtype)
    first.update(w, g)
    other.update(v, g)
    bits.assert_same_bits(v, w)
    engine_runs.assert_same_state(first, other)
    slots = first.state_dict()["states"][""]["slots"]
    part = np.dtype(dtype).type(0).real.dtype
    kinds = {name: slot.dtype for name, slot in slots.items()}
    assert {kinds["Adam_m"], kinds["average_average"]} == {np.dtype(dtype)}
    assert kinds["Adam_v"] == part
    bits.assert_same_bits(first.answer(w), other.answer(v))
    with first.answer_in_place(w) as answer:
        bits.assert_same_bits(answer, other.answer(v))
    bits.assert_same_bits(v, w)


def test_state_of_real_parameters_is_not_that_of_complex_ones():
    optimizer = Adam()
    optimizer.update({"w": np.ones(3)}, {"w": np.ones(3)})
    with pytest.raises(ValueError, match=r"numpy complex128 \(3,\), but its state 'm'.*float64"):
        optimizer.update({"w": np.ones(3, complex)}, {"w": np.ones(3)})
    assert optimizer.t == 1


def test_explain_counts_the_bytes_of_both_parts():
    for dtype, moved in [("complex64", 48), ("complex128", 96)]:
        explanation = Adam().explain({"w": np.ones(3, dtype)})
        assert explanation.buckets[0].bytes_per_element == moved
        assert explanation.buckets[0].dtype == dtype


def test_complex_numbers_of_python_are_parameters_too():
    params = {"z": 1 + 2j, "w": np.complex64(1j), "x": 0.5}
    SGD(lr=0.5).update(params, {"z": 2j, "w": 1, "x": 1.0} | {"w": np.float32(1.0)})
    assert params == {"z": 1 + 1j, "w": np.complex64(-0.5 + 1j), "x": 0.0}
    assert [type(x) for x in params.values()] == [complex, np.complex64, float]


# Bad input ----------------------------------------------------------------------------------


@engine_runs.every_engine
@pytest.mark.parametrize(
    ("make", "what"),
    [
        (Rprop, "Rprop.rule: it compares complex numbers, which have no order"),
        (lambda **s: chain(SGD(), project(0.0, 1.0), **s), "xp.clip is given complex numbers"),
        (cases.ClippedAMSGrad, "it compares complex numbers"),
    ],
    ids=["Rprop", "project", "a user's"],
)
def test_what_has_no_meaning_for_moduli_says_so(make, what, engine):
    engine_runs.require(engine)
    w, optimizer = np.ones(3, "complex64"), make(engine=engine)
    with pytest.raises(TypeError, match=what + '.*or set complex="pairs"'):
        optimizer.update(w, np.ones(3, "complex64"))
    assert (w.tolist(), optimizer.t) == ([1, 1, 1], 0)


def test_complex_gradients_of_real_parameters_are_refused():
    w, optimizer = np.ones(3, "float32"), AdaMax()
    with pytest.raises(TypeError, match="convert the gradient to float32: that of a real para"):
        optimizer.update(w, np.ones(3, "complex64"))
    assert (w.tolist(), optimizer.t) == ([1, 1, 1], 0)


@engine_runs.every_engine
def test_complex_numbers_in_a_real_slot_are_refused(engine):
    class Wrong(Optimizer):
        slots = real_slots = ("m",)

        @staticmethod
        def rule(xp, w, g, s, h):
            return w - g, {"m": g}

    engine_runs.require(engine)
    w = np.ones(3, complex)
    with pytest.raises(
        TypeError, match=r"Wrong\.rule returns complex numbers for 'm', which is real"
    ):
        Wrong(engine=engine).update(w, w.copy())
    assert w.tolist() == [1, 1, 1]


@pytest.mark.parametrize("dtype", [">c8", ">c16", "clongdouble"])
def test_other_complex_dtypes_are_refused(dtype):
    w = np.ones(3, dtype)
    with pytest.raises(TypeError, match=r"cannot be updated; convert it to one of .*complex128"):
        SGD().update(w, w.copy())


def test_numbers_of_these_runs_are_of_all_kinds():
    z = wild(np.random.default_rng(0), (20_000,), "complex64")
    for part in (z.real, z.imag):
        assert np.isnan(part).any()
        assert np.isinf(part).any()
    assert (np.isfinite(z.real) & ~np.isfinite(z.imag)).any()
