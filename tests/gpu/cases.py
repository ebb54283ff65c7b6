"""What is measured: a list of commands, each with a label, and the models and lengths that all of them use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PARTS = ("sft", "dpo", "reward", "ppo", "plan", "sleep", "offload")
# Without fused kernels, as transformers computes.
PLAIN = "models.policy.kernels=none"


@dataclass(frozen=True)
class Size:
    """Of the models (``small``: PPO's four) and of a step."""

    hidden: int
    small: int
    layers: int
    vocabulary: int
    length: int
    rows: int
    prompts: int
    new_tokens: int
    steps: int
    dpo_cap_gib: float  # of the GPU, where roles must sleep
    ppo_cap_gib: float


GPU = Size(2048, 1024, 16, 32_000, 2048, 8, 64, 256, 20, 47.0, 23.0)
TINY = Size(64, 64, 2, 1000, 64, 4, 4, 8, 3, 1.0, 1.0)


@dataclass(frozen=True)
class Case:
    """One measurement. ``program``: distft with a recipe of ``kind`` and ``options`` as overrides, or a loop of TRL's
    or ours with ``options`` as its own. ``cap_gib``: the plan is told of a smaller GPU than there is.
    """

    part: str
    label: str
    program: Literal["distft", "trl", "bare"]
    kind: str
    options: tuple[str, ...] = ()
    cap_gib: float | None = None
    needs_gpu: bool = False


def cases(size: Size) -> list[Case]:
    """All of them, in the order in which they are run."""
    return [*_beside_others(size), *_plan_and_truth(size), *_asleep_and_away(size)]


def _beside_others(size: Size) -> list[Case]:
    """SFT, DPO and the reward model: two micro-batches or one, alike for all; PPO has nobody beside it."""
    found = []
    for kind in ("sft", "dpo", "reward"):
        found.append(Case(kind, f"{kind} distft", "distft", kind, _batch(size, kind)))
        if kind != "reward":
            found.append(Case(kind, f"{kind} distft, no kernels", "distft", kind, (*_batch(size, kind), PLAIN)))
        trl = ((), ("--bf16",), ("--bf16", "--liger"))
        bare = ((), ("--liger",)) if kind != "reward" else ()
        for program, ways in (("trl", trl), ("bare", bare)):
            for way in ways:
                label = " ".join([kind, program, *(word.removeprefix("--") for word in way)])
                found.append(Case(kind, label, program, kind, way, needs_gpu="--liger" in way))  # type: ignore[arg-type]
    lora = ("models.policy.peft.method=lora", "placement.reference.share=policy")
    found.append(Case("dpo", "dpo distft lora, shared reference", "distft", "dpo", (*_batch(size, "dpo"), *lora)))
    found.append(Case("ppo", "ppo distft", "distft", "ppo", _batch(size, "ppo")))
    found.append(Case("ppo", "ppo distft lora, shared reference", "distft", "ppo", (*_batch(size, "ppo"), *lora)))
    return found


def _plan_and_truth(size: Size) -> list[Case]:
    """Ten settings, two of them without kernels too: planned bytes are to be 1.00 to 1.10 of what NVML sees at most."""
    short = ("train.steps=3",)
    checkpointing = "models.policy.gradient_checkpointing=true"
    lora, nf4 = "models.policy.peft.method=lora", "models.policy.quantization.method=nf4"
    settings: list[tuple[str, str, tuple[str, ...], float | None]] = [
        ("full", "sft", (), None),
        ("checkpointing", "sft", (checkpointing,), None),
        ("lora", "sft", (lora,), None),
        ("nf4", "sft", (lora, nf4), None),
        ("shared reference", "dpo", (lora, "placement.reference.share=policy"), None),
        ("offloaded optimizer", "sft", ("models.policy.engine.offload_optimizer=cpu",), None),
        ("dpo", "dpo", (), None),
        ("ppo in turns", "ppo", (), size.ppo_cap_gib),
        ("reward model", "reward", (), None),
        ("float32", "sft", ("models.policy.dtype=float32", checkpointing), None),
    ]
    settings += [(f"{kind}, no kernels", kind, (PLAIN,), None) for kind in ("sft", "dpo")]
    return [
        Case("plan", f"plan {name}", "distft", kind, (*_batch(size, kind), *options, *short), cap)
        for name, kind, options, cap in settings
    ]


def _asleep_and_away(size: Size) -> list[Case]:
    offload = "models.policy.engine.offload_optimizer=cpu"
    return [
        Case("sleep", "dpo that must sleep", "distft", "dpo", _batch(size, "dpo"), size.dpo_cap_gib),
        Case(
            "sleep", "ppo that must sleep", "distft", "ppo", (*_batch(size, "ppo"), "train.steps=4"), size.ppo_cap_gib
        ),
        Case("offload", "sft, optimizer offloaded", "distft", "sft", (*_batch(size, "sft"), offload)),
    ]


def _batch(size: Size, kind: str) -> tuple[str, ...]:
    """``rows`` of a micro-batch; in SFT two of them a step, in PPO ``prompts`` an iteration."""
    rows = {"sft": 2 * size.rows, "dpo": size.rows, "reward": size.rows, "ppo": size.prompts}[kind]
    steps = min(5, size.steps) if kind == "ppo" else size.steps
    return (
        f"train.steps={steps}",
        f"train.global_batch_size={rows}",
        f"train.max_tokens_per_rank={size.rows * size.length}",
    )
