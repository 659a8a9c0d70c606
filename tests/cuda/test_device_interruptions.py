"""Steps on a device that exceptions come in the way of: each is launched once or not at all."""

import faults
import numpy as np
import pytest
import whole_steps
from remembering import Remembering

from instep import SGD, Adam, Muon, chain
from instep.engines.cuda.verdicts import DeviceVerdicts
from instep.engines.sums import Verdicts
from instep.transforms import (
    accumulate,
    average,
    clip_by_global_norm,
    dynamic_scale,
    skip_nonfinite,
)

pytestmark = pytest.mark.gpu

SHAPES = {"a": (5,), "s1": (4, 3)}

#: The first two take the short way, which has few lines.
MAKERS = {
    "plain": (Adam, 2),
    "in two passes": (lambda: chain(clip_by_global_norm(0.5), Adam(), average(0.9)), 2),
    "judged by the device": (
        lambda: chain(skip_nonfinite(), accumulate(2), Adam(), average(0.9)),
        8,
    ),
}


@pytest.mark.parametrize(("make", "stride"), MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize("late", [False, True], ids=["heard at once", "heard late"])
def test_an_exception_at_any_line_leaves_all_of_a_step_or_nothing(
    cupy, make, stride, late, monkeypatch
):
    if late:
        monkeypatch.setattr(DeviceVerdicts, "_has_arrived", lambda self, event: False)
    problem = whole_steps.Problem(make, SHAPES, xp=cupy)
    not_taken, taken = whole_steps.assert_whole(problem, 3, {}, "Plan.repeat", stride)
    assert not_taken > 1
    assert taken > 1


#: The device judges one, and for the other the host, which multiplies matrices.
SCALED = {
    "by the device": lambda: chain(dynamic_scale(8.0), clip_by_global_norm(0.5), Remembering()),
    "by the host": lambda: chain(dynamic_scale(8.0), Muon()),
}


@pytest.mark.parametrize("make", SCALED.values(), ids=SCALED)
@pytest.mark.parametrize(("calls", "stride"), [(0, 13), (3, 11)], ids=["first", "later"])
@pytest.mark.parametrize("late", [False, True], ids=["heard at once", "heard late"])
def test_a_call_that_is_turned_away_is_whole_too(cupy, make, calls, stride, late, monkeypatch):
    if late:
        monkeypatch.setattr(DeviceVerdicts, "_has_arrived", lambda self, event: False)
    problem = whole_steps.Problem(make, SHAPES, xp=cupy, bad=(0, 2, 3))
    not_taken, taken = whole_steps.assert_whole(problem, calls, {}, "Plan.step", stride)
    assert not_taken > 1
    assert taken > 0


def test_an_exception_while_a_verdict_is_heard_loses_no_step(cupy, monkeypatch):
    monkeypatch.setattr(DeviceVerdicts, "_has_arrived", lambda self, event: False)
    monkeypatch.setattr(Verdicts, "MOST", 2)

    def run(fault):
        optimizer, w, g = chain(skip_nonfinite(), SGD(lr=1.0)), cupy.zeros(1, "f4"), cupy.ones(1)
        g = g.astype("f4")
        for step in range(5):
            optimizer.update(w, cupy.full(1, np.nan, "f4") if step == 3 else g)
        try:
            with fault:
                assert optimizer.t >= 0  # hears all verdicts
        except KeyboardInterrupt:
            pass
        return optimizer, w

    places = 0
    for fault, (optimizer, w) in faults.each_line(run, [KeyboardInterrupt()], stride=2):
        assert (optimizer.t, optimizer.skipped, float(w[0])) == (4, 1, -4.0), fault.place
        places += 1
    assert places > 5


def test_a_mailbox_that_was_cut_off_is_sent_again(cupy, monkeypatch):
    """More leaves than travel with a launch: their addresses go ahead of it."""

    def run(fault):
        params = {str(i): cupy.zeros(3, "f4") for i in range(300)}
        grads = {name: cupy.ones(3, "f4") for name in params}
        optimizer = SGD(lr=1.0)
        optimizer.update(params, grads)
        moved = {name: w.copy() for name, w in params.items()}
        try:
            with fault:
                optimizer.update(moved, grads)
        except KeyboardInterrupt:
            pass
        before = optimizer.t
        optimizer.update(moved, grads)
        return before, {float(w[1]) for w in moved.values()}

    for fault, (before, values) in faults.each_line(
        run, [KeyboardInterrupt()], after="CudaLaunch.run", stride=3
    ):
        assert values == {-1.0 - before}, fault.place
