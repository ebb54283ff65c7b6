"""``distft eval``: models by name, rows by name, and what the ones make of the others. One process, no Ray."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from distft.common.errors import UserError
from distft.common.logging import stage
from distft.config.find_method import traits_of
from distft.config.models import RewardModel
from distft.config.recipe import Recipe
from distft.config.roles import longest_sequence, model_of, roles
from distft.config.rollout_settings import rollout_settings
from distft.config.training import Rollout
from distft.data.class_labels import numbers_of
from distft.data.formats import prompt_of
from distft.data.tokenizer_training import tokenizers_equal
from distft.evaluation import row_measures
from distft.evaluation.measures import Measure
from distft.evaluation.passes import likelihoods
from distft.evaluation.scorer import Scorer
from distft.launch.correctness import answer_measures
from distft.launch.judgeable import require_judgeable
from distft.launch.judged_rows import JudgedRows, judged_rows
from distft.launch.judged_wins import with_wins
from distft.launch.judges import require_judge
from distft.launch.judging import Judged, Judging
from distft.launch.named_models import NamedModel, Reading, find_model, require_scalar_head, require_speakers
from distft.launch.preflight.evaluations import require_judged_here
from distft.launch.prompting import baselines
from distft.launch.starts import model_starts
from distft.launch.toxicity import Toxicity
from distft.launch.wanted_answers import asked_of_answers, writes_answers
from distft.models.padding import padding
from distft.planning.model_folders import fetched_folder
from distft.rollout.speaker import Question, Speaker


def evaluate(names: Sequence[str], judging: Judging) -> list[Judged]:
    """Each model on the same rows, one after the other. Raises UserError: models or rows that are not there, rows that
    a model cannot be judged by; EnvironmentFallsShort: the hub does not answer."""
    with tempfile.TemporaryDirectory(prefix="distft-models-") as folder:
        scratch = Path(folder)
        require_judged_here(judging.wanted)
        models = [find_model(name, scratch, adapter=judging.reading.adapter) for name in names]
        if judging.wanted.recipe is None:
            judging = replace(judging, wanted=replace(judging.wanted, recipe=models[0].recipe))
        require_judged_here(judging.wanted)
        kind = judging.wanted.kind()
        require_judgeable(models, kind, asked_of_answers(judging), no_answers=not judging.answers)
        if judging.judge is not None:
            require_judge(judging.judge)
        if traits_of(kind).classifies:
            return [_by_labels(model, judging) for model in models]
        notes: list[str] = []
        beside = _Beside(judging, scratch, notes)
        judged = []
        for model in models:
            stage(f"evaluate {model.name}")
            policy = not model.is_reward_model
            judged.append(_of_policy(model, judging, beside) if policy else _by_rewards(model, judging))
        for one, model in zip(judged, models, strict=True):
            one.notes.extend(model.notes)
        judged = with_wins(judged, judging)
        if judging.shots:
            base = next((model for model in models if model.recipe is not None), models[0])
            settings, greedy = _sampling(base, judging)
            judged += baselines(base, judging, settings, greedy=greedy)
        judged[0].notes.extend([*notes, *judged[0].rows.notes])
        return judged


def _start_in(role: str, recipe: Recipe) -> str:
    """The role whose start a role has: a reference whose log-probs are kept was the policy before the first step."""
    return "policy" if role == "reference" and recipe.algorithm.caches_reference() else role


class _Beside:
    """The reference and the reward model that policies are judged with, where there are any: named, else the recipe's.
    A recipe's that is not on this machine is left out, and noted."""

    def __init__(self, judging: Judging, scratch: Path, notes: list[str]) -> None:
        self._judging, self._scratch, self._notes = judging, scratch, notes
        self._recipe = judging.wanted.recipe
        named = judging.toxicity
        self.toxicity = None if named is None else Toxicity(named, scratch, judging.reading)

    def reference(self) -> Speaker | None:
        """Loaded anew for every policy, so that it takes no memory while that one writes."""
        judging = self._judging
        if judging.reference is not None:
            model = find_model(judging.reference, self._scratch)
            require_speakers([model])
            return Speaker.load(model.name, model.section(Reading(dtype=judging.reading.dtype)), adapter=model.adapter)
        path = self._start_of("reference")
        if path is None or self._recipe is None:
            return None
        dtype = model_of(self._recipe, _start_in("reference", self._recipe)).dtype
        section = NamedModel("the reference", path).section(Reading(dtype=dtype))
        return Speaker.load("the reference", section)

    def scorer(self) -> Scorer | None:
        """The reward model."""
        if self._judging.reward is not None:
            model = find_model(self._judging.reward, self._scratch)
            return Scorer.load(model.name, _reward_section(model, self._judging.reading))
        path = self._start_of("reward")
        if path is None or self._recipe is None:
            return None
        own = model_of(self._recipe, "reward")
        if further := self._recipe.models.rewards:
            self._note(f"scored by models.reward alone, without {', '.join(further)}: --reward MODEL takes another")
        assert isinstance(own, RewardModel)
        return Scorer.load("the reward model", own.model_copy(update={"path": path, "quantization": None}))

    def _start_of(self, role: str) -> str | None:
        """Where a role of the recipe started, if it is not the run's result and lies on this machine."""
        recipe = self._recipe
        if recipe is None or role in recipe.algorithm.traits.trained or _start_in(role, recipe) not in roles(recipe):
            return None
        try:
            path = model_starts(recipe, Path(recipe.output_dir).absolute())[_start_in(role, recipe)].path
        except UserError as error:
            self._note(f"without the recipe's {role} model: {error.what}")
            return None
        if fetched_folder(path) is None:
            self._note(f"without the recipe's {role} model: {path} is not here")
            return None
        return path

    def _note(self, text: str) -> None:
        if text not in self._notes:
            self._notes.append(text)


