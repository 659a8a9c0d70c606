# ruff: noqa: SLF001  (it looks inside on purpose)
"""The reference engine on the arrays of other libraries gives the bits of NumPy.

Where a library itself deviates, a test shows the very operation.
"""

import importlib
import subprocess
import sys

import bits
import cases
import engine_runs
import numpy as np
import pytest
from cases import Case

from instep import SGD, Adam, Momentum, Optimizer, chain
from instep.arrays import to_numpy
from instep.transforms import average

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
        params = cases.step(optimizer, params, {name: array(g) for name, g in grads.items()})
    states = optimizer.state_dict()["states"]
    found = {name: to_numpy(w) for name, w in params.items()}
    return found | {(key, slot): x for key in states for slot, x in states[key]["slots"].items()}


def skip_cupy(xp):
    if "cupy" in xp.__name__:
        pytest.skip("CuPy arrays have an engine of their own")


@pytest.mark.parametrize(
    ("case", "dtype"),
    [
        pytest.param(case, dtype, id=f"{case.optimizer.__name__}-{dtype}")
        for number, case in enumerate(case for case in cases.CLASSES if case.exact)
        for dtype in (("float32", "complex64"), ("float64", "complex128"))[number % 2]
        if case.moduli or dtype not in bits.COMPLEX
    ],
)
def test_a_step_gives_the_same_bits_on_every_library(case, dtype, xp):
    skip_cupy(xp)
    got = run(case, dtype, xp.asarray)
    expected = run(case, dtype, np.array)
    assert got.keys() == expected.keys()
    for name, array in expected.items():
        bits.assert_same_bits(got[name], array, f"{case}: {name}")


def test_pairs_and_numbers_have_operators_in_place(xp):
    skip_cupy(xp)

    class InPlace(Optimizer):
        lr: float = 0.25

        @staticmethod
        def rule(xp, w, g, s, h):
            step = h.lr
            step *= xp.abs(g)
            w -= step * g
            return w, {}

    w = InPlace(engine="array_api").update(xp.asarray([1 + 1j]), xp.asarray([3 + 4j]))
    assert to_numpy(w).tolist() == [-2.75 - 4j]


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

    @pytest.mark.parametrize("engine", ["auto", "array_api"])
    def test_a_gradient_that_requires_grad_is_read_without_its_graph(self, torch, engine):
        w, g = torch.ones(3), torch.ones(3, requires_grad=True)
        optimizer = Momentum(lr=0.5, momentum=0.0, engine=engine)
        for _ in range(2):
            optimizer.update({"w": w}, {"w": g * 2})
        assert w.tolist() == [-1.0] * 3
        assert not w.requires_grad

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

    def test_the_columns_of_a_tensor_share_no_memory(self, torch):
        room = torch.zeros(4, 6)
        optimizer = Momentum(lr=1.0, momentum=0.0)
        for step in range(3):
            params = [room[:, i] for i in (0, 1, 2)]
            optimizer.update(params, [room[:, 3], torch.ones(4), torch.ones(4) * step])
        assert room.T[:4].tolist() == [[0.0] * 4, [-3.0] * 4, [-3.0] * 4, [0.0] * 4]
        with pytest.raises(ValueError, match=r"params\[0\] and params\[2\] share memory"):
            optimizer.update([room[:, 0], room[:, 1], room[:, :1][:, 0]], [torch.ones(4)] * 3)
        with pytest.raises(ValueError, match="share memory"):
            optimizer.update(params, [torch.ones(4), torch.ones(4), room[:, 1]])
        assert optimizer.t == 3

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


# Arrays that cannot be read or written --------------------------------------------------------


def refuse(params, grads, message, error=(TypeError, ValueError), *, good=None):
    """Raise unless a step on these is refused, by a new optimizer and by one that took steps."""
    for warm in (False, True) if good else (False,):
        optimizer = Momentum(lr=0.5)
        taken = 0
        if warm:
            for _ in range(3):
                optimizer.update(*good())
            taken = 3
        before = {key: slots["v"] for key, slots in engine_runs.slots_of(optimizer).items()}
        with pytest.raises(error, match=message):
            optimizer.update(params, grads)
        assert optimizer.t == taken
        for key, slots in engine_runs.slots_of(optimizer).items():
            bits.assert_same_bits(slots["v"], before[key])


