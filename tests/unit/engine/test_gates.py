"""Diff pruning in the engine, beside plain torch as the paper has it, on one rank and two, and gone on with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoModelForCausalLM

from distft.common.errors import UserError
from distft.common.seeding import derive
from distft.config.adapters.diff_pruning import DiffPruning
from distft.engine.gates import Gates
from distft.models.adapters.adapt import add_adapters, is_adapter
from tests.unit.engine import rank_side
from tests.unit.engine.group import Group
from tests.unit.engine.rank_side import RATE, VOCABULARY, Setup
from tests.unit.engine.test_engine import DECAY, STEPS, slow, spread, steps_for

# Gates that begin half closed and move by up to 0.1 in a step.
DIFF = DiffPruning(
    method="diff_pruning", gate_start=1.0, gate_rate_ratio=10.0, sparsity=20.0, target_share=0.1, final_steps=2
)
TIMES = 2  # the steps are taken one time after the other
TOTAL = TIMES * len(STEPS)
SETTLED_AFTER = TOTAL - DIFF.final_steps - 1


class Changed(nn.Module):
    """A layer with ``W + z * w``: plain torch, written as the paper has it (section 3)."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner
        self.values = nn.Parameter(torch.zeros_like(inner.weight))
        self.gates = nn.Parameter(torch.full_like(inner.weight, DIFF.gate_start).flatten())
        self.noise = torch.zeros_like(self.gates)
        self.settled: torch.Tensor | None = None

    def z(self, noise: torch.Tensor) -> torch.Tensor:
        if self.settled is not None:
            return self.settled
        return (torch.sigmoid(self.gates + noise) * 3 - 1.5).clamp(0, 1).view_as(self.values)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.inner.weight + self.z(self.noise) * self.values)


