"""Hyperparameters that are arrays of the shape of the parameter: read at every step, checked."""

import copy
import gc
import pickle
import re
import weakref
from typing import Annotated

import array_api_strict
import bits
import engine_runs
import numpy as np
import pytest

from instep import (
    LAMB,
    LARS,
    SGD,
    Adafactor,
    Adam,
    AdamW,
    Momentum,
    Muon,
    NAdam,
    Optimizer,
    Rprop,
    chain,
)
from instep.hyperparameters import Domain
from instep.rule import Form
from instep.transforms import (
    accumulate,
    average,
    clip_by_global_norm,
    clip_by_value,
    project,
    skip_nonfinite,
    weight_decay,
)

SHAPE = (37, 29)


class Masked(Optimizer):
    """A rule that compares with an array, and branches on an option."""

    lr: float = 0.1
    mask: float = 1.0
    nesterov: bool = False

    slots = ("m",)

    @staticmethod
    def rule(xp, w, g, s, h):
        m = 0.9 * s.m + xp.where(h.mask > 0.5, g, 0.0)
        step = g + m if h.nesterov else m
        return w - h.lr * h.mask * step, {"m": m}


#: Optimizers, made of a function from a number to an array of numbers around it.
MAKERS = {
    "SGD": lambda about, **settings: SGD(about(0.1), **settings),
    "Momentum": lambda about, **settings: Momentum(about(0.1), momentum=about(0.5), **settings),
    "Adam": lambda about, **settings: Adam(about(0.01), eps=about(1e-3), **settings),
    "AdamW": lambda about, **settings: AdamW(0.01, weight_decay=about(0.1), **settings),
    "Rprop": lambda about, **settings: Rprop(about(0.1), largest=about(0.3), **settings),
    "LARS": lambda about, **settings: LARS(about(0.1), **settings),
    "LAMB": lambda about, **settings: LAMB(about(0.1), weight_decay=about(0.1), **settings),
    "Muon": lambda about, **settings: Muon(about(0.1), **settings),
    "masked": lambda about, **settings: Masked(0.1, about(0.5), nesterov=True, **settings),
    "chain": lambda about, **settings: chain(
        *(skip_nonfinite(), clip_by_global_norm(1.0), weight_decay(about(0.1))),
        *(AdamW(about(0.1)), average(0.5), project(about(-0.5), about(0.5))),
        **settings,
    ),
    "gathering": lambda about, **settings: chain(
        accumulate(2), clip_by_value(about(0.5)), SGD(about(0.1)), **settings
    ),
}
#: Rules that use these hyperparameters beside arrays alone, not beside numbers.
ELEMENTWISE = ["SGD", "Momentum", "AdamW", "Rprop", "LARS", "masked", "gathering"]


def about(number, shape=SHAPE, dtype="float32", layout="C order"):
    """Return an array of numbers around one, the same at every call."""
    factors = np.random.default_rng(5).uniform(0.5, 1.5, shape)
    return bits.LAYOUTS[layout]((number * factors).astype(dtype))


def start(dtype="float32", shape=SHAPE):
    rng = np.random.default_rng(0)
    w = bits.ordinary(rng, shape, dtype)
    return w, [bits.ordinary(rng, shape, dtype) for _ in range(5)]


def run(optimizer, w, gradients):
    params = {"w": w.copy(order="K")}
    for g in gradients:
        optimizer.update(params, {"w": g})
    return params, optimizer


