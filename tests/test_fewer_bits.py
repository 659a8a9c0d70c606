"""Fewer bits: parameters and state in 16 and 8, what is rounded by chance, and masters."""

import copy
import pickle
from functools import partial

import bits
import engine_runs
import numpy as np
import pytest
from cases import CASES
from chains import CHAINS
from drawing import layouts, numbers

from instep import SGD, Adam, AdamW, Momentum, Optimizer, chain, encodings, partition, words
from instep.encodings import SIGNED, UNSIGNED
from instep.engines.codes import as_numbers
from instep.transforms import accumulate, average, clip_by_global_norm

WORDS = words.NumpyWords()
STATE_DTYPES = ["float32", "bfloat16", "float8"]


# Parameters of 16 bits, rounded by chance -----------------------------------------------------


def float32_of(bits_):
    return np.asarray(bits_, np.uint32).view(np.float32)


#: Numbers of every size, the smallest and the largest among them.
SIZES = np.concatenate(
    [
        float32_of(np.arange(1, 2**31 - 2**23, 2**17 - 1)),
        float32_of([1, 2, 2**16 - 1, 2**16 + 1, 2**23 - 1, 2**23, 0x7F7FFFFF, 0x7F7F0001]),
        np.float32([2**-24, 2**-25, 2**-14, 6.1e-5, 65504, 65505, 65519, 65520, 65535]),
    ]
)


def rounded(x, chance, dtype, half=1):
    """Return what numbers are rounded to: with all bits of random words, from the lower half on."""
    some = encodings.bits_of(WORDS, chance, half)
    if dtype == "float16":
        return encodings.to_float16(WORDS, x, some)
    return encodings.from_bfloat16(WORDS, encodings.to_bfloat16(WORDS, x, some))


def words_of_seeds(elements):
    """Yield 10,000 words for so many elements, and which half of them to use: a part for a seed."""
    for seed in range(50):
        place = words.halves(words.place_of(seed, "w"))
        drawn = words.shared(0, 256 * 200, place, 1, 0).reshape(200, 256)
        yield seed % 2, drawn[:, :elements]


def largest(dtype):
    return float(float32_of(0x7F7F0000)) if dtype == "bfloat16" else 65504.0


