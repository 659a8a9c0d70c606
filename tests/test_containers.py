"""Containers of every kind: those that are walked, those that are made anew, and those refused."""

import array
import collections
import collections.abc
import dataclasses
import gc
import types
import weakref

import engine_runs
import numpy as np
import pytest

from instep import SGD, Momentum, chain
from instep.transforms import average


class Frozen(collections.abc.Mapping):
    """A mapping that can be made of a dict, and not written."""

    def __init__(self, entries):
        self._entries = dict(entries)

    def __getitem__(self, key):
        return self._entries[key]

    def __iter__(self):
        return iter(self._entries)

    def __len__(self):
        return len(self._entries)


class Named(Frozen):
    """One that cannot be made of a dict alone."""

    def __init__(self, entries, name):
        super().__init__(entries)


class Refusing(dict):
    """A dict that refuses to be written, as frozen ones do."""

    def __setitem__(self, key, value):
        raise TypeError("this dict is frozen")


class Row(collections.abc.Sequence):
    def __init__(self, entries):
        self._entries = tuple(entries)

    def __getitem__(self, i):
        return self._entries[i]

    def __len__(self):
        return len(self._entries)


MAPPINGS = {
    "OrderedDict": collections.OrderedDict,
    "defaultdict": lambda entries: collections.defaultdict(list, entries),
    "ChainMap": lambda entries: collections.ChainMap(dict(entries), {}),
    "UserDict": collections.UserDict,
    "MappingProxyType": types.MappingProxyType,
    "a mapping of the user's": Frozen,
    "one that no dict makes": lambda entries: Named(entries, "a name"),
    "one that refuses writes": Refusing,
}
SEQUENCES = {
    "tuple": tuple,
    "deque": collections.deque,
    "UserList": collections.UserList,
    "a sequence of the user's": Row,
    "values of a dict": lambda entries: dict(enumerate(entries)).values(),
    "values of a mapping": lambda entries: Frozen(enumerate(entries)).values(),
}
#: What can neither be written nor made of its entries.
RIGID = {"one that no dict makes", "values of a dict", "values of a mapping"}


def of_two(name, first, second):
    """Return a container of two entries, and whether they stand under keys."""
    if name in MAPPINGS:
        return MAPPINGS[name]({"b": second, "a": first})
    return SEQUENCES[name]([first, second])


def entries_of(tree):
    if isinstance(tree, collections.abc.Mapping):
        return tree["a"], tree["b"]
    return tuple(tree)


@engine_runs.every_engine
@pytest.mark.parametrize("name", [*MAPPINGS, *SEQUENCES])
def test_arrays_are_updated_where_they_are(name, engine):
    engine_runs.require(engine)
    a, b = np.full(2, 1.0), np.full(3, 2.0)
    params, grads = of_two(name, a, {"deep": b}), of_two(name, np.ones(2), {"deep": np.ones(3)})
    optimizer = Momentum(lr=0.5, momentum=0.0, engine=engine)
    for _ in range(3):
        assert optimizer.update(params, grads) is params
    assert a.tolist() == [-0.5] * 2
    assert b.tolist() == [0.5] * 3
    keys = ("a", "b/deep") if name in MAPPINGS else ("0", "1/deep")
    assert tuple(optimizer.state_dict()["states"]) == keys
    assert optimizer.explain(params).buckets[0].leaves == keys


@pytest.mark.parametrize("name", [*MAPPINGS, *SEQUENCES])
def test_gradients_may_be_in_a_container_of_another_type(name):
    first, second = np.ones(2), np.ones(2)
    params = {"a": first, "b": second} if name in MAPPINGS else [first, second]
    optimizer = SGD(lr=0.5)
    for _ in range(2):
        optimizer.update(params, of_two(name, np.ones(2), None))
    assert first.tolist() == [0.0] * 2
    assert second.tolist() == [1.0] * 2


