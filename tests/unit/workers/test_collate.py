"""Ragged samples to the tensors of one micro-batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from distft.batches import Batch, Column, Ragged
from distft.models.families.causal import Causal
from distft.models.families.decoder import in_rows
from distft.models.families.family import Arranged
from distft.workers.collate import DUMMY_ROWS, collate

CPU = torch.device("cpu")
PAD = 9
CAUSAL = Causal()


def batch(*, masked: bool = False) -> Batch:
    """Two samples: prompt [1, 2], response [3, 4, 5]; prompt [6], response [7]."""
    columns: dict[str, Column] = {
        "prompt_ids": Ragged.of([[1, 2], [6]], np.int32),
        "response_ids": Ragged.of([[3, 4, 5], [7]], np.int32),
        "advantages": Ragged.of([[0.1, 0.2, 0.3], [0.4]], np.float32),
        "score": np.array([1.5, -1.5], np.float32),
        "sample": np.arange(2),
        "unit": np.arange(2),
    }
    if masked:
        columns["response_mask"] = Ragged.of([[1, 0, 1], [0]], np.uint8)
    return Batch(columns)


def test_each_token_is_read_where_it_is_predicted() -> None:
    micro = collate(CAUSAL, batch(), [0, 1], ["advantages"], PAD, CPU)
    assert micro.tensors["input_ids"].tolist() == [[1, 2, 3, 4, 5], [6, 7, PAD, PAD, PAD]]
    assert micro.select.tolist() == [1, 2, 3, 5]  # the position before each response token, rows of five
    assert micro.targets.tolist() == [3, 4, 5, 7]
    assert micro.tensors["input_ids"].flatten()[micro.select].tolist() == [2, 3, 4, 6]
    assert micro.loss.segments.tolist() == [0, 0, 0, 1]
    assert micro.loss.columns["advantages"].tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert micro.tensors["input_ids"].flatten()[micro.last].tolist() == [5, 7]
    assert micro.loss.response_mask.all()
    assert micro.loss.sequence_mask.tolist() == [True, True]


def test_a_token_may_have_several_numbers() -> None:
    told = Ragged.split(np.arange(8, dtype=np.float32).reshape(4, 2), [3, 1])
    ids = Ragged.split(np.array([[2**24 + 1], [2], [3], [4]], np.int32), [3, 1])
    given = batch(masked=True).with_columns(teacher_logprobs=told, teacher_ids=ids)
    columns = collate(CAUSAL, given, [1, 0], ["teacher_logprobs", "teacher_ids"], PAD, CPU).loss.columns
    assert columns["teacher_logprobs"].tolist() == [[0, 1], [4, 5]]
    assert columns["teacher_ids"].tolist() == [[2**24 + 1], [3]], "whole numbers stay whole"
    nothing = collate(CAUSAL, given, [1], ["teacher_logprobs", "teacher_ids"], PAD, CPU)
    assert nothing.loss.columns["teacher_logprobs"].shape == (1, 2), "of a row without a learned token"
    assert len(given.take([]).ragged("teacher_ids").values) == 0
    assert given.take([1, 0]).ragged("teacher_logprobs")[1].tolist() == [[0, 1], [2, 3], [4, 5]]


def test_packed_samples_stand_behind_each_other_in_one_row() -> None:
    micro = collate(Causal(packed=True), batch(), [0, 1], ["advantages"], PAD, CPU)
    assert micro.tensors["input_ids"].tolist() == [[1, 2, 3, 4, 5, 6, 7]]
    assert micro.tensors["position_ids"].tolist() == [[0, 1, 2, 3, 4, 0, 1]]
    assert micro.select.tolist() == [1, 2, 3, 5]
    assert micro.targets.tolist() == [3, 4, 5, 7]
    assert micro.last.tolist() == [4, 6]
    assert micro.loss.segments.tolist() == [0, 0, 0, 1]


def test_a_packed_sample_is_read_before_what_is_left_out_and_where_it_has_no_token() -> None:
    given = batch().with_columns(
        prompt_ids=Ragged.of([[], [6]], np.int32), response_ids=Ragged.of([[], [7, PAD]], np.int32)
    )
    micro = collate(Causal(packed=True), given, [0, 1], [], PAD, CPU, PAD)
    assert micro.tensors["input_ids"].tolist() == [[PAD, 6, 7, PAD]]
    assert micro.tensors["position_ids"].tolist() == [[0, 0, 1, 2]]
    assert micro.last.tolist() == [0, 2]


def test_packed_dummy_work_is_two_samples_of_a_row() -> None:
    micro = collate(Causal(packed=True), batch(), [], ["advantages"], PAD, CPU)
    assert micro.tensors["position_ids"].tolist() == [[0, 1] * DUMMY_ROWS]
    assert micro.select.tolist() == [0, 2]
    assert not micro.loss.response_mask.any()


class Apart(Causal):
    """As an encoder-decoder takes them: the prompt, and beside it the response moved on by one."""

    def arrange(self, prompts: Any, responses: Any, pad_token: int, unread: int | None) -> Arranged:
        width = max(map(len, responses))
        decoded = [[0, *response[:-1].tolist()] + [pad_token] * (width - len(response)) for response in responses]
        starts = np.arange(len(prompts)) * width
        read = in_rows(prompts, responses, pad_token, unread).last
        return Arranged({"input_ids": np.stack(prompts), "decoder_input_ids": np.array(decoded)}, starts, read)


def test_a_family_may_take_prompt_and_response_apart() -> None:
    rows = batch().with_columns(prompt_ids=Ragged.of([[1, 2], [6, 8]], np.int32))
    micro = collate(Apart(), rows, [0, 1], ["advantages"], PAD, CPU)
    assert micro.tensors["input_ids"].tolist() == [[1, 2], [6, 8]]
    assert micro.tensors["decoder_input_ids"].tolist() == [[0, 3, 4], [0, PAD, PAD]]
    assert (micro.select.tolist(), micro.targets.tolist()) == ([0, 1, 2, 3], [3, 4, 5, 7])
    assert collate(Apart(), rows, [], [], PAD, CPU).tensors.keys() == micro.tensors.keys()


def test_rows_come_in_the_order_asked() -> None:
    micro = collate(CAUSAL, batch(), [1, 0], ["advantages", "score"], PAD, CPU)
    assert micro.targets.tolist() == [7, 3, 4, 5]
    assert micro.loss.columns["advantages"].tolist() == pytest.approx([0.4, 0.1, 0.2, 0.3])
    assert micro.loss.columns["score"].tolist() == [-1.5, 1.5]
    assert micro.places.tolist() == [3, 0, 1, 2]


def test_masked_tokens_are_not_computed() -> None:
    micro = collate(CAUSAL, batch(masked=True), [0, 1], ["advantages"], PAD, CPU)
    assert micro.targets.tolist() == [3, 5]
    assert micro.loss.columns["advantages"].tolist() == pytest.approx([0.1, 0.3])


def test_a_micro_batch_without_a_token_weighs_nothing() -> None:
    micro = collate(CAUSAL, batch(masked=True), [1], ["advantages"], PAD, CPU)
    assert len(micro.select) == len(micro.targets) == 1
    assert not micro.loss.response_mask.any()
    assert len(micro.places) == 0


def test_dummy_work_looks_like_a_pair_and_weighs_nothing() -> None:
    micro = collate(CAUSAL, batch(), [], ["advantages", "score"], PAD, CPU)
    assert micro.tensors["input_ids"].shape == (DUMMY_ROWS, 2)
    assert int(micro.select.max()) < micro.tensors["input_ids"].numel()
    assert not micro.loss.response_mask.any()
    assert not micro.loss.sequence_mask.any()
    assert set(micro.loss.columns) == {"advantages", "score"}


def test_a_sample_without_a_prompt_starts_at_its_second_token() -> None:
    text = Batch(
        {
            "prompt_ids": Ragged.of([[]], np.int32),
            "response_ids": Ragged.of([[3, 4, 5]], np.int32),
            "response_mask": Ragged.of([[0, 1, 1]], np.uint8),
            "sample": np.arange(1),
            "unit": np.arange(1),
        }
    )
    micro = collate(CAUSAL, text, [0], [], PAD, CPU)
    assert micro.select.tolist() == [0, 1]
    assert micro.targets.tolist() == [4, 5]


def test_a_reward_is_read_at_the_last_token_that_is_not_the_one_left_out() -> None:
    ended = batch().with_columns(response_ids=Ragged.of([[3, PAD, 4, PAD, PAD], [7]], np.int32))
    ends = [
        collate(CAUSAL, ended, [row], [], PAD, CPU, unread).last.tolist() for unread in (None, PAD) for row in (0, 1)
    ]
    assert ends == [[6], [1], [4], [1]]
    nothing = batch().with_columns(
        prompt_ids=Ragged.of([[PAD], [6]], np.int32), response_ids=Ragged.of([[], [7]], np.int32)
    )
    assert collate(CAUSAL, nothing, [0], [], PAD, CPU, PAD).last.tolist() == [0]  # where transformers reads it
