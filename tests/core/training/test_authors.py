"""Who acts: odds by turn, schedules by task, recordings said again, and authors that an algorithm or a user adds."""

from collections import Counter
from dataclasses import replace

import pytest

from agentbench.config import validate
from agentbench.dialogue.parse import get_parser
from agentbench.dialogue.prompt import load_prompt
from agentbench.dialogue.render import Renderer
from agentbench.envs.corridor import SPEC, tasks
from agentbench.errors import ConfigError, CorruptData, UnknownName, UsageError
from agentbench.policies.demonstrations import RecordedPolicy, TokenisedPolicy
from agentbench.policies.ready import ExpertPolicy, NullPolicy, RandomPolicy
from agentbench.rollout.collect import Stage, collect
from agentbench.rollout.episode import Episode
from agentbench.rollout.schedule import run_episodes
from agentbench.runs.episodes import encode_episode
from agentbench.runs.recordings import best_tries, check_ids, digest_of, read_recordings
from agentbench.training.authors import Voice, build_stage, demonstrator
from agentbench.training.check import check, played
from agentbench.training.config import TrainConfig
from agentbench.types import REPLAY, RolloutPlan, Trajectory, Turn, author_of, authors_in

pytest.importorskip("transformers")
NAMES = tasks("train")[:12]
PARSER = get_parser("plain")
ODDS = ((0, (("expert", 0.25), ("null", 0.75))),)


@pytest.fixture(scope="module")
def renderer(tmp_path_factory):
    from agentbench.models.tiny import make_tokenizer

    tokenizer = make_tokenizer(tmp_path_factory.mktemp("tok"), ["go left go right open door"], vocab_size=300)
    return Renderer(tokenizer, load_prompt("agentbench.prompts:corridor/transcript"), history=2, max_turns=20)


def record(policy=None, names=NAMES, seed=5, **values):
    items = [Episode(SPEC, name, seed, **values) for name in names]
    done = run_episodes(items, policy or ExpertPolicy())
    return {item.task: item for item in done}


def write(path, episodes):
    path.write_bytes(b"".join(encode_episode(item) + b"\n" for item in episodes))
    return str(path)


def stage(renderer, recordings, **policies):
    replay = RecordedPolicy(recordings, renderer, PARSER, "the recording")
    known = {"expert": ExpertPolicy(), "null": NullPolicy(), REPLAY: replay} | policies
    return Stage(SPEC, known, seed=3, recordings=recordings)


# --- odds by turn --------------------------------------------------------------------------------------------------


def test_odds_draw_every_turn_apart_and_follow_from_the_episodes_seed():
    drawn = [author_of(ODDS, turn, seed) for seed in range(200) for turn in range(20)]
    assert drawn == [author_of(ODDS, turn, seed) for seed in range(200) for turn in range(20)]
    # 4,000 draws at 0.25: the standard error is sqrt(.25 * .75 / 4000) = 0.0068; four of them
    assert abs(Counter(drawn)["expert"] / 4000 - 0.25) < 0.028
    first = [author_of(ODDS, 0, seed) for seed in range(200)]
    assert first != [author_of(ODDS, 1, seed) for seed in range(200)]


def test_odds_of_nought_and_one_are_certain_and_a_schedule_may_hold_both():
    for share, who in ((0.0, "null"), (1.0, "expert")):
        authors = ((0, (("expert", share), ("null", 1.0 - share))),)
        assert {author_of(authors, turn, seed) for turn in range(5) for seed in range(40)} == {who}
    mixed = ((0, "replay"), (2, (("expert", 0.5), ("null", 0.5))))
    assert [author_of(mixed, turn, 1) for turn in (0, 1)] == ["replay", "replay"]
    assert authors_in(mixed) == {"replay", "expert", "null"}


def test_members_of_a_group_draw_apart_and_the_width_changes_nothing(renderer):
    plan = RolloutPlan(len(NAMES), 3, authors=(ODDS,))
    wide = collect(plan, stage(renderer, {}), NAMES, step=0)
    narrow = collect(plan, replace(stage(renderer, {}), concurrency=1), NAMES, step=0)
    assert wide == narrow
    said = [tuple(turn.action.author for turn in member.turns) for group in wide for member in group.members]
    assert {author for authors in said for author in authors} == {"expert", "null"}
    assert len({authors[:4] for authors in said[:3]}) > 1


# --- recordings said again -----------------------------------------------------------------------------------------


def test_a_task_of_its_own_schedule_hands_over_where_it_says(renderer):
    recordings = record()
    plan = RolloutPlan(
        len(NAMES), 2, authors=(((0, "null"),),), tasks={NAMES[0]: ((0, REPLAY), (1, "expert"))}
    )
    first, *others = collect(plan, stage(renderer, recordings), NAMES, step=0)
    for member in first.members:
        assert [turn.action.author for turn in member.turns[:2]] == [REPLAY, "expert"]
        assert member.seed == recordings[NAMES[0]].seed == 5
        assert member.success
    for group in others:
        assert {turn.action.author for member in group.members for turn in member.turns} == {"null"}
        assert all(member.seed != 5 for member in group.members)


