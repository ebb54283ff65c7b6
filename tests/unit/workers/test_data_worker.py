"""The data worker: samples by position, reward functions, the rollout in another model's tokens."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import LlamaConfig

from distft.batches import Batch, Difference, Ragged
from distft.common.errors import UserError
from distft.config.load import load_recipe
from distft.data.encode import Encoder
from distft.data.formats import Message, prompt_of
from distft.data.tokenizer_training import train_tokenizer
from distft.launch.starts import model_starts
from distft.tracking.glossary import known
from distft.workers.data_worker import DataWorker
from distft.workers.reward_functions import reward_function
from distft.workers.run_data import RunData
from tests.harness.chat_templates import family_tokenizer
from tests.harness.judge import judging, prefers

ROWS = [{"prompt": f"How much is {i} and {i}?", "answer": str(2 * i)} for i in range(40)]
INIT = "{hidden_size: 16, num_layers: 1, num_heads: 2, vocab_size: 300, max_positions: 128}"
FUNCTIONS = """
def length(prompts, completions, **columns):
    return [float(len(text)) for text in completions]

def right(prompts, completions, answer, **columns):
    return [float(a in text) for a, text in zip(answer, completions)]

def short(prompts, completions, **columns):
    return [1.0]

def nan(prompts, completions, **columns):
    return [float("nan")] * len(completions)

def large(prompts, completions, **columns):
    return [1e39] * len(completions)

def larger(prompts, completions, **columns):
    return [10**400] * len(completions)

def broken(prompts, completions, **columns):
    raise KeyError("oops")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    (folder / "scores_of_test.py").write_text(FUNCTIONS)
    return folder


@pytest.fixture
def make(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., DataWorker]:
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))

    def worker(*overrides: str) -> DataWorker:
        recipe = load_recipe(
            "ppo-tiny",
            [f"output_dir={tmp_path}", f"models.policy.init={INIT}", f"models.reward.init={INIT}",
             "data.train=[{path: rows.jsonl}]", "data.eval=[]", "data.test=[]", "data.holdout=0.1",
             "evaluation.every=0", *overrides],
        )  # fmt: skip
        made = DataWorker(recipe=recipe, starts=model_starts(recipe, tmp_path))
        made.report = made.setup()[0]  # type: ignore[attr-defined]
        return made

    return worker


def responses(worker: DataWorker, texts: list[str]) -> Batch:
    """Responses that were cut at the limit, or ended by the token that their text ends with."""
    prompts = worker.prompts("train", 0, len(texts), 1)[1]
    ids = [worker.data.tokenizer(text)["input_ids"] for text in texts]
    ended = np.array([text.endswith("|>") for text in texts], np.uint8)
    return prompts.with_columns(response_ids=Ragged.of(ids, np.int32), ended=ended)


