"""State can be saved, loaded, copied and moved, and the path goes on to the bit."""

import copy
import json
import pickle

import bits
import cases
import engine_runs
import numpy as np
import pytest

from instep import SGD, Adam, Momentum, Muon, RMSProp, ScheduleFreeAdamW, chain
from instep.transforms import accumulate, average, project, skip_nonfinite

ENGINES = ["native", "blocked", "array_api"]


def start(dtype="float32"):
    rng = np.random.default_rng(0)
    return {
        "w": bits.ordinary(rng, (4, 5), dtype),
        "b": bits.ordinary(rng, (7,), dtype),
        "F": np.asfortranarray(bits.ordinary(rng, (3, 2), dtype)),
        "strided": bits.ordinary(rng, (20,), dtype)[::2],
        "scalar": np.array(0.5, dtype),
        "empty": np.zeros((0, 3), dtype),
    }


def gradient(params, t):
    rng = np.random.default_rng(t)
    return {name: bits.ordinary(rng, w.shape, w.dtype) for name, w in params.items()}


def take(optimizer, params, steps, first):
    for t in range(first, first + steps):
        cases.step(optimizer, params, gradient(params, t))
    return params


def copied(params):
    return {name: w.copy(order="K") for name, w in params.items()}


RESTORE = {
    "state_dict": lambda case, o, **kw: case.make(**kw).load_state_dict(o.state_dict()),
    "state_dict through pickle": lambda case, o, **kw: case.make(**kw).load_state_dict(
        pickle.loads(pickle.dumps(o.state_dict()))
    ),
    "pickle": lambda case, o, **kw: pickle.loads(pickle.dumps(o)),
    "deepcopy": lambda case, o, **kw: copy.deepcopy(o),
}


@pytest.mark.slow  # all of them together
@engine_runs.every_engine
@cases.every_class
def test_a_restored_optimizer_takes_ten_identical_steps(case, engine):
    engine_runs.require(engine)
    params = start()
    optimizer = case.make(lr=0.01, engine=engine)
    take(optimizer, params, 5, first=1)
    runs = []
    for way, restore in RESTORE.items():
        restored = restore(case, optimizer, engine=engine)
        assert repr(restored) == repr(optimizer), way
        assert restored.t == 5, way
        engine_runs.assert_same_state(restored, optimizer)
        runs.append((copied(params), restored))
    take(optimizer, params, 10, first=6)
    for other, restored in runs:
        take(restored, other, 10, first=6)
        engine_runs.assert_same_run((other, restored), (params, optimizer))


@pytest.mark.parametrize("dtype", bits.DTYPES)
@pytest.mark.parametrize("target", ENGINES)
@pytest.mark.parametrize("source", ENGINES)
def test_state_moves_between_engines(source, target, dtype):
    engine_runs.require(source)
    engine_runs.require(target)
    params = start(dtype)
    expected_params = copied(params)
    optimizer, expected = Adam(engine=source), Adam(engine="array_api")
    take(optimizer, params, 3, first=1)
    optimizer.engine = target
    take(optimizer, params, 3, first=4)
    moved = Adam(engine=source).load_state_dict(optimizer.state_dict())
    take(moved, params, 3, first=7)
    take(expected, expected_params, 9, first=1)
    engine_runs.assert_same_run((params, moved), (expected_params, expected))


@engine_runs.every_engine
def test_loading_copies_and_saving_copies(engine):
    engine_runs.require(engine)
    params = start()
    optimizer = Momentum(engine=engine)
    take(optimizer, params, 3, first=1)
    saved = optimizer.state_dict()
    kept = copy.deepcopy(saved)
    loaded = Momentum(engine=engine).load_state_dict(saved)
    take(loaded, copied(params), 3, first=4)
    take(optimizer, params, 3, first=4)
    for state in (saved, kept):
        assert state["t"] == 3
    for key, entry in saved["states"].items():
        for name, slot in entry["slots"].items():
            bits.assert_same_bits(slot, kept["states"][key]["slots"][name])
            slot[...] = np.nan  # what was handed out is the user's: nobody else sees it
    before = engine_runs.slots_of(loaded)
    assert not any(np.isnan(slot).any() for slots in before.values() for slot in slots.values())


