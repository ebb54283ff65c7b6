"""Whether a failed attempt is followed by another, and a failed worker by one in its place. Pure: what failed, where,
and what became of those before."""

from __future__ import annotations

from distft.common.errors import RunFailed

# What may be over when it is tried again: a rank that died, or does not answer; an exception, and a node whose Ray is
# gone, are judged closer.
_MAY_PASS = frozenset({"death", "deadline", "node", "out_of_memory", "exception"})
# What may be over once another process is in the place of one that has died, or does not answer.
_OF_ONE_WORKER = frozenset({"death", "deadline"})


class Restarts:
    """Counts the restarts since the last checkpoint: at most ``most`` of them; and the workers that were followed by
    others in their places since a step was finished for the first time: as many."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.used = 0
        self._furthest = 0  # of the steps that were finished when a worker failed
        self._in_place = 0
        self._followed: set[tuple[object, ...]] = set()
        self._seen: set[tuple[object, ...]] = set()
        self._memory_ran_out = False

    def may_follow(self, failure: RunFailed, *, stepped: bool) -> bool:
        """Whether failures of this kind are followed by a restart at all. ``stepped``: see ``refused``."""
        return self.most > 0 and _may_pass(failure, stepped)

    def may_take_its_place(self, failure: RunFailed, *, at: str, finished: int) -> bool:
        """Whether another worker takes the place of one that failed, which is then counted. ``at``: see ``refused``;
        ``finished``: the last step that this attempt has finished. Not twice alike: what kills whoever does it is the
        attempt's failure."""
        if finished > self._furthest:
            self._furthest, self._in_place = finished, 0
        alike = _signature(failure, at)
        if failure.kind not in _OF_ONE_WORKER or alike in self._followed or self._in_place >= self.most:
            return False
        self._followed.add(alike)
        self._in_place += 1
        return True

    def refused(
        self, failure: RunFailed, *, at: str, stepped: bool, saved: bool, node_lost: bool = False
    ) -> str | None:
        """Why there is no restart, "" where that needs no words; None: there is one, and it is counted.

        ``at``: what failed, such as ``step 7``. ``stepped``: this attempt had finished a step before; ``saved``: it had
        committed a checkpoint, so that the count begins again. ``node_lost``: a node went with it, so that it is not
        the step's.
        """
        if saved:
            self.used, self._memory_ran_out = 0, False
        if not self.may_follow(failure, stepped=stepped):
            return ""
        alike = _signature(failure, at)
        if alike in self._seen and not node_lost:
            return f"{at} has failed twice in the same way: another restart would not help"
        if failure.kind == "out_of_memory" and self._memory_ran_out:
            return "memory ran out again after a restart: the same run does not fit"
        if self.used >= self.most:
            return f"{self.used} restarts brought no new checkpoint (recovery.max_restarts)"
        if not node_lost:
            self._seen.add(alike)
        self._memory_ran_out = self._memory_ran_out or failure.kind == "out_of_memory"
        self.used += 1
        return None


def _may_pass(failure: RunFailed, stepped: bool) -> bool:
    """An exception before the attempt's first step is of the recipe, the code or the machine, and comes again."""
    return failure.kind in _MAY_PASS and not failure.would_repeat and (failure.kind != "exception" or stepped)


def _signature(failure: RunFailed, at: str) -> tuple[object, ...]:
    """The same for failures alike. An exception is often raised by all ranks, of which any is heard first; where Ray
    is gone, its cause says which part of it."""
    by = failure.cause if failure.kind in ("exception", "node") else failure.rank
    return (at, failure.kind, failure.role, by, failure.stage)
