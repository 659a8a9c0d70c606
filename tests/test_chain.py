"""Chains: one rule out of many, with the same bits everywhere, in the fewest passes."""

import copy
import pickle
import re
from pathlib import Path

import bits
import engine_runs
import numpy as np
import pytest

import instep
from instep import (
    LAMB,
    LARS,
    SGD,
    Adam,
    AdamW,
    Momentum,
    RMSProp,
    ScheduleFreeAdamW,
    Signum,
    Transform,
    chain,
)
from instep.transforms import (
    accumulate,
    average,
    clip_by_global_norm,
    clip_by_norm,
    clip_by_value,
    lookahead,
    maximize,
    project,
    project_norm,
    scale_gradients,
    skip_nonfinite,
    weight_decay,
)


def clipped_averaged_adamw(**settings):
    return chain(clip_by_global_norm(1.0), AdamW(), average(0.999), **settings)


#: Chains by name, and whether they take a norm: one NaN would spread from there to everything.
CHAINS = {
    "clipped, averaged AdamW": (clipped_averaged_adamw, True),
    "one pass of everything": (
        lambda **settings: chain(
            *(scale_gradients(0.5), clip_by_value(2.0), weight_decay(0.1), maximize()),
            *(Momentum(), project(-3.0, 3.0), lookahead(3), average(0.9)),
            **settings,
        ),
        False,
    ),
    "gathered before the norm": (
        lambda **settings: chain(
            skip_nonfinite(), accumulate(3), clip_by_global_norm(0.5), RMSProp(), **settings
        ),
        True,
    ),
    "norms everywhere": (
        lambda **settings: chain(
            clip_by_global_norm(3.0), clip_by_norm(2.0), LAMB(), project_norm(4.0), **settings
        ),
        True,
    ),
    "twice the same": (
        lambda **settings: chain(
            *(clip_by_norm(2.0), weight_decay(0.1), clip_by_norm(1.0)),
            *(LARS(), average(0.5), average(0.9)),
            **settings,
        ),
        True,
    ),
}


def steps_of(name):
    return 50 if name == "clipped, averaged AdamW" else 20


def trees(steps, ordinary):
    """Return parameters of several dtypes and layouts, and gradients of which some are missing."""
    rng = np.random.default_rng(12)
    draw = bits.ordinary if ordinary else bits.wild
    start = {
        "half": bits.ordinary(rng, (130,), "float16"),
        "large": bits.ordinary(rng, (50, 401), "float32"),
        "strided": bits.ordinary(rng, (60, 70), "float32")[::2, ::-1],
        "fortran": np.asfortranarray(bits.ordinary(rng, (30, 7), "float32")),
        "double": bits.ordinary(rng, (41, 9), "float64"),
        "empty": np.zeros((0, 3), "float32"),
        "scalar": np.array(2.5, "float32"),
    }
    gradients = []
    for step in range(steps):
        grads = {key: draw(rng, w.shape, w.dtype) for key, w in start.items()}
        for number, key in enumerate(start):
            if (step + number) % 5 == 0:
                grads[key] = None
        gradients.append(grads)
    return start, gradients


def run(make, start, gradients, **settings):
    params = {key: copy.deepcopy(w) for key, w in start.items()}
    params["strided"] = bits.LAYOUTS["every second"](start["strided"])
    optimizer = make(**settings)
    for grads in gradients:
        optimizer.update(params, grads)
    return params, optimizer


@pytest.fixture(scope="module")
def reference():
    found = {}

    def find(name):
        if name not in found:
            make, ordinary = CHAINS[name]
            found[name] = run(make, *trees(steps_of(name), ordinary), engine="array_api")
        return found[name]

    return find


@engine_runs.every_numpy_engine
@pytest.mark.parametrize("name", CHAINS)
def test_chains_have_the_same_bits_on_every_engine(name, engine, threads, reference):
    engine_runs.require(engine)
    make, ordinary = CHAINS[name]
    got = run(make, *trees(steps_of(name), ordinary), engine=engine, threads=threads)
    engine_runs.assert_same_run(got, reference(name))
    scalars = [
        {key: entry["scalars"] for key, entry in optimizer.state_dict()["states"].items()}
        for _, optimizer in (got, reference(name))
    ]
    assert scalars[0] == scalars[1]
    finite = np.concatenate([w.ravel() for w in got[0].values()])
    assert np.isfinite(finite).mean() > (0.999 if ordinary else 0.9)


