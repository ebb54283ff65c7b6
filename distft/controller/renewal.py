"""A frozen reference that follows the policy."""

from __future__ import annotations

from distft.controller.session import Session


def is_renewed(session: Session, step: int) -> bool:
    """Whether the reference follows the policy behind this step."""
    renewal = session.recipe.algorithm.renewal()
    return renewal is not None and "reference" in session.groups and step % renewal.every == 0


def renew_reference(session: Session) -> None:
    """The reference's weights become a share of the policy's and the rest of its own (Gorbatovski et al. 2024). Through
    files, so that the two groups need not be awake together nor have the same shards."""
    renewal = session.recipe.algorithm.renewal()
    assert renewal is not None
    with session.phase("renewal", said="the reference follows the policy"), session.passing_folder() as folder:
        session.groups["policy"].write_weights(str(folder)).result()
        session.groups["reference"].take_weights(str(folder), renewal.share).result()
