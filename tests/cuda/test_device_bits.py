"""The cuda engine gives NumPy's bits, for every rule, dtype and layout, in any order of threads."""

import functools
from concurrent.futures import ThreadPoolExecutor

import bits
import cases
import engine_runs
import numpy as np
import pytest
from bits import COMPLEX, DTYPES, ordinary, wild
from device_arrays import arrays_of, mirrors
from emitted import passes

from instep import Optimizer, engines
from instep.engines.cuda.compile import _binary
from instep.engines.cuda.emit import emit

STEPS = 20

#: Seeds of the order of blocks and threads on the stand-in; a GPU has its own.
SEEDS = ["", "1", "20"]

#: One case for each class that complex parameters are stepped by.
MODULI = [cases.CASES.index(case) for case in cases.CLASSES if case.moduli]


def leaves_for(case, dtype):
    """Return the arrays of `bits.leaves_of` on which this rule has to have NumPy's bits.

    An array that is a byte off its alignment can be read by no kernel (see test_device_steps).
    Rules with forms use matrix products, and means, of the array library.
    """
    elementwise = case.optimizer.form_for is Optimizer.form_for
    return {
        name: w
        for name, (w, _) in bits.leaves_of(dtype).items()
        if "off its alignment" not in name and (elementwise or w.ndim < 2)
    }


def fastest():
    """Return the engine for NumPy arrays that the runs are compared with."""
    return "native" if engines.load("native").unavailable() is None else "blocked"


@pytest.fixture(scope="module")
def reference():
    """Runs on NumPy arrays; each is computed once."""

    @functools.cache
    def find(number, dtype):
        params = leaves_for(cases.CASES[number], dtype)
        optimizer = cases.CASES[number].make(engine=fastest())
        optimizer.lr = cases.changing(optimizer.lr)
        for grads in bits.gradients_of(dtype, STEPS):
            cases.step(optimizer, params, {name: grads[name] for name in params})
        return params, optimizer

    return find


@pytest.fixture(scope="module")
def compiled_beforehand(cupy, request):
    """Fill the cache of kernels on all cores: a test alone compiles one kernel at a time."""
    chosen = [
        item.callspec.params
        for item in request.session.items
        if "compiled_beforehand" in getattr(item, "fixturenames", ())
    ]
    sources = {
        emit(graph, strided=strided)
        for params in chosen
        for graph in passes(params["case"].make(), params["dtype"])
        for strided in (False, True)
    }
    with ThreadPoolExecutor() as pool:
        list(pool.map(_binary, sources))


@pytest.mark.parametrize(
    ("case", "dtype"),
    [
        pytest.param(case, dtype, id=f"{case}-{dtype}")
        for case in cases.CASES
        for dtype in (DTYPES if case in cases.CLASSES else ["float32"])
    ],
)
def test_bits_are_those_of_numpy_on_every_layout(
    cupy, case, dtype, reference, monkeypatch, compiled_beforehand
):
    # Each case has an order of its own, so that all orders come up.
    number = cases.CASES.index(case)
    monkeypatch.setenv("CUPY_ON_CPU_SHUFFLE", SEEDS[(number + DTYPES.index(dtype)) % len(SEEDS)])
    params = mirrors(cupy, leaves_for(case, dtype))
    optimizer = case.make(engine="cuda")
    optimizer.lr = cases.changing(optimizer.lr)
    for grads in bits.gradients_of(dtype, STEPS):
        gradients = mirrors(cupy, {name: grads[name] for name in params})
        cases.step(optimizer, arrays_of(params), arrays_of(gradients))
    got = {name: mirror.read() for name, mirror in params.items()}
    engine_runs.assert_same_run((got, optimizer), reference(number, dtype))


@pytest.mark.parametrize("dtype", COMPLEX)
@pytest.mark.parametrize("number", MODULI, ids=lambda i: cases.CASES[i].optimizer.__name__)
def test_complex_numbers_have_the_bits_of_numpy(cupy, number, dtype, reference, monkeypatch):
    monkeypatch.setenv("CUPY_ON_CPU_SHUFFLE", SEEDS[(number + len(dtype)) % len(SEEDS)])
    case = cases.CASES[number]
    params = mirrors(cupy, leaves_for(case, dtype))
    optimizer = case.make(engine="cuda")
    optimizer.lr = cases.changing(optimizer.lr)
    for grads in bits.gradients_of(dtype, STEPS):
        gradients = mirrors(cupy, {name: grads[name] for name in params})
        cases.step(optimizer, arrays_of(params), arrays_of(gradients))
    got = {name: mirror.read() for name, mirror in params.items()}
    engine_runs.assert_same_run((got, optimizer), reference(number, dtype))


@pytest.mark.parametrize("dtype", [*DTYPES, "complex64"])
@cases.every_class
def test_bits_are_those_of_numpy_at_the_borders_of_blocks(cupy, case, dtype, monkeypatch):
    """Sizes beside those of vectors, chunks and rounds of the loop; some views are misaligned."""
    if dtype == "complex64" and not case.moduli:
        pytest.skip("it has no meaning for them")
    number = cases.CLASSES.index(case) + len(dtype)
    monkeypatch.setenv("CUPY_ON_CPU_SHUFFLE", SEEDS[number % len(SEEDS)])
    rng = np.random.default_rng(5)
    sizes = (0, 1, 3, 4, 7, 8, 9, 1023, 1025, 2047, 2049, 4097, 0)
    expected = {f"{n} elements": ordinary(rng, (n,), dtype) for n in sizes}
    expected |= {f"{n} from the second": ordinary(rng, (n + 1,), dtype)[1:] for n in (5, 2050)}
    params = mirrors(cupy, expected)
    engines_ = [case.make(engine="cuda"), case.make(engine=fastest())]
    for _ in range(2):
        grads = {name: wild(rng, w.shape, dtype) for name, w in expected.items()}
        cases.step(engines_[0], arrays_of(params), arrays_of(mirrors(cupy, grads)))
        cases.step(engines_[1], expected, grads)
    got = {name: mirror.read() for name, mirror in params.items()}
    engine_runs.assert_same_run((got, engines_[0]), (expected, engines_[1]))
