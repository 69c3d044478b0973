import gzip
import json
import os
import pickle

import pytest

from agentbench.errors import CorruptData, MissingData, UsageError
from agentbench.retrieval import Passage, Passages, read_passages, write_passages
from agentbench.retrieval import passages as passages_module
from agentbench.retrieval.contract import MAX_QUERY, clean_query
from agentbench.retrieval.passages import passage_of

A = Passage("a1", "Red (film)", 'A "red" film.\nSecond line.')
B = Passage("b", "Åland", "Islands… 群島 😀")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("AGENTBENCH_DATA", str(tmp_path / "data"))
    return tmp_path / "data" / "indexes"


def write(path, *lines, end="\n"):
    path.write_bytes(end.join(lines).encode("utf-8"))
    os.utime(path)
    return path


def test_what_is_written_is_read(tmp_path):
    path = write_passages(tmp_path / "c.jsonl", [A, B])
    passages = Passages.open(path)
    assert list(passages) == [A, B] == list(read_passages(path))
    assert len(passages) == 2
    assert [path.name for path in tmp_path.glob("*c.jsonl*")] == ["c.jsonl"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"id": "1", "contents": '"Paris"\nCapital.\nOf France.'}, ("1", "Paris", "Capital.\nOf France.")),
        ({"id": 7, "contents": "Paris\nCapital."}, ("7", "Paris", "Capital.")),
        ({"id": "1", "contents": "No newline at all"}, ("1", "No newline at all", "")),
        (
            {"contents": '""Heroes""\nAn album.'},
            ("", '"Heroes"', "An album."),
        ),  # one pair is that of the format
        ({"id": "1", "contents": '"\ntext'}, ("1", '"', "text")),
        ({"id": "1", "content": '"T"\nx'}, ("1", "T", "x")),
        ({"id": "1", "title": "T", "text": "x"}, ("1", "T", "x")),
        ({"id": "1", "text": "x"}, ("1", "", "x")),
        ({"id": "1", "contents": "a\ud83d\nb"}, ("1", "a\ufffd", "b")),
    ],
)
def test_every_form_of_a_passage_is_understood(value, expected):
    assert passage_of(value) == Passage(*expected)


@pytest.mark.parametrize(
    "value",
    [None, "text", [], {}, {"id": "1"}, {"id": "1", "contents": None}, {"contents": 3}, {"id": [], "text": "x"},
     {"title": 3, "text": "x"}, {"title": "x", "text": None}, {"id": True, "text": "x"}],
)  # fmt: skip
def test_what_is_no_passage_is_refused(value):
    with pytest.raises(ValueError):  # noqa: PT011
        passage_of(value)


def test_contents_are_those_of_the_field():
    assert A.contents == '"Red (film)"\nA "red" film.\nSecond line.'
    assert passage_of({"id": "a1", "contents": A.contents}) == A


def test_lines_may_be_blank_end_like_windows_or_not_at_all(tmp_path):
    one, two = '{"id": "1", "contents": "A\\nx"}', '{"id": "2", "title": "B", "text": "y"}'
    expected = [Passage("1", "A", "x"), Passage("2", "B", "y")]
    for number, lines in enumerate(
        [(one, two), (one, "", "  ", two), ("", one, two, "", ""), ("\ufeff" + one, two)]
    ):
        for end in ("\n", "\r\n"):
            path = write(tmp_path / f"{number}{len(end)}.jsonl", *lines, end=end)
            assert list(Passages.open(path)) == expected
            assert list(read_passages(path)) == expected


def test_escapes_of_half_a_character_become_the_replacement_character(tmp_path):
    path = write(tmp_path / "c.jsonl", '{"id": "1", "title": "a\\ud83d", "text": "\\ude00b"}')
    assert list(Passages.open(path)) == [Passage("1", "a\ufffd", "\ufffdb")]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["not json"], "passage 1 is broken"),
        (['{"id": "1"}'], '"contents" or "title" and "text"'),
        (['{"contents": "x"}'], 'has no "id"'),
        (['{"id": "", "text": "x"}'], 'has no "id"'),
        (["[" * 100_000], "is broken"),
    ],
)
def test_a_broken_line_is_named(tmp_path, lines, message):
    path = write(tmp_path / "c.jsonl", *lines)
    with pytest.raises(CorruptData, match=message):
        Passages.open(path)
    with pytest.raises(CorruptData, match=r"c\.jsonl"):
        list(read_passages(path))


def test_a_broken_line_further_down_is_named_when_read(tmp_path):
    path = write(tmp_path / "c.jsonl", '{"id": "1", "text": "x"}', '{"id": "2"')
    passages = Passages.open(path)
    with pytest.raises(CorruptData, match="passage 2 is broken"):
        passages[1]
    with pytest.raises(IndexError):
        passages[2]


