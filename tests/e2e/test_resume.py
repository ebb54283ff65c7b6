"""A run that was ended half-way and started again is the same run, bit for bit."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from itertools import islice
from pathlib import Path

import pytest

from distft.cli import main
from distft.data.builtin import dialogues
from distft.launch.export import export
from distft.models.tokenizer import load_tokenizer
from tests.e2e.conftest import (
    JUDGED,
    SFT,
    SMALL,
    TINY,
    Start,
    Verb,
    checkpoints,
    computed,
    dpo,
    events,
    exit_record,
    grouped,
    lines,
    ppo,
    weights,
)
from tests.harness import rules
from tests.harness.damage import flip
from tests.harness.recipes import GROUP_METHODS
from tests.reference.tiny_models import read_t5, save_t5, train_tokenizer

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


def kill_driver(verb: Verb, stage: str, worker: str = "policy-1") -> None:
    """SIGKILL in the middle of a step: while the policy's ranks are in ``stage``."""
    verb.wait_for_stage(worker, stage)
    os.kill(verb.process.pid, signal.SIGKILL)
    assert verb.end() == -signal.SIGKILL
    print(f"after SIGKILL of the driver nothing was left after {verb.assert_nothing_left():.1f} s")


def assert_same(disturbed: Path, undisturbed: Path) -> None:
    """Weights by their bytes, metrics line by line."""
    assert computed(disturbed) == computed(undisturbed)
    assert weights(disturbed) == weights(undisturbed)


def run(start: Start, *words: str, folder: str) -> Path:
    """To the end."""
    verb = start(*words, folder=folder)
    assert verb.end() == 0, verb.output
    verb.assert_nothing_left()
    return verb.folder


def disturb(start: Start, words: tuple[str, ...], loss: str, updates: int = 1, worker: str = "policy-1") -> Path:
    """Killed in the middle of step 4, whose checkpoint before is of step 2; then started again to the end.

    ``updates``: optimizer steps of the policy in one step.
    """
    verb = start(*words, folder="disturbed")
    kill_driver(verb, f"update {loss} from step {3 * updates}\n", worker)
    assert checkpoints(verb.folder) == [2]
    assert [line["step"] for line in lines(verb.folder, "metrics") if line["split"] == "train"] == [1, 2, 3]
    verb = start(*words, folder="disturbed")
    verb.wait_for(lambda: events(verb.folder, "resume"), "resume")
    assert max(line["step"] for line in lines(verb.folder, "metrics")) <= 3, "step 3 is cut off and done again"
    assert verb.end() == 0, verb.output
    resumed = events(verb.folder, "resume")
    assert [(event["step"], event["attempt"]) for event in resumed] == [(2, 2)]
    return verb.folder


@pytest.mark.slow
def test_dpo_killed_in_the_middle_of_a_step(sft: Path, start: Start) -> None:
    undisturbed = run(start, *dpo(sft), folder="undisturbed")
    assert_same(disturb(start, dpo(sft), "Dpo"), undisturbed)


@pytest.mark.slow
def test_dpo_whose_reference_follows(sft: Path, start: Start) -> None:
    """The checkpoint holds the reference as it was renewed; in the third step it was not."""
    words = dpo(sft, "algorithm.sync_every=2", "algorithm.sync_alpha=0.5", "evaluation.every=3")
    undisturbed = run(start, *words, folder="undisturbed")
    stays = run(start, *dpo(sft, "evaluation.every=3"), folder="stays")
    same, others = (computed(folder) for folder in (undisturbed, stays))
    assert same[:2] == others[:2]
    assert same[-1]["rewards/margins"] != others[-1]["rewards/margins"]
    assert_same(disturb(start, words, "Dpo"), undisturbed)
    assert not (undisturbed / ".passing").exists()
    kept = {path.name for path in (undisturbed / "checkpoints" / "step_00000006" / "reference").iterdir()}
    assert kept == {"weights-00000.safetensors", "names.json"}


