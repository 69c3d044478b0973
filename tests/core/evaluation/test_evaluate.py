import dataclasses
import json
import signal
import subprocess
import sys
import time

import pytest
from places import TOY

from agentbench.config import validate
from agentbench.errors import ConfigError, ContractError, CorruptData, MissingData, UnknownName, UsageError
from agentbench.evaluation.evaluate import EvalConfig, evaluate
from agentbench.policies.build import build_policy
from agentbench.policies.ready import ScriptedPolicy
from agentbench.registry import load
from agentbench.runs.episodes import read_episodes
from agentbench.runs.folder import run_config
from agentbench.types import derive_seed

SPEC, TASKS, write_panel = (load("envs", f"{TOY}:{name}") for name in ("SPEC", "TASKS", "write_panel"))


def config(tmp_path, output="run", **keys):
    values = {"panel": str(tmp_path / "panel-all-0.yaml"), "policy": "random", **keys}
    if output:
        values["output_dir"] = str(tmp_path / output)
    return validate(EvalConfig, values)


@pytest.fixture(autouse=True)
def _panel(tmp_path):
    write_panel(tmp_path)


def lines(tmp_path, run="run"):
    return sorted((tmp_path / run / "episodes.jsonl").read_bytes().splitlines())


def test_the_expert_wins_every_task_and_the_null_policy_none(tmp_path):
    found = evaluate(config(tmp_path, None, policy="expert"))
    # "tNN" needs 1 + NN % 3 turns: 12 tasks, four each of 1, 2 and 3 turns, mean 2
    assert (found.overall.success.value, found.overall.n, found.overall.turns) == (1.0, 12, 2.0)
    assert found.task_types.keys() == {"even", "odd"}
    assert not found.fell_short
    assert evaluate(config(tmp_path, None, policy="null")).overall.success.value == 0.0


def test_records_do_not_depend_on_concurrency(tmp_path):
    evaluate(config(tmp_path, "narrow", repeats=3, concurrency=1))
    evaluate(config(tmp_path, "wide", repeats=3, concurrency=16))
    assert lines(tmp_path, "narrow") == lines(tmp_path, "wide")
    assert len(lines(tmp_path, "wide")) == 36
    assert (tmp_path / "wide" / "report.md").exists()


def test_options_of_the_panels_file_are_pinned_though_its_name_and_tasks_stay(tmp_path):
    panel = tmp_path / "panel-all-0.yaml"
    evaluate(config(tmp_path))
    path = tmp_path / "run" / "episodes.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:5]))  # as a kill leaves it
    kept, text = path.read_bytes(), panel.read_text()
    panel.write_text(text + "env_options: {crash: [t01]}\n")
    with pytest.raises(UsageError, match=r"cannot resume .*: options\.crash was '\(not set\)' and is now"):
        evaluate(config(tmp_path), resume=True)
    assert path.read_bytes() == kept
    panel.write_text(text)
    assert evaluate(config(tmp_path), resume=True).recorded == 12


def test_what_is_left_to_the_env_is_pinned_too(tmp_path):
    evaluate(config(tmp_path))
    path = tmp_path / "run" / "versions.json"
    facts = json.loads(path.read_text())
    path.write_text(json.dumps(facts | {"terms": facts["terms"] | {"max_turns": 99}}))  # of another release
    with pytest.raises(UsageError, match=r"cannot resume .*: terms\.max_turns was 99 and is now 5"):
        evaluate(config(tmp_path), resume=True)
    path.write_text(
        json.dumps({key: value for key, value in facts.items() if key not in ("terms", "options")})
    )
    assert evaluate(config(tmp_path), resume=True).recorded == 12  # of a release that kept neither


@pytest.mark.parametrize("tasks", [["t00"], [1, 2], "abc", None, [f"x{n:02d}" for n in range(12)]])
def test_a_list_of_tasks_that_was_changed_is_refused_and_not_gone_on_with(tmp_path, tasks):
    evaluate(config(tmp_path))
    path = tmp_path / "run" / "versions.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tasks": tasks}))
    with pytest.raises(UsageError, match=r"versions\.json|tasks"):
        evaluate(config(tmp_path), resume=True)


def test_every_repeat_has_a_seed_of_its_own(tmp_path):
    evaluate(config(tmp_path, repeats=2, seed=7))
    for item in read_episodes(tmp_path / "run"):
        assert item.seed == derive_seed(7, "toy", item.task, item.repeat)


def test_resume_plays_only_what_is_missing_and_ends_alike(tmp_path):
    evaluate(config(tmp_path, "whole", repeats=2))
    evaluate(config(tmp_path, repeats=2))
    file = tmp_path / "run" / "episodes.jsonl"
    kept = file.read_bytes().splitlines(keepends=True)[:5]
    file.write_bytes(b"".join(kept) + b'{"schema":1,"id":"toy/t0')
    seen = []
    again = evaluate(config(tmp_path, repeats=2), resume=True, progress=lambda *state: seen.append(state))
    assert seen[0] == (None, 5, 24)
    assert [done for _, done, _ in seen] == list(range(5, 25))
    assert lines(tmp_path) == lines(tmp_path, "whole")
    assert again.recorded == 24


