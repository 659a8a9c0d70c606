"""Methods of minimization take NumPy's way on a device, bit for bit, and so do the examples."""

import examples
import numpy as np
import pytest
from descents import DESCENTS, assert_same


@pytest.mark.parametrize("name", DESCENTS)
def test_the_way_is_that_on_numpy_arrays(cupy, name, monkeypatch):
    # Each has an order of blocks and threads of its own on the stand-in.
    monkeypatch.setenv("CUPY_ON_CPU_SHUFFLE", str(list(DESCENTS).index(name)))
    descent = DESCENTS[name]
    assert_same(descent.run(cupy, engine="cuda"), descent.run())


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
