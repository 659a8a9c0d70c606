"""Bridges where the other library is not there: tables, names, and states of plain arrays."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import instep
from instep import chain
from instep.bridges import keras_rows, optax_rows, torch_rows
from instep.bridges.keras import from_keras, to_keras
from instep.bridges.optax import from_optax
from instep.bridges.torch import from_torch, to_torch
from instep.transforms import weight_decay

TABLES = {
    "PyTorch": torch_rows.ROWS,
    "optax": optax_rows.ROWS,
    "Keras": keras_rows.ROWS,
}
ROWS = [(library, row) for library, rows in TABLES.items() for row in rows]
PAGE = Path(__file__).parent.parent / "docs" / "bridges.md"


@pytest.mark.parametrize(
    ("library", "row"), ROWS, ids=[f"{library}-{row.rule.__name__}" for library, row in ROWS]
)
def test_a_row_has_what_its_rule_keeps_and_stands_on_the_page(library, row):
    rule, values = row.rule(), row.needs
    fields = {field.ours for field in (*row.fields, *row.of_tree, *getattr(row, "of_all", ()))}
    kept = {*rule.slots, *rule.numbers, *rule.scalar_slots}
    assert fields <= kept
    assert values.keys() <= {entry.name for entry in rule.hyperparameters}
    if row.rule is not instep.Muon:  # the other side has matrices alone
        optional = {"x", "b", "buffer", *(["v"] if "b" in kept else [])}
        assert kept - fields <= optional
    section = PAGE.read_text("utf-8").split(f"## {library}\n")[1].split("\n## ")[0]
    assert re.search(rf"`{row.rule.__name__}\b", section)


@pytest.mark.parametrize("rows", TABLES.values(), ids=TABLES)
def test_a_rule_has_one_row(rows):
    rules = [row.rule for row in rows]
    assert len({*rules}) == len(rules)


def test_modules_of_the_bridges_import_no_other_library():
    program = """
import sys
import instep
assert not any(name.startswith("instep.bridges") for name in sys.modules)
import instep.bridges.torch, instep.bridges.optax, instep.bridges.keras
print(*(name for name in ("torch", "jax", "optax", "keras") if name in sys.modules))
"""
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == []


# A state of torch in arrays of NumPy ----------------------------------------------------------

ADAM = {
    "lr": 0.5,
    "betas": (0.9, 0.99),
    "eps": 1e-8,
    "weight_decay": 0,
    "amsgrad": False,
    "maximize": False,
    "foreach": None,
}


def adam(*counts, **options):
    """Return a state of torch's Adam of three steps, with groups of so many parameters."""
    fields = {"step": np.float32(3), "exp_avg": np.full(2, 0.5), "exp_avg_sq": np.full(2, 0.25)}
    groups, first = [], 0
    for count in counts:
        groups.append({**ADAM, **options, "params": [*range(first, first + count)]})
        first += count
    return {"state": {i: dict(fields) for i in range(first)}, "param_groups": groups}


def test_a_state_of_plain_arrays_needs_no_torch():
    optimizer = from_torch(instep.Adam(), adam(2), ["b", "a"])
    assert optimizer.t == 3
    assert (optimizer.lr, optimizer.beta1, optimizer.beta2) == (0.5, 0.9, 0.99)
    w = {"a": np.ones(2), "b": np.ones(2)}
    optimizer.update(w, {"a": np.zeros(2), "b": np.zeros(2)})
    m, v = 0.9 * 0.5 / (1 - 0.9**4), 0.99 * 0.25 / (1 - 0.99**4)
    np.testing.assert_allclose(w["a"], 1 - 0.5 * m / (v**0.5 + 1e-8), rtol=1e-12)


