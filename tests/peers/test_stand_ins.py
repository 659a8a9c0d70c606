# ruff: noqa: SLF001  (it looks inside on purpose)
"""Tensors of PyTorch and arrays of JAX take the steps of NumPy arrays, in compiled loops.

A step must never write where a tensor was before, nor read what is no longer its own.
"""

import copy
import ctypes
import gc
import importlib
import pickle
import sys
import weakref
from pathlib import Path

import bits
import cases
import engine_runs
import foreign_arrays
import numpy as np
import pytest
import torch_on_device
import whole_steps

from instep import LAMB, SGD, Adam, Momentum, Optimizer, ScheduleFreeAdamW, arrays, chain
from instep.plan import tensors
from instep.transforms import average, clip_by_global_norm

pytestmark = pytest.mark.peers

DTYPES = ("float16", "bfloat16", "float32", "float64")

#: Ways to lay out elements that PyTorch knows too: its strides are never negative.
LAYOUTS = ("C order", "Fortran order", "permuted", "every second", "offset by one element")

fused = pytest.mark.parametrize("engine", ["native", "blocked"])


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.fixture
def jax():
    return pytest.importorskip("jax")


def ordinary(seed, shape, dtype):
    x = bits.ordinary(np.random.default_rng(seed), shape, "float32")
    return x.astype(pytest.importorskip("ml_dtypes").bfloat16 if dtype == "bfloat16" else dtype)


def laid_out(x, layout):
    """Return a copy in a layout; those of NumPy's that fill with bits know no bfloat16."""
    if x.dtype.name != "bfloat16":
        return bits.LAYOUTS[layout](x)
    return bits.LAYOUTS[layout](x.view(np.int16)).view(x.dtype)


