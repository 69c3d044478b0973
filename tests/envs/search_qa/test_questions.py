import functools
import gzip
import json
import threading
from collections import Counter
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from agentbench.datasets import dataset, fetch_data, import_data, verify_data
from agentbench.envs.search_qa.dataset import DATASET, find_files, stored
from agentbench.envs.search_qa.metrics import normal_form
from agentbench.envs.search_qa.questions import SETS, answers_of, content_hash, question_of
from agentbench.envs.search_qa.splits import by_hash, find_task, stratified, tasks
from agentbench.errors import CorruptData, MissingData, UnknownName, UsageError
from agentbench.evaluation.panels import load_panel
from agentbench.registry import env_spec

OFFICIAL = Path(__file__).parents[4] / "shared" / "data" / "qa"
official = pytest.mark.skipif(not OFFICIAL.is_dir(), reason=f"no question files at {OFFICIAL}")


@pytest.mark.parametrize(
    ("value", "answers"),
    [
        ("Lima", ("Lima",)),
        (["a", "b", "a"], ("a", "b")),
        (("a",), ("a",)),
        (np.array(["a", "b"], dtype=object), ("a", "b")),
        ({"target": np.array(["a"], dtype=object)}, ("a",)),
        ({"target": "a"}, ("a",)),
    ],
)
def test_answers_come_in_many_forms(value, answers):
    assert answers_of(value, "here") == answers


@pytest.mark.parametrize("value", [[], "", " ", [" "], None, 3, [1], {"target": []}, {}])
def test_no_answer_is_refused_and_named(value):
    with pytest.raises(CorruptData, match="line 7"):
        answers_of(value, "f.jsonl line 7")


@pytest.mark.parametrize(
    "record",
    [
        {"question": "q", "answers": ["a"]},
        {"question": "q", "golden_answers": ["a"], "id": "test_0"},
        {"question": " q ", "answer": "a"},
        {"question": "q", "reward_model": {"ground_truth": {"target": ["a"]}, "style": "rule"}},
    ],
)
def test_public_copies_give_one_id(record):
    question = question_of(record, "nq", "here")
    assert (question.text, question.answers, question.stratum) == ("q", ("a",), "nq")
    assert question.id == "nq-" + content_hash("q", ["a"])


def test_an_id_is_of_the_content():
    assert content_hash("q", ["a", "b"]) == content_hash(" q", ["b", "a", "b"])
    assert len({content_hash("q", ["a"]), content_hash("q", ["b"]), content_hash("r", ["a"])}) == 3


def test_files_are_found_by_name_or_folder_and_the_test_split_wins(tmp_path):
    for name in ("nq/test.jsonl", "nq/dev.jsonl", "nq/train.jsonl", "musique/dev.jsonl", "musique/train.jsonl",
                 "hotpotqa-train.jsonl", "hotpotqa.jsonl", "hotpotqa_nosupport.jsonl.gz", "2wiki/dev.jsonl",
                 "corpus.jsonl", "other.jsonl", "nq/readme.md"):  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}\n")
    found = {
        name: [str(path.relative_to(tmp_path)) for path in paths]
        for name, paths in find_files(tmp_path).items()
    }
    assert found == {
        "nq": ["nq/test.jsonl"],
        "nq-train": ["nq/train.jsonl"],
        "hotpotqa": ["hotpotqa.jsonl", "hotpotqa_nosupport.jsonl.gz"],
        "hotpotqa-train": ["hotpotqa-train.jsonl"],
        "2wikimultihopqa": ["2wiki/dev.jsonl"],
        "musique": ["musique/dev.jsonl"],
    }


def test_import_takes_questions_and_corpus(files, corpus):
    (files / "corpus.jsonl.gz").write_bytes(gzip.compress(corpus.read_bytes()))
    (files / "nq-train.jsonl").write_text('{"question": "a b", "golden_answers": ["c"]}\n' * 2)
    (files / "hotpotqa-train.jsonl").write_text('{"question": "d", "golden_answers": ["e"]}\n')
    report = import_data(dataset("search-qa"), files)
    assert report.counts == {"nq": 1, "bamboogle": 1, "nq-train": 1, "hotpotqa-train": 1, "passages": 3}
    assert "nq-train: 1 repeated questions left out" in report.notes
    assert "nq: 1 of 3610 official questions" in report.notes
    assert verify_data(dataset("search-qa")).counts == report.counts
    assert [find_task(task).text for task in tasks("train")] == ["a b", "d"]  # NQ, then HotpotQA
    assert find_task(tasks("train")[0]).stratum == "nq"
    assert tasks("bamboogle") == (
        f"bamboogle-{content_hash('Which city is the capital of Peru?', ['Lima'])}",
    )


