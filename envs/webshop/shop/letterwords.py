"""Words of letters only, cut out of a title the way spaCy's rule-based English tokenizer cuts it.

Follows spaCy 3's published rules as far as they can produce or hide a word of letters: affixes stripped one by one,
contractions and abbreviations, units after numbers, splits at inner hyphens and slashes. Other tokens are dropped, and
rules that only concern them are left out. Non-Latin units are not modelled.
"""

from __future__ import annotations

import re
import unicodedata
from itertools import product

_ICON = "\u2606\u00b0"
_LATIN = [
    (0x41, 0x250),
    (0x250, 0x2B0),
    (0x1D00, 0x1D26),
    (0x1D2C, 0x1D9B),
    (0x1E00, 0x1F00),
    (0x2C60, 0x2C80),
]
_LATIN += [(0xA720, 0xA7BA), (0xA7F7, 0xA800), (0xAB30, 0xAB65), (0xFF21, 0xFF5B)]
"""Blocks of Latin letters, first code and past the last, as far as spaCy's tables know them."""
_CASELESS = (
    "\u0980-\u09ff\u0591-\u05f4\ufb1d-\ufb4f\u0620-\u064a\u066e-\u06d5\u06e5-\u06ff\u0750-\u077f\u08a0-\u08bd\ufb50-\ufbb1"
    "\ufbd3-\ufd3d\ufd50-\ufdc7\ufdf0-\ufdfb\ufe70-\ufefc\U0001ee00-\U0001eebb\u0d80-\u0dff\u0900-\u097f\u0c80-\u0cff"
    "\u0b80-\u0bff\u0c00-\u0c7f\uac00-\ud7af\u1100-\u11ff\u1200-\u137f\u3040-\u30ff\u4e00-\u62ff\u6300-\u77ff\u7800-\u8cff\u8d00-\u9fff"
    "\u3400-\u4dbf\U00020000-\U0002a6df\U0002a700-\U0002ebef\u2e80-\u2fdf\u2ff0-\u2fff\u3000-\u303f\u31c0-\u31ef\u3200-\u33ff\uf900-\ufaff\ufe30-\ufe4f\U0001f200-\U0001f2ff\U0002f800-\U0002fa1f"
)
"""Scripts without cases, marks and digits included; the whole CJK punctuation counts as letters, \u3011 too."""


def _latin(category: str) -> str:
    letters = (chr(code) for block in _LATIN for code in range(*block) if chr(code) != "\u00b5")
    return "".join(letter for letter in letters if unicodedata.category(letter) == category)


_LOWER = _latin("Ll") + "ʔёа-яәөүҗңһіїєґѓѕјљњќѐѝα-ωάέίόώήύ" + _CASELESS
_UPPER = _latin("Lu") + "ЁА-ЯӘӨҮҖҢҺІЇЄҐЃЅЈЉЊЌЀЍΑ-ΩΆΈΊΌΏΉΎ" + _CASELESS
_LETTER = f"[{_LOWER}{_UPPER}ƻǅǈǋǲ]"
_ALNUM = f"[{_LOWER}{_UPPER}ƻǅǈǋǲ0-9]"
_QUOTES = "'\"\u201d\u201c`\u2018\u00b4\u2019\u201a,\u201e\u00bb\u00ab\u3008-\u3011\u3014\u3015\uff08\uff09\u27e6\u27e7"
_PUNCTUATION = ",:;!?\u00bf\u061f\u00a1()\\[\\]{}<>_#*&\u3002\uff1f\uff01\uff0c\u3001\uff1b\uff1a\uff5e\u00b7"
_CURRENCY = r"US\$|C\$|A\$|[$\u00a3\u20ac\u00a5\u0e3f\u20a0-\u20bf\ufdfc]"
_UNITS = (
    "km|km²|km³|m|m²|m³|dm|dm²|dm³|cm|cm²|cm³|mm|mm²|mm³|ha|µm|nm|yd|in|ft|kg|g|mg|µg|t|lb|oz|m/s|km/h|kmh|mph|hPa|"
    "Pa|mbar|mb|MB|kb|KB|gb|GB|tb|TB|T|G|M|K|%"
)
_COMMON = rf"\.\.+|[\u2026{_PUNCTUATION}{_QUOTES}{_ICON}\u2014\u2013]"
_PREFIX = re.compile(rf"{_COMMON}|[\u00a7%=]|\+(?![0-9])|{_CURRENCY}")
_SUFFIX = re.compile(
    rf"(?:{_COMMON}|['\u2019][sS]|(?<=[0-9])(?:\+|{_CURRENCY}|{_UNITS})|(?<=°[FfCcKk])\."
    rf"|(?<=[0-9{_LOWER}%²\-+{_PUNCTUATION}{_QUOTES}])\.|(?<=[{_UPPER}][{_UPPER}])\.)$"
)
_INFIX = re.compile(
    rf"\.\.+|[\u2026{_ICON}]|(?<=[0-9])[+\-*^](?=[0-9-])|(?<=[{_LOWER}{_QUOTES}])\.(?=[{_UPPER}{_QUOTES}])"
    rf"|(?<={_LETTER}),(?={_LETTER})|(?<={_ALNUM})(?:---?|\u2014\u2014|[-\u2013\u2014~])(?={_LETTER})"
    rf"|(?<={_ALNUM})[:<>=/](?={_LETTER})"
)
_URL = re.compile(
    r"(?:[\w+\-.]{2,}://)?(?:\S+@)?(?:(?:[A-Za-z0-9\u00a1-\uffff][\w\u00a1-\uffff-]{0,62})?[A-Za-z0-9\u00a1-\uffff]\.)+"
    rf"[{_LOWER}]{{2,63}}(?::\d{{2,5}})?(?:[/?#]\S*)?"
)


