"""A model as it is typed, to what can be loaded: a folder, a hub name, ``run:<dir>``, a run folder, one of its
checkpoints, or an adapter. Where it comes from a run, it is read as that run reads it. No torch, but for an export.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from distft.checkpoint.layout import MANIFEST, checkpoints_folder, published
from distft.common.errors import UserError, nearest
from distft.common.files import parse_json
from distft.config.fewer_bits import QuantizationMethod
from distft.config.load import load_recipe, resolve_path
from distft.config.models import Model, Policy, Quantization
from distft.config.recipe import Recipe
from distft.config.roles import main_role, model_of
from distft.data.bad_rows import Unusable
from distft.data.chat_templates import resolve_template
from distft.data.formats import prompt_of
from distft.data.readers import example_for
from distft.data.sources import format_of, read_rows
from distft.launch.export import export
from distft.launch.kept_paths import found_again
from distft.launch.preflight.models import check_folder, not_here, require_own_copy, unmerged_adapter
from distft.launch.sentence_folder import MODULES
from distft.models.families.table import encodes, has_scoring_head
from distft.planning.encoder_decoders import is_encoder_decoder
from distft.planning.model_folders import ADAPTER_CONFIG, fetched_folder, is_adapter, read_config
from distft.tracking.metrics import RECIPE


@dataclass(frozen=True)
class Reading:
    """How models are read, where their folders leave it open or it is to be otherwise."""

    dtype: str | None = None
    chat_template: str | None = None
    stop_tokens: tuple[str, ...] | None = None
    adapter: str | None = None
    quantization: QuantizationMethod | None = None
    trust_remote_code: bool = False


class KnownModel(Protocol):
    """What is known of a model before it is loaded, or made. ``labels``: none of what is no classifier, None where they
    cannot be known yet."""

    @property
    def name(self) -> str: ...
    @property
    def is_reward_model(self) -> bool: ...
    @property
    def is_masked_lm(self) -> bool: ...
    @property
    def embeds(self) -> bool: ...
    @property
    def labels(self) -> tuple[str, ...] | None: ...


@dataclass(frozen=True)
class NamedModel:
    """``name`` as it was typed, ``path`` as loaders take it, with the ``adapter`` of a folder to be added; ``recipe``
    of the run that made it, if one did. ``notes``: what a user should know of how it was found."""

    name: str
    path: str
    adapter: str | None = None
    recipe: Recipe | None = None
    notes: tuple[str, ...] = ()

    @property
    def is_reward_model(self) -> bool:
        """Whether it has a scalar head, or one of several labels, in place of the vocabulary's."""
        return has_scoring_head(self._config.get("architectures"))

    @property
    def is_masked_lm(self) -> bool:
        """Whether it is an encoder that scores nothing: every token sees all others, so it cannot write on."""
        return encodes(self._config) and not self.is_reward_model

    @property
    def embeds(self) -> bool:
        """Whether it turns texts into vectors, as ``sentence-transformers`` reads them."""
        folder = fetched_folder(self.path)
        return folder is not None and (folder / MODULES).is_file()

    @property
    def labels(self) -> tuple[str, ...]:
        """What the outputs of its head are called, in their order; none where it is not on this machine, or is no
        classifier."""
        if not self.is_reward_model:
            return ()
        # transformers writes no labels where they are its own.
        named = self._config.get("id2label") or {0: "LABEL_0", 1: "LABEL_1"}
        return tuple(str(name) for _, name in sorted(dict(named).items(), key=lambda item: int(item[0])))

    @property
    def _config(self) -> dict[str, Any]:
        folder = fetched_folder(self.path)
        return {} if folder is None else read_config(folder)

    def section(self, reading: Reading) -> Policy:
        """The model as a recipe would say it; of a run as its recipe does. Raises UserError for a chat template that is
        none, and what reading the model's config raises."""
        from distft.models.load import written_dtype

        own: Model | None = None if self.recipe is None else model_of(self.recipe, main_role(self.recipe))
        trusted = reading.trust_remote_code or (own is not None and own.trust_remote_code)
        if trusted:
            require_own_copy(self.path, self.name)
        start = Policy(path=self.path, trust_remote_code=trusted)
        if reading.quantization is not None and is_encoder_decoder(self._config):
            raise UserError(f"{self.name} is an encoder-decoder, whose linear layers are not quantized",
                            where="--quantization", hint="leave it out")  # fmt: skip
        template = reading.chat_template
        if template is not None:
            template = resolve_template(template, f"--chat-template {template}")
        return start.model_copy(update={
            "dtype": reading.dtype or written_dtype(self.path, start),
            "quantization": reading.quantization and Quantization(method=reading.quantization),
            "attention": "auto" if own is None else own.attention,
            "chat_template": template,
            "stop_tokens": reading.stop_tokens or (own.stop_tokens if isinstance(own, Policy) else None),
        })  # fmt: skip


