"""Marks tables of many columns as wide, so that a phone may scroll them beside their first column."""

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

#: From how many columns on a phone has no place for them.
MANY = 5

#: From how many columns on a desk has none either, but for small letters.
MORE = 10


class MarkWideTables(SphinxTransform):
    """Give tables of many columns the class `wide`."""

    default_priority = 500

    def apply(self) -> None:
        """Change the page that was read."""
        for table in self.document.findall(nodes.table):
            columns = len(list(table.findall(nodes.colspec)))
            if columns >= MANY:
                table["classes"].append("wide")
            if columns >= MORE:
                table["classes"].append("widest")


def setup(app: Sphinx) -> dict[str, bool]:
    """Let Sphinx know."""
    app.add_transform(MarkWideTables)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
