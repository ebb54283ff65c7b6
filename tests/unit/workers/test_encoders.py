"""An encoder's life as a reward model and as a classifier, sharded in every way, on one rank and on two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from distft.config.adapters.lora import Lora
from tests.unit.engine.group import Group
from tests.unit.models.encoders import write_encoder
from tests.unit.workers.encoder_side import LABELS, live, rows

CLOSE = 1e-5


def scores(folder: Path | str) -> np.ndarray[Any, Any]:
    """What transformers says of every row, each alone."""
    model: Any = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    found = []
    for prompt, response in rows():
        inputs = {"input_ids": torch.tensor([[*prompt, *response]])}
        if model.config.model_type == "bert":
            inputs["token_type_ids"] = torch.tensor([[0] * len(prompt) + [int(bool(prompt))] * len(response)])
        with torch.no_grad():
            found.append(model(**inputs).logits[0].numpy())
    return np.stack(found)


def merged(answers: list[dict[str, Any]], name: str) -> np.ndarray[Any, Any]:
    found = {sample: value for answer in answers for sample, value in answer[name].items()}
    return np.array([found[sample] for sample in sorted(found)])


CASES = [("bert", 3), ("roberta", 2), *(
    pytest.param(kind, stage, marks=pytest.mark.slow)
    for kind in ("bert", "roberta", "modernbert", "deberta-v2") for stage in (0, 2, 3)
    if (kind, stage) not in (("bert", 3), ("roberta", 2))
)]  # fmt: skip


@pytest.mark.parametrize(("kind", "stage"), CASES)
def test_a_reward_models_life(groups: dict[int, Group], tmp_path: Path, kind: str, stage: int) -> None:
    """From a finished reward model on: what it says is what transformers says, before and after a step; its head new,
    from a model of masked tokens, the same on any layout."""
    folder = write_encoder(tmp_path / "start", kind, num_labels=1)
    updates = []
    for ranks, group in groups.items():
        out = tmp_path / f"out-{ranks}"
        answers = group.call(live, folder, str(out), stage)
        assert merged(answers, "before") == pytest.approx(scores(folder)[:, 0], abs=CLOSE)
        assert merged(answers, "after") == pytest.approx(scores(out)[:, 0], abs=CLOSE)
        assert np.abs(merged(answers, "after") - merged(answers, "before")).max() > 100 * CLOSE
        updates.append(answers[0]["update"])
    assert updates[1] == pytest.approx(updates[0], rel=1e-4)
    masked = write_encoder(tmp_path / "masked", kind)
    fresh = [
        merged(group.call(live, masked, str(tmp_path / f"new-{n}"), stage), "before") for n, group in groups.items()
    ]
    assert fresh[1] == pytest.approx(fresh[0], abs=CLOSE)
    assert np.ptp(fresh[0]) > 1e-3


@pytest.mark.parametrize("kind", [
    "modernbert", *(pytest.param(one, marks=pytest.mark.slow) for one in ("bert", "roberta", "deberta-v2"))
])  # fmt: skip
def test_a_classifiers_life_with_adapters(groups: dict[int, Group], tmp_path: Path, kind: str) -> None:
    """From a model of masked tokens: the head, which is new, is trained whole beside the adapters, and has names."""
    folder, out = write_encoder(tmp_path / "start", kind), tmp_path / "out"
    answers = groups[2].call(live, folder, str(out), 3, LABELS, Lora(r=4))
    model = AutoModelForSequenceClassification.from_pretrained(out)
    assert [model.config.id2label[number] for number in range(len(LABELS))] == list(LABELS)
    assert {name.rpartition(".")[0] for name in answers[0]["whole"]} >= {"classifier"} or kind == "roberta"
    first, last = answers[0]["history"][0], answers[0]["history"][-1]
    assert last["loss"] < first["loss"]
    expected = torch.from_numpy(scores(out)).log_softmax(dim=-1)[
        torch.arange(len(rows())), torch.arange(len(rows())) % 3
    ]
    assert answers[0]["measured"]["loss"] == pytest.approx(-float(expected.mean()), abs=1e-5)
