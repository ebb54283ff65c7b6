"""Adapters, over a whole base or a quantized one: the same answer on any layout and beside TRL, kept and resumed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, GenerationConfig

from distft.cli import main
from distft.common.seeding import derive
from distft.config.adapters.lora import Lora
from distft.config.models import Model, Quantization
from distft.launch.named_models import Reading, find_model
from distft.models.adapters.adapt import add_adapters, is_adapter
from distft.models.adapters.merging import merge_adapter
from distft.models.families.causal import load_causal
from distft.models.load import start_head
from distft.models.quantization import as_bitsandbytes, shardable
from distft.rollout.speaker import Speaker
from tests.e2e.conftest import (
    SFT,
    SMALL,
    TINY,
    Start,
    computed,
    dpo,
    events,
    grouped,
    lines,
    ppo,
    starting,
    weights,
)
from tests.e2e.test_resume import disturb, run
from tests.harness import rules
from tests.harness.compare import at_most, largest_metric_difference, largest_weight_difference
from tests.harness.corpus import PAIRS
from tests.harness.jobs import Outcome
from tests.harness.layouts import run_spmd
from tests.harness.matrix import Layouts, outcomes
from tests.harness.recipes import RATE, adapted, dpo_recipe, ppo_recipe, supervised_recipe
from tests.reference.trl_runs import run_trl

pytest_plugins = ["tests.harness.fixtures"]
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

LORA = ("models.policy.peft.method=lora", "models.policy.peft.r=4")
IA3 = ("models.policy.peft.method=ia3",)
DORA = (*LORA, "models.policy.peft.dora=true", "models.policy.peft.loraplus_ratio=4")
PISSA = (*LORA, "models.policy.peft.init=pissa")
OLORA = (*LORA, "models.policy.peft.init=olora", "models.policy.peft.rslora=true")
PROMPT = ("models.policy.peft={method: prompt, num_virtual_tokens: 6}",)
P_TUNING = ("models.policy.peft={method: p_tuning, num_virtual_tokens: 6}",)
PREFIX = ("models.policy.peft={method: prefix, num_virtual_tokens: 6}",)
PROJECTED = ("models.policy.peft={method: prefix, num_virtual_tokens: 6, projection: true}",)
BOTTLENECK = ("models.policy.peft={method: bottleneck, bottleneck_size: 6}",)
PARALLEL = ("models.policy.peft={method: parallel, bottleneck_size: 6}",)
ADALORA = ("models.policy.peft={method: adalora, r: 4, target_r: 2, initial_steps: 1, final_steps: 2}",)
DIFF_PRUNING = (
    "models.policy.peft={method: diff_pruning, gate_start: 1, gate_rate_ratio: 10, target_share: 0.2, final_steps: 2}",
)
SELECTIVE = ("models.policy.peft={method: selective, train: ['*norm*', '*.0.mlp.*']}",)
OTHER_KINDS = {"dora": DORA, "ia3": IA3, "selective": SELECTIVE, "pissa": PISSA, "olora": OLORA}
QUANTIZED = {name: (*LORA, f"models.policy.quantization.method={name}") for name in ("fp4", "int8")}
FOUR_BITS = (*LORA, "models.policy.quantization.method=nf4")
SHARED = "placement.reference.share=policy"


@pytest.fixture(scope="module")
def qlora(sft: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The run folder of a DPO run of adapters over four bits, which are the reference too: one group of two ranks."""
    workplace = tmp_path_factory.mktemp("qlora")
    with starting(workplace) as start:
        yield run(start, *dpo(sft, *FOUR_BITS, SHARED), folder="run")


def test_they_learn_from_where_the_policy_starts(sft: Path, qlora: Path) -> None:
    losses = [line["loss"] for line in lines(qlora, "metrics") if line["split"] == "train"]
    assert losses[0] == pytest.approx(0.6931, abs=1e-4)  # B is 0: the policy is its reference
    assert losses[-1] < 0.69
    start = AutoModelForCausalLM.from_pretrained(sft / "final")
    final = AutoModelForCausalLM.from_pretrained(qlora / "final")
    for name, before in start.named_parameters():
        after = final.get_parameter(name)
        linear = "_proj" in name
        assert torch.equal(before, after) is not linear, name


