"""Chapters in other languages: built from the English ones and translations/LANGUAGE/NN_name.po.

Each entry of a PO file has a context: the id of a Markdown cell; "comment" or "string" for what
stands in the code; "alt" for the words of a figure. "string" has docstrings and all texts of two words
or more, and single words that a translator added. The rest of the code is that of the English chapter.
"""

import io
import re
import tempfile
import tokenize
from collections import Counter
from functools import cache
from pathlib import Path

import nbformat
from babel import Locale
from babel.messages.catalog import Catalog
from babel.messages.pofile import read_po, write_po
from markdown_it import MarkdownIt

from maintenance.links import project, with_badges
from maintenance.outputs import save_picture, stored_form
from suite.chapters import NOTEBOOKS, ROOT, all_chapters, languages
from suite.errors import UserError
from suite.runner import run_chapters
from suite.runs import run_folder
from suite.settings import Settings

FOLDER = ROOT / "translations"
SANITIZE = ROOT / "tests" / "nbval_sanitize.cfg"
STRING = re.compile(r"""([A-Za-z]*)(\"{3}|'{3}|"|')(.*)\2""", re.DOTALL)
FIELD = re.compile(r"\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}")
NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
SWITCH = re.compile(r"\n\n\[[^]]+\]\((?:\.\./)?(?:\w+/)?\w+\.ipynb\)(?: · \[.*)?(?=\n\n)")
HAN = "[\u4e00-\u9fff]"
# Half-width where full-width stands in Chinese; no space between Chinese and Latin letters or digits.
UNCHINESE = re.compile(rf"{HAN}[,;:?!.(]|[),;:?!]{HAN}|{HAN}[A-Za-z0-9`]|[A-Za-z0-9`%]{HAN}")


class TranslationError(UserError):
    """Translations that are missing or stale; the message says what to do."""


def write_translations(language=None):
    """Bring PO files and chapters of one language, by default all, in line with the English chapters.

    New texts get an empty entry, or the translation of the same text in another chapter; changed ones
    are marked fuzzy. Chapters whose outputs may differ from those that are stored are run.
    Raises TranslationError if a text is left to translate.
    """
    left = []
    for one in [language] if language else languages():
        FOLDER.joinpath(one).mkdir(parents=True, exist_ok=True)
        for chapter in all_chapters():
            update(chapter, one)
        left += (found := [line for chapter in all_chapters() for line in faults(chapter, one)])
        if not found:
            _write_chapters(one)
    for chapter in all_chapters():  # with the links to its twins
        notebook = nbformat.read(chapter, as_version=4)
        notebook.cells[0].source = _titled(_untitled(notebook.cells[0].source), chapter)
        nbformat.write(notebook, chapter)
    if left:
        raise TranslationError("\n".join(left))


def _write_chapters(language):
    """Write the chapters; those to run elsewhere first, so that a run that fails leaves them stale."""
    with tempfile.TemporaryDirectory() as folder:
        for chapter in all_chapters():
            twin, to_run = build(chapter, language)
            path = Path(folder) if to_run else NOTEBOOKS / language
            path.mkdir(exist_ok=True)
            nbformat.write(twin, path / chapter.name)
        if stale := sorted(Path(folder).iterdir()):
            run_chapters(stale, {}, side_by_side=True)
        for path in stale:
            executed = nbformat.read(run_folder(Settings()) / path.name, as_version=4)
            nbformat.write(stored_form(executed), NOTEBOOKS / language / path.name)
    save_picture(language)


