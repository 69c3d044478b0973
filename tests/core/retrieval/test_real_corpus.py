"""The real corpus and questions, where they are at hand: nothing is found less than by bm25s with the same settings."""

import importlib.util

import pytest
from places import ROOT, SHARED_DATA

from agentbench.retrieval import read_passages, write_passages

QA = SHARED_DATA / "qa"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (QA / "corpus.jsonl.gz").is_file(), reason=f"the real corpus is not at {QA}"),
]


def test_recall_is_not_below_the_peers(tmp_path):
    pytest.importorskip("bm25s", reason="bm25s is not installed")
    pytest.importorskip("Stemmer", reason="PyStemmer is not installed")
    spec = importlib.util.spec_from_file_location("retrieval_benchmark", ROOT / "benchmarks" / "retrieval.py")
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    corpus = write_passages(tmp_path / "corpus.jsonl", read_passages(QA / "corpus.jsonl.gz"))
    ours, peer = (make(corpus, tmp_path) for make in (benchmark.Ours, benchmark.Peer))
    asked = benchmark.questions(QA, ours.retriever.passages)
    assert len(asked) == 5446
    found, theirs = (benchmark.recall(engine.rank, asked)[0] for engine in (ours, peer))
    for figure in ("R@3", "R@10"):
        assert found["all"][figure] >= theirs["all"][figure]
        for name in benchmark.SETS:
            assert found[name][figure] >= theirs[name][figure] - 0.5, name
