"""A generator in a process of its own: a vLLM engine that gets the policy's weights from its first rank."""

from __future__ import annotations

import importlib
import time
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any

import numpy as np
import psutil

from distft.batches import Batch
from distft.common.errors import UserError
from distft.common.logging import stage
from distft.common.verb import DevicePart
from distft.rollout.generator import Sampling
from distft.rollout.probe import probe_tokens
from distft.rollout.responses import no_responses
from distft.rollout.sampling import draws
from distft.rollout.weight_channel import Announced, ChannelBroken, WeightChannel
from distft.workers.reports import Answers, EngineReady, Sent
from distft.workers.spec import EngineSpec
from distft.workers.verbs import EngineVerbs, MicroBatches, Store


class EngineWorker(EngineVerbs):
    """Engine ``rank`` of ``world_size`` that answer for the same policy."""

    def __init__(self, *, spec: EngineSpec, rank: int, world_size: int, **_: Any) -> None:
        self.spec, self.rank, self.world_size = spec, rank, world_size
        self._channel: WeightChannel | None = None
        # vLLM takes seconds to import: while the run still loads its data.
        self._importing = ThreadPoolExecutor(1).submit(importlib.import_module, "distft.rollout.vllm_engine")

    def setup(self, path: str) -> tuple[EngineReady, None]:
        """Builds the engine for the model at ``path``. Raises UserError for a model that vLLM does not take."""
        started = time.perf_counter()
        stage("importing vLLM")
        engine: Any = self._importing.result()
        stage(f"loading {path}")
        try:
            self._generator = engine.VllmGenerator(path, self.spec.settings)
        except ValueError as error:
            raise UserError(
                f"vLLM does not take the model at {path}: {str(error).strip().splitlines()[-1]}",
                where="rollout.engine",
                hint="rollout.engine=hf generates with any causal model of transformers",
            ) from error
        stage("ready")
        return EngineReady(time.perf_counter() - started, psutil.Process().memory_info().rss), None

    def receive_weights(self, store: Store, version: int, channel: int = 0) -> tuple[Sent, None]:
        """What the policy sends as ``version``: into the engine, and known tokens read with it."""
        stage(f"weight sync {version}")
        started, received = time.perf_counter(), 0

        def counted(opened: WeightChannel, announced: Announced) -> Iterator[tuple[str, Any]]:
            nonlocal received
            for name, tensor in opened.receive(announced):
                received += tensor.numel() * tensor.element_size()
                yield name, tensor

        try:
            if self._channel is None or self._channel.number != channel:
                self._channel = None  # its end must go before the others open another
                self._channel = WeightChannel(
                    store, 1 + self.rank, 1 + self.world_size, timeout_s=self.spec.collective_timeout_s, number=channel
                )
            announced = self._channel.hear(version)
            self._generator.load(announced, counted(self._channel, announced))
        except ChannelBroken as error:
            self._channel = None
            return Sent(-1, received, time.perf_counter() - started, (), str(error)), None
        seconds = time.perf_counter() - started
        rows = probe_tokens(self._generator.vocabulary, self.spec.settings.longest)
        logprobs = tuple(chain.from_iterable(self._generator.logprobs(rows)))
        return Sent(self._generator.version, received, seconds, logprobs), None

    def generate(
        self, sampling: Sampling, seed: int, iteration: int, micro_batches: MicroBatches, *, batch: Batch
    ) -> tuple[Answers, Batch]:
        """Responses to the prompts of ``batch``, all handed over at once."""
        stage(f"generate iteration {iteration}")
        samples = list(chain.from_iterable(micro_batches))
        if not samples:
            return Answers(self._generator.version, (), ()), no_responses()
        rows_of = batch.rows_of_samples()
        prompts = [batch.ragged("prompt_ids")[rows_of[sample]] for sample in samples]
        numbers = [draws(seed, iteration, sample, sampling) for sample in samples]
        made = self._generator.generate(prompts, numbers, sampling).with_columns(sample=np.array(samples, np.int64))
        lengths = made.ragged("response_ids").lengths
        return Answers(self._generator.version, tuple(samples), tuple(lengths.tolist())), made

    # ---- asked by the group itself

    def sleep(self, parts: Collection[DevicePart]) -> tuple[dict[str, int], None]:  # noqa: ARG002 - the verb's
        """Nothing: an engine has its devices for itself."""
        return {"bytes": 0}, None

    def wake(self, parts: Collection[DevicePart]) -> tuple[dict[str, int], None]:  # noqa: ARG002 - the verb's
        """Nothing, as ``sleep``."""
        return {"bytes": 0}, None

    def close(self) -> tuple[None, None]:
        """Leaves; there is nobody to say it to."""
        return None, None
