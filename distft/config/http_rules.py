"""What a server's address may be: nothing secret, and what HTTP can send."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import parse_qsl, quote, urlsplit

from distft.config.http_server import HttpServer
from distft.config.problem import Problem
from distft.config.redact import has_credentials, is_secret_key

_SENT = "".join(chr(code) for code in range(0x21, 0x7F))  # what HTTP sends as it stands


def server_rules(server: HttpServer, at: str) -> Iterator[Problem]:
    """Of a server's keys, which stand ``at`` a place in the recipe."""
    secret = [name for name, _ in parse_qsl(server.url.partition("?")[2]) if is_secret_key(name)]
    if secret or has_credentials(server.url):
        yield Problem.at(
            f"{at}.url",
            "holds a secret, which would be written into the run folder",
            "leave it out and name an environment variable: token_env: MY_TOKEN",
        )
    elif not (right := _sendable(server.url)):
        yield Problem.at(
            f"{at}.url", "names no host, or no port that is one", "for example http://127.0.0.1:8000/score"
        )
    elif right != server.url:
        what = "holds what HTTP cannot send: a space, or a character beyond ASCII"
        yield Problem.at(f"{at}.url", what, f"write {right}")


def _sendable(url: str) -> str:
    """The URL with all encoded that HTTP cannot send; "" where it names no server."""
    written = re.match(r"https?://([^/?#]*)", url)
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port  # a port that is none is a ValueError
        address = parts.netloc.encode("idna").decode()
        rest = quote(url[written.end() :], safe=_SENT) if written else ""
    except ValueError:
        return ""
    if not host or not written or re.search(r"[\s\x00-\x1f\x7f]", written[1]):
        return ""
    return f"{parts.scheme}://{address}{rest}"
