"""A role's model as its ranks build it: loaded into its shards, ready for the engine."""

from __future__ import annotations

import logging
from typing import Any

from distft.common.errors import UserError
from distft.config.models import Engine as EngineConfig
from distft.config.role_table import gives_scores
from distft.engine.engine import Engine, writable
from distft.models.adapters.adapt import add_adapters
from distft.models.families.family import find_family
from distft.models.liger import use_liger
from distft.models.load import start_head
from distft.models.packing import keep_apart, require_packable
from distft.models.rope import settle_rope
from distft.models.sequence_parallel import Sharing, share_rows
from distft.planning.positions import position_limit
from distft.workers.spec import RoleSpec

log = logging.getLogger(__name__)


def load_sharded(spec: RoleSpec, path: str, config: EngineConfig, *, new_head: bool) -> Any:
    """The module of a role from ``path``, a new head started, with its kernels, ropes and adapters (collective).

    Raises UserError as ``Family.load``, and as what it is then given does.
    """
    family = find_family(spec.family, spec.labels)
    with Engine.sharded_loading(config, spec.model.dtype):
        loaded = family.load(path, spec.model, dropout=spec.dropout, new_head=new_head)
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
    if spec.model.peft is not None:
        with Engine.sharded_loading(config, spec.model.dtype):  # some begin with what the weights are
            add_adapters(model, spec.model.peft, dropout=spec.dropout, seed=spec.seed)
    return loaded.module


def require_positions(positions: int | None, length: int, role: str, path: str) -> None:
    """Raises UserError for a sequence of more tokens than the model at ``path`` has learned positions for."""
    if positions is not None and length > positions:
        raise UserError(
            f"{path} has learned {positions} positions, a sequence has {length} tokens",
            where=f"models.{role}.path",
            hint="shorter sequences (data.max_length, or in RL data.max_prompt_length and rollout.max_new_tokens), "
            "or a model with more positions",
        )
