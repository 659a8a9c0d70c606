"""NVRTC's code of every rule for every architecture: exact arithmetic, wide accesses, no spills."""

import re
from collections import Counter

import cases
import machine_code
import pytest
from bits import DTYPES
from emitted import clipped, fewer, guarded, passes
from machine_code import ARCHITECTURES, compile_code, expected_vectors

from instep import LAMB, Adam, Momentum, Optimizer
from instep.engines.cuda.canonical_sum import ADD_UP_KERNELS
from instep.engines.cuda.emit import emit
from instep.engines.cuda.kernel import vector_length
from instep.engines.cuda.verdicts import JUDGE_KERNEL

pytestmark = pytest.mark.skipif(
    machine_code.why_not() is not None, reason=str(machine_code.why_not())
)

OPTIMIZERS = {case.optimizer.__name__: case.make for case in cases.CLASSES}
OPTIMIZERS |= {"Chain": clipped, "Guarded chain": guarded}

every_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)


#: Without sums, with sums over tensors, and over the tree: compiled for each architecture.
EVERYWHERE = ("Adam", "LAMB", "Chain")


def architectures_for(name, dtype):
    """Return the architectures of a kernel: those of one, and of those of a few in float32, all.

    What is wrong with an instruction, or with a rule, is wrong in more than one kernel.
    """
    if name in EVERYWHERE and dtype == "float32":
        return ARCHITECTURES
    number = list(OPTIMIZERS).index(name) + DTYPES.index(dtype)
    return (ARCHITECTURES[number % len(ARCHITECTURES)],)


def is_disassembled(name, dtype):
    """Tell whether a kernel is: each optimizer in one dtype, some in all.

    It takes four times as long as to compile it, and the accesses of two rules hardly ever differ.
    """
    number = list(OPTIMIZERS).index(name)
    return name in EVERYWHERE or DTYPES[number % len(DTYPES)] == dtype


every_disassembled = pytest.mark.parametrize(
    ("name", "dtype"),
    [(name, dtype) for name in OPTIMIZERS for dtype in DTYPES if is_disassembled(name, dtype)],
)


def assert_exact(ptx):
    """Raise if something is contracted, approximated or flushed."""
    instructions = re.findall(r"^\s+(?:@%p\d+ )?(\w[\w.]*)\s", ptx, re.MULTILINE)
    assert any(i.startswith("st.global") for i in instructions), "these are the instructions"
    for instruction in instructions:
        assert not re.match(r"(fma|mad)\.(\w+\.)*f(16|32|64)", instruction), instruction
        assert ".approx" not in instruction
        assert ".ftz" not in instruction
        assert not re.match(r"(div|sqrt|rcp)\.full", instruction), instruction


@every_dtype
@every_optimizer
def test_every_architecture_computes_exactly_and_spills_nothing(name, dtype):
    for graph in passes(OPTIMIZERS[name](), dtype):
        for architecture in architectures_for(name, dtype):
            code = compile_code(emit(graph), architecture)
            assert_exact(code.ptx)
            assert_global(code.ptx)
            assert code.stack == 0


def test_every_architecture_has_rules_of_every_dtype():
    for dtype in DTYPES:
        counts = Counter(arch for name in OPTIMIZERS for arch in architectures_for(name, dtype))
        assert counts.keys() == set(ARCHITECTURES)
        assert min(counts.values()) > 3


@every_disassembled
def test_strided_kernels_compute_exactly_and_spill_nothing(name, dtype):
    for graph in passes(OPTIMIZERS[name](), dtype):
        code = compile_code(emit(graph, strided=True), architectures_for(name, dtype)[0])
        assert_exact(code.ptx)
        assert code.stack == 0
        assert_global(code.ptx)


