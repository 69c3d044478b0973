import math
import subprocess
import sys
import threading

import numpy as np
import pytest

from agentbench.errors import CorruptData, UnknownName, UsageError
from agentbench.retrieval import Passage, Passages, Retriever, write_passages
from agentbench.retrieval import open as open_module
from agentbench.retrieval.bm25 import index as index_module
from agentbench.retrieval.bm25.build import build_index
from agentbench.retrieval.bm25.index import Bm25Index
from agentbench.retrieval.contract import MAX_K
from agentbench.retrieval.open import open_retriever

TOWNS = [
    Passage("10", "Oslo", "Oslo is the capital of Norway."),
    Passage("9", "Bergen", "Bergen is a town in Norway. Norway has many towns."),
    Passage("8", "Rome", "Rome is the capital of Italy."),
]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("AGENTBENCH_DATA", str(tmp_path / "data"))
    return tmp_path / "data" / "indexes"


def ids(hits):
    return [hit.passage.id for hit in hits]


def test_passages_are_found_by_their_words_with_scores_of_the_formula():
    retriever = open_retriever(corpus=Passages.of(TOWNS))
    assert isinstance(retriever, Retriever)
    found = retriever.search(["Norway's towns", "capital", "Zürich", ""], k=3)
    assert [ids(hits) for hits in found] == [["9", "10"], ["10", "8"], [], []]
    # terms: oslo oslo capit norwai (4) | bergen bergen town norwai norwai ha mani town (8) | rome rome capit itali (4)
    # average 16 / 3; query norwai town
    norway, town = math.log(1 + 1.5 / 2.5), math.log(1 + 2.5 / 1.5)

    def part(weight, tf, length):
        return weight - weight / (1 + tf / (0.9 * (0.6 + 0.4 * length / (16 / 3))))

    assert found[0][0].score == pytest.approx(part(norway, 2, 8) + part(town, 2, 8), rel=1e-6)
    assert found[0][1].score == pytest.approx(part(norway, 1, 4), rel=1e-6)
    assert found[0][0].passage == TOWNS[1]


def test_equal_scores_are_listed_by_id_as_a_string_also_at_the_cut():
    names = ["10", "9", "100", "1", "é", "z", "Z", "2"]
    retriever = open_retriever(corpus=Passages.of([Passage(name, "Lamp", "") for name in names]))
    assert ids(retriever.search(["lamp"], 8)[0]) == [
        "1",
        "10",
        "100",
        "2",
        "9",
        "Z",
        "z",
        "é",
    ]  # bytes of UTF-8
    assert ids(retriever.search(["lamp"], 3)[0]) == ["1", "10", "100"]


@pytest.mark.parametrize(("k1", "b"), [(1.2, 0.75), (0.9, 0.4), (2, 0), (0.5, 1), (0, 0.4)])
@pytest.mark.parametrize("dense_limit", [1 << 15, 0], ids=["all documents", "skipping"])
def test_constants_are_those_of_the_formula(monkeypatch, k1, b, dense_limit):
    monkeypatch.setattr(index_module, "DENSE_LIMIT", dense_limit)
    documents = [["red", "lamp"], ["lamp", "lamp", "desk"], ["sofa"], []]
    index = build_index(documents, np.arange(4, dtype=np.int32), k1=k1, b=b)
    found, scores = index.search(["lamp", "desk"], k=10)
    # 3 documents have terms, average length 2
    lamp, desk = math.log(1 + 1.5 / 2.5), math.log(1 + 2.5 / 1.5)

    def part(weight, tf, length):
        norm = k1 * (1 - b + b * length / 2)
        return weight * tf / (tf + norm)

    expected = {1: part(lamp, 2, 3) + part(desk, 1, 3), 0: part(lamp, 1, 2)}
    assert found.tolist() == list(expected)
    assert scores.tolist() == pytest.approx(list(expected.values()), rel=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k1": -1}, "k1 must be a number of at least 0, got -1"),
        ({"k1": math.inf}, "k1 must be"),
        ({"k1": math.nan}, "k1 must be"),
        ({"k1": "0.9"}, "k1 must be"),
        ({"b": 1.5}, "b must be a number from 0 to 1, got 1.5"),
        ({"b": True}, "b must be"),
        ({"processes": 0}, "processes must be"),
        ({"k2": 1}, "its settings are corpus, k1, b"),
    ],
)
def test_values_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(UsageError, match=message):
        open_retriever("bm25", corpus=Passages.of(TOWNS), **settings)


