"""What a router chose is chosen again, of every architecture whose routers transformers names; its weights are its
own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, MixtralConfig
from transformers.models.mixtral.modeling_mixtral import MixtralTopKRouter

from distft.common.errors import UserError
from distft.models.routers import Routers
from distft.rollout.generator import Sampling
from distft.rollout.hf import HfGenerator
from distft.rollout.sampling import uniforms
from tests.unit.models import tiny
from tests.unit.models.families import FAMILIES

PROMPTS = [row.numpy().astype(np.int32) for row in tiny.rows((3, 9, 1, 6))]
# Beside those of ``FAMILIES``: weights that are not divided by their sum; groups of experts, of which one is left out.
MIXTURES = {name: FAMILIES[name] for name in ("mixtral", "qwen2_moe", "qwen3_moe", "gpt_oss", "deepseek_v3")} | {
    "olmoe": ("olmoe", tiny.SIZES | {"num_experts": 4, "num_experts_per_tok": 2}),
    "granite": ("granitemoe", tiny.SIZES | {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "deepseek_v3_groups": (
        "deepseek_v3", FAMILIES["deepseek_v3"][1] | {"n_routed_experts": 8, "n_group": 2, "topk_group": 1},
    ),
}  # fmt: skip


def mixture(name: str, **more: Any) -> Any:
    """A model whose experts differ, and whose routers tell tokens apart."""
    kind, sizes = MIXTURES[name]
    special = {"pad_token_id": tiny.PAD, "bos_token_id": tiny.BOS, "eos_token_id": tiny.EOS}
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(
        CONFIG_MAPPING[kind](**sizes | {"vocab_size": tiny.VOCABULARY} | special | more), dtype=torch.float32
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.2)
    return model.eval()


def move_routers(model: Any) -> None:
    """As an update would, but further."""
    torch.manual_seed(8)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "gate.weight" in name or "router" in name:
                parameter.add_(torch.randn(parameter.shape))


@contextmanager
def experts_of(model: Any) -> Iterator[list[Tensor]]:
    """What the modules that hold the experts are told by whoever calls them: ``[tokens, top_k]`` of each, sorted."""
    told: list[Tensor] = []

    def look(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        numbers = [one for one in (*given, *named.values()) if isinstance(one, Tensor) and one.dtype == torch.int64]
        told.append(numbers[0].sort(dim=1).values)

    holders = [part for part in model.modules() if type(part).__name__.endswith("Experts")]
    hooks = [part.register_forward_pre_hook(look, with_kwargs=True) for part in holders]
    yield told
    for hook in hooks:
        hook.remove()


def logprobs(model: Any, prompt: np.ndarray, response: np.ndarray) -> Tensor:
    ids = torch.from_numpy(np.concatenate([prompt, response]).astype(np.int64))[None]
    logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1]
    return torch.log_softmax(logits, dim=-1).gather(1, ids[0, len(prompt) :, None])[:, 0]


@pytest.mark.parametrize("name", MIXTURES)
def test_trained_experts_are_the_sampled_ones(name: str) -> None:
    model = mixture(name)
    with experts_of(model) as told:
        logprobs(model, PROMPTS[0], PROMPTS[1])
        num_layers = len(told)
    routers = Routers(model, "models.policy")
    generator = HfGenerator(
        model, stop_tokens=(tiny.EOS, 40, 41), pad_token=tiny.PAD, synchronized=False, routers=routers
    )
    made = generator.generate(PROMPTS, [uniforms(1, 0, row, 12) for row in range(4)], Sampling(12))
    recorded = made.ragged("routed_experts")
    assert recorded.values.dtype == np.uint8
    assert recorded.values.shape[1] == routers.width == 2 * num_layers
    moved = mixture(name)
    move_routers(moved)
    theirs, changed = Routers(moved, "models.policy"), 0.0
    for row, prompt in enumerate(PROMPTS):
        response = made.ragged("response_ids")[row]
        own, num_tokens = recorded[row], len(prompt) + len(response)
        assert len(own) == num_tokens - 1
        # The last token, which was sampled and not read, goes where the router sends it.
        given = torch.from_numpy(np.concatenate([own, own[:1]]).astype(np.int64))
        known = torch.arange(num_tokens) < num_tokens - 1
        with torch.no_grad(), routers.replaying(given, known):
            again = logprobs(model, prompt, response)
        sampled = torch.from_numpy(made.ragged("sampled_logprobs")[row].copy())
        torch.testing.assert_close(again, sampled, rtol=1e-5, atol=1e-5)
        assert not routers.changed().any(), "the same weights choose the same"
        wanted = [one.sort(dim=1).values for one in given[:-1].split(2, dim=1)]
        with torch.no_grad(), experts_of(moved) as told, theirs.replaying(given, known):
            logprobs(moved, prompt, response)
        assert all(torch.equal(found[:-1], one) for found, one in zip(told, wanted, strict=True))
        told_share = theirs.changed()[:-1]
        with torch.no_grad(), experts_of(moved) as free:
            logprobs(moved, prompt, response)
        if torch.equal(free[0][:-1], wanted[0]):
            continue
        changed += float(told_share.sum())
        # Of the first layer, which nothing before it could have changed, the share is what it would have chosen.
        with torch.no_grad(), theirs.replaying(given, known):
            logprobs(moved, prompt, response)
        first = (free[0][:-1] != wanted[0]).any(dim=1)
        assert (told_share[first] > 0).all()
    assert changed > 0, "moved routers choose other experts when they may"


def test_the_weights_of_given_experts_teach_the_router() -> None:
    """By hand, of one token x and experts 0 and 2 of three, though the router would take 0 and 1: their weights are
    w = sigmoid(l0 - l2) and 1 - w, and what flows into the logits is w (1 - w) and its opposite."""
    holder = nn.Module()
    router = MixtralTopKRouter(MixtralConfig(hidden_size=2, num_local_experts=3, num_experts_per_tok=2))
    holder.gate, holder._can_record_outputs = router, {"router_logits": MixtralTopKRouter}  # type: ignore[assignment]
    with torch.no_grad():
        router.weight.copy_(torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.0, -1.0]]))
    x, worth = torch.tensor([[2.0, 1.0]]), torch.tensor([3.0, -1.0])  # logits 2, 1.5, -1
    assert router(x)[2].tolist() == [[0, 1]]
    routers = Routers(holder, "models.policy")
    with routers.replaying(torch.tensor([[0, 2]]), torch.tensor([True])):
        _, weights, experts = router(x)
    w = 1 / (1 + np.exp(-3.0))
    assert experts.tolist() == [[0, 2]]
    assert weights[0].tolist() == pytest.approx([w, 1 - w], rel=1e-6)
    assert routers.changed().tolist() == [1.0]
    (weights[0] * worth).sum().backward()
    slope = w * (1 - w) * 4.0
    assert router.weight.grad is not None
    assert router.weight.grad.flatten().tolist() == pytest.approx(
        [2 * slope, slope, 0, 0, -2 * slope, -slope], abs=1e-6
    )


def test_what_has_no_experts_or_chooses_otherwise_is_refused(tmp_path: Path) -> None:
    dense = AutoModelForCausalLM.from_pretrained(tiny.write_model(tmp_path))
    with pytest.raises(UserError, match=r"models.policy: LlamaForCausalLM has no routers .* no mixture of experts"):
        Routers(dense, "models.policy")
    model = mixture("mixtral")
    del model.model.layers[0].mlp.gate.num_experts
    with pytest.raises(UserError, match="MixtralTopKRouter does not choose its experts by one topk of all"):
        Routers(model, "models.policy")
    model = mixture("mixtral")
    gate = model.model.layers[0].mlp.gate
    gate.forward = lambda hidden: (None, torch.ones(len(hidden), 2) / 2, torch.zeros(len(hidden), 2, dtype=torch.int64))
    routers = Routers(model, "models.policy")
    with routers.recording(), pytest.raises(UserError, match="MixtralTopKRouter does not choose its experts by one"):
        model(input_ids=torch.arange(3)[None])
