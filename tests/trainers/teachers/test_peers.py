import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentbench.config import validate
from agentbench.errors import ConfigError
from agentbench.trainers.teachers.peers import PeerConfig, longest_context, peer_contexts, transcript
from agentbench.types import Action, Failure, Group, Trajectory, Turn


class Letters:
    """A tokenizer of single characters."""

    def encode(self, text, add_special_tokens=False):
        return list(text)

    def decode(self, ids):
        return "".join(ids)


def attempt(name, score, *, turns=2, end="terminated", final="the end"):
    """An episode in which every text carries its name."""
    made = tuple(
        Turn(k, f"{name} sees {k}", Action(f"{name} says {k}"), f"{name} does {k}", 0.0) for k in range(turns)
    )
    error = Failure("Boom", "broken", "env") if end == "error" else None
    return Trajectory(name, "e", "t", 0, made, score == 1.0, score, end, error=error,
                      final_observation=f"{name}: {final}" if final else "")  # fmt: skip


def contexts(members, **keys):
    return peer_contexts([Group("t", 0, tuple(members))], PeerConfig(**keys), Letters(), seed=0, step=0)


@given(
    scores=st.lists(st.sampled_from([0.0, 0.4, 1.0]), min_size=1, max_size=7),
    broken=st.sets(st.integers(0, 6)),
    failure=st.sampled_from(["always", "no_success", "never"]),
    successes=st.integers(1, 3),
    step=st.integers(0, 5),
)
@settings(deadline=None, max_examples=150)
def test_an_attempt_never_occurs_in_its_own_context(scores, broken, failure, successes, step):
    members = [
        attempt(f"<{n}>", score, end="error" if n in broken else "terminated")
        for n, score in enumerate(scores)
    ]
    config = PeerConfig(failure=failure, successes=successes, success_threshold=0.5)
    made = peer_contexts([Group("t", 0, tuple(members))], config, Letters(), seed=1, step=step)
    for member in members:
        if member.id not in made:
            continue
        context = made[member.id]
        assert member.id not in context.peers
        assert member.id not in context.text
        assert 1 <= context.blocks <= successes + 2
        # what broke is nobody's example
        assert not any(f"<{n}>" in context.text for n in broken)
        won = [other for other in members if other.ok and other.score >= 0.5 and other.id != member.id]
        shown = [peer for peer in context.peers if peer in {other.id for other in won}]
        assert shown == [other.id for other in won][:successes]  # the first ones, in their order


def test_two_successes_and_one_failure_by_hand():
    members = [attempt("a", 1.0), attempt("b", 0.0), attempt("c", 1.0), attempt("d", 1.0)]
    made = contexts(members)
    assert made["a"].peers == ("c", "d", "b")
    assert made["b"].peers == ("a", "c")  # nobody else failed
    assert made["d"].peers == ("a", "c", "b")
    assert [made[name].failed for name in "abcd"] == [True, False, True, True]
    assert contexts(members, successes=1)["a"].peers == ("c", "b")


def test_the_two_constructions_and_the_failure_where_nothing_succeeded():
    mixed = [attempt("a", 1.0), attempt("b", 0.0), attempt("c", 1.0)]
    assert contexts(mixed, failure="never")["a"].peers == ("c",)
    assert contexts(mixed, failure="no_success")["a"].peers == ("c",)
    assert contexts(mixed, failure="always")["a"].peers == ("c", "b")
    # a's only successful peer gone, the failure is shown where no success is
    pair = [attempt("a", 1.0), attempt("b", 0.0)]
    assert contexts(pair, failure="no_success")["a"].peers == ("b",)


def test_groups_of_failures_and_groups_of_successes():
    lost = [attempt(name, 0.0) for name in "abc"]
    for context in contexts(lost).values():
        assert context.failed
        assert context.blocks == 2  # the failure, and what was said at its end
    assert contexts(lost, failure="never", feedback=False) == {}
    won = contexts([attempt(name, 1.0) for name in "abc"])
    assert [won[name].peers for name in "abc"] == [("b", "c"), ("a", "c"), ("a", "b")]
    assert not any(context.failed for context in won.values())