@pytest.mark.parametrize("name", [n for n in (*MAPPINGS, *SEQUENCES) if n not in RIGID])
def test_numbers_are_replaced_in_the_container_or_in_a_new_one_of_its_type(name):
    inner = [2.0]
    params, grads = of_two(name, 1.0, inner), of_two(name, 1.0, [1.0])
    optimizer = SGD(lr=0.5)
    for _ in range(2):
        before, old = params, entries_of(params)
        params = optimizer.update(params, grads)
        assert type(params) is type(before)
        if params is not before:
            assert entries_of(before) == old, "what cannot be written is as it was"
    assert entries_of(params) == (0.0, [1.0])
    assert entries_of(params)[1] is inner, "what can be written is"


@engine_runs.every_engine
@pytest.mark.parametrize("name", sorted(RIGID))
def test_what_can_neither_be_written_nor_made_is_refused_before_anything_changes(name, engine):
    engine_runs.require(engine)
    w, inner = np.ones(2), [2.0]
    optimizer, params = SGD(lr=0.5, engine=engine), of_two(name, 1.0, w)
    with pytest.raises(TypeError, match=r"SGD.update: params is a .*give a dict, list or tuple"):
        optimizer.update(params, of_two(name, 1.0, np.ones(2)))
    assert w.tolist() == [1.0, 1.0]
    assert optimizer.t == 0
    # Where what is replaced stands in a list within, there is nothing to be made.
    optimizer.update(of_two(name, inner, w), of_two(name, [1.0], np.ones(2)))
    assert inner == [1.5]
    assert w.tolist() == [0.5, 0.5]


@pytest.mark.parametrize("name", [n for n in (*MAPPINGS, *SEQUENCES) if n not in RIGID])
def test_the_answer_is_a_new_tree_and_stands_in_for_the_parameters(name):
    optimizer = chain(SGD(lr=0.5), average(0.5))
    w = np.ones(2)
    params = of_two(name, 1.0, [w])
    for _ in range(2):
        params = optimizer.update(params, of_two(name, 1.0, [np.ones(2)]))
    answer = optimizer.answer(params)
    assert type(answer) is (dict if name in MAPPINGS else tuple if name == "tuple" else list)
    first, (second,) = entries_of(answer)
    assert first == second[0] == second[1] != 0.0
    with optimizer.answer_in_place(params) as there:
        assert type(there) is type(params)
        assert entries_of(there)[0] == first
        assert w.tolist() == [first, first]
    assert entries_of(params)[0] == 0.0
    assert w.tolist() == [0.0, 0.0]


def test_numbers_in_a_container_that_cannot_be_made_have_no_answer_in_place():
    optimizer = chain(SGD(lr=0.5), average(0.5))
    optimizer.update({"a": 1.0}, {"a": 1.0})
    params = Named({"a": 1.0}, "a name")
    with (
        pytest.raises(TypeError, match="answer_in_place: params is a Named, which cannot be"),
        optimizer.answer_in_place(params),
    ):
        pass
    optimizer.update({"a": 1.0}, {"a": 1.0})  # nothing is in the place of the parameters


def test_a_container_of_another_type_takes_the_place_of_one():
    optimizer, w = SGD(lr=0.5), np.ones(1)
    for make in (dict, collections.OrderedDict, types.MappingProxyType, Frozen, dict):
        optimizer.update(make({"w": w}), make({"w": np.ones(1)}))
    assert w.tolist() == [-1.5]
    number = {"w": 1.0}
    optimizer = SGD(lr=0.5)
    optimizer.update(number, {"w": 1.0})
    with pytest.raises(TypeError, match="is a Named"):
        optimizer.update(Named(number, "a name"), {"w": 1.0})
    assert number == {"w": 0.5}
    assert optimizer.t == 1


@dataclasses.dataclass
class Layer:
    w: np.ndarray


@dataclasses.dataclass(slots=True)
class Slotted:
    w: np.ndarray


class Object:
    def __init__(self):
        self.w = np.ones(2)


