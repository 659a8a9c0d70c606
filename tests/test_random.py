"""Random numbers of a counter: what they are, that engines agree, and on what they depend."""

import bits
import engine_runs
import numpy as np
import pytest
from drawing import Noisy, Summed, layouts, numbers

from instep import SGD, Adam, Optimizer, chain, partition, words
from instep.graph.errors import RuleError
from instep.transforms import accumulate

# The generator --------------------------------------------------------------------------------

#: Counter, key and words, as the authors of Philox publish them for their library Random123.
PUBLISHED = [
    ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), PUBLISHED)
def test_philox_gives_the_published_words(counter, key, expected):
    assert [int(word) for word in words.philox(counter, key)] == expected


@pytest.mark.parametrize("first", [0, 1, 6, 2**32 - 2, 2**34 + 3])
def test_elements_are_counted_in_blocks_of_four(first):
    found = words.random(first, 9, (1, 2), 3, 4)
    for i, word in enumerate(found, first):
        block = i // 4
        assert word == words.philox((block & words.MASK, block >> 32, 3, 4), (1, 2))[i % 4]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numbers_are_uniform(dtype):
    drawn = drawn_by(Noisy(lr=-1.0), np.zeros(200_000, dtype))
    assert drawn.min() >= 0
    assert drawn.max() < 1
    standard_error = (1 / 12 / len(drawn)) ** 0.5
    assert abs(drawn.mean() - 0.5) < 4 * standard_error
    assert abs(drawn.var() - 1 / 12) < 4 * (1 / 180 / len(drawn)) ** 0.5
    counts = np.histogram(drawn, 100, (0, 1))[0]
    assert abs(counts - 2000).max() < 5 * 2000**0.5
    assert abs(np.corrcoef(drawn[1:], drawn[:-1])[0, 1]) < 4 / len(drawn) ** 0.5


def drawn_by(optimizer, w, steps=1):
    """Return what a step of `Noisy` with lr=-1 on zeros has drawn last."""
    for _ in range(steps):
        w[...] = 0
        optimizer.update(w, np.zeros_like(w))
    return w


# Bits -----------------------------------------------------------------------------------------


@engine_runs.every_numpy_engine
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "complex64", "complex128"])
@pytest.mark.parametrize("rule", [Noisy, Summed])
def test_engines_agree(engine, threads, dtype, rule, eager_threads):
    engine_runs.require(engine)
    runs = []
    for name in (engine, "array_api"):
        params, optimizer = layouts(dtype), rule(engine=name, threads=threads)
        for _ in range(3):
            optimizer.update(params, numbers(params))
        runs.append((params, optimizer))
    engine_runs.assert_same_run(*runs)


@engine_runs.every_engine
def test_parts_of_complex_numbers_draw_for_themselves(engine):
    engine_runs.require(engine)
    z, x = np.zeros(50, "complex64"), np.zeros((50, 2), "float32")
    for w in (z, x):
        Noisy(complex="pairs", engine=engine).update(w, np.zeros_like(w))
    bits.assert_same_bits(z.view("float32").reshape(x.shape), x)


# On what they depend --------------------------------------------------------------------------


def test_they_follow_from_seed_path_step_and_element():
    def drawn(seed=0, key="a", steps=1, size=64):
        params = {key: np.zeros(size)}
        optimizer = Noisy(lr=-1.0, seed=seed)
        for _ in range(steps):
            params[key][...] = 0
            optimizer.update(params, {key: np.zeros(size)})
        return params[key]

    first = drawn()
    bits.assert_same_bits(first, drawn())
    bits.assert_same_bits(first[:10], drawn(size=10))
    for other in (drawn(seed=1), drawn(key="b"), drawn(steps=2), drawn(seed=2**70)):
        assert not np.any(first == other)


def test_neither_other_leaves_nor_their_order_matter():
    params = {"a": np.zeros(9), "b": np.zeros(5), "c": np.zeros(3)}
    others = {"c": np.zeros(3), "b": np.zeros(5)}
    one, other = Noisy(), Noisy(frozen=["c"])
    for optimizer, tree in ((one, params), (other, others)):
        for _ in range(3):
            optimizer.update(tree, {name: np.ones_like(w) for name, w in tree.items()})
    bits.assert_same_bits(params["b"], others["b"])