@cases.every_class
def test_a_state_is_plain_data(case):
    """Only dicts, lists, strings, numbers and NumPy arrays, so that any format can hold it."""
    params = start()
    optimizer = case.make()
    take(optimizer, params, 2, first=1)

    def check(value):
        if isinstance(value, dict):
            assert all(type(key) is str for key in value)
            return {key: check(child) for key, child in value.items()}
        if type(value) is np.ndarray:
            return value.tolist()
        if type(value) is list:
            return [*map(check, value)]
        assert type(value) in (int, float, str, bool), type(value)
        return value

    json.dumps(check(optimizer.state_dict()))


def test_a_state_of_no_step_can_be_loaded():
    loaded = Adam(lr=0.5).load_state_dict(Adam(lr=0.25).state_dict())
    assert loaded.lr == 0.25
    assert loaded.t == 0


def test_hyperparameters_are_loaded_and_validated():
    state = RMSProp(lr=0.5, centered=True, momentum=0.5).state_dict()
    loaded = RMSProp().load_state_dict(state)
    assert (loaded.lr, loaded.centered, loaded.momentum) == (0.5, True, 0.5)


def spoiled(**changes):
    optimizer = Adam()
    optimizer.update({"w": np.ones(3)}, {"w": np.ones(3)})
    state = optimizer.state_dict()
    return {**state, **changes}


def spoiled_entry(*without, **changes):
    """Return a state with another entry for its one parameter."""
    slots = {"m": np.ones(3), "v": np.ones(3)}
    entry = {"missed": 0, "scalars": {}, "slots": slots} | changes
    return spoiled(states={"w": {key: entry[key] for key in entry if key not in without}})


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (spoiled(format=99), "format 99"),
        (spoiled(optimizer="SGD"), "belongs to SGD"),
        (spoiled(t=-1), "t must be"),
        (spoiled(t=1.5), "t must be"),
        (spoiled(t=True), "t must be"),
        (spoiled(hyperparameters={"lr": -1.0}), "lr must be"),
        (spoiled(hyperparameters={"rate": 1.0}), "no hyperparameter 'rate'"),
        (spoiled(hyperparameters={"lr": 0.5, "beta1": 1.0}), "beta1 must be"),
        (spoiled(hyperparameters=[0.5]), r"'hyperparameters' must be a dict, got \[0.5\]"),
        (spoiled(parts={"": "AdamW"}), "is of the chain AdamW, and this one is Adam"),
        (spoiled(parts=["Adam"]), "'parts' must be a dict"),
        (spoiled(states=[]), r"'states' must be a dict, got \[\]"),
        (spoiled(states={"w": None}), "the state of 'w' must be a dict, got None"),
        (spoiled_entry(missed=2), "missed 2 of 1"),
        (spoiled_entry(missed=-1), "missed -1 of 1"),
        (spoiled_entry(missed=0.5), "missed 0.5 of 1"),
        (spoiled_entry("missed"), "the state of 'w' has no 'missed'"),
        (spoiled_entry("scalars"), "the state of 'w' has no 'scalars'"),
        (spoiled_entry("slots"), "the state of 'w' has no 'slots'"),
        (spoiled_entry(slots=None), "'slots' of 'w' must be a dict, got None"),
        (spoiled_entry(slots={}), "'w' has the slots none, expected m, v"),
        (spoiled_entry(slots={"m": np.ones(3)}), "'w' has the slots m, expected m, v"),
        (
            spoiled_entry(slots={"m": np.ones(3), "v": np.ones(3), "y": np.ones(3)}),
            "'w' has the slots m, v, y, expected m, v",
        ),
        (
            spoiled_entry(slots={"m": np.ones(3), "v": "ones"}),
            "slot 'v' of 'w' is <U4, not an array of real or complex numbers",
        ),
        (spoiled_entry(scalars={"weight": 1.0}), "'w' has the scalars weight, expected none"),
        ({"t": 1}, "has no 'format'"),
        ({}, "has no 'format'"),
        (None, "the state must be a dict, got None"),
    ],
)
def test_a_state_that_cannot_be_loaded_changes_nothing(state, message):
    params, optimizer = start(), Adam(lr=0.25)
    take(optimizer, params, 2, first=1)
    before, text = optimizer.state_dict(), repr(optimizer)
    with pytest.raises((TypeError, ValueError), match=f"Adam.load_state_dict.*{message}"):
        optimizer.load_state_dict(state)
    assert repr(optimizer) == text
    same = Adam().load_state_dict(before)
    engine_runs.assert_same_state(optimizer, same)


