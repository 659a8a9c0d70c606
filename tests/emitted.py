"""Rules whose emitted code the tests look at."""

from functools import partial

from instep import LAMB, Adam, AdamW, Momentum, NovoGrad, chain, transforms
from instep.engines.cuda.emit import emit
from instep.graph.program import Program
from instep.graph.rows import Group
from instep.state import History


def passes(optimizer, dtype, shape=(4,), step=1):
    """Return the graphs of an optimizer at a step, in the order in which they run."""
    program = Program(optimizer)
    flags = program.row(step, Group({}, 0, History(0, program.memory()))).flags
    return program.for_shape(shape).passes(dtype, flags)


def clipped(**settings):
    """Return an optimizer with a sum over the tree."""
    rules = transforms.clip_by_global_norm(1.0), AdamW(), transforms.average(0.999)
    return chain(*rules, **settings)


def guarded(**settings):
    """Return an optimizer whose steps a device may turn away."""
    return chain(transforms.skip_nonfinite(), Momentum(), **settings)


def scaled(**settings):
    """Return an optimizer with numbers of which some last if a device turns a step away."""
    return chain(transforms.dynamic_scale(), NovoGrad(), **settings)


def fewer(make, state_dtype):
    """Return what makes an optimizer with state in fewer bits, of parameters of any size."""
    return partial(make, state_dtype=state_dtype, min_float8_size=0)


#: name of the file -> (optimizer, dtype, pass, whether strided)
SHOWN = {
    "Adam_float32": (Adam, "float32", 0, False),
    "Adam_float32_strided": (Adam, "float32", 0, True),
    "Adam_float16": (Adam, "float16", 0, False),
    "Adam_complex64": (Adam, "complex64", 0, False),
    "Momentum_float64": (Momentum, "float64", 0, False),
    "LAMB_float32_sums": (LAMB, "float32", 0, False),
    "LAMB_float32": (LAMB, "float32", 1, False),
    "Chain_float16_sums_strided": (clipped, "float16", 0, True),
    "Chain_float32_sums": (clipped, "float32", 0, False),
    "Chain_float32": (clipped, "float32", 1, False),
    "Guarded_float32_sums": (guarded, "float32", 0, False),
    "Guarded_float32": (guarded, "float32", 1, False),
    "Adam_float32_float8": (fewer(Adam, "float8"), "float32", 0, False),
    "Adam_float32_float8_strided": (fewer(Adam, "float8"), "float32", 0, True),
    "Momentum_float32_bfloat16": (fewer(Momentum, "bfloat16"), "float32", 0, False),
    "LAMB_float32_float8_sums": (fewer(LAMB, "float8"), "float32", 0, False),
    "NovoGrad_float32_numbers": (NovoGrad, "float32", 1, False),
    "Scaled_float32_numbers": (scaled, "float32", 1, False),
}


def showcase(name):
    """Return the text that the file of this name holds."""
    make, dtype, number, strided = SHOWN[name]
    graph = passes(make(), dtype)[number]
    return emit(graph.remembers if name.endswith("_numbers") else graph, strided=strided)