def test_positions_give_the_same_rows_however_they_are_taken(make: Callable[..., DataWorker]) -> None:
    worker = make()
    whole = worker.prompts("train", 0, 8, 1)[1].ragged("prompt_ids")
    parts = [worker.prompts("train", start, 4, 1)[1].ragged("prompt_ids") for start in (0, 4)]
    for index in range(8):
        assert whole[index].tolist() == parts[index // 4][index % 4].tolist()
    other = make("seed=2").prompts("train", 0, 8, 1)[1].ragged("prompt_ids")
    assert any(whole[i].tolist() != other[i].tolist() for i in range(8))


def test_other_texts_by_position(make: Callable[..., DataWorker], folder: Path) -> None:
    """They are no list that prompts are taken from, are read as SFT reads them, and watched at a resume."""
    (folder / "texts.jsonl").write_text(
        "\n".join(json.dumps({"text": f"In the year {i} it rained."}) for i in range(9))
    )
    worker = make("data.ptx=[{path: texts.jsonl}]", "algorithm.ptx_coef=1.0")
    again = RunData(recipe=worker.data.recipe, starts=worker.data.starts)
    [contents] = [preparing.contents for preparing in again.prepare() if preparing.contents is not None]
    assert contents.keys() == {"data.train.0", "data.ptx.0"}, "said at once"
    samples = responses(worker, ["one", "two"])
    zeros = Ragged.split(np.zeros(len(samples.ragged("response_ids").values), np.float32),
                         samples.ragged("response_ids").lengths)  # fmt: skip
    samples = samples.with_columns(old_logprobs=zeros, advantages=zeros)
    described, both = worker.with_texts(7, 4, batch=samples)
    assert len(described.lengths) == len(both) == 6
    said = [
        str(worker.data.tokenizer.decode([*both.ragged("prompt_ids")[row], *both.ragged("response_ids")[row]]))
        for row in range(2, 6)
    ]
    assert all("it rained." in text for text in said)
    last = worker.with_texts(9, 2, batch=samples)[1]
    assert last.ragged("response_ids")[2].tolist() == both.ragged("response_ids")[4].tolist()
    first_epoch = worker.data.texts(0, 9).ragged("response_ids")
    assert len({tuple(first_epoch[row].tolist()) for row in range(9)}) == 9


def test_a_judging_list_is_sampled_over_its_sources(make: Callable[..., DataWorker], folder: Path) -> None:
    """Not its first rows, which are the first source's."""
    other = folder / "judged.jsonl"
    other.write_text("\n".join(json.dumps({"prompt": f"Another {i}?"}) for i in range(60)))
    one = folder / "judged_too.jsonl"
    one.write_text("\n".join(json.dumps({"prompt": f"And one {i}?"}) for i in range(30)))
    worker = make("data.eval=[{path: judged.jsonl}, {path: judged_too.jsonl}]", "data.holdout=0")
    prompts = worker.prompts("eval", 0, 9, 1)[1].ragged("prompt_ids")
    asked = [str(worker.data.tokenizer.decode(prompts[i])) for i in range(9)]
    assert [sum(text.startswith(start) for text in asked) for start in ("Another", "And one")] == [6, 3]
    texts = [str(row.prompt) for row in worker.data.split("eval").rows(worker.data.units("eval", 0, 9))]  # type: ignore[union-attr]
    assert texts == asked, "reward functions are given the rows that were asked"


def test_answers_are_held_against_the_rows_that_were_asked(make: Callable[..., DataWorker], folder: Path) -> None:
    """Where the last rows of the sample cannot be asked, as here all of the second source, for want of an answer."""
    answered, other = folder / "answered.jsonl", folder / "unanswered.jsonl"
    answered.write_text("\n".join(json.dumps({"prompt": f"Say {i}", "answer": str(i)}) for i in range(60)))
    other.write_text("\n".join(json.dumps({"prompt": f"Nobody says {i}"}) for i in range(30)))
    worker = make(
        "data.eval=[{path: answered.jsonl}, {path: unanswered.jsonl}]", "data.holdout=0",
        "evaluation.metrics=[exact_match]",
    )  # fmt: skip
    asked = worker.questions("eval", 9)[1]
    prompts = [worker.data.tokenizer.decode(asked.ragged("prompt_ids")[at]) for at in range(len(asked))]
    assert len(prompts) == 6
    own = [prompt.split()[-1] for prompt in prompts]
    ids = [worker.data.tokenizer(text, add_special_tokens=False)["input_ids"] for text in own]
    rollout = asked.with_columns(response_ids=Ragged.of(ids, np.int32), ended=np.zeros(len(own), np.uint8))
    judged = worker.judge_answers("eval", 9, 6, batch=rollout)[0]
    assert judged.metrics["val/exact_match"] == 1.0
    assert [sample.wanted for sample in judged.samples] == own


def test_prompts_are_repeated_and_numbered(make: Callable[..., DataWorker]) -> None:
    report, batch = make().prompts("train", 3, 2, 3)
    assert batch.dense("sample").tolist() == [0, 1, 2, 3, 4, 5]
    assert batch.dense("unit").tolist() == list(report.units) == [0, 1, 2, 3, 4, 5]  # nothing keeps a prompt's together
    assert batch.dense("group").tolist() == [0, 0, 0, 1, 1, 1]
    assert report.lengths[0] == report.lengths[2] == len(batch.ragged("prompt_ids")[1])
    assert report.lengths[3] == len(batch.ragged("prompt_ids")[5])


def test_sizes_are_reported(make: Callable[..., DataWorker]) -> None:
    report: dict[str, Any] = make().report  # type: ignore[attr-defined]
    assert sum(report.num_units.values()) == len(ROWS)
    assert report.same_reward_tokenizer
    assert report.same_value_tokenizer


@pytest.mark.parametrize(("content", "told"), [(None, "no such file"), ('{"text": 3}', "general.jsonl:1")])
def test_general_text_is_read_before_any_model_is_loaded(
    make: Callable[..., DataWorker], folder: Path, content: str | None, told: str
) -> None:
    (folder / "general.jsonl").unlink(missing_ok=True)
    if content is not None:
        (folder / "general.jsonl").write_text(content)
    with pytest.raises(UserError) as caught:
        make("evaluation.general=general.jsonl")
    assert told in str(caught.value)


def test_leaked_rows_are_counted_and_none_where_there_are_none(make: Callable[..., DataWorker], folder: Path) -> None:
    planted = folder / "planted.jsonl"
    planted.write_text("\n".join(map(json.dumps, [ROWS[3], ROWS[5], {"prompt": "New?", "answer": "1"}])))
    lists = ("data.eval=[{path: planted.jsonl}]", "data.holdout=0")
    assert make(*lists).report.leaked == {"train": 2}  # type: ignore[attr-defined]
    kept = make(*lists, "data.on_leak=warn").report  # type: ignore[attr-defined]
    assert (kept.leaked, kept.num_units["train"]) == ({"train": 2}, 40)
    assert make().report.leaked == {}  # type: ignore[attr-defined]


def test_functions_are_weighted_and_see_the_rows_columns(make: Callable[..., DataWorker]) -> None:
    worker = make(
        "models.reward.functions=[scores_of_test:length, scores_of_test:right]", "models.reward.weights=[0.5, 10.0]"
    )
    asked = worker.data.split("train").rows(worker.data.units("train", 0, 2))
    answers = [str(row.extra["answer"]) for row in asked]
    means, scored = worker.function_scores("train", 0, 1, batch=responses(worker, [answers[0], "no idea"]))
    expected = [0.5 * len(answers[0]) + 10.0, 0.5 * len("no idea")]
    assert scored.dense("function_score").tolist() == pytest.approx(expected)
    assert means["rewards/right"] == pytest.approx(0.5)


def test_a_model_functions_and_servers_are_added_with_their_weights(make: Callable[..., DataWorker]) -> None:
    with judging() as judge:
        worker = make(
            "models.reward.functions=[scores_of_test:right]", "models.reward.weights=[10.0]",
            f"models.reward.http=[{{name: long, url: {judge.url}, weight: 0.5}}]", "models.reward.weight=2.0",
        )  # fmt: skip
        rollout = responses(worker, ["no idea", "neither"])
        means, scored = worker.function_scores("train", 0, 1, batch=rollout)
    (asked,) = judge.requests
    assert asked["completions"] == ["no idea", "neither"]
    assert asked["columns"].keys() == {"answer"}
    assert means == {"rewards/right": 0.0, "rewards/long": 7.0}
    both = rollout.with_columns(score=np.array([1.0, -1.0], np.float32), function_score=scored.dense("function_score"))
    assert worker._with_score(both).dense("score").tolist() == [5.5, 1.5]


def test_a_judge_is_asked_of_the_answers_to_each_prompt_and_how_far_it_goes_is_told(
    make: Callable[..., DataWorker],
) -> None:
    """Once of a row beforehand; then, with its weight, beside a function."""
    with judging() as judge:
        judge.answer = prefers(lambda a, b: "[[tie]]" if len(a) == len(b) else "[[A]]" if len(a) > len(b) else "[[B]]")
        named = f"{{name: long, url: '{judge.url}', model: big, weight: 4, asks: comparisons}}"
        worker = make(
            f"models.reward={{functions: [scores_of_test:length], judges: [{named}]}}", "rollout.samples_per_prompt=2"
        )
        assert len(judge.requests) == 1
        assert worker.report.warnings == ()  # type: ignore[attr-defined]
        rollout = responses(worker, ["no", "neither", "none", "some"])
        means, scored = worker.function_scores("train", 0, 2, batch=rollout)
        assert len(judge.requests) == 1 + 2 * 2
        rows = worker.data.split("train").rows(worker.data.units("train", 0, 2))
        for body in judge.requests[1:]:
            assert any(str(prompt_of(row)) in body["messages"][0]["content"] for row in rows)
    assert scored.dense("function_score").tolist() == [2.0, 7.0 + 4.0, 4.0 + 2.0, 4.0 + 2.0]
    assert means == {
        "rewards/length": 4.25, "rewards/long": 0.5,
        "judge/unread/long": 0.0, "judge/ties/long": 0.5, "judge/by_order/long": 0.0,
    }  # fmt: skip
    assert all(known(name) for name in means)


def test_several_reward_models_are_weighed_and_each_is_told(make: Callable[..., DataWorker]) -> None:
    further = f"{{safe: {{init: {INIT}, weight: -0.5}}, brief: {{init: {INIT}}}}}"
    functions = "models.reward.functions=[scores_of_test:length]"
    worker = make(f"models.rewards={further}", "models.reward.weight=2.0", functions)
    rollout = responses(worker, ["a", "b"])
    said = {"score": [1.0, -1.0], "score/safe": [2.0, 4.0], "score/brief": [0.25, 0.5]}
    columns = {name: np.array(values, np.float32) for name, values in said.items()}
    means, weighed = worker.weigh_scores(batch=rollout.with_columns(**columns))
    assert means == {"rewards/reward": 0.0, "rewards/safe": 3.0, "rewards/brief": 0.375}
    assert weighed.dense("score").tolist() == [2.0 - 1.0 + 0.25, -2.0 - 2.0 + 0.5]
    beside = rollout.with_columns(score=weighed.dense("score"), function_score=np.array([1.0, 1.0], np.float32))
    assert worker._with_score(beside).dense("score").tolist() == [2.25, -2.5]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("short", "answered 1 scores for 2"),
        ("nan", "answered nan for completion 0"),
        ("large", r"answered 1e\+39 for completion 0, which float32 cannot hold"),
        ("larger", "answered 10000"),
        ("broken", "KeyError: 'oops'"),
    ],
)
def test_a_bad_answer_is_the_functions(make: Callable[..., DataWorker], name: str, message: str) -> None:
    worker = make(f"models.reward.functions=[scores_of_test:{name}]")
    with pytest.raises(UserError, match=message) as caught:
        worker.function_scores("train", 0, 1, batch=responses(worker, ["a", "b"]))
    assert f"scores_of_test:{name}" in caught.value.where


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        ("{}", "TypeError.*pattern", "one finite number"),
        ("{matches: {patern: x}}", "matches names no argument patern", "did you mean pattern"),
        ("{matches: {pattern: '('}}", "no regular expression", "one finite number"),
        ("{matches: {pattern: x}, length: {limit: 3}}", "length names no argument limit", "it names: none"),
    ],
)
def test_wrong_arguments_are_said_before_anything_is_asked(
    make: Callable[..., DataWorker], arguments: str, message: str, hint: str
) -> None:
    functions = "models.reward.functions=[distft.rollout.rewards:matches, scores_of_test:length]"
    with pytest.raises(UserError, match=message) as caught:
        make(functions, f"models.reward.arguments={arguments}")
    assert hint in caught.value.hint


