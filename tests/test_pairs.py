"""Complex parameters as pairs of real ones: the bits of the real arrays that they are."""

import copy
import pickle

import bits
import cases
import chains
import engine_runs
import numpy as np
import pytest
from bits import COMPLEX, ordinary

from instep import SGD, Adam, Rprop, chain
from instep.transforms import average, clip_by_global_norm, clip_by_value, project

both = pytest.mark.parametrize("dtype", COMPLEX)


def parts(z):
    """Return a contiguous array of the parts of complex numbers, along one more axis."""
    z = np.ascontiguousarray(z).reshape(z.shape)
    return np.stack([z.real, z.imag], axis=-1)


@pytest.mark.slow  # all of them together
@engine_runs.divided(*COMPLEX)
@cases.every_class
def test_the_bits_are_those_of_the_parts(case, dtype, engine, threads, eager_threads):
    engine_runs.require(engine)
    params = {name: w for name, (w, _) in bits.leaves_of(dtype).items()}
    expected = {name: parts(w) for name, w in params.items()}
    if not case.elementwise:  # forms and norms look at whole arrays: one infinity would be in all
        params = {k: w for k, w in params.items() if np.isfinite(w).all()}
        expected = {k: expected[k] for k in params}
    optimizers = (
        case.make(engine=engine, threads=threads, complex="pairs"),
        case.make(engine="array_api"),
    )
    for every in bits.gradients_of(dtype, 10):
        grads = {name: every[name] for name in params}
        cases.step(optimizers[0], params, grads)
        cases.step(optimizers[1], expected, {name: parts(g) for name, g in grads.items()})
    for name, w in params.items():
        bits.assert_same_bits(parts(w), expected[name], name)
    engine_runs.assert_same_state(*optimizers)


@engine_runs.every_numpy_engine
@both
@pytest.mark.parametrize("name", chains.CHAINS)
def test_chains_have_the_bits_of_the_parts(name, dtype, engine, threads):
    engine_runs.require(engine)
    make, _ = chains.CHAINS[name]
    rng = np.random.default_rng(2)
    params = {
        "long": ordinary(rng, (40_003,), dtype),
        "matrix": ordinary(rng, (30, 7), dtype)[:, ::2],
        "one": ordinary(rng, (), dtype),
        "none": ordinary(rng, (0, 3), dtype),
        "real": ordinary(rng, (5,), np.empty(0, dtype).real.dtype),
    }
    expected = {k: parts(w) if w.dtype.kind == "c" else w.copy() for k, w in params.items()}
    optimizers = make(engine=engine, threads=threads, complex="pairs"), make(engine="array_api")
    for _ in range(7):
        grads = {k: ordinary(rng, w.shape, w.dtype) for k, w in params.items()}
        optimizers[0].update(params, grads)
        apart = {k: parts(g) if g.dtype.kind == "c" else g for k, g in grads.items()}
        optimizers[1].update(expected, apart)
    for key, w in params.items():
        got = parts(w) if w.dtype.kind == "c" else w
        bits.assert_same_bits(got, expected[key], key)
    engine_runs.assert_same_state(*optimizers)


@engine_runs.every_engine
@pytest.mark.parametrize("gradient", ["float16", "float32", "float64", *COMPLEX])
@both
def test_gradients_of_every_dtype_are_taken(dtype, gradient, engine):
    engine_runs.require(engine)
    rng = np.random.default_rng(0)
    w = ordinary(rng, (9, 5), dtype)
    expected = parts(w)
    optimizers = Adam(0.1, engine=engine, complex="pairs"), Adam(0.1, engine=engine)
    for _ in range(3):
        g = ordinary(rng, w.shape, gradient)
        optimizers[0].update(w, g)
        optimizers[1].update(expected, parts(g.astype(np.result_type(g.dtype, "complex64"))))
    bits.assert_same_bits(parts(w), expected)


@both
def test_the_first_step_of_adam(dtype):
    w = Adam(lr=1.0, eps=0, complex="pairs").update(np.zeros(1, dtype), np.array([3 + 4j], dtype))
    assert w.tolist() == [-1 - 1j]


def test_rprop_steps_both_parts():
    w, optimizer = np.zeros(1, complex), Rprop(lr=0.5, complex="pairs")
    optimizer.update(w, np.array([3 - 4j]))
    optimizer.update(w, np.array([3 + 4j]))
    assert w.tolist() == [-0.5 + 0.5j - 0.6]


def test_transforms_bound_each_part():
    def go(*rules, g):
        return chain(*rules, complex="pairs").update(np.zeros(1, complex), np.array([g]))[0]

    assert go(clip_by_value(1.0), SGD(1.0), g=3 - 0.5j) == -1 + 0.5j
    assert go(SGD(1.0), project(-1.0, 0.25), g=3 - 0.5j) == -1 + 0.25j


def test_a_chain_takes_over_the_setting():
    assert chain(SGD(complex="pairs")).complex == "pairs"
    assert chain(SGD(complex="pairs"), complex="modulus").complex == "modulus"
    assert repr(Adam(complex="pairs")).endswith("complex='pairs')")
    assert repr(chain(SGD(), complex="pairs")) == "chain(SGD(lr=0.01), complex='pairs')"


