# ruff: noqa: SLF001  (it looks inside on purpose)
"""Guarded steps on a device: turned away there, and heard of later, with the bits of NumPy."""

import copy
import pickle

import bits
import engine_runs
import numpy as np
import pytest
from device_arrays import arrays_of, mirrors
from remembering import Counting, Remembering

from instep import (
    SGD,
    Adafactor,
    Adam,
    AdamW,
    Muon,
    NAdam,
    RAdam,
    Rprop,
    chain,
    partition,
    schedules,
    transforms,
)
from instep.engines.cuda.verdicts import DeviceVerdicts
from instep.engines.sums import Verdicts
from instep.transforms import (
    accumulate,
    average,
    clip_by_global_norm,
    dynamic_scale,
    lookahead,
    skip_nonfinite,
)

#: Calls whose verdicts are on their way when the next is heard: on the stand-in, a launch is done
#: when it returns, so that what a GPU does later is made to arrive later.
DELAYS = (0, 1, 4, 100)


@pytest.fixture(params=DELAYS, ids="{} late".format)
def delay(request, monkeypatch):
    def has_arrived(verdicts, _):
        return len(verdicts._copies.in_flight) > request.param

    monkeypatch.setattr(DeviceVerdicts, "_has_arrived", has_arrived)
    return request.param


CHAINS = {
    "elementwise": lambda **how: chain(skip_nonfinite(), AdamW(), **how),
    "scheduled": lambda **how: chain(
        skip_nonfinite(), Adam(lr=schedules.Exponential(0.1, 0.9)), **how
    ),
    "clipped and averaged": lambda **how: chain(
        skip_nonfinite(), clip_by_global_norm(1.0), AdamW(), average(0.9), **how
    ),
    "accumulated": lambda **how: chain(
        skip_nonfinite(), accumulate(3), clip_by_global_norm(1.0), AdamW(), average(0.9), **how
    ),
    "slow weights": lambda **how: chain(skip_nonfinite(), RAdam(), lookahead(4), **how),
    "remembering": lambda **how: chain(skip_nonfinite(), NAdam(), **how),
    "with numbers": lambda **how: chain(skip_nonfinite(), Remembering(), **how),
    "partitioned": lambda **how: chain(
        *(skip_nonfinite(), clip_by_global_norm(1.0)),
        partition({"flat": AdamW(), "*": chain(clip_by_global_norm(0.5), NAdam())}),
        **how,
    ),
    "scaled": lambda **how: chain(
        *(dynamic_scale(interval=3), accumulate(2), clip_by_global_norm(1.0), Remembering()), **how
    ),
    "guarded twice": lambda **how: chain(
        skip_nonfinite(), transforms.scale_gradients(2.0), skip_nonfinite(), Rprop(), **how
    ),
}

BAD = {2, 3, 7, 11, 12, 13, 20, 29}


def gradients(params, step):
    rng = np.random.default_rng(step)
    grads = {name: bits.ordinary(rng, w.shape, w.dtype) for name, w in params.items()}
    if step in BAD:
        grads["flat"][-1] = (np.inf, -np.inf, np.nan)[step % 3]
    return grads


def parameters(dtypes=("float32",)):
    rng = np.random.default_rng(0)
    params = {"flat": bits.ordinary(rng, (17_000,), dtypes[0])}
    for dtype in dtypes:
        params |= {f"{s} {dtype}": bits.ordinary(rng, s, dtype) for s in [(0,), (), (3, 50, 7)]}
    params["strided"] = bits.ordinary(rng, (30, 40), dtypes[-1])[::-2, ::3]
    return params


def run_both(make, cupy, expected, steps=30, between=lambda optimizer, step: None):
    """Take steps on the device and on NumPy; return the runs."""
    params = mirrors(cupy, expected)
    optimizers = make(engine="cuda"), make(engine="blocked")
    for step in range(steps):
        grads = gradients(expected, step)
        optimizers[0].update(arrays_of(params), arrays_of(mirrors(cupy, grads)))
        optimizers[1].update(expected, grads)
        for optimizer in optimizers:
            between(optimizer, step)
    got = {name: mirror.read() for name, mirror in params.items()}
    return (got, optimizers[0]), (expected, optimizers[1])


def assert_same(run, reference):
    engine_runs.assert_same_run(run, reference)
    assert run[1].skipped == reference[1].skipped
    found, expected = (one[1].state_dict()["states"] for one in (run, reference))
    assert {k: s["scalars"] for k, s in found.items()} == {
        k: s["scalars"] for k, s in expected.items()
    }


@pytest.mark.parametrize("make", CHAINS.values(), ids=CHAINS)
def test_verdicts_that_arrive_late_change_no_bit(cupy, make, delay):
    run, reference = run_both(make, cupy, parameters())
    waiting = len(run[1]._state.plan._judging._undecided._memories) - 1
    assert waiting == min(delay + 1, Verdicts.MOST + 1), "the host has gone ahead"
    assert reference[1].skipped == len(BAD)
    assert_same(run, reference)


