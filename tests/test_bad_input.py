"""What cannot be updated is refused: an error says who, what and the remedy; nothing changes."""

import functools
import importlib
import subprocess
import sys
from collections import OrderedDict, defaultdict

import bits
import engine_runs
import numpy as np
import pytest

from conftest import why_missing
from instep import SGD, Adam, Optimizer, chain
from instep.graph import FusionError
from instep.transforms import average


def arrays():
    """Return parameters and gradients that are good, to be spoiled."""
    rng = np.random.default_rng(0)
    shapes = {"w": (3, 4), "b": (4,)}
    params = {
        "encoder": {name: rng.standard_normal(n).astype("float32") for name, n in shapes.items()},
        "head": [rng.standard_normal(5), rng.standard_normal((2, 2))],
    }
    grads = {
        "encoder": {name: rng.standard_normal(n).astype("float32") for name, n in shapes.items()},
        "head": [rng.standard_normal(5), rng.standard_normal((2, 2))],
    }
    return params, grads


def flat(tree, path=()):
    """Return {path: leaf} for a tree of dicts and lists, the first levels of it."""
    if len(path) == 4:
        return {path: type(tree)}
    if isinstance(tree, dict):
        children = tree.items()
    elif isinstance(tree, list | tuple):
        children = enumerate(tree)
    else:
        return {path: tree}
    return {p: leaf for key, child in children for p, leaf in flat(child, (*path, key)).items()}


class Snapshot:
    """The bits of trees of arrays and of an optimizer, to be compared with later."""

    def __init__(self, optimizer, *trees):
        self.optimizer, self.trees = optimizer, trees
        self.leaves = [self.copies(tree) for tree in trees]
        self.state = optimizer.state_dict()
        self.repr = repr(optimizer)

    @staticmethod
    def copies(tree):
        leaves = {}
        for path, leaf in flat(tree).items():
            plain = isinstance(leaf, np.ndarray) and leaf.dtype.kind in "fiubc"
            leaves[path] = np.array(leaf).tobytes() if plain else repr(leaf)
        return leaves

    def assert_unchanged(self):
        for tree, leaves in zip(self.trees, self.leaves, strict=True):
            assert self.copies(tree) == leaves
        now = self.optimizer.state_dict()
        assert now["t"] == self.state["t"]
        assert repr(self.optimizer) == self.repr
        assert now["states"].keys() == self.state["states"].keys()
        for key, entry in now["states"].items():
            assert entry["missed"] == self.state["states"][key]["missed"]
            for name, slot in entry["slots"].items():
                bits.assert_same_bits(slot, self.state["states"][key]["slots"][name])


def replace(tree, path, value):
    """Return a copy of the containers of `tree` with one leaf replaced."""
    if not path:
        return value
    key, *rest = path
    if isinstance(tree, dict):
        return {**tree, key: replace(tree.get(key), rest, value)}
    return [replace(child, rest, value) if i == key else child for i, child in enumerate(tree)]


def readonly(x):
    x = x.copy()
    x.flags.writeable = False
    return x


class Series:
    """Has a dtype and a shape as arrays have, and is none."""

    dtype, shape = np.dtype("float32"), (4,)


class Answering(dict):
    """Answers for any key, and keeps none."""

    def __missing__(self, key):
        return np.ones(4, "float32")


class Matrix(np.ndarray):
    """Arrays of which users may think that they mean more."""


def made_up(branch, key):
    """Return a dict of the same length that creates the value of `key` when it is read."""
    rest = {name: leaf for name, leaf in branch.items() if name != key}
    like = branch[key]
    return defaultdict(lambda: like, {**rest, key.upper(): like})


def endless(tree):
    """Return a tree with a dict that contains itself."""
    ring = {}
    ring["b"] = ring
    return replace(tree, B, ring)


def windows():
    return np.lib.stride_tricks.sliding_window_view(np.ones(7, "float32"), 4, writeable=True)


W, B, HEAD = ("encoder", "w"), ("encoder", "b"), ("head", 0)
NAMED = "params['encoder']['b']"

