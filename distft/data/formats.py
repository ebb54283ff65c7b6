"""What a row means: examples of nine kinds, made from the columns of a row.

======================== ============================================ ==========================================
format                   columns                                      example
======================== ============================================ ==========================================
``text``                 text                                         TextExample
``messages``             messages                                     DialogueExample
``openai_chat``          messages, as OpenAI's fine-tuning has them   DialogueExample
``sharegpt``             conversations: from, value                   DialogueExample
``prompt_completion``    prompt, completion                           CompletionExample
``unpaired``             prompt, completion, label: true or false     CompletionExample with its label
``alpaca``               instruction, output; input, system           CompletionExample of messages
``natural_instructions`` definition, inputs, targets                  CompletionExample
``preference``           chosen, rejected; prompt, or it is implicit  PreferenceExample; of a reward model's rows
                         (a number ``margin``)                        with its margin
``corrections``          prompt, completion, corrected                PreferenceExample, corrected before completion
``rankings``             prompt, completions, ranks: 1 the best,      RankingExample, the best answer first; of what
                         equal where neither is better                learns from pairs a PreferenceExample of each
``prompt``               prompt                                       PromptExample
``hh_rlhf``              chosen, rejected: whole dialogues as text    PreferenceExample
``dialogsum``            dialogue, summary                            CompletionExample
``classification``       text, label; text_pair                       ClassifiedExample
``anchors``              anchor, positive; negative, negative_1, ...  AnchoredExample
                         or negatives, a list
``stepwise``             prompt, completions, labels: true or false   StepwiseExample
======================== ============================================ ==========================================

``prompt`` and ``completion`` go by other names too: see ``aliases``.
A prompt and an answer are a text or messages; within an example both are of the same sort.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from distft.common.errors import UserError, nearest
from distft.config.find_method import traits_of
from distft.data.bad_rows import BadRow


@dataclass(frozen=True)
class Row:
    """The columns of one row, and where it stands: ``file:line``, or ``name:row`` of a hub data set."""

    values: Mapping[str, Any]
    where: str


@dataclass(frozen=True)
class Message:
    """One turn of a conversation. ``trains`` False: an assistant's turn that is read, not learned."""

    role: str
    content: str
    trains: bool = True


Messages: TypeAlias = tuple[Message, ...]
Content: TypeAlias = str | Messages


@dataclass(frozen=True, kw_only=True)
class _Example:
    where: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)  # the columns that no format knows


@dataclass(frozen=True)
class TextExample(_Example):
    """Plain text to be modelled from its first token to its last."""

    text: str


@dataclass(frozen=True)
class DialogueExample(_Example):
    """A conversation, with at least one turn of the assistant."""

    messages: Messages


@dataclass(frozen=True)
class CompletionExample(_Example):
    """A prompt and its completion. ``label``: whether it is a good one; None: nobody says."""

    prompt: Content
    completion: Content
    label: bool | None = None


@dataclass(frozen=True)
class PreferenceExample(_Example):
    """Two answers to one prompt, the first the better one. ``margin``: by how much, in points of a reward model; None:
    nobody says."""

    prompt: Content
    chosen: Content
    rejected: Content
    margin: float | None = None


@dataclass(frozen=True)
class RankingExample(_Example):
    """Two answers or more to one prompt, the better before the worse. ``ranks``: 0 of the best, equal where neither is
    better, with at least two different ones."""

    prompt: Content
    completions: tuple[Content, ...]
    ranks: tuple[int, ...]

    def pairs(self) -> Iterator[PreferenceExample]:
        """One for every two answers of which one is better."""
        for worse, rejected in enumerate(self.completions):
            for better, chosen in enumerate(self.completions[:worse]):
                if self.ranks[better] < self.ranks[worse]:
                    yield PreferenceExample(self.prompt, chosen, rejected, where=self.where, extra=self.extra)


@dataclass(frozen=True)
class PromptExample(_Example):
    """A prompt alone."""

    prompt: Content


@dataclass(frozen=True)
class ClassifiedExample(_Example):
    """A text, or a pair of them, and the name of its class."""

    text: str
    label: str
    text_pair: str | None = None


@dataclass(frozen=True)
class AnchoredExample(_Example):
    """A text, one that belongs to it (a question and a passage that answers it), and some that do not, though they look
    as if they might."""

    anchor: str
    positive: str
    negatives: tuple[str, ...] = ()

    @property
    def texts(self) -> tuple[str, ...]:
        """All of them, in this order."""
        return (self.anchor, self.positive, *self.negatives)