@pytest.mark.parametrize("dtype", [*DTYPES, "complex64", "complex128"])
@pytest.mark.parametrize("make", [LAMB, clipped], ids=["LAMB", "Chain"])
def test_shared_memory_is_aligned_for_its_widest_access(make, dtype):
    """On a CPU any address will do."""
    for graph in passes(make(), dtype):
        ptx = compile_code(emit(graph, strided=True), "sm_90").ptx
        places = [int(n) for n in re.findall(r"\.shared \.align (\d+)", ptx)]
        accesses = re.findall(r"(?:ld|st)\.shared\.(?:v(\d)\.)?[a-z](\d+)", ptx)
        widest = max(int(count or 1) * int(width) // 8 for count, width in accesses)
        assert max(places) >= widest


class Zeros(Optimizer):
    """Chooses between one and zero, of either sign, also where a negation comes after it."""

    slots = tuple("abcde")

    @staticmethod
    def rule(xp, w, g, s, h):
        found = [xp.where(w < g, 1.0, -0.0), xp.where(w < g, -0.0, 1.0)]
        found += [-xp.where(w < g, -1.0, 0.0), -xp.where(w < g, 0.0, -1.0)]
        found += [xp.where(xp.isnan(w), 1.0, -0.0)]
        return w, dict(zip(Zeros.slots, found, strict=True))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_zeros_keep_their_signs(dtype, architecture):
    """FSET gives 1 or +0, and was seen in the place of a choice between 1 and -0."""
    (graph,) = passes(Zeros(), dtype)
    assert " FSET." not in compile_code(emit(graph), architecture).sass


@every_disassembled
def test_lines_are_walked_in_steps_of_16_bytes(name, dtype):
    for graph in passes(OPTIMIZERS[name](), dtype):
        assert_wide(graph, compile_code(emit(graph), architectures_for(name, dtype)[-1]))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", ["Adam", "Chain"])
def test_lines_are_walked_in_steps_of_16_bytes_on_every_architecture(name, architecture):
    for graph in passes(OPTIMIZERS[name](), "float32"):
        assert_wide(graph, compile_code(emit(graph), architecture))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("state_dtype", ["bfloat16", "float8"])
@pytest.mark.parametrize("make", [Adam, LAMB])
def test_state_in_fewer_bits_computes_exactly_and_spills_nothing(make, state_dtype, architecture):
    """Each pair of two of these, and of a dtype and whether the arrays are strided."""
    number = ARCHITECTURES.index(architecture)
    dtype = [*DTYPES, "complex64", "complex128"][number % 5]
    strided = bool((number + (make is LAMB) + (state_dtype == "float8")) % 2)
    for graph in passes(fewer(make, state_dtype)(), dtype):
        code = compile_code(emit(graph, strided=strided), architecture)
        assert_exact(code.ptx)
        assert code.stack == 0
        assert_global(code.ptx)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_blocks_are_read_and_written_side_by_side(architecture):
    """A thread has four elements of either half: of float32 16 bytes, and 4 of codes."""
    (graph,) = passes(fewer(Adam, "float8")(), "float32")
    memory = compile_code(emit(graph), architecture).memory()
    assert memory["LDG.E.128"] == 2 * 2
    assert memory["STG.E.128"] == 2
    (graph,) = passes(fewer(Momentum, "bfloat16")(), "float32")
    memory = compile_code(emit(graph), architecture).memory()
    assert memory["LDG.E.128"] == 2 * 2
    assert memory["STG.E.64"] == 2 * memory["STG.E.128"] / 2 == 2


def assert_wide(graph, code):
    """Raise if the loop over vectors has other accesses than the graph asks for."""
    loads, stores = expected_vectors(graph, vector_length(graph))
    memory = code.memory()
    if graph.sums:  # the loop is unrolled
        assert memory["LDG.E.128"] % loads == 0
        assert memory["LDG.E.128"] >= loads
    else:
        assert memory["LDG.E.128"] == loads
        assert memory["STG.E.128"] == stores
        assert_nothing_narrow_between_wide(code.sass)
    assert not [name for name in memory if re.match(r"(LD|ST)(\.|$)", name)]


def assert_global(ptx):
    """Raise if there are loads and stores of addresses that may lie in any kind of memory.

    Where PTX names the kind, the machine code does.
    """
    accesses = re.findall(r"^\s+(?:@!?%p\d+ )?((?:ld|st)\.[\w.]+)\s", ptx, re.MULTILINE)
    assert accesses
    for access in accesses:
        assert re.search(r"\.(global|shared|param)\b", access), access


def test_an_address_in_any_kind_of_memory_would_be_noticed():
    text = """
extern "C" __global__ void choose(float* out, int where) {
    __shared__ float near[32];
    near[threadIdx.x] = threadIdx.x;
    float* from = where ? near : out;
    out[threadIdx.x] = from[where];
}
"""
    with pytest.raises(AssertionError, match=r"^ld\.f32"):
        assert_global(compile_code(text, "sm_90").ptx)


@pytest.mark.parametrize(
    "text",
    [*(text for _, text in ADD_UP_KERNELS.values()), JUDGE_KERNEL],
    ids=["sum of a tree", "maximum of a tree", "verdict"],
)
def test_kernels_beside_the_rules_compile_everywhere(text):
    for arch in ARCHITECTURES:
        code = compile_code(text, arch)
        assert_exact(code.ptx)
        assert code.stack == 0


def assert_nothing_narrow_between_wide(sass):
    """Raise if the loop over vectors reaches global memory with fewer than 16 bytes."""
    accesses = re.findall(r"\s((?:LDG|STG)\.[\w.]+)\s", sass)
    wide = [i for i, access in enumerate(accesses) if ".128" in access]
    for access in accesses[wide[0] : wide[-1] + 1]:
        assert ".128" in access


@pytest.mark.parametrize(
    "option", ["--fmad=true", "--ftz=true", "--prec-div=false", "--prec-sqrt=false"]
)
def test_other_options_would_be_noticed(option, monkeypatch):
    """The checks above see what they look for."""
    (graph,) = passes(OPTIMIZERS["Adam"](), "float32")
    name = option.partition("=")[0]
    kept = tuple(entry for entry in machine_code.OPTIONS if not entry.startswith(name))
    monkeypatch.setattr(machine_code, "OPTIONS", (*kept, option))
    code = compile_code.__wrapped__(emit(graph), "sm_90")
    with pytest.raises(AssertionError):
        assert_exact(code.ptx)
