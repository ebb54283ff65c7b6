"""The turns of a rollout: what each sample has of tokens so far, and the environment that answers it.

A sample's response is one sequence: the policy's turns as they were sampled, and between them what the environment
said, with mask 0. It ends with a turn of the policy:

=============  =======================================================================================
done           the environment said so: ``ended`` 1, as a response that ended by itself
cut            the turn did not end within ``max_turn_tokens``: ``ended`` 0, as of all that follow
max_turns      the last turn that is allowed
no_room        the observation and a whole further turn would exceed ``rollout.max_new_tokens``
=============  =======================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal, TypeAlias

import numpy as np

from distft.batches import Array, Batch, Column, Ragged
from distft.common.errors import UserError
from distft.config.training import Environment, Rollout
from distft.data.decode import response_text
from distft.data.formats import Example, prompt_of
from distft.data.observations import ObservationEncoder
from distft.data.reading_marks import reads_apart
from distft.data.templates import plain_content
from distft.rollout.environment import Environments, OfClass, Step, Turn
from distft.rollout.http_environment import OfServer
from distft.workers.reports import Played, Turned

End: TypeAlias = Literal["done", "cut", "max_turns", "no_room"]


@dataclass
class Episode:
    """One sample, called ``name`` in messages. ``ids, logprobs, mask`` of the response so far; ``experts``, where they
    are recorded: by turns, of the tokens that had been read by its end and not before."""

    name: str
    environment: Any
    conversational: bool
    prompt_ids: Array
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    mask: list[int] = field(default_factory=list)
    experts: list[Array] = field(default_factory=list)
    num_turns: int = 0
    reward: float = 0.0
    end: End | None = None

    def add(self, ids: Sequence[int], logprobs: Sequence[float], *, sampled: bool) -> None:
        """Tokens of the policy, or of an observation."""
        self.ids += ids
        self.logprobs += logprobs
        self.mask += [int(sampled)] * len(ids)

    def routed(self, experts: Array) -> None:
        """Which experts a turn's tokens went to, and all before them: what was sampled before stays as it was."""
        self.experts.append(experts[sum(map(len, self.experts)) :])

    @property
    def context(self) -> Array:
        """All tokens so far, int32."""
        found: Array = np.concatenate([self.prompt_ids, np.array(self.ids, np.int32)]).astype(np.int32)
        return found