def test_the_ends_of_a_turn_are_kept(sft: Path, qlora: Path) -> None:
    start, final = (GenerationConfig.from_pretrained(folder / "final") for folder in (sft, qlora))
    assert final.eos_token_id == start.eos_token_id


def test_the_adapter_by_itself_is_what_was_merged(sft: Path, qlora: Path) -> None:
    ids = torch.arange(20, 40).unsqueeze(0)
    base: Any = AutoModelForCausalLM.from_pretrained(
        sft / "final", quantization_config=as_bitsandbytes(Quantization(), torch.float32), dtype=torch.float32
    )
    shardable(base, torch.float32)
    merged: Any = AutoModelForCausalLM.from_pretrained(qlora / "final").eval()
    by_peft: Any = PeftModel.from_pretrained(base, qlora / "final" / "adapter").eval()
    with torch.no_grad():
        wanted = merged(input_ids=ids).logits
        torch.testing.assert_close(by_peft(input_ids=ids).logits, wanted, rtol=1e-4, atol=1e-4)
        with by_peft.disable_adapter():
            assert (by_peft(input_ids=ids).logits - wanted).abs().max() > 1e-3


def test_a_checkpoint_holds_adapters_and_exports_as_the_result(
    qlora: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    last = max((qlora / "checkpoints").glob("step_*"))
    files = sorted(last.rglob("states_*.safetensors"))
    names = {key.rpartition("/")[2] for file in files for key in load_file(file)}
    assert any(map(is_adapter, names))
    assert all(is_adapter(name) or "rotary" in name for name in names)
    assert main(["export", str(last), str(tmp_path / "out")]) == 0
    assert capsys.readouterr().err == ""
    for file in ("model.safetensors", "config.json", "generation_config.json", "adapter/adapter_model.safetensors"):
        assert (tmp_path / "out" / file).read_bytes() == (qlora / "final" / file).read_bytes(), file


def test_the_reference_is_the_policys_own_base(qlora: Path) -> None:
    assert [event["role"] for event in events(qlora, "group_ready")] == ["data", "policy"]
    assert [(event["role"], event["host"]) for event in events(qlora, "guest")] == [("reference", "policy")]
    assert events(qlora, "invariants")[0]["reference_difference"]["max"] == 0


@pytest.mark.slow
def test_a_reference_of_its_own_says_the_same(sft: Path, qlora: Path, start: Start) -> None:
    apart = run(start, *dpo(sft, *FOUR_BITS), folder="apart")
    assert [event["role"] for event in events(apart, "group_ready")] == ["data", "policy", "reference"]
    assert computed(apart) == computed(qlora)
    assert weights(apart) == weights(qlora)


@pytest.mark.slow
@pytest.mark.parametrize("keys", [LORA, DORA, IA3, PISSA, BOTTLENECK],
                         ids=["lora", "dora", "ia3", "pissa", "bottleneck"])  # fmt: skip
def test_ppo_over_a_shared_base(sft: Path, start: Start, keys: tuple[str, ...]) -> None:
    apart = run(start, *ppo(sft, *keys), folder="apart")
    shared = run(start, *ppo(sft, *keys, SHARED), folder="shared")
    assert computed(apart) == computed(shared)
    assert weights(apart) == weights(shared)


@pytest.mark.slow
def test_killed_and_started_again_it_is_the_same_run(sft: Path, qlora: Path, start: Start) -> None:
    disturbed = disturb(start, dpo(sft, *FOUR_BITS, SHARED), "Dpo")
    assert computed(disturbed) == computed(qlora)
    assert weights(disturbed) == weights(qlora)


@pytest.mark.slow
@pytest.mark.parametrize(("keys", "stage"), [
    *(pytest.param(keys, stage, id=f"{name}-{stage}") for stage in (0, 2, 3) for name, keys in OTHER_KINDS.items()),
    pytest.param(ADALORA, 0, id="adalora-0"),
    *(pytest.param(DIFF_PRUNING, stage, id=f"diff_pruning-{stage}") for stage in (0, 2)),
    *(pytest.param(keys, stage, id=f"{name}-{stage}") for stage in (2, 3) for name, keys in QUANTIZED.items()),
])  # fmt: skip
def test_other_kinds_killed_started_again_and_exported(
    sft: Path, start: Start, tmp_path: Path, keys: tuple[str, ...], stage: int
) -> None:
    """The same run, whose last checkpoint is its result; over a fresh base the adapter says what the result says."""
    words = (*SFT[:2], *SFT[2 + len(TINY):], f"models.policy={{path: run:{sft}, dtype: float32}}", *keys)  # fmt: skip
    words = (*words, f"models.policy.engine.zero_stage={stage}", "optimizer.learning_rate=1e-2")
    undisturbed = run(start, *words, folder="undisturbed")
    disturbed = disturb(start, words, "Sft")
    assert computed(disturbed) == computed(undisturbed)
    assert weights(disturbed) == weights(undisturbed) != weights(sft)
    assert main(["export", str(max((undisturbed / "checkpoints").glob("step_*"))), str(tmp_path / "out")]) == 0
    final = undisturbed / "final"
    written = sorted(path.relative_to(final) for path in final.rglob("*") if path.suffix in (".safetensors", ".json"))
    assert all((tmp_path / "out" / file).read_bytes() == (final / file).read_bytes() for file in written)
    assert (Path("adapter/adapter_model.safetensors") in written) is (keys is not SELECTIVE)
    if keys is not SELECTIVE:
        ids = torch.arange(20, 40).unsqueeze(0)
        method: Any = next((name for name, own in QUANTIZED.items() if own is keys), None)
        bits = method and Quantization(method=method)
        model = Model(path=str(sft / "final"), dtype="float32", quantization=bits)
        base: Any = load_causal(str(sft / "final"), model, dropout=False).eval().model
        result: Any = AutoModelForCausalLM.from_pretrained(final).eval()
        with torch.no_grad():
            untrained, wanted = (model(input_ids=ids).logits for model in (base, result))
            read: Any = merge_adapter if keys is DIFF_PRUNING else PeftModel.from_pretrained  # PEFT has none
            by_itself = read(base, str(final / "adapter")).eval()
            torch.testing.assert_close(by_itself(input_ids=ids).logits, wanted, rtol=1e-4, atol=1e-4)
        assert (untrained - wanted).abs().max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 2, 3])
