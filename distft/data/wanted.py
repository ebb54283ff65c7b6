"""The answer that a row gives, in words: what other answers to its prompt are held against."""

from __future__ import annotations

from distft.data.formats import (
    CompletionExample,
    Content,
    DialogueExample,
    Example,
    PreferenceExample,
    PromptExample,
    RankingExample,
    last_assistant,
)

ANSWER = "answer"  # the column of a row that is else a prompt


def wanted_answer(example: Example) -> str | None:
    """The chosen one of two, the best of several, the assistant's last turn, the column ``answer`` beside a prompt;
    None where the row has none, or calls its own a bad one."""
    content: Content
    if isinstance(example, DialogueExample):
        return example.messages[last_assistant(example.messages)].content
    if isinstance(example, PromptExample):
        found = example.extra.get(ANSWER)
        return None if found is None else str(found)
    if isinstance(example, CompletionExample):
        if example.label is False:
            return None
        content = example.completion
    elif isinstance(example, PreferenceExample):
        content = example.chosen
    elif isinstance(example, RankingExample):
        content = example.completions[0]
    else:
        return None
    return content if isinstance(content, str) else content[-1].content
