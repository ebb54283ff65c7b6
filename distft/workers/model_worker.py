"""One rank of a model role: builds it, forwards, updates, saves, exports. A plain class: no Ray here.

Every verb is collective (all ranks of the group must be called) and returns ``(report, columns)``.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from distft.algorithms.divergences import Told
from distft.algorithms.losses.build import build_loss
from distft.batches import Batch, Ragged
from distft.checkpoint.manifest import FileRecord, NotWritten
from distft.common.addresses import found_at
from distft.common.logging import stage
from distft.common.seeding import restore_rng_state, rng_state, seed_everything
from distft.common.verb import DevicePart
from distft.config.role_table import gives_scores
from distft.engine import process_group
from distft.engine.engine import Engine
from distft.engine.learning_rate import learning_rate
from distft.engine.shaping import shaping_of
from distft.engine.whole_weights import take_weights, write_weights
from distft.models.adapters.adapt import without_adapters
from distft.models.base import Base
from distft.models.embedding_noise import EmbeddingNoise
from distft.models.families.family import family_at, find_family
from distft.models.padding import padding, unread_token
from distft.models.tokenizer import load_tokenizer, num_tokens
from distft.planning.positions import position_limit
from distft.workers.collate import collate
from distft.workers.distributions import distributions
from distft.workers.exporting import export_result, require_readable
from distft.workers.flight_recorder import FlightRecorder
from distft.workers.loading import load_sharded, require_positions
from distft.workers.reports import Memory, Ready, Saved, Updated
from distft.workers.router_replay import RouterReplay
from distft.workers.saving import BackgroundSave, copy_share, load_share, save_share
from distft.workers.skipping import Skipping
from distft.workers.spec import RoleSpec
from distft.workers.update import Updater
from distft.workers.verbs import MicroBatches, ModelVerbs, ReadAt, Store

log = logging.getLogger(__name__)


class ModelWorker(ModelVerbs):
    """Rank ``rank`` of ``world_size`` of the role that ``spec`` describes.

    ``host``: the worker of another role in the same process, whose frozen base this one's adapters lie over. Of such
    workers one has its turn at a time: ``end_turn`` of the one comes before ``take_turn`` of the next.
    """

    def __init__(
        self, *, spec: RoleSpec, rank: int, world_size: int, node_ip: str = "127.0.0.1",
        host: ModelWorker | None = None, **_: Any,
    ) -> None:  # fmt: skip
        self.spec, self.rank, self.world_size = spec, rank, world_size
        self._host, self._tenants = host, list[ModelWorker]()
        self._random_numbers: dict[str, Any] | None = None
        self._engine_config = spec.model.engine.on(world_size)
        self._node_ip = node_ip
        self._store: Any = None
        self._background_save = BackgroundSave()

    # ---- life

    def host_store(self) -> tuple[Store, None]:
        """Opens the group's meeting point on this rank: ``(host, port)``."""
        self._store = process_group.host_store(self._node_ip)
        return (self._node_ip, int(self._store.port)), None

    def setup(self, store: Store, path: str, new_head: bool) -> tuple[Ready, None]:
        """Joins the group and builds the sharded model from ``path``, a folder or hub name.

        ``new_head`` allows a scalar head to be started where the weights have none.
        Reports elements held and seconds taken.
        """
        started = time.perf_counter()
        self.join(store)
        seed_everything(self.spec.seed)
        stage(f"loading {path}")
        spec = self.spec = replace(self.spec, family=family_at(self.spec.family, path, self.spec.model))
        self._path = path
        self._tokenizer = load_tokenizer(
            path, trust_remote_code=spec.model.trust_remote_code, chat_template=spec.model.chat_template
        )
        base = None if self._host is None else self._host.base()
        module, common = load_sharded(spec, path, self._engine_config, new_head=new_head, base=base)
        packed = bool(spec.model.engine.packed)
        self._family = find_family(spec.family, spec.labels, packed=packed)
        stage("sharding")
        self._engine = Engine(
            module, self._engine_config, spec.model.dtype, spec.optimizer, spec.model.rate_ratio, borrowed=common
        )
        config = module.model.config
        self._positions = position_limit(config.to_dict())
        self._pad_token = padding(self._tokenizer, config) or 0
        trained = spec.optimizer is not None
        self._unread = unread_token(self._tokenizer, config, trained=trained) if gives_scores(spec.role) else None
        alpha = spec.noise_alpha
        noise = EmbeddingNoise(module.model, alpha, spec.seed, packed=packed) if alpha else None
        vocabulary = num_tokens(self._tokenizer)
        shaping = shaping_of(self._engine, spec.model.peft, spec.seed) if trained else None
        recorder = self._recorder() if trained and spec.recorded else None
        self._replay = RouterReplay(module.model, spec.role) if spec.router_replay else None
        self._updater = Updater(
            self._engine, self._family, self._pad_token, self._unread, vocabulary, noise, shaping, recorder,
            self._replay,
        )  # fmt: skip
        seed_everything(spec.seed + self.rank)
        stops = tuple(self._tokenizer.convert_ids_to_tokens(list(self._stop_tokens())))
        if stops:
            log.info("answers end with %s", " or ".join(stops))
        if self._host is not None:
            self._host._tenants.append(self)
        stage("ready")
        return Ready(time.perf_counter() - started, self.held()[0], stops), None

    def join(self, store: Store) -> tuple[None, None]:
        """Joins the group's communicator; roles that live in one process share it."""
        stage("joining the process group")
        process_group.join(self.rank, self.world_size, self._store or store, timeout_s=self.spec.collective_timeout_s)
        return None, None

    def close(self) -> tuple[None, None]:
        """Leaves the process group."""
        process_group.leave()
        return None, None

    def base(self) -> Base:
        """What lies under this role's adapters, for another role's to lie over it too."""
        module: Any = self._engine.module
        return Base.under(module.model, self._path)

    def end_turn(self) -> None:
        """Before another worker of this process has its turn: random numbers are kept, gathered weights let go of."""
        self._random_numbers = rng_state()
        if hasattr(self, "_engine"):
            self._engine.release()

    def take_turn(self) -> None:
        """After another worker's turn: random numbers go on where this one's stood."""
        if self._random_numbers is not None:
            restore_rng_state(self._random_numbers)

    def sleep(self, parts: Collection[DevicePart]) -> tuple[dict[str, int], None]:
        """Gives those parts of its accelerator's memory to another role, with what lies over the same base; reports
        the bytes that went to the host."""
        return {"bytes": sum(worker._engine.offload(parts) for worker in self._sharing_base)}, None

    def wake(self, parts: Collection[DevicePart]) -> tuple[dict[str, int], None]:
        """Takes them back; reports the bytes that come back."""
        return {"bytes": sum(worker._engine.reload(parts) for worker in self._sharing_base)}, None

    def held(self) -> tuple[Memory, None]:
        """Elements of parameters, gradients and optimizer state on this rank, their bytes now, and the process's."""
        held = self._engine.held()
        rss = psutil.Process().memory_info().rss
        return Memory(held.parameters, held.gradients, held.optimizer, held.bytes, rss), None

    def take_peaks(self) -> dict[str, int]:
        """The most bytes of the GPU that tensors took, and that the allocator held, since this was last asked."""
        if process_group.accelerator().type == "cpu" or not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            return {}
        peaks = {
            "allocated_peak": torch.cuda.max_memory_allocated(), "reserved_peak": torch.cuda.max_memory_reserved(),
        }  # fmt: skip
        torch.cuda.reset_peak_memory_stats()
        return peaks

    # ---- computing

    def forward(
        self,
        column: str,
        micro_batches: MicroBatches,
        *,
        batch: Batch,
        temperature: float = 1.0,
        entropy: bool = False,
        reads: ReadAt = "tokens",
        adapters: bool = True,
    ) -> tuple[None, Batch]:
        """An evaluation pass: log-probs, values (``reads`` "tokens") or one scalar a sample ("last").

        Without ``adapters`` it is the frozen base that answers, by its own choice of experts.
        The result has the samples of ``batch`` and the columns ``column`` and, if asked, ``entropy``. Of ranks that
        share rows the first has it, the others have no samples.
        """
        answers = self._answers(
            column, micro_batches, batch, temperature=temperature, entropy=entropy, reads=reads, adapters=adapters
        )
        first = self.rank % self._engine_config.sequence_parallel == 0
        return None, answers if first else answers.take(np.zeros(0, np.int64))

    def _answers(
        self, column: str, micro_batches: MicroBatches, batch: Batch, *, temperature: float = 1.0,
        entropy: bool = False, reads: ReadAt = "tokens", adapters: bool = True,
    ) -> Batch:  # fmt: skip
        stage(f"forward {column}")
        rows_of = batch.rows_of_samples()
        require_positions(self._positions, self._longest(batch), self.spec.role, self._path)
        self._engine.train(mode=False)
        dense = reads == "last"
        total = len(batch) if dense else (len(batch.ragged("response_ids").values) if len(batch) else 0)
        found = {column: np.zeros(total, np.float32)} | ({"entropy": np.zeros(total, np.float32)} if entropy else {})
        source = {column: self._family.main_output, "entropy": "entropy"}
        answered: list[tuple[Any, list[torch.Tensor]]] = []
        with torch.no_grad(), nullcontext() if adapters else without_adapters(self._engine.module):
            for samples in micro_batches:
                rows = [rows_of[sample] for sample in samples]
                micro = collate(self._family, batch, rows, (), self._pad_token, self._engine.device, self._unread)
                wanted = ("logprobs", "entropy") if entropy else ("logprobs",)
                with self._replay.on(batch, micro) if self._replay and adapters else nullcontext():
                    outputs = self._family.outputs(self._engine.forward, micro, wanted, reads, temperature)
                places: Any = rows if dense else micro.places
                if len(places):
                    answered.append((places, [outputs[source[name]].float() for name in found]))
        for places, answers in answered:  # read when all are on their way: the device need not wait for the host
            for values, answer in zip(found.values(), answers, strict=True):
                values[places] = answer.cpu().numpy()
        self._engine.train(mode=self._engine.trained)
        columns: dict[str, Any] = {"sample": batch.dense("sample")} if len(batch) else {"sample": np.zeros(0, np.int64)}
        for name, values in found.items():
            lengths = batch.ragged("response_ids").lengths if len(batch) and not dense else np.zeros(0, np.int64)
            columns[name] = values if dense else Ragged.split(values, lengths)
        return Batch(columns)

    def distributions(
        self, top_k: int | None, micro_batches: MicroBatches, *, batch: Batch, temperature: float = 1.0
    ) -> tuple[None, Batch]:
        """What a teacher tells of each token; see ``workers.distributions``."""
        stage("distributions")
        require_positions(self._positions, self._longest(batch), self.spec.role, self._path)
        self._engine.train(mode=False)
        told = Told(top_k, self._updater.num_tokens)
        columns = distributions(self._engine, self._family, batch, micro_batches, told, temperature, self._pad_token)
        self._engine.train(mode=self._engine.trained)
        return None, columns

    def update(
        self,
        loss: str,
        parameters: Mapping[str, Any],
        first_step: int,
        total_steps: int,
        steps: Sequence[MicroBatches],
        *,
        batch: Batch,
        temperature: float = 1.0,
        target_kl: float | None = None,
        num_sources: int = 0,
        max_skipped_steps: int = 0,
        skipped_in_a_row: int = 0,
    ) -> tuple[Updated, None]:
        """Optimizer steps ``first_step ...`` of ``total_steps``; reports each step's metrics, equal on all ranks.

        With ``target_kl`` the rest is left out after a step whose ``policy/approxkl_avg`` exceeds it. Steps that
        come out as no number are left out in ``max_skipped_steps`` batches in a row at most; ``skipped_in_a_row``:
        batches before this one.
        """
        stage(f"update {loss.rpartition(':')[2]} from step {first_step}")
        assert self.spec.optimizer is not None, f"{self.spec.role} is frozen"
        if self._updater.shaping is not None:
            self._updater.shaping.require_room(total_steps, self.spec.role)
        rates = [learning_rate(self.spec.optimizer, first_step + i, total_steps) for i in range(len(steps))]

        def beyond(metrics: dict[str, float]) -> bool:
            return target_kl is not None and metrics.get("policy/approxkl_avg", 0.0) > target_kl

        skipping = Skipping(max_skipped_steps, skipped_in_a_row)
        history = self._updater.run(
            batch,
            steps,
            build_loss(found_at(loss), dict(parameters)),
            temperature=temperature,
            learning_rates=rates,
            stop=beyond,
            num_sources=num_sources,
            first_step=first_step,
            total_steps=total_steps,
            skipping=skipping,
        )
        recorder = self._updater.recorder
        trace = None if recorder is None else recorder.take()
        return Updated(tuple(history), tuple(skipping.reasons), self.held()[0], trace), None

    def evaluate(
        self, loss: str, parameters: Mapping[str, Any], micro_batches: MicroBatches, *, batch: Batch,
        num_sources: int = 0,
    ) -> tuple[dict[str, float], None]:  # fmt: skip
        """The loss and its metrics on held-out samples, without training."""
        stage(f"evaluate {loss.rpartition(':')[2]}")
        self._engine.train(mode=False)
        built = build_loss(found_at(loss), dict(parameters))
        history = self._updater.run(batch, [micro_batches], built, num_sources=num_sources)
        self._engine.train(mode=self._engine.trained)
        return history[0], None

    # ---- keeping

    def save(self, staging: str) -> tuple[list[FileRecord | NotWritten], None]:
        """This rank's share of a checkpoint; see ``save_share``."""
        stage(f"saving to {staging}")
        return save_share(self._engine, self.spec.role, self.rank, Path(staging)), None

    def copy(self, folder: str) -> tuple[tuple[str, ...] | NotWritten, None]:
        """As ``save``, into a folder in the node's memory; see ``copy_share``."""
        stage(f"copying to {folder}")
        return copy_share(self._engine, self.spec.role, self.rank, Path(folder)), None

    def begin_save(self, staging: str) -> tuple[None, None]:
        """As ``save``, but the files are written while the verbs that follow run; see ``BackgroundSave``."""
        stage(f"saving to {staging}")
        self._background_save.begin(self._engine, self.spec.role, self.rank, Path(staging))
        return None, None

    def save_ended(self) -> tuple[bool, None]:
        """Whether what ``begin_save`` began has been written, or could not be."""
        return self._background_save.ended, None

    def finish_save(self) -> tuple[Saved, None]:
        """What became of it, waited for."""
        stage("waiting for the checkpoint's files")
        return self._background_save.result(), None

    def load(self, checkpoint: str) -> tuple[None, None]:
        """What ``save`` wrote, on any number of ranks."""
        stage(f"loading {checkpoint}")
        load_share(self._engine, self.spec.role, self.rank, Path(checkpoint))
        return None, None

    def write_weights(self, folder: str) -> tuple[None, None]:
        """All weights into a folder, for another group to take over (collective)."""
        stage(f"writing weights to {folder}")
        write_weights(self._engine, Path(folder))
        return None, None

    def take_weights(self, folder: str, share: float) -> tuple[None, None]:
        """``share`` of the weights that lie there, and the rest of its own (collective)."""
        stage(f"taking over {share} of the weights in {folder}")
        take_weights(self._engine, Path(folder), share)
        return None, None

    def check_export(self) -> tuple[None, None]:
        """What ``export`` will write can be read again. Raises UserError: before the first step, not after the last."""
        require_readable(self._engine, self.spec, self._path)
        return None, None

    def export(self, folder: str) -> tuple[None, None]:
        """A plain Hugging Face folder of the result; see ``export_result``."""
        stage(f"exporting to {folder}")
        stops = self._stop_tokens()
        export_result(self._engine, self.spec, self.rank, self._tokenizer, self._path, Path(folder), stops)
        return None, None

    @property
    def _sharing_base(self) -> Sequence[ModelWorker]:
        """The workers of this process whose models are there, this one the first."""
        return (self, *self._tenants)

    def _recorder(self) -> FlightRecorder:
        engine = self._engine
        return FlightRecorder(
            engine.layer_norms(), zero_stage=engine.zero_stage, shared_by=self._engine_config.sequence_parallel,
            dtype=self.spec.model.dtype,
        )  # fmt: skip

    def _stop_tokens(self) -> tuple[int, ...]:
        return self._family.stops(self._tokenizer, self._engine.module, self.spec.stop_tokens)

    def _longest(self, batch: Batch) -> int:
        """Positions that the longest sample needs."""
        if not len(batch):
            return 0
        both = zip(batch.ragged("prompt_ids").lengths, batch.ragged("response_ids").lengths, strict=True)
        return max(self._family.positions(int(prompt), int(response)) for prompt, response in both)
