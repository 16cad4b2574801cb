"""Chapters in other languages: whole, with the code of the English ones, and they run."""

import re

import nbformat
import pandas as pd
import pytest
from transformers import BertConfig, BertModel, BertTokenizer

import maintenance.translations as translations
from maintenance.translations import bare_code, faults, shape, stale_cells, translation, wording
from suite.chapters import ROOT, all_chapters, languages
from suite.check import check_dataset
from suite.errors import ChapterError
from suite.runner import main, run_chapters
from suite.start import check_values

REVIEWS = ROOT / "translations" / "zh" / "reviews.csv"
EACH = [(chapter, language) for language in languages() for chapter in all_chapters()]
each = pytest.mark.parametrize(
    ("chapter", "language"), EACH, ids=[f"{language}-{chapter.stem}" for chapter, language in EACH]
)


def both(chapter, language):
    (twin,) = [path for path in all_chapters(language) if path.name == chapter.name]
    cells = [nbformat.read(path, as_version=4).cells for path in (chapter, twin)]
    return list(zip(*cells, strict=True))


@each
def test_every_text_is_translated_with_its_links_numbers_and_form(chapter, language):
    assert faults(chapter, language) == []


@each
def test_the_chapter_is_the_one_that_is_built(chapter, language):
    assert stale_cells(chapter, language) == []


@each
def test_the_code_is_equal_but_for_named_strings(chapter, language):
    known = translation(chapter, language)
    strings = {text: there for (context, text), there in known.items() if context == "string"}
    for english, twin in both(chapter, language):
        assert english.id == twin.id and english.cell_type == twin.cell_type
        if english.cell_type == "code":
            theirs = bare_code(twin.source, set(strings.values()))
            assert bare_code(english.source, set(strings)) == theirs, english.id


def test_readme_says_the_same_in_each_language():
    english = re.sub(r"^\[\S+\]\(README.*\n\n", "", (ROOT / "README.md").read_text(), flags=re.M)
    for language in languages():
        text = (ROOT / f"README.{language}.md").read_text(encoding="utf-8")
        text = re.sub(r"^\[\S+\]\(README.*\n\n", "", text, flags=re.M)
        text = text.replace(f".{language}.png", ".png")
        there = shape(text.replace(f"notebooks/{language}/", "notebooks/"))
        assert there == shape(english)
        assert wording(text, language) == []


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """(English chapter, its PO file, the translated chapter) in a folder of their own."""
    name = "04_training_loop"
    for folder in ("notebooks", "translations/zh", "notebooks/zh"):
        tmp_path.joinpath(folder).mkdir(exist_ok=True, parents=True)
    files = [f"notebooks/{name}.ipynb", f"translations/zh/{name}.po", f"notebooks/zh/{name}.ipynb"]
    for file in [*files, "translations/zh/avoid.tsv"]:
        (tmp_path / file).write_bytes((ROOT / file).read_bytes())
    monkeypatch.setattr(translations, "ROOT", tmp_path)
    monkeypatch.setattr(translations, "NOTEBOOKS", tmp_path / "notebooks")
    monkeypatch.setattr(translations, "FOLDER", tmp_path / "translations")
    return [tmp_path / file for file in files]


def edit(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, old
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_a_changed_word_of_code_is_named_with_its_cell(copy):
    edit(copy[0], "    bar.update(1)", "    bar.update(2)")
    its_code, its_outputs = stale_cells(copy[0], "zh")
    named = "notebooks/zh/04_training_loop.ipynb, cell 'define-train-one-epoch' is stale"
    assert its_code == its_outputs == f"{named}: call make translations"


def test_a_run_that_fails_leaves_the_chapter_stale(copy, monkeypatch):
    """As it was: with new code beside its old outputs, nobody would run it again."""
    edit(copy[0], "    bar.update(1)", "    bar.update(2)")
    before = copy[2].read_bytes()

    def fail(paths, parameters, **options):
        assert [path.name for path in paths] == [copy[2].name]
        raise ChapterError

    monkeypatch.setattr(translations, "run_chapters", fail)
    monkeypatch.setattr(translations, "all_chapters", lambda: [copy[0]])
    with pytest.raises(ChapterError):
        translations.write_translations("zh")
    assert copy[2].read_bytes() == before
    assert len(stale_cells(copy[0], "zh")) == 2


def test_a_changed_comment_makes_no_outputs_stale(copy):
    edit(copy[0], "passes over the training rows", "rounds over the training rows")
    (its_code,) = stale_cells(copy[0], "zh")
    assert its_code.endswith("cell 'parameters' is stale: call make translations")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("# 4 ", "# 5 ", "has other numbers"),
        ("## ", "### ", "has other headings"),
        (r"\*\*(.*?)\*\*", r"\1", "has other emphasis"),
        (r"\]\(\w+\.ipynb\)", "](05_evaluation.ipynb)", "has other links"),
        ("`model.eval\\(\\)`", "`model.train()`", "has other code"),
        ("微调", "精调", "says 精调: write 微调"),
        ("，", ",", "needs a space or a full-width sign"),
        (" `", "`", "needs a space or a full-width sign"),
    ],
)
def test_a_slip_of_a_translator_is_named_with_its_cell(copy, old, new, said):
    chapter, file, _ = copy
    catalog = translations.catalog(file)
    apart = ("comment", "string", "alt", None)
    entry = next(m for m in catalog if m.context not in apart and re.search(old, m.string))
    entry.string = re.sub(old, new, entry.string, count=1)
    translations.save(file, catalog)
    (fault,) = faults(chapter, "zh")
    assert (
        fault.startswith(f"translations/zh/04_training_loop.po, {entry.context} ") and said in fault
    )


