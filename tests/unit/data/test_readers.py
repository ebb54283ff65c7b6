from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distft.common.errors import UserError
from distft.data.bad_rows import BadRow, Unusable
from distft.data.formats import (
    CompletionExample,
    DialogueExample,
    Message,
    PreferenceExample,
    RankingExample,
    Row,
    StepwiseExample,
    TextExample,
    detect_format,
    extra_columns,
)
from distft.data.readers import example_for, example_of, examples_for


def _read(format_name: str, **values: Any) -> Any:
    return example_of(Row(values, "rows.jsonl:7"), format_name)


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _user(text: str) -> Message:
    return Message("user", text)


def _assistant(text: str) -> Message:
    return Message("assistant", text)


def test_columns_that_another_format_would_read_stay_for_reward_functions() -> None:
    row = Row({"prompt": "a", "labels": ["x"], "label": 1}, "rows.jsonl:1")
    assert extra_columns(row) == {"labels": ["x"], "label": 1}


def test_text_keeps_its_place_and_unknown_columns() -> None:
    example = _read("text", text="a", topic="b", messages=None)
    assert example == TextExample("a", where="rows.jsonl:7", extra={"topic": "b"})


def test_messages() -> None:
    example = _read("messages", messages=[_turn("user", "a"), _turn("assistant", "b")])
    assert isinstance(example, DialogueExample)
    assert example.messages == (_user("a"), _assistant("b"))


def test_speakers_by_other_names() -> None:
    example = _read("messages", messages=[_turn("User", "a"), _turn("gpt", "b"), _turn("critic", "c")])
    assert [message.role for message in example.messages] == ["user", "assistant", "critic"]


@pytest.mark.parametrize(
    ("messages", "what"),
    [
        ("hello", "`messages` must be a list of messages, not a text"),
        (["hello"], "`messages` message 1 is a text, not an object with role and content"),
        ([_turn("user", "a"), {"role": "assistant"}], "`messages` message 2 has no `content`; its keys are role"),
        ([{"role": "user", "content": 3}], "`messages` message 1: `content` is a number, not a text"),
        ([{"role": "user", "content": "a", "tool_calls": [1]}], "has tool calls"),
        ([{"from": "human", "value": "a"}], "ShareGPT"),
    ],
)
def test_wrong_messages_are_named(messages: Any, what: str) -> None:
    with pytest.raises(UserError) as caught:
        _read("messages", messages=messages)
    assert caught.value.where == "rows.jsonl:7"
    assert what in str(caught.value)


@pytest.mark.parametrize(
    ("format_name", "values", "reason"),
    [
        ("text", {"text": ""}, "empty text"),
        ("messages", {"messages": []}, "no messages"),
        ("messages", {"messages": [_turn("user", "a")]}, "no assistant turn"),
        ("prompt_completion", {"prompt": "a", "completion": " "}, "empty answer"),
        ("prompt_completion", {"prompt": "a", "completion": [_turn("assistant", "")]}, "empty answer"),
        ("messages", {"messages": [_turn("user", "a"), _turn("assistant", "\n")]}, "empty answer"),
        ("sharegpt", {"conversations": [{"from": "gpt", "value": ""}]}, "empty answer"),
        ("alpaca", {"instruction": "a", "output": ""}, "empty answer"),
        ("natural_instructions", {"definition": "a", "inputs": "b", "targets": [""]}, "empty answer"),
        ("prompt", {"prompt": ""}, "empty prompt"),
        ("preference", {"prompt": "a", "chosen": "b", "rejected": "b"}, "the same"),
        ("preference", {"chosen": [_turn("user", "a")], "rejected": [_turn("user", "b")]}, "no common beginning"),
        ("dialogsum", {"dialogue": "a", "summary": " "}, "empty answer"),
        ("rankings", {"prompt": "a", "completions": ["b"], "ranks": [1]}, "fewer than two answers"),
        ("rankings", {"prompt": "a", "completions": ["b", "c"], "ranks": [1, 1]}, "all answers have the same rank"),
        ("rankings", {"prompt": "a", "completions": ["b", "c", "b"], "ranks": [1, 2, 3]}, "with different ranks"),
    ],
)
def test_rows_to_leave_out_give_their_reason(format_name: str, values: dict[str, Any], reason: str) -> None:
    with pytest.raises(Unusable, match=reason):
        _read(format_name, **values)


