"""Served environments: the wire as OpenEnv's clients speak it, sessions, limits, and who is let in."""

import asyncio
import json
import os
import random
import signal
import socket as sockets
import subprocess
import sys
import time

import httpx
import pytest
from places import TESTS
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from agentbench.bridges.episode import Seat, Terms
from agentbench.bridges.openenv import Service
from agentbench.bridges.serving import serving
from agentbench.bridges.sockets import SocketLimits
from agentbench.env import EnvSpec, TextEnv
from agentbench.errors import UsageError
from agentbench.registry import env_spec, names

TASK = (
    "5-2-black-red-right"  # a corridor of 5 rooms, entered at room 2, to be left by the red door on the right
)
CLIENT = TESTS / "support" / "openenv_client.py"


class Client:
    """One session, in the words of the protocol."""

    def __init__(self, url, **options):
        self.opening = connect(url.replace("http", "ws") + "/ws", **options)
        self.socket = self.opening.__enter__()  # some tests vanish without leaving the context

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.opening.__exit__(None, None, None)

    def ask(self, kind, **data):
        return self.raw(json.dumps({"type": kind, "data": data}))

    def raw(self, text):
        self.socket.send(text)
        return json.loads(self.socket.recv(timeout=20))


def corridor(**changes):
    return Service(Terms(env_spec("corridor"), **changes), port=0)


@pytest.fixture(scope="module")
def url():
    with serving(corridor()) as found:
        yield found


@pytest.fixture
def client(url):
    with Client(url) as found:
        yield found


def code_of(answer):
    assert answer["type"] == "error", answer
    return answer["data"]["code"]


# --- an episode ---


def test_an_episode_by_hand(client):
    began = client.ask("reset", task=TASK, seed=1, episode_id="mine")
    assert began["type"] == "observation"
    assert began["data"]["reward"] is None
    assert began["data"]["done"] is False
    assert began["data"]["observation"]["text"].startswith("Room 2 of 5.")
    assert began["data"]["observation"]["admissible"] == ["go left", "go right", "open door"]
    # three rooms to the right, then the door: the whole reward on the last step, as a share of success
    for _ in range(3):
        moved = client.ask("step", command="go right")["data"]
        assert (moved["reward"], moved["done"]) == (0.0, False)
    left = client.ask("step", command="open door")["data"]
    assert (left["reward"], left["done"]) == (1.0, True)
    assert left["metadata"]["success"] is True
    state = client.ask("state")
    assert state == {
        "type": "state",
        "data": {"episode_id": "mine", "step_count": 4, "task": TASK, "done": True},
    }


@pytest.mark.parametrize("name", names("envs"))
def test_a_served_env_plays_as_the_env_itself(name):
    terms = Terms(env_spec(name))
    spec, rng, tasks, played = terms.spec, random.Random(0), terms.tasks(terms.split), 0
    local = spec.make()
    with serving(Service(terms, port=0)) as url, Client(url) as client:
        while played < 60:
            task = tasks[rng.randrange(len(tasks))]
            answer = client.ask("reset", task=task, seed=played)["data"]
            text, info = local.reset(seed=played, options={"task": task})
            assert answer["observation"]["text"] == text
            turn = 0
            while not answer["done"]:
                command = rng.choice([*info["admissible"], "nonsense"]).replace("<your query>", "lamp")
                answer = client.ask("step", command=command)["data"]
                text, reward, terminated, truncated, info = local.step(command)
                turn, played = turn + 1, played + 1
                assert answer["observation"]["text"] == text
                assert answer["observation"]["admissible"] == info["admissible"]
                assert answer["reward"] == reward / spec.reward_unit
                assert answer["done"] == (terminated or truncated or turn == spec.max_turns)
                assert answer["metadata"]["task"] == task


def test_an_episode_ends_at_its_limit():
    with serving(corridor(max_turns=2)) as url, Client(url) as client:
        client.ask("reset", task=TASK)
        assert [client.ask("step", command="dance")["data"]["done"] for _ in range(2)] == [False, True]
        over = client.ask("step", command="dance")
        assert code_of(over) == "EXECUTION_ERROR"
        assert over["data"]["message"] == "the episode is over; reset first"
        assert client.ask("reset", task=TASK)["data"]["done"] is False