#: what is wrong: (spoil(params, grads) -> (params, grads), error, what its text must contain)
BAD = {
    "missing key": (
        lambda p, g: (p, {"head": g["head"]}),
        ValueError,
        ["grads has no ['encoder']", "None"],
    ),
    "missing nested key": (
        lambda p, g: (p, {**g, "encoder": {"w": g["encoder"]["w"]}}),
        ValueError,
        ["grads has no ['encoder']['b']", "None"],
    ),
    "unexpected key": (
        lambda p, g: (p, {**g, "typo": np.ones(3)}),
        ValueError,
        ["grads has ['typo']", "remove it"],
    ),
    "list too short": (
        lambda p, g: (p, {**g, "head": g["head"][:1]}),
        ValueError,
        ["params['head'] has 2 entries", "grads['head'] has 1"],
    ),
    "list instead of dict": (
        lambda p, g: (p, {**g, "encoder": list(g["encoder"].values())}),
        TypeError,
        ["params['encoder'] is a dict", "grads['encoder'] is a list"],
    ),
    "array instead of dict": (
        lambda p, g: (p, {**g, "encoder": np.ones(3)}),
        TypeError,
        ["params['encoder'] is a dict", "numpy float64 (3,)"],
    ),
    "dict instead of array": (
        lambda p, g: (p, replace(g, B, {"x": np.ones(4)})),
        TypeError,
        [NAMED, "numpy float32 (4,)", "grads['encoder']['b'] is a dict"],
    ),
    "no gradients at all": (lambda p, g: (p, None), TypeError, ["params is a dict", "grads is"]),
    "shape": (
        lambda p, g: (p, replace(g, B, np.ones(5, "float32"))),
        ValueError,
        [NAMED, "(4,)", "(5,)", "nothing is broadcast"],
    ),
    "shape that would broadcast": (
        lambda p, g: (p, replace(g, W, np.ones(4, "float32"))),
        ValueError,
        ["params['encoder']['w']", "(3, 4)", "(4,)", "sum or reshape"],
    ),
    "gradient without dimensions": (
        lambda p, g: (p, replace(g, B, np.ones((), "float32"))),
        ValueError,
        ["(4,)", "()"],
    ),
    "transposed gradient": (
        lambda p, g: (p, replace(g, W, g["encoder"]["w"].T)),
        ValueError,
        ["(3, 4)", "(4, 3)"],
    ),
    "dtype of gradient": (
        lambda p, g: (p, replace(g, B, np.ones(4, complex))),
        TypeError,
        [NAMED, "numpy float32 (4,)", "numpy complex128 (4,)", "convert the gradient to float32"],
    ),
    "integer gradient": (
        lambda p, g: (p, replace(g, B, np.ones(4, int))),
        TypeError,
        ["int64", "convert the gradient to float32"],
    ),
    "gradient in foreign byte order": (
        lambda p, g: (p, replace(g, B, g["encoder"]["b"].astype(">f4"))),
        TypeError,
        [">f4", "convert the gradient"],
    ),
    **{
        f"{dtype} parameter": (
            lambda p, g, dtype=dtype: (
                replace(p, B, np.ones(4, dtype)),
                replace(g, B, np.ones(4, dtype)),
            ),
            TypeError,
            [NAMED, name, "cannot be updated", "convert it"],
        )
        for dtype, name in [
            *(("int32", "int32"), ("uint8", "uint8"), ("bool", "bool"), ("object", "object")),
            *((">f4", ">f4"), ("longdouble", np.dtype("longdouble").name), ("S3", "bytes24")),
        ]
        if name != "float64"  # what a long double is on some systems
    },
    "read-only": (
        lambda p, g: (replace(p, B, readonly(p["encoder"]["b"])), g),
        ValueError,
        [NAMED, "read-only", "copy"],
    ),
    "broadcast parameter": (
        lambda p, g: (
            replace(p, B, np.lib.stride_tricks.as_strided(np.ones(1, "f4"), (4,), (0,))),
            g,
        ),
        ValueError,
        [NAMED, "share memory", "copy"],
    ),
    "windows that overlap": (
        lambda p, g: (replace(p, W, windows()[:3]), g),
        ValueError,
        ["params['encoder']['w']", "share memory", "copy"],
    ),
    "same array twice": (
        lambda p, g: (replace(p, ("head", 1), p["head"][0]), replace(g, ("head", 1), g["head"][0])),
        ValueError,
        ["params['head'][0] and params['head'][1]", "one array", "the sum of its gradients"],
    ),
    "overlapping parameters": (
        lambda p, g: overlapping(p, g, slice(0, 5), slice(4, 9)),
        ValueError,
        ["params['head'][0] and params['head'][1]", "share memory"],
    ),
    "interleaved parameters that overlap": (
        lambda p, g: overlapping(p, g, slice(0, 10, 2), slice(9, None, -3)),
        ValueError,
        ["params['head']", "share memory"],
    ),
    "gradient is the parameter": (
        lambda p, g: (p, replace(g, B, p["encoder"]["b"])),
        ValueError,
        [NAMED, "grads['encoder']['b']", "share memory", "copy"],
    ),
    "gradient is a view of the parameter": (
        lambda p, g: (p, replace(g, B, p["encoder"]["b"][::-1])),
        ValueError,
        [NAMED, "grads['encoder']['b']", "share memory"],
    ),
    "gradient is another parameter": (
        lambda p, g: (p, replace(g, B, p["encoder"]["w"][1])),
        ValueError,
        ["params['encoder']['w']", "grads['encoder']['b']", "share memory"],
    ),
    "dict that makes up a gradient": (
        lambda p, g: (p, {**g, "encoder": made_up(g["encoder"], "b")}),
        ValueError,
        ["grads has no ['encoder']['b']", "None"],
    ),
    "dict that makes up a branch": (
        lambda p, g: (p, made_up(g, "encoder")),
        ValueError,
        ["grads has no ['encoder']", "None"],
    ),
    "dict that makes up a parameter": (
        lambda p, g: ({**p, "encoder": made_up(p["encoder"], "b")}, g),
        ValueError,
        ["grads has no ['encoder']['B']", "None"],
    ),
    "dict that answers for a missing gradient": (
        lambda p, g: (p, {**g, "encoder": Answering(w=g["encoder"]["w"], B=np.ones(4, "f4"))}),
        ValueError,
        ["grads has no ['encoder']['b']"],
    ),
    "ordered dict of other keys": (
        lambda p, g: (p, {**g, "encoder": OrderedDict(w=g["encoder"]["w"], B=np.ones(4, "f4"))}),
        ValueError,
        ["grads has no ['encoder']['b']"],
    ),
    "tree that contains itself": (
        lambda p, g: (endless(p), endless(g)),
        ValueError,
        ["params['encoder']['b']['b'] is params['encoder']['b'] itself", "no end"],
    ),
    "matrix": (
        lambda p, g: (replace(p, W, p["encoder"]["w"].view(Matrix)), g),
        TypeError,
        ["params['encoder']['w']", "Matrix", "plain array"],
    ),
    "masked parameter": (
        lambda p, g: (replace(p, B, np.ma.masked_array(np.ones(4, "f4"), [0, 1, 0, 0])), g),
        TypeError,
        [NAMED, "MaskedArray", "plain array"],
    ),
    "masked gradient": (
        lambda p, g: (p, replace(g, B, np.ma.masked_array(np.ones(4, "f4"), [0, 1, 0, 0]))),
        TypeError,
        ["grads['encoder']['b']", "MaskedArray", "plain array"],
    ),
    "record array": (
        lambda p, g: (replace(p, B, np.ones(4, "f4").view(np.recarray)), g),
        TypeError,
        [NAMED, "recarray", "plain array"],
    ),
    "list of integers": (
        lambda p, g: (replace(p, B, [1, 2]), replace(g, B, [1, 2])),
        TypeError,
        ["params['encoder']['b'][0] is a int, not an array", "give a float or an array of floats"],
    ),
    "gradient is a list of floats": (
        lambda p, g: (p, replace(g, B, [1.0, 2.0, 3.0, 4.0])),
        TypeError,
        [NAMED, "grads['encoder']['b'] is a list"],
    ),
    "integer": (
        lambda p, g: (replace(p, B, 1), replace(g, B, 1.0)),
        TypeError,
        [NAMED, "int, not an array", "give a float"],
    ),
    "NumPy scalar": (
        lambda p, g: (replace(p, B, np.int32(1)), replace(g, B, np.float64(1.0))),
        TypeError,
        [NAMED, "int32, not an array", "give a float"],
    ),
    "gradient is a float": (
        lambda p, g: (p, replace(g, B, 1.0)),
        ValueError,
        [NAMED, "numpy float32 (4,)", "numpy float64 ()", "shapes must be equal"],
    ),
    "None": (lambda p, g: (replace(p, B, None), g), TypeError, [NAMED, "NoneType, not an array"]),
    "text": (lambda p, g: (replace(p, B, "abcd"), g), TypeError, [NAMED, "str, not an array"]),
    "a class that looks like an array": (
        lambda p, g: (replace(p, B, Series()), replace(g, B, Series())),
        TypeError,
        [NAMED, "Series"],
    ),
    "keys of one name": (
        lambda p, g: (
            {**p, "encoder/b": np.ones(3)},
            {**g, "encoder/b": np.ones(3)},
        ),
        ValueError,
        ["same name 'encoder/b'", "rename"],
    ),
    "number and text as keys of one name": (
        lambda p, g: ({**p, 1: np.ones(3), "1": np.ones(3)}, {**g, 1: np.ones(3), "1": np.ones(3)}),
        ValueError,
        ["params[1]", "params['1']", "rename"],
    ),
}


