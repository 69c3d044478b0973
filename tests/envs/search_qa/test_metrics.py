import pytest

from agentbench.envs.search_qa.metrics import Scores, cover, exact_match, f1, normal_form, score

# prediction, golds, EM, F1, cover: worked by hand from the rules, and checked on published rollouts of the field.
TABLE = [
    ("Beijing", ["beijing"], 1, 1, 1),
    ("The Beatles", ["Beatles"], 1, 1, 1),
    ("theatre", ["Theatre"], 1, 1, 1),
    ("U.S.", ["US"], 1, 1, 1),
    ("U. S.", ["US"], 0, 0, 0),
    ("Spider-Man", ["Spiderman"], 1, 1, 1),
    ("Spider-Man", ["Spider Man"], 0, 0, 0),
    ("1939\u20131945", ["1939-1945"], 0, 0, 0),
    ("1939-1945", ["19391945"], 1, 1, 1),
    ("O\u2019Neill", ["O'Neill"], 0, 0, 0),
    ("1,000", ["1000"], 1, 1, 1),
    ("3.5", ["35"], 1, 1, 1),
    ("five", ["5"], 0, 0, 0),
    ("100%", ["100"], 1, 1, 1),
    ("$5", ["5"], 1, 1, 1),
    # tokens simon, garfunkel against simon, and, garfunkel: 2 common, 2 * 2 / (2 + 3) = 0.8
    ("Simon & Garfunkel", ["Simon and Garfunkel"], 0, 0.8, 0),
    ("Beyonc\u00e9", ["Beyonce"], 0, 0, 0),
    ("New\u00a0York", ["New York"], 1, 1, 1),
    ("New\nYork", ["new york"], 1, 1, 1),
    ("Vitamin A", ["Vitamin"], 1, 1, 1),
    ("", ["Paris"], 0, 0, 0),
    ("the", ["Paris"], 0, 0, 0),
    ("The", ["A"], 1, 0, 1),
    ("anything", ["*"], 0, 0, 1),
    ("JFK", ["John F. Kennedy", "JFK"], 1, 1, 1),
    # kennedy against john, f, kennedy: 2 * 1 / (1 + 3) = 0.5
    ("Kennedy", ["John F. Kennedy", "JFK"], 0, 0.5, 0),
    # 2 common of 3 and 3: 4 / 6
    ("John Fitzgerald Kennedy", ["John F. Kennedy"], 0, 2 / 3, 0),
    ("Yes.", ["yes"], 1, 1, 1),
    ("yes, it is", ["yes"], 0, 0, 1),
    ("no", ["yes"], 0, 0, 0),
    ("northern Italy", ["no"], 0, 0, 1),
    ("Mercian", ["Mercia"], 0, 0, 1),
    # paris twice against once: 1 common, 2 / 3
    ("Paris Paris", ["Paris"], 0, 2 / 3, 1),
    # capital, is, paris against paris: 2 * 1 / (3 + 1)
    ("the capital is Paris", ["Paris", "London"], 0, 0.5, 1),
    ("December 14, 1972 UTC", ["14 December 1972 UTC", "December 1972"], 0, 1, 0),
    ("1999 (film)", ["1999"], 0, 2 / 3, 1),
    ("snake_case", ["snakecase"], 1, 1, 1),
    ("(1999)", ["1999"], 1, 1, 1),
    ("a.m.", ["AM"], 1, 1, 1),
    ("\u0130stanbul", ["istanbul"], 0, 0, 0),
    ("Stra\u00dfe", ["STRASSE"], 0, 0, 0),
]


@pytest.mark.parametrize(("prediction", "golds", "em", "token_f1", "covered"), TABLE)
def test_scores_follow_the_table(prediction, golds, em, token_f1, covered):
    assert exact_match(prediction, golds) == em
    assert f1(prediction, golds) == pytest.approx(token_f1)
    assert cover(prediction, golds) == covered


def test_punctuation_goes_before_articles_and_white_space_last():
    # "a-n" loses its hyphen first and is then the article "an"; "the" inside a word stays
    assert normal_form("  The  a-n theatre\t\u2003x ") == "theatre x"


def test_the_best_gold_counts_and_no_gold_counts_nothing():
    assert f1("red", ["blue", "red car", "red"]) == 1.0
    assert (exact_match("x", []), f1("x", []), cover("x", [])) == (0.0, 0.0, 0.0)


def test_a_bare_string_is_one_gold():
    assert (exact_match("a", "ab"), exact_match("ab", "ab"), f1("x ab", "ab"), cover("xab", "ab")) == (
        0,
        1,
        2 / 3,
        1,
    )
    assert score("b", "ab") == Scores()


def test_an_answer_that_was_not_given_scores_nothing_even_against_an_empty_gold():
    assert score(None, ["*"]) == Scores(0.0, 0.0, 0.0)
    assert score("", ["*"]) == Scores(1.0, 0.0, 1.0)  # equal empty normal forms
    assert score("no", ["noanswer"]) == Scores(0.0, 0.0, 0.0)
