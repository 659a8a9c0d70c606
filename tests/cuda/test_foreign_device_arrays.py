"""Arrays of other libraries on a device run on the cuda engine, in order with their streams."""

import ctypes
import gc
import weakref
from types import SimpleNamespace

import bits
import cases
import engine_runs
import numpy as np
import pytest
import stand_in
import torch_on_device
import whole_steps
from bits import ordinary
from foreign_arrays import Foreign, OnDevice

from instep import SGD, Adam, Momentum, Optimizer, arrays, chain
from instep.engines.cuda import foreign
from instep.engines.cuda.launch import CudaLaunch
from instep.transforms import clip_by_global_norm, skip_nonfinite

DTYPES = ("float16", "bfloat16", "float32", "float64", *bits.COMPLEX)


@pytest.fixture
def torch(cupy, monkeypatch):
    """PyTorch, as far as it is asked for tensors on a device: its streams, by device."""
    return torch_on_device.put(monkeypatch)


@pytest.fixture(params=["DLPack", "array interface", "PyTorch"])
def make(request, cupy):
    """A function from a CuPy array to an array of another library."""
    if request.param == "PyTorch":
        request.getfixturevalue("torch")
        return torch_on_device.Tensor
    if request.param == "DLPack":
        return Foreign
    return lambda array: OnDevice(array, 1)


def seen_by_host(array):
    """Return a NumPy array of the memory of a CuPy array of the stand-in: it is on the host."""
    memory = array.data.mem
    there = (ctypes.c_byte * memory.size).from_address(memory.ptr)
    there.owner = array
    offset = array.data.ptr - memory.ptr
    return np.ndarray(array.shape, array.dtype, there, offset, array.strides)


def of(dtype):
    return pytest.importorskip("ml_dtypes").bfloat16 if dtype == "bfloat16" else np.dtype(dtype)


def values(rng, shape, dtype):
    return ordinary(rng, shape, "float32" if "16" in dtype else dtype).astype(of(dtype))


def assert_same(got, expected):
    if expected.dtype.name == "bfloat16":
        got, expected = got.view("int16").astype("f8"), expected.view("int16").astype("f8")
    bits.assert_same_bits(got, expected)