def test_an_unknown_kind_and_a_missing_corpus_are_refused():
    with pytest.raises(UnknownName, match="Did you mean 'bm25'"):
        open_retriever("bm52")
    with pytest.raises(UsageError, match="corpus"):
        open_retriever("bm25")


@pytest.mark.parametrize("k", [0, -1, MAX_K + 1, True, 2.0, None])
def test_k_is_checked(k):
    with pytest.raises(UsageError, match="k must be a whole number from 1 to 1000"):
        open_retriever(corpus=Passages.of(TOWNS)).search(["oslo"], k)


def test_k_above_the_corpus_gives_what_there_is():
    assert len(open_retriever(corpus=Passages.of(TOWNS)).search(["norway capital"], 100)[0]) == 3


def test_odd_queries_find_what_their_words_find():
    retriever = open_retriever(corpus=Passages.of(TOWNS))
    odd = ['"Oslo"', "oslo\nis", "oslo \ud83d", "oslo:~*?[]()AND OR", "OSLO", "oslo " * 10_000, "\x00oslo"]
    assert [ids(hits)[:1] for hits in retriever.search(odd, 1)] == [["10"]] * len(odd)
    words = " ".join(f"w{number}" for number in range(1024))
    passages = Passages.of([Passage("1", "w0", ""), Passage("2", "w1023", ""), Passage("3", "late", "")])
    found = open_retriever(corpus=passages).search([f"{words} late"], 5)[0]
    assert sorted(ids(found)) == ["1", "2"]  # the 1,025th distinct word is not looked at
    # a word among the first 1,024 still counts each time it occurs: 2 * idf, so twice the score
    once, twice = (
        open_retriever(corpus=passages).search([f"{words} {end}"], 5)[0] for end in ("late", "late w0")
    )
    assert twice[0].passage.id == "1"
    assert twice[0].score == pytest.approx(2 * once[0].score, rel=1e-6)


def test_an_index_is_built_once_and_found_by_content_and_constants(tmp_path, cache):
    path = write_passages(tmp_path / "c.jsonl", TOWNS)
    steps = []
    first = open_retriever(corpus=path, progress=lambda *step: steps.append(step))
    assert steps[-1] == (3, 3, "indexing c.jsonl")
    built = {entry.name for entry in cache.glob("bm25-*")}
    assert built == {f"bm25-{first.digest[:32]}"}
    again = open_retriever(corpus=path, progress=lambda done, total, what: steps.append(what))
    assert not [what for what in steps[2:] if "indexing" in what]
    assert again.digest == first.digest
    assert again.search(["norway"], 3) == first.search(["norway"], 3)
    copy = write_passages(tmp_path / "elsewhere" / "d.jsonl", TOWNS)
    assert open_retriever(corpus=copy).digest == first.digest
    assert open_retriever(corpus=Passages.of(TOWNS)).digest == first.digest
    others = [
        open_retriever(corpus=path, k1=1.2),
        open_retriever(corpus=path, b=0.75),
        open_retriever(corpus=write_passages(tmp_path / "e.jsonl", TOWNS[:2])),
    ]
    assert len({first.digest, *(other.digest for other in others)}) == 4
    assert len(list(cache.glob("bm25-*"))) == 4
    assert not [entry for entry in cache.iterdir() if entry.name.startswith(".bm25-") and entry.is_dir()]


