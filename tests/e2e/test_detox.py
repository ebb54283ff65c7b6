"""The textbook's detoxification: PPO of a T5 against a BERT that was trained to know what is rude, in three seeds."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from distft.data.builtin import is_rude
from distft.evaluation.bootstrap import Difference, compare
from distft.evaluation.measures import mean
from tests.e2e.conftest import Verb, events, lines, starting
from tests.reference.tiny_models import read_t5

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(5400)]
SEEDS, PROMPTS = (1, 2, 3), 64


@dataclass(frozen=True)
class Said:
    """What the models answer to the held-out prompts, before and after, and how likely a rude one each answer is."""

    answers: dict[str, list[str]]
    rudeness: dict[str, np.ndarray[Any, Any]]
    lengths: dict[str, float]

    def fall(self) -> Difference:
        """Of the mean, with its 95 % interval, prompts drawn anew."""
        before, after = (mean(self.rudeness[when]) for when in ("before", "after"))
        return compare(before, after)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The pipeline, and PPO of its other stages' results in two more seeds."""
    workplace = tmp_path_factory.mktemp("detox")
    with starting(workplace) as start:
        ended(start("train", "detox-tiny", folder="."))
        (workplace / "ppo").rename(workplace / "ppo-1")
        for seed in SEEDS[1:]:
            models = (f"models.policy.path=run:{workplace / 'sft'}", f"models.reward.path=run:{workplace / 'rudeness'}")
            words = ("train", "t5-ppo-tiny", *models, "models.reward.label=polite", f"seed={seed}")
            ended(start(*words, folder=f"ppo-{seed}"))
        yield workplace


def ended(verb: Verb) -> None:
    assert verb.end(3000) == 0, verb.output


@torch.no_grad()
def said(runs: Path, seed: int) -> Said:
    """By transformers alone, but for the drawing of the answers."""
    names = {"before": f"run:{runs / 'sft'}", "after": f"run:{runs / f'ppo-{seed}'}"}
    words = ("generate", *names.values(), "--prompts", "builtin:dialogues", "--limit", str(PROMPTS), "--json")
    done = subprocess.run(
        [sys.executable, "-m", "distft.cli", *words, "temperature=1.0", "max_new_tokens=40", "--seed", str(seed)],
        capture_output=True, text=True, check=True, timeout=600,
    )  # fmt: skip
    records = [json.loads(line) for line in done.stdout.splitlines()]
    classifier = AutoModelForSequenceClassification.from_pretrained(runs / "rudeness" / "final").eval()
    tokenizer = AutoTokenizer.from_pretrained(runs / "rudeness" / "final")
    rude = classifier.config.label2id["rude"]
    answers: dict[str, list[str]] = {}
    rudeness, lengths = {}, {}
    for when, name in names.items():
        own = [record for record in records if record["model"] == name]
        assert [record["number"] for record in own] == list(range(PROMPTS))
        answers[when] = [record["completion"] for record in own]
        pairs = [(record["prompt"][-1]["content"], record["completion"]) for record in own]
        logits = [classifier(**tokenizer(*pair, return_tensors="pt")).logits[0] for pair in pairs]
        rudeness[when] = torch.stack(logits).softmax(-1)[:, rude].double().numpy()
        lengths[when] = fmean(record["num_tokens"] for record in own)
    return Said(answers, rudeness, lengths)


def test_the_classifier_knows_what_is_rude(runs: Path) -> None:
    table = json.loads((runs / "rudeness" / "before_after.json").read_text())["metrics"]
    assert table["accuracy"]["after"] > 0.97


@pytest.mark.parametrize("seed", SEEDS)
def test_rudeness_falls_by_more_than_a_third(runs: Path, seed: int) -> None:
    """By what the classifier says and by what is so, at a KL and a length that are no reward hacking's."""
    folder, found = runs / f"ppo-{seed}", said(runs, seed)
    before, after = (float(found.rudeness[when].mean()) for when in ("before", "after"))
    fall = found.fall()
    table = json.loads((folder / "before_after.json").read_text())["metrics"]
    kl, last = table["objective/kl"]["after"], lines(folder, "metrics")[-1]
    print(
        f"\nseed {seed}: mean rudeness {before:.3f} to {after:.3f} ({fall.value:.3f}, 95 % [{fall.low:.3f}, "
        f"{fall.high:.3f}]), KL {kl:.2f} nats a sequence, length {found.lengths['before']:.1f} to "
        f"{found.lengths['after']:.1f} tokens, {last['step']} iterations"
    )
    assert before > 0.1
    assert after <= before * 2 / 3
    assert fall.high < 0
    rude = {when: sum(map(is_rude, found.answers[when])) for when in found.answers}
    assert rude["after"] <= rude["before"] * 2 / 3
    assert 0 < kl < 20
    assert not events(folder, "alarm")


@pytest.mark.parametrize("seed", SEEDS)
def test_the_head_is_one_of_its_own_to_the_end(runs: Path, seed: int) -> None:
    """As transformers reads it, from the first fit to the last policy."""
    first, last = read_t5(runs / "sft" / "final"), read_t5(runs / f"ppo-{seed}" / "final")
    assert not torch.equal(first.lm_head.weight, last.lm_head.weight)
