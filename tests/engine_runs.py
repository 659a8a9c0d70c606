"""Runs of an optimizer on an engine, ready to be compared to the bit."""

import bits
import pytest

from instep import engines

#: (engine, threads): everything that updates NumPy arrays and must agree with `array_api`.
NUMPY_ENGINES = [("native", 1), ("native", 2), ("blocked", 1)]


def why_not(engine):
    """Say why an engine cannot run here, or None."""
    return engines.load(engine).unavailable()


def require(engine):
    """Skip the test where an engine cannot run."""
    reason = why_not(engine)
    if reason is not None:
        pytest.skip(reason)


every_numpy_engine = pytest.mark.parametrize(
    ("engine", "threads"), NUMPY_ENGINES, ids=[f"{name}, {n} threads" for name, n in NUMPY_ENGINES]
)
every_engine = pytest.mark.parametrize("engine", ["native", "blocked", "array_api"])


def divided(first, second):
    """Divide the numbers of threads between two dtypes that are stepped by the same loops."""
    runs = [
        *((first, "native", 1), (first, "blocked", 1)),
        *((second, "native", 2), (second, "blocked", 1)),
    ]
    ids = [f"{dtype}-{name}, {n} threads" for dtype, name, n in runs]
    return pytest.mark.parametrize(("dtype", "engine", "threads"), runs, ids=ids)


def slots_of(optimizer):
    """Return copies of all state arrays: {leaf: {slot: array}}."""
    states = optimizer.state_dict()["states"]
    return {key: entry["slots"] for key, entry in states.items()}


def assert_same_run(got, expected):
    """Raise unless two runs, (params, optimizer), ended in the same bits and state.

    `params` are flat dicts of arrays.
    """
    (params, optimizer), (expected_params, expected_optimizer) = got, expected
    assert list(params) == list(expected_params)
    for key in params:
        bits.assert_same_bits(params[key], expected_params[key], f"parameter {key!r}")
    assert_same_state(optimizer, expected_optimizer)


def assert_same_state(optimizer, expected):
    """Raise unless two optimizers hold the same state, bit for bit."""
    state, expected_state = optimizer.state_dict(), expected.state_dict()
    assert state["t"] == expected_state["t"]
    assert repr(state["numbers"]) == repr(expected_state["numbers"])  # NaN too
    assert state["states"].keys() == expected_state["states"].keys()
    for key, entry in state["states"].items():
        other = expected_state["states"][key]
        assert entry["missed"] == other["missed"], key
        assert entry["slots"].keys() == other["slots"].keys(), key
        for name, slot in entry["slots"].items():
            bits.assert_same_bits(slot, other["slots"][name], f"slot {name!r} of {key!r}")


def all_threads(threads, elements, graph):
    """Stand for `worth_waking`: wake all threads for any elements at all."""
    return max(1, min(threads, 2 * elements))
