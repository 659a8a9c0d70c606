"""Tracing a rule into a graph, the passes over graphs, and what cannot be fused."""

import numpy as np
import pytest

from instep import Adam, AdamW, Momentum, Optimizer, RMSProp
from instep.graph import FusionError, Node, Scalar, cut, prune, trace
from instep.graph.kept import Fewer
from instep.graph.program import Program


def graph_of(rule, dtype="float32", hyperparameters=("lr", "t"), slots=("m",), options=None):
    return trace(
        rule,
        name="Test",
        hyperparameters=hyperparameters,
        options=options or {},
        keeping=Fewer().keeping(dtype, slots, ()),
    )


def operations(graph):
    return [node.operation for node in graph.nodes]


def passes_of(optimizer, dtype="float32"):
    return Program(optimizer).passes(dtype, ())


def test_arithmetic_on_hyperparameters_is_a_host_expression():
    graph = graph_of(lambda xp, w, g, s, h: (w - (h.lr / (1 - 0.9**h.t)) * g, {}))
    assert graph.scalars == (Scalar("(lr / (1 - (0.9 ** t)))", "float32"),)
    assert operations(graph).count("scalar") == 1
    assert sorted(operations(graph)) == ["load", "load", "multiply", "scalar", "subtract"]


def test_hyperparameters_are_never_folded_into_a_graph():
    assert passes_of(Adam(lr=0.1)) == passes_of(Adam(lr=0.2, beta1=0.5))
    assert passes_of(Adam(lr=0.1)) == passes_of(Adam(lr=lambda t: 1 / t))


def test_equal_operations_are_one_node():
    def rule(xp, w, g, s, h):
        return w - h.lr * (g * g) - h.lr * (g * g), {}

    graph = graph_of(rule)
    assert operations(graph).count("multiply") == 2
    assert operations(graph).count("load") == 2


def test_operands_are_not_reordered():
    """a * b and b * a are equal, but a sign of NaN or of an error in a rule should stay visible."""
    graph = graph_of(lambda xp, w, g, s, h: (w * g - g * w, {}))
    assert operations(graph).count("multiply") == 2


def test_zeros_of_both_signs_are_different_constants():
    graph = graph_of(lambda xp, w, g, s, h: (xp.where(w > 0, 0.0, -0.0), {}))
    constants = {repr(node.value) for node in graph.nodes if node.operation == "constant"}
    assert constants == {"0.0", "-0.0"}


def test_numbers_and_booleans_are_different_constants():
    def rule(xp, w, g, s, h):
        return xp.where((w > 1) & True, 1.0, w), {}

    graph = graph_of(rule)
    assert {node.dtype for node in graph.nodes if node.operation == "constant"} == {
        "bool",
        "float32",
    }


def test_dead_code_is_removed():
    def rule(xp, w, g, s, h):
        xp.sqrt(g)  # nobody looks at it
        return w - g, {"m": s.m}

    graph = graph_of(rule)
    assert "sqrt" not in operations(graph)
    assert [array.name for array in graph.stored] == ["w"], "a store of what was loaded"
    assert [array.name for array in graph.loaded] == ["w", "g"]
    assert prune(graph) == graph


def test_a_slot_that_is_not_returned_is_not_written():
    graph = graph_of(lambda xp, w, g, s, h: (w - s.m * g, {}))
    assert [array.name for array in graph.stored] == ["w"]


@pytest.mark.parametrize(
    ("optimizer", "float32", "float16"),
    [(Momentum(), 20, 14), (Adam(), 28, 22), (AdamW(), 28, 22), (RMSProp(centered=True), 28, 22)],
    ids=repr,
)
def test_a_step_moves_as_few_bytes_as_the_mathematics_allows(optimizer, float32, float16):
    assert [g.bytes_per_element for g in passes_of(optimizer)] == [float32]
    assert [g.bytes_per_element for g in passes_of(optimizer, "float16")] == [float16]


