"""The loop of everything that learns from given rows: SFT, reward models, DPO and its kin.

for step in progress.steps():
    experience = take -> (dpo: with the reference's log-probs)
    report     = update(trained group, experience)
    log, checkpoint, evaluate
"""

from __future__ import annotations

import math

from distft.config.algorithms import Dpo
from distft.config.roles import main_role
from distft.controller.evaluating import evaluate_if_due
from distft.controller.invariants import check_first_loss, check_reference
from distft.controller.session import Session
from distft.experience.losses import loss_parameters
from distft.experience.passes import Samples, UpdateSpec, Work, evaluate_pass, forward_pass, update_pass
from distft.experience.preference import with_reference


def train_supervised(session: Session) -> None:
    """Runs to the last step, from wherever the progress stands."""
    recipe, progress = session.recipe, session.progress
    group = session.groups[main_role(recipe)]
    kind, cap = recipe.algorithm.kind, recipe.train.max_tokens_per_rank
    parameters = loss_parameters(recipe.algorithm, kind)
    for step in progress.steps():
        with session.timer.phase("data"):
            samples = session.take("train", progress.position, recipe.train.global_batch_size)
        samples = prepared(session, samples)
        if step == 1:
            check_invariants(session, samples)
        work = Work()
        spec = UpdateSpec(kind, parameters, progress.optimizer_steps, progress.total_steps)
        with session.timer.phase("update"):
            session.tracker.phase("update")
            everything = [list(range(len(samples.lengths)))]
            report = update_pass(group, samples, everything, spec, cap, work).result().report
        progress.finish(units=recipe.train.global_batch_size, num_tokens=samples.num_tokens, optimizer_steps=1)
        metrics = dict(report["steps"][0])
        metrics.pop("seconds")
        session.log_step({**metrics, **work.metrics(), "memory/rss_bytes": report["rss_bytes"]}, samples.num_tokens)
        evaluate_if_due(session)
        session.checkpoint_if_due()


def prepared(session: Session, samples: Samples) -> Samples:
    """Rows with whatever the algorithm's loss needs beside the tokens."""
    if session.recipe.algorithm.kind != "dpo":
        return samples
    with session.timer.phase("reference"):
        session.tracker.phase("reference log-probs")
        return with_reference(samples, session.groups["reference"], session.recipe.train.max_tokens_per_rank)


def check_invariants(session: Session, samples: Samples) -> None:
    """Before the first update of DPO: policy = reference, and so the loss is ln 2."""
    recipe = session.recipe
    if not isinstance(recipe.algorithm, Dpo):
        return
    with session.timer.phase("invariants"):
        cap, policy = recipe.train.max_tokens_per_rank, session.groups["policy"]
        found = forward_pass(policy, samples, "logprobs", cap).result()
        assert found.data is not None
        compare = session.data.call("largest_difference", "logprobs", "ref_logprobs", data=[*samples.data, found.data])
        difference = compare.result().report
        check_reference(recipe, difference)
        reference = recipe.models.reference
        if (
            recipe.algorithm.loss == "sigmoid"
            and not recipe.algorithm.rpo_alpha
            and not (reference and reference.differs)
        ):
            loss = evaluate_pass(policy, samples, "dpo", loss_parameters(recipe.algorithm, "dpo"), cap).result().report
            longest = max(samples.lengths)
            check_first_loss("DPO", loss["loss"], math.log(2), recipe.algorithm.beta * difference * longest + 1e-5)
        session.tracker.event("invariants", reference_difference=difference)