def test_a_text_beside_messages_becomes_a_message() -> None:
    example = _read("prompt_completion", prompt=[_turn("user", "a")], completion="b")
    assert (example.prompt, example.completion) == ((_user("a"),), (_assistant("b"),))
    example = _read("prompt_completion", prompt="a", completion=[_turn("assistant", "b")])
    assert (example.prompt, example.completion) == ((_user("a"),), (_assistant("b"),))


def test_preference_with_a_prompt() -> None:
    example = _read("preference", prompt="a", chosen=" b", rejected=" c", score=3)
    assert example == PreferenceExample("a", " b", " c", where="rows.jsonl:7", extra={"score": 3})


@pytest.mark.parametrize("prompt", ["a", [_turn("user", "a")]])
def test_sides_that_repeat_the_prompt_are_relieved_of_it(prompt: Any) -> None:
    sides = {name: [_turn("user", "a"), _turn("assistant", name)] for name in ("chosen", "rejected")}
    example = _read("preference", prompt=prompt, **sides)
    assert example.prompt == (_user("a"),)
    assert (example.chosen, example.rejected) == ((_assistant("chosen"),), (_assistant("rejected"),))


def test_rankings_come_best_first_and_as_pairs() -> None:
    example = _read("rankings", prompt="a", completions=["d", "b", "c", "e"], ranks=[7, -1.5, 2, 7], model="m")
    assert example == RankingExample(
        "a", ("b", "c", "d", "e"), (0, 1, 2, 2), where="rows.jsonl:7", extra={"model": "m"}
    )
    pairs = [(pair.chosen, pair.rejected) for pair in example.pairs()]
    assert pairs == [("b", "c"), ("b", "d"), ("c", "d"), ("b", "e"), ("c", "e")]


def test_rankings_of_messages_beside_texts() -> None:
    example = _read("rankings", prompt="a", completions=[[_turn("assistant", "b")], "c"], ranks=[2, 1])
    assert (example.prompt, example.completions) == ((_user("a"),), ((_assistant("c"),), (_assistant("b"),)))


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({"completions": "b", "ranks": [1]}, "`completions` must be a list of answers, not a text"),
        ({"completions": ["b", "c"], "ranks": "1 2"}, "`ranks` must be a list of numbers, not a text"),
        ({"completions": ["b", "c"], "ranks": [1]}, "`completions` has 2 answers, `ranks` 1 numbers"),
        ({"completions": ["b", "c"], "ranks": [1, "2"]}, "`ranks` has '2', which is no number"),
        ({"completions": ["b", "c"], "ranks": [1, float("nan")]}, "`ranks` has nan, which is no number"),
        ({"completions": ["b", "c"], "ranks": [True, False]}, "`ranks` has True, which is no number"),
        ({"completions": ["b", 3], "ranks": [1, 2]}, "`completions 2` must be a list of messages, not a number"),
        ({"completions": ["b"] * 65, "ranks": [1] * 65}, "65 answers: they are compared in one micro-batch"),
        ({"completions": ["b", "c"], "ranking": [1, 2]}, "did you mean `ranking`"),
    ],
)
def test_wrong_rankings_are_named(values: dict[str, Any], what: str) -> None:
    with pytest.raises(UserError) as caught:
        _read("rankings", prompt="a", **values)
    assert caught.value.where == "rows.jsonl:7"
    assert what in str(caught.value)


def test_a_system_text_before_ranked_texts_stays_a_text() -> None:
    example = _read("rankings", system="Be brief.", prompt="a", completions=["b", "c"], ranks=[1, 2])
    assert example.prompt == "Be brief.\n\na"


def test_mixed_sides_are_refused() -> None:
    with pytest.raises(UserError, match="must both be texts or both be messages"):
        _read("preference", prompt="a", chosen="b", rejected=[_turn("assistant", "c")])
    with pytest.raises(UserError, match="`chosen` must be a text or a list of messages, not a number"):
        _read("preference", prompt="a", chosen=1, rejected="c")


def test_implicit_prompt_of_messages_ends_before_the_assistants_turn() -> None:
    common = [_turn("user", "a"), _turn("assistant", "b"), _turn("user", "c")]
    chosen, rejected = ([*common, _turn("assistant", last)] for last in "de")
    example = _read("preference", chosen=chosen, rejected=rejected)
    assert example.prompt == (_user("a"), _assistant("b"), _user("c"))
    assert (example.chosen, example.rejected) == ((_assistant("d"),), (_assistant("e"),))


