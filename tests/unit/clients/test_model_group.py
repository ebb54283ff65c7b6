"""What of a verb's reports the controller gets; and a role that lives in another's group: only read, never alone."""

from __future__ import annotations

import pytest

from distft.clients.model_group import ModelGroup, UpdateSpec
from distft.clients.samples import Samples
from distft.groups.handles import DataRef, Part
from tests.harness.fake_groups import Fake, Said

SAMPLES = Samples((DataRef((Part("a", (0, 1, 2)),)),), (5, 6, 7), (0, 1, 2))


def test_a_guests_forward_pass_is_the_hosts_without_adapters() -> None:
    host = Fake("policy", Said(), num_ranks=2, micro_batch_cost=64)
    guest = ModelGroup(host, guest="reference")
    call = guest.forward(SAMPLES, "ref_logprobs", [[[0]], [[1, 2]]], temperature=0.5)
    assert call.group is host
    assert call.args == ("ref_logprobs",)
    assert (call.kwargs["adapters"], call.kwargs["temperature"]) == (False, 0.5)
    assert (guest.role, guest.data_parallel_size, guest.micro_batch_cost) == ("reference", 2, 64)
    assert ModelGroup(host).forward(SAMPLES, "logprobs", [[[0]], [[1, 2]]]).kwargs["adapters"] is True


def test_a_guest_cannot_be_trained_or_saved() -> None:
    guest = ModelGroup(Fake("policy", Said()), guest="reference")
    for ask in (
        lambda: guest.update(SAMPLES, UpdateSpec("loss", {}, 0, 1), []),
        lambda: guest.save("folder"),
        lambda: guest.evaluate(SAMPLES, "loss", {}, []),
    ):
        with pytest.raises(ValueError, match="reference lives in the group of policy: it is only read"):
            ask()


def test_every_rank_is_sent_the_rows_of_its_own_micro_batches_once() -> None:
    group = ModelGroup(Fake("policy", Said(), num_ranks=2))
    steps = [[[[2], [0]], [[1], []]], [[[0], []], [[2, 1]]]]
    spec = UpdateSpec("loss", {"beta": 1}, 3, 9, 0.7, 0.2, max_skipped_steps=3, skipped_in_a_row=1)
    call = group.update(SAMPLES, spec, steps)
    assert call.args == ("loss", {"beta": 1}, 3, 9)
    assert call.each == (([[[2], [0]], [[0], []]],), ([[[1], []], [[2, 1]]],))
    assert call.samples == ((0, 2), (1, 2))
    of_spec = {"temperature": 0.7, "target_kl": 0.2, "num_sources": 0, "max_skipped_steps": 3, "skipped_in_a_row": 1}
    assert call.kwargs == of_spec


def test_ranks_that_share_rows_count_as_one_and_are_sent_the_same() -> None:
    group = ModelGroup(Fake("policy", Said(), num_ranks=4, micro_batch_cost=64), shared_by=2)
    assert (group.data_parallel_size, group.micro_batch_cost) == (2, 128)
    call = group.forward(SAMPLES, "logprobs", [[[0]], [[1, 2]]])
    assert call.each == (([[0]],), ([[0]],), ([[1, 2]],), ([[1, 2]],))
    assert call.samples == ((0,), (0,), (1, 2), (1, 2))
    call = group.update(SAMPLES, UpdateSpec("loss", {}, 0, 1), [[[[0]], [[2, 1]]]])
    assert call.each == (([[[0]]],), ([[[0]]],), ([[[2, 1]]],), ([[[2, 1]]],))
    assert call.samples == ((0,), (0,), (1, 2), (1, 2))
