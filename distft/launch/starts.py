"""Where each role's model begins, and what of it the workers are told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from distft.common.seeding import derive
from distft.config.load import resolve_path
from distft.config.models import Model, Policy
from distft.config.recipe import Recipe
from distft.config.role_table import INHERITING
from distft.config.roles import (
    answers_held_out,
    keeps_twin,
    longest_sequence,
    longest_sides,
    main_role,
    model_of,
    optimizer_of,
    over_policys_base,
    roles,
    samples_in_training,
    trained_roles,
)
from distft.data.chat_templates import NAMED, resolve_template
from distft.models.families.table import family_of
from distft.planning.generation import EngineSettings
from distft.workers.reports import Loaded
from distft.workers.spec import EngineSpec, RoleSpec, Start


def model_starts(recipe: Recipe, run_dir: Path) -> dict[str, Start]:
    """The start of every role; ``init:`` models, and those with new tokens, lie in ``RUN/init/<role>``, one folder for
    roles that share a start.

    Raises UserError for a ``run:`` path whose run has no result yet.
    """
    found: dict[str, Start] = {}
    for role in roles(recipe):
        model, owner = model_of(recipe, role), start_owner(recipe, role)
        folder = str(run_dir / "init" / owner)
        if model.path is None:
            found[role] = Start(folder, model.init, derive(recipe.seed, "init", owner))
            continue
        start = Start(
            resolve_path(model.path),
            trust_remote_code=model.trust_remote_code,
            chat_template=_template(model, role),
        )
        if model.extend_vocabulary is not None:
            start = replace(start, path=folder, extends=start.path)
        found[role] = start
    return found


def starts_of_workers(recipe: Recipe, starts: Mapping[str, Start], loaded: Loaded) -> dict[str, tuple[Start, bool]]:
    """Of every role what its workers load, once the data worker has reported (``loaded``), and whether its scalar head
    may be new. A value model whose start has other tokens than the policy starts from the policy.
    """
    chosen = dict(starts)
    if "value" in chosen and not loaded.same_value_tokenizer:
        chosen["value"] = starts["policy"]
    return {
        role: (chosen[role], role in ("value", main_role(recipe)) or starts[role].init is not None) for role in starts
    }


def _template(model: Model, role: str) -> str | None:
    """A named chat template by its name; that of a file as text, which every node can read."""
    named = model.chat_template
    if named is None or named in NAMED:
        return named
    return resolve_template(named, f"models.{role}.chat_template")


def start_owner(recipe: Recipe, role: str) -> str:
    """The role whose start this role has: itself, or the one that it inherits from."""
    given = recipe.models.of(role)
    if role == "value" and role in over_policys_base(recipe):
        return "policy"
    if given is not None and (given.path or given.init):
        return role
    if role == "value" and "reward" in roles(recipe):
        return "reward"
    return "policy" if role in INHERITING else role


def collective_timeout_s(recipe: Recipe) -> float:
    """Longer than any call's usual deadline: a frozen rank is found by the driver, which sees all ranks and names
    it; a timeout in a collective would blame a rank that waits for it, or one that is only the first to load.
    """
    recovery = recipe.recovery
    return recovery.deadline_factor * max(recovery.deadline_floor_s, recovery.start_deadline_s)


def worker_of(recipe: Recipe, role: str) -> str:
    """The address of every rank's class: the policy's answers prompts too, where the method samples or its answers are
    judged."""
    asked = samples_in_training(recipe) or answers_held_out(recipe)
    answers = role == "policy" and asked
    return "distft.workers." + ("generator_worker:GeneratorWorker" if answers else "model_worker:ModelWorker")


def engine_spec(recipe: Recipe, settings: EngineSettings) -> EngineSpec:
    """What every engine that generates is told at birth."""
    return EngineSpec(settings, collective_timeout_s(recipe))


def role_spec(recipe: Recipe, role: str) -> RoleSpec:
    """What every rank of a role is told at birth.

    Dropout is off in RL and preference training, reward models included (NUMERICS: Always); pre-training and SFT
    keep what the model's own config says.
    """
    trained, model = role in trained_roles(recipe), model_of(recipe, role)
    return RoleSpec(
        role=role,
        model=model.model_copy(update={"chat_template": _template(model, role)}),
        family=family_of(role, embeds=recipe.algorithm.traits.embeds).name,
        optimizer=optimizer_of(recipe, role) if trained else None,
        longest=longest_sequence(recipe),
        dropout=trained and recipe.algorithm.traits.dropout,
        seed=derive(recipe.seed, "role", role),
        stop_tokens=model.stop_tokens if isinstance(model, Policy) else None,
        # What only answers when it is judged does so from its own weights: no copy is kept for the time between.
        gathered_generation=keeps_twin(recipe),
        collective_timeout_s=collective_timeout_s(recipe),
        longest_prompt=longest_sides(recipe)[0],
        labels=recipe.algorithm.head_labels() if trained else (),
        noise_alpha=recipe.algorithm.embedding_noise() if trained else 0.0,
        recorded=trained and recipe.tracking.flight_recorder,
        router_replay=role == "policy" and recipe.rollout.router_replay,
    )
