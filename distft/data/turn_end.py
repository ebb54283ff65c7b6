"""How a conversation ends: with which token, and what a chat template writes behind that one.

====================  =============================================  ================
a template's end      families                                       stop token
====================  =============================================  ================
``<|im_end|>\\n``      ChatML: Qwen, and kin                          ``<|im_end|>``
``<|eot_id|>``        Llama 3                                        ``<|eot_id|>``
``<end_of_turn>\\n``   Gemma                                          ``<end_of_turn>``
``<|end|>`` + EOS     Phi-3: the EOS behind the last turn only       ``<|end|>``
``EOS`` + space       Mistral v0.1                                   EOS
nothing               GLM-4: the next turn's beginning ends a turn   EOS, put there
====================  =============================================  ================
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_QUESTION, _ANSWER, _NEXT = "Which word?", "Word", "Another one?"


@dataclass(frozen=True)
class TurnEnd:
    """``ids``: from the first special token behind the assistant's last words to the end of the conversation.

    ``stop``: the one that ends a turn wherever it stands. ``appended``: the template writes none, so that the end of
    sequence is put there; None and no ids where the tokenizer has no such token either.
    """

    ids: tuple[int, ...]
    stop: int | None
    appended: bool = False

    def behind(self, token: int) -> tuple[int, ...] | None:
        """What follows such a token at the end of a conversation; None for a token that is not part of the end."""
        return self.ids[self.ids.index(token) + 1 :] if token in self.ids else None


def plain_end(tokenizer: Any) -> TurnEnd:
    """The end of a plain answer: the end of sequence."""
    eos = tokenizer.eos_token_id
    return TurnEnd(() if eos is None else (int(eos),), eos)


def turn_end(tokenizer: Any) -> TurnEnd | None:
    """The end of a conversation by the tokenizer's chat template; None where it has none, or refuses one question with
    one answer.

    Found by asking the template, not by its text: an end is what it writes behind an answer, at the end and, where it
    is the same there, before a next question.
    """
    ask, answer, again = _turn("user", _QUESTION), _turn("assistant", _ANSWER), _turn("user", _NEXT)
    text = _rendered(tokenizer, [ask, answer])
    if text is None or _ANSWER not in text:
        return None
    marks = special_tokens(tokenizer)
    ids = _from_first(_ids(tokenizer, text.rpartition(_ANSWER)[2]), marks)
    if not ids:
        end = plain_end(tokenizer)
        return TurnEnd(end.ids, end.stop, appended=True)
    longer = _rendered(tokenizer, [ask, answer, again]) or ""
    between = set(_ids(tokenizer, longer.rpartition(_ANSWER)[2].partition(_NEXT)[0])) & marks
    stop = next((token for token in reversed(ids) if token in between), ids[0])
    # In its place: a tokenizer may write what follows a special token in another way at the start of a text.
    whole = _ids(tokenizer, text)
    start = [place for place, token in enumerate(whole) if token == ids[0]][-ids.count(ids[0])]
    return TurnEnd(tuple(whole[start:]), stop)


def special_tokens(tokenizer: Any) -> frozenset[int]:
    """The ids that no plain text has: named special tokens, and added ones that are more than white space."""
    added = {number for number, token in tokenizer.added_tokens_decoder.items() if str(token).strip()}
    return frozenset({*added, *tokenizer.all_special_ids})


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _rendered(tokenizer: Any, messages: list[dict[str, str]]) -> str | None:
    if tokenizer.chat_template is None:
        return None
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False))
    except Exception:  # Jinja's own errors, and whatever a template's expressions raise: then rows are refused too
        return None


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []


def _from_first(ids: list[int], marks: frozenset[int]) -> list[int]:
    first = next((place for place, token in enumerate(ids) if token in marks), len(ids))
    return ids[first:]
