"""The reference engine on the arrays of other libraries gives the bits of NumPy.

Where a library itself deviates, a test shows the very operation.
"""

import importlib
import subprocess
import sys

import bits
import cases
import numpy as np
import pytest
from cases import Case

from instep import Adam, Momentum, Optimizer
from instep.arrays import to_numpy

STEPS = 20


def starts(dtype):
    rng = np.random.default_rng(0)
    return {"a": bits.ordinary(rng, (33, 7), dtype), "b": bits.ordinary(rng, (), dtype)}


def gradients_of(dtype):
    rng = np.random.default_rng(1)
    return [
        {name: bits.ordinary(rng, w.shape, dtype) for name, w in starts(dtype).items()}
        for _ in range(STEPS)
    ]


def run(case, dtype, array):
    """Take steps on arrays that `array` makes; return parameters and state as NumPy arrays."""
    params = {name: array(w) for name, w in starts(dtype).items()}
    optimizer = case.make(engine="array_api")
    optimizer.lr = cases.changing(optimizer.lr)
    for grads in gradients_of(dtype):
        params = optimizer.update(params, {name: array(g) for name, g in grads.items()})
    states = optimizer.state_dict()["states"]
    found = {name: to_numpy(w) for name, w in params.items()}
    return found | {(key, slot): x for key in states for slot, x in states[key]["slots"].items()}


def skip_cupy(xp):
    if "cupy" in xp.__name__:
        pytest.skip("CuPy arrays have an engine of their own")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "case",
    [case for case in cases.CLASSES if case.exact],
    ids=lambda case: case.optimizer.__name__,
)
def test_a_step_gives_the_same_bits_on_every_library(case, dtype, xp):
    skip_cupy(xp)
    got = run(case, dtype, xp.asarray)
    expected = run(case, dtype, np.array)
    assert got.keys() == expected.keys()
    for name, array in expected.items():
        bits.assert_same_bits(got[name], array, f"{case}: {name}")


def test_float16_is_computed_in_float32_on_every_library_that_has_it(xp):
    skip_cupy(xp)
    if "strict" in xp.__name__:
        pytest.skip("array-api-strict has no float16")
    got = run(Case(Adam, None), "float16", xp.asarray)
    for name, array in run(Case(Adam, None), "float16", np.array).items():
        bits.assert_same_bits(got[name], array, str(name))


@pytest.mark.peers
class TestTorch:
    """Tensors of torch."""

    @pytest.fixture
    def torch(self):
        return pytest.importorskip("torch")

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_a_square_root_is_not_rounded_exactly(self, torch, dtype):
        """It goes through a vector library whose error is below one unit in the last place.

        So `xp.sqrt` in a rule is not torch's own.
        """
        x = np.random.default_rng(0).uniform(1.0, 4.0, size=100_000).astype(dtype)
        root, exact = torch.sqrt(torch.asarray(x)).numpy(), np.sqrt(x)
        # True for all x86 builds with MKL; a build that rounds exactly is as welcome.
        assert np.max(np.abs(root - exact) / np.spacing(exact)) <= 1.0

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    @pytest.mark.parametrize(
        "operation", ["add", "subtract", "multiply", "divide", "divide number"]
    )
    def test_the_other_operations_are_rounded_exactly(self, torch, operation, dtype):
        rng = np.random.default_rng(0)
        x, y = (
            np.concatenate([bits.wild(rng, 5000, dtype), bits.special_values(dtype)]) for _ in "xy"
        )
        a, b = torch.asarray(x), torch.asarray(y)
        with np.errstate(all="ignore"):
            expected, got = {
                "add": lambda: (x + y, a + b),
                "subtract": lambda: (x - y, a - b),
                "multiply": lambda: (x * y, a * b),
                "divide": lambda: (x / y, a / b),
                "divide number": lambda: (x / 0.1, a / 0.1),
            }[operation]()
        bits.assert_same_bits(got.numpy(), expected)

    def test_a_number_divided_by_a_tensor_is_not_rounded_exactly(self, torch):
        """It multiplies by the reciprocal: a rule should divide an array by an array."""
        x = np.linspace(1.0, 2.0, 1000)
        assert (np.abs((0.1 / torch.asarray(x)).numpy() - 0.1 / x) <= 2 * np.spacing(0.1 / x)).all()

    def test_a_parameter_that_requires_grad_is_refused(self, torch):
        w = torch.ones(3, requires_grad=True)
        with pytest.raises(
            ValueError, match=r"params\['a b'\] requires grad.*\['a b'\]\.detach\(\)"
        ):
            Adam().update({"a b": w}, {"a b": torch.ones(3)})
        params = {"a b": w.detach()}
        Momentum(lr=0.5).update(params, {"a b": torch.ones(3)})
        assert w.tolist() == [0.5] * 3, "detach shares the memory"

    def test_a_gradient_that_requires_grad_is_refused(self, torch):
        w, g = torch.ones(3), torch.ones(3, requires_grad=True)
        with pytest.raises(ValueError, match=r"grads\['w'\] requires grad.*detach"):
            Adam().update({"w": w}, {"w": g})
        assert w.tolist() == [1.0] * 3

    def test_a_module_is_trained_through_its_gradients(self, torch):
        parameter = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
        optimizer = Momentum(lr=0.25)
        for _ in range(2):
            parameter.grad = None
            (parameter * parameter).sum().backward()
            optimizer.update({"p": parameter.detach()}, {"p": parameter.grad})
        # v: -0.25 * 2 = -0.5, then 0.9 * -0.5 - 0.25 * 1 = -0.7; the second is twice the first.
        assert parameter.tolist() == pytest.approx([-0.2, -0.4])

    def test_an_expanded_parameter_is_refused(self, torch):
        w = torch.ones(1).expand(3)
        with pytest.raises(ValueError, match=r"params is .*share memory"):
            Adam().update(w, torch.ones(3))

    def test_views_are_updated_in_place(self, torch):
        room = torch.zeros(3, 4, dtype=torch.float64)
        Momentum(lr=1.0).update(room.T[::2], torch.ones(2, 3, dtype=torch.float64))
        assert room.tolist() == [[-1.0, 0.0, -1.0, 0.0]] * 3

    def test_overlapping_tensors_are_refused(self, torch):
        room = torch.ones(5)
        with pytest.raises(ValueError, match="share memory"):
            Adam().update([room[:3], room[2:]], [torch.ones(3), torch.ones(3)])
        assert room.tolist() == [1.0] * 5


