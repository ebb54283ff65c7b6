"""Turns put together: trained ids are sampled ids, observations are masked, every limit ends a sample as it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distft.batches import Array, Batch, Ragged
from distft.common.errors import UserError
from distft.config.training import Environment, Rollout
from distft.data.formats import Message, PromptExample
from distft.workers.episodes import Episodes, spoken
from tests.harness.chat_templates import FAMILIES, REWRITING, family_tokenizer

TEXTS = ["Which word? Word. Another one? search: 12 + 7 gives 19\n\n" * 9]
ECHO = """
class Echo:
    def __init__(self, until=99):
        self.until = until

    def reset(self, row):
        self.heard = [str(row["prompt"])]

    def step(self, text):
        self.heard.append(text)
        return " | ".join(self.heard), 0.5, len(self.heard) > self.until
"""


def episodes(folder: Path, tokenizer: Any, *, until: int = 99, room: int = 1000, **limits: Any) -> Episodes:
    (folder / "echo.py").write_text(ECHO)
    name = f"{folder / 'echo.py'}:Echo"
    section = Environment(name=name, arguments={"until": until}, **{"max_turn_tokens": 8, **limits})
    return Episodes(Rollout(max_new_tokens=room, environment=section), tokenizer)


def prompts(*rows: list[int]) -> Batch:
    return Batch({"prompt_ids": Ragged.of(rows, np.int32), "sample": np.arange(len(rows))})


def turn(samples: list[int], rows: list[list[int]], ended: list[int] | None = None) -> Batch:
    """What a generator answers: each token's log-prob is a number of its own."""
    logprobs = [[-0.25 * (place + 1) for place in range(len(row))] for row in rows]
    return Batch({
        "sample": np.array(samples), "response_ids": Ragged.of(rows, np.int32),
        "sampled_logprobs": Ragged.of(logprobs, np.float32),
        "ended": np.array(ended or [1] * len(rows), np.uint8),
    })  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_trained_ids_are_the_sampled_ones_whatever_was_sampled(name: str, tmp_path: Path) -> None:
    """Ids that no text becomes: thoughts, halves of words, special tokens in the middle. None is made anew, in no
    template; and what goes before a turn is exactly what it was sampled behind."""
    tokenizer = family_tokenizer(name, TEXTS)
    draw, stop = np.random.default_rng(3), tokenizer.eos_token_id
    one = episodes(tmp_path, tokenizer, max_turns=4)
    prompt: list[dict[str, str]] = [{"role": "user", "content": "Which word?"}]
    asked = prompts([1, 2, 3], [4, 5])
    one.begin([{"prompt": prompt}] * 2, ["a, sample 0", "a, sample 1"], asked)
    sampled: dict[int, list[int]] = {0: [], 1: []}
    contexts: list[Array] = []
    for _ in range(4):
        rows = [[*draw.integers(2, 300, 5).tolist(), *tokenizer.encode("<think>12</think>"), stop] for _ in range(2)]
        told, going = one.take(turn([1, 0], rows[::-1]))
        for sample in (0, 1):
            sampled[sample] += rows[sample]
        if going is not None:
            assert told.samples == (0, 1)
            contexts.append(going.ragged("prompt_ids")[0])
    played, found = one.finish()
    assert told.samples == ()
    ids, mask = found.ragged("response_ids"), found.ragged("response_mask")
    for sample in (0, 1):
        assert ids[sample][mask[sample] == 1].tolist() == sampled[sample]
        assert not found.ragged("sampled_logprobs")[sample][mask[sample] == 0].any()
        assert mask[sample][0] == mask[sample][-1] == 1
    whole = [1, 2, 3, *ids[0].tolist()]
    assert len(contexts) == 3
    assert all(whole[: len(context)] == context.tolist() for context in contexts)
    assert [by for by, _ in spoken(tokenizer, found, 0)] == ["policy", "environment"] * 3 + ["policy"]
    assert played.num_observed == int((mask.values == 0).sum())
    assert found.dense("turns").tolist() == [4, 4]
    assert found.dense("score").tolist() == [2.0, 2.0], "the rewards of all turns"
    assert (played.metrics["rollout/turns"], played.metrics["rollout/ended_max_turns"]) == (4.0, 1.0)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", REWRITING)