LAYOUTS = {
    "C order": lambda x: x,
    "transposed": lambda x: x.T,
    "every other": lambda x: x[:, ::2],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_steps_have_the_bits_of_numpy(cupy, make, dtype, layout, request):
    if dtype == "bfloat16" and "interface" in request.node.name:
        pytest.skip("the array interface has no word for it")
    rng, lay = np.random.default_rng(0), LAYOUTS[layout]
    w = cupy.asarray(values(rng, (24, 30), dtype))
    own, params = lay(w.get()).copy(), {"w": make(lay(w))}
    optimizers = Adam(0.1), Adam(0.1)
    for number in range(4):
        g = values(rng, own.shape, dtype)
        turned = cupy.asarray(np.ascontiguousarray(g.T)).T if number % 2 else cupy.asarray(g)
        assert optimizers[0].update(params, {"w": make(turned)}) is params
        optimizers[1].update({"w": own}, {"w": g})
    assert_same(lay(w).get(), own)
    engine_runs.assert_same_state(*optimizers)
    assert optimizers[0].explain(params).buckets[0].engine == "cuda"


@pytest.mark.parametrize("case", cases.CLASSES, ids=lambda case: case.optimizer.__name__)
def test_every_rule(cupy, make, case):
    rng = np.random.default_rng(0)
    shapes = {"a": (40, 33), "b": (), "c": (0, 3)}
    own = {name: ordinary(rng, shape, "float32") for name, shape in shapes.items()}
    there = {name: cupy.asarray(w) for name, w in own.items()}
    params = {name: make(w) for name, w in there.items()}
    optimizers = case.make(), case.make()
    if not case.exact:
        pytest.skip("libraries round its functions of whole arrays in their own ways")
    for _ in range(3):
        grads = {name: ordinary(rng, w.shape, "float32") for name, w in own.items()}
        given = {name: make(cupy.asarray(g)) for name, g in grads.items()}
        cases.step(optimizers[0], params, given)
        cases.step(optimizers[1], own, grads)
    for name, w in own.items():
        bits.assert_same_bits(there[name].get(), w, name)
    engine_runs.assert_same_state(*optimizers)


@pytest.mark.parametrize("meaning", ["modulus", "pairs"])
def test_complex_numbers_in_both_meanings(cupy, make, meaning):
    rng = np.random.default_rng(0)
    own = ordinary(rng, (20, 7), "complex64")
    there, optimizers = cupy.asarray(own), (Adam(0.1, complex=meaning), Adam(0.1, complex=meaning))
    for _ in range(3):
        g = ordinary(rng, own.shape, "complex64")
        optimizers[0].update([make(there)], [make(cupy.asarray(g))])
        optimizers[1].update([own], [g])
    bits.assert_same_bits(there.get(), own)


def test_trees_of_several_libraries_share_their_sums(cupy, make):
    def both():
        return [chain(clip_by_global_norm(0.5), Adam(lr=0.1)) for _ in "ab"]

    rng, optimizers = np.random.default_rng(0), both()
    own = {name: ordinary(rng, (50,), "float32") for name in "ab"}
    there = {name: cupy.asarray(w) for name, w in own.items()}
    params = {"a": make(there["a"]), "b": there["b"]}
    for _ in range(3):
        grads = {name: ordinary(rng, (50,), "float32") for name in "ab"}
        on_device = {name: cupy.asarray(g) for name, g in grads.items()}
        optimizers[0].update(params, {"a": make(on_device["a"]), "b": on_device["b"]})
        optimizers[1].update(own, grads)
    for name, w in own.items():
        bits.assert_same_bits(there[name].get(), w, name)


def test_steps_that_the_device_turns_away(cupy, make):
    there, optimizer = cupy.zeros(3), chain(skip_nonfinite(), SGD(lr=1.0))
    for number in (1.0, np.inf, 1.0):
        optimizer.update([make(there)], [make(cupy.full(3, number))])
    assert there.get().tolist() == [-2.0] * 3
    assert (optimizer.t, optimizer.skipped) == (2, 1)


def test_hyperparameters_may_be_arrays_there(cupy, torch):
    there, steps = cupy.zeros(3), cupy.asarray([1.0, 2.0, 4.0])
    tensor = torch_on_device.Tensor
    optimizer = SGD(lr=tensor(steps))
    optimizer.update([tensor(there)], [tensor(cupy.ones(3))])
    assert there.get().tolist() == [-1.0, -2.0, -4.0]


def test_rules_that_cannot_be_fused_are_given_arrays_of_cupy(cupy):
    class Own(Optimizer):
        lr: float = 0.5

        @staticmethod
        def rule(xp, w, g, s, h):
            return w - h.lr * xp.exp(g), {}

    there = cupy.zeros(3)
    Own().update(Foreign(there), Foreign(cupy.zeros(3)))
    assert there.get().tolist() == [-0.5] * 3


def test_an_engine_for_the_host_cannot_take_them(cupy, make):
    with pytest.raises(ValueError, match="engine='native' was asked for, but"):
        SGD(engine="native").update(make(cupy.ones(3)), make(cupy.ones(3)))


@pytest.mark.slow
def test_an_exception_at_any_line_leaves_all_of_a_step_or_nothing(cupy):
    """The streams of libraries are told to wait in the midst of what a step changes."""
    stream = cupy.cuda.Stream(non_blocking=True)
    for make in (Foreign, lambda x: OnDevice(x, stream.ptr)):
        problem = whole_steps.Problem(Adam, xp=cupy, of=make)
        assert all(whole_steps.assert_whole(problem, 3, {}, "Plan.step", 8))


# Tensors of PyTorch ---------------------------------------------------------------------------


def test_tensors_that_require_grad_are_refused_with_the_remedy(cupy, torch):
    w = torch_on_device.Tensor(cupy.ones(3), requires_grad=True)
    g = torch_on_device.Tensor(cupy.ones(3), requires_grad=True)
    with pytest.raises(ValueError, match=r"params requires grad, .*pass params\.detach\(\)"):
        SGD().update(w, g)
    SGD(lr=1.0).update(w.detach(), g)  # a gradient may
    assert w.array.get().tolist() == [0.0] * 3


def test_tensors_are_told_that_they_are_written(cupy, torch):
    w, optimizer = torch_on_device.Tensor(cupy.ones(3)), Momentum()
    for number in range(1, 4):
        optimizer.update([w], [torch_on_device.Tensor(cupy.ones(3))])
        assert w._version == number  # noqa: SLF001


def test_gradients_that_are_the_negative_of_their_memory(cupy, torch):
    w, optimizer = torch_on_device.Tensor(cupy.zeros(3)), SGD(lr=1.0)
    for number in range(1, 4):
        optimizer.update([w], [torch_on_device.Tensor(cupy.ones(3), negated=True)])
        assert w.array.get().tolist() == [number] * 3


def test_a_tensor_whose_memory_moved_is_written_where_it_is_now(cupy, torch):
    w, optimizer = torch_on_device.Tensor(cupy.zeros(3)), SGD(lr=1.0)
    for number in range(1, 4):
        before, w.array = w.array, w.array.copy()
        optimizer.update([w], [torch_on_device.Tensor(cupy.ones(3))])
        assert w.array.get().tolist() == [-number] * 3
        assert before.get().tolist() == [1.0 - number] * 3


def test_the_arrays_of_tensors_that_stay_where_they_are_are_not_made_anew(cupy, torch, monkeypatch):
    w, optimizer = torch_on_device.Tensor(cupy.zeros(3)), SGD(lr=1.0)
    g = torch_on_device.Tensor(cupy.ones(3))
    optimizer.update([w], [g])
    with monkeypatch.context() as patch:
        patch.setattr(foreign, "array_at", lambda *_, **__: pytest.fail("an array was made"))
        for number in range(2, 5):  # a new tensor where another was
            optimizer.update([w], [torch_on_device.Tensor(g.array)])
            assert w.array.get().tolist() == [-number] * 3
    optimizer.update([w], [torch_on_device.Tensor(cupy.full(3, 10.0))])
    assert w.array.get().tolist() == [-14] * 3


def test_gradients_that_lie_otherwise_where_another_was_are_read_as_they_lie(cupy, torch):
    w, optimizer = torch_on_device.Tensor(cupy.zeros((2, 2))), SGD(lr=1.0)
    g = cupy.asarray([[1.0, 2.0], [3.0, 4.0]])
    for _ in range(2):
        for lying in (g, g, g.T, g.T):
            optimizer.update([w], [torch_on_device.Tensor(lying)])
    assert w.array.get().tolist() == (-4 * (g + g.T)).get().tolist()


# What compiled code sees of tensors -----------------------------------------------------------


def test_an_array_goes_where_its_address_is_written(cupy):
    here, there = cupy.asarray([1.0, 2.0]), cupy.asarray([3.0, 4.0])
    seen = foreign.array_at(here.data.ptr, (2,), (8,), here.dtype, device=None)
    ctypes.c_int64.from_address(foreign.address_field(seen)).value = there.data.ptr
    seen += 1.0
    assert seen.data.ptr == there.data.ptr
    assert [x.get().tolist() for x in (here, there, seen)] == [[1.0, 2.0], [4.0, 5.0], [4.0, 5.0]]


def test_pointers_of_another_layout_are_not_written(cupy, monkeypatch):
    class Other:
        ptr = 4711

        def __init__(self, memory, offset):
            pass

    find = foreign._address_in_pointers.__wrapped__  # noqa: SLF001
    assert find() is not None
    monkeypatch.setattr(cupy.cuda, "MemoryPointer", Other)
    assert find() is None


@pytest.fixture
def tensor(cupy, monkeypatch):
    """The function from a CuPy array to a tensor of PyTorch itself, of the same memory."""
    torch = pytest.importorskip("torch")
    engine_runs.require("native")
    if torch.cuda.is_available():
        return torch.from_dlpack
    if stand_in.has_driver():
        pytest.skip("this PyTorch is not built for CUDA")
    # The stand-in has its memory on the host. What lies there says that it is on a device.
    there = property(lambda _: torch.device("cuda", 0))
    monkeypatch.setattr(torch.Tensor, "device", there, raising=False)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: SimpleNamespace(cuda_stream=0))
    return lambda array: torch.from_numpy(seen_by_host(array))


