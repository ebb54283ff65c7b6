"""The roles that a model can have, and what follows from each. A new role is a line here, its section of ``models`` and
its place in ``placement``; a method says which roles it takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, get_args

Role: TypeAlias = Literal["policy", "reference", "teacher", "reward", "value"]
ROLES: Final[tuple[Role, ...]] = get_args(Role)


@dataclass(frozen=True)
class RoleFacts:
    """``scalar``: it says one number of a token, not how likely each token of the vocabulary is.

    ``inherits``: it may be left out, and then begins as another role does (see ``roles.model_of``).
    ``same_tokens``: why the policy's tokenizer must be its own, and what helps where it is not; "": it need not be.
    """

    scalar: bool = False
    inherits: bool = False
    same_tokens: str = ""


ROLE_FACTS: Final[Mapping[str, RoleFacts]] = {
    "policy": RoleFacts(),
    "reference": RoleFacts(
        inherits=True,
        same_tokens="the reference must share the policy's tokenizer; by default it is the policy's start",
    ),
    "teacher": RoleFacts(
        same_tokens="a teacher tells how likely each of its tokens is, so they must be the policy's: take teacher and "
        "policy of one family of models, or let the teacher write answers (distft generate) and train on them with sft",
    ),
    "reward": RoleFacts(scalar=True),
    "value": RoleFacts(
        scalar=True,
        inherits=True,
        same_tokens="the value model must share the policy's tokenizer; without a start of its own it begins as the "
        "reward model where that one's is the policy's, else as the policy",
    ),
}
# Roles that read the policy's tokens.
SAME_TOKENS: Final[tuple[Role, ...]] = tuple(role for role in ROLES if ROLE_FACTS[role].same_tokens)
# Roles that may be left out.
INHERITING: Final[tuple[Role, ...]] = tuple(role for role in ROLES if ROLE_FACTS[role].inherits)
# Further reward models are roles too, called as their keys in ``models`` and ``placement``: rewards.<name>.
FURTHER: Final = "rewards."


def facts_of(role: str) -> RoleFacts:
    """What follows from a role. Raises KeyError for what is none."""
    return ROLE_FACTS["reward" if role.startswith(FURTHER) else role]


def gives_scores(role: str) -> bool:
    """Whether the role's model gives scores: the reward model, or a further one."""
    return role == "reward" or role.startswith(FURTHER)


def score_column(role: str) -> str:
    """The column of what a reward model says."""
    return "score" if role == "reward" else f"score/{role.removeprefix(FURTHER)}"
