import random

import pytest

from agentbench.envs.webshop.shop.letterwords import letter_words
from agentbench.envs.webshop.shop.nouns import LetterWords, ModelNouns, model_installed, noun_test
from agentbench.errors import MissingDependency, UnknownName

# Worked out from spaCy's published tokenizer rules for English.
TITLES = {
    "Women's T-Shirt (2-Pack), V-Neck": ["Women", "T", "Shirt", "Pack", "V", "Neck"],
    "Wine red,40": ["Wine"],  # a comma splits only letters from letters
    "Shoes,Wine": ["Shoes", "Wine"],
    "20ml 6.6ft 500mg 8am 40pcs": ["ft", "mg", "am"],  # ml is not among the units
    "Drop Table/2 Cross/Back w/Proteins": ["Drop", "Cross", "Back", "w", "Proteins"],  # before a letter only
    "Don't cannot Im Ill its": ["Do", "can", "not", "I", "m", "Ill", "its"],
    "e.l.f. Inc. Co. C.O. U.S.A.": [],
    "cozy. Soft.Warm soft.warm": ["cozy", "Soft", "Warm"],
    "360°Rotating 40°C ★Gift★ “Best” 【New】": ["Rotating", "C", "Gift", "Best", "New"],
    "milutinović. Łódź. frič. краков. שלום.": ["milutinović", "Łódź", "frič", "краков", "שלום"],
    "33⅓-rpm ½-inch 3-way": ["way"],  # a fraction is no digit before a hyphen
    "id.), x.Rope": [
        "i",
        "Rope",
    ],  # what lies between affixes is looked up once more: d. and x. are abbreviations
    "": [],
}


@pytest.mark.parametrize("title", TITLES)
def test_words_of_letters_are_cut_as_spacy_cuts(title):
    assert letter_words(title) == TITLES[title]


def test_the_stand_in_lower_cases_and_keeps_repeats():
    assert LetterWords().nouns("Red Lamp red") == ("red", "lamp", "red")


def test_the_choice_of_the_noun_test():
    assert noun_test("letters").name == "letters"
    assert noun_test("auto").name.startswith("spacy:" if model_installed() else "letters")
    with pytest.raises(UnknownName, match="stub"):
        noun_test("stub")


@pytest.mark.skipif(model_installed(), reason="the model is installed")
def test_without_its_model_spacy_is_refused():
    with pytest.raises(MissingDependency, match="en_core_web_sm"):
        ModelNouns()


def test_odd_words_are_cut_as_by_spacy_itself():
    """Pieces of many scripts, abbreviations, units and marks, put together at random."""
    spacy = pytest.importorskip("spacy", reason="spaCy is not installed")
    tokenizer, rng = spacy.blank("en").tokenizer, random.Random(0)
    pieces = "milutinović Łódź краков id αβγ שלום 日本 ภาษา rpm Mr can't I'm d U.S don 33 ½ ² km x A ÀB"
    pieces += " . , ) ( - – 's ’s / :"
    pieces += " & + \" “ … .. ° ml oz % $ ' ★ ǅ հայ გ ё ў ї के co vs a.m e.g K # * ~ = ＡＢ"
    for _ in range(2000):
        word = "".join(rng.choices(pieces.split(), k=rng.randrange(1, 6)))
        assert letter_words(word) == [token.text for token in tokenizer(word) if token.is_alpha], word


@pytest.mark.slow
def test_official_titles_are_cut_as_by_spacy_itself(official):
    spacy = pytest.importorskip("spacy", reason="spaCy is not installed")
    tokenizer = spacy.blank("en").tokenizer
    for title in official.catalog.columns["title"]:
        assert letter_words(title) == [token.text for token in tokenizer(title) if token.is_alpha], title
