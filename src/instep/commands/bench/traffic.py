"""The memory traffic of a step, from the graphs of its passes."""

from functools import cache

import numpy as np

from instep.commands.bench.cases import Case, OnePass, optimizer, storage
from instep.graph import Graph


def passes(case: Case) -> tuple[Graph, ...]:
    """Return the passes over memory of the step of a case."""
    graphs = _passes(case.optimizer, case.dtype)
    return (graphs[case.number],) if isinstance(case, OnePass) else graphs


def bytes_per_element(case: Case) -> int:
    """Return what a step reads and writes for an element, in bytes."""
    return round(sum(graph.bytes_per_element for graph in passes(case)))


@cache
def _passes(name: str, dtype: str) -> tuple[Graph, ...]:
    small = Case(name, ((1,),), "", dtype)
    (bucket,) = optimizer(small).explain(np.zeros(1, storage(dtype))).buckets
    return tuple(bucket.graphs)
