"""Shows figures that suit the page: light ones, and dark ones where the reader has a dark screen.

A figure `name.png` that has a neighbour `name_dark.png` is shown on light pages only, and its
neighbour on dark ones. Pages name the first and need not know of the second.
"""

from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform


class PairFigures(SphinxTransform):
    """Put a dark figure after each light one that has one."""

    default_priority = 500

    def apply(self) -> None:
        """Change the page that was read."""
        for light in list(self.document.findall(nodes.image)):
            name, dot, suffix = light["uri"].rpartition(".")
            uri = f"{name}_dark{dot}{suffix}"
            if "://" in uri or not Path(self.env.relfn2path(uri)[1]).is_file():
                continue
            dark = light.copy()
            dark["uri"] = uri
            light["classes"] = [*light["classes"], "only-light"]
            dark["classes"] = [*dark["classes"], "only-dark"]
            light.parent.insert(light.parent.index(light) + 1, dark)


def setup(app: Sphinx) -> dict[str, bool]:
    """Let Sphinx know."""
    app.add_transform(PairFigures)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
