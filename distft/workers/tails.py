"""Responses that are sampled in parts, until so many of a batch have ended that the others are cut.

Which are cut depends on the tokens alone, not on who was quicker or on how many generate: a run that goes on from a
checkpoint cuts the same ones.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from distft.batches import Array, Batch, Column, Ragged
from distft.common.errors import UserError
from distft.config.training import Rollout
from distft.data.reading_marks import reads_apart
from distft.workers.reports import Played, Turned


@dataclass
class _Response:
    """What a sample has so far; ``experts``, where they are recorded: by parts, of tokens not read before."""

    prompt_ids: Array
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    experts: list[Array] = field(default_factory=list)
    ended: bool = False
    cut: bool = False


class Tails:
    """The responses of one rollout, by their samples."""

    def __init__(self, rollout: Rollout, tokenizer: Any) -> None:
        """Raises UserError for a model that cannot go on with a response."""
        assert rollout.cut_tails is not None
        if reads_apart(tokenizer):
            what = "the model reads a prompt apart from its answer, which cannot be begun anew in the middle"
            raise UserError(what, where="rollout.cut_tails", hint="rollout.cut_tails=null")
        self._section, self._max_new_tokens = rollout.cut_tails, rollout.max_new_tokens
        self._of_sample: dict[int, _Response] = {}

    def begin(self, batch: Batch) -> None:
        """A new rollout of the samples of ``batch`` (``prompt_ids``)."""
        prompts, numbers = batch.ragged("prompt_ids"), batch.dense("sample").tolist()
        self._of_sample = {sample: _Response(prompts[place]) for place, sample in enumerate(numbers)}

    def take(self, batch: Batch) -> tuple[Turned, Batch | None]:
        """A further part of the samples of ``batch`` (``response_ids, sampled_logprobs, ended``); who goes on, in the
        order of their numbers, and what with: ``prompt_ids`` are all tokens so far."""
        ids, logprobs, ended = batch.ragged("response_ids"), batch.ragged("sampled_logprobs"), batch.dense("ended")
        for sample, place in batch.rows_of_samples().items():
            one = self._of_sample[sample]
            one.ids += ids[place].tolist()
            one.logprobs += logprobs[place].tolist()
            one.ended = bool(ended[place])
            if "routed_experts" in batch:
                one.experts.append(batch.ragged("routed_experts")[place][sum(map(len, one.experts)) :])
        everyone = self._of_sample.values()
        going = {
            number: one
            for number, one in sorted(self._of_sample.items())
            if not one.ended and len(one.ids) < self._max_new_tokens
        }
        if len(everyone) - len(going) >= round(self._section.finished * len(everyone), 6):  # 0.55 * 20 is above 11
            for one in going.values():
                one.cut = True
            going = {}
        if not going:
            return Turned((), ()), None
        contexts = [np.concatenate([one.prompt_ids, np.array(one.ids, np.int32)]) for one in going.values()]
        numbers = np.array(list(going), np.int64)
        columns = Batch({"prompt_ids": Ragged.of(contexts, np.int32), "sample": numbers, "unit": numbers})
        return Turned(tuple(going), tuple(map(len, contexts))), columns

    def finish(self) -> tuple[Played, Batch]:
        """All samples: ``response_ids, sampled_logprobs, ended`` and, where what is cut is not learned from,
        ``response_mask``."""
        numbers, found = list(self._of_sample), list(self._of_sample.values())
        self._of_sample = {}
        columns: dict[str, Column] = {
            "sample": np.array(numbers, np.int64),
            "response_ids": Ragged.of([one.ids for one in found], np.int32),
            "sampled_logprobs": Ragged.of([one.logprobs for one in found], np.float32),
            "ended": np.array([one.ended for one in found], np.uint8),
        }
        if self._section.mask:
            columns["response_mask"] = Ragged.of([[int(not one.cut)] * len(one.ids) for one in found], np.uint8)
        if routed := [np.concatenate(one.experts) for one in found if one.experts]:
            columns["routed_experts"] = Ragged.of(routed, routed[0].dtype)
        metrics = {"rollout/cut_fraction": sum(one.cut for one in found) / len(found)}
        return Played(tuple(numbers), tuple(len(one.ids) for one in found), 0, metrics), Batch(columns)
