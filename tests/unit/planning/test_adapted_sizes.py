"""Counts of what is trained and held beside a model, against the real modules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distft.common.errors import UserError
from distft.config.adapters.adalora import AdaLora
from distft.config.adapters.kinds import ADAPTERS
from distft.config.adapters.lora import Lora
from distft.planning.adapted_sizes import WrongTargets, with_adapters, with_virtual_tokens
from distft.planning.size_sources import sizes_from_config, sizes_from_folder
from tests.unit.launch.examples import config_folder, write_safetensors
from tests.unit.planning.small_configs import CASES, NEOX, SMALL


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
    sizes = with_adapters(sizes, lora)
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
    sizes = with_virtual_tokens(sizes_from_config(config.to_dict()), adapter)
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
            with_adapters(sizes_from_config(config.to_dict()), adapter)
        return
    add_adapters(module, adapter, dropout=False, seed=1)
    sizes = with_adapters(sizes_from_config(config.to_dict()), adapter)
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
    sizes = with_adapters(sizes_from_config(config.to_dict()), adalora)
    assert sizes.trained.total == sum(p.numel() for p in module.parameters() if p.requires_grad)
    counts = sum(p.numel() for name, p in module.named_parameters() if ".ranknum." in name)
    seen = sum(b.numel() for name, b in module.named_buffers() if name not in before and b.is_floating_point())
    assert sizes.held_by_adapters == seen + counts
    assert sizes.total + counts == sum(p.numel() for p in module.parameters())


def test_what_gates_train_and_hold() -> None:
    import torch
    import transformers

    from distft.models.adapters.adapt import add_adapters

    diff: Any = ADAPTERS["diff_pruning"](method="diff_pruning", target_modules=("q_proj", "down_proj"))
    config = transformers.LlamaConfig(**SMALL)
    with torch.device("meta"):
        module = transformers.LlamaForCausalLM(config)
    before = {name for name, _ in module.named_buffers()}
    add_adapters(module, diff, dropout=False, seed=1)
    sizes = with_adapters(sizes_from_config(config.to_dict()), diff)
    assert sizes.trained.total == sum(p.numel() for p in module.parameters() if p.requires_grad)
    assert sizes.total == sum(p.numel() for p in module.parameters())
    held = sum(buffer.numel() for name, buffer in module.named_buffers() if name not in before)
    assert sizes.held_by_adapters == held == sizes.trained.total // 2 > 0


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
    sizes = with_adapters(sizes_from_config(config.to_dict()), lora)
    held = sum(buffer.numel() for name, buffer in module.named_buffers() if name not in before)
    assert held == sizes.held_by_adapters > 0
    frozen, trained = with_adapters(sizes_from_config(config.to_dict()), Lora(r=3)), sizes.trained.total
    assert (frozen.trained.total, frozen.held_by_adapters) == (trained, 0)


def test_layers_of_a_family_that_only_its_files_know(tmp_path: Path) -> None:
    """By the names in the safetensors headers."""
    config_folder(tmp_path, {"model_type": "novel", "hidden_size": 8, "num_hidden_layers": 2, "vocab_size": 9})
    shapes = {f"model.layers.{n}.{name}.weight": (8, 8) for n in range(2) for name in ("attn.query", "mlp.wide")}
    write_safetensors(tmp_path / "model.safetensors", {"model.embed.weight": (9, 8), **shapes})
    sizes = sizes_from_folder(tmp_path)
    assert with_adapters(sizes, Lora(r=2, target_modules=("query",))).trained.total == 2 * 2 * 16
    assert with_adapters(sizes, Lora(r=2)).trained.total == 4 * 2 * 16
    with pytest.raises(WrongTargets, match=r"novel has no linear layer qury\n.*did you mean query\?"):
        with_adapters(sizes, Lora(target_modules=("qury",)))