@pytest.mark.parametrize("seed", ["1", "20"])
def test_the_order_of_threads_changes_no_verdict(cupy, seed, monkeypatch):
    monkeypatch.setenv("CUPY_ON_CPU_SHUFFLE", seed)
    monkeypatch.setattr(DeviceVerdicts, "_has_arrived", lambda self, event: False)
    assert_same(*run_both(CHAINS["accumulated"], cupy, parameters()))


def test_leaves_of_all_dtypes_are_turned_away_together(cupy, delay):
    expected = parameters(("float32", "float16", "float64"))
    assert_same(*run_both(CHAINS["clipped and averaged"], cupy, expected, steps=15))


def test_a_step_does_not_wait_for_its_verdict(cupy, monkeypatch):
    """No call that waits: none that synchronizes, none that copies to the host and waits."""
    optimizer = CHAINS["accumulated"]()
    params = {"w": cupy.zeros(1000, "float32"), "v": cupy.zeros(3, "float32")}
    grads = {"w": cupy.ones(1000, "float32"), "v": cupy.ones(3, "float32")}
    for _ in range(4):  # all graphs are compiled, all tables are there
        optimizer.update(params, grads)

    def wait(*_):
        raise AssertionError("the step waits for the device")

    runtime = cupy.cuda.runtime
    for name in ("streamSynchronize", "deviceSynchronize", "eventSynchronize", "memcpy"):
        monkeypatch.setattr(runtime, name, wait)
    monkeypatch.setattr(DeviceVerdicts, "_has_arrived", lambda self, event: False)
    undecided = type(optimizer._state.plan._judging._undecided)
    monkeypatch.setattr(undecided, "hear", lambda self, most: None)
    for _ in range(Verdicts.MOST):
        optimizer.update(params, grads)


def test_hyperparameters_may_change_while_verdicts_are_on_their_way(cupy, delay):
    def between(optimizer, step):
        optimizer.lr = 0.1 / (1 + step)
        if step == 10:  # what the average remembers is made of it
            next(r for r in optimizer.parts.values() if isinstance(r, average)).decay = 0.5

    assert_same(*run_both(CHAINS["clipped and averaged"], cupy, parameters(), between=between))


def test_what_is_read_between_two_steps_is_up_to_date(cupy, delay):
    seen = {"cuda": [], "blocked": []}

    def between(optimizer, step):
        if step % 5 == 4:
            seen[optimizer.engine].append((optimizer.t, optimizer.skipped))

    run, reference = run_both(CHAINS["elementwise"], cupy, parameters(), between=between)
    assert seen["cuda"] == seen["blocked"]
    assert_same(run, reference)


def test_averages_are_those_of_the_steps_taken(cupy, delay):
    run, reference = run_both(CHAINS["clipped and averaged"], cupy, parameters(), steps=12)
    params = mirrors(cupy, reference[0])
    found = run[1].averaged(arrays_of(params))
    for name, mean in reference[1].averaged(reference[0]).items():
        bits.assert_same_bits(found[name].get(), mean, name)


def test_copies_and_saved_states_know_of_all_steps(cupy, delay):
    run, reference = run_both(CHAINS["accumulated"], cupy, parameters(), steps=14)
    copies = copy.deepcopy(run[1]), pickle.loads(pickle.dumps(run[1]))
    for optimizer in copies:
        state = optimizer._state
        assert (state.t, state.skipped) == (reference[1].t, reference[1].skipped)
    restored = CHAINS["accumulated"](engine="cuda").load_state_dict(run[1].state_dict())
    assert (restored.t, restored.skipped) == (reference[1].t, reference[1].skipped)


def test_leaves_that_come_late_count_the_steps_taken(cupy, delay):
    """A parameter without a gradient misses the steps that are taken, and no others."""
    w = {name: cupy.zeros(5, "float32") for name in "ab"}
    expected = {name: np.zeros(5, "float32") for name in "ab"}
    optimizers = CHAINS["elementwise"](engine="cuda"), CHAINS["elementwise"](engine="blocked")
    for step in range(20):
        g = np.full(5, np.nan if step in BAD else 1.0, "float32")
        given = {"a": g, "b": g if step % 4 == 3 else None}
        optimizers[1].update(expected, given)
        on_device = {k: x if x is None else cupy.asarray(x) for k, x in given.items()}
        optimizers[0].update(w, on_device)
    for name in "ab":
        bits.assert_same_bits(w[name].get(), expected[name], name)
    assert optimizers[0].t == optimizers[1].t
    taken = [optimizer._state.leaves["b"].history.taken for optimizer in optimizers]
    assert taken[0] == taken[1] < optimizers[0].t


