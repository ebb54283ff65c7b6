"""The measurements: what training, memory, links and launches reach here, in about a minute.

Each rate is the median of some repetitions, and its spread what lies between the quarters of them, as a share.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from distft.planning.costs import step_bytes, training_flops
from distft.planning.model_sizes import ModelSizes
from distft.planning.size_sources import sizes_from_config


@dataclass(frozen=True)
class Scale:
    """How much is measured: a decoder of ``layers`` of ``hidden`` over ``tokens`` in rows of ``length``; ``elements``
    in memory; ``generated`` tokens; ``repeats`` of each.
    """

    hidden: int
    layers: int
    tokens: int
    length: int
    elements: int
    generated: int
    repeats: int


ON_GPU = Scale(2048, 4, 16_384, 2048, 2**28, 64, 7)
ON_CPU = Scale(512, 2, 1024, 256, 2**24, 16, 5)


@dataclass(frozen=True)
class Measured:
    """A rate (or seconds), and by how much it varied."""

    value: float
    spread: float

    @classmethod
    def of(cls, amount: float, seconds: list[float]) -> Measured:
        """``amount`` a second."""
        quarters = statistics.quantiles(seconds, n=4) if len(seconds) > 1 else [seconds[0]] * 3
        return cls(amount / quarters[1], (quarters[2] - quarters[0]) / quarters[1])


def arithmetic(scale: Scale, device: torch.device, dtype: torch.dtype) -> Measured:
    """FLOP/s of a small Llama, forward and backward, as the plan counts them."""
    model, sizes = _model(scale, device, dtype)
    ids = torch.randint(0, 100, (scale.tokens // scale.length, scale.length), device=device)

    def work() -> None:
        model(input_ids=ids, use_cache=False).logits.float().mean().backward()

    flops = training_flops(sizes, ids.numel(), scale.length, ids.numel(), checkpointing=False)
    return Measured.of(flops, _seconds(work, scale.repeats, device))


def memory(scale: Scale, device: torch.device) -> Measured:
    """Bytes/s of element-wise work on this device: read twice and written once."""
    first = torch.ones(scale.elements, dtype=torch.bfloat16, device=device)
    second, out = first.clone(), first.clone()
    return Measured.of(
        3 * 2 * scale.elements, _seconds(lambda: torch.add(first, second, out=out), scale.repeats, device)
    )


def host_link(scale: Scale, device: torch.device) -> Measured:
    """Bytes/s between host memory, page-locked where there is a GPU, and the device; the slower way."""
    there = torch.ones(scale.elements, dtype=torch.bfloat16, device=device)
    here = torch.ones(scale.elements, dtype=torch.bfloat16, pin_memory=device.type == "cuda")
    out = Measured.of(2 * scale.elements, _seconds(lambda: here.copy_(there, non_blocking=True), scale.repeats, device))
    back = Measured.of(
        2 * scale.elements, _seconds(lambda: there.copy_(here, non_blocking=True), scale.repeats, device)
    )
    return min(out, back, key=lambda way: way.value)


def host_memory(scale: Scale) -> Measured:
    """Bytes/s of torch's AdamW on the host, with all threads: what an offloaded optimizer is bound by."""
    parameter = torch.nn.Parameter(torch.ones(scale.elements // 4))
    parameter.grad = torch.ones_like(parameter)
    optimizer = torch.optim.AdamW([parameter], fused=True)
    seconds = _seconds(lambda: optimizer.step(), scale.repeats, torch.device("cpu"))
    return Measured.of(step_bytes(parameter.numel(), 0), seconds)


def launch(scale: Scale, device: torch.device) -> Measured:
    """Seconds of one layer for one token in ``generate``, of a model so small that nothing else counts."""
    small = Scale(64, 8, scale.tokens, scale.length, scale.elements, scale.generated, scale.repeats)
    model, _ = _model(small, device, torch.bfloat16)
    prompt = torch.ones((1, 4), dtype=torch.long, device=device)

    def work() -> None:
        model.generate(
            prompt, attention_mask=torch.ones_like(prompt), do_sample=False,
            min_new_tokens=small.generated, max_new_tokens=small.generated,
        )  # fmt: skip

    seconds = _seconds(work, small.repeats, device)
    rate = Measured.of(small.generated * small.layers, seconds)
    return Measured(1 / rate.value, rate.spread)


def _model(scale: Scale, device: torch.device, dtype: torch.dtype) -> tuple[Any, ModelSizes]:
    config = LlamaConfig(
        hidden_size=scale.hidden, intermediate_size=4 * scale.hidden, num_hidden_layers=scale.layers,
        num_attention_heads=max(1, scale.hidden // 64), num_key_value_heads=max(1, scale.hidden // 64),
        vocab_size=128, max_position_embeddings=max(64, scale.length), pad_token_id=0,
        eos_token_id=None, bos_token_id=None,
    )  # fmt: skip
    kind: Any = AutoModelForCausalLM
    with device:
        model = kind.from_config(config, dtype=dtype, attn_implementation="sdpa")
    return model, sizes_from_config(config.to_dict())


def _seconds(work: Callable[[], object], repeats: int, device: torch.device) -> list[float]:
    """Of each repetition after a first one that is not counted."""
    wait: Callable[[], object] = torch.cuda.synchronize if device.type == "cuda" else (lambda: None)
    work()
    wait()
    found = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        wait()
        found.append(time.perf_counter() - started)
    return found
