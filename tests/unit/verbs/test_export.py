"""Adapters added to a model with weights: sums by hand, TIES beside PEFT's own, taken out again, and from the command
line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from distft.models.adapters.combining import Combine, Weighted, combine
from tests.harness.speakers import write_speaker
from tests.unit.verbs.conftest import Typed


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(write_speaker(tmp_path_factory.mktemp("combined") / "base"))


@pytest.fixture(scope="module")
def adapters(base: Path) -> dict[str, Path]:
    """LoRA in two sets of layers that overlap, and factors."""
    configs: dict[str, Any] = {
        "first": LoraConfig(r=2, target_modules=["q_proj", "up_proj"]),
        "second": LoraConfig(r=3, lora_alpha=3, target_modules=["q_proj", "down_proj"]),
        "factors": IA3Config(target_modules=["q_proj"], feedforward_modules=[]),
    }
    found = {}
    for number, (name, config) in enumerate(configs.items()):
        torch.manual_seed(number)
        model: Any = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter += 0.3 * torch.randn(parameter.shape)
        model.save_pretrained(base.parent / name)
        found[name] = base.parent / name
    return found


def whole(base: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)


def combined(base: Path, adapters: list[Weighted], how: Combine, density: float) -> Any:
    model = whole(base)
    combine(model, lambda: whole(base), adapters, how, density)
    return model


def update(adapter: Path, name: str) -> torch.Tensor:
    """``scale B A`` of a matrix, from the file."""
    from safetensors.torch import load_file

    said = json.loads((adapter / "adapter_config.json").read_text())
    kept = load_file(adapter / "adapter_model.safetensors")
    found = [key for key in kept if f".{name}.lora_A" in key and "layers.0." in key]
    if not found:
        return torch.zeros(())
    return said["lora_alpha"] / said["r"] * (kept[found[0].replace("lora_A", "lora_B")] @ kept[found[0]])


def layer(model: Any, name: str) -> torch.Tensor:
    [found] = [p for key, p in model.named_parameters() if "layers.0." in key and key.endswith(f"{name}.weight")]
    return found.detach()


@torch.no_grad()
def test_a_sum_by_hand(base: Path, adapters: dict[str, Path]) -> None:
    told = [Weighted(str(adapters["first"]), 1.0), Weighted(str(adapters["second"]), -0.5)]
    model, start = combined(base, told, "sum", 1.0), whole(base)
    for name in ("q_proj", "up_proj", "down_proj", "k_proj"):
        wanted = layer(start, name) + update(adapters["first"], name) - 0.5 * update(adapters["second"], name)
        torch.testing.assert_close(layer(model, name), wanted, rtol=0, atol=1e-6)


def test_where_it_lies_as_json(base: Path, adapters: dict[str, Path], distft: Typed, tmp_path: Path) -> None:
    status, output, error = distft("export", base, tmp_path / "sum", "--adapter", adapters["first"], "--json")
    assert status == 0, error
    assert json.loads(output) == {"folder": str(tmp_path / "sum"), "said": "", "pushed": None}


@torch.no_grad()
def test_ties_worked_by_hand(base: Path, adapters: dict[str, Path]) -> None:
    """Of each difference the larger half; of those that have the sign of their sum, the mean of them times weights."""
    told = [Weighted(str(adapters["first"]), 1.0), Weighted(str(adapters["second"]), 0.5)]
    model, start = combined(base, told, "ties", 0.5), whole(base)
    parts = [update(adapters[name], "q_proj") for name in ("first", "second")]
    for part in parts:
        least = part.abs().flatten().sort(descending=True).values[int(0.5 * part.numel()) - 1]
        part[part.abs() < least] = 0
    signs = torch.where(parts[0] + parts[1] >= 0, 1, -1)
    agree = [part.sign() == signs for part in parts]
    total = parts[0] * agree[0] + 0.5 * parts[1] * agree[1]
    wanted = total / (agree[0].int() + agree[1].int()).clamp(min=1)
    found = layer(model, "q_proj") - layer(start, "q_proj")
    assert ((found - wanted).abs() > 1e-5).float().mean() < 0.01  # where two numbers round to one at the threshold


@torch.no_grad()
def test_what_was_merged_is_taken_out_again(
    base: Path, adapters: dict[str, Path], distft: Typed, tmp_path: Path
) -> None:
    first, out, back = adapters["first"], tmp_path / "out", tmp_path / "back"
    status, said, _ = distft("export", first, out)  # an adapter by itself: its base with it
    assert (status, said) == (0, f"exported to {out}\n")
    torch.testing.assert_close(layer(whole(out), "q_proj"), layer(whole(base), "q_proj") + update(first, "q_proj"))
    status, _, _ = distft("export", out, back, "--adapter", f"{first}=-1")
    assert status == 0
    for (name, start), end in zip(whole(base).named_parameters(), whole(back).parameters(), strict=True):
        torch.testing.assert_close(end, start, rtol=0, atol=1e-6, msg=name)
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= {path.name for path in back.iterdir()}


def test_other_kinds_are_added_too(base: Path, adapters: dict[str, Path], distft: Typed, tmp_path: Path) -> None:
    told = ("--adapter", adapters["factors"], "--adapter", f"{adapters['second']}=0.5")
    assert distft("export", base, tmp_path / "out", *told)[0] == 0
    start, end = whole(base), whole(tmp_path / "out")
    down, query = (0.5 * update(adapters["second"], name) for name in ("down_proj", "q_proj"))
    torch.testing.assert_close(layer(end, "down_proj"), layer(start, "down_proj") + down)
    assert (layer(end, "q_proj") - layer(start, "q_proj") - query).abs().max() > 0.01


@pytest.mark.parametrize(("words", "said"), [
    (["--adapter", "{first}=much"], "much is no weight"),
    (["--adapter", "{first}=0"], "0 is no weight"),
    (["--adapter", "{base}"], "holds no adapter"),
    (["--adapter", "{prompt}"], "no weights can compute what it does (PROMPT_TUNING)"),
    (["--adapter", "{headed}"], "trained score whole"),
    (["--adapter", "{first}", "--combine", "ties", "--density", "0"], "more than 0 and at most 1"),
    (["--adapter", "{first}", "--adapter", "{first}=-1", "--combine", "ties"], "ties keeps what adapters agree on"),
    (["--adapter", "{first}", "--density", "0.5"], "has no effect with --combine sum"),
    (["--combine", "ties"], "is for --adapter"),
])  # fmt: skip
def test_what_is_refused(
    base: Path, adapters: dict[str, Path], distft: Typed, tmp_path: Path, words: list[str], said: str
) -> None:
    for name, config in (("prompt", {"peft_type": "PROMPT_TUNING"}),
                         ("headed", {"peft_type": "LORA", "modules_to_save": ["score"]})):  # fmt: skip
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").write_text(json.dumps(config))
    places = {"base": base, "prompt": tmp_path / "prompt", "headed": tmp_path / "headed", **adapters}
    status, _, error = distft("export", base, tmp_path / "out", *(word.format(**places) for word in words))
    assert status == 2
    assert said in error
    assert not (tmp_path / "out").exists()
