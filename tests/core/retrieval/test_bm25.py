import math
import pickle

import numpy as np
import pytest

from agentbench.errors import CorruptData
from agentbench.retrieval.bm25 import build as bm25_build
from agentbench.retrieval.bm25 import index as bm25
from agentbench.retrieval.bm25.build import build_index
from agentbench.retrieval.bm25.index import Bm25Index, stored_length


def ranks(count):
    return np.arange(count, dtype=np.int32)


def test_lengths_are_remembered_in_one_byte():
    lengths = [0, 23, 24, 31, 39, 40, 41, 42, 107, 1000]
    # below 24 as is; 40 = 24 + 0b10000 -> 24 + 16; 41 = 24 + 0b10001 -> 0b1000 << 1 = 16 -> 40;
    # 107 = 24 + 83 = 24 + 0b1010011 -> 0b1010 << 3 = 80 -> 104; 1000 = 24 + 976 = 24 + 0b1111010000 -> 960 -> 984
    assert stored_length(np.array(lengths)).tolist() == [0, 23, 24, 31, 39, 40, 40, 42, 104, 984]


def test_scores_follow_the_formula():
    index = build_index([["red", "lamp"], ["lamp", "lamp", "desk", "oak"], ["sofa"]], ranks(3))
    found, scores = index.search(["lamp", "red", "lamp", "unknown"], k=10)
    # 3 documents, average length 7/3. idf(lamp) = ln(1 + 1.5/2.5), idf(red) = ln(1 + 2.5/1.5)
    lamp, red = 2 * math.log(1 + 1.5 / 2.5), math.log(1 + 2.5 / 1.5)

    def part(weight, tf, length):
        return weight - weight / (1 + tf / (0.9 * (0.6 + 0.4 * length / (7 / 3))))

    expected = [part(lamp, 1, 2) + part(red, 1, 2), part(lamp, 2, 4)]
    assert found.tolist() == [0, 1]
    assert scores.dtype == np.float32
    assert scores.tolist() == pytest.approx(expected, rel=1e-6)
    assert index.hits(["lamp", "red"]) == 2


def test_equal_scores_are_listed_by_rank_also_at_the_cut():
    documents = [["lamp"]] * 6
    index = build_index(documents, np.array([5, 3, 1, 0, 2, 4], np.int32))
    assert index.search(["lamp"], k=3)[0].tolist() == [3, 2, 4]


def test_nothing_found_is_empty():
    index = build_index([["lamp"], []], ranks(2))
    for terms in ([], ["sofa"]):
        found, scores = index.search(terms, k=5)
        assert found.tolist() == scores.tolist() == []
    assert index.documents == 1  # a document without terms is not counted by Lucene either


def corpus(rng, documents, vocabulary=60):
    """Documents whose terms are as unequal as words are."""
    weights = 1 / np.arange(1, vocabulary + 1)
    chosen = weights / weights.sum()
    return [
        [f"t{number}" for number in rng.choice(vocabulary, size=int(rng.integers(1, 60)), p=chosen)]
        for _ in range(documents)
    ]


def brute_force(documents, terms, k, rank):
    """Score in float64 with the formula, document by document."""
    average = sum(map(len, documents)) / len(documents)
    sums = np.zeros(len(documents))
    for term in set(terms):
        frequency = sum(term in document for document in documents)
        if frequency:
            weight = terms.count(term) * math.log(1 + (len(documents) - frequency + 0.5) / (frequency + 0.5))
            for number, document in enumerate(documents):
                length = int(stored_length(np.array([len(document)]))[0])
                tf = document.count(term)
                sums[number] += weight - weight / (1 + tf / (0.9 * (0.6 + 0.4 * length / average)))
    order = sorted(np.flatnonzero(sums).tolist(), key=lambda number: (-round(sums[number], 5), rank[number]))
    return order[:k], sums


@pytest.mark.parametrize("dense_limit", [1 << 15, 0], ids=["all documents", "skipping"])
def test_the_best_are_those_of_a_full_scan(monkeypatch, dense_limit):
    monkeypatch.setattr(bm25, "DENSE_LIMIT", dense_limit)
    rng = np.random.default_rng(0)
    documents = corpus(rng, 200)
    rank = rng.permutation(200).astype(np.int32)
    index = build_index(documents, rank)
    for _ in range(30):
        terms = [f"t{number}" for number in rng.integers(0, 70, size=int(rng.integers(1, 9)))]
        found, scores = index.search(terms, k=10)
        expected, sums = brute_force(documents, terms, 10, rank)
        assert scores.tolist() == pytest.approx([sums[number] for number in expected], rel=1e-5)
        assert scores.tolist() == pytest.approx([sums[number] for number in found], rel=1e-5)
        assert len(found) == len(expected)


def test_skipping_changes_no_bit(monkeypatch):
    rng = np.random.default_rng(1)
    monkeypatch.setattr(bm25, "BLOCK", 16)
    rare = [[f"rare{number}", "t0"] for number in range(5)]
    index = build_index(rare + corpus(rng, 3000), rng.permutation(3005).astype(np.int32))
    queries = [
        [f"t{number}" for number in rng.integers(0, 70, size=int(rng.integers(1, 9)))] for _ in range(200)
    ]
    queries += [[*query[:2], *query[:2], f"rare{number % 5}"] for number, query in enumerate(queries)]
    for terms in queries:
        monkeypatch.setattr(bm25, "DENSE_LIMIT", 1 << 15)
        all_found, all_scores = index.search(terms, k=7)
        monkeypatch.setattr(bm25, "DENSE_LIMIT", 0)
        found, scores = index.search(terms, k=7)
        assert found.tolist() == all_found.tolist()
        assert scores.tolist() == all_scores.tolist()


def test_an_index_on_disk_is_the_one_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(bm25_build, "BLOCK_TERMS", 500)  # many blocks
    documents = corpus(np.random.default_rng(2), 300)
    stored = build_index(iter(documents), ranks(300), tmp_path / "index")
    monkeypatch.undo()
    held = build_index(documents, ranks(300))
    for name in Bm25Index.ARRAYS:
        assert getattr(stored, name).tolist() == getattr(held, name).tolist(), name
    assert sorted(path.name for path in (tmp_path / "index").iterdir()) == sorted(
        [f"{name}.npy" for name in Bm25Index.ARRAYS] + ["documents.npy", ".digests.json"]
    )
    again = pickle.loads(pickle.dumps(held))
    assert again.search(["t1", "t5"], 5)[0].tolist() == held.search(["t1", "t5"], 5)[0].tolist()


def test_a_broken_index_is_named(tmp_path):
    build_index([["lamp"]], ranks(1), tmp_path / "index")
    (tmp_path / "index" / "docs.npy").write_bytes(b"nothing")
    with pytest.raises(CorruptData, match="index"):
        Bm25Index.open(tmp_path / "index")