def neighbours(x, dtype):
    """Return the largest number of a dtype below positive ones, and the smallest above."""
    if dtype == "bfloat16":
        below = x.view(np.uint32) & np.uint32(0xFFFF0000)
        above = np.where(below == x.view(np.uint32), below, below + np.uint32(1 << 16))
        return below.view(np.float32).astype(float), float32_of(above).astype(float)
    exact = x.astype(float)
    place = 2.0 ** np.maximum(np.floor(np.log2(exact)) - 10, -24)
    return np.floor(exact / place) * place, np.ceil(exact / place) * place


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_number_becomes_one_of_its_neighbours(dtype):
    x = SIZES[SIZES < 65536] if dtype == "float16" else SIZES
    below, above = neighbours(x, dtype)
    above = np.minimum(above, largest(dtype))
    for chance in (0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 0x0000FFFF, 0xFFFF0000, 12345678):
        for sign in (1, -1):
            found = sign * rounded(sign * x, np.full(len(x), chance, np.uint32), dtype)
            assert np.all((found == below) | (found == above))
    assert np.all(rounded(x, np.zeros(len(x), np.uint32), dtype) == below)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_mean_of_many_seeds_is_the_number(dtype):
    seeds = 10_000
    x = SIZES[:: len(SIZES) // 150]
    x = x[x < 65504] if dtype == "float16" else x[x < 3e38]
    below, above = neighbours(x, dtype)
    total = np.zeros(len(x))
    for half, chance in words_of_seeds(len(x)):
        total += (rounded(np.tile(x, (len(chance), 1)), chance, dtype, half) == above).sum(axis=0)
    share = np.where(above > below, (x - below) / np.where(above > below, above - below, 1), 1)
    error = np.sqrt(seeds * share * (1 - share)) + 1e-3 * seeds * (share < 1e-6)
    assert np.all(abs(total - seeds * share) <= 4.5 * error)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_what_is_no_number_stays(dtype):
    x = float32_of([0, 0x80000000, 0x7F800000, 0xFF800000, 0x7FC00000, 0x7F800001])
    for chance in (0, 0xFFFFFFFF):
        found = rounded(x, np.full(len(x), chance, np.uint32), dtype)
        bits.assert_same_bits(found, x)


@engine_runs.every_numpy_engine
def test_engines_round_alike(engine, threads, eager_threads):
    engine_runs.require(engine)
    runs = []
    for name in (engine, "array_api"):
        params = layouts("float16")
        optimizer = Adam(lr=0.01, rounding="stochastic", engine=name, threads=threads)
        for _ in range(3):
            optimizer.update(params, numbers(params))
        runs.append((params, optimizer))
    engine_runs.assert_same_run(*runs)


@engine_runs.every_engine
def test_every_size_is_stored_as_it_is_rounded(engine):
    engine_runs.require(engine)
    x = np.concatenate([SIZES, -SIZES])
    w = np.zeros(x.shape, "float16")
    SGD(lr=1.0, rounding="stochastic", engine=engine).update(w, -x)
    chance = words.shared(0, len(x), words.halves(words.place_of(0, "")), 1, words.ROUNDING)
    with np.errstate(over="ignore"):
        expected = rounded(x, chance, "float16", half=0).astype("float16")
    bits.assert_same_bits(w, expected)
    assert np.isfinite(w[abs(x) < 65536]).all()


@engine_runs.every_engine
def test_small_steps_are_not_lost(engine):
    """Half of the last place of 1 is far more than a step, and nothing would ever move."""
    engine_runs.require(engine)
    ends = {}
    for rounding in ("nearest", "stochastic"):
        w = np.ones(4000, "float16")
        optimizer = SGD(lr=1e-5, rounding=rounding, engine=engine)
        for _ in range(100):
            optimizer.update(w, np.ones(4000, "float32"))
        ends[rounding] = w.astype(float).mean()
    assert ends["nearest"] == 1
    assert abs(ends["stochastic"] - (1 - 100e-5)) < 4 * (2**-11 * 1e-3 / 4000) ** 0.5


def test_wider_parameters_are_rounded_as_ever():
    runs = []
    for rounding in ("nearest", "stochastic"):
        params = {"a": np.ones(9, "float32"), "b": np.ones(9), "c": np.ones(9, "complex64")}
        optimizer = Adam(rounding=rounding)
        for _ in range(3):
            optimizer.update(params, {name: np.ones_like(w) for name, w in params.items()})
        runs.append((params, optimizer))
    engine_runs.assert_same_run(*runs)


# Codes of 8 bits -------------------------------------------------------------------------------


def coded(x, form, chance=None):
    """Return the codes of a line of numbers, and the number of the unit of each."""
    with np.errstate(all="ignore"):
        unit = form.unit(WORDS, [x])
        return form.encoded(WORDS, x, unit, chance), unit


def decoded(code, unit, form):
    return form.decoded(WORDS, np.asarray(code, np.uint32), np.asarray(unit, np.uint32))


@pytest.mark.parametrize("form", [SIGNED, UNSIGNED], ids=["signed", "unsigned"])
@pytest.mark.parametrize("chance", [None, 0, 0xFFFFFFFF])
def test_what_codes_stand_for_has_these_codes_again(form, chance):
    """Of every unit: nothing is lost by what is kept once more, whatever chance says."""
    some = None if chance is None else encodings.bits_of(WORDS, np.full(256, chance, np.uint32), 0)
    codes = np.arange(256, dtype=np.uint32)
    for number in range(256 - (16 if form.is_signed else 32)):
        unit = np.full(256, number, np.uint32)
        with np.errstate(all="ignore"):
            found = decoded(codes, unit, form)
            again = form.encoded(WORDS, found, unit, some)
        is_nan = codes & form.nan == form.nan
        assert np.isnan(found[is_nan]).all()
        assert np.all(again[is_nan] == form.nan)
        is_known = np.isfinite(found)  # others are beyond the largest number
        assert np.array_equal(again[is_known], codes[is_known])
        assert (is_known | is_nan).sum() >= 240


@pytest.mark.parametrize("form", [SIGNED, UNSIGNED], ids=["signed", "unsigned"])
@pytest.mark.parametrize("largest", [2.0**-149, 1e-42, 2.0**-126, 1e-30, 1.0, 1e4, 3.4028235e38])
def test_numbers_of_a_block_become_neighbours(form, largest):
    rng = np.random.default_rng(0)
    with np.errstate(under="ignore"):
        x = np.float32(largest) * np.exp(-20 * rng.random(256)).astype(np.float32)
    x[0] = largest
    x[1::2] *= -1 if form.is_signed else 1
    for seed in range(20):
        chance = encodings.bits_of(WORDS, words.shared(0, 256, (seed, 1), 1, 0), seed % 2)
        code, unit = coded(x, form, chance)
        found = decoded(code, unit, form)
        one = 2.0 ** (int(unit[0]) - 126)
        assert np.isfinite(found).all()
        assert np.array_equal(np.signbit(found), np.signbit(x))
        place = 2.0 ** np.floor(np.log2(abs(x.astype(float)) / one + 1)) / 8 * one
        assert np.all(abs(found.astype(float) - x) <= place * (1 + 2e-6))
    assert np.all(found[x > 0] > 0) or form.is_signed


def test_the_mean_of_what_is_kept_is_the_number():
    rng = np.random.default_rng(1)
    for form in (SIGNED, UNSIGNED):
        x = np.exp(-12 * rng.random(256)).astype(np.float32)
        x[1::2] *= -1 if form.is_signed else 1
        parts = []
        for half, drawn in words_of_seeds(256):
            every = np.tile(x, (len(drawn), 1))
            code, unit = coded(every, form, encodings.bits_of(WORDS, drawn, half))
            parts.append(decoded(code, unit, form))
        found = np.concatenate(parts).astype(float)
        error = found.std(axis=0) / 100
        # The smallest without a sign are raised to the first code: they are divided by.
        kept = abs(x) > 2.0 ** (int(unit[0, 0]) - 129) * (1 if form.is_signed else 8)
        assert kept.sum() > 150
        assert np.all(abs(found.mean(axis=0) - x)[kept] <= 4.5 * error[kept] + 1e-6 * abs(x[kept]))


@pytest.mark.parametrize("form", [SIGNED, UNSIGNED], ids=["signed", "unsigned"])
def test_what_is_not_finite_is_nan_and_spoils_no_neighbour(form):
    x = np.linspace(0.1, 1, 256, dtype=np.float32)
    whole, _ = coded(x, form)
    x[[3, 70, 255]] = np.nan, np.inf, -np.inf
    code, unit = coded(x, form)
    found = decoded(code, unit, form)
    assert np.array_equal(np.flatnonzero(np.isnan(found)), [3, 70, 255])
    others = np.isfinite(x)
    assert np.array_equal(code[others], whole[others])
    x[3] = -x[3]
    assert np.array_equal(coded(x, form)[0], code)


def test_what_is_negative_is_nan_where_there_is_no_sign():
    x = np.float32([1.0, -1.0, -0.0, -1e-30, 0.0])
    found = decoded(*coded(x, UNSIGNED), UNSIGNED)
    assert np.array_equal(np.isnan(found), [False, True, False, True, False])
    assert found[2] == found[4] == 0


# Bits -------------------------------------------------------------------------------------------


def gradients(params, step):
    """Return gradients of many sizes, with zeros among them."""
    found = {}
    for name, w in params.items():
        rng = np.random.default_rng([len(name), step])
        g = rng.standard_normal(w.shape) * np.exp(3 * rng.standard_normal(w.shape))
        g = np.where(rng.random(w.shape) < 0.1, 0, g)
        if w.dtype.kind == "c":
            g = g * np.exp(1j * rng.random(w.shape))
        found[name] = g.astype("float32" if w.dtype.itemsize == 2 else w.dtype)
    return found


def run(make, params, steps=3, **settings):
    optimizer = make(**settings)
    for step in range(steps):
        optimizer.update(params, gradients(params, step))
    return params, optimizer


@engine_runs.every_numpy_engine
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "complex64", "complex128"])
@pytest.mark.parametrize("state_dtype", STATE_DTYPES)
def test_engines_agree(engine, threads, dtype, state_dtype, eager_threads):
    engine_runs.require(engine)
    settings = {"state_dtype": state_dtype, "min_float8_size": 0, "threads": threads, "seed": 3}
    runs = [run(Adam, layouts(dtype), engine=name, **settings) for name in (engine, "array_api")]
    engine_runs.assert_same_run(*runs)


