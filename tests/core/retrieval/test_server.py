import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading

import httpx
import pytest

from agentbench.cli import run
from agentbench.errors import EnvFailure, MissingDependency, UsageError
from agentbench.retrieval import Hit, Passage, Passages, write_passages
from agentbench.retrieval import server as server_module
from agentbench.retrieval.client import ClientRetriever
from agentbench.retrieval.contract import Refused
from agentbench.retrieval.open import open_retriever

pytest.importorskip("starlette", reason="the extra search is not installed")
uvicorn = pytest.importorskip("uvicorn", reason="the extra search is not installed")

TOWNS = [
    Passage("10", "Oslo", "Oslo is the capital of Norway."),
    Passage("9", 'The "Bergen"', "Bergen is a town in Norway.\nNorway has many towns."),
    Passage("8", "Rome", "Rome is the capital of Italy."),
]


class Running:
    """An application on a real port, in a thread."""

    def __init__(self, retriever, **options):
        app = server_module.make_app(retriever, **options)
        self.socket = server_module.bound_socket("127.0.0.1", 0)
        config = uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off")
        self.server = uvicorn.Server(config)
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]}, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.server.should_exit = True
        self.thread.join()
        self.socket.close()

    def post(self, value, path="/retrieve"):
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        return httpx.post(self.url + path, content=content, trust_env=False, timeout=30)


@pytest.fixture(scope="module")
def retriever():
    return open_retriever(corpus=Passages.of(TOWNS))


@pytest.fixture(scope="module")
def running(retriever):
    with Running(retriever, top_k=2, facts={"passages": 3}) as server:
        yield server


OSLO = {
    "id": "10",
    "contents": '"Oslo"\nOslo is the capital of Norway.',
    "title": "Oslo",
    "text": "Oslo is the capital of Norway.",
}


def test_several_queries_are_answered_as_search_r1_asks(running, retriever):
    answer = running.post({"queries": ["the capital", "zzz", "bergen"], "topk": 3, "return_scores": True})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    lists = answer.json()["result"]
    assert [[item["document"]["id"] for item in items] for items in lists] == [["10", "8"], [], ["9"]]
    assert lists[0][0]["document"] == OSLO
    assert lists[2][0]["document"]["contents"].startswith('"The "Bergen""\nBergen is a town')
    expected = retriever.search(["the capital"], 3)[0]
    assert [item["score"] for item in lists[0]] == [hit.score for hit in expected]


def test_one_query_is_answered_as_verl_agent_asks(running):
    answer = running.post({"query": "capital of norway", "topk": 1, "return_scores": True}).json()
    assert [[item["document"] for item in items] for items in answer["result"]] == [[OSLO]]


@pytest.mark.parametrize("scores", [{}, {"return_scores": False}, {"return_scores": None}])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_without_scores_each_query_still_gets_its_own_list(running, scores, count):
    queries = ["rome", "oslo", "bergen"][:count]
    lists = running.post({"queries": queries, "topk": 1, **scores}).json()["result"]
    assert [[document["id"] for document in documents] for documents in lists] == [["8"], ["10"], ["9"]][
        :count
    ]


@pytest.mark.parametrize(
    ("topk", "count"), [({}, 2), ({"topk": None}, 2), ({"topk": 0}, 2), ({"topk": 1}, 1), ({"topk": 50}, 3)]
)
def test_topk_has_a_default_and_may_exceed_the_corpus(running, topk, count):
    assert len(running.post({"query": "norway italy", **topk}).json()["result"][0]) == count


@pytest.mark.parametrize(
    "query",
    ['"oslo"', "oslo\nnow", "oslo \\ud83d", "oslo " * 1900, "oslo\u0000", " oslo "],
    ids=["quotes", "newline", "half a character", "long", "nul", "blanks"],
)
def test_odd_queries_are_answered(running, query):
    body = json.dumps({"queries": [query]}).replace("\\\\ud83d", "\\ud83d").encode()
    assert running.post(body).json()["result"][0][0]["id"] == "10"


