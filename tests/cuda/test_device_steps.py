# ruff: noqa: SLF001  (it looks inside on purpose)
"""How the cuda engine runs a step: launches, streams, memory, tables, and what it refuses."""

from types import SimpleNamespace

import bits
import engine_runs
import numpy as np
import pytest
from bits import ordinary
from device_arrays import Mirror, arrays_of, mirrors
from test_operations import COMPLEX, EXPRESSIONS, complex_pairs, pairs

from instep import LAMB, SGD, Adam, Momentum, Optimizer, engines
from instep.engines.cuda import bucket, launch
from instep.engines.cuda.counters import counters
from instep.engines.cuda.kernel import NEAR
from instep.engines.cuda.launch import LARGEST_CHUNK, SMALLEST_CHUNK
from instep.engines.cuda.memory import chunk_length, refuse_capture


@pytest.fixture
def refuse_synchronization(cupy):
    """Let CuPy raise where it waits for the device, or copies to it and waits."""
    from cupy._core import syncdetect

    class Refused:
        def __enter__(self):
            self.before = syncdetect._is_allowed()
            syncdetect._thread_local.allowed = False

        def __exit__(self, *error):
            syncdetect._thread_local.allowed = self.before

    return Refused()


@pytest.fixture
def allocations(cupy):
    """Count what is taken from the memory pool."""

    class Count(cupy.cuda.MemoryHook):
        name = "count"
        found = 0

        def malloc_preprocess(self, **_):
            self.found += 1

    with Count() as hook:
        yield hook


def on_device(cupy, sizes, dtype="float32"):
    rng = np.random.default_rng(0)
    return {f"{i:05}": cupy.asarray(ordinary(rng, (n,), dtype)) for i, n in enumerate(sizes)}


class Everything(Optimizer):
    """Evaluates every expression in one rule, and keeps each as state."""

    slots = tuple(f"e{i}" for i in range(len(EXPRESSIONS)))

    @staticmethod
    def rule(xp, w, g, s, h):
        found = [expression(xp, w, g) for expression in EXPRESSIONS.values()]
        return w, dict(zip(Everything.slots, found, strict=True))


class EverythingComplex(Optimizer):
    """The same of what is asked of complex numbers."""

    slots = tuple(f"e{i}" for i in range(len(COMPLEX)))

    @staticmethod
    def rule(xp, w, g, s, h):
        found = [expression(xp, w, g) for expression in COMPLEX.values()]
        return w, dict(zip(EverythingComplex.slots, found, strict=True))


@pytest.mark.parametrize("dtype", bits.COMPLEX)
def test_every_operation_on_complex_numbers_gives_the_bits_of_numpy(cupy, dtype):
    w, g = complex_pairs(dtype)
    params, optimizer = {"w": Mirror(cupy, w).array}, EverythingComplex(engine="cuda")
    optimizer.update(params, {"w": Mirror(cupy, g).array})
    expected = EverythingComplex(engine="blocked")
    expected.update({"w": w}, {"w": g})
    slots, wanted = engine_runs.slots_of(optimizer)["w"], engine_runs.slots_of(expected)["w"]
    for slot, name in zip(EverythingComplex.slots, COMPLEX, strict=True):
        bits.assert_same_bits(slots[slot], wanted[slot], name)


@pytest.mark.parametrize("dtype", [*bits.DTYPES, "bfloat16"])
def test_every_operation_gives_the_bits_of_numpy(cupy, dtype):
    if dtype == "bfloat16":
        ml_dtypes = pytest.importorskip("ml_dtypes")
        with np.errstate(invalid="ignore"):
            w, g = (x.astype(ml_dtypes.bfloat16) for x in pairs("float16"))
    else:
        w, g = pairs(dtype)
    params, optimizer = {"w": Mirror(cupy, w).array}, Everything(engine="cuda")
    optimizer.update(params, {"w": Mirror(cupy, g).array})
    expected = Everything(engine="blocked")
    expected.update({"w": w}, {"w": g})
    slots, wanted = engine_runs.slots_of(optimizer)["w"], engine_runs.slots_of(expected)["w"]
    for slot, name in zip(Everything.slots, EXPRESSIONS, strict=True):
        bits.assert_same_bits(slots[slot], wanted[slot], name)


