"""The site: `sphinx-build -c docs nbs _docs` makes a book of the notebooks, as they are saved."""

import re
import sys
import tomllib
from pathlib import Path

import nbformat
from docutils.nodes import SkipNode
from math_core import LatexToMathML

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS))
metadata = tomllib.loads((DOCS.parent / "pyproject.toml").read_text(encoding="utf8"))["project"]

project = metadata["name"]
author = copyright = metadata["authors"][0]["name"]
extensions = ["myst_nb", "sphinx_external_toc"]
external_toc_path = str(DOCS / "_toc.yml")
exclude_patterns = ["**/.ipynb_checkpoints", ".ipynb_checkpoints", "**/data", "data"]

myst_enable_extensions = ["amsmath", "dollarmath", "colon_fence"]
myst_heading_anchors = 3
myst_heading_slug_func = "conf.anchor"
nb_execution_mode = "off"
nb_custom_formats = {".ipynb": ["conf.read", {}, False]}
nb_render_markdown_format = "myst"
html_math_renderer = "mathml"

html_theme = "sphinx_book_theme"
html_title = project
html_static_path = [str(DOCS / "_static")]
html_css_files = ["book.css"]
html_use_index = False
html_theme_options = {
    "repository_url": metadata["urls"]["Repository"],
    "repository_branch": "main",
    "path_to_docs": "nbs",
    "use_repository_button": True,
    "use_issues_button": True,
    "show_toc_level": 2,
    "navbar_persistent": [],
    "footer_content_items": ["copyright.html"],
    "launch_buttons": {"colab_url": "https://colab.research.google.com"},
}

DIRECTIVE = re.compile(r"^#\|\s*(\w+)(?::\s*(\w+))?.*\n?", re.MULTILINE)
UNNAMED = "A figure, drawn by the code above."
TAGS = {("echo", "false"): "remove-input", ("output", "false"): "remove-output"}


def anchor(heading: str) -> str:
    "The id of a heading, as Jupyter makes it."
    return heading.replace(" ", "-")


def read(text: str) -> nbformat.NotebookNode:
    "A notebook without hidden cells: directives become tags, pictures keep their words."
    notebook = nbformat.reads(text, as_version=4)
    kept = []
    for cell in notebook.cells:
        found = DIRECTIVE.findall(cell.source) if cell.cell_type == "code" else []
        names = {name for name, _ in found}
        if names & {"hide", "default_exp"}:
            continue
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                alt = output.metadata.get("image/png", {}).get("alt", UNNAMED)
                cell.metadata["mystnb"] = {"image": {"alt": alt}}
        if found:
            cell.source = DIRECTIVE.sub("", cell.source)
            cell.metadata["tags"] = [TAGS[pair] for pair in found if pair in TAGS]
        kept.append(cell)
    notebook.cells = kept
    return notebook


mathml = LatexToMathML()


def formula(writer, node, block=False):
    "A formula that the browser draws itself: it needs no script and no network."
    written = mathml.convert_with_local_state(node.astext(), displaystyle=block)
    writer.body.append(f'<div class="math">{written}</div>' if block else written)
    raise SkipNode


def equation(writer, node):
    "A formula on a line of its own."
    formula(writer, node, block=True)


def setup(app):
    app.add_html_math_renderer("mathml", (formula, None), (equation, None))
