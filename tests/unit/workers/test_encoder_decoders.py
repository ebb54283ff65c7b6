"""Encoder-decoders learn, answer, are kept and exported as plain transformers would have it, on two ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForSeq2SeqLM

from distft.config.adapters.ia3 import Ia3
from distft.config.adapters.lora import Lora
from distft.config.adapters.prompt import PromptTuning
from distft.config.models import Model
from distft.models.adapters.adapt import add_adapters
from distft.models.families.family import find_family
from tests.unit.engine.group import Group
from tests.unit.models.encoder_decoders import ENCODER_DECODERS, has_own_head, write_encoder_decoder
from tests.unit.workers import encoder_decoder_side as side
from tests.unit.workers.family_side import NEW_TOKENS, live, rows
from tests.unit.workers.test_families import CLOSE, merged

LOSSES: dict[str, tuple[str, dict[str, Any]]] = {
    "sft": ("distft.algorithms.losses.sft:Sft", {}),
    "dpo": ("distft.algorithms.losses.dpo:Dpo", {"beta": 0.1}),
    "orpo": ("distft.algorithms.losses.orpo:Orpo", {"beta": 0.1}),
    "simpo": ("distft.algorithms.losses.simpo:Simpo", {"beta": 2.0, "gamma": 1.0}),
    "cpo": ("distft.algorithms.losses.cpo:Cpo", {"beta": 0.1}),
    "kto": ("distft.algorithms.losses.kto:Kto", {"beta": 0.1}),
}
slow = pytest.mark.slow
MAIN = ("t5", "flan-t5", "bart", "bart-untied")
# Method, model and ZeRO stage.
CELLS = [
    ("sft", "flan-t5", 3),
    ("dpo", "bart", 2),
    *(pytest.param("sft", name, stage, marks=slow) for name in MAIN for stage in (0, 2)),
    *(pytest.param(method, name, 3, marks=slow) for method in LOSSES for name in ("flan-t5", "bart-untied")),
]
KEPT = [("flan-t5", 3), *(pytest.param(name, stage, marks=slow) for name in MAIN for stage in (0, 2, 3))]
ADAPTED = [
    ("t5", Lora(r=4, target_modules=("q", "v"))),
    *(pytest.param(name, Lora(r=4, target_modules="all-linear"), marks=slow) for name in MAIN),
    pytest.param("bart", Lora(r=4, target_modules=("q_proj", "v_proj")), marks=slow),
    *(pytest.param(name, Ia3(method="ia3"), marks=slow) for name in ("t5", "bart")),
]


PROMPT = PromptTuning(method="prompt", num_virtual_tokens=5)
PROMPTED = [("sft", "flan-t5", 3), *(
    pytest.param(method, name, stage, marks=slow) for method, name, stage in (
        ("sft", "flan-t5", 0), ("sft", "t5", 2), ("dpo", "flan-t5", 3), ("sft", "bart", 3), ("dpo", "bart", 2),
    )
)]  # fmt: skip


def logprobs(model: Any, prompt: list[int], response: list[int]) -> torch.Tensor:
    """What transformers says of a response, its row alone."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt]), labels=torch.tensor([response])).logits[0]
    return torch.log_softmax(logits.float(), dim=-1).gather(1, torch.tensor(response)[:, None])[:, 0]


def largest(model: Any, found: dict[int, list[float]], responses: dict[int, list[int]] | None = None) -> float:
    """The largest difference of a token's log-prob to transformers'."""
    assert sorted(found) == list(range(len(rows())))
    wanted = {}
    for sample in found:
        prompt, response = rows()[sample]
        wanted[sample] = logprobs(model, prompt, [int(token) for token in (responses or {}).get(sample, response)])
    return max((wanted[sample] - torch.tensor(values)).abs().max().item() for sample, values in found.items())


@pytest.mark.parametrize(
    "name", [name if name == "flan-t5" else pytest.param(name, marks=slow) for name in ENCODER_DECODERS]
)
def test_a_familys_life(groups: dict[int, Group], tmp_path: Path, name: str) -> None:
    """Sharded, a head of its own stays so from loading to export; the generator says what the trainer says."""
    folder, out = write_encoder_decoder(tmp_path / "start", name), tmp_path / "out"
    answers = groups[2].call(live, folder, str(out))
    start: Any = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    reopened: Any = AutoModelForSeq2SeqLM.from_pretrained(out, dtype=torch.float32).eval()
    responses: Any = merged(answers, "responses")
    assert largest(start, merged(answers, "before")) < CLOSE
    assert all(1 <= len(response) <= NEW_TOKENS for response in responses.values())
    assert largest(start, merged(answers, "sampled"), responses) < CLOSE
    assert largest(reopened, merged(answers, "after")) < CLOSE
    assert largest(start, merged(answers, "after")) > 20 * CLOSE  # it was trained at all
    assert has_own_head(reopened) == has_own_head(start) == ENCODER_DECODERS[name][1]