class Twins:
    """A tensor that is stepped beside a NumPy array of the same values."""

    def __init__(self, cupy, tensor, shape=(4, 6), dtype="float32", lay=lambda x: x):
        self.optimizer, self.expected = Momentum(lr=0.5), Momentum(lr=0.5)
        self.cupy, self.tensor, self.lay = cupy, tensor, lay
        values = ordinary(np.random.default_rng(0), shape, dtype)
        self.w, self.other = tensor(lay(cupy.asarray(values))), lay(values)
        self.gradient = tensor(lay(cupy.asarray(values)))

    def copy(self, x):
        """Return a tensor of the same elements elsewhere on the device."""
        return self.tensor(self.cupy.asarray(x.cpu().numpy()))

    def step(self, gradient=None):
        g = self.gradient if gradient is None else gradient
        self.optimizer.update({"w": self.w}, {"w": g})
        self.expected.update({"w": self.other}, {"w": g.cpu().resolve_neg().numpy().copy()})
        bits.assert_same_bits(self.w.cpu().numpy(), self.other)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "complex64"])
def test_tensors_that_are_not_asked_through_python(cupy, tensor, monkeypatch, dtype, layout):
    twins = Twins(cupy, tensor, (30, 24), dtype, LAYOUTS[layout])
    twins.step()
    monkeypatch.setattr(arrays, "signature", lambda _: pytest.fail("it was asked"))
    monkeypatch.setattr(foreign, "array_at", lambda *_, **__: pytest.fail("an array was made"))
    for _ in range(2):
        twins.step()  # the same
        twins.step(twins.gradient.detach())  # another tensor of the same memory
        rng = np.random.default_rng(twins.optimizer.t)
        new = cupy.asarray(ordinary(rng, (30, 24), dtype))
        twins.step(tensor(LAYOUTS[layout](new)))  # and of other memory
    assert twins.w._version == twins.optimizer.t  # noqa: SLF001
    assert twins.optimizer.t == 7