def tensors_that_cannot_be_written():
    """Return {what: (make a tensor of 3 numbers, what the error says)}."""
    torch = importlib.import_module("torch")
    fake = importlib.import_module("torch._subclasses.fake_tensor")

    def inference():
        with torch.inference_mode():
            return torch.zeros(3)

    def released():
        w = torch.zeros(3)
        w.untyped_storage().resize_(0)
        return w

    class Labelled(torch.Tensor):
        pass

    nested = [torch.zeros(1), torch.zeros(2)]
    return {
        "inference": (inference, "is an inference tensor.*clone"),
        "requires grad": (lambda: torch.zeros(3, requires_grad=True), "requires grad.*detach"),
        "view of what requires grad": (
            lambda: torch.zeros(2, 3, requires_grad=True)[0],
            "requires grad.*detach",
        ),
        "expanded": (lambda: torch.zeros(1).expand(3), "share memory.*copy"),
        "windows": (lambda: torch.zeros(5).as_strided((3,), (0,)), "share memory.*copy"),
        "zero": (lambda: torch._efficientzerotensor(3), "without memory of its own.*clone"),
        "subclass": (lambda: torch.zeros(3).as_subclass(Labelled), "Labelled.*as_subclass"),
        **{
            kind: (make, message)
            for kind, (make, message) in unreadable_tensors(torch, fake, nested, released).items()
        },
    }


