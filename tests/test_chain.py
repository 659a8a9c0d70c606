"""Chains: one rule out of many, with the same bits everywhere, in the fewest passes."""

import copy
import pickle
import re
from pathlib import Path

import bits
import cases
import engine_runs
import numpy as np
import pytest
from chains import CHAINS, clipped_averaged_adamw, steps_of, trees

import instep
from instep import (
    LAMB,
    SGD,
    Adam,
    AdamW,
    Momentum,
    Optimizer,
    RMSProp,
    ScheduleFreeAdamW,
    Signum,
    Transform,
    arrays,
    chain,
    partition,
)
from instep.transforms import (
    accumulate,
    average,
    cautious,
    clip_by_global_norm,
    clip_by_norm,
    clip_by_value,
    decoupled_weight_decay,
    lookahead,
    maximize,
    project,
    project_norm,
    scale_gradients,
    skip_nonfinite,
    trust_ratio,
    weight_decay,
)


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
def test_threads_share_a_large_chain_without_a_difference(engine, threads, eager_threads):
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
            optimizer.update(params, {k: w[::-1].copy() for k, w in start.items()})
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
        params[key] = xp.asarray(w, copy=True)
    first, second = (
        chain(clip_by_global_norm(1.0), weight_decay(0.1), Momentum(), average(0.9))
        for _ in range(2)
    )
    for _ in range(4):
        grads = {key: bits.ordinary(rng, w.shape, "float32") for key, w in start.items()}
        first.update(expected, grads)
        params = second.update(params, {key: xp.asarray(g) for key, g in grads.items()})
    for key, w in params.items():
        bits.assert_same_bits(arrays.to_numpy(w), expected[key], key)
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
    optimizer = eval(expression, vars(instep) | vars(instep.transforms) | {"np": np})
    (bucket,) = optimizer.explain(np.zeros(3, "float32")).buckets
    assert bucket.passes == int(passes)
    assert " + ".join(str(graph.bytes_per_element) for graph in bucket.graphs) == moved


def test_the_documentation_counts():
    assert len(rows_of_documentation()) > 10


def test_explain_says_what_each_pass_moves():
    text = str(clipped_averaged_adamw(engine="blocked").explain({"w": np.zeros(3, "float32")}))
    for part in (
        "chain(clip_by_global_norm(max_norm=1.0), AdamW(",
        "pass 1 of 2: reads g; reduces to 1 sum over the tree; 4 bytes an element",
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
        ((cautious(), SGD()), ValueError, "cautious works on the step; put it after SGD"),
        (
            (SGD(), cautious(), project(0.0), trust_ratio()),
            ValueError,
            "trust_ratio works on the step, and project on the .*; put trust_ratio before project",
        ),
        (
            (accumulate(2), skip_nonfinite(), SGD()),
            ValueError,
            "stands after accumulate: .* one NaN .*; put skip_nonfinite before accumulate",
        ),
        (
            (accumulate(1), clip_by_value(), skip_nonfinite(), SGD()),
            ValueError,
            "put skip_nonfinite before accumulate",
        ),
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
        ((0.5, SGD()), TypeError, "0.5 is neither a transform nor an optimizer; give transforms"),
        (("adam",), TypeError, r"'adam' is neither .* one optimizer, such as Adam\(\)$"),
        ((lambda g: g, SGD()), TypeError, "lambda> at .* is neither .*class derived from Transf"),
        (([maximize(), SGD()],), TypeError, r"got a list of .* one by one, chain\(\*parts\)"),
    ],
)
def test_an_order_that_makes_no_sense_is_an_error(parts, error, message):
    with pytest.raises(error, match=message):
        chain(*parts)


class Demanding(Optimizer):
    """Takes a step only along gradients that are not negative."""

    lr: float = 1.0

    @staticmethod
    def rule(xp, w, g, s, h):
        xp.require(g >= 0)
        return w - h.lr * g, {}