def test_replayed_turns_keep_their_tokens_and_are_the_recorded_ones(renderer):
    recordings = record(TokenisedPolicy(ExpertPolicy(), renderer, PARSER))
    odd = recordings[NAMES[0]]  # as a model may have said it: other tokens than the text would be encoded to
    said = replace(odd.turns[0].action, token_ids=(70, 71, 72), logprobs=(-1.0, -2.0, -3.0))
    recordings[NAMES[0]] = replace(odd, turns=(replace(odd.turns[0], action=said), *odd.turns[1:]))
    plan = RolloutPlan(len(NAMES), 1, authors=(((0, REPLAY),),))
    for group in collect(plan, stage(renderer, recordings), NAMES, step=0):
        (again,), wanted = group.members, recordings[group.key]
        assert [turn.env_action for turn in again.turns] == [turn.env_action for turn in wanted.turns]
        assert [turn.observation for turn in again.turns] == [turn.observation for turn in wanted.turns]
        assert [turn.action.token_ids for turn in again.turns] == [
            turn.action.token_ids for turn in wanted.turns
        ]
        assert again.final_observation == wanted.final_observation
        assert again.success
    (member,) = collect(plan, stage(renderer, recordings), NAMES, step=0)[0].members
    assert list(member.turns[0].action.logprobs) == [-1.0, -2.0, -3.0]


def test_a_recording_without_tokens_is_said_in_the_models(renderer):
    plan = RolloutPlan(1, 1, authors=(((0, REPLAY),),))
    (group,) = collect(plan, stage(renderer, record(names=NAMES[:1])), NAMES[:1], step=0)
    spoken = record(TokenisedPolicy(ExpertPolicy(), renderer, PARSER), NAMES[:1])[NAMES[0]]
    for again, wanted in zip(group.members[0].turns, spoken.turns, strict=True):
        assert tuple(again.action.token_ids) == tuple(wanted.action.token_ids)
        assert tuple(again.context_ids) == tuple(wanted.context_ids)


def test_a_recording_that_ends_early_ends_the_replay(renderer):
    recordings = record(NullPolicy(), max_turns=3)
    plan = RolloutPlan(len(NAMES), 1, authors=(((0, REPLAY),),))
    for group in collect(plan, stage(renderer, recordings), NAMES, step=0):
        assert (len(group.members[0].turns), group.members[0].end) == (3, "max_turns")


def test_what_cannot_be_replayed_is_named(renderer):
    recordings = record()
    plan = RolloutPlan(1, 1, authors=(((0, REPLAY),),))
    others = {name: item for name, item in recordings.items() if name != NAMES[0]}
    with pytest.raises(UsageError, match=r"has no recorded episode to replay; recorded are 11 tasks"):
        collect(plan, stage(renderer, others), NAMES[:1], step=0)
    turns = recordings[NAMES[0]].turns
    changed = (turns[0], replace(turns[1], observation="A meadow."), *turns[2:])
    other = {NAMES[0]: replace(recordings[NAMES[0]], turns=changed)}
    with pytest.raises(UsageError, match=r"another observation at turn 1 of task .* 'the recording'"):
        collect(plan, stage(renderer, other), NAMES[:1], step=0)


def test_anchors_come_from_recordings_and_are_at_most_so_many_of_one(renderer):
    recordings = record()
    plan = RolloutPlan(
        len(NAMES), 2, "step", "every", (((0, "null"),),), roots=(((0, REPLAY),),), most_per_root=2,
        steps_per_member=1,
    )  # fmt: skip
    groups = collect(plan, stage(renderer, recordings), NAMES, step=0)
    states = Counter(group.key.split("@")[0] for group in groups)
    assert states == {name: min(2, len(recordings[name].turns)) for name in NAMES}
    for group in groups:
        wanted = recordings[group.key.split("@")[0]].turns
        for member in group.members:
            assert [turn.observation for turn in member.turns] == [
                turn.observation for turn in wanted[: group.anchor + 1]
            ]
            assert member.turns[-1].action.author == "null"


# --- reading recordings --------------------------------------------------------------------------------------------


def test_the_best_of_several_tries_is_taken():
    def attempt(repeat, success, score, turns):
        played = [Turn(index, "seen", record_action, None, 0.0) for index in range(turns)]
        return Trajectory(f"t#{repeat}", "corridor", "t", 0, played, success, score, "terminated", repeat)

    record_action = record(names=NAMES[:1])[NAMES[0]].turns[0].action
    tries = [
        attempt(0, False, 0.9, 1),
        attempt(1, True, 0.5, 9),
        attempt(2, True, 0.5, 4),
        attempt(3, True, 0.5, 4),
    ]
    # solved goes before score, then the shorter one, then the first
    assert best_tries(reversed(tries))["t"].repeat == 2
    assert best_tries(tries[:1])["t"].repeat == 0