@pytest.mark.parametrize("keys", [PROMPT, P_TUNING, PREFIX, PROJECTED, BOTTLENECK, PARALLEL],
                         ids=["prompt", "p_tuning", "prefix", "mlp", "bottleneck", "parallel"])  # fmt: skip
def test_what_cannot_be_merged_killed_started_again_and_read(
    sft: Path, start: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str], keys: tuple[str, ...], stage: int
) -> None:
    """``final/`` is the base, beside which it lies: verbs that answer read both, training from it is refused."""
    words = (*SFT[:2], *SFT[2 + len(TINY):], f"models.policy={{path: run:{sft}, dtype: float32}}", *keys)  # fmt: skip
    # Few rows at once: a step lasts long enough to be killed in.
    slow_steps = ("train.max_tokens_per_rank=160", "train.global_batch_size=32")
    words = (*words, f"models.policy.engine.zero_stage={stage}", "tracking.samples_every=2", *slow_steps)
    undisturbed = run(start, *words, folder="undisturbed")
    disturbed = disturb(start, words, "Sft")
    assert computed(disturbed) == computed(undisturbed)
    learned = [folder / "final" / "adapter" / "adapter_model.safetensors" for folder in (disturbed, undisturbed)]
    assert learned[0].read_bytes() == learned[1].read_bytes()
    assert weights(undisturbed) == weights(sft)
    assert main(["export", str(max((undisturbed / "checkpoints").glob("step_*"))), str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "adapter" / learned[0].name).read_bytes() == learned[0].read_bytes()

    ids = torch.arange(20, 40).unsqueeze(0)
    base: Any = AutoModelForCausalLM.from_pretrained(undisturbed / "final").eval()
    named = find_model(f"run:{undisturbed}", tmp_path)
    speaker = Speaker.load("it", named.section(Reading(dtype="float32")), adapter=named.adapter)
    with torch.no_grad():
        untrained = base(input_ids=ids).logits
        read: Any = merge_adapter if keys in (BOTTLENECK, PARALLEL) else PeftModel.from_pretrained  # PEFT has none
        wanted = read(base, str(learned[1].parent)).eval()(input_ids=ids).logits[:, -ids.shape[1] :]
        torch.testing.assert_close(speaker.module.model(input_ids=ids).logits, wanted, rtol=1e-4, atol=1e-4)
    assert (untrained - wanted).abs().max() > 1e-3
    capsys.readouterr()
    assert main(["train", "dpo-tiny", f"models.policy.path=run:{undisturbed}", "--dry-run"]) == 2
    assert "is the base of an adapter that cannot be merged" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("keys", [PROMPT, P_TUNING, PREFIX], ids=["prompt", "p_tuning", "prefix"])
def test_dpo_of_virtual_tokens_over_a_shared_base(sft: Path, start: Start, keys: tuple[str, ...]) -> None:
    """The policy does not start as its reference, which is said and is no failure."""
    apart = run(start, *dpo(sft, *keys), folder="apart")
    shared = run(start, *dpo(sft, *keys, SHARED), folder="shared")
    assert computed(apart) == computed(shared)
    assert events(shared, "invariants")[0]["reference_difference"]["max"] > 0
    assert lines(shared, "metrics")[0]["loss"] != pytest.approx(0.6931, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["grpo", "rloo"])
@pytest.mark.parametrize("keys", [PROMPT, PREFIX], ids=["prompt", "prefix"])
def test_virtual_tokens_stand_before_what_is_sampled(
    sft: Path, start: Start, tmp_path: Path, keys: tuple[str, ...], kind: str
) -> None:
    """The invariants compare the generator's log-probabilities with the trainer's in every iteration."""
    shutil.copy(rules.__file__, tmp_path)
    folder = run(start, *grouped(sft, kind=kind), *keys, "optimizer.learning_rate=1e-2", folder="rl")
    assert events(folder, "invariants")
    assert not [*events(folder, "failure"), *events(folder, "generator_differs")]
    assert weights(folder) == weights(sft)
    first, *_, last = [line for line in lines(folder, "metrics") if line["split"] == "train"]
    assert first["grad_norm"] > 0
    assert first["objective/kl"] != pytest.approx(last["objective/kl"], abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("keys", [
    LORA,
    DORA,
    IA3,
    PISSA,
    BOTTLENECK,
    (*PARALLEL, "rollout.weights=sharded"),
    (*SELECTIVE, "models.value.peft=null"),  # which begins with random weights here
    (*FOUR_BITS, "rollout.weights=sharded", "models.policy.engine.zero_stage=2"),
    (*FOUR_BITS, "rollout.weights=sharded"),
], ids=["twin", "dora", "ia3", "pissa", "bottleneck", "parallel", "selective", "own weights", "shards"])  # fmt: skip
def test_ppo_generates_with_the_adapters_that_it_trains(sft: Path, start: Start, keys: tuple[str, ...]) -> None:
    """The invariants compare the generator's log-probabilities with the trainer's in every iteration."""
    folder = run(start, *ppo(sft, *keys), folder="ppo")
    first, *_, last = [line for line in lines(folder, "metrics") if line["split"] == "train"]
    assert first["objective/kl"] == pytest.approx(0.0, abs=1e-6)
    assert last["objective/kl"] != 0
    assert not events(folder, "failure")
    AutoModelForCausalLM.from_pretrained(folder / "final")


@pytest.mark.slow
def test_a_reward_models_head_is_trained_with_its_adapters(sft: Path, start: Start) -> None:
    words = [word.replace("models.policy.", "models.reward.") for word in (*TINY, *LORA)]
    folder = run(start, "train", "reward-tiny", *words, *SMALL, "optimizer.warmup_steps=0", folder="reward")
    final, info = AutoModelForSequenceClassification.from_pretrained(folder / "final", output_loading_info=True)
    assert not info["missing_keys"]
    drawn = torch.empty_like(final.score.weight)
    start_head(drawn, derive(1, "role", "reward"))
    moved = (final.score.weight - drawn).abs().max().item()
    assert 1e-5 < moved < 0.1 * drawn.abs().max().item()  # its own start, and trained
    assert load_file(folder / "final" / "adapter" / "adapter_model.safetensors")["base_model.model.score.weight"].equal(
        final.score.weight
    )


@pytest.mark.slow
def test_sft_thins_out_the_adapters_inputs(start: Start) -> None:
    plain = run(start, *SFT, *LORA, folder="plain")
    thinned = run(start, *SFT, *LORA, "models.policy.peft.dropout=0.5", folder="thinned")
    first, other = (
        [line for line in lines(folder, "metrics") if line["split"] == "train"] for folder in (plain, thinned)
    )
    assert first[0]["loss"] == pytest.approx(other[0]["loss"], rel=1e-5)  # B is 0
    assert first[-1]["loss"] != pytest.approx(other[-1]["loss"], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("quantized", [None, "nf4", "int8"])
def test_any_number_of_ranks_gives_the_same_answer(layouts: Layouts, tmp_path: Path, quantized: str | None) -> None:
    made = {"dpo": dpo_recipe(layouts.starts), "ppo": ppo_recipe(layouts.starts)}
    recipes = {kind: adapted(recipe, quantized) for kind, recipe in made.items()}
    found: dict[int, dict[str, Outcome]] = {}
    for num_ranks in (1, 2, 4):
        jobs = Layouts(tmp_path, layouts.starts).jobs(f"on-{num_ranks}", recipes)
        run_spmd(jobs, num_ranks, tmp_path / f"on-{num_ranks}")
        found[num_ranks] = outcomes(jobs)
    for num_ranks in (2, 4):
        for kind in recipes:
            alone, got = found[1][kind], found[num_ranks][kind]
            assert largest_metric_difference(got.metrics, alone.metrics) <= at_most(1e-5)
            assert got.rollouts == alone.rollouts
            assert largest_weight_difference(got.weights("policy"), alone.weights("policy"), RATE) <= at_most(1.0)


@pytest.mark.slow
def test_dpo_of_adapters_is_trls(layouts: Layouts, tmp_path: Path) -> None:
    start = layouts.starts.policy
    recipe = adapted(supervised_recipe(layouts.starts, {"kind": "dpo"}, role="policy", path=start))
    jobs = Layouts(tmp_path, layouts.starts).jobs("trl", {"dpo": recipe})
    run_spmd(jobs, 1, tmp_path / "trl")
    got = outcomes(jobs)["dpo"]

    def with_our_start(model: Any) -> Any:
        ours = load_causal(str(start), Model(path=str(start), dtype="float32"), dropout=False)
        add_adapters(ours.model, Lora(r=4, alpha=8.0), dropout=False, seed=derive(recipe["seed"], "role", "policy"))
        drawn = {f"base_model.{name}": parameter for name, parameter in ours.named_parameters()}
        peft: Any = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"))
        with torch.no_grad():
            for name, parameter in peft.named_parameters():
                if parameter.requires_grad:
                    parameter.copy_(drawn[name])
        return peft

    trl = run_trl(
        "dpo",
        start,
        PAIRS,
        max_length=96,
        batch_size=4,
        learning_rate=RATE,
        steps=5,
        schedule="linear",
        adapted=with_our_start,
    )
    names = ["loss", "grad_norm", "rewards/chosen", "rewards/margins", "logps/chosen", "logps/rejected"]
    assert trl.logs[-1]["loss"] < trl.logs[0]["loss"] - 1e-3
    assert largest_metric_difference(got.metrics, trl.logs, names) <= at_most(1e-4)
    merged = {name: trl.weights[name] for name in got.weights("policy")}
    assert largest_weight_difference(got.weights("policy"), merged, RATE) <= at_most(5.0)
