import pytest

from agentbench.dialogue.blocks import FLAWS, Reading, read_command, read_reply
from agentbench.dialogue.parse import get_parser
from agentbench.errors import UsageError

# reply, what verl-agent reads, what Search-R1 reads; (kind, text, flaw). "Invalid" in the notes is a flaw that costs.
CASES = {
    "1 one search": ("<search>a</search>", ("search", "a", ""), ("search", "a", "")),
    "2 answer, then search": (
        "<answer>x</answer><search>b</search>",
        ("search", "b", "both"),
        ("answer", "x", ""),
    ),
    "3 two searches": (
        "<search>a</search><search>b</search>",
        ("search", "a", "twice"),
        ("search", "a", ""),
    ),
    "4 two answers": (
        "<answer>x</answer> <answer>y</answer>",
        ("answer", "x", "twice"),
        ("answer", "x", ""),
    ),
    "5 capitals": ("<SEARCH>a</SEARCH>", ("search", "a", ""), ("", "", "no_action")),
    "6 cut by length": ("<search>a", ("", "", "unclosed"), ("", "", "unclosed")),
    "7 no opening": ("a</search>", ("", "", "no_action"), ("", "", "no_action")),
    "8 inside a thought": (
        "<think><answer>x</answer></think>",
        ("answer", "x", ""),
        ("answer", "x", ""),
    ),
    "9 empty query": ("<search></search>", ("search", "", "empty_query"), ("search", "", "empty_query")),
    "10 empty answer": ("<answer> </answer>", ("answer", "", "empty_answer"), ("answer", "", "empty_answer")),
    "11 a newline": ("<search>a\nb</search>", ("search", "a\nb", ""), ("search", "a\nb", "")),
    "12 answer inside a search": (
        "<search>x <answer>y</answer></search>",
        ("search", "x <answer>y</answer>", "both"),
        ("search", "x <answer>y</answer>", ""),
    ),
    "13 closing tag in a thought": (
        "<think>I end with </search></think> <search>q</search>",
        ("", "", "no_action"),
        ("", "", "no_action"),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_both_rules_read_the_thirteen_cases(name):
    reply, verl_agent, search_r1 = CASES[name]
    assert read_reply(reply, "verl-agent") == Reading(*verl_agent)
    assert read_reply(reply, "search-r1") == Reading(*search_r1)


def test_which_of_the_cases_are_invalid():
    def invalid(rule):
        return [int(name.split()[0]) for name, case in CASES.items() if not read_reply(case[0], rule).valid]

    assert invalid("verl-agent") == [2, 3, 4, 6, 7, 12, 13]
    assert invalid("search-r1") == [5, 6, 7, 13]


@pytest.mark.parametrize(
    ("reply", "verl_agent", "search_r1"),
    [
        # no closing search tag: cut at the closing answer tag; the open search is skipped
        ("<search>a <answer>x</answer> y", ("answer", "x", "both"), ("answer", "x", "")),
        # the first rule is counted on the whole reply, but a made-up result and what follows are not looked at
        (
            "<search>a</search><information>z</information><answer>x</answer>",
            ("search", "a", ""),
            ("search", "a", ""),
        ),
        ("<information>z</information><answer>x</answer>", ("", "", "no_action"), ("", "", "no_action")),
        ("<Answer> Ada\tLovelace </aNSWER>", ("answer", "Ada\tLovelace", ""), ("", "", "no_action")),
        ("", ("", "", "no_action"), ("", "", "no_action")),
        ("<answer>x</search>", ("", "", "unclosed"), ("", "", "unclosed")),
    ],
)
def test_further_replies(reply, verl_agent, search_r1):
    assert read_reply(reply, "verl-agent") == Reading(*verl_agent)
    assert read_reply(reply, "search-r1") == Reading(*search_r1)


def test_the_environment_reads_an_answer_inside_a_search():
    command = "<search>x <answer>y</answer></search>"
    assert read_command(command, "verl-agent") == Reading("answer", "y")
    assert read_command(command, "search-r1") == Reading("search", "x <answer>y</answer>")
    assert read_command("<search>x <answer>y</search>", "verl-agent") == Reading("search", "x <answer>y")
    assert read_command("<search>a</search>", "verl-agent") == Reading("search", "a")
    assert read_command("look", "verl-agent").kind == read_command("", "search-r1").kind == ""


def test_the_parser_hands_on_the_block_and_reports_only_what_costs():
    parser = get_parser("search")
    assert parser.name == get_parser("search:verl-agent").name == "search:verl-agent"
    assert (
        parser.parse("so <search> a </search> b").command,
        parser.parse("<search>a</search>").failure,
    ) == (
        "<search>a</search>",
        "",
    )
    assert (parser.parse("<search> </search>").command, parser.parse("<search></search>").failure) == (
        "<search></search>",
        "",
    )
    assert parser.parse("hm").command is None
    assert parser.parse("hm").failure == "no_action"
    assert get_parser("search:search-r1").parse("<SEARCH>a</SEARCH>").failure == "no_action"
    for command in ("<search>who is it</search>", "<answer>Ada</answer>"):
        assert parser.parse(parser.format(command)) == parser.parse(command)
        assert parser.parse(command).command == command


def test_every_flaw_is_explained_and_an_unknown_rule_is_refused():
    seen = {read_reply(case[0], rule).flaw for case in CASES.values() for rule in ("verl-agent", "search-r1")}
    assert seen - {""} == set(FLAWS)
    with pytest.raises(UsageError, match="Did you mean"):
        get_parser("search:searchr1")
    with pytest.raises(UsageError, match="rule of search blocks"):
        read_reply("x", "other")