@engine_runs.every_numpy_engine
def test_threads_share_a_large_chain_without_a_difference(engine, threads):
    engine_runs.require(engine)
    rng = np.random.default_rng(0)
    start = {f"size {n}": bits.ordinary(rng, n, "float32") for n in (300_007, 16_383, 1, 100_003)}
    runs = []
    for settings in ({"engine": engine, "threads": threads}, {"engine": "array_api"}):
        params, optimizer = (
            {k: w.copy() for k, w in start.items()},
            clipped_averaged_adamw(**settings),
        )
        for _ in range(3):
            optimizer.update(params, {k: w[::-1] for k, w in start.items()})
        runs.append((params, optimizer))
    engine_runs.assert_same_run(*runs)


def test_the_order_of_keys_does_not_matter():
    start, gradients = trees(5, True)
    params, optimizer = run(clipped_averaged_adamw, start, gradients)
    keys = list(start)[::-1]
    backwards = [{key: grads[key] for key in keys} for grads in gradients]
    other = run(clipped_averaged_adamw, {key: start[key] for key in keys}, backwards)
    assert list(other[0]) == keys
    for key in start:
        bits.assert_same_bits(other[0][key], params[key], key)
    engine_runs.assert_same_state(other[1], optimizer)


def test_every_library_has_these_bits(xp):
    """Sums and products; PyTorch rounds neither roots nor a number by an array exactly."""
    rng = np.random.default_rng(3)
    start = {"a": bits.ordinary(rng, 20_000, "float32"), "b": bits.ordinary(rng, (5, 7), "float32")}
    expected, params = {k: w.copy() for k, w in start.items()}, {}
    for key, w in start.items():
        params[key] = xp.asarray(w)
    first, second = (
        chain(clip_by_global_norm(1.0), weight_decay(0.1), Momentum(), average(0.9))
        for _ in range(2)
    )
    for _ in range(4):
        grads = {key: bits.ordinary(rng, w.shape, "float32") for key, w in start.items()}
        first.update(expected, grads)
        params = second.update(params, {key: xp.asarray(g) for key, g in grads.items()})
    engine_runs.assert_same_state(second, first)


# What it costs ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "dtype", "moved"),
    [
        # g; then w, g, m, v, average read and w, m, v, average written, 4 bytes each.
        ((clip_by_global_norm(1.0), AdamW(), average(0.999)), "float32", (4, 36)),
        ((clip_by_global_norm(1.0), AdamW(), average(0.999)), "float16", (2, 3 * 2 + 6 * 4)),
        ((clip_by_global_norm(1.0), AdamW(), average(0.999)), "float64", (8, 72)),
        ((AdamW(), average(0.999)), "float32", (36,)),
        (
            (scale_gradients(0.5), clip_by_value(), weight_decay(), maximize(), SGD()),
            "float32",
            (12,),
        ),
        ((SGD(), project(0.0)), "float32", (12,)),
        # In most steps a lookahead moves nothing.
        ((SGD(), lookahead(5)), "float32", (12,)),
        ((SGD(), lookahead(1)), "float32", (20,)),
        # Most calls add g to the sum, and that is all.
        ((accumulate(4), AdamW()), "float32", (12,)),
        ((clip_by_norm(1.0), SGD()), "float32", (4, 12)),
        ((skip_nonfinite(), SGD()), "float32", (4, 12)),
        # Both sums are of g.
        ((skip_nonfinite(), clip_by_global_norm(1.0), SGD()), "float32", (4, 12)),
        # The norm of the new parameter: all that makes it, twice.
        ((AdamW(), project_norm(1.0)), "float32", (16, 28)),
        # One norm after the other.
        ((clip_by_global_norm(1.0), clip_by_norm(1.0), SGD()), "float32", (4, 4, 12)),
    ],
    ids=str,
)
def test_a_chain_takes_the_fewest_passes(parts, dtype, moved):
    (bucket,) = chain(*parts).explain({"a": np.zeros(3, dtype), "b": np.zeros(5, dtype)}).buckets
    assert tuple(graph.bytes_per_element for graph in bucket.graphs) == moved
    assert bucket.passes == bucket.launches == len(moved)
    assert bucket.bytes_per_element == sum(moved)