@engine_runs.every_engine
def test_what_does_not_say_that_it_turns_calls_away_is_found_out(engine):
    """At the first step after gathering: not silently, and nothing has changed."""
    engine_runs.require(engine)
    optimizer, w = chain(accumulate(2), Demanding(), engine=engine), np.zeros(1)
    optimizer.update(w, np.ones(1))
    for _ in range(2):
        with pytest.raises(ValueError, match="Demanding may turn calls away, but stands after acc"):
            optimizer.update(w, np.ones(1))
    assert (w.item(), optimizer.t, optimizer.skipped) == (0.0, 1, 0)
    before = chain(Demanding(), engine=engine)
    before.update(w, -np.ones(1))
    before.update(w, np.ones(1))
    assert (w.item(), before.t, before.skipped) == (-1.0, 1, 1)


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
    def make(*parts):
        optimizer, w = chain(*parts), np.ones(2)
        optimizer.update(w, np.ones(2))
        return optimizer

    parts = clip_by_global_norm(2.0), weight_decay(0.25), AdamW(), average(0.9)
    state = make(*parts).state_dict()
    for others in [
        (weight_decay(0.5), clip_by_global_norm(1.0), AdamW(), average(0.999)),
        (clip_by_global_norm(1.0), weight_decay(0.5), AdamW()),
        (clip_by_global_norm(1.0), weight_decay(0.5), Adam(), average(0.999)),
        (clip_by_norm(1.0), weight_decay(0.5), AdamW(), average(0.999)),
        (clip_by_global_norm(1.0), weight_decay(0.5), AdamW(), average(0.999), project(0.0)),
    ]:
        optimizer = make(*others)
        before, text = optimizer.state_dict(), repr(optimizer)
        with pytest.raises(
            ValueError,
            match="is of the chain clip_by_global_norm, weight_decay, AdamW, average, and this one",
        ):
            optimizer.load_state_dict(state)
        assert repr(optimizer) == text
        engine_runs.assert_same_state(optimizer, make(*others).load_state_dict(before))
    with pytest.raises(ValueError, match="belongs to AdamW"):
        make(*parts).load_state_dict(AdamW().state_dict())


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


def test_the_answer_of_the_optimizer_is_made_of_its_state_in_the_chain():
    rng = np.random.default_rng(0)
    start, plain = rng.standard_normal(6), ScheduleFreeAdamW(0.1)
    w, expected = start.copy(), start.copy()
    optimizer = chain(weight_decay(0.0), ScheduleFreeAdamW(0.1), average(0.5))
    for _ in range(3):
        g = rng.standard_normal(6)
        optimizer.update(w, g)
        plain.update(expected, g)
    bits.assert_same_bits(w, expected)
    bits.assert_same_bits(optimizer.answer(w, which=0), plain.answer(expected))
    assert not np.array_equal(optimizer.answer(w, which=0), w)
    assert not np.array_equal(optimizer.answer(w, which=0), optimizer.answer(w, which=1))


# Parts of the tree -------------------------------------------------------------------------


def layers(seed, dtype="float32"):
    rng = np.random.default_rng(seed)
    sizes = {"first": (30, 20), "last": (20, 3)}
    return {
        f"{layer}/{name}": bits.ordinary(rng, shape if name == "weight" else shape[1:], dtype)
        for layer, shape in sizes.items()
        for name in ("weight", "bias")
    }