def test_implicit_prompt_where_one_dialogue_goes_on() -> None:
    short = [_turn("user", "a"), _turn("assistant", "b")]
    example = _read("preference", chosen=[*short, _turn("user", "c"), _turn("assistant", "d")], rejected=short)
    assert example.prompt == (_user("a"),)
    assert example.rejected == (_assistant("b"),)
    assert example.chosen == (_assistant("b"), _user("c"), _assistant("d"))


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt"),
    [
        ("The sky is blue.", "The sky is green.", "The sky is"),
        ("The sky is bright.", "The sky is broken.", "The sky is"),  # not in the middle of a word
        ("It is so", "It is so nice", "It is"),  # neither side is left empty
        ("yes", "no", ""),
        ("yesterday", "yes", ""),
        ("Q: a\n\nA: b", "Q: a\n\nA: c", "Q: a\n\nA:"),
        ("Q: a\n\nb", "Q: a\n\nc", "Q: a"),
        ("a  b", "a  c", "a"),
    ],
)
def test_implicit_prompt_of_texts_ends_before_white_space(chosen: str, rejected: str, prompt: str) -> None:
    example = _read("preference", chosen=chosen, rejected=rejected)
    assert example.prompt == prompt
    assert (example.prompt + example.chosen, example.prompt + example.rejected) == (chosen, rejected)


@given(st.text(alphabet="ab \n"), st.text(alphabet="ab \n"))
def test_implicit_prompts_lose_nothing(chosen: str, rejected: str) -> None:
    try:
        example = _read("preference", chosen=chosen, rejected=rejected)
    except Unusable:
        assert chosen == rejected
        return
    assert (example.prompt + example.chosen, example.prompt + example.rejected) == (chosen, rejected)
    if example.prompt:
        assert example.chosen[0].isspace()
        assert example.rejected[0].isspace()


def test_hh_dialogues_become_messages() -> None:
    common = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Bye\n\nAssistant:"
    example = _read("hh_rlhf", chosen=common + " See you", rejected=common + " No")
    assert example.prompt == (_user("Hi"), _assistant("Hello"), _user("Bye"))
    assert (example.chosen, example.rejected) == ((_assistant("See you"),), (_assistant("No"),))


def test_hh_dialogues_that_part_early_keep_their_later_turns_in_the_answers() -> None:
    begin = "\n\nHuman: Hi\n\nAssistant: "
    example = _read("hh_rlhf", chosen=begin + "a\n\nHuman: b\n\nAssistant: c", rejected=begin + "d")
    assert example.prompt == (_user("Hi"),)
    assert example.chosen == (_assistant("a"), _user("b"), _assistant("c"))
    assert example.rejected == (_assistant("d"),)


def test_hh_neighbouring_turns_of_one_speaker_become_one() -> None:
    begin = "\n\nHuman: Hi\n\nAssistant: wait\n\nAssistant: "
    example = _read("hh_rlhf", chosen=begin + "a", rejected=begin)
    assert example.chosen == (_assistant("wait\n\na"),)
    assert example.rejected == (_assistant("wait"),)


def test_hh_mentions_within_a_turn_are_no_turns() -> None:
    begin = "\n\nHuman: He said Human: no. Assistant: yes\n\nAssistant:"
    example = _read("hh_rlhf", chosen=begin + " a", rejected=begin + " b")
    assert example.prompt == (_user("He said Human: no. Assistant: yes"),)


def test_hh_without_turns_is_told_what_to_do() -> None:
    with pytest.raises(UserError, match="use `format: preference` for plain texts"):
        _read("hh_rlhf", chosen="Hello", rejected="\n\nHuman: a\n\nAssistant: b")


def test_dialogsum() -> None:
    example = _read("dialogsum", dialogue="#Person1#: Hi", summary="They greet.", topic="greeting", fname="x")
    assert isinstance(example, CompletionExample)
    assert "#Person1#: Hi" in str(example.prompt)
    assert example.completion == " They greet."
    assert example.extra == {"topic": "greeting", "fname": "x"}


def test_silence_may_be_preferred_but_is_not_imitated() -> None:
    pair = Row({"prompt": "How do I steal?", "chosen": "", "rejected": "Like so."}, "rows.jsonl:7")
    for kind in ("dpo", "reward"):
        assert example_for(pair, "preference", kind).chosen == ""  # type: ignore[union-attr]
    with pytest.raises(Unusable, match="empty answer"):
        example_for(pair, "preference", "sft")


