import pytest

from agentbench.engines.reply import read_reply
from agentbench.errors import EngineFailure

ACT = "<action>go left</action>"
BOTH = "<think>I go left.</think>" + ACT


def answer(content=ACT, finish="stop", **message):
    return {"choices": [{"message": {"content": content, **message}, "finish_reason": finish}]}


THOUGHTS = [
    ({"reasoning_content": "I go left."}, ACT),
    ({"reasoning": "I go left."}, ACT),
    ({"thinking": "I go left."}, ACT),
    ({"reasoning": "I go left.", "reasoning_content": "I go left."}, ACT),  # the same thought under two names
    ({"reasoning": {"content": "I go left."}}, ACT),
    ({"reasoning": None, "reasoning_details": [{"type": "reasoning.text", "text": "I go left."}]}, ACT),
    ({"reasoning_details": [{"text": "I go "}, {"summary": "left."}]}, ACT),
    ({"thoughts": "I go left."}, ACT),
    ({"thinking_blocks": [{"type": "thinking", "thinking": "I go left."}]}, ACT),
    ({"provider_specific_fields": {"reasoning_content": "I go left."}}, ACT),
    (
        {"content": [{"type": "reasoning_text", "text": "I go left."}, {"type": "output_text", "text": ACT}]},
        ACT,
    ),
    ({"content": [{"type": "thinking", "thinking": "I go left."}, {"type": "text", "text": ACT}]}, ACT),
    (
        {
            "content": [
                {"type": "thinking", "thinking": [{"type": "text", "text": "I go left."}]},
                {"text": ACT},
            ]
        },
        ACT,
    ),
]


@pytest.mark.parametrize(("message", "content"), THOUGHTS)
def test_a_thought_sent_apart_is_put_back_in_front(message, content):
    said = read_reply(answer(**message))
    assert (said.action.text, said.content) == (BOTH, content)


def test_a_thought_that_is_in_the_reply_already_is_not_doubled():
    assert read_reply(answer(BOTH, reasoning_content="I go left.")).action.text == BOTH


def test_a_reply_that_is_all_thought():
    cut = read_reply(answer(None, "length", reasoning_content="hm hm"))
    assert (cut.action.text, cut.action.finish, cut.content) == ("<think>hm hm", "length", "")
    ended = read_reply(answer(None, reasoning_content="I go left."))
    assert (ended.action.text, ended.content) == ("<think>I go left.</think>", "")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("x", "x"),
        ("", ""),
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "ab"),
        (["a", {"type": "output_text", "text": "b"}], "ab"),
        ([], ""),
        ({"type": "text", "text": "a"}, "a"),
    ],
)
def test_content_in_parts_is_joined(content, text):
    assert read_reply(answer(content)).action.text == text


FINISHES = {
    "stop": [
        "stop",
        "eos_token",
        "eos",
        "stop_sequence",
        "end_turn",
        "STOP",
        "FinishReason.STOP",
        "FINISH_REASON_STOP",
        "stop-sequence",
        "tool_calls",
        "function_call",
        None,
        "",
    ],
    "length": [
        "length",
        "max_tokens",
        "MAX_TOKENS",
        "model_length",
        "FinishReason.MAX_TOKENS",
        "max_length",
        "model_context_window_exceeded",
    ],
}


@pytest.mark.parametrize(("finish", "word"), [(f, word) for f, words in FINISHES.items() for word in words])
def test_words_for_how_a_reply_ended(finish, word):
    said = read_reply(answer(finish=word))
    assert (said.action.finish, said.unknown_finish) == (finish, "")


def test_an_unknown_word_is_taken_for_the_end_and_noted():
    said = read_reply(answer(finish="Gave up; see https://example.org"))
    assert (said.action.finish, said.unknown_finish) == ("stop", "gave_up_see_https_ex")
    assert read_reply(answer(finish=5)).unknown_finish == "int"


@pytest.mark.parametrize(
    "word",
    [
        "content_filter",
        "error",
        "abort",
        "SAFETY",
        "RECITATION",
        "guardrail_intervened",
        "insufficient_system_resource",
        "network_error",
        "FinishReason.SAFETY",
    ],
)
def test_what_the_provider_stopped_is_no_reply(word):
    with pytest.raises(EngineFailure, match=word.lower().rpartition(".")[2]):
        read_reply(answer(finish=word))


@pytest.mark.parametrize("finish", ["tool_calls", "stop"])
def test_a_reply_that_is_only_a_tool_call_says_nothing(finish):
    call = [{"id": "1", "type": "function", "function": {"name": "act", "arguments": "{}"}}]
    assert read_reply(answer(None, finish, tool_calls=call)).action.text == ""


@pytest.mark.parametrize(
    "broken",
    [
        {"choices": []},
        {"choices": None},
        {"choices": [None]},
        {"choices": [{}]},
        {"choices": {"0": 1}},
        {"choices": "text"},
        [],
        None,
        "text",
        answer(None),  # nothing was said, and nothing explains why
        answer(5),
        answer([5]),
        {"choices": [{"message": None, "finish_reason": "stop"}]},
        {"choices": [{"message": "hello", "finish_reason": "stop"}]},
    ],
)
def test_answers_without_a_reply_are_malformed(broken):
    with pytest.raises((KeyError, TypeError, ValueError, IndexError)):
        read_reply(broken)


def test_a_refusal_and_a_cut_without_content_are_replies():
    assert read_reply(answer(None, refusal="No.")).action.text == "No."
    assert read_reply(answer(None, "length")).action.text == ""
    assert read_reply({"choices": [{"text": "go", "finish_reason": "stop"}]}).action.text == "go"


@pytest.mark.parametrize(
    "whole",
    [
        {"result": answer(), "success": True},  # Cloudflare
        {"data": answer(), "code": 0},
        [answer()],
        {"choices": [{"delta": {"content": ACT}, "finish_reason": "stop"}]},
        answer([{"type": "text", "text": {"value": ACT, "annotations": []}}]),
    ],
)
def test_wrapped_answers_are_unwrapped(whole):
    assert read_reply(whole).action.text == ACT


@pytest.mark.parametrize(
    "name",
    ["chain_of_thought", "analysis", "thinking_content", "internal_thoughts", "reasoning_output", "cot"],
)
def test_a_thought_in_a_field_of_another_name_is_one_too(name):
    assert read_reply(answer(**{name: "I go."})).action.text == f"<think>I go.</think>{ACT}"
    held = answer(model_extra={name: [{"type": "text", "text": "I go."}]})
    assert read_reply(held).action.text == f"<think>I go.</think>{ACT}"


@pytest.mark.parametrize("name", ["reasoning_effort", "thinking_budget", "reasoning_id", "thought_signature"])
def test_what_only_speaks_of_a_thought_is_none(name):
    assert read_reply(answer(**{name: "high"})).action.text == ACT


@pytest.mark.parametrize(
    ("word", "finish"),
    [
        *((word, "length") for word in ("maxTokens", "length_capped", "LENGTH_LIMIT", "truncated", "limit")),
        *(
            (word, None)
            for word in ("contentFilter", "policy_violation", "preempted", "refusal", "RequestFailed")
        ),
        *((word, "stop") for word in ("stop_str", "endOfTurn", "pause_turn")),
    ],
)
def test_words_that_nobody_listed_are_read_by_their_parts(word, finish):
    if finish is None:
        with pytest.raises(EngineFailure, match="finish_reason"):
            read_reply(answer(finish=word))
    else:
        assert read_reply(answer(finish=word)).action.finish == finish
