"""Groups that only write down what they are asked, for tests of the loops alone: who is called, in which order, with
whose columns. What the calls compute is tested with real groups (tests/e2e)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from distft.batches import Difference
from distft.checkpoint.manifest import FileRecord
from distft.clients.data_group import DataGroup
from distft.clients.model_group import ModelGroup
from distft.common.verb import Verb, declaration
from distft.groups.handles import Call, DataRef, Part, Result, Wait, WorkerInfo
from distft.tracking.metrics import Sample
from distft.workers.reports import Answers, Credited, Described, Judged, Memory, Played, Sent, Synced, Turned, Updated
from distft.workers.verbs import DataVerbs

EQUAL = Difference(0.0, 0.0, 0.0)
PROMPT, RESPONSE = 5, 3  # tokens
PER_PROMPT = 2
MEMORY = Memory(0, 0, 0, {}, rss_bytes=1)


@dataclass
class Said:
    """What the groups were asked, in order, and how they answer.

    ``at_once``: the calls that were under way together when one of them was waited for, in the order of their start.
    """

    at_once: list[tuple[str, ...]] = field(default_factory=list)
    calls: list[Call[Any]] = field(default_factory=list)
    states: list[dict[str, Any]] = field(default_factory=list)
    trainer_difference: Difference = EQUAL
    reference_difference: Difference | None = EQUAL
    loss: float = 1.0
    differing: list[int] = field(default_factory=list)  # of each round, prompts whose PER_PROMPT scores differ
    probes: dict[str, tuple[float, ...]] = field(default_factory=dict)  # the log-probs of known tokens, by role
    rejected: int = 0  # rejected answers among held-out rows
    no_room: bool = False  # no prompt of training leaves room for an answer
    version: int = 0  # of the weights that engines have
    chosen: list[list[int]] = field(default_factory=list)  # of each iteration, the units of samples that are trained on
    going: list[tuple[int, ...]] = field(default_factory=list)  # the samples that go on behind each turn
    left_out: dict[str, list[str]] = field(default_factory=dict)  # why each update of a role has not taken its step
    _under_way: list[str] = field(default_factory=list)

    def start(self, calls: Sequence[Call[Any]]) -> tuple[Wait, ...]:
        self._under_way.extend(f"{call.group.role}.{call.verb.name}" for call in calls)
        self.calls.extend(calls)
        return tuple(partial(self._wait, call) for call in calls)

    def last(self, call: Call[Any], seconds: float) -> Result[Any]:
        self.calls.append(call)
        return self._answer(call)

    def _wait(self, call: Call[Any]) -> Result[Any]:
        if self._under_way:
            self.at_once.append(tuple(self._under_way))
            self._under_way.clear()
        return self._answer(call)

    def asked(self, verb: Any) -> list[Call[Any]]:
        """The calls of a verb."""
        return [call for call in self.calls if call.verb == declaration(verb)]

    def _answer(self, call: Call[Any]) -> Result[Any]:
        samples = [s for source in call.data[:1] for s in source.samples]
        if call.verb == declaration(DataVerbs.general_text):
            samples = [0, 1]
        if call.verb == declaration(DataVerbs.rejected_answers):
            samples = list(range(self.rejected))
        if call.verb == declaration(DataVerbs.kept_responses):
            samples = list(range(4))
        if call.verb == declaration(DataVerbs.questions):
            samples = list(range(call.args[1]))
        if call.verb in (declaration(DataVerbs.prompts), declaration(DataVerbs.batch)):
            _, _, count, *repeats = call.args
            samples = list(range(count * (repeats[0] if repeats else 1)))
        if call.verb == declaration(DataVerbs.own_prompts):
            samples = [] if self.no_room else list(range(call.args[1]))
        if call.verb == declaration(DataVerbs.with_texts):
            samples = list(range(len(samples) + call.args[1]))
        if call.verb == declaration(DataVerbs.informative):
            at_most, first = call.args
            samples = [first + number for number in range(min(at_most, self.differing.pop(0)) * PER_PROMPT)]
        if call.verb == declaration(DataVerbs.take_turns):
            samples = list(self.going.pop(0))
        if call.verb == declaration(DataVerbs.finish_turns):
            samples = list(range(4))
        report = self._report(call, samples)
        if isinstance(report, Credited) and report.chosen is not None:
            samples = list(range(len(report.chosen.units)))
        brought = None if call.verb == declaration(DataVerbs.reward_inputs) else f"{call.group.role}.{call.verb.name}"
        parts = (Part(brought, tuple(samples)),) if samples and brought else ()
        data = DataRef(parts) if parts or isinstance(report, Credited) else None
        return Result(report, (report,) * call.group.num_ranks, data, 0.5)

    def _report(self, call: Call[Any], samples: list[int]) -> Any:
        step = {"loss": self.loss}
        match call.verb.name:
            case "keep_responses":
                return [FileRecord("rollout/ahead.safetensors", 1, "")]
            case "kept_responses":
                return Described((RESPONSE,) * len(samples), tuple(samples))
            case (
                "own_prompts" | "questions" | "rejected_answers" | "general_text" | "prompts" | "batch" | "with_texts"
                | "informative" | "mismatched"
            ):  # fmt: skip
                return Described((PROMPT,) * len(samples), tuple(samples))
            case "begin_turns":
                return None
            case "keep_step":
                return ""
            case "take_turns":
                return Turned(tuple(samples), (PROMPT + RESPONSE,) * len(samples))
            case "finish_turns":
                lengths = (2 * RESPONSE,) * len(samples)
                return Played(tuple(samples), lengths, len(samples), {"rollout/turns": 1.5})
            case "generate":
                return Answers(self.version, tuple(samples), (RESPONSE,) * len(samples))
            case "judge_answers":
                return Judged({"val/f1": 0.5}, (Sample("p", "c"),) * call.args[2])
            case "texts":
                return [Sample("p", "c", 1.0)] * call.args[0]
            case "score_summary":
                return {"score": 1.0}
            case "function_scores":
                return {"rewards/one": 1.0}
            case "update":
                reasons = self.left_out.get(call.group.role)
                return Updated((step,), (reasons.pop(0) if reasons else "",), MEMORY)
            case "evaluate":
                return step
            case "sync_weights":
                return Synced(1, 0.1)
            case "send_weights" | "receive_weights":
                self.version = call.args[1]
                return Sent(call.args[1], 1, 0.1, self.probes.get(call.group.role, (-1.0, -2.0)))
            case "logprob_difference":
                return self.reference_difference
            case "assign_credit":
                self.states.append(call.args[0])
                state = {"seen": call.args[0].get("seen", 0) + 1}
                said = Credited({"kl_coef": 0.5}, state, self.trainer_difference, self.reference_difference)
                if not self.chosen:
                    return said
                units = self.chosen.pop(0)
                return replace(said, chosen=Described((PROMPT + RESPONSE,) * len(units), tuple(units)))
            case "forward" | "distributions" | "reward_inputs" | "kl_baseline" | "load":
                return None
            case "write_weights" | "take_weights":
                return None
        raise AssertionError(f"nobody asks for {call.verb.name} here")


@dataclass
class Fake:
    """The Protocol `Group`, which starts nothing."""

    role: str
    said: Said
    num_ranks: int = 1
    micro_batch_cost: int | None = None
    workers: tuple[WorkerInfo, ...] = ()

    def call(
        self, verb: Verb, *args: Any, each: Any = None, data: Any = (), samples: Any = None,
        deadline_s: float | None = None, **kwargs: Any,
    ) -> Call[Result[Any]]:  # fmt: skip
        by_rank = None if samples is None else tuple(map(tuple, samples))
        own = None if each is None else tuple(each)
        return Call(self, verb, self.said, lambda result: result, args, kwargs, own, tuple(data), by_rank, deadline_s)


def fake_model(role: str, said: Said) -> ModelGroup:
    return ModelGroup(Fake(role, said))


def fake_data(said: Said) -> DataGroup:
    return DataGroup(Fake("data", said))
