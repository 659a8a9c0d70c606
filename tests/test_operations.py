"""Each operation that a rule may use, on all pairs of special values, on every engine."""

import bits
import engine_runs
import numpy as np
import pytest
from drawing import Noisy

from instep import Momentum, Optimizer
from instep.graph.nodes import OPERATIONS


def as_number(xp, condition):
    return xp.where(condition, 1.0, -0.0)


def beyond(x):
    return (x - 0.1) * 1e9


#: name -> f(xp, w, g): what a user may write about two arrays.
EXPRESSIONS = {
    "w + g": lambda xp, w, g: w + g,
    "w - g": lambda xp, w, g: w - g,
    "w * g": lambda xp, w, g: w * g,
    "w / g": lambda xp, w, g: w / g,
    "-w": lambda xp, w, g: -w,
    "+w": lambda xp, w, g: +w * 0.5,
    "abs": lambda xp, w, g: abs(w),
    "w ** 2": lambda xp, w, g: w**2,
    "number + w": lambda xp, w, g: 0.1 + w,
    "number - w": lambda xp, w, g: 0.1 - w,
    "number / w": lambda xp, w, g: 0.1 / w,
    "w / number": lambda xp, w, g: w / 0.1,
    "integer": lambda xp, w, g: 3 * w - 1,
    "large number": lambda xp, w, g: w * 1e39,
    "small number": lambda xp, w, g: w * 1e-46,
    "infinity": lambda xp, w, g: w + float("inf"),
    "add": lambda xp, w, g: xp.add(w, g),
    "subtract": lambda xp, w, g: xp.subtract(w, 1.0),
    "multiply": lambda xp, w, g: xp.multiply(w, g),
    "divide": lambda xp, w, g: xp.divide(w, g),
    "negative": lambda xp, w, g: xp.negative(w),
    "positive": lambda xp, w, g: xp.positive(w) + g,
    "xp.abs": lambda xp, w, g: xp.abs(w),
    "sqrt": lambda xp, w, g: xp.sqrt(w),
    "sqrt of abs": lambda xp, w, g: xp.sqrt(xp.abs(w)),
    "square": lambda xp, w, g: xp.square(w),
    "sign": lambda xp, w, g: xp.sign(w),
    "copysign": lambda xp, w, g: xp.copysign(w, g),
    "floor": lambda xp, w, g: xp.floor(w),
    "ceil": lambda xp, w, g: xp.ceil(w),
    "trunc": lambda xp, w, g: xp.trunc(w),
    "round": lambda xp, w, g: xp.round(w),
    "maximum": lambda xp, w, g: xp.maximum(w, g),
    "minimum": lambda xp, w, g: xp.minimum(w, g),
    "maximum with number": lambda xp, w, g: xp.maximum(w, 0.0),
    "maximum of number": lambda xp, w, g: xp.maximum(-0.0, w),
    "clip": lambda xp, w, g: xp.clip(w, -0.5, 0.5),
    "clip below": lambda xp, w, g: xp.clip(w, min=-0.5),
    "clip above": lambda xp, w, g: xp.clip(w, max=0.1),
    "where": lambda xp, w, g: xp.where(w < g, w, g),
    "where of numbers": lambda xp, w, g: xp.where(w < g, 0.1, -0.1),
    "less": lambda xp, w, g: as_number(xp, w < g),
    "less_equal": lambda xp, w, g: as_number(xp, w <= g),
    "greater": lambda xp, w, g: as_number(xp, w > g),
    "greater_equal": lambda xp, w, g: as_number(xp, w >= g),
    "equal": lambda xp, w, g: as_number(xp, w == g),
    "not_equal": lambda xp, w, g: as_number(xp, w != g),
    "compared with number": lambda xp, w, g: as_number(xp, xp.less(w, 0.1)),
    "and": lambda xp, w, g: as_number(xp, (w > 0) & (g > 0)),
    "or": lambda xp, w, g: as_number(xp, (w > 0) | (g > 0)),
    "xor": lambda xp, w, g: as_number(xp, (w > 0) ^ (g > 0)),
    "not": lambda xp, w, g: as_number(xp, ~(w > 0)),
    "logical_and": lambda xp, w, g: as_number(xp, xp.logical_and(w > 0, g > 0)),
    "logical_or": lambda xp, w, g: as_number(xp, xp.logical_or(w > 0, g > 0)),
    "logical_xor": lambda xp, w, g: as_number(xp, xp.logical_xor(w > 0, g > 0)),
    "logical_not": lambda xp, w, g: as_number(xp, xp.logical_not(w > 0)),
    "isfinite": lambda xp, w, g: as_number(xp, xp.isfinite(w)),
    "isinf": lambda xp, w, g: as_number(xp, xp.isinf(w)),
    "isnan": lambda xp, w, g: as_number(xp, xp.isnan(w)),
    "hypot": lambda xp, w, g: xp.hypot(w, g),
    "hypot with number": lambda xp, w, g: xp.hypot(0.1, g),
    "hypot in float64": lambda xp, w, g: beyond(xp.hypot(xp.astype(w, xp.float64), g)),
    "astype of booleans": lambda xp, w, g: xp.astype(w > g, xp.float32),
    "zeros_like": lambda xp, w, g: xp.zeros_like(w) - g,
    "ones_like": lambda xp, w, g: xp.ones_like(w) / g,
    "full_like": lambda xp, w, g: xp.full_like(w, 0.1) * g,
    "through float64": lambda xp, w, g: xp.astype(w, xp.float64) * xp.astype(g, xp.float64) + 0.1,
    "through float32": lambda xp, w, g: xp.astype(w, xp.float32) * xp.astype(g, xp.float32),
    "number in float64": lambda xp, w, g: beyond(xp.where(w > 0, xp.astype(w, xp.float64), 0.1)),
    "bound in float64": lambda xp, w, g: beyond(xp.maximum(xp.astype(w, xp.float64), 0.1)),
    "not contracted": lambda xp, w, g: w * g - w,
    "not reassociated": lambda xp, w, g: (w + g) - g,
    "no reciprocal": lambda xp, w, g: (w / 3.0) / (g / 3.0),
    "x - x": lambda xp, w, g: w - w,
    "0 * x": lambda xp, w, g: 0.0 * w,
    "x + 0": lambda xp, w, g: w + 0.0,
    "x - 0": lambda xp, w, g: w - 0.0 * g,
}


