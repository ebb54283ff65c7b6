"""Model folders and hub names to modules, with what alignment needs and Hugging Face leaves open."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from distft.common.errors import UserError
from distft.config.models import Model
from distft.models.selected import SelectedLogits, SelectedScalars

log = logging.getLogger(__name__)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_tokenizer(path: str, *, trust_remote_code: bool = False) -> Any:
    """The tokenizer that lies with a model; a missing pad token becomes the end-of-sequence token.

    Raises UserError when there is none.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise UserError(f"no tokenizer can be read there: {_first_line(error)}", where=path) from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_config(path: str, model: Model, *, dropout: bool) -> Any:
    """The architecture; with ``dropout`` False every dropout of it is 0, the functional one in attention too.

    It must happen here: what reads the probability at construction or in its forward cannot be switched
    off afterwards by walking over ``nn.Dropout`` modules.
    """
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=model.trust_remote_code)
    except (OSError, ValueError) as error:
        raise UserError(f"no model can be read there: {_first_line(error)}", where=path) from error
    if not dropout:
        for name, value in config.to_dict().items():
            if isinstance(value, float) and ("dropout" in name or name.endswith("pdrop")):
                setattr(config, name, 0.0)
    return config


def load_causal(path: str, model: Model, *, dropout: bool) -> SelectedLogits:
    """A causal language model. Raises UserError for anything that is not one."""
    config = load_config(path, model, dropout=dropout)
    try:
        module = AutoModelForCausalLM.from_pretrained(path, config=config, **_options(model))
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"cannot be loaded as a causal language model: {_first_line(error)}", where=path) from error
    _finish(module, model)
    return SelectedLogits(module)


def load_scalar(path: str, model: Model, *, dropout: bool, new_head: bool) -> tuple[SelectedScalars, bool]:
    """A backbone with a scalar head, and whether that head is fresh (still to be started by the caller).

    Raises UserError when the head's weights are missing and ``new_head`` is False: a reward model with
    a random head would score at random and nothing would tell.
    """
    config = load_config(path, model, dropout=dropout)
    config.num_labels = 1
    try:
        module, info = AutoModelForSequenceClassification.from_pretrained(
            path, config=config, output_loading_info=True, **_options(model)
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"cannot be loaded with a scalar head: {_first_line(error)}", where=path) from error
    fresh = any(key.startswith("score.") for key in info["missing_keys"])
    missing = [key for key in info["missing_keys"] if not key.startswith("score.")]
    if missing:
        raise UserError(f"weights are missing: {', '.join(missing[:5])}", where=path)
    if fresh and not new_head:
        raise UserError(
            "has no scalar head (score.weight): it is not a reward model",
            where=path,
            hint="train one with a `reward` recipe, or name a reward model",
        )
    _finish(module, model)
    return SelectedScalars(module), fresh


def start_head(weight: Tensor, seed: int) -> None:
    """Starts a scalar head: normal with std 1/sqrt(hidden + 1) (Stiennon et al. 2020, appendix), same on any layout."""
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(weight.shape, generator=generator) / (weight.shape[-1] + 1) ** 0.5
    with torch.no_grad():
        weight.copy_(start.to(weight.dtype))


def plain_twin(config: Any, dtype: torch.dtype, device: torch.device) -> Any:
    """An unsharded model of the same architecture for generation; its weights come by weight sync.

    The tokens that it samples are only as right as that sync, which is why its log-probs are compared
    with the trainer's in every iteration.
    """
    with torch.device(device):
        twin = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=config._attn_implementation)
    twin.requires_grad_(requires_grad=False)
    return twin.eval()


def _options(model: Model) -> dict[str, Any]:
    options: dict[str, Any] = {"dtype": DTYPES[model.dtype], "trust_remote_code": model.trust_remote_code}
    if model.attention != "auto":
        options["attn_implementation"] = model.attention
    return options


def _finish(module: nn.Module, model: Model) -> None:
    module.config.use_cache = False  # type: ignore[union-attr]
    if model.gradient_checkpointing:
        module.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})  # type: ignore[operator]


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
