"""Standard tasks: asked by our generator, lm-eval finds what it finds by its own model for transformers."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from distft.cli import main
from distft.common.errors import RunFailed, UserError
from distft.config.eval_stage import read_keys
from distft.launch import task_names
from distft.launch.named_models import Reading
from distft.launch.task_errors import in_our_words
from distft.launch.task_names import Tasks
from distft.launch.tasks import ask_tasks
from tests.reference.tiny_models import save_llama, train_tokenizer

ROWS = [
    {"prompt": "What is two and two?", "choices": ["Four.", "Five.", "It is six, I think."], "answer": 0},
    {"prompt": "What is the capital of France?", "choices": ["London.", "Paris.", "A river."], "answer": 1},
    {"prompt": "Say hello.", "choices": ["Goodbye.", "No.", "Hello!"], "answer": 2},
    {"prompt": "Is the sky blue?", "choices": ["Yes, it is.", "No.", "Four."], "answer": 0},
    {"prompt": "Who wrote it?", "choices": ["Nobody.", "A friend of mine wrote it.", "Five."], "answer": 1},
]
HEAD = """
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}, train: {rows}}}}}
test_split: test
fewshot_split: train
metadata: {{version: 1}}
"""
BODIES = {
    "chosen": """
output_type: multiple_choice
doc_to_text: "{{prompt}}"
doc_to_choice: "{{choices}}"
doc_to_target: answer
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
""",
    "written": """
output_type: generate_until
doc_to_text: "{{prompt}}"
doc_to_target: "{{choices[answer]}}"
generation_kwargs: {until: ["e"], max_gen_toks: 9, do_sample: false}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
""",
    "read": """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{prompt}} {{choices[answer]}}"
metric_list: [{metric: word_perplexity}, {metric: bits_per_byte}]
""",
}

installed = pytest.mark.skipif(find_spec("lm_eval") is None, reason="pip install '.[lm-eval]': some 20 packages")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models ``one`` and ``two``, and ``tasks`` over local rows."""
    folder = tmp_path_factory.mktemp("asked")
    rows = folder / "rows.jsonl"
    rows.write_text("\n".join(map(json.dumps, ROWS)))
    (folder / "tasks").mkdir()
    for name, body in BODIES.items():
        (folder / "tasks" / f"{name}.yaml").write_text(f"task: {name}{HEAD.format(rows=rows)}{body}")
    texts = [text for row in ROWS for text in (str(row["prompt"]), *map(str, row["choices"]))]  # type: ignore[call-overload]
    for seed, name in enumerate(("one", "two")):
        save_llama(folder / name, train_tokenizer(texts, 300), seed=seed)
        model = AutoModelForCausalLM.from_pretrained(folder / name)
        with torch.no_grad():  # so that no two tokens are nearly as likely
            model.get_input_embeddings().weight.mul_(20)
        model.save_pretrained(folder / name)
    return folder


def samples_of(lm: Any, folder: Path, **options: Any) -> Any:
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(folder / "tasks"), include_defaults=False)
    return simple_evaluate(lm, tasks=list(BODIES), task_manager=manager, bootstrap_iters=0, **options)


@installed
@pytest.mark.parametrize("options", [{}, {"num_fewshot": 2, "apply_chat_template": True}], ids=["plain", "shots, chat"])
def test_figures_are_those_of_lm_evals_own_model(folders: Path, options: dict[str, Any]) -> None:
    from lm_eval.models.huggingface import HFLM

    from distft.evaluation.harness_model import HarnessModel
    from distft.launch.named_models import find_model
    from distft.rollout.speaker import Speaker

    one = str(folders / "one")
    ours = samples_of(
        HarnessModel(Speaker.load(one, find_model(one, folders).section(Reading())), 1), folders, **options
    )
    theirs = samples_of(HFLM(pretrained=one, device="cpu", batch_size=2, dtype="float32"), folders, **options)
    assert ours["n-shot"] == theirs["n-shot"]
    for name in BODIES:
        mine, other = ours["samples"][name], theirs["samples"][name]
        assert len(mine) == len(ROWS)
        assert [row["arguments"] for row in mine] == [row["arguments"] for row in other]
        for row, its in zip(mine, other, strict=True):
            if name == "written":
                assert row["resps"] == its["resps"]
            else:
                np.testing.assert_allclose(numbers(row["resps"]), numbers(its["resps"]), rtol=1e-4, atol=1e-4)
        for metric, value in theirs["results"][name].items():
            if isinstance(value, float):
                assert ours["results"][name][metric] == pytest.approx(value, rel=1e-4), metric