def _by_rewards(model: NamedModel, judging: Judging) -> Judged:
    scorer = Scorer.load(model.name, _reward_section(model, judging.reading))
    rows = judged_rows(judging.wanted, scorer.tokenizer)
    batch = rows.dataset.batch(rows.units)
    measures = row_measures.of_rewards(scorer.of_rows(batch), batch.dense("unit"), batch.dense("rank"))
    return Judged(model.name, rows, measures, recipe=model.recipe)


def _by_labels(model: NamedModel, judging: Judging) -> Judged:
    """A classifier, by rows whose labels are among its own."""
    labels = model.labels
    scorer = Scorer.load(model.name, _reward_section(model, judging.reading), labels)
    rows = judged_rows(judging.wanted, scorer.tokenizer)
    wanted = numbers_of(rows.dataset.class_names(rows.units), labels)
    answers, logprobs = scorer.of_classes(rows.dataset.batch(rows.units).with_columns(label=wanted))
    measures = row_measures.of_classes(answers, wanted, logprobs, labels)
    return Judged(model.name, rows, measures, notes=[*model.notes, *rows.notes], recipe=model.recipe)


def _of_policy(model: NamedModel, judging: Judging, beside: _Beside) -> Judged:
    recipe, longest = judging.wanted.recipe, None if model.recipe is None else longest_sequence(model.recipe)
    speaker = Speaker.load(model.name, model.section(judging.reading), adapter=model.adapter, longest=longest)
    rows = judged_rows(judging.wanted.for_policy(), speaker.tokenizer)
    measures: dict[str, Measure] = {}
    if rows.unit != "prompts":
        batch = rows.dataset.batch(rows.units)
        own = likelihoods(speaker.family, speaker.module, batch, _pad(speaker))
        if rows.unit == "answers":
            measures |= row_measures.of_answers(own.logprobs, own.num_tokens, own.num_correct)
        else:
            reference = _reference_logprobs(speaker, beside.reference(), batch)
            beta = float(getattr(recipe.algorithm, "beta", 0.1)) if recipe is not None else 0.1
            if rows.unit == "pairs":
                measures |= row_measures.of_pairs(own.logprobs, own.num_tokens, reference, beta)
            else:
                good = batch.dense("label").astype(bool)
                measures |= row_measures.of_labelled(own.logprobs, good, reference, beta)
    if not writes_answers(rows, judging):
        return Judged(model.name, rows, measures, recipe=model.recipe)
    settings, greedy = _sampling(model, judging)
    repeats, scorer = settings.samples_per_prompt, beside.scorer()
    questions = _questions(rows, repeats)
    answers = list(speaker.answers(questions, settings, judging.wanted.seed_used, greedy=greedy))
    texts = [answer.text for answer in answers]
    scores = None if scorer is None else scorer.of_answers(speaker, questions, answers)
    measures |= answer_measures(rows, texts, repeats, judging.criterion)
    lengths, ended = [len(answer.ids) for answer in answers], [answer.ended for answer in answers]
    measures |= row_measures.of_samples(lengths, ended, scores, repeats)
    if beside.toxicity is not None:
        measures |= row_measures.of_toxicity(beside.toxicity.of(texts), repeats)
    return Judged(model.name, rows, measures, scores, repeats, recipe=model.recipe, answers=texts)


def _sampling(model: NamedModel, judging: Judging) -> tuple[Rollout, bool]:
    recipe = judging.wanted.recipe or model.recipe
    settings = rollout_settings(Rollout() if recipe is None else recipe.rollout, judging.sampling)
    drawn = recipe is not None and recipe.algorithm.traits.sampled
    named = {text.partition("=")[0].rpartition(".")[2] for text in judging.sampling}
    return settings, not drawn and not named & {"temperature", "top_p", "top_k", "samples_per_prompt"}


def _questions(rows: JudgedRows, repeats: int) -> list[Question]:
    """The rows' prompts, numbered as in an evaluation within a run: by the same seed they have the same draws."""
    return [
        Question(prompt_of(example), number * repeats + sample, example.where)
        for number, example in enumerate(rows.examples)
        for sample in range(repeats)
    ]


def _reference_logprobs(speaker: Speaker, reference: Speaker | None, batch: Any) -> npt.NDArray[np.float64] | None:
    if reference is None:
        return None
    if not tokenizers_equal(speaker.tokenizer, reference.tokenizer):
        what = f"its tokenizer is not that of {speaker.name}: they do not read the same tokens"
        raise UserError(what, where=reference.name, hint="--reference names the model that the policy started from")
    return likelihoods(reference.family, reference.module, batch, _pad(reference)).logprobs


def _reward_section(model: NamedModel, reading: Reading) -> RewardModel:
    require_scalar_head(model)
    section = model.section(Reading(dtype=reading.dtype, trust_remote_code=reading.trust_remote_code))
    return RewardModel(path=model.path, dtype=section.dtype, trust_remote_code=section.trust_remote_code)


def _pad(speaker: Speaker) -> int:
    return padding(speaker.tokenizer, speaker.module.model.config) or 0
