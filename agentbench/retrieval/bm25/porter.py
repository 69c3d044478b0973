"""Porter's stemmer of 1980 with the two changes of his reference version, as Lucene has it. English only.

Source: M. F. Porter, An algorithm for suffix stripping, Program 14(3), 1980.
"""

from __future__ import annotations

# Departure: `bli` and `logi` stand where the paper has `abli` and nothing, as in Porter's reference version.
_STEP2 = {
    "ational": "ate", "tional": "tion", "enci": "ence", "anci": "ance", "izer": "ize", "bli": "ble",
    "alli": "al", "entli": "ent", "eli": "e", "ousli": "ous", "ization": "ize", "ation": "ate", "ator": "ate",
    "alism": "al", "iveness": "ive", "fulness": "ful", "ousness": "ous", "aliti": "al", "iviti": "ive",
    "biliti": "ble", "logi": "log",
}  # fmt: skip
_STEP3 = {"icate": "ic", "ative": "", "alize": "al", "iciti": "ic", "ical": "ic", "ful": "", "ness": ""}
_STEP4 = dict.fromkeys(
    ("al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent", "sion", "tion", "ou",
     "ism", "ate", "iti", "ous", "ive", "ize"),
    "",
)  # fmt: skip


def porter_stem(word: str) -> str:
    """Strip English suffixes from a lower-case word; words of up to two characters stay as they are."""
    if len(word) <= 2:
        return word
    word = _plural(word)
    word = _past(word)
    if word.endswith("y") and "v" in _shape(word[:-1]):
        word = word[:-1] + "i"  # step 1c
    word = _replace(word, _STEP2, above=0)
    word = _replace(word, _STEP3, above=0)
    word = _replace(word, _STEP4, above=1)
    return _final(word)


def _shape(word: str) -> str:
    """Spell a word as `v` and `c`; `y` is a vowel after a consonant, any non-letter is a consonant."""
    shape = ""
    for letter in word:
        vowel = letter in "aeiou" or (letter == "y" and shape.endswith("c"))
        shape += "v" if vowel else "c"
    return shape


def _measure(stem: str) -> int:
    """Count the vowel-consonant sequences, the paper's m."""
    return _shape(stem).count("vc")


def _ends_cvc(word: str) -> bool:
    """Tell whether the word ends consonant, vowel, consonant other than w, x, y (the paper's *o)."""
    return _shape(word).endswith("cvc") and word[-1] not in "wxy"


def _ends_double(word: str) -> bool:
    """Tell whether the word ends in a double consonant."""
    return len(word) > 1 and word[-1] == word[-2] and _shape(word).endswith("c")


def _plural(word: str) -> str:  # step 1a
    if word.endswith(("sses", "ies")):
        return word[:-2]
    if word.endswith("s") and not word.endswith("ss"):
        return word[:-1]
    return word


def _past(word: str) -> str:  # step 1b
    if word.endswith("eed"):
        return word[:-1] if _measure(word[:-3]) > 0 else word
    for suffix in ("ed", "ing"):
        stem = word.removesuffix(suffix)
        if stem != word:
            return _mend(stem) if "v" in _shape(stem) else word
    return word


def _mend(stem: str) -> str:
    """Restore what `ed` and `ing` had eaten."""
    if stem.endswith(("at", "bl", "iz")):
        return stem + "e"
    if _ends_double(stem):
        return stem if stem[-1] in "lsz" else stem[:-1]
    return stem + "e" if _measure(stem) == 1 and _ends_cvc(stem) else stem


def _replace(word: str, endings: dict[str, str], *, above: int) -> str:
    """Replace the longest ending of the table if the stem's measure is greater than `above`."""
    for length in range(min(7, len(word)), 1, -1):
        suffix = word[-length:]
        if suffix in endings:
            # `ion` goes only after s or t, and that letter stays part of the stem
            cut = length - 1 if suffix in ("sion", "tion") and endings is _STEP4 else length
            return word[:-cut] + endings[suffix] if _measure(word[:-cut]) > above else word
    return word


def _final(word: str) -> str:  # step 5
    if word.endswith("e"):
        measure = _measure(word[:-1])
        if measure > 1 or (measure == 1 and not _ends_cvc(word[:-1])):
            word = word[:-1]
    if word.endswith("ll") and _measure(word) > 1:
        word = word[:-1]
    return word