def test_casts_are_nodes():
    graph = graph_of(lambda xp, w, g, s, h: (w - h.lr * g, {"m": s.m + g}), dtype="float16")
    assert [(a.name, a.dtype) for a in graph.arrays] == [
        ("w", "float16"),
        ("g", "float16"),
        ("m", "float32"),
    ]
    assert graph.compute == "float32"
    assert operations(graph).count("cast") == 3, "w and g are widened, w is narrowed"


def test_graphs_can_be_compared_and_hashed():
    one, other = (graph_of(lambda xp, w, g, s, h: (w - g, {})) for _ in range(2))
    assert one == other
    assert hash(one) == hash(other)
    assert one != graph_of(lambda xp, w, g, s, h: (w + g, {}))


def test_a_graph_reads_as_text():
    graph = graph_of(lambda xp, w, g, s, h: (w - h.lr * g, {}))
    lines = str(graph).splitlines()
    assert lines[0] == "Test_float32 (computes in float32)"
    assert "  h0 = lr" in lines
    assert lines[-1].startswith("  store w = %")


# Sums --------------------------------------------------------------------------------------------


def normalized(xp, w, g, s, h):
    norm = xp.sqrt(xp.sum(g * g))
    return w - h.lr * g / norm, {}


def test_a_sum_cuts_a_rule_into_two_passes():
    reducing, storing = cut(graph_of(normalized))
    assert [(s.number, s.scope) for s in reducing.sums] == [(1, "tensor")]
    assert reducing.stores == ()
    assert [a.name for a in reducing.loaded] == ["g"]
    assert storing.sums == ()
    assert [a.name for a in storing.stored] == ["w"]
    assert storing.bytes_per_element == 12


def test_sums_that_do_not_depend_on_each_other_share_a_pass():
    def rule(xp, w, g, s, h):
        return w - g * xp.sum(w) / xp.tree_sum(g), {}

    passes = cut(graph_of(rule))
    assert [len(graph.sums) for graph in passes] == [2, 0]
    assert [s.scope for s in passes[0].sums] == ["tensor", "tree"]


def test_a_sum_of_a_sum_takes_a_pass_more():
    def rule(xp, w, g, s, h):
        mean = xp.sum(g)
        return w - g / xp.sum((g - mean) * (g - mean)), {}

    assert [len(graph.sums) for graph in cut(graph_of(rule))] == [1, 1, 0]


def test_a_sum_that_nobody_uses_takes_no_pass():
    def rule(xp, w, g, s, h):
        xp.sum(g)
        return w - g, {}

    assert len(cut(graph_of(rule))) == 1


def test_what_a_sum_alone_decides_is_uniform():
    _, storing = cut(graph_of(normalized))
    uniform = {storing.nodes[i].operation for i in storing.uniform}
    assert uniform >= {"reduced", "sqrt", "scalar"}
    assert "divide" not in uniform


# What cannot be fused ---------------------------------------------------------------------------


def branching(xp, w, g, s, h):
    return (w - g if xp.norm(g) > 0 else w), {}


def branching_on_a_number(xp, w, g, s, h):
    return (w - g if h.lr > 0 else w), {}


def converting(xp, w, g, s, h):
    return w - float(xp.norm(g)), {}


