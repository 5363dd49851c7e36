"""Configuration of the documentation site; the build needs no network."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "Aegis for Python"
author = "The Aegis authors"
project_copyright = author
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "click_pages",
    "error_texts",
    "real_parameters",
]
exclude_patterns = ["_build", "_ext", "diagrams"]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

# Docstrings write code in single backticks.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
maximum_signature_line_length = 88
add_module_names = False
napoleon_use_ivar = True

html_theme = "furo"
html_title = "Aegis for Python"
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["aegis.css"]


def setup(app):
    """Adapts the output of autodoc."""
    app.connect("autodoc-process-docstring", _drop_module_docstrings)


def _drop_module_docstrings(_app, what, _name, _object, _options, lines):
    if what == "module":
        lines.clear()