def test_an_empty_query_and_no_query_find_nothing(running):
    assert running.post({"query": ""}).json()["result"] == [[]]
    assert running.post({"queries": []}).json()["result"] == []


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"", 400, "not JSON"),
        (b"{", 400, "not JSON"),
        (b"[" * 100_000, 400, "not JSON"),
        (b"\xff\xfe", 400, "not JSON"),
        ([], 422, "must be a JSON object"),
        ({}, 422, 'give "queries"'),
        ({"query": "a", "queries": ["b"]}, 422, 'give "queries"'),
        ({"queries": "oslo"}, 422, "list of texts"),
        ({"query": ["oslo"]}, 422, "list of texts"),
        ({"queries": ["oslo", 3]}, 422, "list of texts"),
        ({"queries": ["oslo", None]}, 422, "list of texts"),
        ({"query": "oslo", "topk": -1}, 422, "topk must be a whole number from 1 to 1000, got -1"),
        ({"query": "oslo", "topk": 1001}, 422, "topk must be"),
        ({"query": "oslo", "topk": "3"}, 422, "topk must be"),
        ({"query": "oslo", "topk": 1.5}, 422, "topk must be"),
        ({"query": "oslo", "topk": True}, 422, "topk must be"),
        ({"query": "oslo", "topk": False}, 422, "topk must be"),
        ({"query": "oslo", "return_scores": "yes"}, 422, "return_scores must be"),
        ({"queries": ["x"] * 4097}, 413, "4097 queries; at most 4096"),
        ({"query": "x" * 10_001}, 422, "10001 characters; at most 10000"),
        (b" " * ((1 << 26) + 1), 413, "a request may hold 67108864 bytes"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_request_is_said_in_json(running, body, status, message):
    answer = running.post(body)
    assert answer.status_code == status
    assert message in answer.json()["error"]
    assert running.post({"query": "oslo"}).status_code == 200


def test_the_longest_allowed_request_is_answered(running):
    assert len(running.post({"queries": ["oslo"] * 4096, "topk": 1}).json()["result"]) == 4096
    assert running.post({"query": "x" * 10_000}).status_code == 200


def test_other_paths_and_methods_are_told_where_to_go(running):
    for answer in (
        running.post({}, "/search"),
        running.post({}, "/health"),
        httpx.get(running.url + "/retrieve", trust_env=False),
        httpx.get(running.url + "/", trust_env=False),
    ):
        assert answer.status_code in (404, 405)
        assert "ask POST /retrieve or GET /health" in answer.json()["error"]


def test_health_says_what_is_served(running, retriever):
    assert httpx.get(running.url + "/health", trust_env=False).json() == {
        "service": "agentbench-retriever",
        "status": "ok",
        "engine": "bm25",
        "index": retriever.digest,
        "passages": 3,
        "topk": 2,
    }


class Failing:
    """A retriever that raises what it is told."""

    name, digest, error = "bm25", "d", None

    def search(self, queries, k):
        if self.error is not None:
            raise self.error
        return [[Hit(TOWNS[0], 1.0)] for _ in queries]

    def close(self):
        pass


def test_faults_behind_the_server_are_statuses_and_it_goes_on():
    failing = Failing()
    with Running(failing) as server:
        for error, status in (
            (EnvFailure("index gone"), 503),
            (Refused("not this"), 422),
            (RuntimeError("boom"), 500),
        ):
            failing.error = error
            answer = server.post({"query": "oslo"})
            assert answer.status_code == status
            assert str(error) in answer.json()["error"]
        failing.error = None
        assert server.post({"query": "oslo"}).status_code == 200


def test_a_slow_search_does_not_hold_up_others():
    entered, leave = threading.Event(), threading.Event()

    class Slow(Failing):
        def search(self, queries, k):
            if queries[0] == "slow":
                entered.set()
                assert leave.wait(30)
            return super().search(queries, k)

    with Running(Slow()) as server:
        answers = []
        thread = threading.Thread(target=lambda: answers.append(server.post({"query": "slow"})))
        thread.start()
        assert entered.wait(30)
        assert server.post({"query": "quick"}).status_code == 200
        assert answers == []
        leave.set()
        thread.join()
        assert answers[0].status_code == 200


def test_our_client_gets_what_the_retriever_gives(running, retriever):
    client = ClientRetriever(running.url)
    queries = ["norway", "capital", "zzz", "", "x" * 20_000, "rome\ud83d"]
    assert client.search(queries, 3) == retriever.search(queries, 3)
    assert client.digest == retriever.digest
    assert client.dialect.name == "search-r1"
    client.close()


@pytest.mark.parametrize("top_k", [0, -1, 1001, True, 2.0])
def test_a_default_that_makes_no_sense_is_refused(retriever, top_k):
    with pytest.raises(UsageError, match="--top-k must be"):
        server_module.make_app(retriever, top_k=top_k)


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(MissingDependency, match=r"agentbench-opd\[search\]"):
        server_module.check_installed()


def test_a_taken_port_and_one_that_is_none_are_refused():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(
            UsageError, match="Address already in use; stop what is there, or choose another --port"
        ):
            server_module.bound_socket("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(UsageError, match="--port must be from 0"):
        server_module.bound_socket("127.0.0.1", 70_000)
    with pytest.raises(UsageError, match="cannot listen on"):
        server_module.bound_socket("host.invalid", 0)


PROGRAM = """
import sys
from agentbench.retrieval.open import open_retriever
from agentbench.retrieval.server import serve_retriever
def report(line): print(line, flush=True)
sys.exit(serve_retriever(lambda: open_retriever(corpus=sys.argv[1]), port=0, report=report))
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_the_server_says_where_it_is_and_ends_when_told(tmp_path, how):
    path = write_passages(tmp_path / "c.jsonl", TOWNS)
    environment = {**os.environ, "AGENTBENCH_DATA": str(tmp_path / "data")}
    command = [sys.executable, "-c", PROGRAM, str(path)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    line = process.stdout.readline()
    found = re.fullmatch(
        r"bm25 over 3 passages, index [0-9a-f]{12}, at (http://127\.0\.0\.1:\d+); Ctrl-C ends it\n", line
    )
    assert found, line + process.stderr.read()
    client = ClientRetriever(found[1])
    assert [hit.passage.id for hit in client.search(["oslo"], 1)[0]] == ["10"]
    process.send_signal(how)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    assert errors == ""
    client.close()


def test_the_command_serves_a_corpus_and_says_what_is_wrong(tmp_path, capsys, monkeypatch):
    path = write_passages(tmp_path / "c.jsonl", TOWNS)
    monkeypatch.setenv("AGENTBENCH_DATA", str(tmp_path / "data"))
    served = []

    def serve_retriever(open_it, **options):
        served.append((open_it(), options))
        return 0

    monkeypatch.setattr(server_module, "serve_retriever", serve_retriever)
    words = ["serve", "retriever", "--corpus", str(path), "--option", "k1=1.2", "--option", "b=0.75"]
    assert run([*words, "--port", "0", "--top-k", "5"]) == 0
    (found, options) = served[0]
    assert (options["host"], options["port"], options["top_k"]) == ("127.0.0.1", 0, 5)
    assert found.digest == open_retriever(corpus=path, k1=1.2, b=0.75).digest
    monkeypatch.undo()
    monkeypatch.setenv("AGENTBENCH_DATA", str(tmp_path / "data"))
    for more, message in (
        (["--corpus", str(tmp_path / "none"), "--port", "0"], "no corpus at"),
        (["--corpus", str(path), "--kind", "client"], "asks another server"),
        (["--corpus", str(path), "--kind", "bm52", "--port", "0"], "Did you mean 'bm25'"),
        (["--corpus", str(path), "--option", "k2=1", "--port", "0"], "its settings are corpus, k1, b"),
        (["--corpus", str(path), "--option", "k1", "--port", "0"], "not of the form key=value"),
        (["--corpus", str(path), "--port", "99999"], "--port must be"),
        (["--corpus", str(path), "--port", "0", "--top-k", "0"], "--top-k must be"),
        ([], "--corpus"),
    ):
        assert run(["serve", "retriever", *more]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
