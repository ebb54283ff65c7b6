"""How large a model is, by block, without torch and without reading weights.

Sources, in this order: ``init:`` sizes of the recipe, the folder's ``config.json``, for architectures that
``architectures`` does not know the shapes in the safetensors headers, and for a public model that is not on
this machine the table of ``known_models``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from distft.common.errors import UserError, nearest
from distft.common.files import parse_json
from distft.planning.architectures import FAMILIES, MODULES, Block, Tensors
from distft.planning.known_models import known_config, nearest_known
from distft.planning.model_folders import local_folder
from distft.planning.weight_files import COPY_AGAIN, tensor_shapes

if TYPE_CHECKING:
    from distft.config.adapters.adapter import LayerAdapter
    from distft.config.adapters.selective import OwnWeights
    from distft.config.adapters.virtual_tokens import VirtualTokens
    from distft.config.models import Init, Quantization


Head: TypeAlias = Literal["vocabulary", "score", "none"]
# What the tensors of a scalar head are called in these tables.
SCORE = "score"
# Weights that share one scale in four bits, and scales that share one in turn (bitsandbytes' defaults); bytes of the
# tables that both are read with, and of the scales' mean.
BLOCK, BLOCK_OF_BLOCKS = 64, 256
TABLE, TABLE_OF_SCALES = 16 * 4, 256 * 4 + 4


class WrongTargets(UserError):
    """Adapters are asked for in layers that the model does not have, or beside which they cannot lie; ``where``: the
    key of theirs that says so."""


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
    trained where others are not, by the names in its files.
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

    @cached_property
    def trained(self) -> TensorTable:
        """The parameters that a trained role updates: all, or adapters or what was selected, and a scalar head."""
        return TensorTable((*(tensors for tensors in self.tensors if tensors.trained), *self.selected))

    @property
    def adapted(self) -> bool:
        """Whether adapters lie beside its layers."""
        return self.kept_by_adapters != (0, 0)

    def stored(self, size: int, ranks: int = 1) -> int:
        """Bytes of all parameters on one of ``ranks``, of ``size`` bytes each where they are not in four bits."""
        return sum(tensors.stored(size, ranks) for tensors in self.tensors)

    def stored_at_once(self, size: int) -> int:
        """The least bytes that a pass has whole at a time: a layer (the mean one), or the largest tensor."""
        layers = sum(tensors.stored(size) for tensors in self.tensors if tensors.block == "layers")
        return max(layers // max(1, self.layers), *(one.stored(size) // one.count for one in self.tensors))

    @cached_property
    def constants(self) -> int:
        """Bytes that it takes to read what is in four bits: scales, and where those are quantized too, theirs."""
        found = 0
        for tensors in self.tensors:
            if tensors.four_bits:
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

    def in_four_bits(self, quantization: Quantization) -> ModelSizes:
        """The same model, its linear layers quantized; the head is none of them."""
        tensors = (replace(one, four_bits=one.linear) for one in self.tensors)
        return replace(self, tensors=tuple(tensors), double_quantization=quantization.double)

    def with_adapters(self, adapter: LayerAdapter) -> ModelSizes:
        """The same model frozen, with adapters beside its linear layers; a scalar head is trained with them.

        Raises WrongTargets for layers that it does not have or that the adapter does not fit, and where the adapter
        does not know those of its family.
        """
        chosen = [one for one in self.tensors if one.linear]
        try:
            layers = adapter.layers(self.family)
        except LookupError:
            hint = f"name layers: {', '.join(dict.fromkeys(name for one in chosen for name in self._modules(one)))}"
            raise WrongTargets(f"which layers of {self.family} it is for is not known", hint=hint) from None
        if layers.named is not None:
            known = dict.fromkeys(name for one in chosen for name in self._modules(one))
            for wanted in layers.named:
                if wanted not in known:
                    close = nearest(wanted, known)
                    hint = f"did you mean {close}?" if close else f"it has: {', '.join(known)}"
                    raise WrongTargets(f"{self.family} has no linear layer {wanted}", hint=hint)
            chosen = [one for one in chosen if not set(self._modules(one)).isdisjoint(layers.named)]
        beside, elements, single, passing, held = [], 0, 0, 0, 0
        for one in sorted(chosen, key=lambda one: min(one.shape)):  # so that what is said is of the narrowest
            rows, columns = one.shape
            if wrong := adapter.why_not(rows, columns, self.hidden):
                key, what, hint = wrong
                raise WrongTargets(what, where=key, hint=hint)
            of_input = not set(self._modules(one)).isdisjoint(layers.inputs)
            for name, shape in adapter.parameters(rows, columns, of_input=of_input).items():
                beside.append(Tensors(f"{one.name}.{name}", "layers", shape, one.count))
            more, bytes_ = adapter.kept(rows, columns, of_input=of_input)
            elements, single = elements + one.count * more, single + one.count * bytes_
            passing = max(passing, adapter.passing(rows, columns))
            held += one.count * adapter.held(rows, columns)
        return replace(
            self,
            tensors=(*self._frozen(), *beside),
            kept_by_adapters=(elements, single),
            passing_of_adapters=passing,
            held_by_adapters=held,
        )

    def with_virtual_tokens(self, tokens: VirtualTokens) -> ModelSizes:
        """The same model frozen, with what stands before every sequence."""
        shapes = tokens.parameters(self.hidden, self.kv_heads * self.head_dim, self.layers)
        before = (Tensors(name, "embedding", shape) for name, shape in shapes.items())
        return replace(self, tensors=(*self._frozen(), *before))

    def with_selected(self, own: OwnWeights, shapes: Mapping[str, tuple[int, ...]]) -> ModelSizes:
        """The same model, of which only the weights that are chosen of those in its files, ``shapes``, are trained, and
        a scalar head. Raises WrongTargets where none is.
        """
        scalar = any(one.name == SCORE for one in self.tensors)
        chosen = {name: shape for name, shape in shapes.items() if own.chooses(name)}
        if not chosen:
            raise WrongTargets(
                f"{self.family} has no weight that is called {' or '.join(own.train)}",
                hint=f"it has, for example: {', '.join(_kinds_of_names(shapes)[:8])}",
            )
        selected = [one for one in _from_shapes(chosen) if not (scalar and one.block == "head")]
        return replace(self, tensors=self._frozen(), selected=tuple(selected))

    def _frozen(self) -> tuple[Tensors, ...]:
        return tuple(replace(one, trained=one.name == SCORE) for one in self.tensors)

    def _modules(self, tensors: Tensors) -> tuple[str, ...]:
        """What a linear layer's modules are called: by the family's code, or as the file's own names say."""
        by_family = MODULES.get(self.family)
        return by_family[tensors.name] if by_family else (tensors.name.removesuffix(".weight").rpartition(".")[2],)

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


