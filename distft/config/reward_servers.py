"""Servers that give scores: what they are asked, and how long that may take."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from distft.config.http_server import MOST_CONNECTIONS, HttpServer


class RewardServer(HttpServer):
    """What all of them have."""

    name: str = Field(pattern=r"^[A-Za-z_][\w\-]*$", description="what its scores are logged as: rewards/<name>")
    weight: float = Field(default=1.0, description="weight of its scores")
    deadline: float = Field(
        default=240.0, gt=0, le=86400,
        description="seconds in which all scores of an iteration, or of an evaluation, must be there, what is asked "
        "again included; then the run ends",
    )  # fmt: skip


class HttpReward(RewardServer):
    """Scores asked of a server: see ``distft.rollout.http_rewards``."""

    batch_size: int = Field(default=64, ge=1, description="completions in a request")


class JudgeReward(RewardServer):
    """A language model at an OpenAI-compatible endpoint that judges answers: see ``distft.workers.reward_judge``."""

    url: str = Field(default="", description="the endpoint, such as http://127.0.0.1:8000/v1")
    model: str = Field(min_length=1, description="what the endpoint calls the model")
    criterion: str | None = Field(
        default=None, min_length=1, description="by what it judges, in words; null: evaluation.criterion"
    )
    asks: Literal["comparisons", "ratings"] | None = Field(
        default=None,
        description="comparisons: of every two answers to a prompt, in both orders; an answer's score is its share of "
        "wins, 0 to 1. ratings: of each answer alone, 1 to 5. null: comparisons where the method makes pairs of its "
        "own answers, else ratings",
    )
    max_new_tokens: int = Field(default=512, ge=1, description="tokens that it may write in an answer")
    max_unread: float = Field(
        default=0.1, ge=0, lt=1,
        description="share of an iteration's verdicts that may be unreadable; above it the run ends. Up to it a "
        "comparison counts for neither answer, and an answer without a rating gets the mean of the others' to its "
        "prompt, or of all",
    )  # fmt: skip
    connections: int = Field(default=8, ge=1, le=MOST_CONNECTIONS, description="questions under way at once")