def test_draws_of_a_rule_and_of_rules_in_a_chain_are_others():
    class Noise(Optimizer):
        needs_random = True
        slots = ("a", "b")

        @staticmethod
        def rule(xp, w, g, s, h):
            return w + xp.random(h.t), {"a": xp.random(h.t), "b": xp.random(h.t)}

    w = np.zeros(40)
    optimizer = Noise()
    optimizer.update(w, w.copy())
    slots = optimizer.state_dict()["states"][""]["slots"]
    drawn = [w, slots["a"], slots["b"]]
    assert len({float(x) for found in drawn for x in found}) == 3 * 40


def test_a_resumed_run_draws_the_same(tmp_path):
    params, gradients = {"a": np.zeros(50, "float32")}, {"a": np.ones(50, "float32")}
    optimizer = Noisy(seed=5)
    for _ in range(3):
        optimizer.update(params, gradients)
    copy, path = {"a": params["a"].copy()}, tmp_path / "state"
    optimizer.save(path)
    resumed = Noisy(seed=5).load(path)
    for _ in range(3):
        optimizer.update(params, gradients)
        resumed.update(copy, gradients)
    engine_runs.assert_same_run((copy, resumed), (params, optimizer))


def test_another_seed_counts_from_the_next_step():
    w, other = np.zeros(8), np.zeros(8)
    optimizer = Noisy(lr=-1.0)
    drawn_by(optimizer, w)
    optimizer.seed = 7
    drawn_by(optimizer, w)
    bits.assert_same_bits(w, drawn_by(Noisy(lr=-1.0, seed=7), other, steps=2))


def test_calls_that_gather_gradients_draw_once_a_step():
    params, other = {"a": np.zeros(6)}, {"a": np.zeros(6)}
    gathered, plain = chain(accumulate(2), Noisy()), Noisy()
    for step in range(6):
        gathered.update(params, {"a": np.ones(6)})
        if step % 2:
            plain.update(other, {"a": np.ones(6)})
    bits.assert_same_bits(params["a"], other["a"])


def test_a_partition_has_one_seed():
    params = {"a": np.zeros(6), "b": np.zeros(6)}
    optimizer = partition({"a": SGD(), "*": Noisy(lr=-1.0)}, seed=1)
    optimizer.update(params, {"a": np.zeros(6), "b": np.zeros(6)})
    alone = {"b": np.zeros(6)}
    Noisy(lr=-1.0, seed=1).update(alone, {"b": np.zeros(6)})
    bits.assert_same_bits(params["b"], alone["b"])


# Errors ---------------------------------------------------------------------------------------


class Silent(Optimizer):
    lr: float = 0.1

    @staticmethod
    def rule(xp, w, g, s, h):
        return w - h.lr * xp.random(h.t), {}


class OfArray(Optimizer):
    lr: float = 0.1
    needs_random = True

    @staticmethod
    def rule(xp, w, g, s, h):
        return w - h.lr * xp.random(g), {}


@engine_runs.every_engine
@pytest.mark.parametrize(("rule", "remedy"), [(Silent, "needs_random = True"), (OfArray, r"h\.t")])
def test_mistakes_are_refused_before_anything_changes(engine, rule, remedy):
    engine_runs.require(engine)
    w = np.ones(3)
    optimizer = rule(engine=engine)
    with pytest.raises(RuleError, match=remedy):
        optimizer.update(w, np.ones(3))
    assert optimizer.t == 0
    assert w.tolist() == [1, 1, 1]


@pytest.mark.parametrize("seed", [1.0, True, "x", None, 2j])
def test_a_seed_is_an_integer(seed):
    with pytest.raises(TypeError, match="seed must be an integer"):
        Adam(seed=seed)


@pytest.mark.parametrize("rounding", ["up", 0, 1, []])
def test_a_rounding_is_one_of_two(rounding):
    with pytest.raises(ValueError, match="'nearest' or 'stochastic'"):
        Adam(rounding=rounding)


# Rounding by chance ---------------------------------------------------------------------------


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


def rounded(x, chance, dtype):
    return words.rounded(words.NumpyWords(), x, chance, dtype)


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
    for seed in range(seeds):
        chance = words.random(0, len(x), words.halves(words.place_of(seed, "w")), 1, 0)
        total += rounded(x, chance, dtype) == above
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
    chance = words.random(0, len(x), words.halves(words.place_of(0, "")), 1, 0)
    with np.errstate(over="ignore"):
        expected = rounded(x, chance, "float16").astype("float16")
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
