"""Those that a run asks about its samples, asked about one row before it: what would fail is known beforehand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from distft.common.logging import stage
from distft.data.formats import Example, prompt_of
from distft.data.wanted import wanted_answer
from distft.workers.episodes import Episodes
from distft.workers.reward_functions import TextReward

_NO_ANSWER: Final = "I do not know."  # of a row that has none


def tried_out(row: Example, rewards: Sequence[TextReward], episodes: Episodes | None) -> Iterator[str]:
    """What judges say of the row's answer, as far as it is a warning; an environment is reset, and hears that answer.

    Raises what they raise in a run.
    """
    answer = wanted_answer(row) or _NO_ANSWER
    for reward in rewards:
        if reward.try_out is not None:
            stage(f"asking {reward.name} about a row")
            warning = reward.try_out(prompt_of(row), answer)
            yield from (warning,) if warning else ()
    if episodes is not None:
        stage("asking the environment about a row")
        episodes.try_out(row, answer)