def test_one_file_may_hold_several_sets(tmp_path, monkeypatch):
    monkeypatch.setenv("AGENTBENCH_DATA", str(tmp_path / "data"))
    folder = tmp_path / "files"
    folder.mkdir()
    record = '{{"data_source": "{}", "question": "{}", "golden_answers": ["x"]}}\n'
    (folder / "test.jsonl").write_text(
        record.format("nq", "a") + record.format("popqa", "b") + record.format("nq", "c")
    )
    (folder / "train.jsonl").write_text(record.format("nq", "d") + record.format("hotpotqa", "e"))
    (folder / "notes.jsonl").write_text('{"text": "nothing of ours"}\n')
    report = import_data(dataset("search-qa"), folder)
    assert report.counts == {"nq": 2, "popqa": 1, "nq-train": 1, "hotpotqa-train": 1}
    assert [find_task(task).text for task in tasks("nq")] == ["a", "c"]
    assert [find_task(task).text for task in tasks("train")] == ["d", "e"]


def test_a_gold_without_normal_form_is_told(files):
    (files / "nq.jsonl").write_text('{"question": "what sign", "answers": ["*", "star"]}\n')
    notes = import_data(dataset("search-qa"), files).notes
    assert any("any answer covers the gold of nq-" in note for note in notes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"question": "q", "answers": []}\n', "nq.jsonl line 1: the list of answers is empty"),
        ('{"question": "q", "answers": ["a"]}\n{"answers": ["a"]}\n', "line 2 has no question"),
        ("{nonsense\n", "line 1 is not JSON"),
        ("[1]\n", "line 1 is no JSON object"),
    ],
)
def test_a_broken_file_is_named_and_nothing_is_imported(files, text, message):
    (files / "nq.jsonl").write_text(text)
    with pytest.raises(CorruptData, match=message):
        import_data(dataset("search-qa"), files)
    with pytest.raises(MissingData, match="data import search-qa"):
        tasks("nq")


def test_tasks_that_are_not_there(files):
    with pytest.raises(MissingData):
        find_task("nq-0123456789")
    import_data(dataset("search-qa"), files)
    with pytest.raises(UnknownName, match="not in the imported questions"):
        find_task("nq-0123456789")
    for name in (
        "no such task",
        "mini2-1",
        "mini2-0-0123456789",
        "other-0123456789",
        "mini2-999999999-0123456789",
    ):
        with pytest.raises(UnknownName):
            find_task(name)


def test_the_draw_over_all_sets_takes_all_of_bamboogle_and_equal_shares():
    sets = {name: tuple(f"{name}-{number}" for number in range(400)) for name in SETS}
    sets["bamboogle"] = tuple(f"bamboogle-{number}" for number in range(100))
    drawn = stratified(sets)
    # (2048 - 100) / 6 = 324 remainder 4: four sets of 325, two of 324
    assert len(drawn) == len(set(drawn)) == 2048
    assert Counter(task.partition("-")[0] for task in drawn) == {
        "nq": 325, "triviaqa": 325, "popqa": 325, "hotpotqa": 325, "2wikimultihopqa": 324, "musique": 324,
        "bamboogle": 100,
    }  # fmt: skip
    assert list(drawn) == by_hash(drawn)
    sets["nq"] = sets["nq"][:10]
    with pytest.raises(MissingData, match="325 questions of nq, 10 were imported"):
        stratified(sets)


