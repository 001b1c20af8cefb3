"""A hub in miniature: a server that answers what `huggingface_hub` and `datasets` ask of one.

It serves folders as data sets, each with one commit on `main`, and remembers what it was asked.
`Remote` is the command in a process that knows of it alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit


def commit_of(folder: Path) -> str:
    """40 hexadecimal digits that change with the content, as a commit's do."""
    digest = hashlib.sha1()
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            digest.update(str(file.relative_to(folder)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


class Hub:
    """Data sets below `folder/<owner>/<name>/`, at `url`.

    Attributes:
        asked: `METHOD path` of every request.
        gated: repositories that nobody may read.
        silent: say nothing while this is set.
        gone: end every connection while this is set.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[str] = []
        self.gated: set[str] = set()
        self.silent = threading.Event()
        self.gone = threading.Event()
        hub = self

        class Handler(_Handler):
            served = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Hub:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class Models(Hub):
    """The hub's data sets, served as models."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        serving: Any = self._server.RequestHandlerClass

        class Handler(serving):
            def _answer(self) -> None:
                if self.path.startswith("/api/models/"):
                    self.path = self.path.replace("/api/models/", "/api/datasets/", 1)
                elif "/resolve/" in self.path:
                    self.path = f"/datasets{self.path}"
                super()._answer()

        self._server.RequestHandlerClass = Handler


class _Handler(BaseHTTPRequestHandler):
    served: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.served.asked.append(f"{self.command} {path}")
        if self.served.silent.is_set():
            threading.Event().wait(60)
        if self.served.silent.is_set() or self.served.gone.is_set():
            self.close_connection = True
            return
        for pattern, method in (
            (r"/api/datasets/([^/]+/[^/]+)(?:/revision/([^/]+))?", self._info),
            (r"/api/datasets/([^/]+/[^/]+)/tree/([^/]+)/?(.*)", self._tree),
            (r"/api/datasets/([^/]+/[^/]+)/paths-info/([^/]+)", self._paths),
            (r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self._file),
        ):
            if match := re.fullmatch(pattern, path):
                repository, revision, *rest = match.groups()
                folder = self.served.folder / repository
                if not folder.is_dir():
                    self._error(401, "RepoNotFound", "Repository not found")
                elif repository in self.served.gated:
                    self._error(403, "GatedRepo", "Access to this dataset is restricted: gated")
                elif revision not in (None, "main", commit_of(folder)):
                    self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
                else:
                    method(repository, folder, *rest, body)
                return
        self._error(404, "EntryNotFound", "no such page")

    def _info(self, repository: str, folder: Path, body: bytes) -> None:
        names = [str(file.relative_to(folder)) for file in _files(folder)]
        self._json(
            {
                "id": repository,
                "sha": commit_of(folder),
                "private": False,
                "tags": [],
                "downloads": 0,
                "likes": 0,
                "siblings": [{"rfilename": name} for name in names],
            }
        )

    def _tree(self, repository: str, folder: Path, below: str, body: bytes) -> None:
        if not (folder / below).is_dir():
            self._error(404, "EntryNotFound", f"{below} does not exist")
            return
        recursive = "recursive=true" in self.path.lower()
        inside = (folder / below).rglob("*") if recursive else (folder / below).iterdir()
        self._json([_entry(folder, path) for path in sorted(inside)])

    def _paths(self, repository: str, folder: Path, body: bytes) -> None:
        if body[:1] == b"{":
            paths = json.loads(body)["paths"]
        else:
            pairs = [pair.split("=", 1) for pair in body.decode().split("&")]
            paths = [unquote(value) for key, value in pairs if key == "paths"]
        self._json([_entry(folder, folder / path) for path in paths if (folder / path).exists()])

    def _file(self, repository: str, folder: Path, name: str, body: bytes) -> None:
        file = folder / name
        if not file.is_file():
            self._error(404, "EntryNotFound", f"{name} does not exist")
            return
        data = file.read_bytes()
        status, span = 200, self.headers.get("Range")
        headers = {
            "ETag": f'"{hashlib.sha1(data).hexdigest()}"',
            "X-Repo-Commit": commit_of(folder),
            "Accept-Ranges": "bytes",
            "Content-Type": "application/octet-stream",
        }
        if span and (match := re.fullmatch(r"bytes=(\d+)-(\d*)", span)):
            first, last = int(match[1]), min(int(match[2] or len(data)), len(data) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
            data, status = data[first : last + 1], 206
        self._send(status, data, headers)

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _error(self, status: int, code: str, message: str) -> None:
        body = json.dumps({"error": message}).encode()
        self._send(status, body, {"X-Error-Code": code, "X-Error-Message": message})

    def _send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def _entry(folder: Path, path: Path) -> dict[str, object]:
    name = str(path.relative_to(folder))
    if path.is_dir():
        return {"type": "directory", "oid": "0" * 40, "size": 0, "path": name}
    data = path.read_bytes()
    return {"type": "file", "oid": hashlib.sha1(data).hexdigest(), "size": len(data), "path": name}


# The libraries read the environment when they are imported, so the command runs in a process of
# its own, which answers one request after the other.
REMOTE = """
import contextlib, io, json, sys
from etude import cli
from etude.data.hub import commit_of
answers = sys.stdout
for line in sys.stdin:
    commit_of.cache_clear()
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.run(json.loads(line))
    print(json.dumps([code, out.getvalue(), err.getvalue()]), file=answers, flush=True)
"""

Answer = tuple[int, str, str]


class Remote:
    """`remote(more)` is `etude train` with `words` and `more`, in a process of its own."""

    def __init__(self, folder: Path, words: Sequence[str], **environment: str) -> None:
        self.folder, self.words = folder, words
        ours = {"HF_HOME": str(folder / "hf"), "ETUDE_CACHE": str(folder / "cache")}
        others = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
        self.process = subprocess.Popen(
            [sys.executable, "-c", REMOTE],
            env=others | ours | environment,
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *more: str) -> Answer:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        request = ["train", *self.words, f"run.root={self.folder / 'runs'}", *more]
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        code, out, err = json.loads(self.process.stdout.readline())
        return code, out, err

    def close(self) -> None:
        self.process.kill()
        self.process.wait(timeout=60)


def record_of(answer: Answer) -> dict[str, Any]:
    """What `run.json` says of the run that a command ended with."""
    assert answer[0] == 0, answer
    folder = next(line.split()[-1] for line in answer[1].splitlines() if "run folder " in line)
    info = json.loads(Path(folder, "run.json").read_text())
    return {**info, "path": Path(folder)}
