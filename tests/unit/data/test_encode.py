from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from distft.common.errors import UserError
from distft.data.chat_templates import DEFAULT_TEMPLATE
from distft.data.encode import Encoded, Encoder
from distft.data.formats import (
    CompletionExample,
    Content,
    DialogueExample,
    Message,
    PreferenceExample,
    PromptExample,
    TextExample,
)
from distft.data.templates import render
from tests.harness.chat_templates import ENDLESS, family_tokenizer

ASK, TELL = Message("user", "Who is there?"), Message("assistant", "A friend.")
MORE, END = Message("user", "Which one?"), Message("assistant", "Anna.")
# Ends a header with two line breaks, which the tokenizer of these tests joins with what follows.
BREAKS = (
    "{% for m in messages %}{{ m['role'] }}:\n\n{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}assistant:\n\n{% endif %}"
)
# Writes an opening into the generation prompt that a finished conversation does not have.
THINKING = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|><think>{% endif %}"
)


def _trained(tokenizer: PreTrainedTokenizerFast, encoded: Encoded) -> str:
    return str(tokenizer.decode([i for i, mask in zip(encoded.response_ids, encoded.mask, strict=True) if mask]))


def _all_ids(encoded: Encoded) -> list[int]:
    return encoded.prompt_ids + encoded.response_ids


def test_a_plain_row_ends_with_eos(tokenizer: PreTrainedTokenizerFast) -> None:
    encoded = Encoder(tokenizer).answer("Who is", " there?", "x")
    assert tokenizer.decode(encoded.prompt_ids) == "Who is"
    assert tokenizer.decode(encoded.response_ids) == " there?<|end|>"
    assert encoded.mask == [1] * len(encoded.response_ids)


@pytest.mark.parametrize("prompt", ["Who is", (ASK,)])
def test_an_answer_that_was_cut_has_no_end(tokenizer: PreTrainedTokenizerFast, prompt: Content) -> None:
    whole, cut = (read(prompt, " there? ", "x") for read in (Encoder(tokenizer).answer, Encoder(tokenizer).cut_answer))
    assert cut.prompt_ids == whole.prompt_ids
    assert cut.response_ids == whole.response_ids[:-1]
    assert whole.response_ids[-1] == tokenizer.eos_token_id


def test_a_cut_answer_that_a_template_writes_otherwise(merging: PreTrainedTokenizerFast) -> None:
    """The prompt changes when it is answered; or what the model wrote is not written out at all."""
    merging.chat_template = THINKING
    cut = Encoder(merging).cut_answer((ASK,), "Paris", "x")
    assert cut.moved
    assert merging.decode(_all_ids(cut)) == "<|user|>Who is there?<|end|><|assistant|>Paris"
    merging.chat_template = THINKING.replace("m['content'] }}", "m['content'] if m['role'] == 'user' else '' }}")
    dropped = Encoder(merging).cut_answer((ASK,), "Paris", "x")
    assert merging.decode(dropped.prompt_ids).endswith("<|assistant|><think>")
    assert merging.decode(dropped.response_ids) == "Paris"


def test_an_eos_that_is_there_is_not_doubled(tokenizer: PreTrainedTokenizerFast) -> None:
    encoded = Encoder(tokenizer).answer("Who is", " there?<|end|>", "x")
    assert tokenizer.decode(encoded.response_ids) == " there?<|end|>"


def test_bos_is_put_once_and_a_tokenizers_own_eos_not_after_the_prompt(with_bos: PreTrainedTokenizerFast) -> None:
    encoder = Encoder(with_bos)
    for prompt in ("The capital", "<s>The capital"):
        encoded = encoder.answer(prompt, " of France", "x")
        assert with_bos.decode(encoded.prompt_ids) == "<s>The capital"
        assert with_bos.decode(encoded.response_ids) == " of France</s>"
        assert encoder.prompt(PromptExample(prompt)) == encoded.prompt_ids
    with_bos.chat_template = DEFAULT_TEMPLATE
    assert with_bos.decode(encoder.prompt(PromptExample((ASK,)))).count("<s>") == 1