class Episodes:
    """Those of one rollout, by their samples."""

    def __init__(self, rollout: Rollout, tokenizer: Any) -> None:
        """Raises UserError for an environment that cannot be made."""
        assert rollout.environment is not None
        self._section, self._max_new_tokens, self._tokenizer = rollout.environment, rollout.max_new_tokens, tokenizer
        self._environments = _environments(rollout.environment)
        self._observations = ObservationEncoder(tokenizer, self._section.role)
        self._of_sample: dict[int, Episode] = {}

    def check(self, first: Sequence[Example]) -> None:
        """That turns go into the model at all. ``first``: a row of each list. Raises UserError."""
        if reads_apart(self._tokenizer):
            what = "the model reads a prompt apart from its answer: turns do not fit in"
            raise UserError(what, where="rollout.environment", hint="a decoder, such as a Llama; or remove it")
        if any(not isinstance(prompt_of(one), str) for one in first):
            self._observations.check()

    def try_out(self, example: Example, text: str) -> None:
        """One more environment, of that row: it is reset, and hears one turn. Raises what ``begin`` and ``take`` do."""
        name = f"{example.where}, tried out"
        environment = self._environments.begin(row_of(example), name)
        self._environments.steps([Turn(environment, text, name, 1)])

    def begin(self, rows: Sequence[Mapping[str, Any]], names: Sequence[str], batch: Batch) -> None:
        """A new rollout: a row (with its ``prompt``) and a name for each sample of ``batch``."""
        self._of_sample = {}
        for place, sample in enumerate(batch.dense("sample").tolist()):
            environment = self._environments.begin(rows[place], names[place])
            conversational = not isinstance(rows[place]["prompt"], str)
            prompt_ids = batch.ragged("prompt_ids")[place]
            self._of_sample[sample] = Episode(names[place], environment, conversational, prompt_ids)

    def take(self, batch: Batch) -> tuple[Turned, Batch | None]:
        """A turn of the samples of ``batch`` (``response_ids, sampled_logprobs, ended``); who goes on, in the order of
        their numbers, and what with: ``prompt_ids`` are all tokens so far."""
        places = sorted(batch.rows_of_samples().items())
        speakers, ended = [self._of_sample[sample] for sample, _ in places], batch.dense("ended").astype(bool)
        turns = []
        for one, (_, place) in zip(speakers, places, strict=True):
            ids, logprobs = (batch.ragged(name)[place].tolist() for name in ("response_ids", "sampled_logprobs"))
            text = response_text(self._tokenizer, one.context, ids, ended=bool(ended[place]))
            one.add(ids, logprobs, sampled=True)
            if "routed_experts" in batch:
                one.routed(batch.ragged("routed_experts")[place])
            one.num_turns += 1
            turns.append(Turn(one.environment, text, one.name, one.num_turns))
        for one, (_, place), step in zip(speakers, places, self._environments.steps(turns), strict=True):
            self._answered(one, step, ended=bool(ended[place]))
        going = {number: one for number, one in self._of_sample.items() if one.end is None}
        if not going:
            return Turned((), ()), None
        contexts = [one.context for one in going.values()]
        numbers = np.array(list(going), np.int64)
        columns = Batch({"prompt_ids": Ragged.of(contexts, np.int32), "sample": numbers, "unit": numbers})
        return Turned(tuple(going), tuple(map(len, contexts))), columns

    def finish(self) -> tuple[Played, Batch]:
        """All samples: ``response_ids, response_mask, sampled_logprobs, ended, score`` and ``turns``."""
        numbers, found = list(self._of_sample), list(self._of_sample.values())
        self._of_sample = {}
        observed = sum(len(one.mask) - sum(one.mask) for one in found)
        ends = {f"rollout/ended_{end}": [one.end == end for one in found] for end in ("cut", "max_turns", "no_room")}
        metrics = {
            "rollout/turns": sum(one.num_turns for one in found) / len(found),
            "rollout/observation_length": observed / len(found),
            **{name: sum(which) / len(found) for name, which in ends.items()},
        }
        routed = [np.concatenate(one.experts) for one in found if one.experts]
        more: dict[str, Column] = {"routed_experts": Ragged.of(routed, routed[0].dtype)} if routed else {}
        batch = Batch(
            {
                **more,
                "sample": np.array(numbers, np.int64),
                "response_ids": Ragged.of([one.ids for one in found], np.int32),
                "response_mask": Ragged.of([one.mask for one in found], np.uint8),
                "sampled_logprobs": Ragged.of([one.logprobs for one in found], np.float32),
                "ended": np.array([one.end == "done" for one in found], np.uint8),
                "score": np.array([one.reward for one in found], np.float32),
                "turns": np.array([one.num_turns for one in found], np.int64),
            }
        )
        return Played(tuple(numbers), tuple(len(one.ids) for one in found), observed, metrics), batch

    def _answered(self, one: Episode, step: Step, *, ended: bool) -> None:
        one.reward += step.reward
        if not ended:
            one.end = "cut"
        elif step.done:
            one.end = "done"
        elif one.num_turns == self._section.max_turns:
            one.end = "max_turns"
        else:
            encoder, said = self._observations, step.observation
            observed = encoder.conversational(said, one.ids[-1]) if one.conversational else encoder.plain(said)
            if len(one.ids) + len(observed) + self._section.max_turn_tokens > self._max_new_tokens:
                one.end = "no_room"
            else:
                one.add(observed, [0.0] * len(observed), sampled=False)


def row_of(example: Example) -> dict[str, Any]:
    """What an environment hears of a row: its own copy, for it may change it."""
    return {**deepcopy(example.extra), "prompt": plain_content(prompt_of(example))}


def _environments(section: Environment) -> Environments:
    if section.http is not None:
        return OfServer(section.http, section.arguments, section.step_deadline_s)
    assert section.name is not None, "a rule sees to it that one of them is given"
    return OfClass(section.name, section.arguments, section.step_deadline_s)


def spoken(tokenizer: Any, batch: Batch, row: int) -> tuple[tuple[str, str], ...]:
    """Who said what of a finished response, for people: ``policy`` and ``environment`` with their text, special tokens
    included."""
    ids, mask = batch.ragged("response_ids")[row], batch.ragged("response_mask")[row]
    cuts = [0, *(np.flatnonzero(np.diff(mask)) + 1).tolist(), len(ids)]
    return tuple(
        ("policy" if mask[start] else "environment", str(tokenizer.decode(ids[start:end])))
        for start, end in pairwise(cuts)
    )
