"""What gives scores: functions, servers and a finished model go together, and are told apart."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence

from distft.common.errors import nearest
from distft.config import roles as facts
from distft.config.http_rules import server_rules
from distft.config.models import RewardModel, ScoringModel
from distft.config.problem import Problem
from distft.config.recipe import Recipe
from distft.config.reward_servers import JudgeReward

ASKING = 0.9  # of a call's shortest deadline, at most, for servers; the rest is for functions and the way back


def reward_rules(recipe: Recipe) -> Iterator[Problem]:
    """The rules of ``models.reward``."""
    reward = recipe.models.reward
    if reward is None or "reward" not in facts.known_roles(recipe):
        return
    yield from _functions(reward, tuple(recipe.models.rewards))
    for key, server in reward.servers.items():
        yield from _judge(recipe, key, server) if isinstance(server, JudgeReward) else server_rules(server, key)
    yield from _time_to_ask(reward, recipe.recovery.deadline_floor_s)
    if "reward" in facts.trained_roles(recipe):
        yield from _trained(reward)
        return
    yield from _finished(reward, "models.reward", alone=not (reward.texts_are_scored or recipe.models.rewards))
    for name, further in recipe.models.rewards.items():
        yield from _finished(further, f"models.rewards.{name}", alone=False)


def _functions(reward: RewardModel, further: Sequence[str]) -> Iterator[Problem]:
    for function in reward.functions:
        if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", function):
            yield Problem.at(
                "models.reward.functions",
                f"{function} is not module:function",
                "for example my_rewards:brevity, or distft.rollout.rewards:last_number",
            )
    if len(set(reward.functions)) < len(reward.functions):
        yield Problem.at("models.reward.functions", "names a function twice", "give it a larger weight instead")
    else:
        yield from _told_apart(reward, further)
    names = [name.rpartition(":")[2] for name in reward.functions]
    for name in reward.arguments.keys() - set(names):
        close = nearest(name, names)
        yield Problem.at(
            f"models.reward.arguments.{name}",
            "no such function is named in models.reward.functions",
            f"did you mean {close}?" if close else f"named there: {', '.join(names) or 'none'}",
        )
    if reward.weights is not None and len(reward.weights) != len(reward.functions):
        yield Problem.at(
            "models.reward.weights",
            f"has {len(reward.weights)} numbers for {len(reward.functions)} functions",
            "one number per function",
        )


def _judge(recipe: Recipe, at: str, judge: JudgeReward) -> Iterator[Problem]:
    if not judge.url.startswith(("http://", "https://")):
        yield Problem.at(
            f"{at}.url",
            "names no endpoint: within a run a judge is asked at one, for loaded here it would need GPUs of its own",
            f"vllm serve {judge.model} --port 8000, and url: http://127.0.0.1:8000/v1",
        )
    else:
        yield from server_rules(judge, at)
    if not facts.judge_compares(recipe, judge):
        return
    reward, best = recipe.models.reward, recipe.evaluation.best
    assert reward is not None
    alone = len(reward.servers) == 1 and not (reward.functions or reward.path or reward.init or recipe.models.rewards)
    if best == f"rewards/{judge.name}" or (alone and best == "objective/score"):
        asked = {"name": "rated", "asks": "ratings", "weight": 0, "url": judge.url, "model": judge.model}
        asked |= {"token_env": judge.token_env} if judge.token_env else {}
        yield Problem.at(
            "evaluation.best",
            f"{best} is 0.5 whatever the policy: {at} compares its answers with each other",
            "a judge more, that rates them and counts for nothing, is a measure: evaluation.best=rewards/rated "
            f"'models.reward.judges.{len(reward.judges)}={json.dumps(asked, ensure_ascii=False)}'",
        )
    if recipe.rollout.samples_per_prompt < 2:
        yield Problem.at(
            f"{at}.asks",
            "an answer is compared with the others to its prompt, and rollout.samples_per_prompt is 1",
            "asks: ratings, or rollout.samples_per_prompt: 4",
        )


def _time_to_ask(reward: RewardModel, floor: float) -> Iterator[Problem]:
    """Servers are asked one after the other, in one call, which must not count as hung meanwhile."""
    asking = sum(server.deadline for server in reward.servers.values())
    longest = max(reward.servers, key=lambda key: reward.servers[key].deadline, default="")
    needed = asking / ASKING
    if needed > floor:
        yield Problem.at(
            f"{longest}.deadline",
            f"servers may take {asking:g} s, the sum of their deadlines: more than {ASKING:.0%} of "
            f"recovery.deadline_floor_s ({floor:g} s), after which the call may count as hung",
            f"lower the deadlines, or write recovery.deadline_floor_s: {math.ceil(needed)}",
        )


def _trained(reward: RewardModel) -> Iterator[Problem]:
    wrong = {
        "functions": reward.functions,
        "http": reward.http,
        "judges": reward.judges,
        "label": reward.label,
        "score": reward.score != "logit",
    }
    for key in [key for key, value in wrong.items() if value]:
        yield Problem.at(
            f"models.reward.{key}", "is for rewarding with a finished model; here it is trained", "remove it"
        )


def _finished(model: ScoringModel, at: str, *, alone: bool) -> Iterator[Problem]:
    if model.score == "probability" and model.label is None:
        yield Problem.at(f"{at}.score", "a probability is that of a label, and none is named", "add label: ...")
    if model.label is not None and model.path is None:
        yield Problem.at(f"{at}.label", "names a label of a classifier, but there is no path", "add path: ...")
    if model.weight != 1 and alone:
        yield Problem.at(f"{at}.weight", "has no effect: there is nothing to weigh the model against", "remove it")
    elif model.weight == 0 and (model.path or model.init):
        hint = "remove its path or init" if at == "models.reward" else f"remove {at}"
        yield Problem.at(f"{at}.weight", "at 0 the reward model would count for nothing", hint)


def _told_apart(reward: RewardModel, further: Sequence[str]) -> Iterator[Problem]:
    """Scores are logged as ``rewards/<name>``, so no two names are alike; with further models the first is `reward`."""
    at = {"models.reward": "reward"} if further and (reward.path or reward.init) else {}
    at |= {f"models.rewards.{name}": name for name in further}
    at |= {f"models.reward.functions.{number}": name.rpartition(":")[2] for number, name in enumerate(reward.functions)}
    at |= {f"{key}.name": server.name for key, server in reward.servers.items()}
    seen: dict[str, str] = {}
    for key, name in at.items():
        if name in seen:
            yield Problem.at(key, f"is logged as rewards/{name}, and so is {seen[name]}", "give one another name")
        seen.setdefault(name, key)