def overlapping(params, grads, first, second):
    room = np.arange(10.0)
    a, b = room[first], room[second]
    return (
        {**params, "head": [a, b]},
        {**grads, "head": [np.ones_like(a), np.ones_like(b)]},
    )


def make(engine, taken, **keywords):
    """Return an optimizer that has taken some steps on good arrays, and the arrays."""
    params, grads = arrays()
    optimizer = Adam(lr=0.1, engine=engine, **keywords)
    for _ in range(taken):
        optimizer.update(params, grads)
    return optimizer, params, grads


def assert_goes_on(optimizer, params, grads, taken):
    """Raise unless the next good step is as if there had never been a bad one."""
    expected_params, expected_grads = arrays()
    expected = Adam(lr=0.1, engine=optimizer.engine)
    for _ in range(taken + 1):
        expected.update(expected_params, expected_grads)
    optimizer.update(params, grads)
    for path, w in flat(params).items():
        bits.assert_same_bits(w, flat(expected_params)[path], str(path))
    engine_runs.assert_same_state(optimizer, expected)


@engine_runs.every_engine
@pytest.mark.parametrize("taken", [0, 3], ids=["at the first step", "at the fourth step"])
@pytest.mark.parametrize("kind", BAD)
def test_bad_input_is_refused_and_changes_nothing(kind, taken, engine):
    engine_runs.require(engine)
    spoil, error, fragments = BAD[kind]
    optimizer, params, grads = make(engine, taken)
    bad_params, bad_grads = spoil(params, grads)
    before = Snapshot(optimizer, params, grads, bad_params, bad_grads)
    with pytest.raises(error) as caught:
        optimizer.update(bad_params, bad_grads)
    text = str(caught.value)
    assert text.startswith("Adam.update: "), text
    assert [part for part in fragments if part not in text] == [], text
    before.assert_unchanged()
    assert_goes_on(optimizer, params, grads, taken)


