import threading
import time

import pytest

from agentbench.errors import EnvFailure, UsageError
from agentbench.retrieval import Hit, Passage, Passages, Retriever
from agentbench.retrieval.batching import Batching
from agentbench.retrieval.contract import Refused
from agentbench.retrieval.open import open_retriever


class Recorded:
    """A retriever that answers with the query itself, and notes what it was asked."""

    def __init__(self, name="dense"):
        self.name, self.digest, self.closed = name, "d1", 0
        self.asked, self.error, self.gate = [], None, None
        self.inside, self.most_inside, self._lock = 0, 0, threading.Lock()

    def search(self, queries, k):
        with self._lock:
            self.asked.append((list(queries), k))
            self.inside += 1
            self.most_inside = max(self.most_inside, self.inside)
        try:
            if self.gate is not None:
                assert self.gate.wait(30)
            if callable(self.error):
                self.error(queries)
            elif self.error is not None:
                raise self.error
            return [[Hit(Passage(query, self.digest, ""), 1.0)] * (query != "nothing") for query in queries]
        finally:
            with self._lock:
                self.inside -= 1

    def close(self):
        self.closed += 1


def told(lists):
    return [[hit.passage.id for hit in hits] for hits in lists]


def together(count, work):
    """Run work(number) in threads that start at one time; returns results and exceptions by number."""
    results, barrier = {}, threading.Barrier(count)

    def run(number):
        barrier.wait()
        try:
            results[number] = work(number)
        except Exception as error:
            results[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return results


def test_it_is_a_retriever_and_closes_what_it_holds():
    inner = Recorded()
    outer = Batching(inner)
    assert isinstance(outer, Retriever)
    assert (outer.name, outer.digest) == ("dense", "d1")
    outer.close()
    assert inner.closed == 1


def test_queries_that_come_together_are_asked_together_once_each():
    inner = Recorded()
    outer = Batching(inner, wait_ms=2000, largest=8)
    results = together(8, lambda number: outer.search([f"q{number}"], 3))
    assert {number: told(lists) for number, lists in results.items()} == {n: [[f"q{n}"]] for n in range(8)}
    assert len(inner.asked) == 1  # the eighth query fills the batch, nobody waits two seconds
    assert sorted(inner.asked[0][0]) == [f"q{number}" for number in range(8)]
    assert (outer.figures.batches, outer.figures.largest, outer.figures.queries) == (1, 8, 8)


def test_equal_queries_of_several_episodes_are_one():
    inner = Recorded()
    outer = Batching(inner, wait_ms=300)
    results = together(6, lambda number: outer.search(["same ", " same"], 3))
    assert [told(lists) for lists in results.values()] == [[["same"], ["same"]]] * 6
    assert inner.asked == [(["same"], 3)]


def test_batches_are_of_one_k_and_not_too_large():
    inner = Recorded()
    outer = Batching(inner, wait_ms=100, largest=4)
    results = together(6, lambda number: outer.search([f"{number}a", f"{number}b"], 1 + number % 2))
    assert {n: told(lists) for n, lists in results.items()} == {n: [[f"{n}a"], [f"{n}b"]] for n in range(6)}
    assert max(len(queries) for queries, _ in inner.asked) <= 4
    for queries, k in inner.asked:
        assert {1 + int(query[0]) % 2 for query in queries} == {k}
    outer.search([f"more{number}" for number in range(10)], 3)
    assert [len(queries) for queries, _ in inner.asked[-3:]] == [4, 4, 2]


def test_answers_are_kept_under_digest_query_and_k():
    inner = Recorded()
    outer = Batching(inner, wait_ms=0)
    for _ in range(3):
        assert told(outer.search(["a", "nothing"], 3)) == [["a"], []]
    assert inner.asked == [(["a", "nothing"], 3)]
    outer.search(["a"], 2)
    assert inner.asked[-1] == (["a"], 2)
    inner.digest = "d2"
    assert outer.search(["a"], 3)[0][0].passage.title == "d2"  # never an answer of another index
    inner.digest = "d1"
    assert outer.search(["a"], 3)[0][0].passage.title == "d1"
    assert len(inner.asked) == 3
    assert outer.figures.found == 5


def test_an_answer_in_hand_while_the_index_changes_is_not_kept():
    inner = Recorded()
    outer = Batching(inner, wait_ms=0)

    def changes(queries):
        inner.digest = "d2"

    inner.error = changes
    outer.search(["a"], 3)
    inner.error = None
    outer.search(["a"], 3)
    assert len(inner.asked) == 2


def test_what_a_caller_does_to_its_list_stays_with_it():
    outer = Batching(Recorded(), wait_ms=0)
    outer.search(["a"], 3)[0].clear()
    assert told(outer.search(["a"], 3)) == [["a"]]


def test_the_oldest_answers_go_first_and_none_may_be_kept():
    inner = Recorded()
    outer = Batching(inner, wait_ms=0, cached=2)
    for query in ("a", "b", "a", "c", "a", "b"):
        outer.search([query], 1)
    assert [queries for queries, _ in inner.asked] == [["a"], ["b"], ["c"], ["b"]]
    outer = Batching(inner, wait_ms=0, cached=0)
    for _ in range(2):
        outer.search(["z"], 1)
    assert [queries for queries, _ in inner.asked[4:]] == [["z"], ["z"]]


def test_while_a_batch_is_under_way_the_next_one_gathers():
    inner = Recorded()
    inner.gate = threading.Event()
    outer = Batching(inner, wait_ms=0)
    first = threading.Thread(target=outer.search, args=(["first"], 1))
    first.start()
    while not inner.asked:
        time.sleep(0.001)
    others = [threading.Thread(target=outer.search, args=([f"q{number}"], 1)) for number in range(5)]
    for thread in others:
        thread.start()
    while sum(len(asked.queries) for asked in outer._pending.get(1, [])) < 5:
        time.sleep(0.001)
    inner.gate.set()
    for thread in (first, *others):
        thread.join(30)
    assert [len(queries) for queries, _ in inner.asked] == [1, 5]
    assert inner.most_inside == 1


def test_a_fault_reaches_every_caller_and_nobody_after():
    inner = Recorded()
    inner.error = EnvFailure("down")
    outer = Batching(inner, wait_ms=200)
    results = together(4, lambda number: outer.search([f"q{number}"], 3))
    assert [(type(error), str(error)) for error in results.values()] == [(EnvFailure, "down")] * 4
    assert len({id(error) for error in results.values()}) == 4
    inner.error = None
    assert told(outer.search(["q0"], 3)) == [["q0"]]


def test_a_refused_query_harms_its_own_caller_alone():
    inner = Recorded()

    def refuse(queries):
        if "bad" in queries:
            raise Refused("not this")

    inner.error = refuse
    outer = Batching(inner, wait_ms=300)
    results = together(4, lambda number: outer.search(["bad" if number == 2 else f"q{number}"], 3))
    assert isinstance(results.pop(2), Refused)
    assert {number: told(lists) for number, lists in results.items()} == {n: [[f"q{n}"]] for n in (0, 1, 3)}


def test_errors_of_other_kinds_and_short_answers_reach_the_caller():
    class Odd(Exception):
        def __init__(self, one, two):
            super().__init__(f"{one}{two}")

    inner = Recorded()
    outer = Batching(inner, wait_ms=0)
    inner.error = Odd(1, 2)
    with pytest.raises(EnvFailure, match="Odd: 12"):
        outer.search(["a"], 1)
    inner.error = None
    inner.search = lambda queries, k: []
    with pytest.raises(EnvFailure, match="gave 0 lists for 1 queries"):
        outer.search(["a"], 1)


def test_an_interrupted_leader_leaves_nobody_waiting():
    inner = Recorded()

    def interrupt(queries):
        if "leader" in queries:
            raise KeyboardInterrupt

    inner.error = interrupt
    outer = Batching(inner, wait_ms=300)
    results = {}

    def follow():
        while not outer._pending:
            time.sleep(0.001)
        try:
            results["follower"] = outer.search(["follower"], 1)
        except EnvFailure as error:
            results["follower"] = str(error)

    follower = threading.Thread(target=follow)
    follower.start()
    with pytest.raises(KeyboardInterrupt):
        outer.search(["leader"], 1)
    follower.join(30)
    assert results == {"follower": "the search was interrupted"}
    assert told(outer.search(["after"], 1)) == [["after"]]


def test_bm25_answers_through_it_as_alone():
    passages = Passages.of([Passage(str(n), f"w{n % 5}", f"w{n % 3} w{n % 7}") for n in range(50)])
    alone = open_retriever(corpus=passages)
    outer = Batching(open_retriever(corpus=passages))
    queries = [[f"w{n % 7} w{n % 4}"] for n in range(40)]
    results = together(20, lambda number: [outer.search(query, 4) for query in queries])
    assert list(results.values()) == [[alone.search(query, 4) for query in queries]] * 20
    with pytest.raises(UsageError, match="k must be"):
        outer.search(["w1"], 0)


@pytest.mark.parametrize("setting", [{"wait_ms": -1}, {"largest": 0}, {"at_once": 0}, {"cached": -1}])
def test_settings_that_make_no_sense_are_refused(setting):
    with pytest.raises(UsageError, match="must not be negative"):
        Batching(Recorded(), **setting)