@engine_runs.every_numpy_engine
@pytest.mark.parametrize("dtype", bits.DTYPES)
def test_overrides_reach_transforms_by_their_names(engine, threads, dtype):
    """As separate chains, where nothing is taken over the tree."""
    engine_runs.require(engine)
    settings = {"engine": engine, "threads": threads}

    def make(decay, second, lr, limit, upper, mean, **more):
        parts = weight_decay(decay), clip_by_norm(limit), weight_decay(second), Momentum(lr)
        return chain(*parts, project(upper=upper), average(mean), **settings, **more)

    ordinary = (0.1, 0.01, 0.5, 1.0, 2.0, 0.9)
    optimizer = make(
        *ordinary,
        overrides={
            "*/bias": {"weight_decay_rate": 0.0, "weight_decay2_rate": lambda t: 0.5 / t},
            "last/*": {"lr": 0.25, "clip_by_norm_max_norm": 0.5, "project_upper": 1.0},
            "first/bias": {"average_decay": 0.5},
        },
    )
    others = {
        "first/weight": make(*ordinary),
        "first/bias": make(0.0, lambda t: 0.5 / t, 0.5, 1.0, 2.0, 0.5),
        "last/weight": make(0.1, 0.01, 0.25, 0.5, 1.0, 0.9),
        "last/bias": make(0.0, lambda t: 0.5 / t, 0.25, 0.5, 1.0, 0.9),
    }
    params, separate = layers(0, dtype), layers(0, dtype)
    for step in range(1, 6):
        grads = layers(step, dtype)
        optimizer.update(params, grads)
        for key, other in others.items():
            other.update(separate[key], grads[key])
    averages = optimizer.averaged(params)
    for key, other in others.items():
        bits.assert_same_bits(params[key], separate[key], key)
        bits.assert_same_bits(averages[key], other.averaged(separate[key]), key)


@engine_runs.every_numpy_engine
def test_groups_of_transforms_have_the_same_bits_on_every_engine(engine, threads):
    engine_runs.require(engine)
    runs = []
    for settings in ({"engine": engine, "threads": threads}, {"engine": "array_api"}):
        optimizer = chain(
            *(accumulate(2), weight_decay(0.1), clip_by_global_norm(1.0), Adam(0.1)),
            *(lookahead(3), average(0.9)),
            overrides={
                "*/bias": {"weight_decay_rate": 0.0, "lookahead_k": 2},
                "last/*": {"clip_by_global_norm_max_norm": 0.5, "average_decay": 0.5},
            },
            frozen=["first/bias"],
            **settings,
        )
        params = layers(0)
        for step in range(1, 9):
            optimizer.update(params, layers(step) | ({"last/bias": None} if step == 3 else {}))
        runs.append((params, optimizer))
    engine_runs.assert_same_run(*runs)
    bits.assert_same_bits(runs[0][0]["first/bias"], layers(0)["first/bias"])


def test_a_name_of_the_optimizer_is_its_own():
    """The optimizer's `weight_decay_rate` is not the rate of the transform `weight_decay`."""

    class Decaying(SGD):
        weight_decay_rate: float = 0.0

        @staticmethod
        def rule(xp, w, g, s, h):
            return w - h.lr * g - h.weight_decay_rate * w, {}

    optimizer = chain(weight_decay(0.0), Decaying(1.0))
    optimizer.overrides = {"*": {"weight_decay_rate": 0.25}}
    assert optimizer.update(np.ones(1), np.zeros(1)).item() == 0.75


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"rate": 0.0}, ValueError, "'rate' cannot be overridden; Chain has the numbers weight_de"),
        ({"weight_decay2_rate": 0.0}, ValueError, "'weight_decay2_rate' cannot be overridden"),
        ({"SGD_lr": 0.0}, ValueError, "'SGD_lr' cannot be overridden; .* weight_decay_rate, lr, "),
        ({"accumulate_k": 3}, ValueError, "'accumulate_k' cannot be overridden"),
        ({"weight_decay_rate": -1}, ValueError, r"\['a'\]: rate must be a finite number >= 0"),
        ({"weight_decay_rate": "no"}, TypeError, r"\['a'\]: rate must be a finite number >= 0"),
    ],
)
def test_an_override_that_a_chain_does_not_know_is_an_error(values, error, message):
    params, grads = {"a": np.ones(1)}, {"a": np.ones(1)}
    optimizer = chain(accumulate(2), weight_decay(0.1), SGD())
    with pytest.raises(error, match=message):
        optimizer.overrides = {"a": values}
    optimizer.overrides = overrides = {"a": {}}
    overrides["a"] |= values  # which nobody hears of
    with pytest.raises(error, match=message):
        optimizer.update(params, grads)
    assert (optimizer.t, params["a"].item()) == (0, 1.0)