@pytest.mark.slow
def test_dpo_with_new_tokens(sft: Path, start: Start, tmp_path: Path) -> None:
    """Policy and reference begin with the same rows for them; they are in the result and in every checkpoint."""
    words = dpo(sft, "models.policy.extend_vocabulary=[Where can I, ' buy a', a lamp]")
    undisturbed = run(start, *words, folder="undisturbed")
    assert_same(disturb(start, words, "Dpo"), undisturbed)
    before, after = (load_tokenizer(str(folder / "final")) for folder in (sft, undisturbed))
    assert len(after("Where can I buy a")["input_ids"]) == 2 < len(before("Where can I buy a")["input_ids"])
    rows = json.loads((undisturbed / "final" / "config.json").read_text())["vocab_size"]
    assert rows == len(after) == len(before) + 3
    exported = export(max((undisturbed / "checkpoints").glob("step_*")), tmp_path / "out").folder
    assert (exported / "model.safetensors").read_bytes() == (undisturbed / "final" / "model.safetensors").read_bytes()
    assert load_tokenizer(str(exported)).get_vocab() == after.get_vocab()


@pytest.mark.slow
def test_dpo_whose_reference_is_kept(sft: Path, start: Start) -> None:
    """As with a group but for rounding; killed while the reference reads, and in a step, it asks nothing twice."""
    # It reads as many pairs at a time as a step has: some thirty times two.
    small = ("train.steps=24", "train.global_batch_size=2", "evaluation.every=12")
    words = dpo(sft, "algorithm.reference=cached", *small)
    undisturbed = run(start, *words, folder="undisturbed")
    assert not list((undisturbed / "logs").glob("reference-*"))
    by_group = run(start, *dpo(sft, *small), folder="group")
    for kept, grouped_line in zip(computed(undisturbed), computed(by_group), strict=True):
        assert kept.pop("split") == grouped_line.pop("split")
        if kept["step"] <= 1:  # whether a margin of nothing is above 0 is rounding
            del kept["rewards/accuracies"], grouped_line["rewards/accuracies"]
        assert kept == pytest.approx(grouped_line, rel=1e-4, abs=1e-5)
    whole = kept_rows(undisturbed)
    verb = start(*words, folder="early")
    verb.wait_for(lambda: kept_rows(verb.folder), "the first rows that the reference has read")
    os.kill(verb.process.pid, signal.SIGKILL)
    verb.end()
    verb.assert_nothing_left()
    some = kept_rows(verb.folder)
    assert whole.startswith(some)
    assert len(some) < len(whole)
    early = run(start, *words, folder="early")
    assert kept_rows(early) == whole
    assert_same(early, undisturbed)
    assert_same(disturb(start, words, "Dpo"), undisturbed)


def kept_rows(folder: Path) -> bytes:
    """The whole lines of the index of what the reference has said."""
    found = b"".join(path.read_bytes() for path in folder.glob("reference/*/index.jsonl"))
    return found[: found.rfind(b"\n") + 1]


@pytest.mark.slow
def test_kto_killed_in_the_middle_of_a_step(sft: Path, start: Start) -> None:
    """The baseline is that of the policy which the checkpoint holds."""
    words = ("train", "kto-tiny", *dpo(sft)[2:])
    undisturbed = run(start, *words, folder="undisturbed")
    assert any(line["kl"] > 0 for line in computed(undisturbed))
    assert_same(disturb(start, words, "Kto"), undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "loss"), [("orpo", "Orpo"), ("simpo", "Simpo"), ("cpo", "Cpo")])
def test_preference_without_a_reference_killed_in_the_middle_of_a_step(
    sft: Path, start: Start, name: str, loss: str
) -> None:
    words = ("train", f"{name}-tiny", *dpo(sft)[2:])
    undisturbed = run(start, *words, folder="undisturbed")
    assert computed(undisturbed)[-1]["rewards/margins"] != 0
    assert_same(disturb(start, words, loss), undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "loss"),
    [("reward", "Reward"), ("classification", "Classification"), ("process-reward", "ProcessReward")],
)
def test_what_scores_killed_in_the_middle_of_a_step(start: Start, name: str, loss: str) -> None:
    """Its head is new, and one that a checkpoint holds when it goes on."""
    tiny = [word.replace("models.policy.", "models.reward.") for word in TINY]
    words = ("train", f"{name}-tiny", *tiny, *SMALL, "optimizer.warmup_steps=0", "tracking.samples_every=0")
    undisturbed = run(start, *words, folder="undisturbed")
    assert "accuracy" in computed(undisturbed)[-1]
    assert_same(disturb(start, words, loss, worker="reward-1"), undisturbed)