def find_model(typed: str, scratch: Path, *, adapter: str | None = None) -> NamedModel:
    """The model of that name; the checkpoint of a run without a result is exported into ``scratch``.

    Raises UserError: there is none, it is not whole, or a run that has nothing yet; EnvironmentFallsShort: the hub does
    not answer.
    """
    name = typed.strip()
    if not name:
        raise UserError("a model has no name", hint="give a folder, a hub name, or run:<output_dir>")
    place = Path(name.removeprefix("run:")).expanduser()
    if (place / MANIFEST).is_file():
        return _exported(name, place, place.absolute().parent.parent, scratch, adapter)
    if name.startswith("run:") or ((place / RECIPE).is_file() and not (place / "config.json").is_file()):
        return _of_run(name, place, scratch, adapter)
    if is_adapter(place):
        if adapter is not None:
            raise UserError("is an adapter itself", where=name, hint="name the model, and its --adapter")
        return _of_adapter(name, place)
    recipe = _recipe_of(place.absolute().parent) if place.absolute().name == "final" else None
    path, notes = _whole(name, str(place) if place.is_dir() else name)
    return NamedModel(name, path, _checked(adapter) or unmerged_adapter(place), recipe, notes)


def speaks_plainly(recipe: Recipe) -> bool | None:
    """Whether a run's prompts are plain text, which no chat template sees; None where its rows cannot be read here."""
    source, kind = recipe.data.train[0], recipe.algorithm.kind
    try:
        for row in read_rows(source):
            example = example_for(row, format_of(source, row, kind), kind)
            return isinstance(prompt_of(example), str)
    except (UserError, Unusable):
        pass
    return None


def _of_run(name: str, run_dir: Path, scratch: Path, adapter: str | None) -> NamedModel:
    if not (run_dir / "final" / "config.json").is_file() and published(checkpoints_folder(run_dir)):
        return _exported(name, run_dir, run_dir, scratch, adapter)
    final = resolve_path(f"run:{run_dir}")
    check_folder(Path(final), name)
    return NamedModel(name, final, _checked(adapter) or unmerged_adapter(Path(final)), _recipe_of(run_dir))


def _exported(name: str, source: Path, run_dir: Path, scratch: Path, adapter: str | None) -> NamedModel:
    """From a checkpoint, or from the newest whole one of a run without a result."""
    target = export(source, scratch / f"{source.absolute().name}-{len(list(scratch.iterdir()))}").folder
    newest = published(checkpoints_folder(run_dir))
    note = "" if source != run_dir else f"{name} has not finished: its newest checkpoint answers, {newest[0][1].name}"
    own = _checked(adapter) or unmerged_adapter(target)
    return NamedModel(name, str(target), own, _recipe_of(run_dir), (note,) if note else ())


