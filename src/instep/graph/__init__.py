"""The graph of a rule: what is computed for one element, apart from how an engine computes it.

`trace` calls a rule with symbolic arrays and records the operations as a `Graph`; `cut` splits a
graph at its sums into passes over memory. Nothing in this package knows an engine.
"""

from instep.graph.errors import FusionError
from instep.graph.nodes import (
    Array,
    Call,
    Graph,
    Node,
    Scalar,
    Store,
    Sum,
    sum_kind,
    sum_number,
    sum_scope,
)
from instep.graph.passes import cut, prune
from instep.graph.trace import trace

__all__ = [
    "Array",
    "Call",
    "FusionError",
    "Graph",
    "Node",
    "Scalar",
    "Store",
    "Sum",
    "cut",
    "prune",
    "sum_kind",
    "sum_number",
    "sum_scope",
    "trace",
]