@engine_runs.every_numpy_engine
@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
@pytest.mark.parametrize("master", [False, True])
def test_engines_agree_on_rounding_and_masters(engine, threads, rounding, master, eager_threads):
    engine_runs.require(engine)
    settings = {"rounding": rounding, "master": master, "state_dtype": "bfloat16"}
    runs = [
        run(AdamW, layouts("float16"), engine=name, threads=threads, **settings)
        for name in (engine, "array_api")
    ]
    engine_runs.assert_same_run(*runs)


@pytest.mark.parametrize("case", [case for case in CASES if case.exact], ids=str)
@pytest.mark.parametrize(("state_dtype", "engine"), [("float8", "native"), ("bfloat16", "blocked")])
def test_every_rule_has_the_bits_of_the_specification(case, state_dtype, engine):
    engine_runs.require(engine)
    settings = {"state_dtype": state_dtype, "min_float8_size": 0}
    runs = []
    for name in (engine, "array_api"):
        optimizer = case.make(engine=name, **settings)
        rng = np.random.default_rng(0)
        params = {name: rng.standard_normal(n).astype("float32") for name, n in SIZES_OF.items()}
        for _ in range(3):
            value = {"value": 1.0} if optimizer.needs_value else {}
            given = {name: rng.standard_normal(w.shape).astype("f4") for name, w in params.items()}
            optimizer.update(params, given, **value)
        runs.append((params, optimizer))
    engine_runs.assert_same_run(*runs)


