"""The hook for other people's loops: TextWorld's own batch and ours must give the same values, one import apart."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from places import SHARED_DATA

from agentbench.bridges import find_bridge, from_environment
from agentbench.bridges.bridge import _said
from agentbench.envs.alfworld.play.batch import Games, NativeBatch, OriginalPlayer, Wanted
from agentbench.envs.alfworld.play.rules import Game
from agentbench.errors import ConfigError

textworld = pytest.importorskip("textworld", reason="TextWorld plays the other side")
pytest.importorskip("alfworld", reason="its wrappers name the objects")

from alfworld.agents.environment import alfred_tw_env as released  # noqa: E402
from textworld.gym import utils as gym  # noqa: E402

from agentbench.envs.alfworld import bridge, side_by_side  # noqa: E402

# TextWorld leaves files open and unpacks its planner with deprecated calls
pytestmark = pytest.mark.filterwarnings("ignore::Warning")

ARCHIVES = SHARED_DATA / "alfworld"


@pytest.fixture(autouse=True)
def switched_off():
    """Each test switches the bridge on itself, and hears what is said once."""
    _said.clear()
    bridge.uninstall()
    yield
    bridge.install(bridge.Settings())
    bridge.uninstall()


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """Six generated games with the file that AlfredTWEnv wants beside each."""
    folder = tmp_path_factory.mktemp("games")
    written = side_by_side.write_embedded(folder, 6)
    for file in written:
        beside = {"task_type": "pick_and_place_simple"}
        Path(file).with_name("traj_data.json").write_text(json.dumps(beside))
    return sorted(written)


@pytest.fixture
def household(content, tmp_path):
    file = tmp_path / "look_at" / "trial" / "game.tw-pddl"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(content))
    return str(file)


def infos(**changes):
    return textworld.EnvInfos(**{"won": True, "admissible_commands": True, "extras": ["gamefile"], **changes})


def wrappers():
    return [released.AlfredDemangler(shuffle=False), released.AlfredInfos]


def wanted(request=None, limit=50, given=None):
    names = given if given is not None else wrappers()
    found = Wanted.of(request or infos(), limit, names, shares_wrappers=False)
    assert isinstance(found, Wanted), found
    return found


# --- by hand, in the household of tests/data ---


def test_a_game_ends_at_the_limit_and_then_repeats_its_last_answer(household):
    batch = NativeBatch(wanted(limit=2), 1, Games(4), strict=False)
    batch.load([household])
    texts, started = batch.reset()
    assert isinstance(texts, tuple)
    assert started["extra.gamefile"] == [household]
    assert "help" in started["admissible_commands"][0]
    first = batch.step(["inventory"])
    assert first[:3] == (("You are not carrying anything.",), (0,), (False,))
    assert first[3]["extra.gamefile"] == [None]
    second = batch.step(["dance"])
    assert second[:3] == (("Nothing happens.",), (0,), (True,))
    assert batch.step(["inventory"]) == second
    assert type(second[1][0]) is int
    assert type(second[2][0]) is bool
    assert batch.reset()[1]["extra.gamefile"] == [household]
    assert batch.step(["inventory"])[:3] == first[:3]


def test_the_goal_ends_a_game_and_pays_one(household, content):
    game = Game.from_json(content)
    batch = NativeBatch(wanted(limit=None), 1, Games(4), strict=False)
    batch.load([household])
    batch.reset()
    from agentbench.envs.alfworld.players.expert import Expert

    expert, session = Expert(game), batch.players[0].session
    done = (False,)
    while not done[0]:
        _, scores, done, answered = batch.step([expert.act(session.state)])
    assert scores == (1,)
    assert answered["won"] == [True]


def test_a_process_remembers_few_games_and_reads_a_changed_file_again(household, tmp_path):
    games = Games(1)
    first = games.load(household)
    assert games.load(household) is first
    other = tmp_path / "other.tw-pddl"
    other.write_bytes(Path(household).read_bytes())
    games.load(str(other))
    assert games.load(household) is not first
    again = games.load(household)
    os.utime(household, ns=(1, 1))
    assert games.load(household) is not again


# --- beside TextWorld ---


@pytest.mark.parametrize(("size", "seed", "rounds"), [(1, None, 4), (3, 7, 2)])
def test_equals_textworld_over_seeds_and_laps(files, size, seed, rounds):
    report = side_by_side.SideBySide()
    # a pool of 3: with batches of 3 every round is a lap, with 1 the fourth round begins the second
    side_by_side.play(files[:3], side_by_side.Plan(size, rounds, seed=seed, steps=5, limit=3), report)
    assert report.differences == []
    assert report.counts["games"] == size * rounds
    assert report.counts["values"] > 60 * size


def test_a_difference_is_seen(files, monkeypatch):
    monkeypatch.setattr("agentbench.envs.alfworld.play.text.NOTHING_HAPPENS", "Nothing at all happens.")
    report = side_by_side.SideBySide()
    monkeypatch.setattr(side_by_side, "NONSENSE", ("dance",))
    monkeypatch.setattr(side_by_side.Script, "next", lambda self, admissible: "dance")
    side_by_side.play(files[:1], side_by_side.Plan(1, 1, steps=1), report)
    assert len(report.differences) == 1
    assert "ours 'Nothing at all happens.', original 'Nothing happens.'" in report.differences[0]


def everything_said(env, commands):
    """Play and keep all that a loop can read."""
    said = [env.reset()]
    for command in commands:
        said.append(env.step(command))
    env.close()
    return said


def test_every_info_that_is_not_textworlds_alone_is_equal(files):
    names = [name for name in textworld.EnvInfos.__slots__ if name != "extras"]
    kept = [name for name in names if name not in ("facts", "policy_commands", "command_templates")]
    request = textworld.EnvInfos(
        **dict.fromkeys(kept, True), extras=["gamefile", "walkthrough", "unheard_of"]
    )
    played = []
    for kind in (bridge.original_class(), bridge.native_class()):
        env = kind([files[0]], request_infos=request, batch_size=1, asynchronous=False, wrappers=wrappers())
        played.append(everything_said(env, [["look"], [" inventory "], ["dance"], ["go to x"]]))
    assert played[0] == played[1]
    assert isinstance(env.__dict__["batch_env"], NativeBatch)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"auto_reset": True}, "auto_reset"),
        (
            {"wrappers": [released.AlfredDemangler(shuffle=True), released.AlfredInfos]},
            "domain_randomization",
        ),
        ({"wrappers": [*wrappers(), released.AlfredExpert("handcoded")]}, "AlfredExpert"),
        ({"wrappers": [released.AlfredInfos]}, "AlfredDemangler"),
        ({"request_infos": infos(facts=True)}, "'facts'"),
        ({"gamefiles": ["zork.z5"]}, "zork.z5"),
    ],
)
def test_other_set_ups_go_to_textworld_with_one_line(files, changes, reason, capsys):
    given = {"gamefiles": files, "request_infos": infos(), "wrappers": wrappers(), **changes}
    for _ in range(2):
        env = bridge.native_class()(**given)
        assert type(env.batch_env).__module__.startswith("textworld.")
        env.close()
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert reason in said[0]


def test_a_game_of_other_rules_is_played_by_textworld_in_its_place(household, content, tmp_path, capsys):
    odd = tmp_path / "odd" / "game.tw-pddl"
    odd.parent.mkdir()
    grammar = content["grammar"].replace("Nothing happens", "Nothing much happens")
    odd.write_text(json.dumps({**content, "grammar": grammar + "\n"}))
    arguments = sys.argv
    batch = NativeBatch(wanted(), 2, Games(4), strict=True)
    batch.load([household, str(odd)])
    texts, started = batch.reset()
    assert isinstance(batch.players[1], OriginalPlayer)
    assert texts[0] == texts[1]
    assert started["extra.gamefile"] == [household, str(odd)]
    one, other = zip(*(row for row in batch.step(["look", "look"])[:3]), strict=True)
    assert one == other
    assert sys.argv is arguments
    assert "TextWorld plays" in capsys.readouterr().err


def test_the_number_of_commands_is_checked_where_textworld_checks_it(files):
    native = bridge.native_class()
    env = native(files, request_infos=infos(), batch_size=2, wrappers=wrappers())
    env.reset()
    with pytest.raises(AssertionError, match="one action per environment"):
        env.step(["look"])
    with pytest.raises(AssertionError, match="list of commands"):
        env.step("look")


def test_close_may_come_between_resets(files):
    env = bridge.native_class()(files, request_infos=infos(), wrappers=wrappers())
    first = env.reset()[1]["extra.gamefile"]
    env.close()
    assert env.reset()[1]["extra.gamefile"] != first
    assert "> look" not in env.render("text")
    env.step(["look"])
    assert env.render("text").startswith("> look")


# --- through other people's ways to it ---


def vendored():
    """Return a copy of ALFWorld's module as many projects carry one: the same text under another name."""
    spec = importlib.util.spec_from_file_location("some_project.alfred_tw_env", released.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def config(folder):
    return {
        "env": {
            "goal_desc_human_anns_prob": 0,
            "task_types": [1],
            "domain_randomization": False,
            "expert_type": "",
        },
        "dataset": {
            "data_path": folder,
            "eval_id_data_path": folder,
            "num_train_games": 0,
            "num_eval_games": 0,
        },
        "general": {"training_method": "dqn"},
        "rl": {"training": {"max_nb_steps_per_episode": 4}},
    }


def through_the_class(module, folder):
    """Play as verl-agent and Reflexion do."""
    made = module.AlfredTWEnv(config(folder), train_eval="train")
    made.game_files.sort()
    env = made.init_env(batch_size=1)
    kind = type(env.batch_env).__name__
    return [
        env.seed(3),
        *everything_said(env, [["look"], ["dance"], ["look"], ["inventory"], ["look"]]),
    ], kind


def as_ragen_does(files):
    """Play a game that is registered without the class."""
    import textworld.gym

    name = textworld.gym.register_game(
        files[0],
        infos(),
        batch_size=1,
        asynchronous=False,
        max_episode_steps=3,
        wrappers=[released.AlfredDemangler(shuffle=False), released.AlfredInfos()],
    )
    env = textworld.gym.make(name)
    kind = type(env.batch_env).__name__
    return everything_said(env, [["look"], ["dance"], ["look"], ["look"]]), kind


@pytest.mark.parametrize("module", [released, vendored()], ids=["released", "vendored"])
def test_the_class_and_its_copies_play_the_same(files, module, capsys):
    folder = str(Path(files[0]).parents[4])
    original, plain = through_the_class(module, folder)
    bridge.install(bridge.Settings())
    ours, fast = through_the_class(module, folder)
    assert (plain, fast) == ("SyncBatchEnv", "NativeBatch")
    assert ours == original


def test_a_registered_game_plays_the_same(files):
    original, plain = as_ragen_does(files)
    bridge.install(bridge.Settings())
    ours, fast = as_ragen_does(files)
    assert (plain, fast) == ("SyncBatchEnv", "NativeBatch")
    assert ours == original


def test_games_registered_before_the_import_are_played_too(files):
    name = gym.register_games(files[:1], infos(), batch_size=1, asynchronous=False, wrappers=wrappers())
    bridge.install(bridge.Settings())
    assert isinstance(gym.make(name).batch_env, NativeBatch)
    bridge.uninstall()
    assert not isinstance(gym.make(name).batch_env, NativeBatch)
    assert gym.TextworldBatchGymEnv is bridge.original_class()


def test_one_game_without_a_batch(files):
    played = []
    for on in (False, True):
        if on:
            bridge.install(bridge.Settings())
        env = gym.make(gym.register_game(files[0], infos(), max_episode_steps=2, wrappers=wrappers()))
        played.append(everything_said(env, ["look", "dance", "look"]))
    assert played[0] == played[1]


WORKER = """
import hashlib, json, sys
import agentbench.envs.alfworld.bridge
import textworld, textworld.gym
class AlfredDemangler: shuffle = False
class AlfredInfos: pass
name = textworld.gym.register_games(
    json.loads(sys.argv[1]), textworld.EnvInfos(won=True, admissible_commands=True, extras=["gamefile"]),
    batch_size=1, asynchronous=True, max_episode_steps=50, wrappers=[AlfredDemangler(), AlfredInfos])
env = textworld.gym.make(name)
env.seed(int(sys.argv[2]))
said = [env.reset()]
for command in ("look", "inventory", "dance"):
    said.append(env.step([command]))
print(type(env.batch_env).__name__, hashlib.sha256(repr(said).encode()).hexdigest())
"""


def test_workers_of_other_processes_play_the_same(files):
    played = [
        subprocess.run(
            [sys.executable, "-c", WORKER, json.dumps(files), str(worker // 2)],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        for worker in (0, 1, 2)
    ]
    assert {kind for kind, _ in played} == {"NativeBatch"}
    # workers 0 and 1 share a seed, as the groups of verl-agent do
    assert played[0] == played[1] != played[2]


RAY = """
import hashlib, json, sys
import ray

class Worker:
    def play(self, files, seed):
        import textworld, textworld.gym
        class AlfredDemangler: shuffle = False
        class AlfredInfos: pass
        name = textworld.gym.register_games(
            files, textworld.EnvInfos(won=True, admissible_commands=True, extras=["gamefile"]),
            batch_size=1, asynchronous=True, max_episode_steps=50, wrappers=[AlfredDemangler(), AlfredInfos])
        env = textworld.gym.make(name)
        env.seed(seed)
        said = [env.reset()]
        for command in ("look", "inventory", "dance"):
            said.append(env.step([command]))
        return type(env.batch_env).__name__, hashlib.sha256(repr(said).encode()).hexdigest()

hook = {"worker_process_setup_hook": "agentbench.bridges.from_environment"}
ray.init(num_cpus=2, runtime_env={"env_vars": {"AGENTBENCH_ALFWORLD": "1"}, **hook}, include_dashboard=False)
actors = [ray.remote(Worker).options(num_cpus=0.5).remote() for _ in range(4)]
files = json.loads(sys.argv[1])
played = ray.get([actor.play.remote(files, number // 2) for number, actor in enumerate(actors)])
print(json.dumps(played))
ray.shutdown()
"""


def test_rays_actors_play_the_same(files):
    """Four actors as verl-agent's, switched on by the variable alone; the program has no line of ours."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed; processes stand in for it above")
    done = subprocess.run(
        [sys.executable, "-c", RAY, json.dumps(files)], capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-2000:]
    played = json.loads(done.stdout.splitlines()[-1])
    alone = subprocess.run(
        [sys.executable, "-c", WORKER, json.dumps(files), "0"], capture_output=True, text=True, check=True
    )
    assert played[0] == played[1] == alone.stdout.split()
    assert played[2] == played[3] != played[0]
    assert {kind for kind, _ in played} == {"NativeBatch"}


# --- settings ---


def test_sorting_makes_a_seed_mean_the_same_games_everywhere(files):
    kind = bridge.native_class()
    first = []
    for given in (files, files[::-1]):
        bridge.install(bridge.Settings(sort_games=True))
        env = kind(given, request_infos=infos(), wrappers=wrappers())
        first.append([env.reset()[1]["extra.gamefile"][0] for _ in range(6)])
    assert first[0] == first[1]
    bridge.install(bridge.Settings())
    env = kind(files[::-1], request_infos=infos(), wrappers=wrappers())
    assert [env.reset()[1]["extra.gamefile"][0] for _ in range(6)] != first[0]


def test_the_variable_switches_it_off_and_on_or_names_a_file(tmp_path, monkeypatch):
    found = find_bridge("alfworld")
    assert found.configured().enabled
    monkeypatch.setenv("AGENTBENCH_ALFWORLD", "0")
    assert not found.configured().enabled
    assert from_environment() == []
    file = tmp_path / "bridge.yaml"
    file.write_text("games_kept: 3\n")
    monkeypatch.setenv("AGENTBENCH_ALFWORLD", str(file))
    assert found.configured(["sort_games=true"]) == bridge.Settings(games_kept=3, sort_games=True)
    assert from_environment() == ["alfworld"]
    assert gym.TextworldBatchGymEnv is not bridge.original_class()


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("yes", "none of 1, 0 or the path"),
        ("missing.yaml", "no file of bridge settings 'missing.yaml'"),
    ],
)
def test_a_wrong_variable_is_said_in_one_line(said, message, monkeypatch):
    monkeypatch.setenv("AGENTBENCH_ALFWORLD", said)
    with pytest.raises(ConfigError, match=message):
        find_bridge("alfworld").configured()


def test_an_unknown_setting_names_the_right_one():
    with pytest.raises(ConfigError, match="Did you mean 'sort_games'"):
        find_bridge("alfworld").configured(["sort_game=1"])


def test_the_games_of_a_configuration_are_found(files, tmp_path, monkeypatch):
    folder = Path(files[0]).parents[4]
    monkeypatch.setenv("SOME_DATA", str(folder))
    file = tmp_path / "base_config.yaml"
    file.write_text("dataset:\n  data_path: $SOME_DATA\n  eval_id_data_path: /nowhere\n")
    assert side_by_side.find_games([str(file)]) == files
    monkeypatch.setenv("ALFWORLD_DATA", str(folder))
    assert side_by_side.find_games([]) == files


@pytest.mark.slow
def test_two_hundred_official_games_in_batches_of_one_three_and_eight(tmp_path):
    import tarfile

    if not (ARCHIVES / "valid_seen.tar.xz").is_file():
        pytest.skip(f"the official games are not at {ARCHIVES}")
    for name in ("valid_seen", "valid_unseen"):
        with tarfile.open(ARCHIVES / f"{name}.tar.xz", "r:xz") as archive:
            archive.extractall(tmp_path, filter="data")
    report = side_by_side.check([str(tmp_path)], limit=200, batch_sizes=(1, 3, 8))
    assert report.differences == []
    assert report.counts["games"] >= 3 * 200
