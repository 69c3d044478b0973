import hashlib

import pytest
import yaml
from places import TOY

from agentbench.errors import ConfigError, MissingData, UnknownName, UsageError
from agentbench.evaluation.panels import all_panels, digest, load_panel, parse_panel
from agentbench.registry import load

SPEC, TASKS = load("envs", f"{TOY}:SPEC"), load("envs", f"{TOY}:TASKS")


def text(split="all", **keys):
    values = {"id": "toy/test@1", "env": "toy", "split": split, "description": "Toys.", **keys}
    if "sha256" not in values:
        ids = values.get("tasks") or TASKS[: values["count"]]
        values["sha256"] = hashlib.sha256("\n".join(ids).encode()).hexdigest()
    return yaml.safe_dump({key: value for key, value in values.items() if value is not None})


def panel(split="all", **keys):
    return parse_panel(text(split, **keys), "toy.yaml")


def test_the_digest_is_sha256_of_the_joined_ids():
    # printf 'a\nb' | sha256sum
    assert digest(["a", "b"]) == "7e18f737311b2dc3b2f269dd78396b0351f14fb66efa879f768cb23181883c78"


def test_listed_tasks_are_played_in_the_order_of_the_list():
    found = panel(tasks=["t03", "t01"]).resolve(SPEC)
    assert found.tasks == ("t03", "t01")
    assert found.unlisted == tuple(task for task in TASKS if task not in ("t03", "t01"))
    assert found.banners() == ["10 more tasks are in the split: t00, t02, t04 and 7 more"]


def test_a_generated_panel_takes_the_first_tasks():
    found = panel(count=3).resolve(SPEC)
    assert found.tasks == ("t00", "t01", "t02")
    assert found.banners() == []
    assert found.digest == found.panel.sha256


def test_a_generated_panel_is_frozen():
    with pytest.raises(UsageError, match="first 3 tasks of split 'all' have changed"):
        panel(count=3, sha256="0" * 64).resolve(SPEC)


def test_a_generated_panel_needs_enough_tasks():
    with pytest.raises(MissingData, match="needs 5 tasks, split 'few' has 4"):
        panel("few", count=5).resolve(SPEC)


def test_listed_tasks_that_the_data_lacks_are_an_error_unless_allowed():
    made = panel("few", tasks=["t00", "t07", "t08", "t09", "t10", "t11"])
    with pytest.raises(
        MissingData, match=r"5 of 6 tasks are not in the data: t07, t08, t09 and 2 more;.*--allow-missing"
    ):
        made.resolve(SPEC)
    found = made.resolve(SPEC, allow_missing=True)
    assert found.tasks == ("t00",)
    assert found.missing == ("t07", "t08", "t09", "t10", "t11")
    assert found.banners()[0] == "5 tasks of the panel are missing: t07, t08, t09 and 2 more"
    assert found.digest != made.sha256


def test_repeated_tasks_are_an_error_in_the_list_and_in_the_data():
    with pytest.raises(UsageError, match="panel toy/test@1: 1 tasks are repeated: t00"):
        panel(tasks=["t00", "t01", "t00"])
    with pytest.raises(UsageError, match="split 'twice' of env 'toy': 1 tasks are repeated: t00"):
        panel("twice", tasks=["t00", "t01"]).resolve(SPEC)


def test_unlisted_tasks_are_played_up_to_the_official_size():
    # 2 listed + 2 more in the split "few" = 4 <= 6
    found = panel("few", tasks=["t03", "t01"], official_size=6).resolve(SPEC)
    assert found.tasks == ("t03", "t01", "t00", "t02")
    assert found.unlisted == ()
    assert found.banners() == [
        "4 of 6 official tasks present",
        "2 tasks were played that the panel does not name: t00, t02",
    ]


def test_unlisted_tasks_beyond_the_official_size_are_left_out():
    # 2 listed + 2 more = 4 > 3: which of them is official is not known
    found = panel("few", tasks=["t03", "t01"], official_size=3).resolve(SPEC)
    assert found.tasks == ("t03", "t01")
    assert found.unlisted == ("t00", "t02")
    assert found.banners()[0] == "2 of 3 official tasks present"


def test_a_full_official_panel_needs_no_banner_but_for_what_it_does_not_name():
    assert panel("few", tasks=["t03", "t01"], official_size=2).resolve(SPEC).banners()[1:] == []
    assert panel("few", tasks=["t03", "t01"], official_size=4).resolve(SPEC).banners() == [
        "2 tasks were played that the panel does not name: t00, t02"
    ]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"tasks": ["t00"], "count": 1}, "exactly one of 'tasks' and 'count'"),
        ({"sha256": "0" * 64}, "exactly one of 'tasks' and 'count'"),
        ({"tasks": ["t00"], "sha256": None}, "lacks sha256; for the tasks in it that is " + digest(["t00"])),
        ({"tasks": ["t00"], "sha256": "0" * 64}, "is frozen, but its tasks have changed"),
        ({"tasks": ["t00"], "size": 3}, "unknown key 'panel file toy.yaml: size'"),
        ({"tasks": ["t00"], "id": "toy/test"}, "id = 'toy/test' is not allowed"),
        ({"tasks": ["t00"], "env": None}, "env' is missing"),
        ({"count": 0, "sha256": "0" * 64}, "count = 0 is not allowed"),
    ],
)
def test_a_wrong_panel_file_is_refused_with_the_reason(keys, message):
    with pytest.raises(ConfigError) as error:
        panel(**keys)
    assert message in str(error.value)


@pytest.mark.parametrize("broken", ["[1, 2]", "a: [", ""])
def test_a_file_that_is_no_mapping_is_refused(broken):
    with pytest.raises(ConfigError, match=r"panel file x\.yaml"):
        parse_panel(broken, "x.yaml")


def test_a_path_is_a_panel_too(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(text(count=2))
    assert load_panel(str(file)).id == "toy/test@1"
    with pytest.raises(MissingData, match="no panel file"):
        load_panel(str(tmp_path / "other.yaml"))


def test_shipped_panels_are_found_by_id_and_typos_get_a_suggestion(tmp_path, monkeypatch):
    file = tmp_path / "toy-test.yaml"
    file.write_text("# a comment\n" + text(count=2))
    monkeypatch.setattr("agentbench.evaluation.panels.panel_files", lambda: {"toy-test": file})
    assert load_panel("toy/test@1").count == 2
    assert [item.id for item in all_panels()] == ["toy/test@1"]
    with pytest.raises(UnknownName, match="Did you mean 'toy/test@1'"):
        load_panel("toy/tset@1")


def test_official_panels_have_the_counts_that_the_field_uses():
    sizes = {panel.id: panel.count or len(panel.tasks or ()) for panel in all_panels()}
    assert sizes["alfworld/train@1"] == 3553
    assert sizes["alfworld/valid-seen@2"] == 140
    assert sizes["alfworld/valid-unseen@2"] == 134
    assert sizes["alfworld/valid@1"] == 274
    assert sizes["webshop-va/train@1"] == 6410
    assert sizes["webshop/test@1"] == 500
    strict = {panel.id for panel in all_panels() if panel.env_options == {"wording": "strict"}}
    assert strict == {
        "alfworld/train@1",
        "alfworld/valid-seen@2",
        "alfworld/valid-unseen@2",
        "alfworld/valid@1",
    }
