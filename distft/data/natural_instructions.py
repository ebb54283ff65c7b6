"""Tasks of Natural Instructions (Mishra et al. 2022) and Super-NaturalInstructions (Wang et al. 2022): a task file as
rows, and what of a task stands in the prompt before each of its instances.

=====================  ============================================================================================
column                 key of a task file (the first edition's, where it has another)
=====================  ============================================================================================
definition             Definition
things_to_avoid        Things to Avoid (first edition); "-" is nothing
positive_examples      Positive Examples (Examples > Positive Examples): input, output, explanation (reason)
negative_examples      Negative Examples (Examples > Negative Examples): the same, and suggestion (first edition)
inputs, targets        input and output of each of Instances
=====================  ============================================================================================
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from distft.config.data import Instructions
from distft.data.bad_rows import BadRow
from distft.data.formats import Row, misshapen

_INSTANCES: Final = "Instances"
_KEYS: Final = {
    "definition": "Definition", "things_to_avoid": "Things to Avoid", "positive_examples": "Positive Examples",
    "negative_examples": "Negative Examples",
}  # fmt: skip
_FORM: Final = "a list of objects with input, output and perhaps explanation"


def instances(row: Row) -> Iterator[Row | BadRow]:
    """A row for each instance of the task that the row is, a BadRow for one that is none; any other row as it is.

    Where such a row stands: ``file:line``, the task's, and the number of the instance.
    """
    listed = row.values.get(_INSTANCES)
    if not isinstance(listed, list) or "Definition" not in row.values:
        yield row
        return
    examples = row.values.get("Examples")
    known = {**row.values, **(examples if isinstance(examples, Mapping) else {})}
    task = {ours: known[theirs] for ours, theirs in _KEYS.items() if theirs in known}
    for number, instance in enumerate(listed, 1):
        where = f"{row.where} instance {number}"
        if not isinstance(instance, Mapping) or not {"input", "output"} <= instance.keys():
            yield misshapen(Row({_INSTANCES: instance}, where), "has no input and output", "an object with both")
            continue
        yield Row({**task, "inputs": instance["input"], "targets": instance["output"]}, where)


def instructed(row: Row, wanted: Instructions) -> Row:
    """The row with all that is ``wanted`` of its task as its ``definition``, and without the columns it is made of.

    In the order and the words of Tk-Instruct (Wang et al. 2022, appendix): definition, things to avoid, positive
    examples, negative examples, each as far as there are some. An example that asks what the row asks is passed over:
    it would give the answer away. BadRow where the row has no column for what is wanted.
    """
    parts = [f"Definition: {_definition(row)}"] if wanted.definition else []
    if wanted.things_to_avoid and (text := _text(_column(row, "things_to_avoid"))) not in ("", "-"):
        parts.append(f"Things to avoid: {text}")
    shown = []
    for word, count in (("positive", wanted.positive), ("negative", wanted.negative)):
        if count:
            others = [one for one in _examples(row, f"{word}_examples") if _text(one["input"]) != _asked(row)]
            shown += [
                _example(f"{word.capitalize()} Example {number}", one, explained=wanted.explanations)
                for number, one in enumerate(others[:count], 1)
            ]
    ending = ["Now complete the following example -"] if shown else []
    kept = {name: value for name, value in row.values.items() if name not in _KEYS}
    return Row({**kept, "definition": "\n\n".join([*parts, *shown, *ending])}, row.where)


def _example(title: str, example: Mapping[str, Any], *, explained: bool) -> str:
    lines = [f"{title} -", f"Input: {_text(example['input'])}", f"Output: {_text(example['output'])}"]
    if explained:
        said = {
            "Explanation": _text(example.get("explanation") or example.get("reason")),
            "Suggestion": _text(example.get("suggestion")),
        }
        lines += [f"{name}: {text}" for name, text in said.items() if text not in ("", "-")]
    return "\n".join(lines)


def _examples(row: Row, column: str) -> list[Mapping[str, Any]]:
    """Those of a column; a text in place of the list ("-", as the first edition has it) is none."""
    listed = _column(row, column)
    if isinstance(listed, str) and listed.strip() in ("", "-"):
        return []
    if not isinstance(listed, list | tuple):
        raise misshapen(row, f"`{column}` is no list of examples", _FORM)
    for one in listed:
        if not isinstance(one, Mapping) or not {"input", "output"} <= one.keys():
            raise misshapen(row, f"`{column}` has an example without input and output", _FORM)
    return list(listed)


def _column(row: Row, column: str) -> Any:
    if row.values.get(column) is None:
        what = f"the row has no `{column}`, of which `instructions` on the source wants some"
        raise misshapen(row, what, f"columns: {{NAME: {column}}} on the source, or want none of it")
    return row.values[column]


def _definition(row: Row) -> str:
    """All of it, where it is in several texts."""
    said = row.values.get("definition")
    return "\n".join(map(str, said)).strip() if isinstance(said, list | tuple) else _text(said)


def _asked(row: Row) -> str:
    return _text(row.values.get("inputs"))


def _text(value: Any) -> str:
    """A text; of several, such as an example's outputs, the first."""
    if isinstance(value, list | tuple):
        value = value[0] if value else ""
    return "" if value is None else str(value).strip()
