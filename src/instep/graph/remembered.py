"""Numbers that a rule remembers from step to step, or lets be read, made of what sums leave."""

from collections.abc import Iterator, Mapping
from typing import Any

from instep.graph.errors import RuleError
from instep.graph.nodes import Reading, Remembered, sum_kind, sum_scope
from instep.graph.pairs import Pair
from instep.graph.recorder import Recorder
from instep.graph.symbols import TracedArray

#: What graphs call the value of the objective: a number that a step is given, and does not make.
OBJECTIVE = "h.value"

#: And what they call the place of a tensor, of which its random numbers are made.
PLACE = "h.place"

#: Both are no state.
GIVEN = frozenset({OBJECTIVE, PLACE})


def read(recorder: Recorder, numbers: Mapping[str, int]) -> dict[str, TracedArray]:
    """Return the numbers as the rule sees them: what they were before the step."""
    recorder.numbers += numbers.values()
    found = {
        name: recorder.add("reduced", (), "float64", number) for name, number in numbers.items()
    }
    recorder.place = found.get(PLACE)
    return found


def keep(recorder: Recorder, numbers: Mapping[str, int], returned: Mapping[str, Any]) -> None:
    """Record what the rule has returned for the numbers."""
    for name, number in numbers.items():
        if name in returned and name not in GIVEN:
            x = _number(recorder, name, returned[name])
            if sum_scope(number) == "tree" and "tensor" in map(sum_scope, _sums(recorder, x)):
                raise tensor_for_tree(recorder.rule, name)
            node = recorder.nodes[x.position]
            if (node.operation, node.value) != ("reduced", number):
                recorder.remembered.append(Remembered(name, number, x.position))


def let_read(recorder: Recorder, scopes: Mapping[str, str], returned: Mapping[str, Any]) -> None:
    """Record what the rule has returned to be read, given the scopes of these numbers."""
    for name in (name for name in scopes if name in returned):
        x = _number(recorder, name, returned[name])
        for number in _sums(recorder, x):
            if sum_kind(number) == "remembered":
                raise RuleError(
                    f"{recorder.rule}.rule: {name!r} is to be read, and is made of what steps "
                    f"before have left, or of h.value; make it of sums of this step and of "
                    f"hyperparameters, or remember it, as one of the numbers"
                )
            if (scopes[name], sum_scope(number)) == ("tree", "tensor"):
                raise tensor_for_tree(recorder.rule, name)
        recorder.readings.append(Reading(name, x.position))


def _number(recorder: Recorder, name: str, value: Any) -> TracedArray:
    if isinstance(value, Pair):
        raise array_for_number(recorder.rule, name)
    x = recorder.array(value, "float64")
    if x.dtype == "bool":
        recorder.fail(f"it returns a boolean for {name!r}", "return real numbers")
    if x.full:
        raise array_for_number(recorder.rule, name)
    return recorder.number(x)


def _sums(recorder: Recorder, x: TracedArray) -> Iterator[int]:
    """Yield the numbers of the sums that a number is made of."""
    pending = [x.position]
    while pending:
        node = recorder.nodes[pending.pop()]
        pending += node.operands
        if node.operation == "reduced":
            yield int(str(node.value))


def array_for_number(rule: str, name: str) -> RuleError:
    """Return the error for an array that a rule returns for a number."""
    return RuleError(
        f"{rule}.rule returns an array for {name!r}, which is one number; sum it, as in xp.sum(x) "
        f"or xp.norm(x), or make {name!r} one of the slots"
    )


def tensor_for_tree(rule: str, name: str) -> RuleError:
    """Return the error for a number of the tree that is made of a number of one tensor."""
    return RuleError(
        f"{rule}.rule: {name!r} is a number of the tree, and is made here of a number of one "
        f"tensor; sum over the tree, with xp.tree_sum(x) or xp.tree_norm(x), or let {name!r} "
        f"be one for each tensor"
    )


def tree_disagrees(rule: str, name: str) -> RuleError:
    """Return the error for a number of the tree of which leaves make different ones."""
    return RuleError(
        f"{rule}.rule: {name!r} is one number of the tree, and it makes another of it for another "
        f"tensor; make it of sums over the tree, with xp.tree_sum(x) or xp.tree_norm(x), and of "
        f"hyperparameters that are the same for all"
    )