def moved_by_data(twins, x):
    x.data = twins.copy(x)


def moved_by_set(twins, x):
    x.set_(twins.copy(x))


def moved_within_its_storage(twins, x):
    room = twins.tensor(twins.cupy.zeros(x.numel() + 3, x.cpu().numpy().dtype))
    room[3:] = x.reshape(-1)
    x.data = room[3:].view(x.shape)


def moved_into_another_order(twins, x):
    x.data = twins.copy(x.t().contiguous()).t()


@pytest.mark.parametrize(
    "move", [moved_by_data, moved_by_set, moved_within_its_storage, moved_into_another_order]
)
def test_a_tensor_whose_memory_moved_is_found_where_it_is_now(cupy, tensor, move):
    twins = Twins(cupy, tensor)
    for _ in range(3):
        twins.step()
    for _ in range(3):
        old, w = twins.w.detach(), twins.w
        move(twins, w)
        before = old.clone()
        twins.step()
        twins.step()
        assert twins.w is w
        assert old.equal(before), "what the tensor has left is as it was"
        move(twins, twins.gradient)
        twins.step()
        twins.step()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.requires_grad_(), "requires grad"),
        (lambda w: w.resize_(2, 3), "shape"),
        (lambda w: w.t_(), "shape"),
    ],
    ids=["requires grad", "resized", "transposed"],
)
def test_a_tensor_that_became_another_thing_is_refused(cupy, tensor, change, message):
    twins = Twins(cupy, tensor)
    for _ in range(2):
        twins.step()
    beside, before = twins.w.detach(), engine_runs.slots_of(twins.optimizer)["w"]["v"].copy()
    change(twins.w)
    with pytest.raises(ValueError, match=message):
        twins.optimizer.update({"w": twins.w}, {"w": twins.gradient})
    assert twins.optimizer.t == 2
    bits.assert_same_bits(engine_runs.slots_of(twins.optimizer)["w"]["v"], before)
    twins.w = beside
    twins.step()


def test_a_gradient_that_is_the_negative_of_its_memory_is_read_so(cupy, tensor, monkeypatch):
    torch, twins = pytest.importorskip("torch"), Twins(cupy, tensor)

    # The copy that PyTorch makes of it is not in the memory of the stand-in.
    def copy(x):
        return twins.copy(x)

    monkeypatch.setattr(torch.Tensor, "resolve_conj", copy, raising=False)
    for _ in range(2):
        twins.step()
        twins.step(torch._neg_view(twins.gradient).detach())  # noqa: SLF001


@pytest.mark.slow
def test_an_exception_at_any_line_leaves_all_of_a_step_on_tensors_or_nothing(cupy, tensor):
    problem = whole_steps.Problem(Adam, xp=cupy, of=tensor)
    assert all(whole_steps.assert_whole(problem, 3, {}, None, 5))


# Arrays of JAX --------------------------------------------------------------------------------


