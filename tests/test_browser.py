"""JupyterLab in a real browser: every chapter opened, run and looked at. Screenshots go to runs/screenshots."""

import json
import os
import secrets
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from conftest import MINUTE, SCREENSHOTS, SMOKE, WIDTH, free_port
from suite.chapters import all_chapters

pytestmark = [pytest.mark.browser]
TimeoutError = pytest.importorskip("playwright.sync_api").TimeoutError

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """JupyterLab with the smoke parameters: its address for a window ("lab" or "doc") and a file.

    And a function that sets the theme.
    """
    folder = tmp_path_factory.mktemp("lab")
    for name in ("notebooks", "images"):
        shutil.copytree(ROOT / name, folder / name)
    shutil.copy(ROOT / "README.md", folder)
    for path in (folder / "notebooks").glob("*.ipynb"):
        values = {**SMOKE, "run_dir": str(folder / "run")}
        notebook = parameterize_notebook(load_notebook_node(str(path)), values)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
        nbformat.write(notebook, path)
    lab, news = "@jupyterlab/", {"fetchNews": "false", "checkForUpdates": False}
    settings = {
        f"{lab}apputils-extension:notification": news,
        # Cells out of sight stay in the page, so that a test can look at them.
        f"{lab}notebook-extension:tracker": {"windowingMode": "none"},
    }
    (folder / "app").mkdir()
    (folder / "app" / "overrides.json").write_text(json.dumps(settings))
    environment = dict(os.environ)
    for name in ("CONFIG", "DATA", "RUNTIME"):
        environment[f"JUPYTER_{name}_DIR"] = str(folder / name)
    token, port = secrets.token_hex(), free_port()
    address = f"http://127.0.0.1:{port}"
    options = {
        "ServerApp.ip": "127.0.0.1",
        "ServerApp.port": port,
        "ServerApp.root_dir": folder,
        "IdentityProvider.token": token,
        "LabApp.app_settings_dir": folder / "app",
    }
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += [f"--{name}={value}" for name, value in options.items()]
    with open(folder / "log", "w") as log:
        server = subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, start_new_session=True
        )
        end = time.monotonic() + 60
        while time.monotonic() < end:
            try:
                urllib.request.urlopen(f"{address}/api?token={token}", timeout=5).close()
                break
            except OSError:
                time.sleep(0.2)
        else:
            raise AssertionError((folder / "log").read_text()[-3000:])

        def set_theme(name):
            page = f"{address}/lab/api/settings/{lab}apputils-extension:themes"
            raw = json.dumps({"raw": json.dumps({"theme": f"JupyterLab {name}"})}).encode()
            headers = {"Authorization": f"token {token}"}
            request = urllib.request.Request(page, raw, headers, method="PUT")
            urllib.request.urlopen(request, timeout=30).close()

        yield f"{address}/{{}}/tree/notebooks/{{}}?token={token}&reset", set_theme
        server.terminate()
        server.wait(30)


PROMPTS = "[...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].map(p => p.innerText)"
ERRORS = '.jp-OutputArea-output[data-mime-type*="error"]'


def run_all(page, address):
    """Open a chapter, restart its kernel and run all cells by the toolbar's button; wait for the end."""
    for attempt in range(4):  # JupyterLab can lose what it sends to a kernel that has just started
        open_chapter(page, address)
        try:
            page.click('[data-command="notebook:restart-run-all"]')
            page.click(".jp-Dialog button.jp-mod-warn", timeout=MINUTE / 6)
            page.wait_for_function(f"() => /\\[\\d+\\]/.test({PROMPTS}[0])", timeout=MINUTE / 3)
            break
        except TimeoutError:
            assert attempt < 3, "the kernel runs nothing"
    done = f"{PROMPTS}.every(text => /\\[\\d+\\]/.test(text))"
    ended = f"() => document.querySelector('{ERRORS}') || {done}"
    page.wait_for_function(ended, timeout=10 * MINUTE)


def look_at(page, path, shown):
    """Take a picture of a notebook that is open; its figures and tables have to be there, and within it."""
    # The window gets as high as the notebook, so that nothing is out of sight.
    height = page.evaluate("document.querySelector('.jp-WindowedPanel-viewport').scrollHeight")
    page.set_viewport_size({"width": WIDTH, "height": height + 200})
    page.evaluate("document.querySelector('.jp-WindowedPanel-outer').scrollTop = 0")
    stored = nbformat.read(path, as_version=4).cells
    outputs = [output for cell in stored for output in cell.get("outputs", [])]
    images = sum("image/png" in output.get("data", {}) for output in outputs)
    shown_images = "[...document.querySelectorAll('.jp-RenderedImage img')]"
    drawn = f"{shown_images}.filter(e => e.complete && e.naturalWidth).length == {images}"
    page.wait_for_function(f"() => document.querySelector('{ERRORS}') || {drawn}")
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{path.stem}{shown}.png")
    errors = page.locator(ERRORS)
    assert errors.count() == 0, errors.first.inner_text()

    panel = page.locator(".jp-NotebookPanel-notebook").bounding_box()
    figures = [e.bounding_box() for e in page.locator(".jp-RenderedImage img").all()]
    assert all(box["width"] >= 400 and box["height"] >= 150 for box in figures)
    tables = [e.bounding_box() for e in page.locator(".jp-RenderedHTMLCommon table").all()]
    for box in figures + tables:
        assert 0 < box["x"] - panel["x"] < panel["width"] - box["width"]


def open_chapter(page, address):
    page.goto(address)
    page.wait_for_selector("#jupyterlab-splash", state="detached")
    page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status='idle']")


@pytest.mark.parametrize("path", all_chapters(), ids=lambda path: path.stem)
def test_a_chapter_runs_in_jupyterlab(lab, path, page):
    """In order, each leading to the next; then, as it was saved, in a window of its own in the dark."""
    address, set_theme = lab
    set_theme("Light")
    run_all(page, address.format("lab", path.name))
    look_at(page, path, "")
    stored = nbformat.read(path, as_version=4).cells
    bars = page.locator('[data-mime-type="application/vnd.jupyter.stderr"]').all_inner_texts()
    assert bars or not any("tqdm(" in cell.source for cell in stored)
    for bar in "\n".join(bars).split("\n"):
        assert not bar.strip() or (bar.count("|") == 2 and bar.strip().startswith("100%")), bar

    page.click('[data-command="docmanager:save"]')
    page.wait_for_selector(".lm-TabBar-tab.jp-mod-dirty", state="detached")
    following = all_chapters()[(all_chapters().index(path) + 1) % len(all_chapters())]
    link = f".jp-RenderedMarkdown a:text-matches('^{int(following.stem[:2])} ·')"
    page.locator(link).last.click()
    page.wait_for_selector(f".lm-TabBar-tab.lm-mod-current:has-text('{following.name}')")

    set_theme("Dark")
    open_chapter(page, address.format("doc", path.name))
    assert page.evaluate("document.body.dataset.jpThemeLight") == "false"
    look_at(page, path, "-dark")