#: A few blocks of 256 elements, one more, and one less.
SIZES_OF = {"a": 700, "left": 257, "bed": 255}


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize(("state_dtype", "engine"), [("float8", "native"), ("bfloat16", "blocked")])
def test_every_chain_has_the_bits_of_the_specification(name, state_dtype, engine):
    engine_runs.require(engine)
    make, _ = CHAINS[name]
    runs = []
    for other in (engine, "array_api"):
        params = {key: np.linspace(-1, 1, n, dtype="f4") for key, n in SIZES_OF.items()}
        settings = {"state_dtype": state_dtype, "min_float8_size": 0, "engine": other}
        runs.append(run(make, params, steps=4, **settings))
    engine_runs.assert_same_run(*runs)


def test_a_complex_sum_that_begins_again_is_no_number_of_a_block():
    runs = []
    for engine in ("native", "array_api"):
        engine_runs.require(engine)
        params = {name: np.full(n, 1 + 1j, "complex64") for name, n in SIZES_OF.items()}
        make = partial(chain, accumulate(2), Adam(), state_dtype="bfloat16", engine=engine)
        runs.append(run(make, params, steps=4))
    engine_runs.assert_same_run(*runs)


# What is kept -----------------------------------------------------------------------------------


def slots_of(optimizer, key="w"):
    return optimizer.state_dict()["states"][key]["slots"]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {"m": "float32", "v": "float32"}),
        ({"state_dtype": "bfloat16"}, {"m": "uint16", "v": "uint16"}),
        (
            {"state_dtype": "float8"},
            {"m": "uint8", "m.unit": "uint8", "v": "uint8", "v.unit": "uint8"},
        ),
        ({"state_dtype": "float8", "min_float8_size": 10_001}, {"m": "float32", "v": "float32"}),
    ],
)
def test_state_takes_the_bytes_that_it_says(settings, expected):
    params = {"w": np.ones(10_000, "float32")}
    _, optimizer = run(Adam, params, **settings)
    slots = slots_of(optimizer)
    assert {name: slot.dtype.name for name, slot in slots.items()} == expected
    for name, slot in slots.items():
        assert slot.shape == ((40,) if name.endswith(".unit") else (10_000,))
    assert sum(slot.nbytes for slot in slots.values()) in (80_000, 40_000, 20_080)


