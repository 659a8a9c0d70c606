"""Pinned memory: nobody is given any that a copy still reads or writes."""

import gc

import numpy as np
import pytest

from instep import SGD, chain
from instep.engines.cuda import pinned
from instep.transforms import skip_nonfinite


@pytest.fixture
def device(cupy, monkeypatch):
    """A device that has come no further than the test says; nothing else is left to do there."""

    class Device:
        is_idle = False

    class Event(cupy.cuda.Event):
        done = property(lambda self: Device.is_idle)

    Device.event = Event

    cupy.cuda.Device().synchronize()
    pinned.forget_done()
    monkeypatch.setattr(cupy.cuda, "Event", Event)
    yield Device
    Device.is_idle = True
    pinned.forget_done()


def buffers(device, count=3, dtype=np.uint64):
    """Return buffers of which two are on their way."""
    made = pinned.PinnedBuffers(count, dtype)
    for _ in range(2):
        send(made)
    return made


def send(made, stream=None):
    place = made.spare().memory.ptr
    for call in made.sending(stream):
        call()
    return place


def test_a_buffer_is_used_again_when_its_copy_is_done(device):
    made = pinned.PinnedBuffers(3, np.uint64)
    places = [send(made) for _ in range(3)]
    assert len(set(places)) == 3
    made.reclaim()
    assert len(made.in_flight) == 3
    device.is_idle = True
    made.reclaim()
    assert not made.in_flight
    assert {send(made) for _ in range(3)} == set(places)


def test_what_is_spare_stays_so_until_it_is_sent(device):
    made = buffers(device)
    assert made.spare() is made.spare()
    assert made.spare() not in made.in_flight


def left_behind(device):
    """Return what is kept of owners that are gone, but for those of other tests."""
    buffers = [buffer for flight in pinned.abandoned for buffer in flight]
    return [buffer.memory for buffer in buffers if isinstance(buffer.event, device.event)]


@pytest.mark.parametrize(
    "make",
    [lambda: SGD(lr=1.0), lambda: chain(skip_nonfinite(), SGD(lr=1.0))],
    ids=["addresses", "verdicts"],
)
def test_the_memory_of_an_optimizer_that_is_gone_is_kept_while_the_device_needs_it(
    cupy, device, make
):
    # More tensors than travel with a launch.
    params, grads = ({str(i): cupy.full(4, x, "float32") for i in range(600)} for x in (0, 1))
    optimizer = make()
    optimizer.update(params, grads)
    del optimizer
    gc.collect()
    kept = left_behind(device)
    places = {memory.ptr for memory in kept}
    assert places
    sizes = {memory.mem.size for memory in kept}
    del kept
    given = [cupy.cuda.alloc_pinned_memory(size) for size in sizes for _ in range(4)]
    assert places.isdisjoint(memory.ptr for memory in given)
    pinned.PinnedBuffers(1, np.uint64).spare()
    assert places == {memory.ptr for memory in left_behind(device)}
    device.is_idle = True
    pinned.PinnedBuffers(1, np.uint64).spare()
    assert not left_behind(device)


def test_nothing_is_kept_of_an_owner_whose_copies_were_received(device):
    made = buffers(device)
    device.is_idle = True
    made.reclaim()
    device.is_idle = False
    del made
    gc.collect()
    assert not left_behind(device)
