import json

import pytest

from agentbench.dialogue.blocks import STOPS
from agentbench.dialogue.prompt import load_prompt
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


@pytest.mark.parametrize("name", ["react", "growing", "continuing", "transcript"])
def test_prompts_stop_where_the_parser_stops_reading(name):
    assert load_prompt(f"agentbench.prompts:search_qa/{name}").stop == STOPS


def test_the_history_of_a_fresh_prompt_is_a_line_for_each_step():
    slots = {
        "info": {"question": "who is it?", "turns": 4},
        "steps": 2,
        "observation": "\n<information>B</information>\n",
        "history": [
            ("who is it?", "<search>a</search>"),
            ("\n<information>A</information>\n", "<search>b</search>"),
        ],
    }
    prompt = load_prompt("agentbench.prompts:search_qa/react")
    text = prompt.message(slots, first=False)
    # "Step n:", the block, a space, what it found, a newline; joined by newlines
    lines = (
        "Step 1:<search>a</search> \n<information>A</information>\n\n\n"
        "Step 2:<search>b</search> \n<information>B</information>\n"
    )
    assert lines in text
    assert "2 of at most 4" in text
    first = prompt.message({**slots, "history": [], "steps": 0, "observation": "who is it?"}, first=True)
    assert "who is it?" in first
    assert "Step" not in first
    # only the last step is in the window: its number counts from the start of the episode
    short = prompt.message({**slots, "history": slots["history"][1:]}, first=False)
    assert "Step 2:<search>b</search> \n<information>B</information>" in short
    assert "Step 1" not in short
    # an invalid reply enters as nothing at all
    nothing = prompt.message(
        {**slots, "history": [("who is it?", "")], "steps": 1, "observation": ""}, first=False
    )
    assert "Step 1: \n" in nothing


def test_a_prompt_file_of_ones_own_is_taken(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(
        'layout: fresh\nfirst: "Q: {{ info.question }}"\nlater: "Q: {{ info.question }} {{ observation }}"\n'
    )
    message = load_prompt(str(path)).message(
        {"info": {"question": "who?"}, "observation": "who?"}, first=True
    )
    assert message == "Q: who?"