def spoiled_encoders():
    """Return the kinds that spoil the dict without branches that is in `arrays`."""
    found = []
    for kind, (spoil, *_) in BAD.items():
        good = arrays()
        pairs = list(zip(spoil(*good), good, strict=True))
        bad = [tree.get("encoder") for tree, _ in pairs if isinstance(tree, dict)]
        is_whole = len(bad) == 2 and all(isinstance(encoder, dict) for encoder in bad)
        if is_whole and any(tree["encoder"] is not before["encoder"] for tree, before in pairs):
            found.append(kind)
    return found


@engine_runs.every_engine
@pytest.mark.parametrize("kind", spoiled_encoders())
def test_a_flat_tree_is_refused_later_in_the_words_of_the_first_step(kind, engine):
    """Such a tree is read by one call, and a step like the one before goes a short way."""
    engine_runs.require(engine)
    texts = []
    for taken in (0, 1, 3):
        params, grads = (tree["encoder"] for tree in arrays())
        bad_params, bad_grads = (tree["encoder"] for tree in BAD[kind][0](*arrays()))
        optimizer = Adam(lr=0.1, engine=engine)
        for _ in range(taken):
            optimizer.update(params, grads)
        before = Snapshot(optimizer, params, grads, bad_params, bad_grads)
        with pytest.raises(BAD[kind][1]) as caught:
            optimizer.update(bad_params, bad_grads)
        before.assert_unchanged()
        assert optimizer.t == taken
        texts.append(str(caught.value))
    assert len(set(texts)) == 1, texts