def texts(notebook):
    """Yield (context, text) of all that a translation needs, in the order of the notebook."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            yield cell.id, _untitled(cell.source)
            continue
        if cell.id == "setup":  # written by `make links`
            continue
        for kind, text, _, _, first in _pieces(cell.source):
            words = re.findall("[A-Za-z]{2,}", FIELD.sub("", text))
            if kind == "comment" or first or (len(words) > 1 and " " in text):
                yield kind, text
        if "alt" in cell.metadata:
            yield "alt", cell.metadata.alt


def _strings(notebook):
    """Return the entries of all strings of the code: a translator may name any of them."""
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    pieces = [piece for source in code for piece in _pieces(source)]
    return {(kind, text) for kind, text, *_ in pieces if kind == "string"}


def update(chapter, language):
    """Rewrite the PO file of a chapter: what is new is empty, what changed is fuzzy, the rest goes."""
    notebook, path = nbformat.read(chapter, as_version=4), FOLDER / language / f"{chapter.stem}.po"
    old = catalog(path)
    known = {(m.context, m.id): m for m in old if m.id}
    cells = {m.context: m for m in old if m.id}
    elsewhere = _memory(language)
    extra = [key for key in known if key in _strings(notebook)]
    new = Catalog(locale=language)
    for key in dict.fromkeys([*texts(notebook), *extra]):
        context, text = key
        if key in known:
            message = known[key]
            new.add(text, message.string, context=context, flags=message.flags)
        elif context in cells and context not in ("comment", "string", "alt"):
            was = cells[context]
            new.add(text, was.string, context=context, flags=["fuzzy"])
        else:
            new.add(text, elsewhere.get(key, ""), context=context)
    save(path, new)


def save(path, entries):
    """Write the entries of a PO file."""
    file = io.BytesIO()
    write_po(file, entries, width=0, omit_header=True)
    path.write_bytes(file.getvalue())


def catalog(path):
    """Return the entries of a PO file; none if it is not there."""
    text = path.read_bytes() if path.exists() else b""
    return read_po(io.BytesIO(text), locale=path.parent.name, abort_invalid=True)


def _memory(language):
    """Return {(context, text): translation} of all chapters: what they share is translated once."""
    files = sorted(FOLDER.joinpath(language).glob("*.po"))
    return {(m.context, m.id): m.string for file in files for m in catalog(file) if m.id}


def translation(chapter, language):
    """Return {(context, text): translation} of a chapter."""
    file = FOLDER / language / f"{chapter.stem}.po"
    return {(m.context, m.id): m.string for m in catalog(file) if m.id and not m.fuzzy}


def build(chapter, language):
    """Return (the chapter in a language, the ids of cells whose outputs are to be made by a run).

    Where no text that may be shown is translated, the outputs are those of the English chapter; where
    one is, those of the last run, as long as they show the same numbers.
    """
    path, known = NOTEBOOKS / language / chapter.name, translation(chapter, language)
    english, notebook = (nbformat.read(chapter, as_version=4) for _ in range(2))
    old = nbformat.read(path, as_version=4).cells if path.exists() else []
    stored, to_run, same = {cell.id: cell for cell in old}, [], True
    for cell, source in zip(notebook.cells, english.cells, strict=True):
        if "alt" in cell.metadata:
            cell.metadata.alt = known["alt", cell.metadata.alt]
        if cell.cell_type == "markdown":
            cell.source = known[cell.id, _untitled(cell.source)].replace("](../", "](../../")
        elif cell.id != "setup":
            cell.source = _translated(cell.source, known)
            same = same and shown(cell.source) == shown(source.source)
            was = stored.get(cell.id)
            if not was or shown(was.source) != shown(cell.source) or not _agree(was, source):
                to_run.append(cell.id)
            cell.outputs = was.outputs if was else []
    notebook.cells[0].source = _titled(notebook.cells[0].source, path)
    if not same:
        return notebook, to_run
    for cell, source in zip(notebook.cells, english.cells, strict=True):
        if cell.cell_type == "code":
            cell.outputs = source.outputs
    return notebook, []


def faults(chapter, language):
    """Return a line for each fault of a chapter's translation: chapter, cell, what to do."""
    file, notebook = FOLDER / language / f"{chapter.stem}.po", nbformat.read(chapter, as_version=4)
    known = {(m.context, m.id): m for m in catalog(file) if m.id}
    needed, strings, lines = list(texts(notebook)), _strings(notebook), []
    for context, text in dict.fromkeys([*needed, *known]):
        message = known.get((context, text))
        if message is None:
            found = ["is missing: call make translations, then translate it"]
        elif (context, text) not in needed and (context, text) not in strings:
            found = ["is stale: call make translations"]
        elif message.fuzzy:
            found = [
                "is fuzzy, since the English text changed: translate the change, remove the mark"
            ]
        elif not message.string:
            found = ["is empty: translate it"]
        else:
            found = _differences(context, text, message.string, language)
        where = f"{file.relative_to(ROOT)}, {context} {' '.join(text.split())[:40]!r}"
        lines += [f"{where} {fault}" for fault in found]
    return lines