UNFUSABLE = {
    "exp": (lambda xp, w, g, s, h: (w - xp.exp(g), {}), "xp.exp", "rounded exactly"),
    "power of an array": (lambda xp, w, g, s, h: (w - g**3, {}), "power 3", "multiplications"),
    "root as a power": (lambda xp, w, g, s, h: (w - g**0.5, {}), "power 0.5", "multiplications"),
    "array as a power": (lambda xp, w, g, s, h: (w - 2.0**g, {}), "power of an array", "exactly"),
    "branch": (branching, "branches on the value of an array", "xp.where"),
    "branch on a number": (branching_on_a_number, "value of the hyperparameter", "scalars"),
    "float": (converting, "makes a number of Python", "functions of xp"),
    "attribute": (lambda xp, w, g, s, h: (w - g.T, {}), "attribute 'T'", "same element"),
    "index": (lambda xp, w, g, s, h: (w - g[0], {}), "indexes an array", "same element"),
    "matrix product": (lambda xp, w, g, s, h: (w @ g, {}), "", ""),
    "axis": (lambda xp, w, g, s, h: (w - xp.sum(g, axis=0), {}), "axis", "whole array"),
    "mean": (lambda xp, w, g, s, h: (w - xp.mean(g), {}), "xp.mean", "rounded exactly"),
    "integers": (lambda xp, w, g, s, h: (xp.astype(w, "int32"), {}), "int32", "xp.float32"),
    "NumPy array": (lambda xp, w, g, s, h: (w - np.ones(3), {}), "ndarray", "numbers"),
    "boolean as a number": (lambda xp, w, g, s, h: (w - (g > 0) * w, {}), "boolean", "xp.where"),
    "number as a boolean": (
        lambda xp, w, g, s, h: (xp.where(g, w, 0.0), {}),
        "not boolean",
        "compare",
    ),
    "logical of numbers": (lambda xp, w, g, s, h: (w & g, {}), "logical_and", "comparisons"),
    "in place": (lambda xp, w, g, s, h: (w.__isub__(g), {}), "in place", "x = x + y"),
    "assignment": (lambda xp, w, g, s, h: (w.__setitem__(0, g), {}), "in place", "x = x + y"),
    "boolean result": (lambda xp, w, g, s, h: (w > g, {}), "boolean", "real numbers"),
}


@pytest.mark.parametrize("kind", UNFUSABLE)
def test_what_cannot_be_fused_is_named_with_the_way_out(kind):
    rule, what, remedy = UNFUSABLE[kind]
    with pytest.raises(TypeError) as caught:
        graph_of(rule)
    text = str(caught.value)
    if kind == "matrix product":
        assert "@" in text or "matmul" in text
        return
    assert isinstance(caught.value, FusionError)
    assert text.startswith("Test.rule cannot be fused: "), text
    assert what in text
    assert remedy in text
    assert text.endswith('or run the rule as it is with engine="array_api"'), text


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (
            lambda xp, w, g, s, h: (w - h.rate, {}),
            "reads the hyperparameter 'rate'.*there are lr, t",
        ),
        (lambda xp, w, g, s, h: (w - s.v, {}), "reads the slot 'v'.*there are m"),
    ],
)
def test_a_mistyped_name_in_a_rule_is_an_error_with_the_names_that_exist(rule, message):
    with pytest.raises(AttributeError, match=message):
        graph_of(rule)


def failing(xp, w, g, s, h):
    raise RuntimeError("mine")


def test_what_a_rule_raises_is_named_with_its_line():
    with pytest.raises(FusionError, match=r"it raises RuntimeError: mine \(test_graph") as caught:
        graph_of(failing)
    line = failing.__code__.co_firstlineno + 1
    assert f"(test_graph.py, line {line})" in str(caught.value)
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_options_may_be_branched_on():
    def rule(xp, w, g, s, h):
        return (w - g if h.option else w + g), {}

    graphs = [graph_of(rule, options={"option": value}) for value in (True, False)]
    assert ["subtract" in operations(graph) for graph in graphs] == [True, False]


def test_a_node_is_data():
    assert Node("add", (0, 1), "float32") == Node("add", (0, 1), "float32", None)
    with pytest.raises(AttributeError):
        Node("add", (0, 1), "float32").operation = "subtract"


def test_a_slot_name_in_a_host_expression_is_no_code():
    """Host expressions are compiled: names of hyperparameters are identifiers of Python."""

    class Odd(Optimizer):
        lr: float = 0.1
        lambda_: float = 0.5

        @staticmethod
        def rule(xp, w, g, s, h):
            return w - h.lr * h.lambda_ * g, {}

    w = np.ones(2)
    Odd().update(w, np.ones(2))
    assert w.tolist() == [0.95, 0.95]
