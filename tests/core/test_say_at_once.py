"""Runs that cannot work say so at once: one line, exit code 2, nothing written; by kind of mistake."""

import errno
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from agentbench.cli import run
from agentbench.dialogue.prompt import load_prompt
from agentbench.engines.vllm.serve import Serving
from agentbench.errors import ConfigError, UsageError
from agentbench.foreign import cell, printable, shortened

EVAL = ("eval", "--panel", "corridor/test@1", "--limit", "2", "--output", "run")


@pytest.fixture(autouse=True)
def _there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def refused(capsys, *words):
    assert run(words) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "Traceback" not in error
    assert len(error) < 1500
    return error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--policy", "random", "--env-option", "foo=1"), "no option 'foo'; its options:"),
        (("--policy", "random", "--env-option", "rooms=[1]"), "no option 'rooms'"),
        (("--policy", "random", "--env-option", f"foo={'x' * 100_000}"), "no option 'foo'"),
        (("--policy", "os:getcwd"), "that is no policy"),
        (("--policy", "os:system"), "cannot be made without arguments"),
        (("--policy", "os:sep"), "name a class or function that makes a policy"),
        (("--policy", ":"), "no name of a module"),
        (("--policy", "..x:d"), "no name of a module"),
        (("--policy", "scripted:/dev"), "cannot read the script"),
        (("--policy", "scripted:a\0b"), "cannot read the script a\\x00b"),
        (("--policy", "random", "--repeats", str(10**30)), "repeats"),
        (("--policy", "random", "--seed", str(10**30)), "64 bits"),
    ],
)
def test_an_evaluation_that_cannot_work(capsys, words, message):
    assert message in refused(capsys, *EVAL, *words)
    assert not Path("run").exists()


@pytest.mark.parametrize(
    "option",
    [
        "retries=two",
        "retries=true",
        "prices=3",
        "extra_body=[1]",
        "api_key_env=5",
        "request_timeout=[1]",
        "nope=1",
    ],
)
def test_engine_options_of_a_wrong_type(capsys, option):
    words = ("--policy", "model", "--engine", "openai", "--model", "m", "--engine-option", option)
    assert option.split("=")[0] in refused(capsys, *EVAL, *words)
    assert not Path("run").exists()


@pytest.mark.parametrize("name", ["/dev/null/run", "/proc/x", "a" * 300, "file/run"])
def test_an_output_that_the_system_refuses(capsys, name):
    Path("file").write_text("")
    assert refused(capsys, *EVAL[:-1], name, "--policy", "random")


def test_a_context_that_no_first_prompt_fits(capsys, model):
    words = ("--policy", "model", "--model", model, "--max-new-tokens", "4096")
    assert "+ max_new_tokens 4096 exceeds the context of" in refused(capsys, *EVAL, *words)
    assert not Path("run/episodes.jsonl").read_bytes()


BAD_FILES = {
    "not UTF-8": b"\xff\xfe\x00a",
    "deep": b"[" * 3000 + b"]" * 3000,
    "anchors that multiply": b"a: &a [x, x, x, x, x, x, x, x, x, x]\n"
    + b"".join(
        f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 10)}]\n".encode() for n in range(9)
    ),
    "an anchor that holds itself": b"a: &a [*a]\n",
    "a key twice": b"seed: 1\nseed: 2\n",
    "a list": b"- 1\n",
    "keys that are numbers": b"1: 2\n",
    "python": b"a: !!python/object/apply:os.system ['true']\n",
    "nothing": b"",
}


@pytest.mark.parametrize("content", BAD_FILES.values(), ids=BAD_FILES)
def test_every_reader_of_yaml_refuses_alike(capsys, content):
    Path("bad.yaml").write_bytes(content)
    refused(capsys, *EVAL, "bad.yaml", "--policy", "random")
    refused(capsys, "train", "bad.yaml")
    refused(capsys, "eval", "--panel", "bad.yaml", "--policy", "random", "--output", "run")
    with pytest.raises(UsageError):
        load_prompt("bad.yaml")


@pytest.mark.parametrize(
    "template",
    [
        "{{ cycler.__init__.__globals__.os.popen('id > pwned').read() }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ 1 / 0 }}",
        "{% include 'x' %}",
        "{{ history.append(1) }}",
        "{{ nowhere }}",
    ],
)
def test_a_prompt_file_is_data_and_runs_nothing(template):
    import json

    Path("p.yaml").write_text(f"layout: fresh\nfirst: {json.dumps(template)}\nlater: x\n")
    slots = {
        "observation": "o",
        "admissible": [],
        "history": [],
        "turn": 1,
        "steps": 0,
        "max_turns": 1,
        "info": {},
    }
    with pytest.raises(ConfigError) as caught:
        load_prompt("p.yaml").message(slots, first=True)
    assert "\n" not in str(caught.value)
    assert not Path("pwned").exists()