def tensor(x):
    """Return a tensor of the memory of a NumPy array."""
    torch = pytest.importorskip("torch")
    if x.dtype.name == "bfloat16":
        return torch.from_numpy(x.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(x)


def assert_same(got, expected, what=""):
    if expected.dtype.name == "bfloat16":
        got, expected = got.view(np.int16).astype("f8"), expected.view(np.int16).astype("f8")
    bits.assert_same_bits(got, expected, what)


def starts(dtype):
    found = {layout: laid_out(ordinary(1, (3, 5, 7), dtype), layout) for layout in LAYOUTS}
    shapes = [(), (1,), (17,), (0,), (2, 0, 4)]
    return found | {str(shape): ordinary(2, shape, dtype).reshape(shape) for shape in shapes}


# An engine is given memory, and does not know whose it is: one dtype shows it for each class.
every_class = pytest.mark.parametrize(
    ("case", "dtype"),
    [
        pytest.param(case, DTYPES[number % len(DTYPES)], id=str(case))
        for number, case in enumerate(cases.CLASSES)
    ],
)


def gradients(params, t):
    """Return gradients whose layouts are not those of their parameters."""
    return {
        name: laid_out(ordinary(100 * t + i, w.shape, w.dtype.name), LAYOUTS[(i + t) % 5])
        for i, (name, w) in enumerate(params.items())
    }


@fused
@every_class
def test_steps_on_tensors_have_the_bits_of_numpy(torch, case, dtype, engine):
    engine_runs.require(engine)
    (own, optimizer), (others, expected) = ((starts(dtype), case.make(engine=engine)) for _ in "ab")
    tensors = {name: tensor(w) for name, w in own.items()}
    for t in range(4):
        grads = gradients(others, t)
        given = {k: tensor(g) for k, g in grads.items()}
        assert cases.step(optimizer, tensors, given) is tensors
        cases.step(expected, others, grads)
        for name, w in own.items():
            assert_same(w, others[name], name)
    engine_runs.assert_same_state(optimizer, expected)
    assert optimizer.explain(tensors).buckets[0].engine == engine


@fused
@every_class
def test_steps_on_arrays_of_jax_have_the_bits_of_numpy(jax, case, dtype, engine):
    engine_runs.require(engine)
    (own, optimizer), (others, expected) = ((starts(dtype), case.make(engine=engine)) for _ in "ab")
    params = {name: jax.numpy.asarray(w) for name, w in own.items()}
    for t in range(4):
        grads, before = gradients(others, t), dict(params)
        values = {name: np.array(w) for name, w in params.items()}
        given = {k: jax.numpy.asarray(g) for k, g in grads.items()}
        assert cases.step(optimizer, params, given) is params
        cases.step(expected, others, grads)
        for name, w in params.items():
            assert_same(np.array(w), np.ascontiguousarray(others[name]).reshape(w.shape), name)
            assert_same(np.array(before[name]), values[name], "what was given is as it was")
            assert isinstance(w, jax.Array)
            assert not w.weak_type
    engine_runs.assert_same_state(optimizer, expected)


def test_transforms_and_sums_over_trees_of_all_libraries(torch, jax):
    def make():
        return chain(clip_by_global_norm(0.5), Adam(lr=0.1), average(0.9))

    optimizer, expected = make(), make()
    others = {name: ordinary(i, (40, 3), "float32") for i, name in enumerate("abc")}
    own = {name: w.copy() for name, w in others.items()}
    params = {"a": own["a"], "b": tensor(own["b"]), "c": jax.numpy.asarray(own["c"])}
    for t in range(5):
        grads = {name: ordinary(10 * t + i, (40, 3), "float32") for i, name in enumerate("abc")}
        expected.update(others, grads)
        optimizer.update(
            params,
            {"a": grads["a"], "b": tensor(grads["b"]), "c": jax.numpy.asarray(grads["c"])},
        )
        for name, w in params.items():
            bits.assert_same_bits(w, others[name], name)
    answer, expected_answer = optimizer.answer(params), expected.answer(others)
    for name, w in params.items():
        assert type(answer[name]) is type(w)
        bits.assert_same_bits(answer[name], expected_answer[name], name)
    with optimizer.answer_in_place(params) as inside:
        for name, w in inside.items():
            bits.assert_same_bits(w, expected_answer[name], name)
    for name, w in params.items():
        bits.assert_same_bits(w, others[name], name)


def test_a_rule_that_cannot_be_fused_gets_the_arrays_of_the_user(torch, jax):
    seen = []

    class Own(Optimizer):
        lr: float = 0.5

        @staticmethod
        def rule(xp, w, g, s, h):
            seen.append(type(w))
            return w - h.lr * xp.exp(g), {}

    for w, g in ((torch.zeros(3), torch.zeros(3)), (jax.numpy.zeros(3), jax.numpy.zeros(3))):
        seen.clear()
        new = Own().update(w, g)
        assert seen[-1] is type(g)
        assert np.asarray(new).tolist() == [-0.5] * 3


# Where a tensor is ----------------------------------------------------------------------------


@pytest.fixture(params=["seen by compiled code", "asked through Python"])
def way(request, monkeypatch):
    """How it is found out whether a tensor is what it was."""
    if request.param == "asked through Python":
        monkeypatch.setattr(tensors, "check_for", lambda held, seen: None)
    else:
        engine_runs.require("native")


both_ways = pytest.mark.usefixtures("way")


class Twins:
    """Tensors that are stepped beside NumPy arrays of the same values."""

    def __init__(self, torch, shape=(4, 6), steps=3):
        self.torch, self.optimizer, self.expected = torch, Momentum(lr=0.5), Momentum(lr=0.5)
        self.w = torch.ones(shape)
        self.other = np.ones(shape, "float32")
        self.gradient = None
        for _ in range(steps):
            self.step()

    def step(self, *, keep=False):
        g = ordinary(self.optimizer.t, self.other.shape, "float32")
        if keep and self.gradient is not None:
            self.gradient.copy_(self.torch.from_numpy(g))
        else:
            self.gradient = self.torch.from_numpy(g.copy())
        self.optimizer.update({"w": self.w}, {"w": self.gradient})
        self.expected.update({"w": self.other}, {"w": g})
        bits.assert_same_bits(self.w.clone(), self.other)  # NumPy would hold the memory


def moved_by_data(torch, w):
    w.data = w.data.clone()


def moved_by_set(torch, w):
    w.set_(w.clone())


def moved_by_swap(torch, w):
    torch.utils.swap_tensors(w, w.clone())


def moved_within_its_storage(torch, w):
    room = torch.zeros(w.numel() + 3)
    room[3:] = w.reshape(-1)
    w.data = room[3:].view(w.shape)


def moved_into_another_order(torch, w):
    w.data = w.t().contiguous().t()


def moved_by_storage(torch, w):
    values, storage = w.clone(), w.untyped_storage()
    size = storage.nbytes()
    storage.resize_(0)
    others = [torch.full((n,), 7.0) for n in range(1, 200)]  # the memory becomes another's
    storage.resize_(size)
    w.copy_(values)
    del others


@both_ways
@pytest.mark.parametrize("keep", [True, False], ids=["gradients stay", "gradients are new"])
@pytest.mark.parametrize(
    "move",
    [
        moved_by_data,
        moved_by_set,
        moved_by_swap,
        moved_within_its_storage,
        moved_into_another_order,
        moved_by_storage,
    ],
)
def test_a_tensor_whose_memory_moved_is_written_where_it_is_now(torch, move, keep):
    twins = Twins(torch)
    for _ in range(3):
        old, w = twins.w.detach(), twins.w
        move(torch, w)
        before = old.clone() if old.untyped_storage().nbytes() else None
        twins.step(keep=keep)
        twins.step(keep=keep)
        assert twins.w is w
        if before is not None and old.data_ptr() != w.data_ptr():
            assert torch.equal(old, before), "what the tensor has left is as it was"


@both_ways
def test_gradients_that_move_are_read_where_they_are(torch):
    twins = Twins(torch)
    for move in (moved_by_data, moved_by_set, moved_by_swap, moved_within_its_storage):
        twins.step(keep=True)
        move(torch, twins.gradient)
        twins.step(keep=True)


@both_ways
def test_memory_that_is_given_back_between_steps_is_not_touched(torch):
    optimizer, expected = Momentum(lr=0.5), Momentum(lr=0.5)
    for t in range(20):
        params = {"w": torch.ones(1000 + t % 2)}
        other = {"w": np.ones(1000 + t % 2, "float32")}
        if t % 2 == 0:
            optimizer.reset()
            expected.reset()
        for _ in range(2 if t % 2 else 1):
            optimizer.reset()
            expected.reset()
            optimizer.update(params, {"w": torch.ones(1000 + t % 2)})
            expected.update(other, {"w": np.ones(1000 + t % 2, "float32")})
        bits.assert_same_bits(params["w"], other["w"])
        del params
        gc.collect()


def changed(torch):
    """Return {what: (what is done to a tensor of 4 by 6, what the error says)}."""

    def released(w):
        w.untyped_storage().resize_(0)

    def short(w):
        w.untyped_storage().resize_(8)

    def broadcast(w):
        w.set_(torch.ones(1).expand(4, 6))

    return {
        "requires grad": (lambda w: w.requires_grad_(), "requires grad"),
        "resized": (lambda w: w.resize_(2, 3), "shape"),
        "transposed": (lambda w: w.t_(), "shape"),
        "released": (released, "memory has been released"),
        "short of memory": (short, "memory has been released"),
        "expanded": (broadcast, "share memory"),
    }


@both_ways
@pytest.mark.parametrize(
    "what",
    ["requires grad", "resized", "transposed", "released", "short of memory", "expanded"],
)
def test_a_tensor_that_became_another_thing_is_refused_and_nothing_changes(torch, what):
    change, message = changed(torch)[what]
    twins = Twins(torch)
    beside = twins.w.clone()
    change(twins.w)
    t, state = twins.optimizer.t, engine_runs.slots_of(twins.optimizer)
    with pytest.raises(ValueError, match=message):
        twins.optimizer.update({"w": twins.w}, {"w": twins.gradient})
    assert twins.optimizer.t == t
    bits.assert_same_bits(engine_runs.slots_of(twins.optimizer)["w"]["v"], state["w"]["v"])
    twins.w = beside
    twins.step()


@both_ways
def test_gradients_that_became_another_thing_are_read_as_what_they_are(torch):
    w, optimizer = torch.zeros(3), Momentum(lr=1.0, momentum=0.0)
    negated = torch.full((3,), -1j, dtype=torch.complex64).conj().imag
    inference = torch.ones(3)
    with torch.inference_mode():
        inference = torch.ones(3)
    wide = torch.ones(3, dtype=torch.float64)
    others = [torch.ones(3), negated, torch.ones(1).expand(3), wide, inference, torch.ones(6)[::2]]
    for i, g in enumerate(others * 2, start=1):
        optimizer.update(w, g)
        optimizer.update(w, torch.zeros(3))
        assert w.tolist() == [-float(i)] * 3


@pytest.mark.parametrize("meaning", ["modulus", "pairs"])
@both_ways
def test_gradients_that_copies_stand_for_are_copied_at_each_step(torch, meaning):
    """The memory of a tensor has neither the parts of a real number nor those of a conjugate."""
    for dtype in (torch.float16, torch.float32, torch.float64):
        w, optimizer = torch.zeros(4, dtype=torch.complex64), SGD(lr=1.0, complex=meaning)
        for number in range(1, 5):
            optimizer.update(w, torch.ones(4, dtype=dtype))
            assert w.tolist() == [-number] * 4
    with torch.inference_mode():  # no graph knows of these, but that they are conjugates
        w, optimizer = torch.zeros(4, dtype=torch.complex64), SGD(lr=1.0, complex=meaning)
        for number in range(1, 5):
            optimizer.update(w, torch.full((4,), 1j, dtype=torch.complex64).conj())
            assert w.tolist() == [number * 1j] * 4


@fused
def test_arrays_are_handed_back_from_their_parts_beside_numbers(jax, engine):
    params = {"z": jax.numpy.zeros(3, "complex64"), "x": jax.numpy.zeros(2), "w": 1j, "v": 0.5}
    optimizer = SGD(lr=1.0, complex="pairs", engine=engine)
    for _ in range(2):
        grads = {"z": jax.numpy.full(3, 1 + 2j), "x": jax.numpy.ones(2), "w": 1.0, "v": 1.0}
        optimizer.update(params, grads)
    assert params["z"].tolist() == [-2 - 4j] * 3
    assert params["x"].tolist() == [-2.0] * 2
    assert (params["w"], params["v"]) == (-2 + 1j, -1.5)


@pytest.mark.parametrize("library", ["torch", "jax"])
@pytest.mark.parametrize("meaning", ["modulus", "pairs"])
@pytest.mark.parametrize("engine", ["native", "blocked", "array_api"])
def test_numbers_are_gradients_of_arrays_without_dimensions(request, library, meaning, engine):
    """As beside NumPy's arrays, with whatever comes in their place at another step."""
    request.getfixturevalue(library)
    of = tensor if library == "torch" else pytest.importorskip("jax").numpy.asarray
    for dtype, numbers in {
        "float32": [0.1, np.float32(0.3), np.float64(0.7), 1e-3, None],
        "complex64": [0.1 + 0.7j, 0.25, np.complex64(0.3j), 1e-3j, None],
    }.items():
        numbers[-1] = np.asarray(0.9, dtype)
        runs = [
            (Adam(engine=engine, complex=meaning), {"w": make(np.asarray(0.5, dtype))})
            for make in (of, np.copy)
        ]
        for number in numbers * 3:
            for (optimizer, params), make in zip(runs, (of, np.copy), strict=True):
                g = make(number) if number is numbers[-1] else number
                optimizer.update(params, {"w": g})
        (_, found), (_, expected) = runs
        bits.assert_same_bits(np.asarray(found["w"]), expected["w"])
        with pytest.raises(ValueError, match="shapes must be equal"):
            runs[0][0].update({"x": of(np.zeros(3, dtype))}, {"x": 1.0})


@pytest.mark.parametrize("engine", ["native", "blocked", "array_api"])
def test_the_negative_of_what_lies_in_memory_is_no_hyperparameter(torch, engine):
    """A step would read a copy, and never what is written into it later."""
    negated = torch.full((3,), -1j, dtype=torch.complex64).conj().imag
    w, optimizer = torch.zeros(3), SGD(lr=negated, engine=engine)
    with pytest.raises(ValueError, match=r"SGD.lr is the negative .*resolve_neg"):
        optimizer.update(w, torch.ones(3))
    optimizer.lr = negated.resolve_neg()
    optimizer.update(w, torch.ones(3))
    assert w.tolist() == [-1.0] * 3


@both_ways
def test_a_gradient_over_a_parameter_is_found_when_it_comes_there(torch):
    room = torch.zeros(10)
    optimizer, g = Momentum(lr=0.5), torch.ones(4)
    for _ in range(3):
        optimizer.update(room[:4], g)
    before = room.clone()
    g.data = room[2:6]
    with pytest.raises(ValueError, match="share memory"):
        optimizer.update(room[:4], g)
    with pytest.raises(ValueError, match="share memory"):
        optimizer.update({"a": room[:4], "b": room.numpy()[2:6]}, {"a": g.clone(), "b": np.ones(4)})
    assert torch.equal(room, before)
    assert optimizer.t == 3


@both_ways
def test_copies_on_write_are_made_before_a_step_writes(torch):
    lazy = getattr(torch, "_lazy_clone", None)
    if lazy is None:
        pytest.skip("this PyTorch has no lazy copies")
    twins = Twins(torch)
    copied, before = lazy(twins.w), twins.w.clone()
    twins.step()
    assert torch.equal(copied, before)


@both_ways
def test_a_graph_notices_that_a_tensor_was_changed(torch):
    leaf, optimizer = torch.nn.Parameter(torch.ones(3)), Momentum(lr=0.5)
    for _ in range(4):
        loss = (leaf * leaf).sum()
        version = leaf._version
        optimizer.update([leaf.detach()], [torch.ones(3)])
        assert leaf._version > version
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


@both_ways
def test_a_step_that_is_refused_tells_no_graph_of_a_change(torch):
    w, optimizer = torch.ones(3), Momentum(lr=0.5)
    optimizer.update([w], [torch.ones(3)])
    version = w._version
    with pytest.raises(ValueError, match="shape"):
        optimizer.update([w], [torch.ones(4)])
    assert w._version == version


@pytest.mark.parametrize("library", ["torch", "jax.numpy"])
def test_an_optimizer_keeps_no_arrays_of_the_user_alive(library):
    xp = pytest.importorskip(library)
    optimizer = Adam()
    for _ in range(3):
        params, grads = {"w": xp.ones(100)}, {"w": xp.ones(100)}
        seen = [weakref.ref(params["w"]), weakref.ref(grads["w"])]
        params = optimizer.update(params, grads)
        seen.append(weakref.ref(params["w"]))
        del params, grads
        gc.collect()
        assert [one() for one in seen] == [None] * 3


def test_tensors_that_stay_what_they_are_are_not_asked_through_python(torch, monkeypatch):
    engine_runs.require("native")
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2), torch.nn.Linear(2, 2))
    optimizer, own = Momentum(lr=0.1), dict(model.named_parameters())
    frozen = {"0.bias"}

    def step():
        model.zero_grad()
        model(torch.ones(5, 3)).sum().backward()
        params = {name: w.detach() for name, w in own.items()}
        optimizer.update(params, {k: None if k in frozen else w.grad for k, w in own.items()})

    step()
    before = [w.tolist() for w in own.values()]
    with monkeypatch.context() as patch:
        patch.setattr(arrays, "signature", lambda array: pytest.fail("it was asked"))
        step()
        step()
    after = [w.tolist() for w in own.values()]
    assert [a == b for a, b in zip(before, after, strict=True)] == [k in frozen for k in own]
    assert optimizer.t == 3