def test_feedback_is_shown_only_where_nobody_succeeded():
    lost = contexts([attempt("a", 0.0), attempt("b", 0.0, final="wrong door")])
    assert "b: wrong door" in lost["a"].text
    mixed = contexts([attempt("a", 0.0), attempt("b", 0.0, final="wrong door"), attempt("c", 1.0)])
    assert "wrong door" not in mixed["a"].text
    assert "the end" not in mixed["a"].text
    assert contexts([attempt("a", 0.0), attempt("b", 0.0, final="")])["a"].blocks == 1


def test_partial_credit_counts_from_the_threshold_on():
    members = [attempt("a", 0.0), attempt("b", 0.5)]
    assert contexts(members, success_threshold=0.5)["a"].failed is False
    assert contexts(members)["a"].failed is True


def test_someone_alone_has_no_context():
    assert contexts([attempt("a", 1.0)]) == {}
    made = contexts([attempt("a", 1.0), attempt("b", 1.0, end="error")])
    assert {name: context.peers for name, context in made.items()} == {
        "b": ("a",)
    }  # b has no tokens to train


def test_a_transcript_is_what_was_done_and_seen():
    assert transcript(attempt("x", 1.0, turns=3)) == (
        "Action 1: x does 0\nObservation: x sees 1\nAction 2: x does 1\nObservation: x sees 2\nAction 3: x does 2"
    )
    assert transcript(attempt("x", 1.0, turns=1)) == "x does 0"
    unread = Turn(0, "o", Action("what I said"), None, 0.0)
    assert transcript(Trajectory("x", "e", "t", 0, (unread,), False, 0.0, "terminated")) == "what I said"


def test_blocks_are_cut_one_by_one_and_the_instruction_never():
    members = [attempt("a", 1.0), attempt("b", 1.0, turns=9), attempt("c", 0.0, turns=2)]
    whole, short = contexts(members)["a"], contexts(members, block_tokens=60)["a"]
    assert (whole.cut, short.cut, short.blocks) == (0, 1, 2)
    assert short.text.endswith(whole.text[-100:])
    assert "form that the message above this list asks for" in short.text
    body = short.text.split("## ")[1].split("\n", 1)[1].split("\n[the rest")[0]
    assert body == transcript(members[1])[:60]
    assert transcript(members[2]) in short.text


@pytest.mark.parametrize(
    ("failure", "feedback", "blocks"),
    [("always", True, 3), ("no_success", True, 2), ("never", False, 2), ("never", True, 2)],
)
def test_no_context_is_longer_than_what_is_said_of_the_longest(failure, feedback, blocks):
    keys = {"failure": failure, "feedback": feedback, "block_tokens": 40}
    assert PeerConfig(**keys).most_blocks == blocks
    longest = longest_context(PeerConfig(**keys), Letters())
    groups = [
        [attempt(str(n), float(n in won), turns=9, final="x" * 99) for n in range(5)]
        for won in ({0, 1, 2}, ())
    ]
    made = [context for members in groups for context in contexts(members, **keys).values()]
    assert all(len(context.text) <= longest for context in made)
    fullest = max(made, key=lambda context: len(context.text))
    # titles differ by a few letters
    assert fullest.blocks < blocks or longest - len(fullest.text) < 30 * blocks


def test_the_failure_is_drawn_from_seed_step_and_attempt():
    members = [attempt(str(n), 0.0) for n in range(6)]
    groups = [Group("t", 0, tuple(members))]

    def drawn(seed, step):
        made = peer_contexts(groups, PeerConfig(), Letters(), seed=seed, step=step)
        return [made[str(n)].peers for n in range(6)]

    assert drawn(0, 0) == drawn(0, 0)
    assert len({tuple(drawn(0, step)) for step in range(8)}) > 1
    random.seed(1)
    before = drawn(0, 0)
    random.seed(2)
    assert drawn(0, 0) == before


def test_a_rule_that_shows_nothing_is_refused():
    with pytest.raises(ConfigError, match="show the teacher nothing"):
        validate(PeerConfig, {"successes": 0, "failure": "never", "feedback": False})
