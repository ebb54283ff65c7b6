"""What methods have in common that learn the tokens of given answers: which of them."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

from distft.config.method import LossOn, Method, Run
from distft.config.problem import Problem


class GivenAnswers(Method):
    """The base of those methods."""

    loss_on: LossOn | None = Field(
        default=None,
        description="tokens that are learned; null: completion for prompt+completion, assistant for messages, "
        "all for plain text",
    )

    def rules(self, run: Run) -> Iterator[Problem]:
        """Plain text has no part that could be learned alone."""
        if self.loss_on not in ("completion", "assistant"):
            return
        for index, source in enumerate(run.data.train):
            if source.format == "text":
                yield Problem.at(
                    "algorithm.loss_on", f"data.train.{index} is plain text: it has no {self.loss_on}", "all"
                )

    def learned_tokens(self) -> LossOn | None:
        """``loss_on``."""
        return self.loss_on
