import pytest

from agentbench.retrieval.bm25.analyzer import analyze, words
from agentbench.retrieval.bm25.porter import porter_stem

# Word boundaries of UAX #29, read off its rules WB3 to WB13.
SPLITS = {
    "Wi-Fi & HDMI/USB 50%": ["Wi", "Fi", "HDMI", "USB", "50"],
    "can't o'clock 'quoted'": ["can't", "o'clock", "quoted"],
    "1,000.50 mp3 u.s. 3:4 a:b": ["1,000.50", "mp3", "u.s", "3", "4", "a:b"],
    "a,b 1.a 4.1x": ["a", "b", "1", "a", "4.1x"],
    "snake_case _x_ __ _ 1_2": ["snake_case", "_x_", "1_2"],
    "日本語 ひら カタカナ": ["日", "本", "語", "ひ", "ら", "カタカナ"],
    "한국어 naïve cafe\u0301": ["한국어", "naïve", "cafe\u0301"],
    "soft\u00adhyphen zero\u200bwidth": ["soft\u00adhyphen", "zero", "width"],
    "★ 5★ 👍🏽👍 👨\u200d👩\u200d👧 🇫🇷🇩🇪 ❤\ufe0f": [
        "★", "5", "★", "👍🏽", "👍", "👨\u200d👩\u200d👧", "🇫🇷", "🇩🇪", "❤\ufe0f"
    ],
    "alegria® squeeze™": ["alegria", "®", "squeeze", "™"],
    "→ ● °": [],
    "": [],
}  # fmt: skip


@pytest.mark.parametrize("text", SPLITS)
def test_words_follow_the_unicode_boundaries(text):
    assert words(text) == SPLITS[text]


def test_a_word_beyond_255_characters_is_cut_into_pieces():
    # 600 = 255 + 255 + 90
    assert [len(word) for word in words("x" * 600)] == [255, 255, 90]


# From the steps of Porter's paper, and his reference version for `bli` and `logi`.
STEMS = {
    "caresses": "caress", "ponies": "poni", "cats": "cat", "us": "us", "is": "is",
    "agreed": "agre", "plastered": "plaster", "motoring": "motor", "sing": "sing",
    "conflated": "conflat", "hopping": "hop", "falling": "fall", "filing": "file",
    "happy": "happi", "sky": "sky", "relational": "relat", "vietnamization": "vietnam",
    "triplicate": "triplic", "hopefulness": "hope", "goodness": "good", "adjustment": "adjust", "adoption": "adopt",
    "probate": "probat", "rate": "rate", "controll": "control", "roll": "roll",
    "possibly": "possibl", "biology": "biologi", "analogously": "analog", "conformably": "conform",
    "1970s": "1970", "ape": "ap", "buy": "bui",
}  # fmt: skip


@pytest.mark.parametrize("word", STEMS)
def test_stems_are_porters(word):
    assert porter_stem(word) == STEMS[word]


def test_possessives_go_before_stop_words_and_stems():
    # "it's" loses its 's and is then the stop word "it"; "women's" becomes "women"
    assert analyze("It's the Women\u2019s and the Dog's Bed") == ["women", "dog", "bed"]


def test_a_dotted_capital_i_is_lower_cased_as_java_does():
    assert analyze("\u0130stanbul") == ["istanbul"]


def test_hostile_text_takes_no_time():
    # would be quadratic or worse in a pattern that backtracks
    assert words("_" * 50_000) == []
    # one word of 40,000 characters: 156 pieces of 255 and one of 220
    assert len(words("_a" * 20_000)) == 157
    assert words("a" + "." * 50_000) == ["a"]
