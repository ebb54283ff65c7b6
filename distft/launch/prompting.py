"""What the model that a run started from does without any training: zero-shot, one-shot, few-shot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from distft.common.errors import UserError
from distft.config.data import Source
from distft.config.training import Rollout
from distft.data.formats import prompt_of
from distft.data.wanted import wanted_answer
from distft.evaluation import row_measures
from distft.launch.correctness import answer_measures
from distft.launch.exemplars import draw_exemplars, first_answer, with_exemplars
from distft.launch.judged_rows import judged_rows
from distft.launch.judging import Judged, Judging
from distft.launch.named_models import NamedModel
from distft.launch.starts import model_starts
from distft.planning.model_folders import fetched_folder
from distft.rollout.speaker import Question, Speaker


def untouched(model: NamedModel) -> tuple[NamedModel, str | None]:
    """The model that a run started from, with its chat template; of what is no run's it is itself. Raises UserError
    where it is not here."""
    if model.recipe is None:
        return model, None
    start = model_starts(model.recipe, Path(model.recipe.output_dir).absolute())["policy"]
    if fetched_folder(start.path) is None:
        what = f"the model that the run started from is not here: {start.path}"
        raise UserError(what, where=model.name, hint="without --shots, or fetch it first")
    return NamedModel("the start", start.path), start.chat_template


def baselines(model: NamedModel, judging: Judging, settings: Rollout, *, greedy: bool) -> Iterator[Judged]:
    """The untouched model on the judged rows behind ``judging.shots`` exemplars each."""
    start, template = untouched(model)
    section = start.section(judging.reading)
    if template is not None and judging.reading.chat_template is None:
        section = section.model_copy(update={"chat_template": template})
    speaker = Speaker.load(start.name, section, adapter=start.adapter)
    rows = judged_rows(judging.wanted, speaker.tokenizer)
    if not all(wanted_answer(example) and prompt_of(example) for example in rows.examples):
        what = "the judged rows have no answers that those of a model could be held against"
        raise UserError(what, where="--shots", hint="rows with a prompt and its answer, or leave --shots out")
    seed, repeats = judging.wanted.seed_used, settings.samples_per_prompt
    exemplars = draw_exemplars(_sources(judging, model), rows.examples, max(judging.shots), seed)
    for count in judging.shots:
        questions = [
            Question(with_exemplars(prompt_of(example), exemplars[:count]), number * repeats + sample, example.where)
            for number, example in enumerate(rows.examples)
            for sample in range(repeats)
        ]
        answers = list(speaker.answers(questions, settings, seed, greedy=greedy))
        texts = [answer.text for answer in answers]
        if count:
            texts = [
                first_answer(text) if isinstance(question.prompt, str) else text
                for text, question in zip(texts, questions, strict=True)
            ]
        measures = answer_measures(rows, texts, repeats, judging.criterion)
        lengths, ended = [len(answer.ids) for answer in answers], [answer.ended for answer in answers]
        measures |= row_measures.of_samples(lengths, ended, None, repeats)
        name = f"{start.name}, {count} shot{'' if count == 1 else 's'}"
        yield Judged(name, rows, measures, None, repeats, shots=count)


def _sources(judging: Judging, model: NamedModel) -> Sequence[Source]:
    """Where exemplars come from. Raises UserError where nobody says."""
    if judging.shots_from:
        return tuple(Source(path=path, split=None) for path in judging.shots_from)
    recipe = judging.wanted.recipe or model.recipe
    if recipe is not None:
        return recipe.data.train
    if max(judging.shots) == 0:
        return ()
    hint = "--shots-from PATH: rows that no model is judged by"
    raise UserError("nothing says where exemplars come from", where="--shots", hint=hint)
