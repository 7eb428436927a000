"""Match the classes of photographs with those of a model, by their names."""

import difflib
from collections import Counter, defaultdict
from collections.abc import Sequence

from flowerlib.config import FlowersError
from flowerlib.photos import names
from flowerlib.photos.tree import listed

MAX_SHOWN = 20  # classes


def match_classes(
    labels: Sequence[str], classes: Sequence[str], skip_unknown: bool = False
) -> tuple[dict[str, str], list[str]]:
    """Return the model's name for each label, and sentences about those that are spelled otherwise or not known.

    Names match where they are equal, or where they differ only in case, spaces or Unicode form and no other class does.

    Args:
        labels: the class of each photograph.
        classes: of the model.
        skip_unknown: whether labels that match no class are left out, instead of an error.

    Raises:
        FlowersError: labels match no class.
    """
    by_spelling = defaultdict(list)
    for name in classes:
        by_spelling[names.spelling_key(name)].append(name)
    counts, matched = Counter(labels), {}
    for label in sorted(counts):
        alike = [label] if label in classes else by_spelling[names.spelling_key(label)]
        if len(alike) == 1:
            matched[label] = alike[0]
    unknown = {label: counts[label] for label in sorted(counts) if label not in matched}
    if unknown and not skip_unknown:
        raise FlowersError(_tell_unknown(unknown, classes))
    notes = []
    if respelled := [f"`{label}` is `{name}`" for label, name in matched.items() if label != name]:
        notes.append(f"Classes that the model spells otherwise: {', '.join(respelled)}.")
    if unknown:
        told = f"{sum(unknown.values()):,} photographs of classes that the model does not have are left out"
        notes.append(f"{told}: {listed(unknown, MAX_SHOWN)}.")
    return matched, notes


def _tell_unknown(unknown: dict[str, int], classes: Sequence[str]) -> str:
    told = []
    for label, count in list(unknown.items())[:MAX_SHOWN]:
        folded = {name.casefold(): name for name in classes}
        near = difflib.get_close_matches(label.casefold(), folded, 1, 0.7)
        told.append(f"`{label}` ({count:,} photographs{f'; is it `{folded[near[0]]}`?' if near else ''})")
    more = f" and {len(unknown) - len(told):,} more" if len(unknown) > len(told) else ""
    return (
        f"the model has no class {', '.join(told)}{more}; rename them as in its classes.json, or leave them out with "
        "--skip-unknown"
    )
