"""The task store: import from every published form, ids, refusals, checks. Games are generated, or the real ones."""

import hashlib
import io
import json
import os
import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest
from places import SHARED_DATA

from agentbench import datasets as data
from agentbench.envs.alfworld.games import catalog as games
from agentbench.envs.alfworld.generate.generate import game_for, write_game
from agentbench.errors import CorruptData, MissingData, UnknownName, UsageError
from agentbench.evaluation.panels import load_panel
from agentbench.registry import env_spec

REAL = SHARED_DATA / "alfworld"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason=f"no real ALFWorld games at {REAL}")

FOLDERS = {
    "mini/pick_and_place_simple/1": "pick_and_place_simple-Mug-None-Desk-301/trial_T1",
    "mini/pick_heat_then_place_in_recep/3": "pick_heat_then_place_in_recep-Egg-None-Table-2/trial_T2",
    "mini/look_at_obj_in_light/5": "look_at_obj_in_light-Book-None-DeskLamp-308/trial_T3",
}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """An empty data folder."""
    folder = tmp_path / "home"
    monkeypatch.setenv("AGENTBENCH_DATA", str(folder))
    return folder


@pytest.fixture
def tree(tmp_path):
    """Three generated games in the official layout, two splits."""
    root = tmp_path / "tree" / "json_2.1.1"
    for number, (task, folder) in enumerate(FOLDERS.items()):
        write_game(game_for(task), root / ("valid_seen" if number < 2 else "valid_unseen") / folder)
    return root.parent


def take(source, **options):
    return data.import_data(games.DATASET, Path(source), **options)


def game_file(tree, number):
    return sorted(tree.rglob("game.tw-pddl"))[number]


def edit(path, **changes):
    """Change keys of a JSON file; None removes one."""
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def pack_tar(tree, path):
    with tarfile.open(path, "w:xz") as archive:
        archive.add(tree / "json_2.1.1", "json_2.1.1")
    return path


def pack_zip(tree, path, name):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(tree.rglob(name)):
            archive.write(file, file.relative_to(tree).as_posix())
    return path


# --- import ---


def test_ids_are_folder_trial_and_hash_in_sorted_order(tree):
    report = take(tree)
    assert report.counts == {"valid_seen": 2, "valid_unseen": 1}
    expected = sorted(
        f"{folder}@{hashlib.sha256(path.read_bytes()).hexdigest()[:12]}"
        for folder in list(FOLDERS.values())[:2]
        for path in [tree / "json_2.1.1" / "valid_seen" / folder / "game.tw-pddl"]
    )
    assert list(games.tasks("valid_seen")) == expected
    assert expected[0].startswith("pick_and_place_simple-Mug")
    content = games.load(expected[0])
    assert content.game == (tree / content.path).read_bytes()
    assert content.task_type == "pick_and_place_simple"


def test_every_published_form_gives_the_same_store(tree, tmp_path, home):
    take(tree / "json_2.1.1")
    plain = {file.name: file.read_bytes() for file in (home / "alfworld").glob("valid*")}
    for form in ("tar", "zips"):
        folder = tmp_path / form
        folder.mkdir()
        if form == "tar":
            pack_tar(tree, folder / "all.tar.xz")
        else:  # as the releases publish them: games and descriptions apart
            pack_zip(tree, folder / "json_2.1.3_tw-pddl.zip", "game.tw-pddl")
            pack_zip(tree, folder / "json_2.1.1_json.zip", "traj_data.json")
        take(folder, replace=True)
        seen = {file.name: file.read_bytes() for file in (home / "alfworld").glob("valid*.json")}
        assert {name: len(json.loads(text)["games"]) for name, text in seen.items()} == {
            "valid_seen.json": 2,
            "valid_unseen.json": 1,
        }
        assert {name: plain[name] for name in seen} == seen


def test_the_store_is_a_zip_that_can_be_imported_again(tree, tmp_path, home):
    take(tree)
    ids = games.tasks("valid_seen")
    with zipfile.ZipFile(home / "alfworld" / "valid_seen.zip") as archive:
        assert archive.testzip() is None
        archive.extractall(tmp_path / "again")
    pack_zip(tree, tmp_path / "again" / "descriptions.zip", "traj_data.json")
    take(tmp_path / "again", replace=True)
    assert games.tasks("valid_seen") == ids


def test_games_that_alfredtwenv_leaves_out_are_left_out(tree):
    seen = tree / "json_2.1.1" / "valid_seen"
    first = seen / "pick_and_place_simple-Mug-None-Desk-301"
    for name in ("a-movable-recep", "pick_and_place_simple-AppleSliced-None-Fridge-1"):
        shutil.copytree(first, seen / name)
    for trial in ("no_key", "unsolvable", "other_type", "lonely"):
        shutil.copytree(first / "trial_T1", first / trial)
    edit(first / "no_key" / "game.tw-pddl", solvable=None)
    edit(first / "unsolvable" / "game.tw-pddl", solvable=False)
    edit(first / "other_type" / "traj_data.json", task_type="pick_and_place_with_movable_recep")
    (first / "lonely" / "traj_data.json").unlink()
    report = take(tree)
    assert report.counts["valid_seen"] == 2
    assert [note for note in report.notes if "skipped" in note] == [
        "valid_seen: not solvable: 1 skipped",
        "valid_seen: of task type pick_and_place_with_movable_recep: 1 skipped",
        "valid_seen: without 'solvable': 1 skipped",
        "valid_seen: without traj_data.json: 1 skipped",
    ]