@pytest.mark.parametrize(("method", "name", "stage"), CELLS)
def test_it_learns_what_plain_transformers_learns(
    groups: dict[int, Group], tmp_path: Path, method: str, name: str, stage: int
) -> None:
    folder, out = write_encoder_decoder(tmp_path / "start", name), tmp_path / "out"
    loss, keys = LOSSES[method]
    steps = groups[2].call(side.learn, folder, str(out), loss, keys, stage, None)[0]
    losses, wanted = side.plainly(folder, loss, keys)
    assert [step["loss"] for step in steps] == pytest.approx(losses, rel=1e-5)
    found = side.weights_of(out)
    assert found.keys() == wanted.keys()
    for key, tensor in wanted.items():
        torch.testing.assert_close(found[key], tensor, rtol=1e-4, atol=0.02 * side.RATE, msg=key)


@pytest.mark.parametrize(("name", "stage"), KEPT)
def test_it_is_kept_bit_for_bit(groups: dict[int, Group], tmp_path: Path, name: str, stage: int) -> None:
    folder, out = write_encoder_decoder(tmp_path / "start", name), tmp_path / "out"
    assert all(groups[2].call(side.kept, folder, str(out), stage))
    before, after = side.weights_of(Path(folder)), side.weights_of(out)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert ("lm_head.weight" in after) == ENCODER_DECODERS[name][1]


@pytest.mark.parametrize(("name", "adapter"), ADAPTED)
def test_adapters_start_at_their_base_and_are_read_by_peft(
    groups: dict[int, Group], tmp_path: Path, name: str, adapter: Lora | Ia3
) -> None:
    """DPO with the adapter-free base as its reference: the first loss is ln 2; merged and by PEFT it is one model."""
    folder, out = write_encoder_decoder(tmp_path / "start", name), tmp_path / "out"
    loss, keys = LOSSES["dpo"]
    steps = groups[2].call(side.learn, folder, str(out), loss, keys, 3, adapter)[0]
    assert steps[0]["loss"] == pytest.approx(0.6931472, abs=1e-5)
    assert steps[-1]["loss"] < steps[0]["loss"]
    start: Any = AutoModelForSeq2SeqLM.from_pretrained(folder)
    by_peft: Any = PeftModel.from_pretrained(start, out / "adapter").eval()
    merged_model: Any = AutoModelForSeq2SeqLM.from_pretrained(out, dtype=torch.float32).eval()
    for prompt, response in rows():
        alike = logprobs(merged_model, prompt, response)
        torch.testing.assert_close(logprobs(by_peft, prompt, response), alike, rtol=0, atol=1e-5)
    assert has_own_head(merged_model) == ENCODER_DECODERS[name][1]


@pytest.mark.parametrize(("method", "name", "stage"), PROMPTED)
def test_virtual_tokens_before_prompts_train_as_pefts(
    groups: dict[int, Group], tmp_path: Path, method: str, name: str, stage: int
) -> None:
    """On two ranks; kept bit for bit, read by PEFT, the base as it was."""
    folder, out = write_encoder_decoder(tmp_path / "start", name), tmp_path / "out"
    alone: Any = find_family("seq2seq").load(folder, Model(path=folder, dtype="float32"), dropout=False).module.model
    add_adapters(alone, PROMPT, dropout=False, seed=0)
    started = alone.virtual_tokens.prompt_embeddings.detach().clone()
    loss, keys = LOSSES[method]
    steps = groups[2].call(side.learn, folder, str(out), loss, keys, stage, PROMPT)[0]
    losses, trained = side.plainly(folder, loss, keys, started)
    assert [step["loss"] for step in steps] == pytest.approx(losses, rel=1e-5)
    [wanted] = trained.values()
    assert (wanted[:5] - started).abs().max() > 0.5 * side.RATE
    by_peft: Any = PeftModel.from_pretrained(AutoModelForSeq2SeqLM.from_pretrained(folder), out / "adapter").eval()
    found = by_peft.prompt_encoder["default"].embedding.weight
    torch.testing.assert_close(found, wanted[:5], rtol=1e-4, atol=0.02 * side.RATE)
    before, after = side.weights_of(Path(folder)), side.weights_of(out)
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert all(groups[2].call(side.kept, folder, str(tmp_path / "kept"), stage, PROMPT))


@slow
@pytest.mark.parametrize("name", ["flan-t5", "bart"])
def test_what_is_generated_behind_virtual_tokens_is_what_peft_says(
    groups: dict[int, Group], tmp_path: Path, name: str
) -> None:
    folder, out = write_encoder_decoder(tmp_path / "start", name), tmp_path / "out"
    answers = groups[2].call(live, folder, str(out), PROMPT)
    base: Any = AutoModelForSeq2SeqLM.from_pretrained(folder)
    by_peft: Any = PeftModel.from_pretrained(base, out / "adapter").eval()
    assert largest(by_peft, merged(answers, "after")) < CLOSE
    responses: Any = merged(answers, "responses")
    with torch.no_grad():  # they were generated before they were trained
        start: Any = find_family("seq2seq").load(folder, Model(path=folder, dtype="float32"), dropout=False).module
        add_adapters(start.model, PROMPT, dropout=False, seed=0)
    assert largest(start.model, merged(answers, "sampled"), responses) < CLOSE
