"""Rotary frequencies that depend on the longest row of a batch, made those of the longest row of the run."""

from __future__ import annotations

from types import MethodType
from typing import Any

from transformers import GenerationMixin
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS


def settle_rope(model: Any, longest: int) -> None:
    """Fixes LongRoPE and dynamic NTK at what they are for a sequence of ``longest`` tokens.

    transformers chooses the frequencies in every forward pass, by the longest row that happens to be in it: a row's
    log-probs would depend on its micro-batch, and differ between generator and trainer, whose rows are padded
    otherwise. With one choice for the whole run they do not (vLLM does the same, by its ``max_model_len``).
    """
    settled: set[str] = set()
    for part in model.modules():
        kinds = getattr(part, "rope_type", None)
        if isinstance(kinds, str) and _settled(part, kinds, longest, None):
            part.rope_type = "default"
            settled.add(kinds)
        elif isinstance(kinds, dict):
            changed = {layer for layer, kind in kinds.items() if _settled(part, kind, longest, layer)}
            part.rope_type = {layer: "default" if layer in changed else kind for layer, kind in kinds.items()}
            settled |= {kinds[layer] for layer in changed}
    if "longrope" in settled:
        # Phi-3 throws its cache away where the factors would change, and with it all that was read so far.
        model.prepare_inputs_for_generation = MethodType(GenerationMixin.prepare_inputs_for_generation, model)


def _settled(part: Any, kind: str, longest: int, layer_type: str | None) -> bool:
    """Gives the part its frequencies; False for ropes that do not change."""
    if "dynamic" not in kind and kind != "longrope":
        return False
    prefix, layer = (f"{layer_type}_", {"layer_type": layer_type}) if layer_type else ("", {})
    name = f"{prefix}inv_freq"
    frequencies, _ = ROPE_INIT_FUNCTIONS[kind](part.config, getattr(part, name).device, seq_len=longest, **layer)
    part.register_buffer(name, frequencies, persistent=False)
    return True
