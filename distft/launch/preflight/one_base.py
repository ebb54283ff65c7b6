"""A reward model over the policy's base, before it is loaded: was its adapter trained over that?"""

from __future__ import annotations

from collections.abc import Iterator

from distft.common.errors import UserError
from distft.config.load import resolve_path
from distft.config.recipe import Recipe
from distft.config.roles import model_of, over_policys_base
from distft.planning.lora_folder import lora_beside
from distft.planning.model_folders import local_folder
from distft.planning.trained_over import trained_over


def check_one_base(recipe: Recipe) -> Iterator[str]:
    """Yields a warning where that cannot be told, because the policy's start is not on this machine.

    Raises UserError where no adapter lies beside the reward model, or one that was trained over other weights: it would
    score, and nothing would tell that the scores mean nothing. What its base is called says little: a folder is written
    again, or was quantized when it was read.
    """
    if "reward" not in over_policys_base(recipe):
        return
    where = "models.reward.path"
    path, policy = (resolve_path(str(model_of(recipe, role).path)) for role in ("reward", "policy"))
    adapter, theirs, ours = lora_beside(path, where), local_folder(path), local_folder(policy)
    told = None if theirs is None or ours is None else trained_over(adapter, theirs, ours, where)
    named = adapter.base or "a model that it does not name"
    if told is False:
        raise UserError(
            f"the adapter in {adapter.folder} was not trained over the weights in {policy}, where the policy starts: "
            f"added to them it is not the reward model that lies beside it. It was trained over {named}",
            where=where,
            hint="models.policy.path: what the reward model was trained from, as it was then; or "
            "placement.reward.share=null placement.reward.with=policy gives it a group of its own",
        )
    if told is None and policy != adapter.base:
        over = f"the adapter in {adapter.folder} was trained over {named}"
        yield f"{where}: {over}, which cannot be compared with {policy} here; it must be the same model"
