"""The static pages: built as `make site` does, walked through in Chromium, checked by axe."""

import functools
import http.server
import re
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest
from babel import Locale

from conftest import SCREENSHOTS, copy_of_project
from maintenance.links import project
from suite.chapters import all_chapters, languages

pytestmark = [pytest.mark.browser]
axe_playwright = pytest.importorskip("axe_playwright_python.sync_playwright")

ROOT = Path(__file__).resolve().parent.parent
A_HOME = "an-owner/suite"
PAGES = ["README", *(f"notebooks/{path.stem}" for path in all_chapters())]
for language in languages():
    twins = [f"notebooks/{language}/{path.stem}" for path in all_chapters(language)]
    PAGES += [f"README.{language}", *twins]
PAGES += [f"docs/{path.stem}" for path in sorted(ROOT.glob("docs/*.md"))]
PAGES += ["CONTRIBUTING", *(f"solutions/{path.stem}" for path in all_chapters())]
TABLE = 800  # pixels


def build(folder, address):
    """Build the pages with the links of an address, "--none" without any; return their folder."""
    copy_of_project(folder, address)
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "--quiet", "-c", "docs"]
    command += [".", "runs/site"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "runs" / "site"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return build(tmp_path_factory.mktemp("site"), A_HOME)


@pytest.fixture(scope="module")
def site(built):
    """The address of the site, on loopback."""
    handler = http.server.SimpleHTTPRequestHandler
    quiet = type("Quiet", (handler,), {"log_message": lambda *_: None})
    handler = functools.partial(quiet, directory=built)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_no_link_is_dead(built, tmp_path):
    outside = {"--none": set(), A_HOME: set()}
    for address, folder in (("--none", build(tmp_path, "--none")), (A_HOME, built)):
        for page in folder.rglob("*.html"):
            for link in re.findall(r'<a [^>]*href="([^"#?]+)', page.read_text(encoding="utf-8")):
                if "://" not in link:
                    assert (page.parent / unquote(link)).is_file(), f"{page.name}: {link}"
                elif A_HOME in link or "None" in link:
                    outside[address].add(link)
    assert not outside["--none"]
    repository = f"https://github.com/{A_HOME}/blob/v{project()[1]}/"
    links = (link.partition(repository) for link in outside[A_HOME])
    files = {file for _, found, file in links if found}
    assert all((ROOT / file).exists() for file in files), files
    chapters = {path.relative_to(ROOT).as_posix() for path in all_chapters()}
    assert {"LICENSE", "solutions", "benchmarks/recipes.py", *chapters} <= files


def test_the_start_leads_through_all_pages_and_back_and_the_search_finds_one(page, site):
    """By the link to the next page, as far as it goes; then one back."""
    broken = []
    page.on("requestfailed", lambda request: broken.append(request.url))
    page.on("response", lambda got: broken.append(got.url) if got.status >= 400 else None)
    page.goto(site)
    for name in PAGES:
        page.wait_for_url(f"{site}/{name}.html")  # until it has loaded
        assert page.title()
        if name != PAGES[-1]:
            page.click("a.right-next")
    page.click("a.left-prev")
    page.wait_for_url(f"{site}/{PAGES[-2]}.html")
    assert not [url for url in broken if url.startswith(site)]
    page.goto(f"{site}/search.html?q=warm-up")
    title = "Optimizer and learning-rate schedule"
    page.wait_for_selector(f"#search-results li a:has-text('{title}')")


@pytest.mark.parametrize("language", languages())
def test_each_page_leads_to_its_twin_and_back(language, page, site):
    chapter = all_chapters()[3].stem
    twins = {
        "README": f"README.{language}",
        f"notebooks/{chapter}": f"notebooks/{language}/{chapter}",
    }
    for name, twin in twins.items():
        page.goto(f"{site}/{name}.html")
        page.click(f"article a:has-text('{Locale(language).language_name}')")
        page.wait_for_url(f"{site}/{twin}.html")
        assert page.get_attribute("html", "lang") == language
        page.click("article a:has-text('English')")
        page.wait_for_url(f"{site}/{name}.html")


@pytest.mark.parametrize("path", all_chapters(), ids=lambda path: path.stem)
def test_a_chapter_shows_its_figures_and_tables(path, page, site):
    def each(selector, value):
        return page.evaluate(f"[...document.querySelectorAll('{selector}')].map(e => {value})")

    page.goto(f"{site}/notebooks/{path.stem}.html")
    cells = nbformat.read(path, as_version=4).cells
    alts = [cell.metadata.alt for cell in cells if "alt" in cell.metadata]
    assert each(".cell_output img", "e.alt") == alts
    assert all(width >= 400 for width in each(".cell_output img", "e.naturalWidth"))
    assert all(width <= TABLE for width in each("article table", "e.scrollWidth"))
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"site-{path.stem}.png", full_page=True)


def serious(page):
    """What axe finds on a page, of the two worst kinds: the rule and the element."""
    found = axe_playwright.Axe().run(page).response["violations"]
    rules = [rule for rule in found if rule["impact"] in ("serious", "critical")]
    return [(rule["id"], node["html"][:200]) for rule in rules for node in rule["nodes"]]


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", [name for name in PAGES if name.count("/") < 2])
def test_axe_finds_nothing_serious(name, theme, page, site):
    page.emulate_media(color_scheme=theme, reduced_motion="reduce")
    page.goto(f"{site}/{name}.html")
    assert page.get_attribute("html", "data-theme") == theme
    assert serious(page) == []


def test_axe_finds_what_is_hard_to_read(page, site):
    page.goto(f"{site}/README.html")
    page.evaluate("document.querySelector('article p').style.color = '#dddddd'")
    page.evaluate("document.querySelector('article img').removeAttribute('alt')")
    assert {"color-contrast", "image-alt"} <= {rule for rule, _ in serious(page)}


def test_the_page_of_nbconvert_can_be_printed(page, tmp_path):
    """By the template for paper: A4 pages with everything on them, figures too."""
    chapter = all_chapters()[3]
    command = [sys.executable, "-m", "nbconvert", "--to", "html", "--template", "classic"]
    subprocess.run([*command, "--output-dir", tmp_path, chapter], check=True, capture_output=True)
    page.goto((tmp_path / f"{chapter.stem}.html").as_uri())
    pdf = page.pdf(format="A4")
    assert pdf.startswith(b"%PDF-") and 5 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 40
    assert len(re.findall(rb"/Subtype\s*/Image\b", pdf)) >= 2