def test_bfloat16_is_rounded_once(cupy):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    rng = np.random.default_rng(0)
    expected = {f"{n}": rng.standard_normal(n).astype(ml_dtypes.bfloat16) for n in (3, 4099)}
    params = mirrors(cupy, expected)
    optimizers = Adam(lr=0.1), Adam(lr=0.1, engine="blocked")
    for _ in range(5):
        grads = {k: rng.standard_normal(w.shape).astype(w.dtype) for k, w in expected.items()}
        optimizers[0].update(arrays_of(params), arrays_of(mirrors(cupy, grads)))
        optimizers[1].update(expected, grads)
    for name, mirror in params.items():
        assert (mirror.read().view("u2") == expected[name].view("u2")).all()


def test_cupy_arrays_need_no_other_call(cupy):
    params, grads = on_device(cupy, [10, 20]), on_device(cupy, [10, 20])
    optimizer = Adam()
    assert optimizer.update(params, grads) is params
    explanation = optimizer.explain(params)
    assert [entry.engine for entry in explanation.buckets] == ["cuda"]
    assert "const float new_w" in explanation.code


@pytest.mark.parametrize("count", [1, 60, 200, 246, 247, 1000])
def test_one_launch_for_any_number_of_tensors(cupy, count):
    params = on_device(cupy, [5] * count)
    gradients = [on_device(cupy, [5] * count) for _ in range(2)]
    optimizer, reference = Adam(), Adam()
    expected = {name: w.get() for name, w in params.items()}
    for step in range(4):
        before = counters.launches
        optimizer.update(params, gradients[step % 2])
        assert counters.launches - before == 1
        reference.update(expected, {name: g.get() for name, g in gradients[step % 2].items()})
    for name, w in params.items():
        bits.assert_same_bits(w.get(), expected[name])


def test_groups_of_hyperparameters_share_a_launch(cupy):
    names = [f"{part}/{i}" for part in ("head", "body", "bias") for i in range(20)]
    overrides = {"head/*": {"lr": 0.5}, "bias/*": {"lr": 0.25, "eps": 1e-3}}
    rng = np.random.default_rng(0)
    expected = {name: ordinary(rng, (7,), "float32") for name in names}
    params = {name: cupy.asarray(w) for name, w in expected.items()}
    optimizers = [Adam(overrides=overrides) for _ in range(2)]
    before = counters.launches
    for _ in range(3):
        grads = {name: ordinary(rng, (7,), "float32") for name in names}
        optimizers[0].update(params, {name: cupy.asarray(g) for name, g in grads.items()})
        optimizers[1].update(expected, grads)
    assert counters.launches - before == 3
    for name, w in params.items():
        bits.assert_same_bits(w.get(), expected[name], name)


def test_tables_that_fit_in_the_launch_are_not_copied(cupy):
    count = (NEAR - 7) // 2
    params = on_device(cupy, [3] * count)
    gradients = [on_device(cupy, [3] * count) for _ in range(2)]
    optimizer, before = Adam(), counters.copies
    for grads in [*gradients, *gradients]:
        optimizer.update(params, grads)
    assert counters.copies == before


def test_larger_tables_are_copied_when_arrays_have_moved(cupy):
    params = on_device(cupy, [3] * 400)
    gradients = [on_device(cupy, [3] * 400) for _ in range(2)]
    optimizer = Adam()
    optimizer.update(params, gradients[0])
    copies = []
    for grads in (gradients[0], gradients[1], gradients[1], gradients[0]):
        before = counters.copies
        optimizer.update(params, grads)
        copies.append(counters.copies - before)
    assert copies == [0, 1, 0, 1]


@pytest.mark.parametrize("make", [Adam, LAMB])
@pytest.mark.parametrize("count", [20, 400])
def test_a_step_neither_waits_nor_allocates(cupy, make, count, allocations, refuse_synchronization):
    params = on_device(cupy, [40] * count)
    gradients = [on_device(cupy, [40] * count) for _ in range(3)]
    optimizer = make()
    for grads in gradients:
        optimizer.update(params, grads)
    before = allocations.found
    with refuse_synchronization:
        for grads in gradients:
            optimizer.lr = optimizer.lr * 0.9
            optimizer.update(params, grads)
    assert allocations.found == before
    with refuse_synchronization, pytest.raises(Exception, match="sync"):
        params["00000"].get()  # the guard above sees what it is meant to see