def unreadable_tensors(torch, fake, nested, released):
    return {
        "meta": (lambda: torch.zeros(3, device="meta"), "device meta.*no elements.*to_empty"),
        "COO": (lambda: torch.ones(3).to_sparse(), "a sparse_coo tensor.*to_dense"),
        "CSR": (lambda: torch.eye(3).to_sparse_csr(), "a sparse_csr tensor.*to_dense"),
        "MKLDNN": (lambda: torch.zeros(3).to_mkldnn(), "a mkldnn tensor.*to_dense"),
        "nested": (lambda: torch.nested.nested_tensor(nested), "a nested tensor.*unbind"),
        "jagged": (
            lambda: torch.nested.nested_tensor(nested, layout=torch.jagged),
            "NestedTensor|a nested tensor",
        ),
        "quantized": (
            lambda: torch.quantize_per_tensor(torch.zeros(3), 0.1, 0, torch.qint8),
            "a quantized tensor.*dequantize",
        ),
        "released": (released, "memory has been released"),
        "fake": (
            lambda: fake.FakeTensorMode().from_tensor(torch.zeros(3)),
            r"traced by torch \(FakeTensor\).*outside of the function",
        ),
    }


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore")  # torch warns of kinds of tensors that may change
class TestTensorsOfOtherKinds:
    """What a tensor of torch can be beside elements in memory that can be read and written."""

    @pytest.fixture
    def torch(self):
        return pytest.importorskip("torch")

    def test_a_tensor_that_cannot_be_written_is_refused_before_anything_changes(self, torch):
        for kind, (make, message) in tensors_that_cannot_be_written().items():
            a, w = torch.zeros(3), make()
            refuse(
                {"a": a, "b": w},
                {"a": torch.ones(3), "b": torch.ones(3)},
                rf"params\['b'\].*({message})",
                good=lambda: (
                    {"a": torch.zeros(3), "b": torch.zeros(3)},
                    {"a": torch.ones(3), "b": torch.ones(3)},
                ),
            )
            assert a.tolist() == [0.0] * 3, kind

    def test_a_gradient_that_cannot_be_read_is_refused(self, torch):
        kinds = tensors_that_cannot_be_written()
        for kind in ("meta", "COO", "MKLDNN", "nested", "released", "fake", "subclass"):
            make, message = kinds[kind]
            a = torch.zeros(3)
            refuse(
                {"a": a},
                {"a": make()},
                rf"grads\['a'\].*({message})",
                good=lambda: ({"a": torch.zeros(3)}, {"a": torch.ones(3)}),
            )
            assert a.tolist() == [0.0] * 3, kind

    def test_a_gradient_that_can_be_read_is_taken_whatever_else_it_is(self, torch):
        with torch.inference_mode():
            inference = torch.ones(3)
        negated = torch.full((3,), -1j, dtype=torch.complex64).conj().imag
        assert negated.is_neg()
        for g in (inference, torch.ones(1).expand(3), negated, torch.nn.Buffer(torch.ones(3))):
            w, optimizer = torch.zeros(3), Momentum(lr=0.5, momentum=0.0)
            for _ in range(2):
                optimizer.update({"w": w}, {"w": g})
            assert w.tolist() == [-1.0] * 3
        w = torch.zeros(3)
        Momentum(lr=0.5).update(w, torch._efficientzerotensor(3))
        assert w.tolist() == [0.0] * 3

    def test_what_can_be_written_is_written_whatever_else_it_is(self, torch):
        negated = torch.zeros(3, dtype=torch.complex64).conj().imag
        plain = torch.nn.Parameter(torch.zeros(3), requires_grad=False)
        base = torch.zeros(2, 3)
        with torch.inference_mode():
            view = base[1]
        for w in (negated, plain, torch.nn.Buffer(torch.zeros(3)), view):
            optimizer = Momentum(lr=0.5, momentum=0.0)
            for _ in range(2):
                optimizer.update({"w": w}, {"w": torch.ones(3)})
            assert w.tolist() == [-1.0] * 3

    def test_an_inference_tensor_is_written_inside_of_inference_mode(self, torch):
        optimizer = Momentum(lr=0.5, momentum=0.0)
        with torch.inference_mode():
            w = torch.zeros(3)
            for _ in range(2):
                optimizer.update({"w": w}, {"w": torch.ones(3)})
        assert w.tolist() == [-1.0] * 3
        with pytest.raises(ValueError, match="inference tensor"):
            optimizer.update({"w": w}, {"w": torch.ones(3)})
        assert optimizer.t == 2

    @pytest.mark.parametrize("transform", ["vmap", "grad", "functionalize", "jvp"])
    def test_what_functorch_wraps_is_refused(self, torch, transform):
        optimizer, kept = Momentum(lr=0.5), torch.zeros(3)
        optimizer.update({"w": kept}, {"w": torch.ones(3)})

        def step(x):
            for params, grads in (({"w": kept}, {"w": x}), ({"w": x}, {"w": torch.ones(3)})):
                with pytest.raises(TypeError, match=r"\['w'\] is traced by torch.*outside"):
                    optimizer.update(params, grads)
            with pytest.raises(TypeError, match=r"lr must be .*traced by torch"):
                optimizer.lr = x.sum()
            return x.sum()

        if transform == "vmap":
            torch.func.vmap(step)(torch.ones(2, 3))
        elif transform == "jvp":
            torch.func.jvp(step, (torch.ones(3),), (torch.ones(3),))
        else:
            getattr(torch.func, transform)(step)(torch.ones(3))
        optimizer.update({"w": kept}, {"w": torch.ones(3)})
        expected, w = Momentum(lr=0.5), torch.zeros(3)
        for _ in range(2):
            expected.update({"w": w}, {"w": torch.ones(3)})
        assert kept.tolist() == w.tolist()

    def test_a_step_inside_of_a_compiled_function_is_taken_as_outside(self, torch):
        optimizer, expected = Adam(lr=0.1), Adam(lr=0.1)
        step = torch.compile(lambda p, g: optimizer.update(p, g)["w"] * 2, backend="eager")
        params, others = {"w": torch.zeros(3)}, {"w": torch.zeros(3)}
        for t in range(1, 4):
            grads = {"w": torch.full((3,), t * 0.3)}
            doubled = step(params, grads)
            expected.update(others, grads)
            bits.assert_same_bits(params["w"].numpy(), others["w"].numpy())
            assert doubled.tolist() == (2 * others["w"]).tolist()
        assert optimizer.t == 3