def test_sharegpt() -> None:
    turns = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}, {"from": "observation", "value": "c"},
             {"from": "GPT", "value": "d", "weight": 0}]  # fmt: skip
    example = _read("sharegpt", system="Be kind", conversations=turns, id="x")
    unlearned = Message("assistant", "d", trains=False)
    assert example.messages == (
        Message("system", "Be kind"), _user("a"), _assistant("b"), Message("tool", "c"), unlearned,
    )  # fmt: skip
    assert example.extra["id"] == "x"
    as_messages = _read("sharegpt", conversations=[_turn("user", "a"), _turn("assistant", "b")])
    assert as_messages.messages == (_user("a"), _assistant("b"))
    with pytest.raises(UserError, match="turn 1 is from 'narrator'.*\n.*human, user, gpt"):
        _read("sharegpt", conversations=[{"from": "narrator", "value": "a"}])


def test_openai_chat() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    messages = [{"role": "developer", "content": "Be kind"}, {"role": "user", "content": parts, "name": "x"},
                {"role": "assistant", "content": "c", "weight": 0}, _turn("user", "d"),
                {"role": "assistant", "content": "e", "weight": 1, "tool_calls": None}]  # fmt: skip
    example = _read("openai_chat", messages=messages)
    assert example.messages == (
        Message("system", "Be kind"), _user("ab"), Message("assistant", "c", trains=False), _user("d"), _assistant("e"),
    )  # fmt: skip
    with pytest.raises(Unusable, match="no assistant turn"):
        _read("openai_chat", messages=messages[:3])
    with pytest.raises(UserError, match="message 1: `content` is a list, not a text"):
        _read("openai_chat", messages=[{"role": "user", "content": [{"type": "image_url"}]}])


def test_alpaca() -> None:
    example = _read("alpaca", instruction="Add.", input="1 and 2", output="3", system="Be brief")
    assert example.prompt == (Message("system", "Be brief"), _user("Add.\n\n1 and 2"))
    assert example.completion == (_assistant("3"),)
    assert _read("alpaca", instruction="Sing.", input="", output="La").prompt == (_user("Sing."),)
    with pytest.raises(UserError, match="`output` must be a text, not a number"):
        _read("alpaca", instruction="Add.", output=3)


def test_natural_instructions() -> None:
    example = _read("natural_instructions", definition=["Say the opposite."], inputs="hot", targets=["cold", "chilly"])
    assert (example.prompt, example.completion) == ("Say the opposite.\n\nInput: hot\n\nOutput:", " cold")


@pytest.mark.parametrize(("said", "good"), [(True, True), ("False", False), (1, True), ("0", False), (0.0, False)])
def test_labelled_answers(said: Any, good: bool) -> None:
    assert _read("unpaired", prompt="a", completion=" b", label=said) == CompletionExample(
        "a", " b", good, where="rows.jsonl:7", extra={"label": said}
    )
    example = _read("unpaired", prompt=[_turn("user", "a")], completion=[_turn("assistant", "b")], label=said)
    assert (example.prompt, example.completion, example.label) == ((_user("a"),), (_assistant("b"),), good)
    assert _read("unpaired", prompt="a", completion="", label=said).completion == ""  # to be silent may be right


@pytest.mark.parametrize("said", ["good", 2, -1, [True], {}])
def test_a_label_that_is_no_yes_or_no_is_named(said: Any) -> None:
    with pytest.raises(UserError, match=r"(?s)rows.jsonl:7: `label` is .*true or 1 for a good answer"):
        _read("unpaired", prompt="a", completion="b", label=said)


@pytest.mark.parametrize(("said", "margin"), [(1.5, 1.5), (2, 2.0), ("0.5", 0.5), (-1, -1.0), (None, None), ("", None)])
def test_the_margin_of_a_pair_is_a_reward_models(said: Any, margin: float | None) -> None:
    row = Row({"prompt": "a", "chosen": "b", "rejected": "c", "margin": said}, "rows.jsonl:7")
    assert example_for(row, "preference", "reward").margin == margin  # type: ignore[union-attr]
    assert example_for(row, "preference", "dpo").margin is None  # type: ignore[union-attr]