def test_a_changed_text_is_fuzzy_until_its_translation_is_looked_at(copy):
    chapter, file, _ = copy
    assert faults(chapter, "zh") == []
    edit(chapter, "## Keep the best epoch", "## Keep the best of the epochs")
    missing, stale = faults(chapter, "zh")
    assert "about-save" in missing and "is missing" in missing and "is stale" in stale
    translations.update(chapter, "zh")
    (fault,) = faults(chapter, "zh")
    assert "about-save" in fault and "is fuzzy" in fault


def test_a_string_that_the_chapter_no_longer_has_is_stale(copy):
    chapter, file, _ = copy
    catalog = translations.catalog(file)
    catalog.add("a word of before", "以前的词", context="string")
    translations.save(file, catalog)
    (fault,) = faults(chapter, "zh")
    assert "string 'a word of before' is stale" in fault


def test_a_new_language_starts_with_empty_entries(copy):
    chapter, *_ = copy
    folder = translations.FOLDER / "fr"
    folder.mkdir()
    translations.update(chapter, "fr")
    assert all("is empty" in fault for fault in faults(chapter, "fr"))
    assert len(faults(chapter, "fr")) > 50


def test_an_unknown_language_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["run", "01", "--language", "xx"])
    assert "invalid choice: 'xx'" in capsys.readouterr().err


@pytest.fixture(scope="module")
def chinese_model(tmp_path_factory):
    """The folder of a BERT of random weights that knows every letter of the Chinese reviews."""
    folder = tmp_path_factory.mktemp("chinese")
    letters = sorted(set("".join(pd.read_csv(REVIEWS)["影评"])))
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters]
    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(words)})
    tokenizer.save_pretrained(folder)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = BertConfig(vocab_size=len(words), intermediate_size=64, **sizes)
    BertModel(config).save_pretrained(folder)
    return str(folder)


CHINESE = {"text_column": "影评", "label_column": "评价"}


def test_the_check_says_that_the_english_model_does_not_know_chinese(tmp_path, chinese_model):
    for encoding in ("utf-8", "gb18030"):
        file = tmp_path / f"{encoding}.csv"
        file.write_bytes(REVIEWS.read_text(encoding="utf-8").encode(encoding))
        values = {**CHINESE, "dataset_name": str(file), "encoding": encoding}
        report = check_dataset(check_values(values, with_rows=False))
        assert report.splits.loc["train", "usable"] == 300
        assert "the model does not know 58% of the tokens" in str(report)
        values |= {"model_name": chinese_model, "max_length": 20}
        said = str(check_dataset(check_values(values, with_rows=False)))
        assert "does not know" not in said
        assert re.search(r"\d\d\.\d% of 300 texts are longer than max_length, 20 tokens", said)


@pytest.mark.slow
def test_chinese_reviews_run_through_the_chapter_of_ones_own_data(tmp_path, chinese_model):
    run = tmp_path / "run"
    values = {**CHINESE, "dataset_name": str(REVIEWS), "model_name": chinese_model}
    (chapter,) = [path for path in all_chapters("zh") if path.stem.startswith("07")]
    figures = run_chapters([chapter], {**values, "num_epochs": 1, "run_dir": str(run)})
    assert figures and {"好评", "差评"} <= set(
        re.findall("[好差]评", (run / chapter.name).read_text())
    )


def test_figures_show_every_letter(smoke_run):
    texts = [(smoke_run[0] / chapter.name).read_text("utf-8") for chapter in all_chapters()]
    assert sum(text.count('"image/png"') for text in texts) > len(texts)
    assert not any("missing from font" in text for text in texts)  # as matplotlib warns
