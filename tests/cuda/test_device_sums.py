# ruff: noqa: SLF001  (it looks inside on purpose)
"""Canonical sums on the device: the bits of the host, in any order of blocks and threads."""

import bits
import engine_runs
import numpy as np
import pytest
from device_arrays import arrays_of, mirrors
from emitted import clipped
from remembering import Remembering
from test_maxima import Largest

from instep import LAMB, Optimizer, numerics
from instep.engines.cuda.canonical_sum import LARGER, PREFIX, lane_of, tensor_sum
from instep.engines.cuda.compile import load
from instep.engines.cuda.counters import counters
from instep.graph import sum_number
from instep.numerics import LANES, TILE

SIZES = (0, 1, 1023, 1024, 1025, 16383, 16384, 16385, 2**20 + 3, 5_000_000)

SEEDS = ["", "1", "20"]


class Sums(Optimizer):
    """Keeps the sum of each gradient, and that of all of them, in float64 and as rules get them."""

    slots = ("own", "all")

    @staticmethod
    def rule(xp, w, g, s, h):
        return w, {"own": xp.sum(g), "all": xp.tree_sum(g)}


def numbers(size, dtype):
    """Return numbers of any exponent, and so small that no sum overflows."""
    rng = np.random.default_rng(size)
    info = np.finfo(dtype)
    highest = info.maxexp - (24 if dtype == "float64" else 1)
    exponents = rng.uniform(np.log2(float(info.smallest_subnormal)), highest, size)
    x = (rng.choice([-1.0, 1.0], size) * 2.0**exponents).astype(dtype)
    x[::7] = rng.standard_normal(len(x[::7]))
    return x


def table_of(optimizer):
    """Return the sums on the device after a step."""
    (remote,) = optimizer._state.plan._sums.remotes.values()
    return remote._table.get()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("dtype", bits.DTYPES)
def test_sums_are_canonical_for_every_size(cupy, dtype, seed, monkeypatch):
    monkeypatch.setenv("CUPY_ON_CPU_SHUFFLE", seed)
    sizes = SIZES if seed == "1" else SIZES[:-2]
    gradients = {f"{n:07}": numbers(n, dtype) for n in sizes}
    params = {name: np.zeros_like(g) for name, g in gradients.items()}
    optimizer = Sums(engine="cuda")
    on_device = mirrors(cupy, params), mirrors(cupy, gradients)
    for _ in range(2):  # counters on the device have to be ready again
        optimizer.update(*(arrays_of(mirrored) for mirrored in on_device))
    table = table_of(optimizer)
    expected = [numerics.canonical_sum(_NUMPY, g) for g in gradients.values()]
    bits.assert_same_bits(table[sum_number(0, "tensor"), :-1], np.array(expected))
    total = 0.0
    for value in expected:
        total += float(value)
    bits.assert_same_bits(table[sum_number(0, "tree"), -1:], np.array([total]))
    reference = Sums(engine="blocked")
    reference.update(params, gradients)
    engine_runs.assert_same_state(optimizer, _with_two_steps(reference, params, gradients))


def _with_two_steps(optimizer, params, gradients):
    optimizer.update(params, gradients)
    return optimizer


class _NUMPY:
    float64, astype = np.float64, staticmethod(np.ndarray.astype)
    reshape, concat, zeros = map(staticmethod, (np.reshape, np.concatenate, np.zeros))


