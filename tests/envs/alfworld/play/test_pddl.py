"""Reading game files: which are played, which are refused, and how the refusals read."""

import json
from importlib.resources import files

import pytest

from agentbench.envs.alfworld.play.pddl import DOMAIN_SHA256, GRAMMAR_SHA256, parse_problem, rules_hashes
from agentbench.envs.alfworld.play.session import CorruptGame, Game, UnsupportedGame
from agentbench.errors import MissingData

LOGIC = files("agentbench.envs.alfworld") / "logic"


def test_the_shipped_rules_have_the_known_hashes():
    domain, grammar = ((LOGIC / name).read_text() for name in ("domain.pddl", "grammar.twl2"))
    assert rules_hashes(domain, grammar)[:2] == (DOMAIN_SHA256, GRAMMAR_SHA256)


def test_files_are_loaded_with_their_walkthrough(content, tmp_path):
    path = tmp_path / "game.tw-pddl"
    path.write_text(json.dumps({**content, "walkthrough": ["look", "help"]}))
    game = Game.load(path)
    assert (game.walkthrough, game.task, game.name) == (
        ("look", "help"),
        "put a clean apple in cabinet.",
        str(path),
    )


def test_missing_file_is_named(tmp_path):
    with pytest.raises(MissingData, match=r"nowhere\.tw-pddl.*agentbench data fetch alfworld"):
        Game.load(tmp_path / "nowhere.tw-pddl")


@pytest.mark.parametrize(
    ("key", "old", "new", "message"),
    [
        ("grammar", "You move the", "You put the", r"unknown grammar.*engine=\"textworld\""),
        ("pddl_domain", "(holdsAny ?a)", "(holdsAll ?a)", "unknown domain"),
        ("grammar", "put a clean apple in cabinet", "put [it]", "the goal sentence"),
        ("pddl_problem", "(isCool Apple_bar_2)", "(isClean Apple_bar_2)", r"unknown start fact \(isclean"),
        ("pddl_problem", "(isClean ?o)", "(isHeavy ?o)", "unknown goal condition.*isheavy"),
        ("pddl_problem", "(isClean ?o)", "(not (isClean ?o))", "unknown goal condition"),
        ("pddl_problem", "(isClean ?o)", "(isClean Ghost)", "speaks of 'ghost'"),
        ("pddl_problem", "(atLocation agent1 loc_bar_0)", "", "0 agents"),
        ("pddl_problem", "DeskLamp_bar_1", "Größe_bar_1", "outside ASCII"),
        (
            "pddl_problem",
            "(receptacleAtLocation Cabinet_bar_1 loc_bar_1)",
            "(receptacleAtLocation Cabinet_bar_1 loc_bar_1) (receptacleAtLocation Cabinet_bar_1 loc_bar_2)",
            "two values of receptacleatlocation",
        ),
    ],
)
def test_games_with_other_rules_are_refused_by_name(content, key, old, new, message):
    assert old in content[key]
    with pytest.raises(UnsupportedGame, match=message) as caught:
        Game.from_json({**content, key: content[key].replace(old, new)}, "here.tw-pddl")
    assert str(caught.value).startswith("here.tw-pddl: ")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("pddl_problem"), "'pddl_problem' must be a string, found nothing"),
        (lambda c: c.update(grammar=3), "'grammar' must be a string, found int"),
        (lambda c: c.update(walkthrough="look"), "'walkthrough' must be a list"),
        (lambda c: c.update(pddl_problem=""), "must hold"),
        (lambda c: c.update(pddl_problem=c["pddl_problem"][:-40]), "parenthes"),
        (lambda c: c.update(pddl_problem=c["pddl_problem"].rstrip() + ")"), "after :goal do not match"),
        (
            lambda c: c.update(pddl_problem=c["pddl_problem"].replace("(openable ", "openable ", 1)),
            ":init do not",
        ),
        (
            lambda c: c.update(pddl_problem=c["pddl_problem"].replace("(openable Fridge", "(openable Apple")),
            r"\(openable apple_bar_1\): declared arguments of types \('receptacle',\)",
        ),
        (
            lambda c: c.update(
                pddl_problem=c["pddl_problem"].replace("(sliceable Apple_bar_1)", "(sliceable Pear_bar_1)")
            ),
            r"\(sliceable pear_bar_1\)",
        ),
    ],
)
def test_broken_games_are_refused_by_name(content, change, message):
    broken = dict(content)
    change(broken)
    with pytest.raises(CorruptGame, match=message) as caught:
        Game.from_json(broken, "here.tw-pddl")
    assert "here.tw-pddl" in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", '"game"'])
def test_files_that_are_no_json_object_are_refused(tmp_path, text):
    path = tmp_path / "game.tw-pddl"
    path.write_text(text)
    with pytest.raises(CorruptGame, match=r"game\.tw-pddl"):
        Game.load(path)


def test_comments_and_letter_case_do_not_matter(content):
    plain = parse_problem(content["pddl_problem"], "a")
    shouted = "\n".join(line + " ; (broken" for line in content["pddl_problem"].upper().split("\n"))
    assert parse_problem(shouted, "b") == plain