def test_groups_of_a_chain_are_set_at_the_chain():
    def step(optimizer):
        params = {"a": np.zeros(1), "b": np.zeros(1)}
        optimizer.update(params, {"a": np.ones(1), "b": np.ones(1)})
        return [-w.item() for w in params.values()]

    main = SGD(1.0, overrides={"a": {"lr": 2.0}}, frozen=["b"])
    assert step(chain(main)) == [2.0, 0.0]
    assert step(chain(main, overrides={}, frozen=())) == [1.0, 1.0]
    optimizer = chain(main, overrides={"b": {"lr": 3.0}}, frozen=["a"])
    assert step(optimizer) == [0.0, 3.0]
    assert "overrides={'b': {'lr': 3.0}}, frozen=('a',))" in repr(optimizer)
    optimizer.frozen, optimizer.overrides = (), {"a": {"lr": 4.0}}
    assert step(optimizer) == [4.0, 1.0]
    assert (main.frozen, main.overrides) == (("b",), {"a": {"lr": 2.0}})
    for keyword, value in [("overrides", ["a"]), ("frozen", "a"), ("frozen", 1)]:
        with pytest.raises(TypeError, match=f"Chain: {keyword} must be"):
            chain(main, **{keyword: value})


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


class foo_x(Transform):  # noqa: N801 - transforms are called like functions
    """Has the slot and the hyperparameter which, after its name, are those of another class."""

    stage = "gradient"

    y: float = 0.0

    slots = ("y",)

    @staticmethod
    def rule(xp, w, g, s, h):
        return g + h.y, {"y": s.y + h.y}


def named(name, **numbers):
    """Return a class like `foo_x`, with another name and a number and a slot of this name."""
    (number,) = numbers

    def rule(xp, w, g, s, h):
        return g + getattr(h, number), {number: getattr(s, number) + getattr(h, number)}

    body = {"__annotations__": {number: float}, "stage": "gradient", "slots": (number,)}
    return type(name, (Transform,), {**body, **numbers, "rule": staticmethod(rule)})


@engine_runs.every_engine
def test_names_that_run_together_stay_apart(engine):
    """`x_y` of `foo`, and `y` of `foo_x`, as slots and as hyperparameters."""
    engine_runs.require(engine)
    foo_of_x = named("foo", x_y=1.0)
    for parts in [
        (foo_of_x(1.0), foo_x(10.0)),
        (foo_x(10.0), foo_of_x(1.0)),
        (foo_x(5.0), foo_of_x(0.5), foo_x(5.0), foo_of_x(0.5)),
        (named("foo_x2", y=4.0)(4.0), foo_x(3.0), named("foo", x2_y=1.0)(2.0), foo_x(2.0)),
    ]:
        optimizer = chain(*parts, SGD(1.0), engine=engine)
        for _ in range(2):
            w = optimizer.update(np.zeros(1), np.zeros(1))
        assert w.item() == -11.0
        slots = engine_runs.slots_of(optimizer)[""]
        assert len(slots) == len(parts)
        assert sum(slot.item() for slot in slots.values()) == 22.0
        prefixes = list(optimizer.parts)
        assert not any(a != b and a.startswith(b) for a in prefixes for b in prefixes)
        same = chain(*parts, SGD(1.0), engine=engine).load_state_dict(optimizer.state_dict())
        engine_runs.assert_same_state(same, optimizer)


def test_a_name_that_is_taken_is_refused_with_the_class():
    with pytest.raises(TypeError, match="rates: no hyperparameter can be called 't'"):
        named("rates", t=1.0)
    with pytest.raises(TypeError, match="Timed: no hyperparameter can be called 't'"):
        type("Timed", (SGD,), {"__annotations__": {"t": float}, "t": 1.0})
    with pytest.raises(TypeError, match="Timed: no scalar can be called 't'"):
        type("Timed", (SGD,), {"scalar_slots": {"t": 0.0}})
    with pytest.raises(TypeError, match="Doubled: 'lr' is a hyperparameter and one of the scalar"):
        type("Doubled", (SGD,), {"scalar_slots": {"lr": 0.0}})
    with pytest.raises(TypeError, match="no hyperparameter can be called 'period'"):
        named("waits", period=2.0)


