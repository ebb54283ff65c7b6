"""Pre-training from texts to weights: as a plain loop over transformers' own loss, and no document sees another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM

from distft.algorithms.losses.pretrain import Pretrain
from distft.batches import Batch, Ragged
from distft.config.adapters.lora import Lora
from distft.config.data import Data, Source
from distft.config.models import Model
from distft.config.optimizers.adamw import AdamW
from distft.data.dataset import load_datasets
from distft.models.adapters.adapt import add_adapters
from distft.models.families.causal import Causal
from distft.models.packing import keep_apart
from distft.workers.collate import collate
from distft.workers.update import Updater
from tests.harness.plain_engine import PlainEngine
from tests.unit.models import tiny

RATE, LIMIT = 1e-2, 12
OPTIMIZER = AdamW(learning_rate=RATE, max_grad_norm=1.0)


@pytest.fixture
def alone() -> Iterator[None]:
    """A process group of this process."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny.write_model(tmp_path_factory.mktemp("tiny"), "qwen2")


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Batch:
    """Texts of 5 to 40 words, in blocks of at most ``LIMIT``."""
    rng, path = np.random.default_rng(0), tmp_path_factory.mktemp("texts") / "texts.jsonl"
    texts = [" ".join(f"w{word}" for word in rng.integers(3, tiny.VOCABULARY, size)) for size in (5, 40, 12, 23, 11)]
    path.write_text("".join(f'{{"text": "{text}"}}\n' for text in texts))
    data = Data(train=(Source(path=str(path)),), max_length=LIMIT)
    train = load_datasets(data, "pretrain", tiny.tokenizer(), loss_on="all").train
    return train.batch(range(train.num_units))


def engine_of(folder: str, lora: Lora | None = None) -> Any:
    module = Causal().load(folder, Model(path=folder, dtype="float32"), dropout=True).module
    keep_apart(module.model)
    if lora is not None:
        add_adapters(module.model, lora, dropout=True, seed=1)
    return PlainEngine(module, OPTIMIZER)


def updated(
    engine: Any, documents: Batch, step: list[list[int]], steps: int = 3, *, packed: bool = True
) -> list[dict[str, float]]:
    rates = [RATE] * steps
    return Updater(engine, Causal(packed=packed), tiny.PAD).run(
        documents, [step] * steps, Pretrain(), learning_rates=rates
    )


def plain_steps(folder: str, documents: Batch, steps: int) -> tuple[list[float], Any]:
    """A block at a time by transformers' own loss, weighed by its tokens."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).train()
    model.get_input_embeddings().padding_idx = None
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=OPTIMIZER.betas, weight_decay=0.0)
    columns = [documents.ragged(name) for name in ("prompt_ids", "response_ids")]
    rows = [np.concatenate([column[row] for column in columns]) for row in range(len(documents))]
    blocks = [torch.tensor(row, dtype=torch.int64)[None] for row in rows]
    tokens, losses = sum(block.shape[1] - 1 for block in blocks), []
    for _ in range(steps):
        optimizer.zero_grad()
        parts = [model(input_ids=block, labels=block).loss * (block.shape[1] - 1) / tokens for block in blocks]
        torch.stack(parts).sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(sum(part.item() for part in parts))
    return losses, model


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "padded"])
def test_three_steps_are_those_of_a_plain_loop(alone: None, folder: str, documents: Batch, *, packed: bool) -> None:
    wanted, model = plain_steps(folder, documents, 3)
    numbers = list(range(len(documents)))
    for step in ([numbers], [[number] for number in numbers], [numbers[4:], numbers[:4]]):
        engine = engine_of(folder)
        history = updated(engine, documents, step, packed=packed)
        assert [one["loss"] for one in history] == pytest.approx(wanted, rel=1e-5)
        assert [one["perplexity"] for one in history] == pytest.approx(np.exp(wanted).tolist(), rel=1e-4)
        for name, parameter in engine.module.model.named_parameters():
            torch.testing.assert_close(parameter, model.get_parameter(name), rtol=0, atol=1e-4, msg=name)
    assert wanted[-1] < wanted[0]


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "padded"])
def test_a_document_is_as_if_it_were_alone(folder: str, documents: Batch, *, packed: bool) -> None:
    """Whatever else is in its micro-batch, before it, behind it, or of another length."""
    module = engine_of(folder).module.eval()
    rows = range(len(documents))
    with torch.no_grad():
        each = [logprobs(module, documents, [row], packed=packed) for row in rows]
        together = logprobs(module, documents, rows, packed=packed)
        responses = documents.ragged("response_ids")
        reversed_others = [responses[row][::-1] if row else responses[0] for row in rows]
        others = documents.with_columns(response_ids=Ragged.of(reversed_others, np.int32))
        changed = logprobs(module, others, rows, packed=packed)
    np.testing.assert_allclose(together, np.concatenate(each), atol=2e-5)
    own = len(each[0])
    np.testing.assert_array_equal(changed[:own], together[:own])
    assert np.abs(changed[own:] - together[own:]).max() > 0.1


def logprobs(module: Any, batch: Batch, rows: Any, *, packed: bool) -> Any:
    family = Causal(packed=packed)
    micro = collate(family, batch, list(rows), (), tiny.PAD, torch.device("cpu"))
    return family.outputs(module, micro, ("logprobs",), "tokens", 1.0)["logprobs"].numpy()


def test_adapters_learn_it_too(alone: None, folder: str, documents: Batch) -> None:
    engine = engine_of(folder, Lora(r=4))
    before = {name: parameter.clone() for name, parameter in engine.module.named_parameters()}
    history = updated(engine, documents, [list(range(len(documents)))], steps=8)
    assert history[-1]["loss"] < history[0]["loss"]
    moved = {name for name, parameter in engine.module.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved
    assert all("lora_" in name for name in moved)
