"""How Sphinx-Gallery runs the examples: the looks of figures, each of them light and dark."""

from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

from instep.commands.compare.style import DARK

#: Colours that the common kinds of colour blindness leave apart (Okabe and Ito).
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")

LOOKS = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "figure.constrained_layout.use": True,
    "figure.dpi": 110,
    "figure.figsize": (8.0, 3.4),
    "font.size": 10,
    "image.cmap": "gray",
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "savefig.dpi": 110,
}


def set_looks(gallery_conf: dict[str, Any], file: str) -> None:
    """Begin each example with the same looks."""
    import matplotlib as mpl
    from cycler import cycler

    mpl.use("agg")
    mpl.rcdefaults()
    mpl.rcParams.update(LOOKS | {"axes.prop_cycle": cycler(color=COLOURS)})


def turned(colour: Any) -> tuple[float, ...]:
    """Return a colour for dark pages: its lightness turned around, its hue kept."""
    from matplotlib.colors import to_rgb, to_rgba

    *channels, opacity = to_rgba(colour)
    shift = 1 - max(channels) - min(channels)
    ground = to_rgb(DARK.ground)
    shown = (low + (1 - low) * (c + shift) for low, c in zip(ground, channels, strict=True))
    return (*shown, opacity)


def darken(figure: Any) -> None:
    """Turn around all colours of a figure but those of images."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch
    from matplotlib.text import Text

    for artist in figure.findobj():
        if isinstance(artist, Text):
            artist.set_color(turned(artist.get_color()))
        elif isinstance(artist, Line2D):
            for part in ("color", "markerfacecolor", "markeredgecolor"):
                colour = getattr(artist, f"get_{part}")()
                if not (isinstance(colour, str) and colour in {"none", "auto"}):
                    getattr(artist, f"set_{part}")(turned(colour))
        elif isinstance(artist, Patch):
            face, edge = artist.get_facecolor(), artist.get_edgecolor()
            artist.set_facecolor(turned(face))
            artist.set_edgecolor(turned(edge))


def keep_figures(block: Any, block_vars: dict[str, Any], gallery_conf: dict[str, Any]) -> str:
    """Save the figures of a block, light and dark; return how the page shows them."""
    from matplotlib import pyplot as plt

    shown = []
    for number in plt.get_fignums():
        figure = plt.figure(number)
        file = Path(next(block_vars["image_path_iterator"]))
        titles = [text for text in (axes.get_title() for axes in figure.axes) if text]
        figure.savefig(file)
        darken(figure)
        figure.savefig(file.with_name(f"{file.stem}_dark.png"))
        uri = "/" + file.relative_to(gallery_conf["src_dir"]).as_posix()
        shown.append(
            f".. image:: {uri}\n   :alt: {', '.join(titles) or 'A figure of the example'}\n"
        )
    plt.close("all")
    return "\n" + "\n".join(shown) + "\n"


def hide_source(
    app: Sphinx, page: str, template: str, context: dict[str, Any], document: Any
) -> None:
    """Show no link to the source of a page that was made of an example: it is in no repository."""
    if page.startswith(f"{app.config.sphinx_gallery_conf['gallery_dirs']}/"):
        context["page_source_suffix"] = ""


def setup(app: Sphinx) -> dict[str, bool]:
    """Let Sphinx know."""
    app.connect("html-page-context", hide_source)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
