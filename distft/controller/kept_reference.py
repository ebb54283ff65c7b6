"""What the reference says of all rows, once, before anything is trained: the policy says it, which is the reference
then. Where it is kept, and what is not asked again: ``workers.reference_cache``."""

from __future__ import annotations

from dataclasses import replace

from distft.clients.data_group import DataGroup
from distft.clients.model_group import ModelGroup
from distft.common.errors import StoppedOnRequest
from distft.config.recipe import Recipe
from distft.controller.stop_flag import StopFlag
from distft.experience.preference import reference_pass
from distft.tracking.tracker import Tracker


def keep_reference(
    recipe: Recipe, policy: ModelGroup, data: DataGroup, tracker: Tracker, stop: StopFlag, until: int
) -> None:
    """Has all rows read that training visits before position ``until``, and those that judge; a policy with adapters
    reads without them. Raises StoppedOnRequest where a stop was asked for: what is done is kept."""
    assert recipe.models.policy is not None
    reader = replace(policy, guest="reference") if recipe.models.policy.leaves_base else policy
    while True:
        rows, found = data.unread(until, recipe.train.global_batch_size).result()
        if found.done == found.num_units:
            break
        if rows.lengths:
            said = reference_pass(reader, rows, recipe.train.max_tokens_per_rank).result()
            data.keep_reference([*rows.data, said]).result()
        tracker.phase(f"reference: {found.done:,} of {found.num_units:,} {recipe.algorithm.traits.unit.name}")
        if stop.is_set():
            raise StoppedOnRequest("stopped while the reference read the rows: the same command goes on there")
    tracker.event("reference_kept", units=found.num_units)
