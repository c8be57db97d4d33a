"""Which characters a person cannot see: they would make a name look empty or like another, or break a line."""

import unicodedata

_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Cn", "Co", "Zl", "Zp"})
"""Categories of characters that break a line, turn its direction, or belong to no text."""
_BLANK = (
    (0x034F, 0x034F),
    (0x115F, 0x1160),
    (0x17B4, 0x17B5),
    (0x180B, 0x180F),
    (0x2800, 0x2800),
    (0x3164, 0x3164),
    (0xFE00, 0xFE0D),
    (0xFFA0, 0xFFA0),
    (0xE0100, 0xE01EF),
)
"""Letters, marks and symbols that show nothing: Default_Ignorable_Code_Point of
https://www.unicode.org/Public/UCD/latest/ucd/DerivedCoreProperties.txt, and the blank pattern of Braille."""
_PICTURE_OR_TEXT = "\ufe0e\ufe0f"
"""Say whether the symbol before is drawn as a picture: https://www.unicode.org/reports/tr51/#Emoji_Presentation."""


def is_unseen(sign: str) -> bool:
    """Return whether a character shows nothing, or something other than itself; a space is seen."""
    code = ord(sign)
    return unicodedata.category(sign) in _UNSEEN or any(first <= code <= last for first, last in _BLANK)


def is_seen(text: str) -> bool:
    """Return whether every character of a text shows, and one at least is neither a space nor a mark on another."""
    if any(map(is_unseen, text)) or not any(unicodedata.category(sign)[0] in "LNPS" for sign in text):
        return False
    before = zip(" " + text, text, strict=False)
    return all(_is_drawn(left) for left, sign in before if sign in _PICTURE_OR_TEXT)


def _is_drawn(sign: str) -> bool:
    return unicodedata.category(sign)[0] == "S" or sign in "0123456789#*\u203c\u2049"
