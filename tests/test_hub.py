"""Models and data sets of the Hub, from a stand-in on loopback, through the real libraries.

They run in processes of their own: the libraries read HF_ENDPOINT and HF_HOME when they start.
"""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from time import perf_counter

import nbformat
import pytest
from hub_stand_in import DATASET, MODEL, STARS, HubStandIn, Repository, make_repositories
from safetensors.numpy import load

from conftest import where_all_stand
from helpers.hub import _explain
from helpers.runner import all_chapters
from helpers.sources import split_hub_name

# One process for all of them: they share the chapters that run in the background.
pytestmark = pytest.mark.xdist_group("hub")

ROOT = Path(__file__).resolve().parent.parent
SERVED = (("models", MODEL), ("datasets", DATASET))
REFUSED = f"[Errno {errno.ECONNREFUSED}] Connection refused"  # the number is the system's
# config, tokenizer (3), weights; card, training rows, test rows
FILES = 8

# Reads parameters as a chapter does, takes the lesson's first steps, and tells what came of it.
READ = """
import contextlib, io, json, os, sys, time
from dataclasses import asdict
from helpers.errors import UserError
from helpers.hub import fetch_model
from helpers.parameters import Settings, read_parameters

def read(changes):
    settings = read_parameters({**asdict(Settings()), **changes})
    from datasets import load_dataset
    from helpers.runs import DATA_PARAMETERS, made_by
    from helpers.sources import find_dataset, find_model
    source = find_dataset(settings.dataset_name)
    dataset = load_dataset(source.path, **source.options)
    return {
        "model": find_model(settings.model_name),
        "rows": dataset.num_rows,
        "first": dataset["train"][0],
        "classes": getattr(dataset["train"].features["label"], "names", None),
        "files": made_by(settings, DATA_PARAMETERS)["files"],
    }

if "HURRY" in os.environ:  # the libraries wait a second before each of five new tries
    sleep = time.sleep
    time.sleep = lambda seconds: sleep(seconds / 50)
for line in sys.stdin:
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        fetch_model.cache_clear()
        try:
            answer = read(json.loads(line))
        except UserError as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps({**answer, "said": said.getvalue()}), flush=True)
"""


def environment(hub, home, **more):
    """What a process needs to take the stand-in for the Hub, and `home` for its cache."""
    variables = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "TRANSFORMERS_"))}
    variables |= {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(home), "OMP_NUM_THREADS": "1"}
    return {**variables, "HF_HUB_DISABLE_IMPLICIT_TOKEN": "", **more}


