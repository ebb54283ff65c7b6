"""Token ids back to text: what a response says, as it stands behind its prompt.

A response is decoded together with its prompt and cut off. Alone, a SentencePiece tokenizer takes its first space
away, and a character whose bytes are divided between the two would be lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

from distft.batches import Array
from distft.data.bad_rows import BadRow
from distft.data.encode import Encoder
from distft.data.formats import Content
from distft.data.reading_marks import reads_apart

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Ids: TypeAlias = Sequence[int] | Array

_HALF_A_CHARACTER = "\N{REPLACEMENT CHARACTER}"


def response_text(tokenizer: PreTrainedTokenizerBase, prompt_ids: Ids, response_ids: Ids, *, ended: bool) -> str:
    """What the response adds to the prompt's text, without special tokens and, if it ``ended``, its stop token."""
    special = {*tokenizer.all_special_ids, *(i for i, t in tokenizer.added_tokens_decoder.items() if t.special)}
    prompt = [int(token) for token in prompt_ids]
    response = [int(token) for token in response_ids[: len(response_ids) - ended] if int(token) not in special]
    if reads_apart(tokenizer):
        return _text(tokenizer, response)
    before = _text(tokenizer, prompt).rstrip(_HALF_A_CHARACTER)
    return _text(tokenizer, prompt + response).removeprefix(before)


def answer_text(
    tokenizer: PreTrainedTokenizerBase, prompt: Content, prompt_ids: Ids, response_ids: Ids,
    *, ended: bool, where: str,
) -> str:  # fmt: skip
    """``response_text``, as the answer that a template takes and a reward function is given.

    Some tokenizers and templates write a space before an answer by themselves (behind a special token, or as
    `` [/INST] answer``). Where the answer without its first space becomes the same tokens, that space is theirs.
    """
    text = response_text(tokenizer, prompt_ids, response_ids, ended=ended)
    if reads_apart(tokenizer) or not text.startswith(" ") or not text.strip():
        return text
    try:
        again = Encoder(tokenizer).answer(prompt, text[1:], where)
    except BadRow:  # a template may refuse what a policy says
        return text
    theirs = again.prompt_ids == list(prompt_ids) and again.response_ids[:1] == list(response_ids[:1])
    return text[1:] if theirs else text


def _text(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))
