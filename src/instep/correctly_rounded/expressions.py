"""Powers in the source text of expressions."""

import ast

#: What the dictionary of powers is called there: no variable can have this name.
POWERS = "correctly rounded powers"


class LookUpPowers(ast.NodeTransformer):
    """Makes ``powers[a][b]`` of ``a ** b``.

    That takes as long as the C library's power, and half the time that a call would.
    """

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        """Replace the power of two operands, after those in them."""
        self.generic_visit(node)
        if not isinstance(node.op, ast.Pow):
            return node
        of_base = ast.Subscript(ast.Name(POWERS, ast.Load()), node.left, ast.Load())
        return ast.Subscript(of_base, node.right, ast.Load())
