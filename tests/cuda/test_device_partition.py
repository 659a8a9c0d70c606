"""Partitions on the device: one launch for each rule and pass, with the bits of NumPy."""

import copy

import engine_runs
import numpy as np
import pytest
from bits import ordinary
from device_arrays import arrays_of, mirrors

from instep import LAMB, SGD, Adam, AdamW, Momentum, NAdam, Optimizer, chain, partition
from instep.engines.cuda.counters import counters
from instep.transforms import average, clip_by_global_norm, clip_by_norm, skip_nonfinite


def sixty(seed, dtypes=("float32",)):
    """Return sixty tensors, of three kinds."""
    rng = np.random.default_rng(seed)
    return {
        f"{kind}{i:02}": ordinary(rng, (3 + i, 5), dtypes[i % len(dtypes)])
        for kind in "abc"
        for i in range(20)
    }


def on_device(cupy, tree):
    return {key: cupy.asarray(w) for key, w in tree.items()}


@pytest.mark.parametrize(
    ("before", "passes", "others"),
    [
        ((), 1 + 1 + 2, 0),  # LAMB takes two passes
        ((clip_by_global_norm(1.0),), 2 + 2 + 3, 1),  # what adds up the tree
        ((skip_nonfinite(), clip_by_global_norm(1.0)), 2 + 2 + 3, 3),  # and judges the step
    ],
)
def test_sixty_tensors_take_one_launch_for_each_rule_and_pass(cupy, before, passes, others):
    branches = partition({"a*": AdamW(), "b*": Momentum(), "*": LAMB()})
    optimizer = chain(*before, branches, average(0.9), engine="cuda")
    params, grads = on_device(cupy, sixty(0)), on_device(cupy, sixty(1))
    for _ in range(3):
        launches = counters.launches
        optimizer.update(params, grads)
        assert counters.launches - launches == passes + others
    assert sum(bucket.launches for bucket in optimizer.explain(params).buckets) == passes


def make(**settings):
    return chain(
        *(skip_nonfinite(), clip_by_global_norm(1.0)),
        partition(
            {
                "a*": NAdam(),
                "b*": chain(clip_by_global_norm(0.5), clip_by_norm(0.25), SGD(lr=0.5)),
                "*": LAMB(),
            }
        ),
        average(0.9),
        **settings,
    )


def test_each_branch_has_the_bits_of_numpy_whatever_the_dtypes(cupy):
    expected = sixty(0, ("float32", "float16", "float64", "complex64"))
    params, optimizers = mirrors(cupy, expected), (make(engine="cuda"), make(engine="blocked"))
    for step in range(6):
        grads = sixty(step + 1, ("float32", "float16", "float64", "complex64"))
        if step == 2:
            grads["c19"][-1, -1] = np.nan
        given = on_device(cupy, grads)
        if step == 4:
            grads["a03"] = given["a03"] = grads["b00"] = given["b00"] = None
        optimizers[0].update(arrays_of(params), given)
        optimizers[1].update(expected, grads)
    got = {key: mirror.read() for key, mirror in params.items()}
    engine_runs.assert_same_run((got, optimizers[0]), (expected, optimizers[1]))
    assert optimizers[0].skipped == optimizers[1].skipped == 1


class Called(Optimizer):
    """A rule that no engine can fuse."""

    @staticmethod
    def rule(xp, w, g, s, h):
        return w - g * float(xp.any(xp.abs(g) > 0)), {}


def test_a_rule_that_is_called_sums_with_those_that_are_launched(cupy):
    expected = sixty(0, ("float32", "float64"))
    params = on_device(cupy, expected)
    made = [
        chain(
            *(skip_nonfinite(), clip_by_global_norm(2.0)),
            *(partition({"a*": Called(), "*": Momentum()}), average(0.5)),
        )
        for _ in range(2)
    ]
    for step in range(4):
        grads = sixty(step + 1, ("float32", "float64"))
        if step == 2:
            grads["a07"][0, 0] = np.inf
        made[0].update(params, on_device(cupy, grads))
        made[1].update(expected, grads)
    assert {bucket.engine for bucket in made[0].explain(params).buckets} == {"array_api", "cuda"}
    got = {key: w.get() for key, w in params.items()}
    engine_runs.assert_same_run((got, made[0]), (expected, made[1]))
    assert made[0].skipped == made[1].skipped == 1


def test_a_norm_before_a_partition_is_that_of_the_whole_tree(cupy):
    start = sixty(0)
    trees = on_device(cupy, start), on_device(cupy, start)
    branches = partition({"a*": Adam(), "b*": Adam(), "*": Adam()})
    of_parts = chain(clip_by_global_norm(0.5), branches, engine="cuda")
    whole = chain(clip_by_global_norm(0.5), Adam(), engine="cuda")
    for step in range(3):
        grads = on_device(cupy, sixty(step + 1))
        of_parts.update(trees[0], grads)
        whole.update(trees[1], grads)
    for key, w in trees[0].items():
        assert w.get().tobytes() == trees[1][key].get().tobytes(), key


def test_what_is_wrong_in_the_last_leaf_leaves_all_alone(cupy):
    optimizer = make(engine="cuda")
    params = on_device(cupy, sixty(0))
    optimizer.update(params, on_device(cupy, sixty(1)))
    before = {key: w.get() for key, w in params.items()}
    state = copy.deepcopy(optimizer)
    grads = on_device(cupy, sixty(2))
    grads["c19"] = grads["c19"][:-1]
    with pytest.raises(ValueError, match="shapes must be equal"):
        optimizer.update(params, grads)
    engine_runs.assert_same_run(
        ({key: w.get() for key, w in params.items()}, optimizer), (before, state)
    )