def test_absent_empty_and_packed_files_are_refused_in_one_line(tmp_path):
    with pytest.raises(MissingData, match="no corpus at"):
        Passages.open(tmp_path / "none.jsonl")
    with pytest.raises(MissingData, match="it is no file"):
        Passages.open(tmp_path)
    with pytest.raises(UsageError, match="holds no passages"):
        Passages.open(write(tmp_path / "empty.jsonl"))
    with pytest.raises(UsageError, match="holds no passages"):
        Passages.open(write(tmp_path / "blank.jsonl", "", " ", ""))
    packed = tmp_path / "c.jsonl.gz"
    packed.write_bytes(gzip.compress(b'{"id": "1", "text": "x"}\n'))
    with pytest.raises(CorruptData, match="gunzip"):
        Passages.open(packed)
    assert list(read_passages(packed)) == [Passage("1", "", "x")]
    packed.write_bytes(packed.read_bytes()[:-8])
    with pytest.raises(CorruptData, match="cannot be read"):
        list(read_passages(packed))


@pytest.fixture
def settled(monkeypatch):
    """Take every file for one written a while ago."""
    monkeypatch.setattr(passages_module, "_SETTLED_SECONDS", -1)


def test_a_second_opening_does_not_walk_and_an_edited_file_is_walked_again(tmp_path, settled):
    path = write_passages(tmp_path / "c.jsonl", [A, B])
    walked = []
    first = Passages.open(path, progress=lambda *step: walked.append(step))
    assert walked == [(path.stat().st_size, path.stat().st_size, "reading c.jsonl")]
    again = Passages.open(path, progress=lambda *step: walked.append(step))
    assert len(walked) == 1
    assert (again.digest, list(again)) == (first.digest, [A, B])
    before = path.stat()
    data = path.read_bytes().replace(b"b", b"c")
    path.write_bytes(data)  # the same size, and its time set back
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    edited = Passages.open(path)
    assert edited[1].id == "c"
    assert edited.digest != first.digest


def test_a_file_just_written_is_not_remembered(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(passages_module, "_SETTLED_SECONDS", 3600)
    Passages.open(write_passages(tmp_path / "c.jsonl", [A]))
    assert not cache.exists()


def test_a_cache_that_cannot_be_written_costs_no_more_than_the_walk(tmp_path, settled):
    path = write_passages(tmp_path / "c.jsonl", [A, B])
    (tmp_path / "file").write_text("")
    assert list(Passages.open(path, cache=tmp_path / "file")) == [A, B]


def test_memory_and_file_are_the_same_corpus(tmp_path):
    held, mapped = Passages.of([A, B]), Passages.open(write_passages(tmp_path / "c.jsonl", [A, B]))
    assert list(held) == list(mapped)
    assert held.digest == mapped.digest
    for passages in (held, mapped):
        again = pickle.loads(pickle.dumps(passages))
        assert (list(again), again.digest) == (list(passages), passages.digest)
    assert len(Passages.of([])) == 0


def test_a_pickled_corpus_that_changed_is_refused(tmp_path):
    path = write_passages(tmp_path / "c.jsonl", [A, B])
    packed = pickle.dumps(Passages.open(path))
    write_passages(path, [B])
    with pytest.raises(CorruptData, match="no longer the file"):
        pickle.loads(packed)


def test_a_failed_writing_leaves_the_old_file(tmp_path):
    path = write_passages(tmp_path / "c.jsonl", [A])

    def broken():
        yield B
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        write_passages(path, broken())
    assert list(read_passages(path)) == [A]
    assert [entry.name for entry in tmp_path.iterdir() if entry.is_file()] == ["c.jsonl"]


def test_queries_are_made_encodable_stripped_and_cut():
    assert clean_query(" a\n") == "a"
    assert clean_query("x\ud83dA\ude00") == "x\ufffdA\ufffd"
    assert clean_query("\ud83d\ude00") == "\U0001f600"
    assert clean_query("\ud83d") == "\ufffd"
    assert len(clean_query("é" * 20_000)) == MAX_QUERY
    assert json.dumps(clean_query("a b")) == '"a b"'


def test_a_pickled_corpus_finds_its_offsets_where_they_were_put(tmp_path, settled, monkeypatch, cache):
    passages = Passages.open(write_passages(tmp_path / "c.jsonl", [A, B]), cache=tmp_path / "own")
    monkeypatch.setattr(passages_module, "_walk", None)  # another walk would fail
    assert list(pickle.loads(pickle.dumps(passages))) == [A, B]
    assert not cache.exists()
