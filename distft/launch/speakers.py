"""Models by name, loaded side by side and ready to answer."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from distft.common.errors import UserError
from distft.config.roles import longest_sequence
from distft.config.rollout_settings import rollout_settings
from distft.config.training import Rollout
from distft.data.formats import Content
from distft.data.prompts import as_conversation
from distft.launch.named_models import NamedModel, Reading, find_model, require_speakers, speaks_plainly
from distft.models.adapters.side_by_side import lies_beside
from distft.rollout.speaker import Speaker


@dataclass(frozen=True)
class Loaded:
    """A model that answers. ``plain``: a text is given to it as it is; else as what a user says in a conversation."""

    speaker: Speaker
    plain: bool
    notes: tuple[str, ...]

    def prompt(self, content: Content, system: str | None) -> Content:
        """A prompt as this model is given it."""
        if self.plain and isinstance(content, str):
            return content if system is None else f"{system}\n\n{content}"
        return as_conversation(content, system)


@contextmanager
def open_speakers(
    names: Sequence[str], reading: Reading, overrides: Sequence[str], *, plain: bool | None
) -> Iterator[tuple[list[Loaded], Rollout]]:
    """The models by those names, all found and checked before the first is loaded, and how they are sampled: as the run
    of the first one does, if it is a run's, with the ``overrides``.

    ``plain``: whether texts are given as they are; None: where a model has no chat template, or was trained on plain
    prompts by a run. Raises UserError, or EnvironmentFallsShort where the hub does not answer.
    """
    with tempfile.TemporaryDirectory(prefix="distft-models-") as folder:
        found = [find_model(name, Path(folder), adapter=reading.adapter) for name in names]
        require_speakers(found)
        recipe = found[0].recipe
        settings = rollout_settings(Rollout() if recipe is None else recipe.rollout, overrides)
        speakers = _speakers(found, reading)
        yield [_loaded(one, speaker, plain) for one, speaker in zip(found, speakers, strict=True)], settings


def _speakers(found: Sequence[NamedModel], reading: Reading) -> list[Speaker]:
    """Of each model. Those that differ in their LoRA adapters only are held once."""
    sections = [(one.section(reading), None if one.recipe is None else longest_sequence(one.recipe)) for one in found]
    made: dict[int, Speaker] = {}
    for number, (section, longest) in enumerate(sections):
        if number in made:
            continue
        alike = [
            other for other, told in enumerate(sections) if told == (section, longest) and _may_share(found[other])
        ]
        if number in alike and len(alike) > 1:
            names, adapters = [found[other].name for other in alike], [found[other].adapter for other in alike]
            made |= zip(alike, Speaker.load_together(names, section, adapters, longest=longest), strict=True)
        else:
            one = found[number]
            made[number] = Speaker.load(one.name, section, adapter=one.adapter, longest=longest)
    return [made[number] for number in range(len(found))]


def _may_share(model: NamedModel) -> bool:
    return model.adapter is None or lies_beside(model.adapter)


def _loaded(model: NamedModel, speaker: Speaker, plain: bool | None) -> Loaded:
    has_template, notes = speaker.tokenizer.chat_template is not None, list(model.notes)
    if plain is None:
        trained_plainly = model.recipe is not None and bool(speaks_plainly(model.recipe))
        plain = trained_plainly or not has_template
        if plain:
            why = "was trained on plain prompts" if trained_plainly else "has no chat template"
            remedy = "--chat" if has_template else "--chat-template chatml"
            notes.append(
                f"{model.name} {why}: texts are given to it as they are ({remedy} makes conversations of them)"
            )
    elif not plain and not has_template:
        hint = "--chat-template chatml gives it one (or llama3, default, a Jinja file); --plain does without"
        raise UserError("has no chat template", where=model.name, hint=hint)
    return Loaded(speaker, plain, tuple(notes))
