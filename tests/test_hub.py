"""Models and data sets of the Hub, from a stand-in on loopback, through the real libraries.

They run in processes of their own: the libraries read HF_ENDPOINT and HF_HOME when they start.
"""

import errno
import json
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from hub_stand_in import DATASET, MODEL, STARS, HubStandIn, Repository, make_repositories
from lessons import run_python

from suite.chapters import ROOT
from suite.hub import _explain
from suite.names import split_hub_name

pytestmark = pytest.mark.xdist_group("hub")

SERVED = (("models", MODEL), ("datasets", DATASET))
REFUSED = f"[Errno {errno.ECONNREFUSED}] Connection refused"  # the number is the system's
# config, tokenizer (3), weights; card, training rows, test rows
FILES = 8

# Reads parameters as a chapter does, takes the lesson's first steps, and tells what came of it.
READ = """
import contextlib, io, json, sys, time
from suite.errors import UserError
from suite.hub import fetch_model
from suite.settings import Settings, parameters_cell
from suite.start import read_parameters

def read(changes):
    cells = [parameters_cell(), "settings = read_parameters(globals())"]
    settings = read_parameters({**vars(Settings()), **changes, "In": cells})
    from datasets import load_dataset
    from suite.runs import made_by
    from suite.resolve import find_model
    from suite.rows import find_rows
    dataset = load_dataset("parquet", data_files=find_rows(settings).files)
    return {
        "model": find_model(settings.model_name),
        "rows": dataset.num_rows,
        "first": dataset["train"][0],
        "classes": getattr(dataset["train"].features["label"], "names", None),
        "files": made_by(settings, "data")["files"],
    }

waits, sleep = [], time.sleep  # the libraries wait a second and more before each new try
time.sleep = lambda seconds: sleep(seconds if seconds < 1 else waits.append(seconds) or 0)
for line in sys.stdin:
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        fetch_model.cache_clear()
        waits.clear()
        try:
            answer = read(json.loads(line))
        except UserError as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps({**answer, "said": said.getvalue(), "waits": len(waits)}), flush=True)
"""


def environment(hub, home, **more):
    """That of a process that takes the stand-in for the Hub, and `home` for its cache."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "TRANSFORMERS_"))}
    kept |= {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(home), "OMP_NUM_THREADS": "1"}
    return {**kept, "HF_HUB_DISABLE_IMPLICIT_TOKEN": "", **more}


@contextmanager
def reader(hub, home, **more):
    """Yield a function that reads parameters in another process and returns what that tells."""
    options = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    options |= {"cwd": ROOT, "text": True, "env": environment(hub, home, **more)}
    with subprocess.Popen([sys.executable, "-c", READ], **options) as process:

        def read(**changes):
            print(json.dumps(changes), file=process.stdin, flush=True)
            line = process.stdout.readline()
            assert line, process.stderr.read()
            return json.loads(line)

        yield read
        assert process.communicate()[1] == ""


def names(revision=""):
    return {"model_name": MODEL + revision, "dataset_name": DATASET + revision}


def half_files(home):
    """What an unfinished download would leave; the libraries' lock files hold nothing and stay."""
    names = (path for path in Path(home).rglob("*incomplete*") if path.suffix != ".lock")
    return [*names, *Path(home).rglob("*.tmp")]


