"""Rules on the data: which rows an algorithm can learn from, and how long their sequences may be."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from distft.config import roles as facts
from distft.config.data import PTX_KIND, Source
from distft.config.find_method import traits_of
from distft.config.method import TUPLES
from distft.config.problem import Problem
from distft.config.recipe import Recipe


def _sources(recipe: Recipe) -> Iterator[Problem]:
    data, kind, traits = recipe.data, recipe.algorithm.name, recipe.algorithm.traits
    if not data.train:
        yield Problem.at("data.train", "is empty", "for example data.train: [{path: builtin:dialogues}]")
    lists = {"train": data.train, "eval": data.eval, "test": data.test, "ptx": data.ptx}
    for name, sources in lists.items():
        reader = traits_of(PTX_KIND) if name == "ptx" else traits
        for index, source in enumerate(sources):
            at = f"data.{name}.{index}"
            yield from _source(at, source)
            if source.format not in ("auto", *reader.formats):
                hint = f"it needs {reader.unit.name}: {', '.join(reader.formats)}"
                yield Problem.at(f"{at}.format", f"{kind} cannot learn from {source.format} rows", hint)
        yield from _names(name, sources)
    if data.ptx and not traits.takes_texts:
        yield Problem.at("data.ptx", f"{kind} has no part for other texts", "remove it, or algorithm.kind: ppo")
    yield from _shares(recipe)
    if data.holdout > 0 and data.eval and data.test:
        yield Problem.at(
            "data.holdout", "splits nothing off: eval and test are given", "remove holdout, or eval or test"
        )
    if recipe.evaluation.every > 0 and not data.eval and data.holdout == 0:
        yield Problem.at("evaluation.every", "there are no rows to evaluate on", "add data.eval, or data.holdout: 0.05")
    if data.step_separator != type(data).model_fields["step_separator"].default and not traits.judges_steps:
        yield Problem.at("data.step_separator", f"has no effect: {kind} learns from no steps", "remove it")
    if data.on_bad_row == "fail" and data.max_dropped != type(data).model_fields["max_dropped"].default:
        yield Problem.at("data.max_dropped", "has no effect: the first bad row stops the run", "data.on_bad_row: drop")


def _source(at: str, source: Source) -> Iterator[Problem]:
    if source.path.startswith("run:"):
        yield Problem.at(f"{at}.path", "run: names a model, not data", "a hub name, a file, a folder or builtin:<name>")
    if source.path.strip() in ("", "builtin:"):
        yield Problem.at(f"{at}.path", "names nothing", "for example builtin:dialogues")
    wanted = source.instructions
    if wanted is not None and source.format != "natural_instructions":
        what = "are those of natural_instructions rows"
        yield Problem.at(f"{at}.instructions", what, f"{at}.format=natural_instructions, or remove it")
    elif wanted is not None and not (wanted.definition or wanted.positive or wanted.negative):
        what = "leave nothing that says what is to be done"
        yield Problem.at(f"{at}.instructions", what, "definition: true, or examples: positive: 2")
    elif wanted is not None and wanted.explanations and not (wanted.positive or wanted.negative):
        what = "has no effect: explanations are those of examples"
        yield Problem.at(f"{at}.instructions.explanations", what, "positive: 2, or remove it")
    if len(set(source.columns.values())) < len(source.columns):
        yield Problem.at(f"{at}.columns", "renames two columns to the same name", "one name each")


def _names(list_name: str, sources: Sequence[Source]) -> Iterator[Problem]:
    said = [source.name for source in sources]
    for index, name in enumerate(said):
        if name is not None and name in said[:index]:
            yield Problem.at(f"data.{list_name}.{index}.name", f"{name} is another source's too", "one name each")


def _shares(recipe: Recipe) -> Iterator[Problem]:
    """A share is one of an epoch, whose length follows from the sources without one."""
    data = recipe.data
    for list_name in ("eval", "test"):
        for index, source in enumerate(getattr(data, list_name)):
            if source.share is not None:
                at = f"data.{list_name}.{index}.share"
                yield Problem.at(at, "has no effect: rows that judge are all read, or a sample of them", "remove it")
    shares = [source.share for source in data.train]
    for index, source in enumerate(data.train):
        if source.share is not None and source.weight != 1.0:
            yield Problem.at(f"data.train.{index}.weight", "is given beside share", "keep one of the two")
    given = [share for share in shares if share is not None]
    if given and len(given) == len(shares):
        what = "every source has a share: an epoch is as long as the sources without one"
        yield Problem.at("data.train", what, "remove the share of the source that is to be seen whole")
    if sum(given) >= 1:
        yield Problem.at("data.train", f"shares of {sum(given):g} leave nothing for the others", "less than 1 together")


def _lengths(recipe: Recipe) -> Iterator[Problem]:
    data, rollout = recipe.data, recipe.rollout
    longest, size = facts.longest_sequence(recipe), facts.unit_size(recipe)
    if facts.is_rl(recipe):
        if longest > data.max_length:
            yield Problem.at(
                "data.max_length", f"{data.max_length} is less than {said_longest(recipe)}", f"at least {longest}"
            )
    elif recipe.algorithm.traits.corrupts:
        if data.max_prompt_length != type(data).model_fields["max_prompt_length"].default:
            what = "has no effect: what is read of a corrupted text follows from data.max_length and the algorithm"
            yield Problem.at("data.max_prompt_length", what, "remove it")
    elif data.max_length <= data.max_prompt_length != type(data).model_fields["max_prompt_length"].default:
        yield Problem.at(
            "data.max_prompt_length",
            f"{data.max_prompt_length} leaves no room for a response in max_length {data.max_length}",
            f"at most {data.max_length - 1}",
        )
    if facts.samples_in_training(recipe) and rollout.min_new_tokens > rollout.max_new_tokens:
        yield Problem.at(
            "rollout.min_new_tokens",
            f"{rollout.min_new_tokens} is more than max_new_tokens {rollout.max_new_tokens}",
            f"at most {rollout.max_new_tokens}",
        )
    needed = -(-longest * size // _sharing_least(recipe))
    if recipe.train.max_tokens_per_rank < needed:
        named = "a tuple" if recipe.algorithm.traits.unit == TUPLES else "a pair" if size == 2 else "a ranking"
        unit = "one sequence of" if size == 1 else f"{named} of {size} x"
        unit = f"{unit} {longest} tokens"
        yield Problem.at(
            "train.max_tokens_per_rank",
            f"{recipe.train.max_tokens_per_rank} does not hold {unit}",
            f"at least {needed}, or shorten the sequences ({_length_keys(recipe)})",
        )


def _sharing_least(recipe: Recipe) -> int:
    """Of all roles the fewest ranks that have a row together."""
    there = [role for role in facts.roles(recipe) if recipe.models.of(role) is not None]
    return min((facts.model_of(recipe, role).engine.sequence_parallel for role in there), default=1)


def said_longest(recipe: Recipe) -> str:
    """The longest sequence in the keys that it follows from, for a message."""
    if facts.is_rl(recipe):
        data, rollout = recipe.data, recipe.rollout
        return f"data.max_prompt_length {data.max_prompt_length} + rollout.max_new_tokens {rollout.max_new_tokens}"
    virtual = facts.longest_sequence(recipe) - facts.longest_text(recipe)
    before = f"models.policy.peft.num_virtual_tokens {virtual} + " if virtual else ""
    return f"{before}data.max_length {recipe.data.max_length}"


def _length_keys(recipe: Recipe) -> str:
    return "data.max_prompt_length, rollout.max_new_tokens" if facts.is_rl(recipe) else "data.max_length"


DATA_RULES: tuple[Callable[[Recipe], Iterator[Problem]], ...] = (
    _sources,
    _lengths,
)
