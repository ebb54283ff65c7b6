"""A real HTTP server that gives scores or completions, and remembers what it was asked."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.harness.http_server import serving

SHOWN = re.compile(r"=== answer A ===\n(.*)\n=== answer B ===\n(.*)\n=== end ===", re.DOTALL)
Answer = tuple[int, bytes, dict[str, str]]  # status, body, headers


def lengths(body: dict[str, Any]) -> Answer:
    return 200, json.dumps({"scores": [len(one) for one in body["completions"]]}).encode(), {}


def completion(text: str | None) -> Answer:
    """As an OpenAI-compatible server answers."""
    said = {"choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}]}
    return 200, json.dumps(said).encode(), {}


def prefers(better: Callable[[str, str], str]) -> Callable[[dict[str, Any]], Answer]:
    """A judge of two answers, each without white space around it: what it says of (A, B)."""

    def answer(body: dict[str, Any]) -> Answer:
        shown = SHOWN.search(body["messages"][0]["content"])
        return completion(better(shown[1].strip(), shown[2].strip()) if shown else "Yes.")

    return answer


@dataclass
class Judge:
    """A server: ``answer`` says what it answers to each request that it got."""

    url: str = ""
    answer: Callable[[dict[str, Any]], Answer] = lengths
    requests: list[dict[str, Any]] = field(default_factory=list)
    tokens: list[str | None] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def then(self, *answers: Answer) -> None:
        """These first, then as before."""
        left = iter(answers)
        self.answer = lambda body: next(left, None) or lengths(body)


@contextmanager
def judging() -> Iterator[Judge]:
    """One that answers with the length of each completion until it is told otherwise."""
    found = Judge()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with found.lock:
                found.requests.append(body)
                found.tokens.append(self.headers["Authorization"])
                found.paths.append(self.path)
            status, content, headers = found.answer(body)
            with suppress(ConnectionError):  # who asked may not wait any more
                self.send_response(status)
                for name, value in {"Content-Length": str(len(content)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

    with serving(Handler) as url:
        found.url = f"{url}/score"
        yield found
