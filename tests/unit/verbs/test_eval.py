"""``distft eval``: rows of files and recipes, several models, several sources, and what is said of mistakes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from sacrebleu import corpus_bleu
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from distft.config.load import load_recipe, resolved_yaml
from tests.unit.verbs.conftest import Typed

SHORT = "max_new_tokens=8"


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prompts with answers."""
    folder = tmp_path_factory.mktemp("rows")
    answers = [{"prompt": f"Question {number}:", "completion": f" Answer {number} is here."} for number in range(6)]
    return write_rows(folder / "answers.jsonl", answers)


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    found = [{"prompt": f"Ask {n}", "chosen": f" Yes, {n}.", "rejected": f" No. {n * n}"} for n in range(8)]
    return write_rows(folder / "pairs.jsonl", found)


@pytest.fixture(scope="session")
def scorer(speaker: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A reward model with that tokenizer."""
    folder = tmp_path_factory.mktemp("scorer") / "scorer"
    model = AutoModelForSequenceClassification.from_pretrained(speaker, num_labels=1)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(speaker).save_pretrained(folder)
    return str(folder)


def figures(output: str) -> dict[str, dict[str, float]]:
    """The first model's."""
    found: dict[str, dict[str, float]] = json.loads(output)["models"][0]["metrics"]
    return found


def test_answers_of_a_file(speaker: str, rows: Path, distft: Typed) -> None:
    status, output, error = distft("eval", speaker, "--data", rows, "--json", SHORT)
    found = figures(output)
    assert (status, error, json.loads(output)["rows"]) == (0, "", 6)
    assert list(found) == [
        "loss", "perplexity", "token_accuracy", "exact_match", "f1", "rouge1", "rouge2", "rougeL", "rougeLsum", "bleu",
        "chrf", "objective/length", "objective/ended",
    ]  # fmt: skip
    assert all(one["low"] <= one["value"] <= one["high"] for one in found.values())
    _, generated, _ = distft("generate", speaker, "--prompts", rows, "--plain", "--greedy", "--json", SHORT)
    written = [json.loads(line)["completion"] for line in generated.splitlines()]
    references = [json.loads(line)["completion"] for line in rows.read_text().splitlines()]
    assert found["bleu"]["value"] == pytest.approx(corpus_bleu(written, [references]).score)
    _, output, _ = distft("eval", speaker, "--data", rows, "--json", "--no-answers")
    assert list(figures(output)) == ["loss", "perplexity", "token_accuracy"]


def test_several_answers_to_a_prompt_and_which_are_right(speaker: str, rows: Path, distft: Typed) -> None:
    several = ("eval", speaker, "--data", rows, "--json", SHORT, "samples_per_prompt=4", "temperature=1.0")
    found = figures(distft(*several)[1])
    names = ["pass@1", "pass@2", "pass@4", "mean@4", "majority@4"]
    assert [name for name in found if "@" in name] == names
    assert found["pass@1"]["value"] == pytest.approx(found["mean@4"]["value"])
    found = figures(distft(*several, "--correct", "tests.harness.rules:mostly_letters")[1])
    one, two, four = (found[f"pass@{k}"]["value"] for k in (1, 2, 4))
    assert 0 < one < two <= four <= 1
    found = figures(distft("eval", speaker, "--data", rows, "--json", SHORT, "--correct", "number")[1])
    assert 0 <= found["correct"]["value"] <= 1


def test_the_untouched_model_is_asked_behind_exemplars_and_a_run_is_held_against_it(
    speaker: str, other_speaker: str, rows: Path, distft: Typed, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(other_speaker, run / "final")
    train = write_rows(tmp_path / "train.jsonl", [
        {"prompt": f"Question {n}:", "completion": f" Answer {n} is here."} for n in range(20)
    ])  # fmt: skip
    recipe = load_recipe("sft-tiny", [
        f"models.policy={{path: {speaker}, dtype: float32}}", f"data={{train: [{{path: {train}}}], max_length: 64}}",
        f"output_dir={run}", "evaluation.every=0", "rollout.max_new_tokens=8",
    ])  # fmt: skip
    (run / "recipe.yaml").write_text(resolved_yaml(recipe))
    ask = ("eval", f"run:{run}", "--data", rows, "--shots", "0,2")
    status, output, error = distft(*ask, "--json")
    assert status == 0, error
    found = json.loads(output)
    assert [one["name"] for one in found["models"]] == [f"run:{run}", "the start, 0 shots", "the start, 2 shots"]
    zero, two = (one["metrics"] for one in found["models"][1:])
    assert zero["rougeL"] == figures(distft("eval", speaker, "--data", rows, "--json", SHORT)[1])["rougeL"]
    assert two["chrf"] != zero["chrf"], "the exemplars are read"
    told = found["prompting"]
    best = max((zero, "the start, 0 shots"), (two, "the start, 2 shots"), key=lambda one: one[0]["rougeL"]["value"])
    assert (told["metric"], told["best"]) == ("rougeL", best[1])
    trained = found["models"][0]["metrics"]["rougeL"]["value"]
    assert told["difference"]["value"] == pytest.approx(trained - best[0]["rougeL"]["value"])
    assert told["verdict"] in distft(*ask)[1]


def test_models_are_compared_on_pairs_and_by_source(
    speaker: str, other_speaker: str, pairs: Path, distft: Typed, tmp_path: Path
) -> None:
    more = write_rows(tmp_path / "more.jsonl", [{"prompt": "So?", "chosen": " So.", "rejected": " No!"}])
    judge = ("eval", speaker, other_speaker, "--data", pairs, "--data", more, "--reference", speaker)
    _, output, _ = distft(*judge, "--json")
    found = json.loads(output)
    assert (found["unit"], found["rows"], list(found["by_source"])) == ("pairs", 9, [str(pairs), str(more)])
    own, other = (one["metrics"]["rewards/margins"]["value"] for one in found["models"])
    assert own == 0.0  # its own reference
    difference = found["comparisons"][0]["differences"]["rewards/margins"]
    assert difference["value"] == pytest.approx(other - own)
    assert 0 < difference["p"] <= 1
    parts = [source[1]["metrics"]["rewards/margins"]["value"] for source in found["by_source"].values()]
    assert other == pytest.approx((8 * parts[0] + parts[1]) / 9)
    _, shown, _ = distft(*judge)
    assert f"{other_speaker}, compared with {speaker} row by row" in shown
    assert "rewards/margins" in shown


def test_a_reward_model_alone_and_as_a_judge(
    speaker: str, other_speaker: str, scorer: str, pairs: Path, distft: Typed
) -> None:
    _, output, _ = distft("eval", scorer, "--data", pairs, "--json")
    assert list(figures(output)) == ["accuracy", "margin", "mean_reward"]
    ask = ("eval", speaker, other_speaker, "--data", pairs, "--rows", "prompts", "--reward", scorer, "--json", SHORT)
    _, output, _ = distft(*ask, "samples_per_prompt=2")
    found = json.loads(output)
    scores = [one["metrics"]["objective/score"]["value"] for one in found["models"]]
    assert found["comparisons"][0]["differences"]["objective/score"]["value"] == pytest.approx(scores[1] - scores[0])
    assert 0 <= found["comparisons"][0]["win_rate"]["value"] <= 1
    assert distft(*ask, "samples_per_prompt=2")[1] == output
    assert distft(*ask, "samples_per_prompt=2", "--seed", "9")[1] != output


def test_a_recipe_is_judged_by_its_test_rows(speaker: str, distft: Typed, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(speaker, run / "final")
    own = ("evaluation.max_samples=20", f"output_dir={run}")
    _, by_recipe, _ = distft("eval", "sft-tiny", *own, "--no-answers", "--json")
    (run / "recipe.yaml").write_text(resolved_yaml(load_recipe("sft-tiny", own)))
    _, by_run, _ = distft("eval", f"run:{run}", "--no-answers", "--json")
    assert json.loads(by_recipe)["rows"] == 20
    assert json.loads(by_recipe)["rows_in_all"] == 300
    assert figures(by_recipe) == figures(by_run)
    _, by_eval, _ = distft("eval", "sft-tiny", *own, "--split", "eval", "--no-answers", "--json")
    assert figures(by_eval) != figures(by_run)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "there are no rows to judge by\n  --data PATH"),
        (("--data", "nowhere.jsonl"), "there is no such file"),
        (("train.steps=3",), "is a key of recipes, and none is named"),
        (("sft-tiny",), "rows are read of one recipe, which comes first"),
        (("--limit", "0"), "must be at least 2"),
        (("--data", "builtin:dialogues", "--split", "tset"), "no split 'tset'\n  did you mean `--split test`?"),
        (("--data", "builtin:dialogues", "--reward", "MODEL"), "has no scalar head: it is not a reward model"),
        (("--data", "builtin:dialogues", "--no-answer"), "did you mean --no-answers?"),
        (("--data", "builtin:dialogues", "--correct", "exat"), "is no way to tell right answers"),
        (
            ("--data", "builtin:dialogues", "--rows", "prompts", "--correct", "exact", "max_new_tokens=2"),
            "has no answer",
        ),
        (("--data", "nowhere.jsonl", "--correct", "nomod:f"), "--correct nomod:f: there is no module nomod"),
        (("--data", "nowhere.jsonl", "--correct", "tests.harness.rules:f"), "--correct tests.harness.rules:f: "),
        (("--data", "builtin:dialogues", "--shots", "one"), "for example --shots 0,1,4"),
        (("--data", "builtin:sums", "--limit", "2", "--shots", "1", "max_new_tokens=2"), "--shots-from PATH"),
        (("--data", "builtin:dialogues", "temprature=1"), "is a key of recipes, and none is named"),
    ],
)
def test_mistakes_get_one_message(
    words: tuple[str, ...], said: str, speaker: str, distft: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, output, error = distft("eval", speaker, *(speaker if word == "MODEL" else word for word in words))
    assert (status, output) == (2, "")
    assert said in error
    assert "Traceback" not in error


def test_a_recipe_without_its_run_names_the_command(
    distft: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, _, error = distft("eval", "sft-tiny")
    assert status == 2
    assert "make it with: distft train sft-tiny" in error


@pytest.mark.parametrize(
    ("recipe", "measure"),
    [
        ("mlm-tiny", "loss"),
        ("span-tiny", "loss"),
        ("process-reward-tiny", "loss"),
        ("contrastive-tiny", "loss"),
        ("tools-tiny", "objective/score"),
    ],
)
def test_what_only_a_run_can_judge_is_judged_in_it(
    recipe: str, measure: str, distft: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, _, error = distft("eval", recipe)  # before its run is looked for
    assert status == 2
    assert "is judged within its run" in error
    assert f"the lines of split eval in runs/{recipe}/metrics.jsonl have its {measure}" in error


def test_who_speaks_in_turns_may_be_asked_for_a_single_one(speaker: str, distft: Typed, tmp_path: Path) -> None:
    shutil.copytree(speaker, tmp_path / "run" / "final")
    rows = "".join(json.dumps({"prompt": f"Question {number}?", "answer": "no"}) + "\n" for number in range(3))
    (tmp_path / "rows.jsonl").write_text(rows)
    words = ("tools-tiny", f"output_dir={tmp_path / 'run'}", "--data", tmp_path / "rows.jsonl", "max_new_tokens=1")
    status, _, error = distft("eval", *words)
    assert (status, "--rows prompts lets its model answer once" in error) == (2, True)
    status, output, error = distft("eval", *words, "--rows", "prompts", "--json")
    assert status == 0, error
    assert json.loads(output)["models"][0]["metrics"]["objective/length"]["value"] == 1


@pytest.mark.parametrize(
    ("words", "does"),
    [
        (("--shots", "0"), "is about answers"),
        (("--correct", "number"), "says which answers are right"),
        (("--reward", "MODEL"), "scores answers"),
    ],
)
def test_a_reward_model_writes_no_answers(
    words: tuple[str, str], does: str, scorer: str, pairs: Path, distft: Typed
) -> None:
    option, value = words[0], scorer if words[1] == "MODEL" else words[1]
    status, output, error = distft("eval", scorer, "--data", pairs, option, value)
    assert (status, output) == (2, "")
    assert f"{option} {value}: {does}, and {scorer} writes none" in error
    _, _, error = distft("eval", scorer, "--data", pairs, option, value, "--no-answers")
    assert f"{does}, and none are wanted\n  leave --no-answers out" in error


def test_exemplars_that_nobody_asks_for(speaker: str, rows: Path, distft: Typed) -> None:
    status, _, error = distft("eval", speaker, "--data", rows, "--shots-from", rows)
    assert status == 2
    assert f"--shots-from {rows}: is where exemplars come from, and nobody asks for any\n  --shots 0,1,4" in error


def test_a_reward_model_needs_pairs(scorer: str, rows: Path, distft: Typed) -> None:
    status, _, error = distft("eval", scorer, "--data", rows)
    assert status == 2
    assert "a reward model is judged by pairs of answers" in error
