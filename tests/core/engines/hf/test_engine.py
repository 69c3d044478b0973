"""The hf engine against plain forward passes of the same model: kept caches, joins, eviction, guided choice."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
from floats import assert_same_actions

from agentbench.engine import Engine, Request, sample
from agentbench.engines.hf.engine import HFEngine, build
from agentbench.errors import EngineFailure, UsageError
from agentbench.models.tiny import make_model, make_tokenizer
from agentbench.types import SamplingParams

torch = pytest.importorskip("torch", reason="needs the extra 'train'")
transformers = pytest.importorskip("transformers", reason="needs the extra 'train'")


def sharpen(model):
    """Make a random model opinionated: as initialised it is nearly uniform and would hide errors."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(6.0 if parameter.ndim > 1 else 1.0)
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    tokenizer = make_tokenizer(path, ["go look"])
    make_model(path, tokenizer, hidden=32, layers=2, heads=4, kv_heads=2, max_position=400)
    sharpen(transformers.AutoModelForCausalLM.from_pretrained(path)).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def parts(folder):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    return model, transformers.AutoTokenizer.from_pretrained(folder)


@pytest.fixture
def make(parts):
    return lambda **options: HFEngine(*parts, **options)


def ask(key="a", prompt=(1, 2, 3), seed=0, slot="", choices=None, **sampling):
    settings = SamplingParams(**{"max_new_tokens": 8, **sampling})
    return Request(key, tuple(prompt), settings, seed, slot=slot, choices=choices)


def plain_logprobs(model, ids):
    """[T, V]: entry t is the distribution of token t + 1, from one forward pass without a cache."""
    with torch.no_grad():
        logits = model(torch.tensor([ids]), use_cache=False).logits[0].float()
    return logits.log_softmax(-1).numpy()


def largest_error(model, ids, start, action):
    table = plain_logprobs(model, ids[: start + len(action.token_ids)])
    wanted = [table[start + at - 1, token] for at, token in enumerate(action.token_ids)]
    return float(np.abs(np.array(wanted) - np.array(action.logprobs)).max())


def converse(engine, *, conversations=8, turns=3, width=8, max_new_tokens=9):
    """Play ragged growing conversations, `width` at a time; returns their ids and (start, action) of every reply."""
    sources = [np.random.default_rng(i) for i in range(conversations)]
    ids = [source.integers(0, 256, source.integers(2, 50)).tolist() for source in sources]
    replies = [[] for _ in ids]
    todo, live = list(range(conversations)), 0
    while todo or live:
        while todo and live < width:
            i = todo.pop(0)
            live += 1
            engine.submit([ask(f"{i}/0", ids[i], 1000 * i, f"slot{i}", max_new_tokens=max_new_tokens)])
        for done in engine.poll():
            assert done.failure is None
            i, turn = map(int, done.key.split("/"))
            replies[i].append((len(ids[i]), done.action))
            ids[i] += done.action.token_ids
            if turn + 1 == turns:
                live -= 1
                engine.release(f"slot{i}")
                continue
            ids[i] += sources[i].integers(0, 256, sources[i].integers(1, 20)).tolist()
            request = ask(
                f"{i}/{turn + 1}", ids[i], 1000 * i + turn + 1, f"slot{i}", max_new_tokens=max_new_tokens
            )
            engine.submit([request])
    return ids, replies


@pytest.fixture(scope="module")
def reference(parts):
    return converse(HFEngine(*parts, slots=16))


