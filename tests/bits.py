"""Arrays as bits: exact comparison, numbers that are hard on arithmetic, and memory layouts."""

import functools

import numpy as np

DTYPES = ("float16", "float32", "float64")
COMPLEX = ("complex64", "complex128")


def bits(array):
    """Return the bits of `array` as unsigned integers, every NaN as the same pattern.

    The bits inside a NaN differ between processors, so only its place counts.
    """
    array = np.array(array, copy=True)
    if array.dtype.kind == "f":
        array[np.isnan(array)] = np.nan
    return array.view(f"u{array.itemsize}")


def assert_same_bits(got, expected, what="arrays"):
    """Raise unless two arrays have equal dtype, shape and bits, NaNs in the same places."""
    got, expected = np.asarray(got), np.asarray(expected)
    assert got.dtype == expected.dtype, f"{what}: {got.dtype}, expected {expected.dtype}"
    assert got.shape == expected.shape, f"{what}: {got.shape}, expected {expected.shape}"
    if got.dtype.kind == "c":
        assert_same_bits(got.real, expected.real, f"{what}, real part")
        assert_same_bits(got.imag, expected.imag, f"{what}, imaginary part")
        return
    differing = np.argwhere(bits(got) != bits(expected))
    if len(differing):
        place = tuple(differing[0].tolist())
        a, b = float(got[place]), float(expected[place])
        raise AssertionError(
            f"{what}: {len(differing)} of {got.size} elements differ, the first at {place}: "
            f"{a!r} ({a.hex()}), expected {b!r} ({b.hex()})"
        )


def special_values(dtype):
    """Return the numbers of `dtype` at which arithmetic changes its ways."""
    info = np.finfo(dtype)
    tiny, least = float(info.tiny), float(info.smallest_subnormal)
    largest, eps = float(info.max), float(info.eps)
    positive = [
        *(0.0, least, 3 * least, tiny - least, tiny, tiny * (1 + eps)),
        *(eps, 0.1, 0.5, 1 - eps / 2, 1.0, 1 + eps, 1.5, 2.5, 3.0, 1 / 3),
        *(2 / eps, 1 / eps - 0.5, largest / 2, largest, np.inf),
    ]
    return np.array([*positive, *(-x for x in positive), np.nan], dtype=dtype)


def by_parts(draw):
    """Return a function that draws complex numbers part by part, of other kinds at one place."""

    @functools.wraps(draw)
    def function(rng, shape, dtype, **keywords):
        if np.dtype(dtype).kind != "c":
            return draw(rng, shape, dtype, **keywords)
        z = np.empty(shape, dtype)
        z.real = draw(rng, shape, z.real.dtype, **keywords)
        z.imag = np.flip(draw(rng, shape, z.real.dtype, **keywords))
        return z

    return function


@by_parts
def ordinary(rng, shape, dtype):
    """Return normal deviates on scales from 1e-6 to 10."""
    scale = 10.0 ** rng.uniform(-6, 1, size=shape)
    return np.asarray(rng.standard_normal(shape) * scale).astype(dtype)


@by_parts
def wild(rng, shape, dtype, poison=0.02):
    """Return numbers of all kinds: ordinary, any exponent, special, subnormal, zeros.

    A NaN or an infinity never leaves the state of an element again. So each element draws its
    kind from its place alone, the same at every step, and all but the share `poison` stay finite.
    """
    info = np.finfo(dtype)
    kind = np.random.default_rng(7).random(shape)
    exponents = rng.uniform(np.log2(float(info.smallest_subnormal)), info.maxexp - 1, size=shape)
    any_exponent = rng.choice([-1.0, 1.0], size=shape) * 2.0**exponents
    subnormal = rng.uniform(-2.0, 2.0, size=shape) * float(info.tiny)
    special = rng.choice(special_values(dtype), size=shape).astype("float64")
    finite = np.where(np.isfinite(special), special, 0.0)
    chosen = np.select(
        [kind < poison, kind < 0.1, kind < 0.2, kind < 0.35, kind < 0.5],
        [special, np.copysign(0.0, special), finite, any_exponent, subnormal],
        ordinary(rng, shape, "float64"),
    )
    with np.errstate(over="ignore"):
        return np.asarray(chosen).astype(dtype)


def _misaligned(x):
    room = np.zeros(x.nbytes + 1, dtype=np.uint8)[1:]
    view = np.ndarray(x.shape, x.dtype, room)
    view[...] = x
    return view


def _offset(x):
    room = np.empty(x.size + 1, dtype=x.dtype)[1:].reshape(x.shape)
    room[...] = x
    return room


def _sparse(x, step):
    room = np.zeros([n * abs(step) + 1 for n in x.shape], dtype=x.dtype)
    view = room[(..., *(slice(0, n * abs(step), abs(step)) for n in x.shape))]
    view = view[(..., *(slice(None, None, step // abs(step)) for _ in x.shape))]
    view[...] = x
    return view


def _permuted(x):
    axes = (*range(1, x.ndim), 0)[: x.ndim]
    dense = np.empty([x.shape[axis] for axis in axes], dtype=x.dtype)
    view = dense.transpose(np.argsort(axes))
    view[...] = x
    return view


#: Ways to lay out the elements of an array in memory: from an array, a copy of it.
LAYOUTS = {
    "C order": lambda x: np.array(x, order="C"),
    "Fortran order": lambda x: np.array(x, order="F"),
    "permuted": _permuted,
    "every second": lambda x: _sparse(x, 2),
    "every third, reversed": lambda x: _sparse(x, -3),
    "reversed": lambda x: _sparse(x, -1),
    "offset by one element": _offset,
    "off its alignment": _misaligned,
}


#: Shapes beside the borders of cache lines and SIMD registers, and shapes without elements.
SHAPES = [
    *((), (1,), (2,), (15,), (16,), (17,), (63, 1), (1, 64, 1), (1031,)),
    *((0,), (3, 0), (0, 3), (2, 0, 4)),
]


def leaves_of(dtype):
    """Return parameters of every layout and of many shapes: {what: (array, gradient layout)}."""
    rng = np.random.default_rng(3)
    leaves = {}
    names = list(LAYOUTS)
    pairs = [(name, names[(i + 3) % len(names)]) for i, name in enumerate(names)]
    for layout, other in [*pairs, *((name, name) for name in names[:3])]:
        leaves[f"{layout}, gradient {other}"] = (
            LAYOUTS[layout](wild(rng, (3, 5, 7), dtype)),
            other,
        )
    for shape in SHAPES:
        leaves[f"shape {shape}"] = (wild(rng, shape, dtype), "C order")
    leaves["every second of one axis"] = (wild(rng, (6, 50), dtype)[:, ::2], "C order")
    leaves["gradient broadcast"] = (wild(rng, (6, 50), dtype), "broadcast")
    return leaves


@functools.cache
def gradients_of(dtype, steps):
    """Return the gradients of `leaves_of` for each step."""
    rng = np.random.default_rng(11)
    return [
        {name: _gradient(rng, w, layout) for name, (w, layout) in leaves_of(dtype).items()}
        for _ in range(steps)
    ]


def _gradient(rng, w, layout):
    if layout == "broadcast":
        return np.broadcast_to(wild(rng, w.shape[-1:], w.dtype), w.shape)
    return LAYOUTS[layout](wild(rng, w.shape, w.dtype))
