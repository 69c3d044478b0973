import json
import threading
import time

import pytest
from places import FAKE_RETRIEVAL

from agentbench.engines.http import is_loopback
from agentbench.errors import EnvFailure, UsageError
from agentbench.registry import load
from agentbench.retrieval import Passage, Retriever, connections
from agentbench.retrieval import client as client_module
from agentbench.retrieval.client import Breaker, ClientRetriever
from agentbench.retrieval.contract import Refused
from agentbench.retrieval.open import open_retriever

FakeRetrieval = load("envs", f"{FAKE_RETRIEVAL}:FakeRetrieval")
document = load("envs", f"{FAKE_RETRIEVAL}:document")

OSLO, ROME = Passage("0", "Oslo", "About oslo."), Passage("1", "Rome", "About rome.")
FAST = {"timeout": 0.5, "patience": 3.0, "probe_seconds": 0.2}


@pytest.fixture(autouse=True)
def quick_pauses(monkeypatch):
    monkeypatch.setattr(client_module, "_FIRST_PAUSE", 0.01)
    monkeypatch.setattr(client_module, "_LONGEST_PAUSE", 0.05)


@pytest.fixture
def fake():
    with FakeRetrieval() as server:
        yield server


@pytest.fixture
def connect():
    """Open clients, and close them in the end."""
    clients = []

    def open_one(url, **settings):
        clients.append(ClientRetriever(url, **{**FAST, **settings}))
        return clients[-1]

    yield open_one
    for client in clients:
        client.close()


@pytest.fixture
def opened(connect):
    """Open a client at a fake server, which forgets the introduction."""

    def open_one(server, **settings):
        client = connect(server.url, **settings)
        server.seen.clear()
        return client

    return open_one


def passages(lists):
    return [[hit.passage for hit in hits] for hits in lists]


@pytest.mark.parametrize(
    ("speaks", "name", "path", "many", "scores"),
    [
        ("search-r1", "search-r1", "/retrieve", True, [9.5, 8.5]),
        ("verl-agent", "verl-agent", "/retrieve", False, [9.5, 8.5]),
        ("flashrag", "flashrag", "/batch_search", True, [9.5, 8.5]),
        ("flashrag-bare", "flashrag", "/batch_search", True, [1.0, 0.5]),
        ("flashrag-one", "flashrag", "/search", False, [9.5, 8.5]),
        ("flashrag-one-bare", "flashrag", "/search", False, [1.0, 0.5]),
    ],
)
def test_every_dialect_is_found_and_gives_the_same_passages(speaks, name, path, many, scores, opened):
    with FakeRetrieval(speaks) as server:
        client = opened(server)
        assert isinstance(client, Retriever)
        assert (client.dialect.name, client.dialect.path, client.dialect.many) == (name, path, many)
        queries = ["Oslo and Rome", "nothing", "rome"]
        found = client.search(queries, 2)
        assert passages(found) == [[OSLO, ROME], [], [ROME]]
        assert [hit.score for hit in found[0]] == scores
        assert len(server.seen) == (1 if many else 3)
        assert passages(client.search(["rome", "oslo"], 1)) == [[ROME], [OSLO]]
        assert client.search([], 2) == []
        client.close()


def test_scores_are_always_asked_for(opened):
    for dialect, word in (
        ("search-r1", "return_scores"),
        ("verl-agent", "return_scores"),
        ("flashrag", "return_score"),
    ):
        with FakeRetrieval(dialect) as server:
            opened(server).search(["oslo"], 2)
            assert [body[word] for _, body in server.seen] == [True]


@pytest.mark.parametrize("path", ["", "/", "/retrieve", "/search", "/batch_search/"])
def test_the_address_may_hold_the_path(fake, path, connect):
    assert connect(fake.url + path).base_url == fake.url


def test_batches_have_a_limit(fake, opened):
    client = opened(fake, largest_batch=2)
    assert passages(client.search(["oslo", "rome", "x", "rome", "oslo"], 1)) == [
        [OSLO],
        [ROME],
        [],
        [ROME],
        [OSLO],
    ]
    assert sorted(len(body["queries"]) for _, body in fake.seen) == [1, 2, 2]


def test_servers_that_give_more_than_asked_are_cut(fake, opened):
    client = opened(fake)
    fake.stay = lambda answer: {"result": [[{"document": document(n), "score": 1.0} for n in range(4)]]}
    assert passages(client.search(["x"], 2)) == [[OSLO, ROME]]


HTML = (200, "<html><body>It works!</body></html>")
ONE_SHORT = lambda answer: {"result": answer["result"][:-1]}