def rows_of_documentation():
    """Return (chain, passes, bytes) for the rows of the table in the documentation."""
    text = (Path(__file__).parent.parent / "docs" / "composing.md").read_text()
    return re.findall(r"^\| `(.+)` \| (\d) \| ([\d +]+) \|$", text, flags=re.MULTILINE)


@pytest.mark.parametrize(("expression", "passes", "moved"), rows_of_documentation())
def test_the_documentation_counts_right(expression, passes, moved):
    optimizer = eval(expression, vars(instep) | vars(instep.transforms))
    (bucket,) = optimizer.explain(np.zeros(3, "float32")).buckets
    assert bucket.passes == int(passes)
    assert " + ".join(str(graph.bytes_per_element) for graph in bucket.graphs) == moved


def test_the_documentation_counts():
    assert len(rows_of_documentation()) > 10


def test_explain_says_what_each_pass_moves():
    text = str(clipped_averaged_adamw(engine="blocked").explain({"w": np.zeros(3, "float32")}))
    for part in (
        "chain(clip_by_global_norm(max_norm=1.0), AdamW(",
        "pass 1 of 2: reads g; reduces to sum 0 over the tree; 4 bytes an element",
        "pass 2 of 2: reads w, g, AdamW_m, AdamW_v, average_average;",
        "writes w, AdamW_m, AdamW_v, average_average; 36 bytes an element",
        "in all 40 bytes an element",
    ):
        assert part in text


# Order -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "error", "message"),
    [
        ((average(0.9), SGD()), ValueError, "average works on the parameters .* put it after SGD"),
        ((project(0.0), SGD()), ValueError, "project works on the parameters after the step"),
        (
            (SGD(), clip_by_value(1.0)),
            ValueError,
            "clip_by_value works on gradients, which SGD has",
        ),
        ((SGD(), average(), accumulate(2)), ValueError, "put it before the optimizer"),
        ((), ValueError, "exactly one optimizer, got 0"),
        ((clip_by_value(1.0),), ValueError, "exactly one optimizer, got 0"),
        ((SGD(), Adam()), ValueError, "exactly one optimizer, got 2"),
        (
            (clip_by_value, SGD()),
            TypeError,
            r"class; write clip_by_value\(\.\.\.\)",
        ),
        ((maximize(), SGD), TypeError, "SGD is a class"),
        ((chain(SGD()),), TypeError, "not a chain"),
        ((0.5, SGD()), TypeError, "0.5 is neither a transform nor an optimizer"),
    ],
)
def test_an_order_that_makes_no_sense_is_an_error(parts, error, message):
    with pytest.raises(error, match=message):
        chain(*parts)


def test_the_order_is_the_order_of_application():
    gradient = np.array([4.0])
    for parts, expected in [
        ((clip_by_value(1.0), scale_gradients(0.5)), -0.5),
        ((scale_gradients(0.5), clip_by_value(1.0)), -1.0),
    ]:
        assert chain(*parts, SGD(1.0)).update(np.zeros(1), gradient).item() == expected
    for parts, expected in [
        ((project(upper=1.0), lookahead(1, 0.5)), 0.5),
        ((lookahead(1, 0.5), project(upper=1.0)), 1.0),
    ]:
        assert chain(SGD(1.0), *parts).update(np.zeros(1), -gradient).item() == expected


# Hyperparameters and state ---------------------------------------------------------------


