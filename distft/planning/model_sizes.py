"""How large a model is, by block, without torch: its tensors, and what follows from their shapes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal, TypeAlias

from distft.planning.architectures import Block, Tensors

if TYPE_CHECKING:
    from distft.config.models import Quantization


Head: TypeAlias = Literal["vocabulary", "score", "none"]
# What the tensors of a scalar head are called in these tables.
SCORE = "score"
# Weights that share one scale in four bits, and scales that share one in turn (bitsandbytes' defaults); bytes of the
# tables that both are read with, and of the scales' mean.
BLOCK, BLOCK_OF_BLOCKS = 64, 256
TABLE, TABLE_OF_SCALES = 16 * 4, 256 * 4 + 4


@dataclass(frozen=True)
class TensorTable:
    """Tensors, and what follows from their shapes (elements, not bytes)."""

    tensors: tuple[Tensors, ...]

    @cached_property
    def total(self) -> int:
        """Elements of all."""
        return sum(tensors.total for tensors in self.tensors)

    def shard(self, ranks: int) -> int:
        """Elements of one rank's shards under ZeRO-3: every tensor is cut by itself, the last part padded."""
        return sum(-(-tensors.numel // ranks) * tensors.count for tensors in self.tensors)

    @cached_property
    def packed(self) -> int:
        """Elements of all as they are kept: what DeepSpeed counts."""
        return sum(tensors.packed * tensors.count for tensors in self.tensors)

    @cached_property
    def largest(self) -> int:
        """Elements of the largest tensor."""
        return max(tensors.numel for tensors in self.tensors)


@dataclass(frozen=True)
class ModelSizes(TensorTable):
    """The tensors of one model and the widths that activations depend on (elements, not bytes).

    ``layers`` counts encoder and decoder layers together; ``intermediate`` is the width at which the MLP of
    one token works (active experts together). ``kept_by_adapters``: elements of the model's dtype, and single bytes,
    that one token leaves behind in all adapters for the backward pass; ``passing_of_adapters``: elements that the
    largest has while it computes; ``held_by_adapters``: those that are not trained and whole on every rank;
    ``selected``: the model's own weights that are
    trained where others are not, by the names in its files; ``choices``: of a mixture of experts, how many one token
    goes to, in all layers together at most.
    """

    family: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    gated: bool
    tied: bool
    encoder_decoder: bool = False
    kept_by_adapters: tuple[int, int] = (0, 0)
    passing_of_adapters: int = 0
    held_by_adapters: int = 0
    selected: tuple[Tensors, ...] = ()
    double_quantization: bool = False
    choices: int = 0

    @cached_property
    def trained(self) -> TensorTable:
        """The parameters that a trained role updates: all, or adapters or what was selected, and a scalar head."""
        return TensorTable((*(tensors for tensors in self.tensors if tensors.trained), *self.selected))

    def beside_base(self) -> ModelSizes:
        """What it has of its own where its frozen base is another model's: adapters, and a scalar head."""
        return replace(self, tensors=tuple(tensors for tensors in self.tensors if tensors.trained))

    @property
    def adapted(self) -> bool:
        """Whether adapters lie beside its layers."""
        return self.kept_by_adapters != (0, 0)

    def stored(self, size: int, ranks: int = 1) -> int:
        """Bytes of all parameters on one of ``ranks``, of ``size`` bytes each where they are not quantized."""
        return sum(tensors.stored(size, ranks) for tensors in self.tensors)

    def stored_at_once(self, size: int) -> int:
        """The least bytes that a pass has whole at a time: a layer (the mean one), or the largest tensor."""
        layers = sum(tensors.stored(size) for tensors in self.tensors if tensors.block == "layers")
        return max(layers // max(1, self.layers), *(one.stored(size) // one.count for one in self.tensors))

    @cached_property
    def constants(self) -> int:
        """Bytes that it takes to read what is quantized: scales, of eight bits one a row, in float32; and where the
        scales are quantized too, theirs."""
        found = 0
        for tensors in self.tensors:
            if tensors.bits == 8:
                found += tensors.count * 4 * tensors.shape[0]
            elif tensors.bits == 4:
                blocks = -(-tensors.numel // BLOCK)
                scales = blocks + 4 * -(-blocks // BLOCK_OF_BLOCKS) + TABLE_OF_SCALES
                found += tensors.count * (TABLE + (scales if self.double_quantization else 4 * blocks))
        return found

    def of(self, block: Block) -> int:
        """Parameters of one block."""
        return sum(tensors.total for tensors in self.tensors if tensors.block == block)

    @cached_property
    def active(self) -> int:
        """Parameters of the layers that one token is multiplied with: of a mixture of experts, those chosen for it."""
        return self._active(self.tensors)

    @cached_property
    def active_frozen(self) -> int:
        """Those of ``active`` that are not trained."""
        selected = sum(one.total for one in self.selected if one.block == "layers")
        return max(0, self._active(tensors for tensors in self.tensors if not tensors.trained) - selected)

    @property
    def reads_embedding(self) -> int:
        """Elements of the matrices and adapters that the embedding goes into: the first layer's query, key, value."""
        first = [f"attention.{name}{part}" for name in ("q", "k", "v", "qkv") for part in ("", ".lora_A")]
        return sum(tensors.numel for tensors in self.tensors if tensors.name in first)

    @property
    def vocab_head(self) -> int:
        """Elements of the matrix that makes logits; 0 where one number is made."""
        own = sum(one.total for one in self.tensors if one.block == "head" and one.name != SCORE)
        return self.hidden * self.vocab if self.tied or own > self.hidden else 0

    def _active(self, tensors: Iterable[Tensors]) -> int:
        layers = (one for one in tensors if one.block == "layers")
        return sum(int(one.total * self._active_share(one)) for one in layers)

    def _active_share(self, tensors: Tensors) -> float:
        if not tensors.name.startswith("mlp.experts."):
            return 1.0
        experts, rows, columns = tensors.shape
        inner = columns if tensors.name.endswith("down") else rows // 2
        return self.intermediate / inner / experts

    def small(self, threshold: int, size: int) -> int:
        """Bytes of parameters in tensors of at most ``threshold`` elements: ZeRO-3 keeps those whole on every rank."""
        return sum(tensors.stored(size) for tensors in self.tensors if tensors.packed <= threshold)

    def quantized(self, quantization: Quantization) -> ModelSizes:
        """The same model, its linear layers quantized; the head is none of them."""
        tensors = (replace(one, bits=quantization.bits) if one.linear else one for one in self.tensors)
        return replace(self, tensors=tuple(tensors), double_quantization=quantization.double)

    def with_tokens(self, number: int) -> ModelSizes:
        """With so many rows more in the embedding, and in the head where that is one of its own."""
        wide = [one.block in ("embedding", "head") and one.shape[:1] == (self.vocab,) for one in self.tensors]
        tensors = tuple(
            replace(one, shape=(one.shape[0] + number, *one.shape[1:])) if grows else one
            for one, grows in zip(self.tensors, wide, strict=True)
        )
        return replace(self, tensors=tensors, vocab=self.vocab + number)

    def with_head(self, head: Head) -> ModelSizes:
        """The same backbone with one output in the place of the vocabulary (``score``: reward and value models); of
        encoders and encoder-decoders behind a hidden layer, both with biases. Or with ``none``: BERT keeps its pooler,
        which is not trained."""
        if head == "vocabulary":
            return self
        backbone = tuple(tensors for tensors in self.tensors if tensors.block != "head")
        if head == "none":
            pooler = ((self.hidden, self.hidden), (self.hidden,)) if self.family == "bert" else ()
            unused = (Tensors("pooler", "norm", shape, trained=False) for shape in pooler)
            return replace(self, tensors=(*backbone, *unused), tied=False)
        hidden = (self.hidden, self.hidden), (self.hidden,), (1,)
        deep = self.encoder_decoder or self.family == "bert"
        shapes = ((1, self.hidden), *(hidden if deep else ()))
        return replace(self, tensors=(*backbone, *(Tensors(SCORE, "head", shape) for shape in shapes)), tied=False)
