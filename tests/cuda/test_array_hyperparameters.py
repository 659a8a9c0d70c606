"""Hyperparameters that are arrays, on the device."""

import bits
import numpy as np
import pytest

from instep import SGD, AdamW, Optimizer, Rprop, chain
from instep.transforms import (
    clip_by_global_norm,
    project,
    project_halfspace,
    skip_nonfinite,
    support,
    weight_decay,
)

SHAPE = (61, 45)

MAKERS = {
    "SGD": lambda about, **settings: SGD(about(0.1), **settings),
    "Rprop": lambda about, **settings: Rprop(about(0.1), **settings),
    "chain": lambda about, **settings: chain(
        *(clip_by_global_norm(1.0), weight_decay(about(0.1)), AdamW(about(0.1))),
        project(about(-0.5), about(0.5)),
        **settings,
    ),
    "guarded": lambda about, **settings: chain(skip_nonfinite(), SGD(about(0.1)), **settings),
}


@pytest.mark.parametrize("layout", ["C order", "Fortran order", "every second"])
@pytest.mark.parametrize("kind", ["float16", "float32", "float64"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("name", MAKERS)
def test_arrays_are_read_as_on_numpy(cupy, name, dtype, kind, layout):
    rng = np.random.default_rng(0)
    w = bits.ordinary(rng, SHAPE, dtype)
    factors = rng.uniform(0.5, 1.5, SHAPE)

    def about(number):
        return bits.LAYOUTS[layout]((number * factors).astype(kind))

    def there(number):
        x = about(number)
        room = cupy.zeros(x.strides[0] * x.shape[0] // x.itemsize + x.size, dtype=x.dtype)
        view = cupy.lib.stride_tricks.as_strided(room, x.shape, x.strides)
        view[...] = cupy.asarray(np.ascontiguousarray(x))
        return view

    optimizer, reference = MAKERS[name](there, engine="cuda"), MAKERS[name](about)
    device = cupy.asarray(w)
    for _ in range(3):
        g = bits.ordinary(rng, SHAPE, dtype)
        optimizer.update(device, cupy.asarray(g))
        reference.update(w, g)
    bits.assert_same_bits(device.get(), w)


@pytest.mark.parametrize("kind", ["bool", "uint8", "float16"])
@pytest.mark.parametrize("dtype", ["float16", "float64", "complex64"])
def test_masks_and_directions_are_read_as_on_numpy(cupy, dtype, kind):
    rng = np.random.default_rng(0)
    w, normal = (bits.ordinary(rng, SHAPE, dtype) for _ in range(2))
    mask = (rng.random(SHAPE) < 0.5).astype(kind)
    device, there = cupy.asarray(w), cupy.zeros((2 * SHAPE[0], SHAPE[1]), dtype=kind)[::2]
    there[...] = cupy.asarray(mask)
    optimizer = chain(SGD(0.5), project_halfspace(cupy.asarray(normal), 1.0), support(there))
    reference = chain(SGD(0.5), project_halfspace(normal, 1.0), support(mask))
    for _ in range(3):
        g = bits.ordinary(rng, SHAPE, dtype)
        optimizer.update(device, cupy.asarray(g))
        reference.update(w, g)
        there[1, 1], mask[1, 1] = 1 - there[1, 1].astype(int), 1 - int(mask[1, 1])
    bits.assert_same_bits(device.get(), w)


def test_elements_are_read_at_every_step_and_arrays_of_numpy_are_refused(cupy):
    lr = cupy.full(5, 0.5)
    optimizer, w = SGD(lr), cupy.zeros(5)
    optimizer.update(w, cupy.ones(5))
    lr[1:] = 2.0
    optimizer.update(w, cupy.ones(5))
    assert w.get().tolist() == [-1.0] + [-2.5] * 4
    optimizer.lr = np.ones(5)
    with pytest.raises(TypeError, match=r"SGD.lr is numpy .* convert it with cupy.asarray"):
        optimizer.update(w, cupy.ones(5))
    with pytest.raises(ValueError, match=r"lr must be .* got -1.0 at \(2,\) of cupy float64"):
        optimizer.lr = cupy.asarray([1.0, 1.0, -1.0])
    optimizer.lr = lr
    with pytest.raises(ValueError, match="share memory"):
        optimizer.update(lr, cupy.ones(5))
    optimizer.load_state_dict(optimizer.state_dict())
    assert isinstance(optimizer.lr, cupy.ndarray)
    optimizer.update(w, cupy.ones(5))
    assert w.get().tolist() == [-1.5] + [-4.5] * 4


class Starting(Optimizer):
    lr: float = 0.1

    slots = ("size",)

    def initial_state(self):
        return {"size": "lr"}

    @staticmethod
    def rule(xp, w, g, s, h):
        return w - s.size * g, {}


def test_state_starts_from_the_elements_of_an_array_subnormal_ones_too(cupy):
    lr, g = np.array([0.5, 1e-40, 0.1]), np.full(3, 2.0**100, "float32")
    w, device = np.zeros(3, "float32"), cupy.zeros(3, "float32")
    Starting(lr).update(w, g)
    Starting(cupy.asarray(lr)).update(device, cupy.asarray(g))
    bits.assert_same_bits(device.get(), w)
    assert w[1] != 0.0
