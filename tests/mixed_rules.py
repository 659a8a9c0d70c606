"""Random rules that mix dtypes, and runs of them on any engine.

Their values are scalars (host expressions), constants, sums and arrays, each cast at random. What
a scalar is rounded to, and when, has one meaning: it is a float64, rounded once to the dtype of
what uses it.
"""

import bits
import engine_runs
import hypothesis.strategies as st
import numpy as np
import pytest

from instep import Optimizer

STORAGE = (*bits.DTYPES, "bfloat16")

# A rule is data: a list of instructions, each of which makes one more value of earlier ones. Host
# values are numbers; the others are arrays, with the shape of the parameter or none.

HOST_UNARY = ("sqrt", "abs", "floor", "ceil", "trunc", "round", "sign", "square", "negative")
HOST_BINARY = ("add", "subtract", "multiply", "maximum", "minimum", "copysign")
HOST_OPERATORS = {
    "//": lambda a, b: a // (abs(b) + 1),
    "%": lambda a, b: a % (abs(b) + 1),
    "/": lambda a, b: a / (abs(b) + 1),
    "**": lambda a, b: (abs(a) + 0.5) ** 2,
    "round": lambda a, b: round(a, 1),
}
ARRAY_UNARY = (*HOST_UNARY, "isfinite")
ARRAY_BINARY = (*HOST_BINARY, "divide", "less", "greater_equal", "not_equal")

numbers = st.sampled_from([0.1, -0.1, 1e-3, 0.0, -0.0, 3, 1e30, -2.5, 1.0000001, 1e-40, 7])
index = st.integers(0, 10**6)
instructions = st.one_of(
    st.tuples(st.just("host unary"), st.sampled_from(HOST_UNARY), index, index),
    st.tuples(st.just("host binary"), st.sampled_from(HOST_BINARY), index, index),
    st.tuples(st.just("host operator"), st.sampled_from(sorted(HOST_OPERATORS)), index, index),
    st.tuples(st.just("constant"), numbers, index, index),
    st.tuples(st.just("unary"), st.sampled_from(ARRAY_UNARY), index, index),
    st.tuples(st.just("binary"), st.sampled_from(ARRAY_BINARY), index, index),
    st.tuples(st.just("with host"), st.sampled_from(ARRAY_BINARY), index, index),
    st.tuples(st.just("host with"), st.sampled_from(ARRAY_BINARY), index, index),
    st.tuples(st.just("where"), index, index, index),
    st.tuples(st.just("where host"), index, index, index),
    st.tuples(st.just("clip"), index, index, index),
    st.tuples(st.just("cast"), st.sampled_from(["float32", "float64"]), index, index),
    st.tuples(st.just("cast"), st.sampled_from(["float32", "float64"]), index, index),
    st.tuples(st.just("cast host"), st.sampled_from(["float32", "float64"]), index, index),
    st.tuples(st.just("like"), st.sampled_from(["zeros", "ones", "full"]), index, index),
    st.tuples(
        st.just("sum"),
        st.sampled_from(["sum", "norm", "max", "tree_sum", "tree_norm", "tree_max"]),
        index,
        index,
    ),
)
programs = st.tuples(
    st.lists(instructions, min_size=1, max_size=12), index, index, st.sampled_from(STORAGE)
)


def where(xp, what, p, q, a, b):
    return xp.where(a > p, b, q if what % 2 else xp.astype(a, xp.float32))


def like(xp, what, p, q, a, b):
    return xp.full_like(a, q) if what == "full" else getattr(xp, f"{what}_like")(a)