@pytest.mark.parametrize(
    ("dtype", "settings", "expected"),
    [
        ("float32", {}, 28),
        ("float32", {"state_dtype": "bfloat16"}, 20),
        ("float32", {"state_dtype": "float8"}, 16 + 4 / 256),
        ("float64", {"state_dtype": "float32"}, 40),
        ("float16", {}, 22),
        ("float16", {"state_dtype": "bfloat16"}, 14),
        ("float16", {"state_dtype": "bfloat16", "master": True}, 22),
        ("complex64", {"state_dtype": "bfloat16"}, 24 + 8 + 4),
    ],
)
def test_explain_counts_the_bytes_of_an_element(dtype, settings, expected):
    w = np.ones(5000, dtype)
    assert Adam(**settings).explain(w).buckets[0].bytes_per_element == expected


def test_small_steps_of_the_state_are_not_lost():
    """A mean that decays by 1/1000 a step moves less than half of the last place of 16 bits."""
    for state_dtype in ("bfloat16", "float8"):
        ends = {}
        for rounding in (None, "nearest"):
            optimizer = Adam(beta2=0.999, state_dtype=state_dtype, rounding=rounding)
            w = np.zeros(4096, "float32")
            optimizer.update(w, np.ones_like(w))
            for _ in range(500):
                optimizer.update(w, np.zeros_like(w))
            ends[rounding] = as_numbers("v", slots_of(optimizer, ""), is_positive=True)
        exact = 0.001 * 0.999**500
        assert abs(ends[None].astype(float).mean() - exact) < 0.05 * exact
        assert ends["nearest"].mean() > 1.3 * exact


def test_copies_and_sums_of_gradients_are_kept_as_ever():
    optimizer = chain(accumulate(2), SGD(), average(0.9), state_dtype="float8", min_float8_size=0)
    params = {"w": np.ones(300, "float32")}
    run(lambda: optimizer, params, steps=4)
    assert {slot.dtype.name for slot in slots_of(optimizer).values()} == {"float32"}


def test_a_rule_says_what_is_kept_as_ever_and_what_has_no_sign():
    class Three(Optimizer):
        slots = ("a", "b", "c", "d")
        exact_slots = ("a",)
        positive_slots = ("b",)

        def initial_state(self):
            return {"b": 0.1, "c": -3.0, "d": "w"}

        @staticmethod
        def rule(xp, w, g, s, h):
            return w, {"a": s.a + g, "b": s.b, "c": s.c}

    params = {"w": np.ones(300, "float32")}
    optimizer = Three(state_dtype="float8", min_float8_size=0)
    optimizer.update(params, {"w": np.ones(300, "float32")})
    slots = slots_of(optimizer)
    assert {name: slots[name].dtype.name for name in "abcd"} == {
        **dict.fromkeys("ad", "float32"),
        **dict.fromkeys("bc", "uint8"),
    }
    assert abs(as_numbers("b", slots, is_positive=True) - 0.1).max() < 0.1 / 16
    assert abs(as_numbers("c", slots, is_positive=False) + 3.0).max() < 3e-4


def test_a_rule_that_does_not_say_what_has_no_sign_is_refused():
    """A mean of squares with too few exponents would be zero where it is small, and divided by."""

    class Silent(Adam):
        positive_slots = None

    optimizer, w = chain(Silent(), state_dtype="float8"), np.ones(4096, "float32")
    with pytest.raises(TypeError, match=r"Silent: state in 8 bits .* declare positive_slots"):
        optimizer.update(w, np.ones_like(w))
    assert optimizer.t == 0
    optimizer.state_dtype = "bfloat16"
    optimizer.update(w, np.ones_like(w))


@pytest.mark.parametrize("names", ["m", 3, ("m", "m"), ("1m",)])
@pytest.mark.parametrize("what", ["exact_slots", "positive_slots"])
def test_these_are_names_of_slots(what, names):
    with pytest.raises(TypeError, match="Bad: "):
        type("Bad", (Optimizer,), {"slots": ("m",), what: names, "rule": staticmethod(SGD.rule)})


