"""Turns equations into MathML when the documentation is built.

Browsers lay MathML out themselves: a page asks no network for a script, and needs none. The
converter is that of docutils, which Sphinx brings along.
"""

import re

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util.math import get_node_equation_number
from sphinx.writers.html5 import HTML5Translator

#: What the converter calls otherwise: an environment and a command.
OTHER_NAMES = {"{split}": "{aligned}", r"\dots": r"\ldots"}


def converted(node: nodes.math | nodes.math_block, *, as_block: bool = False) -> str:
    """Return an equation as MathML; an error of the converter names the equation."""
    text = node.astext().strip()
    if r"\\" in text and r"\begin" not in text:
        text = rf"\begin{{aligned}}{text}\end{{aligned}}"
    for name, other in OTHER_NAMES.items():
        text = text.replace(name, other)
    # Of \frac12 the converter would take both digits for the numerator.
    text = re.sub(r"\\frac\s*(\w)\s*(\w)", r"\\frac{\1}{\2}", text)
    try:
        return tex2mathml(text, as_block=as_block)
    except MathError as error:
        raise ValueError(
            f"mathml: no MathML for {text!r}: {error}; write it with what "
            "docutils.utils.math.latex2mathml knows"
        ) from error


def visit_inline(translator: HTML5Translator, node: nodes.math) -> None:
    """Write an equation within a line."""
    translator.body.append(f'<span class="math">{converted(node)}</span>')
    raise nodes.SkipNode


def visit_block(translator: HTML5Translator, node: nodes.math_block) -> None:
    """Write an equation of its own."""
    translator.body.append(translator.starttag(node, "div", CLASS="math-block"))
    if number := get_node_equation_number(translator, node) if node["number"] else "":
        translator.body.append(f'<span class="eqno">({number})</span>')
    translator.body.append(f"{converted(node, as_block=True)}</div>\n")
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Let Sphinx know."""
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
