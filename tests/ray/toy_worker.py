"""A worker without a model, that can do what workers do and go wrong in the ways they go wrong."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from distft.batches import Batch, Ragged
from distft.common.errors import UserError
from distft.common.logging import stage
from distft.common.verb import DevicePart, OnDevice, verb

log = logging.getLogger(__name__)


class ToyWorker(OnDevice):
    """Rank ``rank`` of ``world_size``; ``trace`` is a file that verbs on devices append to."""

    def __init__(
        self, *, rank: int, world_size: int, node_ip: str, local_rank: int, trace: str = "", broken_rank: int = -1
    ) -> None:
        self.rank, self.world_size, self.node_ip, self.local_rank = rank, world_size, node_ip, local_rank
        self._trace, self._kept = trace, [0]
        if rank == broken_rank:
            raise UserError("this model does not exist", where="models.policy.path", hint="is it spelled right?")

    @verb(ranks="first", on_device=False)
    def host_store(self) -> tuple[tuple[str, int], None]:
        return (self.node_ip, self.rank), None

    @verb(on_device=False)
    def facts(self) -> tuple[dict[str, Any], None]:
        """What the process sees of itself."""
        return {
            "rank": self.rank,
            "world_size": self.world_size,
            "local_rank": self.local_rank,
            "pid": os.getpid(),
            "thread": threading.get_ident(),
            "threads": os.environ.get("OMP_NUM_THREADS"),
            "word": os.environ.get("TOY_WORD"),
            "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"),
        }, None

    @verb()
    def nothing(self) -> tuple[None, None]:
        return None, None

    @verb(reports="first")
    def quiet(self) -> tuple[int, None]:
        return self.rank, None

    @verb()
    def echo(self, *args: Any, **kwargs: Any) -> tuple[Any, None]:
        return (args, kwargs), None

    @verb()
    def speak(self, text: str) -> tuple[None, None]:
        """The same text by every way that output can take."""
        print(f"print {text}")
        print(f"print stderr {text}", file=sys.stderr)
        os.write(1, f"descriptor {text}\n".encode())
        log.info("logging %s", text)
        return None, None

    @verb()
    def work(self, name: str, seconds: float = 0.0) -> tuple[str, None]:
        self._note(f"{name} begins")
        time.sleep(seconds)
        self._note(f"{name} ends")
        return name, None

    def take_peaks(self) -> dict[str, int]:
        return {"allocated_peak": 10 + self.rank}

    def sleep(self, parts: Collection[DevicePart]) -> tuple[None, None]:
        self._note(f"sleep {' '.join(parts)}")
        time.sleep(0.1)
        return None, None

    def wake(self, parts: Collection[DevicePart]) -> tuple[None, None]:
        self._note(f"wake {' '.join(parts)}")
        return None, None

    def close(self) -> tuple[None, None]:
        self._note("close")
        return None, None

    @verb()
    def make(self, samples: Sequence[int], length: int = 3) -> tuple[int, Batch]:
        """Rows ``[sample] * length`` for this rank's share of the samples."""
        mine = np.array(samples[self.rank :: self.world_size], np.int64)
        rows = Ragged.split(np.repeat(mine.astype(np.float32), length), [length] * len(mine))
        return len(mine), Batch({"sample": mine, "values": rows, "score": mine.astype(np.float32)})

    @verb()
    def double(self, *, batch: Batch) -> tuple[dict[str, Any], Batch]:
        """The samples got, whether the arrays lie in shared memory, and their scores doubled."""
        report = {"samples": batch.dense("sample").tolist(), "columns": sorted(batch.columns)}
        if "values" in batch:
            report["shared"] = not batch.ragged("values").values.flags.writeable
            report["values"] = batch.ragged("values").values[:8].tolist()
        if not len(batch):
            return report, batch
        return report, Batch({"sample": batch.dense("sample"), "doubled": batch.dense("score") * 2})

    @verb()
    def size(self, *, batch: Batch) -> tuple[int, None]:
        return len(batch.ragged("values").values) if len(batch) else 0, None

    @verb()
    def fail(self, kind: str, rank: int) -> tuple[None, None]:
        """``rank`` goes wrong in the way asked for, the others wait as in a collective."""
        stage(f"about to fail: {kind}")
        if self.rank != rank:
            time.sleep(60)
        raise {"value": ValueError("a defect"), "user": UserError("no such column", where="data.train.0")}[kind]

    @verb()
    def lose_peer(self, rank: int) -> tuple[None, None]:
        """``rank`` dies a little after the others have seen their connection to it break."""
        if self.rank == rank:
            time.sleep(0.3)
            os.kill(os.getpid(), signal.SIGKILL)
        raise RuntimeError("Connection closed by peer")

    @verb()
    def linger(self, ranks: Sequence[int], seconds: float) -> tuple[None, None]:
        """The given ranks take their time."""
        stage("lingering")
        if self.rank in ranks:
            time.sleep(seconds)
        return None, None

    @verb(recalled="begins")
    def begin(self, number: int) -> tuple[int, None]:
        """Counting begins with this number."""
        self._kept = [number]
        return number, None

    @verb(recalled="follows")
    def add(self, number: int, seconds: float = 0.0, *, batch: Batch | None = None) -> tuple[int, None]:
        """The sum so far, with the scores of a batch, after so many seconds."""
        time.sleep(seconds)
        self._kept.append(number + (int(batch.dense("score").sum()) if batch is not None else 0))
        return sum(self._kept), None

    @verb(recalled="ends")
    def count(self, die_once: str = "") -> tuple[int, Batch]:
        """The sum, after the process has died where no file of this name is yet."""
        if die_once and not os.path.exists(die_once):
            open(die_once, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        return sum(self._kept), Batch({"sample": np.array([self.rank]), "score": np.array([float(sum(self._kept))])})

    @verb(recalled="latest")
    def pid(self) -> tuple[int, None]:
        """Never what it was before, in another process."""
        return os.getpid(), None

    def _note(self, text: str) -> None:
        if self._trace:
            with open(self._trace, "a") as trace:
                trace.write(f"{text}\n")