@dataclass(frozen=True)
class StepwiseExample(_Example):
    """A prompt, the steps of an answer, and whether each of them is right."""

    prompt: str
    steps: tuple[str, ...]
    labels: tuple[bool, ...]


Example: TypeAlias = (
    TextExample | DialogueExample | CompletionExample | PreferenceExample | RankingExample | PromptExample
    | ClassifiedExample | AnchoredExample | StepwiseExample
)  # fmt: skip

COLUMNS: Final[dict[str, tuple[str, ...]]] = {
    "messages": ("messages",),
    "openai_chat": ("messages",),
    "sharegpt": ("conversations",),
    "prompt_completion": ("prompt", "completion"),
    "unpaired": ("prompt", "completion", "label"),
    "alpaca": ("instruction", "output"),
    "natural_instructions": ("definition", "inputs", "targets"),
    "preference": ("chosen", "rejected"),
    "hh_rlhf": ("chosen", "rejected"),
    "corrections": ("prompt", "completion", "corrected"),
    "rankings": ("prompt", "completions", "ranks"),
    "dialogsum": ("dialogue", "summary"),
    "classification": ("text", "label"),
    "anchors": ("anchor", "positive"),
    "stepwise": ("prompt", "completions", "labels"),
    "text": ("text",),
    "prompt": ("prompt",),
}
ALIASES: Final[dict[str, tuple[str, ...]]] = {
    "prompt": ("question", "instruction", "query", "input"),
    "completion": ("answer", "response", "output"),
    "anchor": ("query", "question"),
    "positive": ("passage", "document", "answer"),
}
# Columns that have a meaning here whatever the format; the others are handed to reward functions.
KNOWN_COLUMNS: Final = frozenset({
    "messages", "prompt", "completion", "corrected", "chosen", "rejected", "dialogue", "summary", "text",
    "conversations", "completions", "ranks",
})  # fmt: skip


def detect_format(row: Row, kind: str) -> str:
    """The format of a source, from its first row's columns and what the kind of algorithm takes. An answer beside its
    correction is no answer to be imitated as it is.

    BadRow naming the columns that are there and those that were looked for.
    """
    present = {name for name, value in row.values.items() if value is not None}
    takes = traits_of(kind).formats
    found = [name for name in takes if present.issuperset(COLUMNS[name])]
    found = found or [name for name in takes if present.union(aliases(row, name)).issuperset(COLUMNS[name])]
    if not found:
        raise _no_format(row, kind, present)
    if {"preference", "hh_rlhf"} <= set(found) and found[0] in ("preference", "prompt") and _is_hh(row):
        return "hh_rlhf"
    return "corrections" if "corrections" in found else found[0]


def aliases(row: Row, format_name: str) -> dict[str, str]:
    """Format's column -> the row's column that is read in its place, where the format's own is not there: a question,
    an instruction or a query is a prompt. Not where the answers are whole conversations, which have their prompt.
    """
    wanted = ("prompt",) if format_name == "preference" else COLUMNS[format_name]
    names = {"text": ("prompt",)} if format_name == "classification" else ALIASES
    side = row.values.get("chosen")
    if format_name == "preference" and isinstance(side, list) and not _begins_with_an_answer(side):
        return {}
    return {
        ours: theirs
        for ours in wanted
        if row.values.get(ours) is None
        for theirs in [next((name for name in names.get(ours, ()) if isinstance(row.values.get(name), str)), "")]
        if theirs
    }


def _begins_with_an_answer(side: list[Any]) -> bool:
    return bool(side) and isinstance(side[0], dict) and side[0].get("role") == "assistant"


def check_format(name: str, kind: str, where: str) -> None:
    """UserError where rows of that format cannot serve that kind of algorithm."""
    takes = traits_of(kind).formats
    if name not in takes:
        raise UserError(
            f"{kind} cannot be trained on rows of format {name}",
            where=where,
            hint=f"{kind} takes: {', '.join(takes)}",
        )


def require_columns(row: Row, format_name: str) -> None:
    """BadRow where a column of the format is missing or null: what is there, and the nearest name."""
    for column in COLUMNS[format_name]:
        if row.values.get(column) is not None:
            continue
        if column in row.values:
            raise misshapen(row, f"column `{column}` is null", "fill it in, or leave the row out")
        near = nearest(column, row.values)
        hint = f"did you mean `{near}`? then set `columns: {{{near}: {column}}}` on the source" if near else ""
        raise misshapen(
            row,
            f"format {format_name} needs a column `{column}`; the row has {_listed(row.values)}",
            hint or f"`columns: {{name in the file: {column}}}` on the source renames",
        )