def stale_cells(chapter, language):
    """Return a line for each cell of a translated chapter that is not what `make translations` builds."""
    path = NOTEBOOKS / language / chapter.name
    twin, to_run = build(chapter, language)
    stored = {cell.id: cell for cell in nbformat.read(path, as_version=4).cells}
    stale = [cell.id for cell in twin.cells if cell != stored.pop(cell.id, None)] + [*stored]
    where = path.relative_to(ROOT)
    return [f"{where}, cell {one!r} is stale: call make translations" for one in [*stale, *to_run]]


def _differences(context, text, translated, language):
    """Say what a translation has otherwise than its text."""
    if context in ("comment", "string"):
        pairs = [("fields", Counter(FIELD.findall(text)), Counter(FIELD.findall(translated)))]
    else:
        theirs = shape(translated)
        pairs = [(name, value, theirs[name]) for name, value in shape(text).items()]
    lines = [
        f"has other {name}: {_less(one, other)} not in it, {_less(other, one)} too much"
        for name, one, other in pairs
        if one != other
    ]
    return lines if context == "string" else lines + wording(translated, language)


def wording(text, language):
    """Say what a text writes otherwise than its language does: words to avoid; in Chinese, signs and spaces."""
    bare = re.sub(r"^```.*?^```|\]\([^)]*\)|\$[^$]*\$", "", text, flags=re.M | re.S)
    bare, lines = re.sub("`[^`]+`", "`code`", bare), []
    if language == "zh" and (wrong := [found[0] for found in UNCHINESE.finditer(bare)]):
        lines.append(f"needs a space or a full-width sign in {wrong}")
    terms = FOLDER / language / "avoid.tsv"
    for line in terms.read_text(encoding="utf-8").splitlines() if terms.exists() else []:
        wanted, avoided = line.split("\t")
        lines += [f"says {avoided}: write {wanted}"] if avoided in bare else []
    return lines


def _less(one, other):
    return sorted(map(str, (one - other).elements())) or "nothing"


def shape(markdown):
    """Return what a translation must not change: {name: Counter} of headings, links, code and the like."""
    names = ("headings", "links", "code", "emphasis", "lists", "numbers")
    counts = {name: Counter() for name in names}
    counts["formulas"] = Counter(re.findall(r"\$[^$\n]+\$", markdown))
    for block in MarkdownIt().enable("table").parse(markdown):
        for token in [block, *(block.children or [])]:
            if token.type == "heading_open":
                counts["headings"][token.tag] += 1
            elif token.type in ("link_open", "image"):
                counts["links"][token.attrGet("href") or token.attrGet("src")] += 1
            elif token.type in ("code_inline", "fence"):
                counts["code"][re.sub(" *# .*", "", token.content)] += 1
            elif token.type in ("strong_open", "em_open"):
                counts["emphasis"][token.type.removesuffix("_open")] += 1
            elif token.type in ("list_item_open", "tr_open"):
                counts["lists"][token.type.removesuffix("_open")] += 1
            elif token.type == "text":
                counts["numbers"].update(NUMBER.findall(token.content))
    return counts