def unlike(torch):
    """Return {what: something that is not what a plain tensor of 4 by 1 numbers was}."""
    plain = torch.zeros(4, 1)
    short = torch.zeros(4, 1)
    short.untyped_storage().resize_(8)
    with torch.inference_mode():
        inference = torch.zeros(4, 1)
    misaligned = np.ndarray((4, 1), "float32", bytearray(17), 1)
    return {
        "a parameter": torch.nn.Parameter(plain, requires_grad=False),
        "a NumPy array": np.zeros((4, 1), "float32"),
        "None": None,
        "of another dtype": torch.zeros(4, 1, dtype=torch.int32),
        "of another shape": torch.zeros(5, 1),
        "of fewer axes": torch.zeros(4),
        "of more axes": torch.zeros(4, 1, 1),
        "strided": torch.zeros(8, 1)[::2].detach(),
        "within a larger one": torch.zeros(5, 1)[1:].detach(),
        "a view that a graph may follow": torch.zeros(4, 1).view(4, 1),
        "requiring a gradient": torch.zeros(4, 1, requires_grad=True),
        "negated": torch._neg_view(plain).detach(),
        "of inference": inference,
        "on no device": torch.zeros(4, 1, device="meta"),
        "sparse": torch.zeros(4, 1).to_sparse(),
        "short of memory": short,
        "misaligned": torch.from_numpy(misaligned),
    }


