"""Mentions of a name in a text: occurrences that are not part of a longer word.

Letters join to words as in Unicode's rules for word boundaries (UAX 29), with three differences. An
apostrophe or a full stop ends a word, so that "Ra" is mentioned in "Ra's". Korean particles may follow a
name, and Arabic and Hebrew ones that are written as one word with the next may precede one of three letters
or more. Scripts without
spaces (Chinese, Japanese but for katakana, Thai, Lao, Khmer, Burmese) have no boundaries to look for:
there, every occurrence that does not cut a character is a mention.
"""

import regex

_LETTER = r"[\p{WB=ALetter}\p{WB=HebrewLetter}\p{WB=Numeric}\p{Pc}]"
_KATAKANA = r"\p{WB=Katakana}"
_MARK = r"[\p{GCB=Extend}\p{GCB=SpacingMark}\p{GCB=ZWJ}]"
"""Part of the character before it: accents, vowel signs, modifiers of emoji."""
_JOINED = r"[\p{GCB=ZWJ}\p{GCB=Prepend}\p{LogicalOrderException}]"
"""Part of the character after it: a joiner, a vowel sign that is written before its consonant."""
_PARTICLE = (
    "(?:은|는|이|가|을|를|의|에|에서|에게|에게서|께서|한테|와|과|하고|도|만|로|으로|"
    "까지|부터|보다|처럼|마다|조차|밖에|로서|으로서|로써|으로써|이나|나|이라는|라는|이란|란|이라고|라고|이랑|"
    "이며|이고|이자|이다|이었다|였다|입니다|이에요|예요)"
)
_REST = r"(?!\.\p{Lu}(?!\w)|(?<=\p{Nd})[.,]\p{Nd})"
"""The rest of an abbreviation with full stops or of a number does not follow."""
_LANGUAGE = "(?![+#])"
"""What C is not, in C++ and C#; a name of several letters may end there, as GTK in GTK+."""
_PREFIX = {"Arabic": "[وف]?[بلك]?", "Hebrew": "ו?ש?[הבכלמ]?"}


def mentions(name: str, text: str) -> list[tuple[int, int]]:
    """Character spans of the mentions of a name, in order."""
    if name not in text:  # the expressions take longer than all the rest, and few texts need one
        return []
    before, after = f"(?<!{_JOINED})", f"(?!{_MARK})"
    if regex.match(_LETTER, name):
        start = f"(?<!{_LETTER}{_MARK}*)"
        before += r"(?<!\p{Nd}[.,])" if regex.match(r"\p{Nd}", name) else ""
        prefixes = [
            prefix for script, prefix in _PREFIX.items() if regex.match(rf"\p{{{script}}}{{3}}", name)
        ]
        before += "".join(f"(?<={start}{prefix})" for prefix in prefixes) or start
    elif name.startswith("."):
        before += f"(?<!{_LETTER})"
    elif regex.match(_KATAKANA, name):
        before += f"(?<!{_KATAKANA}{_MARK}*)"
    if regex.search(rf"{_LETTER}{_MARK}*$", name):
        particles = 1 if len(name) == 1 else 2
        after += f"(?={_PARTICLE}{{0,{particles}}}(?!{_LETTER})){_REST}{_LANGUAGE if len(name) == 1 else ''}"
    elif regex.search(rf"{_KATAKANA}{_MARK}*$", name):
        after += f"(?!{_KATAKANA})"
    return [match.span() for match in regex.finditer(f"{before}{regex.escape(name)}{after}", text)]