@pytest.mark.parametrize(
    "fault",
    [
        (500, "Internal Server Error"),
        (502, "<html>Bad gateway</html>"),
        (503, "busy"),
        (504, ""),
        (429, "slow down"),
        HTML,
        (200, ""),
        (200, "null"),
        (200, "[" * 100_000),
        (200, '{"result": null}'),
        (200, '{"error": "index not loaded"}'),
        "die",
        "truncated",
        "drip",
        "drip headers",
        1.5,
        ONE_SHORT,
        lambda answer: {"result": [*answer["result"], []]},
        lambda answer: {"result": [None for _ in answer["result"]]},
        lambda answer: {"result": [{"document": document(0)} for _ in answer["result"]]},
        lambda answer: {"result": [[{"document": None, "score": 1.0}]] * len(answer["result"])},
        lambda answer: {"result": [[None]] * len(answer["result"])},
        lambda answer: {"result": [["text"]] * len(answer["result"])},
        lambda answer: {"result": [[{"document": {"id": "1"}, "score": 1.0}]] * len(answer["result"])},
        lambda answer: {"result": [[{"document": document(0), "score": "high"}]] * len(answer["result"])},
        lambda answer: {"result": [[{"document": document(0), "score": None}]] * len(answer["result"])},
        lambda answer: {
            "result": [[{"document": document(0), "score": float("nan")}]] * len(answer["result"])
        },
        lambda answer: {"result": [[{"document": document(3), "score": 1.0}] * 2] * len(answer["result"])},
        lambda answer: {
            "result": [[document(3), document(3)]] * len(answer["result"])
        },  # padding without scores
    ],
    ids=lambda fault: str(fault)[:30] if not callable(fault) else None,
)
def test_a_fault_is_repeated_and_never_becomes_an_answer(fake, fault, opened):
    client = opened(fake)
    expected = [[OSLO], [ROME]]
    fake.faults = [fault, fault]
    assert passages(client.search(["oslo", "rome"], 3)) == expected
    assert len(fake.seen) == 3
    fake.seen.clear()
    fake.stay = fault
    with pytest.raises(EnvFailure, match="in 2 attempts"):
        ClientRetriever.search(_few_tries(client), ["oslo", "rome"], 3)
    assert len(fake.seen) == 2
    fake.stay = None
    assert passages(client.search(["oslo", "rome"], 3)) == expected


def _few_tries(client):
    client._tries = 2
    return client


def test_padding_of_an_index_that_found_too_few_is_dropped(fake, opened):
    client = opened(fake)
    least = -3.4028234663852886e38
    fake.stay = lambda answer: {
        "result": [
            [{"document": document(0), "score": 0.8}, *([{"document": document(3), "score": least}] * 2)],
            [{"document": document(3), "score": least}] * 3,
        ]
    }
    assert passages(client.search(["a", "b"], 3)) == [[OSLO], []]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 413, 422, 301])
def test_a_refusal_is_not_repeated_and_leaves_the_breaker_alone(fake, status, opened):
    client = opened(fake)
    for _ in range(6):
        fake.faults = [(status, "no")]
        with pytest.raises(Refused, match=f"answered {status}"):
            client.search(["oslo"], 3)
    assert len(fake.seen) == 6
    assert passages(client.search(["oslo"], 3)) == [[OSLO]]


def test_a_server_that_is_down_is_a_failure_in_the_end_and_comes_back(fake, opened):
    client = opened(fake, patience=1.0)
    fake.stop()
    for _ in range(2):
        with pytest.raises(EnvFailure, match=r"(gave no usable answer in|has been down for) .*ConnectError"):
            client.search(["oslo"], 3)
    with FakeRetrieval(port=fake.port):
        time.sleep(0.3)  # the next probe is due
        assert passages(client.search(["oslo"], 3)) == [[OSLO]]


def test_an_outage_is_waited_out_by_all_and_probed_by_few(fake, opened):
    client = opened(fake, patience=30.0, probe_seconds=0.3)
    fake.stay = (503, "restarting")
    answers = []

    def ask():
        answers.append(passages(client.search(["rome"], 1)))

    threads = [threading.Thread(target=ask) for _ in range(12)]
    for thread in threads:
        thread.start()
    began = time.monotonic()
    time.sleep(1.0)
    during, waited = len(fake.seen), time.monotonic() - began
    fake.stay = None
    for thread in threads:
        thread.join()
    assert answers == [[[ROME]]] * 12
    # 4 attempts have failed and 12 are under way, at most, before the fifth failure; then one probe in 0.3 s
    assert during <= 4 + 12 + 1 + waited / 0.3 + 1