def test_the_compiled_check_tells_tensors_from_all_that_they_are_not(torch):
    compiled = pytest.importorskip("instep.engines.native.tensors")
    checked = pytest.importorskip("instep.engines.native.check")
    codes = pytest.importorskip("instep.engines.native.check_code")
    w, g = torch.zeros(4, 1), torch.zeros(4, 1)
    stand_ins = [(np.zeros((4, 1), "float32")[:],) for _ in "wg"]
    fields = [[id(x[0]) + checked.ARRAY_DATA] for x in stand_ins]
    check = compiled.Following([(w,), (g,)], stand_ins, fields)
    assert check.compare((w,), (g,)) == codes.MOVED  # the stand-ins come to the tensors
    assert check.compare((w,), (g,)) == codes.SAME
    assert [x[0].ctypes.data for x in stand_ins] == [w.data_ptr(), g.data_ptr()]
    assert check.compare((w,), (torch.zeros(4, 1),)) == codes.MOVED
    for what, x in unlike(torch).items():
        assert check.compare((w,), (x,)) == codes.DIFFERENT, what
        assert check.compare((x,), (g,)) == codes.DIFFERENT, what
    assert check.compare((w,), (g,)) != codes.DIFFERENT
    torch._lazy_clone(w)  # what is written from now on must be a copy
    assert check.compare((w,), (g,)) == codes.DIFFERENT