def test_hyperparameters_may_change_between_steps():
    clip, main = clip_by_norm(1.0), SGD(1.0)
    optimizer, w = chain(clip, main), np.zeros(1)
    optimizer.update(w, np.array([4.0]))
    assert w.item() == -1.0
    optimizer.lr = 0.5
    assert (optimizer.lr, main.lr) == (0.5, 0.5)
    optimizer.update(w, np.array([4.0]))
    assert w.item() == -1.5
    clip.max_norm = 2.0
    optimizer.update(w, np.array([4.0]))
    assert w.item() == -2.5
    clip.max_norm = float  # 4 in the fourth step
    optimizer.lr = lambda t: 1 / t
    optimizer.update(w, np.array([8.0]))
    assert w.item() == -3.5
    with pytest.raises(ValueError, match="max_norm must be a finite number > 0"):
        clip.max_norm = 0
    with pytest.raises(ValueError, match="lr must be"):
        optimizer.lr = -1
    for name in ("max_norm", "nonsense"):
        with pytest.raises(AttributeError, match=name):
            setattr(optimizer, name, 1.0)
        with pytest.raises(AttributeError, match=name):
            getattr(optimizer, name)


def test_an_option_of_the_optimizer_may_change_between_steps():
    rng = np.random.default_rng(0)
    w, optimizer = rng.standard_normal(9), chain(clip_by_norm(1.0), RMSProp())
    expected, clipped = w.copy(), RMSProp()
    for step in range(4):
        g = rng.standard_normal(9) / 10  # within the norm
        optimizer.centered = clipped.centered = step >= 2
        optimizer.update(w, g)
        clipped.update(expected, g)
    bits.assert_same_bits(w, expected)


@pytest.mark.parametrize("how", ["state_dict", "pickle", "deepcopy"])
@pytest.mark.parametrize("name", CHAINS)
def test_a_restored_chain_goes_on_with_the_same_bits(name, how):
    make, ordinary = CHAINS[name]
    start, gradients = trees(10, ordinary)
    params, optimizer = run(make, start, gradients[:5])
    match how:
        case "state_dict":
            restored = make().load_state_dict(pickle.loads(pickle.dumps(optimizer.state_dict())))
        case "pickle":
            restored = pickle.loads(pickle.dumps(optimizer))
        case _:
            restored = copy.deepcopy(optimizer)
    other = {key: w.copy() for key, w in params.items()}
    for grads in gradients[5:]:
        optimizer.update(params, grads)
        restored.update(other, grads)
    engine_runs.assert_same_run((other, restored), (params, optimizer))


def test_a_state_of_another_chain_is_refused():
    state = clipped_averaged_adamw().state_dict()
    with pytest.raises(ValueError, match="no hyperparameter 'average_decay'"):
        chain(clip_by_global_norm(1.0), AdamW()).load_state_dict(state)
    with pytest.raises(ValueError, match="belongs to AdamW"):
        clipped_averaged_adamw().load_state_dict(AdamW().state_dict())


def test_a_chain_shows_what_it_is_made_of():
    optimizer = chain(clip_by_value(0.5), SGD(0.1), project(0.0), engine="blocked", threads=1)
    assert repr(optimizer) == (
        "chain(clip_by_value(limit=0.5), SGD(lr=0.1), project(lower=0.0, upper=inf), "
        "engine='blocked', threads=1)"
    )
    assert (chain(SGD(engine="array_api")).engine, chain(SGD(threads=2)).threads) == (
        "array_api",
        2,
    )


def test_methods_of_the_optimizer_see_its_state_in_the_chain():
    rng = np.random.default_rng(0)
    start, plain = rng.standard_normal(6), ScheduleFreeAdamW(0.1)
    w, expected = start.copy(), start.copy()
    optimizer = chain(weight_decay(0.0), ScheduleFreeAdamW(0.1), average(0.5))
    for _ in range(3):
        g = rng.standard_normal(6)
        optimizer.update(w, g)
        plain.update(expected, g)
    bits.assert_same_bits(w, expected)
    bits.assert_same_bits(optimizer.eval_params(w), plain.eval_params(expected))
    assert not np.array_equal(optimizer.eval_params(w), w)
    assert not hasattr(chain(SGD()), "eval_params")


# Transforms of one's own -------------------------------------------------------------------


class centralize(Transform):  # noqa: N801 - transforms are called like functions
    """Subtract the mean of the gradient of each tensor (Yong et al. 2020, arXiv:2004.01461)."""

    stage = "gradient"

    share: float = 1.0

    @staticmethod
    def rule(xp, w, g, s, h):
        return g - h.share * (xp.sum(g) / xp.sum(xp.ones_like(g))), {}