@engine_runs.every_numpy_engine
@pytest.mark.parametrize("kind", ["float16", "float32", "float64", "bfloat16"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("name", MAKERS)
def test_every_engine_reads_arrays_alike(name, dtype, kind, engine, threads):
    engine_runs.require(engine)
    kind = pytest.importorskip("ml_dtypes").bfloat16 if kind == "bfloat16" else kind
    make, (w, gradients) = MAKERS[name], start(dtype)

    def around(number):
        return about(number, dtype=kind)

    expected = run(make(around, engine="array_api"), w, gradients)
    got = run(make(around, engine=engine, threads=threads), w, gradients)
    engine_runs.assert_same_run(got, expected)
    assert not np.array_equal(expected[0]["w"], w)


@engine_runs.every_numpy_engine
@pytest.mark.parametrize("layout", bits.LAYOUTS)
@pytest.mark.parametrize("name", ["SGD", "AdamW", "chain"])
def test_arrays_of_any_layout_are_read_where_they_are(name, layout, engine, threads):
    engine_runs.require(engine)
    make, (w, gradients) = MAKERS[name], start()
    expected = run(make(about, engine="array_api"), w, gradients)

    def around(number):
        return about(number, layout=layout)

    for own in ("C order", layout):
        optimizer = make(around, engine=engine, threads=threads)
        engine_runs.assert_same_run(run(optimizer, bits.LAYOUTS[own](w), gradients), expected)


@engine_runs.every_engine
def test_long_arrays_and_empty_ones_are_read(engine):
    engine_runs.require(engine)
    for shape in [(0, 3), (1,), (600_011,)]:
        w, gradients = start(shape=shape)
        lr = about(0.1, shape, "float64")
        params, _ = run(SGD(lr, engine=engine, threads=2), w, gradients)
        for g in gradients:
            w = w - lr.astype("float32") * g
        bits.assert_same_bits(params["w"], w)


@engine_runs.every_engine
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_an_array_of_one_number_gives_the_bits_of_the_number(name, engine):
    engine_runs.require(engine)
    w, gradients = start()
    one = run(MAKERS[name](lambda x: np.full(SHAPE, x), engine=engine), w, gradients)
    engine_runs.assert_same_run(one, run(MAKERS[name](float, engine=engine), w, gradients))


@engine_runs.every_engine
def test_arrays_are_read_in_every_step_and_never_written(engine):
    engine_runs.require(engine)
    lr, w = np.full(4, 0.5), np.zeros(4)
    optimizer = SGD(lr, engine=engine)
    assert optimizer.lr is lr
    optimizer.update(w, np.ones(4))
    lr[1:] = 2.0
    optimizer.update(w, np.ones(4))
    assert w.tolist() == [-1.0, -2.5, -2.5, -2.5]
    assert lr.tolist() == [0.5, 2.0, 2.0, 2.0]
    fixed = np.broadcast_to(np.float32(0.5), 4)  # it is read-only, and its elements are one
    optimizer.lr = fixed
    optimizer.update(w, np.ones(4))
    assert w.tolist() == [-1.5, -3.0, -3.0, -3.0]


@engine_runs.every_engine
def test_numbers_and_arrays_take_each_other_s_place(engine):
    engine_runs.require(engine)
    for optimizer in (SGD(0.5, engine=engine), chain(SGD(0.5), engine=engine)):
        w, expected = np.zeros(1), 0.0
        values = [
            0.5,
            0.5,
            0.5,
            np.array([0.5]),
            0.5,
            np.array([0.25]),
            np.array([0.5]),
            0.25,
            0.25,
        ]
        for step, lr in enumerate(values):
            optimizer.lr = lr
            optimizer.update(w, np.ones(1))
            expected -= float(np.asarray(lr).item())
            assert w[0] == expected, step
            assert optimizer.main.varying == (("lr",) if isinstance(lr, np.ndarray) else ())
        # An array that equals the number is read again, when it is another number.
        one = np.array([0.25])
        optimizer.lr = one
        one[0] = 1.0
        optimizer.update(w, np.ones(1))
        assert w[0] == expected - 1.0


@engine_runs.every_engine
def test_overrides_give_arrays_to_parts_of_a_tree(engine):
    engine_runs.require(engine)
    lr = {"volume": np.array([[0.5, 1.0], [0.0, 2.0]]), "probe": np.full(3, 0.25)}
    entry = {"lr": lr["volume"]}
    overrides = {"volume": entry, "probe": {"lr": lr["probe"]}}
    optimizer = Momentum(0.125, momentum=0.0, overrides=overrides, engine=engine)
    params = {"volume": np.zeros((2, 2)), "probe": np.zeros(3), "other": np.zeros((5, 1))}
    ones = {key: np.ones_like(w) for key, w in params.items()}
    for _ in range(2):
        optimizer.update(params, ones)
    assert params["volume"].tolist() == [[-1.0, -2.0], [0.0, -4.0]]
    assert params["probe"].tolist() == [-0.5] * 3
    assert params["other"].tolist() == [[-0.25]] * 5
    entry["lr"] = np.ones((2, 2))  # in place, and so it is compared
    optimizer.update(params, ones)
    assert params["volume"].tolist() == [[-2.0, -3.0], [-1.0, -5.0]]
    entry["lr"] = 0.5
    optimizer.update(params, ones)
    assert params["volume"].tolist() == [[-2.5, -3.5], [-1.5, -5.5]]
    assert "overrides={'volume': {'lr': 0.5}, 'probe': {'lr': array(float64, (3,))}}" in repr(
        optimizer
    )


@engine_runs.every_engine
def test_leaves_with_arrays_add_up_with_the_others(engine):
    """They run by themselves, but a norm is of the tree."""
    engine_runs.require(engine)
    rng = np.random.default_rng(1)
    shapes = {"a": (40, 30), "b": (7,), "c": (30_000,), "d": ()}
    start = {key: bits.ordinary(rng, shape, "float32") for key, shape in shapes.items()}
    overrides = {"b": {"lr": about(0.1, (7,))}, "c": {"clip_by_global_norm_max_norm": 0.7}}
    overrides["c"] |= {"project_upper": about(0.5, (30_000,), "float64")}
    runs = []
    for name in (engine, "array_api"):
        params = {key: w.copy() for key, w in start.items()}
        parts = skip_nonfinite(), clip_by_global_norm(1.0), LAMB(0.1), project()
        optimizer = chain(*parts, overrides=overrides, engine=name)
        for step in range(4):
            draws = np.random.default_rng(step)
            grads = {key: bits.ordinary(draws, w.shape, "float32") for key, w in params.items()}
            if step == 2:
                grads["b"][3] = np.nan
            optimizer.update(params, grads)
        assert (optimizer.t, optimizer.skipped) == (3, 1)
        runs.append((params, optimizer))
    engine_runs.assert_same_run(*runs)


def test_a_number_of_an_override_wins_over_the_array_of_all():
    optimizer = SGD(np.full(2, 0.5), overrides={"b": {"lr": 1.0}})
    params = {"a": np.zeros(2), "b": np.zeros(7)}
    optimizer.update(params, {"a": np.ones(2), "b": np.ones(7)})
    assert params["a"].tolist() == [-0.5] * 2
    assert params["b"].tolist() == [-1.0] * 7
    optimizer = chain(SGD(1.0), project(), overrides={"a": {"project_upper": np.array([0.0, 0.5])}})
    optimizer.update(params, {"a": -np.ones(2), "b": -np.ones(7)})
    assert params["a"].tolist() == [0.0, 0.5]
    assert params["b"].tolist() == [0.0] * 7


@engine_runs.every_engine
def test_bounds_of_elements_hold(engine):
    engine_runs.require(engine)
    lower, upper = np.array([-1.0, -np.inf, 0.5, 1e39]), np.array([1.0, 0.0, np.inf, 1e39])
    optimizer = chain(SGD(1.0), project(lower, upper), engine=engine)
    for dtype, last in (("float64", 1e39), ("float32", 7.0)):  # beyond float32: no bound
        w = np.zeros(4, dtype)
        optimizer.reset()
        optimizer.update(w, -np.array([2.0, 2.0, 0.0, 7.0], dtype))
        assert w.tolist() == [1.0, 0.0, 0.5, last]


# What an optimizer does with them beside steps ---------------------------------------------


def test_arrays_are_kept_and_not_copied_and_freed_when_others_take_their_place():
    gc.disable()
    try:
        lr = np.full(2, 0.5)
        optimizer, w = SGD(lr), np.zeros(2)
        optimizer.update(w, np.ones(2))
        gone = weakref.ref(lr)
        del lr
        assert gone() is not None
        optimizer.lr = 0.5
        optimizer.update(w, np.ones(2))
        assert gone() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("way", ["pickle", "deepcopy", "copy", "state_dict", "file"])
@pytest.mark.parametrize("layout", ["C order", "Fortran order"])
def test_a_run_goes_on_with_the_same_bits(way, layout, tmp_path):
    w, gradients = start()

    def make():
        return MAKERS["chain"](lambda number: about(number, dtype="float64", layout=layout))

    (expected, _), (params, optimizer) = run(make(), w, gradients), run(make(), w, gradients[:3])
    if way in ("state_dict", "file"):
        saved, optimizer_before = optimizer.state_dict(), optimizer
        optimizer = MAKERS["chain"](float)
        if way == "state_dict":
            optimizer.load_state_dict(saved)
        else:
            optimizer_before.save(tmp_path / "state.npz")
            optimizer.load(tmp_path / "state.npz")
        assert optimizer.main.varying == ("lr",)
        assert optimizer.lr is not optimizer_before.lr
        bits.assert_same_bits(optimizer.lr, optimizer_before.lr)
    elif way == "pickle":
        optimizer = pickle.loads(pickle.dumps(optimizer))
    else:
        optimizer = getattr(copy, way)(optimizer)
    for g in gradients[3:]:
        optimizer.update(params, {"w": g})
    bits.assert_same_bits(params["w"], expected["w"])


def test_loading_numbers_takes_arrays_away_and_bfloat16_comes_back_as_float32(tmp_path):
    optimizer = SGD(np.full(2, 0.5))
    optimizer.load_state_dict(SGD(0.25).state_dict())
    assert (optimizer.lr, optimizer.varying) == (0.25, ())
    w = np.zeros(3)
    optimizer.update(w, np.ones(3))
    assert w.tolist() == [-0.25] * 3
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    SGD(np.full(2, 0.5, bfloat16)).save(tmp_path / "state.npz")
    optimizer.load(tmp_path / "state.npz")
    bits.assert_same_bits(optimizer.lr, np.full(2, 0.5, "float32"))


def test_a_state_with_wrong_arrays_is_refused():
    optimizer = SGD(0.5)
    state = SGD(np.full(2, 0.5)).state_dict()
    state["hyperparameters"]["lr"][1] = -1.0
    with pytest.raises(ValueError, match=r"load_state_dict: lr must be .* got -1.0 at \(1,\)"):
        optimizer.load_state_dict(state)
    assert optimizer.lr == 0.5


def test_they_are_shown_by_dtype_and_shape():
    optimizer = chain(SGD(np.ones((3, 4), "float32")), project(lower=np.zeros((3, 4))))
    assert repr(optimizer) == (
        "chain(SGD(lr=array(float32, (3, 4))), project(lower=array(float64, (3, 4)), upper=inf))"
    )
    (bucket,) = optimizer.explain(np.ones((3, 4), "float32")).buckets
    (graph,) = bucket.graphs
    assert [array.name for array in graph.loaded] == ["w", "g", "h.SGD_lr", "h.project_lower"]
    assert bucket.bytes_per_element == 4 + 4 + 4 + 4 + 8
    assert "reads w, g, h.SGD_lr, h.project_lower; writes w; 24 bytes" in str(bucket)


def test_the_walk_of_an_array_that_lies_otherwise_is_explained():
    engine_runs.require("native")
    w = np.ones((3, 4))
    for lr, says in ((np.ones((3, 4)), False), (np.ones((4, 3)).T, True), (np.ones((4, 3)), None)):
        optimizer = SGD(lr, engine="native")
        if says is None:
            with pytest.raises(ValueError, match=r"SGD.lr is numpy float64 \(4, 3\)"):
                optimizer.explain(w)
            continue
        (bucket,) = optimizer.explain(w).buckets
        assert bool(bucket.layouts) == says


def test_an_array_of_any_library_is_one(xp):
    lr = xp.asarray([0.5, 1.0, 2.0])
    optimizer, w = SGD(lr), xp.zeros(3, dtype=lr.dtype)
    for _ in range(2):
        w = optimizer.update(w, xp.ones(3, dtype=lr.dtype))
    assert [float(x) for x in w] == [-1.0, -2.0, -4.0]
    saved = optimizer.state_dict()
    assert isinstance(saved["hyperparameters"]["lr"], np.ndarray)
    optimizer.load_state_dict(saved)
    assert type(optimizer.lr) is type(lr), "it goes where the array was"
    w = optimizer.update(w, xp.ones(3, dtype=lr.dtype))
    assert [float(x) for x in w] == [-1.5, -3.0, -6.0]


# What is refused --------------------------------------------------------------------------


WRONG = {
    "negative": (np.array([0.5, -1.0]), ValueError, "got -1.0 at (1,) of numpy float64 (2,)"),
    "NaN": (np.array([[0.5, np.nan]]), ValueError, "got nan at (0, 1)"),
    "infinite": (np.array([np.inf, 1.0], "float32"), ValueError, "got inf at (0,)"),
    "integers": (np.array([1, 2]), TypeError, "numpy int64 (2,); convert it to floats"),
    "booleans": (np.array([True, False]), TypeError, "numpy bool (2,); convert it to floats"),
    "complex": (np.array([1j, 1.0]), TypeError, "numpy complex128 (2,)"),
    "objects": (np.array([0.5, None]), TypeError, "numpy object (2,)"),
    "text": (np.array(["a", "b"]), TypeError, "an array of floats of the shape of the parameter"),
}


@pytest.mark.parametrize("name", WRONG)
def test_arrays_outside_of_the_domain_are_refused_when_they_are_set(name):
    wrong, error, text = WRONG[name]
    optimizer = SGD(0.5)
    for set_it in (lambda: SGD(wrong), lambda: setattr(optimizer, "lr", wrong)):
        with pytest.raises(error) as caught:
            set_it()
        assert str(caught.value).startswith("SGD: lr must be a finite number >= 0"), caught.value
        assert text in str(caught.value)
    assert optimizer.lr == 0.5
    assert optimizer.varying == ()
    told = re.escape("SGD, overrides['w']: lr must be")
    with pytest.raises(error, match=told):
        optimizer.overrides = {"w": {"lr": wrong}}
    assert optimizer.overrides == {}
    optimizer.overrides = overrides = {"w": {"lr": 0.5}}
    overrides["w"]["lr"] = wrong  # which nobody hears of
    params = {"w": np.ones(2)}
    with pytest.raises(error, match=told):
        optimizer.update(params, {"w": np.ones(2)})
    assert params["w"].tolist() == [1.0, 1.0]


def strict(values):
    return array_api_strict.asarray(values)


UNFIT = {
    "of another shape": (
        np.ones(3),
        ValueError,
        ["numpy float64 (3,)", "say in `overrides` for which"],
    ),
    "to be broadcast": (np.ones((1, 2)), ValueError, ["an array is for parameters of its shape"]),
    "of another library": (strict([1.0, 1.0]), TypeError, ["convert it with numpy.asarray"]),
    "long double": (np.ones(2, np.longdouble), TypeError, ["convert it to float32"]),
    "of another byte order": (np.ones(2, ">f8"), TypeError, ["convert it to float32"]),
    "masked": (np.ma.array([1.0, 1.0]), TypeError, ["a subclass of numpy.ndarray"]),
    "infinite in float32": (np.array([1.0, 1e39]), ValueError, ["at (1,) is 1e+39", "infinite"]),
}


@engine_runs.every_engine
@pytest.mark.parametrize("name", UNFIT)
def test_arrays_that_do_not_fit_the_parameter_are_refused_before_anything_changes(name, engine):
    engine_runs.require(engine)
    unfit, error, fragments = UNFIT[name]
    params = {"v": np.ones(2, "float32"), "w": np.ones(2, "float32")}
    grads = {"v": np.ones(2, "float32"), "w": np.ones(2, "float32")}
    optimizer = SGD(0.5, engine=engine)
    for taken in range(2):
        optimizer.overrides = {"w": {"lr": unfit}}
        with pytest.raises(error) as caught:
            optimizer.update(params, grads)
        text = str(caught.value)
        assert text.startswith("SGD.update: SGD.lr"), text
        assert [part for part in fragments if part not in text] == [], text
        assert {(w == 1 - 0.5 * taken).all() for w in params.values()} == {True}
        assert optimizer.t == taken
        optimizer.overrides = {}
        optimizer.update(params, grads)


def test_an_array_for_all_of_several_shapes_is_refused_by_the_first_that_differs():
    optimizer = SGD(np.ones(2))
    with pytest.raises(ValueError, match=r"SGD.lr is numpy float64 \(2,\), and params\['b'\] is"):
        optimizer.update({"a": np.ones(2), "b": np.ones(3)}, {"a": np.ones(2), "b": np.ones(3)})


def test_an_element_must_survive_the_rounding_to_the_dtype_of_the_arithmetic():
    optimizer = Adam(eps=np.array([1e-8, 1e-50]))
    optimizer.update(np.ones(2), np.ones(2))
    optimizer.reset()
    with pytest.raises(ValueError, match=r"Adam.eps at \(1,\) is 1e-50, which is 0 in float32"):
        optimizer.update(np.ones(2, "float32"), np.ones(2, "float32"))
    Adam(eps=np.array([1e-8, 0.0])).update(np.ones(2, "float32"), np.ones(2, "float32"))


def test_a_bound_beyond_the_dtype_of_an_array_is_none():
    class Bounded(SGD):
        lr: Annotated[float, Domain(lower=-1e9, upper=1e9)] = 0.1

    w = np.zeros(2)
    Bounded(np.array([0.5, 1.0], "float16")).update(w, np.ones(2))
    assert w.tolist() == [-0.5, -1.0]


class Powers(Optimizer):
    base: float = 0.5

    @staticmethod
    def rule(xp, w, g, s, h):
        return w - 2.0**h.base * g, {}


class Applies(Optimizer):
    base: float = 0.5

    def form_for(self, shape):
        return Form((), between=("scaled",))

    @staticmethod
    def rule(xp, w, g, s, h):
        return w - xp.apply(lambda xp, x, base: base * x, g, base=h.base), {}


REFUSING = {
    "a power": (Adam, "beta1", r"Adam: beta1 is an array, which .* to the power t \(adam.py, line"),
    "an exponent": (Powers, "base", "Powers: base is an array, .* to the power of an array"),
    "scalars": (NAdam, "beta1", "NAdam: beta1 is an array, and NAdam.scalars computes numbers"),
    "whole arrays": (Applies, "base", "Applies: base is an array, which"),
    "a decay": (Adafactor, "decay", "Adafactor: decay is an array, and Adafactor.scalars"),
}


@engine_runs.every_engine
@pytest.mark.parametrize("name", REFUSING)
def test_a_rule_that_needs_a_number_says_which(name, engine):
    engine_runs.require(engine)
    cls, hyperparameter, text = REFUSING[name]
    optimizer, w = cls(engine=engine), np.ones((2, 2))
    setattr(optimizer, hyperparameter, np.full((2, 2), 0.5))
    with pytest.raises(TypeError, match=f"{text}.*; give a number"):
        optimizer.update(w, np.ones((2, 2)))
    assert (w == 1.0).all()
    assert optimizer.t == 0
    setattr(optimizer, hyperparameter, 0.5)
    optimizer.update(w, np.ones((2, 2)))


def test_what_is_given_once_and_what_is_chosen_are_no_arrays():
    with pytest.raises(TypeError, match="accumulate: k must be"):
        accumulate(np.array([2.0]))
    with pytest.raises(TypeError, match="nesterov must be True or False"):
        Masked(nesterov=np.array([1.0]))
    with pytest.raises(TypeError, match="schedule at step 1: lr must be"):
        SGD(lambda t: np.ones(2)).update(np.ones(2), np.ones(2))


def test_a_rule_that_no_engine_fuses_takes_arrays_too():
    class Exponential(Optimizer):
        rate: float = 1.0

        @staticmethod
        def rule(xp, w, g, s, h):
            return w - xp.exp(h.rate) * g, {}

    w, rate = np.zeros(2), np.array([0.0, 1.0])
    Exponential(rate).update(w, np.ones(2))
    np.testing.assert_allclose(w, -np.exp(rate), rtol=1e-15)


def test_an_array_that_is_a_parameter_is_refused_whenever_it_becomes_one():
    lr = np.full(4, 0.5)
    optimizer = SGD(lr)
    for shared in (lr, lr[:], lr[::-1]):
        with pytest.raises(ValueError, match=r"params and SGD.lr share memory, so an update"):
            optimizer.update(shared, np.ones(4))
    room = np.zeros(8)
    optimizer = SGD(room[4:])
    room[4:] = 0.5
    optimizer.update(room[:4], np.ones(4))
    with pytest.raises(ValueError, match="share memory"):
        optimizer.update(room[2:6], np.ones(4))
    assert room.tolist() == [-0.5] * 4 + [0.5] * 4
    params = {"a": np.zeros(2), "b": np.full(2, 0.5)}
    entries = {"a": {"lr": params["b"][:]}, "b": {"lr": np.full(2, 0.5)}}
    for overrides in (entries, dict(reversed(entries.items()))):
        with pytest.raises(ValueError, match=r"params\['b'\] and SGD.lr share memory"):
            SGD(overrides=overrides).update(params, {"a": np.ones(2), "b": np.ones(2)})
    optimizer.update(np.zeros(4), lr := optimizer.lr)  # the gradient may be: both are read
    assert lr.tolist() == [0.5] * 4


def test_an_array_that_changes_its_shape_in_place_is_noticed():
    lr, w = np.full(4, 0.5), np.zeros(4)
    optimizer = SGD(lr)
    optimizer.update(w, np.ones(4))
    lr.resize(400_000, refcheck=False)
    with pytest.raises(ValueError, match="an array is for parameters of its shape alone"):
        optimizer.update(w, np.ones(4))
    assert w.tolist() == [-0.5] * 4


def test_bounds_that_cross_in_an_element_are_refused():
    low, high = np.array([0.0, 2.0]), np.array([1.0, 1.0])
    for lower, upper in ((low, high), (low, 1.0), (2.0, high)):
        with pytest.raises(ValueError, match="lower must not be above upper, got"):
            project(lower, upper)
    bounds = project(upper=high)
    with pytest.raises(ValueError, match="lower must not be above upper"):
        bounds.lower = low
    assert bounds.lower == -np.inf
    optimizer = chain(SGD(1.0), bounds, overrides={"w": {"project_lower": low}})
    params = {"w": np.ones(2)}
    with pytest.raises(ValueError, match="lower must not be above upper"):
        optimizer.update(params, {"w": np.ones(2)})
    assert params["w"].tolist() == [1.0, 1.0]
    project(np.zeros(3), high)  # the step says which of them is not like the parameter


def test_an_array_that_a_schedule_sets_in_the_midst_of_a_step_is_refused():
    w = np.zeros(2)

    def momentum(t):
        if t == 2:
            optimizer.lr = np.ones(2)
        return 0.5

    optimizer = Momentum(0.5, momentum=momentum)
    optimizer.update(w, np.ones(2))
    # Hyperparameters are read in their order: the learning rate of this step is the number.
    optimizer.update(w, np.ones(2))
    optimizer.update(w, np.ones(2))
    assert optimizer.t == 3

    class Late(Momentum):
        late: Annotated[float, Domain()] = 0.5

        @staticmethod
        def rule(xp, w, g, s, h):
            return w - h.late * g, {}

    def lr(t):
        if t == 2:
            late.late = np.ones(2)
        return 0.5

    late, w = Late(lr), np.zeros(2)
    late.update(w, np.ones(2))
    with pytest.raises(RuntimeError, match="Late: late became an array in the midst of a step"):
        late.update(w, np.ones(2))
    assert w.tolist() == [-0.5, -0.5]
    late.update(w, np.ones(2))
    assert w.tolist() == [-1.5, -1.5]
