"""Configuration of the documentation: `make docs` builds it into docs/_build/html.  Warnings are errors."""

import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS))

import generate  # noqa: E402
from docutils.nodes import SkipNode  # noqa: E402
from latex2mathml.converter import convert  # noqa: E402

import snnconv  # noqa: E402

generate.write(DOCS / "generated")

project = "snnconv"
author = "the snnconv authors"
version = release = snnconv.__version__
copyright = author
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_design",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]

html_math_renderer = "mathml"

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_title = f"snnconv {version}"
html_theme_options = {"navigation_with_keys": True}

myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header"]

nb_execution_mode = "cache"  # a notebook that did not change is not executed again
nb_execution_cache_path = str(DOCS / "_build" / "notebooks")
nb_execution_timeout = 900  # a cell takes seconds; on a busy machine minutes
nb_execution_raise_on_error = True
nb_merge_streams = True

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
napoleon_google_docstring = True


def mathml(display):
    """A visitor that writes a formula as MathML, which browsers show without a script."""

    def visit(self, node):
        formula = convert(node.astext().strip(), display=display)
        self.body.append(f'<div class="formula">{formula}</div>' if display == "block" else formula)
        raise SkipNode

    return visit, None


def setup(app):
    """Formulas are MathML.  Links from docs/ to other files of the repository lead to their copies."""
    app.add_html_math_renderer("mathml", mathml("inline"), mathml("block"))

    def relink(app, docname, content):
        if not docname.startswith("generated/"):
            content[0] = generate.relink(docname, content[0])

    app.connect("source-read", relink)