class friction(Transform):  # noqa: N801 - transforms are called like functions
    """Go back a share of the last move, on one of two ways."""

    stage = "parameter"

    share: float = 0.25
    signed: bool = False

    slots = ("last",)

    def initial_state(self):
        return {"last": "w"}

    @staticmethod
    def rule(xp, w, g, s, h):
        move = xp.sign(w - s.last) if h.signed else w - s.last
        w = w - h.share * move
        return w, {"last": w}


@engine_runs.every_engine
@pytest.mark.parametrize("signed", [False, True])
def test_a_transform_of_ones_own_fuses_like_any_other(engine, signed):
    engine_runs.require(engine)
    rng = np.random.default_rng(5)
    start = rng.standard_normal((40, 30))
    gradients = [rng.standard_normal((40, 30)) for _ in range(4)]
    optimizer = chain(
        centralize(0.5), SGD(0.5), friction(0.5, signed), friction(0.25), engine=engine
    )
    w = start.copy()
    expected, lasts = start.copy(), [start.copy(), start.copy()]
    for g in gradients:
        optimizer.update(w, g)
        expected = expected - 0.5 * (g - 0.5 * g.mean())
        for i, share in enumerate((0.5, 0.25)):
            move = expected - lasts[i]
            expected = expected - share * (np.sign(move) if signed and i == 0 else move)
            lasts[i] = expected
    np.testing.assert_allclose(w, expected, rtol=0, atol=1e-13)  # values and their errors are O(1)
    if engine != "array_api":
        assert [bucket.passes for bucket in optimizer.explain(w).buckets] == [2]


class foo(Transform):  # noqa: N801 - transforms are called like functions
    """Adds to the gradient; named so that prefixes of names can meet."""

    stage = "gradient"

    amount: float = 1.0

    slots = ("seen",)

    @staticmethod
    def rule(xp, w, g, s, h):
        return g + h.amount, {"seen": s.seen + h.amount}


class foo2(foo):  # noqa: N801 - transforms are called like functions
    """Another one."""


def test_parts_of_one_name_stay_apart():
    optimizer = chain(foo(1.0), foo(10.0), foo2(100.0), foo2(1000.0), SGD(1.0))
    w = optimizer.update(np.zeros(1), np.zeros(1))
    assert w.item() == -1111.0
    slots = engine_runs.slots_of(optimizer)[""]
    assert sorted(slot.item() for slot in slots.values()) == [1.0, 10.0, 100.0, 1000.0]
    assert len(optimizer.parts) == 5


def test_a_faulty_transform_says_what_is_wrong():
    class Stageless(Transform):
        @staticmethod
        def rule(xp, w, g, s, h):
            return g, {}

    class Bare(clip_by_value):
        @staticmethod
        def rule(xp, w, g, s, h):
            return g

    class Slotless(clip_by_value):
        @staticmethod
        def rule(xp, w, g, s, h):
            return g, {"x": g}

    class Ending(clip_by_value):
        @staticmethod
        def rule(xp, w, g, s, h):
            return None, {}

    with pytest.raises(
        TypeError, match='Stageless: the class attribute `stage` must be "gradient"'
    ):
        Stageless()
    for cls, message in [
        (Bare, "Bare.rule must return a pair"),
        (Slotless, "Slotless.rule returned slot 'x'"),
        (Ending, "Ending.rule returned None for the gradient"),
    ]:
        for engine in ("auto", "array_api"):
            w = np.zeros(2)
            with pytest.raises(TypeError, match=message):
                chain(cls(), SGD(1.0), engine=engine).update(w, np.ones(2))
            assert not w.any()


def test_a_transform_with_an_operation_of_its_library_runs_unfused():
    class saturate(Transform):  # noqa: N801 - transforms are called like functions
        stage = "gradient"

        @staticmethod
        def rule(xp, w, g, s, h):
            return xp.tanh(g), {}

    optimizer, w = chain(saturate(), Signum(0.5)), np.zeros(2)
    optimizer.update(w, np.array([3.0, -3.0]))
    np.testing.assert_array_equal(w, [-0.5, 0.5])
    (bucket,) = optimizer.explain(w).buckets
    assert (bucket.engine, bucket.passes) == ("array_api", None)
    assert "xp.tanh" in bucket.note