# Resumed, moved, changed ------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
@pytest.mark.parametrize("settings", [{"state_dtype": name} for name in STATE_DTYPES])
def test_a_resumed_run_has_the_same_bits(settings, dtype, tmp_path):
    settings = {**settings, "min_float8_size": 0, "seed": 5}
    expected, whole = run(Adam, layouts(dtype), steps=6, **settings)
    for way in ("file", "dict", "copy", "pickle"):
        params, optimizer = run(Adam, layouts(dtype), steps=3, **settings)
        if way == "file":
            optimizer.save(tmp_path / "state.npz")
            optimizer = Adam(**settings).load(tmp_path / "state.npz")
        elif way == "dict":
            optimizer = Adam(**settings).load_state_dict(optimizer.state_dict())
        else:
            made = copy.copy(optimizer) if way == "copy" else pickle.dumps(optimizer)
            optimizer = made if way == "copy" else pickle.loads(made)
        for step in range(3, 6):
            optimizer.update(params, gradients(params, step))
        engine_runs.assert_same_run((params, optimizer), (expected, whole))


@pytest.mark.parametrize("before", [None, *STATE_DTYPES])
@pytest.mark.parametrize("after", [None, *STATE_DTYPES])
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64"])
def test_state_of_one_dtype_is_read_by_another(before, after, dtype):
    params = {"w": np.ones(1000, dtype), "s": np.ones((50, 9), dtype)[:, ::2]}
    _, optimizer = run(Adam, params, state_dtype=before, min_float8_size=0)
    other = Adam(state_dtype=after, min_float8_size=0).load_state_dict(optimizer.state_dict())
    numbers_before = {name: plain(optimizer, name) for name in params}
    other.update(params, {name: np.zeros_like(w) for name, w in params.items()})
    for name in params:
        for slot, rate in (("m", 0.9), ("v", 0.999)):
            old, new = numbers_before[name][slot], plain(other, name)[slot]
            relative = {"float8": 0.3, "bfloat16": 0.03}.get(after, 1e-5)
            scale = abs(old).max() if after == "float8" else 0
            assert np.all(abs(new - rate * old) <= relative * abs(old) + 2e-5 * scale)


def plain(optimizer, key):
    """Return the numbers of the slots m and v."""
    slots = slots_of(optimizer, key)
    return {name: as_numbers(name, slots, is_positive=name == "v") for name in ("m", "v")}


def test_the_setting_may_change_between_steps():
    params, optimizer = run(Adam, {"w": np.ones(5000, "float32")}, steps=2)
    for state_dtype in ("float8", "bfloat16", None, "float8"):
        optimizer.state_dtype = state_dtype
        optimizer.update(params, gradients(params, 7))
        bits_ = {None: "float32", "bfloat16": "uint16", "float8": "uint8"}[state_dtype]
        assert slots_of(optimizer)["m"].dtype.name == bits_
    assert optimizer.t == 6


@pytest.mark.parametrize("state_dtype", STATE_DTYPES)
def test_a_slot_of_an_option_that_is_off_is_left_as_it_is(state_dtype):
    params = {"w": np.ones(300)}
    settings = {"state_dtype": state_dtype, "min_float8_size": 0}
    _, optimizer = run(partial(Adam, amsgrad=True), params, **settings)
    before = slots_of(optimizer)["x"]
    optimizer.amsgrad = False
    optimizer.update(params, {"w": np.zeros(300)})
    bits.assert_same_bits(slots_of(optimizer)["x"], before)
    optimizer.amsgrad = True
    optimizer.update(params, {"w": np.zeros(300)})


def test_answers_know_codes():
    class Lagging(Optimizer):
        lr: float = 0.1
        slots = ("m",)
        positive_slots = ()

        @staticmethod
        def rule(xp, w, g, s, h):
            return w - h.lr * g, {"m": s.m + 1.0}

        @staticmethod
        def answer_rule(xp, w, s, h):
            return w + s.m

    params = {"w": np.zeros(300, "float32")}
    for state_dtype in ("bfloat16", "float8"):
        optimizer = Lagging(lr=0.0, state_dtype=state_dtype, min_float8_size=0)
        for _ in range(2):
            optimizer.update(params, {"w": np.zeros(300, "float32")})
        assert abs(optimizer.answer(params)["w"] - 2.0).max() < 2e-4


