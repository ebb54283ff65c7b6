"""Responses in parts, of a real policy: what they are made of, which are cut, and what is learned from those."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from distft.batches import Batch, Ragged, concatenate
from distft.common.errors import UserError
from distft.config.training import CutTails, Rollout
from distft.experience.turns import _turns
from distft.rollout.generator import Sampling
from distft.rollout.hf import HfGenerator
from distft.rollout.sampling import draws
from distft.workers.reports import Played
from distft.workers.tails import Tails
from tests.unit.models import tiny

COUNT, LONGEST, EVERY = 20, 40, 8
STOPS = (1, *range(80, 96))


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> HfGenerator:
    """Any of many tokens ends a response, so that few are long."""
    torch.set_num_threads(1)
    module = AutoModelForCausalLM.from_pretrained(tiny.write_model(tmp_path_factory.mktemp("model")))
    return HfGenerator(module, stop_tokens=STOPS, pad_token=tiny.PAD, synchronized=False)


def prompts() -> Batch:
    lengths = np.random.default_rng(1).integers(3, 9, COUNT)
    rows = [np.array([3 + number % 60, *range(5, 3 + length)]) for number, length in enumerate(lengths)]
    numbers = np.arange(COUNT)
    return Batch({"prompt_ids": Ragged.of(rows, np.int32), "sample": numbers, "unit": numbers})


def rollout(longest: int = LONGEST, **keys: object) -> Rollout:
    return Rollout(
        max_new_tokens=longest,
        min_new_tokens=EVERY + 2,
        cut_tails=CutTails.model_validate({"every": EVERY, "finished": 0.7, **keys}),
    )


def part(generator: HfGenerator, batch: Batch, sampling: Sampling, at_once: int) -> Batch:
    """As a rank answers it."""
    made = []
    for start in range(0, len(batch), at_once):
        some = batch.take(range(start, min(start + at_once, len(batch))))
        samples = some.dense("sample").tolist()
        rows = [some.ragged("prompt_ids")[row] for row in range(len(some))]
        answers = generator.generate(rows, [draws(1, 5, sample, sampling) for sample in samples], sampling)
        made.append(answers.with_columns(sample=np.array(samples)))
    return concatenate(made[::-1])


def play(generator: HfGenerator, keys: Rollout, at_once: int = COUNT) -> tuple[Played, Batch]:
    tails, going = Tails(keys, SimpleNamespace()), prompts()
    tails.begin(going)
    for _, sampling in _turns(SimpleNamespace(rollout=keys)):  # type: ignore[arg-type]
        told, more = tails.take(batch=part(generator, going, sampling, at_once))
        if more is None:
            break
        assert told.samples == tuple(more.dense("sample").tolist())
        going = more
    return tails.finish()


def by_sample(batch: Batch, name: str) -> dict[int, list[float]]:
    return {sample: batch.ragged(name)[row].tolist() for sample, row in batch.rows_of_samples().items()}


def test_a_cut_response_is_the_beginning_of_what_it_would_have_been(generator: HfGenerator) -> None:
    keys = rollout()
    whole = part(generator, prompts(), Sampling(LONGEST, keys.min_new_tokens), COUNT)
    told, found = play(generator, keys)
    ids, wholes = by_sample(found, "response_ids"), by_sample(whole, "response_ids")
    logprobs, of_wholes = by_sample(found, "sampled_logprobs"), by_sample(whole, "sampled_logprobs")
    masks, ended = by_sample(found, "response_mask"), dict(enumerate(found.dense("ended").tolist()))
    lengths = sorted(len(row) for row in wholes.values())
    last = next(size for size in range(EVERY, LONGEST + 1, EVERY) if sum(n <= size for n in lengths) >= 0.7 * COUNT)
    assert last < LONGEST
    cut = [sample for sample, row in wholes.items() if len(row) > last]
    assert cut
    for sample, row in wholes.items():
        assert ids[sample] == row[:last]
        assert logprobs[sample] == pytest.approx(of_wholes[sample][:last], abs=1e-5)
        assert masks[sample] == [int(sample not in cut)] * len(ids[sample])
        assert ended[sample] == int(sample not in cut)
    assert told.metrics == {"rollout/cut_fraction": len(cut) / COUNT}
    assert told.num_observed == 0


def test_which_are_cut_does_not_depend_on_who_generates_beside_whom(generator: HfGenerator) -> None:
    (_, together), (_, alone) = play(generator, rollout()), play(generator, rollout(), at_once=3)
    for name in ("response_ids", "response_mask"):
        assert by_sample(together, name) == by_sample(alone, name)


def test_whoever_has_all_tokens_is_cut_at_the_limit_and_learned_from(generator: HfGenerator) -> None:
    told, found = play(generator, rollout(2 * EVERY + 2, finished=0.99))
    lengths = found.ragged("response_ids").lengths
    assert told.metrics["rollout/cut_fraction"] == 0
    assert found.ragged("response_mask").values.all()
    assert [bool(ended) for ended in found.dense("ended")] == [row[-1] in STOPS for row in rows_of(found)]
    assert max(lengths) == 2 * EVERY + 2
    assert not found.dense("ended").all(), "no response reaches the limit"


def rows_of(found: Batch) -> list[list[float]]:
    return list(by_sample(found, "response_ids").values())


def test_cut_responses_are_learned_from_where_that_is_asked_for(generator: HfGenerator) -> None:
    told, found = play(generator, rollout(mask=False))
    assert told.metrics["rollout/cut_fraction"] > 0
    assert "response_mask" not in found


def test_a_response_keeps_the_experts_that_each_part_was_sampled_with() -> None:
    tails, ids = Tails(rollout(), SimpleNamespace()), np.arange(3)
    tails.begin(Batch({"prompt_ids": Ragged.of([ids[:2]] * 2, np.int32), "sample": np.arange(2)}))
    for number, read in enumerate((4, 7)):  # tokens that had been read behind each part: all but the last one
        tails.take(Batch({
            "response_ids": Ragged.of([ids] * 2, np.int32), "sampled_logprobs": Ragged.of([ids] * 2, np.float32),
            "ended": np.zeros(2, np.uint8), "sample": np.arange(2),
            "routed_experts": Ragged.of([np.full(read, number)] * 2, np.uint8),
        }))  # fmt: skip
    assert tails.finish()[1].ragged("routed_experts")[1].tolist() == [0] * 4 + [1] * 3


def test_a_model_that_reads_the_prompt_apart_is_refused() -> None:
    tokenizer = tiny.tokenizer()
    tokenizer.distft_reads_apart = True
    with pytest.raises(UserError, match="cannot be begun anew in the middle"):
        Tails(rollout(), tokenizer)
