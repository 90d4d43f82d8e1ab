"""Interprets the palette of a mask: grey levels, indices or colours. data/masks.py has the rules."""

import threading
from collections.abc import Mapping

from usss_jax.data.domain import IGNORE, UNKNOWN, Domain, Layout, lookup_table
from usss_jax.errors import InputError

Color = tuple[int, int, int]
BLACK = (0, 0, 0)


class Palettes:
    """Remembers the colour of each index in the masks read so far by index; threads may share it."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[Color, str]] = {}
        self._lock = threading.Lock()

    def check(self, palette: Mapping[int, Color], name: str):
        """Raise InputError, naming both masks, if an index has another colour than in an earlier mask.

        >>> palettes = Palettes()
        >>> palettes.check({1: (128, 0, 0)}, "a.png")
        >>> palettes.check({1: (0, 128, 0)}, "b.png")
        Traceback (most recent call last):
        usss_jax.errors.InputError: b.png: palette index 1 has the colour (0, 128, 0) here but ...
        """
        with self._lock:
            for index, color in palette.items():
                known, other = self._seen.setdefault(index, (color, name))
                if known != color:
                    raise InputError(
                        f"{name}: palette index {index} has the colour {color} here but {known} in {other}, so the "
                        "indices do not mean the same in all masks; save them as grey images of the class ids, or "
                        "give the classes the colours of the palettes"
                    )

    def __reduce__(self):
        return Palettes, ()


def palette_ids(
    entries: list[Color], used: list[int], name: str, domain: Domain, layout: Layout
) -> tuple[list[int], str]:
    """Return the raw id of each entry of a palette, and whether it is the "level", "index" or "colour" of the entry.

    Args:
      entries: colours of the palette.
      used: indices that the mask uses.
      name: of the file.
      domain, layout: whose class table decides.

    Raises:
      InputError: naming an index and a colour that contradict each other.
    """
    table = lookup_table(domain, layout)
    classes: dict[Color, set[int]] = {}  # train ids of each colour
    for train_id, one in enumerate(domain.classes):
        classes.setdefault(one.color, set()).add(train_id)
    single = {color: layout.raw_ids[min(ids)] for color, ids in classes.items() if len(ids) == 1}
    raw_of = {color: raw[0] for color, raw in single.items() if raw}
    ignored = BLACK if layout.ignore_ids and BLACK not in classes else None
    if ignored:
        raw_of[ignored] = layout.ignore_ids[0]
    of_colors = [raw_of.get(color, 0) for color in entries]
    all_known = all(entries[i] in raw_of for i in used)
    of_classes = all_known and any(entries[i] in classes for i in used)

    if all(r == g == b for r, g, b in entries):
        ids, by = [r for r, _, _ in entries], "level"
        wrong = [i for i in used if of_classes and table[ids[i]] != table[of_colors[i]]]
        colors_decide = any(table[ids[i]] == UNKNOWN for i in used)
    else:
        ids, by = list(range(len(entries))), "index"
        # An unused entry also shows the palette's order, unless it is one of many equal ones that fill it up.
        wrong = [i for i in _contradicted(entries, table, classes) if i in used or entries.count(entries[i]) == 1]
        colors_decide = bool(wrong)
        if not wrong and of_classes:  # only black may contradict its index
            wrong = [i for i in used if entries[i] == ignored and table[i] != IGNORE]
            colors_decide = any(table[i] == UNKNOWN for i in wrong)
    if not wrong:
        return ids, by
    if all_known and colors_decide:
        return of_colors, "colour"
    index, color = wrong[0], entries[wrong[0]]
    stranger = next((i for i in used if entries[i] not in raw_of), None)
    owner = repr(domain.classes[min(classes[color])].name) if color in classes else "ignored pixels"
    why = "" if stranger is None else f" (the colour {entries[stranger]} of index {stranger} is not that of one class)"
    raise InputError(
        f"{name}: palette index {index} is {_meaning(table[ids[index]], domain)} by its {by} {ids[index]} in domain "
        f"{domain.name!r}, but has the colour {color} of {owner}, which is ambiguous{why}; save the mask as a grey "
        "image of the class ids without a palette, or correct the classes' colours"
    )


def _contradicted(entries, table, classes):
    """Indices with the colour of another class than theirs.

    Ignored indices do not count if a class has the same colour, as licence plates have the colour of cars.
    """
    right = {color for i, color in enumerate(entries) if color in classes and int(table[i]) in classes[color]}
    return [
        i
        for i, color in enumerate(entries)
        if color in classes and int(table[i]) not in classes[color] and not (color in right and int(table[i]) == IGNORE)
    ]


def _meaning(train_id, domain):
    return {IGNORE: "to ignore", UNKNOWN: "unknown"}.get(int(train_id)) or repr(domain.classes[train_id].name)
