"""Every family computes what transformers computes, is trained, generates and is exported, on one rank and on two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from distft.config.adapters.adalora import AdaLora
from distft.config.adapters.adapter import Adapter
from distft.config.adapters.bottleneck import Bottleneck, Parallel
from distft.config.adapters.ia3 import Ia3
from distft.config.adapters.lora import Lora
from distft.config.adapters.p_tuning import PTuning
from distft.config.adapters.prefix import PrefixTuning
from distft.config.adapters.prompt import PromptTuning
from distft.config.adapters.selective import BitFit, Selective
from distft.launch.preflight.architectures import STATE_SPACE
from distft.models.adapters.adapt import add_adapters
from distft.models.adapters.merging import merge_adapter
from distft.planning.positions import changing_rope
from tests.unit.engine.group import Group
from tests.unit.models import tiny
from tests.unit.models.families import FAMILIES, families, write_family
from tests.unit.workers.family_side import LONGEST, NEW_TOKENS, live, rows

CLOSE = 2e-4  # nats a token, float32


def logprobs(model: Any, prompt: list[int], response: list[int]) -> torch.Tensor:
    """What transformers says of a response, its row alone; with a rope that changes by the longest row of the batch,
    in a row that is padded to the run's longest.
    """
    row, ends = [*prompt, *response], len(prompt) + len(response) - 1
    if changing_rope(model.config.to_dict(), LONGEST):
        row += [tiny.PAD] * (LONGEST - len(row))
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([row])).logits[0, len(prompt) - 1 : ends]
    return torch.log_softmax(logits.float(), dim=-1).gather(1, torch.tensor(response)[:, None])[:, 0]


def merged(answers: list[dict[str, Any]], name: str) -> dict[int, list[float]]:
    return {sample: values for answer in answers for sample, values in answer[name].items()}


def largest(model: Any, found: dict[int, list[float]], responses: dict[int, list[int]] | None = None) -> float:
    """The largest difference of a token's log-prob to transformers'."""
    assert sorted(found) == list(range(len(rows())))
    differences = []
    for sample, values in found.items():
        prompt, response = rows()[sample]
        wanted = logprobs(model, prompt, [int(token) for token in responses[sample]] if responses else response)
        differences.append((wanted - torch.tensor(values)).abs().max().item())
    return max(differences)


@pytest.mark.parametrize("name", families())
def test_a_familys_life(groups: dict[int, Group], tmp_path: Path, name: str) -> None:
    folder = write_family(tmp_path / "start", name)
    start: Any = AutoModelForCausalLM.from_pretrained(folder).eval()
    updates, afterwards = [], []
    for ranks, group in groups.items():
        out = tmp_path / f"out-{ranks}"
        answers = group.call(live, folder, str(out))
        assert largest(start, merged(answers, "before")) < CLOSE
        responses: Any = merged(answers, "responses")
        assert all(1 <= len(response) <= NEW_TOKENS for response in responses.values())
        assert largest(start, merged(answers, "sampled"), responses) < CLOSE
        reopened: Any = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
        assert largest(reopened, merged(answers, "after")) < CLOSE
        assert largest(start, merged(answers, "after")) > 20 * CLOSE  # it was trained at all
        updates.append(answers[0]["update"])
        afterwards.append(merged(answers, "after"))
    assert updates[1] == pytest.approx(updates[0], rel=1e-4)
    one, two = afterwards
    assert all(two[sample] == pytest.approx(one[sample], abs=CLOSE * 5) for sample in one)


ADAPTED = [name for name in FAMILIES if FAMILIES[name][0] not in STATE_SPACE]


@pytest.mark.parametrize("name", families("deepseek_v3", of=ADAPTED))
def test_a_familys_life_with_adapters(groups: dict[int, Group], tmp_path: Path, name: str) -> None:
    """Merged, and by themselves as PEFT reads them."""
    folder, out = write_family(tmp_path / "start", name), tmp_path / "out"
    answers = groups[2].call(live, folder, str(out), Lora(r=4))
    merged_model: Any = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
    assert largest(merged_model, merged(answers, "after")) < CLOSE
    start: Any = AutoModelForCausalLM.from_pretrained(folder)
    by_peft: Any = PeftModel.from_pretrained(start, out / "adapter").eval()
    assert largest(by_peft, merged(answers, "after")) < CLOSE
    with by_peft.disable_adapter():
        assert largest(by_peft, merged(answers, "before")) < CLOSE
        assert largest(by_peft, merged(answers, "after")) > 5 * CLOSE


IA3 = Ia3(method="ia3")
DORA = Lora(r=4, dora=True, loraplus_ratio=4.0)
OF_GPT2 = Ia3(method="ia3", target_modules=("c_attn", "c_proj"), feedforward_modules=("c_proj",))


@pytest.mark.parametrize(("name", "adapter"), [
    ("llama", IA3),
    pytest.param("gpt2", OF_GPT2, marks=pytest.mark.slow),
    pytest.param("llama", DORA, marks=pytest.mark.slow),
    pytest.param("gpt2", DORA, marks=pytest.mark.slow),
    pytest.param("llama", Lora(r=4, init="pissa"), marks=pytest.mark.slow),
    pytest.param("gpt2", Lora(r=4, init="olora"), marks=pytest.mark.slow),
    pytest.param("opt", IA3, marks=pytest.mark.slow),
    pytest.param("gpt_neox", IA3, marks=pytest.mark.slow),
    pytest.param("gpt2", BitFit(method="bitfit"), marks=pytest.mark.slow),
    pytest.param("llama", Selective(method="selective", train=("*norm*", "*.0.mlp.*")), marks=pytest.mark.slow),
])  # fmt: skip
def test_a_life_with_other_adapters(groups: dict[int, Group], tmp_path: Path, name: str, adapter: Any) -> None:
    """Read, generated with, trained, exported; what lies beside its base is read over a fresh one by PEFT."""
    folder, out = write_family(tmp_path / "start", name), tmp_path / "out"
    answers = groups[2].call(live, folder, str(out), adapter)
    start: Any = AutoModelForCausalLM.from_pretrained(folder).eval()
    assert largest(start, merged(answers, "before")) < CLOSE
    responses: Any = merged(answers, "responses")
    assert largest(start, merged(answers, "sampled"), responses) < CLOSE
    reopened: Any = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
    moved = largest(start, merged(answers, "after"))
    assert largest(reopened, merged(answers, "after")) < min(CLOSE, moved / 10)
    assert (out / "adapter").is_dir() is adapter.keeps_base
    if adapter.keeps_base:
        by_peft: Any = PeftModel.from_pretrained(start, out / "adapter").eval()
        assert largest(by_peft, merged(answers, "after")) < min(CLOSE, moved / 10)


@pytest.mark.parametrize("name", families("gpt2", of=["gpt2", "llama"]))
def test_a_life_with_a_search_for_ranks(groups: dict[int, Group], tmp_path: Path, name: str) -> None:
    """Of one rank, which has whole weights."""
    folder, out = write_family(tmp_path / "start", name), tmp_path / "out"
    [answer] = groups[1].call(live, folder, str(out), AdaLora(method="adalora", r=4, target_r=2))
    start: Any = AutoModelForCausalLM.from_pretrained(folder).eval()
    assert largest(start, answer["before"]) < CLOSE
    assert largest(start, answer["sampled"], answer["responses"]) < CLOSE
    reopened: Any = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
    moved = largest(start, answer["after"])
    assert largest(reopened, answer["after"]) < min(CLOSE, moved / 10)
    by_peft: Any = PeftModel.from_pretrained(start, out / "adapter").eval()
    assert largest(by_peft, answer["after"]) < min(CLOSE, moved / 10)


PROMPT = PromptTuning(method="prompt", num_virtual_tokens=3)
PREFIX = PrefixTuning(method="prefix", num_virtual_tokens=3)
BOTTLENECK = Bottleneck(method="bottleneck", bottleneck_size=4)


@pytest.mark.parametrize(("name", "adapter"), [
    ("llama", PROMPT),
    *(pytest.param(name, PROMPT, marks=pytest.mark.slow) for name in ("mistral", "gemma2", "gpt2", "gpt_neox")),
    pytest.param("llama", PTuning(method="p_tuning", num_virtual_tokens=3), marks=pytest.mark.slow),
    *(pytest.param(name, PREFIX, marks=pytest.mark.slow) for name in ("llama", "gpt2")),
    *(pytest.param(name, BOTTLENECK, marks=pytest.mark.slow) for name in ("llama", "opt", "gemma2")),
    pytest.param("gpt_neox", Parallel(method="parallel", bottleneck_size=4), marks=pytest.mark.slow),
])  # fmt: skip
def test_a_life_with_what_cannot_be_merged(
    groups: dict[int, Group], tmp_path: Path, name: str, adapter: Adapter
) -> None:
    """Read, generated with, trained, exported beside its base, which stays what it was."""
    folder, out = write_family(tmp_path / "start", name), tmp_path / "out"
    answers = groups[2].call(live, folder, str(out), adapter)
    plain, start, learned = (AutoModelForCausalLM.from_pretrained(folder).eval() for _ in range(3))
    add_adapters(start, adapter, dropout=False, seed=0)  # a role's own, where none is given
    assert largest(start, merged(answers, "before")) < CLOSE
    responses: Any = merged(answers, "responses")
    assert largest(start, merged(answers, "sampled"), responses) < CLOSE
    moved = largest(start, merged(answers, "after"))
    assert moved > 0
    merge_adapter(learned, str(out / "adapter"))
    assert largest(learned, merged(answers, "after")) < min(CLOSE, moved / 10)
    base: Any = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    assert all(torch.equal(tensor, plain.state_dict()[key]) for key, tensor in base.state_dict().items())