@pytest.mark.parametrize("make", [Adam, LAMB])
def test_steps_run_on_the_current_stream_and_wait_for_nothing(cupy, make, monkeypatch):
    """While a stream is captured, its work is recorded and not done, and waiting is an error."""
    params, grads = on_device(cupy, [3000, 10]), on_device(cupy, [3000, 10])
    expected = {name: w.get() for name, w in params.items()}
    host_grads = {name: g.get() for name, g in grads.items()}
    optimizer, reference = make(), make()
    for _ in range(2):
        optimizer.update(params, grads)
        reference.update(expected, host_grads)
    before = {name: w.get() for name, w in params.items()}
    for module in ("bucket", "repeating"):
        place = f"instep.engines.cuda.{module}.refuse_capture"
        monkeypatch.setattr(place, lambda *_: None)
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        optimizer.update(params, grads)
        graph = stream.end_capture()
    for name, w in params.items():
        bits.assert_same_bits(w.get(), before[name])
    graph.launch(stream)
    stream.synchronize()
    reference.update(expected, host_grads)
    for name, w in params.items():
        bits.assert_same_bits(w.get(), expected[name])


@pytest.mark.parametrize("first", [True, False], ids=["first step", "later step"])
def test_a_captured_update_is_an_error_that_changes_nothing(cupy, first):
    params, grads = on_device(cupy, [300]), on_device(cupy, [300])
    optimizer = Momentum()
    if not first:
        optimizer.update(params, grads)
    before, steps = params["00000"].get(), optimizer.t
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        with pytest.raises(RuntimeError, match=r"captured into a CUDA graph.* end the capture"):
            optimizer.update(params, grads)
        stream.end_capture()
    assert optimizer.t == steps
    bits.assert_same_bits(params["00000"].get(), before)
    optimizer.update(params, grads)
    assert optimizer.t == steps + 1


def test_an_update_that_would_end_a_capture_elsewhere_is_refused(cupy):
    """CUDA says so where the default stream is asked, while one that it waits for is captured."""

    class Stream:
        status = 906

        def is_capturing(self):
            raise cupy.cuda.runtime.CUDARuntimeError(self.status)

    asked = []
    answer, stands_for = Stream(), SimpleNamespace(cuda=SimpleNamespace(runtime=cupy.cuda.runtime))
    stands_for.cuda.get_current_stream = lambda device: asked.append(device) or answer
    with pytest.raises(RuntimeError, match=r"^Adam\.update: another stream .*non_blocking=True"):
        refuse_capture(stands_for, "Adam", 3)
    assert asked == [3]
    Stream.status = 400
    with pytest.raises(cupy.cuda.runtime.CUDARuntimeError):
        refuse_capture(stands_for, "Adam", 3)


def test_a_step_on_a_side_stream_gives_the_same_bits(cupy):
    params, grads = on_device(cupy, [3000, 10]), on_device(cupy, [3000, 10])
    expected = {name: w.get() for name, w in params.items()}
    optimizer, reference = Adam(), Adam()
    stream = cupy.cuda.Stream(non_blocking=True)
    for _ in range(3):
        with stream:
            optimizer.update(params, grads)
        reference.update(expected, {name: g.get() for name, g in grads.items()})
    stream.synchronize()
    for name, w in params.items():
        bits.assert_same_bits(w.get(), expected[name])


def test_state_lies_as_its_parameter_does(cupy):
    w = cupy.zeros((3, 4, 5), dtype="float16").transpose(2, 0, 1)
    optimizer = Adam()
    optimizer.update(w, cupy.ones_like(w))
    (state,) = optimizer._state.leaves.values()
    for slot in state.slots.values():
        assert slot.dtype == "float32"
        assert slot.strides == tuple(2 * stride for stride in w.strides)
    assert optimizer.explain(w).buckets[0].layouts == {}


def test_strided_parameters_show_in_explain(cupy):
    params = {"dense": cupy.zeros((6, 4)), "every second": cupy.zeros((6, 4))[:, ::2]}
    optimizer = Adam()
    before = counters.launches
    optimizer.update(params, {name: cupy.ones_like(w) for name, w in params.items()})
    assert counters.launches - before == 2
    assert list(optimizer.explain(params).buckets[0].layouts) == ["every second"]
    assert "parameter with gaps" in str(optimizer.explain(params))


