"""Rows to examples: one reader a format.

A reader gives an example, or raises ``Unusable`` for a row that is well formed but cannot be trained on
(counted by its reason and left out), or BadRow with ``file:line`` for a row that is wrong.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from distft.config.data import MOST_ANSWERS
from distft.config.find_method import traits_of
from distft.data.bad_rows import Unusable
from distft.data.columns import under_our_names
from distft.data.formats import (
    AnchoredExample,
    ClassifiedExample,
    CompletionExample,
    Content,
    DialogueExample,
    Example,
    Message,
    Messages,
    PreferenceExample,
    PromptExample,
    RankingExample,
    Row,
    StepwiseExample,
    TextExample,
    extra_columns,
    misshapen,
    prompt_of,
    require_columns,
)
from distft.data.implicit_prompts import implicit_prompt, repeats_prompt
from distft.data.labels import label, yes_or_no
from distft.data.messages import FORM, from_sharegpt, parse_hh, parse_messages, wrong_type

EMPTY_ANSWER: Final = "empty answer"  # one rule for all formats: what is imitated says something
SAME: Final = "chosen and rejected are the same"
BAD_ANSWER: Final = "labelled false, as bad answers (`columns: {label: NAME}` on the source imitates them too)"
RANKS: Final = "a number for each answer, 1 for the best, 2 for the next; equal ones where neither is better"
STEP_LABELS: Final = "true or false for each step, as 1 or 0 too"
_NEGATIVE: Final = re.compile(r"negative(_\d+)?")
_SUMMARY_PROMPT: Final = "Summarize the following conversation.\n\n{dialogue}\n\nSummary:"


def example_of(row: Row, format_name: str) -> Example:
    """The example a row stands for."""
    named = under_our_names(row, format_name)
    require_columns(named, format_name)
    return _READERS[format_name](named)


def example_for(row: Row, format_name: str, kind: str) -> Example:
    """The example a row stands for, of use to a kind of algorithm: what is to be answered needs a prompt, what is
    imitated words, and nobody must have called it bad. Where answers are told apart one may be empty: to be silent, or
    not to be, is what it teaches.
    """
    example, unit = example_of(row, format_name), traits_of(kind).unit.name
    if unit == "pairs" and isinstance(example, PreferenceExample) and example.chosen == example.rejected:
        raise Unusable(SAME)
    if unit == "prompts" and not prompt_of(example):
        raise Unusable("no prompt")
    if unit == "sequences" and isinstance(example, PreferenceExample) and _is_empty(example.chosen):
        raise Unusable(EMPTY_ANSWER)
    if unit == "sequences" and isinstance(example, CompletionExample) and yes_or_no(row.values.get("label")) is False:
        raise Unusable(BAD_ANSWER)
    if traits_of(kind).main == "reward" and isinstance(example, PreferenceExample):
        return replace(example, margin=_margin(row))
    return example


def examples_for(row: Row, format_name: str, kind: str) -> tuple[Example, ...]:
    """As ``example_for``, but that of a pair two are made, a good answer and a bad one, where a kind of algorithm
    learns from labelled answers; of an answer that was left as it is a good one. Of a ranking all pairs are made, save
    for a reward model, which reads each answer once for all of them."""
    example = example_for(row, format_name, kind)
    if isinstance(example, RankingExample) and traits_of(kind).main != "reward":
        return tuple(example.pairs())
    if traits_of(kind).unit.name != "answers" or not isinstance(example, PreferenceExample):
        return (example,)
    sides = ((example.chosen, True), (example.rejected, False))[: 1 if example.chosen == example.rejected else 2]
    return tuple(
        CompletionExample(example.prompt, side, good, where=example.where, extra=example.extra) for side, good in sides
    )


def _margin(row: Row) -> float | None:
    """A finite number, written as a text in a .csv file."""
    said = row.values.get("margin")
    if said is None or said == "":
        return None
    try:
        found = math.nan if isinstance(said, bool) else float(said)
    except (TypeError, ValueError):
        found = math.nan
    if not math.isfinite(found):
        what = f"`margin` is {said!r}: it is no number by which the chosen answer is better"
        raise misshapen(row, what, "a number such as 1.5, or nothing; columns: {margin: NAME} reads NAME in its place")
    return found


def _text(row: Row) -> Example:
    text = row.values["text"]
    if not isinstance(text, str):
        raise wrong_type(row, "text", "a text", text)
    if not text.strip():
        raise Unusable("empty text")
    return TextExample(text, where=row.where, extra=extra_columns(row))


def _messages(row: Row) -> Example:
    return _dialogue(row, parse_messages(row, "messages", row.values["messages"]))


def _sharegpt(row: Row) -> Example:
    turns = row.values["conversations"]
    if not isinstance(turns, list | tuple):
        raise wrong_type(row, "conversations", "a list of turns", turns)
    named = [from_sharegpt(row, f"`conversations` turn {number}", turn) for number, turn in enumerate(turns, 1)]
    return _dialogue(row, _system(row) + parse_messages(row, "conversations", named))


def _dialogue(row: Row, messages: Messages) -> Example:
    """A conversation to learn from. A turn of the assistant without a word would teach to say nothing."""
    said = [message.content for message in messages if message.role == "assistant" and message.trains]
    if not said:
        raise Unusable("no assistant turn")
    if not all(map(str.strip, said)):
        raise Unusable(EMPTY_ANSWER)
    return DialogueExample(messages, where=row.where, extra=extra_columns(row))


def _prompt_completion(row: Row) -> Example:
    prompt, completion = _content(row, "prompt"), _content(row, "completion")
    prompt, (completion,) = _same_sort(row, prompt, [completion])
    if _is_empty(completion):
        raise Unusable(EMPTY_ANSWER)
    return CompletionExample(prompt, completion, where=row.where, extra=extra_columns(row))


def _unpaired(row: Row) -> Example:
    good = label(row.values["label"])
    if good is None:
        what = f"`label` is {row.values['label']!r}: it says neither that the answer is good nor that it is bad"
        raise misshapen(row, what, "true or 1 for a good answer, false or 0 for a bad one")
    prompt, (completion,) = _same_sort(row, _content(row, "prompt"), [_content(row, "completion")])
    return CompletionExample(prompt, completion, good, where=row.where, extra=extra_columns(row))


def _prompt(row: Row) -> Example:
    prompt = _content(row, "prompt")
    if not prompt:
        raise Unusable("empty prompt")
    return PromptExample(prompt, where=row.where, extra=extra_columns(row))


def _preference(row: Row) -> Example:
    sides = [_content(row, "chosen"), _content(row, "rejected")]
    if isinstance(sides[0], str) != isinstance(sides[1], str):
        raise misshapen(row, "`chosen` and `rejected` must both be texts or both be messages", FORM)
    if row.values.get("prompt") is None:
        return _pair(row, *implicit_prompt(*sides))
    prompt = _content(row, "prompt")
    if not isinstance(sides[0], str) and repeats_prompt(prompt, sides):
        return _pair(row, *implicit_prompt(*sides))
    prompt, sides = _same_sort(row, prompt, sides)
    return _pair(row, prompt, sides[0], sides[1])


def _corrections(row: Row) -> Example:
    """An answer and what it was corrected to. One that was left as it is tells nothing apart, but may be imitated."""
    answers = [_content(row, "corrected"), _content(row, "completion")]
    prompt, (corrected, answer) = _same_sort(row, _content(row, "prompt"), answers)
    return PreferenceExample(prompt, corrected, answer, where=row.where, extra=extra_columns(row))


def _rankings(row: Row) -> Example:
    """Answers in any order, and a number of each: the less, the better."""
    given, numbers = row.values["completions"], row.values["ranks"]
    for column, value, wanted in (("completions", given, "a list of answers"), ("ranks", numbers, "a list of numbers")):
        if not isinstance(value, list | tuple):
            raise wrong_type(row, column, wanted, value)
    if len(given) != len(numbers):
        raise misshapen(row, f"`completions` has {len(given)} answers, `ranks` {len(numbers)} numbers", RANKS)
    if len(given) > MOST_ANSWERS:
        hint = f"rank at most {MOST_ANSWERS} of them in a row"
        raise misshapen(row, f"`completions` has {len(given)} answers: they are compared in one micro-batch", hint)
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
            raise misshapen(row, f"`ranks` has {number!r}, which is no number", RANKS)
    if len(given) < 2:
        raise Unusable("fewer than two answers")
    answers = [one if isinstance(one, str) else parse_messages(row, f"completions {place}", one)
               for place, one in enumerate(given, 1)]  # fmt: skip
    prompt, answers = _same_sort(row, _content(row, "prompt"), answers)
    said: dict[Content, float] = {}
    if any(said.setdefault(answer, rank) != rank for answer, rank in zip(answers, numbers, strict=True)):
        raise Unusable("the same answer with different ranks")
    levels = sorted(set(numbers))
    if len(levels) < 2:
        raise Unusable("all answers have the same rank")
    order = sorted(range(len(answers)), key=lambda place: numbers[place])
    ranks = tuple(levels.index(numbers[place]) for place in order)
    completions = tuple(answers[place] for place in order)
    return RankingExample(prompt, completions, ranks, where=row.where, extra=extra_columns(row))


def _stepwise(row: Row) -> Example:
    """The steps of an answer, and of each whether it is right."""
    prompt, steps, labels = _plain_text(row, "prompt"), row.values["completions"], row.values["labels"]
    for column, value, wanted in (("completions", steps, "a list of steps"), ("labels", labels, "a list of labels")):
        if not isinstance(value, list | tuple):
            raise wrong_type(row, column, wanted, value)
    if len(steps) != len(labels):
        raise misshapen(row, f"`completions` has {len(steps)} steps, `labels` {len(labels)} labels", STEP_LABELS)
    if not all(isinstance(step, str) for step in steps):
        raise misshapen(row, "`completions` has a step that is no text", "plain texts, as the prompt")
    said = [None if isinstance(one, str) else label(one) for one in labels]
    if None in said:
        raise misshapen(row, f"`labels` has {labels[said.index(None)]!r}, which says neither", STEP_LABELS)
    if not steps or not prompt.strip():
        raise Unusable("no steps" if not steps else "no prompt")
    extra = {name: value for name, value in extra_columns(row).items() if name != "labels"}
    return StepwiseExample(prompt, tuple(steps), tuple(map(bool, said)), where=row.where, extra=extra)


def _hh_rlhf(row: Row) -> Example:
    """Whole dialogues: the prompt is what both have in common up to the assistant's turn in which they part."""
    chosen, rejected = (parse_hh(row, column) for column in ("chosen", "rejected"))
    return _pair(row, *implicit_prompt(chosen, rejected))


