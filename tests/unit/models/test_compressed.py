"""Linear layers in fewer bits: the values that are written, what reads them, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from distft.common.errors import UserError
from distft.config.fewer_bits import SCHEMES
from distft.models.compressed import compress
from tests.unit.models.families import write_family

IDS = torch.arange(3, 15).unsqueeze(0)
FORMATS = {"w4a16": "pack-quantized", "w8a16": "pack-quantized", "int8": "int-quantized", "fp8": "float-quantized"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama whose layers are as wide as groups are, and twice that."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(
        hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4, vocab_size=96,
        tie_word_embeddings=False,
    ))  # fmt: skip
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
    path = tmp_path_factory.mktemp("compressed") / "model"
    model.save_pretrained(path)
    return path


def rounded(weight: torch.Tensor, scheme: str) -> torch.Tensor:
    """``[out, in]`` to the nearest of the values that the scheme has, worked out once more."""
    groups = weight.view(len(weight), -1, 128 if scheme == "w4a16" else weight.shape[1])
    largest = groups.abs().amax(dim=-1, keepdim=True)
    if scheme == "fp8":
        scales = largest / 448
        values = (groups / scales).to(torch.float8_e4m3fn).float()
    else:
        bits = 4 if scheme == "w4a16" else 8
        scales = largest / ((2**bits - 1) / 2)
        values = (groups / scales).round().clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return (values * scales).view_as(weight)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_weights_are_rounded_to_the_nearest_and_read_again(folder: Path, tmp_path: Path, scheme: str) -> None:
    compress(folder, tmp_path, scheme)
    said = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
    assert (said["quant_method"], said["format"], said["ignore"]) == (
        "compressed-tensors", FORMATS[scheme], ["lm_head"],
    )  # fmt: skip
    plain: Any = AutoModelForCausalLM.from_pretrained(folder).eval()
    read: Any = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        unlike, found = plain(input_ids=IDS).logits, read(input_ids=IDS).logits  # the first pass unpacks weights
        for name, parameter in plain.named_parameters():
            wanted = rounded(parameter, scheme) if "_proj" in name else parameter
            torch.testing.assert_close(read.get_parameter(name), wanted, rtol=1e-5, atol=1e-6, msg=name)
            parameter.copy_(wanted)
        by_hand = plain(input_ids=IDS).logits
    apart = (found - unlike).abs().mean().item()
    assert 0.001 < apart < 0.5
    # What the layers are multiplied with is rounded too, or it is not.
    exact = scheme in ("w4a16", "w8a16")
    torch.testing.assert_close(found, by_hand, rtol=1e-4, atol=1e-4 if exact else 0.5)


@pytest.mark.parametrize(("architecture", "scheme", "message"), [
    ("llama", "w4a16", r"inputs, which are no whole number of groups of 128"),
    ("gpt2", "int8", r"has no linear layers"),
    ("mixtral", "w8a16", r"stacks its experts in one tensor"),
])  # fmt: skip
def test_what_cannot_be_written_is_refused(
    model_folder: Callable[..., str], tmp_path: Path, architecture: str, scheme: str, message: str
) -> None:
    own = architecture == "mixtral"
    folder = write_family(tmp_path / "model", architecture) if own else model_folder(architecture)
    with pytest.raises(UserError, match=message) as raised:
        compress(Path(folder), tmp_path / "out", scheme)
    assert raised.value.where == f"--quantize {scheme}"
    assert not (tmp_path / "out").exists()