@pytest.mark.slow
def test_distill_killed_in_the_middle_of_a_step(sft: Path, start: Start) -> None:
    """The teacher reads the rows of the step again that was under way; nothing of it is in a checkpoint."""
    words = (
        "train", "distill-tiny", *TINY, f"models.teacher.path=run:{sft}", "models.teacher.init=null", *SMALL,
        "algorithm.divergence=js", "optimizer.warmup_steps=0", "tracking.samples_every=0",
    )  # fmt: skip
    undisturbed = run(start, *words, folder="undisturbed")
    rests = [line["teacher_rest"] for line in computed(undisturbed) if "teacher_rest" in line]
    assert all(0 < rest < 1 for rest in rests)
    assert not list(undisturbed.glob("checkpoints/*/teacher"))
    assert_same(disturb(start, words, "Distill"), undisturbed)


@pytest.mark.slow
def test_distill_on_answers_of_its_own_killed_in_the_middle_of_a_step(sft: Path, start: Start) -> None:
    """Which steps are the policy's own, and what it answers in them, follows from what the checkpoint holds."""
    words = (
        "train", "gkd-tiny", *TINY, f"models.teacher.path=run:{sft}", "models.teacher.init=null", *SMALL,
        "optimizer.warmup_steps=0", "tracking.samples_every=0", "rollout.max_new_tokens=12",
        "algorithm.on_policy=0.72",  # with this seed in steps 2, 3 and 6
    )  # fmt: skip
    undisturbed = run(start, *words, folder="undisturbed")
    own = [line["rollout/on_policy"] for line in computed(undisturbed) if line["split"] == "train"]
    assert own == [0, 1, 1, 0, 0, 1], "what is done again, from step 3 on, is of both kinds"
    assert_same(disturb(start, words, "Distill"), undisturbed)


@pytest.mark.slow
def test_a_mixture_killed_in_the_middle_of_a_step(start: Start) -> None:
    """Old rows go on where they were, and each source's loss is told."""
    words = (*SFT, "data.train=[{path: builtin:dialogues, limit: 30}, {path: builtin:sums, share: 0.3}]")
    undisturbed = run(start, *words, folder="undisturbed")
    [last] = [line for line in lines(undisturbed, "metrics") if line["split"] == "train" and line["step"] == 6]
    assert last["epoch"] == pytest.approx(6 * 8 / (30 + 13)), "13 of 43 are 0.3"
    assert {"loss_by_source/dialogues", "loss_by_source/sums"} <= last.keys()
    assert_same(disturb(start, words, "Sft"), undisturbed)


@pytest.mark.slow
def test_noise_on_embeddings_killed_in_the_middle_of_a_step(start: Start) -> None:
    words = (*SFT, "algorithm.neftune_alpha=10.0")
    undisturbed = run(start, *words, folder="undisturbed")
    assert computed(run(start, *SFT, folder="still")) != computed(undisturbed)
    assert_same(disturb(start, words, "Sft"), undisturbed)