@engine_runs.every_engine
@pytest.mark.parametrize("name", ["t", "lr", "centered"])
def test_a_number_of_the_step_that_has_a_name_that_is_taken_is_refused(engine, name):
    engine_runs.require(engine)

    class Renaming(RMSProp):
        @staticmethod
        def scalars(h):
            return {name: 1.0}

    for optimizer in (Renaming(engine=engine), chain(Renaming(), engine=engine)):
        w = np.zeros(1)
        with pytest.raises(TypeError, match=rf"Renaming\.scalars returned '{name}', which is in"):
            optimizer.update(w, np.ones(1))
        assert (w.item(), optimizer.t) == (0.0, 0)


@engine_runs.every_engine
@cases.every_class
def test_a_chain_of_an_optimizer_alone_is_that_optimizer(case, engine):
    engine_runs.require(engine)
    rng = np.random.default_rng(0)
    start = {"a": rng.standard_normal((4, 3)), "b": rng.standard_normal(5)}
    groups = {"overrides": {"b": {"lr": 0.5}}, "engine": engine}
    runs = [
        ({k: w.copy() for k, w in start.items()}, optimizer)
        for optimizer in (chain(case.make(**groups)), case.make(**groups))
    ]
    for _ in range(8):
        grads = {"a": rng.standard_normal((4, 3)), "b": rng.standard_normal(5)}
        for params, optimizer in runs:
            cases.step(optimizer, params, grads)
    for key in start:
        bits.assert_same_bits(runs[0][0][key], runs[1][0][key], key)


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

    class Timeless(Ending):
        @staticmethod
        def scalars(h):
            return {"complete": h.t % 2 == 0}

    class Decided(Ending):
        period = 2

    with pytest.raises(
        TypeError, match='Stageless: the class attribute `stage` must be "gradient"'
    ):
        Stageless()
    for cls, message in [
        (Bare, "Bare.rule must return a pair"),
        (Slotless, "Slotless.rule returned slot 'x'"),
        (Ending, "Ending.rule returned None for the gradient"),
        (Timeless, "Timeless.rule returned None for the gradient, but has no attribute `period`"),
        (Decided, "Decided.rule returned None .* in a call that `scalars` does not call incompl"),
    ]:
        for engine in ("auto", "array_api"):
            w = np.zeros(2)
            with pytest.raises(TypeError, match=message):
                chain(cls(), SGD(1.0), engine=engine).update(w, np.ones(2))
            assert not w.any()


@pytest.mark.parametrize("period", [0, -1, 2.0, "2", None])
def test_a_period_is_a_number_of_calls(period):
    faulty = type("Faulty", (accumulate,), {"period": period})
    with pytest.raises(TypeError, match=f"`period` of Faulty, .* integer >= 1, got {period!r}"):
        chain(faulty(2), SGD())


def test_only_a_transform_of_the_gradient_has_a_period():
    for cls, parts in [(average, (SGD(),)), (SGD, ())]:
        periodic = type("Periodic", (cls,), {"period": 2})
        with pytest.raises(TypeError, match="Periodic has an attribute `period`, but is no trans"):
            chain(*parts, periodic())


def test_an_optimizer_may_call_something_complete():
    """Only what gathers gradients makes what stands after it wait."""

    class Completing(SGD):
        @staticmethod
        def scalars(h):
            return {"complete": False}

    optimizer, w = chain(Completing(1.0), lookahead(1, 0.5), average(0.5)), np.zeros(1)
    optimizer.update(w, np.ones(1))
    assert (w.item(), optimizer.averaged(w).item()) == (-0.5, -0.5)


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


