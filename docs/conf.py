"""Sphinx: README, chapters and solutions as static pages, with the outputs that are stored in them."""

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # for this file's own import alone

from helpers.links import project as address  # noqa: E402

repository, release = address()
project = "Fine-tuning, chapter by chapter"
html_title = project

extensions = ["myst_nb"]
root_doc = "README"
include_patterns = ["README.md", "notebooks/*.ipynb", "solutions/*.md"]
nb_execution_mode = "off"
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 2

html_theme = "sphinx_book_theme"
html_theme_options = {
    "repository_url": f"https://github.com/{repository}",
    "repository_branch": f"v{release}",
    "path_to_docs": "",
    "use_repository_button": True,
    "use_source_button": True,
    "show_toc_level": 2,
    "navbar_persistent": [],  # the search stands in the sidebar
    "footer_content_items": [],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
html_static_path = ["style"]
html_css_files = ["code.css"]
html_extra_path = ["static"]  # index.html, which leads to README.html

# A file that is no page of the site is shown where it lies, in the repository.
FILE = re.compile(
    r"\]\((?:\.\./)*((?:helpers|tests|parameters|benchmarks|environment|pyproject|LICENSE)[^)]*|solutions)\)"
)


def with_alt_texts(notebook):
    """Hand the words for each figure on to MyST-NB, under the name by which it takes them."""
    notebook = json.loads(notebook)
    for cell in notebook["cells"]:
        if "alt" in cell["metadata"]:
            cell["metadata"]["mystnb"] = {"image": {"alt": cell["metadata"]["alt"]}}
    return json.dumps(notebook)


def prepare(app, docname, source):
    """Point to the repository for its files, and add what Markdown on GitHub has no word for."""
    if source[0].startswith("{"):
        source[0] = with_alt_texts(source[0])
    source[0] = FILE.sub(rf"](https://github.com/{repository}/blob/v{release}/\1)", source[0])
    if docname == root_doc:
        contents = {"Chapters": "notebooks/*", "Solutions": "solutions/*"}
        for caption, pattern in contents.items():
            source[0] += (
                f"\n```{{toctree}}\n:hidden:\n:glob:\n:caption: {caption}\n\n{pattern}\n```\n"
            )


def setup(app):
    """Called by Sphinx."""
    app.connect("source-read", prepare)
