"""The part of the Hugging Face hub that an upload talks to, on this machine."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.harness.http_server import serving

TOKEN = "hf_of_someone_who_may_write"


@dataclass
class Hub:
    """``files``: by repository what was committed, by path; ``private``: those that are; ``full``: refuses new ones."""

    address: str = ""
    full: bool = False
    private: set[str] = field(default_factory=set)
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)


@contextmanager
def hub(*, full: bool = False) -> Iterator[Hub]:
    """One that knows ``TOKEN``, while it answers."""
    kept = Hub(full=full)

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.headers["Authorization"] != f"Bearer {TOKEN}":
                self._say(401, {"error": "who?"})
            elif self.path.endswith("/whoami-v2"):
                self._say(200, {"name": "me", "type": "user"})
            else:
                self._say(404, {"error": "there is no such repository"})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers["Authorization"] != f"Bearer {TOKEN}":
                self._say(401, {"error": "who?"})
            elif self.path.endswith("/repos/create"):
                self._create(json.loads(body))
            elif self.path.endswith("/preupload/main"):
                files = [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False}
                         for one in json.loads(body)["files"]]  # fmt: skip
                self._say(200, {"files": files})
            elif self.path.endswith("/commit/main"):
                self._commit(body)
            else:
                self._say(200, {"errors": [], "warnings": []})

        def _create(self, asked: dict[str, Any]) -> None:
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            if kept.full:
                self._say(403, {"error": "no room for more"})
                return
            if asked.get("private") or asked.get("visibility") == "private":
                kept.private.add(name)
            kept.files.setdefault(name, {})
            self._say(200, {"url": f"{kept.address}/{name}", "name": name})

        def _commit(self, body: bytes) -> None:
            name = "/".join(self.path.split("/")[3:5])
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    kept.files[name][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self._say(
                200, {"commitUrl": f"{kept.address}/{name}/commit/1", "commitOid": "1" * 40, "pullRequestUrl": None}
            )

        def _say(self, status: int, answer: dict[str, Any]) -> None:
            body = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with serving(Answers) as kept.address:
        yield kept