@pytest.mark.peers
def test_parameters_come_back_into_a_tree_that_has_changed_meanwhile():
    ones = pytest.importorskip("jax.numpy").ones

    def tree(n):
        return {"a": ones(2), "b": [ones(2), ones(3)], "c": (ones(2), {"d": ones(1)}), "n": n}

    optimizer, params = chain(SGD(), average(0.5), frozen=("n",)), tree(7)
    for _ in range(2):
        params = optimizer.update(params, tree(None))
    before, a, c, last = str(params), params["a"], params["c"], params["b"][1]
    with optimizer.answer_in_place(params) as answer:
        assert answer is params
        assert str(params) != before
        del params["a"]
        params["b"].pop()
        params |= {"A": 5, "n": 8}
    assert params["a"] is a
    assert params["c"] is c
    assert len(params["b"]) == 1
    assert (params.pop("A"), params["n"]) == (5, 8)
    params["b"].append(last)
    optimizer.update(params, tree(None))
    assert optimizer.t == 3


@pytest.mark.peers
class TestTracersOfJAX:
    """What stands for arrays while JAX transforms a function."""

    @pytest.fixture
    def jax(self):
        return pytest.importorskip("jax")

    @pytest.mark.parametrize("warm", [False, True], ids=["at the first step", "later"])
    @pytest.mark.parametrize("transform", ["jit", "vmap", "grad", "eval_shape", "make_jaxpr"])
    def test_a_tracer_is_refused_and_changes_nothing(self, jax, transform, warm):
        ones = jax.numpy.ones(3)
        optimizer, expected = Momentum(lr=0.5), Momentum(lr=0.5)
        w = reference = jax.numpy.zeros(3)
        for _ in range(3 * warm):
            w, reference = optimizer.update(w, ones), expected.update(reference, ones)
        calls = []

        def step(x):
            calls.append(x)
            for params, grads in (({"w": x}, {"w": ones}), ({"w": w}, {"w": x}), (x, x)):
                with pytest.raises(TypeError, match=r"(params|grads).* is traced by jax.*outside"):
                    optimizer.update(params, grads)
            with pytest.raises(TypeError, match=r"Momentum: lr must be .*traced"):
                optimizer.lr = x.sum()
            optimizer.lr = lambda t: x.sum()
            with pytest.raises(TypeError, match="traced"):
                optimizer.update(w, ones)
            optimizer.lr = 0.5
            return x.sum()

        given = jax.numpy.ones((2, 3)) if transform == "vmap" else ones
        function = getattr(jax, transform)(step, *([given] if transform == "eval_shape" else []))
        if transform != "eval_shape":
            function(given)
        assert calls
        for _ in range(2):
            w, reference = optimizer.update(w, ones), expected.update(reference, ones)
        bits.assert_same_bits(w, reference)
        assert optimizer.t == expected.t

    @pytest.mark.parametrize("warm", [False, True], ids=["at the first step", "later"])
    def test_arrays_that_a_jitted_function_closes_over_are_refused_too(self, jax, warm):
        """They have values, and a step would be taken: once, and not when the function runs."""
        optimizer, w, g = Adam(), jax.numpy.zeros(3), jax.numpy.ones(3)
        for _ in range(3 * warm):
            w = optimizer.update({"w": w}, {"w": g})["w"]
        params = {"w": w}
        with pytest.raises(TypeError, match=r"params\['w'\] is traced by jax.*called by Python"):
            jax.jit(lambda: optimizer.update(params, {"w": g}))()
        assert params["w"] is w
        assert optimizer.t == 3 * warm
        optimizer.update(params, {"w": g})
        assert np.isfinite(np.asarray(params["w"])).all()

    def test_a_deleted_array_is_refused(self, jax):
        def gone():
            x = jax.numpy.ones(3)
            x.delete()
            return x

        good = lambda: ({"w": jax.numpy.zeros(3)}, {"w": jax.numpy.ones(3)})  # noqa: E731
        for params, grads in (({"w": gone()}, good()[1]), (good()[0], {"w": gone()})):
            refuse(params, grads, "has been deleted.*donate", good=good)
