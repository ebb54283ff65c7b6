"""A rank of a policy that answers prompts: its generator gets its weights, and is asked for responses."""

from __future__ import annotations

import collections
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from distft.batches import Batch, Ragged, concatenate
from distft.common.logging import stage
from distft.engine import engine
from distft.engine.engine import Engine
from distft.models.adapters.adapt import add_adapters
from distft.models.buffers import give_kept_buffers
from distft.models.families.family import find_family
from distft.models.families.table import FAMILIES
from distft.models.load import DTYPES, plain_twin
from distft.models.rope import settle_rope
from distft.models.routers import Routers
from distft.rollout.generator import Sampling
from distft.rollout.hf import HfGenerator
from distft.rollout.probe import probe_tokens
from distft.rollout.responses import no_responses
from distft.rollout.sampling import draws
from distft.rollout.weight_channel import Announced, ChannelBroken, WeightChannel
from distft.rollout.weight_sync import PREFIX, copy_weights
from distft.workers.model_worker import ModelWorker
from distft.workers.reports import Answers, Sent, Synced
from distft.workers.router_replay import RouterReplay
from distft.workers.spec import RoleSpec
from distft.workers.verbs import GeneratorVerbs, MicroBatches


def preload() -> None:
    """For ``groups.fork_server``: all that any rank of a model imports sooner or later, whatever its role."""
    engine.preload()
    for name in FAMILIES:
        find_family(name)


class GeneratorWorker(ModelWorker, GeneratorVerbs):
    """A model's rank with a generator of that model beside it, which answers with the weights of the last sync."""

    def __init__(self, **told: Any) -> None:
        super().__init__(**told)
        self._generator: RankGenerator | None = None
        self._channel: WeightChannel | None = None

    def sync_weights(self, version: int) -> tuple[Synced, None]:
        """The current weights into this rank's generator, which from then on answers with ``version``."""
        stage(f"weight sync {version}")
        if self._generator is None:
            self._generator = RankGenerator(
                self._engine, self.spec, self.world_size, stop_tokens=self._stop_tokens(), pad_token=self._pad_token,
                replay=self._replay,
            )  # fmt: skip
        return self._generator.sync(version), None

    def generate(
        self, sampling: Sampling, seed: int, iteration: int, micro_batches: MicroBatches, *, batch: Batch
    ) -> tuple[Answers, Batch]:
        """Responses to the prompts of ``batch``; reports their lengths by sample and the weights' version."""
        stage(f"generate iteration {iteration}")
        assert self._generator is not None, "sync_weights comes first"
        return self._generator.generate(sampling, seed, iteration, micro_batches, batch)

    def send_weights(self, num_generators: int, version: int, channel: int = 0) -> tuple[Sent, None]:
        """The current weights, as ``version``, to generators that receive them now. All gather, rank 0 sends."""
        stage(f"weight sync {version}")
        started, sent, broken = time.perf_counter(), 0, ""
        tensors = self._engine.full_tensors()
        if self.rank == 0:
            names = [name.removeprefix(PREFIX) for name, _ in self._engine.module.named_parameters()]
            announced = Announced(version, names, self._stop_tokens())
            try:
                if self._channel is None or self._channel.number != channel:
                    self._channel = None  # its end must go before the others open another
                    self._channel = WeightChannel(
                        self._store, 0, 1 + num_generators, timeout_s=self.spec.collective_timeout_s, number=channel
                    )
                sent = self._channel.send(announced, ((name.removeprefix(PREFIX), tensor) for name, tensor in tensors))
            except ChannelBroken as error:
                self._channel, broken = None, str(error)
        collections.deque(tensors, maxlen=0)  # gathered by all ranks, whoever takes them
        seconds = time.perf_counter() - started
        return Sent(version, sent, seconds, self._probe(), broken), None

    def _probe(self) -> tuple[float, ...]:
        """The log-probs of the probe's tokens under the weights as they are now (collective)."""
        model: Any = self._engine.module.model
        rows = probe_tokens(model.config.get_text_config().vocab_size, self.spec.longest)
        columns: dict[str, Any] = {
            "prompt_ids": Ragged.of([row[:1] for row in rows], np.int32),
            "response_ids": Ragged.of([row[1:] for row in rows], np.int32),
            "sample": np.arange(len(rows)),
        }
        found = self._answers("probe", [[row] for row in range(len(rows))], Batch(columns))
        return tuple(found.ragged("probe").values.tolist())


