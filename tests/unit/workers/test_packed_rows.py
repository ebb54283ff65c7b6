"""Every loss learns from packed rows what it learns from padded ones, however its units are cut into micro-batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from transformers import AutoModelForSequenceClassification, LlamaConfig, LlamaForCausalLM

from distft.algorithms.losses.build import build_loss
from distft.common.addresses import found_at
from distft.common.errors import UserError
from distft.config.adapters.lora import Lora
from distft.config.models import Model
from distft.experience.schedule import schedule
from distft.models.families.family import find_family
from distft.models.load import start_head
from distft.workers.rehearsal import rehearse_model
from distft.workers.spec import RoleSpec, Start
from distft.workers.update import Updater
from tests.harness.loss_cases import FEW_CASES, LOSSES, MORE_CASES
from tests.harness.loss_layouts import (
    CLASSIFIERS,
    EMBEDDERS,
    OPTIMIZER,
    RATE,
    SCALAR,
    TEMPERATURE,
    VOCABULARY,
    case_name,
    made_batch,
)
from tests.harness.plain_engine import PlainEngine
from tests.unit.engine.group import Group
from tests.unit.models.families import write_family
from tests.unit.workers.family_side import LENGTHS, SAMPLES, live
from tests.unit.workers.test_families import CLOSE, merged

PACKED = [
    pytest.param(name, parameters, id=case_name(name, parameters), marks=marks)
    for cases, marks in ((FEW_CASES, ()), (MORE_CASES, pytest.mark.slow))
    for name, parameters in cases
    if name not in EMBEDDERS
]


@pytest.fixture(scope="module")
def alone() -> Iterator[None]:
    """A process group of this process."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A language model, and one with a scalar head."""
    torch.manual_seed(5)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(**sizes, vocab_size=VOCABULARY, pad_token_id=0, initializer_range=0.2, num_labels=1)
    made: dict[str, Any] = {
        "causal": LlamaForCausalLM(config), "scalar": AutoModelForSequenceClassification.from_config(config),
    }  # fmt: skip
    found = {name: str(tmp_path_factory.mktemp(name)) for name in made}
    for name, model in made.items():
        model.save_pretrained(found[name])
    return found


def _learned(
    name: str, parameters: Mapping[str, Any], folders: Mapping[str, str], *, packed: bool, max_tokens: int
) -> tuple[int, dict[str, float], dict[str, torch.Tensor]]:
    """How many micro-batches there were; the metrics of one optimizer step, and its gradients."""
    family_name = "scalar" if name in (*SCALAR, *CLASSIFIERS) else "causal"
    path = folders["scalar" if name in SCALAR else "causal"]
    family = find_family(family_name, tuple(parameters.get("labels", ())), packed=packed)
    model = Model(path=path, dtype="float32")
    loaded = family.load(path, model, dropout=False, new_head=name in CLASSIFIERS)
    for number, (part, parameter) in enumerate(sorted(loaded.new_head.items())):
        start_head(parameter, number, part)
    engine: Any = PlainEngine(loaded.module, OPTIMIZER)
    gradients: dict[str, torch.Tensor] = {}
    step = engine.step

    def looked_at(rate: float) -> float:
        gradients.update({n: p.grad.clone() for n, p in engine.module.named_parameters() if p.grad is not None})
        return float(step(rate))

    engine.step = looked_at
    batch = made_batch(name, shuffled=False)
    lengths = batch.ragged("prompt_ids").lengths + batch.ragged("response_ids").lengths
    plan = schedule(lengths, batch.dense("unit"), 1, max_tokens, packed=packed)
    updater = Updater(engine, family, pad_token=0, num_tokens=VOCABULARY)
    loss = build_loss(found_at(LOSSES[name]), dict(parameters))
    dummies = [(), *plan.micro_batches[0]]
    [metrics] = updater.run(batch, [dummies], loss, temperature=TEMPERATURE, learning_rates=[RATE])
    return plan.num_micro_batches, metrics, gradients


@pytest.mark.parametrize(("name", "parameters"), PACKED)
def test_a_loss_learns_the_same(alone: None, folders: dict[str, str], name: str, parameters: Mapping[str, Any]) -> None:
    _, metrics, gradients = _learned(name, parameters, folders, packed=False, max_tokens=10**6)
    assert metrics["grad_norm"] > 0
    for max_tokens, least in ((10**6, 1), (60, 3)):
        count, found, their = _learned(name, parameters, folders, packed=True, max_tokens=max_tokens)
        assert count >= least
        assert found == pytest.approx(metrics, rel=1e-5, abs=1e-5)
        assert their.keys() == gradients.keys()
        for key, wanted in gradients.items():
            assert (their[key] - wanted).norm() <= 1e-5 * max(float(wanted.norm()), 1e-3), key


@pytest.mark.parametrize(("name", "how"), [
    pytest.param("llama", {"checkpointing": True}, id="checkpointing"),
    pytest.param("gemma2", {}, id="windows", marks=pytest.mark.slow),
    pytest.param("gpt2", {}, id="learned positions", marks=pytest.mark.slow),
    pytest.param("llama", {"adapter": Lora(r=4)}, id="adapters", marks=pytest.mark.slow),
])  # fmt: skip
def test_a_life_on_two_ranks(groups: dict[int, Group], tmp_path: Path, name: str, how: dict[str, Any]) -> None:
    """Read, generated with, trained at ZeRO-3 and exported, beside one whose rows are padded."""
    folder = write_family(tmp_path / "start", name)
    rows = groups[1].call(live, folder, str(tmp_path / "rows"), **how)
    packed = groups[2].call(live, folder, str(tmp_path / "packed"), packed=True, **how)
    lengths = [sum(pair) for pair in LENGTHS]
    assert [rank["widths"] for rank in packed] == [
        [sum(lengths[sample] for sample in micro) for micro in rank] for rank in SAMPLES[2]
    ]
    assert merged(packed, "responses") == merged(rows, "responses")
    assert packed[0]["update"] == pytest.approx(rows[0]["update"], rel=1e-5)
    for column in ("before", "after"):
        for sample, values in merged(rows, column).items():
            assert merged(packed, column)[sample] == pytest.approx(values, abs=CLOSE)


def test_what_cannot_be_packed_is_said_before_any_rank_starts(tmp_path: Path) -> None:
    folder = write_family(tmp_path, "opt")
    model = Model.model_validate({"path": folder, "dtype": "float32", "engine": {"packed": True}})
    spec = RoleSpec("policy", model, "causal", OPTIMIZER, longest=64)
    with pytest.raises(UserError, match=r"models.policy.engine.packed: opt: its attention would see"):
        rehearse_model(spec, Start(folder), new_head=False, exported=False)