def _dialogsum(row: Row) -> Example:
    for column in ("dialogue", "summary"):
        if not isinstance(row.values[column], str):
            raise wrong_type(row, column, "a text", row.values[column])
    if _is_empty(row.values["summary"]):
        raise Unusable(EMPTY_ANSWER)
    prompt = _SUMMARY_PROMPT.format(dialogue=row.values["dialogue"].strip())
    return CompletionExample(prompt, " " + row.values["summary"].strip(), where=row.where, extra=extra_columns(row))


def _alpaca(row: Row) -> Example:
    """An instruction, what it is about (``input``) and the answer (``output``): a turn of the user and one of the
    assistant."""
    asked = [_plain_text(row, name) for name in ("instruction", "input") if row.values.get(name)]
    answer = _plain_text(row, "output")
    if _is_empty(answer):
        raise Unusable(EMPTY_ANSWER)
    prompt = (*_system(row), Message("user", "\n\n".join(asked)))
    return CompletionExample(prompt, (Message("assistant", answer),), where=row.where, extra=extra_columns(row))


def _classification(row: Row) -> Example:
    """A text, or a pair of them, by the name of its class; a number is a name too."""
    said, pair = row.values["label"], row.values.get("text_pair")
    if isinstance(said, float) and said.is_integer():
        said = int(said)
    if not isinstance(said, str | int) or not str(said).strip():
        raise wrong_type(row, "label", "a name or a whole number", said)
    text = _plain_text(row, "text")
    if not text.strip():
        raise Unusable("empty text")
    second = None if pair is None else _plain_text(row, "text_pair")
    return ClassifiedExample(text, str(said).strip(), second, where=row.where, extra=extra_columns(row))