@pytest.mark.parametrize(
    ("scalars", "message"),
    [
        ({}, "has the scalars none, expected largest_lr, place, total"),
        ({"largest_lr": 0.1, "total": 0.1}, "has the scalars largest_lr, total, expected"),
        ({"largest_lr": 0.1, "total": "1", "place": 0.9}, "'total' of 'w' must be a number, got"),
        ({"largest_lr": 0.1, "total": True, "place": 0.9}, "'total' of 'w' must be a number, got"),
    ],
)
def test_remembered_numbers_that_are_not_those_of_the_rule_are_refused(scalars, message):
    optimizer = ScheduleFreeAdamW(0.1)
    optimizer.update({"w": np.ones(3)}, {"w": np.ones(3)})
    before, state = optimizer.state_dict(), optimizer.state_dict()
    state["states"]["w"]["scalars"] = scalars
    with pytest.raises((TypeError, ValueError), match=message):
        optimizer.load_state_dict(state)
    assert optimizer.state_dict()["states"]["w"]["scalars"] == before["states"]["w"]["scalars"]


def test_slots_that_options_and_shapes_decide_are_loaded_as_they_are():
    """An option that is turned on gets its slot at the next step, one that is off keeps it."""
    params, optimizer = start("float64"), RMSProp(centered=True)
    take(optimizer, params, 2, first=1)
    optimizer.centered, optimizer.momentum = False, 0.5
    restored = RMSProp().load_state_dict(optimizer.state_dict())
    others = copied(params)
    for each, tree in ((optimizer, params), (restored, others)):
        take(each, tree, 2, first=3)
        each.centered = True
        take(each, tree, 2, first=5)
    engine_runs.assert_same_run((others, restored), (params, optimizer))
    # So does Adam, whose option decides alone.
    adam, w = Adam(lr=0.5), np.ones(3)
    adam.update(w, np.ones(3))
    assert set(adam.state_dict()["states"][""]["slots"]) == {"m", "v"}
    adam.amsgrad = True
    adam.update(w, np.zeros(3))
    slots = adam.state_dict()["states"][""]["slots"]
    bits.assert_same_bits(slots["x"], slots["v"])  # the largest since it is looked for
    adam.update(w, np.zeros(3))
    assert (slots["x"] == adam.state_dict()["states"][""]["slots"]["x"]).all()
    other, v = Adam().load_state_dict(adam.state_dict()), w.copy()
    adam.amsgrad = other.amsgrad = False
    bits.assert_same_bits(other.update(v, np.ones(3)), adam.update(w, np.ones(3)))
    # Muon keeps one slot of a matrix, and two of everything else; it has none of other names.
    muon = Muon()
    take(muon, params, 1, first=1)
    state = muon.state_dict()
    assert {key: set(entry["slots"]) for key, entry in state["states"].items()} == {
        key: {"m"} if key in ("w", "F") else {"m", "v"} for key in params
    }
    Muon().load_state_dict(state)
    state["states"]["w"]["slots"]["h"] = np.zeros((4, 5))
    with pytest.raises(ValueError, match="'w' has the slots h, m, v, expected m, v"):
        Muon().load_state_dict(state)


# In files --------------------------------------------------------------------------------