def test_an_attribute_that_a_chain_does_not_have_is_named_beside_those_it_has():
    optimizer = chain(clip_by_global_norm(1.0), Momentum())
    own = "it has lr, momentum, dampening, lr_in_velocity, clip_by_global_norm_max_norm; an attr"
    with pytest.raises(AttributeError, match=own):
        optimizer.warmth = 2.0
    for name, told in (
        ("max_norm", "write optimizer.clip_by_global_norm_max_norm$"),
        ("clip_by_global_norm", "it has clip_by_global_norm_max_norm$"),
        ("beta1", "it is called momentum here"),
    ):
        with pytest.raises(AttributeError, match=told):
            setattr(optimizer, name, 2.0)
        with pytest.raises(AttributeError, match=told):
            getattr(optimizer, name)


def test_hyperparameters_of_transforms_have_the_names_that_they_have_in_overrides():
    decays = weight_decay(0.5), weight_decay(0.25)
    optimizer, w = chain(*decays, SGD(lr=1.0)), np.ones(2)
    assert (optimizer.weight_decay_rate, optimizer.weight_decay2_rate) == (0.5, 0.25)
    optimizer.update(w, np.zeros(2))
    assert w.tolist() == [0.125 / 0.5] * 2
    optimizer.weight_decay2_rate = 0
    optimizer.update(w, np.zeros(2))
    assert w.tolist() == [0.125] * 2
    assert [rule.rate for rule in decays] == [0.5, 0.0]
    assert optimizer.readings["weight_decay2_rate"] == 0.0
    with pytest.raises(ValueError, match=r"^weight_decay: rate must be .*, got -1$"):
        optimizer.weight_decay_rate = -1
    assert {"lr", "weight_decay_rate", "weight_decay2_rate", "update"} <= {*dir(optimizer)}


def test_a_chain_of_a_partition_has_those_of_its_transforms():
    optimizer = chain(
        clip_by_global_norm(1.0), partition({"a": Adam(), "*": chain(weight_decay(0.5), SGD())})
    )
    optimizer.clip_by_global_norm_max_norm = 2.0
    assert optimizer.clip_by_global_norm_max_norm == 2.0
    for name, selector in (("lr", "a"), ("weight_decay_rate", "*")):
        told = re.escape(f"write optimizer.branches[{selector!r}].{name}")
        with pytest.raises(AttributeError, match=told):
            getattr(optimizer, name)
        with pytest.raises(AttributeError, match=told):
            setattr(optimizer, name, 0.5)
    assert {"branches", "clip_by_global_norm_max_norm"} <= {*dir(optimizer)}


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("lr", r"'lr'; give it to the rule that has it, as in SGD\(lr=\.\.\.\)$"),
        ("rate", r"'rate'; give it to the rule that has it, as in weight_decay\(rate=\.\.\.\)$"),
        ("learning_rate", "'learning_rate'; it is called lr here; hyperparameters are given to"),
        ("egnine", r"'egnine'; did you mean engine\?$"),
        ("warmth", "'warmth'; it has engine, .*, seed; hyperparameters are given to the rules"),
    ],
)
def test_what_is_no_setting_of_a_chain_or_partition_is_told_its_place(name, told):
    with pytest.raises(TypeError, match=f"^chain has no setting {told}"):
        chain(weight_decay(0.5), SGD(), **{name: 1})
    with pytest.raises(TypeError, match=f"^partition has no setting {told}"):
        partition({"*": chain(weight_decay(0.5), SGD())}, **{name: 1})


# Transforms of the step --------------------------------------------------------------------


class Shortened(Transform):
    """A transform that reads the learning rate of the optimizer, and has none of its own."""

    stage = "step"

    @staticmethod
    def rule(xp, w, new, g, s, h):
        return w + h.lr * (new - w), {}


class WithRate(Shortened):
    lr: float = 0.25


