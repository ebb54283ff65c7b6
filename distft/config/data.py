"""Where the rows come from and how long they may be."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, Literal, TypeAlias

from pydantic import Field

from distft.config.section import Items, Section, WrittenPath

Format: TypeAlias = Literal[
    "auto", "text", "messages", "openai_chat", "sharegpt", "prompt_completion", "unpaired", "alpaca",
    "natural_instructions", "classification", "anchors", "preference", "corrections", "rankings", "prompt",
    "hh_rlhf", "dialogsum", "stepwise",
]  # fmt: skip
# Formats by what a row of them is: a conversation, a prompt with its answer, one that is labelled good or bad, two
# answers of which one is better, several in an order.
TURNS = ("messages", "openai_chat", "sharegpt")
ANSWERED = ("prompt_completion", "alpaca", "natural_instructions", "dialogsum")
LABELLED = ("unpaired",)
PAIRED = ("preference", "hh_rlhf", "corrections")
RANKED = ("rankings",)
MOST_ANSWERS: Final = 64  # of a ranking: it is one unit, all of which goes into one micro-batch
ANCHORED = ("anchors",)  # a text, one that belongs to it, and perhaps some that do not
STEPWISE = ("stepwise",)  # a prompt with the steps of an answer, each labelled right or wrong
ANSWER_SCORE: Final = "answer_score"  # what the output of an encoder-decoder's reward model is called
RIGHT_STEP: Final = "right_step"  # what the output of a process reward model is called
NO_WHOLE_ANSWERS: Final = (
    "{model} is a process reward model: it judges the steps of an answer, and no answer as a whole"
)
INSTEAD_OF_STEPS: Final = "train one with a `reward` or `classification` recipe, or name another reward model"
CLASSIFIED = ("classification",)  # a text, or a pair of them, with the name of its class


PTX_KIND: Final = "sft"  # as which method's rows those of data.ptx are read


class Instructions(Section):
    """What of a task of Natural Instructions stands in the prompt of each of its instances."""

    definition: bool = Field(default=True, description="what is to be done")
    things_to_avoid: bool = Field(default=False, description="what is not to be done (the first edition's tasks)")
    positive: int = Field(default=0, ge=0, description="examples with right answers, at most")
    negative: int = Field(default=0, ge=0, description="examples with wrong answers, at most")
    explanations: bool = Field(default=False, description="why the examples' answers are right or wrong")


class Source(Section):
    """One file, folder, hub data set or embedded corpus."""

    path: WrittenPath = Field(description="hub name, file, folder, or builtin:<name>")
    format: Format = Field(default="auto", description="how rows are read; auto: from the columns")
    split: str | None = Field(
        default=None, min_length=1, description="split of a hub data set; null: that of the list it stands in"
    )
    name: str | None = Field(
        default=None, pattern=r"^[A-Za-z0-9][\w.\-]{0,63}$",
        description="what its metrics are called, loss_by_source/<name>; null: the last part of the path",
    )  # fmt: skip
    weight: float = Field(default=1.0, gt=0, description="visits of each row per epoch: 2 twice, 0.5 half of them")
    share: float | None = Field(
        default=None, gt=0, lt=1,
        description="in train, in place of weight: share of an epoch's rows that are this source's, whatever its size "
        "(rehearsal of old data); which ones goes on from epoch to epoch, in an order from the seed",
    )  # fmt: skip
    columns: dict[str, str] = Field(default_factory=dict, description="renames: name in the file -> name of the format")
    limit: int | None = Field(default=None, ge=1, description="rows read at most; null: all")
    instructions: Instructions | None = Field(
        default=None, description="what of a natural_instructions task its prompts hold; null: its definition, untitled"
    )


def source_names(sources: Sequence[Source]) -> tuple[str, ...]:
    """What the metrics of each source of a list are called: as it says itself, else the last part of its path, with a
    number where that is another's."""
    taken = {source.name for source in sources if source.name}
    found: list[str] = []
    for source in sources:
        last = re.split(r"[/:]", source.path.rstrip("/"))[-1]
        name = unique = re.sub(r"\W+", "_", last.partition(".")[0]).strip("_") or "source"
        number = 2
        while unique in taken:
            unique, number = f"{name}_{number}", number + 1
        found.append(source.name or unique)
        taken.add(found[-1])
    return tuple(found)


class Data(Section):
    """The data of a run. Lengths are tokens."""

    train: Items[Source] = Field(default=(), description="what is trained on (RL: where the prompts come from)")
    eval: Items[Source] = Field(default=(), description="rows for selection and early stopping")
    test: Items[Source] = Field(default=(), description="rows for the before/after table at the end")
    ptx: Items[Source] = Field(
        default=(),
        description="texts or answers that PPO's policy keeps likely beside what it learns, see "
        "ptx_coef; what is longer than a rollout is cut off, and on_leak does not look at them",
    )
    max_length: int = Field(
        default=512,
        ge=2,
        description="longest prompt + response, tokens; of span the longest text before it is corrupted",
    )
    max_prompt_length: int = Field(
        default=256,
        ge=1,
        description="longest prompt, tokens; of an encoder-decoder in every method but span, which leaves the rest of "
        "max_length to the answer",
    )
    overlong: Literal["truncate", "drop", "error"] = Field(
        default="truncate",
        description="rows over the limit: keep the start (pretrain: all of it, in blocks), leave out, or stop (RL's "
        "default: error)",
    )
    shuffle: bool = Field(default=True, description="a new order every epoch, from the seed")
    holdout: float = Field(
        default=0.0, ge=0, lt=0.5, description="share of train split off by hash for eval, and again for test"
    )
    on_leak: Literal["drop", "warn", "fail"] = Field(
        default="drop",
        description="rows of train that ask what held-out rows ask, or hold one with its answer: leave out, keep and "
        "warn, or stop; said as an alarm",
    )
    on_bad_row: Literal["fail", "drop"] = Field(
        default="fail", description="rows that are malformed or that the chat template refuses: stop, or leave out"
    )
    max_dropped: int = Field(default=100, ge=0, description="bad rows of a list left out at most (on_bad_row: drop)")
    step_separator: str = Field(
        default="\n", min_length=1,
        description="of stepwise rows: what stands behind each step, and where it ends the step is judged",
    )  # fmt: skip
    num_workers: int = Field(
        default=0, ge=0, le=256, description="processes that tokenise, once for all starts; 0: the data worker itself"
    )
    cache_dir: WrittenPath | None = Field(
        default=None,
        description="folder of the tokenised rows, seen by all nodes, used by all runs; null: .distft-rows beside "
        "the run folder",
    )

    def told_apart(self, list_name: str) -> tuple[str, ...]:
        """The names of a list's sources whose losses are told one by one: none where there is one alone. What
        ``holdout`` splits off has the sources of train."""
        sources = getattr(self, list_name) or self.train
        return source_names(sources) if len(sources) > 1 else ()

    @property
    def sides(self) -> tuple[int, int]:
        """Tokens of a prompt and of an answer at most, where a model reads them apart: ``max_prompt_length`` and what
        it leaves of ``max_length``; a default that leaves nothing is half of it."""
        prompt = self.max_prompt_length if self.max_prompt_length < self.max_length else self.max_length // 2
        return prompt, self.max_length - prompt
