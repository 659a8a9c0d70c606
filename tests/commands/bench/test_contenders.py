"""What instep is measured against: that streams move what they should, and peers take its step."""

import contextlib
import ctypes
import functools
import importlib.util
import math
import mmap

import numpy as np
import pytest

from instep import SGD, AdaGrad, Adam, AdamW, Momentum, RMSProp
from instep.commands.bench import Case, Worker, cases, contenders, measure, traffic
from instep.commands.bench.cases import CHAIN, OnePass, trees
from instep.commands.bench.contenders import (
    KIT,
    cupy_kernels,
    formulas,
    kit,
    listing,
    streams,
)

#: What float64 rounds by at most, relative to the result.
UNIT = 2.0**-53

STEPS = 5


# Streams -------------------------------------------------------------------------------------


def untouched(nbytes):
    """Return bytes that nobody has read or written: the system gives their pages when it must."""
    pages = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):  # a page is then no larger than the system's smallest
        with contextlib.suppress(OSError):  # a kernel that has no larger ones
            pages.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(pages, np.uint8)


def touched(block):
    """Return for each page of what `untouched` returned whether it has been read or written."""
    found = np.zeros(-(-block.nbytes // mmap.PAGESIZE), np.uint8)
    address, size = ctypes.c_void_p(block.ctypes.data), ctypes.c_size_t(block.nbytes)
    assert ctypes.CDLL(None).mincore(address, size, ctypes.c_void_p(found.ctypes.data)) == 0
    return found & 1 == 1


@pytest.fixture
def memory(monkeypatch):
    """The arrays that streams make, in order; they are left as the system gives them."""
    if not hasattr(mmap, "MAP_ANONYMOUS") or touched(untouched(mmap.PAGESIZE)).any():
        pytest.skip("this system does not tell which pages were touched")
    made = []

    def aligned(elements, size, offset=0):
        made.append(untouched(elements * size))
        return made[-1]

    monkeypatch.setattr(streams, "aligned", aligned)
    return made


def prepared(name, case):
    (contender,) = contenders.load([name], case.backend)
    if importlib.util.find_spec(contender.package) is None:
        pytest.skip(f"{contender.package} is not installed")
    assert contender.refuses(case) is None
    return contender.prepare(case)


def smallest(bytes_per_element):
    """Return the number of elements of which there is a limit, in whole pages of float32."""
    return -(-streams.SMALLEST // bytes_per_element // mmap.PAGESIZE) * mmap.PAGESIZE


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("number", "bytes_per_element"), [(0, 4), (1, 36)])
def test_stream_touches_the_arrays_of_a_pass_and_no_others(
    number, bytes_per_element, threads, memory
):
    shapes = ((smallest(bytes_per_element),),)
    case = OnePass(CHAIN, shapes, "", threads=threads, number=number)
    (graph,) = traffic.passes(case)
    assert graph.bytes_per_element == bytes_per_element
    prepared("stream", case)()
    blocks = dict(zip((array.name for array in graph.arrays), memory, strict=True))
    for name, block in blocks.items():
        used = name in {array.name for array in (*graph.loaded, *graph.stored)}
        assert touched(block).all() if used else not touched(block).any(), name
    for array in graph.stored:
        assert (blocks[array.name].view(np.int32) == 1).all(), array.name


@pytest.mark.parametrize("threads", [1, 2])
def test_stream_of_a_step_touches_the_arrays_of_all_passes(threads, memory):
    prepared("stream", Case(CHAIN, ((smallest(40),),), "", threads=threads))()
    assert len(memory) == 5
    assert all(touched(block).all() for block in memory)


@pytest.mark.parametrize("threads", [1, 2])
def test_added_stream_moves_as_many_bytes_as_the_step(threads, memory):
    elements = smallest(40)
    prepared("stream add", Case(CHAIN, ((elements,),), "", threads=threads))()
    (block,) = memory
    assert 2 * block.nbytes == 40 * elements  # each is read and written
    assert (block.view(np.float32) == 1).all()


def test_chain_moves_forty_bytes_an_element_in_two_passes():
    case = Case.uniform(CHAIN, 1, 10)
    assert [graph.bytes_per_element for graph in traffic.passes(case)] == [4, 36]
    assert traffic.bytes_per_element(case) == 40


# Memory --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("optimizer", "dtype", "bytes_an_element"),
    [
        ("SGD", "float32", 8),
        ("Adam", "float64", 32),
        ("Adam", "float16", 12),
        (CHAIN, "float32", 20),
    ],
)
def test_kit_needs_its_parameters_gradients_and_slots(optimizer, dtype, bytes_an_element):
    case = Case.uniform(optimizer, 1, 10, dtype=dtype)
    assert kit.Kit().memory(case) == 10 * bytes_an_element


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_contenders_have_an_average_more_for_the_chain_and_state_in_float32(dtype):
    plain, chained = (Case.uniform(name, 1, 10, dtype=dtype) for name in ("AdamW", CHAIN))
    for contender in contenders.load(contenders.peers("numpy"), "numpy"):
        assert contender.memory(plain) == 40 * contender.copies
        assert contender.memory(chained) == 40 * (contender.copies + 1)


# Peers ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def worker():
    with Worker(threads=1) as worker:
        yield worker


@pytest.mark.peers
@pytest.mark.parametrize("optimizer", ["SGD", "Adam", CHAIN])
@pytest.mark.parametrize("name", contenders.peers("numpy"))
def test_every_peer_takes_steps_or_says_why_not(name, optimizer, worker):
    (contender,) = contenders.load([name], "numpy")
    if importlib.util.find_spec(contender.package) is None:
        pytest.skip(f"{contender.package} is not installed")
    case = Case.uniform(optimizer, 2, 20)
    result = worker.measure(case, [KIT, name], budget=0.0)
    assert name in result.seconds or name in result.skipped
    assert (name in result.skipped) == (contender.refuses(case) is not None)


@pytest.mark.parametrize("name", contenders.peers("cupy"))
def test_every_peer_on_a_gpu_takes_steps_or_says_why_not(name, cupy):
    case = Case.uniform("Adam", 2, 20, backend="cupy")
    result = measure(case, [KIT, name], budget=0.0)
    assert name in result.seconds or name in result.skipped
    assert result.launches == 1


@pytest.mark.parametrize("name", contenders.peers("numpy"))
def test_no_peer_keeps_state_in_sixteen_bits(name):
    (contender,) = contenders.load([name], "numpy")
    assert contender.lacks(Case.uniform("Adam", 1, 1, dtype="float16")) is not None


def test_torch_has_one_kernel_for_adagrad_on_a_cpu_only():
    pytest.importorskip("torch")
    for backend, lacks in (("numpy", False), ("cupy", True)):
        (contender,) = contenders.load(["torch fused"], backend)
        reason = contender.lacks(Case.uniform("AdaGrad", 1, 1, backend=backend))
        assert (reason is not None and "fused" in reason) == lacks


def assert_takes_the_step_of(optimizer, step, params, start, grads, slack):
    """Raise unless some steps of a peer end where those of the kit do.

    Both compute the same formula in float64, with other roundings. Gradients are the same at
    every step, so no sum cancels: an update has a dozen operations on slots that have gone
    through a few at each step before, which is less than 64 roundings of what was walked, and
    each step rounds the parameter once or twice. `slack` is by how much their updates differ
    beyond that, relative to the update.
    """
    expected = {key: w.copy() for key, w in start.items()}
    walked = dict.fromkeys(expected, 0.0)
    for _ in range(STEPS):
        before = {key: w.copy() for key, w in expected.items()}
        optimizer.update(expected, grads)
        step()
        walked = {key: walked[key] + abs(w - before[key]) for key, w in expected.items()}
    for key, w in expected.items():
        bound = walked[key] * (64 * UNIT + slack[key]) + 2 * STEPS * UNIT * abs(start[key])
        assert (abs(params[key] - w) <= bound).all(), key
        assert not np.array_equal(params[key], start[key])


def clipped(grads):
    norm = math.sqrt(sum((g * g).sum() for g in grads.values()))
    return {key: g / norm for key, g in grads.items()}


def slack_of_epsilon(grads):
    """Return by how much an update of Adam differs if eps joins the root before bias correction.

    That is by eps at most, relative to the root, which is at least that of its first summand.
    """
    return {key: 1e-8 / (math.sqrt(1 - 0.999) * abs(g)) for key, g in grads.items()}


@pytest.mark.parametrize("optimizer", listing.LISTINGS)
def test_listings_are_the_rules_of_the_kit(optimizer):
    case = Case.uniform(optimizer, 2, 30, dtype="float64")
    (params, grads), (start, _) = trees(case), trees(case)
    plain = listing.LISTINGS[optimizer](np, params)
    seen = clipped(grads) if optimizer == CHAIN else grads
    slack = slack_of_epsilon(seen) if hasattr(plain, "m") else dict.fromkeys(grads, 0.0)
    step = functools.partial(plain.update, params, grads)
    assert_takes_the_step_of(cases.optimizer(case), step, params, start, grads, slack)


def test_listing_of_the_chain_averages_from_the_first_parameters_on():
    """As torch does; the average of the kit forgets that there was a start."""
    case = Case.uniform(CHAIN, 2, 30, dtype="float64")
    (params, grads), (start, _) = trees(case), trees(case)
    plain, optimizer = listing.LISTINGS[CHAIN](np, params), cases.optimizer(case)
    expected = {key: w.copy() for key, w in start.items()}
    for _ in range(STEPS):
        plain.update(params, grads)
        optimizer.update(expected, grads)
    rest = 0.999**STEPS
    slack = slack_of_epsilon(clipped(grads))
    for key, average in optimizer.averaged(expected).items():
        wanted = rest * start[key] + (1 - rest) * average
        # No update is larger than the learning rate, and each step rounds a few times.
        bound = (1 - rest) * STEPS * 0.001 * slack[key] + 4 * STEPS * UNIT * abs(wanted)
        assert (abs(plain.average[key] - wanted) <= bound).all()


#: The hyperparameters of the loops and expressions that are written out.
WRITTEN_OUT = {
    "SGD": functools.partial(SGD, lr=0.001),
    "Momentum": functools.partial(Momentum, lr=0.001, momentum=0.9),
    "AdaGrad": functools.partial(AdaGrad, lr=0.001, eps=1e-8),
    "RMSProp": functools.partial(RMSProp, lr=0.001, decay=0.999, eps=1e-8),
    "Adam": Adam,
    "AdamW": functools.partial(AdamW, weight_decay=1.0),
}

#: They round 0.001 itself, where the kit rounds 0.999 and subtracts it from 1.
WEIGHT = UNIT / 0.001


@pytest.mark.parametrize("optimizer", WRITTEN_OUT)
@pytest.mark.parametrize("name", ["numba", "numexpr"])
def test_loops_and_expressions_are_the_rules_of_the_kit(name, optimizer, monkeypatch):
    case = Case.uniform(optimizer, 2, 30, dtype="float64")
    (params, grads), (start, _) = trees(case), trees(case)
    monkeypatch.setattr(formulas, "place", lambda case: (params, grads))
    step, slack = prepared(name, case), dict.fromkeys(grads, WEIGHT)
    assert_takes_the_step_of(WRITTEN_OUT[optimizer](), step, params, start, grads, slack)


@pytest.mark.parametrize("optimizer", WRITTEN_OUT)
@pytest.mark.parametrize("kind", ["kernel", "function"])
def test_kernels_for_a_gpu_are_the_rules_of_the_kit(kind, optimizer):
    """Their text is run by NumPy: a kernel's assignments mean the same in Python."""
    case = Case.uniform(optimizer, 2, 30, dtype="float64")
    (params, grads), (start, _) = trees(case), trees(case)
    slots = formulas.slots(optimizer)
    states = {key: {slot: np.zeros_like(w) for slot in slots} for key, w in params.items()}
    function = cupy_kernels.in_place(optimizer, np.sqrt)
    steps = formulas.numbers("float64")

    def step():
        numbers = dict(zip(formulas.NUMBERS, next(steps), strict=True))
        for key, w in params.items():
            arrays = {"g": grads[key], "w": w, **states[key]}
            if kind == "function":
                function(**arrays, **numbers)
                continue
            names = {**arrays, **numbers, "sqrt": np.sqrt}
            exec("; ".join(formulas.assignments(optimizer)), names)
            params[key][:] = names["w"]
            states[key] = {slot: names[slot] for slot in slots}

    slack = dict.fromkeys(grads, WEIGHT)
    assert_takes_the_step_of(WRITTEN_OUT[optimizer](), step, params, start, grads, slack)
