"""A judge of ``distft eval`` and ``distft collect``: an endpoint over a real server, and a model of this process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from distft.rollout import json_server
from tests.harness.judge import Judge, completion, judging, prefers
from tests.harness.speakers import write_judge
from tests.unit.verbs.conftest import Typed

SHORT = "max_new_tokens=6"


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Iterator[Judge]:
    """A server that prefers the longer answer, of equal ones neither."""
    monkeypatch.setattr(json_server, "FIRST_PAUSE_S", 0.001)
    with judging() as found:
        found.answer = prefers(longer)
        yield found


def longer(first: str, second: str) -> str:
    return "[[tie]]" if len(first) == len(second) else "[[A]]" if len(first) > len(second) else "[[B]]"


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"My ladder is dirty, {n} times."}) + "\n" for n in range(6)))
    return path


def said_by(model: str, prompts: Path, distft: Typed) -> list[str]:
    _, output, _ = distft("generate", model, "--prompts", prompts, "--plain", "--greedy", "--json", SHORT)
    return [json.loads(line)["completion"].strip() for line in output.splitlines()]


def asked(judge: Judge) -> list[str]:
    return [text for body in judge.requests if "answer B" in (text := body["messages"][0]["content"])]


def test_an_endpoint_says_whose_answers_are_better(
    speaker: str, other_speaker: str, judge: Judge, prompts: Path, distft: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGES_WORD", "canary")
    words = (
        "eval", speaker, other_speaker, "--data", prompts, SHORT, "--judge", judge.url.removesuffix("/score"),
        "--judge-model", "mistral", "--judge-key", "JUDGES_WORD", "--criterion", "Which is longer?",
    )  # fmt: skip
    status, output, error = distft(*words, "--json")
    assert status == 0, error
    first, second = said_by(speaker, prompts, distft), said_by(other_speaker, prompts, distft)
    won = [1.0 if len(b) > len(a) else 0.5 if len(a) == len(b) else 0.0 for a, b in zip(first, second, strict=True)]
    found = json.loads(output)["comparisons"][0]["judge"]
    assert (found["wins"], found["ties"], found["losses"]) == (won.count(1.0), won.count(0.5), won.count(0.0))
    assert found["win_rate"]["value"] == pytest.approx(sum(won) / 6)
    assert (found["by_order"], found["unread"]) == (0, 0)
    assert set(judge.tokens) == {"Bearer canary"}
    different = sum(a != b for a, b in zip(first, second, strict=True))
    assert different > 0
    assert len(asked(judge)) == 2 * different
    assert all("Which is longer?" in text for text in asked(judge))

    puzzled = next(n for n, (a, b) in enumerate(zip(first, second, strict=True)) if a != b)
    told = judge.answer
    judge.answer = lambda body: completion("Both") if f", {puzzled} times" in str(body["messages"]) else told(body)
    _, shown, _ = distft(*words)
    left = [one for n, one in enumerate(won) if n != puzzled]
    assert f"in {sum(left) / 5:.4g} [" in shown, "what has no verdict is no tie"
    assert f"{won.count(0.0) - (won[puzzled] == 0.0)} lost; 1 without a verdict, in no figure" in shown


def test_what_a_judge_cannot_do_is_told_before_anything_is_loaded(
    speaker: str, other_speaker: str, judge: Judge, prompts: Path, distft: Typed
) -> None:
    url = judge.url.removesuffix("/score")
    two = ("eval", speaker, other_speaker, "--data", prompts, SHORT)
    for words, said in (
        ((*two, "--judge", url), f"--judge {url}: which of the endpoint's models judges is not said"),
        ((*two, "--judge-model", "x"), "--judge-model x: is said of a judge, and none is named"),
        ((*two, "--criterion", "x"), "--criterion x: nobody judges by it"),
        ((*two, "--judge", speaker, "--judge-model", "x"), f"is of an endpoint, and {speaker} is none"),
        ((*two, "--judge", speaker, "--judge-deadline", "9"), f"is of an endpoint, and {speaker} is none"),
        ((*two, "--judge", "no/where", "--no-answers"), "judges answers, and none are wanted"),
        ((*two, "--judge", url, "--judge-model", "x", "--judge-key", "NOT_SET"), "NOT_SET is not set"),
        ((*two, "--judge", url, "--judge-model", "x", "--judge-deadline", "0"), "--judge-deadline 0: must be above 0"),
        (("eval", speaker, "--data", prompts, "--judge", url), "a judge compares the answers of two models"),
        (
            ("collect", speaker, "--prompts", prompts, "--ask", "correct", "--judge", url, "--judge-model", "x"),
            "a judge ranks and rates, and corrects nothing",
        ),
    ):  # fmt: skip
        status, _, error = distft(*words)
        assert (status, said in error) == (2, True), error
    assert judge.requests == []
    judge.answer = lambda _: (401, b"no", {})
    status, _, error = distft(*two, "--judge", url, "--judge-model", "x")
    assert (status, "status 401: no\n  does it want a token? --judge-key VARIABLE" in error) == (2, True)
    judge.answer = lambda _: completion("I like both")
    status, _, error = distft(*two, "--judge", url, "--judge-model", "x")
    assert (status, "has a verdict that can be read" in error) == (2, True)


def test_a_judge_labels_as_a_person_does(
    speaker: str, judge: Judge, prompts: Path, distft: Typed, tmp_path: Path
) -> None:
    def answer(body: dict[str, Any]) -> Any:
        text = body["messages"][0]["content"]
        if "=== the answer ===" in text:
            return completion(f"[[{1 + len(text) % 5}]]")
        if "dirty, 3 times" in text:
            return completion("Hm.")
        return prefers(longer)(body)

    judge.answer = answer
    folder = tmp_path / "labelling"
    status, output, error = distft(
        "collect", speaker, "--prompts", prompts, "--ask", "rank,rate", "--judge", judge.url.removesuffix("/score"),
        "--judge-model", "mistral", "--output", folder, "--json", SHORT, "samples_per_prompt=3",
    )  # fmt: skip
    assert status == 0, error
    made = json.loads(output)["judge"]
    labels = [json.loads(line) for line in (folder / "labels-judge.jsonl").read_text().splitlines()]
    items = [json.loads(line) for line in (folder / "items.jsonl").read_text().splitlines()]
    left = [item for item in items if "dirty, 3 times" not in item["prompt"]]
    assert [one["completions"] for one in labels] == [item["completions"] for item in left]
    assert made["prompts"] == len(left) == len(items) - 1
    assert made["unread"] == len(items[3]["completions"]) * (len(items[3]["completions"]) - 1) // 2
    for one in labels:
        lengths = [len(text.strip()) for text in one["completions"]]
        assert one["ranks"] == [1 + sum(other > own for other in lengths) for own in lengths]
        assert all(1 <= rating <= 5 for rating in one["ratings"])
    page = (folder / "label.html").read_text()
    assert labels[0]["collection"] in page, "of the same collection as what people label on the page"
    status, output, error = distft("collect", "--read", folder / "labels-judge.jsonl", "--json")
    assert status == 0, error
    assert json.loads(output)["labellers"] == {f"mistral at {judge.url.removesuffix('/score')}": len(left)}


def test_a_model_judges_here_and_one_that_takes_what_stands_first_decides_nothing(
    speaker: str, other_speaker: str, prompts: Path, distft: Typed, tmp_path: Path
) -> None:
    model = write_judge(tmp_path / "judge", "[[A]]")
    words = ("eval", speaker, other_speaker, "--data", prompts, SHORT, "--json", "--judge")
    status, output, error = distft(*words, model)
    assert status == 0, error
    found = json.loads(output)["comparisons"][0]["judge"]
    first, second = said_by(speaker, prompts, distft), said_by(other_speaker, prompts, distft)
    different = sum(a != b for a, b in zip(first, second, strict=True))
    assert (found["wins"], found["ties"], found["losses"], found["by_order"]) == (0, 6, 0, different)
    assert found["win_rate"] == {"value": 0.5, "low": 0.5, "high": 0.5}
    status, _, error = distft(*words, speaker)  # it has 256 positions: no question has room
    assert (status, f"{speaker}: none of its answers to 6 comparisons has a verdict" in error) == (2, True), error