JAX_PROGRAM = """
import os
os.environ.update(JAX_ENABLE_X64="1", JAX_PLATFORMS="cpu")
os.environ.pop("XLA_FLAGS", None)
import jax.numpy as jnp, numpy as np
x = np.random.default_rng(0).uniform(1.0, 2.0, size=10_000)
print(int((np.asarray(jnp.asarray(x) / 0.1) != x / 0.1).sum()))
print(int((np.asarray(jnp.asarray(x) / 0.1) != x * (1 / 0.1)).sum()))
least = jnp.asarray(np.array([5e-324]))
print(float((least + least)[0]))
"""


@pytest.mark.peers
class TestJAX:
    """Arrays of JAX, operated on eagerly."""

    @pytest.fixture
    def jnp(self):
        return pytest.importorskip("jax.numpy")

    def test_xla_divides_by_a_number_as_multiplying_by_its_reciprocal(self, jnp):
        """Unless XLA_FLAGS=--xla_disable_hlo_passes=algsimp is set, as it is in these tests."""
        result = subprocess.run(
            [sys.executable, "-c", JAX_PROGRAM], capture_output=True, text=True, check=True
        ).stdout.split()
        differing_from_division, differing_from_reciprocal = int(result[0]), int(result[1])
        assert differing_from_division > 1000
        assert differing_from_reciprocal == 0
        x = np.random.default_rng(0).uniform(1.0, 2.0, size=10_000)
        bits.assert_same_bits(jnp.asarray(x) / 0.1, x / 0.1)

    def test_xla_takes_subnormal_numbers_for_zero(self, jnp):
        for dtype in ("float32", "float64"):
            least = np.array([np.finfo(dtype).smallest_subnormal])
            assert (least + least)[0] > 0
            assert float((jnp.asarray(least) + jnp.asarray(least))[0]) == 0.0

    def test_the_other_operations_are_rounded_exactly(self, jnp):
        for dtype in ("float32", "float64"):
            rng = np.random.default_rng(0)
            x, y = (bits.ordinary(rng, 5000, dtype) for _ in "xy")
            a, b = jnp.asarray(x), jnp.asarray(y)
            for got, expected in [
                (a + b, x + y),
                (a - b, x - y),
                (a * b, x * y),
                (a / b, x / y),
                (jnp.sqrt(abs(a)), np.sqrt(abs(x))),
            ]:
                bits.assert_same_bits(got, expected)


def test_trees_of_several_libraries_are_updated_together(xp):
    skip_cupy(xp)
    params = {"here": np.ones(3), "there": xp.ones(3, dtype=xp.float64)}
    optimizer = Momentum(lr=0.5)
    for _ in range(2):
        grads = {"here": np.ones(3), "there": xp.ones(3, dtype=xp.float64)}
        params = optimizer.update(params, grads)
    bits.assert_same_bits(to_numpy(params["there"]), params["here"])


def test_state_moves_between_libraries(xp):
    skip_cupy(xp)
    optimizer = Adam(lr=0.5)
    w = np.ones(3)
    optimizer.update({"w": w}, {"w": np.ones(3)})
    moved = Adam().load_state_dict(optimizer.state_dict())
    there = moved.update({"w": xp.asarray(w.copy())}, {"w": xp.ones(3, dtype=xp.float64) * 2})
    optimizer.update({"w": w}, {"w": np.ones(3) * 2})
    bits.assert_same_bits(to_numpy(there["w"]), w)
    assert moved.t == 2


def test_every_function_that_a_rule_may_call_works_on_every_library(xp):
    skip_cupy(xp)
    operations = importlib.import_module("test_operations")
    rng = np.random.default_rng(0)
    w, g = (bits.ordinary(rng, 50, "float32") for _ in "wg")
    with np.errstate(all="ignore"):
        for name, expression in operations.EXPRESSIONS.items():
            rule = operations.optimizer_of(expression)
            assert issubclass(rule, Optimizer)
            here = w.copy()
            rule(engine="array_api").update(here, g)
            there = to_numpy(rule().update(xp.asarray(w.copy()), xp.asarray(g)))
            # Two units for what the tests above show.
            assert np.isfinite(here).tolist() == np.isfinite(there).tolist(), name
            finite = np.isfinite(here)
            np.testing.assert_array_max_ulp(there[finite], here[finite], maxulp=2)
