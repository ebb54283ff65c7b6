"""The recipe: what to train, and nothing about hardware."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator
from pydantic_core import PydanticCustomError

from distft.common.errors import UserError
from distft.config.data import Data
from distft.config.find_method import code_of, method_of, traits_of
from distft.config.method import Method, is_from_outside
from distft.config.models import Models
from distft.config.optimizers.adamw import AdamW
from distft.config.optimizers.kinds import AnyOptimizer, roles_take_the_name
from distft.config.section import Numeral, Section, WrittenPath
from distft.config.training import (
    Checkpoint,
    Evaluation,
    Placement,
    Recovery,
    Rollout,
    Tracking,
    Train,
)

# Errors that pydantic has no name for.
UNKNOWN_KIND: Final = "unknown_kind"
WITHOUT_KIND: Final = "without_kind"
NO_METHOD: Final = "no_method"
_GONE_HINT: Final = "put the file into the run folder, or call from the folder where it is: it is known by its code"
_CHANGED: Final = "the method's code is not what this recipe was kept with (algorithm.code)"
_CHANGED_HINT: Final = "put the former code back, or remove algorithm.code and give another output_dir"


def _of_its_kind(raw: Any) -> Any:
    """A mapping of keys as the method that its ``kind`` names; anything else is for pydantic to refuse.

    Of a method from outside, ``code`` is the hash of what it was written in when a run kept the recipe: other code is
    refused.
    """
    if not isinstance(raw, Mapping):
        return raw
    if "kind" not in raw:
        raise PydanticCustomError(WITHOUT_KIND, "without kind")
    try:
        method = method_of(str(raw["kind"]))
    except KeyError:
        raise PydanticCustomError(UNKNOWN_KIND, "unknown kind {kind}", {"kind": raw["kind"]}) from None
    except UserError as error:
        where = "" if error.where == raw["kind"] else f"{error.where}: "
        hint = _GONE_HINT if "code" in raw else error.hint
        raise PydanticCustomError(NO_METHOD, "{what}", {"what": where + error.what, "hint": hint}) from None
    if "code" in raw and is_from_outside(str(raw["kind"])):
        if raw["code"] != code_of(str(raw["kind"])):
            raise PydanticCustomError(NO_METHOD, "{what}", {"what": _CHANGED, "hint": _CHANGED_HINT})
        raw = {key: value for key, value in raw.items() if key != "code"}
    return method.model_validate(raw)


Algorithm: TypeAlias = Annotated[SerializeAsAny[Method], BeforeValidator(_of_its_kind)]


class Recipe(Section):
    """A whole run. The rules between fields are in ``rules``; derived facts (roles, defaults) in ``roles``."""

    format: Annotated[Literal[1], Numeral] = Field(default=1, description="version of the recipe format")
    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$",
        description="run name: letters, digits, dots, dashes, underscores",
    )
    output_dir: WrittenPath = Field(description="run folder; relative to the working directory")
    seed: int = Field(default=1, ge=0, lt=2**31, description="of everything random in the run")
    algorithm: Algorithm = Field(description="how it learns, by kind")
    models: Models = Field(description="the models by role")
    placement: Placement = Field(default_factory=Placement, description="where the roles live")
    data: Data = Field(description="what it learns from")
    optimizer: AnyOptimizer = Field(default_factory=AdamW, description="of every trained role without its own")
    train: Train = Field(description="length and batch of the run")
    rollout: Rollout = Field(default_factory=Rollout, description="how responses are sampled")
    checkpoint: Checkpoint = Field(default_factory=Checkpoint, description="saving and going on")
    recovery: Recovery = Field(default_factory=Recovery, description="failures")
    evaluation: Evaluation = Field(default_factory=Evaluation, description="held-out metrics")
    tracking: Tracking = Field(default_factory=Tracking, description="what is recorded")

    @model_validator(mode="before")
    @classmethod
    def _roles_take_the_name_of_the_optimizer(cls, raw: Any) -> Any:
        return roles_take_the_name(raw) if isinstance(raw, Mapping) else raw

    @model_validator(mode="before")
    @classmethod
    def _prompts_are_not_cut_in_silence(cls, raw: Any) -> Any:
        """In RL an over-long prompt is an error by default: cut from the end it would be another question."""
        if not isinstance(raw, Mapping):
            return raw
        algorithm, data = raw.get("algorithm"), raw.get("data")
        kind = algorithm.get("kind") if isinstance(algorithm, Mapping) else getattr(algorithm, "kind", None)
        try:
            sampled = traits_of(str(kind)).sampled
        except (KeyError, UserError):  # which is said where the kind is read
            return raw
        return {**raw, "data": {"overlong": "error", **data}} if sampled and isinstance(data, Mapping) else raw
