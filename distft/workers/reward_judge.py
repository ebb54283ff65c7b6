"""A language model at an endpoint that judges a run's answers: their scores, and how far it can be believed.

Comparisons are pairwise, ratings single-answer grading (Zheng et al. 2023, arXiv 2306.05685, section 3.1). What it is
asked follows from the answers alone, in one order and at temperature 0: as far as the endpoint answers the same
question the same, a run that goes on is the undisturbed one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from distft.batches import Array
from distft.common.errors import UserError
from distft.config.recipe import Recipe
from distft.config.reward_servers import JudgeReward
from distft.config.roles import judge_compares
from distft.data.formats import Content
from distft.evaluation.chat_endpoint import ChatEndpoint
from distft.evaluation.judge import criterion_of, preferences, ratings
from distft.evaluation.verdicts import comparison, rating_of, rating_question, shares_of, verdict_of
from distft.rollout.json_server import token_of

_MUST = "a judge must follow instructions: it is asked to end with"
_ASKED = {True: ("comparisons", f"{_MUST} [[A]], [[B]] or [[tie]]"), False: ("ratings", f"{_MUST} a rating like [[3]]")}


@dataclass(frozen=True)
class _Within:
    """The endpoint as a ``Judge`` whose answers must be there in time."""

    endpoint: ChatEndpoint
    seconds: float

    @property
    def name(self) -> str:
        return self.endpoint.name

    def answers(self, questions: Sequence[str]) -> list[str | None]:
        return self.endpoint.answers_within(questions, self.seconds)


class RewardJudge:
    """The judge that a recipe names at ``key``."""

    def __init__(self, section: JudgeReward, key: str, recipe: Recipe) -> None:
        """Raises UserError where its token is not there."""
        self._section, self._compares = section, judge_compares(recipe, section)
        self._criterion = criterion_of(section.criterion, recipe)
        self._endpoint = ChatEndpoint(
            section.url, section.model, token=token_of(section, key), token_from=section.token_env,
            deadline_s=section.timeout, token_hint="does it want a token? Name it: token_env: ...", key=key,
            connections=section.connections, max_new_tokens=section.max_new_tokens,
        )  # fmt: skip
        self._judge = _Within(self._endpoint, section.deadline)

    def try_out(self, prompt: Content, answer: str) -> str | None:
        """Asks about the answer as in the run. A warning where no verdict can be read in what it says.

        Raises UserError, EnvironmentFallsShort where it cannot be asked."""
        if self._compares:
            said = self._endpoint.try_out(comparison(self._criterion, prompt, answer, ""), self._section.timeout)
            read = verdict_of(said) is not None
        else:
            said = self._endpoint.try_out(rating_question(self._criterion, prompt, answer), self._section.timeout)
            read = rating_of(said) is not None
        if read:
            return None
        what, must = _ASKED[self._compares]
        return f"{self._endpoint.name}: asked about one row for {what}, it ended with {said[-80:]!r}; {must}"

    def scores(
        self, prompts: Sequence[Content], answers: Sequence[str], samples_per_prompt: int
    ) -> tuple[Array, dict[str, float]]:
        """Of each answer, float32 ``[B]``, those to a prompt behind each other: its share of wins, or its rating.

        Beside them, shares: ``unread`` of the verdicts that cannot be read, and of comparisons ``ties``, by the judge
        or of equal answers, and ``by_order``, those where it preferred what stood first, or second, both times.

        Raises UserError where more is unreadable than may be, or it refuses; EnvironmentFallsShort where it does not
        answer in time.
        """
        if self._compares:
            return self._by_comparisons(prompts, answers, samples_per_prompt)
        found = ratings(self._judge, self._criterion, prompts, answers)
        unread = self._unread(sum(one is None for one in found), len(found))
        return _with_means(found, samples_per_prompt), {"unread": unread}

    def _by_comparisons(
        self, prompts: Sequence[Content], answers: Sequence[str], samples_per_prompt: int
    ) -> tuple[Array, dict[str, float]]:
        pairs = [
            (start + a, start + b)
            for start in range(0, len(answers), samples_per_prompt)
            for a, b in combinations(range(samples_per_prompt), 2)
        ]
        firsts, seconds = ([answers[pair[side]] for pair in pairs] for side in (0, 1))
        found = preferences(self._judge, self._criterion, [prompts[pair[0]] for pair in pairs], firsts, seconds)
        unread = self._unread(sum(one.second is None for one in found), len(found))
        each = math.comb(samples_per_prompt, 2)
        groups = [found[start : start + each] for start in range(0, len(found), each)]
        scores = [share for group in groups for share in shares_of(group, samples_per_prompt)]
        return np.array(scores, np.float32), {
            "unread": unread,
            "ties": sum(one.second == 0.5 for one in found) / len(found),
            "by_order": sum(one.by_order for one in found) / len(found),
        }

    def _unread(self, number: int, of: int) -> float:
        """Their share. Raises UserError where that is too large."""
        share, most = number / of, self._section.max_unread
        if share > most:
            what, must = _ASKED[self._compares]
            said = f"{number} of {of} {what} have no verdict that can be read: above max_unread ({most:g})"
            raise UserError(said, where=self._endpoint.name, hint=must)
        return share


def _with_means(found: Sequence[int | None], samples_per_prompt: int) -> Array:
    """Ratings, float32; in place of one that is missing the mean of the others to its prompt, else of all."""
    scores = np.array([math.nan if one is None else one for one in found], np.float64)
    rows = scores.reshape(-1, samples_per_prompt)
    there = ~np.isnan(rows)
    counts = there.sum(1, keepdims=True)
    of_prompt = np.where(there, rows, 0).sum(1, keepdims=True) / np.maximum(counts, 1)
    means = np.where(counts > 0, of_prompt, rows[there].mean())
    return np.where(there, rows, means).reshape(-1).astype(np.float32)
