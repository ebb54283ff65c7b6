"""Model folders and hub names to Hugging Face modules of any family, with what alignment needs and they leave open."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoConfig, PreTrainedModel
from transformers.modeling_utils import set_zero3_state
from transformers.utils import logging as transformers_logging

from distft.common.errors import UserError
from distft.config.models import Model
from distft.models.finite import require_finite
from distft.models.padding import train_padding_too
from distft.models.quantization import as_bitsandbytes, shardable
from distft.models.unreadable import COPY, first_line, hint

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_config(path: str, model: Model) -> Any:
    """The architecture, as written there. Raises UserError when there is no model."""
    try:
        return AutoConfig.from_pretrained(path, trust_remote_code=model.trust_remote_code)
    except (OSError, ValueError) as error:
        raise UserError(f"no model can be read there: {first_line(error)}", where=path, hint=hint(error)) from error


def written_dtype(path: str, model: Model) -> Literal["float32", "bfloat16", "float16"]:
    """The precision of the weights by the model's config; float32 where that does not say. Raises UserError."""
    said = load_config(path, model).dtype
    return "bfloat16" if said == torch.bfloat16 else "float16" if said == torch.float16 else "float32"


def without_weights(kind: Any, config: Any, model: Model) -> Any:
    """The architecture of a class of transformers, an auto class too, all of it on the meta device."""
    dtype = DTYPES[model.dtype]
    with torch.device("meta"):
        if isinstance(kind, type) and issubclass(kind, PreTrainedModel):
            return kind._from_config(config, dtype=dtype)  # type: ignore[no-untyped-call]
        return kind.from_config(config, dtype=dtype, trust_remote_code=model.trust_remote_code)


def require_all(missing: Sequence[str], path: str) -> None:
    """Raises UserError where weights are missing."""
    if missing:
        some = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise UserError(f"weights are missing: {some}", where=path, hint=COPY)


def start_head(weight: Tensor, seed: int, name: str = "") -> None:
    """Starts a parameter of a new head, same on any layout: a matrix normal with std 1/sqrt(inputs + 1) (Stiennon et
    al. 2020, appendix), the weight of a ``norm`` one, what is added zero."""
    generator = torch.Generator().manual_seed(seed)
    if weight.dim() > 1:
        start = torch.randn(weight.shape, generator=generator) / (weight.shape[-1] + 1) ** 0.5
    else:
        start = torch.full(weight.shape, float("norm" in name and name.endswith("weight")))
    with torch.no_grad():
        weight.copy_(start.to(weight.dtype))


def plain_twin(model: Any, dtype: torch.dtype, device: torch.device) -> Any:
    """An unsharded model of the same class and config for generation; its weights come by weight sync.

    The tokens that it samples are only as right as that sync, which is why its log-probs are compared
    with the trainer's in every iteration. Random numbers for dropout go on as if it had not been built.
    """
    forked = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=forked), torch.device(device):
        twin = type(model)._from_config(
            deepcopy(model.config), dtype=dtype, attn_implementation=model.config._attn_implementation
        )
    twin.generation_config = deepcopy(model.generation_config)
    twin.requires_grad_(requires_grad=False)
    return twin.eval()


def read_weights(
    kind: Any, path: str, config: Any, model: Model, purpose: str, *, on_meta: bool, whole: Sequence[str] = ()
) -> tuple[Any, list[str]]:
    """The module, ready to train, and the names of the weights that the folder lacks. ``whole``: see
    ``as_bitsandbytes``. Raises UserError also where those that it has are not numbers."""
    options: dict[str, Any] = {"dtype": DTYPES[model.dtype], "trust_remote_code": model.trust_remote_code}
    options["use_safetensors"] = True  # a pickle can run code when it is read
    if model.attention != "auto":
        options["attn_implementation"] = model.attention
    if on_meta:
        options["device_map"] = "meta"
    elif model.quantization is not None:
        options["quantization_config"] = as_bitsandbytes(model.quantization, DTYPES[model.dtype], whole)
    try:
        with quiet_transformers():
            module, info = kind.from_pretrained(path, config=config, output_loading_info=True, **options)
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"cannot be loaded {purpose}: {first_line(error)}", where=path, hint=hint(error)) from error
    except RuntimeError as error:
        if "mismatch" not in str(error):  # out of memory, a lost peer: not the user's doing
            raise
        what = f"its weights do not have the sizes that its config.json says {purpose}"
        raise UserError(what, where=path, hint=COPY) from error
    if not on_meta:
        require_finite(module, path, but=info["missing_keys"])
    if model.quantization is not None and not on_meta:
        shardable(module, DTYPES[model.dtype])
    if hasattr(next(module.parameters()), "ds_id"):
        restore_buffers(module, DTYPES[model.dtype])
    train_padding_too(module)
    module.config.use_cache = False
    if model.gradient_checkpointing:
        # Not reentrant: the same gradients under ZeRO-3, and no input needs a gradient of its own.
        module.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return module, sorted(info["missing_keys"])


def restore_buffers(module: Any, dtype: torch.dtype) -> None:
    """Gives the buffers that no file holds the precision and values that an unsharded load gives them.

    While ``zero.Init`` is open every floating tensor that a constructor makes comes out in the model's
    dtype, rotary frequencies too: in bfloat16 position 1000 would be turned by up to 2 radians too far.
    """
    if dtype == torch.float32:
        return
    with torch.device("meta"), _default_dtype(dtype), set_zero3_state():  # not into shards, this one
        plain = type(module)(module.config)
    wanted = {name: buffer.dtype for name, buffer in plain.named_buffers()}
    for prefix, part in module.named_modules():
        changed = False
        for name in part._non_persistent_buffers_set:
            buffer = part._buffers.get(name)
            right = wanted.get(f"{prefix}.{name}" if prefix else name)
            if buffer is not None and right is not None and buffer.dtype != right:
                part._buffers[name] = buffer.to(right)
                changed = True
        if changed:
            with torch.no_grad():
                module._init_weights(part)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Without progress bars and the table of missing keys, which we judge ourselves."""
    shown = transformers_logging.is_progress_bar_enabled()
    logger = logging.getLogger("transformers.modeling_utils")
    logger.addFilter(_no_load_report)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logger.removeFilter(_no_load_report)
        if shown:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _no_load_report(record: logging.LogRecord) -> bool:
    return "LOAD REPORT" not in str(record.msg)


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
