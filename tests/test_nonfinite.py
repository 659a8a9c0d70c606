"""What is not finite stays where it is, and zeros make nothing that is not finite."""

import bits
import cases
import engine_runs
import numpy as np
import pytest

from instep import SGD, AdamW, chain
from instep.transforms import (
    accumulate,
    average,
    clip_by_global_norm,
    clip_by_norm,
    clip_by_value,
    clip_change,
    group_soft_threshold,
    lookahead,
    maximize,
    project,
    project_halfspace,
    project_l1,
    project_norm,
    project_simplex,
    scale_gradients,
    soft_threshold,
    support,
    total_variation,
    weight_decay,
)

STEPS = 6
ENGINES = ("native", "blocked", "array_api")
POISONED = "b", 17  # a leaf, and the number of one of its elements


def elementwise_chain(**settings):
    return chain(
        *(scale_gradients(0.5), clip_by_value(2.0), weight_decay(0.1), maximize(), accumulate(2)),
        *(AdamW(0.1), clip_change(1.0), soft_threshold(0.01), project(-3.0, 3.0), support(1.0)),
        *(lookahead(2), average(0.9)),
        **settings,
    )


def chain_with_norms(**settings):
    return chain(
        *(clip_by_global_norm(1.0), clip_by_norm(1.0), SGD(0.1), project_norm(1.0)), **settings
    )


def tree(seed, dtype):
    """Return leaves of sizes that fill SIMD registers and that do not, and one that is strided."""
    rng = np.random.default_rng(seed)
    params = {key: bits.ordinary(rng, n, dtype) for key, n in (("a", 5), ("b", 67), ("c", 1031))}
    return params | {"d": np.asfortranarray(bits.ordinary(rng, (6, 9), dtype))[::2]}


def run(make, engine, dtype, poison=None, at=()):
    """Return parameters and state after steps, of which those `at` have one poisoned element."""
    params, optimizer = tree(0, dtype), make(engine=engine)
    for step in range(STEPS):
        grads = tree(step + 1, dtype)
        if step in at:
            leaf, element = POISONED
            grads[leaf][element] = poison
        cases.step(optimizer, params, grads)
    return params, engine_runs.slots_of(optimizer)


def assert_same_but(got, expected, leaf, element):
    """Raise unless two runs agree to the bit everywhere but at one element of one leaf."""
    for key, w in got[0].items():
        pairs = [(w, expected[0][key])]
        pairs += [(slot, expected[1][key][name]) for name, slot in got[1][key].items()]
        for pair in pairs:
            same = [np.delete(x.ravel(), element) if key == leaf else x for x in pair]
            bits.assert_same_bits(*same, key)


def on_engines(chosen, **chains):
    """Divide among the engines what they are to step, each as often as the others.

    Cases in float32, and chains in all dtypes, are for all engines; a case of each class in another
    dtype is for one, and in the third dtype for another.
    """
    runs = []
    for number, case in enumerate(chosen):
        runs += [(case.make, str(case), "float32", engine) for engine in ENGINES]
        if case in cases.CLASSES:
            runs.append((case.make, str(case), "float16", ENGINES[number % 3]))
            runs.append((case.make, str(case), "float64", ENGINES[(number + 1) % 3]))
    runs += [
        (make, name, dtype, engine)
        for name, make in chains.items()
        for dtype in bits.DTYPES
        for engine in ENGINES
    ]
    return pytest.mark.parametrize(
        ("make", "dtype", "engine"),
        [
            pytest.param(make, dtype, engine, id=f"{name}-{dtype}-{engine}")
            for make, name, dtype, engine in runs
        ],
    )


@pytest.mark.slow  # all of them together
@on_engines([case for case in cases.CASES if case.elementwise], elementwise=elementwise_chain)
def test_a_gradient_that_is_not_finite_in_one_element_changes_no_other(make, dtype, engine):
    engine_runs.require(engine)
    expected = run(make, engine, dtype)
    assert all(np.isfinite(w).all() for w in expected[0].values())
    for poison, at in ((np.nan, [0]), (np.inf, [0]), (np.nan, [2, 3]), (-np.inf, [2, 3])):
        got = run(make, engine, dtype, poison, at)
        assert_same_but(got, expected, *POISONED)


@engine_runs.every_engine
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf], ids=str)
@pytest.mark.parametrize(
    "make",
    [
        *(
            pytest.param(case.make, id=str(case))
            for case in cases.CASES
            if not (case.elementwise or case.over_tree)
        ),
        pytest.param(
            lambda **settings: chain(
                *(clip_by_norm(1.0), SGD(0.1), group_soft_threshold(0.1), total_variation(0.1, 2)),
                *(project_norm(2.0), project_halfspace(), project_l1(2.0), project_simplex()),
                average(0.5),
                **settings,
            ),
            id="a chain with norms of tensors",
        ),
    ],
)
def test_where_a_tensor_is_reduced_it_changes_no_other_tensor(make, poison, engine):
    engine_runs.require(engine)
    expected = run(make, engine, "float32")
    got = run(make, engine, "float32", poison, [1])
    assert_same_but(got, expected, POISONED[0], slice(None))


def zeros_of(params):
    return {key: np.zeros_like(w) for key, w in params.items()}


@pytest.mark.slow  # all of them together
@on_engines(cases.CASES, elementwise=elementwise_chain, norms=chain_with_norms)
def test_zero_gradients_make_nothing_that_is_not_finite(make, dtype, engine):
    """From the first step and after others, on parameters that are zero and on others."""
    engine_runs.require(engine)
    ordinary = tree(0, dtype) | {"m": bits.ordinary(np.random.default_rng(9), (4, 3), dtype)}
    for start in (ordinary, zeros_of(ordinary)):
        for gradients in ([0] * STEPS, [0, 0, 1, 0, 0, 0], [1, 1, 0, 0, 0, 1]):
            params = {key: w.copy(order="K") for key, w in start.items()}
            optimizer = make(engine=engine)
            for factor in gradients:
                grads = {key: (w * factor).astype(dtype) for key, w in ordinary.items()}
                cases.step(optimizer, params, grads)
                for key, w in params.items():
                    assert np.isfinite(w).all(), key
            for key, slots in engine_runs.slots_of(optimizer).items():
                for name, slot in slots.items():
                    assert np.isfinite(slot).all(), (key, name)