def test_the_report_says_how_much_of_the_official_set_is_there(tree):
    assert take(tree).notes == [
        "valid_seen: 2 of 140 official games",
        "valid_unseen: 1 of 134 official games",
    ]


def test_a_folder_without_games_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingData, match="holds no files of alfworld"):
        take(tmp_path / "empty")


# --- damage ---


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut, flip, lambda path: path.write_bytes(b"no archive")])
@pytest.mark.parametrize("form", ["tar.xz", "zip"])
def test_a_broken_archive_is_refused_and_an_earlier_import_kept(tree, tmp_path, home, form, damage):
    take(tree)
    ids = games.tasks("valid_seen")
    folder = tmp_path / "download"
    folder.mkdir()
    pack_zip(tree, folder / "a_sound.zip", "traj_data.json")
    broken = folder / f"broken.{form}"
    if form == "zip":
        pack_zip(tree, broken, "game.tw-pddl")
    else:
        pack_tar(tree, broken)
    damage(broken)
    with pytest.raises(CorruptData, match=rf"broken\.{form}"):
        take(folder, replace=True)
    assert games.tasks("valid_seen") == ids
    assert [path.name for path in home.iterdir()] == ["alfworld"]  # no half-finished folder


@pytest.mark.parametrize("form", ["zip", "tar.gz"])
def test_a_member_that_unpacks_to_more_than_a_game_is_refused(tmp_path, home, form):
    bomb, name = tmp_path / f"bomb.{form}", "json_2.1.1/train/pick-a/trial_1/game.tw-pddl"
    spaces = b" " * ((64 << 20) + 1)  # a byte above the limit, and 64 kB in the archive
    if form == "zip":
        with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(name, spaces)
    else:
        member = tarfile.TarInfo(name)
        member.size = len(spaces)
        with tarfile.open(bomb, "w:gz") as archive:
            archive.addfile(member, io.BytesIO(spaces))
    assert bomb.stat().st_size < 1 << 20
    with pytest.raises(CorruptData, match=r"a game file of more than 64 MiB.*nothing was imported"):
        take(bomb)
    assert not any(home.iterdir())


def test_a_pipe_is_refused_without_waiting_for_it(tree, tmp_path):
    game = game_file(tree, 0)
    game.unlink()
    for pipe, source, words in (
        (game, tree, "is no file"),
        (tmp_path / "a.zip", tmp_path / "a.zip", "neither a folder"),
    ):
        os.mkfifo(pipe)
        with pytest.raises(CorruptData, match=words):
            take(source)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.write_text("{"), "not JSON"),
        (lambda path: path.write_text("[]"), "holds a list"),
        (lambda path: edit(path, pddl_problem=None), "'pddl_problem' must be a string"),
        (lambda path: edit(path, pddl_problem="(define (problem x)"), "pddl_problem must hold"),
        (lambda path: path.with_name("traj_data.json").write_bytes(b"\xff"), r"traj_data\.json is not JSON"),
    ],
)
def test_a_broken_game_is_named_and_nothing_imported(tree, home, spoil, message):
    path = game_file(tree, 1)
    spoil(path)
    with pytest.raises(CorruptData, match=message) as caught:
        take(tree)
    assert path.parent.name in str(caught.value)
    assert not (home / "alfworld").exists()


def test_two_releases_in_one_folder_are_refused(tree, tmp_path):
    pack_zip(tree, tree / "older.zip", "game.tw-pddl")
    edit(game_file(tree, 0), walkthrough=["look"])
    with pytest.raises(CorruptData, match="mixes releases"):
        take(tree)


