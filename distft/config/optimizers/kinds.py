"""The update rules of which a recipe names one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, TypeAlias

from pydantic import Discriminator, Tag

from distft.config.optimizers.adafactor import Adafactor
from distft.config.optimizers.adamw import AdamW, EightBitAdamW
from distft.config.optimizers.lion import Lion
from distft.config.optimizers.muon import Muon
from distft.config.optimizers.optimizer import Optimizer
from distft.config.optimizers.sgd import Sgd

DEFAULT_NAME: Final[str] = AdamW.model_fields["name"].default
# How pydantic calls the branches of ``AnyOptimizer`` where it says what is wrong in one.
NAME_IS: Final = "name="


def _name(raw: Any) -> str:
    """What tells which rule is written there."""
    said = raw.get("name", DEFAULT_NAME) if isinstance(raw, Mapping) else getattr(raw, "name", DEFAULT_NAME)
    return f"{NAME_IS}{said}"


AnyOptimizer: TypeAlias = Annotated[
    Annotated[AdamW, Tag(f"{NAME_IS}adamw")]
    | Annotated[EightBitAdamW, Tag(f"{NAME_IS}adamw_8bit")]
    | Annotated[Adafactor, Tag(f"{NAME_IS}adafactor")]
    | Annotated[Lion, Tag(f"{NAME_IS}lion")]
    | Annotated[Muon, Tag(f"{NAME_IS}muon")]
    | Annotated[Sgd, Tag(f"{NAME_IS}sgd")],
    Discriminator(_name),
]

# The rules in that union, by their ``name``.
OPTIMIZERS: Final[Mapping[str, type[Optimizer]]] = {
    "adamw": AdamW, "adamw_8bit": EightBitAdamW, "adafactor": Adafactor, "lion": Lion, "muon": Muon, "sgd": Sgd,
}  # fmt: skip


def roles_take_the_name(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """A recipe as it is written, in which a role's own optimizer that names no rule is of the recipe's."""
    optimizer, models = raw.get("optimizer"), raw.get("models")
    name = optimizer.get("name") if isinstance(optimizer, Mapping) else getattr(optimizer, "name", None)
    if not isinstance(name, str) or name not in OPTIMIZERS or not isinstance(models, Mapping):
        return raw
    return {**raw, "models": {role: _named(model, name) for role, model in models.items()}}


def _named(model: Any, name: str) -> Any:
    own = model.get("optimizer") if isinstance(model, Mapping) else None
    return {**model, "optimizer": {"name": name, **own}} if isinstance(own, Mapping) else model
