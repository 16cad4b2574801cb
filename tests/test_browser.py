"""JupyterLab in a real browser: every chapter opened, run and looked at. Screenshots go to runs/screenshots.

`make test-browser` installs JupyterLab and Playwright; Chromium is the system's.
"""

import json
import os
import secrets
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import nbformat
import pytest

from conftest import MINUTE, SCREENSHOTS, SMOKE, WIDTH, free_port
from suite.chapters import all_chapters

pytestmark = [pytest.mark.browser]
TimeoutError = pytest.importorskip("playwright.sync_api").TimeoutError

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = {
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
    # Cells out of sight stay in the page, so that a test can look at them.
    "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},
}


class Lab:
    """A JupyterLab server on loopback that shows a copy of the notebooks with the smoke parameters."""

    def __init__(self, folder, theme="JupyterLab Light"):
        self.folder = folder
        self.settings = {**SETTINGS, "@jupyterlab/apputils-extension:themes": {"theme": theme}}
        shutil.copytree(ROOT / "notebooks", folder / "notebooks")
        shutil.copytree(ROOT / "images", folder / "images")
        shutil.copy(ROOT / "README.md", folder)
        for path in (folder / "notebooks").glob("*.ipynb"):
            notebook = nbformat.read(path, as_version=4)
            for cell in notebook.cells:
                if cell.cell_type == "code":
                    cell.outputs, cell.execution_count = [], None
                if "parameters" in cell.metadata.get("tags", []):
                    values = {**SMOKE, "run_dir": str(folder / "run")}
                    lines = [f"{name} = {value!r}" for name, value in values.items()]
                    cell.source = "\n".join([cell.source, *lines])
            nbformat.write(notebook, path)
        for name in ("config", "data", "runtime", "settings", "workspaces", "app"):
            (folder / name).mkdir()
        self.token = secrets.token_hex()
        self.address = f"http://127.0.0.1:{free_port()}"

    def __enter__(self):
        settings = self.folder / "app-settings"
        settings.mkdir()
        overrides = settings / "overrides.json"
        overrides.write_text(json.dumps(self.settings))
        environment = {
            **os.environ,
            "JUPYTER_CONFIG_DIR": str(self.folder / "config"),
            "JUPYTER_DATA_DIR": str(self.folder / "data"),
            "JUPYTER_RUNTIME_DIR": str(self.folder / "runtime"),
            "JUPYTERLAB_SETTINGS_DIR": str(self.folder / "settings"),
            "JUPYTERLAB_WORKSPACES_DIR": str(self.folder / "workspaces"),
            "OMP_NUM_THREADS": "2",
        }
        command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
        command += ["--ServerApp.ip=127.0.0.1", f"--ServerApp.port={self.address.split(':')[-1]}"]
        command += [f"--ServerApp.root_dir={self.folder}", "--ServerApp.port_retries=0"]
        command += [
            f"--IdentityProvider.token={self.token}",
            f"--LabApp.app_settings_dir={settings}",
        ]
        self.log = open(self.folder / "log", "w")
        self.process = subprocess.Popen(
            command, env=environment, stdout=self.log, stderr=self.log, start_new_session=True
        )
        end = time.monotonic() + 60
        while time.monotonic() < end:
            try:
                urllib.request.urlopen(f"{self.address}/api?token={self.token}", timeout=5).close()
                return self
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.2)
        raise AssertionError((self.folder / "log").read_text()[-3000:])

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(30)
        self.log.close()

    def url(self, name, mode="lab"):
        return f"{self.address}/{mode}/tree/notebooks/{name}?token={self.token}&reset"


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    with Lab(tmp_path_factory.mktemp("lab")) as running:
        yield running


def open_chapter(page, lab, name, mode="lab"):
    """Open a chapter and wait until its kernel is idle."""
    page.goto(lab.url(name, mode))
    page.wait_for_selector("#jupyterlab-splash", state="detached")
    page.wait_for_selector(".jp-Notebook .jp-CodeCell")
    page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status='idle']")


def menu(page, *path):
    """Choose an entry of the menu bar, such as "Run", "Run All Cells"."""
    label = f".lm-Menu-item:not(.lm-mod-disabled) > .lm-Menu-itemLabel:text-is('{path[1]}')"
    for _ in range(60):  # an entry is greyed out until the kernel has answered
        page.click(f".lm-MenuBar-itemLabel:text-is('{path[0]}')")
        page.wait_for_selector(".lm-Menu")
        if page.locator(label).count():
            page.locator(label).hover()  # Lumino takes the entry that the pointer has moved to
            page.locator(label).click()
            return
        page.keyboard.press("Escape")
        page.wait_for_timeout(500)
    raise AssertionError(f"the menu has no {path}")