def test_resume_after_kill_9_ends_like_an_uninterrupted_run(tmp_path):
    evaluate(config(tmp_path, "whole", repeats=4))
    program = "import sys; from agentbench.cli import run\nsys.exit(run(sys.argv[1:]))"
    words = ["eval", "--panel", str(tmp_path / "panel-all-0.yaml"), "--policy", "random", "--repeats", "4"]
    words += ["--env-option", "pause=0.01", "--concurrency", "3", "--output", str(tmp_path / "run")]
    process = subprocess.Popen([sys.executable, "-c", program, *words], stdout=subprocess.DEVNULL)
    file = tmp_path / "run" / "episodes.jsonl"
    while process.poll() is None and not (file.exists() and file.read_bytes().count(b"\n") >= 5):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run ended before it could be killed"
    assert len(file.read_bytes().splitlines()) < 48
    evaluate(config(tmp_path, repeats=4, env_options={"pause": 0.01}), resume=True)
    assert lines(tmp_path) == lines(tmp_path, "whole")


def test_the_written_configuration_is_a_valid_input(tmp_path):
    evaluate(config(tmp_path))
    again = validate(EvalConfig, run_config(tmp_path / "run"))
    assert again == config(tmp_path)


def test_an_existing_folder_is_never_overwritten(tmp_path):
    evaluate(config(tmp_path))
    before = lines(tmp_path)
    with pytest.raises(UsageError, match="not empty; --resume"):
        evaluate(config(tmp_path))
    with pytest.raises(UsageError, match="seed was 0 and is now 1"):
        evaluate(config(tmp_path, seed=1), resume=True)
    assert lines(tmp_path) == before


def test_resume_with_another_policy_behind_the_same_name_is_refused(tmp_path):
    script = tmp_path / "script.txt"
    script.write_text("win\nwin\n")
    evaluate(config(tmp_path, policy=f"scripted:{script}"))
    script.write_text("wait\nwin\n")
    with pytest.raises(UsageError, match=r"policy\.sha256 was"):
        evaluate(config(tmp_path, policy=f"scripted:{script}"), resume=True)


def test_infrastructure_failures_are_counted_apart(tmp_path):
    crash = {"crash": ["t03"]}
    found = evaluate(config(tmp_path, policy="expert", env_options=crash, max_error_rate=0.1))
    # 1 of 12 broke: 8.3 % < 10 %; the others are all won
    assert found.errors == {"RuntimeError": 1}
    assert found.error_rate == pytest.approx(1 / 12)
    assert (found.overall.n, found.overall.success.value) == (11, 1.0)
    assert not found.fell_short


def test_too_many_failures_withhold_the_headline(tmp_path):
    found = evaluate(config(tmp_path, policy="expert", env_options={"crash": ["t03"]}))
    assert found.withheld
    assert found.fell_short
    assert found.overall is None
    assert "headline withheld" in (tmp_path / "run" / "report.md").read_text()


def test_errors_stay_on_record_until_asked_to_be_played_again(tmp_path):
    made = config(tmp_path, policy="expert", env_options={"crash": ["t03"]})
    evaluate(made)
    counts = []
    evaluate(made, resume=True, progress=lambda item, done, total: counts.append(done))
    assert counts == [12]
    counts.clear()
    evaluate(made, resume=True, retry_errors=True, progress=lambda item, done, total: counts.append(done))
    assert counts == [11, 12]
    assert len(read_episodes(tmp_path / "run")) == 12


def test_a_corrupt_game_stops_the_run_by_name_and_loses_nothing(tmp_path):
    corrupt = {"corrupt": ["t05"]}
    with pytest.raises(CorruptData, match=r"t05\.json is not JSON; .*--allow-missing --resume"):
        evaluate(config(tmp_path, policy="expert", env_options=corrupt, concurrency=1))
    assert [item.task for item in read_episodes(tmp_path / "run")] == TASKS[:5]
    made = config(tmp_path, policy="expert", env_options=corrupt, allow_missing=True)
    found = evaluate(made, resume=True)
    assert found.missing == ("t05",)
    assert (found.errors, found.overall.n, found.fell_short) == ({}, 11, False)
    assert (
        "1 tasks could not be played, their data is corrupt: t05"
        in (tmp_path / "run" / "report.md").read_text()
    )


def test_missing_tasks_are_refused_unless_allowed_and_then_reported(tmp_path):
    panel = write_panel(tmp_path, "few", tasks=["t00", "t09"])
    made = config(tmp_path, panel=panel, policy="expert")
    with pytest.raises(MissingData, match="1 of 2 tasks are not in the data: t09"):
        evaluate(made)
    assert not (tmp_path / "run").exists()
    found = evaluate(made.model_copy(update={"allow_missing": True}))
    assert "1 tasks of the panel are missing: t09" in found.plan.banners


def test_limit_is_said_loudly_and_changes_the_digest(tmp_path):
    found = evaluate(config(tmp_path, policy="expert", limit=2))
    assert found.planned == 2
    assert found.plan.banners == ("only the first 2 of 12 tasks (--limit)",)
    assert found.plan.digest != found.plan.sha256


