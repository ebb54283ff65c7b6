"""Optimizer steps that were left out because they came out as no number: counted, told, their batches kept.

The count is part of the progress, so that a resumed run ends where the undisturbed one would have ended.
"""

from __future__ import annotations

import logging
from typing import TypedDict

from distft.clients.model_group import Update
from distft.config.role_table import Role
from distft.controller.progress import Skipped
from distft.controller.session import Session

log = logging.getLogger(__name__)


class Allowance(TypedDict):
    """As ``UpdateSpec`` has it."""

    max_skipped_steps: int
    skipped_in_a_row: int


def allowance(session: Session, role: Role) -> Allowance:
    """In how many batches in a row steps of a role may be left out, and in how many they just were."""
    former = session.progress.skipped.get(role, Skipped())
    return {"max_skipped_steps": session.recipe.recovery.max_skipped_steps, "skipped_in_a_row": former.in_a_row}


def note_skipped(session: Session, step: int, role: Role, updated: Update) -> None:
    """What was left out of a role's update in that step of the run."""
    reasons, skipped = [reason for reason in updated.skipped if reason], session.progress.skipped
    if not reasons and role not in skipped:
        return
    skipped[role] = skipped.get(role, Skipped()).also(updated.skipped)
    if not reasons:
        return
    in_a_row, most = skipped[role].in_a_row, session.recipe.recovery.max_skipped_steps
    session.tracker.event("steps_skipped", step=step, role=role, cause=reasons[0], steps=len(reasons),
                          of=len(updated.skipped), in_a_row=in_a_row)  # fmt: skip
    left_out = "its" if len(updated.skipped) == 1 else f"{len(reasons)} of the {len(updated.skipped)} of its"
    log.warning(
        "step %d: %s: %s optimizer steps of the %s were left out, in %d batches in a row; more than %d end the run",
        step, reasons[0], left_out, role, in_a_row, most,
    )  # fmt: skip
    if session.failed_steps is not None:
        session.failed_steps.keep_though_passed(session.data, step)