PROMPTS = "[...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].map(p => p.innerText)"


def run_all(page):
    """Restart the kernel and run all cells, by the menu, and wait for the end."""
    for attempt in range(4):  # JupyterLab can lose what it sends to a kernel that has just started
        try:
            menu(page, "Kernel", "Restart Kernel and Run All Cells…")
            page.click(".jp-Dialog button.jp-mod-warn", timeout=MINUTE / 6)
            page.wait_for_function(f"() => /\\[\\d+\\]/.test({PROMPTS}[0])", timeout=MINUTE / 3)
            break
        except TimeoutError:
            assert attempt < 3, "the kernel runs nothing"
            page.keyboard.press("Escape")
    done = f"{PROMPTS}.every(text => /\\[\\d+\\]/.test(text))"
    page.wait_for_function(
        f"() => document.querySelector('.jp-OutputArea-output[data-mime-type*=\"error\"]') || {done}",
        timeout=10 * MINUTE,
    )


def show_whole(page):
    """Make the window as high as the notebook, so that nothing is out of sight."""
    height = page.evaluate("document.querySelector('.jp-WindowedPanel-viewport').scrollHeight")
    page.set_viewport_size({"width": WIDTH, "height": height + 200})
    page.evaluate("document.querySelector('.jp-WindowedPanel-outer').scrollTop = 0")
    page.wait_for_timeout(500)


def boxes(page, selector):
    """(left, right, height) of each element, in pixels."""
    return page.evaluate(
        "selector => [...document.querySelectorAll(selector)].map(e => e.getBoundingClientRect())"
        ".map(box => [box.left, box.right, box.height])",
        selector,
    )


def run_and_look(page, path, screenshot):
    """Run an open chapter, and check what a reader sees."""
    run_all(page)
    show_whole(page)
    screenshot.parent.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=screenshot)
    errors = page.locator('.jp-OutputArea-output[data-mime-type*="error"]')
    assert errors.count() == 0, errors.first.inner_text()
    stored = nbformat.read(path, as_version=4).cells
    outputs = [output for cell in stored for output in cell.get("outputs", [])]

    ((left, right, _),) = boxes(page, ".jp-NotebookPanel-notebook")
    figures = boxes(page, ".jp-RenderedImage img")
    assert len(figures) == sum("image/png" in output.get("data", {}) for output in outputs)
    for start, end, height in figures:
        assert left < start and end < right and end - start >= 400 and height >= 150
    for start, end, _ in boxes(page, ".jp-RenderedHTMLCommon table"):
        assert left < start and end < right

    bars = page.locator('[data-mime-type="application/vnd.jupyter.stderr"]').all_inner_texts()
    # A chapter alone also trains what it would find elsewhere.
    assert bars or not any("tqdm(" in cell.source for cell in stored)
    for bar in bars:
        assert bar.count("|") == 2 and bar.strip().startswith("100%"), bar


def following(path):
    """The chapter after this one; the first after the last."""
    chapters = all_chapters()
    return chapters[(chapters.index(path) + 1) % len(chapters)]


@pytest.mark.parametrize("path", all_chapters(), ids=lambda path: path.stem)
def test_a_chapter_runs_in_jupyterlab_and_leads_to_the_next(path, page, lab):
    open_chapter(page, lab, path.name)
    run_and_look(page, path, SCREENSHOTS / f"{path.stem}.png")
    page.locator(
        f".jp-RenderedMarkdown a:text-matches('^{int(following(path).stem[:2])} ·')"
    ).last.click()
    page.wait_for_selector(f".lm-TabBar-tab.lm-mod-current:has-text('{following(path).name}')")


@pytest.fixture(scope="module")
def dark_lab(tmp_path_factory):
    with Lab(tmp_path_factory.mktemp("dark-lab"), "JupyterLab Dark") as running:
        yield running


@pytest.mark.parametrize("path", all_chapters()[::-1], ids=lambda path: path.stem)
def test_a_chapter_runs_alone_in_its_window_from_the_last_to_the_first(path, page, dark_lab):
    """The mode for a single document, in the dark; no chapter finds what an earlier one makes."""
    open_chapter(page, dark_lab, path.name, mode="doc")
    run_and_look(page, path, SCREENSHOTS / f"{path.stem}-dark.png")