def test_functions_are_given_their_arguments(make: Callable[..., DataWorker]) -> None:
    names = ", ".join(f"distft.rollout.rewards:{name}" for name in ("matches", "length_penalty", "exact_match"))
    worker = make(
        f"models.reward.functions=[{names}]",
        "models.reward.arguments={matches: {pattern: 'no (i.*)'}, length_penalty: {limit: 0, buffer: 14}}",
    )
    means, scored = worker.function_scores("train", 0, 1, batch=responses(worker, ["no idea", "neither"]))
    assert means == {"rewards/matches": 0.0, "rewards/length_penalty": -0.5, "rewards/exact_match": 0.0}
    assert scored.dense("function_score").tolist() == [-0.5, -0.5]


def test_a_missing_function_names_those_that_are_there(make: Callable[..., DataWorker]) -> None:
    with pytest.raises(UserError, match="has no function lenght") as caught:
        reward_function("scores_of_test:lenght")
    assert "length" in caught.value.hint
    with pytest.raises(UserError, match="cannot import no_such_module"):
        reward_function("no_such_module:f")


@pytest.mark.parametrize(("template", "told"), [("glm", 1), ("qwen", 0)])
def test_a_template_that_ends_no_turn_is_told(tmp_path: Path, template: str, told: int) -> None:
    family_tokenizer(template, [row["prompt"] for row in ROWS]).save_pretrained(tmp_path / "model")
    chats = [
        {"messages": [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["answer"]}]}
        for row in ROWS
    ]
    (tmp_path / "chats.jsonl").write_text("\n".join(map(json.dumps, chats)))
    recipe = load_recipe(
        "sft-tiny",
        [f"output_dir={tmp_path / 'run'}", f"models.policy={{path: {tmp_path / 'model'}}}", "data.eval=[]",
         f"data.train=[{{path: {tmp_path / 'chats.jsonl'}}}]", "data.test=[]", "evaluation.every=0"],
    )  # fmt: skip
    warnings = DataWorker(recipe=recipe, starts=model_starts(recipe, tmp_path)).setup()[0].warnings
    assert ["<|endoftext|> is put behind each conversation" in warning for warning in warnings] == [True] * told


