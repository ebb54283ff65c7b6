"""The rows that models are judged on: a recipe's held-out ones, or those of files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from distft.common.errors import UserError
from distft.config.data import Data, Source
from distft.config.find_method import traits_of
from distft.config.method import PAIRS
from distft.config.recipe import Recipe
from distft.data.bad_rows import BadRow
from distft.data.dataset import load_datasets, load_list
from distft.data.formats import Example, detect_format
from distft.data.reading_marks import reads_apart
from distft.data.sampler import proportional_sample
from distft.data.sources import read_rows
from distft.data.tokenized import TokenizedDataset

Unit = Literal["pairs", "answers", "labelled answers", "prompts"]
_KINDS: dict[Unit, str] = {"pairs": "dpo", "answers": "sft", "prompts": "ppo"}
_UNITS: dict[str, Unit] = {
    "pairs": "pairs", "sequences": "answers", "answers": "labelled answers", "prompts": "prompts"
}  # fmt: skip
MAX_LENGTH, MAX_ROWS = 2048, 256


@dataclass(frozen=True)
class Wanted:
    """Which rows: of ``files``, else of the ``recipe``, its ``split`` (test, else eval). ``unit``: what a row is read
    as; None: as the recipe's method reads it, else by its columns. ``limit``: so many at most, each source its share.
    """

    recipe: Recipe | None = None
    files: tuple[str, ...] = ()
    split: str | None = None
    unit: Unit | None = None
    limit: int | None = None
    max_length: int | None = None
    seed: int | None = None

    def kind(self) -> str:
        """The kind of algorithm whose rows they are. Raises UserError where there is nothing to read."""
        if self.recipe is None and not self.files:
            hint = "--data PATH: a file, a folder, a data set of the hub or builtin:dialogues"
            raise UserError("there are no rows to judge by", where="eval", hint=hint)
        if self.unit is not None:
            return _KINDS[self.unit]
        if self.recipe is not None:
            return self.recipe.algorithm.kind
        row = next(iter(read_rows(self.sources()[0], "test")))
        for unit in ("pairs", "answers"):
            try:
                detect_format(row, _KINDS[unit])
            except BadRow:
                continue
            return _KINDS[unit]
        return _KINDS["prompts"]

    def for_policy(self) -> Wanted:
        """What a policy is judged by: not by the rankings that a reward model reads as one, but by their pairs."""
        traits = traits_of(self.kind())
        return replace(self, unit="pairs") if traits.main == "reward" and traits.unit == PAIRS else self

    @property
    def seed_used(self) -> int:
        """Of the rows that are taken and of the draws: ``seed``, else the recipe's, else 1."""
        if self.seed is not None:
            return self.seed
        return 1 if self.recipe is None else self.recipe.seed

    def sources(self) -> tuple[Source, ...]:
        """Those of the files."""
        return tuple(Source(path=path, split=self.split) for path in self.files)


@dataclass(frozen=True)
class JudgedRows:
    """``units`` of a tokenised list, the same of every model. ``sources``: the name of the source of each."""

    dataset: TokenizedDataset
    units: list[int]
    sources: list[str]
    unit: Unit
    examples: list[Example] = field(repr=False)

    @property
    def places(self) -> list[str]:
        """Where each stands."""
        return [example.where for example in self.examples]

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of how they were read."""
        statistics = self.dataset.statistics
        cut = statistics.num_truncated
        said = f"{cut} of {statistics.num_kept} rows are longer than allowed and were cut: --max-length N takes more"
        return (*statistics.warnings, *([said] if cut else []))


def judged_rows(wanted: Wanted, tokenizer: Any) -> JudgedRows:
    """The rows in a model's tokens. Raises what reading and encoding rows can raise; UserError for a recipe that keeps
    no rows back."""
    kind, recipe = wanted.kind(), wanted.recipe
    same = recipe is not None and recipe.algorithm.kind == kind
    loss_on = recipe.algorithm.learned_tokens() if recipe is not None and same else None
    data = _data(wanted, sampled=traits_of(kind).sampled, apart=reads_apart(tokenizer))
    if wanted.files:
        sources: Sequence[Source] = wanted.sources()
        dataset = load_list(sources, data, kind, tokenizer, loss_on=loss_on)
    else:
        name = held_out_list(data, wanted.split)
        sources = getattr(data, name) or data.train
        if getattr(data, name):
            dataset = load_list(sources, data, kind, tokenizer, loss_on=loss_on, name=name)
        else:
            dataset = getattr(load_datasets(data, kind, tokenizer, loss_on=loss_on), name)
    most = wanted.limit or (recipe.evaluation.max_samples if recipe is not None else MAX_ROWS)
    units = proportional_sample(dataset.source_sizes, most, wanted.seed_used)
    source_of = np.repeat(np.arange(len(sources)), dataset.source_sizes)
    named = [source.path + (f" [{source.split}]" if source.split else "") for source in sources]
    return JudgedRows(
        dataset, units, [named[source_of[unit]] for unit in units], _UNITS[traits_of(kind).unit.name],
        dataset.rows(units),
    )  # fmt: skip


def _data(wanted: Wanted, *, sampled: bool, apart: bool) -> Data:
    """``apart``: prompt and answer have a limit each (``Data.sides``), so what is typed is of either."""
    own = wanted.recipe.data if wanted.recipe is not None else Data(max_length=MAX_LENGTH)
    if wanted.max_length is not None:
        longest = wanted.max_length * 2 if apart else wanted.max_length
        own = own.model_copy(update={"max_length": longest, "max_prompt_length": wanted.max_length})
    elif wanted.recipe is None and sampled:
        own = own.model_copy(update={"max_prompt_length": MAX_LENGTH})
    return own


def held_out_list(data: Data, split: str | None) -> Literal["train", "eval", "test"]:
    """The recipe's list of that name; without one test, else eval. Raises UserError where it keeps no such rows."""
    if split is not None:
        if split not in ("train", "eval", "test"):
            raise UserError("is no list of a recipe", where=f"--split {split}", hint="train, eval or test")
        found: Literal["train", "eval", "test"] = split  # type: ignore[assignment]
        if found == "train" or getattr(data, found) or data.holdout:
            return found
    elif data.test or data.holdout:
        return "test"
    elif data.eval:
        return "eval"
    raise UserError(
        f"the recipe keeps no {split or 'test'} rows back", where=f"data.{split or 'test'}",
        hint="--data PATH judges by other rows, --split train by those that it was trained on",
    )  # fmt: skip
