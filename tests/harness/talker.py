"""An environment for tests: it answers whatever is said, at once or a turn later, by nothing but what was said."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tests.harness.judge import Answer


class Talker:
    """Repeats the beginning of what it hears with how much it has heard, rewards letters, ends after one turn in
    five; at the turn ``broken_at`` it raises."""

    def __init__(self, broken_at: int = 0) -> None:
        self._broken_at = broken_at

    def reset(self, row: Mapping[str, Any]) -> None:
        """A fresh one a sample: it remembers all that it was told."""
        self._heard = [str(row["prompt"])]

    def step(self, text: str) -> tuple[str | None, float, bool]:
        """See the class."""
        self._heard.append(text)
        if len(self._heard) - 1 == self._broken_at:
            raise KeyError("broken")
        total = sum(map(ord, "".join(self._heard)))
        done = total % 5 == 0
        return (None if done else f"{total % 97} {text[:3]}"), sum(one.isalpha() for one in text) / 8, done


def answer(body: dict[str, Any]) -> Answer:
    """The same as a server: from a request's row and turns alone."""
    talker = Talker(**body["arguments"])
    talker.reset(body["row"])
    observation, reward, done = [talker.step(text) for text in body["turns"]][-1]
    return 200, json.dumps({"observation": observation, "reward": reward, "done": done}).encode(), {}
