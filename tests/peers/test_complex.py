# ruff: noqa: SLF001  (it makes tensors that no public function makes)
"""Complex arrays of PyTorch and JAX, in both meanings: NumPy's bits, on every engine."""

import bits
import cases
import numpy as np
import pytest
from bits import COMPLEX, ordinary

from instep import Adam

pytestmark = pytest.mark.peers

both = pytest.mark.parametrize("dtype", COMPLEX)
meanings = pytest.mark.parametrize("meaning", ["modulus", "pairs"])
engines = pytest.mark.parametrize("engine", ["native", "blocked", "array_api"])

#: Ways that tensors lie.
VIEWS = {
    "contiguous": lambda torch, x: torch.tensor(x),
    "transposed": lambda torch, x: torch.tensor(np.ascontiguousarray(x.T)).T,
    "every other": lambda torch, x: torch.tensor(np.repeat(x, 2, axis=1))[:, ::2],
}
LAZY = {
    "conjugate": lambda torch, x: torch.tensor(x.conj()).conj(),
    "negative": lambda torch, x: torch._neg_view(torch.tensor(-x)),
}


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.fixture
def jax():
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    return jax


def problem(case, dtype):
    """Return a parameter, gradients, and what NumPy makes of them."""
    rng = np.random.default_rng(0)
    return ordinary(rng, (6, 5), dtype), [ordinary(rng, (6, 5), dtype) for _ in range(4)]


def follow(case, meaning, w, gradients):
    optimizer, w = case.make(complex=meaning), w.copy()
    for g in gradients:
        optimizer.update({"w": w}, {"w": g})
    return w, optimizer


def exact(meaning):
    """Return some cases: `test_stand_ins.py` and `tests/test_complex.py` have them all."""
    names = {"SGD", "Adam", "Lion", "LAMB", "AdaMax"} | ({"Rprop"} if meaning == "pairs" else set())
    return [case for case in cases.CLASSES if case.optimizer.__name__ in names]


@engines
@meanings
@both
def test_tensors_have_the_bits_of_numpy(torch, dtype, meaning, engine):
    for case in exact(meaning):
        start, gradients = problem(case, dtype)
        expected, _ = follow(case, meaning, start, gradients)
        for name, view in VIEWS.items():
            w, optimizer = view(torch, start), case.make(complex=meaning, engine=engine)
            params = {"w": w}
            for number, g in enumerate(gradients):
                of = {**VIEWS, **LAZY}
                lying = of[sorted(of)[number % len(of)]]
                assert optimizer.update(params, {"w": lying(torch, g)}) is params
                assert params["w"] is w
            bits.assert_same_bits(w.numpy(), expected, f"{case} {name}")


@engines
@meanings
@both
def test_arrays_of_jax_have_the_bits_of_numpy(jax, dtype, meaning, engine):
    for case in exact(meaning):
        start, gradients = problem(case, dtype)
        expected, _ = follow(case, meaning, start, gradients)
        params, optimizer = {"w": jax.numpy.array(start)}, case.make(complex=meaning, engine=engine)
        for g in gradients:
            optimizer.update(params, {"w": jax.numpy.array(g)})
        assert isinstance(params["w"], jax.Array)
        bits.assert_same_bits(np.asarray(params["w"]), expected, str(case))


@pytest.mark.parametrize("name", LAZY)
def test_parameters_that_lie_as_something_else_are_written_as_what_they_are(torch, name):
    start, gradients = problem(None, "complex64")
    expected, optimizer = start.copy(), Adam(0.1)
    w, other = LAZY[name](torch, start), Adam(0.1)
    for g in gradients:
        optimizer.update(expected, g)
        other.update(w, torch.tensor(g))
    bits.assert_same_bits(w.resolve_conj().resolve_neg().numpy(), expected)


def test_a_conjugate_comes_where_a_tensor_was(torch):
    optimizer = Adam(lr=1.0, eps=0.0)
    optimizer.update({"z": torch.tensor([1 + 2j])}, {"z": torch.tensor([1j])})
    z = torch.tensor([1 + 2j])
    optimizer.update({"z": z.conj()}, {"z": torch.tensor([1j])})
    torch.testing.assert_close(z, torch.tensor([1 + 3j]))


def test_the_parts_of_a_conjugate_cannot_be_written(torch):
    w = LAZY["conjugate"](torch, np.ones((2, 2), "complex64"))
    with pytest.raises(ValueError, match=r"conjugate of what lies in memory.*\.resolve_conj\(\)"):
        Adam(complex="pairs").update(w, torch.ones(2, 2, dtype=torch.complex64))


def test_the_parts_of_arrays_of_other_libraries_cannot_be_written():
    xp = pytest.importorskip("array_api_strict")
    w = xp.ones((2, 2), dtype=xp.complex64)
    with pytest.raises(TypeError, match=r"leave complex=.modulus., or convert it"):
        Adam(complex="pairs").update(w, xp.ones((2, 2), dtype=xp.complex64))


def test_gradients_of_jax_are_conjugates(jax):
    from instep import SGD, chain
    from instep.transforms import conjugate

    loss = lambda z: jax.numpy.abs(z - (1 + 2j)) ** 2  # noqa: E731
    params, optimizer = {"z": jax.numpy.asarray(0j)}, chain(conjugate(), SGD(lr=0.5))
    optimizer.update(params, {"z": jax.grad(loss)(params["z"])})
    assert complex(params["z"]) == 1 + 2j


def test_gradients_of_torch_are_directions_of_steepest_ascent(torch):
    from instep import SGD

    z = torch.zeros((), dtype=torch.complex128, requires_grad=True)
    ((z - (1 + 2j)).abs() ** 2).backward()
    w = SGD(lr=0.5).update(z.detach(), z.grad)
    assert complex(w) == 1 + 2j