#: What a rule may do with complex numbers; of real ones it means what it says for them.
COMPLEX = {
    "w * g": lambda xp, w, g: w * g,
    "w / g": lambda xp, w, g: w / g,
    "-w": lambda xp, w, g: -w,
    "+w": lambda xp, w, g: +w + g,
    "w - g": lambda xp, w, g: w - g,
    "w ** 2": lambda xp, w, g: w**2,
    "square": lambda xp, w, g: xp.square(w),
    "number - w": lambda xp, w, g: 0.1 - w,
    "number / w": lambda xp, w, g: 0.1 / w,
    "w / number": lambda xp, w, g: w / 0.1,
    "real / w": lambda xp, w, g: xp.real(g) / w,
    "real * w": lambda xp, w, g: xp.real(g) * w - w,
    "real - w": lambda xp, w, g: xp.imag(g) - w,
    "complex number": lambda xp, w, g: 1j * w + (0.5 - 2j),
    "complex number - w": lambda xp, w, g: 1j - w,
    "complex number / w": lambda xp, w, g: (3 + 4j) / w,
    "w / complex number": lambda xp, w, g: w / (3 + 4j),
    "functions for operators": lambda xp, w, g: xp.subtract(
        xp.add(xp.multiply(w, g), xp.negative(w)), xp.divide(w, xp.positive(g))
    ),
    "conj": lambda xp, w, g: xp.conj(w) * g,
    "parts": lambda xp, w, g: xp.complex(xp.real(w), xp.imag(g)),
    "one part times both": lambda xp, w, g: xp.complex(
        xp.real(w) * xp.imag(g), xp.imag(w) * xp.imag(g)
    ),
    "the other part first": lambda xp, w, g: xp.multiply(
        0.5, xp.complex(*[xp.imag(w) * 0.1, xp.real(w) * 0.1][::-1])
    ),
    "parts exchanged": lambda xp, w, g: xp.complex(xp.imag(w), xp.real(w)) - g,
    "a part and a number": lambda xp, w, g: xp.complex(0.5, xp.imag(g)),
    "abs": lambda xp, w, g: abs(w) * g,
    "xp.abs": lambda xp, w, g: xp.abs(w),
    "abs_sq": lambda xp, w, g: xp.abs_sq(w),
    "sign": lambda xp, w, g: xp.sign(w),
    "sqrt": lambda xp, w, g: xp.sqrt(w),
    "clip_abs": lambda xp, w, g: xp.clip_abs(w, 0.5),
    "where": lambda xp, w, g: xp.where(abs(w) < abs(g), w, g),
    "where of numbers": lambda xp, w, g: xp.where(xp.real(w) < 0, 1j, 0.1),
    "where with a real one": lambda xp, w, g: xp.where(xp.real(w) < 0, w, xp.imag(g)),
    "equal": lambda xp, w, g: as_number(xp, w == g),
    "not_equal": lambda xp, w, g: as_number(xp, xp.not_equal(w, xp.real(w))),
    "isfinite": lambda xp, w, g: as_number(xp, xp.isfinite(w)),
    "isinf": lambda xp, w, g: as_number(xp, xp.isinf(w)),
    "isnan": lambda xp, w, g: as_number(xp, xp.isnan(w)),
    "zeros_like": lambda xp, w, g: xp.zeros_like(w) - g,
    "ones_like": lambda xp, w, g: xp.ones_like(w) / g,
    "full_like": lambda xp, w, g: xp.full_like(w, 0.1 - 2j) * g,
    "through float64": lambda xp, w, g: xp.astype(w, xp.float64) * xp.astype(g, xp.float64),
    "a real number": lambda xp, w, g: 0.5,
    "not contracted": lambda xp, w, g: w * g - w,
}


