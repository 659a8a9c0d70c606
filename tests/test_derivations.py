"""What `scalars` derives, written out: the rows of steps are those that the method makes."""

import bits
import engine_runs
import numpy as np
import pytest

from instep import Adam, Adan, NAdam, Optimizer, RAdam, ScheduleFreeAdamW, chain
from instep.graph.derivation import derivation
from instep.graph.program import Program
from instep.graph.rows import Group, Row
from instep.state import History
from instep.transforms import accumulate, average, lookahead

WRITTEN_OUT = {
    "NAdam": NAdam,
    "Adan": Adan,
    "average": lambda: chain(Adam(), average(0.9)),
    "two averages": lambda: chain(NAdam(beta1=0.5), average(0.9), average(0.99)),
    "lookahead": lambda: chain(Adam(), lookahead(k=3)),
    "accumulate": lambda: chain(accumulate(3), Adam()),
    "what comes after an incomplete call": lambda: chain(
        accumulate(3), NAdam(), average(0.9), lookahead(k=2)
    ),
    "twice accumulated": lambda: chain(accumulate(2), accumulate(3), NAdam(), average(0.5)),
}


def rows(make, steps):
    """Return the rows of steps, as the methods make them and as they were written out."""
    optimizer = make()
    program = Program(optimizer)
    histories = [History(0, program.memory()) for _ in range(2)]
    groups = [Group({}, 0, history) for history in histories]
    written = None
    for step in range(1, steps):
        expected = program.row(step, groups[0])
        if written is None:
            written = derivation(program)
        numbers = []
        for part in program.parts:
            own = [entry.name for entry in part.fields]
            numbers += [part.rule.__dict__[name] for name in own]
            numbers.append(-(-step // part.period))
        found = Row(*written.row(numbers, groups[1].memory))
        for group, row in zip(groups, (expected, found), strict=True):
            group.memory.update(row.memory)
        yield tuple(zip((expected, found), (dict(group.memory) for group in groups), strict=True))


def in_hexadecimal(row, memory):
    return [float(x).hex() for x in row.numbers], row.flags, sorted(memory.items())


@pytest.mark.parametrize("make", WRITTEN_OUT.values(), ids=WRITTEN_OUT)
def test_rows_that_are_written_out_have_the_bits_of_the_method(make):
    kinds = set()
    for expected, found in rows(make, 60):
        assert in_hexadecimal(*found) == in_hexadecimal(*expected)
        types = [[type(x) for x in row.numbers] for row, _ in (found, expected)]
        assert types[0] == types[1]
        kinds.add(found[0].flags)
    assert len(kinds) > 1 or kinds == {()}


LIMIT = 3


class Branching(Optimizer):
    lr: float = 0.5

    @staticmethod
    def scalars(h):
        return {"rate": h.lr if h.t > 2 else 0.0}

    @staticmethod
    def rule(xp, w, g, s, h):
        return w - h.rate * g, {}


class OfGlobals(Branching):
    @staticmethod
    def scalars(h):
        return {"rate": h.lr * LIMIT}


class OfBuiltins(Branching):
    @staticmethod
    def scalars(h):
        return {"rate": max(h.lr, 0.1)}


class OfDefaults(Branching):
    @staticmethod
    def scalars(h, factors=[1.0]):  # noqa: B006  (that it can be changed is the point)
        return {"rate": h.lr * factors[0]}


class OfItself(Branching):
    factor = 2.0

    def scalars(self, h):
        return {"rate": h.lr * self.factor}


class OfModules(Branching):
    @staticmethod
    def scalars(h):
        import random

        return {"rate": h.lr * random.random()}


class OfNested(Branching):
    @staticmethod
    def scalars(h):
        return {"rate": h.lr * sum(LIMIT for _ in "a")}


class OfIdentity(Branching):
    @staticmethod
    def scalars(h):
        return {"rate": h.lr * ((h.t > 4) is True)}


class OfText(Branching):
    @staticmethod
    def scalars(h):
        return {"rate": h.lr * {"5": 2.0}.get(f"{h.t}", 1.0)}


def of_closure():
    factor = 2.0

    class OfClosure(Branching):
        @staticmethod
        def scalars(h):
            return {"rate": h.lr * factor}

    return OfClosure()


LEFT_AS_THEY_ARE = [
    *(Branching, OfGlobals, OfBuiltins, OfDefaults, OfItself, OfModules, OfNested, of_closure),
    *(OfIdentity, OfText, RAdam, ScheduleFreeAdamW),
]


@pytest.mark.parametrize("make", LEFT_AS_THEY_ARE, ids=lambda make: make.__name__)
def test_a_method_that_does_more_than_to_compute_is_called_at_every_step(make):
    program = Program(make())
    program.row(1, Group({}, 0, History(0, program.memory())))
    assert derivation(program) is None


def test_a_method_sees_the_globals_of_each_step(monkeypatch):
    engine_runs.require("native")
    optimizer, w, g = OfGlobals(lr=1.0, engine="native"), np.zeros(3), np.ones(3)
    for _ in range(4):
        optimizer.update(w, g)
    monkeypatch.setitem(globals(), "LIMIT", 5)
    optimizer.update(w, g)
    assert w.tolist() == [-17.0] * 3


@pytest.mark.parametrize("make", WRITTEN_OUT.values(), ids=WRITTEN_OUT)
def test_steps_have_the_bits_of_other_engines(make):
    engine_runs.require("native")
    rng = np.random.default_rng(0)
    params = [rng.standard_normal(9).astype("f4") for _ in range(2)]
    runs = [(make(), [w.copy() for w in params]) for _ in range(2)]
    for (optimizer, _), engine in zip(runs, ("native", "blocked"), strict=True):
        optimizer.engine = engine
    for step in range(30):
        grads = [rng.standard_normal(9).astype("f4") for _ in range(2)]
        for optimizer, tree in runs:
            if step == 20:
                optimizer.beta1 = 0.25
            optimizer.update(tree, grads)
    for w, other in zip(*(tree for _, tree in runs), strict=True):
        bits.assert_same_bits(w, other)
    assert repr(runs[0][0].state_dict()) == repr(runs[1][0].state_dict())


class Dividing(Optimizer):
    lr: float = 1.0

    @staticmethod
    def scalars(h):
        return {"rate": h.lr / (4 - h.t)}

    @staticmethod
    def rule(xp, w, g, s, h):
        return w - h.rate * g, {}


def test_a_method_without_a_value_raises_its_own_error():
    optimizer, w, g = Dividing(), np.zeros(3), np.ones(3)
    for _ in range(3):
        optimizer.update(w, g)
    before = w.copy()
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            optimizer.update(w, g)
    bits.assert_same_bits(w, before)
    assert optimizer.t == 3