def test_an_empty_prompt_leaves_bos_as_the_prompt_or_masks_the_first_token(
    with_bos: PreTrainedTokenizerFast, tokenizer: PreTrainedTokenizerFast
) -> None:
    encoded = Encoder(with_bos).answer("", "of France", "x")
    assert encoded.prompt_ids == [with_bos.bos_token_id]
    assert set(encoded.mask) == {1}
    encoded = Encoder(tokenizer).answer("", "Who is there?", "x")
    assert encoded.prompt_ids == []
    assert encoded.mask == [0] + [1] * (len(encoded.response_ids) - 1)


def test_a_token_that_would_merge_over_the_border_is_split_there(merging: PreTrainedTokenizerFast) -> None:
    prompt = "The capital of France is "
    together = merging(prompt + "Paris")["input_ids"]
    alone = merging(prompt)["input_ids"]
    assert together[: len(alone)] != alone  # else this tests nothing
    encoded = Encoder(merging).answer(prompt, "Paris", "x")
    assert encoded.prompt_ids == alone == Encoder(merging).prompt(PromptExample(prompt))
    assert merging.decode(_all_ids(encoded)) == prompt + "Paris<|end|>"


def test_a_template_whose_header_merges_with_the_answer(merging: PreTrainedTokenizerFast) -> None:
    merging.chat_template = BREAKS
    encoder = Encoder(merging)
    answer = (Message("assistant", "\n\n- a"),)
    encoded = encoder.answer((ASK,), answer, "x")
    whole = merging(render(merging, (ASK, *answer), "x"))["input_ids"]
    assert whole[: len(encoded.prompt_ids)] != encoded.prompt_ids  # else this tests nothing
    assert encoded.prompt_ids == encoder.prompt(PromptExample((ASK,)))
    assert merging.decode(encoded.response_ids) == "\n\n- a<|end|>"
    assert not encoded.moved


def test_a_conversation_ends_as_its_template_says(merging: PreTrainedTokenizerFast) -> None:
    merging.chat_template = THINKING.replace("<think>", "")
    encoded = Encoder(merging).answer((ASK,), (TELL,), "x")
    assert merging.decode(encoded.response_ids) == "A friend.<|end|>"
    merging.chat_template = merging.chat_template.replace("<|end|>", "<|end|>\n")
    encoded = Encoder(merging).answer((ASK,), (TELL,), "x")
    assert merging.decode(encoded.response_ids) == "A friend.<|end|>\n"


def test_a_generation_prompt_that_answers_do_not_have_moves_the_border(merging: PreTrainedTokenizerFast) -> None:
    merging.chat_template = THINKING
    encoded = Encoder(merging).answer((ASK,), (TELL,), "x")
    assert encoded.moved
    assert merging.decode(encoded.prompt_ids) == "<|user|>Who is there?<|end|><|assistant|>"
    assert merging.decode(encoded.response_ids) == "A friend.<|end|>"


def test_both_sides_of_a_pair_have_the_same_prompt_even_when_moved(merging: PreTrainedTokenizerFast) -> None:
    merging.chat_template = THINKING
    sides = ((Message("assistant", "<think>a"),), (Message("assistant", "b"),))
    chosen, rejected = Encoder(merging).compared(PreferenceExample((ASK,), *sides))
    assert chosen.prompt_ids == rejected.prompt_ids
    assert len(chosen.mask) == len(chosen.response_ids)
    assert merging.decode(chosen.response_ids) == "<think>a<|end|>"


