"""TRL's trainers, five steps each, against the plain references: proves that both are read rightly."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from tests.reference import supervised_reference as plain
from tests.reference.supervised_reference import Row
from tests.reference.tiny_models import save_llama, train_tokenizer
from tests.reference.trl_runs import Batch, TrlRun, run_trl

STEPS, BATCH, RATE = 5, 4, 1e-3
WORDS = ["red", "green", "blue", "old", "new", "warm", "cold", "quiet"]
THINGS = ["house", "river", "garden", "song", "letter"]
PAIRS = [
    {
        "prompt": f"Tell me of the {thing}.",
        "chosen": f" The {thing} is {word} and I like it." + " Very much." * (i % 3),
        "rejected": f" No {word}.",
    }
    for i, (word, thing) in enumerate((w, t) for t in THINGS for w in WORDS)
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A causal model and one with a scalar head."""
    folder = tmp_path_factory.mktemp("models")
    tokenizer = train_tokenizer((" ".join(pair.values()) for pair in PAIRS), 400)
    return save_llama(folder / "causal", tokenizer), save_llama(folder / "scalar", tokenizer, scalar_head=True)


def assert_close(run: TrlRun, steps: list[plain.Step], names: list[str]) -> None:
    assert len(run.logs) == len(steps) == STEPS
    for log, step in zip(run.logs, steps, strict=True):
        for name in names:
            assert log[name] == pytest.approx(step.metrics[name], abs=1e-4, rel=1e-4), name


def rows_of(batch: Batch) -> list[Row]:
    return [Row(tokens, learned) for tokens, learned in zip(batch.sequences, batch.learned, strict=True)]


def pairs_of(rows: list[Row]) -> list[tuple[Row, Row]]:
    return list(zip(rows[: len(rows) // 2], rows[len(rows) // 2 :], strict=True))


def adamw(model: torch.nn.Module) -> torch.optim.AdamW:
    return torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0)


@pytest.mark.parametrize("kind", ["text", "completion"])
def test_sft(folders: tuple[Path, Path], kind: str) -> None:
    rows = [{"text": p["prompt"] + p["chosen"]} for p in PAIRS]
    if kind == "completion":
        rows = [{"prompt": p["prompt"], "completion": p["chosen"]} for p in PAIRS]
    run = run_trl("sft", folders[0], rows, batch_size=BATCH, learning_rate=RATE, steps=STEPS)
    assert run.rows == list(range(len(rows)))
    assert all(sequence[-1] == 1 for batch in run.batches for sequence in batch.sequences)  # EOS, and learned
    assert all(learned[-1] == 1 for batch in run.batches for learned in batch.learned)
    model = AutoModelForCausalLM.from_pretrained(folders[0], dtype=torch.float32)
    optimizer = adamw(model)
    steps = [plain.sft_step(model, optimizer, rows_of(batch), 1.0) for batch in run.batches]
    assert_close(run, steps, ["loss", "mean_token_accuracy", "grad_norm"])
    for name, weights in model.state_dict().items():
        torch.testing.assert_close(run.weights[name], weights, rtol=1e-4, atol=RATE * 1e-2)


def test_reward(folders: tuple[Path, Path]) -> None:
    run = run_trl("reward", folders[1], PAIRS, batch_size=BATCH, learning_rate=RATE, steps=STEPS)
    model = AutoModelForSequenceClassification.from_pretrained(folders[1], dtype=torch.float32)
    optimizer = adamw(model)
    steps = [
        plain.reward_step(model, optimizer, [(w.tokens, b.tokens) for w, b in pairs_of(rows_of(batch))], 1.0)
        for batch in run.batches
    ]
    assert_close(run, steps, ["loss", "accuracy", "margin", "min_reward", "mean_reward", "max_reward", "grad_norm"])
    # Neither too long nor truncated: a pair with one side over the limit is left out.
    short = run_trl("reward", folders[1], PAIRS, batch_size=BATCH, learning_rate=RATE, steps=1, max_length=20)
    assert 0 < len(short.rows) < len(PAIRS)


def test_dpo(folders: tuple[Path, Path]) -> None:
    run = run_trl("dpo", folders[0], PAIRS, batch_size=BATCH, learning_rate=RATE, steps=STEPS)
    policy, frozen = (AutoModelForCausalLM.from_pretrained(folders[0], dtype=torch.float32) for _ in range(2))
    optimizer = adamw(policy)
    steps = [plain.dpo_step(policy, frozen, optimizer, pairs_of(rows_of(batch)), 1.0) for batch in run.batches]
    names = [f"rewards/{name}" for name in ("chosen", "rejected", "accuracies", "margins")]
    names += [f"{kind}/{side}" for kind in ("logps", "logits") for side in ("chosen", "rejected")]
    assert_close(run, steps, ["loss", "grad_norm", *names])


def test_linear_schedule_as_described(folders: tuple[Path, Path]) -> None:
    rows = [{"text": "a red house"}] * 8
    run = run_trl("sft", folders[0], rows, batch_size=2, learning_rate=1.0, steps=4, schedule="linear")
    assert [log["learning_rate"] for log in run.logs] == pytest.approx([1.0, 0.75, 0.5, 0.25])
