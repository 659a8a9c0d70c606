"""Writes `llms.txt` beside the pages: what there is to read, in one file that programs can read.

https://llmstxt.org says what it looks like. The parts are those of the table of contents, and
each page is told by its first paragraph.
"""

from pathlib import Path

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

#: As much of a first paragraph as is shown.
LENGTH = 240


def first_paragraph(document: nodes.document) -> str:
    """Return the first paragraph of a page on one line, cut after a word."""
    for paragraph in document.findall(nodes.paragraph):
        if isinstance(paragraph.parent, nodes.section):
            text = " ".join(paragraph.astext().split())
            return text if len(text) <= LENGTH else text[:LENGTH].rpartition(" ")[0] + " ..."
    return ""


def listed(app: Sphinx, names: list[str]) -> list[str]:
    """Return a line for each page and, below an index, for each of its pages."""
    lines = []
    for name in names:
        document = app.env.get_doctree(name)
        about = first_paragraph(document)
        uri = app.config.html_baseurl + app.builder.get_target_uri(name)
        title = app.env.titles[name].astext()
        lines.append(f"- [{title}]({uri})" + (f": {about}" if about else ""))
        for tree in document.findall(addnodes.toctree):
            lines += listed(app, tree["includefiles"])
    return lines


def write(app: Sphinx, exception: Exception | None) -> None:
    """Write the file when the pages are there."""
    if exception is not None or app.builder.format != "html":
        return
    root = app.env.get_doctree(app.config.root_doc)
    parts = [f"# {app.config.project}", f"> {first_paragraph(root)}"]
    for tree in root.findall(addnodes.toctree):
        if tree["includefiles"]:
            parts.append(f"## {tree['caption']}")
            parts.append("\n".join(listed(app, tree["includefiles"])))
    Path(app.outdir, "llms.txt").write_text("\n\n".join(parts) + "\n", "utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    """Let Sphinx know."""
    app.connect("build-finished", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
