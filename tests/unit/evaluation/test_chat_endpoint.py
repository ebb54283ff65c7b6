"""An endpoint is asked again where that helps, and what does not come is nothing; over a real server."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from distft.common.errors import EnvironmentFallsShort, UserError
from distft.evaluation.chat_endpoint import CONNECTIONS, GIVEN_UP_AFTER, ChatEndpoint
from distft.rollout import json_server
from tests.harness.judge import Answer, Judge, completion, judging

TOKEN = "canary-of-the-endpoint"


@pytest.fixture
def judge() -> Iterator[Judge]:
    with judging() as found:
        found.answer = lambda body: completion(body["messages"][0]["content"].upper())
        yield found


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_server, "FIRST_PAUSE_S", 0.001)


def endpoint(judge: Judge, deadline_s: float = 60.0, token: str | None = TOKEN) -> ChatEndpoint:
    return ChatEndpoint(
        judge.url.removesuffix("/score"), "mistral", token=token, token_from=token and "KEY", deadline_s=deadline_s,
        token_hint="name one",
    )  # fmt: skip


def test_questions_are_answered_in_order_with_the_token_of_the_server(judge: Judge) -> None:
    asked = [f"question {number}" for number in range(3 * CONNECTIONS)]
    assert endpoint(judge).answers(asked) == [one.upper() for one in asked]
    assert set(judge.tokens) == {f"Bearer {TOKEN}"}
    assert set(judge.paths) == {"/chat/completions"}
    first = next(body for body in judge.requests if body["messages"][0]["content"] == "question 0")
    assert (first["model"], first["temperature"]) == ("mistral", 0)
    assert first["messages"] == [{"role": "user", "content": "question 0"}]


def test_what_may_pass_is_asked_again(judge: Judge) -> None:
    left = iter([(503, b"busy", {}), (429, b"slowly", {"Retry-After": "0"}), (500, b"oh", {})])
    judge.answer = lambda _: next(left, None) or completion("yes")
    assert endpoint(judge).answers(["?"]) == ["yes"]
    assert len(judge.requests) == 4


def test_the_server_says_how_long_to_wait(judge: Judge) -> None:
    left = iter([(429, b"slowly", {"Retry-After": "3600"})])
    judge.answer = lambda _: next(left, None) or completion("yes")
    assert endpoint(judge).answers(["?"]) == [None], "an hour is beyond the deadline"
    assert len(judge.requests) == 1


@pytest.mark.parametrize(
    "answer",
    [completion(None), (200, b"no JSON", {}), (200, b"[]", {}), (200, b'{"choices": []}', {}), (400, b"too long", {})],
)
def test_what_is_no_completion_is_nothing(judge: Judge, answer: Answer) -> None:
    judge.answer = lambda body: answer if body["messages"][0]["content"] == "?" else completion("yes")
    assert endpoint(judge).answers(["?", "!"]) == [None, "yes"]


def test_a_server_that_is_gone_is_not_asked_for_ever(judge: Judge, caplog: pytest.LogCaptureFixture) -> None:
    judge.answer = lambda _: (401, b"revoked", {})
    count = 10 * (GIVEN_UP_AFTER + CONNECTIONS)
    assert endpoint(judge).answers(["?"] * count) == [None] * count
    assert GIVEN_UP_AFTER <= len(judge.requests) <= GIVEN_UP_AFTER + CONNECTIONS
    assert caplog.text.count("8 questions in succession have no answer: the rest is not asked") == 1


def test_what_a_model_does_not_take_is_left_out(judge: Judge) -> None:
    def answer(body: dict[str, Any]) -> Answer:
        for key in ("max_tokens", "temperature"):
            if key in body:
                return 400, json.dumps({"error": {"message": f"Unsupported parameter: '{key}'"}}).encode(), {}
        return completion("yes")

    judge.answer = answer
    asked = endpoint(judge)
    asked.try_out()
    assert asked.answers(["?"]) == ["yes"]
    assert len(judge.requests) == 4


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((401, f"who is {TOKEN}?".encode(), {}), "status 401: who is [hidden]?\n  is the token in KEY the right one?"),
        ((404, b"no such model", {}), "status 404: no such model\n  is the path of the url right?"),
        ((302, b"", {"Location": "http://127.0.0.1:9/"}), "status 302"),
        ((200, b"<html>", {}), "answered no completion: <html>"),
    ],
)
def test_a_trial_says_what_is_wrong(judge: Judge, answer: Answer, said: str) -> None:
    judge.answer = lambda _: answer
    with pytest.raises(UserError, match="mistral at http://127.0.0.1") as caught:
        endpoint(judge).try_out()
    assert said in str(caught.value)
    assert TOKEN not in str(caught.value)


def test_a_trial_of_a_server_that_is_not_there_or_does_not_answer(judge: Judge) -> None:
    free = threading.Event()
    judge.answer = lambda _: completion("late") if free.wait(60) else completion("later")
    try:
        with pytest.raises(EnvironmentFallsShort, match="gave no answer within 0.2 s"):
            endpoint(judge, deadline_s=0.2).try_out()
    finally:
        free.set()
    judge.url = "http://127.0.0.1:9/score"
    with pytest.raises(EnvironmentFallsShort, match="Connection refused"):
        endpoint(judge, deadline_s=0.2).try_out()


def test_an_answer_nested_too_deeply_is_none(judge: Judge) -> None:
    judge.answer = lambda _: (200, b"[" * 200_000, {})
    assert endpoint(judge).answers(["?"]) == [None]