class Reader:
    """A process that reads parameters, again and again, as long as the `with` lasts."""

    def __init__(self, hub, home, **more):
        self.process = subprocess.Popen(
            [sys.executable, "-c", READ],
            cwd=ROOT,
            env=environment(hub, home, **more),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self):
        return self

    def __call__(self, **changes):
        """Return what the process tells about these parameters, as a dictionary."""
        self.process.stdin.write(json.dumps(changes) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, self.process.stderr.read()
        return json.loads(line)

    def __exit__(self, failure, *_):
        _, printed = self.process.communicate()
        assert failure or printed == ""


def names(revision=""):
    return {"model_name": MODEL + revision, "dataset_name": DATASET + revision}


def files_in(home):
    return [path for path in Path(home).rglob("*") if path.is_file() or path.is_symlink()]


def half_files(home):
    """What an unfinished download would leave; the libraries' lock files hold nothing and stay."""
    names = (path for path in Path(home).rglob("*incomplete*") if path.suffix != ".lock")
    return [*names, *Path(home).rglob("*.tmp")]


def weights(found):
    return Path(found["model"], "model.safetensors").read_bytes()


def start_chapters(hub, home, *arguments):
    """Start the runner with the stand-in for the Hub; what it prints goes to files in `home`."""
    with open(home / "stdout", "w") as stdout, open(home / "stderr", "w") as stderr:
        return subprocess.Popen(
            [sys.executable, "-m", "helpers.runner", *arguments, "-p", "run_dir", home / "run"],
            cwd=ROOT,
            env=environment(hub, home),
            stdout=stdout,
            stderr=stderr,
        )


def wait_for_chapters(process, home):
    """Wait until the runner has ended well; if it hangs, tell where each process stands."""
    try:
        assert process.wait(timeout=900) == 0, (home / "stderr").read_text()
    except subprocess.TimeoutExpired:
        with open(home / "stderr") as printed:
            pytest.fail(where_all_stand(process, printed))


@pytest.fixture(scope="module")
def repositories():
    return make_repositories()


@pytest.fixture
def tutorial(repositories, tmp_path):
    """All chapters with the tutorial's recipe, in the background: stand-in, folder, process."""
    with HubStandIn(dict(repositories)) as hub:
        process = start_chapters(hub, tmp_path, "-f", "parameters/yelp.yaml")
        yield hub, tmp_path, process
        process.kill()
        process.wait()


@pytest.fixture
def hub(repositories, loopback):
    with HubStandIn(dict(repositories)) as hub:
        yield hub


def served(hub, kind, name, revision="main"):
    return hub.repositories[kind, name].find(revision)


def downloads(hub):
    return [path for method, path in hub.requests if method == "GET" and "/resolve/" in path]


def test_first_download_then_from_the_cache_then_without_the_hub(hub, tmp_path):
    with Reader(hub, tmp_path) as read:
        first = read(**names())
        commit, files = served(hub, "models", MODEL)
        assert Path(first["model"]).name == commit
        assert weights(first) == files["model.safetensors"]
        assert first["rows"] == {"train": 3500, "test": 1100}
        assert first["classes"] == STARS
        assert first["files"] == [[commit], [served(hub, "datasets", DATASET)[0]]]
        assert first["said"] == ""
        assert len(downloads(hub)) == FILES
        assert half_files(tmp_path) == []

        hub.requests.clear()
        assert read(**names()) == first
        assert hub.requests != []
        assert downloads(hub) == []

    hub.stop()
    start = perf_counter()
    with Reader(hub, tmp_path) as read:
        cached = read(**names())
    assert perf_counter() - start < 20  # the libraries alone try for over a minute
    why = (
        f"comes from the cache: {hub.endpoint} cannot be reached ([Errno 111] Connection refused)."
    )
    assert cached.pop("said") == f"{MODEL} {why}\n{DATASET} {why}\n"
    assert cached.items() <= first.items()


def test_a_pinned_revision_is_that_commit_with_and_without_the_hub(hub, tmp_path):
    commits = [served(hub, *key, revision)[0] for key in SERVED for revision in ("v1", "main")]
    old_model, new_model, old_data, new_data = commits
    by_hash = {"model_name": f"{MODEL}@{old_model}", "dataset_name": f"{DATASET}@{old_data}"}
    asked = (names(), names("@v1"), by_hash, names())
    with Reader(hub, tmp_path) as read:
        new, pinned, hashed, _ = online = [read(**changes) for changes in asked]
        hub.stop()
        offline = [read(**changes) for changes in asked]
    assert new["files"] == [[new_model], [new_data]]
    assert pinned["files"] == [[old_model], [old_data]] == hashed["files"]
    assert weights(pinned) == served(hub, "models", MODEL, "v1")[1]["model.safetensors"]
    assert weights(pinned) == weights(hashed) != weights(new)
    assert pinned["first"] == hashed["first"] != new["first"]
    for answer in online + offline:
        del answer["said"]
    assert offline == online


def test_a_new_commit_makes_new_results_and_half_of_one_does_not(hub, tmp_path):
    newest = dict(hub.repositories)
    hub.repositories = {key: Repository(newest[key].commits[:1]) for key in newest}
    with Reader(hub, tmp_path, HURRY="1") as read:
        old = read(**names())
        hub.repositories = newest
        hub.break_off = {"model.safetensors": 1000, "train-00000-of-00001.parquet": 1000}
        for parameter, name in names().items():
            assert "broke off while it was downloaded" in read(**{parameter: name})["error"]
        assert half_files(tmp_path) == []
        hub.deny = {MODEL: (503,), DATASET: (429,)}
        cached = read(**names())
        assert "from the cache: the Hub has a fault (503)." in cached["said"]
        assert "from the cache: the Hub takes no more requests for now (429)." in cached["said"]
        hub.deny = hub.break_off = {}
        new = read(**names())
    assert {**cached, "said": ""} == old
    assert new["files"] == [[served(hub, *key)[0]] for key in SERVED]
    assert [ours != theirs for ours, theirs in zip(new["files"], old["files"], strict=True)]
    assert weights(new) != weights(old)
    assert new["first"] != old["first"]


def test_a_first_download_that_breaks_off_leaves_no_half_file(hub, tmp_path):
    hub.break_off = {"vocab.txt": 100, "test-00000-of-00001.parquet": 100}
    with Reader(hub, tmp_path, HURRY="1") as read:
        for parameter, name in names().items():
            assert read(**{parameter: name})["error"] == (
                f"SourceError: {parameter}: {name!r} broke off while it was downloaded;"
                " run this again, what came whole is kept"
            )
        assert half_files(tmp_path) == []
        blobs = {path.read_bytes() for path in files_in(tmp_path) if path.parent.name == "blobs"}
        assert blobs
        assert blobs <= {content for key in SERVED for content in served(hub, *key)[1].values()}
        hub.break_off = {}
        assert read(**names())["classes"] == STARS


LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"
PAGE = "http://127.0.0.1:PORT/"
UNREACHABLE = (
    f"is not whole in the cache, and http://127.0.0.1:PORT cannot be reached ({REFUSED});"
    " connect, or give a {}, or take the defaults, which need no network"
)
CARD = "---\nconfigs:\n" + "".join(
    f"- config_name: {name}\n  data_files: {name}.csv\n" for name in ("north", "south")
)
ROWS = b"text,label\ngood,1\nbad,0\n"

# Repositories with something wrong about them.
WRONG = {
    ("models", "wrong/no-config"): {"README.md": b"", "vocab.txt": b"[UNK]\n"},
    ("models", "wrong/no-weights"): None,
    ("models", "wrong/own-code"): {
        "config.json": b'{"model_type": "mine", "auto_map": {"AutoConfig": "mine.Mine"}}',
        "mine.py": b"raise SystemExit('must not run')",
    },
    ("datasets", "wrong/empty"): {"README.md": b""},
    ("datasets", "wrong/several"): {
        "README.md": (CARD + "---\n").encode(),
        "north.csv": ROWS,
        "south.csv": ROWS,
    },
    ("datasets", "wrong/script"): {"README.md": b"", "script.py": b"raise SystemExit('no')"},
    ("datasets", "wrong/columns"): {"rows.csv": b"review,stars\ngood,1\nbad,0\n"},
    ("datasets", "wrong/few"): {"rows.csv": ROWS + b"fine,1\npoor,0\n"},
    ("datasets", "wrong/split"): {"test.csv": ROWS},
}

# What the stand-in denies: id -> status, X-Error-Code, X-Error-Message
DENIED = {
    "denied/gated": (401, "GatedRepo", "Access is restricted"),
    "denied/forbidden": (403, "GatedRepo", "You are not in the authorized list"),
    "denied/plain": (403, "", "Forbidden"),
    "denied/token": (401, "", "Invalid credentials in Authorization header"),
    "denied/often": (429,),
    "denied/fault": (503,),
}

PRIVATE = f"is not on the Hub, or is private; check the spelling; if it is private, {LOG_IN}"
# kind, name -> what is said about it
FAILURES = {
    ("model", "nobody/nothing"): PRIVATE,
    ("dataset", "nobody/nothing"): PRIVATE,
    ("model", DATASET): PRIVATE,
    ("model", f"{MODEL}@v9"): f"has no revision 'v9'; {PAGE}{MODEL} lists its branches, tags and",
    ("dataset", f"{DATASET}@v9"): f"has no revision 'v9'; {PAGE}datasets/{DATASET} lists its",
    ("model", "wrong/gated"): f"is gated; ask for access on {PAGE}wrong/gated, then {LOG_IN}",
    (
        "dataset",
        "wrong/gated",
    ): f"is gated; ask for access on {PAGE}datasets/wrong/gated, then {LOG_IN}",
    ("model", "denied/gated"): f"is gated; ask for access on {PAGE}denied/gated, then {LOG_IN}",
    ("dataset", "denied/forbidden"): "is gated; ask for access on",
    ("model", "denied/plain"): f"is not open to you (403); ask for access on {PAGE}denied/plain",
    ("dataset", "denied/plain"): "is not open to you (403); ask for access on",
    ("model", "denied/token"): "is refused because of your token; log in again",
    ("dataset", "denied/often"): "is not in the cache, and the Hub takes no more requests for now",
    ("model", "denied/fault"): "is not in the cache, and the Hub has a fault (503); try again",
    ("model", "wrong/no-config"): "has no config.json that names the kind of model",
    ("model", "wrong/no-weights"): "has no weights that `transformers` can load",
    (
        "model",
        "wrong/own-code",
    ): "of type 'mine', which the installed transformers does not know; code that comes with",
    ("dataset", "wrong/empty"): "holds no files that `datasets` can read; give a file",
    ("dataset", "wrong/several"): "has several configurations; download a file of the one you mean",
    ("dataset", "wrong/script"): "is made by a script, which `datasets` no longer runs",
    ("dataset", "wrong/columns"): "has no column 'text'; it has review, stars",
    ("dataset", "wrong/few"): "has 2 rows for it (train 2, validation 1, test 1)",
    ("dataset", "wrong/split"): "has no split 'train'; it has test",
    ("model", "a--b/c"): "cannot be loaded: ",
}


@pytest.fixture(scope="module")
def failures(repositories, tmp_path_factory):
    """What is said about each of FAILURES, and the folder that was the cache."""
    home = tmp_path_factory.mktemp("failures")
    wrong = dict(WRONG)
    whole = repositories["models", MODEL].commits[-1]
    wrong["models", "wrong/no-weights"] = {k: v for k, v in whole.items() if "model.s" not in k}
    wrong["models", "wrong/gated"] = whole
    wrong["datasets", "wrong/gated"] = repositories["datasets", DATASET].commits[-1]
    made = {key: Repository([files]) for key, files in wrong.items()}
    with HubStandIn({**repositories, **made}) as hub:
        hub.deny, hub.gated = DENIED, {"wrong/gated"}
        port = hub.endpoint.rpartition(":")[2]
        with Reader(hub, home) as read:
            said = {
                (kind, name): read(**{f"{kind}_name": name})
                .get("error", "accepted")
                .replace(port, "PORT")
                for kind, name in FAILURES
            }
    return said, home


@pytest.mark.parametrize("case", FAILURES, ids=" ".join)
def test_a_failure_is_one_line_that_says_what_to_do(case, loopback, request):
    said, _ = request.getfixturevalue("failures")
    assert FAILURES[case] in said[case]
    assert "\n" not in said[case]
    assert repr(case[1]) in said[case]


def test_failures_leave_nothing_half(loopback, request):
    said, home = request.getfixturevalue("failures")
    assert "accepted" not in said.values()
    assert half_files(home) == []
    left = {path.name for path in Path(home, "hub").glob("*--*")}
    assert not any("denied" in name or "nobody" in name or "gated" in name for name in left)


def test_a_token_without_access_is_told_to_ask_for_it(hub, tmp_path):
    hub.gated = {MODEL}
    with Reader(hub, tmp_path, HF_TOKEN="hf_x") as read:
        said = read(model_name=MODEL)["error"]
        assert f"is gated; ask for access on {hub.endpoint}/{MODEL}" in said
        assert "is not on the Hub, or is private" in read(model_name="no/no")["error"]


def test_a_refused_connection_is_one_line(hub, tmp_path):
    hub.stop()
    start = perf_counter()
    with Reader(hub, tmp_path) as read:
        model, data = read(model_name=MODEL)["error"], read(dataset_name=f"{DATASET}@v1")["error"]
    assert perf_counter() - start < 10
    why = UNREACHABLE.replace("PORT", hub.endpoint.rpartition(":")[2])
    assert model == f"SourceError: model_name: {MODEL!r} {why.format('folder')}"
    assert data == f"SourceError: dataset_name: '{DATASET}@v1' {why.format('file')}"
    assert files_in(tmp_path) == []


def test_the_check_before_the_chapters_asks_no_network_and_loads_nothing(hub, tmp_path):
    code = (
        "import sys\nfrom helpers.parameters import check_values\n"
        f"check_values({names('@v1')!r})\n"
        "heavy = {'torch', 'transformers', 'datasets', 'httpx', 'pandas'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment(hub, tmp_path),
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert hub.requests == []


def test_a_chapter_that_cannot_have_its_model_stops_with_one_line(hub, tmp_path):
    assert start_chapters(hub, tmp_path, "01", "-p", "model_name", "nobody/nothing").wait() == 1
    printed = (tmp_path / "stderr").read_text().splitlines()
    lines = [line for line in printed if "%|" not in line and line.strip()]
    assert lines[0].startswith("ChapterError: 01_prepare_data.ipynb, cell [")
    assert lines[1] == f"  SourceError: model_name: 'nobody/nothing' {PRIVATE}"
    assert lines[2].startswith("  The notebook up to there: ")
    assert lines[3:] == []


def test_names_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert split_hub_name(DATASET) == (DATASET, None)
    assert split_hub_name(f"{DATASET}@refs/pr/1") == (DATASET, "refs/pr/1")
    assert split_hub_name("bert@v1.0") == ("bert", "v1.0")
    assert split_hub_name("stanfordnlp/imdb") is None  # packaged
    assert split_hub_name("stanfordnlp/imdb@main") == ("stanfordnlp/imdb", "main")
    Path("own@v1").mkdir()
    assert split_hub_name("own@v1") is None
    for name in ("a/b/c", "a@", "@v1", "a b", "a@b@c", "/a/b"):
        assert split_hub_name(name) is None


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(28, "No space left on device"), "does not fit on the disk; free some, or set HF_"),
        (PermissionError(13, "Permission denied"), "cannot be stored; set HF_HOME to a folder of"),
        (
            OSError(30, "Read-only file system"),
            "cannot be stored; set HF_HOME to a folder of yours",
        ),
        (ValueError("Something new\nwith more lines"), "cannot be loaded: Something new"),
        (ValueError(), "cannot be loaded: ValueError"),
    ],
    ids=str,
)
def test_what_cannot_be_staged_is_explained_too(error, message):
    said = _explain(error, "dataset", DATASET)
    assert said.startswith(f"dataset_name: {DATASET!r} {message}")
    assert "\n" not in said


