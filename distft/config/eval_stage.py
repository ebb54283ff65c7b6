"""A stage of a pipeline that trains nothing: what ``distft eval`` says of the results of earlier stages.

    stages:
      sft: {recipe: sft-tiny}
      dpo: {recipe: dpo-tiny, models: {policy: {path: "stage:sft"}}}
      judged: {eval: ["stage:sft", "stage:dpo"], data: ["builtin:dialogues"], rows: prompts, limit: 64}

Its keys are that verb's options, with underscores; of models that it names, ``stage:NAME`` is the result of a stage.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Final, Literal

from pydantic import Field, ValidationError, field_validator

from distft.config.fewer_bits import QuantizationMethod
from distft.config.load import names_recipe
from distft.config.problem import Problem
from distft.config.problems import from_validation
from distft.config.section import Items, Section, WrittenPath
from distft.config.training import Rollout

# Keys that name models.
MODELS: Final = ("eval", "reference", "reward", "toxicity", "judge")
# Keys that say nothing without another: which, what is then said, and what to give.
NEEDS_ANOTHER: Final = (
    ("criterion", "judge", "nobody judges by it", "MODEL or URL: who judges by it"),
    ("judge_model", "judge", "is said of a judge, and none is named", "MODEL or URL"),
    ("judge_key", "judge", "is said of a judge, and none is named", "MODEL or URL"),
    ("judge_deadline", "judge", "is said of a judge, and none is named", "MODEL or URL"),
    ("toxic_label", "toxicity", "is of a classifier, and none is named", "MODEL"),
    ("shots_from", "shots", "is where exemplars come from, and nobody asks for any", "0,1,4"),
    ("tasks_from", "tasks", "is where tasks lie, and none is named", "NAME"),
    ("task_shots", "tasks", "is said of tasks, and none is named", "NAME"),
    ("task_chat", "tasks", "is said of tasks, and none is named", "NAME"),
)
TOXIC_LABEL: Final = "toxic"  # where none is named
# Keys that are about answers, so that they do not go with no_answers, nor with models that write none.
OF_ANSWERS: Final = {
    "judge": "judges answers", "toxicity": "reads answers", "reward": "scores answers",
    "correct": "says which answers are right", "shots": "is about answers",
}  # fmt: skip

# Keys that are about rows, so that they do not go with tasks, which have questions of their own.
OF_ROWS: Final = (
    "data", "split", "rows", "max_length", "no_answers", "reference", "reward", "toxicity", "judge", "correct", "shots",
)  # fmt: skip


def option_of(key: str) -> str:
    """How a key is typed behind ``distft eval``."""
    return f"--{key.replace('_', '-')}"


class EvalKeys(Section):
    """What an eval stage may say."""

    eval: Items[WrittenPath] = Field(
        min_length=1, description="the models: stage:NAME, or as distft eval takes them; compared with the first"
    )
    data: Items[WrittenPath] = Field(
        default=(), description="rows to judge by: files, folders, hub names, builtin:NAME (default: the test rows of "
        "the first model's recipe)",
    )  # fmt: skip
    split: str | None = Field(
        default=None, min_length=1, description="of a recipe test, eval or train (default: test, else eval); of data "
        "its own",
    )  # fmt: skip
    rows: Literal["pairs", "answers", "prompts"] | None = Field(
        default=None, description="what a row is read as (default: as the recipe reads it, else by its columns)"
    )
    limit: int | None = Field(default=None, ge=2, description="so many rows at most (default: the recipe's, else 256)")
    max_length: int | None = Field(
        default=None, ge=2, description="longest row, tokens (default: the recipe's, else 2048)"
    )
    seed: int | None = Field(
        default=None, ge=0, description="of the rows and the draws (default: the recipe's, else 1)"
    )
    no_answers: bool = Field(default=False, description="let no model write answers: likelihoods only")
    reference: WrittenPath | None = Field(
        default=None, description="a model, for DPO's margins of pairs (default: the recipe's)"
    )
    reward: WrittenPath | None = Field(
        default=None, description="a reward model that scores the answers (default: the recipe's)"
    )
    toxicity: WrittenPath | None = Field(
        default=None, description="a classifier that reads each answer alone: mean probability of its label, share "
        "above 0.5",
    )  # fmt: skip
    toxic_label: str | None = Field(default=None, min_length=1, description="that label of it (default: toxic)")
    judge: WrittenPath | None = Field(
        default=None, description="a language model that says which of two models' answers is better; of an "
        "OpenAI-compatible endpoint the URL",
    )  # fmt: skip
    judge_model: str | None = Field(default=None, min_length=1, description="what the endpoint calls the model")
    judge_key: str | None = Field(
        default=None, min_length=1, description="the environment variable that holds the endpoint's token"
    )
    judge_deadline: float | None = Field(
        default=None, gt=0, description="of a question to an endpoint, seconds (default: 300)"
    )
    criterion: str | None = Field(
        default=None, min_length=1, description="by what answers are judged (default: the recipe's)"
    )
    correct: str | None = Field(
        default=None, min_length=1, description="which answers are right: exact, number (the last one), or "
        "module:function; with samples_per_prompt of 8 pass@k, mean@8 and majority@k (default: exact)",
    )  # fmt: skip
    shots: Items[int] = Field(
        default=(), description="also the untouched model behind so many answered rows of training: [0, 1, 4]"
    )
    shots_from: Items[WrittenPath] = Field(
        default=(), description="rows that exemplars are taken from (default: the recipe's train list)"
    )
    tasks: Items[str] = Field(
        default=(),
        description="instead of rows: standard tasks, by lm-eval's names (pip install 'distft[lm-eval]')",
    )
    tasks_from: Items[WrittenPath] = Field(default=(), description="folders of further tasks as YAML files")
    task_shots: int | None = Field(
        default=None, ge=0, description="exemplars before each question (default: as each task says)"
    )
    task_chat: bool = Field(default=False, description="questions of tasks are turns of the chat template")
    adapter: WrittenPath | None = Field(default=None, description="a PEFT adapter that is added to every model")
    chat_template: str | None = Field(
        default=None, min_length=1, description="chatml, llama3, default or a Jinja file (default: the model's)"
    )
    dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        default=None, description="precision of the weights (default: the files')"
    )
    quantization: QuantizationMethod | None = Field(
        default=None, description="weights in four bits or eight; an adapter stays beside them, whole"
    )
    trust_remote_code: bool = Field(default=False, description="run Python code that comes with a model")
    max_new_tokens: int | None = Field(default=None, ge=1, description="longest answer, tokens (default: the recipe's)")
    min_new_tokens: int | None = Field(default=None, ge=0, description="shortest answer, tokens")
    temperature: float | None = Field(
        default=None, gt=0, description="of sampled answers (default: the likeliest token each time, or as the method "
        "of the recipe samples)",
    )  # fmt: skip
    top_p: float | None = Field(default=None, gt=0, le=1, description="sample from the likeliest of so much mass")
    top_k: int | None = Field(default=None, ge=0, description="sample from so many likeliest tokens; 0: from all")
    samples_per_prompt: int | None = Field(default=None, ge=1, description="answers to each prompt")

    @field_validator("shots")
    @classmethod
    def _in_order(cls, shots: tuple[int, ...]) -> tuple[int, ...]:
        """As the verb takes them: what is asked for is the same, however it is written."""
        return tuple(sorted(set(shots)))

    def words(self) -> list[str]:
        """What is typed behind ``distft eval``: models, sampling, options."""
        options = []
        for name in type(self).model_fields:
            value = getattr(self, name)
            if name == "eval" or name in Rollout.model_fields or value is None or value is False or value == ():
                continue
            option = option_of(name)
            if value is True:
                options.append(option)
            elif name == "shots":
                options.append(f"{option}={','.join(map(str, value))}")
            else:
                options += [f"{option}={one}" for one in (value if isinstance(value, tuple) else (value,))]
        return [*self.eval, *self.sampling(), *options]

    def sampling(self) -> list[str]:
        """``key=value`` of those that are: the verb takes them without dashes."""
        names = [name for name in type(self).model_fields if name in Rollout.model_fields]
        return [f"{name}={getattr(self, name)}" for name in names if getattr(self, name) is not None]

    def asked(self) -> dict[str, Any]:
        """What is asked, for JSON; as ``launch.kept_evaluation`` says it of a command line."""
        return self.model_dump(mode="json", exclude_defaults=True)

    def named_models(self) -> Iterator[tuple[str, str]]:
        """(key, model) of every model that is named."""
        for key in MODELS:
            value = getattr(self, key)
            yield from ((key, one) for one in (value if isinstance(value, tuple) else (value,)) if one is not None)


def read_keys(section: Mapping[str, Any]) -> tuple[EvalKeys | None, list[Problem]]:
    """The keys of an eval stage; or None, and everything that is wrong with them."""
    try:
        keys = EvalKeys.model_validate(section)
    except ValidationError as error:
        return None, from_validation(error, section, EvalKeys)
    problems = list(_contradictions(keys))
    return (None if problems else keys), problems


def without_answers(
    asked: Collection[str], num_models: int, *, no_answers: bool, typed: Callable[[str], str] = str
) -> Iterator[tuple[str, str, str]]:
    """(key, what is wrong, remedy) of those of ``OF_ANSWERS`` that are ``asked`` for, where there are no answers, or
    not two models'. ``typed``: how a key is named."""
    for key in OF_ANSWERS:
        if no_answers and key in asked:
            yield key, f"{OF_ANSWERS[key]}, and none are wanted", f"leave {typed('no_answers')} out"
    if "judge" in asked and num_models < 2:
        hint = "name a second one in eval: its answers are held against the first's"
        yield "judge", "a judge compares the answers of two models", hint


def _contradictions(keys: EvalKeys) -> Iterator[Problem]:
    for key, other, what, give in NEEDS_ANOTHER:
        value = getattr(keys, other)
        if getattr(keys, key) not in (None, (), False) and value in (None, ()):
            yield Problem((key,), what, f"{other}: {give if value is None else f'[{give}]'}")
    for key in (key for key in (*OF_ROWS, *Rollout.model_fields) if keys.tasks and getattr(keys, key, None)):
        yield Problem((key,), "has no effect beside tasks, which have questions of their own", "leave it out")
    asked = [key for key in OF_ANSWERS if getattr(keys, key)]
    for key, what, hint in without_answers(asked, len(keys.eval), no_answers=keys.no_answers):
        yield Problem((key,), what, hint)
    for key, model in keys.named_models():
        if names_recipe(model):
            yield Problem((key,), f"{model} is a recipe, and no model", "name its run: run:<output_dir>, or stage:NAME")
    if any(number < 0 for number in keys.shots):
        yield Problem(("shots",), "must not be below 0", "for example [0, 1, 4]")
