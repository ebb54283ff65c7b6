"""Rewards asked of a real HTTP server: what it is sent, what is asked again, what ends a run."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from distft.common.errors import EnvironmentFallsShort, UserError
from distft.config.reward_servers import HttpReward
from distft.rollout import json_server
from distft.rollout.http_rewards import scores_by_http
from tests.harness.judge import Answer, Judge, judging, lengths

WHERE = "models.reward.http.0"
TOKEN = "canary-of-the-judge"
PROMPTS, COMPLETIONS = ["p0", "p1", "p2"], ["a", "bbb", "cc"]


@pytest.fixture
def judge() -> Iterator[Judge]:
    with judging() as found:
        yield found


def ask(judge: Judge, **keys: Any) -> list[float]:
    server = HttpReward(name="judge", url=judge.url, **keys)
    return scores_by_http(server, WHERE, PROMPTS, COMPLETIONS, {"answer": ["x", "y", "z"]})


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_server, "FIRST_PAUSE_S", 0.001)


def test_batches_in_any_order_give_scores_in_theirs(judge: Judge) -> None:
    assert ask(judge, batch_size=1, connections=3) == [1.0, 3.0, 2.0]
    assert sorted(judge.requests, key=str) == [
        {"prompts": [p], "completions": [c], "columns": {"answer": [a]}}
        for p, c, a in zip(PROMPTS, COMPLETIONS, ["x", "y", "z"], strict=True)
    ]
    assert judge.tokens == [None] * 3
    judge.requests.clear()
    assert ask(judge, batch_size=2) == [1.0, 3.0, 2.0]
    assert sorted(len(one["prompts"]) for one in judge.requests) == [1, 2]


@pytest.mark.parametrize("status", [500, 503, 429, 408])
def test_what_may_pass_is_asked_again(judge: Judge, status: int) -> None:
    judge.then((status, b"busy", {}), (status, b"busy", {}))
    assert ask(judge) == [1.0, 3.0, 2.0]
    assert len(judge.requests) == 3


@pytest.mark.parametrize(
    "cut",
    [
        (200, b'{"scores": [1', {"Content-Length": "100"}),
        (200, b"", {"Content-Length": "100"}),
        (200, b"64\r\n{", {"Transfer-Encoding": "chunked"}),
        (503, b"64\r\nbu", {"Transfer-Encoding": "chunked"}),
    ],
)
def test_an_answer_that_is_cut_off_is_asked_again(judge: Judge, cut: Answer) -> None:
    judge.then(cut)
    assert ask(judge) == [1.0, 3.0, 2.0]
    assert len(judge.requests) == 2


@pytest.mark.parametrize(
    ("status", "content", "what"),
    [
        (200, b'{"scores": [1, NaN, 2]}', "answered nan for completion 1"),
        (200, b'{"scores": [1, Infinity, 2]}', "answered inf for completion 1"),
        (200, b'{"scores": [1, 1e39, 2]}', "answered 1e+39 for completion 1"),
        (200, b'{"scores": [1, -3.5e38, 2]}', "answered -3.5e+38 for completion 1"),
        (200, b'{"scores": [1, ' + b"7" * 400 + b", 2]}", "answered 777777"),
        (200, b'{"scores": [1, null, 2]}', "answered None for completion 1"),
        (200, b'{"scores": [1, "2", 2]}', "answered '2' for completion 1"),
        (200, b'{"scores": [1, true, 2]}', "answered True for completion 1"),
        (200, b'{"scores": [1, 2]}', "answered 2 scores for 3 completions"),
        (200, b'{"score": 1}', 'answered no list of scores: {"score": 1}'),
        (200, b"[1, 2, 3]", "answered no list of scores"),
        (200, b"<html>hello</html>", "answered no JSON: <html>"),
        (200, b"", "answered no JSON: nothing"),
        (400, b"what is this", "status 400: what is this"),
        (401, b"who are you", "status 401"),
        (404, b"", "status 404"),
    ],
)
def test_a_wrong_answer_names_the_endpoint_at_once(judge: Judge, status: int, content: bytes, what: str) -> None:
    judge.then((status, content, {}))
    with pytest.raises(UserError) as caught:
        ask(judge)
    assert what in caught.value.what
    assert caught.value.where == f"{WHERE} ({judge.url})"
    assert caught.value.hint
    assert caught.value.exit_status == 2
    assert len(judge.requests) == 1


def test_one_wrong_batch_is_enough(judge: Judge) -> None:
    """The others are not asked for ever."""
    judge.answer = lambda body: (400 if body["completions"] == ["cc"] else 503, b"", {})
    with pytest.raises(UserError, match="status 400"):
        ask(judge, batch_size=1, connections=3)


def test_an_error_waits_for_no_other_request(judge: Judge) -> None:
    others, released, waited_for = threading.Semaphore(0), threading.Event(), []

    def answer(body: dict[str, Any]) -> Answer:
        if body["completions"] == ["cc"]:
            others.acquire(timeout=60), others.acquire(timeout=60)
            return 400, b"", {}
        others.release()
        waited_for.append(not released.wait(60))
        return lengths(body)

    judge.answer = answer
    try:
        with pytest.raises(UserError, match="status 400"):
            ask(judge, batch_size=1, connections=3)
        assert waited_for == []
    finally:
        released.set()


def test_a_test_that_fails_leaves_no_server_behind() -> None:
    before = set(threading.enumerate())
    with suppress(ZeroDivisionError), judging():
        raise ZeroDivisionError
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize("url", ["http://127.0.0.1:x/y", "http://127.0.0.1/a b", "http://a..b/"])
def test_a_url_that_cannot_be_asked_is_said_at_once(url: str) -> None:
    with pytest.raises(UserError, match="cannot be asked") as caught:
        scores_by_http(HttpReward(name="judge", url=url), WHERE, PROMPTS, COMPLETIONS, {})
    assert url in caught.value.where
    assert caught.value.exit_status == 2


def test_a_server_that_is_not_there_ends_the_run_after_its_deadline() -> None:
    with socket.socket() as bound:  # nobody listens
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}/"
        with pytest.raises(EnvironmentFallsShort, match="gave no scores within 0.05 s, asked .* times: .") as caught:
            scores_by_http(HttpReward(name="judge", url=url, deadline=0.05), WHERE, PROMPTS, COMPLETIONS, {})
    assert url in caught.value.where
    assert caught.value.exit_status == 3


def test_a_server_that_does_not_answer_is_not_waited_for(judge: Judge) -> None:
    answering = threading.Event()
    judge.answer = lambda body: lengths(body) if answering.wait(60) else (500, b"", {})
    try:
        with pytest.raises(EnvironmentFallsShort, match="gave no scores within 0.1 s.*timed out"):
            ask(judge, timeout=0.05, deadline=0.1)
    finally:
        answering.set()


def test_the_token_comes_from_the_environment_and_is_told_to_nobody(
    judge: Judge, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("JUDGES_WORD", TOKEN)
    assert ask(judge, token_env="JUDGES_WORD") == [1.0, 3.0, 2.0]
    assert judge.tokens == [f"Bearer {TOKEN}"]
    judge.then((503, f"no: {TOKEN}".encode(), {}), (403, f"no: {TOKEN}".encode(), {}))
    with pytest.raises(UserError, match="status 403: no: .hidden.") as caught:
        ask(judge, token_env="JUDGES_WORD")
    assert "JUDGES_WORD" in caught.value.hint
    assert "503" in caplog.text
    assert TOKEN not in f"{caught.value} {caplog.text}"
    monkeypatch.delenv("JUDGES_WORD")
    with pytest.raises(UserError, match="JUDGES_WORD is not set"):
        ask(judge, token_env="JUDGES_WORD")


@pytest.mark.parametrize("token", ["abc\nSECRETPART", "abc\rSECRETPART", "SECRETPART-\u65e5", "SECRETPART\udcff"])
def test_a_token_that_no_header_can_hold_is_told_to_nobody(
    judge: Judge, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, token: str
) -> None:
    monkeypatch.setenv("JUDGES_WORD", token)
    with pytest.raises(UserError, match="JUDGES_WORD holds no token") as caught:
        ask(judge, token_env="JUDGES_WORD")
    assert caught.value.where == f"{WHERE}.token_env"
    assert caught.value.exit_status == 2
    assert "SECRETPART" not in f"{caught.value!r} {caught.value.__cause__!r} {caplog.text}"
    assert judge.requests == []
    monkeypatch.setenv("JUDGES_WORD", f" {TOKEN}\r\n")
    assert ask(judge, token_env="JUDGES_WORD") == [1.0, 3.0, 2.0]
    assert judge.tokens == [f"Bearer {TOKEN}"]


def test_the_token_goes_nowhere_else(judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGES_WORD", TOKEN)
    judge.then((302, b"", {"Location": judge.url.replace("/score", "/elsewhere")}))
    with pytest.raises(UserError, match="status 302"):
        ask(judge, token_env="JUDGES_WORD")
    assert len(judge.requests) == 1
