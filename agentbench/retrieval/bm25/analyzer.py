"""English text to index terms as Lucene 8's English analysis has it: UAX #29 words, possessives, stop words, stems.

Leaves out scoring (`index`). Hebrew quotation rules and keycap emoji are not modelled; both need characters that
neither shop nor questions contain.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from functools import lru_cache

from .porter import porter_stem

VERSION = f"lucene-english-1/unicode-{unicodedata.unidata_version}"
"""Names what the terms of a text depend on; indexes are kept under it."""

MAX_WORD = 255
"""Longer words are cut into pieces of this many characters."""

_STOP_WORDS = """
a an and are as at be but by for if in into is it no not of on or such that the their then there these they this to was
will with
"""
STOP_WORDS = frozenset(_STOP_WORDS.split())

# Classes that the word pattern is written in; every other character splits words.
# L letter, N digit, _ joiner, K Katakana, I one word per character (Han, Hiragana), S run of a script without spaces,
# E pictograph, R flag half, x belongs to the character before it, z zero-width joiner,
# ":" joins letters, "," joins digits, "." joins both.
_MIDDLE = dict.fromkeys(":\u00b7\u0387\u05f4\u2027\ufe13\ufe55\uff1a", ":")
_MIDDLE |= dict.fromkeys(
    ",;\u037e\u0589\u060c\u060d\u066c\u07f8\u2044\ufe10\ufe14\ufe50\ufe54\uff0c\uff1b", ","
)
_MIDDLE |= dict.fromkeys(".'\u2018\u2019\u2024\ufe52\uff07\uff0e", ".")


def _ranges(table: str) -> tuple[list[int], list[int]]:
    pairs = [item.split("-") for item in table.split()]
    return [int(pair[0], 16) for pair in pairs], [int(pair[-1], 16) for pair in pairs]


_KATAKANA = _ranges("3031-3035 309B-309C 30A0-30FA 30FC-30FF 31F0-31FF 32D0-32FE 3300-3357 FF66-FF9D 1B000")
_SINGLE = _ranges(
    "2E80-2E99 2E9B-2EF3 2F00-2FD5 3005 3007 3021-3029 3038-303B 3041-3096 309D-309F 3400-4DBF 4E00-9FFF F900-FAD9 "
    "1B001-1B11F 1F200 20000-323AF"
)
_SPACELESS = _ranges(
    "E01-E30 E32-E33 E40-E46 E81-EB0 EB2-EB3 EBD-EC6 EDC-EDF 1000-102A 103F 1050-1055 1780-17B3 17D7 17DC "
    "1950-19AB 19B0-19C9 1A20-1A54 AA60-AAB1"
)
_LETTERLIKE = _ranges("5F3 24B6-24E9 1F130-1F149 1F150-1F169")
# Extended_Pictographic of Unicode 9 to 12, which Lucene 8 was generated from; newer tables are smaller.
_PICTOGRAPH = _ranges(
    "A9 AE 203C 2049 2122 2194-2199 21A9-21AA 231A-231B 2328 2388 23CF 23E9-23F3 23F8-23FA 25AA-25AB 25B6 25C0 "
    "25FB-25FE 2600-2605 2607-2612 2614-2685 2690-2705 2708-2712 2714 2716 271D 2721 2728 2733-2734 2744 2747 "
    "274C 274E 2753-2755 2757 2763-2767 2795-2797 27A1 27B0 27BF 2934-2935 2B05-2B07 2B1B-2B1C 2B50 2B55 "
    "3030 303D 3297 3299 "
    "1F000-1F0FF 1F10D-1F10F 1F12F 1F16C-1F171 1F17E-1F17F 1F18E 1F191-1F19A 1F1AD-1F1E5 1F201-1F20F 1F21A 1F22F "
    "1F232-1F23A 1F23C-1F23F 1F249-1F3FA 1F400-1F53D 1F546-1F64F 1F680-1F6FF 1F774-1F77F 1F7D5-1F7FF 1F80C-1F80F "
    "1F848-1F84F 1F85A-1F85F 1F888-1F88F 1F8AE-1F8FF 1F90C-1F93A 1F93C-1F945 1F947-1FFFD"
)


def _within(code: int, table: tuple[list[int], list[int]]) -> bool:
    place = bisect_right(table[0], code) - 1
    return place >= 0 and code <= table[1][place]


def _class_of(character: str) -> str:
    code, category = ord(character), unicodedata.category(character)
    if character in _MIDDLE:
        return _MIDDLE[character]
    if category[0] == "M" or code in (0x200C, 0xFF9E, 0xFF9F) or 0x1F3FB <= code <= 0x1F3FF:
        return "x"
    if code == 0x200D:
        return "z"
    for name, table in (("K", _KATAKANA), ("I", _SINGLE), ("S", _SPACELESS), ("L", _LETTERLIKE)):
        if _within(code, table):
            return name
    if category == "Cf":
        return " " if code == 0x200B else "x"
    if category[0] == "L" or category == "Nl":
        return "L"
    if category == "Nd":
        return "N"
    if category == "Pc":
        return "_"
    if 0x1F1E6 <= code <= 0x1F1FF:
        return "R"
    return "E" if _within(code, _PICTOGRAPH) else " "


class _Classes(dict[int, str]):
    """Character classes for `str.translate`, worked out when a character is first met."""

    def __missing__(self, code: int) -> str:
        self[code] = _class_of(chr(code))
        return self[code]


_CLASSES = _Classes()
_LETTERS = r"L[Lxz]*+(?:(?:_[_xz]*+|[:.][xz]*+)L[Lxz]*+)*"
_DIGITS = r"N[Nxz]*+(?:(?:_[_xz]*+|[,.][xz]*+)N[Nxz]*+)*"
_KANA = r"K[Kxz]*+(?:_[_xz]*+K[Kxz]*+)*"
_CORE = rf"(?:{_KANA}|(?:{_LETTERS}|{_DIGITS})+)"
_WORD = re.compile(
    rf"(?:_[_xz]*+)?+{_CORE}(?:_[_xz]*+{_CORE})*(?:_[_xz]*+)?+"
    r"|I[xz]*+|S[Sxz]*+|E[xz]*+(?:(?<=z)E[xz]*+)*|R[xz]*+R[xz]*+"
    r"|(?P<joiners>_[_xz]*+)"
)


def words(text: str) -> list[str]:
    """Split text at the word boundaries of UAX #29, keeping only what Lucene calls a word.

    Args:
        text: any text; case is left alone.
    Returns: words in order; emoji count, punctuation does not.
    """
    classes = text.translate(_CLASSES)
    found = []
    for match in _WORD.finditer(classes):
        if match.lastgroup is None:
            start, end = match.span()
            while end - start > MAX_WORD:
                found.append(text[start : start + MAX_WORD])
                start += MAX_WORD
            found.append(text[start:end])
    return found


@lru_cache(maxsize=1 << 18)
def term_of(word: str) -> str:
    """Reduce a lower-case word to its index term; empty for a stop word."""
    if len(word) >= 2 and word[-1] == "s" and word[-2] in "'\u2019\uff07":
        word = word[:-2]  # possessives go before stop words are looked up
    return "" if word in STOP_WORDS else porter_stem(word)


def analyze(text: str) -> list[str]:
    """Turn text into index terms, in order and with repeats.

    Args:
        text: any text.
    Returns: stems; stop words are left out.
    """
    lowered = text.replace("\u0130", "i").lower()  # Java lower-cases the dotted capital I to a plain i
    return [term for word in words(lowered) if (term := term_of(word))]