def sizes_from_config(config: Mapping[str, Any], *, where: str = "config.json") -> ModelSizes:
    """From the contents of a ``config.json``. Raises UserError for an unknown ``model_type`` or a missing key."""
    family = str(config.get("model_type", ""))
    table = FAMILIES.get(family)
    if table is None:
        known = nearest(family, FAMILIES)
        raise UserError(
            f"sizes of model_type {family!r} are not known", where=where, hint=f"nearest: {known}" if known else ""
        )
    try:
        return _assemble(family, table(config), config)
    except KeyError as missing:
        raise UserError(f"has no {missing}, which {family} needs", where=where, hint=COPY_AGAIN) from missing


def sizes_from_init(init: Init) -> ModelSizes:
    """From the recipe's ``init:``."""
    if init.architecture == "t5":
        sizes: dict[str, Any] = {
            "d_model": init.hidden_size,
            "d_ff": init.feed_forward_size,
            "d_kv": init.hidden_size // init.num_heads,
            "num_layers": init.num_layers,
            "num_heads": init.num_heads,
            "feed_forward_proj": "gated-gelu",
        }
    else:
        sizes = {
            "hidden_size": init.hidden_size,
            "intermediate_size": init.feed_forward_size,
            "num_hidden_layers": init.num_layers,
            "num_attention_heads": init.num_heads,
            "num_key_value_heads": init.key_value_heads,
            "max_position_embeddings": init.max_positions,
        }
    said = {"vocab_size": init.vocab_size, "tie_word_embeddings": init.tie_embeddings}
    return sizes_from_config({"model_type": init.architecture, **sizes, **said})


