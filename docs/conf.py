"""How Sphinx builds the documentation."""

import sys
from importlib.metadata import version as installed_version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "extensions"))

project = "instep"
author = "The instep developers"
copyright = "The instep developers"  # noqa: A001  (the name is Sphinx's)
version = release = installed_version("instep")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
    # Those in `extensions`.
    "figure_variants",
    "llms_txt",
    "mathml",
    "run_examples",
    "wide_tables",
]
myst_enable_extensions = ["attrs_block", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
exclude_patterns = ["_build", "examples"]

nitpicky = True
# No inventory of another project is fetched, so that the documentation builds offline: what
# belongs to others is not linked. Neither is the inside of the machinery.
nitpick_ignore_regex = [
    (r"py:.*", r"(abc|collections|numpy|types|typing)\..*"),
    (r"py:.*", r"instep\.(choices|graph|hyperparameters|minimization|rule)\..*"),
    (r"py:.*", r"(Overrides|RealArray|Selectors)"),
]

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings give types, shapes and dtypes
napoleon_google_docstring = False
napoleon_attr_annotations = False  # whether a number may be a schedule, the pages say once
napoleon_use_ivar = True
napoleon_use_param = False  # so that names that share a description share an entry
napoleon_use_rtype = False
napoleon_custom_sections = [("Returns", "prose")]  # sentences, and no list of types

sphinx_gallery_conf = {
    "examples_dirs": "examples",
    "gallery_dirs": "gallery",
    "filename_pattern": r"\.py$",
    # These two compare the methods of minimizing.md, and take arguments.
    "ignore_pattern": r"(phase_retrieval|tomography)\.py$",
    "within_subsection_order": "FileNameSortKey",
    "image_scrapers": ["run_examples.keep_figures"],
    "reset_modules": ("run_examples.set_looks",),
    "capture_repr": (),
    "abort_on_example_error": True,
    "download_all_examples": False,
    "remove_config_comments": True,
    "show_memory": False,
    "show_signature": False,
    "min_reported_time": 1e9,  # a page says nothing of the machine that built it
    "write_computation_times": False,
}

copybutton_exclude = ".linenos, .gp, .go"  # neither prompts nor what is printed

html_theme = "furo"
html_title = f"instep {release}"
html_baseurl = "https://instep.readthedocs.io/"
html_math_renderer = "mathml"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_favicon = "_static/favicon.svg"
html_copy_source = False
html_show_sphinx = False
html_theme_options = {
    "light_logo": "logo.svg",
    "dark_logo": "logo-dark.svg",
    "source_repository": "https://github.com/instep-optimizers/instep",
    "source_branch": "main",
    "source_directory": "docs/",
}