def numbers(answers: Any) -> list[float]:
    return [float(part) for request in answers for answer in request for part in np.atleast_1d(answer)]


@installed
def test_accuracy_by_hand_and_models_against_each_other(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [str(folders / name) for name in ("one", "two")]
    words = ["eval", *names, "--tasks", *BODIES, "--tasks-from", str(folders / "tasks"), "--json"]
    assert main([*words, "--output", str(folders / "kept")]) == 0
    found = json.loads(capsys.readouterr().out)
    right = [[row["answer"] == likeliest(name, row) for row in ROWS] for name in names]
    for model, own in zip(found["models"], right, strict=True):
        accuracy = model["metrics"]["chosen/acc"]
        share = sum(own) / len(ROWS)
        assert accuracy["value"] == pytest.approx(share)
        # The standard error of a mean, by the variance of a sample.
        assert accuracy["stderr"] == pytest.approx(np.std(own, ddof=1) / len(ROWS) ** 0.5)
        assert accuracy["high"] - accuracy["value"] == pytest.approx(1.959964 * accuracy["stderr"])
        assert set(model["metrics"]) == {
            "chosen/acc", "written/exact_match", "read/word_perplexity", "read/bits_per_byte"
        }  # fmt: skip
    [against] = found["comparisons"]
    assert against["differences"]["chosen/acc"]["value"] == pytest.approx(np.mean(right[1]) - np.mean(right[0]))
    assert set(against["differences"]) == {"chosen/acc", "written/exact_match"}  # no mean of questions: a perplexity
    assert (found["unit"], found["rows"], found["intervals"]) == ("questions", 15, "lm-eval's standard errors")
    assert "chosen/acc" in (folders / "kept" / "report.html").read_text()
    assert main([*words, "--limit", "2"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 6


def likeliest(folder: str, row: dict[str, Any]) -> int:
    """Which choice, behind a blank as lm-eval puts it, has the highest sum of log-probabilities."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    sums = []
    for choice in row["choices"]:
        before = tokenizer(row["prompt"])["input_ids"]
        whole = tokenizer(f"{row['prompt']} {choice}")["input_ids"]
        with torch.no_grad():
            logprobs = model(torch.tensor([whole])).logits[0].log_softmax(-1)
        sums.append(sum(float(logprobs[at - 1, whole[at]]) for at in range(len(before), len(whole))))
    return int(np.argmax(sums))


@installed
def test_what_cannot_be_asked(folders: Path, tmp_path: Path) -> None:
    from distft.evaluation.harness_model import Asked

    one, tasks = str(folders / "one"), str(folders / "tasks")
    for names, said in ((("chosn",), "did you mean chosen\\?"), (("zzzzzz",), "lm-eval ls tasks lists them")):
        with pytest.raises(UserError, match=said):
            ask_tasks([one], Tasks(names, (tasks,)), Reading())
    with pytest.raises(UserError, match="--tasks-from nowhere: there is no such folder"):
        ask_tasks([one], Tasks(("chosen",), ("nowhere",)), Reading())
    with pytest.raises(UserError, match="num_beams=4 in its generation_kwargs"):
        Asked.of({"num_beams": 4, "until": "x"})
    drawn = Asked.of({"temperature": 0.5, "top_p": 0.9, "max_new_tokens": 7, "until": ["a", "b"]})
    assert (drawn.greedy, drawn.until, drawn.settings.max_new_tokens) == (False, ("a", "b"), 7)
    assert (drawn.settings.temperature, drawn.settings.top_p) == (0.5, 0.9)
    assert Asked.of({"do_sample": False, "temperature": 0.5}).greedy


@installed
def test_what_a_task_wants_that_is_not_here(folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its own code reads a package that is not installed, or a program makes its rows, which datasets does not run."""
    (tmp_path / "own.py").write_text("import no_such_package\n\n\ndef same(row):\n    return row\n")
    rows = HEAD.format(rows=folders / "rows.jsonl")
    (tmp_path / "wants.yaml").write_text(f"task: wants{rows}{BODIES['chosen']}process_docs: !function own.same\n")
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "made.py").write_text("raise SystemExit\n")
    made = f"dataset_path: {tmp_path / 'made'}\ntest_split: test"
    (tmp_path / "made.yaml").write_text(f"task: made\n{made}{BODIES['chosen']}")
    words = ["eval", str(folders / "one"), "--tasks-from", str(tmp_path), "--tasks"]
    assert main([*words, "wants"]) == 3
    assert "--tasks: a task wants a package that is not installed: No module named 'no_such_package'" in (
        capsys.readouterr().err
    )
    assert main([*words, "made"]) == 2
    assert "--tasks: a task's rows are made by a program" in capsys.readouterr().err


@installed
def test_whose_fault_it_is(folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A task of the user's, words of the user's, or the package's own task that fails in it."""
    rows = HEAD.format(rows=folders / "rows.jsonl")
    (tmp_path / "odd.yaml").write_text(f"task: odd{rows}{BODIES['chosen'].replace('multiple_choice', 'guessing')}")
    own = ["eval", str(folders / "one"), "--tasks-from", str(tmp_path), "--tasks", "odd"]
    assert main(own) == 2
    assert f"--tasks-from {tmp_path}: lm-eval cannot ask a task: Got invalid output_type" in capsys.readouterr().err
    shots = ["eval", str(folders / "one"), "--tasks-from", str(folders / "tasks"), "--tasks", "chosen", "--task-shots"]
    assert main([*shots, "9"]) == 2
    assert "--task-shots 9: a task has no such exemplars" in capsys.readouterr().err
    failing = in_our_words(Tasks(("arc_easy",)), written=False)
    with pytest.raises(RunFailed, match="lm-eval itself fails at --tasks arc_easy: no docs"), failing:
        raise ValueError("no docs")


@installed
def test_programs_that_a_model_writes_are_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also where a group has such a task among others."""
    (tmp_path / "code.yaml").write_text("group: code\ntask: [arc_easy, humaneval_plus]\n")
    for name, unsafe in (("humaneval", "humaneval"), ("code", "humaneval_plus")):
        assert main(["eval", "some/model", "--tasks-from", str(tmp_path), "--tasks", name]) == 2
        assert f"--tasks {name}: {unsafe} runs the programs that a model writes" in capsys.readouterr().err


def test_the_package_is_missing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(task_names, "find_spec", lambda _: None)
    assert main(["eval", "some/model", "--tasks", "arc_easy"]) == 3
    said = capsys.readouterr().err
    assert "--tasks: the package lm-eval" in said
    assert "pip install 'distft[lm-eval]'" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--tasks", "a", "--data", "rows.jsonl"], "--data: has no effect beside --tasks"),
        (["--tasks", "a", "--no-answers"], "--no-answers: has no effect beside --tasks"),
        (["--tasks", "a", "--task-shots", "-1"], "--task-shots -1: must be at least 0"),
        (["--task-chat"], "is said of tasks, and none is named\n  --tasks NAME"),
        (["--tasks-from", "x"], "is where tasks lie, and none is named"),
        (["temperature=0.5", "--tasks", "a"], "temperature=0.5: has no effect beside --tasks"),
    ],
)
def test_options_that_do_not_go_together(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "some/model", *words]) == 2
    assert said in capsys.readouterr().err


def test_keys_of_a_stage_that_do_not_go_together() -> None:
    _, problems = read_keys({"eval": ["m"], "tasks": ["a"], "data": ["rows.jsonl"], "temperature": 0.5})
    assert [problem.key for problem in problems] == ["data", "temperature"]
    _, problems = read_keys({"eval": ["m"], "task_chat": True})
    assert [problem.key for problem in problems] == ["task_chat"]
    keys, problems = read_keys({"eval": ["m"], "tasks": ["a", "b"], "task_shots": 2, "task_chat": True})
    assert not problems
    assert keys is not None
    assert keys.words() == ["m", "--tasks=a", "--tasks=b", "--task-shots=2", "--task-chat"]
