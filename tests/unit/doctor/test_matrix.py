"""What goes together is what the checks of a run say, and the lines say exactly that."""

from __future__ import annotations

import json
from dataclasses import asdict
from itertools import product

import pytest

from distft.cli import main
from distft.config.find_method import built_in_kinds
from distft.doctor.matrix import Matrix, minimal_refusals, support_matrix
from distft.doctor.support import Cell, Verdict, axes


@pytest.fixture(scope="module")
def matrix() -> Matrix:
    return support_matrix(built_in_kinds())


def cell(**changed: str) -> Cell:
    plain = {name: values[0] for name, values in axes().items()} | {"engine": "hf"}
    return Cell(**(plain | changed))


def test_every_method_can_be_trained_plainly_with_some_family(matrix: Matrix) -> None:
    for method in built_in_kinds():
        said = [matrix.verdicts[cell(method=method, family=family)].said for family in axes()["family"]]
        assert "yes" in said, method


@pytest.mark.parametrize(
    ("changed", "said", "why"),
    [
        ({"method": "sft"}, "yes", ""),
        ({"method": "sft", "adapter": "lora", "quantization": "nf4"}, "yes", ""),
        ({"method": "sft", "quantization": "nf4"}, "no", "models.policy.quantization: this model is trained"),
        ({"method": "mlm", "family": "encoder"}, "yes", ""),
        ({"method": "mlm"}, "no", "mlm is learned by an encoder"),
        ({"method": "ppo", "family": "encoder"}, "no", "cannot write an answer"),
        ({"method": "grpo", "engine": "vllm"}, "yes", ""),
        ({"method": "grpo", "engine": "vllm", "family": "encoder-decoder"}, "no", "vLLM has no t5"),
        ({"method": "grpo", "adapter": "lora", "quantization": "nf4", "zero_stage": "3"}, "yes", ""),
        ({"method": "dpo", "adapter": "selective"}, "yes", ""),
        ({"method": "sft", "adapter": "bottleneck", "zero_stage": "3"}, "yes", ""),
        ({"method": "sft", "adapter": "adalora", "zero_stage": "0"}, "yes", ""),
        ({"method": "sft", "adapter": "adalora", "zero_stage": "3"}, "no", "reads whole gradients"),
        ({"method": "sft", "adapter": "diff_pruning", "zero_stage": "2"}, "yes", ""),
        ({"method": "sft", "adapter": "diff_pruning", "zero_stage": "3"}, "no", "whole on every rank"),
        ({"method": "dpo", "adapter": "diff_pruning", "zero_stage": "2"}, "no", "draws gates"),
        ({"method": "orpo", "adapter": "prefix"}, "no", "have not been compared in orpo"),
    ],
)
def test_the_verdict_is_what_a_run_is_told(matrix: Matrix, changed: dict[str, str], said: str, why: str) -> None:
    verdict = matrix.verdicts[cell(**changed)]
    assert verdict.said == said
    assert why in "".join(verdict.refusals)


def test_the_refusals_refuse_what_is_refused_and_nothing_else(matrix: Matrix) -> None:
    told = [
        dict(zip(refusal.choices, choice, strict=True))
        for refusal in minimal_refusals(matrix.verdicts)
        for choice in product(*refusal.choices.values())
    ]
    for one, verdict in matrix.verdicts.items():
        assert any(choice.items() <= asdict(one).items() for choice in told) is bool(verdict.refusals), one


def test_what_follows_from_others_is_not_told() -> None:
    """``a`` with ``x`` is refused, and ``b`` with ``y``: that ``x`` and ``y`` never meet in what goes is no rule."""
    verdicts = {
        cell(method=method, family=family, adapter=adapter): Verdict(
            ("a: x",) * ((method, family) == ("a", "x")) + ("b: y",) * ((method, adapter) == ("b", "y"))
        )
        for method in ("a", "b")
        for family in ("w", "x")
        for adapter in ("z", "y")
    }
    told = [(dict(refusal.choices), refusal.why) for refusal in minimal_refusals(verdicts)]
    assert told == [({"method": ("a",), "family": ("x",)}, "a: x"), ({"method": ("b",), "adapter": ("y",)}, "b: y")]


def test_those_that_are_refused_in_the_same_words_are_one_line() -> None:
    verdicts = {
        cell(method=method, family=family): Verdict(
            (f"a.b: {method} is not the a's",) * (family == "x" and method != "c")
            + (f"c.b: no {method}",) * (family == "y")
        )
        for method in ("a", "b", "c")
        for family in ("w", "x", "y")
    }
    told = [(dict(refusal.choices), refusal.why) for refusal in minimal_refusals(verdicts)]
    assert told == [
        ({"family": ("y",)}, "c.b: no a"),
        ({"method": ("a", "b"), "family": ("x",)}, "a.b: METHOD is not the a's"),
    ]


def test_the_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--matrix", "mlm", "span", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["cells"]
    yes = {(one["method"], one["family"]) for one in found if one["verdict"] != "no"}
    assert yes == {("mlm", "encoder"), ("span", "encoder-decoder")}
    assert all(bool(one["why"]) for one in found if one["verdict"] == "no")
    run = [one for one in found if one["run_by_tests"]]
    assert {(one["method"], one["adapter"]) for one in run} >= {("mlm", "lora"), ("span", "none")}
    assert "no" not in {one["verdict"] for one in run}
    assert main(["doctor", "--matrix", "mlm", "span"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert "mlm     no       no               yes" in shown
    assert "  family decoder" in shown  # neither learns with one
    assert main(["doctor", "--matrix", "mlm"]) == 0
    alone = capsys.readouterr().out
    assert "  family encoder-decoder\n" in alone  # whatever else is chosen
    assert "rollout.engine: vllm has no effect: mlm does not sample" in alone
    assert "models.reward" not in alone  # which it does not train


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (["--matrix", "grop"], "--matrix: knows no method grop\n  did you mean grpo?"),
        (["--matrix", "grpo-tiny"], "--matrix: knows no method grpo-tiny\n  did you mean grpo?"),
        (["--matrix", "gkd-tiny"], "--matrix: knows no method gkd-tiny\n  did you mean distill?"),
        (["--matrix", "--cluster", "local"], "--cluster: has no effect beside --matrix"),
        (["--matrix", "--recipe", "sft-tiny"], "--recipe: has no effect beside --matrix"),
    ],
)
def test_what_is_typed_wrong(capsys: pytest.CaptureFixture[str], said: list[str], message: str) -> None:
    assert main(["doctor", *said]) == 2
    assert message in capsys.readouterr().err
