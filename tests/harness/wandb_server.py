"""A server that speaks as much of W&B's protocol as its own client needs, and keeps what it is sent of a run."""

from __future__ import annotations

import gzip
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.harness.http_server import serving

_ANSWERED_BY = {
    "RunResumeStatus": "_resume_status",
    "UpsertBucket": "_upsert_bucket",
    "ServerFeaturesQuery": "_features",
    "Viewer": "_viewer",
    "CreateArtifact": "_create_artifact",
    "CreateRunFiles": "_create_run_files",
    "NotifyScriptableRunAlert": "_alert",
    "ArtifactType": "_artifact_type",
}
_NAME = re.compile(r"\b(?:query|mutation)\s+(\w+)")


@dataclass
class WandbServer:
    """``rows``: the history, by its place in it, as a later start of a run counts on; ``buckets``: how runs were named,
    by id; ``artifacts``: type and name of each. While it is ``away`` nobody gets an answer."""

    url: str = ""
    rows: dict[int, dict[str, Any]] = field(default_factory=dict)
    buckets: dict[str, dict[str, Any]] = field(default_factory=dict)
    artifacts: list[tuple[str, str]] = field(default_factory=list)
    alerts: list[str] = field(default_factory=list)
    away: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """What is answered; an uploaded file is taken and forgotten."""
        if "/upload/" in path:
            return {}
        if path.endswith("/file_stream"):
            history = body.get("files", {}).get("wandb-history.jsonl", {})
            for number, line in enumerate(history.get("content", []), history.get("offset", 0)):
                self.rows[number] = json.loads(line)
            return {}
        named = _NAME.search(str(body.get("query")))
        answered_by = _ANSWERED_BY.get(str(body.get("operationName") or (named and named[1])))
        return {"data": getattr(self, answered_by)(body.get("variables") or {}) if answered_by else {}}

    def _resume_status(self, asked: dict[str, Any]) -> dict[str, Any]:
        known = self.buckets.get(asked["name"])
        bucket = known and {
            "id": asked["name"], "name": asked["name"], "displayName": known["displayName"], "logLineCount": 0,
            "summaryMetrics": "{}", "historyLineCount": len(self.rows), "eventsLineCount": 0,
            "config": known.get("config", "{}"), "tags": known.get("tags", []), "notes": "",
            "historyTail": json.dumps([json.dumps(self.rows[max(self.rows)])] if self.rows else []),
            "eventsTail": "[]", "wandbConfig": json.dumps({"t": 1}),
        }  # fmt: skip
        project = {"id": "p", "name": asked["project"], "entity": {"id": "e", "name": "team"}}
        return {"model": {**project, "bucket": bucket or None}}

    def _upsert_bucket(self, asked: dict[str, Any]) -> dict[str, Any]:
        new = asked["name"] not in self.buckets
        self.buckets.setdefault(asked["name"], {}).update({k: v for k, v in asked.items() if v is not None})
        project = {"id": "p", "name": asked["project"], "entity": {"id": "e", "name": "team"}}
        bucket = {"id": asked["name"], "name": asked["name"], "displayName": asked["displayName"], "config": "{}"}
        more = {"description": "", "sweepName": None, "project": project, "historyLineCount": len(self.rows)}
        return {"upsertBucket": {"bucket": {**bucket, **more}, "inserted": new}}

    def _features(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"serverInfo": {"features": []}}

    def _viewer(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"viewer": {"id": "u", "entity": "team", "username": "ana", "flags": "{}", "teams": {"edges": []}}}

    def _create_artifact(self, asked: dict[str, Any]) -> dict[str, Any]:
        wanted = asked["input"]
        self.artifacts.append((wanted["artifactTypeName"], wanted["artifactCollectionName"]))
        there = {"id": wanted["digest"], "state": "COMMITTED", "artifactSequence": {"latestArtifact": None}}
        return {"createArtifact": {"artifact": there}}  # as one whose content is known there already

    def _artifact_type(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"project": {"artifact": None}}

    def _create_run_files(self, asked: dict[str, Any]) -> dict[str, Any]:
        files = [{"name": name, "uploadUrl": f"{self.url}/upload/{name}"} for name in asked["files"]]
        return {"createRunFiles": {"runID": asked["run"], "uploadHeaders": [], "files": files}}

    def _alert(self, asked: dict[str, Any]) -> dict[str, Any]:
        self.alerts.append(asked["title"])
        return {"notifyScriptableRunAlert": {"success": True}}


@contextmanager
def wandb_server() -> Iterator[WandbServer]:
    """On a port of this machine."""
    found = WandbServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if found.away:
                self.close_connection = True
                return
            if self.headers.get("Content-Encoding") == "gzip":
                content = gzip.decompress(content)
            with found.lock:
                try:
                    body = json.loads(content or b"{}") if self.command == "POST" else {}
                except ValueError:  # what it tells of itself
                    body = {}
                answer = json.dumps(found.answer(self.path, body)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def do_PUT(self) -> None:
            self.do_POST()

        def do_GET(self) -> None:
            self.do_POST()

    with serving(Handler) as found.url:
        yield found
