"""The same question in other clothes, and a dialogue that gives a judged answer away."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from distft.common.errors import UserError
from distft.config.data import Data, Source
from distft.data.dataset import load_datasets

Write = Callable[..., str]


def said(*turns: str, system: str = "") -> list[dict[str, str]]:
    """The user and the assistant in turns."""
    speakers = ("user", "assistant")
    first = [{"role": "system", "content": system}] if system else []
    return first + [{"role": speakers[number % 2], "content": turn} for number, turn in enumerate(turns)]


OTHER = {"prompt": "What is blue?", "completion": " Sad."}
YO = ("Yo", "Yes")
HI = ("Hi", "Hello")
RED = ("What is red?", "A colour.")
PLAIN = {"prompt": RED[0], "completion": f" {RED[1]}"}
ASKED = {"messages": said(*RED)}
LONG = {"messages": said(*HI, *RED)}
CASES: list[tuple[str, dict[str, Any], dict[str, Any], bool]] = [
    ("plain, judged as messages", PLAIN, ASKED, True),
    ("messages, judged as plain", ASKED, PLAIN, True),
    ("another system turn", {"messages": said(*RED, system="Be brief.")}, PLAIN, True),
    ("another answer to the same question", {"prompt": " what IS red?", "completion": " A shade."}, ASKED, True),
    ("later in a dialogue, with its answer", LONG, PLAIN, True),
    ("later in a dialogue, and it goes on", {"messages": said(*HI, *RED, "Thanks", "Welcome")}, ASKED, True),
    ("first in a dialogue that goes on", {"messages": said("What is red?", "No idea.", "Why?", "So.")}, PLAIN, True),
    ("later in a dialogue, with another answer", {"messages": said(*HI, RED[0], "No.")}, PLAIN, False),
    ("the judged dialogue's last turns alone", PLAIN, LONG, False),
    ("the judged dialogue within another", {"messages": said(*YO, *HI, *RED)}, LONG, True),
    ("something else", {"prompt": "What is green?", "completion": " Grass."}, PLAIN, False),
]


@pytest.mark.parametrize(("train", "judged", "leaks"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_what_a_judge_asks_is_not_trained_on(
    tokenizer: PreTrainedTokenizerFast, write: Write, train: dict[str, Any], judged: dict[str, Any], leaks: bool
) -> None:
    sources = [Source(path=write([row], f"{number}.jsonl")) for number, row in enumerate((train, OTHER, judged))]
    sets = load_datasets(Data(train=tuple(sources[:2]), eval=(sources[2],)), "sft", tokenizer)
    assert (sets.train.num_units, sets.train.statistics.num_leaked) == ((1, 1) if leaks else (2, 0))


def test_either_answer_of_a_judged_pair_counts(tokenizer: PreTrainedTokenizerFast, write: Write) -> None:
    pair = {"prompt": "What is red?", "chosen": "A colour.", "rejected": "Go away."}
    rude = {"messages": said("Hi", "Hello", "What is red?", "Go away.")}
    train, judge = (Source(path=write([row], f"{name}.jsonl")) for name, row in (("train", rude), ("eval", pair)))
    with pytest.raises(UserError, match="1 left out because held-out rows ask the same"):
        load_datasets(Data(train=(train,), eval=(judge,)), "sft", tokenizer)


def test_texts_are_compared_whole(tokenizer: PreTrainedTokenizerFast, write: Write) -> None:
    texts = [{"text": "One two."}, {"text": "Three."}]
    train, judge = Source(path=write(texts)), Source(path=write([{"text": " one  TWO."}], "eval.jsonl"))
    sets = load_datasets(Data(train=(train,), eval=(judge,)), "sft", tokenizer)
    assert (sets.train.num_units, sets.train.statistics.num_leaked) == (1, 1)