@engine_runs.every_engine
def test_a_transform_of_the_step_reads_the_learning_rate_of_the_optimizer(engine):
    engine_runs.require(engine)
    params, grads = {"a": np.ones(3), "b": np.ones(2)}, {"a": np.ones(3), "b": np.ones(2)}
    optimizer = chain(
        *(scale_gradients(2.0), SGD(lr=lambda t: 0.5 / t), Shortened()),
        overrides={"b": {"lr": 1.0}},
        engine=engine,
    )
    optimizer.update(params, grads)
    assert params["a"].tolist() == [0.5] * 3  # 1 - 0.5 * 0.5 * 2
    assert params["b"].tolist() == [-1.0] * 2
    optimizer.update(params, grads)
    assert params["a"].tolist() == [0.375] * 3
    w = chain(SGD(lr=0.5), WithRate(), engine=engine).update(np.ones(1), np.ones(1))
    assert w.tolist() == [0.875]


@engine_runs.every_engine
def test_rates_that_are_arrays_are_lent_too(engine):
    engine_runs.require(engine)
    lr = np.array([0.5, 1.0])
    w = chain(SGD(lr=lr), decoupled_weight_decay(0.5), engine=engine).update(np.ones(2), np.ones(2))
    assert w.tolist() == [0.25, -0.5]
    optimizer = chain(SGD(lr=lr), decoupled_weight_decay(0.5, corrected=True), engine=engine)
    with pytest.raises(
        TypeError, match=r"decoupled_weight_decay: lr is an array, .* give a number"
    ):
        optimizer.update(np.ones(2), np.ones(2))


def test_an_optimizer_without_a_learning_rate_lends_none():
    class Fixed(Optimizer):
        @staticmethod
        def rule(xp, w, g, s, h):
            return w - g, {}

    with pytest.raises(AttributeError, match=r"Shortened\.rule reads the hyperparameter 'lr'"):
        chain(Fixed(), Shortened()).update(np.ones(1), np.ones(1))
    assert chain(Fixed(), cautious()).update(np.ones(1), np.ones(1)).tolist() == [0.5]


def test_decoupled_decay_after_adam_is_adamw():
    rng = np.random.default_rng(0)
    one, other = np.ones(50), np.ones(50)
    ours, theirs = chain(Adam(0.1), decoupled_weight_decay(0.1)), AdamW(0.1, weight_decay=0.1)
    for _ in range(20):
        g = rng.standard_normal(50)
        ours.update(one, g)
        theirs.update(other, g)
    np.testing.assert_allclose(one, other, rtol=1e-12)


def test_corrected_decay_falls_with_the_square_of_the_rate():
    rates = [0.5, 1.0, 0.5, 0.25]
    optimizer = chain(SGD(lr=lambda t: rates[t - 1]), decoupled_weight_decay(0.5, corrected=True))
    w, expected, largest = np.ones(1), 1.0, 0.0
    for lr in rates:
        largest = max(largest, lr)
        expected -= lr * lr / largest * 0.5 * expected
        optimizer.update(w, np.zeros(1))
        assert w.tolist() == [expected]
    restored = chain(SGD(), decoupled_weight_decay(0.5, corrected=True))
    restored.load_state_dict(optimizer.state_dict())
    restored.lr = 0.5
    restored.update(w, np.zeros(1))
    assert w.tolist() == [expected - 0.25 * 0.5 * expected]


@engine_runs.every_engine
@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_a_cautious_step_leaves_out_what_goes_uphill(engine, dtype):
    engine_runs.require(engine)
    optimizer = chain(Momentum(lr=1.0, momentum=0.5), cautious(), engine=engine)
    optimizer.update(np.zeros(3, dtype), np.full(3, 4.0, dtype))
    # The velocity is -2 before the gradient: -6, and -1 against the gradient, and -3.
    w = optimizer.update(np.zeros(3, dtype), np.array([4.0, -1.0, 1.0], dtype))
    assert w.tolist() == [-6.0, 0.0, -3.0]


def test_trust_after_adam_is_lamb():
    rng = np.random.default_rng(0)
    one, other = np.ones(50), np.ones(50)
    ours = chain(Adam(0.1, eps=1e-6), trust_ratio())
    theirs = LAMB(0.1, weight_decay=0.0)
    for _ in range(20):
        g = rng.standard_normal(50)
        ours.update(one, g)
        theirs.update(other, g)
    np.testing.assert_allclose(one, other, rtol=1e-12)