REFUSED = {
    "dataclass": (Layer(np.ones(2)), "give a dict, list or tuple of its arrays"),
    "slotted dataclass": (Slotted(np.ones(2)), "give a dict, list or tuple of its arrays"),
    "object": (Object(), "give a dict, list or tuple of its arrays"),
    "SimpleNamespace": (types.SimpleNamespace(w=1.0), "give a dict, list or tuple of its arrays"),
    "set": ({1.0, 2.0}, "a set has no order; give a dict"),
    "frozenset": (frozenset({1.0}), "a set has no order; give a dict"),
    "generator": ((w for w in [np.ones(2)]), "walked only once; give a dict"),
    "iterator": (iter([np.ones(2)]), "walked only once; give a dict"),
    "str": ("weights", "give an array of floats, or a dict"),
    "bytes": (b"weights", "give an array of floats, or a dict"),
    "range": (range(3), "give an array of floats, or a dict"),
    "object()": (object(), "give an array of floats, or a dict"),
    "array.array": (array.array("d", [1.0]), "convert it with numpy.asarray"),
    "memoryview": (memoryview(np.ones(2)), "convert it with numpy.asarray"),
}


@pytest.mark.parametrize("place", ["params", "grads"])
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_container_is_refused_with_the_remedy(name, place):
    bad, remedy = REFUSED[name]
    w, optimizer = np.ones(2), SGD(lr=0.5)
    trees = {"params": {"a": w, "b": np.ones(2)}, "grads": {"a": np.ones(2), "b": np.ones(2)}}
    trees[place]["b"] = bad
    with pytest.raises(TypeError) as caught:
        optimizer.update(**trees)
    text = str(caught.value)
    assert f"SGD.update: {place}['b'] is a {type(bad).__name__}, not an array; " in text
    assert remedy in text
    assert ("numpy.asarray" in text) == ("numpy.asarray" in remedy)
    assert w.tolist() == [1.0, 1.0]


def test_a_container_that_makes_its_entries_anew_is_refused_for_parameters(tmp_path):
    np.savez(tmp_path / "weights.npz", w=np.ones(2))
    optimizer, w = SGD(lr=0.5), np.ones(2)
    with np.load(tmp_path / "weights.npz") as archive:
        with pytest.raises(TypeError, match=r"params is a NpzFile, which makes its entries anew"):
            optimizer.update(archive, {"w": np.ones(2)})
        optimizer.update({"w": w}, archive)  # gradients are read
    assert w.tolist() == [0.5, 0.5]


def test_a_tied_array_is_given_once():
    w, optimizer = np.ones(2), SGD(lr=0.5)
    for params in ({"a": w, "b": w}, [w, [w]]):
        grads = {"a": w + 1, "b": w + 1} if isinstance(params, dict) else [w + 1, [w + 1]]
        with pytest.raises(ValueError, match=r"are one array, .* with the sum of its grad"):
            optimizer.update(params, grads)
    with pytest.raises(ValueError, match="share memory"):
        optimizer.update({"a": w, "b": w[:]}, {"a": w + 1, "b": w + 1})
    assert w.tolist() == [1.0, 1.0]


def test_a_branch_in_the_place_of_an_array_is_noticed_in_nested_trees():
    w = np.ones(1)
    params, grads = {"a": {"b": w, "c": w[:0]}}, {"a": {"b": np.ones(1), "c": None}}
    optimizer = SGD(lr=0.5)
    optimizer.update(params, grads)
    for key in "bc":
        other = {"a": {**params["a"], key: {"deep": np.ones(1)}}}
        with pytest.raises(TypeError, match="structure of the parameters"):
            optimizer.update(other, grads)
    assert optimizer.t == 1


def test_no_array_of_a_tree_is_kept():
    optimizer = SGD(lr=0.5)

    def step():
        w = np.ones(1)
        params = {"a": [w], "b": (Frozen({"c": np.ones(2)}),)}
        optimizer.update(params, {"a": [w + 1], "b": [{"c": None}]})
        return weakref.ref(w)

    gc.disable()
    try:
        assert step()() is None
    finally:
        gc.enable()
