import math
from dataclasses import replace

import pytest
from debaters import TEXTS, speaker
from spoken import FRESH, GROWING, prompted, spoken_groups
from trainer_cases import make_run

from agentbench.dialogue.prompt import shipped_prompts
from agentbench.engines.scripted import Reply
from agentbench.errors import ConfigError, UsageError
from agentbench.trainers.teachers.debate import (
    hold_debates,
    load_debate,
    read_confidence,
    reply_texts,
    state_texts,
)

PLAIN = load_debate(TEXTS)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("go north <<CONFIDENCE=85>>", 85.0),
        ("<<confidence = 7 >> go", 7.0),
        ("<<CONFIDENCE=0>>", 0.0),
        ("<<CONFIDENCE=100>>", 100.0),
        ("<<CONFIDENCE=62.5>>", 62.5),
        ("<<CONFIDENCE=10>> no, <<CONFIDENCE=20>>", 20.0),  # the last of many
        ("<<CONFIDENCE=10>><<CONFIDENCE=101>>", math.nan),  # ... also where it is no good
        ("<<CONFIDENCE=-5>>", math.nan),
        ("<<CONFIDENCE=high>>", math.nan),
        ("<<CONFIDENCE=>>", math.nan),
        ("<<CONFIDENCE=5", math.nan),
        ("CONFIDENCE=50", math.nan),
        ("", math.nan),
    ],
)
def test_the_last_tag_counts(text, expected):
    assert read_confidence(text) == pytest.approx(expected, nan_ok=True)


def test_who_sees_what(models):
    """Round 1: the state alone. Round 2: everything of round 1, and who one is."""
    voices = [
        speaker(lambda prompt, me=me: f"{me} says {prompt[:5].lower()}", models["tokenizer"]) for me in "AB"
    ]
    key = ("t", 0)
    debate = hold_debates(voices, {key: "the hall"}, PLAIN, 2)[key]
    for me, voice in zip("AB", voices, strict=True):
        opening, later = voice.script.prompts
        assert f"FIRST {me} [the hall]" in opening
        assert "says" not in opening
        assert f"LATER {me} [the hall]" in later
        assert "Expert A, round 1:\nA says" in later
        assert "Expert B, round 1:\nB says" in later
    assert debate.transcript.count("Expert ") == 4
    assert debate.transcript.index("Expert B, round 1") < debate.transcript.index("Expert A, round 2")


def played(run, tokenizer, seed):
    """Groups in which every reply is a word of its own."""
    groups, count = [], 0
    for group in spoken_groups(run, tokenizer, seed=seed, groups=1, members=2):
        members = []
        for member in group.members:
            turns = []
            for turn in member.turns:
                count += 1
                ids = tuple(tokenizer.encode(f"quux{seed}z{count}q", add_special_tokens=False))
                action = replace(
                    turn.action, text=tokenizer.decode(ids), token_ids=ids, logprobs=(0.0,) * len(ids)
                )
                turns.append(replace(turn, action=action))
            members.append(replace(member, turns=tuple(turns)))
        groups.append(replace(group, members=tuple(members)))
    return groups


def debated(models, prompt, seed, *, shown):
    """(reply, every prompt of the debate about its state), for each turn on record."""
    tokenizer = models["tokenizer"]
    groups = played(prompted(make_run(models, "opd"), prompt), tokenizer, seed)
    keys = [(m.id, turn.index) for group in groups for m in group.members for turn in m.turns]
    states, replies = state_texts(groups, keys, tokenizer), reply_texts(groups, keys)
    for key in keys:
        voices = [speaker(lambda text: f"I saw {text[-30:]} <<CONFIDENCE=50>>", tokenizer) for _ in range(2)]
        hold_debates(voices, {key: states[key]}, PLAIN, 3, actions=replies if shown else None)
        yield replies[key], [text for voice in voices for text in voice.script.prompts]


@pytest.mark.parametrize("prompt", [GROWING, FRESH], ids=["growing", "fresh"])
@pytest.mark.parametrize("seed", range(3))
def test_no_prompt_of_a_debate_holds_the_students_reply(models, prompt, seed):
    for reply, prompts in debated(models, prompt, seed, shown=False):
        assert len(prompts) == 6
        assert all("room" in text for text in prompts)  # the state is there
        assert not any(reply in text for text in prompts)


def test_the_ablation_shows_the_reply_in_every_round(models):
    for reply, prompts in debated(models, GROWING, 0, shown=True):
        assert all(f"The agent replied:\n{reply}" in text for text in prompts)


def test_a_teacher_that_fails_is_out_and_the_others_go_on(models):
    down = lambda prompt: Reply(failure="down") if "FIRST" in prompt and "bad" in prompt else "B here"
    voices = [speaker(lambda prompt: "A here", models["tokenizer"]), speaker(down, models["tokenizer"])]
    states = {("t", 0): "good", ("t", 1): "bad"}
    good, bad = hold_debates(voices, states, PLAIN, 2).values()
    assert good.present == (True, True)
    assert bad.present == (True, False)
    assert "Expert B" not in bad.transcript
    assert len([text for text in voices[1].script.prompts if "bad" in text]) == 1  # not asked again
    assert math.isnan(bad.confidence[1])


def test_a_late_failure_leaves_what_was_said_before(models):
    late = lambda prompt: Reply(failure="down") if "LATER" in prompt else "B here"
    voices = [speaker(lambda prompt: "A here", models["tokenizer"]), speaker(late, models["tokenizer"])]
    (debate,) = hold_debates(voices, {("t", 0): "hall"}, PLAIN, 2).values()
    assert debate.present == (True, False)
    assert debate.transcript.count("B here") == 1


def test_proposals_are_compared_without_their_confidence(models):
    voices = [speaker(lambda prompt, c=c: f"go <<CONFIDENCE={c}>>", models["tokenizer"]) for c in (10, 90)]
    (debate,) = hold_debates(voices, {("t", 0): "hall"}, PLAIN, 1).values()
    assert debate.proposals(0) == ("go", "go")
    assert debate.confidence == (10.0, 90.0)
    assert all(0.0 < c <= 100.0 for c in debate.likelihood)


@pytest.mark.parametrize("name", ["agent", "code", "general"])
def test_shipped_debates_say_what_the_protocol_needs(name):
    texts = load_debate(name)
    for part in ("first", "later"):
        written = texts.write(part, me=1, state="THE STATE", transcript="THE DEBATE")
        assert "Expert B" in written
        assert "THE STATE" in written
        assert written.endswith(
            "<<CONFIDENCE=N>>, where N is a whole number from 0 (a guess) to 100 (certain)."
        )
        assert ("THE DEBATE" in written) == (part == "later")
    answer = texts.write("answer", me=0, transcript="costs $5 and ${state}")
    assert "costs $5 and ${state}" in answer  # what was said is text, whatever it spells
    assert "CONFIDENCE" not in answer


def test_debates_are_no_prompts_of_environments():
    assert not [name for name in shipped_prompts() if name.startswith("debate/")]


def test_unknown_names_and_slots_are_refused():
    with pytest.raises(UsageError, match="agent, code, general"):
        load_debate("agents")
    with pytest.raises(ConfigError, match=r"slots are \$me, \$state, \$transcript, \$action"):
        load_debate(TEXTS | {"first": "$who"})
    with pytest.raises(ConfigError, match=r"a dollar sign is \$\$"):
        load_debate(TEXTS | {"answer": "$5"})