def test_the_compiled_check_tells_devices_apart(torch):
    compiled = pytest.importorskip("instep.engines.native.tensors")
    codes = pytest.importorskip("instep.engines.native.check_code")

    class There(torch.Tensor):
        """A tensor that says it is on a device, be there one or not."""

        __torch_dispatch__ = None

    def on(number):
        return torch.Tensor._make_wrapper_subclass(There, (4,), device=torch.device("cuda", number))

    (w, g), addresses = (on(0), on(0)), np.zeros(2, np.int64)
    places = [[addresses.ctypes.data + 8 * i] for i in range(2)]
    check = compiled.TensorCheck(((w,), places[0]), ((g,), places[1]), (0,))
    assert check.compare((w,), (on(0),)) != codes.DIFFERENT
    assert check.compare((w,), (on(1),)) == codes.DIFFERENT
    assert check.compare((on(1),), (g,)) == codes.DIFFERENT


@pytest.mark.skipif(sys.platform != "linux", reason="it fills the memory of glibc")
def test_fields_are_found_whatever_was_in_memory_before(torch):
    """A tensor has bits that no field has: they keep what the memory held."""
    fields = pytest.importorskip("instep.engines.native.tensor_fields")
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    rng = np.random.default_rng(0)
    expected = fields._found(torch)
    for _ in range(20):
        pieces = []
        for size in (*range(24, 40, 8), *range(104, 232, 8)):
            for _ in range(60):
                pieces.append(libc.malloc(size))
                ctypes.memmove(pieces[-1], rng.bytes(size), size)
        for place in rng.permutation(len(pieces)):
            libc.free(pieces[place])
        assert fields._found(torch) == expected


