"""Extraction: the worked cases, for each rule. A is right, B the wrong version of the function."""

import ast

import pytest

from agentbench.envs.code.extract import MODES, extract
from agentbench.envs.code.tasks import Task
from agentbench.errors import UsageError

A = "def add(a, b):\n    return a + b"
B = "def add(a, b):\n    return a - b"
HELPER = "def helper(x):\n    return x"
MAIN = "def add(a, b):\n    return helper(a) + b"
BODY = "    return a + b"
CLASS = "class Solution:\n    def add(self, a, b):\n        return a + b"
STARTER = 'def add(a, b):\n    """Add."""\n'
DOCSTRING = 'def add(a, b):\n    """Add.\n\n    ```\n    add(1, 2)\n    ```\n    """\n    return a + b'

TASK = Task("add", "custom", "", "asserts", entry="add")
COMPLETION = Task("add", "humaneval", "", "asserts", entry="add", starter=STARTER)
METHOD = Task("add", "livecodebench", "", "calls", entry="add", solution_class=True)


def fenced(code, tag="python", fence="```"):
    return f"{fence}{tag}\n{code}\n{fence}"


def indented(text, by="   "):
    return "\n".join(by + line for line in text.split("\n"))


# number: (reply, ours, LiveCodeBench). None stands for "something else, which does not matter".
CASES = {
    "1 python": (fenced(A), A, A),
    "1 py": (fenced(A, "py"), A, A),
    "1 python3": (fenced(A, "python3"), A, A),
    "1 no tag": (fenced(A, ""), A, A),
    "1 Python": (fenced(A, "Python"), A, A),
    "1 attributes": (fenced(A, 'python title="add.py"'), A, A),
    "1 CR LF": (fenced(A).replace("\n", "\r\n"), A, A),
    "2 unclosed": (f"Sure:\n```python\n{A}\n", A + "\n", ""),
    "3 bare": (A, A, ""),
    "4 prose around bare code": (f"Here it is.\n{A}\nThat is all, folks!", A, ""),
    "5 B then A": (f"{fenced(B)}\nNo, wait.\n{fenced(A)}", A, A),
    "6 A then usage": (f"{fenced(A)}\n{fenced('print(add(1, 2))')}", A, "print(add(1, 2))"),
    "7 A then output": (f"{fenced(A)}\nIt prints\n{fenced('3', '')}", A, "3"),
    "8 bash then A": (f"{fenced('pip install x', 'bash')}\n{fenced(A)}", A, A),
    "9 B in think": (f"<think>{fenced(B)}</think>\n{fenced(A)}", A, A),
    "10 think never closed": (f"<think>{fenced(A)}", "", A),
    "11 tildes": (fenced(A, fence="~~~"), A, ""),
    "12 list item": (f"1. So:\n{indented(fenced(A))}", A, indented(A)),
    "13 four backticks": (fenced(fenced(A), "", "````"), A, ""),
    "13 markdown": (fenced(fenced(A), "markdown", "````"), A, ""),
    "14 docstring with a fence": (fenced(DOCSTRING), DOCSTRING, None),
    "15 inline code only": ("Use `return a + b` there.", "", ""),
    "16 empty": ("", "", ""),
    "17 helper, then main": (f"{fenced(HELPER)}\nand\n{fenced(MAIN)}", MAIN, MAIN),
    "19 fence and code on one line": ("```python def add(a, b): return a + b```", "", ""),
}


@pytest.mark.parametrize("name", CASES)
def test_extraction_of_the_worked_cases(name):
    reply, ours, lcb = CASES[name]
    assert extract(reply, TASK).text == ours
    if lcb is not None:
        assert extract(reply, TASK, "lcb").text.rstrip() == lcb.rstrip()


def test_a_body_is_appended_to_its_prompt():  # case 18
    assert extract(BODY, COMPLETION).text == STARTER + BODY
    assert extract(fenced(BODY), COMPLETION).text == STARTER + BODY
    assert extract(BODY, COMPLETION, "lcb").text == ""


def test_class_solution_is_taken_as_it_is():  # case 20
    assert extract(fenced(CLASS), METHOD).text == CLASS
    assert extract(f"{fenced(CLASS)}\n{fenced('x = 1')}", METHOD).text == CLASS


# What the released function of EvalPlus 0.3.1 (`sanitize`, entry point "add") gives for each reply, `\r` left out. It
# keeps the source, ours prints definitions anew, so texts that parse are compared as trees.
EVALPLUS = {
    **dict.fromkeys([name for name in CASES if name.startswith("1 ")], A),
    "2 unclosed": A,
    "3 bare": A,
    "4 prose around bare code": A,
    "5 B then A": B,
    "6 A then usage": A,
    "7 A then output": A,
    "8 bash then A": A,
    "9 B in think": B,
    "10 think never closed": A,
    "11 tildes": A,
    "12 list item": "1. So:",
    "13 four backticks": A,
    "13 markdown": A,
    "14 docstring with a fence": DOCSTRING,
    "15 inline code only": "Use `return a + b` there.",
    "16 empty": "",
    "17 helper, then main": HELPER,
    "18 body": BODY,
    "18 fenced body": "```python",
    "19 fence and code on one line": "```python def add(a, b): return a + b```",
    "20 class": CLASS,
}
REPLIES = {name: case[0] for name, case in CASES.items()}
REPLIES |= {"18 body": BODY, "18 fenced body": fenced(BODY), "20 class": fenced(CLASS)}


def tree(text):
    try:
        return ast.dump(ast.parse(text))
    except SyntaxError:
        return text


@pytest.mark.parametrize("name", REPLIES)
def test_evalplus_mode_keeps_what_its_tool_keeps(name):
    assert tree(extract(REPLIES[name], TASK, "evalplus").text) == tree(EVALPLUS[name])


def test_a_whole_function_gets_the_imports_and_helpers_of_its_prompt():
    starter = "from typing import List\n\n\ndef poly(xs):\n    return 0\n\n\ndef add(a, b):\n    pass\n"
    task = Task("x", "humaneval", "", "asserts", entry="add", starter=starter)
    program = extract(fenced(A), task)
    assert program.text == "from typing import List\ndef poly(xs):\n    return 0\n" + A
    assert program.offset == 3  # one import, two lines of the helper


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "reply",
    [
        "\x00\x07",
        "\ud800",
        "```\n\x00\n```",
        "(" * 3000,
        "```" * 500,
        "<think>" * 99,
        "- " * 5000,
        "~~~\n" * 99,
    ],
)
def test_no_text_raises(mode, reply):
    assert isinstance(extract(reply, TASK, mode).text, str)


def test_unknown_mode_is_refused_by_name():
    with pytest.raises(UsageError, match=r"agentbench@1.*Did you mean 'lcb'"):
        extract("x", TASK, "lbc")