@engine_runs.every_engine
@cases.every_class
def test_a_state_in_a_file_goes_on_with_the_same_bits(case, engine, tmp_path):
    engine_runs.require(engine)
    params = start()
    optimizer = case.make(lr=0.01, engine=engine)
    take(optimizer, params, 5, first=1)
    optimizer.save(tmp_path / "state")
    restored = case.make(engine=engine).load(str(tmp_path / "state"))
    assert [path.name for path in tmp_path.iterdir()] == ["state"]
    assert repr(restored) == repr(optimizer)
    engine_runs.assert_same_state(restored, optimizer)
    other = copied(params)
    take(optimizer, params, 3, first=6)
    engine_runs.assert_same_run((take(restored, other, 3, first=6), restored), (params, optimizer))


@pytest.mark.parametrize("dtype", bits.DTYPES)
def test_a_file_holds_everything_of_a_chain(dtype, tmp_path):
    def make(lower=-np.inf, lr=0.5):
        parts = skip_nonfinite(), accumulate(2), ScheduleFreeAdamW(lr), average(0.9)
        return chain(*parts, project(lower))

    rng = np.random.default_rng(0)
    params = {"ä/'b'": [bits.wild(rng, 40, dtype), np.zeros(2, dtype)], "": np.ones(3, dtype)}
    optimizer = make(-1.0, 0.25)
    for step in range(5):
        g = np.nan_to_num(bits.wild(rng, 40, dtype))
        g[0] = np.inf if step == 3 else 1
        optimizer.update(params, {"ä/'b'": [g, None], "": np.full(3, step, dtype)})
    assert optimizer.skipped == 1
    optimizer.save(tmp_path / "state.npz")
    restored = make().load(tmp_path / "state.npz")
    assert repr(restored) == repr(optimizer)
    engine_runs.assert_same_state(restored, optimizer)
    assert (restored.t, restored.skipped) == (optimizer.t, optimizer.skipped)
    got, expected = restored.state_dict(), optimizer.state_dict()
    assert [entry["scalars"] for entry in got["states"].values()] == [
        entry["scalars"] for entry in expected["states"].values()
    ]
    make().save(tmp_path / "state.npz")  # with infinite bounds
    assert repr(make(0.0, 0.75).load(tmp_path / "state.npz")) == repr(make())


def test_a_file_that_holds_no_state_is_refused(tmp_path):
    optimizer = Adam()
    optimizer.update(np.ones(30), np.ones(30))
    optimizer.save(tmp_path / "good")
    good = (tmp_path / "good").read_bytes()
    damaged = bytearray(good)
    damaged[len(good) // 2] ^= 1
    np.save(tmp_path / "array.npy", np.ones(3))
    np.savez(tmp_path / "arrays.npz", header=np.ones(3))
    np.savez(tmp_path / "others.npz", np.ones(3))
    np.savez(tmp_path / "json.npz", header=np.array('{"states": {"w": {"slots": {"m": "x"}}}}'))
    np.savez(tmp_path / "objects.npz", header=np.array([None]))
    contents = {"empty": b"", "text": b"no archive", "cut": good[:-30], "damaged": damaged}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "good").unlink()
    for path in sorted(tmp_path.iterdir()):
        before = optimizer.state_dict()
        with pytest.raises(ValueError, match=f"Adam.load: '.*{path.name}'"):
            optimizer.load(path)
        engine_runs.assert_same_state(optimizer, Adam().load_state_dict(before))
    with pytest.raises(FileNotFoundError):
        optimizer.load(tmp_path / "missing")