def test_a_value_model_of_another_tokenizer_is_not_replaced_in_silence(
    make: Callable[..., DataWorker], folder: Path
) -> None:
    other = folder / "others.jsonl"
    other.write_text("\n".join(json.dumps({"prompt": f"zzz qqq {i}"}) for i in range(50)))
    init = INIT.replace("}", ", tokenizer: {train_on: [{path: others.jsonl}]}}")
    with pytest.raises(UserError, match="its tokenizer is not the policy's") as caught:
        make(f"models.value.init={init}")
    assert caught.value.where == "models.value.init"


def test_a_teacher_of_another_tokenizer_is_refused(folder: Path) -> None:
    other = folder / "others.jsonl"
    other.write_text("\n".join(json.dumps({"prompt": f"zzz qqq {i}", "completion": "x"}) for i in range(50)))
    recipe = load_recipe(
        "distill-tiny",
        [
            f"output_dir={folder / 'run'}",
            f"models.teacher.init.tokenizer={{train_on: [{{path: {other}}}]}}",
            "data.train.0.limit=20",
            "data.eval=[]",
            "data.test=[]",
            "evaluation.every=0",
        ],
    )
    with pytest.raises(UserError, match="its tokenizer is not the policy's") as caught:
        DataWorker(recipe=recipe, starts=model_starts(recipe, folder / "run")).setup()
    assert caught.value.where == "models.teacher.init"
    assert "one family of models" in caught.value.hint