def plainly(folder: str) -> tuple[list[float], list[float], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Norms, penalties, weights and settled gates after the same steps in one process, whole batches at once."""
    torch.set_num_threads(1)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, attention_dropout=0.0, dtype=torch.float32).train()
    model.requires_grad_(False)
    names = [n for n, part in model.named_modules() if isinstance(part, nn.Linear) and n != "lm_head"]
    layers = {name: Changed(model.get_submodule(name)) for name in names}
    for name, layer in layers.items():
        setattr(model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2], layer)
    groups = [
        {"params": [layer.values for layer in layers.values()], "weight_decay": DECAY, "lr": RATE},
        {"params": [layer.gates for layer in layers.values()], "weight_decay": 0.0, "lr": 10 * RATE},
    ]
    optimizer = torch.optim.AdamW(groups, foreach=False, fused=False)
    trained = [p for group in groups for p in group["params"]]
    norms, penalties = [], []
    for number, step in enumerate(STEPS * TIMES):
        for place, layer in enumerate(layers.values()):
            generator = torch.Generator().manual_seed(derive(7, "gates", number, place))
            u = torch.rand(layer.values.shape, generator=generator).flatten()
            layer.noise = torch.log(u) - torch.log1p(-u)
        ids = torch.cat([rank_side.sequence(sample) for rank in step for micro in rank for sample in micro])
        logits = model(input_ids=ids).logits[:, :-1]
        loss = F.cross_entropy(logits.reshape(-1, VOCABULARY), ids[:, 1:].reshape(-1))
        settled = [layer.settled for layer in layers.values()]
        number_open = sum(
            torch.sigmoid(layer.gates).sum() if gates is None else (gates > 0).sum()
            for layer, gates in zip(layers.values(), settled, strict=True)
        )
        penalty = DIFF.sparsity * number_open / sum(layer.values.numel() for layer in layers.values())
        (loss + penalty).backward()
        for parameter in trained:
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        norms.append(float(torch.nn.utils.clip_grad_norm_(trained, 1.0)))
        penalties.append(float(penalty.detach()))
        optimizer.step()
        optimizer.zero_grad()
        if number == SETTLED_AFTER:
            with torch.no_grad():
                medians = [layer.z(0 * layer.noise) for layer in layers.values()]
                changes = [(z * layer.values).abs() for z, layer in zip(medians, layers.values(), strict=True)]
                sizes = torch.cat([change.flatten() for change in changes]).sort(descending=True).values
                least = sizes[round(0.1 * len(sizes)) - 1]
                for layer, z, change in zip(layers.values(), medians, changes, strict=True):
                    layer.settled = torch.where(change >= least, z, 0.0)
    weights = {}
    for name, parameter in model.named_parameters():
        for theirs, ours in ((".inner.", ".base_layer."), (".values", ".pruned_difference.values"),
                             (".gates", ".pruned_difference.gates")):  # fmt: skip
            name = name.replace(theirs, ours)
        weights[f"model.{name}"] = parameter.detach().numpy()
    gates = {f"model.{name}.pruned_difference.settled": layer.settled for name, layer in layers.items()}
    return norms, penalties, weights, {name: found.numpy() for name, found in gates.items() if found is not None}


@pytest.mark.parametrize(("stage", "world_size"), [(2, 2), slow(0, 1), slow(0, 2), slow(1, 1), slow(1, 2), slow(2, 1)])
def test_it_trains_as_the_paper_has_it(groups: dict[int, Group], folder: str, stage: int, world_size: int) -> None:
    norms, penalties, wanted, settled = plainly(folder)
    for answer in groups[world_size].call(
        rank_side.shape, Setup(folder, stage, adapter=DIFF), steps_for(world_size) * TIMES, TOTAL
    ):
        assert answer["norms"] == pytest.approx(norms, rel=1e-5, abs=1e-6)
        assert answer["penalties"] == pytest.approx(penalties, rel=1e-5)
        [found] = answer["weights"]
        mean, most = spread(found, wanted)
        assert mean < 1e-5
        assert most < 0.01 * 10 * RATE
        assert answer["buffers"].keys() == settled.keys()
        for name, gates in settled.items():
            assert ((answer["buffers"][name] > 0) != (gates > 0)).mean() < 0.01, name  # near the threshold
        assert answer["left"][:SETTLED_AFTER] == sorted(answer["left"][:SETTLED_AFTER], reverse=True)
        assert answer["left"][SETTLED_AFTER:] == pytest.approx([0.1] * 3, abs=1e-3)
        assert all(is_adapter(name) for name in found if name.endswith((".values", ".gates")))


@pytest.mark.parametrize(("stage", "dtype", "world_size"), [
    (2, "bfloat16", 2), slow(0, "float32", 2), slow(1, "float32", 2), slow(0, "bfloat16", 1),
])  # fmt: skip
@pytest.mark.parametrize("middle", [2, TOTAL - 1], ids=["drawn", "settled"])
def test_a_checkpoint_knows_what_was_settled(
    groups: dict[int, Group], folder: str, tmp_path: Path, stage: int, dtype: str, world_size: int, middle: int
) -> None:
    setup, steps = Setup(folder, stage, dtype, adapter=DIFF), steps_for(world_size) * TIMES
    told = (setup, steps[:middle], TOTAL, str(tmp_path), steps[middle:])
    for answer in groups[world_size].call(rank_side.shape, *told):
        undisturbed, repeated = answer["weights"]
        assert spread(repeated, undisturbed) == (0.0, 0.0)
        number = len(steps) - middle
        for figures in ("norms", "left", "penalties"):
            assert answer[figures][middle : middle + number] == answer[figures][middle + number :]


def of(folder: str, **keys: Any) -> tuple[Any, Gates]:
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    diff = DIFF.model_copy(update=keys)
    add_adapters(model, diff, dropout=False, seed=1)
    return model, Gates(model, diff, 7)


def test_without_a_target_open_gates_stay_open(folder: str) -> None:
    model, gates = of(folder, target_share=None, final_steps=0)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, parameter in parameters.items():
            if name.endswith(".values"):
                parameter.fill_(0.1)
            elif name.endswith(".gates"):
                parameter.view(-1)[::4] = -3.0  # closed for good
    assert gates.cut(0, 9) == pytest.approx(0.75 * 0.7311 + 0.25 * 0.0474, abs=1e-4)
    assert gates.cut(8, 9) == pytest.approx(0.75)
    assert float(gates.penalty()) == pytest.approx(20 * 0.75)


def test_steps_that_leave_none_for_the_gates(folder: str) -> None:
    _, gates = of(folder)
    gates.require_room(3, "policy")
    with pytest.raises(UserError, match="peft.final_steps: 2 leave none of 2 for the gates"):
        gates.require_room(2, "policy")
