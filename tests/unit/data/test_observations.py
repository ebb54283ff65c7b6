"""What follows a turn: by every family's template, and never a token of the turn itself."""

from __future__ import annotations

import json
from typing import Any

import pytest

from distft.common.errors import UserError
from distft.data.observations import ObservationEncoder
from distft.data.turn_end import turn_end
from tests.harness.chat_templates import ENDLESS, FAMILIES, REWRITING, family_tokenizer

TEXTS = ["Which word? Word. Another one? search: 12 + 7 gives 19\n\n" * 9]


def ids_of(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def conversation(tokenizer: Any, *contents: str) -> str:
    turns = [{"role": ("user", "assistant")[at % 2], "content": content} for at, content in enumerate(contents)]
    return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))


@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_put_together_is_what_the_template_writes(name: str) -> None:
    """Where the sampled ids are those that the text has: then both are one sequence. OpenAI's ends a last turn in
    another way than one that goes on: with the token that the policy wrote, the rest is the template's."""
    tokenizer = family_tokenizer(name, TEXTS)
    end = turn_end(tokenizer)
    assert end is not None
    prompt, answer, said = conversation(tokenizer, "Which word?"), "search: 12 + 7", " 19\n"
    assert end.stop is not None
    sampled = [*ids_of(tokenizer, answer), *([end.stop] if end.appended else end.ids[: end.ids.index(end.stop) + 1])]
    observed = ObservationEncoder(tokenizer, "user").conversational(said, end.stop)
    whole = tokenizer.decode([*ids_of(tokenizer, prompt), *sampled, *observed])
    written = conversation(tokenizer, "Which word?", answer, said)
    stop = tokenizer.decode([end.stop])
    assert tokenizer.decode(observed).endswith(written[written.index(said.strip()) :])
    if name in ENDLESS:
        assert whole == f"{prompt}{answer}{stop}{written.rpartition(answer)[2]}", "whatever it does to the answer"
    elif name != "oss":
        assert whole == written
        assert [*ids_of(tokenizer, prompt), *sampled, *observed] == ids_of(tokenizer, written)


@pytest.mark.parametrize("thought", ["<think>12 + 7</think>19", "<think>never ended"])
def test_a_template_that_rewrites_history_rewrites_nothing_here(thought: str) -> None:
    tokenizer = family_tokenizer("qwen", TEXTS)
    tokenizer.chat_template = REWRITING["no old thoughts"]
    end = turn_end(tokenizer)
    assert end is not None
    observed = ObservationEncoder(tokenizer, "user").conversational("right")
    text = tokenizer.decode([*ids_of(tokenizer, thought), end.stop, *observed])
    assert text == f"{thought}<|im_end|>\n<|im_start|>user\nright<|im_end|>\n<|im_start|>assistant\n"
    if thought.endswith("19"):
        assert "<think>" not in conversation(tokenizer, "Which word?", thought, "right"), "the template would have"


@pytest.mark.parametrize("said", ["Word", "Which word?", "<|im_end|>", "", "\n\n", "a" * 300])
def test_no_words_of_an_observation_are_mistaken(said: str) -> None:
    tokenizer = family_tokenizer("qwen", TEXTS)
    observed = tokenizer.decode(ObservationEncoder(tokenizer, "tool").conversational(said))
    assert observed == f"\n<|im_start|>tool\n{said}<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize("ascii_only", ["", "(ensure_ascii=true)"])
@pytest.mark.parametrize("said", ["Seven", 'two\nlines, "quoted"', "<b> & 'é' \\n"])
def test_a_template_may_write_what_a_tool_says_as_json(said: str, ascii_only: str) -> None:
    """As that of Llama 3.1, whose tool's turn is ``{{ message.content | tojson }}``."""
    tokenizer = family_tokenizer("qwen", TEXTS)
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "m.content", f"(m.content if m.role != 'tool' else m.content | tojson{ascii_only})"
    )
    encoder = ObservationEncoder(tokenizer, "tool")
    encoder.check()
    written = json.dumps(said, ensure_ascii=bool(ascii_only))
    assert tokenizer.decode(encoder.conversational(said)) == (
        f"\n<|im_start|>tool\n{written}<|im_end|>\n<|im_start|>assistant\n"
    )


def test_the_next_turns_beginning_is_not_doubled_where_the_policy_ended_with_it() -> None:
    tokenizer = family_tokenizer("glm", TEXTS)
    encoder, user = ObservationEncoder(tokenizer, "user"), tokenizer.convert_tokens_to_ids("<|user|>")
    plain = encoder.conversational("19", tokenizer.eos_token_id)
    assert plain == [user, *encoder.conversational("19", user)]


def test_behind_a_plain_answer_it_is_plain_text() -> None:
    tokenizer = family_tokenizer("qwen", TEXTS)
    encoder = ObservationEncoder(tokenizer, "user")
    assert tokenizer.decode(encoder.plain(" 19\nSo:")) == " 19\nSo:"
    assert encoder.plain("") == []


@pytest.mark.parametrize(
    ("template", "message"),
    [("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
     ("{% for m in messages %}{% if m.role != 'tool' %}{{ m.role ~ m.content }}{% endif %}{% endfor %}",
      "leaves out what the tool says"),
     ("{% for m in messages %}{% if loop.last %}{{ m.role ~ m.content }}{% endif %}{% endfor %}",
      "leaves out the answer before")],
)  # fmt: skip
def test_a_template_without_such_a_turn_is_said_at_the_start(template: str, message: str) -> None:
    tokenizer = family_tokenizer("qwen", TEXTS)
    encoder = ObservationEncoder(tokenizer, "tool")
    encoder.check()
    tokenizer.chat_template = template
    with pytest.raises(UserError, match=message) as caught:
        encoder.check()
    assert "rollout.environment.role=user" in str(caught.value.hint)