def test_a_live_policy_can_take_the_place_of_the_named_one(tmp_path):
    found = evaluate(config(tmp_path, None), policy=ScriptedPolicy(["win", "win"]))
    # two "win"s solve the 8 tasks that need one or two; the others reach the limit of 5 turns
    assert found.overall.success.value == pytest.approx(8 / 12)
    assert found.ends == {"max_turns": 4, "terminated": 8}


def test_replay_plays_a_recorded_run_again(tmp_path):
    evaluate(config(tmp_path))
    evaluate(config(tmp_path, "again", policy=f"replay:{tmp_path / 'run'}"))
    first, second = (
        {item.task: [turn.env_action for turn in item.turns] for item in read_episodes(tmp_path / run)}
        for run in ("run", "again")
    )
    assert first == second


@pytest.mark.parametrize(
    ("name", "content"),
    [("s.txt", "win\nwin\n"), ("s.json", '["win", "win"]'), ("s.yaml", "t00: [win]\nt01: [win, win]")],
)
def test_scripts_come_as_lines_lists_or_by_task(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    found = evaluate(config(tmp_path, None, policy=f"scripted:{tmp_path / name}", limit=2))
    assert found.overall.success.value == 1.0


def test_a_model_policy_is_built_from_an_engine_a_prompt_and_a_parser(tmp_path):
    model = "<think></think><action>win</action>|no tags at all"
    keys = {"policy": "model", "engine": "scripted", "model_name_or_path": model, "limit": 2}
    found = evaluate(config(tmp_path, **keys))
    assert found.policy["sampling"]["temperature"] == 0.4
    assert found.overall.success.value > 0
    assert found.sampled_tokens > 0


def test_replies_end_at_the_prompts_stop_strings_or_at_those_that_were_asked_for(tmp_path):
    prompt = tmp_path / "p.yaml"
    prompt.write_text("layout: fresh\nstop: ['</action>']\nfirst: a\nlater: a\n")
    model = "<think></think><action>win</action> and then some"
    keys = {"policy": "model", "engine": "scripted", "model_name_or_path": model, "limit": 2}
    for number, (more, said, finish) in enumerate(
        [
            ({"prompt": str(prompt)}, model[: -len(" and then some")], "stop"),
            ({"prompt": str(prompt), "stop": ["win"]}, "<think></think><action>win", "stop"),
            ({"prompt": str(prompt), "stop": []}, model, "stop"),
            ({}, model, "stop"),
            ({"stop": ["<action>"]}, "<think></think><action>", "stop"),
        ]
    ):
        found = evaluate(config(tmp_path, f"run{number}", **keys, **more))
        episodes = list(read_episodes(tmp_path / f"run{number}"))
        for turn in (turn for episode in episodes for turn in episode.turns):
            assert (turn.action.text, turn.action.finish) == (said, finish)
            assert len(turn.action.token_ids) == len(turn.action.logprobs) > 0
        assert found.policy["sampling"].get("stop", []) == more.get("stop", ["</action>"] if more else [])


@pytest.mark.parametrize(
    ("keys", "error", "message"),
    [
        ({"policy": "exprt"}, UnknownName, "Did you mean 'expert'"),
        ({"policy": "replay:/nowhere"}, MissingData, "no episodes at"),
        ({"policy": "scripted:/nowhere"}, MissingData, "cannot read the script"),
        ({"policy": "replay:"}, UnknownName, "no policy 'replay:'"),
        ({"policy": "nowhere.at.all:Policy"}, UnknownName, "no module"),
        ({"policy": "random", "temperature": 0.7}, ConfigError, "temperature = 0.7 would be ignored"),
        ({"policy": "model"}, ConfigError, "needs --model"),
        ({"policy": "model", "model_name_or_path": "./nowhere"}, MissingData, "no model folder"),
        ({"policy": "model", "model_name_or_path": "x", "engine": "hg"}, UnknownName, "no engine 'hg'"),
        (
            {"policy": "model", "engine": "os:getcwd"},
            ContractError,
            "must build an engine (poll, close ...), got str",
        ),
    ],
)
def test_a_wrong_policy_is_refused_with_the_reason(tmp_path, keys, error, message):
    with pytest.raises(error) as found:
        evaluate(config(tmp_path, **keys))
    assert message in str(found.value)
    assert not (tmp_path / "run").exists()


def test_a_model_folder_without_tokenizer_is_refused(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    with pytest.raises(MissingData, match="has no tokenizer"):
        build_policy(config(tmp_path, policy="model", model_name_or_path=str(tmp_path / "model")), SPEC)


def test_an_env_without_expert_says_so(tmp_path):
    with pytest.raises(UsageError, match="has no expert"):
        build_policy(config(tmp_path, policy="expert"), dataclasses.replace(SPEC, expert=None))


def test_a_strangers_policy_is_found_by_path(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from agentbench.policies.ready import NullPolicy\nclass Mine(NullPolicy):\n    name = 'mine'\n"
    )
    assert evaluate(config(tmp_path, None, policy=f"{file}:Mine", limit=1)).policy == {"policy": "mine"}