def optimizer_of(expression):
    """Return the class of the rule `w <- expression(w, g)`, which also keeps it as state."""

    class Expression(Optimizer):
        slots = ("kept",)

        @staticmethod
        def rule(xp, w, g, s, h):
            value = expression(xp, w, g)
            return value, {"kept": value}

    return Expression


def pairs(dtype):
    """Return all pairs of special values, and as many of random bits."""
    values = bits.special_values(dtype)
    w, g = (x.ravel().copy() for x in np.meshgrid(values, values))
    rng = np.random.default_rng(0)
    unsigned = f"u{w.dtype.itemsize}"
    w_any, g_any = (
        np.frombuffer(rng.bytes(w.nbytes), unsigned).view(dtype).copy() for _ in range(2)
    )
    near = bits.ordinary(rng, w.shape, dtype)
    return np.concatenate([w, w_any, near]), np.concatenate([g, g_any, near[::-1]])


def complex_pairs(dtype):
    """Return pairs of complex numbers whose parts are those of `pairs`."""
    re, im = pairs(np.empty(0, dtype).real.dtype.name)
    w, g = np.empty(re.shape, dtype), np.empty(re.shape, dtype)
    w.real, w.imag, g.real, g.imag = re, im, np.roll(re, 7), np.roll(im, 1)
    return w, g


def evaluate(name, dtype, engine, threads=None):
    table, draw = (COMPLEX, complex_pairs) if dtype in bits.COMPLEX else (EXPRESSIONS, pairs)
    optimizer = optimizer_of(table[name])(engine=engine, threads=threads)
    w, g = draw(dtype)
    optimizer.update({"w": w}, {"w": g})
    return w, engine_runs.slots_of(optimizer)["w"]["kept"]


@pytest.mark.parametrize("engine", ["native", "blocked"])
@pytest.mark.parametrize("dtype", bits.DTYPES)
@pytest.mark.parametrize("name", EXPRESSIONS)
def test_an_operation_gives_the_same_bits_on_every_engine(name, dtype, engine):
    engine_runs.require(engine)
    got, kept = evaluate(name, dtype, engine)
    expected, expected_kept = evaluate(name, dtype, "array_api")
    bits.assert_same_bits(got, expected, f"{name}, parameter")
    bits.assert_same_bits(kept, expected_kept, f"{name}, state")


@pytest.mark.parametrize("engine", ["native", "blocked"])
@pytest.mark.parametrize("dtype", bits.COMPLEX)
@pytest.mark.parametrize("name", COMPLEX)
def test_an_operation_on_complex_numbers_gives_the_same_bits(name, dtype, engine):
    engine_runs.require(engine)
    got, kept = evaluate(name, dtype, engine)
    expected, expected_kept = evaluate(name, dtype, "array_api")
    bits.assert_same_bits(got, expected, f"{name}, parameter")
    bits.assert_same_bits(kept, expected_kept, f"{name}, state")


