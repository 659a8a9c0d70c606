"""Steps on a few small arrays: how long a call takes whose kernel takes next to nothing.

Each kind of call takes turns with the plainest one, Adam on the same arrays, in blocks of some
calls; what counts is the median ratio. No time is asserted.
"""

import itertools
import time
from statistics import median

import numpy as np
import pytest

from instep import Adam, NAdam, RMSProp, chain
from instep.transforms import accumulate, average, clip_by_global_norm, skip_nonfinite

#: Elements of each array, calls of a block, and blocks in which a kind is warmed up.
ELEMENTS, CALLS, WARMING = 10, 25, 4


def arrays(count=2, dtypes=("float32",)):
    """Return parameters or gradients: a dict of small arrays."""
    rng = np.random.default_rng(0)
    pairs = zip("abcdefgh"[:count], itertools.cycle(dtypes), strict=False)
    return {name: rng.standard_normal(ELEMENTS).astype(dtype) for name, dtype in pairs}


def constant(optimizer, count=2, dtypes=("float32",), missing=()):
    """Return the calls of a loop: always the same."""
    params, grads = arrays(count, dtypes), arrays(count, dtypes)
    return lambda: optimizer.update(params, {**grads, **dict.fromkeys(missing)})


def with_new_gradients(optimizer, params):
    """Return the calls of a loop with other arrays as gradients each time."""
    turns = itertools.cycle([{name: w.copy() for name, w in params.items()} for _ in range(7)])
    return lambda: optimizer.update(params, next(turns))


def in_turn(optimizer, calls, count=2):
    """Return the calls of a loop on these leaves in turn; gradients in brackets are None."""
    params, grads = arrays(count), arrays(count)
    turns = itertools.cycle(
        [
            ({name: params[name] for name in names}, {name: grads[name] for name in names} | none)
            for names, none in (
                (names + missing, dict.fromkeys(missing)) for names, missing in calls
            )
        ]
    )
    return lambda: optimizer.update(*next(turns))


KINDS = {
    "plain": lambda: constant(Adam()),
    "a schedule": lambda: constant(Adam(lr=lambda t: 0.001)),
    "overrides": lambda: constant(Adam(overrides={"a": {"lr": 0.01}})),
    "a boolean option": lambda: constant(RMSProp(centered=True)),
    "a gradient that is None": lambda: constant(Adam(), 3, missing="c"),
    "two dtypes": lambda: constant(Adam(), dtypes=("float32", "float64")),
    "clipped by the norm of all": lambda: constant(chain(clip_by_global_norm(1.0), Adam())),
    "turned away where not finite": lambda: constant(chain(skip_nonfinite(), Adam())),
    "with an average": lambda: constant(chain(Adam(), average(0.9))),
    "clipped, with an average": lambda: constant(
        chain(clip_by_global_norm(1.0), Adam(), average(0.9))
    ),
    "every other call": lambda: constant(chain(accumulate(2), Adam())),
    "NAdam": lambda: constant(NAdam()),
    "new gradients": lambda: with_new_gradients(Adam(), arrays()),
    "new gradients of strided arrays": lambda: with_new_gradients(
        Adam(), {name: np.zeros((ELEMENTS, 2), "float32")[:, 0] for name in "ab"}
    ),
    "a part of the tree in turn": lambda: in_turn(Adam(), [("a", ""), ("ab", "")]),
    "None in turn": lambda: in_turn(Adam(), [("ab", ""), ("a", "b")]),
    "leaf by leaf": lambda: in_turn(Adam(), [(name, "") for name in "abcdefgh"], 8),
}


def block_of(step):
    """Return the seconds of a call, in a block of some."""
    start = time.perf_counter()
    for _ in range(CALLS):
        step()
    return (time.perf_counter() - start) / CALLS


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_tiny_steps(kind, laboratory, replay):
    if laboratory.backend != "numpy":
        pytest.skip("of NumPy arrays")
    plain, step = KINDS["plain"](), kind()
    for _ in range(WARMING):
        block_of(plain), block_of(step)
    pairs, stop = [], time.perf_counter() + laboratory.budget
    while len(pairs) < 3 or time.perf_counter() < stop:
        pairs.append((block_of(plain), block_of(step)))
    ratio = median(own / other for other, own in pairs)
    replay([own for _, own in pairs], **{"times the plain call": round(ratio, 2)})
    print(f"\n{ratio:.2f} times the plain call of {median(p for p, _ in pairs) * 1e6:.1f} us")
