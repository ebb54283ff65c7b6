"""Groups on GPUs and nodes."""

from __future__ import annotations

from distft.config.load import load_recipe
from distft.planning.footprint import GroupMemory, Roles, SizeBook, group_memory, needed_in_turns, role_memory
from distft.planning.memory import Item

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
