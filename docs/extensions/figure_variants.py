"""Shows figures that suit the page: light or dark, wide or narrow; each opens at its full size.

A figure `name.png` that has neighbours `name_dark.png`, `name_narrow.png` or
`name_narrow_dark.png` is shown beside them in the page, which hides all but one: dark ones suit
dark screens, narrow ones phones. Pages name the first and need not know of the others.
"""

from itertools import product
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform
from sphinx.transforms.post_transforms import SphinxPostTransform


class AddVariants(SphinxTransform):
    """Put its neighbours after each figure."""

    default_priority = 500

    def apply(self) -> None:
        """Change the page that was read."""
        for figure in list(self.document.findall(nodes.image)):
            shapes = [shape for shape in ("", "_narrow") if self.exists(figure, shape)]
            grounds = [ground for ground in ("", "_dark") if self.exists(figure, ground)]
            variants = []
            for shape, ground in product(shapes, grounds):
                variant = figure.copy()
                variant["uri"] = neighbour(figure, shape + ground)
                if len(shapes) > 1:
                    variant["classes"] = [*variant["classes"], f"only{shape or '_wide'}"]
                if len(grounds) > 1:
                    variant["classes"] = [*variant["classes"], f"only{ground or '_light'}"]
                variant["classes"] = [name.replace("_", "-") for name in variant["classes"]]
                variants.append(variant)
            if len(variants) > 1:
                figure.replace_self(variants)

    def exists(self, figure: nodes.image, suffix: str) -> bool:
        """Return whether the figure is a file, with that at the end of its name."""
        uri = neighbour(figure, suffix)
        return not suffix or ("://" not in uri and Path(self.env.relfn2path(uri)[1]).is_file())


class OpenWhole(SphinxPostTransform):
    """Let each figure of a page lead to its file, which a reader can enlarge."""

    default_priority = 900
    formats = ("html",)

    def run(self, **_: object) -> None:
        """Change the page that is about to be written."""
        up = "../" * self.env.current_document.docname.count("/")
        for figure in list(self.document.findall(nodes.image)):
            if figure["uri"] not in self.env.images or isinstance(figure.parent, nodes.reference):
                continue
            file = self.env.images[figure["uri"]][1]
            link = nodes.reference("", "", refuri=f"{up}_images/{file}", classes=figure["classes"])
            figure.replace_self(link)
            link += figure


def neighbour(figure: nodes.image, suffix: str) -> str:
    """Return the name of the file of a figure with something at its end."""
    name, dot, ending = figure["uri"].rpartition(".")
    return f"{name}{suffix}{dot}{ending}"


def setup(app: Sphinx) -> dict[str, bool]:
    """Let Sphinx know."""
    app.add_transform(AddVariants)
    app.add_post_transform(OpenWhole)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
