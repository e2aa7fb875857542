"""Configuration of the documentation.

Build with ``sphinx-build -W -b html docs docs/_build/html`` and test every example in it with
``sphinx-build -b doctest docs docs/_build/doctest``. Nothing is fetched from the network.

Environment
-----------
SKPAT_DOCS_RUN_EXAMPLES
    "1": run the examples of the gallery (about a minute each). Default: show their code only.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import skpat  # noqa: E402

project = "skpat"
author = "the skpat developers"
copyright = author
version = release = skpat.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.doctest",
    "sphinx.ext.viewcode",
    "numpydoc",
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "**/GALLERY_HEADER.rst"]
templates_path = ["_templates"]
default_role = "code"
nitpicky = False  # scikit-learn's and torch's pages are not linked: that would need the network

autodoc_typehints = "none"  # the docstrings say it, with shapes and units
autodoc_member_order = "bysource"
autosummary_generate = True
numpydoc_show_class_members = False
copybutton_prompt_text = r">>> |\.\.\. |\$ "  # what is copied is the code, without prompts and answers
copybutton_prompt_is_regexp = True
numpydoc_class_members_toctree = False
trim_doctest_flags = True
toc_object_entries_show_parents = "hide"

doctest_global_setup = "import warnings; warnings.simplefilter('error')"

# -- gallery ------------------------------------------------------------------------------------------------------------

EXAMPLES = HERE.parent / "examples"
HAS_GALLERY = (EXAMPLES / "GALLERY_HEADER.rst").exists() and any(EXAMPLES.glob("plot_*.py"))
if HAS_GALLERY:
    extensions.append("sphinx_gallery.gen_gallery")
    sphinx_gallery_conf = {
        "examples_dirs": str(EXAMPLES),
        "gallery_dirs": "gallery",
        "filename_pattern": r"/plot_",
        "within_subsection_order": "FileNameSortKey",
        "plot_gallery": os.environ.get("SKPAT_DOCS_RUN_EXAMPLES", "0") == "1",
        "download_all_examples": False,
        "show_memory": False,
        "remove_config_comments": True,
    }

# -- HTML ---------------------------------------------------------------------------------------------------------------

html_theme = "pydata_sphinx_theme"
html_title = f"skpat {release}"
html_theme_options = {
    "logo": {"text": "skpat"},
    "navbar_align": "left",
    "navbar_end": ["theme-switcher"],
    "navbar_persistent": ["search-button"],
    "header_links_before_dropdown": 5,
    "secondary_sidebar_items": {"**": ["page-toc"], "index": []},
    "show_prev_next": True,
    "footer_start": ["copyright"],
    "footer_end": ["sphinx-version"],
}
# only the reference and the gallery have pages below them
html_sidebars = {"**": ["sidebar-nav-bs"]} | {page.stem: [] for page in HERE.glob("*.rst") if page.stem != "reference"}
html_static_path = ["_static"]
html_css_files = ["skpat.css"]
html_math_renderer = "mathml"  # see below
html_show_sourcelink = False
pygments_style = "friendly"


# -- mathematics --------------------------------------------------------------------------------------------------------


def mathml(node, block: bool) -> str:
    """An equation as MathML, which browsers draw themselves: MathJax would be fetched from the network."""
    tex = node.astext().strip()
    if block and r"\\" in tex:
        tex = rf"\begin{{aligned}} {tex} \end{{aligned}}"
    element = tex2mathml(tex)
    return element.replace("<math", '<math display="block"', 1) if block else element


def visit_math(writer, node) -> None:
    writer.body.append(mathml(node, block=False))
    raise nodes.SkipNode


def visit_math_block(writer, node) -> None:
    writer.body.append(mathml(node, block=True))
    raise nodes.SkipNode


# -- Markdown pages ----------------------------------------------------------------------------------------------------------


MARKDOWN = {"changes": "changelog.md", "figures": "benchmarks.md"}


def markdown_as_rst(text: str) -> str:
    """The part of Markdown that these files use, as reStructuredText.

    Headings, lists (the same in both), ``code``, blocks between ~~~, images that stand alone, [text](address) and bare links in
    angle brackets.
    """
    text = re.sub(r"^!\[([^\]]+)\]\(([^)]+)\)$", r".. image:: \2\n   :alt: \1", text, flags=re.MULTILINE)
    text = re.sub(r"`([^`\n]+)`", r"``\1``", text)
    text = re.sub(r"\[([^\]]+)\]\(([^)]+)\)", r"`\1 <\2>`__", text)
    text = re.sub(r"<(https?://[^>\s]+)>(?!`)", r"\1", text)
    lines, fenced = [], False
    for line in text.splitlines():
        heading = re.match(r"(#{1,3}) +(.*)", line)
        if line.startswith("~~~"):
            fenced = not fenced
            lines += ["", ".. code-block:: text", ""] if fenced else [""]
        elif fenced:
            lines.append("   " + line)
        elif heading:
            title = heading[2].strip("[]")
            lines += [title, "=-~"[len(heading[1]) - 1] * len(title), ""]
        else:
            lines.append(line)
    return "\n".join(lines) + "\n"


def read_source(app, docname: str, source: list[str]) -> None:
    """Fill the pages that are Markdown files; take the gallery out of the contents where there is none."""
    if docname in MARKDOWN:
        page = HERE / MARKDOWN[docname]
        app.env.note_dependency(str(page))
        source[0] = markdown_as_rst(page.read_text(encoding="utf-8"))
    if docname == "index" and not HAS_GALLERY:
        source[0] = source[0].replace("   gallery/index\n", "")


def skip_member(app, what, name, obj, skip, options) -> bool | None:
    """Leave out what scikit-learn generates for metadata routing, the same on every estimator."""
    return True if re.fullmatch(r"set_\w+_request|get_metadata_routing", name) else None


def mend_docstring(app, what, name, obj, options, lines: list[str]) -> None:
    """What docutils cannot read: links into scikit-learn's own pages, and a fitted name (``n_features_in_``) in a shape."""
    for i, line in enumerate(lines):
        line = re.sub(r":ref:`([^<`]+?)(?: <[^`]+>)?`", r"\1", line)
        lines[i] = re.sub(r"\((\w+_),\)", r"(``\1``,)", line)


def setup(app) -> None:
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math_block, None))
    app.connect("autodoc-process-docstring", mend_docstring, priority=100)  # before numpydoc
    app.connect("source-read", read_source)
    app.connect("autodoc-skip-member", skip_member)