def test_replies_are_read_by_the_benchmarks_parser():
    with serving(Service(Terms(env_spec("alfworld"), replies=True), port=0)) as url, Client(url) as client:
        began = client.ask("reset", index=0)["data"]
        said = "<think>hm</think><action>inventory</action>"
        moved = client.ask("step", command=said)["data"]
        assert moved["observation"]["text"] == "You are not carrying anything."
        assert moved["metadata"]["command"] == "inventory"
        assert client.ask("step", command="<action> </action>")["data"]["metadata"]["command"] is None
        assert began["metadata"]["max_turns"] == 50


def test_tasks_are_named_drawn_or_taken_by_their_place(client):
    tasks = env_spec("corridor").tasks("test")
    assert client.ask("reset", split="test", index=1)["data"]["metadata"]["task"] == tasks[1]
    drawn = [client.ask("reset", seed=4)["data"]["metadata"]["task"] for _ in range(2)]
    assert drawn[0] == drawn[1]
    assert drawn[0] in env_spec("corridor").tasks("train")
    assert len({client.ask("reset")["data"]["metadata"]["task"] for _ in range(20)}) > 1


# --- what is wrong is said, and the session goes on ---


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("{", "INVALID_JSON", "must be JSON"),
        ("[1]", "UNKNOWN_TYPE", "reset, step, state, close"),
        ('{"type": "mcp"}', "UNKNOWN_TYPE", "'mcp'"),
        ('{"type": "step", "data": {"command": "look"}}', "EXECUTION_ERROR", "no episode has begun"),
        ('{"type": "step", "data": {"words": "look"}}', "VALIDATION_ERROR", "data."),
        ('{"type": "step", "data": {"command": 5}}', "VALIDATION_ERROR", "data.command = 5"),
        ('{"type": "step", "data": {}}', "VALIDATION_ERROR", "'data.command' is missing"),
        ('{"type": "step"}', "VALIDATION_ERROR", "must be an object"),
        ('{"type": "reset", "data": {"task": "nowhere"}}', "VALIDATION_ERROR", "nowhere"),
        ('{"type": "reset", "data": {"split": "trian"}}', "VALIDATION_ERROR", "Did you mean 'train'"),
        ('{"type": "reset", "data": {"split": "train", "index": 99999}}', "VALIDATION_ERROR", "99999"),
        ('{"type": "reset", "data": {"index": -1}}', "VALIDATION_ERROR", "-1"),
        ('{"type": "reset", "data": {"task": "x", "index": 1}}', "VALIDATION_ERROR", "not both"),
        ('{"type": "reset", "data": {"seed": "x"}}', "VALIDATION_ERROR", "data.seed = 'x'"),
        ('{"type": "reset", "data": {"seed": true}}', "VALIDATION_ERROR", "data.seed = True"),
        ('{"type": "reset", "data": {"sed": 1}}', "VALIDATION_ERROR", "Did you mean 'seed'"),
    ],
)
def test_a_bad_message_is_answered_and_the_session_kept(url, text, code, words):
    with Client(url) as client:
        answer = client.raw(text)
        assert code_of(answer) == code
        assert words in answer["data"]["message"]
        assert "\n" not in answer["data"]["message"]
        assert client.ask("reset", task=TASK)["type"] == "observation"


def test_a_failed_reset_leaves_no_episode_behind(client):
    client.ask("reset", task=TASK)
    assert code_of(client.ask("reset", task="nowhere")) == "VALIDATION_ERROR"
    assert code_of(client.ask("step", command="go right")) == "EXECUTION_ERROR"


class Moody(TextEnv):
    """Fails in ways that real envs do."""

    closed = 0

    def __init__(self, mood="works"):
        super().__init__()
        if mood == "broken":
            raise RuntimeError("no display")

    def reset(self, *, seed=None, options=None):
        return "begin", {
            "task": options["task"],
            "admissible": [],
            "success": False,
            "score": 0.0,
            "task_type": "",
        }

    def step(self, action):
        if action == "explode":
            raise OSError("disk gone")
        if action == "sleep":
            time.sleep(2)
        return "more", 2.0, False, False, self.reset(options={"task": "a"})[1]

    def close(self):
        Moody.closed += 1


