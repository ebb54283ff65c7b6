"""A reward model of an encoder-decoder on the ranks of a group, for ``test_answer_scores``; plain torch beside it."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import logsigmoid

from distft.config.models import RewardModel
from distft.models.families.family import find_family
from distft.workers.model_worker import ModelWorker
from tests.unit.workers.answer_value_side import RATE, STEPS, plain_values, read, worker
from tests.unit.workers.encoder_decoder_side import MICRO, batch

LOSS, CENTRED = "distft.algorithms.losses.reward:Reward", 0.01


def pairs() -> list[tuple[list[int], list[int]]]:
    """Prompt and answer of every sample: the better answer, then the worse one."""
    found = batch()
    sides = [found.ragged(name) for name in ("prompt_ids", "response_ids")]
    return [tuple(side[row].tolist() for side in sides) for row in range(len(found))]  # type: ignore[misc]


def reward(rank: int, world: int, folder: str, out: str, stage: int, **told: Any) -> dict[str, Any]:
    """What it says of answers, learns of pairs in ``STEPS`` steps, and says then; its export in ``out``; whether one
    that reads its checkpoint says the same to the last bit; and what a finished one says that begins at ``out``."""
    one, micro = worker(rank, world, folder, stage, role="reward", **told), MICRO[world][rank]
    mine = batch().take(sorted(sample for samples in micro for sample in samples))

    def said(of: ModelWorker) -> dict[int, float]:
        scores = of.forward("score", micro, batch=mine, reads="last")[1].dense("score")
        return dict(zip(mine.dense("sample").tolist(), scores.tolist(), strict=True))

    found: dict[str, Any] = {"before": said(one)}
    found["steps"] = one.update(LOSS, {"center_coef": CENTRED}, 0, STEPS, [micro] * STEPS, batch=mine)[0].steps
    found["after"] = said(one)
    one.save(out + "-kept")
    one.export(out)
    other = worker(rank, world, folder, stage, role="reward", **told)
    other.load(out + "-kept")
    found["same"] = said(other) == found["after"]
    found["finished"] = said(worker(rank, world, out, 3, role="reward", finished=True))
    return found


def plain_scores(model: Any) -> list[torch.Tensor]:
    """transformers' head on the decoder's state behind the last token of each answer, a row at a time."""
    return [plain_values(model, *row)[-1] for row in pairs()]


def plainly(folder: str) -> list[float]:
    """The losses of the same steps by transformers and torch alone."""
    model = read(folder)
    adam = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0)
    losses = []
    for _ in range(STEPS):
        adam.zero_grad()
        scores = torch.stack(plain_scores(model))
        better, worse = scores[0::2], scores[1::2]
        loss = (-logsigmoid(better - worse) + CENTRED * (better + worse) ** 2).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        losses.append(float(loss.detach()))
    return losses


def alone(folder: str) -> list[float]:
    """What the family says of all samples in one process, as ``distft eval`` reads a reward model."""
    from distft.evaluation.passes import rewards

    family = find_family("seq2seq_scalar")
    module = family.load(folder, RewardModel(path=folder, dtype="float32"), dropout=False).module.eval()
    found: list[float] = rewards(family, module, batch(), 0, None).tolist()
    return found
