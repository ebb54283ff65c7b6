"""Natural Instructions' tasks, of both editions, to prompts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distft.common.errors import UserError
from distft.config.data import Instructions, Source
from distft.config.load import load_recipe
from distft.data.bad_rows import BadRow
from distft.data.formats import Row
from distft.data.natural_instructions import instances, instructed
from distft.data.readers import example_for
from distft.data.sources import check_rows, read_rows

SECOND: dict[str, Any] = {
    "Contributors": ["A"], "Categories": ["Opposites"], "Definition": ["Say the opposite."],
    "Positive Examples": [
        {"input": "hot", "output": "cold", "explanation": "Cold is the opposite of hot."},
        {"input": "high", "output": "low", "explanation": "They are."},
        {"input": "big", "output": "small", "explanation": ""},
    ],
    "Negative Examples": [{"input": "wet", "output": "damp", "explanation": "Damp is a bit wet."}],
    "Instances": [
        {"id": "task1-0", "input": "high", "output": ["low", "deep"]},
        {"id": "task1-1", "input": "old", "output": ["new"]},
    ],
}  # fmt: skip
FIRST: dict[str, Any] = {
    "Title": "Opposites", "Prompt": "?", "Definition": "Say the opposite.", "Things to Avoid": "Synonyms.",
    "Emphasis & Caution": "-",
    "Examples": {
        "Positive Examples": [{"input": "hot", "output": "cold", "reason": "It is."}],
        "Negative Examples": [{"input": "wet", "output": "damp", "reason": "No.", "suggestion": "dry"}],
    },
    "Instances": [{"input": "old", "output": ["new"]}],
}  # fmt: skip
ALL = Instructions(things_to_avoid=True, positive=1, negative=1, explanations=True)


def prompts(task: dict[str, Any], wanted: Instructions) -> list[Any]:
    found = list(instances(Row(task, "task.json:1")))
    for bad in (row for row in found if isinstance(row, BadRow)):
        raise bad
    rows = [instructed(row, wanted) for row in found if isinstance(row, Row)]
    return [example_for(row, "natural_instructions", "sft") for row in rows]


def test_a_task_is_a_row_an_instance_and_as_it_was_without_wishes() -> None:
    rows = list(instances(Row(SECOND, "task.json:1")))
    assert [row.where for row in rows] == ["task.json:1 instance 1", "task.json:1 instance 2"]
    examples: list[Any] = [example_for(row, "natural_instructions", "sft") for row in rows]
    assert examples[0].prompt == "Say the opposite.\n\nInput: high\n\nOutput:"
    assert [example.completion for example in examples] == [" low", " new"]


def test_definition_and_examples_of_the_second_edition() -> None:
    _, old = prompts(SECOND, Instructions(positive=2, negative=1))
    assert old.prompt == (
        "Definition: Say the opposite.\n\nPositive Example 1 -\nInput: hot\nOutput: cold\n\n"
        "Positive Example 2 -\nInput: high\nOutput: low\n\nNegative Example 1 -\nInput: wet\nOutput: damp\n\n"
        "Now complete the following example -\n\nInput: old\n\nOutput:"
    )
    assert old.completion == " new"


def test_an_example_that_asks_the_same_is_passed_over() -> None:
    high, _ = prompts(SECOND, Instructions(positive=2))
    assert "Output: low" not in high.prompt
    assert "Positive Example 2 -\nInput: big\nOutput: small" in high.prompt, "the next comes in its place"


def test_things_to_avoid_and_explanations_of_the_first_edition() -> None:
    [old] = prompts(FIRST, ALL)
    assert old.prompt == (
        "Definition: Say the opposite.\n\nThings to avoid: Synonyms.\n\n"
        "Positive Example 1 -\nInput: hot\nOutput: cold\nExplanation: It is.\n\n"
        "Negative Example 1 -\nInput: wet\nOutput: damp\nExplanation: No.\nSuggestion: dry\n\n"
        "Now complete the following example -\n\nInput: old\n\nOutput:"
    )


def test_what_a_task_says_nothing_of_is_left_out() -> None:
    task = {**FIRST, "Things to Avoid": "-", "Examples": {"Positive Examples": "-", "Negative Examples": []}}
    [old] = prompts(task, ALL)
    assert old.prompt == "Definition: Say the opposite.\n\nInput: old\n\nOutput:"


def test_examples_alone() -> None:
    [old] = prompts(FIRST, Instructions(definition=False, positive=1))
    assert old.prompt.startswith("Positive Example 1 -\nInput: hot")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"Things to Avoid": None}, "no `things_to_avoid`, of which `instructions` on the source wants some"),
        ({"Examples": {"Positive Examples": [{"input": "a"}]}}, "an example without input and output"),
        ({"Examples": {"Positive Examples": "a"}}, "`positive_examples` is no list of examples"),
        ({"Instances": [{"input": "a"}]}, "has no input and output"),
    ],
)
def test_what_is_missing_is_named(change: dict[str, Any], what: str) -> None:
    with pytest.raises(BadRow, match=what):
        prompts({**FIRST, **change}, ALL)


def test_files_and_folders_of_tasks_and_flat_rows(tmp_path: Path) -> None:
    for number, task in enumerate((FIRST, SECOND)):
        (tmp_path / f"task{number}.json").write_text(json.dumps(task, indent=2))
    found = [row.values["inputs"] for row in read_rows(Source(path=str(tmp_path)))]
    assert found == ["old", "high", "old"]
    assert len(list(read_rows(Source(path=str(tmp_path), limit=2)))) == 2
    looked_at = check_rows(Source(path=str(tmp_path / "task1.json")), "sft")
    assert looked_at.format == "natural_instructions"
    assert looked_at.notes == (
        "not in the prompt: `positive_examples`, `negative_examples` (`instructions: {positive: 2}` on the source, "
        "with format: natural_instructions, puts them there)",
    )
    flat = {"definition": "Say.", "inputs": "a", "targets": ["b"], "shots": [{"input": "c", "output": "d"}]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(flat))
    source = Source(
        path=str(tmp_path / "rows.jsonl"), format="natural_instructions", columns={"shots": "positive_examples"},
        instructions=Instructions(positive=3),
    )  # fmt: skip
    [row] = read_rows(source)
    assert "Input: c\nOutput: d" in row.values["definition"]
    assert check_rows(source, "sft").notes == (), "nothing is left unread"


def test_where_no_task_has_what_is_wanted_the_error_says_what(tmp_path: Path) -> None:
    """Though bad rows are left out."""
    (tmp_path / "task.json").write_text(json.dumps(SECOND))
    source = Source(path=str(tmp_path), format="natural_instructions", instructions=Instructions(things_to_avoid=True))
    with pytest.raises(UserError, match=r"none of the first 0 rows can be used \(the row has no `things_to_avoid`"):
        check_rows(source, "sft", on_bad=[].append)


def test_a_bad_instance_is_told_and_the_others_come(tmp_path: Path) -> None:
    """Those of its own task as well."""
    good = FIRST["Instances"][0]
    tasks = ({**FIRST, "Instances": [good, 3, good, {"input": "a"}, good]}, FIRST)
    (tmp_path / "task.jsonl").write_text("\n".join(map(json.dumps, tasks)))
    bad: list[BadRow] = []
    rows = list(read_rows(Source(path=str(tmp_path / "task.jsonl")), on_bad=bad.append))
    places = [row.where.rpartition("task.jsonl:")[2] for row in rows]
    assert places[:3] == ["1 instance 1", "1 instance 3", "1 instance 5"]
    assert places[3:] == [f"2 instance {n}" for n in range(1, len(FIRST["Instances"]) + 1)]
    assert [one.where.rpartition("task.jsonl:")[2] for one in bad] == ["1 instance 2", "1 instance 4"]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("instructions: {positive: 1}", r"train.0.instructions.*are those of natural_instructions rows"),
        ("format: natural_instructions, instructions: {definition: false}", r"leave nothing that says"),
        ("format: natural_instructions, instructions: {explanations: true}", r"explanations are those of examples"),
    ],
)
def test_wishes_without_effect_are_refused(keys: str, message: str, write: Callable[..., str]) -> None:
    with pytest.raises(UserError, match=message):
        load_recipe("sft-tiny", [f"data.train=[{{path: {write([{'text': 'a'}])}, {keys}}}]"])
