"""A Hugging Face hub on loopback for the tests: repositories in memory, served to the real clients, faults on demand.

It answers what reading takes: repository and revision info, trees, paths-info, and files by HEAD, GET and ranges.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

_API = re.compile(
    r"/api/(?P<kind>models|datasets)/(?P<id>[^/]+/[^/]+)(?:/(?P<what>revision|tree|paths-info)/(?P<rest>.+))?"
)
_FILE = re.compile(r"/(?:(?P<kind>datasets)/)?(?P<id>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<name>.+)")
_LARGE = (".safetensors", ".parquet")  # files that the hub names by their sha256


@dataclass
class Repository:
    """Its branches and tags, name -> files; each state of the files is a commit."""

    revisions: dict[str, dict[str, bytes]]
    gated: bool = False

    def files(self, revision: str) -> dict[str, bytes] | None:
        """The files of a branch, tag or commit."""
        by_commit = {commit_of(files): files for files in self.revisions.values()}
        return self.revisions.get(revision, by_commit.get(revision))


@dataclass
class FakeHub:
    """`repositories` are keyed by (kind, id), kind "models" or "datasets"; `faults` by a part of the path.

    Faults: "down" drops the connection before an answer; "cut" sends the first half of the bytes asked for and drops
    the connection; "short" announces and sends fewer bytes than the file has; "flipped" changes the last byte; "busy"
    answers 503. A fault is served `times` times.
    """

    url: str = ""
    repositories: dict[tuple[str, str], Repository] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    faults: dict[str, list[Any]] = field(default_factory=dict)

    def add(self, kind: str, name: str, files: Mapping[str, bytes], *, gated: bool = False, **more: Any) -> Repository:
        """Put a repository up; `more` are further revisions, name -> files."""
        repository = Repository({"main": dict(files), **more}, gated)
        self.repositories[kind, name] = repository
        return repository

    def spoil(self, part: str, fault: str, times: int = 10**6) -> None:
        self.faults[part] = [fault, times]

    def fault_for(self, path: str) -> str | None:
        for part, entry in self.faults.items():
            if part in path and entry[1] > 0:
                entry[1] -= 1
                return entry[0]
        return None


@contextmanager
def serving() -> Iterator[FakeHub]:
    """Serve an empty hub on a free port of loopback."""
    hub = FakeHub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def commit_of(files: Mapping[str, bytes]) -> str:
    digest = hashlib.sha1()
    for name in sorted(files):
        digest.update(name.encode() + hashlib.sha1(files[name]).digest())
    return digest.hexdigest()


def _entry(name: str, data: bytes) -> dict[str, Any]:
    blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    entry: dict[str, Any] = {"type": "file", "path": name, "size": len(data), "oid": blob}
    if name.endswith(_LARGE):
        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
    return entry


def _tree(files: Mapping[str, bytes], folder: str, recursive: bool) -> list[dict[str, Any]]:
    start = f"{folder}/" if folder else ""
    below = {name: data for name, data in files.items() if name.startswith(start)}
    folders = {start + name[len(start) :].split("/")[0] for name in below if "/" in name[len(start) :]}
    shown = [_entry(name, data) for name, data in below.items() if recursive or "/" not in name[len(start) :]]
    return [{"type": "directory", "path": path, "size": 0, "oid": "0" * 40} for path in sorted(folders)] + shown


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._serve(b"")

    def do_GET(self) -> None:
        self._serve(b"")

    def do_POST(self) -> None:
        self._serve(self.rfile.read(int(self.headers.get("Content-Length") or 0)))

    def _serve(self, body: bytes) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path)
        self.hub.requests.append((self.command, path))
        if found := _FILE.fullmatch(path):
            files = self._files(found["kind"] or "models", found["id"], found["revision"])
            if files is not None:
                self._send_file(path, files, found["name"])
        elif found := _API.fullmatch(path):
            rest = (found["rest"] or "main").split("/", 1)
            files = self._files(found["kind"], found["id"], rest[0])
            if files is not None:
                self._send_info(found, files, rest[1:], parse_qs(url.query), body)
        else:
            self._refuse(404, "NotFound", f"nothing at {path}")

    def _files(self, kind: str, name: str, revision: str) -> dict[str, bytes] | None:
        repository = self.hub.repositories.get((kind, name))
        if repository is None:
            self._refuse(401, "RepoNotFound", "Repository not found")
        elif repository.gated and not self.headers.get("Authorization"):
            self._refuse(403, "GatedRepo", f"Access to {name} is restricted.")
        elif (files := repository.files(revision)) is None:
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        else:
            return files
        return None

    def _send_info(self, found: Any, files: dict[str, bytes], below: list[str], query: Any, body: bytes) -> None:
        if found["what"] == "tree":
            self._json(_tree(files, below[0] if below else "", query.get("recursive", [""])[0].lower() == "true"))
        elif found["what"] == "paths-info":
            is_json = "json" in self.headers.get("Content-Type", "")
            asked = json.loads(body)["paths"] if is_json else parse_qs(body.decode()).get("paths", [])
            known = {entry["path"]: entry for entry in _tree(files, "", True)}
            self._json([known[name] for name in asked if name in known])
        else:
            about = {"id": found["id"], "sha": commit_of(files), "private": False, "tags": [], "downloads": 0}
            self._json({**about, "siblings": [{"rfilename": name} for name in files]})

    def _send_file(self, path: str, files: dict[str, bytes], name: str) -> None:
        headers = {"X-Repo-Commit": commit_of(files), "Accept-Ranges": "bytes"}
        if name not in files:
            self._refuse(404, "EntryNotFound", "Entry not found", headers)
            return
        data = files[name]
        entry = _entry(name, data)
        headers["ETag"] = f'"{entry.get("lfs", entry)["oid"]}"'
        fault = self.hub.fault_for(path) if self.command == "GET" else None
        status = 200
        if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last = int(asked[1]), min(int(asked[2] or len(data)), len(data) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
            status, data = 206, data[first : last + 1]
        if fault == "down":
            self.close_connection = True
            self.connection.close()
        elif fault == "busy":
            self._refuse(503, "Busy", "try later")
        elif fault == "short":
            self._answer(status, data[:-20], headers)
        elif fault == "flipped":
            self._answer(status, data[:-1] + bytes([data[-1] ^ 1]), headers)
        else:
            self._answer(status, data, headers, sent=len(data) // 2 if fault == "cut" else None)

    def _refuse(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        self._json({"error": message}, status, {**(headers or {}), "X-Error-Code": code, "X-Error-Message": message})

    def _json(self, content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        self._answer(status, json.dumps(content).encode(), {**(headers or {}), "Content-Type": "application/json"})

    def _answer(self, status: int, body: bytes, headers: Mapping[str, str], sent: int | None = None) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:sent])
        if sent is not None:
            self.wfile.flush()
            self.close_connection = True