def weights(found):
    return Path(found["model"], "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def repositories():
    return make_repositories()


@pytest.fixture
def hub(repositories, loopback):
    with HubStandIn(dict(repositories)) as hub:
        yield hub


def served(hub, kind, name, revision="main"):
    return hub.repositories[kind, name].find(revision)


def downloads(hub):
    return [path for method, path in hub.requests if method == "GET" and "/resolve/" in path]


def test_a_name_and_its_revisions_are_downloaded_once_and_then_need_no_hub(hub, tmp_path):
    commits = [served(hub, *key, revision)[0] for key in SERVED for revision in ("v1", "main")]
    old_model, new_model, old_data, new_data = commits
    by_hash = {"model_name": f"{MODEL}@{old_model}", "dataset_name": f"{DATASET}@{old_data}"}
    asked = (names(), names("@v1"), by_hash)
    with reader(hub, tmp_path) as read:
        new = read(**names())
        assert Path(new["model"]).name == new_model
        assert weights(new) == served(hub, "models", MODEL)[1]["model.safetensors"]
        assert new["rows"] == {"train": 3500, "test": 1100}
        assert new["classes"] == STARS
        assert new["files"] == [[new_model], [new_data]]
        assert len(downloads(hub)) == FILES
        assert half_files(tmp_path) == []
        _, pinned, hashed = online = [read(**changes) for changes in asked]
        hub.requests.clear()
        assert read(**names()) == new == online[0]
        assert hub.requests != []
        assert downloads(hub) == []
    assert pinned["files"] == [[old_model], [old_data]] == hashed["files"]
    assert weights(pinned) == served(hub, "models", MODEL, "v1")[1]["model.safetensors"]
    assert weights(pinned) == weights(hashed) != weights(new)
    assert pinned["first"] == hashed["first"] != new["first"]

    hub.stop()
    why = f"comes from the cache: the connection to {hub.endpoint} failed ({REFUSED})."
    with reader(hub, tmp_path) as read:
        for changes, answer in zip(asked, online, strict=True):
            # The libraries alone try for over a minute.
            said = "".join(f"{name} {why}\n" for name in changes.values())
            assert read(**changes) == {**answer, "said": said, "waits": 0}
            assert answer["said"] == ""


def test_a_new_commit_makes_new_results_and_half_of_one_does_not(hub, tmp_path):
    newest = dict(hub.repositories)
    hub.repositories = {key: Repository(newest[key].commits[:1]) for key in newest}
    with reader(hub, tmp_path) as read:
        old = read(**names())
        hub.repositories = newest
        hub.break_off = {"model.safetensors": 1000, "train-00000-of-00001.parquet": 1000}
        for parameter, name in names().items():
            assert "failed (peer closed connection" in read(**{parameter: name})["error"]
        assert half_files(tmp_path) == []
        hub.deny = {MODEL: (503,), DATASET: (429,)}
        cached = read(**names())
        assert "from the cache: the Hub cannot answer now (503)." in cached["said"]
        assert "from the cache: the Hub cannot answer now (429)." in cached["said"]
        hub.deny = hub.break_off = {}
        new = read(**names())
    assert {**cached, "said": ""} == old
    assert new["files"] == [[served(hub, *key)[0]] for key in SERVED]
    assert all(ours != theirs for ours, theirs in zip(new["files"], old["files"], strict=True))
    assert weights(new) != weights(old)
    assert new["first"] != old["first"]


def test_a_first_download_that_breaks_off_leaves_no_half_file(hub, tmp_path):
    hub.break_off = {"vocab.txt": 100, "test-00000-of-00001.parquet": 100}
    with reader(hub, tmp_path) as read:
        for parameter, name in names().items():
            said = read(**{parameter: name})
            assert f"{parameter}: {name!r} is not whole in the cache, and the conn" in said["error"]
            assert "failed (peer closed connection" in said["error"]
            assert said["waits"] > 0
        assert half_files(tmp_path) == []
        blobs = {path.read_bytes() for path in tmp_path.rglob("blobs/*") if path.is_file()}
        assert blobs
        assert blobs <= {content for key in SERVED for content in served(hub, *key)[1].values()}
        hub.break_off = {}
        assert read(**names())["classes"] == STARS


LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"
NOT_THERE = (
    f"is not on the Hub, or is private; check name and revision on PAGE; if it is private, {LOG_IN}"
)
CLOSED = f"is not open to you or your token; ask for access on PAGE, then {LOG_IN}"
UNREACHABLE = (
    "is not whole in the cache, and {}; connect or wait, and run this again;"
    " the defaults and a {} of yours need no network"
)
OTHER_DATA = "; take another data set, or download a file of it and give its path"
CARD = b"""---
configs:
- {config_name: north, data_files: north.csv}
- {config_name: south, data_files: south.csv}
---
"""
ROWS = b"text,label\ngood,1\nbad,0\n"

# Repositories with something wrong about them; more in `failures`.
WRONG = {
    ("models", "wrong/no-config"): {"README.md": b"", "vocab.txt": b"[UNK]\n"},
    ("models", "wrong/own-code"): {
        "config.json": b'{"model_type": "mine", "auto_map": {"AutoConfig": "mine.Mine"}}',
        "mine.py": b"raise SystemExit('must not run')",
    },
    ("datasets", "wrong/empty"): {"README.md": b""},
    ("datasets", "wrong/several"): {"README.md": CARD, "north.csv": ROWS, "south.csv": ROWS},
    ("datasets", "wrong/script"): {"README.md": b"", "script.py": b"raise SystemExit('no')"},
    ("datasets", "wrong/columns"): {"rows.csv": b"review,stars\ngood,1\nbad,0\n"},
    ("datasets", "wrong/few"): {"rows.csv": ROWS + b"fine,1\npoor,0\n"},
    ("datasets", "wrong/split"): {"test.csv": ROWS},
}

# kind, name -> what is said about it; denied/STATUS-CODE is denied with this status and code
FAILURES = {
    ("model", "nobody/nothing"): NOT_THERE,
    ("dataset", "nobody/nothing"): NOT_THERE,
    ("model", "wrong/gated"): CLOSED,
    ("dataset", "wrong/gated"): CLOSED,
    ("model", DATASET): NOT_THERE,
    ("model", f"{MODEL}@v9"): NOT_THERE,
    ("dataset", f"{DATASET}@v9"): NOT_THERE,
    ("model", "denied/401-GatedRepo"): CLOSED,
    ("dataset", "denied/403-GatedRepo"): CLOSED,
    ("dataset", "denied/403-None"): CLOSED,
    ("model", "denied/401-None"): CLOSED,
    # What the Hub answers to a token.
    ("model", "denied/403-GatedRepo"): CLOSED,
    ("model", "denied/404-RepoNotFound"): NOT_THERE,
    ("dataset", "denied/429-None"): UNREACHABLE.format("the Hub cannot answer now (429)", "file"),
    ("model", "denied/503-None"): UNREACHABLE.format("the Hub cannot answer now (503)", "folder"),
    ("model", "wrong/no-config"): "cannot be loaded: there is no config.json; take another model",
    ("model", "wrong/no-weights"): "does not appear to have a file named model.safetensors",
    ("model", "wrong/own-code"): "of type 'mine', which the installed transformers does not know;",
    ("dataset", "wrong/empty"): f"doesn't contain any data files{OTHER_DATA}",
    ("dataset", "wrong/several"): f"cannot be loaded: Config name is missing{OTHER_DATA}",
    ("dataset", "wrong/script"): f"longer supported, but found script.py{OTHER_DATA}",
    ("dataset", "wrong/columns"): "has no column 'text'; it has review, stars",
    ("dataset", "wrong/few"): "has 2 rows for it (train 2, validation 1, test 1)",
    ("dataset", "wrong/split"): "has no split 'train'; it has test",
    ("model", "a--b/c"): "cannot be loaded: ",
}


def test_a_failure_is_one_line_that_says_what_to_do_and_leaves_nothing_half(hub, tmp_path):
    whole = served(hub, "models", MODEL)[1]
    wrong = {
        **WRONG,
        ("models", "wrong/no-weights"): {k: v for k, v in whole.items() if "model.s" not in k},
        ("models", "wrong/gated"): whole,
        ("datasets", "wrong/gated"): {"README.md": CARD},
    }
    hub.repositories |= {key: Repository([files]) for key, files in wrong.items()}
    hub.gated = {"wrong/gated"}
    for _, name in FAILURES:
        if name.startswith("denied/"):
            status, code = name.removeprefix("denied/").split("-")
            hub.deny[name] = int(status), code, "Invalid credentials in Authorization header"
    with reader(hub, tmp_path) as read:
        for (kind, name), expected in FAILURES.items():
            said = read(**{f"{kind}_name": name})["error"]
            page = f"{hub.endpoint}/{'datasets/' * (kind == 'dataset')}{name.partition('@')[0]}"
            assert expected.replace("PAGE", page) in said
            assert "\n" not in said
            assert repr(name) in said
    assert half_files(tmp_path) == []
    left = " ".join(path.name for path in Path(tmp_path, "hub").glob("*--*"))
    assert not any(name in left for name in ("denied", "nobody", "gated"))


def test_without_the_hub_a_first_download_fails_in_one_line_and_at_once(hub, tmp_path):
    with reader(hub, tmp_path, HF_HUB_OFFLINE="1") as read:
        said = read(model_name=MODEL)["error"]
    assert said.endswith(UNREACHABLE.format("HF_HUB_OFFLINE is set", "folder"))
    assert hub.requests == []
    hub.stop()
    why = f"the connection to {hub.endpoint} failed ({REFUSED})"
    with reader(hub, tmp_path) as read:
        model, data = read(model_name=MODEL), read(dataset_name=f"{DATASET}@v1")
    model_said, data_said = (UNREACHABLE.format(why, own) for own in ("folder", "file"))
    assert model["error"] == f"SourceError: model_name: {MODEL!r} {model_said}"
    assert data["error"] == f"SourceError: dataset_name: '{DATASET}@v1' {data_said}"
    assert model["waits"] == data["waits"] == 0
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert all("finetuning-notebooks" in path.parts for path in left)  # the packaged reviews


def test_the_check_before_the_chapters_asks_no_network_and_loads_nothing(hub, tmp_path):
    code = "import suite.start as start, sys; start.check_values({}); print(*sys.modules)"
    done = run_python("-c", code.format(names("@v1")), env=environment(hub, tmp_path))
    heavy = {"torch", "transformers", "datasets", "httpx", "httpx2", "pandas"}
    assert not heavy & set(done.stdout.split())
    assert (done.stderr, hub.requests) == ("", [])


def test_names_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("own@v1").mkdir()
    assert split_hub_name(DATASET) == (DATASET, None)
    for name in (f"{DATASET}@refs/pr/1", "bert@v1.0", "stanfordnlp/imdb@main"):
        assert split_hub_name(name) == tuple(name.split("@"))
    for name in ("stanfordnlp/imdb", "own@v1", "a/b/c", "a@", "@v1", "a b", "a@b@c", "/a/b"):
        assert split_hub_name(name) is None  # the first is packaged, the second a folder


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(28, "No space left on device"), "stored ([Errno 28] No space left on device)"),
        (OSError("Not enough disk space. Needed: 1 GB"), "stored (Not enough disk space. Needed:"),
        (PermissionError(13, "Permission denied"), "stored ([Errno 13] Permission denied)"),
        (OSError(30, "Read-only file system"), "stored ([Errno 30] Read-only file system)"),
        (ValueError("Something new\nand more"), f"loaded: Something new{OTHER_DATA}"),
        (ValueError(), f"loaded: ValueError{OTHER_DATA}"),
    ],
    ids=str,
)
def test_what_cannot_be_staged_is_explained_too(error, message):
    said = _explain(error, "dataset", DATASET)
    assert said.startswith(f"dataset_name: {DATASET!r} cannot be {message}")
    assert ("set HF_HOME (now " in said) == isinstance(error, OSError)
    assert "\n" not in said


