import pytest

from agentbench.dialogue.parse import FAILURES, get_parser
from agentbench.errors import UnknownName


@pytest.mark.parametrize(
    ("reply", "command", "failure"),
    [
        ("<think>a</think><action>go to desk 1</action>", "go to desk 1", ""),
        ("<THINK>a</THINK>\n<Action> Go To Desk 1 </Action>", "go to desk 1", ""),
        ("<think>a</think><action>one</action><action>two</action>", "one", ""),
        ("<action>look</action>", "look", "no_think"),
        ("<think>a<action>look</action>", "look", "no_think"),
        ("</think><think><action>look</action>", "look", "no_think"),
        ("<think>去</think><action>look</action>", "look", "chinese"),
        ("<think>a</think><action>  </action>", None, "empty_action"),
        # 30 characters of fallback: "x" * 40 keeps the last 30
        ("X" * 40, "x" * 30, "no_action"),
        ("<think>a</think><action>go", "<think>a</think><action>go"[-30:], "no_action"),
        ("", None, "empty"),
    ],
)
def test_tags_parser(reply, command, failure):
    parsed = get_parser("tags:30").parse(reply)
    assert (parsed.command, parsed.failure) == (command, failure)
    assert failure == "" or failure in FAILURES


@pytest.mark.parametrize(
    ("reply", "command", "failure"),
    [("look", "look", ""), (" look \n", "look", ""), ("\n\n", None, "empty"), ("a\nb", "a", "many_lines")],
)
def test_plain_parser(reply, command, failure):
    parsed = get_parser("plain").parse(reply)
    assert (parsed.command, parsed.failure) == (command, failure)


@pytest.mark.parametrize(
    ("reply", "command", "failure"),
    [("a\nb", "a\nb", ""), (" look \n", " look \n", ""), (" \n", None, "empty")],
)
def test_whole_parser(reply, command, failure):
    parsed = get_parser("whole").parse(reply)
    assert (parsed.command, parsed.failure) == (command, failure)


@pytest.mark.parametrize("name", ["plain", "whole", "tags:20", "tags:30"])
def test_format_parses_cleanly_to_the_command(name):
    parser = get_parser(name)
    parsed = parser.parse(parser.format("go to desk 1"))
    assert (parsed.command, parsed.failure) == ("go to desk 1", "")


def test_unknown_parser_suggests_the_nearest():
    with pytest.raises(UnknownName, match="Did you mean 'tags:30'"):
        get_parser("tag:30")