def test_groups_are_told_apart():
    state = adam(1, 2)
    state["param_groups"][1].update(lr=0.25, weight_decay=0.5)
    make = lambda: chain(weight_decay(), instep.Adam())  # noqa: E731
    for names in (["a", "b", "c"], [["a"], ["b", "c"]]):
        optimizer = from_torch(make(), state, names)
        other = {"lr": 0.25, "weight_decay_rate": 0.5}
        assert optimizer.overrides == {"b": other, "c": other}
    same = make()
    same.overrides = {"[bc]": other}
    assert from_torch(same, state, names).overrides == {"[bc]": other}
    same.overrides = {"[bc]": other | {"lr": 0.125}}
    with pytest.raises(ValueError, match=r"lr=0\.25 for 'b', and overrides make it 0\.125"):
        from_torch(same, state, names)
    state["param_groups"][1]["amsgrad"] = True
    with pytest.raises(ValueError, match="amsgrad=True, which is one for all parameters here"):
        from_torch(make(), state, names)


def test_a_schedule_for_several_rates_is_refused():
    state = adam(1, 1)
    state["param_groups"][1]["lr"] = 0.25
    with pytest.raises(ValueError, match="several lr, and here it is a schedule"):
        from_torch(instep.Adam(lr=lambda t: 1 / t), state, ["a", "b"])


DAMAGES = {
    "states are no dict": (lambda s: s.update(state=3), "'state' must be a dict"),
    "groups are no list": (
        lambda s: s.update(param_groups=3),
        "'param_groups' must be a list of dicts",
    ),
    "groups are no dicts": (
        lambda s: s.update(param_groups=[3]),
        "'param_groups' must be a list of dicts",
    ),
    "a group has no parameters": (
        lambda s: s["param_groups"][0].pop("params"),
        "'param_groups' must be a list of dicts",
    ),
    "a state is no dict": (lambda s: s["state"].update({0: 3}), "the state of 0 is no dict"),
    "steps of an array": (
        lambda s: s["state"][0].update(step=np.ones(2)),
        "'step' of 'a' must be a number",
    ),
    "steps below zero": (
        lambda s: s["state"][0].update(step=-1.0),
        "'step' of 'a' must be a number",
    ),
    "no number of steps": (
        lambda s: s["state"][0].update(step=np.nan),
        "'step' of 'a' must be a number",
    ),
    "no array": (
        lambda s: s["state"][0].update(exp_avg="x"),
        "not an array of real or complex numbers",
    ),
    "a tuple is a number": (
        lambda s: s["param_groups"][0].update(betas=0.9),
        "betas must be a tuple",
    ),
    "a tuple is short": (
        lambda s: s["param_groups"][0].update(betas=(0.9,)),
        "betas must be a tuple",
    ),
    "no number": (lambda s: s["param_groups"][0].update(lr="x"), "lr must be"),
    "no rate": (lambda s: s["param_groups"][0].update(weight_decay="x"), "weight_decay='x'"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_no_state_is_refused_in_words(damage):
    change, text = DAMAGES[damage]
    state, optimizer = adam(1), instep.Adam()
    change(state)
    with pytest.raises((TypeError, ValueError), match=text):
        from_torch(optimizer, state, ["a"])
    assert optimizer.t == 0


@pytest.mark.parametrize("call", [from_torch, to_torch, from_optax, from_keras, to_keras])
def test_what_is_no_optimizer_is_refused(call):
    with pytest.raises(TypeError, match="optimizer must be one of instep, such as Adam"):
        call(instep.Adam, *[{}] * (2 if "keras" in call.__name__ else 1))


@pytest.mark.parametrize("t", [0, 2, -1, 1.5, True, "x"])
def test_steps_that_cannot_be_are_refused(t):
    with pytest.raises(ValueError, match="t must be an integer, at least 3"):
        from_torch(instep.Adam(), adam(1), ["a"], t=t)


def test_more_steps_were_missed_by_the_parameters():
    optimizer = from_torch(instep.Adam(), adam(1), ["a"], t=5)
    assert optimizer.t == 5
    assert optimizer.state_dict()["states"]["a"]["missed"] == 2
