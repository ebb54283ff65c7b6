"""Virtual tokens before every sequence."""

from __future__ import annotations

from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field

from distft.config.adapters.virtual_tokens import VirtualTokens
from distft.config.section import Usual

# Decoders, by model type, that have been compared with PEFT's: each takes embeddings in place of ids.
FAMILIES: Final = (
    "bloom", "cohere", "deepseek_v3", "falcon", "gemma", "gemma2", "gemma3_text", "glm4", "gpt2", "gpt_bigcode",
    "gpt_neo", "gpt_neox", "gpt_oss", "gptj", "granite", "llama", "mistral", "mixtral", "mpt", "olmo2", "phi", "phi3",
    "qwen2", "qwen2_moe", "qwen3", "qwen3_5_text", "qwen3_moe", "smollm3", "stablelm", "starcoder2",
)  # fmt: skip
# Encoder-decoders: before the prompt, in the encoder.
APART: Final = ("bart", "blenderbot", "blenderbot-small", "longt5", "marian", "mt5", "pegasus", "t5", "umt5")


class PromptTuning(VirtualTokens):
    """Embeddings of tokens that no vocabulary has stand before every sequence, and they alone are trained (Lester et
    al. 2021)."""

    families: ClassVar[tuple[str, ...]] = (*FAMILIES, *APART)

    method: Literal["prompt"] = Field(description="kind of adapter")
    num_virtual_tokens: Annotated[int, Usual(20, 100)] = Field(
        default=20, ge=1, le=4096, description="tokens before every sequence; 20 to 100 are usual"
    )
    start: Literal["vocabulary", "random", "text"] = Field(
        default="vocabulary",
        description="embeddings that they begin as: of tokens drawn from the vocabulary, normally distributed numbers, "
        "or of the tokens of text",
    )
    text: str | None = Field(
        default=None, min_length=1, description="what they begin as with start: text, repeated or cut to their number"
    )

    def parameters(self, hidden: int, key_width: int, layers: int) -> dict[str, tuple[int, ...]]:  # noqa: ARG002
        """Embeddings."""
        return {"prompt_embeddings": (self.num_virtual_tokens, hidden)}
