"""The formats that the benchmarks simulate are those that they say."""

import numpy as np
import pytest
from rounded_states import E4M3, E5M2, UNSIGNED_E4M4, UNSIGNED_E5M3, Minifloat, Root, Words

FORMATS = {"e4m3": E4M3, "e5m2": E5M2, "e4m4": UNSIGNED_E4M4, "e5m3": UNSIGNED_E5M3}


def numbers(form: Minifloat) -> np.ndarray:
    """Return rows of many magnitudes, each with the largest number of the format in it."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 256)) * 2.0 ** rng.integers(-20, 6, (40, 256))
    x[:, 0] = form.largest
    return (np.abs(x) if form.positive else x).astype(np.float32)


@pytest.mark.parametrize(("form", "dtype"), [(E4M3, "float8_e4m3fn"), (E5M2, "float8_e5m2")])
def test_signed_formats_round_as_ml_dtypes_does(form: Minifloat, dtype: str) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    x = numbers(form)
    expected = x.astype(getattr(ml_dtypes, dtype)).astype(np.float32)
    assert np.array_equal(form(x, None), expected)


@pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)
def test_scales_are_powers_of_two_that_follow_the_row(form: Minifloat) -> None:
    x = numbers(form)
    assert np.array_equal(form(x * np.float32(2.0**-30), None), form(x, None) * 2.0**-30)
    once = form(x, None)
    assert np.array_equal(form(once, None), once)


@pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)
def test_256_codes_are_enough(form: Minifloat) -> None:
    x = np.concatenate([numbers(form), -numbers(form) if not form.positive else numbers(form)])
    assert len(np.unique(form(x, None))) <= 256


def test_by_chance_the_mean_is_right() -> None:
    x = np.full((4000, 256), 1.03, np.float32)  # between 1 and 1.125
    x[:, 0] = 448
    rounded = E4M3(x, Words(0)(x.shape)[0])[:, 1:]
    assert set(np.unique(rounded)) == {1.0, 1.125}
    assert (
        abs(rounded.mean(dtype=float) - 1.03) < 0.125 / 2 / 1000 * 6
    )  # six deviations of the mean


def test_roots_that_are_not_zero_do_not_become_zero() -> None:
    x = np.array([[1.0, 1e-30, 0.0]], np.float32)
    one, small, zero = Root(UNSIGNED_E4M4)(x, None)[0]
    assert (one, zero) == (1, 0)
    assert small > 0
