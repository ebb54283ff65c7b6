"""Counts against the real modules, built on the meta device."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from distft.common.errors import UserError
from distft.config.adapters.adalora import AdaLora
from distft.config.adapters.lora import Lora
from distft.config.models import ADAPTERS, Init, Quantization
from distft.planning.model_sizes import (
    ModelSizes,
    WrongTargets,
    sizes_from_config,
    sizes_from_folder,
    sizes_from_init,
)
from tests.unit.launch.examples import LLAMA_8B, LLAMA_70B, config_folder, write_safetensors

SMALL: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 176,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 320,
}
NEOX = {key: value for key, value in SMALL.items() if key != "num_key_value_heads"}
GPT2: dict[str, Any] = {"n_embd": 64, "n_layer": 3, "n_head": 4, "vocab_size": 320, "n_positions": 100}
OPT: dict[str, Any] = {
    "hidden_size": 64, "ffn_dim": 176, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 320,
    "max_position_embeddings": 50, "word_embed_proj_dim": 64,
}  # fmt: skip
T5 = {"d_model": 64, "d_kv": 16, "d_ff": 176, "num_layers": 3, "num_heads": 4, "vocab_size": 320}
FLAN_T5_BASE = {
    "model_type": "t5", "d_model": 768, "d_kv": 64, "d_ff": 2048, "num_layers": 12, "num_heads": 12,
    "vocab_size": 32128, "feed_forward_proj": "gated-gelu",
}  # fmt: skip
CASES: list[tuple[str, str, dict[str, Any]]] = [
    ("LlamaConfig", "AutoModelForCausalLM", SMALL),
    ("LlamaConfig", "AutoModelForCausalLM", SMALL | {"tie_word_embeddings": True}),
    ("LlamaConfig", "AutoModelForCausalLM", SMALL | {"attention_bias": True, "mlp_bias": True, "head_dim": 8}),
    ("MistralConfig", "AutoModelForCausalLM", SMALL),
    ("Qwen2Config", "AutoModelForCausalLM", SMALL),
    ("Qwen3Config", "AutoModelForCausalLM", SMALL | {"head_dim": 32}),
    ("GemmaConfig", "AutoModelForCausalLM", SMALL | {"head_dim": 32}),
    ("Gemma2Config", "AutoModelForCausalLM", SMALL | {"head_dim": 32}),
    ("Gemma3TextConfig", "AutoModelForCausalLM", SMALL | {"head_dim": 32}),
    ("SmolLM3Config", "AutoModelForCausalLM", SMALL | {"pad_token_id": 0}),
    ("Phi3Config", "AutoModelForCausalLM", SMALL | {"pad_token_id": 0}),
    ("MixtralConfig", "AutoModelForCausalLM", SMALL | {"num_local_experts": 4}),
    ("Qwen3MoeConfig", "AutoModelForCausalLM",
     SMALL | {"num_experts": 4, "moe_intermediate_size": 48, "head_dim": 16}),
    ("GPT2Config", "AutoModelForCausalLM", GPT2),
    ("GPTNeoXConfig", "AutoModelForCausalLM", NEOX),
    ("OPTConfig", "AutoModelForCausalLM", OPT),
    ("OPTConfig", "AutoModelForCausalLM", OPT | {"word_embed_proj_dim": 32}),
    ("T5Config", "AutoModelForSeq2SeqLM", T5),
    ("T5Config", "AutoModelForSeq2SeqLM", T5 | {"feed_forward_proj": "gated-gelu", "num_decoder_layers": 2}),
    ("MT5Config", "AutoModelForSeq2SeqLM", T5),
    ("BertConfig", "AutoModelForSequenceClassification", NEOX),
    ("BertConfig", "AutoModelForMaskedLM", NEOX),
    ("T5Config", "AutoModelForSequenceClassification", T5),
    ("MT5Config", "AutoModelForSequenceClassification", T5),
    ("LlamaConfig", "AutoModelForSequenceClassification", SMALL),
    ("Qwen2Config", "AutoModelForSequenceClassification", SMALL),
]  # fmt: skip


@pytest.mark.parametrize(("config_class", "model_class", "keys"), CASES)
def test_counts_are_the_real_modules(config_class: str, model_class: str, keys: dict[str, Any]) -> None:
    import torch
    import transformers

    config = getattr(transformers, config_class)(**keys)
    config.num_labels = 1
    with torch.device("meta"):
        module = getattr(transformers, model_class).from_config(config)
    real = [parameter.numel() for parameter in module.parameters()]

    sizes = sizes_from_config(config.to_dict())
    if model_class.endswith("SequenceClassification"):
        sizes = sizes.with_head("score")

    assert sizes.total == sum(real)
    assert sizes.largest == max(real)
    for threshold in (100, 5_000, 12_000):
        assert sizes.small(threshold, size=1) == sum(numel for numel in real if numel <= threshold)


@pytest.mark.parametrize(("config_class", "keys"), [("BertConfig", NEOX), ("LlamaConfig", SMALL)])
def test_without_a_head(config_class: str, keys: dict[str, Any]) -> None:
    import torch
    import transformers

    config = getattr(transformers, config_class)(**keys)
    with torch.device("meta"):
        module = transformers.AutoModel.from_config(config)
    sizes = sizes_from_config(config.to_dict()).with_head("none")
    assert sizes.total == sum(parameter.numel() for parameter in module.parameters())
    unread = sum(parameter.numel() for name, parameter in module.named_parameters() if name.startswith("pooler."))
    assert sizes.trained.total == sizes.total - unread
    assert sizes.vocab_head == 0


@pytest.mark.parametrize("targets", ["all-linear", ("q_proj", "down_proj"), ("fc1",)])
@pytest.mark.parametrize(("config_class", "model_class", "keys"), CASES)
def test_adapters_are_those_of_the_real_modules(
    config_class: str, model_class: str, keys: dict[str, Any], targets: Any
) -> None:
    import torch
    import transformers

    from distft.models.adapters.adapt import add_adapters, is_adapter

    lora = Lora(r=3, target_modules=targets)
    config = getattr(transformers, config_class)(**keys)
    config.num_labels = 1
    module = getattr(transformers, model_class).from_config(config)
    names = {name.rpartition(".")[2] for name, part in module.named_modules() if isinstance(part, torch.nn.Linear)}
    if targets != "all-linear" and not names.issuperset(targets):
        with pytest.raises(UserError, match="has no linear layer"):
            add_adapters(module, lora, dropout=False, seed=1)
        return
    add_adapters(module, lora, dropout=False, seed=1)
    sizes = sizes_from_config(config.to_dict())
    if model_class.endswith("SequenceClassification"):
        sizes = sizes.with_head("score")
    sizes = sizes.with_adapters(lora)
    assert sizes.total == sum(parameter.numel() for parameter in module.parameters())
    assert sizes.trained.total == sum(p.numel() for p in module.parameters() if p.requires_grad)
    ranks = [p.shape[0] for name, p in module.named_parameters() if is_adapter(name) and ".lora_A." in name]
    assert sizes.kept_by_adapters == (sum(ranks), 0)


@pytest.mark.parametrize("kind", [
    {"method": "prompt"}, {"method": "p_tuning", "encoder_hidden_size": 24}, {"method": "prefix"},
    {"method": "prefix", "projection": True}, {"method": "prefix", "projection": True, "encoder_hidden_size": 24},
], ids=str)  # fmt: skip
def test_virtual_tokens_are_those_of_the_real_modules(kind: dict[str, Any]) -> None:
    import torch
    import transformers

    from distft.models.adapters.adapt import add_adapters

    adapter: Any = ADAPTERS[kind["method"]](**kind)
    config = transformers.LlamaConfig(**SMALL)
    with torch.device("meta"):
        module = transformers.LlamaForCausalLM(config)
    add_adapters(module, adapter, dropout=False, seed=1)
    sizes = sizes_from_config(config.to_dict()).with_virtual_tokens(adapter)
    assert sizes.total == sum(parameter.numel() for parameter in module.parameters())
    assert sizes.trained.total == sum(p.numel() for p in module.parameters() if p.requires_grad)


@pytest.mark.parametrize("kind", [
    {"method": "bottleneck", "bottleneck_size": 5}, {"method": "parallel"},
    {"method": "bottleneck", "target_modules": ("down_proj",)},
], ids=str)  # fmt: skip
@pytest.mark.parametrize(("config_class", "keys"), [("LlamaConfig", SMALL), ("GPTNeoXConfig", NEOX)])
def test_small_networks_are_those_of_the_real_modules(
    config_class: str, keys: dict[str, Any], kind: dict[str, Any]
) -> None:
    import torch
    import transformers

    from distft.models.adapters.adapt import add_adapters

    adapter: Any = ADAPTERS[kind["method"]](**kind)
    config = getattr(transformers, config_class)(**keys)
    with torch.device("meta"):
        module = transformers.AutoModelForCausalLM.from_config(config)
    if "target_modules" in kind and config_class != "LlamaConfig":
        with pytest.raises(WrongTargets, match="has no linear layer down_proj"):
            sizes_from_config(config.to_dict()).with_adapters(adapter)
        return
    add_adapters(module, adapter, dropout=False, seed=1)
    sizes = sizes_from_config(config.to_dict()).with_adapters(adapter)
    assert sizes.total == sum(parameter.numel() for parameter in module.parameters())
    assert sizes.trained.total == sum(p.numel() for p in module.parameters() if p.requires_grad)


def test_what_a_search_trains_and_holds() -> None:
    import torch
    import transformers

    from distft.engine.rank_search import RankSearch
    from distft.models.adapters.adapt import add_adapters

    adalora, config = AdaLora(method="adalora", r=3, target_r=2), transformers.LlamaConfig(**SMALL)
    with torch.device("meta"):
        module = transformers.LlamaForCausalLM(config)
    before = {name for name, _ in module.named_buffers()}
    add_adapters(module, adalora, dropout=False, seed=1)
    RankSearch(module, adalora)
    sizes = sizes_from_config(config.to_dict()).with_adapters(adalora)
    assert sizes.trained.total == sum(p.numel() for p in module.parameters() if p.requires_grad)
    counts = sum(p.numel() for name, p in module.named_parameters() if ".ranknum." in name)
    seen = sum(b.numel() for name, b in module.named_buffers() if name not in before and b.is_floating_point())
    assert sizes.held_by_adapters == seen + counts
    assert sizes.total + counts == sum(p.numel() for p in module.parameters())


def test_what_adapters_began_as_is_held_whole() -> None:
    import torch
    import transformers

    from distft.models.adapters.adapt import add_adapters

    config = transformers.LlamaConfig(**SMALL)
    with torch.device("meta"):
        module = transformers.LlamaForCausalLM(config)
    before = {name for name, _ in module.named_buffers()}
    lora = Lora(r=3, init="pissa")
    add_adapters(module, lora, dropout=False, seed=1)
    sizes = sizes_from_config(config.to_dict()).with_adapters(lora)
    held = sum(buffer.numel() for name, buffer in module.named_buffers() if name not in before)
    assert held == sizes.held_by_adapters > 0
    frozen, trained = sizes_from_config(config.to_dict()).with_adapters(Lora(r=3)), sizes.trained.total
    assert (frozen.trained.total, frozen.held_by_adapters) == (trained, 0)


def test_layers_of_a_family_that_only_its_files_know(tmp_path: Path) -> None:
    """By the names in the safetensors headers."""
    config_folder(tmp_path, {"model_type": "novel", "hidden_size": 8, "num_hidden_layers": 2, "vocab_size": 9})
    shapes = {f"model.layers.{n}.{name}.weight": (8, 8) for n in range(2) for name in ("attn.query", "mlp.wide")}
    write_safetensors(tmp_path / "model.safetensors", {"model.embed.weight": (9, 8), **shapes})
    sizes = sizes_from_folder(tmp_path)
    assert sizes.with_adapters(Lora(r=2, target_modules=("query",))).trained.total == 2 * 2 * 16
    assert sizes.with_adapters(Lora(r=2)).trained.total == 4 * 2 * 16
    with pytest.raises(WrongTargets, match=r"novel has no linear layer qury\n.*did you mean query\?"):
        sizes.with_adapters(Lora(target_modules=("qury",)))


def test_four_bits_are_two_weights_a_byte_and_their_scales() -> None:
    """Dettmers et al. 2023, section 3: the second quantization takes scales from 0.5 bits a weight to 0.127."""
    sizes = sizes_from_config(LLAMA_8B)
    linear = sum(tensors.total for tensors in sizes.tensors if tensors.linear)
    double, single = (sizes.in_four_bits(Quantization(double=double)) for double in (True, False))
    assert double.total == sizes.total
    assert double.stored(2) == linear // 2 + 2 * (sizes.total - linear)
    assert 8 * double.constants / linear == pytest.approx(0.127, abs=0.001)
    assert 8 * single.constants / linear == pytest.approx(0.5, abs=0.001)
    assert sizes.constants == 0


def test_what_is_saved_by_transformers_is_enough(tmp_path: Path) -> None:
    """config.json leaves defaults out: the ones that counts depend on must be known here."""
    import transformers

    for config in (transformers.LlamaConfig(**SMALL), transformers.GPT2Config(**GPT2), transformers.OPTConfig(**OPT)):
        folder = tmp_path / config.model_type
        config.save_pretrained(folder)
        assert sizes_from_folder(folder) == sizes_from_config(config.to_dict())


@pytest.mark.parametrize(("tied", "millions"), [(True, 222.9), (False, 247.6)])
def test_flan_t5_base_as_in_the_textbook(tied: bool, millions: float) -> None:
    sizes = sizes_from_config({**FLAN_T5_BASE, "tie_word_embeddings": tied})
    assert sizes.total / 1e6 == pytest.approx(millions, abs=0.05)
    assert sizes.tied is tied
    assert sizes.encoder_decoder
    assert sizes.layers == 24


def test_well_known_llamas_have_their_known_sizes() -> None:
    assert sizes_from_config(LLAMA_8B).total == 8_030_261_248
    assert sizes_from_config(LLAMA_70B).total == 70_553_706_496


def test_blocks_add_up() -> None:
    sizes = sizes_from_config({"model_type": "llama", **SMALL, "tie_word_embeddings": False})
    assert sizes.of("embedding") == sizes.of("head") == 320 * 64
    assert sizes.of("norm") == 64
    assert sizes.stored_at_once(2) == 2 * max(sizes.of("layers") // 3, sizes.largest)
    assert sum(sizes.of(block) for block in ("embedding", "layers", "norm", "head")) == sizes.total


def test_scalar_head_takes_the_vocabulary_head_away_but_not_a_tied_embedding() -> None:
    untied = sizes_from_config({"model_type": "llama", **SMALL, "tie_word_embeddings": False})
    tied = sizes_from_config({"model_type": "llama", **SMALL, "tie_word_embeddings": True})
    assert untied.with_head("score").total == tied.with_head("score").total == tied.total + 64


def test_init_is_the_llama_that_it_describes() -> None:
    init = Init(hidden_size=64, num_layers=3, num_heads=4, num_kv_heads=2, vocab_size=320, intermediate_size=176)
    assert (
        sizes_from_init(init).total
        == sizes_from_config({"model_type": "llama", **SMALL, "tie_word_embeddings": True}).total
    )
    wide = sizes_from_init(Init(hidden_size=64, num_layers=1, num_heads=4, vocab_size=320))
    assert wide.intermediate == 256
    assert wide.kv_heads == 4


def test_unknown_architecture_is_counted_from_the_headers(tmp_path: Path) -> None:
    folder = config_folder(tmp_path / "m", {"model_type": "newfangled", "hidden_size": 8, "vocab_size": 10})
    shapes = {"model.embed_tokens.weight": (10, 8), "model.layers.0.w": (8, 8), "model.layers.1.w": (8, 8),
              "norm.weight": (8,), "lm_head.weight": (10, 8)}  # fmt: skip
    write_safetensors(folder / "model.safetensors", shapes)
    sizes = sizes_from_folder(folder)
    assert sizes.total == 80 + 64 + 64 + 8 + 80
    assert (sizes.of("embedding"), sizes.of("layers"), sizes.of("head")) == (80, 128, 80)


def test_unknown_architecture_without_weights_is_an_error_that_names_the_nearest(tmp_path: Path) -> None:
    folder = config_folder(tmp_path / "m", {"model_type": "lama", "hidden_size": 8})
    with pytest.raises(UserError, match="lama") as caught:
        sizes_from_folder(folder)
    assert "llama" in caught.value.hint


def test_missing_key_is_named() -> None:
    with pytest.raises(UserError, match="num_hidden_layers"):
        sizes_from_config({"model_type": "llama", "hidden_size": 8})


def test_torn_config_is_an_error_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": ')
    with pytest.raises(UserError, match="config.json"):
        sizes_from_folder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps([1]))
    with pytest.raises(UserError, match="not a JSON object"):
        sizes_from_folder(tmp_path)


def test_mixtures_compute_with_the_active_experts_only() -> None:
    config = {"model_type": "mixtral", **SMALL, "num_local_experts": 8, "num_experts_per_tok": 2}
    sizes: ModelSizes = sizes_from_config(config)
    assert sizes.intermediate == 2 * 176
