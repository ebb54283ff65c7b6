"""Answers to be labelled: sampled as ``distft generate`` samples, those to a prompt together, in an order that says
nothing of who gave them."""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, cast

from distft.common.errors import UserError
from distft.common.files import JsonlWriter, write_atomic
from distft.config.recipe import Recipe
from distft.data.formats import Content, PromptExample, prompt_key
from distft.data.labelling import MOST_COMPLETIONS, Item, Task
from distft.data.prompts import read_prompts, training_prompts
from distft.evaluation.judge import criterion_of
from distft.report.label_page import label_page
from distft.verbs.answering import Answering
from distft.verbs.speaking import given_plain, open_named, recipe_and_models

ANSWERS = 4  # to a prompt, of all models together


@dataclass(frozen=True)
class Collection:
    """``items``, and the ``records`` of ``distft generate`` that each was made of, in the items' order of answers."""

    title: str
    criterion: str
    tasks: Sequence[Task]
    items: list[Item]
    records: list[list[dict[str, Any]]]
    num_left_out: int


def collect(arguments: argparse.Namespace, tasks: Sequence[str]) -> Collection:
    """Samples the answers. Raises what finding models, reading prompts and sampling can raise."""
    recipe, names, sampling = recipe_and_models(arguments)
    if len(names) > MOST_COMPLETIONS:
        raise UserError(_too_many(len(names)), where=" ".join(names), hint=f"name {MOST_COMPLETIONS} models at most")
    prompts = _prompts(arguments, recipe)
    sampling = [f"samples_per_prompt={max(1, ANSWERS // len(names))}", *sampling]
    with open_named(names, sampling, arguments, plain=given_plain(arguments)) as (models, settings):
        _require_keys(len(names), settings.samples_per_prompt, tasks)
        answering = Answering(models, settings, arguments.seed, system=arguments.system)
        items: list[Item] = []
        records: list[list[dict[str, Any]]] = []
        num_prompts = 0
        for _, group in groupby(answering.records(prompts), key=lambda record: record["number"]):
            num_prompts += 1
            answers = _different(list(group), arguments.seed)
            if len(answers) > 1 or tasks != ("rank",):
                items.append(_item(prompts[answers[0]["number"]][0], answers))
                records.append(answers)
    if not items:
        what = f"all answers to each of the {num_prompts} prompts are the same: there is nothing to rank"
        raise UserError(what, where=" ".join(names), hint="temperature=1.0 draws more freely")
    title = "Answers to judge" if recipe is None else recipe.name
    chosen = cast("Sequence[Task]", tasks)
    criterion = criterion_of(arguments.criterion, recipe)
    return Collection(title, criterion, chosen, items, records, num_prompts - len(items))


def write_collection(found: Collection, folder: Path) -> None:
    """The page, and what it was made of with the models' names."""
    write_atomic(folder / "label.html", label_page(found.items, found.title, found.criterion, found.tasks))
    with JsonlWriter(folder / "items.jsonl") as file:
        file.append(*(
            {"item": number, "prompt": item.written_prompt, "completions": item.completions,
             "models": [record["model"] for record in records], "where": records[0]["where"],
             "logprobs": [record["logprob"] for record in records], "seed": records[0]["seed"]}
            for number, (item, records) in enumerate(zip(found.items, found.records, strict=True))
        ))  # fmt: skip


def _prompts(arguments: argparse.Namespace, recipe: Recipe | None) -> list[tuple[Content, str]]:
    """Different ones, as many as are wanted."""
    if arguments.prompts:
        found = read_prompts(arguments.prompts, split=arguments.split, list_name="train")
    elif recipe is not None:
        found = training_prompts(recipe.data)
    else:
        hint = "--prompts PATH: a .txt file (one a line), or any data file or data set"
        raise UserError("nothing says what the models are asked", where="collect", hint=hint)
    different: dict[str, tuple[Content, str]] = {}
    for prompt, where in found:
        different.setdefault(prompt_key(PromptExample(prompt)), (prompt, where))
        if len(different) == arguments.limit:
            break
    if not different:
        what = "holds no prompt that is not a held-out row's too"
        raise UserError(what, where="data.train", hint="--prompts PATH names others")
    return list(different.values())


def _require_keys(num_models: int, samples_per_prompt: int, tasks: Sequence[str]) -> None:
    count = num_models * samples_per_prompt
    if count > MOST_COMPLETIONS:
        hint = f"samples_per_prompt={MOST_COMPLETIONS // num_models}"
        raise UserError(_too_many(count), where=f"samples_per_prompt={samples_per_prompt}", hint=hint)
    if count < 2 and tasks == ("rank",):
        raise UserError("one answer cannot be ranked", where="samples_per_prompt=1", hint="samples_per_prompt=4")


def _too_many(count: int) -> str:
    return f"{count} answers to a prompt are more than a person can rank: {MOST_COMPLETIONS} at most"


def _different(answers: Sequence[dict[str, Any]], seed: int) -> list[dict[str, Any]]:
    """Each text once, shuffled by seed and prompt."""
    found = {record["completion"].strip(): record for record in reversed(answers)}
    different = [record for record in answers if found[record["completion"].strip()] is record]
    random.Random(f"{seed}/{answers[0]['number']}").shuffle(different)
    return different


def _item(prompt: Content, answers: Sequence[dict[str, Any]]) -> Item:
    """The prompt as it was read: a conversation is made of a text when it is trained on, too."""
    return Item(prompt, tuple(record["completion"] for record in answers), tuple(one["ended"] for one in answers))
