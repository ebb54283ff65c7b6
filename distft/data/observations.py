"""What an environment says, as the token ids that follow a turn of the policy.

Ids of earlier turns are never made anew: the chat template is asked what it writes *between* an answer and the next
one, and only that is tokenised. A template that writes old turns in another way (Qwen3 takes thoughts out) changes
nothing of them: what is trained on are the ids that were sampled.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from distft.common.errors import UserError
from distft.data.bad_rows import BadRow
from distft.data.formats import Message
from distft.data.templates import MARK, render_open
from distft.data.text_ids import text_ids
from distft.data.turn_end import turn_end

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_TRIAL = "Seven"
_KEY = "rollout.environment.role"


class ObservationEncoder:
    """Encodes what ``role`` says, by a tokenizer and its chat template."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, role: Literal["user", "tool"]) -> None:
        self._tokenizer, self._role = tokenizer, role
        self._ids: Callable[[str], list[int]] = text_ids(tokenizer)
        end = turn_end(tokenizer)
        self._stop = end.stop if end is not None and not end.appended else None

    def plain(self, observation: str) -> list[int]:
        """Behind a plain answer and its end: the text as it stands."""
        return self._ids(observation) if observation else []

    def conversational(self, observation: str, last: int | None = None) -> list[int]:
        """Behind an answer in a conversation: from behind the token that ends its turn, which the policy has written,
        to where it is to go on. ``last``: the token that it ended with (GLM's may be the first of the next turn).

        Raises UserError where the template takes no such turn, or leaves out its words or the answer before.
        """
        question, answer = Message("user", "Which word?"), Message("assistant", MARK)
        try:
            text = render_open(self._tokenizer, (question, answer, Message(self._role, observation)), _KEY)
        except BadRow as refused:
            raise UserError(refused.what, where=f"{_KEY}: {self._role}", hint=self._other()) from refused
        _, mark, between = text.partition(MARK)
        if not mark or not any(said in between for said in _written(observation.strip())):
            left_out = f"what the {self._role} says" if mark else f"the answer before what the {self._role} says"
            what = f"the chat template leaves out {left_out}"
            raise UserError(what, where=f"{_KEY}: {self._role}", hint=self._other())
        ids = self._ids(between)
        if self._stop in ids:
            return ids[ids.index(self._stop) + 1 :]
        return ids[1:] if ids[:1] == [last] else ids

    def check(self) -> None:
        """Raises UserError as ``conversational`` would, before anything is sampled."""
        self.conversational(_TRIAL)

    def _other(self) -> str:
        other = "user" if self._role == "tool" else "tool"
        return f"{_KEY}={other}, or models.policy.chat_template takes another template"


def _written(text: str) -> tuple[str, ...]:
    """A text as templates write it: as it stands, or in a JSON string (Llama 3.1's do, where a tool speaks)."""
    return text, *(json.dumps(text, ensure_ascii=only)[1:-1] for only in (False, True))