@pytest.mark.parametrize(
    ("width", "options"),
    [
        (1, {"slots": 1}),
        (3, {"slots": 16}),
        (8, {"slots": 3}),  # conversations lose their rows to others again and again
        (8, {"slots": 16, "prefill_tokens": 7}),  # prompts are computed in pieces
        (8, {"slots": 16, "keep_cache": False}),
        # 2 layers x 2 tensors x 2 heads x 8 floats = 256 bytes a token: room for 300 tokens
        (8, {"slots": 16, "cache_bytes": 300 * 256}),
    ],
)
def test_replies_do_not_depend_on_width_slots_or_memory(parts, reference, width, options):
    engine = HFEngine(*parts, **options)
    ids, replies = converse(engine, width=width)
    assert ids == reference[0]
    for mine, wanted in zip(replies, reference[1], strict=True):
        for (_, action), (_, expected) in zip(mine, wanted, strict=True):
            np.testing.assert_allclose(action.logprobs, expected.logprobs, atol=1e-5)


def test_logprobs_are_those_of_a_plain_forward_pass(parts, reference):
    ids, replies = reference
    errors = [
        largest_error(parts[0], ids[i], start, action)
        for i, turns in enumerate(replies)
        for start, action in turns
    ]
    assert len(errors) == 24
    assert max(errors) < 1e-5


def test_when_memory_ends_the_youngest_requests_start_over(make):
    long = {"max_new_tokens": 30, "min_new_tokens": 30}
    requests = [ask(str(i), range(10 * i, 10 * i + 40), i, f"s{i}", **long) for i in range(4)]
    roomy, tight = make(), make(cache_bytes=256 * 260)  # 260 tokens: 4 rows of 64, and 2 once a row takes 128
    assert_same_actions(sample(tight, requests), sample(roomy, requests))
    assert roomy.generated_tokens == 4 * 30
    # each holds 40 + 24 tokens when the rows fill up; two give way after 25 tokens
    assert tight.generated_tokens == 4 * 30 + 2 * 25


def test_only_new_tokens_are_computed(make):
    engine = make()
    (first,) = sample(engine, [ask("1", range(10), slot="s", max_new_tokens=4, min_new_tokens=4)])
    assert (engine.prefilled_tokens, engine.cached_tokens, engine.generated_tokens) == (10, 0, 4)
    grown = [*range(10), *first.token_ids, 7, 7, 7]
    sample(engine, [ask("2", grown, slot="s", max_new_tokens=1)])
    # the last sampled token was never fed: of 10 + 4 + 3 tokens 13 are kept and 4 computed
    assert (engine.prefilled_tokens, engine.cached_tokens) == (10 + 4, 13)
    changed = [*grown[:6], 99, *grown[7:]]
    sample(engine, [ask("3", changed, slot="s", max_new_tokens=1)])
    assert (engine.prefilled_tokens, engine.cached_tokens) == (14 + 11, 13 + 6)
    sample(engine, [ask("4", changed, slot="s", max_new_tokens=1)])  # the last token is always computed
    assert (engine.prefilled_tokens, engine.cached_tokens) == (25 + 1, 19 + 16)
    engine.release("s")
    engine.release("unknown")
    sample(engine, [ask("5", changed, slot="s", max_new_tokens=1)])
    assert (engine.prefilled_tokens, engine.cached_tokens) == (26 + 17, 35)


def test_prompts_that_begin_alike_are_computed_once(make):
    begin = [int(i) for i in np.random.default_rng(1).integers(0, 256, 50)]
    group = [ask(f"g{i}", begin, i, f"g{i}") for i in range(5)]
    fork = ask("fork", [*begin[:40], 1, 2, 3], 9, "f")
    unlike = ask("unlike", [*begin[:20], 1, 2, 3], 9, "u")
    alone = [sample(make(), [request])[0] for request in (*group, fork, unlike)]
    engine = make()
    together = sample(engine, group)
    # the first computes 50 tokens, the others copy 49 and compute the last, whose logits they need
    assert (engine.prefilled_tokens, engine.cached_tokens) == (50 + 4, 4 * 49)
    together += sample(engine, [fork, unlike])
    # the fork copies 40 of its 43; 20 in common are not worth a copy
    assert (engine.prefilled_tokens, engine.cached_tokens) == (54 + 3 + 23, 196 + 40)
    for mine, wanted in zip(together, alone, strict=True):
        assert mine.token_ids == wanted.token_ids
        np.testing.assert_allclose(mine.logprobs, wanted.logprobs, atol=1e-5)


