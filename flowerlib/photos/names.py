"""Names of classes: their order, and names that differ in spelling only."""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from flowerlib.photos.tree import listed


def in_order(names: Iterable[str]) -> list[str]:
    """Return class names in label order: numbers by their value, all others by the alphabet."""
    distinct = set(names)
    if all(name.isdecimal() for name in distinct):
        return sorted(distinct, key=lambda name: (int(name), name))
    return sorted(distinct)


def spelling_key(name: str) -> str:
    """Return what names that differ only in case, spaces or Unicode form have in common."""
    return "".join(unicodedata.normalize("NFKC", name).casefold().replace("_", " ").replace("-", " ").split())


def variants(names: Sequence[str]) -> dict[str, str]:
    """Return for each name that is spelled in several ways the most frequent spelling.

    Args:
        names: the class of each photograph.
    """
    spellings: dict[str, Counter[str]] = defaultdict(Counter)
    for name in names:
        spellings[spelling_key(name)][name] += 1
    several = (counts for counts in spellings.values() if len(counts) > 1)
    return {name: max(sorted(counts), key=counts.__getitem__) for counts in several for name in counts}


def variants_note(chosen: dict[str, str], merged: bool) -> str:
    """Return the sentence about names that differ in spelling only."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in sorted(chosen):
        groups[chosen[name]].append(name)
    told = "; ".join(listed(names) for names in groups.values())
    remedy = "each is one class now" if merged else "they stay different classes; --merge-names makes them one"
    return f"Names that differ only in case, spaces or Unicode form: {told}: {remedy}."
