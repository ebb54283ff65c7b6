"""What an eval stage is refused for before the first stage of its pipeline starts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distft.common.errors import UserError
from distft.config.pipeline import EvalStage, load_pipeline
from distft.launch.preflight.evaluations import check_eval_stage
from tests.harness.speakers import write_speaker
from tests.unit.models.encoders import write_encoder

STAGES = {
    "sft": {"recipe": "sft-tiny"},
    "scorer": {"recipe": "reward-tiny", "models": {"reward": {"path": "stage:sft"}}},
    "masked": {"recipe": "mlm-tiny"},
    "labels": {"recipe": "classification-tiny"},
    "found": {"recipe": "contrastive-tiny"},
}


def checked(folder: Path, **keys: object) -> tuple[str, ...]:
    stages = {**STAGES, "judged": keys}
    path = folder / "mine.yaml"
    path.write_text(json.dumps({"name": "mine", "output_dir": str(folder / "runs"), "stages": stages}))
    stage = load_pipeline(str(path)).stages[-1]
    assert isinstance(stage, EvalStage)
    return check_eval_stage(stage)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_what_can_be_done_is_taken(here: Path) -> None:
    model = write_speaker(here / "model")
    assert checked(here, eval=["stage:sft"]) == ()
    assert checked(here, eval=["stage:sft", model], rows="prompts", reward="stage:scorer", correct="number") == ()
    assert checked(here, eval=[model], data=["builtin:dialogues"], toxicity="stage:labels") == ()
    assert checked(here, eval=["stage:labels"]) == ()
    made = str(here / "runs" / "sft" / "final" / "adapter")
    assert checked(here, eval=["stage:sft"], adapter=made, chat_template="chatml", min_new_tokens=2) == ()
    shots = here / "shots.jsonl"
    shots.write_text('{"prompt": "a", "completion": "b"}\n{"prompt": 1}\n')  # which no exemplar is taken from
    assert checked(here, eval=["stage:sft"], shots=[1], shots_from=[str(shots)]) == ()
    assert checked(here, eval=["stage:scorer", "stage:sft"]) == ()


@pytest.mark.parametrize(("keys", "said"), [
    ({"eval": ["stage:masked"]}, "mlm is judged within its run, by texts that are corrupted there"),
    ({"eval": ["stage:sft"], "data": ["rows.jsonl"]}, "there is no such file"),
    ({"eval": ["stage:sft", "no/where/model"]}, "no/where/model"),
    ({"eval": ["sft"]}, "\n  did you mean stage:sft?"),
    ({"eval": ["stage:sft"], "rows": "prompts", "reward": "scorer"}, "\n  did you mean stage:scorer?"),
    ({"eval": ["stage:sft"], "correct": "exat"}, "is no way to tell right answers"),
    ({"eval": ["stage:sft"], "split": "tset"}, "is no list of a recipe\n  train, eval or test"),
    ({"eval": ["stage:sft"], "reward": "stage:sft"},
     "reward: stage:sft: has no scalar head: it is not a reward model\n  name a reward model, or the stage of one"),
    ({"eval": ["stage:sft"], "reward": "MODEL"}, "has no scalar head: it is not a reward model"),
    ({"eval": ["stage:sft"], "toxicity": "MODEL"}, "is no classifier\n  name a sequence classifier"),
    ({"eval": ["stage:sft"], "reference": "stage:scorer"},
     "reference: stage:scorer: is a reward model: it scores answers and writes none\n  name a language model, or"),
    ({"eval": ["stage:sft"], "reference": "stage:masked"}, "reference: stage:masked: is an encoder: it fills"),
    ({"eval": ["stage:sft"], "reference": "SCORER"}, "scorer: is a reward model: it scores answers and writes none"),
    ({"eval": ["stage:sft", "MODEL"], "judge": "SCORER"},
     "scorer: is a reward model: it scores answers and writes none"),
    ({"eval": ["stage:sft"], "toxicity": "stage:sft"}, "toxicity: stage:sft: has no scalar head"),
    ({"eval": ["stage:sft", "stage:masked"]}, "eval stage:masked: is an encoder: it fills in masked words"),
    ({"eval": ["stage:sft", "stage:found"]}, "eval stage:found: is a model of texts: it turns them into vectors"),
    ({"eval": ["stage:sft", "ENCODER"]}, "encoder: is an encoder: it fills in masked words"),
    ({"eval": ["stage:sft", "SCORER"]}, "scorer: a reward model is judged by pairs of answers\n  rows: pairs, with"),
    ({"eval": ["stage:labels", "MODEL"]}, "model: only classifiers are judged by labels\n  train one"),
    ({"eval": ["stage:sft", "stage:scorer"]},
     "eval stage:scorer: a reward model is judged by pairs of answers\n  rows: pairs"),
    ({"eval": ["stage:labels", "stage:sft"]}, "eval stage:sft: only classifiers are judged by labels"),
    ({"eval": ["MODEL"]}, "there are no rows to judge by\n  data: PATH"),
    ({"eval": ["stage:sft"], "adapter": "no/such"}, "no/such: holds no adapter (adapter_config.json)"),
    ({"eval": ["stage:sft"], "chat_template": "nope.jinja"}, "chat_template: no chat template 'nope.jinja'"),
    ({"eval": ["stage:sft"], "shots": [1], "shots_from": ["nope.jsonl"]}, "nope.jsonl: there is no such file"),
    ({"eval": ["stage:sft"], "shots": [0, 3], "shots_from": ["two.jsonl"]},
     "shots: 3: 2 rows of training have a prompt and an answer\n  shots: 2, or shots_from: PATH"),
    ({"eval": ["stage:sft"], "shots": [5000]}, "shots: 5000: "),
    ({"eval": ["stage:sft"], "min_new_tokens": 99, "max_new_tokens": 4},
     "min_new_tokens: 99 is more than max_new_tokens 4"),
    ({"eval": ["stage:sft"], "temperature": 99}, "must be at most 10, not 99"),
    ({"eval": ["stage:scorer"], "toxicity": "stage:labels"},
     "toxicity: stage:labels: reads answers, and stage:scorer writes none\n  name language models in eval"),
    ({"eval": ["stage:labels"], "toxicity": "stage:labels"},
     "toxicity: stage:labels: reads answers, and stage:labels writes none"),
    ({"eval": ["stage:sft", "stage:scorer"], "rows": "pairs", "judge": "stage:sft"},
     "judge: stage:sft: judges answers, and stage:scorer writes none"),
    ({"eval": ["stage:scorer"], "shots": [0]}, "shots: [0]: is about answers, and stage:scorer writes none"),
    ({"eval": ["stage:labels"], "shots": [0]}, "shots: [0]: is about answers, and stage:labels writes none"),
    ({"eval": ["stage:scorer"], "correct": "number"}, "correct: number: says which answers are right, and stage:sc"),
    ({"eval": ["MODEL"], "rows": "prompts", "reference": "stage:sft"}, "there are no rows to judge by\n  data: PATH"),
    ({"eval": ["MODEL", "stage:sft"], "rows": "prompts"}, "there are no rows to judge by\n  data: PATH"),
])  # fmt: skip
def test_what_cannot_is_said_with_its_stage(keys: dict[str, object], said: str, here: Path) -> None:
    model = write_speaker(here / "model")
    (here / "two.jsonl").write_text('{"prompt": "a", "completion": "b"}\n{"prompt": 1}\n' * 2)
    named = json.dumps(keys).replace("MODEL", model)
    for word, labels in (("SCORER", 1), ("ENCODER", None)):
        if word in named:
            named = named.replace(word, write_encoder(here / word.lower(), "bert", num_labels=labels))
    with pytest.raises(UserError) as caught:
        checked(here, **json.loads(named))
    assert said in str(caught.value)
    assert str(caught.value).startswith("stages.judged")
    assert "--" not in str(caught.value), "keys, not options"
