"""Summaries of real dialogues: a small model, pre-trained on dialogues alone and then shown summaries, against itself
before, with and without examples in its prompt, and against a dialogue's first three sentences. Figures are printed.
A decoder, which continues texts, and an encoder-decoder as flan-T5 is, which fills spans in (Raffel et al. 2020)."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from distft.cli import main
from distft.evaluation.bootstrap import compare, estimate
from distft.evaluation.text_scores import ROUGE, text_measures
from tests.e2e.conftest import Start

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(3600)]
MOST_WORDS = 220  # nine dialogues in ten are no longer; two of them and their summaries fit before a third
NUM_TEST = 120
WIDTHS = ("hidden_size=192", "num_heads=4", "vocab_size=2048")
# Of a kind of model: what its weights begin as, the recipes that teach it to read and to answer, and their keys.
LLAMA = (
    ("architecture=llama", "num_layers=4", "max_positions=2048"), "pretrain-tiny", "sft-tiny", ()
)  # fmt: skip
T5 = (
    ("architecture=t5", "num_layers=3"), "span-tiny", "t5-sft-tiny",
    ("data.max_length=720", "data.max_prompt_length=560"),
)  # fmt: skip
QUIET = ("placement.policy.ranks=1", "evaluation.every=0", "tracking.samples_every=0", "data.eval=[]", "data.test=[]")


@pytest.mark.parametrize("kind", [pytest.param(LLAMA, id="llama"), pytest.param(T5, id="t5")])
def test_summaries_are_learned(
    kind: tuple[tuple[str, ...], str, str, tuple[str, ...]],
    real_data: Path, start: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    sizes, reading, answering, more = kind
    lines = (real_data / "dialogsum" / "dialogsum.dev.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if len(row["dialogue"].split()) <= MOST_WORDS]
    train, test = rows[:-NUM_TEST], rows[-NUM_TEST:]
    assert not {row["dialogue"] for row in train} & {row["dialogue"] for row in test}
    dialogues = write(tmp_path / "dialogues.jsonl", [{"text": row["dialogue"]} for row in train])
    shown, asked = write(tmp_path / "train.jsonl", train), write(tmp_path / "test.jsonl", test)

    base = start(
        "train", reading, *(f"models.policy.init.{key}" for key in (*sizes, *WIDTHS)), *QUIET,
        f"data.train=[{{path: {dialogues}}}]", "data.max_length=256", "train.steps=160", "optimizer.learning_rate=2e-3",
        "train.max_tokens_per_rank=4096", "checkpoint.every=80", folder="base",
    )  # fmt: skip
    assert base.end(1800) == 0, base.output
    tuned = start(
        "train", answering, f"models.policy.path=run:{base.folder}", *QUIET, f"data.train=[{{path: {shown}}}]",
        "data.max_length=640", "data.overlong=error", "train.steps=160", "optimizer.learning_rate=1e-3",
        "train.max_tokens_per_rank=6144", "checkpoint.every=80", "rollout.max_new_tokens=48", *more, folder="tuned",
    )  # fmt: skip
    assert tuned.end(1800) == 0, tuned.output

    judging = ("--data", asked, "--shots", "0,1,2", "--limit", "200", "--max-length", "1280", "--json")
    found = json.loads(said(("eval", f"run:{tuned.folder}", *judging), capsys))
    assert found["rows"] == NUM_TEST
    names = [one["name"] for one in found["models"]]
    assert names[1:] == ["the start, 0 shots", "the start, 1 shot", "the start, 2 shots"]
    written = tmp_path / "answers.jsonl"
    said(("generate", f"run:{tuned.folder}", "--prompts", asked, "--greedy", "--output", str(written)), capsys)
    summaries = [row["summary"] for row in test]
    ours = text_measures(
        [json.loads(line)["completion"] for line in written.read_text().splitlines()], summaries, ROUGE
    )
    lead = text_measures([first_sentences(row["dialogue"], 3) for row in test], summaries, ROUGE)
    with capsys.disabled():
        for name in ROUGE:
            figures = [one["metrics"][name] for one in found["models"]]
            told = [f"{one['value']:.3f} [{one['low']:.3f}, {one['high']:.3f}]" for one in figures]
            three, more = estimate(lead[name]), compare(lead[name], ours[name])
            told.append(f"{three.value:.3f} [{three.low:.3f}, {three.high:.3f}]")
            print(f"\n{name}: " + ", ".join(map(" ".join, zip([*names, "three sentences"], told, strict=True))))
            print(f"  over three sentences: {more.value:+.3f} [{more.low:+.3f}, {more.high:+.3f}]")
        print(found["prompting"]["verdict"])
    for name in ROUGE:
        assert found["models"][0]["metrics"][name]["value"] == pytest.approx(estimate(ours[name]).value)
        for one in found["comparisons"]:  # the untouched model's less ours
            assert one["differences"][name]["high"] < 0, (name, one)
    assert found["prompting"]["difference"]["low"] > 0


def write(path: Path, rows: Sequence[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def said(words: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(list(words)) == 0
    return capsys.readouterr().out


def first_sentences(dialogue: str, count: int) -> str:
    """Of what is said, without who says it."""
    text = " ".join(re.sub(r"^#\w+#:", "", turn).strip() for turn in dialogue.splitlines())
    return " ".join(re.split(r"(?<=[.?!])\s+", text)[:count])
