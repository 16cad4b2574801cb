"""A stand-in for the Hub on loopback, with a tiny BERT and a small set of starred reviews.

It speaks as much HTTP as `from_pretrained`, `load_dataset` and `push_to_hub` need of the Hub.
`python tests/hub_stand_in.py` serves until Ctrl-C and prints the variable to set:

    HF_ENDPOINT=http://127.0.0.1:… make run PARAMETERS=parameters/yelp.yaml

Set HF_HOME to an empty folder beside it, or what it serves ends up in your own cache.
"""

import base64
import hashlib
import json
import random
import re
import tempfile
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from urllib.parse import parse_qs, unquote, urlsplit

MODEL = "google-bert/bert-base-cased"
DATASET = "Yelp/yelp_review_full"


@dataclass
class Repository:
    """One repository: its commits, oldest first, each a dictionary path -> bytes."""

    commits: list[dict[str, bytes]]
    tags: dict[str, int] = field(default_factory=dict)

    def find(self, revision):
        """Return (hash, files) of a branch, tag or commit hash, or None."""
        hashes = [_digest(repr(sorted(commit.items())).encode()) for commit in self.commits]
        numbers = {hash: number for number, hash in enumerate(hashes)}
        number = {"main": len(hashes) - 1, **self.tags, **numbers}.get(revision)
        return None if number is None else (hashes[number], self.commits[number])


class HubStandIn(ThreadingHTTPServer):
    """A context manager that serves {("models" or "datasets", id): Repository} on a free port.

    deny: id -> (status, X-Error-Code, X-Error-Message) for every request about it
    gated: ids whose files, and not their descriptions, are denied: 401 without a token, else 403
    break_off: file name -> the connection closes after this byte of the file
    requests: (method, path) of what was asked so far
    private: (kind, id) -> whether a repository was created as a private one
    """

    def __init__(self, repositories):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories, self.private = repositories, {}
        self.deny, self.gated, self.break_off, self.requests = {}, set(), {}, []
        self.endpoint = f"http://127.0.0.1:{self.server_port}"
        self.thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        """Close the port: from now on connections are refused."""
        if self.thread.is_alive():
            self.shutdown()
            self.server_close()
            self.thread.join()