def test_neither_other_tensors_nor_their_order_matter():
    params = {"a": np.ones(300, "f4"), "b": np.ones(500, "f4"), "c": np.ones(40, "f4")}
    others = {"c": np.ones(40, "f4"), "b": np.ones(500, "f4")}
    settings = {"state_dtype": "float8", "min_float8_size": 0}
    _, one = run(Adam, params, **settings)
    _, other = run(Adam, others, frozen=["c"], **settings)
    bits.assert_same_bits(params["b"], others["b"])
    for name, slot in slots_of(one, "b").items():
        bits.assert_same_bits(slot, slots_of(other, "b")[name])


def test_the_first_part_of_a_tensor_that_is_cut_has_the_same_bits():
    """Elements are counted from the first: the second part draws anew, and has other blocks."""
    whole, parts = {"w": np.ones(1000, "f4")}, {"w": np.ones(512, "f4"), "rest": np.ones(488, "f4")}
    settings = {"state_dtype": "float8", "min_float8_size": 0}
    one, other = Adam(**settings), Adam(**settings)
    for step in range(3):
        g = gradients(whole, step)["w"]
        one.update(whole, {"w": g})
        other.update(parts, {"w": g[:512], "rest": g[512:]})
    bits.assert_same_bits(whole["w"][:512], parts["w"])
    assert not np.array_equal(whole["w"][512:], parts["rest"])
    bits.assert_same_bits(slots_of(one)["m"][:512], slots_of(other)["m"])


def test_branches_of_a_partition_share_the_setting():
    params = {"a": np.ones(5000, "f4"), "b": np.ones(5000, "f4")}
    optimizer = partition({"a": Adam(), "*": Momentum()}, state_dtype="float8")
    run(lambda: optimizer, params)
    for key in params:
        assert {slot.dtype.name for slot in slots_of(optimizer, key).values()} == {"uint8"}


# Masters -----------------------------------------------------------------------------------------


@engine_runs.every_engine
def test_a_master_is_the_parameter_of_float32(engine):
    """The rule runs on what float32 parameters are, and the parameter is what that rounds to."""
    engine_runs.require(engine)

    def clipped(**settings):
        return chain(clip_by_global_norm(1.0), AdamW(lr=0.01), **settings)

    start = np.linspace(-1, 1, 3000).astype("float16")
    narrow, wide = {"w": start.copy()}, {"w": start.astype("float32")}
    one, other = clipped(master=True, engine=engine), clipped(engine=engine)
    for step in range(20):
        given = gradients(wide, step)
        one.update(narrow, given)
        other.update(wide, given)
        bits.assert_same_bits(slots_of(one)["master"], wide["w"])
        bits.assert_same_bits(narrow["w"], wide["w"].astype("float16"))


@engine_runs.every_engine
def test_a_parameter_that_was_set_is_taken_as_it_is(engine):
    engine_runs.require(engine)
    w = np.ones(100, "float16")
    optimizer = SGD(lr=1e-5, master=True, engine=engine)
    for _ in range(30):
        optimizer.update(w, np.ones(100, "float32"))
    w[:50] = 3.0
    optimizer.update(w, np.zeros(100, "float32"))
    master = slots_of(optimizer, "")["master"]
    assert np.all(master[:50] == 3.0)
    assert np.all((master[50:] < 1) & (master[50:] > 0.999))


def test_halves_are_whole_numbers_again():
    every = np.arange(0, 2**32, 65_521, dtype=np.uint64).astype(np.uint32)
    x = np.concatenate([float32_of(every), SIZES, -SIZES, np.float32([0.0, -0.0])])
    upper, lower = encodings.divided(WORDS, x)
    found = encodings.whole(WORDS, upper, lower)
    is_nan = np.isnan(x)
    bits.assert_same_bits(found[~is_nan], x[~is_nan])
    assert np.isnan(found[is_nan]).all()
    rounded_ = float32_of(upper << np.uint32(16))
    kept = np.isfinite(x) & np.isfinite(rounded_)
    nearest = encodings.from_bfloat16(WORDS, encodings.to_bfloat16(WORDS, x, None))
    is_half = (x.view(np.uint32) & 0xFFFF) == 0x8000
    bits.assert_same_bits(rounded_[kept & ~is_half], nearest[kept & ~is_half])
    assert np.all(abs(rounded_[kept & is_half]) >= abs(x[kept & is_half]))


