"""Our engine keys to DeepSpeed's dictionary: the one place that knows its names."""

from __future__ import annotations

from typing import Any

from distft.common.errors import UserError
from distft.config.models import Engine as EngineConfig
from distft.engine.process_group import accelerator


def deepspeed_settings(engine: EngineConfig, dtype: str, *, max_grad_norm: float, trained: bool) -> dict[str, Any]:
    """DeepSpeed's configuration for a role.

    Gradient accumulation is ours (``managed_gradient_accumulation`` off): a step has as many micro-batches
    as its tokens need, which no fixed number of accumulation steps can say. Gradients of fewer bits are
    added up in float32 at every stage: here at 2 and 3, where each micro-batch is reduced on its own; stages 0 and 1,
    which reduce the sum once a step, do it in ``accumulation``, and so reduce in float32. Raises UserError for an
    offload that its stage does not have: DeepSpeed would take it and keep everything where it is.
    """
    if engine.offload_parameters == "cpu" and engine.zero_stage < 3:
        raise UserError("parameters are offloaded at stage 3 only", where="engine.offload_parameters")
    if engine.offload_optimizer == "cpu" and engine.zero_stage < 1:
        raise UserError("optimizer state is offloaded at stages 1 to 3 only", where="engine.offload_optimizer")
    settings: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,
        "zero_optimization": _zero(engine, trained=trained),
        "zero_allow_untested_optimizer": True,
        # Without this DeepSpeed swaps our optimizer for its own C++ one whenever states are offloaded.
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": dtype == "bfloat16"},
        "fp16": {"enabled": dtype == "float16"},
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
        # Or every forward pass would begin by waiting for all that the GPU has to do.
        "timers": {"throughput": {"enabled": False}},
    }
    if trained:
        settings["gradient_clipping"] = max_grad_norm  # 0 too: left out, DeepSpeed takes 1
    if trained and dtype != "float32":
        if engine.zero_stage >= 2:
            settings["data_types"] = {"grad_accum_dtype": "fp32"}
        else:
            settings["communication_data_type"] = "fp32"
    return settings


def _zero(engine: EngineConfig, *, trained: bool) -> dict[str, Any]:
    # Stages 1 and 2 shard what a frozen model does not have.
    stage = engine.zero_stage if trained or engine.zero_stage == 3 else 0
    zero: dict[str, Any] = {
        "stage": stage,
        "reduce_bucket_size": engine.reduce_bucket_size,
        "contiguous_gradients": True,
    }
    if stage == 3:
        zero["stage3_param_persistence_threshold"] = engine.persistence_threshold
        # DeepSpeed's own linear layer lets go of gathered weights before the backward pass, which a GPU's memory
        # needs. On a CPU it also misses the fast bf16 kernels (a training step takes a sixth longer with it).
        zero["memory_efficient_linear"] = accelerator().type != "cpu"
        zero["stage3_prefetch_bucket_size"] = engine.reduce_bucket_size
        zero["stage3_max_reuse_distance"] = 0 if not trained else 1_000_000_000
        if engine.hpz_partition_size > 1:
            zero["zero_hpz_partition_size"] = engine.hpz_partition_size
        if engine.offload_parameters == "cpu":
            zero["offload_param"] = {"device": "cpu", "pin_memory": accelerator().type == "cuda"}
    if trained and engine.offload_optimizer == "cpu":
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": accelerator().type == "cuda"}
    return zero
