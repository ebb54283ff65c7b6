"""What a worker is told at birth. No torch here: the driver builds these."""

from __future__ import annotations

from dataclasses import dataclass

from distft.config.models import Init, Model
from distft.config.optimizers.optimizer import Optimizer
from distft.models.families.table import FamilyName
from distft.planning.generation import EngineSettings


@dataclass(frozen=True)
class RoleSpec:
    """One role's model as every one of its ranks must build it. ``optimizer`` None means frozen; ``stop_tokens`` None
    that nobody named any; ``longest`` is the longest sequence of the run, in tokens, of which ``longest_prompt`` are
    the prompt's at most, where that is said. ``family``: that of a decoder, until the model is looked at. ``labels``
    are a trained classifier's. ``noise_alpha``: see ``models.embedding_noise``; 0: none. ``recorded``: every step, in
    the flight recorder. ``router_replay``: see ``models.routers``.
    """

    role: str
    model: Model
    family: FamilyName
    optimizer: Optimizer | None
    longest: int
    dropout: bool = False
    seed: int = 0
    stop_tokens: tuple[str, ...] | None = None
    gathered_generation: bool = True
    collective_timeout_s: float = 600.0
    longest_prompt: int = 0
    labels: tuple[str, ...] = ()
    noise_alpha: float = 0.0
    recorded: bool = False
    router_replay: bool = False


@dataclass(frozen=True)
class EngineSpec:
    """What every engine that generates is told at birth."""

    settings: EngineSettings
    collective_timeout_s: float = 600.0


@dataclass(frozen=True)
class Start:
    """Where a role's model begins: a path, and for ``init:`` models what to write there first; likewise for the model
    at ``extends``, with new tokens. ``chat_template``: one to use in place of the tokenizer's own, by name or as
    text."""

    path: str
    init: Init | None = None
    seed: int = 0
    trust_remote_code: bool = False
    chat_template: str | None = None
    extends: str = ""

    @property
    def is_made(self) -> bool:
        """Whether the run itself writes what lies there."""
        return self.init is not None or bool(self.extends)