@engine_runs.every_engine
@pytest.mark.parametrize("dtype", bits.COMPLEX)
@pytest.mark.parametrize("name", sorted(set(COMPLEX) - {"isfinite", "isinf", "isnan", "equal"}))
def test_an_operation_on_complex_numbers_is_that_of_numpy(name, dtype, engine):
    """To rounding, on ordinary numbers; which engines agree on to the bit."""
    engine_runs.require(engine)
    rng = np.random.default_rng(0)
    w, g = (bits.ordinary(rng, (500,), dtype) for _ in range(2))

    class Numpy:
        abs_sq = staticmethod(lambda z: abs(z) ** 2)
        clip_abs = staticmethod(lambda z, c: z * np.minimum(1, c / abs(z)))
        complex = staticmethod(lambda re, im: re + 1j * im)
        real, imag = staticmethod(np.real), staticmethod(np.imag)
        astype = staticmethod(lambda z, dtype: z.astype("complex128"))
        float64 = float32 = None

        def __getattr__(self, name):
            return getattr(np, name)

    expected = COMPLEX[name](Numpy(), w.astype("complex128"), g.astype("complex128"))
    optimizer_of(COMPLEX[name])(engine=engine).update(w, g)
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(w, np.broadcast_to(expected, w.shape), rtol=64 * eps, atol=64 * eps)


def test_every_operation_of_a_graph_is_tried():
    from instep.graph.program import Program

    used = set()
    for dtype, table in [("float16", EXPRESSIONS), ("complex64", COMPLEX)]:
        for expression in table.values():
            rule = optimizer_of(expression)()
            (graph,) = Program(rule).passes(dtype, ())
            used |= {node.operation for node in graph.nodes}
    # Words, and what sums leave, are tried in test_random.py, test_fewer_bits.py and
    # test_canonical_sum.py.
    eight = Momentum(state_dtype="float8", min_float8_size=0, rounding="stochastic")
    for optimizer in (eight, Noisy()):
        (graph,) = Program(optimizer).passes("float16", ())
        used |= {node.operation for node in graph.nodes}
    assert used == OPERATIONS


def evaluate_directly(f, dtype):
    w, g = pairs(dtype)
    compute = np.float64 if dtype == "float64" else np.float32
    with np.errstate(all="ignore"):
        return f(w.astype(compute), g.astype(compute)).astype(dtype)


@engine_runs.every_engine
@pytest.mark.parametrize("dtype", bits.DTYPES)
@pytest.mark.parametrize(
    ("name", "meaning"),
    [
        ("w + g", np.add),
        ("w - g", np.subtract),
        ("w * g", np.multiply),
        ("w / g", np.divide),
        ("sqrt", lambda w, g: np.sqrt(w)),
        ("abs", lambda w, g: np.abs(w)),
        ("-w", lambda w, g: -w),
        ("round", lambda w, g: np.rint(w)),
        # The sign of a NaN is not the same on all processors.
        ("copysign", lambda w, g: np.copysign(w, np.where(np.isnan(g), g.dtype.type(1), g))),
        ("where", lambda w, g: np.where(w < g, w, g)),
        ("clip", lambda w, g: np.clip(w, -0.5, 0.5)),
        # The kit fixes which of two equal operands is returned.
        ("maximum", lambda w, g: np.where((w > g) | np.isnan(w), w, g)),
        ("minimum", lambda w, g: np.where((w < g) | np.isnan(w), w, g)),
        ("sign", lambda w, g: np.where(w == 0, np.float32(0.0), np.sign(w))),
    ],
)
def test_an_operation_means_what_ieee_754_says(name, meaning, dtype, engine):
    engine_runs.require(engine)
    got, _ = evaluate(name, dtype, engine)
    bits.assert_same_bits(got, evaluate_directly(meaning, dtype), name)


@engine_runs.every_engine
@pytest.mark.parametrize("name", ["number in float64", "bound in float64"])
def test_a_number_beside_a_float64_array_is_not_rounded_to_float32(name, engine):
    engine_runs.require(engine)
    _, kept = evaluate(name, "float32", engine)
    w, _ = pairs("float32")
    assert kept[np.flatnonzero(w == -1.0)[0]] == 0.0  # float32(0.1) - 0.1 would be 1.5e-9
