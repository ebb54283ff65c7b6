"""What a worker sends to its generator: everything first, then what is trained, and never less than that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from distft.config.adapters.lora import Lora
from distft.config.models import Engine, Model
from distft.config.optimizers.adamw import AdamW
from distft.workers import generator_worker
from distft.workers.generator_worker import GeneratorWorker
from distft.workers.spec import RoleSpec
from tests.unit.engine.group import Group
from tests.unit.models import tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = Path(tmp_path_factory.mktemp("model"))
    tiny.tokenizer().save_pretrained(path)
    return tiny.write_model(path, "llama")


def started(rank: int, world: int, folder: str, lora: Lora | None) -> Any:
    """A ZeRO-3 policy that generates from a twin."""
    model = Model(path=folder, dtype="float32", peft=lora, engine=Engine(persistence_threshold=0))
    spec = RoleSpec("policy", model, "causal", AdamW(learning_rate=0.1), longest=32)
    worker = GeneratorWorker(spec=spec, rank=rank, world_size=world)
    worker.setup(("", 0), folder, False)
    return worker


def synced(rank: int, world: int, folder: str, lora: Lora | None) -> dict[str, Any]:
    """Bytes of two syncs with a large step between them, and whether the twin has the trainer's weights after it."""
    worker = started(rank, world, folder, lora)
    first = worker.sync_weights(0)[0].bytes
    engine = worker._engine
    twin = worker._generator.generator.module
    before = {name: parameter.clone() for name, parameter in twin.named_parameters()}
    engine.backward(engine.forward(input_ids=torch.arange(3, 15).unsqueeze(0), select=torch.arange(12)).square().sum())
    engine.step(0.1)
    second = worker.sync_weights(1)[0].bytes
    now = {name.removeprefix("model."): tensor.clone() for name, tensor in engine.full_tensors()}
    return {
        "bytes": (first, second),
        "equal": all(torch.equal(parameter, now[name]) for name, parameter in twin.named_parameters()),
        "moved": {name for name, parameter in twin.named_parameters() if not torch.equal(parameter, before[name])},
        "trained": {name.removeprefix("model.") for name, p in engine.module.named_parameters() if p.requires_grad},
        "elements": {name: tensor.numel() for name, tensor in now.items()},
    }


@pytest.mark.parametrize("lora", [None, Lora(r=4)], ids=["whole", "adapters"])
def test_the_twin_has_the_trainers_weights_and_what_is_frozen_is_sent_once(
    groups: dict[int, Group], folder: str, lora: Lora | None
) -> None:
    for found in groups[2].call(synced, folder, lora):
        elements, trained = found["elements"], found["trained"]
        assert found["bytes"] == (4 * sum(elements.values()), 4 * sum(elements[name] for name in trained))
        assert found["equal"]
        assert found["moved"] == {
            name for name in trained if ".lora_A." not in name
        }  # B was 0, so A has no gradient yet


def synced_short(rank: int, world: int, folder: str, lora: Lora | None) -> str:
    """The error of a twin with one parameter more than the trainer."""
    worker = started(rank, world, folder, lora)
    plain = generator_worker.plain_twin

    def larger(*args: Any, **options: Any) -> Any:
        twin = plain(*args, **options)
        twin.register_parameter("extra", torch.nn.Parameter(torch.zeros(3)))
        return twin

    generator_worker.plain_twin = larger
    try:
        worker.sync_weights(0)
    except ValueError as error:
        return str(error)
    finally:
        generator_worker.plain_twin = plain
    return ""


def test_a_parameter_that_was_not_sent_is_an_error(groups: dict[int, Group], folder: str) -> None:
    assert groups[2].call(synced_short, folder, None) == ["weight sync left out extra"] * 2