@pytest.fixture
def jax_array(cupy, monkeypatch):
    """The function from a NumPy array to an array of JAX on the device; `asked` has streams."""
    # It would take three quarters of the memory of a GPU, of which others need some.
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    jax = pytest.importorskip("jax")
    if jax.default_backend() == "gpu":
        return jax.numpy.asarray
    if stand_in.has_driver():
        pytest.skip("this JAX is not built for CUDA")

    def make(x):
        return jax.dlpack.from_dlpack(seen_by_host(cupy.asarray(x)))

    def export(x, *, stream, max_version=None):
        make.asked.append(stream)
        return exported(x)

    # What lies in the memory of the stand-in, which is the host's, says that it is on a device.
    kind, make.asked = type(jax.numpy.zeros(3)), []
    exported = kind.__dlpack__
    monkeypatch.setattr(kind, "__dlpack__", export)
    monkeypatch.setattr(kind, "__dlpack_device__", lambda _: (2, 0))
    monkeypatch.setattr(jax.numpy, "copy", lambda x: make(np.asarray(x)))
    return make


@pytest.mark.parametrize("meaning", ["modulus", "pairs"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "complex64"])
def test_steps_on_arrays_of_jax_have_the_bits_of_numpy(cupy, jax_array, dtype, meaning):
    def both():
        return [chain(clip_by_global_norm(0.5), Adam(lr=0.1), complex=meaning) for _ in "ab"]

    rng, optimizers = np.random.default_rng(0), both()
    shapes = {"a": (40, 33), "b": (), "c": (0, 3)}
    own = {name: ordinary(rng, shape, dtype) for name, shape in shapes.items()}
    params = {name: jax_array(w) for name, w in own.items()}
    for _ in range(4):
        before, values = dict(params), {name: w.copy() for name, w in own.items()}
        grads = {name: ordinary(rng, w.shape, dtype) for name, w in own.items()}
        given = {name: jax_array(g) for name, g in grads.items()}
        assert optimizers[0].update(params, given) is params
        optimizers[1].update(own, grads)
        for name, w in own.items():
            bits.assert_same_bits(np.asarray(params[name]), w, name)
            bits.assert_same_bits(np.asarray(before[name]), values[name], "what was given")
            bits.assert_same_bits(np.asarray(given[name]), grads[name], "gradients")
            assert type(params[name]) is type(before[name])
    engine_runs.assert_same_state(*optimizers)
    assert optimizers[0].explain(params).buckets[0].engine == "cuda"


def test_arrays_of_jax_are_not_kept_alive(cupy, jax_array):
    w, optimizer = jax_array(np.zeros(3, "f4")), SGD()
    for _ in range(3):
        g = jax_array(np.ones(3, "f4"))
        kept = [weakref.ref(w), weakref.ref(g)]
        w = optimizer.update(w, g)
        del g
        gc.collect()
        assert [one() for one in kept] == [None, None]
    last = weakref.ref(w)
    del w
    gc.collect()
    assert last() is None


def test_an_array_of_jax_that_was_deleted_is_refused(cupy, jax_array):
    w, optimizer = jax_array(np.zeros(3, "f4")), SGD()
    w = optimizer.update(w, jax_array(np.ones(3, "f4")))
    g = jax_array(np.ones(3, "f4"))
    g.delete()
    with pytest.raises(ValueError, match="has been deleted"):
        optimizer.update(w, g)
    assert optimizer.t == 1


def test_steps_that_the_device_turns_away_leave_arrays_of_jax_as_they_were(cupy, jax_array):
    w, optimizer = jax_array(np.zeros(3, "f4")), chain(skip_nonfinite(), SGD(lr=1.0))
    for number in (1.0, np.inf, 1.0):
        w = optimizer.update(w, jax_array(np.full(3, number, "f4")))
    assert np.asarray(w).tolist() == [-2.0] * 3
    assert (optimizer.t, optimizer.skipped) == (2, 1)


def test_hyperparameters_may_be_arrays_of_jax(cupy, jax_array):
    optimizer = SGD(lr=jax_array(np.asarray([1.0, 2.0, 4.0], "f4")))
    w = optimizer.update(jax_array(np.zeros(3, "f4")), jax_array(np.ones(3, "f4")))
    assert np.asarray(w).tolist() == [-1.0, -2.0, -4.0]


def test_jax_waits_for_the_step_and_the_step_for_jax(cupy, jax_array, log, monkeypatch):
    waits = []

    class Watched(cupy.cuda.Stream):
        def synchronize(self):
            waits.append(list(log))
            super().synchronize()

    with Watched(non_blocking=True) as stream:
        w, g = jax_array(np.ones(3, "f4")), jax_array(np.ones(3, "f4"))
        SGD().update(w, g)
    assert waits == [[stream.ptr]]
    assert set(getattr(jax_array, "asked", [stream.ptr])) == {stream.ptr}