@engine_runs.every_engine
@pytest.mark.parametrize("taken", [0, 3], ids=["at the first step", "at the fourth step"])
@pytest.mark.parametrize("nested", [False, True], ids=["flat", "nested"])
def test_leaves_that_are_left_alone_stay_leaves(nested, taken, engine):
    """Nothing looks at their arrays, so nothing but the tree can tell that they are branches."""
    engine_runs.require(engine)

    def tree(**leaves):
        return {"all": leaves, "more": [np.ones(2)]} if nested else leaves

    def good():
        return tree(a=np.ones(3), b=np.ones(3)), tree(a=np.ones(3), b=None)

    branch = {"x": np.ones(3)}
    where = "'all'" if nested else ""
    for frozen, grads, message in [
        ((), tree(a=np.ones(3), b=None), rf"params.*{where}.*'b'\] is a dict, but grads.*NoneType"),
        (("*b",), tree(a=np.ones(3), b={"x": None}), "pattern '.b' matches no parameter"),
        (("*b",), tree(a=np.ones(3), b={"x": np.ones(9)}), "pattern '.b' matches no parameter"),
    ]:
        optimizer = SGD(frozen=frozen, engine=engine)
        for _ in range(taken):
            optimizer.update(*good())
        w = np.ones(3)
        with pytest.raises((TypeError, ValueError), match=message):
            optimizer.update(tree(a=w, b=branch), grads)
        assert optimizer.t == taken
        assert w.tolist() == [1.0] * 3


@engine_runs.every_engine
@pytest.mark.parametrize("taken", [0, 3], ids=["at the first step", "at the fourth step"])
def test_a_frozen_leaf_and_its_gradient_may_be_anything(taken, engine):
    engine_runs.require(engine)
    optimizer = SGD(1.0, frozen=("b",), engine=engine)
    for _ in range(taken):
        optimizer.update({"a": np.ones(3), "b": np.ones(3)}, {"a": np.ones(3), "b": np.ones(3)})
    w = np.ones(3)
    for frozen, gradient in [(np.ones(3), np.ones(5)), ("text", None), (w, w), (np.arange(2), 1)]:
        optimizer.update({"a": w, "b": frozen}, {"a": np.ones(3), "b": gradient})
    assert w.tolist() == [-3.0] * 3
    assert optimizer.t == taken + 4


def enter(optimizer, params):
    with optimizer.answer_in_place(params):
        pass


