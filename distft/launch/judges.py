"""A judge as it is named: a model that is loaded here, or an OpenAI-compatible endpoint."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from distft.common.errors import UserError
from distft.config.training import Rollout
from distft.evaluation.chat_endpoint import MAX_NEW_TOKENS, ChatEndpoint
from distft.evaluation.judge import Judge
from distft.launch.named_models import Reading, find_model, require_speakers
from distft.launch.speakers import Loaded, open_speakers
from distft.rollout.json_server import token_in
from distft.rollout.speaker import Question

DEADLINE_S: Final = 300.0


@dataclass(frozen=True)
class JudgeNamed:
    """``name``: a model as it is typed, or the URL of an endpoint, where it is called ``model``; ``token_env``: the
    environment variable with its token; ``deadline_s``: of a question to it; ``criterion``: where the recipe's is not
    meant."""

    name: str
    model: str | None = None
    token_env: str | None = None
    deadline_s: float | None = None
    criterion: str | None = None

    @property
    def is_url(self) -> bool:
        """Whether it is an endpoint."""
        return self.name.startswith(("http://", "https://"))


def require_judge(named: JudgeNamed) -> None:
    """That judge can be asked, as far as it is known before anything is loaded: an endpoint has answered, a model is
    there. Raises UserError, EnvironmentFallsShort."""
    if named.is_url:
        _endpoint(named).try_out()
        return
    for option, value in (
        ("--judge-model", named.model), ("--judge-key", named.token_env), ("--judge-deadline", named.deadline_s)
    ):  # fmt: skip
        if value is not None:
            hint = "an endpoint's --judge is a URL, such as http://127.0.0.1:8000/v1"
            raise UserError(f"is of an endpoint, and {named.name} is none", where=f"{option} {value}", hint=hint)
    with tempfile.TemporaryDirectory(prefix="distft-models-") as folder:
        require_speakers([find_model(named.name, Path(folder))])


def open_judge(named: JudgeNamed, *, trust_remote_code: bool = False) -> Judge:
    """The judge, ready to be asked. Raises as ``require_judge``, and what loading a model can raise."""
    if named.is_url:
        endpoint = _endpoint(named)
        endpoint.try_out()
        return endpoint
    wanted = [f"max_new_tokens={MAX_NEW_TOKENS}", "samples_per_prompt=1", "min_new_tokens=0"]
    with open_speakers([named.name], Reading(trust_remote_code=trust_remote_code), wanted, plain=None) as opened:
        [model], settings = opened
        return SpeakingJudge(model, settings)


class SpeakingJudge:
    """A model of this process. It takes the likeliest token each time; a question too long for it has no answer."""

    def __init__(self, model: Loaded, settings: Rollout) -> None:
        self.name, self._model, self._settings = model.speaker.name, model, settings

    def answers(self, questions: Sequence[str]) -> list[str | None]:
        """See ``Judge``."""
        asked = [Question(self._model.prompt(text, None), number) for number, text in enumerate(questions)]
        fit = [question for question in asked if self._has_room(question)]
        answers = self._model.speaker.answers(fit, self._settings, 1, greedy=True)
        said = {question.number: answer.text for question, answer in zip(fit, answers, strict=True)}
        return [said.get(question.number) for question in asked]

    def _has_room(self, question: Question) -> bool:
        try:
            self._model.speaker.require_room(question, self._settings)
        except UserError:
            return False
        return True


def _endpoint(named: JudgeNamed) -> ChatEndpoint:
    if named.model is None:
        hint = "--judge-model NAME: what the endpoint calls it"
        raise UserError("which of the endpoint's models judges is not said", where=f"--judge {named.name}", hint=hint)
    token = None
    if named.token_env is not None:
        token = token_in(named.token_env, f"--judge-key {named.token_env}", f"export {named.token_env}=...")
    return ChatEndpoint(
        named.name, named.model, token=token, token_from=named.token_env,
        deadline_s=DEADLINE_S if named.deadline_s is None else named.deadline_s,
        token_hint="does it want a token? --judge-key VARIABLE names the environment variable that holds it",
    )  # fmt: skip
