"""A model folder before it is loaded: is it whole, has it the head that its role needs, do tokenizers agree?"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from distft.common.errors import UserError, nearest
from distft.common.files import parse_json
from distft.common.sums import SUMS, sum_faults
from distft.config.adapters.adapter import UNMERGED
from distft.config.data import INSTEAD_OF_STEPS, NO_WHOLE_ANSWERS, RIGHT_STEP
from distft.config.load import resolve_path
from distft.config.models import ScoringModel
from distft.config.new_tokens import new_tokens
from distft.config.recipe import Recipe
from distft.config.role_table import SAME_TOKENS, gives_scores
from distft.config.roles import is_rl, model_of, roles
from distft.data.chat_templates import resolve_template
from distft.data.vocabulary import require_policys_tokens, require_token
from distft.launch.preflight.architectures import check_adapters, check_architecture, check_positions
from distft.launch.preflight.hub import check_on_hub, is_offline
from distft.launch.preflight.one_base import check_one_base
from distft.planning.encoder_decoders import with_value_start
from distft.planning.known_models import known_config, nearest_known
from distft.planning.model_folders import (
    ADAPTER_CONFIG,
    TOKENIZER_FILES,
    fetched_folder,
    has_tokenizer,
    has_weight_files,
    is_adapter,
    local_folder,
    pickled_weights,
    read_config,
)
from distft.planning.weight_files import COPY_AGAIN, tensor_shapes, weight_files
from distft.tracking.metrics import RECIPE

# What the scalar head of AutoModelForSequenceClassification is called, by architecture.
HEAD_KEYS = ("score.weight", "classifier.weight", "classifier.out_proj.weight", "classification_head.out_proj.weight")


def check_models(recipe: Recipe) -> Iterator[str]:
    """Every model that has a path. Yields warnings.

    Raises UserError for missing or incomplete folders, families that cannot be trained or are too short, a reward
    model without a head or over another base, a reference or value model whose tokenizer is not the policy's, stop
    tokens that are none.
    """
    folders: dict[str, Path] = {}
    for role in roles(recipe):
        model = with_value_start(recipe) if role == "value" else model_of(recipe, role)
        if model.chat_template is not None:
            resolve_template(model.chat_template, f"models.{role}.chat_template")
        if model.init is not None:
            resolve_template(model.init.tokenizer.chat_template, f"models.{role}.init.tokenizer.chat_template")
        if model.path is None:
            continue
        path = resolve_path(model.path)
        if model.trust_remote_code:
            require_own_copy(path, f"models.{role}.path")
        folder = fetched_folder(path)
        if folder is None:
            yield not_here(path, f"models.{role}.path")
            continue
        if folder not in folders.values():
            check_folder(folder, f"models.{role}.path")
        if adapter := unmerged_adapter(folder):
            raise UserError(
                f"{folder} is the base of an adapter that cannot be merged, which lies in {adapter}",
                where=f"models.{role}.path",
                hint="name the model that it was trained from, and train it by itself",
            )
        config = read_config(folder)
        check_architecture(config, folder, role, model, traits=recipe.algorithm.traits)
        check_adapters(config, role, model)
        yield from check_positions(config, role, recipe)
        folders[role] = folder
    yield from check_one_base(recipe)
    for role in filter(gives_scores, folders if is_rl(recipe) else ()):
        check_head(folders[role], model_of(recipe, role), f"models.{role}")
    for role in SAME_TOKENS:
        given = recipe.models.of(role)
        grown = any(model_of(recipe, one).extend_vocabulary for one in ("policy", role) if one in folders)
        if "policy" in folders and role in folders and given is not None and given.path and not grown:
            check_same_tokenizer(folders["policy"], folders[role], role)
    policy = recipe.models.policy
    if policy is not None and policy.stop_tokens is not None and "policy" in folders:
        new = new_tokens(policy.extend_vocabulary or (), "models.policy.extend_vocabulary")
        check_stop_tokens(folders["policy"], [name for name in policy.stop_tokens if name not in new])


def unmerged_adapter(folder: Path) -> str | None:
    """The folder of the adapter that a result was trained with, whose weights know nothing of it; None where it was
    merged, or trained otherwise."""
    file = folder / "adapter" / ADAPTER_CONFIG
    try:
        found = parse_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return str(file.parent) if isinstance(found, dict) and found.get("peft_type") in UNMERGED else None


def check_folder(folder: Path, where: str) -> None:
    """config.json, weights and a tokenizer are there, as they were written, and fit together. ``where`` the folder is
    named, for messages: a recipe's key, or what was typed. Raises UserError.
    """
    if is_adapter(folder):
        merged = (folder.parent / "config.json").is_file()
        raise UserError(
            f"{folder} is an adapter, not a whole model",
            where=where,
            hint=f"did you mean {folder.parent}?"
            if merged
            else f"merge it into its base first: distft export {folder} merged",
        )
    if not (folder / "config.json").is_file():
        raise UserError(
            f"{folder} has no config.json: it is not a model folder",
            where=where,
            hint=_inside(folder) or "give a model folder, a hub name, or run:<output_dir>",
        )
    config = read_config(folder)
    if quantized := config.get("quantization_config"):
        raise UserError(
            f"{folder} holds weights that {quantized.get('quant_method', 'something')} has quantized",
            where=where,
            hint="take the original weights" + _quantized(where),
        )
    if not has_weight_files(folder):
        refuse_pickles(folder, where)
        what = f"{folder} has no weights (*.safetensors)"
        raise UserError(what, where=where, hint=_inside(folder) or COPY_AGAIN)
    if not has_tokenizer(folder):
        raise UserError(
            f"{folder} has no tokenizer ({', '.join(TOKENIZER_FILES[:3])}, ...)",
            where=where,
            hint="copy the tokenizer's files of the model that it was trained from",
        )
    if changed := sum_faults(folder):
        raise UserError(
            f"{folder} is not as it was written: {'; '.join(changed[:3])}",
            where=where,
            hint=f"{COPY_AGAIN}; if you have changed them yourself: rm {shlex.quote(str(folder / SUMS))}",
        )
    # A token that was added may lie beyond, if no text has it: rows are looked at when they are encoded.
    tokens = max(_vocabulary(folder, added=False).values(), default=-1) + 1
    rows = int(config.get("vocab_size") or dict(config.get("text_config") or {}).get("vocab_size") or 0)
    if rows and tokens > rows:
        raise UserError(
            f"the tokenizer in {folder} has {tokens} tokens, the model's embedding only {rows} rows",
            where=where,
            hint="this tokenizer belongs to another model",
        )


def refuse_pickles(folder: Path, where: str) -> None:
    """Raises UserError where the weights are pickles; its remedy has torch read them as weights and nothing else."""
    if pickled := pickled_weights(folder):
        named = str((read_config(folder).get("architectures") or [""])[0])
        kind = named if named.isidentifier() else "AutoModelForCausalLM"  # it is pasted: nothing else may stand there
        rewrite = f"import transformers as t; f = {str(folder)!r}; t.{kind}.from_pretrained(f).save_pretrained(f)"
        raise UserError(
            f"{folder} holds its weights as a pickle ({pickled}), which can run code when it is read",
            where=where,
            hint=f"write them as safetensors, once: python -c {shlex.quote(rewrite)}",
        )


def require_own_copy(path: str, where: str) -> None:
    """Code that comes with a model is run from a folder of the user's, never from a hub, where it may be another
    tomorrow. Raises UserError; not of what can only be a folder that is not there, which is told elsewhere."""
    local = path.startswith((".", "/", "~")) or path.count("/") > 1
    if not local and not Path(path).is_dir():
        copy = f"hf download {shlex.quote(path)} --revision COMMIT --local-dir {shlex.quote(Path(path).name)}"
        raise UserError(
            f"the code of {path} would be that of the hub, which may be another tomorrow",
            where=where,
            hint=f"{copy}; read it; then give that folder",
        )


def check_head(folder: Path, model: Any, where: str = "models.reward") -> None:
    """A reward model's weights hold a scalar head, read from the files' headers. Raises UserError."""
    shapes = tensor_shapes(folder)
    if not shapes:
        return
    found = [name for name in shapes if name.endswith(HEAD_KEYS) and not name.startswith("lm_head")]
    if not found:
        raise UserError(
            f"{weight_files(folder)[0]} holds no scalar head ({HEAD_KEYS[0]}): it is not a reward model",
            where=f"{where}.path",
            hint="train one with a `reward` recipe, or name a reward model",
        )
    if RIGHT_STEP in dict(read_config(folder).get("id2label") or {}).values():
        raise UserError(NO_WHOLE_ANSWERS.format(model=folder), where=f"{where}.path", hint=INSTEAD_OF_STEPS)
    outputs = shapes[found[0]][0]
    if outputs == 1 or not isinstance(model, ScoringModel):
        return
    # transformers writes no labels where they are its own.
    written = read_config(folder).get("id2label") or {number: f"LABEL_{number}" for number in range(outputs)}
    labels = sorted(str(label) for label in dict(written).values())
    if model.label is None:
        raise UserError(
            f"{folder} has {outputs} outputs ({found[0]}), a reward is one",
            where=f"{where}.label",
            hint=f"name the label that is rewarded: one of {', '.join(labels)}",
        )
    if model.label not in labels:
        close = nearest(model.label, labels)
        raise UserError(
            f"{folder} has no label {model.label}",
            where=f"{where}.label",
            hint=f"did you mean {close}?" if close else f"one of: {', '.join(labels)}",
        )


def check_same_tokenizer(policy: Path, other: Path, role: str) -> None:
    """Policy and ``role`` (one of ``SAME_TOKENS``) give the same numbers to the same tokens. Raises UserError."""
    if _same_file(policy / "tokenizer.json", other / "tokenizer.json"):
        return
    ours, theirs = _vocabulary(policy), _vocabulary(other)
    if ours and theirs:
        require_policys_tokens(role, theirs, ours, key="path")


def check_stop_tokens(folder: Path, names: Sequence[str]) -> None:
    """The tokens are some. Raises UserError."""
    vocabulary = _vocabulary(folder)
    for name in names if vocabulary else ():
        require_token(name, vocabulary)


def not_here(path: str, where: str) -> str:
    """The warning for a hub name that is not in the cache. Raises UserError for what can only be a folder, and what
    asking the hub raises.
    """
    folder = Path(path).expanduser()
    local = path.startswith((".", "/", "~")) or len(folder.parts) > 2
    siblings = [entry.name for entry in folder.parent.glob("*/")] if folder.parent.is_dir() else []
    close, run = nearest(folder.name, siblings), Path("runs", path)
    meant = str(folder.parent / close) if close else nearest_known(path) if not local else ""
    if not local and (run / RECIPE).is_file():  # where the recipes' runs lie
        meant = f"run:{run}"
    near = f"did you mean {meant}?" if meant and meant != path else ""
    hint = near or "give a folder, a hub name, or run:<output_dir>"
    if folder.is_file():
        raise UserError(f"{path} is a file, not a model folder", where=where, hint=f"did you mean {folder.parent}?")
    if local:
        raise UserError(f"there is no folder {path}", where=where, hint=hint)
    if is_offline():
        off = "and the hub is switched off (HF_HUB_OFFLINE)"
        if local_folder(path) is not None:
            what = f"{path} is not whole in the hub cache (weights and a tokenizer), {off}"
            raise UserError(what, where=where, hint=f"where there is a network: hf download {path}")
        if not near and "/" in path:
            hint = f"where there is a network: hf download {path}; or give a folder, or run:<output_dir>"
        raise UserError(f"{path} is neither a folder here nor in the hub cache, {off}", where=where, hint=hint)
    if "/" not in path and (meant.startswith("run:") or known_config(meant) is not None):
        raise UserError(f"{path} is neither a folder here nor a hub name, which has an owner", where=where, hint=hint)
    return f"{where}: {check_on_hub('model', path, where=where, near=near)}"


def _quantized(where: str) -> str:
    role, key, _ = where.rpartition(".path")
    return f"; {role}.quantization.method=nf4 loads them in four bits" if key else ""


def _inside(folder: Path) -> str:
    """Where the model may have been meant to be: one level further down."""
    deeper = sorted(path.parent for path in folder.glob("*/config.json"))
    return f"did you mean {deeper[0]}?" if deeper else ""


def _same_file(one: Path, other: Path) -> bool:
    if not one.is_file() or not other.is_file():
        return False
    return hashlib.sha256(one.read_bytes()).digest() == hashlib.sha256(other.read_bytes()).digest()


def _vocabulary(folder: Path, *, added: bool = True) -> dict[str, int]:
    """Token to number by the folder's tokenizer.json, with added tokens or without; empty where there is none."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        return {}
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
        vocabulary = content["model"]["vocab"]
        if isinstance(vocabulary, list):  # Unigram: pairs of token and score
            vocabulary = {token: number for number, (token, _) in enumerate(vocabulary)}
        more = {token["content"]: token["id"] for token in content.get("added_tokens", [])}
        return {**vocabulary, **more} if added else {token: at for token, at in vocabulary.items() if token not in more}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"is not a tokenizer: {error!r}", where=str(path), hint=COPY_AGAIN) from error