@pytest.mark.parametrize("call", ["update", "explain", "answer", "answer_in_place"])
@pytest.mark.parametrize("make", [dict, list])
def test_a_tree_without_an_end_or_with_too_many_levels_is_one_clear_error(call, make):
    def ring():
        tree = {"a": np.ones(3), "b": None} if make is dict else [np.ones(3), None]
        tree["b" if make is dict else 1] = tree
        return tree

    def tower(levels):
        tree = np.ones(3)
        for _ in range(levels):
            tree = {"a": tree} if make is dict else [tree]
        return tree

    optimizer = chain(SGD(), average(0.5))
    take = getattr(optimizer, call)
    if call == "answer_in_place":
        take = functools.partial(enter, optimizer)
    for tree, message in [
        (ring(), r"params\[.*\] is params itself, so the tree has no end; give a tree"),
        *(
            (tower(levels), r"params\[.*\]\.\.\. has more than 100 levels; give a flatter tree")
            for levels in (101, 2_000, 50_000)
        ),
    ]:
        arguments = (tree, tree) if call == "update" else (tree,)
        with pytest.raises(ValueError, match=rf"{optimizer.name}\.{call}: {message}"):
            take(*arguments)
    deepest = tower(100)
    arguments = (deepest, tower(100)) if call == "update" else (deepest,)
    take(*arguments)


@engine_runs.every_engine
@pytest.mark.parametrize("library", ["array_api_strict", "torch"])
def test_a_gradient_of_another_library_is_refused(library, engine):
    engine_runs.require(engine)
    if why_missing(library):
        pytest.skip(why_missing(library))
    xp = importlib.import_module(library)
    for taken in (0, 2):
        optimizer, params, grads = make(engine, taken)
        before = Snapshot(optimizer, params, grads)
        foreign = replace(grads, B, xp.asarray(np.ones(4, "float32")))
        message = rf"params\['encoder'\]\['b'\] is numpy float32 .* {library} .*numpy.asarray"
        with pytest.raises(TypeError, match=message):
            optimizer.update(params, foreign)
        before.assert_unchanged()
        assert_goes_on(optimizer, params, grads, taken)


@engine_runs.every_engine
def test_a_parameter_that_became_read_only_is_refused(engine):
    """The fast path of later steps sees the same array at the same place."""
    engine_runs.require(engine)
    optimizer, params, grads = make(engine, 2)
    params["encoder"]["b"].flags.writeable = False
    before = Snapshot(optimizer, params, grads)
    with pytest.raises(ValueError, match="read-only"):
        optimizer.update(params, grads)
    before.assert_unchanged()
    params["encoder"]["b"].flags.writeable = True
    assert_goes_on(optimizer, params, grads, 2)


@engine_runs.every_engine
@pytest.mark.parametrize(
    ("name", "schedule", "error", "fragments"),
    [
        ("lr", lambda t: -1.0, ValueError, ["lr", "-1.0", ">= 0", "step 3"]),
        ("lr", lambda t: float("nan"), ValueError, ["lr", "nan", "finite"]),
        ("lr", lambda t: float("inf"), ValueError, ["lr", "inf", "finite"]),
        ("lr", lambda t: None, TypeError, ["lr", "None", "number"]),
        ("lr", lambda t: "small", (TypeError, ValueError), ["lr", "small"]),
        ("beta1", lambda t: 1.0, ValueError, ["beta1", "1.0", "[0, 1)"]),
        ("lr", lambda t: 1 / 0, ZeroDivisionError, []),
        ("eps", 1e-50, ValueError, ["eps", "1e-50", "float32"]),
        ("eps", lambda t: 1e-60, ValueError, ["eps", "1e-60", "float32"]),
    ],
)
def test_a_bad_hyperparameter_at_a_step_changes_nothing(name, schedule, error, fragments, engine):
    engine_runs.require(engine)
    for taken in (0, 2):
        optimizer, params, grads = make(engine, taken)
        good = getattr(optimizer, name)
        setattr(optimizer, name, schedule)
        before = Snapshot(optimizer, params, grads)
        with pytest.raises(error) as caught:
            optimizer.update(params, grads)
        for part in fragments:
            assert part.replace("step 3", f"step {taken + 1}") in str(caught.value)
        before.assert_unchanged()
        setattr(optimizer, name, good)
        assert_goes_on(optimizer, params, grads, taken)


