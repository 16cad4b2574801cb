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
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

MODEL = "google-bert/bert-base-cased"
DATASET = "Yelp/yelp_review_full"


@dataclass
class Repository:
    """Its commits, the one of the tag `v1` first, each a dictionary path -> bytes."""

    commits: list[dict[str, bytes]]

    def find(self, revision):
        """Return (hash, files) of `v1`, `main` or a commit hash, or None."""
        hashes = [_digest(repr(sorted(commit.items())).encode()) for commit in self.commits]
        found = dict(zip(hashes, zip(hashes, self.commits, strict=True), strict=True))
        names = {"v1": hashes[0], "main": hashes[-1]}
        return found.get(names.get(revision, revision))


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


class _Refusal(Exception):
    """An answer other than 200, with the Hub's error code and message."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        """Keep the terminal quiet."""

    def do_GET(self):
        self.server.requests.append((self.command, self.path))
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        path = urlsplit(self.path).path
        matches = ((answer, re.fullmatch(route, path)) for route, answer in ROUTES.items())
        try:
            answer, match = next((found for found in matches if found[1]), (None, None))
            if answer is None:
                raise _Refusal(404)
            content = answer(self, *(unquote(group or "") for group in match.groups()))
            if content is not None:
                self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})
        except _Refusal as refusal:
            status, *said = refusal.args
            headers = zip(("X-Error-Code", "X-Error-Message"), said, strict=False)
            self._send(status, b"{}", dict(headers))
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    do_HEAD = do_POST = do_GET

    def _find(self, kind, name, revision):
        if name in self.server.deny:
            raise _Refusal(*self.server.deny[name])
        if (kind, name) not in self.server.repositories:
            # The Hub does not tell strangers whether a repository is private or not there.
            raise _Refusal(404 if "Authorization" in self.headers else 401, "RepoNotFound")
        found = self.server.repositories[kind, name].find(revision or "main")
        if found is None:
            raise _Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return found

    def create(self):
        """Make an empty repository, private or not, for whoever has a token."""
        if "Authorization" not in self.headers:
            raise _Refusal(401)
        asked = json.loads(self.body)
        name, kind = f"{asked['organization']}/{asked['name']}", f"{asked.get('type', 'model')}s"
        if (kind, name) not in self.server.repositories:
            self.server.repositories[kind, name] = Repository([{}])
            self.server.private[kind, name] = asked["visibility"] == "private"
        return {"url": f"{self.server.endpoint}/{name}", "name": name, "id": name}

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
        self.server.repositories[kind, name].commits.append({**files, **new})
        commit, _ = self._find(kind, name, "main")
        url = f"{self.server.endpoint}/{name}/commit/{commit}"
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
            raise _Refusal(404, "EntryNotFound", f"{folder} does not exist")
        return [_entry(path, files.get(path)) for path in inside]

    def send_file(self, kind, name, revision, path):
        """Send a whole file; if a part is asked for, HTTP allows to send all."""
        commit, files = self._find(kind or "models", name, revision)
        if name in self.server.gated:
            raise _Refusal(403 if "Authorization" in self.headers else 401, "GatedRepo")
        headers = {"X-Repo-Commit": commit}
        if path not in files:
            return self._send(404, b"", {**headers, "X-Error-Code": "EntryNotFound"})
        headers["ETag"] = f'"{_digest(files[path])}"'
        self._send(200, files[path], headers, self.server.break_off.get(Path(path).name))

    def _send(self, status, content, headers, keep=None):
        """Send an answer; with `keep` close the connection after so many bytes of the content."""
        self.send_response(status)
        for header, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(header, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[:keep])
            self.close_connection |= keep is not None


_REPOSITORY = "/api/(models|datasets)/([^/]+/[^/]+)"
ROUTES = {
    "/api/repos/create": _Handler.create,
    "/api/validate-yaml": lambda handler: {"errors": [], "warnings": []},
    f"{_REPOSITORY}/preupload/main": _Handler.preupload,
    f"{_REPOSITORY}/commit/main": _Handler.commit,
    f"{_REPOSITORY}(?:/revision/([^/]+))?": _Handler.describe,
    f"{_REPOSITORY}/tree/([^/]+)(?:/(.+))?": _Handler.tree,
    "/(?:(datasets)/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)": _Handler.send_file,
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
# One sentence in five says what a neighbouring rating would say.
NEAR = [0] * 8 + [-1, 1]


def make_reviews(count, seed):
    """Return `count` different reviews as a list of (stars 0 to 4, text), drawn with `seed`."""
    draw, reviews = random.Random(seed), {}
    while len(reviews) < count:
        stars, sentences = draw.randrange(len(OPINIONS)), []
        for _ in range(draw.randint(2, 6)):
            opinion = draw.choice(OPINIONS[min(max(0, stars + draw.choice(NEAR)), 4)])
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
    from transformers import BertConfig, BertForSequenceClassification, BertModel
    from transformers import BertTokenizerFast as Tokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    words = sorted(set(re.findall(r"\w+|[.-]", f"{WORDS} The of this was .")))
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    torch.manual_seed(seed)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
        tokenizer = Tokenizer.from_pretrained(folder, do_lower_case=False, model_max_length=512)
        sizes = {"vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64}
        sizes |= {"num_hidden_layers": 2, "num_attention_heads": 2}
        judge = BertForSequenceClassification(BertConfig(**sizes, num_labels=len(STARS)))
        judge.bert = model = BertModel(BertConfig(**sizes))
        optimizer = torch.optim.AdamW(judge.parameters(), lr=3e-3)
        reviews = make_reviews(32 * num_steps, seed=0)
        for start in range(0, len(reviews), 32):
            stars, texts = zip(*reviews[start : start + 32], strict=True)
            inputs = tokenizer(list(texts), padding=True, return_tensors="pt")
            judge(**inputs, labels=torch.tensor(stars)).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        tokenizer.save_pretrained(folder)
        model.save_pretrained(folder)
        return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


def make_repositories():
    """Return the two repositories, each with an older commit and a new one."""
    return {
        ("models", MODEL): Repository([model_files(1, 0), model_files(2, 200)]),
        ("datasets", DATASET): Repository([dataset_files(1), dataset_files(2)]),
    }


if __name__ == "__main__":
    with HubStandIn(make_repositories()) as stand_in, suppress(KeyboardInterrupt):
        print(f"export HF_ENDPOINT={stand_in.endpoint}", flush=True)
        stand_in.thread.join()