def test_state_that_was_loaded_goes_to_the_device(cupy):
    rng = np.random.default_rng(0)
    expected = {"w": ordinary(rng, (5, 6), "float32")}
    grads = [{"w": ordinary(rng, (5, 6), "float32")} for _ in range(4)]
    first = Adam()
    for g in grads[:2]:
        first.update(expected, g)
    params = {"w": cupy.asarray(expected["w"])}
    second = Adam().load_state_dict(first.state_dict())
    for g in grads[2:]:
        first.update(expected, g)
        second.update(params, {"w": cupy.asarray(g["w"])})
    bits.assert_same_bits(params["w"].get(), expected["w"])
    engine_runs.assert_same_state(second, first)


def test_a_rule_that_changes_nothing_launches_nothing(cupy):
    class Still(Optimizer):
        @staticmethod
        def rule(xp, w, g, s, h):
            return w, {}

    w, before = cupy.ones(3), counters.launches
    optimizer = Still(engine="cuda")
    optimizer.update(w, w * 2)
    assert counters.launches == before
    assert "nothing to launch" in optimizer.explain(w).code


def test_slots_may_have_names_that_cpp_needs(cupy):
    names = ("int", "size", "row", "count", "new_w", "w_i", "_hidden", "V", "step", "at")

    class Reserved(Optimizer):
        new: float = 0.5
        slots = names

        @staticmethod
        def rule(xp, w, g, s, h):
            return w - g, {name: getattr(s, name) + h.new * g for name in names}

    for w in (cupy.ones(9), cupy.ones(18)[::2]):
        optimizer = Reserved(engine="cuda")
        optimizer.update(w, cupy.ones_like(w))
        assert (w.get() == 0).all()
        for slot in engine_runs.slots_of(optimizer)[""].values():
            assert (slot == 0.5).all()


@pytest.mark.parametrize("strided", [False, True])
def test_elements_beyond_2_to_the_31_are_found(cupy, strided, monkeypatch):
    """The end of a tensor of five billion elements, of which only the end exists."""
    missing = 5 * 2**30
    box = 2048
    word_count = launch.step_dtype().itemsize // 8

    class EndOnly(launch.CudaLaunch):
        """Its one tensor seems to have `missing` elements before those that exist."""

        def _tables(self, *arguments):
            super()._tables(*arguments)
            *_, layout, table = self._kept
            rows = table.get().view(launch.leaf_dtype(self.graph))
            parts = missing // box if strided else missing
            rows["size"] += parts
            argument = self._words[:word_count].view(launch.step_dtype())[0]
            rows["first_block"] -= parts // int(argument["chunk"])
            for slot in ("slot0", "slot1"):
                rows[slot] -= 4 * missing
            table.set(rows.view(np.uint8))
            if strided:
                words = layout.get().view(np.int64)
                axis = 6 + len(self.graph.arrays)
                assert words[axis + 1] == box
                words[axis] += parts
                words[axis + 2] += missing
                layout.set(words.view(np.uint8))

        def run(self, addresses, sums, **settings):
            before = np.array([[8 if strided else 4, 4]]) * missing
            super().run(addresses - before, sums, **settings)

    rng = np.random.default_rng(0)
    w = ordinary(rng, (6000,), "float32")[::2] if strided else ordinary(rng, (3000,), "float32")
    g = ordinary(rng, w.shape, "float32")
    monkeypatch.setattr(bucket, "CudaLaunch", EndOnly)
    mirrored = Mirror(cupy, w)
    Adam().update(mirrored.array, Mirror(cupy, g).array)
    Adam().update(w, g)
    bits.assert_same_bits(mirrored.read(), w)


def test_chunks_fill_the_device_and_stay_within_bounds():
    def chunk(total, multiprocessors):
        return chunk_length(total, multiprocessors, SMALLEST_CHUNK, LARGEST_CHUNK)

    assert chunk(0, 132) == SMALLEST_CHUNK
    assert chunk(10**6, 132) == SMALLEST_CHUNK
    assert chunk(2**22, 132) == 2 * SMALLEST_CHUNK
    assert 2**22 / chunk(2**22, 132) <= 8 * 132
    assert chunk(2**31, 20) == LARGEST_CHUNK


