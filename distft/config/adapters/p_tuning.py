"""Virtual tokens that an encoder computes."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from distft.config.adapters.prompt import FAMILIES
from distft.config.adapters.virtual_tokens import VirtualTokens, encoder_shapes


class PTuning(VirtualTokens):
    """P-tuning (Liu et al. 2021, "GPT understands, too"): virtual tokens before every sequence, made of drawn
    embeddings by three linear layers; both are trained, and only what they make is kept."""

    families: ClassVar[tuple[str, ...]] = FAMILIES

    method: Literal["p_tuning"] = Field(description="kind of adapter")
    num_virtual_tokens: int = Field(default=20, ge=1, le=4096, description="tokens before every sequence")
    encoder_hidden_size: int | None = Field(
        default=None, ge=1, description="width between the encoder's layers; null: the model's hidden size"
    )

    def parameters(self, hidden: int, key_width: int, layers: int) -> dict[str, tuple[int, ...]]:  # noqa: ARG002
        """Embeddings, and linear layers that make embeddings of them."""
        inner = self.encoder_hidden_size or hidden
        embeddings: dict[str, tuple[int, ...]] = {"prompt_embeddings": (self.num_virtual_tokens, hidden)}
        return embeddings | encoder_shapes((hidden, inner, inner, hidden))