class _Answer(Exception):
    """An answer other than 200, with the Hub's error code."""

    def __init__(self, status, code="", message=""):
        self.status, self.code, self.message = status, code, message


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        """Keep the terminal quiet."""

    def do_GET(self):
        self.hub = self.server
        self.hub.requests.append((self.command, self.path))
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        path = urlsplit(self.path).path
        matches = ((answer, re.fullmatch(route, path)) for route, answer in ROUTES.items())
        try:
            answer, match = next(found for found in matches if found[1])
            content = answer(self, *(unquote(group or "") for group in match.groups()))
            if content is not None:
                self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})
        except _Answer as refusal:
            headers = {"X-Error-Code": refusal.code, "X-Error-Message": refusal.message}
            self._send(refusal.status, b"{}", {k: v for k, v in headers.items() if v})
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    do_HEAD = do_POST = do_GET

    def _refuse(self):
        raise _Answer(404)

    def _find(self, kind, name, revision):
        if name in self.hub.deny:
            raise _Answer(*self.hub.deny[name])
        if (kind, name) not in self.hub.repositories:
            # The Hub does not tell strangers whether a repository is private or not there.
            raise _Answer(404 if "Authorization" in self.headers else 401, "RepoNotFound")
        found = self.hub.repositories[kind, name].find(revision or "main")
        if found is None:
            raise _Answer(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return found

    def create(self):
        """Make an empty repository, private or not, for whoever has a token."""
        if "Authorization" not in self.headers:
            raise _Answer(401)
        asked = json.loads(self.body)
        name, kind = f"{asked['organization']}/{asked['name']}", f"{asked.get('type', 'model')}s"
        if (kind, name) not in self.hub.repositories:
            self.hub.repositories[kind, name] = Repository([{}])
            self.hub.private[kind, name] = asked["visibility"] == "private"
        return {"url": f"{self.hub.endpoint}/{name}", "name": name, "id": name}

    def preupload(self, kind, name):
        """Say how to send files: each in the commit itself."""
        how = {"uploadMode": "regular", "shouldIgnore": False}
        return {"files": [{"path": f["path"], **how} for f in json.loads(self.body)["files"]]}

    def commit(self, kind, name):
        """Take files as a new commit."""
        _, files = self._find(kind, name, "main")
        lines = [json.loads(line) for line in self.body.splitlines()]
        sent = [line["value"] for line in lines if line["key"] == "file"]
        new = {file["path"]: base64.b64decode(file["content"]) for file in sent}
        self.hub.repositories[kind, name].commits.append({**files, **new})
        commit, _ = self._find(kind, name, "main")
        url = f"{self.hub.endpoint}/{name}/commit/{commit}"
        return {"success": True, "commitOid": commit, "commitUrl": url}

    def describe(self, kind, name, revision):
        """Tell the commit hash and the files of a revision."""
        commit, files = self._find(kind, name, revision)
        siblings = [{"rfilename": path} for path in files]
        return {"id": name, "sha": commit, "private": False, "gated": False, "siblings": siblings}

    def tree(self, kind, name, revision, folder):
        """List a folder, with the option recursive=true all that is below it too."""
        _, files = self._find(kind, name, revision)
        above = {path: list(PurePosixPath(path).parents) for path in files}
        above |= {str(path): list(path.parents) for folders in above.values() for path in folders}
        depth = None if "recursive=true" in self.path.lower() else 1
        inside = [path for path in above if PurePosixPath(folder) in above[path][:depth]]
        if folder and not inside:
            raise _Answer(404, "EntryNotFound", f"{folder} does not exist")
        return [_entry(path, files.get(path)) for path in inside]

    def paths_info(self, kind, name, revision):
        _, files = self._find(kind, name, revision)
        return [_entry(path, files[path]) for path in parse_qs(self.body)["paths"] if path in files]

    def send_file(self, kind, name, revision, path):
        """Send a file, or the range of it that is asked for."""
        commit, files = self._find(kind or "models", name, revision)
        if name in self.hub.gated:
            raise _Answer(403 if "Authorization" in self.headers else 401, "GatedRepo")
        headers = {"X-Repo-Commit": commit}
        if path not in files:
            return self._send(404, b"", {**headers, "X-Error-Code": "EntryNotFound"})
        content, status, start = files[path], 200, 0
        headers |= {"ETag": f'"{_digest(content)}"', "Accept-Ranges": "bytes"}
        if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, end = int(asked[1]), int(asked[2] or len(content) - 1)
            status = 206
            headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
            content = content[start : end + 1]
        keep = self.hub.break_off.get(Path(path).name)
        self._send(status, content, headers, None if keep is None else max(0, keep - start))

    def _send(self, status, content, headers, keep=None):
        """Send an answer; with `keep` close the connection after so many bytes of the content."""
        self.send_response(status)
        for header, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(header, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[:keep])
            if keep is not None and keep < len(content):
                self.close_connection = True


_REPOSITORY = "/api/(models|datasets)/([^/]+/[^/]+)"
ROUTES = {
    "/api/repos/create": _Handler.create,
    "/api/validate-yaml": lambda handler: {"errors": [], "warnings": []},
    f"{_REPOSITORY}/preupload/main": _Handler.preupload,
    f"{_REPOSITORY}/commit/main": _Handler.commit,
    f"{_REPOSITORY}(?:/revision/([^/]+))?": _Handler.describe,
    f"{_REPOSITORY}/tree/([^/]+)(?:/(.+))?": _Handler.tree,
    f"{_REPOSITORY}/paths-info/([^/]+)": _Handler.paths_info,
    "/(?:(datasets)/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)": _Handler.send_file,
    ".*": _Handler._refuse,
}


def _digest(content):
    return hashlib.sha1(content).hexdigest()


def _entry(path, content):
    """What the Hub lists of a file; of a folder if there is no content."""
    kind, content = ("directory", b"") if content is None else ("file", content)
    return {"type": kind, "oid": _digest(content), "size": len(content), "path": path}


# Where, what, and what one says about it with one star, two stars and so on.
WORDS = """
bakery bar barber café clinic deli diner florist garage gym hotel museum pub salon
bread coffee counter door garden menu music parking room service soup staff tea window
awful dirty rude horrible disgusting never-again
bad slow cold bland disappointing overpriced
average ordinary fine mixed acceptable so-so
good friendly tasty pleasant warm solid
excellent perfect wonderful superb amazing outstanding
"""
PLACES, THINGS, *OPINIONS = (line.split() for line in WORDS.strip().splitlines())
STARS = ["1 star", "2 star", "3 stars", "4 stars", "5 stars"]


def make_reviews(count, seed):
    """Return `count` different reviews as a list of (stars 0 to 4, text), drawn with `seed`."""
    draw, reviews = random.Random(seed), {}
    while len(reviews) < count:
        stars = draw.randrange(len(OPINIONS))
        sentences = []
        for _ in range(draw.randint(2, 6)):
            # One sentence in five says what a neighbouring rating would say.
            near = draw.choice([max(0, stars - 1), min(4, stars + 1)])
            opinion = draw.choice(OPINIONS[stars if draw.random() < 0.8 else near])
            thing, place = draw.choice(THINGS), draw.choice(PLACES)
            sentences.append(f"The {thing} of this {place} was {opinion}.")
        reviews[" ".join(sentences)] = stars
    return [(stars, text) for text, stars in reviews.items()]


CARD = f"""---
dataset_info:
  config_name: yelp_review_full
  features:
  - {{name: label, dtype: {{class_label: {{names: {json.dumps(dict(enumerate(STARS)))}}}}}}}
  - {{name: text, dtype: string}}
configs:
- config_name: yelp_review_full
  data_files:
  - {{split: train, path: yelp_review_full/train-*}}
  - {{split: test, path: yelp_review_full/test-*}}
---
"""


def dataset_files(seed, train=3500, test=1100):
    """Return the files of a commit of the data set, path -> bytes."""
    import pandas as pd

    reviews = make_reviews(train + test, seed)
    files = {"README.md": CARD.encode()}
    for split, rows in (("train", reviews[:train]), ("test", reviews[train:])):
        # In Parquet the class is a plain number: its names stand in the card.
        content = pd.DataFrame(rows, columns=["label", "text"]).to_parquet()
        files[f"yelp_review_full/{split}-00000-of-00001.parquet"] = content
    return files


def model_files(seed, num_steps):
    """Return the files of a commit of a tiny BERT, path -> bytes.

    seed: draws its weights
    num_steps: steps of training on reviews, which stand in for its pretraining
    """
    import torch
    from transformers import BertConfig, BertForPreTraining, BertForSequenceClassification
    from transformers import BertTokenizerFast as Tokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    reviews = make_reviews(32 * num_steps, seed=0)
    words = sorted(set(re.findall(r"\w+|[.-]", f"{WORDS} The of this was .")))
    torch.manual_seed(seed)
    with tempfile.TemporaryDirectory() as folder:
        vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
        Path(folder, "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
        tokenizer = Tokenizer.from_pretrained(folder, do_lower_case=False, model_max_length=512)
        sizes = {"vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64}
        sizes |= {"num_hidden_layers": 2, "num_attention_heads": 2}
        model = BertForPreTraining(BertConfig(**sizes))
        judge = BertForSequenceClassification(BertConfig(**sizes, num_labels=len(STARS)))
        judge.bert = model.bert
        optimizer = torch.optim.AdamW(judge.parameters(), lr=3e-3)
        for start in range(0, 32 * num_steps, 32):
            stars, texts = zip(*reviews[start : start + 32], strict=True)
            inputs = tokenizer(list(texts), padding=True, return_tensors="pt")
            judge(**inputs, labels=torch.tensor(stars)).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        tokenizer.save_pretrained(folder)
        model.save_pretrained(folder)
        return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


def make_repositories():
    """Return the two repositories, each with an older commit (the tag `v1`) and `main`."""
    return {
        ("models", MODEL): Repository([model_files(1, 0), model_files(2, 200)], {"v1": 0}),
        ("datasets", DATASET): Repository([dataset_files(1), dataset_files(2)], {"v1": 0}),
    }


def main():
    with HubStandIn(make_repositories()) as hub:
        print(f"export HF_ENDPOINT={hub.endpoint}", flush=True)
        try:
            hub.thread.join()
        except KeyboardInterrupt:
            print()


if __name__ == "__main__":
    main()
