"""An iteration's responses: one round of sampling, or as many as it takes to fill the batch with what teaches.

Dynamic sampling (Yu et al. 2025): where the answers to a prompt are all right or all wrong, comparing them teaches
nothing. Such prompts are left out, and others are sampled in their place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from distft.clients.samples import Samples
from distft.controller.ahead import Begun, Round, begin_round
from distft.controller.session import Session
from distft.experience.turns import responses
from distft.groups.handles import DataRef


@dataclass(frozen=True)
class Collected:
    """``rollout``: the answers to the prompts from position ``start``, still to be scored; None: to prompts of
    anywhere, with their scores. ``end``: the position behind all prompts that were asked."""

    rollout: Samples
    start: int | None
    end: int
    metrics: dict[str, float]


def collect(session: Session, step: int) -> Collected:
    """The responses of an iteration. Where the method leaves prompts out, a batch that its refills did not fill is
    smaller; one that nothing could be found for is the last round's, as it is."""
    refills = session.recipe.algorithm.refills()
    first = sample(session, step, session.progress.position, 0)
    if refills is None:
        return Collected(first.rollout, first.start, first.end, metrics_of([first], step))
    per_prompt, wanted = session.recipe.rollout.samples_per_prompt, len(first.rollout.lengths)
    rounds, kept, means = [first], list[Samples](), list[dict[str, float]]()
    while True:
        last, num_kept = rounds[-1], sum(len(one.lengths) for one in kept)
        found, scores = session.sampler.scores(last.rollout, "train", last.start)
        means.append(found)
        room = (wanted - num_kept) // per_prompt
        chosen = session.sampler.data.informative(room, num_kept, [*last.rollout.data, *scores]).result()
        kept += [chosen] if chosen.lengths else []
        num_kept += len(chosen.lengths)
        if num_kept == wanted or len(rounds) > refills:
            break
        rounds.append(sample(session, step, last.end, len(rounds)))
    metrics = metrics_of(rounds, step) | {name: sum(one[name] for one in means) / len(means) for name in means[0]}
    metrics |= {"rollout/refills": float(len(rounds) - 1), "rollout/filled": num_kept / wanted}
    return Collected(joined(kept) if kept else last.rollout.with_data(*scores), None, last.end, metrics)


def sample(session: Session, step: int, position: int, number: int) -> Round:
    """A round: the answers to the prompts that come next at a position. The first one may have been sampled already."""
    if number == 0 and session.ahead is not None:
        found, session.ahead = session.ahead, None
        return found
    start, count = session.visits.take(position)
    prompts = session.sampler.prompts("train", start, count)
    session.saw(step, prompts, start, count)
    return Round(prompts, responses(session.sampler, prompts, "train", start, step, number), start, start + count)


def begin_next(session: Session, step: int, position: int) -> Begun | None:
    """Begins the first round of the iteration after ``step``, where generation runs ahead and there is one."""
    if not session.recipe.rollout.overlap or step == session.progress.total_steps:
        return None
    return begin_round(session.sampler, step + 1, *session.visits.take(position))


def metrics_of(rounds: Sequence[Round], step: int) -> dict[str, float]:
    """Of all responses, kept or not."""
    tokens = sum(one.num_tokens for one in rounds)
    return {
        "rollout/tokens_per_second": tokens / sum(one.made.seconds for one in rounds),
        "rollout/staleness": float(step - 1 - rounds[0].made.version),
        "rollout/response_length": tokens / sum(len(one.rollout.lengths) for one in rounds),
        **{name: sum(one.made.metrics[name] for one in rounds) / len(rounds) for name in rounds[0].made.metrics},
    }


def joined(parts: Sequence[Samples]) -> Samples:
    """Samples that are numbered on from part to part, each with one set of columns."""
    return Samples(
        (DataRef(tuple(part for samples in parts for part in samples.data[0].parts)),),
        tuple(length for samples in parts for length in samples.lengths),
        tuple(unit for samples in parts for unit in samples.units),
        tuple(answer for samples in parts for answer in samples.answers),
    )
