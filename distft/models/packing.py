"""Which models keep the samples of a packed row apart.

transformers is given ``position_ids`` that begin anew with every sample, and no mask. From them it makes a mask that is
causal within each sample and empty between two, or for flash attention the samples' bounds. That is not so of every
architecture: some make their masks without the positions, and some have states that run through the whole row.
"""

from __future__ import annotations

from typing import Any, Final

from distft.common.errors import UserError
from distft.models.families.table import CAUSAL, SCALAR, TEXT_EMBEDDING, FamilyName

# Compared with a row for each sample (tests): with sdpa and eager attention, and as flash attention is told the bounds.
FAMILIES: Final = (
    "llama", "mistral", "mixtral", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "gemma", "gemma2", "gemma3_text", "gpt2",
    "gpt_neox", "phi", "phi3", "stablelm", "olmo2", "granite", "cohere", "starcoder2", "smollm3", "glm4", "deepseek_v3",
)  # fmt: skip
_ACROSS: Final = "its attention would see the samples before it in a packed row"
_STATES: Final = "its state would run from one sample of a packed row into the next"
_UNTOLD: Final = "its flash attention is not told where the samples of a packed row end"
REASONS: Final = {
    **dict.fromkeys(("bert", "bloom", "falcon", "gpt_oss", "mpt", "opt"), _ACROSS),
    **dict.fromkeys(("gpt_bigcode", "gpt_neo", "gptj"), _UNTOLD),
    **dict.fromkeys(("mamba", "mamba2", "qwen3_5_text"), _STATES),
}


def require_packable(config: Any, family: FamilyName, where: str) -> None:
    """Raises UserError where a model of that config cannot read several samples in one row; ``where``: the role."""
    kind = str(config.model_type)
    if family not in (CAUSAL.name, SCALAR.name):
        how = "is pooled from whole rows" if family == TEXT_EMBEDDING.name else "has an encoder, which sees whole rows"
        why = f"{kind} {how}"
    elif kind in FAMILIES:
        return
    else:
        why = f"{kind}: {REASONS.get(kind, 'samples in one row have not been compared with a row for each')}"
    hint = f"{where}.engine.packed=false, or a model of type {', '.join(FAMILIES)}"
    raise UserError(why, where=f"{where}.engine.packed", hint=hint)
