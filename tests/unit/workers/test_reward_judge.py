"""A judge's scores, worked by hand, by a real HTTP server: both orders, ties, what is unreadable, who is silent."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from distft.common.errors import EnvironmentFallsShort, UserError
from distft.config.load import load_recipe
from distft.config.reward_servers import JudgeReward
from distft.data.formats import Message
from distft.rollout import json_server
from distft.workers.reward_judge import RewardJudge
from tests.harness.judge import Answer, Judge, completion, judging, prefers

TOKEN = "canary-of-the-judge"
RATED = re.compile(r"=== the answer ===\n(.*)\n=== end ===", re.DOTALL)


@pytest.fixture
def server() -> Iterator[Judge]:
    with judging() as found:
        yield found


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_server, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setenv("JUDGES_WORD", TOKEN)


def judge_at(server: Judge, kind: str = "online-dpo-tiny", **keys: Any) -> RewardJudge:
    """Judge ``helpful`` of a shipped recipe."""
    url = server.url.removesuffix("/score")
    recipe = load_recipe(kind, ["evaluation.criterion=Longer is better."])
    given = {"name": "helpful", "url": f"{url}/v1", "model": "big", "token_env": "JUDGES_WORD", **keys}
    return RewardJudge(JudgeReward(**given), "models.reward.judges.0", recipe)


def longer(a: str, b: str) -> str:
    return "[[tie]]" if len(a) == len(b) else "[[A]]" if len(a) > len(b) else "[[B]]"


def rates(rate: Callable[[str], str]) -> Callable[[dict[str, Any]], Answer]:
    def answer(body: dict[str, Any]) -> Answer:
        shown = RATED.search(body["messages"][0]["content"])
        assert shown
        return completion(rate(shown[1]))

    return answer


def test_comparisons_are_shares_of_wins(server: Judge) -> None:
    """ccc beats both others, bb one of them; of equal answers nobody is asked, and each has half of their comparison:
    x and x tie (0.5), and lose to yy."""
    server.answer = prefers(longer)
    scores, shares = judge_at(server).scores(["p"] * 3 + ["q"] * 3, ["a", "bb", "ccc", "x", "yy", "x"], 3)
    assert scores.tolist() == [0.0, 0.5, 1.0, 0.25, 1.0, 0.25]
    assert shares == {"unread": 0.0, "ties": 1 / 6, "by_order": 0.0}
    assert len(server.requests) == 2 * 5, "both orders of five pairs"
    assert {body["temperature"] for body in server.requests} == {0}
    assert {body["model"] for body in server.requests} == {"big"}
    assert {body["max_tokens"] for body in server.requests} == {512}
    assert all("Longer is better." in body["messages"][0]["content"] for body in server.requests)
    assert set(server.tokens) == {f"Bearer {TOKEN}"}
    assert set(server.paths) == {"/v1/chat/completions"}


def test_a_judge_that_goes_by_the_order_says_nothing(server: Judge) -> None:
    server.answer = prefers(lambda *_: "[[A]]")
    scores, shares = judge_at(server).scores(["p"] * 3, ["a", "bb", "ccc"], 3)
    assert scores.tolist() == [0.5] * 3
    assert shares == {"unread": 0.0, "ties": 1.0, "by_order": 1.0}


def test_a_comparison_that_cannot_be_read_counts_for_neither(server: Judge) -> None:
    """a against ccc is unread in one order: a has lost its one comparison, ccc has won its one, bb one of two."""
    server.answer = prefers(lambda a, b: "well" if (a, b) == ("ccc", "a") else longer(a, b))
    scores, shares = judge_at(server, max_unread=0.34).scores(["p"] * 3, ["a", "bb", "ccc"], 3)
    assert scores.tolist() == [0.0, 0.5, 1.0]
    assert shares == {"unread": 1 / 3, "ties": 0.0, "by_order": 0.0}
    server.answer = prefers(lambda a, b: "well" if {a, b} == {"a", "bb"} else longer(a, b))
    scores, _ = judge_at(server, max_unread=0.5).scores(["p"] * 2 + ["q"] * 2, ["a", "bb", "a", "ccc"], 2)
    assert scores.tolist() == [0.5, 0.5, 0.0, 1.0], "no pair, and not the worst"


def test_ratings_are_of_the_scale_and_asked_for_once(server: Judge) -> None:
    server.answer = rates(lambda answer: f"[[{len(answer)}]]")
    judge = judge_at(server, asks="ratings", max_new_tokens=9)
    scores, shares = judge.scores(["p", "p", "q", "q"], ["a", "bbbbb", "a", "a"], 2)
    assert scores.tolist() == [1.0, 5.0, 1.0, 1.0]
    assert shares == {"unread": 0.0}
    assert [body["max_tokens"] for body in server.requests] == [9] * 3


def test_a_rating_that_cannot_be_read_is_the_mean_of_the_others(server: Judge) -> None:
    """Of those to its prompt, 1 and 4; where there are none, of all, (1 + 4) / 2."""
    server.answer = rates(lambda answer: f"[[{answer}]]")
    judge = judge_at(server, asks="ratings", max_unread=0.7)
    scores, shares = judge.scores(["p"] * 3 + ["q"] * 3, ["1", "nine", "4", "0", "6", "none"], 3)
    assert scores.tolist() == [1.0, 2.5, 4.0, 2.5, 2.5, 2.5]
    assert shares == {"unread": pytest.approx(4 / 6)}


@pytest.mark.parametrize("asks", ["comparisons", "ratings"])
def test_a_judge_that_does_not_follow_ends_the_run(server: Judge, asks: str) -> None:
    server.answer = lambda _: completion("I like both.")
    with pytest.raises(UserError) as caught:
        judge_at(server, asks=asks).scores(["p"] * 2, ["a", "bb"], 2)
    count = {"comparisons": "1 of 1 comparisons", "ratings": "2 of 2 ratings"}[asks]
    assert f"{count} have no verdict that can be read: above max_unread (0.1)" in str(caught.value)
    assert re.fullmatch(r"models.reward.judges.0 \(big at http://127.0.0.1:\d+/v1\)", caught.value.where)


def test_one_question_that_is_refused_is_unread_and_a_token_that_is_ends_the_run(server: Judge) -> None:
    read = rates(lambda _: "[[2]]")
    server.answer = lambda body: (400, b"too long", {}) if "bb\n" in str(body["messages"][0]["content"]) else read(body)
    scores, shares = judge_at(server, asks="ratings", max_unread=0.5).scores(["p"] * 2, ["a", "bb"], 2)
    assert (scores.tolist(), shares) == ([2.0, 2.0], {"unread": 0.5})
    server.answer = lambda _: (401, f"who is {TOKEN}?".encode(), {})
    with pytest.raises(UserError, match=r"models.reward.judges.0 .*status 401: who is \[hidden\]\?") as caught:
        judge_at(server).scores(["p"] * 2, ["a", "bb"], 2)
    assert "is the token in JUDGES_WORD the right one?" in str(caught.value)
    assert TOKEN not in str(caught.value)


def test_who_does_not_answer_in_time_ends_the_run(server: Judge) -> None:
    server.answer = lambda _: (503, b"busy", {})
    with pytest.raises(EnvironmentFallsShort, match=r"judges.0 .*gave no verdicts on 2 questions within 0.2 s.*busy"):
        judge_at(server, deadline=0.2).scores(["p"] * 2, ["a", "bb"], 2)
    left = iter([(503, b"busy", {}), (429, b"slowly", {"Retry-After": "0"})])
    server.answer = lambda body: next(left, None) or prefers(longer)(body)
    assert judge_at(server).scores(["p"] * 2, ["a", "bb"], 2)[0].tolist() == [0.0, 1.0], "asked again"


@pytest.mark.parametrize(
    ("recipe", "asks", "said"),
    [("online-dpo-tiny", None, "answer A"), ("ppo-tiny", None, "the answer"), ("grpo-tiny", None, "the answer"),
     ("grpo-tiny", "comparisons", "answer A"), ("online-dpo-tiny", "ratings", "the answer")],
)  # fmt: skip
def test_methods_that_pair_their_answers_compare_them(server: Judge, recipe: str, asks: str | None, said: str) -> None:
    server.answer = lambda _: completion("[[A]] [[3]]")
    warning = judge_at(server, recipe, asks=asks).try_out((Message("user", "How much?"),), "Four.")
    (asked,) = [body["messages"][0]["content"] for body in server.requests]
    assert f"=== the request ===\nHow much?\n=== {said} ===\nFour.\n" in asked
    if said == "the answer":
        assert warning is None
    else:
        assert warning is not None
        assert "asked about one row for comparisons, it ended with '[[A]] [[3]]'; a judge must follow" in warning


def test_what_the_endpoint_does_not_take_is_left_out_from_the_trial_on(server: Judge) -> None:
    def answer(body: dict[str, Any]) -> Answer:
        return (400, b"Unsupported: temperature", {}) if "temperature" in body else prefers(longer)(body)

    server.answer = answer
    judge = judge_at(server)
    judge.try_out("How much?", "Four.")
    assert judge.scores(["p"] * 2, ["a", "bb"], 2)[0].tolist() == [0.0, 1.0]


def test_a_token_that_is_not_there(server: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JUDGES_WORD")
    with pytest.raises(UserError, match="models.reward.judges.0.token_env.*JUDGES_WORD is not set"):
        judge_at(server)
