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
        yield [_loaded(one, reading, plain) for one in found], settings


def _loaded(model: NamedModel, reading: Reading, plain: bool | None) -> Loaded:
    longest = None if model.recipe is None else longest_sequence(model.recipe)
    speaker = Speaker.load(model.name, model.section(reading), adapter=model.adapter, longest=longest)
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
