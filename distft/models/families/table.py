"""The families of models by name, and which one each role is of. No torch here: plan and preflight read it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

FamilyName: TypeAlias = Literal["causal", "scalar"]


@dataclass(frozen=True)
class Entry:
    """``implementation``: the ``Family`` of that name, ``module:Class``; ``auto_class``: of transformers, which reads
    its files; ``scalar``: its head gives one number a token, not one for each token of the vocabulary.
    """

    name: FamilyName
    implementation: str
    auto_class: str
    scalar: bool = False


CAUSAL = Entry("causal", "distft.models.families.causal:Causal", "AutoModelForCausalLM")
SCALAR = Entry("scalar", "distft.models.families.scalar:Scalar", "AutoModelForSequenceClassification", scalar=True)
FAMILIES = {entry.name: entry for entry in (CAUSAL, SCALAR)}
_OF_ROLE = {"policy": CAUSAL, "reference": CAUSAL, "reward": SCALAR, "value": SCALAR}


def family_of(role: str) -> Entry:
    """The family of a role's model. Raises KeyError for what is no role."""
    return _OF_ROLE[role]
