"""The vllm engine against plain forward passes and against the hf engine."""

import math
import time

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'train'")

from vllm_cases import MAX_CONTEXT, ask, largest_error, load, some_ids, table_of  # noqa: E402

from agentbench.engine import Engine, Scorer, sample  # noqa: E402
from agentbench.engines.hf.engine import HFEngine  # noqa: E402
from agentbench.errors import EngineFailure, UsageError  # noqa: E402
from agentbench.models.weights import weights_digest  # noqa: E402


@pytest.fixture(scope="module")
def hf(reference, tied):
    return HFEngine(reference, tied.tokenizer)


def test_it_is_an_engine_that_can_score_and_says_who_it_is(tied, reference, folders):
    assert isinstance(tied, Engine)
    assert isinstance(tied, Scorer)
    assert tied.info["name"] == "vllm"
    assert tied.info["model"] == str(folders["tied"])
    assert tied.info["dtype"] == "float32"
    assert tied.info["weights"] == weights_digest(reference)  # the same identity as the hf engine's
    assert tied.max_context == MAX_CONTEXT


def test_logprobs_are_those_of_a_plain_forward_pass(tied, reference):
    prompts = [some_ids(3 + 17 * i, i) for i in range(12)]
    actions = sample(tied, [ask(str(i), p, i, max_new_tokens=5 + 2 * i) for i, p in enumerate(prompts)])
    errors = [largest_error(reference, p, a) for p, a in zip(prompts, actions, strict=True)]
    assert len({len(action.token_ids) for action in actions}) > 3
    assert max(errors) < 1e-4


def test_bfloat16_logprobs_stay_close_to_float32(bf16, folders):
    model = load(folders["bf16"])
    prompts = [some_ids(3 + 17 * i, i) for i in range(12)]
    actions = sample(bf16, [ask(str(i), p, i, max_new_tokens=20) for i, p in enumerate(prompts)])
    errors = [largest_error(model, p, a) for p, a in zip(prompts, actions, strict=True)]
    assert bf16.info["dtype"] == "bfloat16"
    assert 1e-5 < max(errors) < 2e-2


def test_growing_conversations_are_sampled_right_and_compute_only_what_is_new(tied, reference):
    rows, cached, prefilled = (
        [some_ids(64, 100 + i) for i in range(4)],
        tied.cached_tokens,
        tied.prefilled_tokens,
    )
    for turn in range(4):
        asked = [
            ask(f"{i}/{turn}", row, 7 * i + turn, f"s{i}", max_new_tokens=9) for i, row in enumerate(rows)
        ]
        for row, action in zip(rows, sample(tied, asked), strict=True):
            assert largest_error(reference, row, action) < 1e-4
            row += [*action.token_ids, *some_ids(30, turn)]
    computed, found = tied.prefilled_tokens - prefilled, tied.cached_tokens - cached
    # 4 rows; blocks of 32 tokens: each turn finds all but at most 31 + 30 + 9 tokens of the one before
    assert found > 0
    assert computed <= 4 * (64 + 3 * (31 + 30 + 9))


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0.7},
        {"temperature": 1.5, "top_k": 5},
        {"temperature": 1.0, "top_p": 0.8},
        {"temperature": 0.8, "top_k": 20, "top_p": 0.9},
        {"temperature": 1.0, "top_k": 100_000},
    ],
)
def test_logprobs_are_of_the_distribution_sampled_from(tied, reference, settings):
    requests = [ask(str(i), some_ids(20, i), i, max_new_tokens=10, **settings) for i in range(6)]
    for request, action in zip(requests, sample(tied, requests), strict=True):
        table = table_of(reference, [*request.token_ids, *action.token_ids])
        for at, (token, logp) in enumerate(zip(action.token_ids, action.logprobs, strict=True)):
            kept = _kept(table[19 + at] / settings["temperature"], settings)
            assert token in kept
            assert logp == pytest.approx(kept[token], abs=1e-4)


def _kept(logits, settings):
    """Token -> log-prob after top-k, then top-p: the fewest likeliest tokens that hold the mass, at least one."""
    order = np.argsort(-logits)[: settings.get("top_k") or None]
    mass = np.exp(logits[order] - logits[order].max())
    mass /= mass.sum()
    before = np.cumsum(mass) - mass
    order, mass = order[before < settings.get("top_p", 1.0)], mass[before < settings.get("top_p", 1.0)]
    return dict(zip(order.tolist(), np.log(mass / mass.sum()).tolist(), strict=True))