def test_a_half_that_is_left_from_before_is_of_no_harm():
    for upper in np.uint32([0, 0x8000, 1, 0x3F80, 0xBF80, 0x7F7F, 0x7F80, 0x7FC0]):
        for lower in np.uint32([0, 1, 0x7FFF, 0x8000, 0xFFFF]):
            number = float32_of(upper << np.uint32(16))
            found = encodings.whole(WORDS, np.asarray([upper]), np.asarray([lower]))[0]
            if np.isfinite(number):
                assert abs(float(found) - float(number)) <= abs(float(number)) / 128 + 1e-40
            else:
                assert np.isnan(found) == np.isnan(number)


# Bad input ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("state_dtype", "float16", "state_dtype must be None or one of 'float32', 'bfloat16'"),
        ("state_dtype", np.float32, "state_dtype must be None or one of"),
        ("state_dtype", ["float8"], "state_dtype must be None or one of"),
        ("min_float8_size", -1, "min_float8_size must be a number of elements"),
        ("min_float8_size", 1.5, "min_float8_size must be a number of elements"),
        ("min_float8_size", True, "min_float8_size must be a number of elements"),
        ("master", 1, "master must be True or False"),
        ("rounding", "up", "rounding must be None, 'nearest' or 'stochastic'"),
        ("rounding", False, "rounding must be None, 'nearest' or 'stochastic'"),
    ],
)
def test_wrong_settings_are_refused(name, value, message):
    for make in (Adam, partial(chain, Adam()), partial(partition, {"*": Adam()})):
        with pytest.raises((TypeError, ValueError), match=message):
            make(**{name: value})


def test_damaged_state_is_refused_before_anything_changes():
    _, optimizer = run(Adam, {"w": np.ones(5000, "f4")}, state_dtype="float8")
    state = optimizer.state_dict()
    slots = state["states"]["w"]["slots"]
    for change, message in (
        ({"m.unit": None}, "has 'm' in 8 bits without 'm.unit'"),
        ({"m": None}, "has the slots v, expected m, v"),
        ({"m.unit": np.zeros(3, "uint8")}, r"'m.unit' of shape \(3,\), expected \(20,\)"),
        ({"m": np.zeros(5000, "int64")}, "is int64, not an array of real or complex numbers"),
    ):
        damaged = {name: slot for name, slot in {**slots, **change}.items() if slot is not None}
        given = {**state, "states": {"w": {**state["states"]["w"], "slots": damaged}}}
        with pytest.raises(ValueError, match=message):
            optimizer.load_state_dict(given)
    engine_runs.assert_same_state(optimizer, Adam().load_state_dict(state))
    assert optimizer.t == 3


def test_complex_codes_without_their_units_are_refused():
    """Their dtype is that of real numbers in 16 bits: only the step knows what they are."""
    params = {"w": np.ones(300, "complex64")}
    _, optimizer = run(Adam, params, state_dtype="float8", min_float8_size=0)
    state = optimizer.state_dict()
    del state["states"]["w"]["slots"]["m.unit"]
    optimizer.load_state_dict(state)
    with pytest.raises(ValueError, match=r"params\['w'\] has state 'm' without 'm.unit'; load a"):
        optimizer.update(params, gradients(params, 3))
    assert optimizer.t == 3


def test_state_that_was_narrowed_is_widened_again():
    """It is float32 beside float64, as that of a parameter that was another: that is refused."""
    params = {"w": np.ones(300), "z": np.ones(300, "complex128")}
    _, optimizer = run(Adam, params, state_dtype="float32")
    for other in (optimizer, Adam().load_state_dict(optimizer.state_dict())):
        other.state_dtype = None
        other.update(params, gradients(params, 5))
        assert slots_of(other)["m"].dtype == "float64"
        assert slots_of(other, "z")["m"].dtype == "complex128"
