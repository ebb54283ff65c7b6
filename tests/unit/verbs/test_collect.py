"""``distft collect``: the page holds what the models said, and no text can do anything there; labels become rows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.unit.report.test_run_page import ATTACK, Seen
from tests.unit.verbs.conftest import Typed


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_page_of_two_models_answers(speaker: str, other_speaker: str, distft: Typed, tmp_path: Path) -> None:
    prompts, folder = tmp_path / "prompts.jsonl", tmp_path / "labelling"
    asked = [
        "My ladder is dirty.",
        "my  ladder is dirty.",
        ATTACK.replace("\ud800", ""),
    ]  # the second is the first again
    prompts.write_text("".join(json.dumps({"prompt": one}) + "\n" for one in asked))
    ask = ("collect", speaker, other_speaker, "--prompts", prompts, "--criterion", ATTACK, "max_new_tokens=6")
    status, output, _ = distft(*ask, "--output", folder, "--json")
    assert (status, json.loads(output)) == (0, {"page": str(folder / "label.html"), "prompts": 2, "left_out": 0})
    items = lines(folder / "items.jsonl")
    assert [one["prompt"] for one in items] == [asked[0], asked[2]]
    assert [sorted(one["models"]) for one in items] == [sorted([speaker, other_speaker] * 2)] * 2
    _, generated, _ = distft(
        "generate", speaker, other_speaker, "--prompt", asked[0], "samples_per_prompt=2", "max_new_tokens=6", "--json"
    )
    said = {(one["model"], one["completion"]) for one in map(json.loads, generated.splitlines())}
    assert set(zip(items[0]["models"], items[0]["completions"], strict=True)) == said, "as distft generate says it"

    text = (folder / "label.html").read_text()
    seen = Seen(text)
    held = json.loads(seen.scripts[0])
    assert [one["completions"] for one in held["items"]] == [one["completions"] for one in items]
    assert speaker not in text, "who labels does not know whose answers they are"
    assert len(seen.scripts) == 2
    assert "alert(1)" in seen.text, "the attack is the criterion, as a text"
    assert not {"img", "a", "link", "iframe"} & {tag for tag, _ in seen.tags}
    assert not any(
        name in ("src", "href") or name.startswith("on") for _, attributes in seen.tags for name in attributes
    )
    policy = next(a["content"] for _, a in seen.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert len(text) < 5e4
    status, _, error = distft(*ask, "--output", folder)
    assert (status, "label.html: is there already" in error) == (2, True)


@pytest.mark.parametrize("recipe", ["sft-tiny", "tools-tiny"])
def test_a_recipe_is_asked_what_it_trains_on(recipe: str, speaker: str, distft: Typed, tmp_path: Path) -> None:
    """Where an environment answers in training, as well: a first turn is labelled as it is."""
    shutil.copytree(speaker, tmp_path / "run" / "final")
    rows = [{"prompt": f"Question {number}?", "completion": " Yes."} for number in range(20)]
    train, judged = tmp_path / "train.jsonl", tmp_path / "eval.jsonl"
    for path, some in ((train, rows), (judged, rows[:10])):
        path.write_text("".join(json.dumps(row) + "\n" for row in some))
    status, _, error = distft(
        "collect", recipe, f"output_dir={tmp_path / 'run'}", f"data.train=[{{path: {train}}}]", "data.holdout=0.2",
        f"data.eval=[{{path: {judged}}}]", "data.test=[]", "--ask", "rate", "--output", tmp_path / "out",
        "max_new_tokens=1",
    )  # fmt: skip
    assert status == 0, error
    asked = {one["prompt"] for one in lines(tmp_path / "out" / "items.jsonl")}
    assert 0 < len(asked) < 10, "of the ten that eval does not ask, some are split off for test"
    assert asked < {row["prompt"] for row in rows[10:]}


def test_labels_of_two_are_read_back(distft: Typed, tmp_path: Path) -> None:
    files = []
    for name, ranks in (("Ana", [[1, 2, 3], [1, 2, 3]]), ("Ben", [[2, 1, 3], [1, 2, 3]])):
        said = [
            {"format": 1, "collection": "c", "labeller": name, "item": item, "criterion": "?",
             "prompt": f"Which {item}?", "completions": ["one", "two", "three"], "ranks": order}
            for item, order in enumerate(ranks)
        ]  # fmt: skip
        files.append(tmp_path / f"labels-{name}.jsonl")
        files[-1].write_text("".join(json.dumps(one) + "\n" for one in said))
    status, output, _ = distft("collect", "--read", *files, "--output", tmp_path)
    assert status == 0
    assert "2 prompts are labelled (Ana 2, Ben 2), 2 of them by two or more" in output
    assert "Kendall's tau 0.667, mean of 2 comparisons" in output
    assert "Krippendorff's alpha 0.771\n" in output  # 1 - 11 * 64 / 3072, as in test_consensus
    assert f"5 rows are in {tmp_path / 'pairs.jsonl'}" in output
    assert "1 pairs of answers are left out" in output
    pairs = lines(tmp_path / "pairs.jsonl")
    assert [(one["prompt"], one["chosen"], one["rejected"]) for one in pairs[:2]] == [
        ("Which 0?", "one", "three"), ("Which 0?", "two", "three")
    ]  # fmt: skip
    _, output, _ = distft("collect", "--read", files[0], "--json")
    assert json.loads(output)["rows"] == {"pairs": 6, "rankings": 2}
    assert distft("collect", "--read", *files, "--output", tmp_path)[0] == 2, "no file is overwritten"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--ask", "rang", "x"), "'rang' is nothing to ask\n  did you mean rank? rank, rate, correct"),
        (("--read", "nowhere.jsonl"), "there is no such file"),
        (("m", "--read", "nowhere.jsonl"), "--read asks no model"),
        ((), "no model is named"),
        (("run:nowhere", "--limit", "0"), "must be at least 1"),
        (("SPEAKER",), "nothing says what the models are asked"),
        (("SPEAKER", "--prompts", "p.txt", "samples_per_prompt=9"), "9 answers to a prompt are more than a person"),
        (
            ("SPEAKER", "SPEAKER", "SPEAKER", "--prompts", "p.txt", "samples_per_prompt=4"),
            "samples_per_prompt=4: 12 answers to a prompt are more than a person can rank: 8 at most\n"
            "  samples_per_prompt=2",
        ),
        (
            tuple("abcdefghi"),
            "a b c d e f g h i: 9 answers to a prompt are more than a person can rank: 8 at most\n"
            "  name 8 models at most",
        ),
        (("SPEAKER", "--prompts", "p.txt", "samples_per_prompt=1"), "one answer cannot be ranked"),
        (("SPEAKER", "--prompts", "p.txt", "max_new_tokens=1", "top_k=1"), "temperature=1.0 draws more freely"),
        (("sft-tiny",), "runs/sft-tiny"),
    ],
)
def test_mistakes_get_one_message(
    words: tuple[str, ...], said: str, speaker: str, distft: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.txt").write_text("Hello")
    status, output, error = distft("collect", *(speaker if word == "SPEAKER" else word for word in words))
    assert (status, output) == (2, "")
    assert said in error
    assert "Traceback" not in error
    assert [path.name for path in tmp_path.iterdir() if path.name == "labelling"] == []


def test_what_is_labelled_is_for_training(speaker: str, distft: Typed, tmp_path: Path) -> None:
    """Unless another split is said: held-out rows that ask the same would be left out of that training."""
    for split in ([], ["--split", "test"]):
        folder = tmp_path / f"labelling{len(split)}"
        words = ("--prompts", "builtin:dialogues", "--limit", "2", "max_new_tokens=2", "samples_per_prompt=2")
        assert distft("collect", speaker, *words, *split, "--output", folder)[0] == 0
        places = {one["where"].rpartition(":")[0] for one in lines(folder / "items.jsonl")}
        assert places == {f"builtin:dialogues/{split[1] if split else 'train'}"}