@engine_runs.every_engine
@pytest.mark.parametrize(
    ("change", "error", "fragments"),
    [
        (lambda w: np.ones((4, 4), w.dtype), ValueError, ["(4, 4)", "(3, 4)", "reset()"]),
        (lambda w: w.astype("float64"), ValueError, ["float64", "float32", "reset()"]),
        (lambda w: w.reshape(4, 3), ValueError, ["(4, 3)", "(3, 4)", "reset()"]),
    ],
    ids=["resized", "another dtype", "reshaped"],
)
def test_state_of_another_shape_or_dtype_is_not_taken(change, error, fragments, engine):
    engine_runs.require(engine)
    optimizer, params, grads = make(engine, 2)
    changed, changed_grads = (
        replace(tree, W, change(tree["encoder"]["w"])) for tree in (params, grads)
    )
    before = Snapshot(optimizer, params, grads, changed, changed_grads)
    with pytest.raises(error) as caught:
        optimizer.update(changed, changed_grads)
    text = str(caught.value)
    assert text.startswith("Adam.update: params['encoder']['w'] is numpy"), text
    assert [part for part in fragments if part not in text] == [], text
    before.assert_unchanged()
    assert_goes_on(optimizer, params, grads, 2)


@engine_runs.every_engine
def test_a_rule_that_raises_changes_nothing(engine):
    engine_runs.require(engine)

    class Fragile(Optimizer):
        slots = ("m",)

        @staticmethod
        def scalars(h):
            if h.t == 3:
                raise RuntimeError("third step")
            return {"one": 1.0}

        @staticmethod
        def rule(xp, w, g, s, h):
            return w - h.one * g, {"m": s.m + g}

    optimizer, w = Fragile(engine=engine), np.ones(5)
    for _ in range(2):
        optimizer.update({"w": w}, {"w": np.ones(5)})
    before = Snapshot(optimizer, {"w": w})
    with pytest.raises(RuntimeError, match="third step"):
        optimizer.update({"w": w}, {"w": np.ones(5)})
    before.assert_unchanged()


@pytest.mark.parametrize(
    ("result", "fragments"),
    [
        (lambda w: w, ["Wrong.rule", "pair", "one value"]),
        (lambda w: (w, None), ["Wrong.rule", "pair"]),
        (lambda w: (w, {"n": w}), ["Wrong.rule", "'n'", "slots"]),
        (lambda w: (w > 0, {}), ["Wrong", "boolean"]),
    ],
    ids=["no pair", "no dict", "unknown slot", "boolean"],
)
@engine_runs.every_engine
def test_a_rule_that_returns_something_else_is_refused(result, fragments, engine):
    engine_runs.require(engine)

    class Wrong(Optimizer):
        slots = ("m",)

        @staticmethod
        def rule(xp, w, g, s, h):
            return result(w)

    optimizer, w = Wrong(engine=engine), np.ones(5)
    before = Snapshot(optimizer, {"w": w})
    with pytest.raises(TypeError) as caught:
        optimizer.update({"w": w}, {"w": np.ones(5)})
    for part in fragments:
        assert any(choice in str(caught.value) for choice in part.split("|")), str(caught.value)
    before.assert_unchanged()


def test_a_rule_without_the_function_is_refused():
    class Empty(Optimizer):
        lr: float = 0.1

    with pytest.raises(TypeError, match=r"Empty has no rule; define .*rule\(xp, w, g, s, h\)"):
        Empty()


@pytest.mark.parametrize("engine", ["native", "blocked", "cuda"])
def test_an_engine_that_was_asked_for_and_cannot_run_is_an_error(engine):
    strict = pytest.importorskip("array_api_strict")
    if engine == "cuda":
        optimizer, w = SGD(engine=engine), np.ones(3)
    else:
        engine_runs.require(engine)
        optimizer, w = SGD(engine=engine), strict.ones(3)
    with pytest.raises(ValueError, match=f"SGD: engine='{engine}' was asked for, but"):
        optimizer.update(w, w + 1)
    assert optimizer.t == 0


class InPlace(Optimizer):
    """A rule as nobody should write it: it changes its arguments."""

    slots = ("m",)

    @staticmethod
    def rule(xp, w, g, s, h):
        m = s.m
        m += g
        g *= 2.0
        w -= g
        return w, {"m": m}


