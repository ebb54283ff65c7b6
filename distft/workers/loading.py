"""A role's model as its ranks build it: loaded into its shards, ready for the engine."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from distft.common.errors import UserError
from distft.config.models import Engine as EngineConfig
from distft.config.role_table import gives_scores
from distft.engine import process_group
from distft.engine.engine import Engine, writable
from distft.models.adapters.adapt import add_adapters
from distft.models.adapters.from_file import head_names, in_file
from distft.models.base import Base
from distft.models.families.family import Family, Loaded, find_family
from distft.models.liger import use_liger
from distft.models.load import start_head
from distft.models.packing import keep_apart, require_packable
from distft.models.rope import settle_rope
from distft.models.sequence_parallel import Sharing, share_rows
from distft.planning.lora_folder import lora_beside
from distft.planning.model_folders import ADAPTER_WEIGHTS
from distft.planning.positions import position_limit
from distft.workers.spec import RoleSpec

log = logging.getLogger(__name__)


def load_sharded(
    spec: RoleSpec, path: str, config: EngineConfig, *, new_head: bool, base: Base | None = None
) -> tuple[Any, Sequence[nn.Parameter]]:
    """The module of a role from ``path``, a new head started, with its kernels, ropes and adapters (collective). With a
    ``base`` nothing is read from there but names and sizes, and of a finished model the adapter beside it. Returns the
    module, and the parameters that are the base's.

    Raises UserError as ``Family.load``, and as what it is then given does.
    """
    family = find_family(spec.family, spec.labels)
    loaded, common = _loaded(family, spec, path, config, base, new_head=new_head)
    model = loaded.module.model
    if use_liger(model, spec.model.kernels, f"models.{spec.role}.kernels"):
        log.info("layers are computed by Liger's kernels")
    # One that gives scores and is frozen may have tokens, and so lengths, of its own.
    if spec.optimizer is not None or not gives_scores(spec.role):
        longest = family.positions(spec.longest_prompt, spec.longest - spec.longest_prompt)
        require_positions(position_limit(model.config.to_dict()), longest, spec.role, path)
    settle_rope(model, spec.longest)
    if config.packed:
        trusted = spec.model.trust_remote_code
        require_packable(model.config, spec.family, f"models.{spec.role}", trusted=trusted)
        keep_apart(model)
    if config.sequence_parallel > 1:
        share_rows(model, config.sequence_parallel, spec.longest, f"models.{spec.role}")
        loaded.module.sharing = Sharing.join(config.sequence_parallel, spec.collective_timeout_s)
    for number, (name, parameter) in enumerate(sorted(loaded.new_head.items())):
        with writable(parameter) as weight:
            start_head(weight, spec.seed + number, name)
    if base is not None and spec.optimizer is None:
        _add_finished(model, spec, path, config)
    elif spec.model.peft is not None:
        with Engine.sharded_loading(config, spec.model.dtype):  # some begin with what the weights are
            add_adapters(model, spec.model.peft, dropout=spec.dropout, seed=spec.seed)
    return loaded.module, common


def _add_finished(model: Any, spec: RoleSpec, path: str, config: EngineConfig) -> None:
    """The adapter and the head of a finished model."""
    where = f"models.{spec.role}.path"
    with process_group.failing_together():
        found = lora_beside(path, where)
    with Engine.sharded_loading(config, spec.model.dtype):
        add_adapters(model, found.lora, dropout=False, seed=spec.seed, fresh=False)
    with process_group.failing_together():
        values = list(in_file(model, found.folder / ADAPTER_WEIGHTS, where))
    for parameter, value in values:
        with writable(parameter) as weight:
            weight.copy_(value)


def _loaded(
    family: Family, spec: RoleSpec, path: str, config: EngineConfig, base: Base | None, *, new_head: bool
) -> tuple[Loaded, Sequence[nn.Parameter]]:
    if base is None:
        with Engine.sharded_loading(config, spec.model.dtype, quantized=spec.model.quantization is not None):
            return family.load(path, spec.model, dropout=spec.dropout, new_head=new_head), ()
    where = f"models.{spec.role}.path"
    with process_group.failing_together():
        loaded = family.load(path, spec.model, dropout=spec.dropout, new_head=new_head, on_meta=True)
        model = loaded.module.model
        heads = head_names(model)
        if spec.optimizer is not None and heads != set(loaded.new_head):
            what = f"{path} has a scalar head, which nobody would read: the {spec.role} model begins with a new one"
            raise UserError(what, where=where, hint="name the language model that it was trained from")
        common = base.lie_under(model, heads, where)
    return replace(loaded, new_head={name: model.get_parameter(name) for name in loaded.new_head}), common


def require_positions(positions: int | None, length: int, role: str, path: str) -> None:
    """Raises UserError for a sequence of more tokens than the model at ``path`` has learned positions for."""
    if positions is not None and length > positions:
        raise UserError(
            f"{path} has learned {positions} positions, a sequence has {length} tokens",
            where=f"models.{role}.path",
            hint="shorter sequences (data.max_length, or in RL data.max_prompt_length and rollout.max_new_tokens), "
            "or a model with more positions",
        )