def test_disk_memory_and_many_processes_give_one_index(tmp_path, monkeypatch, cache):
    rng = np.random.default_rng(0)
    passages = [
        Passage(
            f"{rng.integers(1 << 40)}",
            f"t{number % 7}",
            " ".join(f"w{word}" for word in rng.zipf(1.5, 20) % 300),
        )
        for number in range(2500)
    ]
    path = write_passages(tmp_path / "c.jsonl", passages)
    one = open_retriever(corpus=path, folder=tmp_path / "one")
    two = open_retriever(corpus=path, folder=tmp_path / "two", processes=2)  # 2,500 passages are two pieces
    held = open_retriever(corpus=Passages.of(passages))
    assert one.digest == two.digest == held.digest
    for name in Bm25Index.ARRAYS:
        values = getattr(one.index, name).tolist()
        assert values == getattr(two.index, name).tolist() == getattr(held.index, name).tolist(), name


def test_a_corpus_without_any_word_finds_nothing_from_disk_too(tmp_path):
    path = write_passages(tmp_path / "c.jsonl", [Passage("1", "The", "of"), Passage("2", "", "...")])
    for _ in range(2):
        assert open_retriever(corpus=path).search(["the", "oslo"], 3) == [[], []]


def test_a_broken_index_is_built_again(tmp_path, cache):
    path = write_passages(tmp_path / "c.jsonl", TOWNS)
    expected = open_retriever(corpus=path).search(["norway"], 3)
    place = next(cache.glob("bm25-*"))
    (place / "docs.npy").write_bytes(b"nothing")
    (place / "rank.npy").unlink()
    assert open_retriever(corpus=path).search(["norway"], 3) == expected


def test_an_id_that_occurs_twice_is_named(tmp_path, cache):
    path = write_passages(tmp_path / "c.jsonl", [*TOWNS, Passage("9", "Other", "")])
    with pytest.raises(CorruptData, match="the id '9' twice, as passages 2 and 4"):
        open_retriever(corpus=path)
    assert not [entry for entry in cache.iterdir() if entry.is_dir() and "bm25" in entry.name]
    with pytest.raises(CorruptData, match="an id of 300 bytes"):
        open_retriever(corpus=Passages.of([Passage("x" * 300, "A", "")]))


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    path = write_passages(tmp_path / "c.jsonl", TOWNS)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="the index cannot be kept in"):
        open_retriever(corpus=path, folder=tmp_path / "file")


def test_threads_get_the_answers_of_one(monkeypatch):
    monkeypatch.setattr(index_module, "_KNOWN_TERMS", 3)  # the table of terms is cleared all the time
    words = [f"w{number}" for number in range(40)]
    passages = Passages.of([Passage(str(n), words[n % 40], " ".join(words[: n % 13])) for n in range(300)])
    retriever = open_retriever(corpus=passages)
    queries = [" ".join(words[n % 37 : n % 37 + 4]) for n in range(100)]
    expected = retriever.search(queries, 5)
    answers = {}

    def ask(name):
        answers[name] = [retriever.search([query], 5)[0] for query in queries]

    threads = [threading.Thread(target=ask, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answers[name] == expected for name in range(4)] == [True] * 4


BUILDER = """
import sys
from agentbench.retrieval.open import open_retriever
found = open_retriever(corpus=sys.argv[1], progress=lambda done, total, what: print(what))
print(*(hit.passage.id for hit in found.search(["norway capital"], 3)[0]))
"""


def test_processes_that_start_together_build_once(tmp_path, cache):
    path = write_passages(tmp_path / "c.jsonl", TOWNS)
    command = [sys.executable, "-c", BUILDER, str(path)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    outputs = [process.communicate()[0].splitlines() for process in started]
    assert [lines[-1] for lines in outputs] == ["10 9 8"] * 3
    assert sum("indexing c.jsonl" in lines for lines in outputs) == 1


def test_a_bar_is_drawn_on_terminals_alone_for_what_takes_long(monkeypatch, capsys):
    def slow(progress):
        for done in (1, 2, 3):
            progress(done, 3, "indexing c.jsonl")

    for terminal, after, shown in ((False, 0.0, False), (True, 0.0, True), (True, 3600.0, False)):
        monkeypatch.setattr("sys.stderr.isatty", lambda terminal=terminal: terminal)
        monkeypatch.setattr(open_module, "_SHOWN_AFTER_SECONDS", after)
        with open_module._bar() as progress:
            slow(progress)
        assert ("indexing c.jsonl" in capsys.readouterr().err) == shown
