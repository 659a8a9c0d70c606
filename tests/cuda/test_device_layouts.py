"""Strided tensors on the device: boxes that go through shared memory give NumPy's bits."""

import bits
import engine_runs
import numpy as np
import pytest

from instep import LAMB, SGD, Adam

SHAPES = {
    "C": lambda shape: (shape, lambda room: room),
    "F": lambda shape: (shape[::-1], lambda room: room.T),
    "every other": lambda shape: ((*shape[:-1], 2 * shape[-1]), lambda room: room[..., ::2]),
    "rows of a slice": lambda shape: ((*shape[:-1], shape[-1] + 5), lambda room: room[..., 2:-3]),
    "reversed": lambda shape: (shape, lambda room: room[::-1, ..., ::-1]),
    "rotated": lambda shape: ((*shape[1:], shape[0]), lambda room: np.moveaxis(room, -1, 0)),
}


def laid(xp, values, layout):
    """Return an array of these values that lies in a certain way."""
    shape, cut = SHAPES[layout](values.shape)
    room = xp.zeros(shape, values.dtype)
    view = xp.moveaxis(room, -1, 0) if layout == "rotated" else cut(room)
    view[...] = xp.asarray(values)
    return view


@pytest.mark.parametrize("make", [SGD, Adam, LAMB])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_any_mix_of_layouts_gives_the_bits_of_numpy(cupy, make, dtype):
    """All leaves in one launch: of one box, of many, with boxes that are cut off."""
    rng = np.random.default_rng(0)
    leaves = {
        f"{w}, {g}, {shape}": (rng.standard_normal(shape).astype(dtype), w, g)
        for shape in ((37, 70), (3, 5, 2), (1, 33), (9, 2, 41))
        for w in SHAPES
        for g in SHAPES
    }
    expected = {key: w.copy() for key, (w, _, _) in leaves.items()}
    params = {key: laid(cupy, w, layout) for key, (w, layout, _) in leaves.items()}
    runs = make(engine="cuda"), make()
    for _ in range(2):
        grads = {key: rng.standard_normal(w.shape).astype(dtype) for key, w in expected.items()}
        on_device = {key: laid(cupy, g, leaves[key][2]) for key, g in grads.items()}
        runs[0].update(params, on_device)
        runs[1].update(expected, grads)
    for key, w in params.items():
        bits.assert_same_bits(w.get(), expected[key], key)
    engine_runs.assert_same_state(*runs)


@pytest.mark.parametrize("dtype", ["float16", "float32", "complex128"])
@pytest.mark.parametrize("shape", [(301, 150), (7, 90, 9, 5), (2, 20_000)])
def test_sums_of_several_stages_and_tiles_give_the_bits_of_numpy(cupy, dtype, shape):
    rng = np.random.default_rng(0)
    start = bits.ordinary(rng, shape, dtype)
    expected = {f"{w}, {g}": start.copy() for w in SHAPES for g in ("C", "F", "rotated")}
    params = {key: laid(cupy, start, key.partition(",")[0]) for key in expected}
    runs = LAMB(engine="cuda"), LAMB()
    for _ in range(2):
        g = bits.ordinary(rng, shape, dtype)
        runs[0].update(params, {key: laid(cupy, g, key.partition(", ")[2]) for key in expected})
        runs[1].update(expected, dict.fromkeys(expected, g))
    for key, w in params.items():
        bits.assert_same_bits(w.get(), expected[key], key)


def test_what_lies_between_the_elements_is_left_alone(cupy):
    room = cupy.arange(60 * 90, dtype="float32").reshape(60, 90)
    before = room.get()
    w = room[3:57:2, 4:85:3].T
    Adam(engine="cuda").update(w, cupy.ones_like(w))
    after = room.get()
    assert (after[3:57:2, 4:85:3] != before[3:57:2, 4:85:3]).all()
    after[3:57:2, 4:85:3] = before[3:57:2, 4:85:3]
    bits.assert_same_bits(after, before)