@pytest.mark.slow
def test_pretrain_killed_in_the_middle_of_a_step(start: Start) -> None:
    """Blocks of texts, which the tokenised rows keep, packed."""
    words = ("train", "pretrain-tiny", *TINY, *SMALL)
    undisturbed = run(start, *words, folder="undisturbed")
    assert computed(undisturbed)[-1]["perplexity"] > 1
    shares = [line["perf/padding_fraction"] for line in lines(undisturbed, "metrics") if line["split"] == "train"]
    assert shares == [0.0] * 6
    assert_same(disturb(start, words, "Pretrain"), undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlm-tiny", "span-tiny"])
def test_corrupted_texts_killed_in_the_middle_of_a_step(start: Start, name: str) -> None:
    """What is hidden of a text follows from its visit, and from nothing that a checkpoint holds."""
    words = ("train", name, *TINY, *SMALL, "optimizer.warmup_steps=0")
    undisturbed = run(start, *words, folder="undisturbed")
    assert_same(disturb(start, words, "Sft"), undisturbed)


@pytest.mark.slow
def test_ppo_killed_in_the_middle_of_a_step(sft: Path, start: Start) -> None:
    undisturbed = run(start, *ppo(sft), folder="undisturbed")
    assert_same(disturb(start, ppo(sft), "PpoPolicy", updates=4), undisturbed)


@pytest.mark.slow
def test_ppo_beside_other_texts_killed_in_the_middle_of_a_step(sft: Path, start: Start) -> None:
    """Texts go on behind those of the optimizer steps before."""
    words = ppo(sft, "data.ptx=[{path: builtin:stories}]", "algorithm.ptx_coef=0.5", "algorithm.ptx_batch=4")
    undisturbed = run(start, *words, folder="undisturbed")
    assert all(line["ptx/loss"] > 0 for line in computed(undisturbed) if line["split"] == "train")
    assert_same(disturb(start, words, "PpoPtx", updates=4), undisturbed)


@pytest.mark.slow
def test_ppo_of_an_encoder_decoder_killed_in_the_middle_of_a_step(tmp_path: Path, start: Start) -> None:
    """Its value model starts from it, the head new; its own head is one of its own to the end."""
    texts = [turn["content"] for row in islice(dialogues(), 100) for turn in row["messages"]]
    policy = save_t5(tmp_path / "t5", train_tokenizer(texts, 400), seed=1)
    words = ("train", "ppo-tiny", f"models.policy.path={policy}", *ppo("")[3:])
    undisturbed = run(start, *words, folder="undisturbed")
    assert events(undisturbed, "value_start")[0]["path"] == str(policy)
    assert_same(disturb(start, words, "PpoPolicy", updates=4), undisturbed)
    read_t5(undisturbed / "final")


@pytest.mark.slow
def test_ppo_killed_while_it_generates(sft: Path, start: Start) -> None:
    """With what changes from iteration to iteration: an adaptive KL coefficient and normalised scores."""
    words = ppo(sft, "algorithm.kl_target=0.1", "algorithm.score_normalize=true", "algorithm.score_clip=2.0")
    undisturbed = run(start, *words, folder="undisturbed")
    verb = start(*words, folder="disturbed")
    kill_driver(verb, "generate iteration 6\n")
    assert checkpoints(verb.folder) == [2, 4]
    assert_same(run(start, *words, folder="disturbed"), undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("method", GROUP_METHODS)
def test_group_methods_killed_in_the_middle_of_a_step(sft: Path, tmp_path: Path, start: Start, method: str) -> None:
    """Dynamic sampling too, whose iterations take as many prompts as they need, and a reference that follows."""
    shutil.copy(rules.__file__, tmp_path)
    follows = {"sync_every": 3} if method == "online-dpo" else {}
    words = grouped(sft, **GROUP_METHODS[method], **follows)
    undisturbed = run(start, *words, folder="undisturbed")
    loss = {"rloo": "RlooPolicy", "online-dpo": "Dpo", "raft": "Sft"}.get(method, "ClippedPolicy")
    assert_same(disturb(start, words, loss, updates=4), undisturbed)
    refills = [line["rollout/refills"] for line in computed(undisturbed) if "rollout/refills" in line]
    assert any(refills) == (method == "dapo")


@pytest.mark.slow
def test_sft_with_dropout(sft: Path, tmp_path: Path, start: Start) -> None:
    """Random numbers go on where the checkpoint left them, on every rank."""
    model = tmp_path / "model"
    shutil.copytree(sft / "final", model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"attention_dropout": 0.2}))
    (model / "SHA256SUMS").unlink()  # as who changes a result is told to
    words = ("train", "sft-tiny", f"models.policy.path={model}", *SFT[6:])
    undisturbed = run(start, *words, folder="undisturbed")
    still = run(start, *words, f"models.policy.path={sft / 'final'}", folder="still")
    assert computed(undisturbed)[2]["loss"] != computed(still)[2]["loss"], "there was dropout at all"
    assert_same(disturb(start, words, "Sft"), undisturbed)


@pytest.mark.slow
def test_killed_while_a_checkpoint_is_written(sft: Path, start: Start) -> None:
    undisturbed = run(start, *dpo(sft), folder="undisturbed")
    verb = start(*dpo(sft), folder="disturbed")
    verb.wait_for(lambda: list(verb.folder.glob("checkpoints/.staging-step_00000004-*/policy/*")), "a half checkpoint")
    os.kill(verb.process.pid, signal.SIGKILL)
    verb.end()
    verb.assert_nothing_left()
    folder = run(start, *dpo(sft), folder="disturbed")
    assert not list(folder.glob("checkpoints/.staging*"))
    assert_same(folder, undisturbed)


@pytest.mark.slow
def test_a_damaged_checkpoint_is_refused_and_the_one_before_taken(sft: Path, start: Start) -> None:
    undisturbed = run(start, *dpo(sft), folder="undisturbed")
    verb = start(*dpo(sft), folder="disturbed")
    kill_driver(verb, "update Dpo from step 5\n")
    assert checkpoints(verb.folder) == [2, 4]
    flip(verb.folder / "checkpoints" / "step_00000004" / "policy" / "rng_1.pt")
    verb = start(*dpo(sft), folder="disturbed")
    assert verb.end() == 0, verb.output
    assert "policy/rng_1.pt was changed or damaged" in verb.output
    (resumed,) = events(verb.folder, "resume")
    assert resumed["step"] == 2
    assert resumed["rejected"] == ["step_00000004: policy/rng_1.pt was changed or damaged: its hash differs"]
    assert_same(verb.folder, undisturbed)


