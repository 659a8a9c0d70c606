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


@pytest.mark.parametrize(("first", "count"), [(0, 600), (256, 1), (512, 300), (2**40, 257)])
def test_a_block_shares_sixty_four_words(first, count):
    found = words.shared(first, count, (1, 2), 3, 4)
    for i in (0, 1, 63, 64, 127, 200, 255, 256, count - 1):
        if i < count:
            block, place = divmod(first + i, 256)
            counter = 16 * block + place % 16
            made = words.philox((counter & words.MASK, counter >> 32, 3, 4), (1, 2))
            word, turn = int(made[place // 16 % 4]), 8 * (place // 64)
            assert found[i] == (word << turn | word >> 32 - turn) & words.MASK


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
