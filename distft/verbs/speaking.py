"""What the verbs that let models answer have in common: which models, how they are read, and how they are sampled."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from distft.common.errors import UserError
from distft.config.fewer_bits import METHODS
from distft.verbs.option_words import in_options
from distft.verbs.warnings import warn

if TYPE_CHECKING:
    from distft.config.recipe import Recipe
    from distft.config.training import Rollout
    from distft.launch.named_models import Reading
    from distft.launch.speakers import Loaded

_SETTING = re.compile(r"[a-z_]+(\.[a-z0-9_]+)*=")
SAMPLING = "max_new_tokens min_new_tokens temperature top_p top_k samples_per_prompt"
MODELS = "a folder, a hub name, run:<output_dir>, a checkpoint or an adapter; several answer side by side"


def add_speakers(parser: argparse.ArgumentParser) -> None:
    """The models, their adapters, templates and seeds."""
    parser.add_argument("words", metavar="MODEL... [key=value ...]", nargs="+", help=f"{MODELS}; sampling: {SAMPLING}")
    parser.set_defaults(overrides=[])
    add_asking(parser)


def add_asking(parser: argparse.ArgumentParser) -> None:
    """How models are read, and how they are asked."""
    add_reading(parser)
    parser.add_argument("--system", metavar="TEXT", help="what the system says first")
    given = parser.add_mutually_exclusive_group()
    given.add_argument("--plain", action="store_true", help="give texts as they are, without the chat template")
    given.add_argument("--chat", action="store_true", help="make conversations of texts, by the chat template")
    parser.add_argument("--stop", action="append", metavar="TOKEN", help="a token that ends an answer; may be repeated")
    parser.add_argument("--seed", type=int, default=1, help="the same seed, the same answers (default: 1)")


def add_reading(parser: argparse.ArgumentParser) -> None:
    """How a model is read."""
    parser.add_argument("--adapter", metavar="FOLDER", help="a PEFT adapter that is added to every model")
    parser.add_argument("--chat-template", metavar="NAME|FILE", help="chatml, llama3, default or a Jinja file")
    parser.add_argument(
        "--dtype", choices=["float32", "bfloat16", "float16"], help="precision of the weights (default: the files')"
    )
    parser.add_argument(
        "--quantization",
        choices=METHODS,
        help="weights in four bits or eight; an adapter stays beside them, whole",
    )
    parser.add_argument("--trust-remote-code", action="store_true", help="run Python code that comes with a model")


def split_words(arguments: argparse.Namespace) -> tuple[list[str], list[str]]:
    """The words that are no option: those that name a model or a recipe, and ``key=value``. Raises UserError."""
    words = [*arguments.words, *arguments.overrides]
    settings = [word for word in words if _SETTING.match(word)]
    names = [word for word in words if word not in settings]
    if not names:
        raise UserError("no model is named", where=arguments.verb, hint=f"name one: {MODELS}")
    return names, settings


def recipe_and_models(arguments: argparse.Namespace) -> tuple[Recipe | None, list[str], list[str]]:
    """The recipe, if the first word is one; the models, with its run in its place; and the settings of sampling. Raises
    UserError."""
    from distft.config.load import load_recipe, names_recipe

    names, settings = split_words(arguments)
    sampling = [text for text in settings if _is_sampling(text)]
    overrides = [text for text in settings if not _is_sampling(text)]
    named = list(filter(names_recipe, names))
    if not named:
        if overrides:
            hint = f"name the recipe itself, or one of: {SAMPLING}"
            raise UserError("is a key of recipes, and none is named", where=overrides[0], hint=hint)
        return None, names, sampling
    if len(named) > 1 or names[0] != named[0]:
        what = "rows are read of one recipe, which comes first"
        raise UserError(what, where=" ".join(names), hint="name the other models by run:<output_dir>")
    recipe = load_recipe(named[0], overrides)
    return recipe, [f"run:{recipe.output_dir}", *names[1:]], sampling


def _is_sampling(text: str) -> bool:
    key = text.partition("=")[0]
    return key in SAMPLING.split() or key.startswith("rollout.")


def given_plain(arguments: argparse.Namespace) -> bool | None:
    """Whether texts are given as they are; None where nobody said so."""
    return True if arguments.plain else False if arguments.chat else None


def reading_of(arguments: argparse.Namespace) -> Reading:
    """How models are to be read."""
    from distft.launch.named_models import Reading

    return Reading(
        dtype=arguments.dtype,
        chat_template=arguments.chat_template,
        stop_tokens=tuple(getattr(arguments, "stop", None) or ()) or None,
        adapter=arguments.adapter,
        quantization=arguments.quantization,
        trust_remote_code=arguments.trust_remote_code,
    )


@contextmanager
def speakers_of(arguments: argparse.Namespace, *, plain: bool | None) -> Iterator[tuple[list[Loaded], Rollout]]:
    """The models, loaded, and how they are sampled; what there is to say of them goes to standard error."""
    names, settings = split_words(arguments)
    with open_named(names, settings, arguments, plain=plain) as opened:
        yield opened


@contextmanager
def open_named(
    names: Sequence[str], settings: Sequence[str], arguments: argparse.Namespace, *, plain: bool | None
) -> Iterator[tuple[list[Loaded], Rollout]]:
    """As ``speakers_of``, of the models of those names."""
    from distft.launch.speakers import open_speakers

    with in_options(), open_speakers(names, reading_of(arguments), settings, plain=plain) as (models, rollout):
        warn(note for model in models for note in model.notes)
        yield models, rollout
