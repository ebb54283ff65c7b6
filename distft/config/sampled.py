"""What the methods that sample for themselves have in common: keys, phases, rules."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from pydantic import Field

from distft.config.method import Method, Phase, Run, Work
from distft.config.problem import Problem
from distft.config.role_table import Role


def sampled_phases(roles: Sequence[Role], trained: Sequence[Role]) -> tuple[Phase, ...]:
    """Generate; everyone reads; the trained learn; the generator gets the new weights."""
    return (
        Phase("generation", (Work("policy", "generate"),)),
        Phase("experience", tuple(Work(role, "forward") for role in roles)),
        Phase("update", tuple(Work(role, "update") for role in trained)),
        Phase("weight sync", (Work("policy", "sync weights"),)),
    )


class Sampled(Method):
    """The base of every method that learns from its own responses."""

    epochs: int = Field(default=1, ge=1, le=100, description="passes over an iteration's experience")
    minibatches: int = Field(default=1, ge=1, description="optimizer steps per pass over an iteration's experience")
    missing_eos_penalty: float | None = Field(
        default=None, ge=0, description="taken from the score of a response cut at the limit; null: nothing"
    )

    def rules(self, run: Run) -> Iterator[Problem]:
        """Steps that there are no samples for, old samples taken for new ones."""
        prompts, unit = run.train.global_batch_size, self.unit_rows()
        units = self.learned_samples(prompts, run.rollout.samples_per_prompt) // unit
        if self.minibatches > units:
            yield Problem.at(
                "algorithm.minibatches",
                f"{self.minibatches} of them cannot be made of {units} {'samples' if unit == 1 else 'pairs'}",
                f"at most {units} (an iteration's, of train.global_batch_size and rollout.samples_per_prompt)",
            )
        if run.rollout.overlap and "importance_cap" not in type(self).model_fields:
            yield Problem.at(
                "rollout.overlap",
                f"is 1: {self.name} has no correction for samples that are older than the policy",
                "rollout.overlap: 0, or a method that has importance_cap",
            )
        elif run.rollout.overlap and getattr(self, "importance_cap", None) is None:
            yield Problem.at(
                "algorithm.importance_cap",
                "is null, and with rollout.overlap: 1 samples are older than the policy: their tokens must weigh what "
                "the policy makes of them",
                "algorithm.importance_cap: 2.0",
            )

    def optimizer_steps(self) -> tuple[int, int]:
        """``epochs`` and ``minibatches``."""
        return self.epochs, self.minibatches


class StopsAtKl(Sampled):
    """Of those whose loss is of the ratio of the policy to before: how far it may move in an iteration."""

    target_kl: float | None = Field(
        default=None, gt=0, description="an iteration's epochs end early above this policy change, in nats; null: never"
    )

    def rules(self, run: Run) -> Iterator[Problem]:
        """A limit that nothing can reach."""
        yield from super().rules(run)
        if self.target_kl is not None and self.epochs * self.minibatches == 1:
            yield Problem.at(
                "algorithm.target_kl",
                "has no effect with one optimizer step an iteration",
                "raise epochs or minibatches, or remove it",
            )

    def stops_at_kl(self, role: Role) -> float | None:
        """The policy at ``target_kl``."""
        return self.target_kl if role == "policy" else None


class Rewarded(Sampled):
    """The base of the methods without a value model: a response is worth its score."""

    overlong_after: int | None = Field(
        default=None, ge=1, description="tokens above which a response loses points; null: long ones lose nothing"
    )
    overlong_buffer: int | None = Field(
        default=None, ge=1, description="tokens above overlong_after in which the loss grows to one point, evenly"
    )

    def rules(self, run: Run) -> Iterator[Problem]:
        """The two keys of long responses go together, and there are responses so long."""
        yield from super().rules(run)
        after, buffer, longest = self.overlong_after, self.overlong_buffer, run.rollout.max_new_tokens
        if (after is None) != (buffer is None):
            missing = "overlong_after" if after is None else "overlong_buffer"
            yield Problem.at(
                f"algorithm.{missing}", "is missing: overlong_after and overlong_buffer go together",
                f"a number of tokens; the two are {longest} at most together (rollout.max_new_tokens)",
            )  # fmt: skip
        elif after is not None and buffer is not None and after + buffer > longest:
            yield Problem.at(
                "algorithm.overlong_after",
                f"{after} and overlong_buffer {buffer} are more than a response may have: {longest} tokens",
                f"{max(1, longest - buffer)}, or raise rollout.max_new_tokens",
            )


class Grouped(Rewarded):
    """The base of those that compare the answers to one prompt."""

    group_filter: Literal["none", "equal_scores"] = Field(
        default="none",
        description="prompts that are left out of a batch: none, or those whose answers are equal in score, which "
        "teach nothing",
    )
    max_refills: int = Field(
        default=0, ge=0, le=100,
        description="times at most that an iteration samples anew to fill the places of what group_filter left out; "
        "0: its batch is smaller",
    )  # fmt: skip

    def refills(self) -> int | None:
        """``max_refills``, where prompts are left out."""
        return None if self.group_filter == "none" else self.max_refills

    def rules(self, run: Run) -> Iterator[Problem]:
        """A group has several answers; how many prompts an iteration takes is not known beforehand."""
        yield from super().rules(run)
        if self.group_filter == "none" and self.max_refills != type(self).model_fields["max_refills"].default:
            yield Problem.at(
                "algorithm.max_refills",
                "has no effect: no prompt is left out",
                "algorithm.group_filter: equal_scores, or remove it",
            )
        elif self.refills() and run.train.steps is None:
            yield Problem.at(
                "train.epochs",
                f"cannot be counted: algorithm.max_refills {self.max_refills} takes as many prompts as a batch needs",
                "train.steps in its place, or algorithm.max_refills: 0",
            )
        if run.rollout.samples_per_prompt < 2:
            yield Problem.at(
                "rollout.samples_per_prompt",
                "is 1: an answer is compared with the other answers to its prompt",
                "at least 2; 8 is usual",
            )


class ClippedGroups(StopsAtKl, Grouped):
    """The base of those that learn from advantages within a group by the loss of
    ``distft.algorithms.losses.clipped``: what is theirs alone are defaults, and what of the loss is fixed."""

    scale_rewards: bool = Field(default=True, description="advantages over the deviation of their group")
    average: Literal["sequences", "tokens", "constant"] = Field(
        default="sequences",
        description="what the loss is averaged over: the tokens of each response, then responses; all tokens; "
        "or the same constant_length of every response",
    )
    constant_length: int | None = Field(default=None, ge=1, description="see average: constant; null: not that")
    clip_high: float | None = Field(
        default=None, gt=0, description="upper clip of the ratio; null: the same as clip_low"
    )
    entropy_coef: float = Field(default=0.0, ge=0, le=10, description="weight of the entropy bonus")
    importance_cap: float | None = Field(
        default=None, ge=1,
        description="tokens weigh min(trainer's probability / generator's, this), which corrects for a generator that "
        "computes a little differently (2 is usual); null: not corrected",
    )  # fmt: skip

    def rules(self, run: Run) -> Iterator[Problem]:
        """The constant is there where it is divided by, and only there."""
        yield from super().rules(run)
        if self.average == "constant" and self.constant_length is None:
            yield Problem.at(
                "algorithm.constant_length",
                "is missing: average: constant divides by it",
                f"{run.rollout.max_new_tokens}, as rollout.max_new_tokens",
            )
        if self.average != "constant" and self.constant_length is not None:
            yield Problem.at(
                "algorithm.constant_length", f"has no effect with average: {self.average}", "average: constant"
            )