def _anchors(row: Row) -> Example:
    """A text and what belongs to it. Negatives: the columns negative, negative_1, ..., or a list of them."""
    anchor, positive = _plain_text(row, "anchor"), _plain_text(row, "positive")
    listed = row.values.get("negatives")
    if listed is not None and (not isinstance(listed, list | tuple) or not all(isinstance(one, str) for one in listed)):
        raise wrong_type(row, "negatives", "a list of texts", listed)
    named = [name for name, value in row.values.items() if _NEGATIVE.fullmatch(name) and value is not None]
    negatives = [*(_plain_text(row, name) for name in named), *(listed or ())]
    if not anchor.strip() or not positive.strip():
        raise Unusable("empty text")
    if positive in negatives:
        raise Unusable("the positive is among the negatives")
    kept = tuple(dict.fromkeys(one for one in negatives if one.strip()))
    return AnchoredExample(anchor, positive, kept, where=row.where)


def _natural_instructions(row: Row) -> Example:
    """A task's definition, an instance of it and its (first) answer."""
    definition, targets = _joined(row.values["definition"]), row.values["targets"]
    answer = targets[0] if isinstance(targets, list | tuple) and targets else targets
    if not isinstance(answer, str):
        raise wrong_type(row, "targets", "a text or a list of texts", targets)
    if _is_empty(answer):
        raise Unusable(EMPTY_ANSWER)
    prompt = f"{definition.strip()}\n\nInput: {_plain_text(row, 'inputs').strip()}\n\nOutput:"
    return CompletionExample(prompt, f" {answer.strip()}", where=row.where, extra=extra_columns(row))


