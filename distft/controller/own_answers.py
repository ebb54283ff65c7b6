"""Steps of a method that learns from given answers in which the policy's own stand in their place (GKD, Agarwal et al.
2024, algorithm 1): which steps those are follows from seed and number, and their answers from the policy as the step
before left it, so that a resumed run has the same."""

from __future__ import annotations

import logging

from distft.clients.samples import Samples
from distft.common.seeding import derive
from distft.controller.session import Session
from distft.experience.rollouts import answered

log = logging.getLogger(__name__)


def is_on_policy(session: Session, step: int) -> bool:
    """Whether the policy answers the prompts of this step itself."""
    share = session.recipe.algorithm.on_policy_share()
    return derive(session.recipe.seed, "on policy", step) < share * 2**63


def own_answers(session: Session, step: int, start: int, count: int) -> Samples | None:
    """The policy's answers to the prompts of ``count`` rows from position ``start``; None where no row has
    a prompt that leaves room for one."""
    with session.phase("rollout"):
        prompts = session.data.own_prompts(start, count).result()
        if not prompts.lengths:
            log.warning("step %d: no row has a prompt with room for an answer: the rows' own answers are learned", step)
            return None
        session.weights.sync(step - 1)
        return answered(prompts, session.sampler.generate(prompts, step).result())
