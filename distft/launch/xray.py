"""``distft data``: what the run's own data worker would make of the rows."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from distft.batches import Batch
from distft.common.errors import UserError
from distft.config.recipe import Recipe
from distft.data.xray_result import DataXRay
from distft.launch.preflight.remarks import on_rows
from distft.launch.rehearsal import data_worker, in_quiet

if TYPE_CHECKING:
    from distft.workers.data_worker import DataWorker


def examine(recipe: Recipe, *, only: Collection[str] = (), num_shown: int = 2) -> DataXRay:
    """Prepares the rows as a run would, and looks into the lists, or those named by ``only``.

    Raises what reading the rows can raise (see ``prepare_datasets``), and UserError for a list that is not there.
    """
    from distft.data.xray import answer_ends, xray

    with in_quiet(), tempfile.TemporaryDirectory(prefix="distft-") as folder:
        worker, _ = data_worker(recipe, Path(folder), tries_out=False)
        loaded, _ = worker.setup()
        if missing := [name for name in only if name not in worker.data.lists]:
            has = ", ".join(worker.data.lists)
            raise UserError("the recipe has no such rows", where=f"data.{missing[0]}", hint=f"it has {has}")
        tokenizer, policy = worker.data.tokenizer, recipe.models.policy
        stops = answer_ends(tokenizer, policy.stop_tokens if policy else None)
        traits = recipe.algorithm.traits
        if traits.corrupts == "masks" or traits.embeds or traits.judges_steps or traits.classifies:
            # It writes nothing that could end.
            stops = frozenset()
        return DataXRay(
            name=recipe.name,
            kind=recipe.algorithm.kind,
            template=tokenizer.chat_template or "",
            stop_tokens=tuple(tokenizer.convert_ids_to_tokens(sorted(stops))),
            warnings=(*loaded.warnings, *on_rows(recipe, loaded.num_units)),
            lists=tuple(
                xray(
                    name,
                    found,
                    _learned(worker, recipe, name),
                    tokenizer,
                    stops,
                    num_shown=num_shown,
                    new_tokens=worker.data.new_tokens_in(name),
                )
                for name, found in worker.data.lists.items()
                if not only or name in only
            ),
        )


def _learned(worker: DataWorker, recipe: Recipe, name: str) -> Callable[[Sequence[int]], Batch] | None:
    """Units of a list as a first visit finds them; None of a method that answers prompts itself."""
    return None if recipe.algorithm.traits.sampled else lambda units: worker.data.learned(name, units, units)
