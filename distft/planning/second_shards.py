"""Whether the ranks that hold a role's parameters a second time between them (hpZ) sit on one node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from distft.common.errors import UserError
from distft.config.engines import ENGINES
from distft.config.recipe import Recipe
from distft.config.roles import model_of
from distft.planning.placement_plan import Arrangement, Span


def require_on_a_node(recipe: Recipe, arrangement: Arrangement, spans: Mapping[str, Sequence[Span]]) -> None:
    """``spans`` by device set. Raises UserError where gathering within such ranks would leave a node, or where they are
    all that there are: the shards that they have anyway lie as near."""
    for root, chosen in spans.items():
        slots, ranks = [span.slots for span in chosen], sum(span.ranks for span in chosen)
        for role in arrangement.roles_of_set[root]:
            by = 1 if role == ENGINES else model_of(recipe, role).engine.on(ranks).hpz_partition_size
            where = f"models.{role}.engine.hpz_partition_size"
            if any(count % by for count in slots):
                what = (
                    f"{by} ranks hold all parameters, and a node has {min(slots)} of the {role}'s: some would be of two"
                )
                raise UserError(what, where=where, hint=f"{where}={_divisor(slots, by)}")
            if by == ranks > 1:
                what = f"is all {by} ranks of the {role}: they hold the parameters once already, and as near"
                raise UserError(what, where=where, hint=f"{where}=1, or ranks on several nodes")


def _divisor(slots: Sequence[int], most: int) -> int:
    """The largest number up to ``most`` that all divide by."""
    return next(size for size in range(most, 0, -1) if not any(count % size for count in slots))