#: kind of instruction -> f(xp, what, p, q, a, b), of two host values and two arrays.
ON_HOST = {
    "host unary": lambda xp, what, p, q, a, b: getattr(xp, what)(p),
    "host binary": lambda xp, what, p, q, a, b: getattr(xp, what)(p, q),
    "host operator": lambda xp, what, p, q, a, b: HOST_OPERATORS[what](p, q),
    "constant": lambda xp, what, p, q, a, b: what,
}
ON_ARRAYS = {
    "unary": lambda xp, what, p, q, a, b: getattr(xp, what)(a),
    "binary": lambda xp, what, p, q, a, b: getattr(xp, what)(a, b),
    "with host": lambda xp, what, p, q, a, b: getattr(xp, what)(a, q),
    "host with": lambda xp, what, p, q, a, b: getattr(xp, what)(p, b),
    "where": where,
    "where host": lambda xp, what, p, q, a, b: xp.where(p > q, a, b),
    "clip": lambda xp, what, p, q, a, b: xp.clip(a, min=p, max=b),
    "cast": lambda xp, what, p, q, a, b: xp.astype(a, getattr(xp, what)),
    "cast host": lambda xp, what, p, q, a, b: xp.astype(p, getattr(xp, what)),
    "like": like,
    "sum": lambda xp, what, p, q, a, b: getattr(xp, what)(a),
}


def run_instruction(xp, instruction, host, arrays):
    """Do what an instruction says; `host` and `arrays` are the values so far."""
    kind, what, i, j = instruction
    operands = (
        host[i % len(host)],
        host[j % len(host)],
        arrays[i % len(arrays)],
        arrays[j % len(arrays)],
    )
    if kind in ON_HOST:
        host.append(ON_HOST[kind](xp, what, *operands))
    else:
        arrays.append(as_number(xp, ON_ARRAYS[kind](xp, what, *operands)))


def as_number(xp, x):
    return xp.where(x, 1.5, -0.25) if str(getattr(x, "dtype", "")) == "bool" else x


def optimizer_of(program):
    """Return the class of the rule that a program describes."""
    steps, new, kept, _ = program

    class Mixed(Optimizer):
        lr: float = 0.1
        beta: float = 0.999
        large: float = 12345678.9
        slots = ("kept",)

        @staticmethod
        def rule(xp, w, g, s, h):
            host, arrays = [h.lr, h.beta, h.large, h.t], [w, g, s.kept]
            for instruction in steps:
                run_instruction(xp, instruction, host, arrays)
            return arrays[-1 - new % len(arrays)] - 0.0 * w, {
                "kept": arrays[-1 - kept % len(arrays)]
            }

    return Mixed


def parameters_of(dtype):
    rng = np.random.default_rng(5)
    return {
        "a": np.concatenate([bits.special_values(dtype), bits.ordinary(rng, (70,), dtype)]),
        "b": bits.ordinary(rng, (3, 5), dtype),
        "c": np.array([[0.1]], dtype),
    }


def storage_type(dtype):
    if dtype == "bfloat16":
        return np.dtype(pytest.importorskip("ml_dtypes").bfloat16)
    return np.dtype(dtype)


def run(program, engine, convert=lambda x: x, **settings):
    """Return parameters and state after three steps, or the error that refused the rule."""
    dtype = storage_type(program[-1])
    params = parameters_of(np.dtype("float32" if program[-1] == "bfloat16" else dtype))
    params = {key: convert(x.astype(dtype)) for key, x in params.items()}
    optimizer = optimizer_of(program)(engine=engine, **settings)
    with np.errstate(all="ignore"):
        for step in range(3):
            grads = {k: convert(x[::-1].copy()) for k, x in params.items()}
            optimizer.lr = 0.1 / (1 + step)
            optimizer.update(params, grads)
    return params, engine_runs.slots_of(optimizer)


def assert_same(got, expected, what):
    for key, x in expected[0].items():
        bits.assert_same_bits(wide(got[0][key]), wide(x), f"{what}: parameter {key!r}")
        slots, others = got[1][key], expected[1][key]
        bits.assert_same_bits(wide(slots["kept"]), wide(others["kept"]), f"{what}: state {key!r}")


def wide(x):
    """Return bfloat16 as float32, which holds it exactly, and all else as it is."""
    x = np.asarray(x.get() if hasattr(x, "get") else x)
    return x.astype("float32") if x.dtype.name == "bfloat16" else x
