"""The environment in which a small student learns to read peers (examples/learning/prepare)."""

import pytest
from places import ROOT

from agentbench import env_spec, run_episodes
from agentbench.policies.ready import ExpertPolicy
from agentbench.rollout.episode import Episode

READING = f"{ROOT / 'examples' / 'learning' / 'prepare' / 'reading.py'}:READING"


@pytest.fixture(scope="module")
def spec():
    return env_spec(READING)


def played(spec, **options):
    tasks = spec.tasks("mini-train")[:24]
    episodes = [Episode(spec, task, seed, id=task, max_turns=20) for seed, task in enumerate(tasks)]
    done = run_episodes(episodes, {"student": ExpertPolicy()}, env_options=options)
    return sorted(done, key=lambda episode: episode.id)


def test_an_episode_follows_from_task_and_seed(spec, monkeypatch):
    monkeypatch.chdir(ROOT)
    lines = [[turn.observation for turn in episode.turns] for episode in played(spec)]
    assert lines == [[turn.observation for turn in episode.turns] for episode in played(spec)]
    assert len({"An attempt" in first for first, *_ in lines}) == 2  # some are shown peers, some are not


def test_the_player_repeats_a_success_and_knows_nothing_without_one(spec, monkeypatch):
    monkeypatch.chdir(ROOT)
    shown, alone = played(spec, shows="success"), played(spec, shows="nothing")
    for episode in shown:
        first = episode.turns[0].observation
        assert "attempt that succeeded" in first
        assert f"Action 1: {episode.turns[0].action.text}" in first
    assert all("attempt" not in episode.turns[0].observation for episode in alone)
    assert sum(bool(episode.success) for episode in shown) > 20
    assert sum(bool(episode.success) for episode in alone) < 16