# Bad input --------------------------------------------------------------------------------


BAD = [
    *("NumPy gradient", "NumPy parameter", "other dtype", "other shape", "integers"),
    *("the same array", "overlapping", "broadcast", "misaligned", "misaligned gradient"),
]


def bad_inputs(cupy):
    good = on_device(cupy, [6])["00000"]
    raw = cupy.zeros(25, dtype="uint8")
    yield "NumPy gradient", good, good.get(), TypeError, "convert the gradient with cupy"
    yield "NumPy parameter", good.get(), good, TypeError, "convert the gradient with numpy"
    yield "other dtype", good, good.astype("complex64"), TypeError, "to float32"
    yield "other shape", good, good.reshape(2, 3), ValueError, "shapes must be equal"
    yield "integers", good.astype("int32"), good.astype("int32"), TypeError, "int32"
    yield "the same array", good, good, ValueError, "share memory"
    yield "overlapping", good[:4], good[1:5], ValueError, "share memory"
    broadcast = cupy.broadcast_to(good[:1], (6,))
    yield "broadcast", broadcast, good.copy(), ValueError, "elements share memory"
    shifted = raw[1:25].view("float32")
    yield "misaligned", shifted, good.copy(), ValueError, "multiple of its item size"
    yield "misaligned gradient", good.copy(), shifted, ValueError, "multiple of its item size"


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_refused_and_changes_nothing(cupy, what):
    (w, g, kind, message) = next(rest for name, *rest in bad_inputs(cupy) if name == what)
    optimizer, good = Adam(), on_device(cupy, [5, 6])
    start = {name: x.get() for name, x in good.items()}
    for number in (0, 2):
        params = {"a": good["00000"], "b": w}
        with pytest.raises(kind, match=message):
            optimizer.update(params, {"a": cupy.ones_like(good["00000"]), "b": g})
        assert optimizer.t == number
        for name, x in good.items():
            bits.assert_same_bits(x.get(), start[name])
        for _ in range(2):
            optimizer.update(good, {name: cupy.ones_like(x) for name, x in good.items()})
        start = {name: x.get() for name, x in good.items()}


def test_a_gradient_that_loses_its_alignment_is_refused(cupy):
    w, raw = cupy.zeros(6, dtype="float32"), cupy.zeros(25, dtype="uint8")
    optimizer = SGD()
    optimizer.update(w, cupy.ones_like(w))
    before = w.get()
    with pytest.raises(ValueError, match="multiple of its item size"):
        optimizer.update(w, raw[1:].view("float32"))
    assert optimizer.t == 1
    bits.assert_same_bits(w.get(), before)


def test_the_engine_refuses_other_arrays(cupy):
    class Named(cupy.ndarray):
        pass

    w, g = cupy.ones(4).view(Named), cupy.ones(4).view(Named)
    with pytest.raises(TypeError, match=r"Named, a subclass of cupy.ndarray .*; pass a plain"):
        Adam(engine="cuda").update(w, g)
    with pytest.raises(ValueError, match=r"but it updates cupy.ndarray"):
        Adam(engine="cuda").update(np.ones(4), np.ones(4))
    assert engines.load("cuda").unavailable() is None


def test_the_columns_of_a_matrix_share_no_memory(cupy):
    room, expected = cupy.zeros((4, 6), "float32"), np.zeros((4, 6), "float32")
    optimizers = SGD(1.0), SGD(1.0)
    for step in range(3):
        for optimizer, xp, array in zip(optimizers, (cupy, np), (room, expected), strict=True):
            params = [array[:, i] for i in (0, 1, 2)]
            others = [xp.ones(4, "float32"), xp.full(4, step, "float32")]
            optimizer.update(params, [array[:, 3], *others])
    bits.assert_same_bits(room.get(), expected)
    params = [room[:, i] for i in (0, 1, 2)]
    ones = [cupy.ones(4, "float32")] * 3
    for bad_params, bad_grads in [
        ([room[:, 0], room[:, 1], room[:, :1][:, 0]], ones),
        (params, [*ones[:2], room[:, 1]]),
    ]:
        with pytest.raises(ValueError, match="share memory"):
            optimizers[0].update(bad_params, bad_grads)
    bits.assert_same_bits(room.get(), expected)
