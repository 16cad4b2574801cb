"""The chapters and the facts that each notebook states about itself, in its metadata under `suite`.

needs, later: what it takes from the run folder at its start or at its end; an earlier chapter makes it
makes: the folder that it leaves in the run folder for others, if any
packages: libraries whose versions decide what it makes; by default those of `PACKAGES`
trains, measures_speed: true or false
minutes: about how long it takes on two cores with the default parameters
"""

import hashlib
import json
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
PACKAGES = ("torch", "transformers", "datasets")
# Cells that hold no code of the lesson.
APART = r"(setup|parameters|read-parameters)$|exercise-"
HELPER = re.compile(r"^(?:from|import) helpers\.(\w+)", re.MULTILINE)


def all_chapters(language="en"):
    """Return the paths of all chapters in a language, in the order in which they are read."""
    folder = NOTEBOOKS if language == "en" else NOTEBOOKS / language
    return sorted(folder.glob("[0-9][0-9]_*.ipynb"))


def languages():
    """Return the languages into which the chapters are translated, such as ["zh"]."""
    return sorted({path.parent.name for path in NOTEBOOKS.glob("*/[0-9][0-9]_*.ipynb")})


def facts(chapter):
    """Return what a chapter says about itself, with defaults for what it leaves out."""
    said = _read(chapter)["metadata"].get("suite", {})
    usual = {"needs": [], "later": [], "makes": None, "packages": PACKAGES, "minutes": 1.0}
    return {**usual, "trains": False, "measures_speed": False, **said}


def maker(product):
    """Return the path of the chapter that makes a product, such as "data" or "model"."""
    return next(chapter for chapter in all_chapters() if facts(chapter)["makes"] == product)


def lesson(chapter):
    """Return {cell id: source} of a chapter's code, without set-up, parameters and exercises."""
    code = [cell for cell in _read(chapter)["cells"] if cell["cell_type"] == "code"]
    return {c["id"]: "".join(c["source"]) for c in code if not re.match(APART, c["id"])}


def code_digest(chapter):
    """Return a digest of all code that decides what a chapter makes.

    That is its own, the helpers' that it imports, and that of the chapter that makes its data.
    """
    sources = [*lesson(chapter).values(), *_helpers("\n".join(lesson(chapter).values()), set())]
    if "data" in facts(chapter)["needs"]:
        sources.append(code_digest(maker("data")))
    return hashlib.sha256("\n".join(sources).encode()).hexdigest()[:16]


def plan(chapters, rows):
    """Return lists of chapters to run side by side, each in order, and those to run alone after them.

    Chapters that measure speed run alone. Of the others, the row that is free first takes the one
    with most minutes to come, its own and those of chapters that wait for it.
    """
    alone = [path for path in chapters if facts(path)["measures_speed"]]
    waiting = [path for path in chapters if path not in alone]
    made = {facts(path)["makes"]: path for path in waiting if facts(path)["makes"]}
    busy, ends, lines = [0.0] * rows, {}, [[] for _ in range(rows)]
    while waiting:
        row = busy.index(min(busy))
        needed = {p: [made[n] for n in facts(p)["needs"] if n in made] for p in waiting}
        ready = [path for path in waiting if all(one in ends for one in needed[path])]
        path = max(ready, key=lambda path: _minutes_to_come(path, waiting))
        start = max([busy[row], *(ends[one] for one in needed[path])])
        ends[path] = busy[row] = start + facts(path)["minutes"]
        lines[row].append(path)
        waiting.remove(path)
    return [line for line in lines if line], alone


def _minutes_to_come(path, waiting):
    """Minutes of a chapter and of the longest chain of others that wait for it."""
    said = facts(path)
    taken = {other: facts(other)["needs"] + facts(other)["later"] for other in waiting}
    after = [other for other in waiting if said["makes"] in taken[other]]
    return said["minutes"] + max((_minutes_to_come(other, waiting) for other in after), default=0)


def _helpers(source, seen):
    """Yield the sources of the helpers that a source imports, and of those that they import."""
    for name in sorted(set(HELPER.findall(source)) - seen):
        seen.add(name)
        imported = ROOT.joinpath("helpers", f"{name}.py").read_text(encoding="utf-8")
        yield imported
        yield from _helpers(imported, seen)


def _read(chapter):
    return _parsed(str(chapter), chapter.stat().st_mtime_ns)


@cache
def _parsed(path, changed):
    """The notebook in a file; `changed`, its time of change, has it read again when it is another."""
    return json.loads(Path(path).read_text(encoding="utf-8"))
