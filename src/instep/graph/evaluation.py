"""Host expressions, compiled: from the numbers of a step to the scalars of a graph."""

import ast
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from instep.correctly_rounded import GLOBALS, LookUpPowers, names_in
from instep.graph.host_expressions import CALLABLE, no_value

#: What is called by the source of host expressions. Round brackets, which no identifier holds,
#: keep them apart from hyperparameters, whatever these are called.
_GLOBALS = {f"{name}()": function for name, function in CALLABLE.items()}

#: Functions that give a float whatever they are given.
_FLOAT = frozenset({"float", "xp.sqrt", "xp.floor", "xp.ceil", "xp.trunc", "xp.round"})

_ERRORS = (ArithmeticError, ValueError, TypeError)


@cache
def compile_expressions(
    owner: str,
    names: tuple[str, ...],
    sources: tuple[str, ...],
    integers: tuple[str, ...],
    floats: bool = True,
) -> Callable[..., tuple[Any, ...]]:
    """Return the function from the numbers of a row to the values of `sources`.

    Parameters
    ----------
    owner
        Name of the rule, for messages.
    names
        What the numbers are called in the sources.
    sources
        Host expressions.
    integers
        Those names whose numbers are integers.
    floats
        Whether every value is to be a float, or may be an int, as the number of the step is.
    """

    def explained(numbers: tuple[float, ...]) -> Exception:
        for source in sources:
            try:
                (value,) = _compile(names, (source,), integers, False, None)(*numbers)
                float(value)
            except _ERRORS as error:
                used = names_in(ast.parse(source))
                pairs = zip(names, numbers, strict=True)
                given = ", ".join(f"{name}={number!r}" for name, number in pairs if name in used)
                return no_value(owner, f"{source}{f' with {given}' if given else ''}", error)
        raise AssertionError(sources)

    evaluate = _compile(names, sources, integers, floats, explained)
    if floats:
        _RECIPES[evaluate] = names, sources, integers, explained
    return evaluate


def known_but_steps(
    evaluate: Callable[..., tuple[float, ...]], numbers: Sequence[float | None]
) -> Callable[[int], tuple[float, ...]]:
    """Return what is left of `compile_expressions`, where only the number of the step is not known.

    It takes less than half the time. `numbers` have None in its place, and in each place where
    several rules have their own: they are to be the same. The others have given values before.
    """
    others = [number for number in numbers if number is not None]
    return _factory(*_RECIPES[evaluate])(*others)


@cache
def _factory(
    names: tuple[str, ...],
    sources: tuple[str, ...],
    integers: tuple[str, ...],
    explained: Callable[[tuple[float, ...]], Exception],
) -> Callable[..., Callable[[int], tuple[float, ...]]]:
    """Return the function from all numbers but that of the step to the function of this."""
    prefix = "_" * (1 + max(map(len, names)))  # no name begins with it
    known, values = [], []
    for i, source in enumerate(sources):
        is_known = names_in(ast.parse(source)).isdisjoint(integers)
        known += [f"{prefix}known_{i} = float({source})"] * is_known
        values.append(f"{prefix}known_{i}" if is_known else source)
    lines = [
        f"def factory({', '.join(one for one in names if one not in integers)}):",
        *known,
        f"def evaluate({integers[0]}):",
        f"    {' = '.join((*integers[1:], integers[0]))}",
        *_explaining(values, names),
        "return evaluate",
    ]
    text = "\n    ".join(lines)
    found: Callable[..., Callable[[int], tuple[float, ...]]]
    found = _executed(text, integers, explained, floats=True, prefix=prefix)["factory"]
    return found


#: What functions of host expressions were made from.
_RECIPES: dict[Any, tuple[Any, ...]] = {}


@cache
def compile_sources(
    names: tuple[str, ...], sources: tuple[str, ...], integers: tuple[str, ...]
) -> Callable[..., tuple[Any, ...]]:
    """Return the function from these numbers to the values of `sources`, with Python's errors."""
    return _compile(names, sources, integers, False, None)


def _compile(
    names: tuple[str, ...],
    sources: tuple[str, ...],
    integers: tuple[str, ...],
    floats: bool,
    explained: Callable[[tuple[float, ...]], Exception] | None,
) -> Callable[..., tuple[Any, ...]]:
    head = f"def evaluate({', '.join(names)}):"
    body = [f"    return {_tuple(sources)}"] if explained is None else _explaining(sources, names)
    text = "\n".join([head, *body])
    function: Callable[..., tuple[Any, ...]]
    function = _executed(text, integers, explained, floats=floats)["evaluate"]
    return function


def _explaining(values: Sequence[str], numbers: Sequence[str]) -> list[str]:
    """Return the lines that return values, or raise what says where there is one without."""
    return [  # the way by an exception costs nothing where none is raised
        "    try:",
        f"        return {_tuple(values)}",
        "    except errors():",
        f"        raise explained({_tuple(numbers)})",
    ]


def _tuple(sources: Sequence[str]) -> str:
    return f"({''.join(source + ', ' for source in sources)})"


def _executed(
    text: str,
    integers: tuple[str, ...],
    explained: Callable[[tuple[float, ...]], Exception] | None,
    *,
    floats: bool,
    prefix: str = "",
) -> dict[str, Any]:
    """Return what a text with host expressions in it defines.

    With a prefix, the function in it first finds the tables of powers that the one within looks up.
    """
    tree = ast.parse(text)
    if floats:
        _Floats(frozenset(integers)).visit(tree)
    look_up = LookUpPowers(integers, prefix)
    tree = look_up.visit(_Calls().visit(tree))
    tree.body[0].body[:0] = [
        ast.Assign([ast.Name(f"{prefix}{i}", ast.Store())], table)
        for i, table in enumerate(look_up.tables, 1)
    ]
    known = {**_GLOBALS, **GLOBALS, "errors()": lambda: _ERRORS, "explained()": explained}
    exec(compile(ast.fix_missing_locations(tree), "<host expressions>", "exec"), known)
    return known


class _Floats(ast.NodeTransformer):
    """Makes those values floats that may be ints: only step numbers and literals are."""

    def __init__(self, steps: frozenset[str]) -> None:
        self._steps = steps

    def visit_Return(self, node: ast.Return) -> ast.Return:
        if not isinstance(node.value, ast.Tuple):
            return node
        node.value.elts = [
            value if self._is_float(value) else ast.Call(ast.Name("float", ast.Load()), [value], [])
            for value in node.value.elts
        ]
        return node

    def _is_float(self, node: ast.expr) -> bool:
        match node:
            case ast.Constant():
                return isinstance(node.value, float)
            case ast.Name():
                return node.id not in self._steps
            case ast.UnaryOp():
                return self._is_float(node.operand)
            case ast.BinOp():
                divides = isinstance(node.op, ast.Div)
                return divides or self._is_float(node.left) or self._is_float(node.right)
            case ast.Call():
                return ast.unparse(node.func) in _FLOAT
        return False


class _Calls(ast.NodeTransformer):
    """Gives what is called a name that no hyperparameter can have."""

    def visit_Call(self, node: ast.Call) -> ast.Call:
        self.generic_visit(node)
        node.func = ast.Name(f"{ast.unparse(node.func)}()", ast.Load())
        return node