def test_a_layout_of_fields_that_is_not_known_is_not_used(torch, monkeypatch):
    fields = pytest.importorskip("instep.engines.native.tensor_fields")
    assert fields._found(torch).count % 4 == 0
    for broken in ({"zeros": torch.ones}, {"_neg_view": torch.clone}):
        with monkeypatch.context() as patch:
            for name, function in broken.items():
                patch.setattr(torch, name, function)
            if "zeros" in broken:
                patch.setattr(torch.Tensor, "detach", lambda x: x.clone())
            assert fields.fields.__wrapped__() is None


# State ----------------------------------------------------------------------------------------


def test_state_moves_between_engines_and_libraries(torch, jax):
    make = {
        "numpy": np.array,
        "torch": lambda x: torch.from_numpy(x.copy()),
        "jax": jax.numpy.asarray,
    }
    optimizer, expected = ScheduleFreeAdamW(lr=0.1), ScheduleFreeAdamW(lr=0.1)
    w, other = ordinary(0, (5, 3), "float32"), ordinary(0, (5, 3), "float32")
    engines = ["native", "array_api", "blocked"]
    for t, library in enumerate(["torch", "numpy", "jax", "torch", "jax", "torch", "torch"]):
        g = ordinary(t + 1, (5, 3), "float32")
        optimizer.engine = engines[t % 3] if library != "jax" else "native"
        tree = optimizer.update({"w": make[library](w)}, {"w": make[library](g)})
        expected.update({"w": other}, {"w": g})
        w = np.asarray(tree["w"]).copy()
        bits.assert_same_bits(w, other, f"step {t}")
        state = optimizer.state_dict()["states"]["w"]["slots"]
        assert {type(slot) for slot in state.values()} == {np.ndarray}
        optimizer = (copy.copy, lambda x: pickle.loads(pickle.dumps(x)))[t % 2](optimizer)


