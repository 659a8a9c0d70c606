"""Host expressions, compiled: from the numbers of a step to the scalars of a graph."""

import ast
from collections.abc import Callable
from functools import cache
from typing import Any

from instep.correctly_rounded import GLOBALS, LookUpPowers
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
                used = [
                    node.id for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)
                ]
                pairs = zip(names, numbers, strict=True)
                given = ", ".join(f"{name}={number!r}" for name, number in pairs if name in used)
                return no_value(owner, f"{source}{f' with {given}' if given else ''}", error)
        raise AssertionError(sources)

    return _compile(names, sources, integers, floats, explained)


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
    values = f"({''.join(source + ', ' for source in sources)})"
    text = f"def evaluate({', '.join(names)}):\n    return {values}"
    if explained is not None:
        # The way by an exception costs nothing where none is raised.
        text = (
            f"def evaluate({', '.join(names)}):\n"
            f"    try:\n"
            f"        return {values}\n"
            f"    except errors():\n"
            f"        raise explained(({''.join(name + ', ' for name in names)}))\n"
        )
    tree = ast.parse(text)
    if floats:
        _Floats(frozenset(integers)).visit(tree)
    tree = LookUpPowers(integers).visit(_Calls().visit(tree))
    known = {**_GLOBALS, **GLOBALS, "errors()": lambda: _ERRORS, "explained()": explained}
    exec(compile(ast.fix_missing_locations(tree), "<host expressions>", "exec"), known)
    function: Callable[..., tuple[Any, ...]] = known["evaluate"]
    return function


class _Floats(ast.NodeTransformer):
    """Makes those values floats that may be ints: only step numbers and literals are."""

    def __init__(self, steps: frozenset[str]) -> None:
        self._steps = steps

    def visit_Return(self, node: ast.Return) -> ast.Return:
        assert isinstance(node.value, ast.Tuple)
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