def test_recordings_of_nothing_or_of_another_env_or_tokenizer_are_refused(tmp_path):
    episodes = list(record(names=NAMES[:2]).values())
    file = write(tmp_path / "episodes.jsonl", episodes)
    assert read_recordings(file, "corridor").keys() == set(NAMES[:2])
    assert read_recordings(str(tmp_path), "corridor").keys() == set(NAMES[:2])
    assert digest_of(write(tmp_path / "turned.jsonl", reversed(episodes))) == digest_of(file)
    with pytest.raises(UsageError, match="episodes of env 'corridor', the run plays 'webshop'"):
        read_recordings(file, "webshop")
    with pytest.raises(UsageError, match="no episodes at"):
        read_recordings(str(tmp_path / "absent"), "corridor")
    with pytest.raises(UsageError, match="holds no healthy episode"):
        read_recordings(write(tmp_path / "empty.jsonl", []), "corridor")
    turn = episodes[0].turns[0]
    said = replace(turn.action, token_ids=(299, 300), logprobs=(0.0, 0.0))
    foreign = replace(episodes[0], turns=(replace(turn, action=said),))
    check_ids(foreign, 301, file)
    with pytest.raises(CorruptData, match="token id 300, but the student's tokenizer has 300 tokens"):
        check_ids(foreign, 300, file)


# --- the table is open ---------------------------------------------------------------------------------------------


def config(model, folder, **rollout):
    values = {
        "algorithm": "sft",
        "output_dir": str(folder),
        "model_name_or_path": model,
        "env": {"name": "corridor", "split": "train", "prompt": "corridor/transcript"},
        "trainer": {"takeover": [0, 0]},
        "rollout": rollout,
    }
    return validate(TrainConfig, values)


def test_keys_that_nobody_uses_and_demonstrators_that_cannot_are_refused(model, tmp_path):
    recorded = write(tmp_path / "episodes.jsonl", record(names=NAMES[:2]).values())
    with pytest.raises(ConfigError, match=r"'sft' replays no episodes; remove rollout\.recordings"):
        check(config(model, tmp_path / "a", recordings=recorded))
    with pytest.raises(UnknownName, match=r"rollout\.demonstrator.*'experd'.*Did you mean 'expert'"):
        check(config(model, tmp_path / "a", demonstrator="experd"))
    late = _file(tmp_path, "class Late:\n    info = submit = poll = forget = None\n")
    with pytest.raises(ConfigError, match="must answer at once"):
        demonstrator(f"{late}:Late")


def _file(folder, text):
    path = folder / "mine.py"
    path.write_text(text)
    return path


def test_the_recordings_are_pinned_by_their_digest(model, tmp_path):
    recorded = write(tmp_path / "episodes.jsonl", record(names=NAMES[:2]).values())
    facts = played(config(model, tmp_path / "a", recordings=recorded), SPEC)
    assert facts["recordings"] == digest_of(recorded)
    assert "recordings" not in played(config(model, tmp_path / "a"), SPEC)


class Trainer:
    """As much of a trainer as a stage reads."""

    def __init__(self, model):
        from transformers import AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(model)


def test_a_policy_of_ones_own_demonstrates(model, tmp_path):
    mine = _file(
        tmp_path,
        "from agentbench.policy import InstantPolicy\n"
        "class Left(InstantPolicy):\n    name = 'left'\n    def command(self, view):\n        return 'go left'\n",
    )
    built = build_stage(
        config(model, tmp_path / "a", demonstrator=f"{mine}:Left"), SPEC, Trainer(model), None
    )
    (group,) = collect(RolloutPlan(1, 1, authors=(((0, "expert"),),), max_turns=2), built, NAMES[:1], 0)
    assert [(turn.env_action, turn.action.author) for turn in group.members[0].turns] == [
        ("go left", "expert")
    ] * 2
    assert all(turn.action.token_ids for turn in group.members[0].turns)


def test_an_algorithm_adds_authors_of_its_own_and_takes_no_name_that_is_there(model, tmp_path):
    def more(trainer, voice):
        assert isinstance(voice, Voice)
        return {"wanderer": voice.spoken(RandomPolicy())}

    built = build_stage(config(model, tmp_path / "a"), SPEC, Trainer(model), None, more)
    plan = RolloutPlan(1, 1, authors=(((0, "wanderer"),),), max_turns=2)
    (group,) = collect(plan, built, NAMES[:1], 0)
    assert [turn.action.author for turn in group.members[0].turns] == ["random"] * 2
    with pytest.raises(ConfigError, match="adds an author 'expert', which exists already"):
        build_stage(
            config(model, tmp_path / "a"), SPEC, Trainer(model), None,
            lambda trainer, voice: {"expert": voice.spoken(RandomPolicy())},
        )  # fmt: skip
