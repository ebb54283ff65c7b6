from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
import trl
from transformers import PreTrainedTokenizerFast

from distft.common.errors import UserError
from distft.data.chat_templates import DEFAULT_TEMPLATE
from distft.data.encode import Encoded, Encoder
from distft.data.formats import CompletionExample, DialogueExample, Message
from distft.data.spans import render_with_spans
from distft.data.templates import render
from distft.data.tokenizer_training import train_tokenizer

ASK, TELL = Message("user", "Ask"), Message("assistant", "Tell")
MORE, END = Message("user", "And more?"), Message("assistant", "The last word.")
# No generation marks; the second drops what the assistant said before.
PLAIN = (
    "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }};\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
FORGETFUL = (
    "{% for m in messages %}[{{ m['role'] }}]"
    "{% if m['role'] != 'assistant' or loop.last %}{{ m['content'] }}{% endif %};{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
# Stock templates that write a turn differently once a conversation goes on, or open what is no part of an answer.
STOCK = ("qwen3", "qwen3_5_think", "gptoss", "phi3", "deepseekv3", "deepseek_r1_distill", "nemotron_3_nano",
         "nemotron_3_super", "glm4moe")  # fmt: skip
FOLDER = Path(trl.__file__).parent / "chat_templates"


@cache
def _stock(name: str) -> PreTrainedTokenizerFast:
    """A tokenizer with a stock template, which knows the template's markers as special tokens."""
    found = train_tokenizer(["Who is there? A friend. And more? The last word. Think first."] * 3, 400)
    template = (FOLDER / f"{name}.jinja").read_text(encoding="utf-8")
    marks = set(re.findall("<[|\uff5c][^|\uff5c<>'\"{}]+[|\uff5c]>", template))
    ends = ("<|return|>", "<|endoftext|>", "<\uff5cend\u2581of\u2581sentence\uff5c>", "<|im_end|>", "<|end|>")
    found.add_special_tokens({
        "eos_token": next(mark for mark in (*ends, "<|end|>") if mark in (*marks, "<|end|>")),
        "bos_token": "<s>", "additional_special_tokens": sorted(marks),
    })  # fmt: skip
    found.chat_template = template
    return found


def _trained(tokenizer: PreTrainedTokenizerFast, encoded: Encoded) -> str:
    return str(tokenizer.decode([i for i, mask in zip(encoded.response_ids, encoded.mask, strict=True) if mask]))


@pytest.mark.parametrize("template", [DEFAULT_TEMPLATE, PLAIN])
def test_spans_are_the_same_with_marks_and_without(merging: PreTrainedTokenizerFast, template: str) -> None:
    merging.chat_template = template
    rendered = render_with_spans(merging, (ASK, TELL, ASK, Message("assistant", "More")), "x")
    ends = {DEFAULT_TEMPLATE: "<|end|>", PLAIN: ";\n"}[template]
    assert [rendered.text[start:end] for start, end in rendered.spans] == [f"Tell{ends}", f"More{ends}"]
    unlearned = Message("assistant", "Tell", trains=False)
    rendered = render_with_spans(merging, (ASK, unlearned, ASK, Message("assistant", "More")), "x")
    assert [rendered.text[start:end] for start, end in rendered.spans] == [f"More{ends}"]


def test_a_template_that_rewrites_the_past_needs_marks(merging: PreTrainedTokenizerFast) -> None:
    merging.chat_template = FORGETFUL
    with pytest.raises(UserError, match=r"turn 2 in other words.*\n.*algorithm.loss_on=completion.*marks") as caught:
        render_with_spans(merging, (ASK, TELL, ASK, TELL), "rows.jsonl:3")
    assert caught.value.where == "rows.jsonl:3"


def test_what_a_marked_template_refuses_is_told_with_the_place(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(UserError, match=r"rows.jsonl:3: .*unknown role critic"):
        render_with_spans(tokenizer, (ASK, Message("critic", "No")), "rows.jsonl:3")


@pytest.mark.parametrize("name", STOCK)
def test_one_turn_is_the_same_as_messages_and_as_a_completion(name: str) -> None:
    tokenizer = _stock(name)
    encoder = Encoder(tokenizer)
    as_messages = encoder.supervised(DialogueExample((ASK, END)), None)
    assert as_messages == encoder.supervised(CompletionExample((ASK,), (END,)), None)
    assert "The last word." in _trained(tokenizer, as_messages)
    assert "Ask" not in _trained(tokenizer, as_messages)


@pytest.mark.parametrize("name", STOCK)
def test_several_turns_are_trained_where_the_history_holds_them_unchanged(name: str) -> None:
    tokenizer = _stock(name)
    dialogue = (ASK, TELL, MORE, END)
    encoded = Encoder(tokenizer).supervised(DialogueExample(dialogue), None)
    trained = _trained(tokenizer, encoded)
    assert re.search(r"Tell.*The last word\.", trained, re.DOTALL)
    assert "And more?" not in trained
    assert "Ask" not in trained
    whole = tokenizer(render(tokenizer, dialogue, "x"), add_special_tokens=False)["input_ids"]
    ids = encoded.prompt_ids + encoded.response_ids
    # GLM's template ends no turn: the end of sequence is put there.
    assert ids in (whole[: len(ids)], [*whole, tokenizer.eos_token_id])
    last = _trained(tokenizer, Encoder(tokenizer).supervised(DialogueExample(dialogue), "completion"))
    assert trained.endswith("The last word." + last.partition("The last word.")[2])


def test_the_end_of_an_earlier_turn_is_trained_where_it_is_the_end_of_the_last_one_too() -> None:
    """Phi-3 writes the end of the text behind the last turn only, GPT-OSS another token than in the history."""
    ends = {"phi3": "<|end|>", "gptoss": "", "qwen3": "<|im_end|>"}
    for name, expected in ends.items():
        tokenizer = _stock(name)
        encoded = Encoder(tokenizer).supervised(DialogueExample((ASK, TELL, MORE, END)), None)
        behind = _trained(tokenizer, encoded).partition("Tell")[2]
        assert re.match(r"(<\|(end|im_end|return)\|>)?", behind)[0] == expected  # type: ignore[index]


def test_thoughts_that_the_history_drops_cannot_be_trained_but_in_the_last_turn() -> None:
    tokenizer = _stock("qwen3")
    thought = Message("assistant", "<think>\nThink first.\n</think>\n\nTell")
    with pytest.raises(UserError, match="turn 2 in other words"):
        Encoder(tokenizer).supervised(DialogueExample((ASK, thought, MORE, END)), None)
    for dialogue in ((ASK, thought), (ASK, END, MORE, thought)):
        assert "Think first." in _trained(tokenizer, Encoder(tokenizer).supervised(DialogueExample(dialogue), None))
    last = Encoder(tokenizer).supervised(DialogueExample((ASK, thought, MORE, END)), "completion")
    assert "The last word." in _trained(tokenizer, last)
    assert "Tell" not in _trained(tokenizer, last)


def test_other_speakers_in_an_answer_are_not_trained_where_the_prompt_is_rewritten() -> None:
    tokenizer = _stock("deepseek_r1_distill")
    encoded = Encoder(tokenizer).answer((ASK,), (TELL, MORE, END), "x")
    assert encoded.moved
    assert "And more?" not in _trained(tokenizer, encoded)
    assert "Tell" in _trained(tokenizer, encoded)
