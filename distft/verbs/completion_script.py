"""The words that may be typed after ``distft``, as a script that a shell completes from without asking Python."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterator, Mapping

from distft import __version__
from distft.config.cluster import shipped_clusters
from distft.config.load import shipped_pipelines, shipped_recipes
from distft.config.schema import recipe_keys
from distft.verbs.speaking import SAMPLING

_ZSH = "autoload -U +X compinit bashcompinit && compinit -i && bashcompinit\n"
_SCRIPT = """\
# distft {version}: eval "$(distft completion {reader})"
_distft() {{
  local current="${{COMP_WORDS[COMP_CWORD]}}" previous="${{COMP_WORDS[COMP_CWORD-1]}}" verb="${{COMP_WORDS[1]}}" words=
  COMPREPLY=()
  if [[ $COMP_CWORD -eq 1 ]]; then
    COMPREPLY=($(compgen -W {verbs} -- "$current"))
    return
  fi
  case "$verb $previous" in
{values}
    *)
      case "$verb $current" in
{options}
      esac ;;
  esac
  COMPREPLY=($(compgen -W "$words" -- "$current"))
  if [[ ${{#COMPREPLY[@]}} -eq 1 && ${{COMPREPLY[0]}} == *= ]]; then compopt -o nospace 2>/dev/null; fi
}}
complete -o default -F _distft distft
"""


def script(shell: str, verbs: Mapping[str, argparse.ArgumentParser]) -> str:
    """For bash, or for zsh, which reads the same. What is no word of ours is completed as a file is."""
    values = [line for name, parser in verbs.items() for line in _values(name, parser)]
    options = [line for name, parser in verbs.items() for line in _options(name, parser)]
    return (_ZSH if shell == "zsh" else "") + _SCRIPT.format(
        version=__version__, reader=shell, verbs=shlex.quote(" ".join([*verbs, "--help", "--version"])),
        values="\n".join(values), options="\n".join(options),
    )  # fmt: skip


def keys() -> tuple[str, ...]:
    """Every key of a recipe with its ``=``; where a section is that of another key, with what is in that."""
    found: dict[str, None] = {}
    for key in recipe_keys():
        name, kind = _typed(key.name), _typed(key.type)
        if not kind.startswith("as "):
            found[name] = None
            continue
        section = kind.removeprefix("as ") + "."
        found |= {name + "." + one.removeprefix(section): None for one in found if one.startswith(section)}
    return tuple(f"{name}=" for name in ("algorithm.kind", *found) if ".NAME" not in name)


def _typed(name: str) -> str:
    """Without the kinds that a key is of: ``algorithm (dpo).beta``."""
    return re.sub(r" \([^)]*\)", "", name)


def _values(verb: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    """What may follow an option."""
    for action in parser._actions:
        names = [f'"{verb} {option}"' for option in action.option_strings]
        words = tuple(map(str, action.choices or ())) or (_clusters() if action.dest == "cluster" else ())
        if names and words:
            yield f"    {' | '.join(names)}) words={shlex.quote(' '.join(words))} ;;"


def _options(verb: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    """The options, and the words that are none."""
    options = [option for action in parser._actions for option in action.option_strings]
    words = [word for action in parser._actions if not action.option_strings for word in _words(action)]
    yield f'      "{verb} -"*) words={shlex.quote(" ".join(options))} ;;'
    if words:
        yield f'      "{verb} "*) words={shlex.quote(" ".join(dict.fromkeys(words)))} ;;'


def _words(action: argparse.Action) -> Iterator[str]:
    said = str(action.metavar or "")
    yield from map(str, action.choices or ())
    if "show" in said:
        yield from ("show", "copy")
    if "RECIPE" in said or "NAME" in said:
        yield from _recipes()
    if "NAME" in said:
        yield from _clusters()
    if "RECIPE" in said or said.startswith("key."):
        yield from keys()
    if "MODEL" in said:
        yield from (f"{name}=" for name in SAMPLING.split())


def _recipes() -> tuple[str, ...]:
    return tuple(name for name, _ in [*shipped_recipes(), *shipped_pipelines()])


def _clusters() -> tuple[str, ...]:
    return tuple(name for name, _ in shipped_clusters())