@pytest.mark.parametrize("engine", ["native", "blocked"])
def test_a_rule_that_works_in_place_cannot_be_fused(engine):
    engine_runs.require(engine)
    w, g = np.ones(3), np.ones(3)
    optimizer = InPlace(engine=engine)
    before = Snapshot(optimizer, {"w": w}, {"g": g})
    with pytest.raises(
        FusionError, match=r"InPlace\.rule cannot be fused: .* in place .*; write x = "
    ):
        optimizer.update(w, g)
    before.assert_unchanged()


@pytest.mark.parametrize("dtype", bits.DTYPES)
def test_a_rule_that_works_in_place_never_modifies_gradients(dtype):
    for engine in ("auto", "array_api"):
        w, g = np.ones(3, dtype), np.ones(3, dtype)
        optimizer = InPlace(engine=engine)
        optimizer.update({"w": w}, {"w": g})
        optimizer.update({"w": w}, {"w": g})
        assert g.tolist() == [1.0] * 3
        assert w.tolist() == [-3.0] * 3
        assert engine_runs.slots_of(optimizer)["w"]["m"].tolist() == [2.0] * 3


def test_a_rule_that_raises_half_way_has_changed_nothing_in_place():
    class Breaks(Optimizer):
        slots = ("m",)

        @staticmethod
        def rule(xp, w, g, s, h):
            m = s.m
            m += g
            w -= g
            raise RuntimeError("half-way")

    w, g = np.ones(3), np.ones(3)
    optimizer = Breaks(engine="array_api")
    before = Snapshot(optimizer, {"w": w}, {"g": g})
    with pytest.raises(RuntimeError, match="half-way"):
        optimizer.update(w, g)
    before.assert_unchanged()


def test_a_gradient_may_be_kept_as_state_and_is_copied():
    class Previous(Optimizer):
        slots = ("last",)

        @staticmethod
        def rule(xp, w, g, s, h):
            return w - (g - s.last), {"last": g}

    for engine in ("native", "blocked", "array_api"):
        if engine_runs.why_not(engine) is None:
            optimizer, w, g = Previous(engine=engine), np.zeros(3), np.ones(3)
            optimizer.update(w, g)
            g[...] = 5.0
            optimizer.update(w, g)
            assert w.tolist() == [-5.0] * 3


AT_THE_END = """
import builtins, sys
import numpy as np
from instep import Adam

class Late:
    def __init__(self, engine, taken):
        self.optimizer = Adam(engine=engine)
        self.w, self.g = np.ones(3), np.ones(3)
        for _ in range(taken):
            self.optimizer.update(self.w, self.g)

    def __del__(self):
        before = self.w.copy()
        try:
            self.optimizer.update(self.w, self.g)
        except RuntimeError as error:
            assert self.w.tolist() == before.tolist()
            print(error, flush=True)
        else:
            assert (self.w != before).all()
            print("taken", flush=True)

late = Late(sys.argv[1], int(sys.argv[2]))
if sys.argv[3] == "builtins":
    builtins.late = late
elif sys.argv[3] == "cycle":
    late.itself = late
"""


@engine_runs.every_engine
@pytest.mark.parametrize("taken", [0, 3])
@pytest.mark.parametrize("place", ["globals", "builtins", "cycle"])
def test_a_step_while_python_shuts_down_is_taken_or_is_one_clear_error(place, taken, engine):
    engine_runs.require(engine)
    command = [sys.executable, "-c", AT_THE_END, engine, str(taken), place]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert found.stderr == ""
    if found.stdout != "taken\n" or taken == 0:
        assert found.stdout.startswith("Adam.update: Python is shutting down"), found.stdout
        assert found.stdout.count("\n") == 1


def test_a_misspelt_key_is_named_beside_the_one_that_is_missing():
    text = (
        r"grads has no \['b'\], which params has \(grads has \['B'\], which params does not have\)"
    )
    with pytest.raises(ValueError, match=text):
        Adam().update({"b": np.ones(2)}, {"B": np.ones(2)})