def test_greedy_replies_are_the_hf_engines_text_and_all(tied, hf):
    requests = [ask(str(i), some_ids(4 + 9 * i, i), 5, temperature=0.0, max_new_tokens=30) for i in range(8)]
    requests.append(ask("mixed in", (4, 5), 1))  # a batch of greedy and sampled replies
    ours, theirs = sample(tied, requests)[:-1], sample(hf, requests)[:-1]
    assert [(a.text, a.token_ids, a.finish) for a in ours] == [
        (a.text, a.token_ids, a.finish) for a in theirs
    ]
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine.logprobs, other.logprobs, atol=1e-4)


def test_the_end_token_is_kept_in_the_ids_and_left_out_of_the_text(tied):
    requests = [ask(str(i), (i, 2), seed=i, max_new_tokens=100) for i in range(32)]
    actions = sample(tied, requests)
    stopped = [action for action in actions if action.finish == "stop"]
    assert stopped, "none of 32 long replies met the end token"
    end = tied.tokenizer.eos_token_id
    for action in stopped:
        assert action.token_ids[-1] == end
        assert end not in action.token_ids[:-1]
        assert action.text == tied.tokenizer.decode(action.token_ids[:-1], skip_special_tokens=True)
    assert {len(action.token_ids) for action in actions if action.finish == "length"} == {100}
    held = [ask(str(i), (i, 2), seed=i, max_new_tokens=100, min_new_tokens=90) for i in range(32)]
    assert min(len(action.token_ids) for action in sample(tied, held)) >= 90


def test_guided_choice_samples_members_by_the_restricted_distribution(tied, reference, hf):
    end = tied.tokenizer.eos_token_id
    choices = ((10, 11, end), (10, 12, 13, end), (20, end), (20, 21, end))
    prompt = (5, 6, 7)
    requests = [ask(str(i), prompt, seed=i, choices=choices) for i in range(60)]
    free = [ask(f"free {i}", some_ids(5, i), seed=i, max_new_tokens=1 + i % 7) for i in range(20)]
    mixed = [request for pair in zip(requests[:20], free, strict=True) for request in pair]  # rows move about
    actions = dict(
        zip([r.key for r in (*mixed, *requests[20:])], sample(tied, [*mixed, *requests[20:]]), strict=True)
    )
    guided = [actions[request.key] for request in requests]
    seen = {tuple(action.token_ids) for action in guided}
    assert seen <= set(choices)
    assert len(seen) > 1
    for request in free:
        assert largest_error(reference, request.token_ids, actions[request.key]) < 1e-4

    def restricted(said, token, allowed):
        logp = table_of(reference, [*prompt, *said])[-1]
        return logp[token] - math.log(sum(math.exp(logp[other]) for other in allowed))

    for action in guided[:20]:
        said = list(action.token_ids)
        assert action.finish == "stop"
        for at, token in enumerate(said):
            fits = [choice for choice in choices if list(choice[:at]) == said[:at]]
            expected = restricted(said[:at], token, {choice[at] for choice in fits})
            assert action.logprobs[at] == pytest.approx(expected, abs=1e-4)
    greedy = ask("g", prompt, temperature=0.0, choices=choices)
    assert sample(tied, [greedy])[0].token_ids == sample(hf, [greedy])[0].token_ids


def test_choices_without_their_end_token_are_refused(tied):
    end = tied.tokenizer.eos_token_id
    for choices in (((10, 11),), ((10, end, 11, end),)):
        with pytest.raises(UsageError, match="one end token, their last; use engine: hf"):
            tied.submit([ask(choices=choices)])


@pytest.mark.parametrize(
    "wrong",
    [
        {"prompt": ()},
        {"prompt": (1, 100_000)},
        {"prompt": (-1,)},
        {"temperature": -1.0},
        {"top_p": 0.0},
        {"top_k": -2},
        {"max_new_tokens": 0},
        {"choices": ()},
        {"choices": ((),)},
        {"choices": ((1, 2, 3, 4, 5, 6, 7, 8, 9),)},
    ],
)
def test_bad_requests_are_refused_in_the_hf_engines_words(tied, hf, wrong):
    with pytest.raises(UsageError) as ours:
        tied.submit([ask("fine"), ask("bad", **wrong)])
    with pytest.raises(UsageError) as theirs:
        hf.submit([ask("fine"), ask("bad", **wrong)])
    assert str(ours.value) == str(theirs.value)
    assert tied.poll() == []