def test_foreign_text_is_shown_on_one_plain_line():
    shown = printable("a\x1b]0;pwned\x07b\u202ec\nd\ud83d\u200b")
    assert shown == "a\\x1b]0;pwned\\x07b\\u202ec d\\ud83d\\u200b"
    assert printable("grün 学 🤖") == "grün 学 🤖"
    assert cell("a|b<script>`") == "a\\|b&lt;script&gt;\\`"
    assert len(shortened("x" * 100_000)) < 200
    deep: list = []
    for _ in range(60):
        deep = [deep] * 10
    assert len(shortened(deep)) < 400


def test_a_server_for_everybody_needs_a_key(monkeypatch):
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    for host in ("0.0.0.0", "::", "192.168.0.7"):
        with pytest.raises(UsageError, match="--api-key"):
            Serving("m", host=host)
        for named in (("--api-key", "k"), ("--api-key=k",), ("--api_key", "k")):
            Serving("m", host=host, extra=named)
        for none in (("--api-key", ""), ("--api-key=",), ("--api-key",), ("--api-key", "--enforce-eager")):
            with pytest.raises(UsageError, match="--api-key"):
                Serving("m", host=host, extra=none)
    for hidden in (("--host", "0.0.0.0"), ("--host=0.0.0.0",), ("--hos", "0.0.0.0")):
        with pytest.raises(UsageError, match="--host is an option of agentbench serve"):
            Serving("m", host="127.0.0.1", purpose="training", extra=hidden)
    Serving("m", host="127.0.0.1")


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "run/episodes.jsonl"),
            2,
            "No space left on device (run/",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "x"), 2, "Permission denied (x)"),
        (EOFError("No data left in file"), 2, "a file ends before its content does"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_what_the_system_says_is_one_line(capsys, monkeypatch, error, code, message):
    def broken(*arguments, **options):
        raise error

    monkeypatch.setattr("agentbench.evaluation.evaluate.evaluate", broken)
    assert run((*EVAL, "--policy", "random")) == code
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_every_env_has_its_gymnasium_id_once_its_package_is_imported():
    made = "import gymnasium as gym, agentbench.envs.{0}; gym.make('agentbench/{1}-v1')"
    lines = [
        made.format(*pair)
        for pair in (("webshop", "WebShop"), ("alfworld", "ALFWorld"), ("corridor", "Corridor"))
    ]
    for line in lines:
        done = subprocess.run([sys.executable, "-c", line], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "gym_id", ["agentbench/Corridor-v1", "agentbench/ALFWorld-v1", "agentbench/WebShop-v1"]
)
def test_wrong_types_through_gymnasium_are_type_errors(gym_id):
    import gymnasium

    import agentbench.envs.alfworld
    import agentbench.envs.corridor
    import agentbench.envs.webshop  # noqa: F401

    env = gymnasium.make(gym_id, disable_env_checker=True).unwrapped
    for options in ({"tusk": 1}, [], {"task": 5}, "task"):
        with pytest.raises(TypeError, match="task"):
            env.reset(options=options)
    env.reset(seed=1)
    for action in (None, 7, b"look", ["look"]):
        with pytest.raises(TypeError, match="text"):
            env.step(action)


DRY = {
    "eval.panel": ("eval.panel=corridor/tst@1", "no panel"),
    "prompt": ("env.prompt=nowhere.yaml", "no prompt"),
    "engine": ("rollout.engine=hg", "no engine 'hg'"),
    "engine option": ("rollout.engine_options={slts: 3}", "slts"),
    "engine option type": ("rollout.engine_options={slots: many}", "slots"),
    "behaviour": ("rollout.behaviours={expertx: 1.0}", "expertx"),
    "share NaN": ("rollout.behaviours={expert: .nan}", "behaviours"),
    "share negative": ("rollout.behaviours={expert: -1.0}", "expert"),
    "model folder": ("model_name_or_path=./nowhere", "nowhere"),
    "metric": ("metric_for_best_model=sucess", "sucess"),
    "tracker": ("report_to=[tensorbord]", "tensorbord"),
    "output": ("output_dir=''", "output_dir"),
    "temperature": ("rollout.temperature=1e308", "temperature"),
    "eval temperature": ("eval.temperature=.inf", "temperature"),
    "true is no number": ("max_steps=true", "max_steps"),
    "digits in quotes": ("max_steps='5'", "max_steps"),
    "minutes": ("max_steps=1:30", "max_steps"),
    "seed": (f"seed={10**30}", "seed"),
    "learning rate": ("learning_rate=.inf", "learning_rate"),
    "group of one": ("rollout.group_size=1", "group_size"),
    "env option": ("env.options={x: 1}", "no option 'x'"),
    "list entry": ("teachers.1.dtype=x", "teachers"),
    "unclosed": ("max_steps=[", "YAML"),
}


@pytest.fixture(scope="module")
def config(model, tmp_path_factory):
    import yaml

    path = tmp_path_factory.mktemp("config") / "run.yaml"
    values = {
        "algorithm": "grpo",
        "output_dir": "run",
        "model_name_or_path": model,
        "env": {"name": "corridor", "split": "train"},
        "eval": {"panel": "corridor/test@1"},
        "rollout": {"tasks_per_step": 2, "group_size": 2},
    }
    path.write_text(yaml.safe_dump(values))
    return str(path)


@pytest.mark.parametrize(("override", "message"), DRY.values(), ids=DRY)
def test_a_dry_run_refuses_what_the_start_would(capsys, config, override, message):
    pytest.importorskip("torch")
    assert message in refused(capsys, "train", config, override, "--dry-run")


def test_a_dry_run_that_is_fine_ends_with_ok(capsys, config):
    pytest.importorskip("torch")
    assert run(("train", config, "--dry-run")) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("ok: grpo on ")
    assert not Path("run").exists()


PLUGINS = {
    "sys.exit": ("raise SystemExit(3)", 2, "SystemExit: 3 (own.py, line 1)"),
    "an import of its own": ("import nothing_there", 2, "No module named 'nothing_there' (own.py, line 1)"),
    "a panic": (
        "class Panic(BaseException): pass\nraise Panic('\x1b[31m')",
        2,
        r"Panic: \x1b[31m (own.py, line 2)",
    ),
    "an error below": ("import json\njson.loads('{')", 2, "JSONDecodeError"),
    "no syntax": ("def f(:", 2, "is no Python that can be read"),
    "a NUL": ("SPEC = 1\0", 2, "is no Python that can be read"),
    "no spec": ("SPEC = 5", 1, "must be a EnvSpec, got int"),
}


@pytest.mark.parametrize(("source", "code", "message"), PLUGINS.values(), ids=PLUGINS)
@pytest.mark.parametrize("by", ["file", "module"])
def test_a_plug_in_that_cannot_be_imported_is_one_line(capsys, monkeypatch, by, source, code, message):
    Path("own.py").write_text(source)
    monkeypatch.syspath_prepend(Path.cwd())
    monkeypatch.delitem(sys.modules, "own", raising=False)
    assert run(("env", "check", "own.py:SPEC" if by == "file" else "own:SPEC")) == code
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_an_env_that_shows_control_characters_is_played_in_plain_text(capsys, monkeypatch):
    Path("evil.py").write_text(
        "from dataclasses import replace\nfrom agentbench.envs.corridor import SPEC as KNOWN, CorridorEnv\n"
        "EVIL = '\\x1b[2J\\x07\\u202e\\u2066'\n"
        "class EvilEnv(CorridorEnv):\n"
        "    def _info(self, task):\n"
        "        known = CorridorEnv._info(self, task)\n"
        "        return {**known, 'admissible': [*known['admissible'], 'say ' + EVIL], 'task_type': EVIL}\n"
        "    def reset(self, **given):\n"
        "        observation, info = CorridorEnv.reset(self, **given)\n"
        "        return 'one\\n\\ttwo ' + observation + EVIL, info\n"
        "SPEC = replace(KNOWN, make=EvilEnv)\n"
    )
    evaluated = ("eval", "--env", "evil.py:SPEC", "--split", "test", "--limit", "2", "--policy", "random")
    for words in (
        ("play", "evil.py:SPEC"),
        ("play", "evil.py:SPEC", "--prompt"),
        (*evaluated, "--output", "run"),
        ("report", "run"),
        ("card", "run"),
        ("compare", "run", "run"),
        ("env", "check", "evil.py:SPEC"),
    ):
        said = iter(["?", ""])
        monkeypatch.setattr("builtins.input", lambda prompt="", said=said: next(said))
        run(words)
        shown = capsys.readouterr()
        assert not set("\x1b\x07\u202e\u2066") & set(shown.out + shown.err), words
        if words[0] == "play":
            assert "one\n\ttwo Room" in shown.out
            assert "say \\x1b[2J\\x07\\u202e\\u2066" in shown.out


ODD_VALUES = (None, True, -1, 10**30, "", [], {}, [[]], [None], {"a": 1}, ["x"] * 3, {"x": {"y": {}}})


@pytest.mark.parametrize("key", ["id", "description", "panels", "panel", "limit", "env_options"])
def test_a_suite_with_an_odd_value_is_one_line(capsys, key):
    for value in ODD_VALUES:
        one = {"panel": "corridor/test@1", "limit": 1, "env_options": {}}
        suite = {"id": "mine@1", "description": "mine", "panels": [one]}
        (one if key in one else suite)[key] = value
        Path("mine.yaml").write_text(yaml.safe_dump(suite))
        code = run(("suite", "mine.yaml", "--policy", "null", "--output", "runs"))
        error = capsys.readouterr().err
        fits = (key, value) in (("description", ""), ("limit", None), ("env_options", {}))
        assert code == (0 if fits else 2), (value, error)
        assert error.count("\n") == (0 if fits else 1), (value, error)
        shutil.rmtree("runs", ignore_errors=True)


@pytest.mark.parametrize("option", ["foo=1", "replies=[go left]", "max_context=many", "cycle=3"])
@pytest.mark.parametrize("engine", ["scripted", "openai", "hf"])
def test_options_that_an_engine_does_not_have_or_cannot_use(capsys, engine, option):
    words = ("--policy", "model", "--engine", engine, "--model", "m", "--engine-option", option)
    assert f"engine {engine!r}" in refused(capsys, *EVAL, *words)
    assert not Path("run").exists()
