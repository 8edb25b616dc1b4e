"""A Hub for tests on 127.0.0.1, with repositories in memory, the few requests that publishing makes, and faults on
demand.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

TOKEN = "hf_testtoken"


@dataclass
class Commit:
    oid: str
    files: dict[str, bytes]
    message: str = ""


@dataclass
class Fault:
    """Replaces the real answer `times` times by a status, or by none if it is 0 (the connection is closed).

    With `after`, the request is executed first, and its answer is lost.
    """

    method: str
    path: str
    status: int
    times: int = 1
    after: bool = False
    once: Any = None


@dataclass
class Hub:
    """The contents of the server, for tests to inspect."""

    repos: dict[str, list[Commit]] = field(default_factory=dict)
    pull_requests: list[Commit] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    private: dict[str, Any] = field(default_factory=dict)
    endpoint: str = ""

    def add(self, repo_id: str, files: dict[str, bytes] | None = None) -> None:
        self.repos[repo_id] = []
        self.commit(repo_id, {".gitattributes": b"", **(files or {})}, "initial commit")

    def commit(self, repo_id: str, files: dict[str, bytes], message: str) -> Commit:
        commits = self.repos[repo_id]
        before = commits[-1].files if commits else {}
        commits.append(Commit(self._oid(repo_id, len(commits)), {**before, **files}, message))
        return commits[-1]

    def files(self, repo_id: str) -> dict[str, bytes]:
        return self.repos[repo_id][-1].files

    def count(self, method: str, path: str) -> int:
        return sum(method == m and path in p for m, p in self.requests)

    def _oid(self, repo_id: str, number: int) -> str:
        return hashlib.sha1(f"{repo_id} {number}".encode()).hexdigest()


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A hub that listens until the block ends."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


def hub_environment(hub: Hub, home: Path) -> dict[str, str]:
    """The environment of a process that takes a hub for the real one: `HF_ENDPOINT` is read on import."""
    packages = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
    mine = {
        "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(home), "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1", "TRANSFORMERS_OFFLINE": "0",
        # This package comes before an installed one.
        "PYTHONPATH": os.pathsep.join(filter(None, packages)),
    }  # fmt: skip
    return {**os.environ, **mine}


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._serve()

    do_HEAD = do_POST = do_GET

    def _serve(self) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.requests.append((self.command, path))
        self.hub.bodies.append(body)
        fault = next((f for f in self.hub.faults if f.times and f.method == self.command and f.path in path), None)
        if fault is not None:
            fault.times -= 1
            if fault.once is not None:
                fault.once(self.hub)
            if fault.after:
                self._answer(path, parse_qs(url.query), body, send=False)
            if fault.status == 0:
                self.close_connection = True
                return
            return self._send(fault.status, {"error": "a fault on order"})
        self._answer(path, parse_qs(url.query), body)

    def _answer(self, path: str, query: dict[str, list[str]], body: bytes, send: bool = True) -> None:
        reply = self._reply(path, query, body)
        if send:
            self._send(*reply)

    def _reply(self, path: str, query: dict[str, list[str]], body: bytes) -> tuple[Any, ...]:
        if path == "/api/validate-yaml":
            return self._validate(json.loads(body))
        if self.command != "GET" and self.command != "HEAD" and self.headers.get("authorization") != f"Bearer {TOKEN}":
            return 401, {"error": "Invalid credentials in Authorization header"}
        if path == "/api/whoami-v2":
            return 200, {"name": "me", "type": "user", "orgs": []}
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            return self._info(*match.groups())
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/(.+)", path):
            return self._preupload(match[1], json.loads(body))
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/(.+)", path):
            return self._commit(match[1], body, "create_pr" in query)
        if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self._resolve(*match.groups())
        return 404, {"error": f"no such page: {path}"}

    def _validate(self, request: dict[str, Any]) -> tuple[Any, ...]:
        block = re.match(r"\s*---\r?\n(.*?)\r?\n---", request["content"], re.DOTALL)
        try:
            data = yaml.safe_load(block[1]) if block else {}
        except yaml.YAMLError as error:
            return 400, {"errors": [{"message": str(error)}], "warnings": []}
        for model in data.get("model-index") or []:
            for result in model["results"]:
                if not {"task", "dataset", "metrics"} <= set(result):
                    return 400, {"errors": [{"message": "a result lacks task, dataset or metrics"}], "warnings": []}
        return 200, {"errors": [], "warnings": []}

    def _create(self, request: dict[str, Any]) -> tuple[Any, ...]:
        repo_id = f"{request.get('organization') or 'me'}/{request['name']}"
        url = f"{self.hub.endpoint}/{repo_id}"
        if repo_id in self.hub.repos:
            return 409, {"error": "You already created this model repo", "url": url}
        self.hub.add(repo_id)
        self.hub.private[repo_id] = request.get("private", request.get("visibility"))
        return 200, {"url": url, "name": repo_id, "id": repo_id}

    def _missing(self) -> tuple[Any, ...]:
        return 404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"}

    def _info(self, repo_id: str, revision: str | None) -> tuple[Any, ...]:
        if repo_id not in self.hub.repos:
            return self._missing()
        head = self.hub.repos[repo_id][-1]
        siblings = [{"rfilename": name} for name in head.files]
        return 200, {"id": repo_id, "modelId": repo_id, "sha": head.oid, "siblings": siblings, "tags": []}

    def _preupload(self, repo_id: str, request: dict[str, Any]) -> tuple[Any, ...]:
        if repo_id not in self.hub.repos:
            return self._missing()
        present = self.hub.files(repo_id)
        files = []
        for file in request["files"]:
            one = {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
            if file["path"] in present:
                content = present[file["path"]]
                one["oid"] = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            files.append(one)
        return 200, {"files": files}

    def _commit(self, repo_id: str, body: bytes, create_pr: bool) -> tuple[Any, ...]:
        if repo_id not in self.hub.repos:
            return self._missing()
        lines = [json.loads(line) for line in body.splitlines()]
        header = next(line["value"] for line in lines if line["key"] == "header")
        files = {
            line["value"]["path"]: base64.b64decode(line["value"]["content"])
            for line in lines
            if line["key"] == "file"
        }
        head = self.hub.repos[repo_id][-1]
        parent = header.get("parentCommit")
        if parent is not None and parent != head.oid and not create_pr:
            return 412, {"error": "A commit has happened since. Please refresh and try again."}
        url = f"{self.hub.endpoint}/{repo_id}"
        if create_pr:
            self.hub.pull_requests.append(Commit("0" * 40, {**head.files, **files}, header["summary"]))
            number = len(self.hub.pull_requests)
            pull_request = f"{url}/discussions/{number}"
            return 200, {
                "commitUrl": f"{url}/commit/{'0' * 40}",
                "commitOid": "0" * 40,
                "pullRequestUrl": pull_request,
            }
        commit = self.hub.commit(repo_id, files, header["summary"])
        return 200, {"commitUrl": f"{url}/commit/{commit.oid}", "commitOid": commit.oid}

    def _resolve(self, repo_id: str, revision: str, name: str) -> tuple[Any, ...]:
        if repo_id not in self.hub.repos:
            return self._missing()
        commits = self.hub.repos[repo_id]
        commit = next((c for c in commits if c.oid == revision), commits[-1])
        if name not in commit.files:
            return 404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit.oid}
        content = commit.files[name]
        etag = hashlib.sha1(content).hexdigest()
        return 200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": commit.oid}

    def _send(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(raw)
