"""The families of models by name, and which one each role's model is of. No torch here: plan and preflight read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from distft.config.role_table import facts_of

FamilyName: TypeAlias = Literal[
    "causal", "scalar", "seq2seq", "seq2seq_scalar", "encoder", "masked_lm", "text_embedding"
]


@dataclass(frozen=True)
class Entry:
    """``implementation``: the ``Family`` of that name, ``module:Class``; ``auto_class``: of transformers, which reads
    its files; ``scalar``: it gives one number a token, or a vector a text, and none for each token of the vocabulary.
    """

    name: FamilyName
    implementation: str
    auto_class: str
    scalar: bool = False


CAUSAL = Entry("causal", "distft.models.families.causal:Causal", "AutoModelForCausalLM")
SCALAR = Entry("scalar", "distft.models.families.scalar:Scalar", "AutoModelForSequenceClassification", scalar=True)
SEQ2SEQ = Entry("seq2seq", "distft.models.families.seq2seq:Seq2Seq", "AutoModelForSeq2SeqLM")
SEQ2SEQ_SCALAR = Entry(
    "seq2seq_scalar",
    "distft.models.families.seq2seq_scalar:Seq2SeqScalar",
    "AutoModelForSequenceClassification",
    scalar=True,
)
ENCODER = Entry("encoder", "distft.models.families.encoder:Encoder", "AutoModelForSequenceClassification", scalar=True)
MASKED_LM = Entry("masked_lm", "distft.models.families.masked_lm:MaskedLm", "AutoModelForMaskedLM")
TEXT_EMBEDDING = Entry(
    "text_embedding", "distft.models.families.text_embedding:TextEmbedding", "AutoModel", scalar=True
)
FAMILIES = {
    entry.name: entry for entry in (CAUSAL, SCALAR, SEQ2SEQ, SEQ2SEQ_SCALAR, ENCODER, MASKED_LM, TEXT_EMBEDDING)
}
# What people call families: by which side reads and which writes; with the config.json of a model of each.
EXAMPLES: Mapping[str, Mapping[str, Any]] = {
    "decoder": {"model_type": "llama"},
    "encoder-decoder": {"model_type": "t5", "is_encoder_decoder": True},
    "encoder": {"model_type": "bert"},
}
# Model types of encoders that are known to work here.
ENCODERS = ("bert", "roberta", "modernbert", "deberta-v2")


def family_of(role: str, config: Mapping[str, Any] | None = None, *, embeds: bool = False) -> Entry:
    """The family of a role's model, by what its config.json says; without one that of a decoder. ``embeds``: it turns
    texts into vectors. Raises KeyError for what is no role."""
    if embeds:
        return TEXT_EMBEDDING
    return family_in((SCALAR if facts_of(role).scalar else CAUSAL).name, config or {})


def family_in(name: FamilyName, config: Mapping[str, Any]) -> Entry:
    """The family that does the work of ``name`` with a model of that config."""
    others: dict[FamilyName, Entry] = {}
    if config.get("is_encoder_decoder"):
        others = {CAUSAL.name: SEQ2SEQ, SCALAR.name: SEQ2SEQ_SCALAR}
    elif encodes(config):
        others = {CAUSAL.name: MASKED_LM, SCALAR.name: ENCODER}
    return others.get(name, FAMILIES[name])


def has_scoring_head(architectures: Sequence[str] | None) -> bool:
    """Whether a model of those ``architectures``, as its config.json names them, has a head of scores or labels."""
    return any("SequenceClassification" in name for name in architectures or ())


def encodes(config: Mapping[str, Any]) -> bool:
    """Whether a model of that config is an encoder: every token sees all others."""
    return config.get("model_type") in ENCODERS and not config.get("is_decoder")


def has_own_code(auto_map: Mapping[str, Any] | None) -> bool:
    """Whether a model with that entry in its config.json is of a class of its own, where it is trusted to run."""
    return any(name.startswith("AutoModel") for name in auto_map or ())


# Decoders that keep the samples of a packed row apart: compared with a row for each (tests), with sdpa and eager
# attention. Flash attention itself is run by no test; one sees that transformers would tell it the bounds.
PACKABLE: Final = (
    "llama", "mistral", "mixtral", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "gemma", "gemma2", "gemma3_text", "gpt2",
    "gpt_neox", "phi", "phi3", "stablelm", "olmo2", "granite", "cohere", "starcoder2", "smollm3", "glm4", "deepseek_v3",
)  # fmt: skip