def _of_adapter(name: str, folder: Path) -> NamedModel:
    base = str(read_config_of_adapter(folder).get("base_model_name_or_path") or "")
    if not base:
        raise UserError("the adapter does not say of which model", where=name, hint=f"MODEL --adapter {folder}")
    try:
        path, notes = _whole(base, base)
    except UserError as error:
        hint = f"name the model that it was trained from: MODEL --adapter {folder}"
        raise UserError(f"is an adapter, whose base cannot be read: {error.what}", where=name, hint=hint) from error
    return NamedModel(name, path, str(folder), None, notes)


def read_config_of_adapter(folder: Path) -> dict[str, object]:
    """What ``adapter_config.json`` says; {} where that is no object. Raises UserError where it cannot be read."""
    try:
        found = parse_json((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        inside = sorted(path.parent for path in folder.glob(f"*/{ADAPTER_CONFIG}")) if folder.is_dir() else []
        hint = f"did you mean {inside[0]}?" if inside else "give a folder that PEFT wrote, such as RUN/final/adapter"
        raise UserError(f"holds no adapter ({ADAPTER_CONFIG})", where=str(folder), hint=hint) from error
    return dict(found) if isinstance(found, dict) else {}


def _checked(adapter: str | None) -> str | None:
    if adapter is None:
        return None
    folder = Path(adapter).expanduser()
    read_config_of_adapter(folder)
    return str(folder)


def _whole(name: str, path: str) -> tuple[str, tuple[str, ...]]:
    """The path, and what there is to say of it. Raises UserError where what lies there is no whole model."""
    folder = fetched_folder(path)
    if folder is None:
        return path, (not_here(path, name),)
    check_folder(folder, name)
    return path, ()


def _recipe_of(run_dir: Path) -> Recipe | None:
    """The recipe that a run folder keeps; None where there is none that this release can read."""
    if not (run_dir / RECIPE).is_file():
        return None
    try:
        kept = found_again(load_recipe(str(run_dir / RECIPE)), run_dir)
        return kept.model_copy(update={"output_dir": str(run_dir.absolute())})  # it may have been moved
    except UserError:
        return None


def require_speakers(models: Sequence[KnownModel], at: str = "") -> None:
    """None of them is a reward model, or an encoder of another kind. ``at``: what they were named for. Raises
    UserError."""
    for one in models:
        where = f"{at} {one.name}".strip()
        if one.is_reward_model:
            what = "is a reward model: it scores answers and writes none"
            raise UserError(what, where=where, hint=f"distft eval {one.name} --data FILE judges its scores")
        if one.embeds:
            what = "is a model of texts: it turns them into vectors, and writes no answers"
            hint = "name a decoder or an encoder-decoder; sentence-transformers reads this one"
            raise UserError(what, where=where, hint=hint)
        if one.is_masked_lm:
            what = "is an encoder: it fills in masked words, and writes no answers"
            hint = "name a decoder or an encoder-decoder; transformers' fill-mask pipeline shows what this one restores"
            raise UserError(what, where=where, hint=hint)


def require_scalar_head(model: KnownModel) -> None:
    """Raises UserError where it is no reward model, or is not here."""
    if not model.is_reward_model:
        what = "has no scalar head: it is not a reward model"
        raise UserError(what, where=model.name, hint="train one with a `reward` recipe, or name a reward model")


def require_label(model: NamedModel, label: str) -> None:
    """A classifier that is here has the label. Raises UserError."""
    folder, labels = fetched_folder(model.path), model.labels
    if folder is None or label in labels:
        return
    if not labels:
        hint = "name a sequence classifier: a `classification` run's, or a folder or hub name of one"
        raise UserError("is no classifier", where=f"--toxicity {model.name}", hint=hint)
    close = nearest(label, labels)
    hint = f"--toxic-label {close or labels[-1]}; it has: {', '.join(labels)}"
    raise UserError(f"has no label {label}", where=f"--toxicity {model.name}", hint=hint)