def test_one_key_twice_in_flight_is_refused(tied):
    with pytest.raises(UsageError, match="two requests with the key 'a' are in flight"):
        tied.submit([ask("a"), ask("a")])
    assert tied.poll() == []


def test_temperatures_that_vllm_would_change_are_refused(tied):
    for temperature in (0.001, 2.5):
        with pytest.raises(UsageError, match="vllm samples at temperature 0 or from"):
            tied.submit([ask(temperature=temperature)])


def test_a_prompt_without_room_fails_alone(tied, reference):
    full = ask("full", some_ids(MAX_CONTEXT))
    last = ask("last", some_ids(MAX_CONTEXT - 1), max_new_tokens=50)
    tied.submit([full, last, ask("short")])
    done = {}
    while len(done) < 3:
        done |= {completion.key: completion for completion in tied.poll()}
    assert "leaves no room in max_context 400" in str(done["full"].failure)
    assert len(done["last"].action.token_ids) == 1
    assert largest_error(reference, last.token_ids, done["last"].action) < 1e-4
    assert done["short"].failure is None


def test_a_long_reply_does_not_hold_up_short_ones(tied):
    tied.submit([ask("long", max_new_tokens=100, min_new_tokens=100), ask("short", max_new_tokens=1)])
    assert [done.key for done in tied.poll()] == ["short"]
    tied.submit([ask("next", max_new_tokens=1)])
    assert [done.key for done in tied.poll()] == ["next"]
    assert [len(done.action.token_ids) for done in tied.poll()] == [100]
    assert tied.poll() == []


def test_same_seed_same_reply_whatever_runs_beside_it(tied):
    wanted = [ask(str(i), some_ids(30 + i, i), 900 + i, max_new_tokens=25) for i in range(6)]
    alone = [sample(tied, [request])[0] for request in wanted]
    company = [ask(f"c{i}", some_ids(5 + 11 * i, 50 + i), i, max_new_tokens=40) for i in range(20)]
    together = sample(tied, [*company[:10], *wanted, *company[10:]])[10:16]
    assert [action.token_ids for action in together] == [action.token_ids for action in alone]
    other = sample(tied, [ask(str(i), some_ids(30 + i, i), 5000 + i, max_new_tokens=25) for i in range(6)])
    assert all(a.token_ids != b.token_ids for a, b in zip(other, alone, strict=True))


def test_more_prompt_tokens_than_one_step_computes_do_not_break_seeded_requests(tied, reference):
    # 16 prompts of 390 tokens: 6240, where a step computes 2048
    requests = [ask(str(i), some_ids(390, 300 + i), i, max_new_tokens=5) for i in range(16)]
    for request, action in zip(requests, sample(tied, requests), strict=True):
        assert largest_error(reference, request.token_ids, action) < 1e-4


def test_requests_that_take_too_long_fail_and_others_go_on(tied, monkeypatch):
    monkeypatch.setattr(tied, "_timeout", 0.3)
    tied.submit([ask("late", max_new_tokens=390, min_new_tokens=390)])
    monkeypatch.setattr(tied, "_timeout", None)
    tied.submit([ask("fine", max_new_tokens=390, min_new_tokens=390)])
    time.sleep(0.3)
    (late,) = tied.poll()
    assert late.key == "late"
    assert isinstance(late.failure, EngineFailure)
    assert "not answered within" in str(late.failure)
    (fine,) = tied.poll()
    assert len(fine.action.token_ids) == 390


