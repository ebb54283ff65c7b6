"""Groups on GPUs and nodes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distft.config.load import load_recipe
from distft.config.models import Policy
from distft.planning.footprint import GroupMemory, Roles, SizeBook, group_memory, needed_in_turns, role_memory
from distft.planning.memory import HOST_CHUNK, Item

POLICY = [
    Item("parameters", 8), Item("gradients", 8), Item("optimizer states", 32), Item("generation twin", 16),
    Item("key-value cache", 4, "generation"), Item("activations", 10, "training"), Item("process", 1),
    Item("process", 3, place="host"),
]  # fmt: skip
FROZEN = [
    Item("parameters", 8),
    Item("activations", 5, "forward"),
    Item("process", 1),
    Item("process", 3, place="host"),
]


def test_a_contrast_holds_the_cosines_of_all_texts_of_a_step_on_every_rank() -> None:
    """8 anchors with their positives and 2 negatives each: six times 8 x 24 numbers of four bytes."""
    keys = ["train.global_batch_size=8", "algorithm.max_negatives=2"]
    roles = Roles(load_recipe("contrastive-tiny", keys), SizeBook())
    items = role_memory(roles, "policy", 2, gpu=False, shared=False).items
    assert {item.name: item.bytes for item in items}["cosines of all texts"] == 6 * 4 * 8 * 24


def test_a_sleeping_group_leaves_its_process_and_its_generator_on_the_gpu() -> None:
    found = group_memory(POLICY, gpu=True)
    awake = 8 + 8 + 32 + 16 + 1 + 10
    assert found == GroupMemory(awake, asleep=16 + 1, weights=8, states=32, frozen=False, node={"always": 3})
    assert (found.waiting, found.resting) == (40, 16 + 1 + 8)


def test_where_parameters_are_on_the_host_the_other_states_follow_in_a_sleep() -> None:
    items = [
        Item("parameters", 8, place="host"),
        Item("gradients", 8),
        Item("optimizer states", 32),
        Item("process", 1),
    ]
    assert group_memory(items, gpu=True).asleep == 1
    assert group_memory(items, gpu=True).waiting == 32


def test_gradients_are_not_kept_in_a_sleep_and_frozen_weights_do_not_leave() -> None:
    assert group_memory(POLICY, gpu=True).waiting == 8 + 32
    found = group_memory(FROZEN, gpu=True)
    assert (found.waiting, found.frozen) == (8, True)


def test_on_cpus_everything_is_the_nodes() -> None:
    assert group_memory(FROZEN, gpu=False).node == {"always": 8 + 1 + 3, "forward": 5}


def test_a_gpu_shared_in_turns_holds_one_awake_and_the_rest_asleep() -> None:
    policy, frozen = group_memory(POLICY, gpu=True), group_memory(FROZEN, gpu=True)
    assert needed_in_turns([policy]) == 75
    assert needed_in_turns([policy, frozen]) == 75 + 1
    assert needed_in_turns([frozen, frozen]) == 14 + 1


def test_noise_on_embeddings_is_counted_where_there_is_some() -> None:
    for alpha, expected in (("0", []), ("5", [1024 * 128 * 8])):
        roles = Roles(load_recipe("sft-tiny", [f"algorithm.neftune_alpha={alpha}"]), SizeBook())
        items = role_memory(roles, "policy", 2, gpu=True, shared=False).items
        assert [item.bytes for item in items if item.name == "noise on the embeddings"] == expected


@pytest.mark.parametrize("gpu", [False, True])
def test_a_checkpoint_that_is_written_beside_the_steps_is_copied_to_the_host(gpu: bool) -> None:
    """Half of what two ranks train, in float32 and with Adam's two states; page-locked memory in whole pieces."""
    for asynchronous in (False, True):
        roles = Roles(load_recipe("ppo-tiny", [f"checkpoint.asynchronous={str(asynchronous).lower()}"]), SizeBook())
        for role in ("policy", "reward"):
            memory = role_memory(roles, role, 2, gpu=gpu, shared=False)
            copies = [item for item in memory.items if item.name == "copy of a checkpoint"]
            if not asynchronous or role == "reward":
                assert not copies
            else:
                pieces = -(-memory.trained * 6 // HOST_CHUNK) * HOST_CHUNK
                assert copies == [Item("copy of a checkpoint", pieces if gpu else memory.trained * 6, place="host")]


@pytest.mark.parametrize(("nodes", "copies"), [(1, 2), (2, 4)])
def test_copies_in_memory_are_two_of_each_rank_and_as_many_of_another_nodes(nodes: int, copies: int) -> None:
    """Of half of what two ranks train, in float32 and with Adam's two states."""
    roles = Roles(load_recipe("ppo-tiny", ["checkpoint.memory_every=1"]), SizeBook())
    for role in ("policy", "value", "reward"):
        memory = role_memory(roles, role, 2, gpu=True, shared=False, nodes=nodes)
        found = [item for item in memory.items if item.name == "copies in memory"]
        wanted = [Item("copies in memory", copies * 6 * memory.trained, place="host")]
        assert found == ([] if role == "reward" else wanted)


def test_what_adapters_hold_is_in_checkpoints_and_in_the_first_ranks_copy() -> None:
    """Beside what is trained, 12 bytes a weight, lies what PiSSA's adapters began as, as many float32 numbers."""
    keys = ["models.policy.peft={init: pissa, r: 4}", "checkpoint.asynchronous=true"]
    roles = Roles(load_recipe("sft-tiny", keys), SizeBook())
    memory = role_memory(roles, "policy", 2, gpu=False, shared=False)
    items = {item.name: item.bytes for item in memory.items}
    assert items["held beside adapters"] == 4 * memory.trained
    assert memory.kept == (12 + 4) * memory.trained
    assert items["copy of a checkpoint"] == (12 // 2 + 4) * memory.trained


def test_adafactor_makes_an_update_as_large_as_the_largest_matrix() -> None:
    """The embedding."""
    keys = ["optimizer.name=adafactor", "models.policy.engine.zero_stage=0"]
    roles = Roles(load_recipe("sft-tiny", keys), SizeBook())
    steps = [item for item in role_memory(roles, "policy", 2, gpu=False, shared=False).items if item.when == "step"]
    largest = roles.sizes("policy").of("embedding")
    assert steps == [Item("update of the largest tensor", 4 * largest, "step")]


@pytest.mark.parametrize("tied", [True, False])
def test_new_tokens_are_rows_of_embedding_and_head(tied: bool, tmp_path: Path) -> None:
    config = {
        "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "vocab_size": 1000, "tie_word_embeddings": tied,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "tokens.txt").write_text("cat\ndog\nbird\n")
    before = SizeBook().sizes_of(Policy(path=str(tmp_path)), "vocabulary")
    for texts in (("cat", "dog", "bird"), str(tmp_path / "tokens.txt")):
        model = Policy(path=str(tmp_path), extend_vocabulary=texts)
        sizes, scalar = SizeBook().sizes_of(model, "vocabulary"), SizeBook().sizes_of(model, "score")
        assert sizes.total - before.total == 3 * 64 * (1 if tied else 2)
        assert (sizes.vocab, sizes.tied) == (1003, tied)
        assert scalar.total - before.with_head("score").total == 3 * 64