@pytest.mark.parametrize("kind", ["sum", "maximum"])
@pytest.mark.parametrize("count", [2, 1024, TILE, TILE + 1, 3 * TILE + 5, TILE * 20])
def test_sums_of_more_tiles_than_a_tile_has_elements(cupy, count, kind):
    """As many tiles as a tensor of 5e9 elements has: the sums of tiles are summed twice."""
    source = f"""\
constexpr int THREADS = 256, V = 4, LANES = {LANES}, TILE = {TILE};
{lane_of("V * threadIdx.x + k")}
{LARGER}
{tensor_sum(kind)}
extern "C" __global__ void __launch_bounds__(THREADS)
sum(double* const values, const long long count, double* const result)
{{
    __shared__ double lanes[LANES];
    {PREFIX[kind]}canonical_sum(lanes, values, count, result);
}}
"""
    values = numbers(count, "float64")
    on_device, result = cupy.asarray(values), cupy.zeros(1)
    load(source, "sum")((1,), (256,), (on_device, np.int64(count), result))
    expected = numerics.canonical_sum(_NUMPY, values) if kind == "sum" else values.max()
    bits.assert_same_bits(result.get(), np.array([expected]))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    "make",
    [LAMB, clipped, Largest, Remembering],
    ids=["LAMB", "clipped by the global norm", "maxima", "numbers that are remembered"],
)
@pytest.mark.parametrize("dtype", [*bits.DTYPES, "mixed"])
def test_rules_with_sums_give_the_bits_of_numpy(cupy, make, dtype, seed, monkeypatch):
    monkeypatch.setenv("CUPY_ON_CPU_SHUFFLE", seed)
    dtypes = bits.DTYPES if dtype == "mixed" else [dtype]
    rng = np.random.default_rng(3)
    shapes = [(0,), (), (1025,), (3, 50, 7), (2, 8200)]
    expected = {f"{s} {d}": bits.ordinary(rng, s, d) for d in dtypes for s in shapes}
    expected["Fortran"] = np.asfortranarray(bits.ordinary(rng, (30, 40), dtypes[0]))
    expected["strided"] = bits.ordinary(rng, (30, 40), dtypes[0])[::-2, ::3]
    params = mirrors(cupy, expected)
    optimizers = make(engine="cuda"), make(engine="blocked")
    for _ in range(50 if seed == "1" else 5):
        grads = {name: bits.ordinary(rng, w.shape, w.dtype) for name, w in expected.items()}
        optimizers[0].update(arrays_of(params), arrays_of(mirrors(cupy, grads)))
        optimizers[1].update(expected, grads)
    got = {name: mirror.read() for name, mirror in params.items()}
    engine_runs.assert_same_run((got, optimizers[0]), (expected, optimizers[1]))


def test_a_tree_on_host_and_device_has_one_sum(cupy):
    """Such a step waits for the device; its bits are those of any other."""
    rng = np.random.default_rng(4)
    expected = {name: bits.ordinary(rng, (700,), "float32") for name in "abcd"}
    params = {name: cupy.asarray(w) if name in "bd" else w.copy() for name, w in expected.items()}
    optimizers = clipped(), clipped()
    for _ in range(3):
        grads = {name: bits.ordinary(rng, (700,), "float32") for name in "abcd"}
        given = {name: cupy.asarray(g) if name in "bd" else g for name, g in grads.items()}
        optimizers[0].update(params, given)
        optimizers[1].update(expected, grads)
    for name, w in params.items():
        bits.assert_same_bits(w.get() if name in "bd" else w, expected[name], name)


def test_a_norm_first_takes_two_launches(cupy):
    params = {f"{n}": cupy.zeros(n, dtype="float32") for n in (5, 20_000, 70_000)}
    grads = {name: cupy.ones_like(w) for name, w in params.items()}
    optimizer = clipped()
    optimizer.update(params, grads)
    before = counters.launches
    optimizer.update(params, grads)
    assert counters.launches - before == 2
    explanation = optimizer.explain(params).buckets[0]
    assert explanation.launches == 2
    assert explanation.bytes_per_element == 40


def test_a_sum_of_a_number_counts_elements(cupy):
    class Count(Optimizer):
        @staticmethod
        def rule(xp, w, g, s, h):
            return w + xp.sum(xp.ones_like(w)) * g, {}

    w = cupy.zeros(20_000)
    Count(engine="cuda").update(w, cupy.ones_like(w))
    assert (w.get() == 20_000).all()