def test_abort_answers_with_what_was_said_so_far(tied):
    long = {"max_new_tokens": 300, "min_new_tokens": 300}
    (whole,) = sample(tied, [ask("a", some_ids(9), 1, **long)])
    tied.submit(
        [ask("a", some_ids(9), 1, **long), ask("b", some_ids(9), 2, **long), ask("quick", max_new_tokens=4)]
    )
    assert [done.key for done in tied.poll()] == ["quick"]
    tied.abort(["a", "unknown"])
    (aborted,) = tied.poll()
    assert (aborted.key, aborted.action.finish) == ("a", "abort")
    said = len(aborted.action.token_ids)
    assert 1 <= said < 300
    assert aborted.action.token_ids == whole.token_ids[:said]
    np.testing.assert_allclose(aborted.action.logprobs, whole.logprobs[:said], atol=1e-4)
    tied.submit([ask("c", max_new_tokens=200)])
    tied.abort(["c"])
    (never,) = tied.poll()
    assert (never.key, never.action.token_ids, never.action.finish) == ("c", [], "abort")
    (b,) = tied.poll()
    assert len(b.action.token_ids) == 300


def test_a_broken_step_fails_what_ran_and_leaves_nothing_behind(tied, reference, monkeypatch):
    runner = tied._backend._engine.model_executor.driver_worker.model_runner

    def broken(*args, **kwargs):
        raise RuntimeError("out of something")

    prompt = some_ids(100, 41)
    tied.submit([ask("a", prompt), ask("b")])
    with monkeypatch.context() as patch:
        patch.setattr(runner, "_model_forward", broken)
        failed = tied.poll()
    assert [(done.key, str(done.failure)) for done in failed] == [
        ("a", "RuntimeError: out of something"),
        ("b", "RuntimeError: out of something"),
    ]
    before = tied.cached_tokens
    (action,) = sample(tied, [ask("a", prompt)])
    assert tied.cached_tokens == before  # the blocks of the broken step hold anything
    assert largest_error(reference, prompt, action) < 1e-4


def test_scores_are_those_of_a_plain_forward_pass_up_to_the_longest_context(tied, reference):
    for ids in ([3, 4], some_ids(77), some_ids(MAX_CONTEXT)):
        table = table_of(reference, ids)
        wanted = [table[at - 1, ids[at]] for at in range(1, len(ids))]
        np.testing.assert_allclose(tied.score(ids), wanted, atol=1e-4)
    for size in (1, MAX_CONTEXT + 1):
        with pytest.raises(UsageError, match=f"rows of 2 to 400 tokens, got {size}"):
            tied.score(some_ids(size))
    with pytest.raises(UsageError, match="outside the vocabulary of 259"):
        tied.score([1, 259])


def test_scoring_beside_running_requests_disturbs_neither(tied, reference):
    alone = sample(tied, [ask("x", some_ids(40), 3, max_new_tokens=30)])[0]
    tied.submit([ask("x", some_ids(40), 3, max_new_tokens=30)])
    scored = tied.score(some_ids(60))
    (done,) = tied.poll()
    assert done.action.token_ids == alone.token_ids
    table = table_of(reference, some_ids(60))
    np.testing.assert_allclose(scored, [table[t - 1, some_ids(60)[t]] for t in range(1, 60)], atol=1e-4)


def test_the_callers_random_numbers_are_left_alone(tied):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    sample(tied, [ask("a"), ask("b", temperature=0.0)])
    tied.score([1, 2, 3])
    assert torch.equal(torch.get_rng_state(), before)


def test_an_engine_on_cpu_cannot_sleep(tied, folders):
    from agentbench.engines.vllm.opening import build

    with pytest.raises(UsageError, match="cannot sleep on CPU"):
        build(str(folders["tied"]), sleeps=True)
    for act in (tied.sleep, tied.wake):
        with pytest.raises(UsageError, match="cannot sleep"):
            act()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "float8"}, "no dtype 'float8'"),
        ({"max_context": 401}, "max_context must be from 2 to 400"),
        ({"slots": 0}, "slots and prefill_tokens must be at least 1"),
        (
            {"cache_bytes": 1000},
            "vllm cannot serve .*; the options cache_bytes, slots and max_context set it",
        ),
        ({"vllm": {"nonsense": 1}}, "vllm cannot serve .*nonsense"),
        ({"vllm": {"logprobs_mode": "raw_logprobs"}}, "option 'logprobs_mode' is set by this engine"),
        ({"vllm": {"tensor_parallel_size": 2}}, "option 'tensor_parallel_size' is set by this engine"),
    ],
)
def test_options_that_cannot_work_are_refused_in_one_line(folders, options, message):
    from agentbench.engines.vllm.opening import build

    with pytest.raises(UsageError, match=message) as error:
        build(str(folders["tied"]), **options)
    assert "\n" not in str(error.value)
