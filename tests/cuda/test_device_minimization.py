"""Methods of minimization take NumPy's way on a device, bit for bit, and so do the examples."""

import itertools

import examples
import numpy as np
import pytest
from descents import DESCENTS, assert_same

from instep import Backtracking, ConjugateGradient, minimize
from instep.engines.cuda.counters import counters


@pytest.mark.parametrize("name", DESCENTS)
def test_the_way_is_that_on_numpy_arrays(cupy, name, monkeypatch):
    # Each has an order of blocks and threads of its own on the stand-in.
    monkeypatch.setenv("CUPY_ON_CPU_SHUFFLE", str(list(DESCENTS).index(name)))
    descent = DESCENTS[name]
    assert_same(descent.run(cupy, engine="cuda"), descent.run())


@pytest.mark.parametrize("meaning", ["modulus", "pairs"])
def test_a_step_of_conjugate_gradients_is_four_launches_at_most(cupy, meaning):
    scales, seen = cupy.linspace(1, 3, 1000, dtype="complex64"), []

    def value_and_grad(x):
        seen.append(counters.launches)
        g = scales * x
        return float((abs(x) ** 2 * scales.real).sum()) / 2, g

    method = ConjugateGradient(line_search=Backtracking(), complex=meaning)
    result = minimize(value_and_grad, cupy.ones(1000, "complex64"), method, steps=12)
    evaluations = [record.evaluations for record in result.history]
    single = [n for n, (a, b) in enumerate(itertools.pairwise(evaluations)) if b == a + 1]
    assert len(single) >= 3
    spent = [b - a for a, b in itertools.pairwise(seen)]
    assert max(spent[evaluations[n] - 1] for n in single) <= 4
    assert max(spent) <= 4  # a further trial takes no more


@pytest.fixture
def transforms(cupy, monkeypatch):
    """Let NumPy compute Fourier transforms where there is no cuFFT, as beside the stand-in."""
    try:
        cupy.fft.fft2(cupy.zeros((2, 2)))
    except ImportError:
        for name in ("fft2", "ifft2"):
            on_host = getattr(np.fft, name)
            monkeypatch.setattr(
                cupy.fft, name, lambda x, on_host=on_host, **k: cupy.asarray(on_host(x.get(), **k))
            )


@pytest.mark.slow
@pytest.mark.usefixtures("transforms")
def test_phases_are_retrieved_on_a_device(cupy, capsys):
    example = examples.load("phase_retrieval")
    assert example.main(["--backend", "cupy", "--steps", "8"]) == 0  # 1 if resuming changes bits
    found = capsys.readouterr().out
    assert found.count("\n| ") == 3
    assert "the same bits" in found


@pytest.mark.slow
def test_tomography_runs_on_a_device(cupy, capsys):
    examples.load("tomography").main(["--backend", "cupy", "--steps", "2"])
    found = capsys.readouterr().out
    assert found.count("\n| ") >= 4
