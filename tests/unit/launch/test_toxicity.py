"""Toxicity is what transformers' own pipeline says of the answers alone, whatever kind of classifier says it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from distft.cli import main
from distft.common.errors import UserError
from distft.evaluation.row_measures import of_toxicity
from distft.launch.named_models import Reading
from distft.launch.toxicity import Toxicity, ToxicityNamed
from tests.harness.speakers import write_speaker
from tests.unit.models.encoders import POSITIONS, words, write_encoder

NAMES = {0: "kind", 1: "dull", 2: "toxic"}
TEXTS = [words(7, 8, 9), words(40), words(*range(5, 90)), words(12, 80, 33, 6), ""]


def encoder(folder: Path, kind: str, num_labels: int = 3, **more: object) -> str:
    names = NAMES if num_labels == len(NAMES) else {0: "toxic"}
    labels = {"id2label": names, "label2id": {name: number for number, name in names.items()}}
    return write_encoder(folder, kind, num_labels=num_labels, **labels, **more)


def by_pipeline(folder: str) -> np.ndarray:
    ask = pipeline("text-classification", model=folder, top_k=None, device="cpu")
    said = ask(TEXTS, truncation=True, max_length=POSITIONS - 2 if "roberta" in folder else POSITIONS)
    return np.array([next(one["score"] for one in answer if one["label"] == "toxic") for answer in said])


@pytest.mark.parametrize("kind", ["bert", "roberta"])
@pytest.mark.parametrize(
    ("num_labels", "more"), [(3, {}), (3, {"problem_type": "multi_label_classification"}), (1, {})],
    ids=["exclusive", "several", "one"],
)  # fmt: skip
def test_as_a_pipeline_has_it(kind: str, num_labels: int, more: dict[str, str], tmp_path: Path) -> None:
    folder = encoder(tmp_path / kind, kind, num_labels, **more)
    found = Toxicity(ToxicityNamed(folder), tmp_path, Reading()).of(TEXTS)
    assert found == pytest.approx(by_pipeline(folder), rel=1e-4)
    assert len(set(found.round(6))) > 3


def test_mean_and_share_above_a_half_by_prompt() -> None:
    found = of_toxicity(np.array([0.1, 0.7, 0.5, 0.9]), repeats=2)
    assert {name: measure.total for name, measure in found.items()} == {
        "toxicity/mean": pytest.approx(0.55), "toxicity/share": 0.5
    }  # fmt: skip
    assert found["toxicity/share"].rows.tolist() == [[1.0, 2.0], [1.0, 2.0]]


def test_eval_reads_a_models_answers_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    speaker = write_speaker(tmp_path / "speaker")
    model = AutoModelForSequenceClassification.from_pretrained(
        speaker, num_labels=2, id2label={0: "fine", 1: "toxic"}, label2id={"fine": 0, "toxic": 1}
    )
    judge = tmp_path / "judge"
    model.save_pretrained(judge)
    AutoTokenizer.from_pretrained(speaker).save_pretrained(judge)
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"My ladder, {n}?"}) + "\n" for n in range(4)))
    ask = ["eval", speaker, "--data", str(rows), "max_new_tokens=5", "--json", "--toxicity", str(judge)]
    assert main(ask) == 0
    found = json.loads(capsys.readouterr().out)["models"][0]["metrics"]
    main(["generate", speaker, "--prompts", str(rows), "--plain", "--greedy", "--json", "max_new_tokens=5"])
    said = [json.loads(line)["completion"] for line in capsys.readouterr().out.splitlines()]
    scores = Toxicity(ToxicityNamed(str(judge)), tmp_path, Reading()).of(said)
    assert found["toxicity/mean"]["value"] == pytest.approx(scores.mean())
    assert found["toxicity/share"]["value"] == pytest.approx((scores > 0.5).mean())
    assert found["toxicity/mean"]["low"] <= scores.mean() <= found["toxicity/mean"]["high"]
    assert main([*ask, "--no-answers"]) == 2
    assert "reads answers, and none are wanted" in capsys.readouterr().err
    assert main([*ask, "--toxic-label", "toxc"]) == 2
    assert "has no label toxc\n  --toxic-label toxic; it has: fine, toxic" in capsys.readouterr().err
    assert main(["eval", str(judge), *ask[2:]]) == 2
    assert f"--toxicity {judge}: reads answers, and {judge} writes none" in capsys.readouterr().err
    rows.write_text(json.dumps({"text": "My ladder is dirty."}) + "\n")
    assert main(ask) == 2
    told = capsys.readouterr().err
    assert f"--toxicity {judge}, {rows}:1: has no prompt to answer" in told
    assert "leave --toxicity out" in told
    assert main(ask[:-2]) == 0, "likelihoods need none"


def test_what_is_no_classifier_is_told(tmp_path: Path) -> None:
    speaker = write_speaker(tmp_path / "speaker")
    with pytest.raises(UserError, match="is no classifier"):
        Toxicity(ToxicityNamed(speaker), tmp_path, Reading())
