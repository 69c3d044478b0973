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


@pytest.mark.parametrize(
    "name", ["plain", "whole", "tags:20", "tags:30", "tags:30:keep", "lenient", "lenient:keep"]
)
def test_format_parses_cleanly_to_the_command(name):
    parser = get_parser(name)
    parsed = parser.parse(parser.format("go to desk 1"))
    assert (parsed.command, parsed.failure) == ("go to desk 1", "")


def test_unknown_parser_suggests_the_nearest():
    with pytest.raises(UnknownName, match="Did you mean 'tags:30'"):
        get_parser("tag:30")


T = "<think>a</think>"


@pytest.mark.parametrize(
    ("reply", "command"),
    [
        (
            "<think>I must answer inside <action> tags. </think><action>go to bed 1</action>",
            "tags. </think><action>go to bed 1",
        ),
        (T + "<action><action>go to bed 1</action></action>", "<action>go to bed 1"),
        (T + "<action>look <think>hm</think></action>", "look <think>hm</think>"),
        (T + "<action>< action >look</action>", "< action >look"),
    ],
)
@pytest.mark.parametrize("parser", ["tags:30", "tags:30:keep"])
def test_a_command_that_holds_a_tag_is_sent_as_the_field_does_and_counts(parser, reply, command):
    parsed = get_parser(parser).parse(reply)
    assert (parsed.command, parsed.failure) == (command, "tag_in_command")


def test_departures_of_tags_from_their_source():
    parser = get_parser("tags:30")
    cases = {  # reply: (here, there)
        "<THINK>a</THINK><action>look</action>": ("look", ""),  # there: invalid
        "</think><think><action>look</action>": ("look", "no_think"),  # there: valid
        T + "</action><action>look</action>": ("look", ""),  # there: "" is sent
        T + "<action> </action>": (None, "empty_action"),  # there: "" is sent, valid
        " \n ": (None, "empty"),  # there: the blanks are sent
    }
    for reply, right in cases.items():
        parsed = parser.parse(reply)
        assert (parsed.command, parsed.failure) == right, reply


BED = "go to bed 1"
LENIENT = [
    (T + "<action>go to bed 1</action>", BED, ""),
    ("<THINK>a</THINK><ACTION> Go To Bed 1\n</Action>", BED, ""),
    (T + "<action>look</action><action>go to bed 1</action>", BED, ""),
    ("<think>maybe <action>look</action></think><action>go to bed 1</action>", BED, ""),
    ("<think>one command between <action> and </action>.</think><action>go to bed 1</action>", BED, ""),
    ("<think>I must answer inside <action> tags. </think><action>go to bed 1</action>", BED, ""),
    (T + "<action><action>go to bed 1</action></action>", BED, ""),
    (T + "\n```\n<action>go to bed 1</action>\n```", BED, ""),
    (T + "<action>```go to bed 1```</action>", BED, ""),
    (T + "<action>\n```text\ngo to bed 1\n```\n</action>", BED, ""),
    (T + "<action>`go to bed 1`</action>", BED, ""),
    (T + '<action>"go to bed 1."</action>', BED, ""),
    (T + "<action>\u201cgo to bed 1\u201d.</action>", BED, ""),
    (T + "<action>go to bed 1\nlook</action>", BED, "many_lines"),
    (T + "<action>go  to\u00a0bed \u200b\uff11</action>", BED, ""),
    (T + '<action type="text">go to bed 1</action>', BED, ""),
    (T + "< action >go to bed 1</ action >", BED, ""),
    (T + "<action>go to bed 1", BED, ""),
    (T + "<action>go to bed 1<action>", BED, ""),
    (T + "go to bed 1</action>", None, "no_action"),
    (T + "&lt;action&gt;go to bed 1&lt;/action&gt;", None, "no_action"),
    ("<action>go to bed 1</action>", BED, ""),
    ("<thinking>a <action>look</action></thinking><action>go to bed 1</action>", BED, ""),
    ("I walk.\n</think>\n<action>go to bed 1</action>", BED, ""),
    ("<action>go to bed 1</action><think>a</think>", BED, ""),
    ("<think>\u6211\u53bb</think><action>go to bed 1</action>", BED, ""),
    (T + "<action></action><action>go to bed 1</action>", BED, ""),
    (T + "<action>go to bed 1</action><action> </action>", BED, ""),
    (T + "<action> </action>", None, "empty_action"),
    ("<think>I walk to the be", None, "no_action"),
    (" \n", None, "empty"),
    ("", None, "empty"),
]


@pytest.mark.parametrize(("reply", "command", "failure"), LENIENT)
def test_the_lenient_parser_reads_what_a_person_would(reply, command, failure):
    parsed = get_parser("lenient").parse(reply)
    assert (parsed.command, parsed.failure) == (command, failure)
    assert failure == "" or failure in FAILURES


def test_a_block_left_open_by_a_reply_that_was_cut_is_no_command():
    parsed = get_parser("lenient").parse(T + "<action>go to be", finish="length")
    assert (parsed.command, parsed.failure) == (None, "no_action")


def test_case_is_kept_on_request():
    reply = T + "<action>Guess 16</action>"
    found = {
        name: get_parser(name).parse(reply).command for name in ("tags:30", "tags:30:keep", "lenient:keep")
    }
    assert found == {"tags:30": "guess 16", "tags:30:keep": "Guess 16", "lenient:keep": "Guess 16"}


@pytest.mark.parametrize(
    ("reply", "command", "failure"),
    [
        ("<think>hm</think>go left", "go left", ""),
        ("hm\n</think>\n\ngo left", "go left", ""),
        ("<think>hm hm", None, "empty"),
        ("<think>hm</think>", None, "empty"),
    ],
)
def test_a_bare_command_may_follow_a_thought(reply, command, failure):
    parsed = get_parser("plain").parse(reply)
    assert (parsed.command, parsed.failure) == (command, failure)


@pytest.mark.parametrize(
    "name", ["tags", "tags:x", "tags:-1", "tags:30:30", "plain:keep", "lenient:30", ":", "keep"]
)
def test_names_that_are_no_parser(name):
    with pytest.raises(UnknownName, match="known: lenient"):
        get_parser(name)


@pytest.mark.parametrize(
    ("left", "right"), [("[THINK]", "[/THINK]"), ("<seed:think>", "</seed:think>"), ("◁think▷", "◁/think▷")]
)
@pytest.mark.parametrize("parser", ["tags:30", "tags:30:keep", "lenient", "plain", "whole"])
def test_every_familys_marks_of_a_thought_are_known(parser, left, right):
    tagged = parser.startswith(("tags", "lenient"))
    spoken = "<action>go left</action>" if tagged else "go left"
    for reply, opened in (
        (f"{left}I go left.{right}{spoken}", ""),
        (f"I go left.{right}{spoken}", "<think>"),
    ):
        parsed = get_parser(parser).parse(reply, opened)
        assert (parsed.command, parsed.failure) == ("go left", "")
