"""What the methods that sample for themselves have in common: keys, phases, rules."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pydantic import Field

from distft.config.method import Method, Phase, Run, Work
from distft.config.problem import Problem
from distft.config.training import Role


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
    target_kl: float | None = Field(
        default=None, gt=0, description="an iteration's epochs end early above this policy change, in nats; null: never"
    )

    def rules(self, run: Run) -> Iterator[Problem]:
        """Steps that there are no samples for, and a limit that nothing can reach."""
        samples = run.train.global_batch_size * run.rollout.samples_per_prompt
        if self.minibatches > samples:
            yield Problem.at(
                "algorithm.minibatches",
                f"{self.minibatches} of them cannot be made of {samples} samples",
                f"at most {samples} (train.global_batch_size x rollout.samples_per_prompt)",
            )
        if self.target_kl is not None and self.epochs * self.minibatches == 1:
            yield Problem.at(
                "algorithm.target_kl",
                "has no effect with one optimizer step an iteration",
                "raise epochs or minibatches, or remove it",
            )

    def optimizer_steps(self) -> tuple[int, int]:
        """``epochs`` and ``minibatches``."""
        return self.epochs, self.minibatches

    def stops_at_kl(self, role: Role) -> float | None:
        """The policy at ``target_kl``."""
        return self.target_kl if role == "policy" else None


def grouped(run: Run) -> Iterator[Problem]:
    """The rule of the methods that compare the answers to one prompt."""
    if run.rollout.samples_per_prompt < 2:
        yield Problem.at(
            "rollout.samples_per_prompt",
            "is 1: an answer is compared with the other answers to its prompt",
            "at least 2; 8 is usual",
        )