def test_the_conversation_idle_longest_loses_its_row(make):
    engine = make(slots=2)
    for slot in ("a", "b", "a", "c"):  # c takes the row of b
        sample(engine, [ask(slot, range(8), slot=slot, max_new_tokens=1)])
    before = engine.cached_tokens
    sample(engine, [ask("a", range(8), slot="a", max_new_tokens=1)])
    assert engine.cached_tokens == before + 7
    sample(engine, [ask("b", range(8), slot="b", max_new_tokens=1)])
    assert engine.cached_tokens == before + 7


def test_two_requests_of_one_slot_wait_for_each_other(make):
    alone = sample(make(), [ask("x", range(5), 1), ask("y", range(9), 2)])
    engine = make()
    shared = [ask("x", range(5), 1, slot="s"), ask("y", range(9), 2, slot="s")]
    assert_same_actions(sample(engine, shared), alone)
    assert engine.cached_tokens == 5


def test_a_long_reply_does_not_hold_up_short_ones(make):
    engine = make()
    engine.submit([ask("long", max_new_tokens=100, min_new_tokens=100), ask("short", max_new_tokens=1)])
    assert [done.key for done in engine.poll()] == ["short"]
    engine.submit([ask("next", max_new_tokens=1)])
    assert [done.key for done in engine.poll()] == ["next"]
    assert [len(done.action.token_ids) for done in engine.poll()] == [100]
    assert engine.poll() == []


def test_greedy_follows_the_likeliest_token(make, parts):
    (action,) = sample(make(), [ask(prompt=range(20), temperature=0.0, max_new_tokens=12)])
    ids = [*range(20), *action.token_ids]
    table = plain_logprobs(parts[0], ids)
    assert list(action.token_ids) == table[19:-1].argmax(-1).tolist()
    assert largest_error(parts[0], ids, 20, action) < 1e-5


def test_the_end_token_is_kept_in_the_ids_and_left_out_of_the_text(make, parts):
    tokenizer = parts[1]
    requests = [ask(str(i), (i, 2), seed=i, max_new_tokens=100) for i in range(16)]
    stopped = [action for action in sample(make(), requests) if action.finish == "stop"]
    assert stopped, "none of 16 long replies met the end token"
    for action in stopped:
        assert action.token_ids[-1] == tokenizer.eos_token_id
        assert tokenizer.eos_token_id not in action.token_ids[:-1]
        assert action.text == tokenizer.decode(action.token_ids[:-1], skip_special_tokens=True)


def test_guided_choice_samples_members_by_the_restricted_distribution(make, parts):
    model, tokenizer = parts
    end = tokenizer.eos_token_id
    choices = ((10, 11, end), (10, 12, 13, end), (20, end), (20, 21, end))
    prompt = (5, 6, 7)
    requests = [ask(str(i), prompt, seed=i, choices=choices) for i in range(60)]
    requests.append(ask("free", prompt, seed=0, max_new_tokens=3))
    *actions, free = sample(make(slots=32), requests)
    assert {action.token_ids == [*choice] for action in actions for choice in choices} == {True, False}
    seen = {tuple(action.token_ids) for action in actions}
    assert seen <= set(choices)
    assert len(seen) > 1
    assert_same_actions([free], sample(make(), [requests[-1]]))

    def restricted(said, token, allowed):
        logp = plain_logprobs(model, [*prompt, *said])[-1]
        return logp[token] - math.log(sum(math.exp(logp[other]) for other in allowed))

    for action in actions[:10]:
        said = list(action.token_ids)
        assert action.finish == "stop"
        for at, token in enumerate(said):
            fits = [choice for choice in choices if list(choice[:at]) == said[:at]]
            assert action.logprobs[at] == pytest.approx(
                restricted(said[:at], token, {choice[at] for choice in fits}), abs=1e-5
            )
    greedy = sample(make(), [ask("g", prompt, temperature=0.0, choices=choices)])[0]
    first = plain_logprobs(model, prompt)[-1]
    assert greedy.token_ids[0] == (10 if first[10] > first[20] else 20)