#: Every branch of a partition has leaves: it has no plan for a tree without them.
ON_PARTS = {name: make for name, make in CHAINS.items() if name != "partitioned"}


@pytest.mark.parametrize("make", ON_PARTS.values(), ids=ON_PARTS)
def test_plans_in_turn_go_on_from_where_others_have_left(make, cupy, delay):
    """What is undecided is settled first, and what was remembered then is remembered no more."""
    w, expected = ({n: xp.ones(5, "float32") for n in ("a", "flat")} for xp in (cupy, np))
    on_device, on_host = make(engine="cuda"), make(engine="blocked")
    for step in range(24):
        g = gradients(expected, step)
        names = ("a", "flat") if step % 8 < 4 else ("a", "flat")[step % 2 :][:1]
        on_device.update(
            {name: w[name] for name in names}, {name: cupy.asarray(g[name]) for name in names}
        )
        on_host = copy.copy(on_host)  # without plans
        on_host.update({name: expected[name] for name in names}, {n: g[n] for n in names})
    for name in w:
        bits.assert_same_bits(w[name].get(), expected[name], name)
    engine_runs.assert_same_state(on_device, on_host)


def test_a_first_step_that_is_turned_away_leaves_no_trace(cupy, delay):
    """State may start from what is changed before the first step that is taken."""
    optimizer = chain(skip_nonfinite(), Rprop(lr=0.1), lookahead(2))
    w = cupy.zeros(3)
    optimizer.update(w, cupy.full(3, np.nan))
    assert (optimizer.t, optimizer.skipped, optimizer._state.leaves) == (0, 1, {})
    w += 5.0
    optimizer.lr = 0.5
    optimizer.update(w, cupy.ones(3))
    assert w.get().tolist() == [4.5] * 3


def test_numbers_last_that_a_rule_says_do(cupy, delay):
    optimizer, w = chain(Counting(), SGD()), cupy.zeros(3)
    expected = [*Counting.expected(30, are_finite=lambda call: call not in BAD)]
    for call in range(30):
        optimizer.update(w, cupy.full(3, np.inf if call in BAD else 1.0))
        if call % 5 == 0:
            assert optimizer.state_dict()["numbers"] == expected[call]
    assert optimizer.state_dict()["numbers"] == expected[-1]


def test_a_tree_on_host_and_device_is_judged_by_the_host(cupy):
    optimizer = CHAINS["elementwise"]()
    params = {"a": np.zeros(3), "b": cupy.zeros(3)}
    optimizer.update(params, {"a": np.ones(3), "b": cupy.full(3, np.inf)})
    optimizer.update(params, {"a": np.full(3, np.inf), "b": cupy.ones(3)})
    assert (optimizer.t, optimizer.skipped) == (0, 2)
    assert not params["a"].any()
    assert not params["b"].any()
    optimizer.update(params, {"a": np.ones(3), "b": cupy.ones(3)})
    assert (optimizer.t, optimizer.skipped) == (1, 2)


def test_functions_of_the_library_are_called_for_steps_that_are_taken_only(cupy):
    """Muon multiplies matrices between two passes: the host has to know of the verdict."""
    optimizers = (chain(skip_nonfinite(), Muon(), engine=e) for e in ("cuda", "array_api"))
    found = []
    for optimizer in optimizers:
        w = cupy.ones((4, 4), "float32")
        for value in (1.0, np.nan, 2.0):
            optimizer.update(w, cupy.full((4, 4), value, "float32"))
        found.append((optimizer.t, optimizer.skipped, w.get()))
    assert found[0][:2] == found[1][:2] == (2, 1)
    assert np.allclose(found[0][2], found[1][2], rtol=1e-5)


def test_calls_that_the_device_judges_alternate_with_calls_that_the_host_judges(cupy, delay):
    """Adafactor's rows and columns are written by the host, in every second call only."""
    optimizer, w = chain(skip_nonfinite(), accumulate(2), Adafactor()), cupy.ones((4, 6), "float32")
    for value in (1.0, 2.0, 3.0):
        optimizer.update(w, cupy.full((4, 6), value, "float32"))
    before = w.get(), engine_runs.slots_of(optimizer)[""]
    for _ in range(3):  # each would complete a step
        optimizer.update(w, cupy.full((4, 6), np.nan, "float32"))
    bits.assert_same_bits(w.get(), before[0])
    for name, slot in engine_runs.slots_of(optimizer)[""].items():
        bits.assert_same_bits(slot, before[1][name], name)
    assert (optimizer.t, optimizer.skipped) == (3, 3)
    optimizer.update(w, cupy.full((4, 6), 4.0, "float32"))
    assert (optimizer.t, optimizer.skipped) == (4, 3)
    assert (w.get() != before[0]).all()