@official
def test_the_official_files_give_the_frozen_panels(tmp_path, monkeypatch):
    monkeypatch.setenv("AGENTBENCH_DATA", str(tmp_path))
    report = import_data(dataset("search-qa"), OFFICIAL)
    assert report.counts == {
        "nq": 3460, "triviaqa": 900, "popqa": 886, "hotpotqa": 7305, "2wikimultihopqa": 12476, "musique": 2331,
        "bamboogle": 100, "passages": 29200,
    }  # fmt: skip
    empty = sorted(gold for item in stored("nq").values() for gold in item.answers if not normal_form(gold))
    assert empty == [")", "*", "---", "A+"]
    spec = env_spec("search-qa")
    sizes = {"supported": 5642, "all": 2048}
    for name in (*SETS, "supported", "all"):
        found = load_panel(f"search-qa/{name}@1").resolve(spec)
        assert len(found.tasks) == sizes.get(name, report.counts.get(name))
        assert (found.missing, found.unlisted) == ((), ())


def test_the_panels_hold_what_was_decided():
    counts = {"nq": 3460, "triviaqa": 900, "popqa": 886, "hotpotqa": 7305, "2wikimultihopqa": 12476,
              "musique": 2331, "bamboogle": 100, "supported": 5642, "all": 2048}  # fmt: skip
    for name, count in counts.items():
        panel = load_panel(f"search-qa/{name}@1")
        assert len(panel.tasks) == count
        assert panel.official_size == SETS.get(name)
    assert all(f"nq-{end}" in load_panel("search-qa/nq@1").notes for end in
               ("b712eb6c77", "c4ce96590b", "cff23a3aa1", "e4572a5385"))  # fmt: skip
    supported = Counter(task.rpartition("-")[0] for task in load_panel("search-qa/supported@1").tasks)
    assert supported == {"nq": 2622, "triviaqa": 630, "popqa": 347, "hotpotqa": 393, "2wikimultihopqa": 410,
                         "musique": 1201, "bamboogle": 39}  # fmt: skip


def test_records_keep_their_original_question(files):
    (files / "nq.jsonl").write_text(json.dumps({"question": "who is it", "answers": ["x"]}) + "\n")
    import_data(dataset("search-qa"), files)
    assert find_task(tasks("nq")[0]).text == "who is it"


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def hub(tmp_path):
    """The dataset with its sources on a local server, which has the published paths and two questions in each file."""
    folder = tmp_path / "hub"
    for source in DATASET.sources:
        path = folder / source.url.partition("://")[2].partition("/")[2]
        path.parent.mkdir(parents=True, exist_ok=True)
        name = "/".join(path.parts[-2:])
        records = [
            {"id": f"test_{n}", "question": f"{name} {n}", "golden_answers": [f"a{n}"]} for n in range(2)
        ]
        path.write_text("".join(json.dumps(each) + "\n" for each in records))
    handler = functools.partial(QuietHandler, directory=str(folder))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=functools.partial(server.serve_forever, poll_interval=0.01), daemon=True)
    thread.start()
    host = f"http://127.0.0.1:{server.server_port}"
    yield replace(
        DATASET,
        sources=tuple(
            replace(each, url=f"{host}/{each.url.partition('://')[2].partition('/')[2]}")
            for each in DATASET.sources
        ),
    )
    server.shutdown()
    server.server_close()
    thread.join()


def test_the_seven_sets_and_the_training_split_are_fetched(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("AGENTBENCH_DATA", str(tmp_path / "data"))
    report = fetch_data(hub)
    assert report.counts == {**dict.fromkeys(SETS, 2), "nq-train": 2, "hotpotqa-train": 2}
    assert sum(note.endswith("official questions") for note in report.notes) == len(SETS)
    questions = [stored(owner)[task].text for owner in SETS for task in stored(owner)]
    assert {text.split("/")[1][:4] for text in questions if "hotpotqa" in text} == {"dev."}
    assert {text.split("/")[1][:4] for text in questions if "popqa" in text} == {"test"}
    # NQ first, then HotpotQA
    assert [find_task(name).text.partition("/")[0] for name in tasks("train")] == [
        "nq",
        "nq",
        "hotpotqa",
        "hotpotqa",
    ]
    assert not verify_data(hub).problems


def test_a_question_file_that_is_not_there_names_its_address(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("AGENTBENCH_DATA", str(tmp_path / "data"))
    first, *others = hub.sources
    gone = replace(hub, sources=(replace(first, url=f"{first.url}.moved"), *others))
    with pytest.raises(UsageError, match=r"http://127\.0\.0\.1.*/nq/test\.jsonl\.moved answered 404"):
        fetch_data(gone)
    with pytest.raises(MissingData):
        stored("nq")