@pytest.mark.elsewhere
def test_all_chapters_run_with_the_recipe_of_the_tutorial(loopback, tutorial):
    """First from the Hub, then chapter 02 once more without it."""
    hub, home, process = tutorial
    wait_for_chapters(process, home)
    folder = home / "run"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert list(metrics) == [chapter.stem for chapter in all_chapters()]
    assert metrics["01_prepare_data"]["train_rows"] == 1000
    # The stand-in's texts name their stars almost in so many words.
    assert 0.4 < metrics["05_evaluation"]["accuracy"] <= 1
    report = (home / "stdout").read_text().splitlines()
    assert [line[: len(name)] for line, name in zip(report[-7:-2], STARS, strict=True)] == STARS
    config = json.loads((folder / "model" / "config.json").read_text())
    assert list(config["id2label"].values()) == STARS
    head = load((folder / "model" / "model.safetensors").read_bytes())["classifier.weight"]
    assert head.shape[0] == len(STARS)
    assert len(downloads(hub)) == FILES
    assert half_files(home) == []

    hub.stop()
    process = start_chapters(hub, home, "02", "-f", "parameters/yelp.yaml")
    wait_for_chapters(process, home)
    cells = nbformat.read(folder / "02_dataloaders.ipynb", as_version=4).cells
    printed = [output.text for c in cells for output in c.get("outputs", []) if "text" in output]
    assert any(f"{MODEL} comes from the cache" in text for text in printed)
