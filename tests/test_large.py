"""Sizes beyond what 32 bits count, and state that is not touched before it is used."""

import os
from pathlib import Path

import numpy as np
import pytest

from instep import SGD, Adam
from instep.commands.bench.measuring import free_memory

pytest.importorskip("llvmlite", reason="the native engine needs llvmlite")

GIB = 2**30
STATM = Path("/proc/self/statm")


@pytest.mark.slow
@pytest.mark.skipif(free_memory() < 12 * GIB, reason="needs 12 GiB of free memory")
def test_a_step_covers_more_than_two_to_the_31_elements():
    """DeepSpeed's kernels, with sizes of 32 bits, skip the elements from there on."""
    count = 2**31 + 12_345
    w, g = np.zeros(count, np.float16), np.zeros(count, np.float16)
    marked = np.array([0, 2**30, 2**31 - 1, 2**31, 2**31 + 1, count - 1])
    g[marked] = -1.0
    SGD(lr=0.5, engine="native").update(w, g)
    np.testing.assert_array_equal(w[marked], np.float16(0.5))
    ends = np.concatenate([w[: 2**20], w[2**31 - 2**10 :]])
    assert np.count_nonzero(ends) == len(marked) - 1, "and no other element moved"


def resident() -> int:
    return int(STATM.read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not STATM.exists(), reason="needs Linux's /proc")
def test_state_takes_no_memory_before_the_threads_touch_it():
    """The pages are placed by the thread that first runs on them."""
    from instep.engines.native.memory import allocate

    w = np.zeros(2**25, np.float32)
    before = resident()
    slots = allocate([w], ["float32", "float32"])
    assert resident() - before < 8 * 2**20
    slots[0][0][:] = 1.0
    assert resident() - before > 100 * 2**20


def test_ten_thousand_small_tensors_equal_one_large():
    generator = np.random.default_rng(0)
    w = generator.standard_normal((10_000, 10)).astype(np.float32)
    g = generator.standard_normal((10_000, 10)).astype(np.float32)
    many = {f"w{i}": row.copy() for i, row in enumerate(w)}
    one, several = Adam(), Adam()
    for _ in range(3):
        one.update(w, g)
        several.update(many, {f"w{i}": row for i, row in enumerate(g)})
    for i, row in enumerate(w):
        np.testing.assert_array_equal(many[f"w{i}"], row)