def misshapen(row: Row, what: str, hint: str) -> BadRow:
    """The error for a row whose columns are not what its format has."""
    return BadRow(what, where=row.where, hint=hint, reason="wrong columns or types", content=row.values)


def extra_columns(row: Row) -> dict[str, Any]:
    """The columns that belong to no format: kept for reward functions."""
    return {name: value for name, value in row.values.items() if name not in KNOWN_COLUMNS}


def prompt_of(example: Example) -> Content:
    """What the answer of an example answers; of a dialogue all before the assistant's last turn; "" of a text."""
    if isinstance(example, TextExample | ClassifiedExample):
        return ""
    if isinstance(example, DialogueExample):
        return example.messages[: last_assistant(example.messages)]
    return example.anchor if isinstance(example, AnchoredExample) else example.prompt


def texts_of(example: Example) -> list[str]:
    """Everything an example says, without markup: what a tokenizer is trained on."""
    parts: list[Content]
    if isinstance(example, TextExample):
        parts = [example.text]
    elif isinstance(example, ClassifiedExample):
        parts = [example.text, *([] if example.text_pair is None else [example.text_pair])]
    elif isinstance(example, AnchoredExample):
        parts = [*example.texts]
    elif isinstance(example, DialogueExample):
        parts = [example.messages]
    elif isinstance(example, CompletionExample):
        parts = [example.prompt, example.completion]
    elif isinstance(example, PreferenceExample):
        parts = [example.prompt, example.chosen, example.rejected]
    elif isinstance(example, RankingExample):
        parts = [example.prompt, *example.completions]
    elif isinstance(example, StepwiseExample):
        parts = [example.prompt, *example.steps]
    else:
        parts = [example.prompt]
    texts = [[part] if isinstance(part, str) else [message.content for message in part] for part in parts]
    return [text for group in texts for text in group]


def last_assistant(messages: Messages) -> int:
    """The place of the assistant's last turn; ValueError where there is none."""
    for index in range(len(messages) - 1, -1, -1):
        if messages[index].role == "assistant":
            return index
    raise ValueError("no assistant turn")


def prompt_key(example: Example) -> str:
    """A fingerprint of what is asked: equal for examples that must not be divided between train and held-out rows.

    Letter case and white space do not count. An example without a prompt is known by its whole content.
    """
    prompt = prompt_of(example)
    content = _canonical(prompt) if prompt else [_canonical(text) for text in texts_of(example)]
    return hashlib.blake2b(json.dumps(content, ensure_ascii=False).encode(), digest_size=16).hexdigest()


def _canonical(content: Content) -> Any:
    if isinstance(content, str):
        return " ".join(content.casefold().split())
    return [[message.role, _canonical(message.content)] for message in content]


def _is_hh(row: Row) -> bool:
    texts = (row.values.get("chosen"), row.values.get("rejected"))
    return "prompt" not in row.values and all(
        isinstance(text, str) and text.lstrip().startswith("Human:") and "\n\nAssistant:" in text for text in texts
    )


def _no_format(row: Row, kind: str, present: set[str]) -> BadRow:
    wanted = {name: COLUMNS[name] for name in traits_of(kind).formats}
    known = sorted({column for columns in wanted.values() for column in columns})
    pairs = [(near, have) for have in sorted(row.values) if have not in known and (near := nearest(have, known))]
    hint = f"{kind} takes: " + "; ".join(f"{name} ({', '.join(columns)})" for name, columns in wanted.items())
    if pairs:
        renames = ", ".join(f"{have}: {near}" for near, have in pairs)
        hint = f"did you mean `columns: {{{renames}}}` on the source?\n  {hint}"
    else:
        hint += "\n  `columns: {name in the file: name of the format}` on the source renames"
    empty = sorted(set(row.values) - present)
    note = f" ({_listed(empty)} null)" if empty else ""
    what = f"no known format for {kind} has the columns {_listed(row.values)}{note}"
    return BadRow(
        what, where=row.where, hint=hint, reason="wrong columns or types", content=row.values, typical=True
    )  # fmt: skip


def _listed(names: Any) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names)) or "(none)"
