"""Whether models write answers of their own to the rows."""

from __future__ import annotations

from collections.abc import Mapping

from distft.common.errors import UserError
from distft.config.eval_stage import OF_ANSWERS
from distft.data.formats import prompt_of
from distft.data.wanted import wanted_answer
from distft.launch.judged_rows import JudgedRows
from distft.launch.judging import Judging


def writes_answers(rows: JudgedRows, judging: Judging) -> bool:
    """Whether a model answers the rows: not where answers are told apart, unless something is named that reads its own.
    Raises UserError where something is, and a row has no prompt, or no answer to tell right ones by."""
    if not judging.answers:
        return False
    reading = next((f"--{key} {value}" for key, value in asked_of_answers(judging).items()), None)
    if reading is None and rows.unit in ("pairs", "labelled answers"):
        return False
    silent = next((example for example in rows.examples if not prompt_of(example)), None)
    if silent is not None and reading is not None:
        hint = f"--data PATH of rows with prompts, or leave {reading.split()[0]} out"
        raise UserError("has no prompt to answer", where=f"{reading}, {silent.where}", hint=hint)
    unanswered = next((example for example in rows.examples if wanted_answer(example) is None), None)
    if judging.criterion is not None and unanswered is not None:
        hint = "--rows answers, or --data PATH of rows with answers, gives them; or leave --correct out"
        where = f"--correct {judging.criterion.name}, {unanswered.where}"
        raise UserError("has no answer to compare with", where=where, hint=hint)
    return silent is None


def asked_of_answers(judging: Judging) -> Mapping[str, str]:
    """What is asked for that is about answers (``OF_ANSWERS``), by its key, as it was typed."""
    named = {
        "judge": judging.judge and judging.judge.name, "toxicity": judging.toxicity and judging.toxicity.name,
        "reward": judging.reward, "correct": judging.criterion and judging.criterion.name,
        "shots": ",".join(map(str, judging.shots)),
    }  # fmt: skip
    return {key: value for key in OF_ANSWERS if (value := named[key])}
