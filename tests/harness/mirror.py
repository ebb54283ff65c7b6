"""The part of the Hugging Face hub that a download talks to, on this machine: folders are its repositories."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from tests.harness.http_server import serving

COMMIT = "1" * 40
_API = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(tree|revision|paths-info)/[^/]+(/.+)?)?")
_FILE = re.compile(r"(?:/(datasets))?/([^/]+/[^/]+)/resolve/[^/]+/(.+)")


@contextmanager
def mirror(models: Mapping[str, Path] | None = None, datasets: Mapping[str, Path] | None = None) -> Iterator[str]:
    """Its address while it answers; folders by repository, ``owner/name``."""
    kept = {"models": dict(models or {}), "datasets": dict(datasets or {})}

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer()

        def do_HEAD(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            found = _API.fullmatch(urlsplit(self.path).path)
            folder = kept[found[1]].get(found[2]) if found else None
            if folder is None:
                self._say(404, {"error": "Repository not found"})
            else:
                self._say(200, [one for one in _tree(folder) if one["path"] in asked["paths"]])

        def _answer(self) -> None:
            path = unquote(urlsplit(self.path).path)
            if (found := _API.fullmatch(path)) and (folder := kept[found[1]].get(found[2])):
                tree = _tree(folder)
                files = [{"rfilename": one["path"]} for one in tree]
                whole = {"id": found[2], "sha": COMMIT, "siblings": files, "private": False, "tags": []}
                if found[4]:  # of a folder inside: there are none
                    self._say(404, {"error": "Entry not found"}, "EntryNotFound")
                else:
                    self._say(200, tree if found[3] == "tree" else whole)
            elif (found := _FILE.fullmatch(path)) and (folder := kept[found[1] or "models"].get(found[2])):
                file = folder / found[3]
                if file.is_file():
                    self._send(200, file.read_bytes(), ETag=f'"{_digest(file)}"')
                else:
                    self._say(404, {"error": "Entry not found"}, "EntryNotFound")
            else:
                self._say(404, {"error": "Repository not found"}, "RepoNotFound")

        def _say(self, status: int, answer: Any, code: str = "") -> None:
            self._send(status, json.dumps(answer).encode(), **{"X-Error-Code": code} if code else {})

        def _send(self, status: int, body: bytes, **headers: str) -> None:
            self.send_response(status)
            for name, value in ({"X-Repo-Commit": COMMIT, "Content-Length": str(len(body))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    with serving(Answers) as address:
        yield address


def _tree(folder: Path) -> list[dict[str, Any]]:
    return [
        {"type": "file", "path": str(file.relative_to(folder)), "size": file.stat().st_size, "oid": _digest(file)}
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    ]


def _digest(file: Path) -> str:
    return hashlib.sha1(file.read_bytes()).hexdigest()
