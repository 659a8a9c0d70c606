"""How Sphinx builds the documentation."""

from importlib.metadata import version as installed_version

project = "instep"
author = "The instep developers"
copyright = "The instep developers"  # noqa: A001  (the name is Sphinx's)
version = release = installed_version("instep")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]

nitpicky = True
# No inventory of another project is fetched, so that the documentation builds offline: what
# belongs to others is not linked. Neither is the inside of the machinery.
nitpick_ignore_regex = [
    (r"py:.*", r"(abc|collections|numpy|types|typing)\..*"),
    (r"py:.*", r"instep\.(choices|graph|hyperparameters|minimization|rule)\..*"),
]

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings give types, shapes and dtypes
napoleon_google_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False

html_theme = "furo"
html_title = f"instep {release}"
html_copy_source = False
html_show_sphinx = False