@pytest.mark.slow
def test_an_exception_at_any_line_leaves_all_of_a_step_of_jax_or_nothing(cupy, jax_array):
    problem = whole_steps.Problem(Adam, of=jax_array)
    assert all(whole_steps.assert_whole(problem, 3, {}, None, 5))


# Streams --------------------------------------------------------------------------------------


@pytest.fixture
def log(cupy, monkeypatch):
    """What streams are told, in order: a launch, or that one waits for what another was given."""
    found = []

    def order(self, first, then, device):
        found.append((first, then))
        ordered(self, first, then, device)

    def launch(self, *arguments, **keywords):
        found.append(cupy.cuda.get_current_stream().ptr)
        run(self, *arguments, **keywords)

    ordered, run = foreign.Streams._order, CudaLaunch.run  # noqa: SLF001
    monkeypatch.setattr(foreign.Streams, "_order", order)
    monkeypatch.setattr(CudaLaunch, "run", launch)
    return found


def test_a_step_waits_for_the_stream_of_the_library_which_waits_for_it(cupy, torch, log):
    theirs, ours = (cupy.cuda.Stream(non_blocking=True) for _ in "ab")
    there = [cupy.zeros(3), cupy.zeros(3)]

    def run(make):
        optimizer = SGD()
        with ours:
            for _ in range(3):
                log.clear()
                optimizer.update([make(x) for x in there], [make(cupy.ones(3)) for _ in "ab"])
        assert log == [(theirs.ptr, ours.ptr), ours.ptr, (ours.ptr, theirs.ptr)]

    torch[0] = theirs.ptr
    run(torch_on_device.Tensor)
    run(lambda array: OnDevice(array, theirs.ptr))


def test_a_step_on_tensors_that_are_not_asked_waits_as_well(cupy, tensor, log, monkeypatch):
    ours, *theirs = (cupy.cuda.Stream(non_blocking=True) for _ in "abc")
    found = SimpleNamespace(cuda_stream=theirs[0].ptr)
    torch, optimizer = pytest.importorskip("torch"), SGD()
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: found)
    w, g = (tensor(cupy.ones(3)) for _ in "wg")
    with ours:
        optimizer.update([w], [g])
        for one in theirs:
            found.cuda_stream = one.ptr
            log.clear()
            optimizer.update([w], [g])
            assert log == [(one.ptr, ours.ptr), ours.ptr, (ours.ptr, one.ptr)]


def test_one_and_the_same_stream_has_nothing_to_wait_for(cupy, torch, log):
    optimizer, side = SGD(), cupy.cuda.Stream(non_blocking=True)
    for stream, handles in ((cupy.cuda.Stream.null, (0, 1)), (side, (side.ptr,))):
        for handle in handles:
            torch[0] = handle
            with stream:
                log.clear()
                optimizer.update(*(torch_on_device.Tensor(cupy.ones(3)) for _ in "wg"))
                optimizer.update(*(OnDevice(cupy.ones(3), handle or 1) for _ in "wg"))
            assert log == [stream.ptr] * 2


def test_what_tells_no_stream_is_waited_for_by_the_host(cupy, log, monkeypatch):
    waits = []

    class Watched(cupy.cuda.Stream):
        def synchronize(self):
            waits.append(list(log))
            super().synchronize()

    with Watched(non_blocking=True) as stream:
        w, g = Foreign(cupy.ones(3)), Foreign(cupy.ones(3))
        SGD().update(w, g)
        # The library lets the stream of the step wait for its own.
        assert stream.ptr in w.asked
        assert stream.ptr in g.asked
    assert waits == [[stream.ptr]]


def test_a_stream_that_is_captured_is_refused_and_goes_on(cupy, torch):
    stream, there = cupy.cuda.Stream(non_blocking=True), cupy.ones(3)
    torch[0] = stream.ptr
    optimizer = SGD(lr=1.0)
    optimizer.update([torch_on_device.Tensor(there)], [torch_on_device.Tensor(cupy.ones(3))])
    with stream:
        g = torch_on_device.Tensor(cupy.ones(3))
        stream.begin_capture()
    with pytest.raises(RuntimeError, match="captured into a CUDA graph"):
        optimizer.update([torch_on_device.Tensor(there)], [g])
    stream.end_capture()
    assert optimizer.t == 1
    optimizer.update([torch_on_device.Tensor(there)], [g])
    assert there.get().tolist() == [-1.0] * 3
