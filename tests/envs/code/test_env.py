"""The env: turns, observations, rewards, forks, the verdict cache, experts, and the Python tool."""

import gymnasium
import pytest

from agentbench.envs.code import env as module
from agentbench.envs.code.env import SPEC, TOOL_SPEC, CodeDecoy, CodeEnv, CodeExpert
from agentbench.envs.code.observe import LONGEST, NO_CODE
from agentbench.errors import EnvFailure, UsageError
from agentbench.testing import check_env

# blend(x): adds 3 to a number. Its public tests come first; see `make_task`.
TASK = "made/calls/number/blend/add-3/same"
RIGHT = "```python\ndef blend(x):\n    return x + 3\n```"
WRONG = "```python\ndef blend(x):\n    return x\n```"


@pytest.fixture
def env(judge):
    made = CodeEnv()
    made.reset(options={"task": TASK})
    return made


def fenced(code):
    return f"```python\n{code}\n```"


@pytest.mark.parametrize("spec", [SPEC, TOOL_SPEC], ids=lambda spec: spec.id)
def test_the_contract_is_kept(judge, spec):
    assert "oracle" in check_env(spec).passed


def test_the_first_observation_is_the_statement_with_two_examples(env):
    text, info = env.reset(options={"task": TASK})
    assert text.startswith(
        "Write a function blend(x) that takes an integer: add 3, return it.\nExamples:\nblend("
    )
    assert text.count("blend(") == 3
    assert info["statement"] == text
    assert info["public_total"] == 2
    assert "sandbox" not in info  # it comes with the turns, so that it is on record


def test_a_right_program_ends_the_episode_and_is_paid(env):
    text, reward, done, truncated, info = env.step(RIGHT)
    assert (text, reward, done, truncated) == ("All tests passed.", 1.0, True, False)
    assert (info["success"], info["score"], info["verdict"], info["turn"]) == (True, 1.0, "passed", 1)
    assert "Python" in info["sandbox"]


def test_a_wrong_program_is_told_the_first_test_that_fails(env):
    call = env.reset(options={"task": TASK})[0].split("\n")[2]
    text, reward, done, _, info = env.step(WRONG)
    given, _, wanted = call.partition(" == ")
    assert text == f"0 of 2 public tests passed.\nInput: {given}\nExpected: {wanted}\nGot: {int(wanted) - 3}"
    assert (reward, done, info["verdict"], info["success"]) == (0.0, False, "wrong_answer", False)
    assert env.step(RIGHT)[1] == 1.0


def test_the_last_turn_is_judged_whatever_the_public_tests_say(env):
    env.step(WRONG)
    env.step("no program here, only words")
    text, reward, done, _, info = env.step(WRONG)
    assert done
    assert reward == 0.0
    assert text == "Not solved: wrong answer"
    assert info["score"] == 0.0


def test_passing_the_public_tests_alone_pays_nothing(env):
    calls = env.reset(options={"task": TASK})[0].split("\n")[2:]
    table = ", ".join(call.removeprefix("blend(").replace(") == ", ": ") for call in calls)
    _, reward, done, _, info = env.step(fenced(f"def blend(x):\n    return {{{table}}}.get(x)"))
    assert (reward, done, info["success"], info["score"]) == (0.0, True, False, 0.0)


def test_the_score_is_the_share_of_hidden_tests(env):
    # Right for positive numbers alone: the score is their share among the eight hidden inputs.
    hidden = [test.input[0] for test in env.problem.hidden]
    public = [test.input[0] for test in env.problem.public]
    code = f"def blend(x):\n    return x + 3 if x > 0 or x in {public} else None"
    info = env.step(fenced(code))[4]
    assert info["score"] == sum(value > 0 for value in hidden) / 8
    assert not info["success"]


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("def blend(x) return x", "The program does not load.\nError: SyntaxError: expected ':'\n"
         "  line 1, in <module>: def blend(x) return x"),
        ("import nothing", "The program does not load.\nError: ModuleNotFoundError: No module named 'nothing'\n"
         "  line 1, in <module>: import nothing"),
        ("def other(x):\n    return x", "Error: NameError: name 'blend' is not defined"),
        ("def blend(x):\n    y = x\n    return y[0]", "Error: TypeError: 'int' object is not subscriptable\n"
         "  line 3, in blend: return y[0]"),
        ("def blend(x):\n    print('seen', x)\n    return x", "\nPrinted: seen "),
        ("def blend(x):\n    return object()", "\nGot: <object object>"),
        ("def blend(x):\n    while True: pass", "Error: over the limit of 2 processor seconds"),
        ("def blend(x):\n    raise KeyError(object())", "Error: KeyError: <object object at 0x...>"),
        ("def blend(x):\n    open('/etc/passwd')", "Error: "),
    ],
)  # fmt: skip
def test_what_the_agent_reads_about_errors(env, code, expected):
    text = env.step(fenced(code))[0]
    assert expected in text
    assert "/etc" not in text
    assert "site-packages" not in text


def test_long_values_are_cut_in_the_middle_with_their_count(env):
    text = env.step(fenced("def blend(x):\n    print('p' * 5000)\n    return 'a' * 1000 + 'z'"))[0]
    assert "characters left out]..." in text
    assert "z'" in text
    assert len(text) <= LONGEST


def test_a_reply_without_code_is_told_so_and_counts(env):
    text, _, done, _, info = env.step("I do not know.")
    assert text.startswith("The program does not load") or text == NO_CODE
    assert env.step("```\n```")[0] == NO_CODE
    assert info["turn"] == 1
    assert not done


def test_penalties_are_options(judge):
    env = CodeEnv(format_penalty=0.1, turn_penalty=0.25)
    env.reset(options={"task": TASK})
    assert env.step("```\n```")[1] == pytest.approx(-0.1)
    assert env.step(RIGHT)[1] == pytest.approx(0.75)