def test_temperature_enters_the_logprobs(make, parts):
    (action,) = sample(make(), [ask(prompt=range(5), temperature=0.5, max_new_tokens=1)])
    raw = plain_logprobs(parts[0], list(range(5)))[-1].astype(np.float64) / 0.5
    wanted = raw[action.token_ids[0]] - np.log(np.exp(raw).sum())
    assert action.logprobs[0] == pytest.approx(wanted, abs=1e-5)


def test_context_that_runs_full_ends_replies_and_never_crashes(make):
    engine = make(max_context=12)
    requests = [ask("fits", range(10), min_new_tokens=9), ask("full", range(12)), ask("over", range(50))]
    engine.submit(requests)
    done = {}
    while len(done) < 3:
        done.update({completion.key: completion for completion in engine.poll()})
    assert len(done["fits"].action.token_ids) == 2
    assert done["fits"].action.finish == "length"
    for key, size in (("full", 12), ("over", 50)):
        assert isinstance(done[key].failure, EngineFailure)
        assert f"prompt of {size} tokens leaves no room in max_context 12" in str(done[key].failure)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (ask(prompt=()), "prompt is empty"),
        (ask(prompt=(1, 999)), "id 999 outside the vocabulary of 259"),
        (ask(temperature=-1.0), "must not be negative"),
        (ask(top_p=0.0), "top_p must be in"),
        (ask(max_new_tokens=0), "max_new_tokens must be at least 1, got 0"),
        (ask(choices=()), "at least one choice"),
        (ask(choices=((1, 2, 3),), max_new_tokens=2), "a choice of 3 tokens exceeds max_new_tokens 2"),
    ],
)
def test_impossible_requests_are_refused_at_once(make, request_, message):
    engine = make()
    with pytest.raises(UsageError, match=message):
        engine.submit([ask("fine"), request_])
    assert engine.poll() == []


def test_keys_in_flight_must_differ(make):
    engine = make()
    engine.submit([ask("k")])
    with pytest.raises(UsageError, match="two requests with the key 'k'"):
        engine.submit([ask("k")])
    assert len(engine.poll()) == 1


def test_time_limit_fails_the_request_only(make):
    engine = make(request_timeout=0.0)
    engine.submit([ask("late")])
    (done,) = engine.poll()
    assert "not answered within 0.0 seconds" in str(done.failure)