class _Icons(dict[int, str]):
    """Writes every pictorial symbol as the same one, so that patterns need no table of them."""

    def __missing__(self, code: int) -> str:
        self[code] = _ICON[0] if unicodedata.category(chr(code)) == "So" and chr(code) != "°" else chr(code)
        return self[code]


def _contractions() -> dict[str, tuple[str, ...]]:
    """Build the words that are cut by list: word -> its parts of letters only."""
    found: dict[str, tuple[str, ...]] = {}

    def add(stems: str, *endings: str) -> None:
        """Add every stem, lower case and capitalised, with every ending; `|` marks the cuts, `'` may be dropped."""
        for stem, ending in product(stems.split(), endings):
            for word in (stem, stem.title()):
                for parts in {f"{word}|{ending}", f"{word}|{ending}".replace("'", "")}:
                    pieces = parts.split("|")
                    found["".join(pieces)] = tuple(piece for piece in pieces if piece.isalpha())

    add("i", "'m", "'m|a")
    add("i you he she it we they", "'ll", "'ll|'ve", "'d", "'d|'ve")
    add("i you we they", "'ve")
    add("you we they", "'re")
    add("he she it", "'s")
    add("who what when where why how there that this", "'s")
    add("who what when where why how there that this these those", "'ll", "'ll|'ve", "'d", "'d|'ve")
    add("who what when where why how there these those", "'re", "'ve")
    add("ca could do does did had may might must need ought sha should wo would", "n't", "n't|'ve")
    add("could might must should would", "'ve")
    add("ai are is was were have has dare", "n't")
    add("not", "'ve")
    for word in ("ill", "its", "hell", "shell", "shed", "were", "well", "whore"):
        found.pop(word, None)
        found.pop(word.title(), None)
    for first, second in (("can", "not"), ("gon", "na"), ("got", "ta")):
        found |= {word + second: (word, second) for word in (first, first.title())}
    found |= {"let's": ("let",), "Let's": ("Let",), "c'mon": ("on",), "C'mon": ("on",)}
    found |= {"y'all": ("all",), "yall": ("y", "all"), "how'd'y": ("how",), "How'd'y": ("How",)}
    found |= {f"{hour}{half}": (half,) for hour in range(1, 13) for half in ("am", "pm")}
    found |= {word.replace("'", "\u2019"): parts for word, parts in found.items() if "'" in word}
    return found