@pytest.mark.long
def test_the_three_roads_run_with_the_recipe_of_the_tutorial(hub, tmp_path):
    """First from the Hub, side by side, then chapter 02 without it."""
    folder, recipe = tmp_path / "run", ("-f", "parameters/yelp.yaml")
    command = ("-m", "suite", "run", *recipe, "-p", "run_dir", folder)
    chosen = ("01", "04", "05", "08", "09")
    done = run_python(*command, *chosen, "--side-by-side", env=environment(hub, tmp_path))
    metrics = json.loads((folder / "metrics.json").read_text())
    assert [name[:2] for name in metrics] == list(chosen)
    assert metrics["01_prepare_data"]["train_rows"] == 1000
    # The stand-in's texts name their stars almost in so many words.
    assert 0.4 < metrics["05_evaluation"]["accuracy"] <= 1
    report = done.stdout.splitlines()
    assert [line[: len(name)] for line, name in zip(report[-8:-3], STARS, strict=True)] == STARS
    config = json.loads((folder / "model" / "config.json").read_text())
    assert list(config["id2label"].values()) == STARS
    assert len(downloads(hub)) == FILES
    assert half_files(tmp_path) == []

    hub.stop()
    run_python(*command, "02", env=environment(hub, tmp_path))
    assert f"{MODEL} comes from the cache" in (folder / "02_dataloaders.ipynb").read_text()
