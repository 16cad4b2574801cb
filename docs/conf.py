"""Sphinx: README, chapters, docs and solutions as static pages, with the outputs that are stored in them."""

import json
import posixpath
import re
import sys
from pathlib import Path

from babel import Locale

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # for this file's own import alone

from maintenance.links import project as address  # noqa: E402
from suite.chapters import languages  # noqa: E402

repository, release = address()
project = "Fine-tuning, chapter by chapter"
html_title = project

extensions = ["myst_nb"]
root_doc = "README"
include_patterns = [
    "*.md",
    "docs/*.md",
    "notebooks/*.ipynb",
    "notebooks/*/*.ipynb",
    "solutions/*.md",
]
nb_execution_mode = "off"
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 2

html_theme = "sphinx_book_theme"
html_theme_options = {
    "show_toc_level": 2,
    "navbar_persistent": [],  # the search stands in the sidebar
    "footer_content_items": [],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
if repository:
    html_theme_options |= {
        "repository_url": f"https://github.com/{repository}",
        "repository_branch": f"v{release}",
        "path_to_docs": "",
        "use_repository_button": True,
        "use_source_button": True,
    }
html_static_path = ["style"]
html_css_files = ["code.css"]
html_extra_path = ["static"]  # index.html, which leads to README.html

LINK = re.compile(r"(?<!!)\[([^][]*)\]\(([^)\s#]+)\)")


def with_files(text, docname, pages):
    """Let links to files that are no page of the site lead to the repository, or make words of them."""

    def where(found):
        label, target = found.groups()
        path = posixpath.normpath(posixpath.join(posixpath.dirname(docname), target))
        if posixpath.splitext(path)[0] in pages or not (ROOT / path).exists():
            return found[0]
        there = f"https://github.com/{repository}/blob/v{release}/{path}"
        return f"[{label}]({there})" if repository else label

    return LINK.sub(where, text)


def with_alt_texts(notebook):
    """Hand the words for each figure on to MyST-NB, under the name by which it takes them."""
    notebook = json.loads(notebook)
    for cell in notebook["cells"]:
        if "alt" in cell["metadata"]:
            cell["metadata"]["mystnb"] = {"image": {"alt": cell["metadata"]["alt"]}}
    return json.dumps(notebook)


def prepare(app, docname, source):
    """Make of a file in the repository a page of the site."""
    if source[0].startswith("{"):
        source[0] = with_alt_texts(source[0])
    source[0] = with_files(source[0], docname, app.env.found_docs)
    if docname == root_doc:
        contents = {
            "Chapters": "notebooks/*",
            **{
                Locale(one).language_name: f"README.{one}\nnotebooks/{one}/*" for one in languages()
            },
            "Reference": "docs/*\nCONTRIBUTING",
            "Solutions": "solutions/*",
        }
        for caption, pages in contents.items():
            source[0] += (
                f"\n```{{toctree}}\n:hidden:\n:glob:\n:caption: {caption}\n\n{pages}\n```\n"
            )


def in_its_language(app, name, template, context, doctree):
    """Tell browsers and screen readers the language of a translated page."""
    if found := re.search(r"[/.]([a-z]{2})(/|$)", name):
        context["language"] = found[1]


def setup(app):
    """Called by Sphinx."""
    app.connect("html-page-context", in_its_language)
    app.connect("source-read", prepare)