def test_a_file_that_cannot_be_written_leaves_the_one_that_was_there(tmp_path, monkeypatch):
    optimizer, path = Adam(0.25), tmp_path / "state"
    optimizer.update(np.ones(3), np.ones(3))
    optimizer.save(path)
    optimizer.update(np.ones(3), np.ones(3))

    def fail(file, **arrays):
        file.write(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(OSError, match="no space"):
        optimizer.save(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["state"]
    assert Adam().load(path).t == 1


@engine_runs.every_engine
def test_a_loaded_state_of_other_shapes_is_refused_at_the_step(engine):
    engine_runs.require(engine)
    optimizer = Adam(engine=engine)
    optimizer.update({"w": np.ones(3)}, {"w": np.ones(3)})
    loaded = Adam(engine=engine).load_state_dict(optimizer.state_dict())
    w = np.ones(4)
    with pytest.raises(ValueError, match=r"params\['w'\] is numpy float64 \(4,\), but its state"):
        loaded.update({"w": w}, {"w": w + 1})
    assert (w == 1).all()
    assert loaded.t == 1


@engine_runs.every_engine
def test_reset_starts_from_the_first_step(engine):
    engine_runs.require(engine)
    params = start()
    optimizer, expected = Adam(engine=engine), Adam(engine=engine)
    take(optimizer, copied(params), 4, first=1)
    optimizer.reset()
    assert optimizer.t == 0
    other = copied(params)
    take(optimizer, params, 4, first=1)
    take(expected, other, 4, first=1)
    engine_runs.assert_same_run((params, optimizer), (other, expected))


def test_repr_can_be_read_back():
    optimizer = RMSProp(lr=0.5, centered=True, engine="blocked", threads=2)
    assert repr(optimizer) == (
        "RMSProp(lr=0.5, decay=0.9, eps=1e-07, centered=True, momentum=0.0, "
        "nesterov=False, eps_in_sqrt=False, initial_accumulator_value=0.0, lr_in_velocity=True, "
        "engine='blocked', threads=2)"
    )
    assert repr(eval(repr(optimizer))) == repr(optimizer)
    assert repr(SGD()) == "SGD(lr=0.01)"


def test_optimizers_are_equal_only_to_themselves():
    one, other = SGD(), SGD()
    assert one != other
    assert len({one, other}) == 2


# The step number ---------------------------------------------------------------------------


@engine_runs.every_engine
@pytest.mark.parametrize(
    "t", [2**8, 2**24 - 1, 2**24, 2**31 - 1, 2**31, 2**53, 2**63 - 1, 2**63, 2**70]
)
def test_the_step_number_does_not_overflow(t, engine):
    """A float32 counter stops at 2**24, a bfloat16 one at 2**8."""
    engine_runs.require(engine)
    optimizer = Adam(lr=0.5, eps=0.0, engine=engine)
    w = np.ones(3, "float32")
    optimizer.update({"w": w}, {"w": np.ones(3, "float32")})
    optimizer.load_state_dict({**optimizer.state_dict(), "t": t})
    seen = []
    optimizer.lr = lambda step: seen.append(step) or 0.5
    optimizer.update({"w": w}, {"w": np.ones(3, "float32")})
    assert optimizer.t == t + 1
    assert set(seen) == {t + 1}
    assert np.isfinite(w).all()
    # The biases are gone or nearly so: m = 0.19, v = 0.002.
    corrections = (1 - 0.9 ** (t + 1)), (1 - 0.999 ** (t + 1))
    step = 0.5 * (0.19 / corrections[0]) / (0.001999 / corrections[1]) ** 0.5
    assert w[0] == pytest.approx(0.5 - step, rel=1e-4)


@pytest.mark.parametrize("name", ["t", "skipped"])
@pytest.mark.parametrize("value", [-1, True, 1.0, "1", None, 2**1000 + 1, 10**400])
def test_a_number_of_steps_that_is_none_or_beyond_floats_is_refused(name, value):
    optimizer = Adam()
    optimizer.update(np.zeros(3), np.ones(3))
    before = optimizer.state_dict()
    with pytest.raises(ValueError, match=rf"Adam\.load_state_dict: {name} must be an integer from"):
        optimizer.load_state_dict({**before, name: value})
    engine_runs.assert_same_state(optimizer, Adam().load_state_dict(before))
    optimizer.load_state_dict({**before, name: 2**1000})
    optimizer.update(np.zeros(3), np.ones(3))