_READERS: dict[str, Callable[[Row], Example]] = {
    "text": _text,
    "messages": _messages,
    "openai_chat": _messages,
    "sharegpt": _sharegpt,
    "prompt_completion": _prompt_completion,
    "unpaired": _unpaired,
    "alpaca": _alpaca,
    "natural_instructions": _natural_instructions,
    "preference": _preference,
    "corrections": _corrections,
    "rankings": _rankings,
    "stepwise": _stepwise,
    "prompt": _prompt,
    "hh_rlhf": _hh_rlhf,
    "dialogsum": _dialogsum,
    "classification": _classification,
    "anchors": _anchors,
}


def _pair(row: Row, prompt: Content, chosen: Content, rejected: Content) -> Example:
    if chosen == rejected:
        raise Unusable(SAME)
    if not isinstance(chosen, str) and not prompt:
        raise Unusable("the two dialogues have no common beginning")
    for name, side in (("chosen", chosen), ("rejected", rejected)):
        if not isinstance(side, str) and not any(message.role == "assistant" for message in side):
            raise Unusable(f"no assistant turn in {name}")
    return PreferenceExample(prompt, chosen, rejected, where=row.where, extra=extra_columns(row))


def _same_sort(row: Row, prompt: Content, answers: list[Content]) -> tuple[Content, list[Content]]:
    """A text beside messages becomes a message: a prompt the user's, an answer the assistant's."""
    if all(isinstance(part, str) for part in (prompt, *answers)):
        return prompt, answers
    if isinstance(prompt, str):
        prompt = (Message("user", prompt),)
    if not prompt:
        raise misshapen(row, "`prompt` is an empty list of messages", FORM)
    return prompt, [(Message("assistant", part),) if isinstance(part, str) else part for part in answers]


def _content(row: Row, column: str) -> Content:
    value = row.values[column]
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple):
        return parse_messages(row, column, value)
    raise wrong_type(row, column, "a text or a list of messages", value)


def _system(row: Row) -> Messages:
    system = row.values.get("system") or row.values.get("system_prompt")
    return (Message("system", system),) if isinstance(system, str) and system.strip() else ()


def _plain_text(row: Row, column: str) -> str:
    value = row.values[column]
    if not isinstance(value, str):
        raise wrong_type(row, column, "a text", value)
    return value


def _joined(value: Any) -> str:
    return "\n".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _is_empty(answer: Content) -> bool:
    """Whether an answer says nothing, or one of its turns does."""
    if isinstance(answer, str):
        return not answer.strip()
    return not all(message.content.strip() for message in answer if message.role == "assistant")
