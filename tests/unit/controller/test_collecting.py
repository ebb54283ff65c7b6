"""Dynamic sampling over groups that only write down what they are asked: rounds, and what the batch is made of."""

from __future__ import annotations

from pathlib import Path

import pytest

from distft.clients.samples import Samples
from distft.controller.collecting import collect, joined
from distft.groups.handles import DataRef, Part
from distft.workers.verbs import DataVerbs, GeneratorVerbs, ModelVerbs
from tests.harness.fake_groups import PER_PROMPT, Said
from tests.unit.controller.test_rl import Saving, session

WANTED = 4  # prompts of a batch


def filling(said: Said, folder: Path, refills: int | None) -> Saving:
    chosen = "group_filter: none" if refills is None else f"max_refills: {refills}"
    keys = f"algorithm={{kind: dapo, {chosen}}}"
    several = f"rollout.samples_per_prompt={PER_PROMPT}"
    return session(said, folder, "tracking.samples_every=0", several, keys, "models.value=null")


def test_rounds_go_on_until_the_batch_is_full(tmp_path: Path) -> None:
    said = Said(differing=[1, 0, 4])
    one = filling(said, tmp_path, refills=4)
    collected = collect(one, step=1)
    assert len(collected.rollout.lengths) == WANTED * PER_PROMPT
    assert collected.rollout.data[0].samples == tuple(range(8)), "numbered on from round to round"
    assert [call.args for call in said.asked(DataVerbs.informative)] == [(4, 0), (3, 2), (3, 2)]
    assert [call.args[1] for call in said.asked(DataVerbs.prompts)] == [0, 4, 8], "every round asks the next prompts"
    seeds = [call.args[1] for call in said.asked(GeneratorVerbs.generate)]
    assert len(set(seeds)) == 3, "and draws anew"
    assert seeds[0] == one.recipe.seed
    assert (collected.start, collected.end) == (None, 12)
    assert (collected.metrics["rollout/refills"], collected.metrics["rollout/filled"]) == (2.0, 1.0)


@pytest.mark.parametrize(("differing", "num_prompts"), [([1, 1], 2), ([0, 0], 4), ([3], 3), ([0], 4)])
def test_after_the_last_round_it_takes_what_there_is(tmp_path: Path, differing: list[int], num_prompts: int) -> None:
    """Of as many rounds as there are numbers; a single one is not refilled at all."""
    said = Said(differing=list(differing))
    collected = collect(filling(said, tmp_path, refills=len(differing) - 1), step=1)
    assert len(collected.rollout.lengths) == num_prompts * PER_PROMPT
    assert collected.metrics["rollout/filled"] == sum(differing) / WANTED


def test_without_a_filter_no_scores_are_asked_for(tmp_path: Path) -> None:
    """Those are asked beside the log-probs, all groups at once."""
    said = Said()
    collected = collect(filling(said, tmp_path, refills=None), step=1)
    assert (collected.start, collected.end) == (0, 4)
    assert not said.asked(DataVerbs.informative)
    assert not said.asked(ModelVerbs.forward)


def test_parts_are_joined_in_order() -> None:
    parts = [Samples((DataRef((Part(name, numbers),)),), (5,) * len(numbers), numbers)
             for name, numbers in (("a", (0, 1)), ("b", (2, 3, 4)))]  # fmt: skip
    both = joined(parts)
    assert both.units == both.data[0].samples == (0, 1, 2, 3, 4)
    assert len(both.lengths) == 5