def test_a_teacher_that_lacks_a_row_for_a_token_is_refused(folder: Path) -> None:
    tokenizer = family_tokenizer("qwen", [row["prompt"] for row in ROWS])
    for name, missing in (("whole", 0), ("short", 1)):
        LlamaConfig(vocab_size=len(tokenizer) - missing).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    (folder / "answers.jsonl").write_text("\n".join(json.dumps({**row, "completion": "x"}) for row in ROWS))
    recipe = load_recipe(
        "distill-tiny",
        [f"output_dir={folder / 'run'}", f"models.policy={{path: {folder / 'whole'}}}",
         f"models.teacher={{path: {folder / 'short'}}}", f"data.train=[{{path: {folder / 'answers.jsonl'}}}]",
         "data.eval=[]", "data.test=[]", "evaluation.every=0"],
    )  # fmt: skip
    with pytest.raises(UserError, match="some can be neither told nor learned") as caught:
        DataWorker(recipe=recipe, starts=model_starts(recipe, folder / "run")).setup()
    assert caught.value.where == "models.teacher.path"


def test_a_teacher_without_the_policys_new_tokens_is_not_blamed(tmp_path: Path) -> None:
    tokenizer = family_tokenizer("qwen", [row["prompt"] for row in ROWS])
    LlamaConfig(vocab_size=len(tokenizer)).save_pretrained(tmp_path / "whole")
    tokenizer.save_pretrained(tmp_path / "whole")
    (tmp_path / "answers.jsonl").write_text("\n".join(json.dumps({**row, "completion": "x"}) for row in ROWS))
    recipe = load_recipe(
        "distill-tiny",
        [f"output_dir={tmp_path / 'run'}",
         f"models.policy={{path: {tmp_path / 'whole'}, extend_vocabulary: [zyx, wvu, tsr]}}",
         f"models.teacher={{path: {tmp_path / 'whole'}}}", f"data.train=[{{path: {tmp_path / 'answers.jsonl'}}}]",
         "data.eval=[]", "data.test=[]", "evaluation.every=0"],
    )  # fmt: skip
    n = len(tokenizer)
    with pytest.raises(
        UserError, match=f"policy's tokenizer has {n + 3} tokens, the teacher's head only {n} rows"
    ) as caught:
        DataWorker(recipe=recipe, starts=model_starts(recipe, tmp_path / "run"), weights=False).setup()
    assert caught.value.where == "models.policy.extend_vocabulary"
    assert "remove models.policy.extend_vocabulary" in caught.value.hint


