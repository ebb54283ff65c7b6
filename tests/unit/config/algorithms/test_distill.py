"""What distillation asks of a recipe."""

from __future__ import annotations

import pytest

from distft.common.errors import UserError
from distft.config.load import load_recipe
from distft.config.method import Telling
from distft.launch.starts import role_spec, worker_of
from distft.planning.footprint import Roles, SizeBook, role_memory


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["algorithm.on_policy=0.5", "algorithm.loss_on=all"], r"algorithm.loss_on.*all: of the policy's own answers"),
        (["algorithm.on_policy=1.5"], r"algorithm.on_policy"),
        (
            ["algorithm.on_policy=0.5", "rollout.max_new_tokens=128"],
            r"rollout.max_new_tokens.*128 leaves no room for a prompt in data.max_length 128",
        ),
        (
            ["algorithm.on_policy=0.5", "data.train.0.format=text"],
            r"algorithm.on_policy.*data.train.0 is plain text: it asks nothing",
        ),
        (["algorithm.on_policy=0.5", "rollout.samples_per_prompt=2"], r"rollout.samples_per_prompt.*answered once"),
        (
            ["algorithm.on_policy=0.5", "rollout.min_new_tokens=64", "rollout.max_new_tokens=40"],
            r"rollout.min_new_tokens.*64 is more than max_new_tokens 40",
        ),
        (
            ["algorithm.on_policy=0.5", "rollout.engine=vllm"],
            r"rollout.engine.*has the policy's own ranks answer",
        ),
        (
            ["algorithm.on_policy=0.5", "rollout.overlap=1"],
            r"rollout.overlap.*has the policy's own ranks answer",
        ),
        (["algorithm.on_policy=0.5", "models.policy.engine.sequence_parallel=2"], r"sequence_parallel.*of whole rows"),
        (
            ["algorithm.on_policy=0.5", "models.policy.quantization={}", "models.policy.peft={}"],
            r"rollout.weights.*gathered is a copy of whole weights",
        ),
        (["algorithm.beta=0.3"], r"algorithm.beta.*no effect on the divergence forward"),
        (["algorithm.divergence=js", "algorithm.beta=1.0"], r"algorithm.beta"),
        (["models.teacher=null"], r"models.teacher.*is missing: distill needs it"),
        (["models.teacher.init.vocab_size=700"], r"models.teacher.init.vocab_size.*the teacher reads the policy's"),
        (["models.teacher.peft.method=lora"], r"models.teacher.peft.*this model is frozen"),
        (["placement.teacher.share=policy"], r"placement.teacher.share.*no base that could be the teacher"),
        (["models.reference.path=x"], r"models.reference.*distill has no reference model"),
    ],
)
def test_what_does_not_go_together_is_refused(keys: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_recipe("distill-tiny", keys)


def test_others_have_no_teacher() -> None:
    with pytest.raises(UserError, match="dpo has no teacher model"):
        load_recipe("dpo-tiny", ["models.teacher.path=x"])


def test_bytes_of_what_is_told() -> None:
    """A float32 for each outcome, an int32 for each name; never more names than tokens."""
    assert Telling(64, 1.0).bytes_of(128_256) == 4 * 65 + 4 * 64
    assert Telling(None, 1.0).bytes_of(128_256) == 4 * 128_256
    assert Telling(64, 1.0).bytes_of(10) == 4 * 11 + 4 * 10


def test_a_policy_that_answers_in_training_has_a_generator_and_room_for_it_in_the_plan() -> None:
    """Even where nothing is judged. The copy that it answers with is there all along, unless it answers with shards."""
    silent = ["data.eval=[]", "data.test=[]", "evaluation.every=0", "placement.policy.ranks=2"]
    given, own, sharded = (
        load_recipe("distill-tiny", [*silent, *more])
        for more in ([], ["algorithm.on_policy=0.25"], ["algorithm.on_policy=0.25", "rollout.weights=sharded"])
    )
    assert worker_of(given, "policy").endswith(":ModelWorker")
    assert worker_of(own, "policy").endswith(":GeneratorWorker")
    assert worker_of(own, "teacher").endswith(":ModelWorker")
    kept = [
        {
            item.name: item.bytes
            for item in role_memory(Roles(one, SizeBook()), "policy", 2, gpu=False, shared=False).items
        }
        for one in (given, own, sharded)
    ]
    assert ["key-value cache" in items for items in kept] == [False, True, True]
    assert ["generation twin" in items for items in kept] == [False, True, False]
    assert [role_spec(one, "policy").gathered_generation for one in (given, own, sharded)] == [False, True, False]
