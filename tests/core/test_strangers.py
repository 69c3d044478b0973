"""What plug-ins of others raise, wherever they are called: one line, or one failed episode; `sys.exit` included."""

import pytest

from agentbench.cli import run
from agentbench.runs.episodes import read_episodes

PLUGIN = '''
import sys
from agentbench import EnvSpec, TextEnv


class Panic(BaseException):
    """As some libraries written in other languages raise it."""


class Mute(Exception):
    def __str__(self):
        raise ValueError("no words")


def spoil(where):
    if where == {where!r}:
        {how}


spoil("import")


class Env(TextEnv):
    def __init__(self):
        super().__init__()
        spoil("make")

    def reset(self, *, seed=None, options=None):
        spoil("reset")
        self.begin(tasks(""), seed=seed, options=options)
        return "say go", self.info(success=False, admissible=["go"])

    def step(self, action):
        spoil("step")
        return "gone", 1.0, True, False, self.info(success=True)

    def close(self):
        spoil("close")


class Expert:
    def __init__(self, env):
        spoil("expert")

    def act(self):
        spoil("act")
        return "go"


def tasks(split):
    if split:
        spoil("tasks")
    return ["a", "b"]


def facts(options):
    spoil("facts")
    return {{}}


def variant(spec, options):
    spoil("variant")
    return spec


SPEC = EnvSpec(
    id="stranger", gym_id="tests/Stranger-v1", make=Env, splits=("test",), tasks=tasks, prompt="", parser="plain",
    max_turns=3, expert=Expert, facts=facts, variant=variant,
)
'''
HOW = {
    "exit": ("sys.exit('bye')", "SystemExit: bye"),
    "exit without a word": ("sys.exit()", "SystemExit"),
    "exit 0": ("raise SystemExit(0)", "SystemExit: 0"),
    "panic": ("raise Panic('deep inside')", "Panic: deep inside"),
    "an ordinary exception": ("raise KeyError('x\\x1b[31m')", "KeyError: 'x"),
    "a refusal of the system": ("open('/no/such/file')", "FileNotFoundError"),
    "no more input": ("raise EOFError", "EOFError"),
    "a message that cannot be made": ("raise Mute", "Mute"),
    "end of a generator": ("raise GeneratorExit", "GeneratorExit"),
}


@pytest.fixture
def play(tmp_path, monkeypatch, capsys):
    """Play the plug-in that is spoilt in one place: exit code, what was said on stderr, the records."""
    monkeypatch.chdir(tmp_path)

    def played(where, how):
        (tmp_path / "stranger.py").write_text(PLUGIN.format(where=where, how=how))
        words = ["--env", "stranger.py:SPEC", "--split", "test", "--policy", "expert", "-o", "run"]
        code = run(["eval", *words])
        recorded = read_episodes(tmp_path / "run") if (tmp_path / "run").exists() else []
        return code, capsys.readouterr().err, recorded

    return played


@pytest.mark.parametrize("where", ["import", "make", "close", "tasks", "facts", "variant"])
@pytest.mark.parametrize(("how", "told"), HOW.values(), ids=HOW)
def test_what_a_plug_in_raises_outside_of_episodes_is_one_line(where, how, told, play):
    code, said, recorded = play(where, how)
    assert (code, len(said.splitlines()), recorded) == (2, 1, []), said
    assert told in said
    assert "stranger" in said


@pytest.mark.parametrize(
    ("where", "place"), {"reset": "env", "step": "env", "expert": "policy", "act": "policy"}.items()
)
@pytest.mark.parametrize(("how", "told"), HOW.values(), ids=HOW)
def test_what_it_raises_in_an_episode_is_that_episodes_failure(where, place, how, told, play):
    code, said, recorded = play(where, how)
    assert (code, said) == (1, "")
    assert [(item.end, item.error.where) for item in recorded] == [("error", place)] * 2
    assert told.partition(":")[0] in f"{recorded[0].error.type}: {recorded[0].error.message}"


KEY = "sk-proj-abcDEF1234567890abcdEFGH"


@pytest.mark.parametrize(
    "option",
    [
        *(
            f"{name}={KEY}"
            for name in ("max_tokens_field", "tokenizer", "retries", "api", "base_url", "api_key_env", KEY)
        ),
        f"context_words=[{KEY}]",
        f"template_options={{a: [{KEY}]}}",
        f"prices={{prompt: {KEY}, completion: 1}}",
        f"base_url=http://{KEY}.example.invalid/v1",
    ],
)
def test_a_key_in_any_option_of_an_engine_is_refused_and_not_shown(option, tmp_path, capsys):
    words = ["--panel", "corridor/test@1", "--policy", "model", "--engine", "openai", "--model", "m"]
    assert run(["eval", *words, "--engine-option", option, "-o", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert KEY[8:] not in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["--prompt", "--panel", "--engine", "--parser", "--policy"])
def test_a_key_in_the_place_of_a_name_is_not_shown(name, capsys):
    given = {"--panel": "corridor/test@1", "--policy": "model", "--engine": "openai", "--model": "m"} | {
        name: KEY
    }
    # nothing listens there: what is wrong with a name is said before anybody is asked
    words = [
        *(word for pair in given.items() for word in pair),
        "--engine-option",
        "base_url=http://127.0.0.1:9/v1",
    ]
    assert run(["eval", *words]) == 2
    said = capsys.readouterr().err
    assert (KEY[8:] in said, "127.0.0.1" in said, len(said.splitlines())) == (False, False, 1)