def test_time_limit_ends_a_running_reply_and_leaves_the_others(make, monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr("agentbench.engines.hf.engine.time.monotonic", lambda: next(clock))
    engine = make(request_timeout=10)  # the clock advances by one with every request and every step
    engine.submit([ask("endless", max_new_tokens=90, min_new_tokens=90), ask("quick", max_new_tokens=2)])
    assert [done.key for done in engine.poll()] == ["quick"]
    (late,) = engine.poll()
    assert "not answered within 10 seconds" in str(late.failure)
    assert engine.generated_tokens < 20
    assert_same_actions(sample(engine, [ask("next")]), sample(make(), [ask("next")]))


def test_aborted_requests_answer_with_what_they_said(make):
    engine = make(slots=2)
    engine.submit([ask("run", max_new_tokens=50, min_new_tokens=50), ask("short", max_new_tokens=2)])
    engine.submit([ask("queued"), ask("keep", max_new_tokens=1)])
    assert [done.key for done in engine.poll()] == ["short"]
    engine.abort(["run", "queued", "unknown"])
    done = {completion.key: completion.action for completion in engine.poll()}
    assert (done["queued"].finish, done["queued"].token_ids) == ("abort", [])
    assert done["run"].finish == "abort"
    whole = sample(make(), [ask("run", max_new_tokens=50, min_new_tokens=50)])[0]
    said = list(done["run"].token_ids)
    assert 0 < len(said) < 50
    assert said == whole.token_ids[: len(said)]
    assert [completion.key for completion in engine.poll()] == ["keep"]


def test_model_objects_must_fit_their_tokenizer_and_context(parts):
    model, tokenizer = parts
    with pytest.raises(UsageError, match="max_context must be from 2 to 400, got 500"):
        HFEngine(model, tokenizer, max_context=500)
    with pytest.raises(UsageError, match="slots and prefill_tokens must be at least 1, got 0"):
        HFEngine(model, tokenizer, slots=0)
    small = transformers.Qwen3ForCausalLM(
        transformers.Qwen3Config(
            vocab_size=50, hidden_size=8, intermediate_size=8, num_hidden_layers=1, head_dim=4,
            num_attention_heads=2, num_key_value_heads=2, pad_token_id=0, eos_token_id=0,
        )
    )  # fmt: skip
    with pytest.raises(UsageError, match=r"the tokenizer has 259 tokens, but model '.*' embeds only 50"):
        HFEngine(small, tokenizer)


def test_built_from_a_folder(folder, parts):
    engine = build(str(folder), device="cpu")
    assert isinstance(engine, Engine)
    assert engine.keeps_cache
    assert engine.max_context == 400
    assert engine.info == HFEngine(*parts, name=str(folder)).info
    assert engine.info["dtype"] == "float32"
    assert sample(engine, [ask()]) == sample(HFEngine(*parts), [ask()])


def test_bfloat16_scores_what_it_sampled(folder):
    engine = build(str(folder), dtype="bf16", device="cpu")
    assert engine.keeps_cache
    ids, replies = converse(engine, conversations=4, turns=2)
    for mine, turns in zip(ids, replies, strict=True):
        for start, action in turns:
            # logits of up to 30 with 8 bits of mantissa
            assert largest_error(engine.model, mine, start, action) < 0.5
    assert engine.info["dtype"] == "bfloat16"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_on_cuda(folder, reference, dtype):
    engine = build(str(folder), dtype=dtype, device="cuda")
    ids, replies = converse(engine)
    if dtype == "float32":
        assert ids == reference[0]
    for mine, turns in zip(ids, replies, strict=True):
        for start, action in turns:
            table = plain_logprobs(engine.model.cpu(), mine[: start + len(action.token_ids)])
            wanted = [table[start + at - 1, token] for at, token in enumerate(action.token_ids)]
            np.testing.assert_allclose(action.logprobs, wanted, atol=1e-4 if dtype == "float32" else 0.5)


# --- stop strings -----------------------------------------------------------------------------------------------------


def first_with(tokenizer, ids, stop):
    """Tokens of a reply until its text holds one of the stop strings, by decoding every beginning."""
    for length in range(1, len(ids) + 1):
        text = tokenizer.decode(ids[:length], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        if any(one in text for one in stop):
            return length
    return None


def test_a_reply_ends_at_a_stop_string_with_the_tokens_it_had_anyway(make, parts):
    tokenizer = parts[1]
    free = [
        ask(str(seed), (1, 2, 3 + seed), seed=seed, temperature=1.0, max_new_tokens=40) for seed in range(12)
    ]
    replies = sample(make(), free)
    ended = 0
    requests, expected = [], []
    for request, reply in zip(free, replies, strict=True):
        middle = reply.text[len(reply.text) // 2 :][:2]  # two characters from the middle of what it would say
        stop = (middle, "never said by anyone") if middle else ("never said by anyone",)
        length = first_with(tokenizer, reply.token_ids, stop)
        ended += length is not None
        sampling = dataclasses.replace(request.sampling, stop=stop)
        requests.append(dataclasses.replace(request, sampling=sampling))
        expected.append((length or len(reply.token_ids), "stop" if length else reply.finish))
    assert ended >= 8
    for engine in (make(), make(slots=3), make(keep_cache=False)):
        found = sample(engine, requests)
        for action, reply, (length, finish) in zip(found, replies, expected, strict=True):
            assert action.token_ids == reply.token_ids[:length]
            assert action.logprobs == pytest.approx(reply.logprobs[:length], abs=1e-5)
            assert action.finish == finish
            said = [token for token in action.token_ids if token not in engine._end_ids]
            assert action.text == tokenizer.decode(
                said, skip_special_tokens=True, clean_up_tokenization_spaces=False
            )


def test_the_next_turn_finds_the_cache_of_a_reply_that_was_stopped(make, parts):
    reply = sample(make(), [ask(temperature=1.0, max_new_tokens=30)])[0]
    stop = (reply.text[5:7],)
    engine = make()
    first = sample(engine, [ask(slot="s", temperature=1.0, max_new_tokens=30, stop=stop)])[0]
    assert len(first.token_ids) < len(reply.token_ids)
    prompt = (1, 2, 3, *first.token_ids, 7, 8)
    again = sample(engine, [ask("b", prompt, seed=1, slot="s", temperature=1.0)])[0]
    assert engine.cached_tokens >= 3 + len(first.token_ids) - 1
    alone = sample(make(), [ask("b", prompt, seed=1, temperature=1.0)])[0]
    assert again.token_ids == alone.token_ids
    assert again.logprobs == pytest.approx(alone.logprobs, abs=1e-5)


def test_stop_strings_wait_for_the_least_number_of_tokens_and_leave_guided_choice_alone(make, parts):
    tokenizer = parts[1]
    engine = make()
    free = sample(engine, [ask(temperature=1.0, max_new_tokens=30, min_new_tokens=12)])[0]
    stop = (free.text[:1],)
    texts = [
        tokenizer.decode(free.token_ids[:n], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        for n in range(31)
    ]
    expected = next(n for n in range(12, 31) if stop[0] in texts[n][len(texts[n - 1]) :])
    held = sample(engine, [ask("b", temperature=1.0, max_new_tokens=30, min_new_tokens=12, stop=stop)])[0]
    assert held.token_ids == free.token_ids[:expected]
    end = tokenizer.eos_token_id
    choices = ((*tokenizer.encode("go look", add_special_tokens=False), end),)
    guided = sample(engine, [ask("c", choices=choices, max_new_tokens=20, stop=("o",))])[0]
    assert tuple(guided.token_ids) == choices[0]


def test_a_request_may_end_with_a_token_of_its_own(make, parts):
    engine = make()
    free, other = (
        ask("free", seed=3, max_new_tokens=12),
        ask("other", prompt=(9, 8), seed=4, max_new_tokens=12),
    )
    said = sample(engine, [free])[0].token_ids
    end = said[4]
    at = said.index(end)
    own = Request("own", free.token_ids, free.sampling, free.seed, end_ids=(end,))
    ended, beside = sample(engine, [own, other])
    assert (ended.token_ids, ended.finish) == (said[: at + 1], "stop")
    assert ended.text == parts[1].decode(said[:at], skip_special_tokens=True)
    # the token is an end of that request alone
    assert beside.token_ids == sample(make(), [other])[0].token_ids


def test_a_requests_own_end_token_waits_for_the_least_number_of_tokens_too(make):
    engine = make()
    free = ask("free", seed=3, max_new_tokens=12)
    end = sample(engine, [free])[0].token_ids[4]
    patient = SamplingParams(max_new_tokens=12, min_new_tokens=12)
    held = sample(engine, [Request("held", free.token_ids, patient, free.seed, end_ids=(end,))])[0]
    assert len(held.token_ids) == 12
    assert end not in held.token_ids
