"""A server on this machine that answers as the Hugging Face Hub does, as far as small files need it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_good"

COMMIT = "1" * 40


class Hub:
    """What the server holds. repositories: by kind and name, the files; private: those that need the token."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: set[str] = set()
        self.url = ""


@contextmanager
def hub_server() -> Iterator[Hub]:
    """The server while the block runs, at `url`."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: Any) -> None:
            pass

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.path.startswith("/api/validate-yaml"):
                self._json({"errors": [], "warnings": []})
            elif self.headers.get("Authorization") != f"Bearer {TOKEN}":
                self._json({"error": "Invalid username or password."}, 401)
            elif self.path == "/api/repos/create":
                asked = json.loads(body)
                name = f"{asked.get('type', 'model')}s/{asked['organization']}/{asked['name']}"
                hub.repositories.setdefault(name, {})
                hub.private |= {name} if asked.get("private") or asked.get("visibility") == "private" else set()
                self._json({"url": f"{hub.url}/{name.removeprefix('models/')}", "name": name, "id": name})
            elif "/preupload/" in self.path:
                files = json.loads(body)["files"]
                ways = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]
                self._json({"files": ways})
            elif "/commit/" in self.path:
                files = hub.repositories[self.path.removeprefix("/api/").partition("/commit/")[0]]
                for line in map(json.loads, body.splitlines()):
                    if line["key"] == "file":
                        files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                self._json({"commitUrl": f"{hub.url}/x/y/commit/{COMMIT}", "commitOid": COMMIT, "success": True})
            else:
                self._json({"error": self.path}, 404)

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            name, _, rest = self.path.strip("/").partition("/resolve/")
            name = re.sub(r"^(?!datasets/)", "models/", name)
            revision, _, file = rest.partition("/")
            known = hub.repositories.get(name)
            if known is None or (name in hub.private and self.headers.get("Authorization") != f"Bearer {TOKEN}"):
                self._json({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
            elif revision not in ("main", COMMIT):
                self._json({"error": "Revision not found"}, 404, {"X-Error-Code": "RevisionNotFound"})
            elif file not in known:
                self._json({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
            else:
                etag = f'"{hashlib.sha256(known[file]).hexdigest()}"'
                self._send(known[file], 200, {"ETag": etag, "X-Repo-Commit": COMMIT})

        def _json(self, content: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
            self._send(json.dumps(content).encode(), status, {"Content-Type": "application/json", **(headers or {})})

        def _send(self, body: bytes, status: int, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
