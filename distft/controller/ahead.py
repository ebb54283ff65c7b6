"""Responses for the next iteration, which engines sample while the policy learns from this one's.

With ``rollout.overlap: 1``. They are begun when an iteration's own have been collected, by weights that are one update
behind the policy, and waited for before the next weights are sent: which version wrote a sample does not depend on who
was quicker. A checkpoint keeps them, as nothing can write them again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from distft.clients.generator_group import Generated
from distft.clients.samples import Samples
from distft.experience.rollouts import Sampler, answered
from distft.groups.handles import Pending


@dataclass(frozen=True)
class Round:
    """The answers to all prompts between two positions; ``made``: who wrote them, and what that took."""

    prompts: Samples
    made: Generated
    start: int
    end: int

    @property
    def rollout(self) -> Samples:
        """Prompts and answers, still to be scored."""
        return answered(self.prompts, self.made)

    @property
    def num_tokens(self) -> int:
        """Of the answers, as far as they were sampled."""
        return sum(self.made.lengths.values()) - self.made.num_observed

    @property
    def place(self) -> dict[str, Any]:
        """What it takes beside the columns of the answers to have this again, as JSON."""
        return {"start": self.start, "end": self.end, "version": self.made.version, "seconds": self.made.seconds}


@dataclass(frozen=True)
class Begun:
    """A round that is being sampled."""

    prompts: Samples
    pending: Pending[Generated]
    start: int
    end: int

    def round(self) -> Round:
        """Waits for it."""
        return Round(self.prompts, self.pending.result(), self.start, self.end)


def begin_round(sampler: Sampler, iteration: int, start: int, count: int) -> Begun:
    """Begins the first round of an iteration: answers to ``count`` prompts from position ``start``."""
    prompts = sampler.prompts("train", start, count)
    return Begun(prompts, sampler.generate(prompts, iteration, 0).start(), start, start + count)


def kept_round(sampler: Sampler, place: Mapping[str, Any], checkpoint: str) -> Round:
    """The round that a checkpoint keeps, by its ``place``."""
    start, end = place["start"], place["end"]
    prompts = sampler.prompts("train", start, end - start)
    made = sampler.data.kept_responses(checkpoint, place["version"], place["seconds"]).result()
    return Round(prompts, made, start, end)
