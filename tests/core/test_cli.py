import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from places import TOY

from agentbench.cli import run
from agentbench.registry import load

SPEC_PATH = f"{TOY}:SPEC"
write_panel = load("envs", f"{TOY}:write_panel")


@pytest.fixture
def panel(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AGENTBENCH_DATA", str(tmp_path / "cache"))
    return write_panel(tmp_path)


def refused(capsys, *words):
    """Run a command that must fail as the caller's mistake; return its one line."""
    assert run(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("agentbench: ")
    return captured.err


def evaluation(panel, *words, policy="expert", output="run"):
    return ("eval", "--panel", panel, "--policy", policy, "--output", output, *words)


def test_eval_plays_reports_and_exits_with_0(panel, capsys):
    assert run(evaluation(panel)) == 0
    captured = capsys.readouterr()
    assert "| all | 12 | 100.0 % |" in captured.out
    assert captured.err == ""  # no progress bar where there is no terminal
    assert Path("run/report.md").read_text() == captured.out
    assert sorted(path.name for path in Path("run").iterdir()) == [
        "config.yaml",
        "episodes.jsonl",
        "report.md",
        "summary.json",
        "timings.jsonl",
        "versions.json",
    ]


def test_eval_prints_json(panel, capsys):
    assert run(evaluation(panel, "--json", "--limit", "3", "--repeats", "2")) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["planned"], found["overall"]["success"]["value"]) == (6, 1.0)


def test_eval_takes_options_and_a_configuration_file(panel, capsys):
    assert run(evaluation(panel, "--env-option", "pause=0.0", "--seed", "5")) == 0
    assert run(("eval", "run/config.yaml", "--output", "again")) == 0
    assert "seed: 5" in Path("again/config.yaml").read_text()
    first, second = (
        sorted(Path(name, "episodes.jsonl").read_bytes().splitlines()) for name in ("run", "again")
    )
    assert first == second


def test_resuming_nothing_is_said(panel, capsys):
    assert run(evaluation(panel, "--resume")) == 0
    assert "note: nothing to resume in run: starting from the beginning" in capsys.readouterr().err
    assert run(evaluation(panel, "--resume")) == 0
    assert "nothing to resume" not in capsys.readouterr().err


@pytest.mark.parametrize("target", ["away/episodes.jsonl", "episodes.jsonl"])
def test_records_behind_a_link_that_leads_nowhere_are_not_begun_anew(panel, capsys, target):
    assert run(evaluation(panel)) == 0
    Path("run/episodes.jsonl").rename("kept.jsonl")
    Path("run/episodes.jsonl").symlink_to(target)
    capsys.readouterr()
    assert run(evaluation(panel, "--resume")) == 2
    said = capsys.readouterr().err
    assert "run/episodes.jsonl" in said
    assert "nothing to resume" not in said
    assert said.count("\n") == 1


def test_too_many_errors_exit_with_1(panel, capsys):
    assert run(evaluation(panel, "--env-option", "crash=[t01]")) == 1
    assert "headline withheld" in capsys.readouterr().out
    assert run(("report", "run")) == 1
    assert run(("report", "run", "--max-error-rate", "0.5")) == 0
    assert "| all | 11 | 100.0 % |" in capsys.readouterr().out
    assert run(("report", "run", "--check")) == 0


def test_resume_and_retry_go_on(panel, capsys):
    words = evaluation(panel, "--env-option", "crash=[t01]")
    assert run(words) == 1
    assert run((*words, "--resume")) == 1
    assert len(Path("run/episodes.jsonl").read_bytes().splitlines()) == 12
    assert run((*words, "--resume", "--retry-errors")) == 1
    assert len(Path("run/episodes.jsonl").read_bytes().splitlines()) == 13


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--policy", "exprt"), "no policy 'exprt'"),
        (("--panel", "toy/nowhere@1"), "no panel 'toy/nowhere@1'; known:"),
        (("--panel", "nowhere.yaml"), "no panel file nowhere.yaml"),
        (("--limit", "0"), "limit = 0 is not allowed: input should be greater than or equal to 1"),
        (("--limit", "many"), "Invalid value for '--limit'"),
        (("--concurrency", "0"), "concurrency = 0 is not allowed"),
        (("--policy", "model"), "needs --model"),
        (("--policy", "model", "--model", "."), "model folder . has no tokenizer"),
        (("--policy", "model", "--model", "x", "--engine", "hg"), "no engine 'hg'"),
        (("--temperature", "0.5"), "temperature = 0.5 would be ignored"),
        (("--env-option", "pause"), "--env-option 'pause' is not of the form key=value"),
        (("--retry-errors",), "needs --resume"),
        (("--no-such-option",), "No such option"),
        (("nowhere.yaml",), "cannot read the configuration nowhere.yaml"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(panel, capsys, words, message):
    line = refused(capsys, *evaluation(panel, *words))
    assert message in line
    assert not Path("run").exists()


def test_missing_options_are_named(panel, capsys):
    assert "--panel is missing" in refused(capsys, "eval", "--policy", "expert", "--output", "run")
    assert "--policy is missing" in refused(capsys, "eval", "--panel", panel, "--output", "run")
    words = ("eval", "--panel", panel, "--policy", "expert", "--resume")
    assert "needs --output" in refused(capsys, *words)


def test_without_a_folder_the_numbers_are_shown_and_nothing_is_kept(panel, capsys):
    assert run(("eval", "--panel", panel, "--policy", "expert")) == 0
    assert "| all |" in capsys.readouterr().out
    assert not [path for path in Path().iterdir() if path.is_dir() and (path / "episodes.jsonl").exists()]


def test_an_unknown_key_in_the_configuration_gets_a_suggestion(panel, capsys):
    Path("bad.yaml").write_text("temprature: 1.0\n")
    line = refused(capsys, *evaluation(panel, "bad.yaml"))
    assert "unknown key 'temprature'" in line
    assert "Did you mean 'temperature'" in line


def test_an_unknown_env_of_a_panel_is_named(tmp_path, panel, capsys):
    line = refused(capsys, *evaluation(write_panel(tmp_path, env="corridr")))
    assert "no env 'corridr'" in line
    assert "Did you mean 'corridor'" in line


def test_missing_data_says_how_to_get_it(tmp_path, panel, capsys):
    assert "agentbench data fetch toy" in refused(capsys, *evaluation(write_panel(tmp_path, "absent")))


def test_a_corrupt_game_is_named_and_can_be_left_out(panel, capsys):
    words = evaluation(panel, "--env-option", "corrupt=[t05]", "--concurrency", "1")
    assert "t05.json is not JSON" in refused(capsys, *words)
    assert len(Path("run/episodes.jsonl").read_bytes().splitlines()) == 5
    assert run((*words, "--allow-missing", "--resume")) == 0
    assert "1 tasks could not be played" in capsys.readouterr().out


def test_an_existing_output_is_kept(panel, capsys):
    assert run(evaluation(panel)) == 0
    before = Path("run/episodes.jsonl").read_bytes()
    capsys.readouterr()
    assert "is not empty; --resume" in refused(capsys, *evaluation(panel))
    assert "seed was 0 and is now 3" in refused(capsys, *evaluation(panel, "--resume", "--seed", "3"))
    assert Path("run/episodes.jsonl").read_bytes() == before


def test_compare_prints_both_runs(panel, capsys):
    run(evaluation(panel))
    run(evaluation(panel, policy="null", output="null"))
    capsys.readouterr()
    assert run(("compare", "null", "run")) == 0
    out = capsys.readouterr().out
    assert "12 pairs of toy/test@1" in out
    assert "+100.0" in out
    assert run(("compare", "null", "run", "--json")) == 0
    assert json.loads(capsys.readouterr().out)["success"]["p"] == pytest.approx(2 / 2**12)
    assert "nowhere is no run folder" in refused(capsys, "compare", "nowhere", "run")


def test_report_check_fails_on_a_stale_page(panel, capsys):
    run(evaluation(panel))
    Path("run/report.md").write_text("edited")
    assert run(("report", "run", "--check")) == 1
    assert "stale: report.md" in capsys.readouterr().out
    assert run(("report", "run")) == 0
    assert run(("report", "run", "--check")) == 0
    capsys.readouterr()
    assert "no run folder nowhere" in refused(capsys, "report", "nowhere")


def test_list_names_plug_ins(capsys):
    assert run(("list", "envs")) == 0
    assert "corridor" in capsys.readouterr().out.splitlines()
    assert run(("list", "--json")) == 0
    kinds = {"bridges", "datasets", "engines", "envs", "panels", "prompts", "suites", "trainers"}
    assert set(json.loads(capsys.readouterr().out)) == kinds
    assert "Did you mean 'panels'" in refused(capsys, "list", "panel")


def test_env_check_passes_for_the_corridor(capsys):
    assert run(("env", "check", "corridor", "--json")) == 0
    assert "deterministic" in json.loads(capsys.readouterr().out)["passed"]
    assert "no env 'corridr'" in refused(capsys, "env", "check", "corridr")


def test_play_shows_what_the_agent_sees(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("?\nwin\nwin\n"))
    assert run(("play", SPEC_PATH, "--task", "t01")) == 0
    out = capsys.readouterr().out
    assert out.startswith("2 to go\n> win\nwait\nlose\n> 1 to go\n")
    assert out.endswith("success True, score 1, 2 turns\n")


def test_play_shows_the_prompt_and_ends_with_its_input(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert run(("play", SPEC_PATH, "--prompt")) == 1
    assert "<|im_start|>user" in capsys.readouterr().out
    assert "no split of toy 'tst'" in refused(capsys, "play", SPEC_PATH, "--split", "tst")


def test_doctor_prints_json(monkeypatch, capsys):
    monkeypatch.setattr("agentbench.doctor.known_problems", lambda packages, environment: [])
    assert run(("doctor", "--json")) == 0
    assert json.loads(capsys.readouterr().out)["packages"]["numpy"]
    assert run(("doctor",)) == 0
    assert "numpy" in capsys.readouterr().out


DATASET = """
from agentbench.datasets import Dataset, ImportReport

def import_dir(src, dest, progress):
    names = [path.name for path in src.glob("*.game")]
    for name in names:
        (dest / name).write_bytes((src / name).read_bytes())
    return ImportReport({"games": len(names)}, notes=["1 of 2 official games"])

def verify(folder, progress):
    bad = [path.name for path in folder.glob("*.game") if path.read_text() == "broken"]
    return ImportReport({"games": 1}, problems=bad)

DATASET = Dataset("toy", "1", import_dir, verify)
"""


def test_data_commands(panel, capsys):
    Path("mine.py").write_text(DATASET)
    Path("games").mkdir()
    Path("games/a.game").write_text("fine")
    name = "mine.py:DATASET"
    assert "agentbench data import toy DIR" in refused(capsys, "data", "fetch", name)
    assert "run: agentbench data fetch toy" in refused(capsys, "data", "verify", name)
    assert run(("data", "import", name, "games")) == 0
    assert "note: 1 of 2 official games" in capsys.readouterr().out
    assert "--replace" in refused(capsys, "data", "import", name, "games")
    assert run(("data", "verify", name)) == 0
    Path("cache/toy/a.game").write_text("broken")
    assert run(("data", "verify", name)) == 1
    assert "problem: a.game" in capsys.readouterr().err
    assert run(("data", "list", "--json")) == 0
    assert json.loads(capsys.readouterr().out)["root"] == str(Path("cache").absolute())
    assert "no dataset 'toyy'" in refused(capsys, "data", "verify", "toyy")


def test_commands_and_groups_are_needed(capsys):
    assert "No such command 'evl'" in refused(capsys, "evl")
    assert "Missing command" in refused(capsys, "data")


def test_a_broken_plug_in_is_one_line_and_an_unexpected_error_its_traceback(panel, capsys, monkeypatch):
    Path("bad.py").write_text("SPEC = 3\n")
    assert run(("env", "check", "bad.py:SPEC")) == 1
    assert "ContractError: env plug-in 'bad.py:SPEC' must be a EnvSpec" in capsys.readouterr().err
    Path("worse.py").write_text("1 / 0\n")
    assert run(("env", "check", "worse.py:SPEC")) == 2
    assert "ZeroDivisionError: division by zero (worse.py, line 1)" in capsys.readouterr().err
    monkeypatch.setattr("agentbench.evaluation.evaluate.run_episodes", lambda *given, **keys: 1 / 0)
    assert run(evaluation(panel)) == 1
    assert "Traceback" in capsys.readouterr().err


def test_an_interrupt_exits_with_130(panel, capsys, monkeypatch):
    def stop(*args, **keys):
        raise KeyboardInterrupt

    monkeypatch.setattr("agentbench.evaluation.evaluate.run_episodes", stop)
    assert run(evaluation(panel)) == 130
    assert "interrupted" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--help"], ["list", "envs"], ["eval", "--help"], ["--version"]])
def test_help_and_list_load_nothing_heavy(words):
    program = (
        "import sys; from agentbench.cli import run; code = run(sys.argv[1:]);"
        "print([name for name in ('torch', 'scipy', 'transformers', 'textworld') if name in sys.modules], code)"
    )
    found = subprocess.run(
        [sys.executable, "-c", program, *words],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ},
    )
    assert found.stdout.splitlines()[-1] == "[] 0"


def test_the_console_script_exits_with_the_code(tmp_path):
    words = [sys.executable, "-c", "from agentbench.cli import main; main()", "eval", "--limit", "x"]
    found = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (2, "")


def test_stop_strings_are_given_one_by_one(panel, tmp_path):
    words = ["eval", "--panel", str(panel), "--policy", "model", "--engine", "scripted", "--limit", "1"]
    words += ["--model", "<think></think><action>win</action> on", "--stop", "</action>", "--stop", "never"]
    assert run([*words, "--output", str(tmp_path / "run")]) == 0
    import yaml

    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["stop"] == ["</action>", "never"]
    turn = json.loads((tmp_path / "run" / "episodes.jsonl").read_text().splitlines()[0])["turns"][0]
    assert turn["action"]["text"] == "<think></think><action>win</action>"


SLOW_ENV = """
import time
from dataclasses import replace
from agentbench.envs.corridor import SPEC as KNOWN, CorridorEnv
class SlowEnv(CorridorEnv):
    def step(self, action):
        open({begun!r}, "w").close()
        time.sleep(600)
SPEC = replace(KNOWN, make=SlowEnv)
"""


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [
        (signal.SIGTERM, 143, "agentbench: ended by SIGTERM; what is on record is kept, --resume goes on\n"),
        (signal.SIGHUP, 129, "agentbench: ended by SIGHUP; what is on record is kept, --resume goes on\n"),
        (signal.SIGQUIT, 131, "agentbench: ended by SIGQUIT; what is on record is kept, --resume goes on\n"),
        (signal.SIGINT, 130, "agentbench: interrupted; what is on record is kept, --resume goes on\n"),
    ],
)
def test_a_signal_ends_an_evaluation_with_one_line(tmp_path, number, code, said):
    begun = tmp_path / "begun"
    (tmp_path / "slow.py").write_text(SLOW_ENV.format(begun=str(begun)))
    words = [
        "eval",
        "--env",
        f"{tmp_path}/slow.py:SPEC",
        "--split",
        "test",
        "--limit",
        "2",
        "--policy",
        "null",
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "agentbench", *words, "--output", str(tmp_path / "run")],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # shells start what runs in the background with SIGINT ignored, nohup with SIGHUP; children inherit that
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    )
    try:
        while not begun.exists():
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.02)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert (process.returncode, err) == (code, said)


def test_a_reader_that_leaves_early_is_no_fault():
    line = f"{sys.executable} -m agentbench view --help | true"
    ended = subprocess.run(line, shell=True, stderr=subprocess.PIPE, text=True)
    assert ended.stderr == ""