@engine_runs.every_engine
@both
def test_answers_are_those_of_the_parts(dtype, engine, tmp_path):
    engine_runs.require(engine)
    rng = np.random.default_rng(0)
    w = {"w": ordinary(rng, (7, 3), dtype)}
    expected = {"w": parts(w["w"])}
    rules = clip_by_global_norm(1.0), Adam(0.1), average(0.9)
    optimizers = (
        chain(*copy.deepcopy(rules), engine=engine, complex="pairs"),
        chain(*rules, engine=engine),
    )
    for _ in range(3):
        g = ordinary(rng, (7, 3), dtype)
        optimizers[0].update(w, {"w": g})
        optimizers[1].update(expected, {"w": parts(g)})
    answer = optimizers[0].answer(w)["w"]
    assert answer.dtype == dtype
    bits.assert_same_bits(parts(answer), optimizers[1].answer(expected)["w"])
    before = w["w"].copy()
    with optimizers[0].answer_in_place(w):
        bits.assert_same_bits(w["w"], answer)
    bits.assert_same_bits(w["w"], before)
    resumed = chain(clip_by_global_norm(1.0), Adam(0.1), average(0.9), complex="pairs")
    optimizers[0].save(tmp_path / "state.npz")
    resumed.load(tmp_path / "state.npz")
    copied = pickle.loads(pickle.dumps(optimizers[0]))
    others = {"w": before.copy()}, {"w": before.copy()}
    for optimizer, params in zip((optimizers[0], resumed, copied), (w, *others), strict=True):
        optimizer.update(params, {"w": g})
    for params in others:
        bits.assert_same_bits(params["w"], w["w"])


@engine_runs.every_engine
def test_arrays_of_hyperparameters_are_for_both_parts(engine):
    engine_runs.require(engine)
    lr = np.array([0.5, 2.0, 0.0])
    w = np.zeros(3, complex)
    SGD(lr=lr, engine=engine, complex="pairs").update(w, np.full(3, 1 - 2j))
    assert w.tolist() == [-0.5 + 1j, -2 + 4j, 0]


def test_the_meaning_may_be_changed_before_the_first_step_and_not_after_it():
    w, optimizer = np.zeros(2, complex), Adam(lr=1.0, eps=0)
    optimizer.complex = "pairs"
    optimizer.update(w, np.full(2, 3 + 4j))
    assert w.tolist() == [-1 - 1j] * 2
    optimizer.complex = "modulus"
    with pytest.raises(
        ValueError,
        match=r"params is numpy complex128 \(2,\), but its state 'm' from earlier steps is "
        r"float64 \(2, 2\); set complex to what it was, use a new key",
    ):
        optimizer.update(w, np.full(2, 3 + 4j))
    assert (optimizer.t, w.tolist()) == (1, [-1 - 1j] * 2)


def test_there_are_two_meanings():
    with pytest.raises(ValueError, match="SGD: complex must be 'modulus' or 'pairs', got 'polar'"):
        SGD(complex="polar")


def test_it_is_explained():
    (bucket,) = Adam(complex="pairs").explain(np.ones((3, 4), "complex64")).buckets
    assert (bucket.dtype, bucket.elements, bucket.bytes_per_element) == ("float32", 24, 28)
    assert bucket.reason.endswith("complex numbers as pairs of real ones")


def test_complex_numbers_of_python_have_parts():
    params = {"z": 1 + 2j, "w": np.complex64(1j), "x": 0.5}
    SGD(lr=1.0, complex="pairs").update(params, {"z": 3 - 2j, "w": 1.0, "x": 1.0})
    assert params == {"z": -2 + 4j, "w": np.complex64(-1 + 1j), "x": -0.5}
    assert [type(x) for x in params.values()] == [complex, np.complex64, float]


@engine_runs.every_engine
def test_what_takes_the_place_of_complex_numbers_is_looked_at_anew(engine):
    """Parts of other arrays are copies: a step that takes them for those it knows is lost."""
    engine_runs.require(engine)
    optimizer, z = SGD(1.0, complex="pairs", engine=engine), np.zeros((), "complex128")
    optimizer.update({"z": z}, {"z": np.array(1j)})
    for gradient in (1j, np.complex64(1j), np.array(1j), 1.0, np.ones(()), 2j):
        optimizer.update({"z": z}, {"z": gradient})
    assert z == -2 - 6j
    with pytest.raises(TypeError, match="int64"):
        optimizer.update({"z": z}, {"z": np.ones((), "int64")})
    with pytest.raises(TypeError, match="str"):
        optimizer.update({"z": z}, {"z": "1j"})
    x = np.zeros(())
    optimizer.update({"z": z}, {"z": 1.0})
    optimizer.update({"z": x}, {"z": np.ones(())})
    assert (z, x) == (-3 - 6j, -1.0)


def test_memory_is_shared_with_what_the_user_holds():
    room = np.zeros((4, 6), "complex64")
    view = room[::2, ::-2]
    SGD(1.0, complex="pairs").update(view, np.full((2, 3), 1 + 2j, "complex64"))
    assert (view == -1 - 2j).all()
    assert np.count_nonzero(room) == 6