def bare_code(source, named=()):
    """Return the tokens of code without comments and layout; strings whose text is in `named` as one sign."""
    layout = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE)
    tokens = [(kind, text) for kind, text, _, _ in _tokens(source) if kind not in layout]
    return [
        "…" if kind == tokenize.STRING and STRING.fullmatch(text)[3] in named else text
        for kind, text in tokens
    ]


def shown(source):
    """Return code as far as it decides what is shown: without comments and docstrings."""
    docstrings = {text for kind, text, _, _, first in _pieces(source) if first}
    return bare_code(source, docstrings)


def printed(outputs):
    """Return the numbers of a cell's outputs, without those that the comparison of outputs leaves out."""
    lines = [o.get("text") or o.get("data", {}).get("text/plain", "") for o in outputs]
    text = re.sub(r"<.*? at 0x\w+>|<Figure.*>", "", "\n".join(lines))
    for pattern in re.findall("(?m)^regex: (.*)$", SANITIZE.read_text(encoding="utf-8")):
        text = re.sub(pattern, "", text)
    return Counter(NUMBER.findall(text))


def _agree(cell, source):
    """Whether a cell has printed the same numbers as the English one, or is not compared anywhere."""
    apart = "nbval-ignore-output" in source.metadata.get("tags", [])
    return apart or printed(cell.outputs) == printed(source.outputs)


def _translated(source, known):
    """Return code with its comments and strings translated, from the last to the first."""
    for kind, text, start, end, _ in reversed(_pieces(source)):
        if translated := known.get((kind, text)):
            source = source[:start] + translated + source[end:]
    return source


@cache
def _pieces(source):
    """Return (kind, text, start, end, is a docstring) of each comment and string of code."""
    found, before = [], tokenize.INDENT
    for kind, text, start, end in _tokens(source):
        at = _offset(source, start)
        if kind == tokenize.COMMENT:
            sign = re.match("# *", text).end()
            found.append(("comment", text[sign:], at + sign, _offset(source, end), False))
        elif kind == tokenize.STRING:
            parts = STRING.fullmatch(text)
            first = parts[2] == '"""' and before in (tokenize.INDENT, tokenize.NEWLINE)
            found.append(("string", parts[3], at + parts.start(3), at + parts.end(3), first))
        if kind not in (tokenize.NL, tokenize.COMMENT):
            before = kind
    return found


def _tokens(source):
    """Yield (kind, text, start, end); an f-string is one, as it was before Python 3.12."""
    opened = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        name = tokenize.tok_name[token.type]
        if name == "FSTRING_START":
            opened.append(token.start)
        elif name == "FSTRING_END":
            start = opened.pop()
            if not opened:
                text = source[_offset(source, start) : _offset(source, token.end)]
                yield tokenize.STRING, text, start, token.end
        elif not opened:
            yield token.type, token.string, token.start, token.end


def _offset(source, place):
    """Return where (line, column) of a token lies in the text."""
    row, column = place
    return sum(map(len, source.splitlines(keepends=True)[: row - 1])) + column


def _untitled(source):
    """Return the text of a Markdown cell; of a title without badges and links to its twins."""
    if not source.startswith("# "):
        return source
    return SWITCH.sub("", with_badges(source, None, None, None))


def _titled(source, path):
    """Return the text of a title cell with the links that belong to a path."""
    here = path.parent.name if path.parent != NOTEBOOKS else "en"
    up = "" if here == "en" else "../"
    found = [("en", f"{up}{path.name}"), *((one, f"{up}{one}/{path.name}") for one in languages())]
    links = [f"[{Locale(one).language_name}]({there})" for one, there in found if one != here]
    title, rest = source.split("\n\n", 1)
    source = "\n\n".join([title, " · ".join(links), rest])
    return with_badges(source, path, *project())
