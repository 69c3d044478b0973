"""The scripted engine says what it is told, in the order and at the time it is told."""

import pytest

from agentbench.engine import Engine, Request, sample
from agentbench.engines.scripted import ByteTokenizer, Reply, ScriptedEngine, build
from agentbench.errors import EngineFailure, UsageError
from agentbench.models.chatml import CHATML_TEMPLATE
from agentbench.registry import engine_factory
from agentbench.types import SamplingParams

END = 258  # 256 bytes, then <|endoftext|>, <|im_start|>, <|im_end|>


def request(key, slot="", prompt=(1, 2, 3), seed=7, **options):
    return Request(key, prompt, SamplingParams(**options), seed, slot=slot)


def texts(engine):
    return [(done.key, done.action.text) for done in engine.poll()]


def test_bytes_and_markers_round_trip():
    tokenizer = ByteTokenizer()
    ids = tokenizer.encode("é<|im_end|>\n")
    assert ids == [0xC3, 0xA9, END, 10]
    assert tokenizer.decode(ids) == "é<|im_end|>\n"
    assert tokenizer.decode(ids, skip_special_tokens=True) == "é\n"
    assert tokenizer.decode(65) == "A"
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") == tokenizer.eos_token_id == END
    assert len(tokenizer) == 259


def test_chat_template_is_chatml():
    tokenizer = ByteTokenizer()
    messages = [{"role": "system", "content": "S"}, {"role": "user", "content": "hi"}]
    expected = "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    said = tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    assert said == expected
    assert tokenizer.apply_chat_template(messages, add_generation_prompt=True) == tokenizer.encode(expected)
    assert tokenizer.chat_template == CHATML_TEMPLATE


def test_reply_carries_ids_with_the_end_token_and_one_logprob_each():
    engine = ScriptedEngine(["hi"])
    assert isinstance(engine, Engine)
    (action,) = sample(engine, [request("a")])
    assert (action.text, list(action.token_ids), action.finish) == ("hi", [104, 105, END], "stop")
    assert all(-4 < value < 0 for value in action.logprobs)
    again = sample(ScriptedEngine(["hi"]), [request("a")])[0]
    assert again == action
    assert sample(ScriptedEngine(["hi"]), [request("a", seed=8)])[0].logprobs != action.logprobs


def test_each_slot_reads_the_script_from_its_start_and_release_starts_anew():
    engine = ScriptedEngine(["one", "two"])
    engine.submit([request("a0", "a"), request("b0", "b")])
    engine.submit([request("a1", "a")])
    assert texts(engine) == [("a0", "one"), ("b0", "one"), ("a1", "two")]
    engine.release("a")
    engine.submit([request("a2", "a")])
    assert texts(engine) == [("a2", "one")]
    assert engine.released == ["a"]
    assert [seen.key for seen in engine.requests] == ["a0", "b0", "a1", "a2"]


def test_scripts_by_slot_and_by_function():
    engine = ScriptedEngine({"a": ["x"], "b": ["y"]})
    engine.submit([request("1", "b"), request("2", "a")])
    assert texts(engine) == [("1", "y"), ("2", "x")]
    engine = ScriptedEngine(lambda asked: f"{len(asked.token_ids)} tokens")
    engine.submit([request("1")])
    assert texts(engine) == [("1", "3 tokens")]


def test_a_script_that_ends_is_an_error_unless_it_cycles():
    engine = ScriptedEngine(["x"])
    engine.submit([request("1", "a")])
    with pytest.raises(UsageError, match="slot 'a' has 1 replies and was asked for number 2"):
        engine.submit([request("2", "a")])
    with pytest.raises(UsageError, match="has 0 replies"):
        ScriptedEngine({}, cycle=True).submit([request("1", "a")])
    cycling = ScriptedEngine(["x", "y"], cycle=True)
    cycling.submit([request(str(i), "a") for i in range(3)])
    assert [text for _, text in texts(cycling)] == ["x", "y", "x"]


def test_delays_order_and_batches():
    engine = ScriptedEngine(lambda asked: Reply(asked.key, delay=2 if asked.key == "slow" else 0))
    engine.submit([request("slow"), request("quick")])
    assert texts(engine) == [("quick", "quick")]  # poll 0
    engine.submit([request("next")])
    assert texts(engine) == [("next", "next")]  # poll 1
    assert texts(engine) == [("slow", "slow")]  # poll 2
    assert engine.poll() == []

    engine = ScriptedEngine(lambda asked: Reply(asked.key, delay=9))
    engine.submit([request("only")])
    assert texts(engine) == [("only", "only")]  # time jumps when nothing else is due

    engine = ScriptedEngine(lambda asked: asked.key, lifo=True, per_poll=2)
    engine.submit([request(key) for key in "abc"])
    assert [key for key, _ in texts(engine)] == ["c", "b"]
    assert [key for key, _ in texts(engine)] == ["a"]


def test_failures_limits_and_choices():
    engine = ScriptedEngine(lambda asked: Reply("hello", failure="boom" if asked.key == "bad" else ""))
    engine.submit([request("bad"), request("cut", max_new_tokens=2)])
    bad, cut = engine.poll()
    assert bad.action is None
    assert isinstance(bad.failure, EngineFailure)
    assert str(bad.failure) == "boom"
    assert (cut.action.text, cut.action.finish) == ("he", "length")
    engine = ScriptedEngine(["hello"], max_context=4)
    engine.submit([request("one", prompt=(1, 2, 3)), request("none", prompt=(1, 2, 3, 4))])
    one, none = engine.poll()
    assert one.action.text == "h"
    assert "4 tokens and max_context is 4" in str(none.failure)
    engine = ScriptedEngine(["no"])
    choices = ((121, END),)
    engine.submit([Request("c", (1,), SamplingParams(), 0, choices=choices)])
    assert "none of the 1 choices" in str(engine.poll()[0].failure)


def test_weights_count_versions():
    engine = ScriptedEngine(["x"], cycle=True)
    assert sample(engine, [request("a")])[0].policy_version == 0
    assert engine.load_weights(iter([("w", 1)])) == 1
    assert sample(engine, [request("b")])[0].policy_version == 1
    assert engine.info["policy_version"] == 1


def test_build_by_name_cycles_through_its_lines():
    assert engine_factory("scripted") is build
    engine = build("look|go north")
    engine.submit([request(str(i), "a") for i in range(3)])
    assert [text for _, text in texts(engine)] == ["look", "go north", "look"]
