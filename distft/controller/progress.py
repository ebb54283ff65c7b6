"""Where a run stands: everything the loop needs to go on, small enough for a JSON file in the checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from distft.controller.rollback import Rollback, rollbacks_of
from distft.workers.skipping import batches_in_a_row

_BEHIND = 32  # steps whose positions are known: more than it takes to see a divergence


@dataclass(frozen=True)
class Best:
    """The best evaluation by ``metric``: its ``step`` (0: none yet) and ``value``; ``seen``: the step of the last
    evaluation, ``without``: how many there were since the best."""

    step: int = 0
    value: float = 0.0
    seen: int = 0
    without: int = 0
    metric: str = ""


@dataclass(frozen=True)
class Skipped:
    """Optimizer steps of a role that were left out because they came out as no number: ``steps`` in all; ``in_a_row``:
    the batches that the row under way has, see ``batches_in_a_row``."""

    steps: int = 0
    in_a_row: int = 0

    def also(self, reasons: Sequence[str]) -> Skipped:
        """With the steps of another batch; of each why it was left out, "" of one that was taken."""
        return Skipped(self.steps + sum(map(bool, reasons)), batches_in_a_row(self.in_a_row, reasons))


@dataclass
class Progress:
    """The controller's whole state.

    ``step`` is the last finished step (optimizer step; iteration in RL), ``position`` the units of training
    data behind it, counted from the beginning, ``num_tokens`` the tokens trained on, ``optimizer_steps`` those taken
    (for the learning-rate schedule). ``method_state`` is the algorithm's own (an adaptive coefficient, running moments
    ...): nobody else looks into it; ``data`` has the hash of each source's content by its key; ``before`` holds the
    held-out metrics of the start; ``former``: the best before this one; ``ended_of``: the steps that were asked for
    when the run ended early, else 0; ``ahead``: which responses of the next iteration the checkpoint keeps;
    ``skipped``: by role, of those that have left a step out; ``rollbacks``: those that the run has made, and follows;
    ``behind``: positions behind the last steps before ``step``, the newest last.
    """

    total_steps: int
    step: int = 0
    position: int = 0
    num_tokens: int = 0
    optimizer_steps: int = 0
    method_state: dict[str, Any] = field(default_factory=dict)
    wandb_id: str = ""
    data: dict[str, str] = field(default_factory=dict)
    before: dict[str, float] = field(default_factory=dict)
    best: Best = Best()
    former: Best = Best()
    ended_of: int = 0
    ahead: dict[str, Any] = field(default_factory=dict)
    skipped: dict[str, Skipped] = field(default_factory=dict)
    rollbacks: tuple[Rollback, ...] = ()
    behind: list[int] = field(default_factory=list)
    failed_saves: int = 0

    def steps(self) -> Iterator[int]:
        """The steps still to do. The loop body counts itself done by ``finish``."""
        while self.step < self.total_steps:
            yield self.step + 1

    def finish(self, *, position: int, num_tokens: int, optimizer_steps: int) -> None:
        """One step more is done, which took the units before ``position``, so many tokens and optimizer steps, those
        that were left out among them."""
        self.step += 1
        self.behind = [*self.behind, self.position][-_BEHIND:]
        self.position = position
        self.num_tokens += num_tokens
        self.optimizer_steps += optimizer_steps

    def position_behind(self, step: int) -> tuple[int, int]:
        """A step that is done, and the position behind it: ``step``, or the earliest after it that is still known."""
        back = min(self.step - step, len(self.behind))
        return self.step - back, self.behind[-back] if back else self.position

    def ask_for(self, total_steps: int) -> None:
        """So many steps; but a run that ended early stays at its end, until it is asked for other ones."""
        ended = self.ended_of == total_steps
        self.total_steps, self.ended_of = (self.step, total_steps) if ended else (total_steps, 0)

    def end_early(self) -> None:
        """The step that was just done is the last."""
        self.ended_of, self.total_steps = self.total_steps, self.step

    def take_back_best(self, step: int) -> None:
        """The checkpoint of that step could not be written. If it is the best, the former one is again, as there is
        nothing else to go back to; but after the last step the weights are at hand."""
        if self.best.step == step and step < self.total_steps:
            self.best = replace(self.former, seen=self.best.seen)

    def state(self) -> dict[str, Any]:
        """For the checkpoint; the number of steps asked for is the recipe's business."""
        state = asdict(self)
        del state["total_steps"], state["failed_saves"], state["former"]
        return state

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from a checkpoint's state. Those of before ``method_state`` have PPO's two beside the rest."""
        state = dict(state)
        kl_coef, scores = state.pop("kl_coef", 0.0), state.pop("score_state", {})
        if kl_coef or scores:
            state["method_state"] = {"iterations": state["step"], "kl_coef": kl_coef, "scores": scores}
        state["best"] = Best(**state.get("best", {}))
        state["rollbacks"] = rollbacks_of(state)
        state["skipped"] = {role: Skipped(**kept) for role, kept in state.get("skipped", {}).items()}
        for name, value in state.items():
            setattr(self, name, value)