def test_dialogue_trains_every_turn_of_the_assistant(tokenizer: PreTrainedTokenizerFast) -> None:
    encoded = Encoder(tokenizer).supervised(DialogueExample((ASK, TELL, MORE, END)), None)
    assert tokenizer.decode(encoded.prompt_ids) == "<|user|>Who is there?<|end|><|assistant|>"
    assert _trained(tokenizer, encoded) == "A friend.<|end|>Anna.<|end|>"
    assert encoded.mask[0] == 1
    assert 0 in encoded.mask


def test_turns_after_the_last_trained_token_are_left_out(tokenizer: PreTrainedTokenizerFast) -> None:
    encoder = Encoder(tokenizer)
    longer = encoder.supervised(DialogueExample((ASK, TELL, MORE)), None)
    assert longer == encoder.supervised(DialogueExample((ASK, TELL)), None)


def test_loss_on_of_a_dialogue(tokenizer: PreTrainedTokenizerFast) -> None:
    encoder, dialogue = Encoder(tokenizer), DialogueExample((ASK, TELL, MORE, END))
    last = encoder.supervised(dialogue, "completion")
    assert _trained(tokenizer, last) == "Anna.<|end|>"
    assert set(last.mask) == {1}
    whole = encoder.supervised(dialogue, "all")
    assert whole.prompt_ids == []
    assert whole.mask == [0] + [1] * (len(whole) - 1)
    assert _all_ids(last) == _all_ids(whole) == _all_ids(encoder.supervised(dialogue, "assistant"))


def test_a_turn_of_weight_0_is_read_and_not_learned(tokenizer: PreTrainedTokenizerFast) -> None:
    encoder, unlearned = Encoder(tokenizer), Message("assistant", "Anna.", trains=False)
    first = encoder.supervised(DialogueExample((ASK, TELL)), None)
    for loss_on in ("assistant", "completion"):
        assert encoder.supervised(DialogueExample((ASK, TELL, MORE, unlearned)), loss_on) == first
    dialogue = (ASK, Message("assistant", "Nobody.", trains=False), MORE, END)
    assert _trained(tokenizer, encoder.supervised(DialogueExample(dialogue), None)) == "Anna.<|end|>"


def test_loss_on_of_a_prompt_and_completion(tokenizer: PreTrainedTokenizerFast) -> None:
    encoder = Encoder(tokenizer)
    plain = CompletionExample("Who is", " there?")
    assert _trained(tokenizer, encoder.supervised(plain, None)) == " there?<|end|>"
    assert encoder.supervised(plain, "assistant") == encoder.supervised(plain, None)
    assert encoder.supervised(plain, "all").prompt_ids == []
    turns = CompletionExample((ASK, TELL, MORE), (END,))
    assert _trained(tokenizer, encoder.supervised(turns, None)) == "Anna.<|end|>"
    assert _trained(tokenizer, encoder.supervised(turns, "assistant")) == "A friend.<|end|>Anna.<|end|>"


def test_supervised_takes_the_chosen_answer(tokenizer: PreTrainedTokenizerFast) -> None:
    encoder = Encoder(tokenizer)
    assert encoder.supervised(PreferenceExample("a", " b", " c"), None) == encoder.answer("a", " b", "x")


def test_a_text_is_trained_from_its_second_token(tokenizer: PreTrainedTokenizerFast) -> None:
    encoder = Encoder(tokenizer)
    encoded = encoder.supervised(TextExample("Who is there?"), None)
    assert encoded.prompt_ids == []
    assert tokenizer.decode(encoded.response_ids) == "Who is there?<|end|>"
    assert encoded.mask == [0] + [1] * (len(encoded) - 1)
    with pytest.raises(UserError, match="(?s)rows:3.*no completion to train on.*loss_on: all"):
        encoder.supervised(TextExample("a", where="rows:3"), "completion")


def test_other_speakers_within_an_answer_are_masked(tokenizer: PreTrainedTokenizerFast) -> None:
    encoded = Encoder(tokenizer).answer((ASK,), (TELL, MORE, END), "x")
    assert tokenizer.decode(encoded.prompt_ids) == "<|user|>Who is there?<|end|><|assistant|>"
    assert _trained(tokenizer, encoded) == "A friend.<|end|>Anna.<|end|>"
    assert "Which one?" in tokenizer.decode(encoded.response_ids)