def test_verify_names_changed_and_repeated_games(tree, home):
    take(tree)
    assert data.verify_data(games.DATASET).problems == []
    index = home / "alfworld" / "valid_seen.json"
    content = json.loads(index.read_bytes())
    first = content["games"][0]
    archive = bytearray((home / "alfworld" / "valid_seen.zip").read_bytes())
    archive[first["offset"] + first["compressed"] // 2] ^= 0xFF
    (home / "alfworld" / "valid_seen.zip").write_bytes(archive)
    (home / "alfworld" / "valid_unseen.zip").unlink()
    report = data.verify_data(games.DATASET)
    assert report.counts == {"valid_seen": 1, "valid_unseen": 0}
    assert len(report.problems) == 2
    assert first["key"] in report.problems[0]
    assert "trial_T3" in report.problems[1]
    with pytest.raises(CorruptData, match=first["key"]):
        games.load(f"{first['key']}@{first['sha256'][:12]}")
    content["games"].append(first)
    index.write_text(json.dumps(content))
    assert any("twice" in problem for problem in data.verify_data(games.DATASET).problems)


# --- looking up ---


def test_absent_files_say_how_to_get_them():
    with pytest.raises(MissingData, match="agentbench data fetch alfworld"):
        games.tasks("valid_seen")
    with pytest.raises(MissingData, match="agentbench data import alfworld"):
        games.load("pick_and_place_simple-Mug-None-Desk-301/trial_T1@0123456789ab")


def test_unknown_names_are_refused(tree):
    take(tree)
    with pytest.raises(UnknownName, match="valid_seen"):
        games.tasks("valid_sen")
    with pytest.raises(UnknownName, match="ids look like"):
        games.load("nonsense")
    here = games.tasks("valid_seen")[0]
    with pytest.raises(UnknownName, match=f"is here as {here}.*another release"):
        games.load(here[:-12] + "0" * 12)


# --- generated games ---


def test_generated_splits_need_no_files_and_share_no_game():
    every = [task for split in games.generated_splits() if "mini" in split for task in games.tasks(split)]
    assert len(every) == len(set(every)) == 6000 + 480 + 128
    types = [task.split("/")[1] for task in games.tasks("mini-test")]
    # 128 = 21 rounds of six types and two more
    assert sorted(types.count(kind) for kind in set(types)) == [21, 21, 21, 21, 22, 22]


def test_the_hash_of_a_generated_game_is_of_the_file_that_would_be_written(tmp_path):
    task = games.tasks("mini-test")[3]
    bare, _, digest = task.partition("@")
    path = write_game(game_for(bare), tmp_path)
    assert hashlib.sha256(path.read_bytes()).hexdigest()[:12] == digest
    assert games.load(task).game == path.read_bytes()
    with pytest.raises(UsageError, match="panel version"):
        games.load(f"{bare}@000000000000")


@pytest.mark.parametrize("task", ["mini", "mini/no_such_type/1", "mini/pick_and_place_simple/x"])
def test_malformed_generated_ids_are_unknown_names(task):
    with pytest.raises(UnknownName):
        games.load(task)


@pytest.mark.parametrize("panel", ["alfworld/mini@1", "alfworld/small@1", "corridor/test@1"])
def test_shipped_panels_of_generated_tasks_still_hold(panel):
    loaded = load_panel(panel)
    assert len(loaded.resolve(env_spec(loaded.env)).tasks) == 128


# --- the real files ---


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """The real valid_unseen games, imported."""
    folder = tmp_path_factory.mktemp("real")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AGENTBENCH_DATA", str(folder))
        report = take(REAL / "valid_unseen.tar.xz")
    return folder, report


@needs_real
def test_real_games_come_back_byte_for_byte(real, monkeypatch):
    folder, report = real
    monkeypatch.setenv("AGENTBENCH_DATA", str(folder))
    assert report.counts == {"valid_unseen": 68}
    assert report.notes == ["valid_unseen: 68 of 134 official games"]
    by_path = {content.path: content for content in map(games.load, games.tasks("valid_unseen"))}
    with tarfile.open(REAL / "valid_unseen.tar.xz") as archive:
        for member in archive:
            if member.name.endswith("game.tw-pddl"):
                original = archive.extractfile(member).read()
                content = by_path.pop(member.name)
                assert content.game == original
                assert content.id.endswith(hashlib.sha256(original).hexdigest()[:12])
    assert by_path == {}


@needs_real
def test_the_unseen_panel_lists_the_games_that_are_there(real, monkeypatch):
    folder, _ = real
    monkeypatch.setenv("AGENTBENCH_DATA", str(folder))
    panel = load_panel("alfworld/valid-unseen@1")
    resolved = panel.resolve(env_spec("alfworld"))
    assert resolved.tasks == games.tasks("valid_unseen")
    assert resolved.banners() == ["68 of 134 official tasks present"]


@needs_real
def test_a_real_archive_cut_short_is_refused(tmp_path):
    broken = tmp_path / "valid_unseen.tar.xz"
    shutil.copy(REAL / broken.name, broken)
    cut(broken)
    with pytest.raises(CorruptData, match=r"valid_unseen\.tar\.xz"):
        take(broken)


@needs_real
def test_alfredtwenv_collects_the_same_games(real, tmp_path, monkeypatch, capsys):
    pytest.importorskip("textworld", reason="the reference engine is not installed")
    pytest.importorskip("alfworld", reason="the reference engine is not installed")
    monkeypatch.setenv("ALFWORLD_DATA", str(tmp_path / "cache"))
    from alfworld.agents.environment.alfred_tw_env import AlfredTWEnv

    with tarfile.open(REAL / "valid_unseen.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    config = {
        "env": {"goal_desc_human_anns_prob": 0, "task_types": [1, 2, 3, 4, 5, 6]},
        "dataset": {"eval_ood_data_path": str(tmp_path / "json_2.1.1/valid_unseen"), "num_eval_games": -1},
    }
    original = AlfredTWEnv(config, train_eval="eval_out_of_distribution")
    folder, _ = real
    monkeypatch.setenv("AGENTBENCH_DATA", str(folder))
    ours = {games.load(task).path for task in games.tasks("valid_unseen")}
    assert {str(Path(path).relative_to(tmp_path)) for path in original.game_files} == ours
