"""Environments asked of a real HTTP server: what it is sent, what is asked again, what ends a run."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from distft.common.errors import EnvironmentFallsShort, UserError
from distft.config.training import EnvironmentServer
from distft.rollout import json_server
from distft.rollout.environment import Step, Turn
from distft.rollout.http_environment import OfServer
from tests.harness import talker
from tests.harness.judge import Answer, Judge, judging

SAMPLES = ["a.jsonl:3, sample 0", "a.jsonl:3, sample 1"]
ROW = {"prompt": [{"role": "user", "content": "17*48"}], "answer": "816"}


@pytest.fixture
def server() -> Iterator[Judge]:
    with judging() as found:
        found.answer = talker.answer
        yield found


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_server, "FIRST_PAUSE_S", 0.001)


def environments(server: Judge, deadline_s: float = 30, **keys: Any) -> OfServer:
    return OfServer(EnvironmentServer(url=server.url, **keys), {"broken_at": 9}, deadline_s)


def first_turns(asked: OfServer, *texts: str) -> list[Step]:
    began = [asked.begin(ROW, sample) for sample in SAMPLES[: len(texts)]]
    return asked.steps([Turn(*said, 1) for said in zip(began, texts, SAMPLES, strict=False)])


def test_a_request_says_all_that_was_heard_and_answers_come_in_order(server: Judge) -> None:
    asked = environments(server)
    began = [asked.begin(ROW, sample) for sample in SAMPLES]
    here = [talker.Talker() for _ in SAMPLES]
    for one in here:
        one.reset(ROW)
    for number, texts in enumerate((("ab", "c"), ("de", "f!")), start=1):
        found = asked.steps([Turn(*said, number) for said in zip(began, texts, SAMPLES, strict=True)])
        wanted = [one.step(text) for one, text in zip(here, texts, strict=True)]
        assert [(one.observation, one.reward, one.done) for one in found] == [(a or "", b, c) for a, b, c in wanted]
    assert sorted(server.requests, key=lambda one: one["turns"]) == [
        {"arguments": {"broken_at": 9}, "row": ROW, "turns": turns}
        for turns in (["ab"], ["ab", "de"], ["c"], ["c", "f!"])
    ]


@pytest.mark.parametrize(
    "passing", [(500, b"busy", {}), (503, b"", {}), (429, b"", {}), (200, b'{"reward"', {"Content-Length": "100"})]
)
def test_what_may_pass_is_asked_again_and_is_the_same_request(server: Judge, passing: Answer) -> None:
    left = iter([passing, passing])
    server.answer = lambda body: next(left, None) or talker.answer(body)
    (found,) = first_turns(environments(server), "ab")
    assert found.reward == 0.25
    assert server.requests == [{"arguments": {"broken_at": 9}, "row": ROW, "turns": ["ab"]}] * 3


@pytest.mark.parametrize(
    ("status", "content", "what"),
    [
        (200, b'{"observation": "x", "reward": NaN, "done": false}', "its reward is nan"),
        (200, b'{"observation": "x", "reward": 1e39, "done": false}', "its reward is 1e+39"),
        (200, b'{"observation": "x", "reward": "1", "done": false}', "its reward is '1'"),
        (200, b'{"observation": "x", "reward": true, "done": false}', "its reward is True"),
        (200, b'{"observation": "x", "done": false}', "its reward is None"),
        (200, b'{"observation": "x", "reward": 1}', "its done is None"),
        (200, b'{"observation": null, "reward": 1, "done": false}', "its observation is None"),
        (200, b'{"observation": ["x"], "reward": 1, "done": false}', "its observation is ['x']"),
        (200, b'["x", 1, false]', 'answered no object: ["x", 1, false]'),
        (200, b"<html>hello</html>", "answered no JSON: <html>"),
        (200, b"", "answered no JSON: nothing"),
        (400, b"what is this", "status 400: what is this"),
        (404, b"", "status 404"),
    ],
)
def test_a_wrong_answer_names_server_sample_and_turn_at_once(
    server: Judge, status: int, content: bytes, what: str
) -> None:
    server.answer = lambda _: (status, content, {})
    with pytest.raises(UserError) as caught:
        first_turns(environments(server), "ab")
    assert what in caught.value.what
    assert caught.value.where == f"rollout.environment.http ({server.url}), {SAMPLES[0]}, turn 1"
    assert caught.value.hint
    assert caught.value.exit_status == 2
    assert len(server.requests) == 1


def test_an_error_waits_for_no_other_sample(server: Judge) -> None:
    asked, released, overslept = threading.Event(), threading.Event(), threading.Event()

    def answer(body: dict[str, Any]) -> Answer:
        if body["turns"] == ["wrong"]:
            asked.wait(60)
            return 400, b"", {}
        asked.set()
        if not released.wait(60):
            overslept.set()
        return talker.answer(body)

    server.answer = answer
    try:
        with pytest.raises(UserError, match="status 400"):
            first_turns(environments(server, 300, connections=2, timeout=250), "hangs", "wrong")
        assert not overslept.is_set()
    finally:
        released.set()


def test_a_server_that_does_not_answer_is_not_waited_for(server: Judge) -> None:
    released = threading.Event()
    server.answer = lambda body: talker.answer(body) if released.wait(60) else (500, b"", {})
    try:
        with pytest.raises(EnvironmentFallsShort, match="has not answered within 0.2 s, asked .*timed out") as caught:
            first_turns(environments(server, 0.2, timeout=0.05), "ab")
    finally:
        released.set()
    assert caught.value.where == f"rollout.environment.http ({server.url}), {SAMPLES[0]}, turn 1"
    assert "rollout.environment.step_deadline_s" in caught.value.hint
    assert caught.value.exit_status == 3


def test_a_server_that_is_not_there_ends_the_run_after_the_deadline() -> None:
    with socket.socket() as bound:  # nobody listens
        bound.bind(("127.0.0.1", 0))
        nobody = Judge(url=f"http://127.0.0.1:{bound.getsockname()[1]}/")
        with pytest.raises(EnvironmentFallsShort, match="has not answered within 0.05 s, asked .* times: ."):
            first_turns(environments(nobody, 0.05), "ab")


def test_the_token_comes_from_the_environment(server: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="TOOLS_WORD is not set") as caught:
        environments(server, token_env="TOOLS_WORD")
    assert caught.value.where == "rollout.environment.http.token_env"
    monkeypatch.setenv("TOOLS_WORD", "canary-of-the-tools")
    asked = environments(server, token_env="TOOLS_WORD")
    first_turns(asked, "ab")
    assert server.tokens == ["Bearer canary-of-the-tools"]
    server.answer = lambda _: (200, b"canary-of-the-tools", {})
    with pytest.raises(UserError, match="answered no JSON: .hidden.") as caught:
        first_turns(asked, "ab")
    assert "canary" not in str(caught.value)
