"""A stand-in for the Hub on loopback, with a tiny BERT and a small set of starred reviews.

It speaks as much of the Hub's HTTP interface as `from_pretrained`, `load_dataset` and `push_to_hub` use.
`python tests/hub_stand_in.py` serves until Ctrl-C and prints the variable to set:

    HF_ENDPOINT=http://127.0.0.1:… make run PARAMETERS=parameters/yelp.yaml

Set HF_HOME to an empty folder beside it, or what it serves ends up in your own cache.
"""

import argparse
import base64
import copy
import hashlib
import io
import json
import random
import tempfile
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

MODEL = "google-bert/bert-base-cased"
DATASET = "Yelp/yelp_review_full"
# What the Hub keeps as large files: they are known by their SHA-256 and not by their Git hash.
LARGE = (".safetensors", ".bin", ".parquet")


@dataclass
class Repository:
    """One repository: its commits, oldest first, each a dictionary path -> bytes."""

    commits: list[dict[str, bytes]]
    tags: dict[str, int] = field(default_factory=dict)

    @property
    def hashes(self):
        """The commit hashes, oldest first."""
        texts = (
            repr(sorted((p, _digest(p, b)) for p, b in files.items())) for files in self.commits
        )
        return [hashlib.sha1(text.encode()).hexdigest() for text in texts]

    def find(self, revision):
        """Return (hash, files) of a branch, tag or commit hash, or None."""
        numbers = {hash: number for number, hash in enumerate(self.hashes)}
        number = {"main": len(self.commits) - 1, **self.tags, **numbers}.get(revision)
        return None if number is None else (self.hashes[number], self.commits[number])


class HubStandIn:
    """A context manager that serves {("models" or "datasets", id): Repository} on a free port.

    deny: id -> (status, X-Error-Code) for every request about it; status 403 and "GatedRepo"
          is what a gated repository answers to a token without access
    gated: ids whose files, and not their descriptions, are denied: 401 without a token, else 403
    break_off: file name -> the connection closes after this byte of the file
    requests: (method, path) of what was asked so far
    private: (kind, id) -> whether a repository was created as a private one
    """

    def __init__(self, repositories, port=0):
        """Bind the port; `with` starts to serve."""
        self.repositories = repositories
        self.deny, self.gated, self.break_off, self.requests = {}, set(), {}, []
        self.private = {}
        self.server = ThreadingHTTPServer(("127.0.0.1", port), _Handler)
        self.server.daemon_threads = True
        self.server.hub = self
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self):
        """Serve in a thread."""
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_):
        """Stop, if `stop` did not do so already."""
        self.stop()

    def stop(self):
        """Close the port: from now on connections are refused."""
        if self.thread.is_alive():
            self.server.shutdown()
            self.server.server_close()
            self.thread.join()


