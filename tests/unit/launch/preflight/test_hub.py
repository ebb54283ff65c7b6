"""The hub is asked before anything is started: there, not there, or silent. A server on this machine stands for it."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler

import pytest

from distft.common.errors import EnvironmentFallsShort, UserError
from distft.launch.preflight import hub
from distft.launch.preflight.hub import Kind, check_on_hub
from tests.harness.http_server import serving


class Hub(BaseHTTPRequestHandler):
    """Knows ``someone/there`` and nothing else."""

    def do_GET(self) -> None:
        known = self.path in ("/api/models/someone/there", "/api/datasets/someone/there")
        self.send_response(200 if known else 404)
        self.send_header("X-Error-Code", "" if known else "RepoNotFound")
        self.end_headers()
        self.wfile.write(json.dumps({"id": "someone/there"} if known else {"error": "Repository not found"}).encode())


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


@pytest.fixture
def a_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with serving(Hub) as url:
        monkeypatch.setenv("HF_ENDPOINT", url)
        yield


@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_what_is_there_will_be_fetched(kind: Kind, a_hub: None) -> None:
    assert "someone/there is not on this machine and will be fetched" in check_on_hub(kind, "someone/there", where="x")


@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_what_is_not_there_is_a_wrong_name(kind: Kind, a_hub: None) -> None:
    with pytest.raises(UserError, match=f"neither a folder here nor a {kind} of the hub") as caught:
        check_on_hub(kind, "modl", where="models.policy.path", near="did you mean model?")
    assert (caught.value.exit_status, caught.value.hint) == (2, "did you mean model?")


def test_a_hub_that_is_silent_is_given_up_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes the connection and never answers."""
    monkeypatch.setattr(hub, "PATIENCE_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        since = time.monotonic()
        with pytest.raises(EnvironmentFallsShort, match="the hub does not answer") as caught:
            check_on_hub("model", "someone/there", where="models.policy.path")
        assert time.monotonic() - since < 30
    assert caught.value.exit_status == 3
    assert "hf download someone/there" in caught.value.hint
    assert "\n" not in caught.value.hint


def test_no_network_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
    with pytest.raises(EnvironmentFallsShort, match="the hub does not answer") as caught:
        check_on_hub("dataset", "someone/there:subset", where="data.train")
    assert "hf download someone/there --repo-type dataset --local-dir FOLDER" in caught.value.hint
