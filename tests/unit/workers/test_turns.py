"""The data worker's verbs of turns with a real policy and a real environment, in one process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from distft.batches import Batch, Ragged, concatenate
from distft.common.seeding import derive
from distft.config.load import load_recipe
from distft.launch.starts import model_starts
from distft.rollout.generator import Sampling
from distft.rollout.hf import HfGenerator
from distft.rollout.sampling import uniforms
from distft.workers.data_worker import DataWorker

COUNT, REPEATS, TURN, TURNS = 3, 4, 12, 4


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> DataWorker:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("turns")
    recipe = load_recipe("tools-tiny", [
        f"output_dir={folder}", "rollout.environment.name=tests.harness.talker:Talker", "data.max_length=108",
        f"rollout.environment.max_turns={TURNS}", "rollout.max_new_tokens=100",
        "models.policy.init.max_positions=128",
    ])  # fmt: skip
    made = DataWorker(recipe=recipe, starts=model_starts(recipe, folder))
    made.setup()
    return made


@pytest.fixture(scope="module")
def generator(worker: DataWorker) -> HfGenerator:
    """Any of 64 tokens ends a turn, so that there are turns at all."""
    module = AutoModelForCausalLM.from_pretrained(worker.data.starts["policy"].path)
    return HfGenerator(module, stop_tokens=(1, *range(40, 104)), pad_token=0, synchronized=False)


def play(worker: DataWorker, generator: HfGenerator, at_once: int) -> Batch:
    """A rollout of the train prompts from position 2, ``at_once`` samples in a batch."""
    prompts = worker.prompts("train", 2, COUNT, REPEATS)[1]
    worker.begin_turns("train", 2, REPEATS, batch=prompts)
    going: Batch | None = prompts
    for turn in range(TURNS):
        assert going is not None
        parts, seed = [], derive(1, "turn", turn) if turn else 1
        for start in range(0, len(going), at_once):
            part = going.take(range(start, min(start + at_once, len(going))))
            samples = part.dense("sample").tolist()
            draws = [uniforms(seed, 5, sample, TURN) for sample in samples]
            rows = [part.ragged("prompt_ids")[row] for row in range(len(part))]
            parts.append(generator.generate(rows, draws, Sampling(TURN)).with_columns(sample=np.array(samples)))
        told, going = worker.take_turns(batch=concatenate(parts[::-1]))
        if not told.samples:
            break
    return worker.finish_turns()[1]


def rows_of(column: Ragged) -> list[list[float]]:
    return [column[row].tolist() for row in range(len(column))]


def test_a_sample_is_the_same_whatever_it_is_sampled_beside(worker: DataWorker, generator: HfGenerator) -> None:
    together, alone = play(worker, generator, 12), play(worker, generator, 1)
    for name in ("response_ids", "response_mask"):
        assert rows_of(together.ragged(name)) == rows_of(alone.ragged(name))
    for name in ("ended", "score", "turns", "sample"):
        assert together.dense(name).tolist() == alone.dense(name).tolist()
    assert len(set(together.dense("turns").tolist())) > 1, "some go on where others have ended"


def test_the_policy_has_sampled_what_it_is_trained_on(worker: DataWorker, generator: HfGenerator) -> None:
    """Teacher-forced over the whole sequence, the log-probs are those with which each turn was sampled."""
    prompts, found = worker.prompts("train", 2, COUNT, REPEATS)[1], play(worker, generator, 12)
    for row in range(len(found)):
        prompt, ids = prompts.ragged("prompt_ids")[row], found.ragged("response_ids")[row]
        own = found.ragged("response_mask")[row] == 1
        whole = torch.tensor([[*prompt.tolist(), *ids.tolist()]])
        with torch.no_grad():
            logprobs = generator.module(input_ids=whole).logits[0, len(prompt) - 1 : -1].float().log_softmax(-1)
        read = logprobs[torch.arange(len(ids)), torch.tensor(ids.tolist())].numpy()
        np.testing.assert_allclose(read[own], found.ragged("sampled_logprobs")[row][own], atol=1e-5)


def test_what_is_shown_says_who_spoke(worker: DataWorker, generator: HfGenerator) -> None:
    found = play(worker, generator, 12)
    shown, _ = worker.texts(12, batch=worker.prompts("train", 2, COUNT, REPEATS)[1].with_columns(**found.columns))
    for sample, num_turns, score in zip(shown, found.dense("turns"), found.dense("score"), strict=True):
        assert sample.turns is not None
        assert [by for by, _ in sample.turns] == ["policy", *["environment", "policy"] * (num_turns - 1)]
        assert sample.completion == "\n".join(text for _, text in sample.turns)
        assert sample.score == score


def test_another_rollout_forgets_the_one_before(worker: DataWorker, generator: HfGenerator) -> None:
    prompts = worker.prompts("train", 0, 1, 1)[1]
    worker.begin_turns("train", 0, 1, batch=prompts)
    assert play(worker, generator, 12).dense("sample").tolist() == list(range(COUNT * REPEATS))


NOTING = """
class Noting:
    def reset(self, row):
        self.row = row
        row["tools"].append("another")

    def step(self, text):
        return None, float(len(self.row["tools"])), True
"""


def test_what_an_environment_does_to_its_row_no_other_sample_sees(tmp_path: Path) -> None:
    (tmp_path / "noting.py").write_text(NOTING)
    (tmp_path / "rows.jsonl").write_text('{"prompt": "3*4", "tools": ["first"]}\n' * 2)
    recipe = load_recipe("tools-tiny", [
        f"output_dir={tmp_path / 'run'}", f"data.train=[{{path: '{tmp_path / 'rows.jsonl'}'}}]", "data.eval=[]",
        "data.test=[]", "evaluation.every=0", f"rollout.environment.name={tmp_path / 'noting.py'}:Noting",
    ])  # fmt: skip
    noting = DataWorker(recipe=recipe, starts=model_starts(recipe, tmp_path))
    noting.setup()
    for _ in range(2):  # another rollout of the same rows, too
        prompts = noting.prompts("train", 0, 2, 2)[1]
        noting.begin_turns("train", 0, 2, batch=prompts)
        said = Ragged.of([[5, 1]] * 4, np.int32), Ragged.of([[0.0, 0.0]] * 4, np.float32)
        columns = {"sample": prompts.dense("sample"), "ended": np.ones(4, np.uint8)}
        noting.take_turns(batch=Batch({**columns, "response_ids": said[0], "sampled_logprobs": said[1]}))
        assert noting.finish_turns()[1].dense("score").tolist() == [2.0] * 4
