"""Complex numbers as pairs of real ones, on the device; and transforms of them."""

import bits
import numpy as np
import pytest
from bits import ordinary
from device_arrays import arrays_of, mirrors

from instep import LAMB, Adam, Rprop, chain
from instep.transforms import (
    average,
    clip_by_global_norm,
    clip_by_value,
    conjugate,
    project_modulus,
    skip_nonfinite,
)

MAKERS = {
    "Adam": Adam,
    "LAMB": LAMB,
    "Rprop": Rprop,
    "chain": lambda **s: chain(clip_by_global_norm(1.0), Adam(0.1), average(0.9), **s),
    "guarded": lambda **s: chain(skip_nonfinite(), clip_by_value(0.5), Adam(0.1), **s),
    "moduli": lambda **s: chain(conjugate(), Adam(0.1), project_modulus(0.1, 2.0), **s),
}


@pytest.mark.parametrize("meaning", ["modulus", "pairs"])
@pytest.mark.parametrize(
    ("name", "dtype"),
    [*((name, "complex64") for name in MAKERS), ("Adam", "complex128"), ("moduli", "complex128")],
)
def test_the_bits_are_those_of_numpy(cupy, name, dtype, meaning):
    if (name, meaning) == ("Rprop", "modulus"):
        pytest.skip("it has no meaning for moduli")
    rng = np.random.default_rng(0)
    expected = {
        "matrix": ordinary(rng, (40, 33), dtype)[:, 1:],
        "long": ordinary(rng, (20_003,), dtype),
        "turned": np.asfortranarray(ordinary(rng, (5, 7), dtype)),
        "empty": ordinary(rng, (0, 3), dtype),
        "one": ordinary(rng, (), dtype),
    }
    params = mirrors(cupy, expected)
    optimizer = MAKERS[name](engine="cuda", complex=meaning)
    reference = MAKERS[name](engine="array_api", complex=meaning)
    for step in range(4):
        grads = {key: ordinary(rng, w.shape, dtype) for key, w in expected.items()}
        if (name, step) == ("guarded", 2):
            grads["long"].imag[7] = np.inf
        optimizer.update(arrays_of(params), arrays_of(mirrors(cupy, grads)))
        reference.update(expected, grads)
    assert optimizer.t == reference.t
    for key, w in expected.items():
        bits.assert_same_bits(params[key].read(), w, key)
    if name == "chain":
        answer = optimizer.answer(arrays_of(params))
        for key, w in reference.answer(expected).items():
            bits.assert_same_bits(answer[key].get(), w, key)


def test_real_gradients_of_complex_parameters_are_taken_as_they_are(cupy):
    for meaning in ("modulus", "pairs"):
        for dtype in ("float16", "float32", "float64"):
            w = cupy.zeros(5, "complex64")
            Adam(lr=1.0, engine="cuda", complex=meaning).update(w, cupy.ones(5, dtype))
            np.testing.assert_allclose(w.get(), -np.ones(5), rtol=1e-6)