def moody(**options):
    spec = EnvSpec(
        "moody", "x/Moody-v0", Moody, ("all",), lambda split: ("a",), "p", "plain", 9, reward_unit=4.0
    )
    from dataclasses import replace

    return Terms(replace(spec, blocking=True), options=options)


def test_what_an_env_raises_is_an_error_of_the_step():
    with serving(Service(moody(), port=0)) as url, Client(url) as client:
        client.ask("reset")
        assert client.ask("step", command="go")["data"]["reward"] == 0.5  # 2 of 4
        broken = client.ask("step", command="explode")
        assert code_of(broken) == "EXECUTION_ERROR"
        assert "OSError: disk gone" in broken["data"]["message"]
        assert code_of(client.ask("step", command="go")) == "EXECUTION_ERROR"
        assert client.ask("reset")["type"] == "observation"


def test_an_env_that_cannot_be_made_ends_the_session():
    with serving(Service(moody(mood="broken"), port=0)) as url, Client(url) as client:
        assert code_of(json.loads(client.socket.recv(timeout=20))) == "FACTORY_ERROR"
        with pytest.raises(ConnectionClosed):
            client.socket.recv(timeout=20)


def test_a_step_that_takes_too_long_ends_the_session_and_no_other():
    with (
        serving(Service(moody(), port=0, step_seconds=0.3)) as url,
        Client(url) as slow,
        Client(url) as other,
    ):
        slow.ask("reset")
        other.ask("reset")
        slow.socket.send(json.dumps({"type": "step", "data": {"command": "sleep"}}))
        assert other.ask("step", command="go")["type"] == "observation"
        assert code_of(json.loads(slow.socket.recv(timeout=20))) == "SESSION_ERROR"
        with pytest.raises(ConnectionClosed):
            slow.socket.recv(timeout=20)


def test_a_silent_session_is_closed():
    with serving(Service(moody(), port=0, idle_seconds=0.2)) as url, Client(url) as client:
        assert code_of(json.loads(client.socket.recv(timeout=20))) == "SESSION_ERROR"


# --- many sessions, and those that vanish ---


async def hundred(url):
    from websockets.asyncio.client import connect as open_socket

    opened = asyncio.Barrier(100)

    async def one(number):
        async with open_socket(url.replace("http", "ws") + "/ws", open_timeout=60) as socket:
            await socket.send(json.dumps({"type": "reset", "data": {"index": number}}))
            task = json.loads(await socket.recv())["data"]["metadata"]["task"]
            await opened.wait()
            seen = []
            for command in ("go left", "go right", "dance"):
                await socket.send(json.dumps({"type": "step", "data": {"command": command}}))
                seen.append(json.loads(await socket.recv())["data"]["observation"]["text"])
            return task, seen

    return await asyncio.gather(*(one(number) for number in range(100)))


def test_a_hundred_sessions_at_once_keep_apart(url):
    local = Seat(Terms(env_spec("corridor")))
    for number, (task, seen) in enumerate(asyncio.run(hundred(url))):
        local.reset(index=number)
        assert task == local.task
        assert seen == [local.step(command).text for command in ("go left", "go right", "dance")]