def test_the_breaker_opens_after_failures_in_a_row_and_lets_one_probe_pass(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(client_module.time, "monotonic", lambda: now[0])
    breaker = Breaker(patience=60, probe_seconds=5)
    for _ in range(4):
        breaker.failed("refused")
    breaker.answered()
    for _ in range(4):
        breaker.failed("refused")
    breaker.admit(until=100)  # four in a row: still closed
    breaker.failed("refused")
    with pytest.raises(EnvFailure, match="down for 0 s; the last failure: refused"):
        breaker.admit(until=100)
    now[0] = 105
    breaker.admit(until=105)  # the probe
    with pytest.raises(EnvFailure):
        breaker.admit(until=105)
    now[0] = 161
    breaker.admit(until=200)  # a probe again
    with pytest.raises(
        EnvFailure, match="down for 61 s"
    ):  # nobody waits for a server that has been away for so long
        breaker.admit(until=200)
    breaker.answered()
    breaker.admit(until=100)


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"])
def test_a_proxy_of_the_environment_is_not_asked_for_this_machine(
    fake, monkeypatch, variable, opened, connect
):
    with FakeRetrieval() as proxy:
        monkeypatch.setenv(variable, proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        client = opened(fake)
        proxy.seen.clear()
        assert passages(client.search(["oslo"], 1)) == [[OSLO]]
        assert proxy.seen == []
        client = connect(fake.url.replace("127.0.0.1", "localhost"))
        assert passages(client.search(["oslo"], 1)) == [[OSLO]]
        assert proxy.seen == []


def test_loopback_addresses_are_known():
    for url in (
        "http://127.0.0.1:8000",
        "http://127.8.0.1",
        "http://localhost:1",
        "http://[::1]:8000",
        "http://0.0.0.0:1",
    ):
        assert is_loopback(url), url
    for url in ("http://10.0.0.1:8000", "http://retriever:8000", "http://localhost.example.com"):
        assert not is_loopback(url), url


def test_nothing_there_and_something_else_there_are_told_at_start(fake, tmp_path):
    port = fake.port
    fake.stop()
    with pytest.raises(
        UsageError, match=rf"no retriever answers at http://127.0.0.1:{port} .*serve retriever"
    ):
        open_retriever("client", base_url=f"http://127.0.0.1:{port}", tries=2, **FAST)
    with FakeRetrieval("none") as other:
        with pytest.raises(UsageError, match="/retrieve status 404"):
            open_retriever("client", base_url=other.url, **FAST)
        assert len(other.seen) == 5  # each dialect once: a refusal does not change
    with FakeRetrieval() as page:
        page.stay = HTML
        with pytest.raises(UsageError, match="/retrieve malformed answer"):
            open_retriever("client", base_url=page.url, tries=2, **FAST)


def test_a_server_that_starts_late_is_waited_for(fake, connect):
    port = fake.port
    fake.stop()
    late = []
    timer = threading.Timer(0.4, lambda: late.append(FakeRetrieval(port=port)))
    timer.start()
    client = connect(f"http://127.0.0.1:{port}", tries=1000)
    timer.join()
    assert passages(client.search(["oslo"], 1)) == [[OSLO]]
    late[0].stop()


def test_a_first_failure_does_not_decide_the_dialect(fake, connect):
    fake.faults = [(500, "warming up"), (422, "no"), (404, ""), (404, ""), (404, "")]
    assert connect(fake.url).dialect.name == "search-r1"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"base_url": "localhost:8000"}, "no http address"),
        ({"base_url": "http://user:secret@host"}, "password"),
        ({"base_url": "http://127.0.0.1:1", "timeout": 0}, "must be positive"),
        ({"base_url": "http://127.0.0.1:1", "tries": 0}, "at least 1"),
        ({"base_url": "http://127.0.0.1:1", "largest_batch": 0}, "at least 1"),
        ({"base_url": "http://127.0.0.1:1", "retries": 2}, "its settings are base_url"),
        ({}, "base_url"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(UsageError, match=message):
        open_retriever("client", **settings)


def test_the_digest_is_the_servers_own_or_a_fingerprint_without_the_address(opened):
    ours = {"service": "agentbench-retriever", "index": "abc"}
    with FakeRetrieval(health=ours) as server:
        assert opened(server).digest == "abc"
    with FakeRetrieval() as one, FakeRetrieval(health={"status": "healthy", "index": "x"}) as two:
        assert opened(one).digest == opened(two).digest
        two.stay = lambda answer: {
            "result": [[{"document": document(0), "score": 1.0}] for _ in answer["result"]]
        }
        assert opened(two).digest != opened(one).digest


def test_another_index_behind_the_address_is_a_fault(fake, opened):
    fake.health = {"service": "agentbench-retriever", "index": "abc"}
    client = opened(fake)
    fake.stay = lambda answer: {**answer, "index": "abc"}
    assert passages(client.search(["oslo"], 1)) == [[OSLO]]
    fake.stay = lambda answer: {**answer, "index": "other"}
    with pytest.raises(EnvFailure, match="now answers from another index"):
        client.search(["oslo"], 1)


def test_queries_of_any_kind_can_be_sent(fake, opened):
    client = opened(fake)
    odd = ["a\ud83d", 'say "hi"\n\\', "é" * 20_000, "", "\x00"]
    assert client.search(odd, 1) == [[]] * 5
    sent = fake.seen[0][1]["queries"]
    assert sent == ["a\ufffd", 'say "hi"\n\\', "é" * 10_000, "", "\x00"]
    assert json.dumps(sent)


def test_long_answers_are_cut_off(fake, monkeypatch, opened):
    client = opened(fake, tries=1)
    monkeypatch.setattr(connections, "MAX_BYTES", 1000)
    fake.stay = (200, " " * 2000)
    with pytest.raises(EnvFailure, match="longer than 1000 bytes"):
        client.search(["oslo"], 1)


def test_a_closed_client_fails_as_a_fault(fake, opened):
    client = opened(fake)
    client.close()
    client.close()
    with pytest.raises(EnvFailure, match="closed"):
        client.search(["oslo"], 1)
