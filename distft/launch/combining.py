"""``distft export --adapter``: adapters added to a model, each times a weight, into a plain Hugging Face folder."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distft.common.errors import UserError
from distft.common.sums import write_sums
from distft.config.adapters.adapter import UNMERGED
from distft.launch.export import appearing, require_free, without_accelerator
from distft.launch.named_models import Reading, find_model, read_config_of_adapter, require_speakers

if TYPE_CHECKING:
    from distft.models.adapters.combining import Combine, Weighted


def export_combined(name: str, target: Path, adapters: Sequence[str], how: Combine, density: float) -> Path:
    """Writes ``target``: the model of that name, or an adapter's base with that adapter, and ``adapters``, each
    ``FOLDER=WEIGHT`` or a folder, of weight 1; see ``models.adapters.combining``.

    The sums are formed in float32 and rounded once to the model's own dtype. ``target`` appears whole or not at all.
    Raises UserError: a model or an adapter that is not there, a weight that is none, an adapter that no weights can
    compute, or that trained a head whole, one taken out by ``ties``, ``target`` is taken.
    """
    from distft.models.adapters.combining import Weighted, combine
    from distft.models.buffers import kept_buffers
    from distft.models.export import export_model
    from distft.models.families.family import family_at, find_family
    from distft.models.families.table import family_of
    from distft.models.load import DTYPES
    from distft.models.stops import stop_tokens
    from distft.models.tokenizer import load_tokenizer

    require_free(target)
    weighted = [_weighted(text) for text in adapters]
    if how == "ties" and (taken := next((one for one in weighted if one.weight < 0), None)):
        what = "ties keeps what adapters agree on, by the signs before they are weighted: none can be taken out"
        raise UserError(what, where=f"--adapter {taken.folder}={taken.weight:g}", hint="--combine sum")
    with appearing(target) as draft, tempfile.TemporaryDirectory(prefix="distft-models-") as scratch:
        found = find_model(name, Path(scratch))
        require_speakers([found])
        if found.adapter is not None:
            weighted.insert(0, Weighted(found.adapter, 1.0))
        for one in weighted:
            _require_weights(one.folder)
        written = found.section(Reading())
        section = written.model_copy(update={"dtype": "float32"})
        family = find_family(family_at(family_of("policy").name, found.path, section))
        tokenizer = load_tokenizer(found.path, trust_remote_code=section.trust_remote_code, chat_template=None)

        def load() -> Any:
            return family.load(found.path, section, dropout=False).module

        module = load()
        model = module.model
        combine(model, lambda: load().model, weighted, how, density)
        for parameter in model.parameters():
            parameter.data = parameter.data.to(DTYPES[written.dtype])
        weights = {key: parameter.data for key, parameter in model.named_parameters()} | kept_buffers(model)
        with without_accelerator():
            stops = stop_tokens(tokenizer, module, section.stop_tokens)
            export_model(model, weights, tokenizer, draft, module.written, stops)
        write_sums(draft)
    return target


def _weighted(text: str) -> Weighted:
    from distft.models.adapters.combining import Weighted

    folder, equals, written = text.rpartition("=")
    if not equals or Path(text).expanduser().is_dir():
        return Weighted(str(Path(text).expanduser()), 1.0)
    try:
        weight = float(written)
    except ValueError:
        weight = math.nan
    if not math.isfinite(weight) or weight == 0:
        what = f"{written or 'nothing'} is no weight"
        raise UserError(what, where=f"--adapter {text}", hint=f"a number that is not 0: --adapter {folder}=0.5")
    return Weighted(str(Path(folder).expanduser()), weight)


def _require_weights(folder: str) -> None:
    """What it does can be added to weights. Raises UserError."""
    said = read_config_of_adapter(Path(folder))
    if said.get("peft_type") in UNMERGED:
        what = f"no weights can compute what it does ({said['peft_type']}), so that none can be added to"
        raise UserError(what, where=f"--adapter {folder}", hint=f"distft generate MODEL --adapter {folder} reads both")
    if heads := said.get("modules_to_save"):
        what = f"trained {', '.join(map(str, heads if isinstance(heads, list) else [heads]))} whole, beside its model"
        hint = "name adapters of a language model; the merged result of a reward model is its run's final/"
        raise UserError(what, where=f"--adapter {folder}", hint=hint)