def test_what_is_explained_is_what_runs(torch, jax):
    for w, name in ((torch.zeros(3), "torch"), (jax.numpy.zeros(3), "jax")):
        (found,) = Adam(engine="blocked").explain({"w": w}).buckets
        assert (found.engine, found.device) == ("blocked", f"{name} cpu")
        (found,) = Adam(engine="array_api").explain({"w": w}).buckets
        assert found.engine == "array_api"


# Arrays of JAX --------------------------------------------------------------------------------


def test_results_are_where_the_arrays_were(jax):
    w, g = jax.numpy.zeros(3), jax.numpy.ones(3)
    (device,) = w.devices()
    for before in (w, jax.device_put(w, device)):
        after = Momentum(lr=0.5).update(before, g)
        assert after.sharding == before.sharding
        assert after.committed == before.committed


def test_arrays_that_were_handed_back_may_be_donated(jax):
    optimizer, w = Momentum(lr=0.5, momentum=0.0), jax.numpy.zeros(3000)
    double = jax.jit(lambda x: 2 * x, donate_argnums=0)
    for t in range(1, 5):
        w = double(optimizer.update(w, jax.numpy.ones(3000)))
        assert w.tolist() == [1.0 - 2.0**t] * 3000


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_arrays_and_views_that_are_kept_stay_as_they_are(jax, dtype):
    optimizer, w = Momentum(lr=0.5, momentum=0.0), jax.numpy.zeros(1000, dtype)
    kept, views = {}, {}
    for t in range(40):
        if t % 7 == 0:
            kept[t] = w
        if t % 5 == 0:
            views[t] = np.asarray(w)  # lives on when the array is gone
        w = optimizer.update(w, jax.numpy.ones(1000, dtype))
        for found in (kept, views):
            for s, x in found.items():
                assert (np.asarray(x).astype("f4") == -0.5 * s).all(), s
        if t % 11 == 0:
            kept, views = {}, {}


