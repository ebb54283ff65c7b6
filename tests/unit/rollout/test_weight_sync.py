"""Weights into the twin: all of them, under their names, or an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from distft.config.models import Model
from distft.models.families.causal import load_causal
from distft.models.load import plain_twin
from distft.rollout.weight_sync import copy_weights
from tests.unit.models import tiny


@pytest.fixture(params=["tied", "untied"])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, Any]:
    """A trainer's module, not sharded here, and an empty twin."""
    folder = tiny.write_model(tmp_path, "llama", tied=request.param == "tied")
    trainer = load_causal(folder, Model(path=folder, dtype="bfloat16"), dropout=False)
    return trainer, plain_twin(trainer.model, torch.bfloat16, torch.device("cpu"))


def test_every_weight_arrives(pair: tuple[Any, Any]) -> None:
    trainer, twin = pair
    targets = dict(twin.named_parameters())
    named = [(name, parameter.data) for name, parameter in trainer.named_parameters()]
    copied = copy_weights(named, targets)
    assert copied == sum(2 * tensor.numel() for _, tensor in named)
    wanted = trainer.model.state_dict()
    assert set(twin.state_dict()) == set(wanted)
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in twin.state_dict().items())


def test_left_out_unknown_and_misshapen_tensors_raise(pair: tuple[Any, Any]) -> None:
    trainer, twin = pair
    targets = dict(twin.named_parameters())
    named = [(name, parameter.data) for name, parameter in trainer.named_parameters()]
    with pytest.raises(ValueError, match="left out model.norm.weight"):
        copy_weights(
            [(name, tensor) for name, tensor in named if name != "model.model.norm.weight"],
            targets,
        )
    with pytest.raises(KeyError, match="model.extra"):
        copy_weights([*named, ("model.model.extra", torch.zeros(1))], targets)
    with pytest.raises(ValueError, match=r"model.norm.weight is \(1,\), not \(16,\)"):
        copy_weights([(n, t[:1] if n == "model.model.norm.weight" else t) for n, t in named], targets)


def test_only_what_is_asked_for_is_renewed(pair: tuple[Any, Any]) -> None:
    _, twin = pair
    name = "model.norm.weight"
    before = {key: value.clone() for key, value in twin.state_dict().items()}
    tensor = torch.full_like(before[name], 3.0)
    assert copy_weights([(f"model.{name}", tensor)], {name: twin.get_parameter(name)}) == 2 * tensor.numel()
    assert torch.equal(twin.get_parameter(name), tensor)
    assert all(torch.equal(value, before[key]) for key, value in twin.state_dict().items() if key != name)
