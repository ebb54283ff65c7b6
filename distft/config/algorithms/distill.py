"""Knowledge distillation from a teacher that shares the tokenizer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field

from distft.config.data import ANSWERED, PAIRED, TURNS
from distft.config.given_answers import GivenAnswers
from distft.config.method import SEQUENCES, NamedLoss, Phase, Run, Telling, Traits, Work
from distft.config.problem import Problem


class Distill(GivenAnswers):
    """Distillation (Hinton et al. 2015): the policy learns its teacher's distribution over every next token of given
    answers, by a forward or reverse KL divergence or a generalized Jensen-Shannon divergence; or of its own answers
    (``on_policy``; Agarwal et al. 2024, GKD, algorithm 1)."""

    # The teacher is frozen: it reads the next rows while the policy learns from these; the policy's own answers are
    # waited for.
    traits: ClassVar[Traits] = Traits(
        roles=("policy", "teacher"),
        trained=("policy",),
        unit=SEQUENCES,
        formats=(*TURNS, *ANSWERED, *PAIRED, "text"),
        losses={"policy": NamedLoss("distft.algorithms.losses.distill:Distill", ("divergence", "beta", "temperature"))},
        phases=(Phase("update", (Work("policy", "update"), Work("teacher", "forward", ahead=True))),),
        dropout=True,
    )

    kind: Literal["distill"] = Field(description="learning a teacher's distributions over the next token")
    divergence: Literal["forward", "reverse", "js"] = Field(
        default="forward",
        description="forward: KL of teacher to student, covers all that the teacher does; reverse: KL of student to "
        "teacher, keeps to what it does most; js: between the two, see beta",
    )
    beta: float = Field(
        default=0.5, gt=0, lt=1, description="js: the teacher's share of the mixture; towards 0 forward, 1 reverse"
    )
    temperature: float = Field(default=1.0, gt=0, le=100, description="divides the logits of both")
    top_k: int | None = Field(
        default=64,
        ge=1,
        description="likeliest tokens of the teacher that are told one by one, all others as one; null: every token of "
        "the vocabulary, 4 bytes each and token of text (see the plan)",
    )
    on_policy: float = Field(
        default=0.0, ge=0, le=1,
        description="share of steps whose prompts the policy answers itself, sampled as rollout says; the teacher "
        "judges those answers in place of the rows' (GKD's lambda)",
    )  # fmt: skip

    def rules(self, run: Run) -> Iterator[Problem]:
        """Keys without effect, and answers that there is no prompt or no room for."""
        yield from super().rules(run)
        if self.on_policy > 0:
            yield from self._of_own_answers(run)
        if self.divergence != "js" and self.beta != type(self).model_fields["beta"].default:
            yield Problem.at(
                "algorithm.beta", f"has no effect on the divergence {self.divergence}", "divergence: js, or remove it"
            )

    def _of_own_answers(self, run: Run) -> Iterator[Problem]:
        texts = [index for index, source in enumerate(run.data.train) if source.format == "text"]
        if texts:
            what = f"data.train.{texts[0]} is plain text: it asks nothing that the policy could answer"
            yield Problem.at("algorithm.on_policy", what, "0, or rows with prompts")
        if self.loss_on == "all":
            what = "all: of the policy's own answers no other tokens are learned than those"
            yield Problem.at("algorithm.loss_on", what, "remove it, or on_policy: 0")
        if run.rollout.max_new_tokens >= run.data.max_length:
            yield Problem.at(
                "rollout.max_new_tokens",
                f"{run.rollout.max_new_tokens} leaves no room for a prompt in data.max_length {run.data.max_length}",
                f"less than {run.data.max_length}",
            )
        if run.rollout.samples_per_prompt > 1:
            yield Problem.at("rollout.samples_per_prompt", "has no effect: a prompt is answered once", "1")

    def on_policy_share(self) -> float:
        """``on_policy``."""
        return self.on_policy

    def telling(self) -> Telling:
        """``top_k`` and ``temperature``."""
        return Telling(self.top_k, self.temperature)