def until(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_one_session_too_many_is_told_so_and_a_place_that_is_left_can_be_taken():
    with serving(Service(moody(), port=0, max_sessions=1)) as url, Client(url) as first:
        first.ask("reset")
        with Client(url) as second:
            assert code_of(json.loads(second.socket.recv(timeout=20))) == "CAPACITY_REACHED"
            with pytest.raises(ConnectionClosed):
                second.socket.recv(timeout=20)
        first.socket.send('{"type": "close"}')
        with pytest.raises(ConnectionClosed):
            first.socket.recv(timeout=20)

        def free():
            with Client(url) as third:
                return third.ask("reset")["type"] == "observation"

        until(free)


def test_a_client_that_vanishes_leaves_nothing_behind():
    before = Moody.closed
    with serving(Service(moody(), port=0, max_sessions=1)) as url:
        client = Client(url)
        client.ask("reset")
        # reset of the connection, as when the process is killed: no good-bye is said
        client.socket.socket.setsockopt(sockets.SOL_SOCKET, sockets.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        client.socket.socket.close()
        until(lambda: Moody.closed == before + 1)
        with Client(url) as next_one:
            assert next_one.ask("reset")["type"] == "observation"


def test_a_client_that_gives_no_sign_of_life_is_given_up():
    before = Moody.closed
    limits = SocketLimits(ping_seconds=0.1)
    with serving(Service(moody(), port=0, limits=limits)) as url:
        host, port = url.removeprefix("http://").split(":")
        with sockets.create_connection((host, int(port))) as silent:  # shakes hands, then never reads a ping
            key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
            silent.sendall(
                f"GET /ws HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{key}".encode()
            )
            assert b"101 Switching Protocols" in silent.recv(4096)
            until(lambda: Moody.closed == before + 1)


def test_a_client_that_answers_pings_is_kept():
    with (
        serving(Service(moody(), port=0, limits=SocketLimits(ping_seconds=0.05))) as url,
        Client(url) as client,
    ):
        time.sleep(0.5)
        assert client.ask("reset")["type"] == "observation"


def test_a_message_that_is_too_long_ends_the_connection():
    with (
        serving(Service(moody(), port=0, limits=SocketLimits(message_bytes=1000))) as url,
        Client(url) as client,
    ):
        client.socket.send("x" * 2000)
        with pytest.raises(ConnectionClosed):
            client.socket.recv(timeout=20)


def test_stopping_closes_what_is_open():
    before = Moody.closed
    with serving(Service(moody(), port=0)) as url:
        client = Client(url)
        client.ask("reset")
    assert Moody.closed == before + 1


# --- descriptions and the Task API ---


def test_descriptions(url):
    assert httpx.get(f"{url}/health").json() == {"status": "healthy"}
    schema = httpx.get(f"{url}/schema").json()
    assert schema["action"]["required"] == ["command"]
    assert schema["action"]["title"] not in ("Action", "CallToolAction", "ListToolsAction")
    assert set(schema) == {"action", "observation", "state"}
    assert httpx.get(f"{url}/metadata").json()["name"] == "corridor"


def test_tasks_are_listed(url):
    tasks = env_spec("corridor").tasks("test")
    assert httpx.get(f"{url}/list_environments").json() == ["corridor"]
    assert httpx.get(f"{url}/corridor/splits").json() == [
        {"name": "train", "type": "train"},
        {"name": "valid", "type": "validation"},
        {"name": "test", "type": "test"},
    ]

    def ask(what, **data):
        return httpx.post(f"{url}/corridor/{what}", json=data)

    assert ask("num_tasks", split="test").json() == {"num_tasks": len(tasks)}
    assert ask("task", split="test", index=2).json() == {
        "task": {"id": tasks[2], "split": "test", "index": 2}
    }
    assert [task["id"] for task in ask("task_range", split="test", start=1, stop=3).json()["tasks"]] == list(
        tasks[1:3]
    )
    assert [task["id"] for task in ask("tasks", split="test").json()["tasks"]] == list(tasks)
    assert ask("task", split="test", index=10**6).status_code == 400
    assert ask("num_tasks", split="tset").status_code == 422
    assert httpx.get(f"{url}/corridor/tasks").status_code == 405
    assert httpx.get(f"{url}/nothing").status_code == 404
    assert httpx.post(f"{url}/reset", json={}).status_code == 404


# --- who is let in ---


def test_other_machines_need_a_key():
    with pytest.raises(UsageError, match="a key is needed"):
        Service(Terms(env_spec("corridor")), host="0.0.0.0")
    with pytest.raises(UsageError, match="max_sessions must be positive"):
        Service(Terms(env_spec("corridor")), max_sessions=0)


def test_the_key_is_asked_for_everywhere_but_for_health():
    with serving(Service(Terms(env_spec("corridor")), port=0, key="secret")) as url:
        assert httpx.get(f"{url}/health").status_code == 200
        assert httpx.get(f"{url}/schema").status_code == 401
        assert httpx.get(f"{url}/schema", headers={"Authorization": "Bearer wrong"}).status_code == 401
        assert httpx.get(f"{url}/schema", headers={"Authorization": "Bearer secret"}).status_code == 200
        with pytest.raises(InvalidStatus):
            Client(url)
        with Client(url, additional_headers={"Authorization": "Bearer secret"}) as client:
            assert client.ask("reset")["type"] == "observation"
        # clients that can set no header put it into the URL
        with Client(url.replace("http://", "http://any:secret@")) as client:
            assert client.ask("reset")["type"] == "observation"


@pytest.mark.parametrize("header", ["Origin", "Host"])
def test_web_pages_in_a_browser_on_this_machine_are_kept_out(url, header):
    seen = httpx.get(
        f"{url}/schema", headers={header: "http://evil.example" if header == "Origin" else "evil.example"}
    )
    assert seen.status_code == 403
    assert httpx.get(f"{url}/schema", headers={"Origin": "http://localhost:3000"}).status_code == 200


# --- the command ---


def test_the_command_serves_until_it_is_told_to_end():
    words = [sys.executable, "-m", "agentbench", "serve-env", "corridor", "--port", "0", "--max-turns", "3"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        assert line.startswith("serving corridor, split train, 3 turns an episode, at http://127.0.0.1:")
        url = line.split(" at ")[1].split(";")[0]
        with Client(url) as client:
            client.ask("reset", task=TASK)
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=60) == 0
        assert process.stdout.read() == "ended; 1 sessions were open\n"
    finally:
        process.kill()
        process.stdout.close()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["corridr"], "Did you mean 'corridor'"),
        (["corridor", "--split", "trian"], "Did you mean 'train'"),
        (["corridor", "--host", "0.0.0.0"], "a key is needed"),
        (["corridor", "--key-file", "/nowhere"], "cannot read the key"),
        (["corridor", "--max-turns", "0"], "max_turns must be at least 1"),
    ],
)
def test_wrong_words_are_refused_in_one_line(words, message, capsys):
    from agentbench.cli import run

    assert run(["serve-env", *words]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_a_port_in_use_is_said(url, capsys):
    from agentbench.cli import run

    assert run(["serve-env", "corridor", "--port", url.rsplit(":", 1)[1]]) == 2
    assert "choose another --port" in capsys.readouterr().err


# --- OpenEnv's own clients ---


def pythons():
    """Pythons that have OpenEnv: this one, or those that $AGENTBENCH_OPENENV_PYTHONS names (separated by colons)."""
    import importlib.util

    named = os.environ.get("AGENTBENCH_OPENENV_PYTHONS", "")
    if named:
        return named.split(":")
    return [sys.executable] if importlib.util.find_spec("openenv") else []


@pytest.mark.parametrize("name", names("envs"))
def test_openenvs_generic_clients_see_what_a_seat_sees(name):
    if not pythons():
        pytest.skip("openenv is not installed; AGENTBENCH_OPENENV_PYTHONS may name Pythons that have it")
    terms, rng = Terms(env_spec(name)), random.Random(1)
    seat, tasks = Seat(terms), terms.tasks(terms.split)
    episodes, wanted, played = [], [], 0
    while played < 400:
        task = tasks[rng.randrange(len(tasks))]
        moments = [seat.reset(task=task, seed=3)]
        while not moments[-1].done:
            admissible = [*moments[-1].info["admissible"], "nonsense"]
            moments.append(seat.step(rng.choice(admissible).replace("<your query>", "lamp")))
        played += len(moments) - 1
        episodes.append(
            {"reset": {"task": task, "seed": 3}, "commands": [moment.command for moment in moments[1:]]}
        )
        wanted.append([[m.text, m.info["admissible"], m.reward, m.done] for m in moments])
    with serving(Service(terms, port=0)) as url:
        for python in pythons():
            done = subprocess.run(
                [python, str(CLIENT), url],
                input=json.dumps(episodes),
                capture_output=True,
                text=True,
                check=True,
            )
            *seen, refused = json.loads(done.stdout)
            assert [
                [[o["text"], o["admissible"], reward, over] for o, reward, over in episode["rows"]]
                for episode in seen
            ] == wanted
            assert seen[-1]["state"]["step_count"] == len(wanted[-1]) - 1
            assert "VALIDATION_ERROR" in refused