def test_one_turn_is_the_benchmark(judge):
    env = CodeEnv(max_turns=1)
    env.reset(options={"task": TASK})
    _, reward, done, _, info = env.step(WRONG)
    assert (reward, done, info["success"]) == (0.0, True, False)


def test_success_is_known_where_the_rollout_stops_early(env):
    # A rollout with fewer turns than the env's cuts the episode; what it saw last must be true.
    assert env.step(WRONG)[4]["success"] is False


def test_a_fork_goes_on_from_its_state_without_running_anything(env, monkeypatch):
    env.step(WRONG)
    state = env.snapshot()
    other = CodeEnv()

    def never(*arguments, **options):
        raise AssertionError("a program was judged again")

    monkeypatch.setattr(type(env.judge), "judge", never)
    text, info = other.restore(state)
    assert text.startswith("0 of 2")
    assert info["turn"] == 1
    assert other.step(WRONG)[0] == text  # the same program: remembered


def test_infrastructure_is_an_error_and_no_score(env, monkeypatch):
    from agentbench.envs.code.verdicts import Remembered, Verdict

    monkeypatch.setattr(module, "_verdicts", Remembered())
    monkeypatch.setattr(type(env.judge), "judge", lambda *a, **k: Verdict("infrastructure", "twice: broken"))
    with pytest.raises(EnvFailure, match="twice: broken"):
        env.step(RIGHT)


def test_the_expert_repairs_what_it_got_wrong_on_purpose(judge):
    env = CodeEnv(wrong_first=True)
    env.reset(options={"task": TASK})
    expert = CodeExpert(env)
    first = env.step(expert.act())
    assert not first[2]
    assert env.step(expert.act())[1] == 1.0


def test_decoys_are_wrong_on_purpose_and_follow_their_seed(env):
    env.reset(options={"task": "made/calls/list/blend/keep_even,add-3/sum"})
    said = [CodeDecoy(env, seed).act() for seed in (1, 1, *range(2, 9))]
    assert said[0] == said[1]
    assert len(set(said)) > 2
    assert CodeExpert(env).act() not in said


def test_bad_options_are_refused_by_name():
    for options, words in (
        ({"mode": "tol"}, "mode"),
        ({"extraction": "x"}, "extraction"),
        ({"split": "x"}, "split"),
    ):
        with pytest.raises(UsageError, match=words):
            CodeEnv(**options)


def test_without_isolation_the_episode_does_not_begin(monkeypatch):
    from agentbench.envs.code import judge as judges
    from agentbench.envs.code.sandbox import NoIsolation

    def refuse(sandbox):
        raise NoIsolation("no isolation holds here")

    monkeypatch.setattr(judges, "choose", refuse)
    with pytest.raises(UsageError, match="no isolation"):
        CodeEnv(workers=7).reset(options={"task": TASK})


def test_the_registered_env_plays(judge):
    env = gymnasium.make("agentbench/Code-v1").unwrapped
    env.reset(seed=1)
    assert CodeExpert(env).act().startswith("```python\n")


# --- the tool ---


@pytest.fixture
def tool(judge):
    made = CodeEnv(mode="tool")
    made.reset(options={"task": TASK})
    return made


@pytest.mark.parametrize(
    ("reply", "shown"),
    [
        ("<python>\nprint(1 + 1)\n</python>", "2"),
        ("<python>\nx = 20\nx + 1\n</python>", "21"),
        ("<python>\nx = 1\n</python>", "(no output)"),
        (
            "<python>\nprint('a')\n1 / 0\n</python>",
            "a\nError: ZeroDivisionError: division by zero\n  line 2, in <module>: print(1 / 0)",
        ),
        ('<tool_call>\n{"name": "python", "arguments": {"code": "print(7)"}}\n</tool_call>', "7"),
        (
            '<tool_call>{"name": "code_interpreter", "arguments": "{\\"code\\": \\"print(8)\\"}"}</tool_call>',
            "8",
        ),
        ("<python>\nimport numpy\nint(numpy.arange(4).sum())\n</python>", "6"),
        ("<think><python>print(1)</python></think><python>print(2)", "2"),
    ],
)
def test_the_tool_runs_code_and_shows_its_output(tool, reply, shown):
    text, reward, done, _, info = tool.step(reply)
    assert (text, reward, done) == (shown, 0.0, False)
    assert not info["success"]


def test_calls_of_the_tool_are_programs_of_their_own_unless_asked(judge):
    for keep, shown in ((False, "Error: NameError"), (True, "5")):
        env = CodeEnv(mode="tool", keep_state=keep)
        env.reset(options={"task": TASK})
        assert env.step("<python>x = 5\nprint('unseen later')</python>")[0] == "unseen later"
        assert env.step("<python>x</python>")[0].startswith(shown)


def test_submitting_ends_a_tool_episode(tool):
    tool.step("<python>1</python>")
    assert tool.step("<submit>\ndef blend(x):\n    return x + 3\n</submit>")[1:3] == (1.0, True)


def test_a_reply_without_a_call_is_told_how(tool):
    text, _, done, _, _ = tool.step("Let me think.")
    assert text.startswith("No call was found")
    assert not done


def test_the_tool_cuts_long_output(tool):
    text = tool.step("<python>print('x' * 9000)</python>")[0]
    assert len(text) <= LONGEST
    assert "characters left out" in text


def test_the_limit_of_turns_is_the_spec_s_too():
    assert SPEC.under({}).max_turns == 3
    assert SPEC.under({"max_turns": 1}).max_turns == 1
    with pytest.raises(UsageError, match="max_turns of code is 0"):
        SPEC.under({"max_turns": 0})