class RankGenerator:
    """Generates with a whole copy of the model (``spec.gathered_generation``) or with the shards themselves. With
    ``replay`` the experts that are chosen are recorded."""

    def __init__(
        self, engine: Engine, spec: RoleSpec, world_size: int, *, stop_tokens: tuple[int, ...], pad_token: int,
        replay: RouterReplay | None = None,
    ) -> None:  # fmt: skip
        self._engine, self._spec, self._pad_token = engine, spec, pad_token
        module = self._twin() if spec.gathered_generation else engine.module.model
        routers = None if replay is None else replay.routers
        if routers is not None and spec.gathered_generation:
            routers = Routers(module, f"models.{spec.role}")
        self.generator = HfGenerator(
            module,
            stop_tokens=stop_tokens,
            pad_token=pad_token,
            synchronized=not spec.gathered_generation and world_size > 1,
            routers=routers,
        )
        self._frozen_sent = False

    def _twin(self) -> Any:
        model = self._spec.model
        ours: Any = self._engine.module.model
        twin = plain_twin(ours, DTYPES[model.dtype], self._engine.device)
        settle_rope(twin, self._spec.longest)
        if model.peft is not None:
            add_adapters(twin, model.peft, dropout=False, seed=self._spec.seed, fresh=False)
        give_kept_buffers(ours, twin)
        return twin.requires_grad_(requires_grad=False).eval()

    def sync(self, version: int) -> Synced:
        """The engine's current weights, under ``version`` (collective). Reports bytes copied and seconds taken."""
        started, copied = time.perf_counter(), 0
        if self._spec.gathered_generation:
            twin: Any = self.generator.module
            targets = dict(twin.named_parameters())
            if self._frozen_sent:  # what is frozen is the same in every version
                trained = [name for name, p in self._engine.module.named_parameters() if p.requires_grad]
                targets = {name: twin.get_parameter(name) for name in (one.removeprefix(PREFIX) for one in trained)}
            copied = copy_weights(self._engine.full_tensors(trained_only=self._frozen_sent), targets)
            self._frozen_sent = True
        self.generator.version = version
        return Synced(copied, time.perf_counter() - started)

    def generate(
        self, sampling: Sampling, seed: int, iteration: int, micro_batches: MicroBatches, batch: Batch
    ) -> tuple[Answers, Batch]:
        """Responses to the prompts of ``batch``; reports their lengths by sample and the weights' version."""
        rows_of = batch.rows_of_samples()
        parts: list[Batch] = []
        for samples in micro_batches:
            if samples:
                parts.append(self._answers(sampling, seed, iteration, samples, batch, rows_of))
            elif not self._spec.gathered_generation:
                # Every rank must make the same forwards: work whose result nobody takes.
                dummy = np.full(1, self._pad_token, np.int32)
                self.generator.generate([dummy], [np.zeros(sampling.max_new_tokens)], sampling)
        responses = concatenate(parts) if parts else no_responses()
        answered, lengths = responses.dense("sample"), responses.ragged("response_ids").lengths
        return Answers(self.generator.version, tuple(answered.tolist()), tuple(lengths.tolist())), responses

    def _answers(
        self,
        sampling: Sampling,
        seed: int,
        iteration: int,
        samples: Sequence[int],
        batch: Batch,
        rows_of: dict[int, int],
    ) -> Batch:
        prompts = [batch.ragged("prompt_ids")[rows_of[sample]] for sample in samples]
        numbers = [draws(seed, iteration, sample, sampling) for sample in samples]
        made = self.generator.generate(prompts, numbers, sampling)
        return made.with_columns(sample=np.array(samples, np.int64))