class _Answer(Exception):
    """An answer other than 200, with the Hub's error code."""

    def __init__(self, status, code="", message=""):
        self.status, self.code, self.message = status, code, message


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        """Keep the terminal quiet."""

    def do_HEAD(self):
        self._answer()

    def do_GET(self):
        self._answer()

    def do_POST(self):
        self._answer()

    def _answer(self):
        self.hub = self.server.hub
        self.hub.requests.append((self.command, self.path))
        self.body = self._read_body().decode()
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        try:
            if parts == ["api", "repos", "create"]:
                self._create()
            elif parts == ["api", "validate-yaml"]:
                self._send_json({"errors": [], "warnings": []})
            elif parts[0] == "api" and len(parts) == 6 and parts[4] in ("preupload", "commit"):
                self._take_files(parts[1], "/".join(parts[2:4]), parts[4])
            elif parts[0] == "api" and len(parts) >= 4:
                self._describe(parts[1], "/".join(parts[2:4]), parts[4:])
            else:
                kind = parts.pop(0) if parts[0] == "datasets" else "models"
                if len(parts) < 5 or parts[2] != "resolve":
                    raise _Answer(404)
                self._send_file(kind, "/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        except _Answer as answer:
            headers = {"X-Error-Code": answer.code, "X-Error-Message": answer.message}
            self._send(answer.status, b"{}", {k: v for k, v in headers.items() if v})
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _read_body(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _create(self):
        """Answer /api/repos/create: an empty repository, private or not, for whoever has a token."""
        if "Authorization" not in self.headers:
            raise _Answer(401)
        asked = json.loads(self.body)
        name, kind = f"{asked['organization']}/{asked['name']}", f"{asked.get('type', 'model')}s"
        if (kind, name) not in self.hub.repositories:
            self.hub.repositories[kind, name] = Repository([{}])
            self.hub.private[kind, name] = asked["visibility"] == "private"
        self._send_json({"url": f"{self.hub.endpoint}/{name}", "name": name, "id": name})

    def _take_files(self, kind, name, what):
        """Answer …/preupload/R, which asks how to send files, and …/commit/R, which sends them."""
        if "Authorization" not in self.headers:
            raise _Answer(401)
        commit, files = self._find(kind, name, "main")
        if what == "preupload":
            asked = [file["path"] for file in json.loads(self.body)["files"]]
            modes = [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in asked]
            return self._send_json({"files": modes})
        lines = [json.loads(line) for line in self.body.splitlines()]
        sent = [line["value"] for line in lines if line["key"] == "file"]
        new = {file["path"]: base64.b64decode(file["content"]) for file in sent}
        repository = self.hub.repositories[kind, name]
        repository.commits.append({**files, **new})
        commit = repository.hashes[-1]
        url = f"{self.hub.endpoint}/{name}/commit/{commit}"
        self._send_json({"success": True, "commitOid": commit, "commitUrl": url})

    def _send_json(self, answer):
        self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _find(self, kind, name, revision):
        if name in self.hub.deny:
            raise _Answer(*self.hub.deny[name])
        if (kind, name) not in self.hub.repositories:
            # The Hub does not tell strangers whether a repository is private or not there.
            raise _Answer(404 if "Authorization" in self.headers else 401, "RepoNotFound")
        found = self.hub.repositories[kind, name].find(revision)
        if found is None:
            raise _Answer(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return found

    def _describe(self, kind, name, rest):
        """Answer /api/models/owner/name, …/revision/R, …/tree/R/folder and …/paths-info/R."""
        what, revision, *inside = (
            [*rest, "main"] if len(rest) == 1 else rest or ["revision", "main"]
        )
        commit, files = self._find(kind, name, revision)
        if what == "revision":
            siblings = [{"rfilename": path} for path in files]
            answer = {
                "id": name,
                "sha": commit,
                "private": False,
                "gated": False,
                "siblings": siblings,
            }
        elif what == "tree":
            answer = _tree(
                files, "/".join(inside), "recursive=True" in self.path.replace("true", "True")
            )
        elif what == "paths-info":
            wanted = self._wanted_paths()
            answer = [entry for entry in _tree(files, "", True) if entry["path"] in wanted]
        else:
            raise _Answer(404)
        self._send_json(answer)

    def _wanted_paths(self):
        if "json" in (self.headers.get("Content-Type") or ""):
            return json.loads(self.body)["paths"]
        return parse_qs(self.body).get("paths", [])

    def _send_file(self, kind, name, revision, path):
        commit, files = self._find(kind, name, revision)
        if name in self.hub.gated:
            raise _Answer(403 if "Authorization" in self.headers else 401, "GatedRepo")
        headers = {"X-Repo-Commit": commit}
        if path not in files:
            headers |= {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}
            return self._send(404, b"", headers)
        content, status, start = files[path], 200, 0
        headers |= {"ETag": f'"{_digest(path, content)}"', "Accept-Ranges": "bytes"}
        if path.endswith(LARGE):
            headers |= {"X-Linked-ETag": headers["ETag"], "X-Linked-Size": str(len(content))}
        if self.headers.get("Range", "").startswith("bytes="):
            first, last = self.headers["Range"].removeprefix("bytes=").split("-")
            start, end = int(first), int(last or len(content) - 1)
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


def _digest(path, content):
    if path.endswith(LARGE):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _tree(files, folder, recursive):
    """The entries of a folder as the Hub lists them."""
    prefix, entries = f"{folder}/" if folder else "", {}
    for path, content in files.items():
        if not path.startswith(prefix):
            continue
        names = path.removeprefix(prefix).split("/")
        for depth in range(1, len(names)):
            above = prefix + "/".join(names[:depth])
            oid = hashlib.sha1(above.encode()).hexdigest()
            if recursive or depth == 1:
                entries[above] = {"type": "directory", "oid": oid, "size": 0, "path": above}
        if recursive or len(names) == 1:
            digest, size = _digest(path, content), len(content)
            entries[path] = {"type": "file", "oid": digest[:40], "size": size, "path": path}
            if path.endswith(LARGE):
                entries[path]["lfs"] = {"oid": digest, "size": size, "pointerSize": 134}
    if folder and not entries:
        raise _Answer(404, "EntryNotFound", f"{folder} does not exist")
    return list(entries.values())


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
            shade = (
                stars
                if draw.random() < 0.8
                else draw.choice([max(0, stars - 1), min(4, stars + 1)])
            )
            opinion, thing = draw.choice(OPINIONS[shade]), draw.choice(THINGS)
            sentences.append(f"The {thing} of this {draw.choice(PLACES)} was {opinion}.")
        reviews[" ".join(sentences)] = stars
    return [(stars, text) for text, stars in reviews.items()]


CARD = """---
dataset_info:
  config_name: yelp_review_full
  features:
  - name: label
    dtype:
      class_label:
        names:
{names}
  - name: text
    dtype: string
  splits:
  - name: train
    num_bytes: {train_bytes}
    num_examples: {train_rows}
  - name: test
    num_bytes: {test_bytes}
    num_examples: {test_rows}
  download_size: {download_size}
  dataset_size: {dataset_size}
configs:
- config_name: yelp_review_full
  data_files:
  - split: train
    path: yelp_review_full/train-*
  - split: test
    path: yelp_review_full/test-*
  default: true
---

Generated reviews in the layout of Yelp/yelp_review_full.
"""


def dataset_files(seed, train=3500, test=1100):
    """Return the files of a commit of the data set, path -> bytes."""
    import pyarrow
    import pyarrow.parquet

    reviews = make_reviews(train + test, seed)
    files, numbers = {}, {}
    for split, rows in (("train", reviews[:train]), ("test", reviews[train:])):
        stars, texts = zip(*rows, strict=True)
        # In Parquet the class is a plain number: its names stand in the card.
        columns = {"label": pyarrow.array(stars, pyarrow.int64()), "text": pyarrow.array(texts)}
        table, buffer = pyarrow.table(columns), io.BytesIO()
        pyarrow.parquet.write_table(table, buffer)
        files[f"yelp_review_full/{split}-00000-of-00001.parquet"] = buffer.getvalue()
        numbers |= {f"{split}_rows": table.num_rows, f"{split}_bytes": table.nbytes}
    numbers["download_size"] = sum(map(len, files.values()))
    numbers["dataset_size"] = numbers["train_bytes"] + numbers["test_bytes"]
    names = "\n".join(f"          '{number}': {name}" for number, name in enumerate(STARS))
    return {"README.md": CARD.format(names=names, **numbers).encode(), **files}


def model_files(seed, num_steps):
    """Return the files of a commit of a tiny BERT, path -> bytes.

    seed: draws its weights
    num_steps: steps of training on reviews, which stand in for its pretraining
    """
    import torch
    from tokenizers import BertWordPieceTokenizer
    from transformers import (
        BertConfig,
        BertForPreTraining,
        BertForSequenceClassification,
        BertTokenizerFast,
    )
    from transformers.utils import logging

    logging.disable_progress_bar()
    reviews = make_reviews(max(32 * num_steps, 500), seed=0)
    trainer = BertWordPieceTokenizer(lowercase=False)
    texts = [text for _, text in reviews[:500]]
    trainer.train_from_iterator(texts, vocab_size=500, min_frequency=1, show_progress=False)
    torch.manual_seed(seed)
    with tempfile.TemporaryDirectory() as folder:
        trainer.save_model(folder)
        tokenizer = BertTokenizerFast.from_pretrained(
            folder, do_lower_case=False, model_max_length=512
        )
        config = BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=512,
        )
        model = BertForPreTraining(config)
        judge = BertForSequenceClassification(copy.copy(config))
        judge.bert, judge.classifier = model.bert, torch.nn.Linear(config.hidden_size, 5)
        judge.num_labels = judge.config.num_labels = 5
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
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=0, help="0, the default, takes a free one")
    with HubStandIn(make_repositories(), parser.parse_args().port) as hub:
        print(f"export HF_ENDPOINT={hub.endpoint}", flush=True)
        try:
            hub.thread.join()
        except KeyboardInterrupt:
            print()


if __name__ == "__main__":
    main()
