"""A worker that dies, or does not answer, is followed by another in its place, while the attempt goes on.

Only in groups whose workers know nothing of each other, and are where they are by what they were asked
(``GroupSpec.replaceable``):

    its process is ended ─► an actor in the same place constructs the same worker
                         ─► it is asked again what is recalled (``recall``), and must report the same
                         ─► what the dead one was doing is asked of it; what others have answered meanwhile stays

Whatever goes wrong on the way ends the attempt, as the death would have done.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeAlias

from distft.common.errors import RunFailed
from distft.groups.dispatch import Outcome, request_for
from distft.groups.handles import WorkerInfo
from distft.groups.ray_handles import Attempt, RayGroup, Step
from distft.groups.recall import Told
from distft.groups.worker_group import Answers, Asked, Member

MayFollow: TypeAlias = Callable[[RunFailed], bool]
Followed: TypeAlias = Callable[[RunFailed, WorkerInfo, float], None]  # of which failure, who, after how many seconds
log = logging.getLogger(__name__)


class Succession:
    """Of one attempt. ``start`` ends a dead member and starts its successor."""

    def __init__(self, attempt: Attempt, answers: Answers, start: Callable[[Member], Member]) -> None:
        self._attempt, self._answers, self._start = attempt, answers, start
        self._may: MayFollow | None = None
        self._told: Followed | None = None

    def allow(self, may: MayFollow, told: Followed) -> None:
        """Before this nobody is followed."""
        self._may, self._told = may, told

    def after(self, failure: RunFailed) -> None:
        """Returns once another worker goes on where the one that failed was. Raises the failure where none may, and
        with the reason where none could; a failure of other groups meanwhile as itself."""
        group = self._attempt.groups.get(failure.role)
        if self._may is None or group is None or not group.replaceable or failure.rank is None:
            raise failure
        dead = group.members[failure.rank]
        if self._attempt.lacks_an_answer(dead) or not self._may(failure):
            raise failure
        log.warning("%s; another worker takes its place", str(failure).splitlines()[0])
        interrupted = self._attempt.interrupt(group)
        try:
            successor = self._follow(group, failure.rank, dead, interrupted)
        except RunFailed as error:
            if error.role != group.role:
                raise
            raise failure.because(f"{failure.cause}; no other could take its place: {error.cause}") from error
        if interrupted is not None:
            self._ask_again(interrupted, failure.rank, dead, successor)
            self._attempt.go_on(interrupted)
        seconds = time.monotonic() - failure.raised
        self._attempt.forgive(seconds)
        if self._told is not None and successor.info is not None:
            self._told(failure, successor.info, seconds)

    def _follow(self, group: RayGroup, rank: int, dead: Member, interrupted: Step | None) -> Member:
        """The successor, as far as the dead member was."""
        self._answers.drop(dead, [] if interrupted is None else [interrupted.asked])
        if interrupted is not None and interrupted.asked.waiting:
            self._answers.next([interrupted.asked])
        successor = self._start(dead)
        group.replace(dead, successor)
        verb = None if interrupted is None else interrupted.verb
        for told in group.recall.without(verb):
            if not self._tell(told, rank, successor) and interrupted is not None:
                cause = "the policy has learned since, and the weights that it was answering with are gone"
                raise RunFailed(cause, role=group.role, rank=rank)
        return successor

    def _tell(self, told: Told, rank: int, successor: Member) -> bool:
        """Asks a call of a successor that has been asked of the group before; whether that was possible."""
        if told.renew is not None:
            return told.renew()
        call = told.call
        if rank >= len(told.reports):  # asked of the first rank alone
            return True
        deadline_s = self._attempt.book.deadline(successor.role, call.verb)
        request, parts = request_for(call, rank, deadline_s)
        report, _ = successor.actor.run.remote(request, *(part.ref for part in parts))
        asked = Asked(successor.role, call.verb.name, {report: successor}, deadline_s)
        self._answers.next([asked])
        if asked.answers[successor].report != told.reports[rank]:
            raise RunFailed(f"{call.verb.name} does not say what it said before", role=successor.role, rank=rank)
        return True

    def _ask_again(self, step: Step, rank: int, dead: Member, successor: Member) -> None:
        """What the dead member was doing, and had done if that leaves something in it; not what it did with other
        groups, to which the answer is None."""
        asked = step.asked
        asked.started, asked.away_s = time.monotonic(), 0.0
        answered = asked.answers.pop(dead, None)
        if step.verb.recalled == "renewed":
            asked.answers[successor] = Outcome()
        elif answered is not None and step.verb.recalled == "no":
            asked.answers[successor] = answered
        elif rank < len(step.data_refs):
            request, parts = request_for(step.call, rank, asked.deadline_s)
            report, step.data_refs[rank] = successor.actor.run.remote(request, *(part.ref for part in parts))
            asked.waiting[report] = successor