_WHOLE_WORDS = """
Mt. Ak. Ala. Apr. Ariz. Ark. Aug. Calif. Colo. Conn. Dec. Del. Feb. Fla. Ga. Ia. Id. Ill. Ind. Jan. Jul. Jun. Kan.
Kans. Ky. La. Mar. Mass. Mich. Minn. Miss. N.C. N.D. N.H. N.J. N.M. N.Y. Neb. Nebr. Nev. Nov. Oct. Okla. Ore. Pa. S.C.
Sep. Sept. Tenn. Va. Wash. Wis. a.m. Adm. Bros. co. Co. Corp. D.C. Dr. e.g. E.g. E.G. Gen. Gov. i.e. I.e. I.E. Inc.
Jr. Ltd. Md. Messrs. Mo. Mont. Mr. Mrs. Ms. p.m. Ph.D. Prof. Rep. Rev. Sen. St. vs. v.s. and/or w/o ä. ö. ü. 'Cause
'cause 'cos 'Cos 'coz 'Coz 'cuz 'Cuz 'bout ma'am Ma'am o'clock O'clock lovin' Lovin' havin' Havin' doin' Doin' goin'
Goin' nothin' Nothin' nuthin' Nuthin' ol' Ol' somethin' Somethin' 'em 'll 'nuff 's 'S 're 'd C++ :o) (o: 8-D :P :-P :p
:-p :O :-O :o :-o >:o :X :-X :x :-x :D :-D ;D ;-D =D v.v V.V o.O O.o O.O o.o
"""
_WHOLE = _WHOLE_WORDS.split()
_SPECIAL: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(_WHOLE, ()),
    **{word.replace("'", "\u2019"): () for word in _WHOLE if "'" in word},
    **{f"{letter}.": () for letter in "abcdefghijklmnopqrstuvwxyz"},
    **{f"\u00b0{unit}.": (unit,) for unit in "cfkCFK"},
    **_contractions(),
}
# Only listed words that affixes or infixes would break are put together again.
_BREAKABLE = {word for word in _SPECIAL if any(rule.search(word) for rule in (_PREFIX, _SUFFIX, _INFIX))}
_ICONS = _Icons()


def letter_words(title: str) -> list[str]:
    """Return the tokens of a title that are letters only, in order.

    Args:
        title: any text; case is kept.
    """
    found: list[str] = []
    for chunk in title.translate(_ICONS).split():
        found.extend(_cut(chunk))
    return found


def _cut(chunk: str) -> list[str]:
    """Cut one chunk without white space."""
    if chunk.isalpha():  # most are: nothing can be stripped from letters alone
        return list(_SPECIAL.get(chunk, (chunk,)))
    before: list[str] = []
    after: list[str] = []
    while chunk and chunk not in _SPECIAL:
        prefix = _PREFIX.match(chunk)
        rest = chunk[prefix.end() :] if prefix else chunk
        if prefix and rest in _SPECIAL:
            chunk = rest
            break
        suffix = _SUFFIX.search(rest)
        kept = rest[: suffix.start()] if suffix else rest
        if suffix and (short := chunk[: len(chunk) - len(suffix.group())]) in _SPECIAL:
            after.append(suffix.group())
            chunk = short
            break
        if not prefix and not suffix:
            break
        if prefix:
            before.append(prefix.group())
        if suffix:
            after.append(suffix.group())
        chunk = kept
    return [word for word in _join([*before, *_inner(chunk), *reversed(after)]) if word.isalpha()]


def _join(tokens: list[str]) -> list[str]:
    """Look for listed words among neighbours that were cut apart, as spaCy does in the end."""
    for size in (4, 3, 2):
        for start in range(len(tokens) - size + 1):
            word = "".join(tokens[start : start + size])
            if word in _BREAKABLE:
                return [*_join(tokens[:start]), *_SPECIAL[word], *_join(tokens[start + size :])]
    return tokens


def _inner(chunk: str) -> list[str]:
    """Cut what is left between the affixes."""
    if chunk in _SPECIAL:
        return list(_SPECIAL[chunk])
    if _URL.fullmatch(chunk):
        return []
    parts, start = [], 0
    for match in _INFIX.finditer(chunk):
        if match.start() != 0:
            parts += [chunk[start : match.start()], match.group()]
            start = match.end()
    return [*parts, chunk[start:]]