@fused
def test_new_arrays_are_made_beside_arrays_in_any_layout(jax, engine):
    engine_runs.require(engine)

    def steps(of_jax):
        w, optimizer = np.ones((40, 90), "float32")[:, ::2], LAMB(lr=0.1, engine=engine)
        params = {"a": of_jax(np.ones((40, 45), "float32")), "b": w}
        for t in range(3):
            g = ordinary(t, (45, 40), "float32").T
            optimizer.update(params, {"a": of_jax(np.ascontiguousarray(g)), "b": g})
        return params

    expected = steps(np.array)
    for name, w in steps(jax.numpy.asarray).items():
        bits.assert_same_bits(np.asarray(w), expected[name], name)


@fused
def test_a_rule_that_changes_nothing_leaves_arrays_as_they_are(jax, engine):
    class Nothing(Optimizer):
        @staticmethod
        def rule(xp, w, g, s, h):
            return w, {}

    engine_runs.require(engine)
    params, optimizer = {"w": jax.numpy.arange(1000.0)}, Nothing(engine=engine)
    for _ in range(2):
        optimizer.update(params, {"w": jax.numpy.ones(1000)})
    assert params["w"].tolist() == list(range(1000))


# Libraries that are not known by name -----------------------------------------------------------


def test_what_is_asked_of_tensors_on_a_device_is_there(torch):
    """The tests of the CUDA engine use names of PyTorch without PyTorch."""
    modules, _ = torch_on_device.module()
    for name, module in modules.items():
        real = importlib.import_module(name)
        for attribute in vars(module).keys() - {"_C"}:
            if not attribute.startswith("__"):
                assert hasattr(real, attribute), attribute
    given = set(vars(torch_on_device.Tensor(np.zeros(3))))
    for attribute in {*vars(torch_on_device.Tensor), *given} - {"array", "_negated"}:
        assert hasattr(torch.zeros(3), attribute), attribute
    assert hasattr(torch._C._CudaStreamBase, "cuda_stream") or not torch.backends.cuda.is_built()
    assert "cuda_stream" in (Path(torch.__file__).parent / "_C" / "__init__.pyi").read_text()
    assert "Parameter" in vars(torch.nn)


@fused
@pytest.mark.parametrize("dtype", DTYPES)
def test_memory_that_a_tensor_exports_is_that_of_the_tensor(torch, dtype, engine):
    """As a library does that nobody knows: it has a dtype that NumPy's own DLPack has not."""
    engine_runs.require(engine)
    x, g = ordinary(0, (5, 3), dtype), ordinary(1, (5, 3), dtype)
    w, other = tensor(x), x.copy()
    optimizers = Momentum(engine=engine), Momentum(engine=engine)
    for _ in range(3):
        optimizers[0].update(foreign_arrays.Foreign(w), foreign_arrays.Foreign(tensor(g)))
        optimizers[1].update(other, g)
    assert_same(x, other)


# Exceptions -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("taken", [0, 3])
def test_an_exception_at_any_line_leaves_all_of_a_step_on_tensors_or_nothing(torch, taken):
    def make(**settings):
        return chain(clip_by_global_norm(0.5), Adam(), **settings)

    for how, shapes in ((Adam, whole_steps.PLAIN), (make, whole_steps.STRIDED)):
        problem = whole_steps.Problem(how, shapes, of=torch.from_numpy)
        after = "Plan.step" if taken == 0 else None
        not_taken, done = whole_steps.assert_whole(problem, taken, {}, after, 1 if taken else 5)
        assert not_taken
        assert done


@pytest.mark.slow
@pytest.mark.parametrize("taken", [0, 3])
def test_an_exception_at_any_line_leaves_all_of_a_step_on_arrays_of_jax_or_nothing(jax, taken):
    problem = whole_steps.Problem(Adam, of=jax.numpy.asarray)
    after = "Plan.step" if taken == 0 else None
    not_taken, done = whole_steps.assert_whole(problem, taken, {}, after, 5 if taken == 0 else 2)
    assert not_taken
    assert done