@pytest.mark.slow
def test_an_explicit_checkpoint_goes_on_to_the_same_end(sft: Path, start: Start) -> None:
    """In a new run folder, from the middle of a finished run."""
    begin = f"checkpoint.resume={sft / 'checkpoints' / 'step_00000004'}"
    folder = run(start, *SFT, *JUDGED, begin, folder="from-4")
    assert weights(folder) == weights(sft)
    known = [line for line in computed(sft) if line["step"] > 4]
    assert computed(folder) == known
    assert checkpoints(folder) == [6]


# ---- what is not the same run


def refused(start: Start, folder: Path, *words: str) -> str:
    """The message with which a command is refused, before anything is started."""
    before = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    verb = start(*words, folder=folder)
    assert verb.end(60) == 2, verb.output
    assert "Traceback" not in verb.output
    assert "starting workers" not in verb.output
    after = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    assert not before or before == after
    return verb.output


def test_a_changed_recipe_is_refused_naming_the_key(sft: Path, start: Start) -> None:
    message = refused(start, sft, *SFT, "optimizer.learning_rate=1e-5")
    assert f"{sft}: the run folder holds a run of another recipe" in message
    assert re.search(r"recipe: optimizer\.learning_rate: 0\.\d+ there, 1e-05 now\n", message)
    assert "checkpoint.resume=never" in message


def test_an_explicit_checkpoint_that_is_not_there_is_refused(sft: Path, start: Start, tmp_path: Path) -> None:
    message = refused(start, tmp_path / "new", *SFT, f"checkpoint.resume={sft / 'checkpoints' / 'step_00000099'}")
    assert f"checkpoint.resume: there is no folder {sft / 'checkpoints' / 'step_00000099'}" in message


def test_a_finished_run_says_so(sft: Path, start: Start) -> None:
    before = (sft / "events.jsonl").read_bytes()
    tag = 'tracking.wandb.tags=["now without"]'  # how a run is watched may change
    verb = start(*SFT, tag, folder=sft)
    assert verb.end(60) == 0
    assert f"sft-tiny: already finished, the model is in {sft / 'final'}" in verb.output
    assert (sft / "events.jsonl").read_bytes() == before
    assert exit_record(sft)["class"] == "done"


@pytest.mark.slow
def test_more_steps_go_on_from_the_end_and_never_starts_again(sft: Path, start: Start, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(sft, folder)
    longer = [*SFT, "train.steps=7", "checkpoint.every=50"]
    (folder / ".final-draft").write_text("in the way")
    verb = start(*longer, folder=folder)
    assert verb.end() == 1, verb.output
    assert [event["step"] for event in events(folder, "resume")] == [6]
    last = folder / "checkpoints" / "step_00000007"
    assert f"`distft export {last} FOLDER`" in verb.output
    assert "Traceback" not in verb.output
    assert main(["export", str(last), str(tmp_path / "elsewhere")]) == 0
    (folder / ".final-draft").unlink()
    verb = start(*longer, folder=folder)
    assert verb.end() == 0, verb.output
    assert [event["step"] for event in events(folder, "resume")] == [6, 7]
    assert weights(folder) == (tmp_path / "elsewhere" / "model.safetensors").read_bytes()
    steps = [line["step"] for line in lines(folder, "metrics") if line["split"] == "train"]
    assert steps == [1, 2, 3, 4, 5, 6, 7]
    # Another recipe in the same folder: asked for, and so from the beginning, with a start of its own.
    again = [*SFT, "checkpoint.resume=never", "train.steps=2", "models.policy.init.hidden_size=16", "seed=5"]
    verb = start(*again, folder=folder)
    assert verb.end() == 0, verb.output
    assert [line["step"] for line in lines(folder, "metrics") if line["split"] == "train"] == [1, 2]
    assert checkpoints(folder) == [2]
    assert json.loads((folder / "final" / "config.json").read_text())["hidden_size"] == 16
    assert [event["attempt"] for event in events(folder, "start")] == [1, 2, 3, 4]
