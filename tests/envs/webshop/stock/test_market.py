import pytest

from agentbench.datasets import import_data, verify_data
from agentbench.envs.webshop.env import SPEC
from agentbench.envs.webshop.shop.goals import ORDERS, GoalTable
from agentbench.envs.webshop.stock import market
from agentbench.envs.webshop.stock.dataset import DATASET
from agentbench.envs.webshop.stock.generate import write_files
from agentbench.errors import CorruptData, MissingData, UnknownName
from agentbench.evaluation.panels import load_panel
from agentbench.retrieval.bm25.index import Bm25Index


@pytest.fixture
def imported(tmp_path, monkeypatch):
    """A generated shop, imported as if its files were the official small set."""
    monkeypatch.setenv("AGENTBENCH_DATA", str(tmp_path / "data"))
    write_files(tmp_path / "files", 300, 9)
    report = import_data(DATASET, tmp_path / "files")
    return tmp_path / "data" / "webshop", report


def test_an_import_can_be_played_and_verified(imported):
    folder, report = imported
    assert report.counts["small products"] == 300
    assert report.counts["small synthetic goals"] == len(market.goal_table("small", "orig"))
    assert "fingerprint" in report.notes[0]  # these are not the products that the panels were made from
    assert not verify_data(DATASET).problems
    assert market.tasks("test")[0].startswith("small-orig-0-")
    assert market.stock("small").catalog.directory == folder / "small"


def test_a_changed_store_is_reported(imported):
    folder, _ = imported
    text = folder / "small" / "title.bin"
    text.write_bytes(text.read_bytes().replace(b"Model", b"Motel", 1))
    assert "small" in verify_data(DATASET).problems[0]


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: bytes(len(data))])
def test_a_damaged_search_index_is_refused_by_play_and_named_by_verify(imported, damage):
    folder, _ = imported
    for name in (*Bm25Index.ARRAYS, "documents"):
        path = folder / "small" / "index" / f"{name}.npy"
        kept = path.read_bytes()
        path.write_bytes(damage(kept))
        with pytest.raises(CorruptData, match=r"search index .* cannot be read .*--replace"):
            market.open_stock(folder / "small")
        assert "search index" in verify_data(DATASET).problems[0]
        path.write_bytes(kept)
    assert not verify_data(DATASET).problems


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: bytes(len(data)), lambda data: b""])
def test_damaged_goal_tables_are_drawn_again(imported, damage):
    folder, _ = imported
    goals = [goal.digest for goal in market.goal_table("small", "orig")]
    catalog = market.open_stock(folder / "small").catalog
    for name in ("price", "places", "choices", "limits"):
        path = folder / "small" / "goals" / "orig-0-233" / f"{name}.npy"
        kept = path.read_bytes()
        path.write_bytes(damage(kept))
        assert [goal.digest for goal in GoalTable(catalog, ORDERS["orig"])] == goals
        assert path.read_bytes() == kept


def test_an_incomplete_folder_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("AGENTBENCH_DATA", str(tmp_path / "data"))
    write_files(tmp_path / "files", 10, 9)
    (tmp_path / "files" / "items_ins_v2_1000.json").unlink()
    with pytest.raises(MissingData, match="holds no files"):
        import_data(DATASET, tmp_path / "files")


def test_absent_official_data_say_how_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setenv("AGENTBENCH_DATA", str(tmp_path))
    for split in ("test", "train", "human", "va-test", "full-test"):
        with pytest.raises(MissingData, match="agentbench data fetch webshop"):
            market.tasks(split)


def test_generated_splits_do_not_share_a_product():
    names = [market.SPLITS[split].catalog for split in ("mini-train", "mini-dev", "mini-test")]
    for column in ("asin", "title"):
        values = {value for name in names for value in market.stock(name).catalog.columns[column]}
        assert len(values) == 3 * market.GENERATED_SIZE


def test_the_generated_panel_is_the_frozen_one():
    assert load_panel("webshop/mini@1").resolve(SPEC).tasks == market.tasks("mini-test")[:128]


@pytest.mark.parametrize(
    "name",
    ["", "x", "gen0-orig-0", "gen0-orig-0-0000000000", "gen0-orig-999999-0123456789", "gen0-none-0-0123456789",
     "tiny-orig-0-0123456789"],
)  # fmt: skip
def test_a_task_that_does_not_exist_is_refused(name):
    with pytest.raises(UnknownName, match="WebShop task"):
        market.find_task(name)


def test_an_id_names_its_goal():
    for task in market.tasks("mini-dev")[:20]:
        found = market.find_task(task)
        assert market.task_id(found.catalog, found.goals.order.name, found.goal) == task


def test_unknown_names_suggest_the_nearest():
    with pytest.raises(UnknownName, match="mini-train"):
        SPEC.tasks("mini-trian")
    with pytest.raises(UnknownName, match="small"):
        market.stock("smal")


def test_official_splits_have_the_fields_sizes(official, recordings, tmp_path, monkeypatch):
    monkeypatch.setenv("AGENTBENCH_DATA", str(tmp_path))
    report = import_data(DATASET, recordings.parent)
    # 6,910 synthetic goals: 500 + 1,000 + the rest; 13 human ones; nothing to remark: these are the panels' products
    assert report.counts == {"small products": 1000, "small human goals": 13, "small synthetic goals": 6910}
    assert not report.notes
    sizes = {
        split: len(market.tasks(split)) for split in ("test", "dev", "train", "human", "va-test", "va-train")
    }
    assert sizes == {"test": 500, "dev": 1000, "train": 5410, "human": 13, "va-test": 500, "va-train": 6410}
    wanted = [{key(task) for task in market.tasks(split)} for split in ("va-test", "va-train")]
    for panel in ("test", "dev", "train", "human"):
        assert len(load_panel(f"webshop/{panel}@1").resolve(SPEC).tasks) == sizes[panel]
    for panel in ("test", "train"):
        assert len(load_panel(f"webshop-va/{panel}@1").resolve(SPEC).tasks) == sizes[f"va-{panel}"]
    # measured on the original: 457 of the 500 validation goals of seed 1000 are training goals of seed 0
    assert sum(key(task) in wanted[1] for task in market.tasks("va-test")) == 457


def key(task):
    goal = market.find_task(task).goal
    return goal.place, goal.options