def test_a_template_that_writes_history_anew_changes_no_sampled_id(name: str, seed: int, tmp_path: Path) -> None:
    """Of every turn its ids are the sampled ones; written whole by the template, the conversation would be another."""
    tokenizer = family_tokenizer("qwen", TEXTS)
    tokenizer.chat_template = REWRITING[name]
    draw, stop = np.random.default_rng(seed), tokenizer.eos_token_id
    messages = [{"role": "user", "content": "Which word?"}]
    prompt = list(tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"])
    one = episodes(tmp_path, tokenizer, max_turns=5)
    one.begin([{"prompt": messages}], ["a, sample 0"], prompts(prompt))
    sampled, echo = [], [str(messages)]
    for number in range(5):
        thought = f" <think>{draw.integers(100)}\n</think>\n " if draw.integers(2) or not number else "\n "
        said = [
            *tokenizer.encode(thought),
            *draw.integers(300, 390, draw.integers(1, 9)).tolist(),
            *tokenizer.encode(" \n"),
        ]
        sampled.append([*said, stop])
        told, _ = one.take(turn([0], sampled[-1:]))
        echo.append(tokenizer.decode(said))
        messages += [{"role": "assistant", "content": echo[-1]}, {"role": "user", "content": " | ".join(echo)}]
    assert told.samples == ()
    _, found = one.finish()
    ids, mask = found.ragged("response_ids")[0], found.ragged("response_mask")[0]
    assert ids[mask == 1].tolist() == [token for said in sampled for token in said]
    by_turn = [text for by, text in spoken(tokenizer, found, 0) if by == "policy"]
    assert by_turn == [tokenizer.decode(said) for said in sampled], "turn by turn"
    written = tokenizer.apply_chat_template(messages[:-1])["input_ids"]
    first = len(prompt) + len(sampled[0])
    assert list(written[:first]) != [*prompt, *sampled[0]], "the template would have changed the first turn"


def plain(folder: Path, **limits: Any) -> Episodes:
    tokenizer = family_tokenizer("qwen", TEXTS)
    one = episodes(folder, tokenizer, **limits)
    one.begin([{"prompt": "Word"}], ["a, sample 0"], prompts([7]))
    return one


def says(text: str) -> list[int]:
    return [*family_tokenizer("qwen", TEXTS)(text)["input_ids"], family_tokenizer("qwen", TEXTS).eos_token_id]


def test_a_sample_by_hand(tmp_path: Path) -> None:
    one = plain(tmp_path, until=2)
    first, said = says("Which"), family_tokenizer("qwen", TEXTS)("Word | Which")["input_ids"]
    told, going = one.take(turn([0], [first]))
    assert going is not None
    assert going.ragged("prompt_ids")[0].tolist() == [7, *first, *said]
    assert (told.samples, told.lengths) == ((0,), (1 + len(first) + len(said),))
    last = says("one")
    assert one.take(turn([0], [last]))[0].samples == ()
    played, found = one.finish()
    assert found.ragged("response_ids")[0].tolist() == [*first, *said, *last]
    assert found.ragged("response_mask")[0].tolist() == [1] * len(first) + [0] * len(said) + [1] * len(last)
    logprobs = [-0.25 * (place + 1) for place in range(len(first))] + [0.0] * len(said)
    assert found.ragged("sampled_logprobs")[0].tolist()[: len(logprobs)] == logprobs
    assert (found.dense("ended").tolist(), found.dense("score").tolist()) == ([1], [1.0])
    assert played.lengths == (len(first) + len(said) + len(last),)
    assert played.metrics == {
        "rollout/turns": 2.0, "rollout/observation_length": float(len(said)),
        "rollout/ended_cut": 0.0, "rollout/ended_max_turns": 0.0, "rollout/ended_no_room": 0.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("limits", "ended", "why"),
    [({"max_turns": 1}, 1, "max_turns"), ({}, 0, "cut"), ({"room": 14}, 1, "no_room"), ({"until": 1}, 1, "")],
)
def test_the_ends_of_a_sample(tmp_path: Path, limits: dict[str, Any], ended: int, why: str) -> None:
    """In each the environment has rewarded the turn, and nothing of what it said stands behind it."""
    one = plain(tmp_path, **limits)
    ids = says("Which")
    assert one.take(turn([0], [ids], [ended]))[0].samples == ()
    played, found = one.finish()
    assert found.ragged("response_ids")[0].tolist() == ids
    assert found.dense("ended").tolist() == [int(why == "")]
    assert found.dense("score").tolist() == [0.5]
    shares = {name: value for name, value in played.metrics.items() if "ended" in name and value}
    assert shares == ({f"rollout/ended_{why}": 1.0} if why else {})


def test_room_is_for_a_whole_turn(tmp_path: Path) -> None:
    ids, said = says("Which"), family_tokenizer("qwen", TEXTS)("Word | Which")["input_ids"]
    for less, goes_on in ((0, (0,)), (1, ())):
        one = plain(tmp_path, room=len(ids) + len(said) + 8 - less)
        assert one.take(turn([0], [ids]))[0].samples == goes_on


def test_a_template_without_the_turn_is_said_before_anything_is_sampled(tmp_path: Path) -> None:
    tokenizer = family_tokenizer("qwen", TEXTS)
    tokenizer.chat_template = "{% for m in messages %}{% if m.role != 'tool' %}{{ m.content }}{% endif %}{% endfor %}"
    one = episodes(tmp_path, tokenizer, role="tool")
    one.check([PromptExample("plain")])
    with pytest.raises(UserError, match="leaves out what the tool says"):
        one.check([PromptExample((Message("user", "Which?"),))])


def test_a_turn_keeps_the_experts_it_was_sampled_with(tmp_path: Path) -> None:
    """The second turn reads all that was said before once more, and may send it elsewhere; that is not recorded again.
    Its last token before, which was sampled and not read then, and what was observed, are."""
    one = episodes(tmp_path, family_tokenizer("llama", TEXTS), max_turns=2)
    one.begin([{"prompt": "Which word?"}], ["a, sample 0"], prompts([1, 2, 3]))

    def routed(num_tokens: int, number: int) -> Ragged:
        return Ragged.of([np.full((num_tokens, 2), number)], np.uint8)

    _, going = one.take(turn([0], [[4, 5]]).with_columns(routed_experts=routed(4, 1)))
    assert going is not None
    read = len(going.ragged("prompt_ids")[0])
    assert read > 5
    one.take(turn([0], [[6, 7, 8]]).with_columns(routed_experts=routed(read + 2, 9)))
    _, found = one.finish()
    [numbers] = [found.ragged("routed_experts")[0][:, 0].tolist()]
    assert len(numbers) == 3 + len(found.ragged("response_ids")[0]) - 1
    assert numbers == [1] * 4 + [9] * (len(numbers) - 4)