def test_a_token_without_a_row_in_the_embedding_is_refused_where_a_row_has_it(
    make: Callable[..., DataWorker], folder: Path
) -> None:
    model = folder / "unresized"
    tokenizer = family_tokenizer("qwen", [row["prompt"] for row in ROWS])
    LlamaConfig(vocab_size=len(tokenizer) - 1).save_pretrained(model)
    unknown = tokenizer.convert_ids_to_tokens(len(tokenizer) - 1)
    tokenizer.save_pretrained(model)
    rows = [{"prompt": row["prompt"] + (unknown if number == 17 else "")} for number, row in enumerate(ROWS)]
    (folder / "unknown.jsonl").write_text("\n".join(map(json.dumps, rows)))
    paths = [f"models.{role}={{path: {model}}}" for role in ("policy", "reward")]
    make(*paths)
    with pytest.raises(UserError, match="the model's embedding has") as caught:
        make(*paths, "data.train=[{path: unknown.jsonl}]")
    assert unknown in caught.value.what
    assert caught.value.where.endswith("unknown.jsonl:18")


def test_a_reward_model_with_another_tokenizer_reads_the_text(make: Callable[..., DataWorker], folder: Path) -> None:
    other = folder / "other.jsonl"
    other.write_text("\n".join(json.dumps({"prompt": f"zzz qqq {i}"}) for i in range(50)))
    init = INIT.replace("}", ", tokenizer: {train_on: [{path: other.jsonl}]}}")
    worker = make(f"models.reward.init={init}")
    assert not worker.report.same_reward_tokenizer  # type: ignore[attr-defined]
    rollout = responses(worker, [" four<|end|>", "no idea<|end|>", " and so"])
    report, read = worker.reward_inputs("reward", "train", 0, 1, batch=rollout)
    assert read is not None
    assert report is not None
    for row, text in enumerate([" four", "no idea", " and so"]):
        ids = [*read.ragged("prompt_ids")[row], *read.ragged("response_ids")[row]]
        question = worker.data.tokenizer.decode(rollout.ragged("prompt_ids")[row])
        end = worker.data.readers["reward"].tokenizer.eos_token * (
            row < 2
        )  # what was cut at the limit has no end here either
        assert worker.data.readers["reward"].tokenizer.decode(ids) == question + text + end
        assert report.lengths[row] == len(ids)


def test_equal_tokenizers_need_no_second_reading(make: Callable[..., DataWorker]) -> None:
    worker = make()
    assert worker.reward_inputs("reward", "train", 0, 1, batch=responses(worker, ["a<|end|>"])) == (None, None)


