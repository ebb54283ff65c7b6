"""A reward model over the policy's base, before it is loaded: was its adapter trained over that?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from distft.common.errors import UserError
from distft.common.files import sha256_file
from distft.config.load import resolve_path
from distft.config.recipe import Recipe
from distft.config.roles import model_of, over_policys_base
from distft.planning.lora_folder import lora_beside
from distft.planning.model_folders import local_folder
from distft.planning.weight_files import weight_files


def check_one_base(recipe: Recipe) -> Iterator[str]:
    """Yields a warning where one of the two models is not on this machine, to be compared.

    Raises UserError where no adapter lies beside the reward model, or one that was trained over another model: it would
    score, and nothing would tell that the scores mean nothing.
    """
    if "reward" not in over_policys_base(recipe):
        return
    where = "models.reward.path"
    finished = lora_beside(resolve_path(str(model_of(recipe, "reward").path)), where)
    policy = resolve_path(str(model_of(recipe, "policy").path))
    ours, theirs = local_folder(policy), local_folder(finished.base)
    if policy == finished.base or (ours is not None and theirs is not None and _same_weights(ours, theirs)):
        return
    over = f"the adapter in {finished.folder} was trained over {finished.base or 'a model that it does not name'}"
    if ours is not None and theirs is not None:
        raise UserError(
            f"{over}, and the policy starts from {policy}, whose weights are others",
            where=where,
            hint=f"models.policy.path={finished.base}; or placement.reward.share=null placement.reward.with=policy "
            "gives it a group of its own",
        )
    yield f"{where}: {over}, which cannot be compared with {policy} here; it must be the same model"


def _same_weights(one: Path, other: Path) -> bool:
    """Whether two folders hold the same files of weights; read only as far as they may be alike."""
    if one.resolve() == other.resolve():
        return True
    mine, theirs = ({path.name: path for path in weight_files(folder)} for folder in (one, other))
    if {name: path.stat().st_size for name, path in mine.items()} != {
        name: path.stat().st_size for name, path in theirs.items()
    }:
        return False
    return all(sha256_file(path) == sha256_file(theirs[name]) for name, path in mine.items())