def test_what_has_no_answer_or_no_prompt_is_named(tokenizer: PreTrainedTokenizerFast) -> None:
    encoder = Encoder(tokenizer)
    with pytest.raises(UserError, match="rows:3: the row has no pair"):
        encoder.compared(PromptExample("a", where="rows:3"))
    with pytest.raises(UserError, match="rows:3: a prompt alone"):
        encoder.supervised(PromptExample("a", where="rows:3"), None)
    with pytest.raises(UserError, match="rows:3: the row has no prompt"):
        encoder.prompt(TextExample("a", where="rows:3"))


def test_truncation_keeps_the_start_and_adds_nothing(tokenizer: PreTrainedTokenizerFast) -> None:
    encoded = Encoder(tokenizer).answer("Who is", " there? A friend.", "x")
    for length in range(len(encoded) + 2):
        cut = encoded.truncated(length)
        assert _all_ids(cut) == _all_ids(encoded)[:length]
        assert len(cut.mask) == len(cut.response_ids)
        assert (tokenizer.eos_token_id in _all_ids(cut)) == (length >= len(encoded))
        assert cut.trains == (length > len(encoded.prompt_ids))


@settings(max_examples=200)
@given(prompt=st.text(alphabet="ab Pé\n:-🙂", max_size=12), answer=st.text(alphabet="ab Pé\n:-🙂", max_size=12))
def test_prompts_are_what_generation_sees_and_no_text_is_lost(prompt: str, answer: str) -> None:
    tokenizer = _MERGING
    encoder = Encoder(tokenizer)
    encoded = encoder.answer(prompt, answer, "x")
    assert encoded.prompt_ids == tokenizer(prompt)["input_ids"]
    assert tokenizer.decode(_all_ids(encoded)) == prompt + answer + "<|end|>"
    turns = encoder.answer((Message("user", prompt),), (Message("assistant", answer),), "x")
    assert turns.prompt_ids == encoder.prompt(PromptExample((Message("user", prompt),)))
    assert tokenizer.decode(turns.response_ids) == answer + "<|end|>"


def _make_merging() -> PreTrainedTokenizerFast:
    from distft.data.tokenizer_training import train_tokenizer

    return train_tokenizer(["ab Pé ab Pé\n\n: a\n\n- b 🙂 " * 20], 330)


_MERGING = _make_merging()


@pytest.mark.parametrize("name", ENDLESS)
def test_a_template_that_ends_no_turn_is_given_an_end(name: str) -> None:
    tokenizer = family_tokenizer(name, ["Who is there? A friend. Which one? Anna."] * 9)
    encoder, eos = Encoder(tokenizer), tokenizer.eos_token_id
    answer = encoder.answer((ASK,), (TELL,), "x")
    assert answer.response_ids.index(eos) == len(answer.response_ids) - 1
    assert answer.mask[-1] == 1
    for loss_on in ("assistant", "completion", "all"):
        encoded = encoder.supervised(DialogueExample((ASK, TELL, MORE, END)), loss_on)
        assert _all_ids(encoded).count(eos) == 1
        assert (encoded.response_ids[-1], encoded.mask[-1]) == (eos, 1)
    open_ended = encoder.supervised(DialogueExample((ASK, TELL, MORE, END, MORE)), "assistant")
    assert eos not in _all_ids(open_ended)
    assert eos not in encoder.prompt(PromptExample((ASK,)))


def test_a_template_that_ends_its_turns_is_given_nothing() -> None:
    tokenizer = family_tokenizer("qwen", ["Who is there? A friend."] * 9)
    assert tokenizer.decode(Encoder(tokenizer).answer((ASK,), (TELL,), "x").response_ids) == "A friend.<|im_end|>\n"
