"""The policy's weights to who answers prompts, and the proof that they have arrived.

Engines of their own are probed after every sync: both sides say which log-probs the same known tokens have. A sync that
was left out, is stale, lacks a part or ties what is not tied stops the run: its samples would look right for days. An
engine that dies in a sync, or has got one, is followed by another (``groups.succession``): all get the weights anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from distft.batches import Difference
from distft.clients.generator_group import AnsweringGroup, EngineGroup, GeneratorGroup
from distft.common.errors import RunFailed
from distft.controller.invariants import SAME_WEIGHTS, InvariantViolated
from distft.workers.reports import Sent

# Numbers of 16 bits round by some parts of a value: log-probs of unlikely tokens are large.
_RELATIVE = {"float32": 0.0, "float16": 0.01, "bfloat16": 0.02}
# An engine whose log-probs move by less than this share of the trainer's has not got the same weights ...
_FOLLOWS = 0.1
# ... where the trainer's moved by more than this share of what counts as the same.
_MOVED = 0.1


@dataclass
class WeightSync:
    """Brings weights of the element type ``dtype`` to ``generator``, and remembers the last proof. ``channel``: the
    number of the one to engines, which are others where one has taken the place of one that died."""

    generator: AnsweringGroup
    dtype: str
    channel: int = 0
    _last: tuple[Sent, tuple[Sent, ...]] | None = None
    _behind: bool = True

    def sync(self, version: int) -> None:
        """The current weights, as ``version``. Raises InvariantViolated where they did not arrive, RunFailed where the
        way there broke though nobody died."""
        if isinstance(self.generator, GeneratorGroup):
            self.generator.sync_weights(version).result()
            return
        assert isinstance(self.generator, EngineGroup)
        self._behind = True  # until all have these
        while True:
            channel = self.channel
            receiving = self.generator.receive_weights(version, channel, self._renew).start()
            sent, received = self.generator.send_weights(version, channel).result(), receiving.result()
            if channel != self.channel:  # one that had received them died, and who took its place has none
                continue
            arrived = [one for one in received if one is not None]
            broken = [one.broken for one in (sent, *arrived) if one.broken]
            if not broken and len(arrived) == len(received):
                break
            if len(arrived) == len(received):
                raise RunFailed(f"weight sync {version}: {broken[0]}", role=self.generator.ranks.role, kind="exception")
            self.channel += 1
        check_sync(self.dtype, version, sent, arrived, self._last)
        self._last, self._behind = (sent, tuple(arrived)), False

    def policy_learns(self) -> None:
        """From now on the policy's weights are not those of the last sync any more."""
        self._behind = True

    def _renew(self) -> bool:
        """The last sync once more, for an engine in a dead one's place. False where the policy has learned since: then
        that engine gets the next."""
        self.channel += 1
        if self._last is None or self._behind:
            return False
        self.sync(self._last[0].version)
        return True


def check_sync(
    dtype: str, version: int, sent: Sent, received: Sequence[Sent], last: tuple[Sent, Sequence[Sent]] | None
) -> None:
    """That every engine has what was sent, by its version, its bytes and its log-probs. ``last``: of the sync before.

    Raises InvariantViolated, which says what is wrong with which engine.
    """
    for number, engine in enumerate(received):
        who = f"weight sync {version}, engine {number}"
        if engine.version != version:
            raise _violated(f"{who}: skipped: it still answers with version {engine.version}")
        if engine.bytes != sent.bytes:
            raise _violated(f"{who}: partial: {engine.bytes:,} of {sent.bytes:,} bytes came")
        apart = Difference.of(np.array(sent.logprobs), np.array(engine.logprobs))
        allowed = SAME_WEIGHTS[dtype][0] + _RELATIVE[dtype] * float(np.abs(sent.logprobs).mean())
        if not apart.mean <= allowed:
            raise _violated(
                f"{who}: its log-probs of known tokens differ from the trainer's by {apart.mean:.4g} nats in the mean "
                f"(up to {allowed:.2g} is rounding): a part is stale or missing, or a tied head was not renewed"
            )
        if last is not None:
            moved = Difference.of(np.array(sent.logprobs), np.array(last[0].logprobs)).mean
            followed = Difference.of(np.array(engine.logprobs), np.array(last[1][number].logprobs)).mean
            if moved > _MOVED * allowed and followed < _FOLLOWS * moved:
                raise _violated(
                    f"{who}: stale: the trainer's log-probs of known tokens moved by {moved:.2g} nats since version "
                    f"{last[0].version}, the engine's by {followed:.2g}"
                )


def _violated(what: str) -> InvariantViolated:
    return InvariantViolated(what, kind="invariant")
