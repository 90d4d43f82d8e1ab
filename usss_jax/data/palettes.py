"""What the entries of a palette mean in a mask: grey levels, indices or colours; the rules are in data/masks.py."""

import threading
from collections.abc import Mapping

from usss_jax.data.domain import IGNORE, UNKNOWN, Domain, Layout, lookup_table
from usss_jax.errors import InputError

Color = tuple[int, int, int]
BLACK = (0, 0, 0)


class Palettes:
    """Remembers which colour an index has in the masks read so far by their index; threads may share it."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[Color, str]] = {}
        self._lock = threading.Lock()

    def check(self, palette: Mapping[int, Color], name: str):
        """Raise InputError, naming both masks, if an index has another colour than in an earlier mask."""
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
    """Raw id of each entry of a palette, and whether it is its "level", "index" or "colour" (see the table above).

    `used` are the indices that the mask has. Raises InputError naming an index and a colour that contradict each other.
    """
    table = lookup_table(domain, layout)
    classes: dict[Color, set[int]] = {}  # train ids of each colour
    for train_id, one in enumerate(domain.classes):
        classes.setdefault(one.color, set()).add(train_id)
    single = {color: layout.raw_ids[min(ids)] for color, ids in classes.items() if len(ids) == 1}
    raw_of = {color: raw[0] for color, raw in single.items() if raw}
    if layout.ignore_ids and BLACK not in classes:
        raw_of[BLACK] = layout.ignore_ids[0]
    by_color = all(entries[i] in raw_of for i in used)
    of_colors = [raw_of.get(color, 0) for color in entries]

    if all(r == g == b for r, g, b in entries):
        levels = [r for r, _, _ in entries]
        known = all(table[levels[i]] != UNKNOWN for i in used)
        by_color = by_color and any(entries[i] in classes for i in used)
        return (of_colors, "colour") if by_color and not known else (levels, "level")

    wrong = [i for i in _contradicted(entries, table, classes) if i in used or entries.count(entries[i]) == 1]
    if not wrong:
        return list(range(len(entries))), "index"
    if by_color:
        return of_colors, "colour"
    stranger = next(i for i in used if entries[i] not in raw_of)
    index, color = wrong[0], entries[wrong[0]]
    raise InputError(
        f"{name}: palette index {index} is {_meaning(table[index], domain)} by the ids of domain {domain.name!r}, but "
        f"has the colour {color} of {domain.classes[min(classes[color])].name!r}; colours cannot decide, since "
        f"{entries[stranger]} of index {stranger} is not the colour of one class; save the mask as a grey image of the "
        "class ids, or correct the classes' colours"
    )


def _contradicted(entries, table, classes):
    """Indices whose colour is that of another class than the index means.

    Not one to ignore, if the colour's own class has the same colour at its index: as licence plates have that of cars.
    """
    right = {color for i, color in enumerate(entries) if color in classes and int(table[i]) in classes[color]}
    return [
        i
        for i, color in enumerate(entries)
        if color in classes and int(table[i]) not in classes[color] and not (color in right and int(table[i]) == IGNORE)
    ]


def _meaning(train_id, domain):
    return {IGNORE: "to ignore", UNKNOWN: "unknown"}.get(int(train_id)) or repr(domain.classes[train_id].name)
