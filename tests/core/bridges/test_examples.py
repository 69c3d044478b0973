"""The examples for other people's trainers and evaluators do what their pages say."""

import inspect
import json
import os
import subprocess
import sys
import threading
import tomllib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from places import ROOT

from agentbench.bridges.episode import Terms
from agentbench.bridges.openenv import Service
from agentbench.bridges.serving import serving
from agentbench.registry import env_spec

EXAMPLES = ROOT / "examples" / "bridges"


def towards_the_door(text):
    """Read a corridor's observation: the expert's command, from the text alone."""
    last = text[text.rindex("Room ") :]
    room, rooms = int(last.split()[1]), int(last.split()[3].rstrip("."))
    wanted = last.split("Leave by the ")[1].split()[0]
    leftwards = f"The {wanted} door is left" in last
    if room == (1 if leftwards else rooms):
        return "open door"
    return "go left" if leftwards else "go right"


class Endpoint(BaseHTTPRequestHandler):
    """Answers chats, whole or as a stream: an expert's command, or nonsense where the model is called so."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        told = [message for message in body["messages"] if message["role"] == "user"][-1]["content"]
        if isinstance(told, list):
            told = "".join(part.get("text", "") for part in told)
        text = json.loads(told)["observation"]["text"]
        said = "sing a song" if body["model"] == "nonsense" else towards_the_door(text)
        streams = bool(body.get("stream"))
        message = {"role": "assistant", "content": said}
        choice = {"index": 0, "delta" if streams else "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        kind = "chat.completion.chunk" if streams else "chat.completion"
        whole = {"id": "x", "object": kind, "created": 1, "model": "m", "choices": [choice], "usage": usage}
        content = json.dumps(whole).encode()
        if streams:
            content = b"data: " + content + b"\n\ndata: [DONE]\n\n"
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream" if streams else "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def endpoint():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_verifiers_configuration_names_tasks_that_exist():
    config = tomllib.loads((EXAMPLES / "verifiers.toml").read_text())
    taskset = config["env"]["taskset"]
    assert taskset["id"] == "openenv"
    for reset in taskset["resets"]:
        Terms(env_spec("corridor")).choose(None, reset["split"], reset["index"], None)


@pytest.mark.parametrize(("model", "earned"), [("expert", 1.0), ("nonsense", 0.0)])
def test_verifiers_scores_an_experts_replies_with_one_and_nonsense_with_nothing(
    model, earned, endpoint, tmp_path
):
    python = os.environ.get("AGENTBENCH_VERIFIERS_PYTHON")
    if not python:
        pytest.skip("AGENTBENCH_VERIFIERS_PYTHON names no Python that has verifiers, openenv and uv")
    text = (EXAMPLES / "verifiers.toml").read_text()
    with serving(Service(Terms(env_spec("corridor")), port=0)) as url:
        text = text.replace("http://127.0.0.1:8000", url).replace("http://127.0.0.1:8001", endpoint)
        (tmp_path / "eval.toml").write_text(text.replace('"MODEL"', f'"{model}"'))
        folder = os.path.dirname(python)
        environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "UV_PYTHON": python}
        environment["OPENAI_API_KEY"] = "unused"
        subprocess.run(
            [f"{folder}/vf-eval", "@", "eval.toml", "--no-rich", "--run.name", "run"],
            cwd=tmp_path,
            env=environment,
            check=True,
            capture_output=True,
            timeout=600,
        )
    traces = (tmp_path / "outputs" / "run" / "traces.jsonl").read_text()
    episodes = [json.loads(line) for line in traces.splitlines()]
    assert [episode["errors"] for episode in episodes] == [[]] * 3
    rewards = [trace["rewards"] for episode in episodes for trace in episode["traces"]]
    assert [reward["openenv_reward"]["score"] for reward in rewards] == [earned] * 3


INSPECT = """
import json, sys, types
import tiktoken
# Inspect counts tokens with a table that it would download
tiktoken.get_encoding = lambda name: types.SimpleNamespace(encode=lambda text, **_: text.split())
sys.path.insert(0, sys.argv[1])
import inspect_task
from inspect_ai import eval
from inspect_ai.model import ModelOutput, get_model
from test_examples_reply import reply

def answer(messages, tools, choice, config):
    return ModelOutput.from_content("mockllm/model", reply(messages[-1].text, sys.argv[2]))

model = get_model("mockllm/model", custom_outputs=answer)
task = inspect_task.agentbench(env="corridor", split="test", limit=3)
(log,) = eval(task, model=model, display="none", log_dir=sys.argv[3])
print(json.dumps([log.status, {m: s.value for m, s in log.results.scores[0].metrics.items()}]))
"""


@pytest.mark.parametrize(("player", "accuracy"), [("expert", 1.0), ("nonsense", 0.0)])
def test_inspect_plays_the_example(player, accuracy, tmp_path):
    python = os.environ.get("AGENTBENCH_INSPECT_PYTHON", sys.executable)
    found = subprocess.run([python, "-c", "import inspect_ai, agentbench"], capture_output=True)
    if found.returncode:
        pytest.skip("Inspect is not installed; AGENTBENCH_INSPECT_PYTHON may name a Python that has it")
    source = inspect.getsource(towards_the_door)
    reply = "def reply(text, player):\n    command = towards_the_door(text) if player == 'expert' else 'sing a song'\n"
    reply += "    return f'<think>so</think><action>{command}</action>'\n"
    (tmp_path / "test_examples_reply.py").write_text(source + reply)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run(
        [python, "-c", INSPECT, str(EXAMPLES), player, str(tmp_path / "logs")],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    status, metrics = json.loads(done.stdout.splitlines()[-1])
    assert status == "success"
    assert metrics["accuracy"] == accuracy