def test_a_reward_model_of_the_same_tokenizer_reads_to_where_its_training_rows_end(
    make: Callable[..., DataWorker], folder: Path
) -> None:
    family_tokenizer("qwen", [row["prompt"] for row in ROWS]).save_pretrained(folder / "chatml")
    chats = [{"prompt": [{"role": "user", "content": row["prompt"]}]} for row in ROWS]
    (folder / "chats.jsonl").write_text("\n".join(map(json.dumps, chats)))
    paths = [f"models.{role}={{path: {folder / 'chatml'}}}" for role in ("policy", "reward")]
    worker = make(*paths, "data.train=[{path: chats.jsonl}]")
    rollout = responses(worker, ["four<|im_end|>", "five"])
    report, read = worker.reward_inputs("reward", "train", 0, 1, batch=rollout)
    assert read is not None
    assert report is not None
    encoder = Encoder(worker.data.tokenizer)
    prompt = prompt_of(worker.data.split("train").rows(worker.data.units("train", 0, 1))[0])
    trained = encoder.answer(prompt, (Message("assistant", "four"),), "x")
    assert read.ragged("prompt_ids")[0].tolist() == trained.prompt_ids
    assert read.ragged("response_ids")[0].tolist() == trained.response_ids
    assert worker.data.tokenizer.decode(read.ragged("response_ids")[1]) == "five"
    assert report.lengths[0] == len(trained)


def test_the_difference_looks_at_trained_tokens_only(make: Callable[..., DataWorker]) -> None:
    batch = Batch(
        {
            "sample": np.arange(1),
            "one": Ragged.of([[1.0, 2.0]], np.float32),
            "other": Ragged.of([[1.5, 9.0]], np.float32),
            "response_mask": Ragged.of([[1, 0]], np.uint8),
        }
    )
    assert make().logprob_difference("one", "other", batch=batch)[0] == Difference(0.5, 0.5, 0.5)


@pytest.mark.parametrize(("recipe", "role"), [("sft-tiny", "policy"), ("reward-tiny", "reward")])
def test_a_base_model_and_a_conversation_the_remedy_works_when_pasted(recipe: str, role: str, tmp_path: Path) -> None:
    base = train_tokenizer(["Who is there? A friend."] * 3, 300)
    base.chat_template = None
    base.save_pretrained(tmp_path / "base")
    turn = {"role": "assistant", "content": "A friend."}
    row = {"messages": [{"role": "user", "content": "Who?"}, turn], "prompt": "Who?", "chosen": [turn],
           "rejected": [turn | {"content": "Nobody."}]}  # fmt: skip
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))

    def set_up(*overrides: str) -> DataWorker:
        given = [f"output_dir={tmp_path}/run", f"data.train=[{{path: {tmp_path}/rows.jsonl}}]", "data.eval=[]",
                 "data.test=[]", "evaluation.every=0", f"models.{role}={{path: {tmp_path}/base}}"]  # fmt: skip
        loaded = load_recipe(recipe, [*given, *overrides])
        made = DataWorker(recipe=loaded, starts=model_starts(loaded, tmp_path))
        made.setup()
        return made

    with pytest.raises(UserError, match="is a conversation but the tokenizer .* has no chat template") as caught:
        set_up()
    remedy = caught.value.hint.split()[0]
    assert remedy == f"models.{role}.chat_template=chatml"
    batch = set_up(remedy).batch("train", 0, 1)[1]
    assert base.decode(batch.ragged("prompt_ids")[0]).startswith("<|im_start|>user\nWho?")
    assert base.eos_token_id in batch.ragged("response_ids")[0]


def test_labelled_answers_are_counted_and_weighed(tmp_path: Path) -> None:
    rows = [{"prompt": f"Q {n}", "completion": f" one {n}", "label": n % 4 == 0} for n in range(16)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))

    def warnings(*overrides: str) -> tuple[str, ...]:
        given = [f"output_dir={tmp_path}/run", f"data.train=[{{path: {tmp_path}/rows.jsonl}}]", "data.eval=[]",
                 "data.test=[]", "evaluation.every=0", f"models.policy.init={INIT}"]  # fmt: skip
        recipe = load_recipe("kto-tiny", [*given, *overrides])
        return DataWorker(recipe=recipe, starts=model_starts(recipe, tmp_path)).setup()[0].warnings

    (said,) = warnings()
    assert said.startswith("data.train: 4 good answers and 12 bad ones")
    remedy = said.rpartition(": ")[2]
    assert remedy == "algorithm.desirable_weight=3.5"
    assert warnings(remedy) == ()
