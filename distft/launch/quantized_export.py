"""``distft export --quantize``: a decoder's linear layers in fewer bits, for vLLM, and what that costs."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from distft.batches import Array
from distft.common.errors import EnvironmentFallsShort, UserError
from distft.common.sums import SUMS, write_sums
from distft.config.find_method import traits_of
from distft.config.recipe import Recipe
from distft.launch.preflight.models import unmerged_adapter
from distft.models.families.table import encodes, has_own_code, has_scoring_head
from distft.planning.encoder_decoders import is_encoder_decoder
from distft.planning.model_folders import read_config
from distft.report.model_card import CARD

MAX_ROWS = 32
_MADE_ANEW = ("config.json", SUMS, "*.safetensors", "*.safetensors.index.json", "adapter")


def require_compressor(scheme: str) -> None:
    """Raises EnvironmentFallsShort."""
    if importlib.util.find_spec("compressed_tensors") is None:
        what = "compressed-tensors, which writes quantized weights, is not installed"
        raise EnvironmentFallsShort(what, where=f"--quantize {scheme}", hint="pip install 'distft[quantize]'")


def require_decoder(folder: Path, scheme: str) -> None:
    """What lies there is a language model that vLLM generates with by its weights alone. Raises UserError."""
    config = read_config(folder)
    kind = ", ".join(config.get("architectures") or [str(config.get("model_type"))])
    what = ""
    if encodes(config) or is_encoder_decoder(config) or has_scoring_head(config.get("architectures")):
        what = f"{kind} is no decoder that generates"
    elif has_own_code(config.get("auto_map")):
        what = f"{kind} is a class of its own, which vLLM does not know"
    elif unmerged_adapter(folder) is not None:
        what = "what was trained lies beside the weights and cannot be merged: they would be written as they began"
    if what:
        raise UserError(what, where=f"--quantize {scheme}", hint="leave --quantize out")


def quantize(plain: Path, target: Path, scheme: str, recipe: Recipe) -> str:
    """Writes ``target`` from a plain folder; what there is to say of it, which stands in its card too. The adapter that
    was merged is left out. Raises as ``compress``."""
    from distft.models.compressed import compress

    shutil.copytree(plain, target, ignore=shutil.ignore_patterns(*_MADE_ANEW))
    compress(plain, target, scheme)
    said = f"linear layers in {scheme} (round to nearest); {_cost(plain, target, recipe)}"
    with (target / CARD).open("a", encoding="utf-8") as card:
        card.write(f"\n## Quantized\n\nBy compressed-tensors: {said}. `vllm serve FOLDER` reads it.\n")
    write_sums(target, but=(CARD,))
    return said


def _cost(plain: Path, target: Path, recipe: Recipe) -> str:
    """How far the one is from the other on rows of the recipe."""
    from transformers import AutoModelForCausalLM

    from distft.evaluation.fidelity import fidelity
    from distft.models.compressed import quiet_compressor

    try:
        name, texts = _texts(plain, recipe)
    except UserError as error:
        return f"what that costs was not measured: {error.what}"
    if not texts:
        return f"what that costs was not measured: no row of data.{name} has two tokens"
    with quiet_compressor():
        models: list[Any] = [AutoModelForCausalLM.from_pretrained(one, dtype="auto") for one in (plain, target)]
        found = fidelity(models[0].eval(), models[1].eval(), texts)
    return (
        f"on {len(texts)} rows of data.{name} perplexity {found.before:.4g} -> {found.after:.4g}, "
        f"next tokens {found.divergence:.2g} nats apart (KL), the likeliest the same at {found.agreement:.1%}"
    )


def _texts(plain: Path, recipe: Recipe) -> tuple[str, list[Array]]:
    """Rows that were held out, else some that were trained on, whole: prompts too."""
    from distft.launch.judged_rows import Wanted, judged_rows
    from distft.models.tokenizer import load_tokenizer

    data: Any = recipe.data
    name = "test" if data.test or data.holdout else "eval" if data.eval else "train"
    tokenizer = load_tokenizer(str(plain), trust_remote_code=False, chat_template=None)
    rows = judged_rows(Wanted(recipe, split=name, limit=MAX_ROWS), tokenizer)
    sampled = traits_of(recipe.algorithm.kind).sampled
    batch = rows.dataset.prompts(rows.units) if sampled else rows.dataset.batch(rows.units)
    columns = [column for column in ("prompt_ids", "response_ids") if column in batch.columns]
    parts = [batch.ragged(column) for column in columns]
    texts = [np.concatenate([part[row] for part in parts]) for row in range(len(batch))]
    return name, [text for text in texts if len(text) > 1]
