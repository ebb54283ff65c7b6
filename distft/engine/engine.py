"""ZeRO stages 0 to 3 behind the few verbs that a worker needs.

    with Engine.sharded_loading(settings):  module = load(...)
    engine = Engine(module, optimizer, ...)
    for each micro-batch: outputs = engine.forward(...); engine.backward(loss)
    engine.step(learning_rate)

What only this file knows: DeepSpeed averages gradients over ranks. Our losses carry their global
denominator, so ranks must be *summed*; ``backward`` multiplies by the world size to cancel the mean.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.accelerator import get_accelerator
from torch import Tensor, nn
from transformers.integrations.deepspeed import HfDeepSpeedConfig, unset_hf_deepspeed_config

from distft.common.errors import EnvironmentFallsShort
from distft.common.verb import DevicePart
from distft.config.models import Engine as EngineConfig
from distft.config.optimizers.optimizer import Optimizer
from distft.engine import process_group
from distft.engine.accumulation import accumulate_in_float32
from distft.engine.asleep import BOTH, Asleep
from distft.engine.cut_as_loaded import cut_as_loaded, require_alike
from distft.engine.diverged import NonFiniteGradients
from distft.engine.dropped import overflowing
from distft.engine.held import (
    Held,
    bytes_now,
    gradient_elements,
    held_tensors,
    optimizer_elements,
    parameter_elements,
)
from distft.engine.host_copy import HostCopy
from distft.engine.layer_norms import LayerNorms
from distft.engine.optimizer import build_optimizer, set_rate, tell_layout
from distft.engine.process_group import accelerator
from distft.engine.replicated import ReplicatedStep
from distft.engine.secondary import drop_second_shards, forget_neighbours
from distft.engine.settings import deepspeed_settings
from distft.engine.shards import Shard
from distft.engine.states import load_states, require_finite, states_now
from distft.models.adapters.adapt import read_from_outside
from distft.models.load import DTYPES

GATHER_BYTES = 256 * 2**20


@contextmanager
def writable(parameter: nn.Parameter) -> Iterator[Tensor]:
    """A parameter, whole, sharded or not, to be overwritten (collective; what rank 0 writes counts)."""
    sharded = hasattr(parameter, "ds_id")
    gathered = deepspeed.zero.GatheredParameters([parameter], modifier_rank=0) if sharded else nullcontext()
    with gathered, torch.no_grad():
        yield parameter.data


def preload() -> None:
    """Imports what DeepSpeed imports when it first trains, in a process that will be forked."""
    importlib.import_module("deepspeed.runtime.zero.muon.muon_optimizer")  # and with it torch's compiler


class Engine:
    """One rank of a sharded model. All methods that say so are collective: every rank must call them."""

    def __init__(
        self, module: nn.Module, config: EngineConfig, dtype: str, optimizer: Optimizer | None,
        rate_ratio: Callable[[str], float], *, borrowed: Iterable[nn.Parameter] = (),
    ) -> None:  # fmt: skip
        """``borrowed``: frozen parameters of the module that are another engine's, in whose memory they count and which
        moves them. Of two such engines one may compute at a time; see ``release``."""
        self.trained = optimizer is not None
        self._optimizer = optimizer
        self.zero_stage = config.zero_stage if self.trained or config.zero_stage == 3 else 0
        self.device = accelerator()
        self._dtype = dtype
        self.world_size = dist.get_world_size()
        if dtype == "float16" and not get_accelerator().is_fp16_supported():
            raise EnvironmentFallsShort("this machine's processor has no float16", hint="take bfloat16 or float32")
        self._module = module
        others = {id(parameter) for parameter in borrowed}
        self._own = [parameter for parameter in module.parameters() if id(parameter) not in others]
        self._entry = module
        self._engine: Any = None
        self._replicated: ReplicatedStep | None = None
        self._asleep = Asleep()
        self._host_copy = HostCopy()
        if optimizer is not None:
            self._build_trained(module, config, optimizer, rate_ratio)
        else:
            self._build_frozen(module, config)

    def _build_trained(
        self, module: nn.Module, config: EngineConfig, optimizer: Optimizer, rate_ratio: Callable[[str], float]
    ) -> None:
        plain = self.zero_stage == 0 and self._dtype == "float32"
        clipped = 0.0 if self.zero_stage == 0 else optimizer.max_grad_norm
        for part, parameter in read_from_outside(module):
            deepspeed.zero.register_external_parameter(part, parameter)
        self._engine, *_ = deepspeed.initialize(
            model=module,
            optimizer=build_optimizer(module, optimizer, self.device, rate_ratio),
            config=deepspeed_settings(config, self._dtype, max_grad_norm=clipped, trained=True),
            dist_init_required=False,
        )
        tell_layout(self._engine.optimizer, module, self.zero_stage)
        self._entry = self._engine
        self.train(mode=True)
        if self._dtype != "float32":
            accumulate_in_float32(module, self._engine.optimizer, self.zero_stage)
        if self.zero_stage == 0:
            self._replicated = ReplicatedStep(
                self._engine,
                low_precision=not plain,
                max_grad_norm=optimizer.max_grad_norm,
                bucket_size=config.reduce_bucket_size,
            )

    def _build_frozen(self, module: nn.Module, config: EngineConfig) -> None:
        module.requires_grad_(requires_grad=False)
        module.eval()
        if self.zero_stage < 3:  # nothing to shard: a module needs no engine to be read
            module.to(self.device)
            return
        self._engine, *_ = deepspeed.initialize(
            model=module,
            config=deepspeed_settings(config, self._dtype, max_grad_norm=0.0, trained=False),
            dist_init_required=False,
        )
        self._entry = self._engine
        self.train(mode=False)

    @staticmethod
    @contextmanager
    def sharded_loading(config: EngineConfig, dtype: str, *, quantized: bool = False) -> Iterator[None]:
        """While open, Hugging Face loads each parameter straight into its shards (stage 3 only).

        So no rank ever keeps the whole model (each maps the files, rank 0 scatters them), which matters
        when eight ranks share a node's memory. What is ``quantized`` meanwhile every rank reads and cuts tensor by
        tensor. What one rank cannot load is an error on all.
        """
        if config.zero_stage < 3:
            with process_group.failing_together():
                yield
            return
        settings = deepspeed_settings(config, dtype, max_grad_norm=0.0, trained=True)
        forget_neighbours()
        kept = HfDeepSpeedConfig(settings)  # type: ignore[no-untyped-call]
        sums: list[tuple[str, Tensor]] = []
        try:
            cutting = cut_as_loaded(settings, DTYPES[dtype]) if quantized else nullcontext(sums)
            with process_group.failing_together(), cutting as sums:
                yield
            require_alike(sums)
        finally:
            # transformers keeps a weak reference only, but an exception on its way out keeps frames alive.
            unset_hf_deepspeed_config()  # type: ignore[no-untyped-call]
            del kept

    @property
    def module(self) -> nn.Module:
        """The module as it was given. In training, forward only through the engine (see ``forward``)."""
        return self._module

    def train(self, mode: bool) -> None:
        """Dropout on or off."""
        self._entry.train(mode)

    def forward(self, **inputs: Any) -> Any:
        """A forward pass through the engine's hooks: calling the module itself loses gradients at stage 3."""
        return self._entry(**inputs)

    def backward(self, loss: Tensor) -> None:
        """Adds the gradients of this micro-batch. ``loss`` is already divided by its global denominator."""
        factor = self.world_size * (self._replicated.loss_scale if self._replicated else 1.0)
        self._engine.backward(loss * factor, scale_wrt_gas=False)

    def step(self, learning_rate: float) -> float:
        """The optimizer step (collective). Returns the gradient norm over all ranks, before clipping.

        A norm that is not finite leaves weights and optimizer state as they were, and the gradients
        cleared: in float16 the loss scale was too large and infinity is returned, otherwise
        NonFiniteGradients is raised, on every rank.
        """
        self._asleep.finish()
        set_rate(self._engine.optimizer, learning_rate)
        if self._replicated is not None:
            norm = self._replicated.step()
        else:
            self._engine.step()
            norm = float(self._engine.get_global_grad_norm())
        if not math.isfinite(norm) and self._dtype != "float16":
            raise NonFiniteGradients("gradient norm", norm, learning_rate)
        return norm

    def drop(self) -> None:
        """In place of a step (collective): the gradients so far are thrown away, and nothing else changes, the loss
        scale of float16 neither."""
        self._asleep.finish()
        if self._replicated is not None:
            self._replicated.drop()
        else:
            with overflowing(self._engine.optimizer, self.zero_stage):
                self._engine.step()

    def before_steps(self, seen: Callable[[], None]) -> None:
        """``seen`` is called before each step, with the gradients that it is taken with in the parameters. Needs whole
        weights and gradients on every rank (stage 0)."""
        assert self._replicated is not None
        self._replicated.before_step = seen

    def layer_norms(self) -> LayerNorms:
        """What sees the gradients of every step from now on, by layers."""
        assert self._optimizer is not None
        return LayerNorms(
            self._module, self._engine.optimizer, self.zero_stage, self._optimizer.max_grad_norm, self._asleep.finish
        )

    def full_tensors(self, *, trained_only: bool = False) -> Iterator[tuple[str, Tensor]]:
        """All parameters of the module, whole, a bucket of them gathered at a time (collective).

        A tensor is valid until the next one is asked for: copy what you keep.
        """
        named = [(name, p) for name, p in self.module.named_parameters() if p.requires_grad or not trained_only]
        for bucket in _buckets(named, GATHER_BYTES):
            tensors = [parameter for _, parameter in bucket]
            gathered = deepspeed.zero.GatheredParameters(tensors) if self.zero_stage == 3 else nullcontext()
            with gathered, torch.no_grad():
                for name, parameter in bucket:
                    yield name, parameter.data

    def states(self) -> Shard:
        """This rank's file of what is trained, to be written before the next step; what is frozen lies where the run
        started. Raises NonFiniteWeights."""
        self._asleep.finish()
        assert self._optimizer is not None
        require_finite(self._module, self._engine.optimizer, self.zero_stage, DTYPES[self._dtype])
        return states_now(self._module, self._engine.optimizer, self._optimizer.states, self.zero_stage)

    def snapshot(self) -> Shard:
        """As ``states``, in host memory of its own: no step changes it, only the next one of these does. Raises
        as ``states``, and MemoryError where there is no room for it."""
        return self._host_copy.take(self.states())

    def load(self, folder: Path) -> None:
        """What ``states`` left in the files of this or any other layout's ranks (collective).

        Raises FileNotFoundError where there is nothing, UserError where it is of other weights or another optimizer.
        """
        self._asleep.finish()
        assert self._optimizer is not None
        load_states(self._module, self._engine.optimizer, self._optimizer, self.zero_stage, folder)

    def rewritten(self) -> None:
        """Somebody wrote to the weights of a frozen model: what lies of them on the host is not theirs any more."""
        self._asleep.forget()

    def held(self) -> Held:
        """What this rank holds now."""
        parameters = parameter_elements(self._own)
        if not self.trained:
            return Held(parameters, 0, 0, bytes_now(self._own))
        optimizer = self._engine.optimizer
        gradients = gradient_elements(optimizer, self.module, self.zero_stage)
        return Held(parameters, gradients, optimizer_elements(optimizer), bytes_now(self._own, optimizer))

    def release(self) -> None:
        """Lets go of gathered parameters, before another engine computes with the same ones (stage 3; not collective).
        Each marks them as its own while it reads them."""
        if self.zero_stage == 3:
            optimizer = self._engine.optimizer
            getattr(optimizer, "parameter_offload", optimizer).partition_all_parameters()

    def offload(self, parts: Collection[DevicePart] = BOTH) -> int:
        """Moves those parts of what this rank holds to host memory, so that another role may use the accelerator.
        Between steps only: gradients are not kept. Returns the bytes copied.
        """
        if self.device.type == "cpu":  # where it would be the same memory
            return 0
        copied = self.sleep(parts)
        torch.cuda.empty_cache()
        return copied

    def sleep(self, parts: Collection[DevicePart] = BOTH) -> int:
        """As ``offload``, on any device; second shards (``engine.secondary``) go to no host."""
        if "weights" in parts:
            drop_second_shards(self._own)
        optimizer = self._engine.optimizer if self.trained else None
        return self._asleep.sleep(held_tensors(self._own, self.module.buffers(), optimizer), parts)

    def reload(self, parts: Collection[DevicePart] = BOTH) -> int:
        """Moves them back; the states come while others compute, and are waited for where they are read. Returns the
        bytes copied.
        """
        return self._asleep.wake(parts)


def _buckets(named: list[tuple[str, nn.Parameter]], limit: int) -> Iterator[list[tuple[str, nn.Parameter]]]:
    bucket: list[tuple[str, nn.Parameter]] = []
    size = 0
    for name, parameter in named:
        bytes_ = int(getattr(parameter, "ds_numel", parameter.numel())) * parameter.element_size()
        if bucket and size + bytes_ > limit:
            yield bucket
            bucket, size = [], 0
        bucket.append((name, parameter))
        size += bytes_
    if bucket:
        yield bucket