@pytest.mark.parametrize("said", ["much", True, float("nan"), float("inf"), [1.0]])
def test_a_margin_that_is_no_number_is_named(said: Any) -> None:
    row = Row({"prompt": "a", "chosen": "b", "rejected": "c", "margin": said}, "rows.jsonl:7")
    with pytest.raises(UserError, match=r"(?s)rows.jsonl:7: `margin` is .*a number such as"):
        example_for(row, "preference", "reward")
    assert example_for(row, "preference", "dpo")


def test_of_a_pair_two_labelled_answers_are_made() -> None:
    row = Row({"prompt": "a", "chosen": "b", "rejected": "c"}, "rows.jsonl:7")
    good, bad = examples_for(row, "preference", "kto")
    assert [(one.completion, one.label, one.where) for one in (good, bad)] == [  # type: ignore[union-attr]
        ("b", True, "rows.jsonl:7"), ("c", False, "rows.jsonl:7"),
    ]  # fmt: skip
    assert examples_for(row, "preference", "dpo") == (example_for(row, "preference", "dpo"),)


@pytest.mark.parametrize(("said", "kept"), [(True, True), (False, False), ("false", False), (0, True), ("bad", True)])
def test_what_is_imitated_is_not_labelled_as_bad(said: Any, kept: bool) -> None:
    """A number or a word may be a class's; of a pair the better answer is imitated, whatever else is said of it."""
    row = Row({"prompt": "a", "completion": "b", "label": said}, "rows.jsonl:7")
    if kept:
        assert example_for(row, "prompt_completion", "sft")
    else:
        with pytest.raises(Unusable, match="labelled false, as bad answers"):
            example_for(row, "prompt_completion", "sft")
    assert example_for(row, "prompt", "ppo")
    assert example_for(Row({"prompt": "a", "chosen": "b", "rejected": "c", "label": said}, "x"), "preference", "sft")


def _corrected(kind: str, corrected: Any, completion: Any = "5") -> Any:
    row = Row({"prompt": "2 + 2?", "completion": completion, "corrected": corrected}, "rows.jsonl:7")
    return examples_for(row, "corrections", kind)


def test_a_correction_is_a_pair_two_labelled_answers_or_what_is_imitated() -> None:
    pair = PreferenceExample("2 + 2?", "4", "5", where="rows.jsonl:7")
    assert _corrected("dpo", "4") == _corrected("sft", "4") == (pair,)
    assert [(one.completion, one.label) for one in _corrected("kto", "4")] == [("4", True), ("5", False)]
    turns = _corrected("dpo", [_turn("assistant", "4")])[0]
    assert (turns.prompt, turns.chosen, turns.rejected) == ((_user("2 + 2?"),), (_assistant("4"),), (_assistant("5"),))


def test_an_answer_that_was_left_as_it_is_is_a_good_one_and_no_pair() -> None:
    assert [one.chosen for one in _corrected("sft", "5")] == ["5"]
    assert [(one.completion, one.label) for one in _corrected("kto", "5")] == [("5", True)]
    with pytest.raises(Unusable, match="the same"):
        _corrected("dpo", "5")
    with pytest.raises(Unusable, match="empty answer"):
        _corrected("sft", " ")
    with pytest.raises(UserError, match="`corrected` is null"):
        _corrected("sft", None)


def test_steps_with_labels_as_trl_has_them() -> None:
    """1 and 0 are labels too."""
    example = _read("stepwise", prompt="a", completions=["b", "c"], labels=[True, 0], level=3)
    assert isinstance(example, StepwiseExample)
    assert (example.prompt, example.steps, example.labels) == ("a", ("b", "c"), (True, False))
    assert example.extra == {"level": 3}
    row = Row({"prompt": "a", "completions": ["b"], "labels": [1]}, "f:1")
    assert detect_format(row, "process_reward") == "stepwise"


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({"completions": "b", "labels": [1]}, "a list of steps"),
        ({"completions": ["b"], "labels": True}, "a list of labels"),
        ({"completions": ["b"], "labels": [1, 1]}, "1 steps, `labels` 2 labels"),
        ({"completions": ["b", 3], "labels": [1, 1]}, "a step that is no text"),
        ({"completions": ["b"], "labels": [-1]}, "-1, which says neither"),
        ({"completions": ["b"], "labels": ["true"]}, "'true', which says neither"),
    ],
)
def test_wrong_steps_are_named(values: dict[str, Any], what: str) -> None:
    with pytest.raises(BadRow, match=what):
        _read("stepwise", prompt="a", **values)
