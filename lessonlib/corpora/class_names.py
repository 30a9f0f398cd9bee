"""Names of classes that look alike: whether two of them are one, and in what they differ."""

import re
import unicodedata
from collections.abc import Sequence

# Drawn as nothing, though Unicode counts them as marks, letters or signs.
UNSEEN = {0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0, *range(0xFE00, 0xFE10)}
UNSEEN |= set(range(0xE0100, 0xE01F0))


def is_blank(text: str) -> bool:
    """Whether nothing of a text can be seen: spaces, control characters, marks of no width.

    >>> is_blank(" \\u200b\\ufeff"), is_blank("\\u200bok")
    (True, False)
    """
    return not any(_is_seen(letter) and not letter.isspace() for letter in text)


def _is_seen(letter: str) -> bool:
    return unicodedata.category(letter) not in ("Cc", "Cf") and ord(letter) not in UNSEEN


def _seen(name: str) -> str:
    return "".join(letter for letter in name if letter.isspace() or _is_seen(letter))


def _one_form(name: str) -> str:
    return "".join(c if c.isspace() else unicodedata.normalize("NFKC", c) for c in unicodedata.normalize("NFC", name))


def _spaced(name: str) -> str:
    return " ".join(name.replace("_", " ").split())


def _counted(name: str) -> str:
    return re.sub(r"^\s*([+-]?)0*(\d+)(\.0+)?\s*$", r"\1\2", name)


DIFFERENCES = {
    "Unicode forms": _one_form,
    "invisible characters": _seen,
    "capitals": str.casefold,
    "number format": _counted,
    "spaces": _spaced,
}


def plain(name: str, leave: str = "") -> str:
    """A name without all that hardly anybody sees or means: what two names of one class have in common.

    leave: one of DIFFERENCES that is left in.

    >>> plain("Ｌate_\\u00a0 Parcel\\u200b"), plain("1.0") == plain("1")
    ('late parcel', True)
    """
    for difference, step in DIFFERENCES.items():
        if difference != leave:
            name = step(name)
    return name


def alike(names: Sequence[str]) -> list[list[str]]:
    """Names in groups of those that are one when `plain`; each group has two or more."""
    groups = {}
    for name in names:
        groups.setdefault(plain(name), []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def differences(names: Sequence[str]) -> str:
    """In what names that are one when `plain` differ, in words.

    >>> differences(["Late delivery", "late_delivery"]), differences(["a", "a\\u200b"])
    ('capitals, spaces and underscores', 'invisible characters')
    """
    found = [kind for kind in DIFFERENCES if len({plain(name, leave=kind) for name in names}) > 1]
    if not found:  # two of them do the same, as capitals and Unicode do of a ligature
        found = [kind for kind, step in DIFFERENCES.items() if len({step(name) for name in names}) == 1][:1]
    spaces = "spaces and underscores" if any("_" in name for name in names) else "spaces"
    words = [spaces if kind == "spaces" else kind for kind in found or DIFFERENCES]
    return ", ".join(words)
