"""A frozen base in four bits (QLoRA, Dettmers et al. 2023) or eight (LLM.int8, Dettmers et al. 2022): bitsandbytes,
imported where it is used."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BitsAndBytesConfig
from transformers.pytorch_utils import Conv1D

from distft.config.models import Quantization


def as_bitsandbytes(quantization: Quantization, dtype: torch.dtype, whole: Sequence[str] = ()) -> BitsAndBytesConfig:
    """What transformers is told: products are computed in ``dtype``. The modules called ``whole`` stay what they are;
    without any transformers itself spares the head of a language model, and the last layer of others."""
    silence_bitsandbytes()
    spared = list(whole) or None
    if quantization.bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=spared)  # type: ignore[no-untyped-call]
    return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True,
        bnb_4bit_quant_type=quantization.method,
        bnb_4bit_use_double_quant=quantization.double,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=spared,
    )


def silence_bitsandbytes() -> None:
    """It regrets, when it is imported, the lack of a kernel that ``shardable`` forbids."""
    logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(_no_regret)


def _no_regret(record: logging.LogRecord) -> bool:
    return "gemm_4bit_forward" not in str(record.msg)


def shardable(model: nn.Module, dtype: torch.dtype) -> None:
    """Quantized layers, as they were loaded, such that a rank may have a part of their weights, which compute in
    ``dtype``.

    In evaluation mode bitsandbytes repacks four bits for a CPU's bfloat16 instructions. It does so in place, and under
    ZeRO-3 on what is only gathered for a moment: results would be silently wrong.
    """
    from bitsandbytes.nn.modules import Linear4bit, Linear8bitLt

    from distft.models.eight_bits import multiply_whole

    for part in model.modules():
        if isinstance(part, Linear4bit):
            part.support_avx512bf16_for_cpu = False
        elif isinstance(part, Linear8bitLt):
            multiply_whole(part, dtype)


def constants_of(parameter: Any) -> Iterator[Tensor]:
    """What it takes to read a quantized parameter: the scales, and how those are quantized in turn. bitsandbytes keeps
    them beside it, whole on every rank at any stage."""
    if (scales := getattr(parameter, "SCB", None)) is not None:
        yield scales
    state = getattr(parameter, "quant_state", None)
    while state is not None:
        yield from (tensor for tensor in (state.absmax, state.code, state.offset) if tensor is not None)
        state = state.state2


def is_quantized(model: nn.Module) -> bool:
    """Whether some of its weights are."""
    return any(True for parameter in model.parameters() for _ in constants_of(parameter))


def dequantized(part: Any, weight: Tensor) -> Tensor:
    """The whole ``weight [out, in]`` of the layer ``part`` in the precision that it computes in; any other as it is."""
    if (scales := getattr(part.weight, "SCB", None)) is not None:
        from distft.models.eight_bits import unpacked

        return unpacked(weight.detach(), scales, part.compute_dtype)
    constants = getattr(part.weight, "quant_state", None)
    if constants is None:
        return weight.detach()
    from bitsandbytes.functional import dequantize_4bit

    whole: Tensor = dequantize_4bit(weight.detach(), constants)
    return whole.to(part.compute_dtype)


def was_conv1d(part: Any) -> bool:
    """Whether GPT-2's ``Conv1D``, whose weight is ``[in, out]``, stood where this quantized layer stands now."""
    return issubclass(getattr(part, "source_cls", nn.Linear), Conv1D)
