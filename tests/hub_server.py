"""A Hub on this machine, for the tests: enough of its HTTP API for huggingface_hub to create, upload, list and download.

Importing it points huggingface_hub at it, so that no test can reach the real one. Repositories live in memory; ``HUB.cut`` and
``HUB.private`` make it fail as the real one does.
"""

from __future__ import annotations

import atexit
import base64
import hashlib
import json
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_test"
LARGE = 1000  # bytes from which a file goes through git-lfs


class Hub:
    """What the server knows: files of every commit, by repository."""

    def __init__(self) -> None:
        self.commits: dict[str, list[dict[str, bytes]]] = {}
        self.objects: dict[str, bytes] = {}
        self.private: set[str] = set()
        self.gated: set[str] = set()
        self.ill: dict[str, int] = {}  # file name -> the status that is all it gives; 0: no answer
        self.cut: dict[str, int] = {}  # file name -> the connection breaks after so many bytes, once
        self.requests: list[tuple[str, str, str | None]] = []  # method, path, Range
        self.url = ""

    def add(self, repo: str, files: dict[str, bytes], gone: set[str] | frozenset[str] = frozenset()) -> str:
        """A commit with these files over what was there, and without those that are ``gone``; returns its id."""
        history = self.commits.setdefault(repo, [{}])
        history.append({**{name: content for name, content in history[-1].items() if name not in gone}, **files})
        return self.revision(repo, len(history) - 1)

    def revision(self, repo: str, index: int) -> str:
        return hashlib.sha1(f"{repo} {index}".encode()).hexdigest()

    def files(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """(commit, files) of a branch or commit."""
        history = self.commits[repo]
        ids = [self.revision(repo, index) for index in range(len(history))]
        index = len(history) - 1 if revision in ("main", "HEAD") else ids.index(revision) if revision in ids else None
        return None if index is None else (ids[index], history[index])


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path, self.headers.get("Range")))
        self.body = self.read_body()
        for pattern, route in ROUTES:
            if match := re.fullmatch(pattern, path):
                return route(self, *match.groups())
        return self.fail(404, "EntryNotFound")

    do_GET = do_HEAD = do_POST = do_PUT = answer  # noqa: N815

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def send(self, content: Any, status: int = 200, headers: dict[str, str] | None = None, cut: int | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:cut])
        if cut is not None:
            self.close_connection = True

    def fail(self, status: int, code: str, headers: dict[str, str] | None = None) -> None:
        self.send({"error": code}, status, {"X-Error-Code": code, "X-Error-Message": code, **(headers or {})})

    def known(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def opened(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """(commit, files); None where the answer has been an error."""
        if repo in self.hub.gated:
            return self.fail(403, "GatedRepo")
        if repo not in self.hub.commits or (repo in self.hub.private and not self.known()):
            return self.fail(404 if self.known() else 401, "RepoNotFound")
        found = self.hub.files(repo, revision)
        return self.fail(404, "RevisionNotFound") if found is None else found

    def who(self) -> None:
        self.send({"name": "tester", "type": "user", "orgs": []}) if self.known() else self.fail(401, "Unauthorized")

    def yaml(self) -> None:
        self.send({"errors": [], "warnings": []})

    def create(self) -> None:
        asked = json.loads(self.body)
        repo = f"{asked.get('organization') or 'tester'}/{asked['name']}"
        if not self.known():
            return self.fail(401, "Unauthorized")
        exists = repo in self.hub.commits
        if not exists:
            self.hub.add(repo, {".gitattributes": b"*.safetensors filter=lfs\n"})
            self.hub.private |= {repo} if asked.get("private") or asked.get("visibility") == "private" else set()
        return self.send({"url": f"{self.hub.url}/{repo}", "name": repo}, 409 if exists else 200)

    def info(self, repo: str, revision: str | None) -> None:
        if (found := self.opened(repo, revision or "main")) is not None:
            commit, files = found
            self.send({"id": repo, "sha": commit, "private": repo in self.hub.private, "siblings": [{"rfilename": name} for name in files]})

    def tree(self, repo: str, revision: str) -> None:
        if (found := self.opened(repo, revision)) is not None:
            self.send([described(name, content) for name, content in sorted(found[1].items())])

    def preupload(self, repo: str, _: str) -> None:
        asked = json.loads(self.body)["files"]
        modes = [{"path": file["path"], "uploadMode": "lfs" if file["size"] > LARGE else "regular"} for file in asked]
        self.send({"files": [{**mode, "shouldIgnore": False} for mode in modes]})

    def batch(self, repo: str) -> None:
        objects = [{"oid": file["oid"], "size": file["size"]} for file in json.loads(self.body)["objects"]]
        for file in objects:
            if file["oid"] not in self.hub.objects:
                file["actions"] = {"upload": {"href": f"{self.hub.url}/lfs/{file['oid']}"}}
        self.send({"transfer": "basic", "objects": objects})

    def put(self, oid: str) -> None:
        self.hub.objects[oid] = self.body
        self.send({})

    def commit(self, repo: str, _: str) -> None:
        if not self.known():
            return self.fail(401, "Unauthorized")
        lines = [json.loads(line) for line in self.body.splitlines()]
        files = {line["value"]["path"]: base64.b64decode(line["value"]["content"]) for line in lines if line["key"] == "file"}
        files |= {line["value"]["path"]: self.hub.objects[line["value"]["oid"]] for line in lines if line["key"] == "lfsFile"}
        gone = {line["value"]["path"] for line in lines if line["key"] == "deletedFile"}
        commit = self.hub.add(repo, files, gone)
        return self.send({"success": True, "commitOid": commit, "commitUrl": f"{self.hub.url}/{repo}/commit/{commit}"})

    def resolve(self, repo: str, revision: str, name: str) -> None:
        if (found := self.opened(repo, revision)) is None:
            return None
        commit, files = found
        if name not in files:
            return self.fail(404, "EntryNotFound", {"X-Repo-Commit": commit})
        if (status := self.hub.ill.get(name)) == 0:
            self.close_connection = True
            return None
        if status is not None:
            return self.fail(status, "")
        content = files[name]
        etag = described(name, content).get("lfs", {}).get("oid") or hashlib.sha1(content).hexdigest()
        headers = {"X-Repo-Commit": commit, "ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
        if self.command == "HEAD":
            return self.send(content, headers=headers)
        cut = self.hub.cut.pop(name, None)
        if asked := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or ""):
            start = int(asked[1])
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            return self.send(content[start:], 206, headers, cut)
        return self.send(content, 200, headers, cut)


def described(name: str, content: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
    if len(content) > LARGE:
        entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
    return entry


REPO = r"([^/]+/[^/]+)"
ROUTES: list[tuple[str, Callable[..., None]]] = [
    ("/api/whoami-v2", Handler.who),
    ("/api/validate-yaml", Handler.yaml),
    ("/api/repos/create", Handler.create),
    (rf"/api/models/{REPO}(?:/revision/([^/]+))?", Handler.info),
    (rf"/api/models/{REPO}/tree/([^/]+)", Handler.tree),
    (rf"/api/models/{REPO}/preupload/([^/]+)", Handler.preupload),
    (rf"/api/models/{REPO}/commit/([^/]+)", Handler.commit),
    (rf"/{REPO}\.git/info/lfs/objects/batch", Handler.batch),
    (r"/lfs/([0-9a-f]{64})", Handler.put),
    (rf"/{REPO}/resolve/([^/]+)/(.+)", Handler.resolve),
]


def serve() -> Hub:
    """Start it on a free port of the loop-back interface, and point huggingface_hub at it, its cache in a temporary folder."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    home = tempfile.mkdtemp(prefix="argenzoo_hub_")
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    os.environ.update(HF_ENDPOINT=hub.url, HF_HOME=home, HF_TOKEN=TOKEN, HF_HUB_DISABLE_XET="1", HF_HUB_DISABLE_TELEMETRY="1")
    for name in ("HF_HUB_OFFLINE", "HF_HUB_CACHE", "HF_ASSETS_CACHE", "HUGGING_FACE_HUB_TOKEN"):
        os.environ.pop(name, None)
    return hub


HUB = serve()
