"""The end of a run: its model as a plain folder, and where the weights are if that cannot be written."""

from __future__ import annotations

import shutil
from pathlib import Path

from distft.checkpoint.layout import checkpoints_folder, published
from distft.common.errors import RunFailed
from distft.common.files import sync_folder
from distft.common.sums import write_sums
from distft.config.roles import main_role
from distft.controller.session import Session
from distft.launch.sentence_folder import write_sentence_folder
from distft.models.families.table import SEQ2SEQ_SCALAR, family_of
from distft.planning.model_folders import read_config
from distft.report.model_card import CARD, write_card


def write_final(session: Session, run_dir: Path) -> None:
    """``RUN/final``: whole, on the disk and with its sums, or not there. Raises RunFailed, which says how to get at the
    weights."""
    draft, final = run_dir / ".final-draft", run_dir / "final"
    try:
        shutil.rmtree(draft, ignore_errors=True)
        session.groups[main_role(session.recipe)].export(str(draft)).result()
        recipe = session.recipe
        traits = recipe.algorithm.traits
        family = family_of(main_role(recipe), read_config(draft), embeds=traits.embeds)
        write_sentence_folder(recipe, draft)
        write_card(
            run_dir, draft, family.auto_class, answers=traits.answers, embeds=traits.embeds,
            apart=family == SEQ2SEQ_SCALAR,
        )  # fmt: skip
        write_sums(draft, but=(CARD,))
        shutil.rmtree(final, ignore_errors=True)
        draft.rename(final)
        sync_folder(run_dir)
    except Exception as error:
        raise failed_export(error, run_dir, session.result_step) from error


def failed_export(error: Exception, run_dir: Path, result_step: int | None) -> RunFailed:
    """What ended the export, with the checkpoint that holds the result (of ``result_step``; None: the newest) and the
    command that exports it."""
    checkpoints = published(checkpoints_folder(run_dir))
    remedy = "no checkpoint could be written either"
    if checkpoints:
        step, path = next((one for one in checkpoints if one[0] == result_step), checkpoints[0])
        remedy = (
            f"nothing is lost: {path} holds the weights of step {step}, "
            f"`distft export {path} FOLDER` writes them elsewhere, and the same command tries again here"
        )
    if isinstance(error, RunFailed):
        return error.because(f"the export failed: {error.cause}\n  {remedy}")
    return RunFailed(f"the export failed: {error}\n  {remedy}", kind="export")
