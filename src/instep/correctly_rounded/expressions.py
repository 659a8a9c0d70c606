"""Powers in the source text of expressions."""

import ast
from collections.abc import Collection, Mapping
from typing import Any

from instep.correctly_rounded.tables import ROW_BITS, ROW_MASK, power, powers

#: Names that no variable can have.
_POWER, _POWERS = "power()", "powers[]"

#: What the source uses after `LookUpPowers`.
GLOBALS: Mapping[str, Any] = {_POWER: power, _POWERS: powers}


class LookUpPowers(ast.NodeTransformer):
    """Makes ``power(a, b)`` of ``a ** b``.

    Where b is a variable that is always an integer, what `power` does is written out, for the call
    takes longer.

    Parameters
    ----------
    integers
        Names of variables that are always integers.
    prefix
        Of the names of variables that have the tables of bases without integers, if there are any.

    Attributes
    ----------
    tables
        What these variables are to be.
    """

    def __init__(self, integers: Collection[str], prefix: str = "") -> None:
        self._integers, self._prefix = integers, prefix
        self.tables: list[ast.expr] = []

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        """Replace the power of two operands, after those in them."""
        self.generic_visit(node)
        if not isinstance(node.op, ast.Pow):
            return node
        base, exponent = node.left, node.right
        if not (isinstance(exponent, ast.Name) and exponent.id in self._integers):
            return ast.Call(ast.Name(_POWER, ast.Load()), [base, exponent], [])
        row = ast.BinOp(exponent, ast.RShift(), ast.Constant(ROW_BITS))
        place = ast.BinOp(exponent, ast.BitAnd(), ast.Constant(ROW_MASK))
        table: ast.expr = _item(ast.Name(_POWERS, ast.Load()), base)
        if self._prefix and names_in(base).isdisjoint(self._integers):
            self.tables.append(table)
            table = ast.Name(f"{self._prefix}{len(self.tables)}", ast.Load())
        return _item(_item(table, row), place)


def names_in(tree: ast.AST) -> set[str]:
    """Return the names that an expression uses."""
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


def _item(container: ast.expr, key: ast.expr) -> ast.Subscript:
    return ast.Subscript(container, key, ast.Load())