def sizes_from_folder(folder: Path) -> ModelSizes:
    """From a model folder. Raises UserError when neither config.json nor safetensors headers tell."""
    config = read_config(folder)
    if config.get("is_encoder_decoder") and "lm_head.weight" in tensor_shapes(folder):
        config["tie_word_embeddings"] = False  # transformers 5 writes of every T5 that it is tied
    if str(config.get("model_type")) in FAMILIES:
        return sizes_from_config(config, where=str(folder / "config.json"))
    shapes = tensor_shapes(folder)
    if not shapes:
        return sizes_from_config(config, where=str(folder / "config.json"))
    return _assemble(str(config.get("model_type")), _from_shapes(shapes), config)


def sizes_from_path(path: str) -> ModelSizes:
    """Of a folder, of what lies in the hub cache, or of a public model whose sizes are known without it.

    Raises UserError where they are not to be found on this machine.
    """
    folder = local_folder(path)
    if folder is not None:
        return sizes_from_folder(folder)
    config = known_config(path)
    if config is not None:
        return sizes_from_config(config, where=path)
    meant = nearest_known(path)
    hint = f"did you mean {meant}?" if meant else "fetch it first, or give a folder with its config.json"
    raise UserError("is not on this machine, so its sizes are not known", where=path, hint=hint)


def read_config(folder: Path) -> dict[str, Any]:
    """The folder's config.json. Raises UserError when it is missing or no JSON object."""
    path = folder / "config.json"
    try:
        config = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError("is not there: this is not a model folder", where=str(path), hint=COPY_AGAIN) from None
    except (OSError, ValueError) as error:
        raise UserError(f"cannot be read: {error}", where=str(path), hint=COPY_AGAIN) from error
    if not isinstance(config, dict):
        raise UserError("is not a JSON object", where=str(path), hint=COPY_AGAIN)
    return config


def _kinds_of_names(names: Iterable[str]) -> list[str]:
    """Patterns that stand for the names, of all layers together."""
    return list(dict.fromkeys(".".join("*" if part.isdigit() else part for part in one.split(".")) for one in names))


def _assemble(family: str, tensors: Iterable[Tensors], config: Mapping[str, Any]) -> ModelSizes:
    tensors = tuple(tensors)
    hidden = _first(config, "hidden_size", "n_embd", "d_model", default=0)
    heads = _first(config, "num_attention_heads", "n_head", "num_heads", default=1)
    encoder_decoder = "d_kv" in config or bool(config.get("is_encoder_decoder"))
    layers = _first(config, "num_hidden_layers", "n_layer", "num_layers", default=1)
    if encoder_decoder:
        layers += config.get("num_decoder_layers") or layers
    inner = _first(
        config, "moe_intermediate_size", "intermediate_size", "n_inner", "ffn_dim", "d_ff", default=4 * hidden
    )
    return ModelSizes(
        family=family,
        tensors=tensors,
        hidden=hidden,
        layers=layers,
        heads=heads,
        kv_heads=_first(config, "num_key_value_heads", default=heads),
        head_dim=_first(config, "head_dim", "d_kv", default=max(1, hidden // heads)),
        intermediate=inner * (_first(config, "num_experts_per_tok", default=1)),
        vocab=_first(config, "vocab_size", default=0),
        gated=any(tensor.name in ("mlp.gate", "mlp.gate_up", "mlp.experts.gate_up") for tensor in tensors)
        or "gated" in str(config.get("feed_forward_proj")),
        tied=not any(tensor.block == "head" for tensor in tensors),
        encoder_decoder=encoder_decoder,
    )


def _from_shapes(shapes: Mapping[str, tuple[int, ...]]) -> list[Tensors]:
    """Blocks by name: what a number follows is a layer, what is called head or classifier is the head."""
    tensors: dict[tuple[str, Block, tuple[int, ...]], int] = {}
    for name, shape in shapes.items():
        parts = name.split(".")
        block: Block = "embedding" if "embed" in name else "norm"
        if any(part.isdigit() for part in parts):
            block = "layers"
        elif any(word in name for word in ("head", "classifier", "score", "cls")):
            block = "head"
        key = (".".join("*" if part.isdigit() else part for part in parts), block, shape)
        tensors[key] = tensors.get(key, 0) + 1
    return [
        Tensors(name, block, shape, count, linear=block == "layers" and len(shape) == 2 and "embed" not in name)
        for (name, block, shape), count in tensors.items()
    ]


def _first(config: Mapping[str, Any], *names: str, default: int) -> int:
    return next((int(config[name]) for name in names if config.get(name)), default)
