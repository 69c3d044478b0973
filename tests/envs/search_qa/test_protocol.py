import json

import pytest

from agentbench.envs.search_qa.protocol import PRESETS, first_words, protocol
from agentbench.errors import UsageError
from agentbench.retrieval.contract import Passage

PASSAGES = [
    Passage("1", "Caf\u00e9 Noir", 'A "small" place.\nOpen.'),
    Passage("2", "", "No title"),
]


def test_the_observation_of_verl_agent_is_an_escaped_json_object():
    # json.dumps escapes quotes, newlines and everything that is not ASCII: the model reads the escapes
    assert PRESETS["verl-agent"].observation(PASSAGES) == (
        '\n<information>{"result": "Doc 1: \\"Caf\\u00e9 Noir\\"\\nA \\"small\\" place.\\nOpen.\\n'
        'Doc 2: \\"\\"\\nNo title\\n"}</information>\n'
    )


def test_the_observation_of_search_r1_is_plain_text_between_blank_lines():
    assert PRESETS["search-r1"].observation(PASSAGES) == (
        '\n\n<information>Doc 1(Title: "Caf\u00e9 Noir") A "small" place.\nOpen.\n'
        'Doc 2(Title: "") No title</information>\n\n'
    )


def test_nothing_found_is_an_empty_result():
    assert PRESETS["verl-agent"].observation([]) == '\n<information>{"result": ""}</information>\n'
    assert PRESETS["search-r1"].observation([]) == "\n\n<information></information>\n\n"
    said = protocol("search-r1", nothing_text="(nothing found)").observation([])
    assert said == "\n\n<information>(nothing found)</information>\n\n"


@pytest.mark.parametrize("name", PRESETS)
def test_long_passages_are_cut_by_words_and_the_closing_tag_stays(name):
    text = " ".join(f"w{number}" for number in range(1, 500))
    seen = protocol(name, passage_words=5).observation([Passage("1", "T", text)] * 3)
    assert seen.count("w5") == 3
    assert "w6" not in seen
    assert seen.rstrip().endswith("</information>")
    assert "w120" in PRESETS[name].observation([Passage("1", "T", text)])
    assert "w121" not in PRESETS[name].observation([Passage("1", "T", text)])
    assert "w499" in protocol(name, passage_words=0).observation([Passage("1", "T", text)])


def test_first_words_keeps_the_white_space_between_them():
    assert first_words("a  b\nc d", 3) == "a  b\nc"
    assert first_words("a b ", 2) == "a b "
    assert first_words("a b", 9) == "a b"
    assert first_words("", 3) == ""


def test_who_may_search_when():
    verl_agent, search_r1 = PRESETS["verl-agent"], PRESETS["search-r1"]
    assert verl_agent.replies == 4
    assert [verl_agent.may_search(reply) for reply in (1, 2, 3, 4)] == [True, True, True, False]
    assert search_r1.replies == 5
    assert [search_r1.may_search(reply) for reply in (3, 4, 5)] == [True, True, False]
    assert protocol("verl-agent", last_turn_searches=True).replies == 5
    assert protocol("search-r1", turns=2).replies == 3


def test_the_question_mark_is_added_where_the_protocol_has_it():
    assert PRESETS["search-r1"].ask(" who is it ") == "who is it?"
    assert PRESETS["search-r1"].ask("who is it?") == "who is it?"
    assert PRESETS["verl-agent"].ask("who is it") == "who is it"


def test_the_published_rows():
    # figures of the two protocols; ours are the texts and the cap of 120 words
    verl_agent, search_r1 = PRESETS["verl-agent"], PRESETS["search-r1"]
    assert (verl_agent.k, search_r1.k) == (3, 3)
    assert (verl_agent.invalid_penalty, search_r1.invalid_penalty) == (0.01, 0.0)
    assert verl_agent.invalid_text == ""
    for tag in ("<search>", "</search>", "<answer>", "</answer>"):
        assert tag in search_r1.invalid_text
    assert json.loads(verl_agent.observation(PASSAGES)[14:-15]) == {
        "result": 'Doc 1: "Caf\u00e9 Noir"\nA "small" place.\nOpen.\nDoc 2: ""\nNo title\n'
    }


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"name": "verl"}, "protocol of search-qa"),
        ({"turn": 3}, "rule of search-qa"),
        ({"turns": "4"}, "must be int, got '4'"),
        ({"turns": True}, "must be int"),
        ({"turns": 0}, "at least 1"),
        ({"k": 0}, "at least 1"),
        ({"passage_words": -1}, "at least 0"),
        ({"tag_order": "x"}, "tag_order of search-qa"),
        ({"passage_format": "x"}, "passage_format of search-qa"),
        ({"json_observation": 1}, "must be bool"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(rules, message):
    with pytest.raises(UsageError, match=message) as caught:
        protocol(**rules)
    assert "\n" not in str(caught.value)
