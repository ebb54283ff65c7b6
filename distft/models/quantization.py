"""A frozen base in four bits (NF4; QLoRA, Dettmers et al. 2023): bitsandbytes, imported where it is used."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BitsAndBytesConfig
from transformers.pytorch_utils import Conv1D

from distft.config.models import Quantization


def four_bits(quantization: Quantization, dtype: torch.dtype, whole: Sequence[str] = ()) -> BitsAndBytesConfig:
    """What transformers is told: products are computed in ``dtype``. The modules called ``whole`` stay what they are;
    without any transformers itself spares the head of a language model, and the last layer of others."""
    silence_bitsandbytes()
    return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True,
        bnb_4bit_quant_type=quantization.method,
        bnb_4bit_use_double_quant=quantization.double,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=list(whole) or None,
    )


def silence_bitsandbytes() -> None:
    """It regrets, when it is imported, the lack of a kernel that ``keep_packing`` forbids."""
    logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(_no_regret)


def _no_regret(record: logging.LogRecord) -> bool:
    return "gemm_4bit_forward" not in str(record.msg)


def keep_packing(model: nn.Module) -> None:
    """Forbids bitsandbytes to repack weights for a CPU's bfloat16 instructions in evaluation mode.

    It does so in place, and under ZeRO-3 on what is only gathered for a moment: results would be silently wrong.
    """
    from bitsandbytes.nn.modules import Linear4bit

    for part in model.modules():
        if isinstance(part, Linear4bit):
            part.support_avx512bf16_for_cpu = False


def dequantized(part: Any, weight: Tensor) -> Tensor:
    """The whole ``weight [out, in]`` of the layer ``part`` in the precision that it computes in; any other as it is."""
    constants = getattr(part.weight, "quant_state", None)
    if constants is None:
        return weight.detach()
    from bitsandbytes.functional import dequantize_4bit

    whole: Tensor = dequantize_4bit(weight.detach(), constants)
    return whole.to(part.compute_dtype)


def was_conv1d(part: Any) -> bool:
    """Whether GPT-2's ``Conv1D``, whose weight is ``[in, out]``, stood where this layer in four bits stands now."""
    return issubclass(getattr(part, "source_cls", nn.Linear), Conv1D)
