"""Word vectors from text files (GloVe, fastText's .vec), and class names as their means."""

import difflib
import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np

from usss_jax.errors import InputError

LONGEST = 1 << 20  # bytes of a line; more is no word vector and not kept in memory
_BINARY = re.compile(rb"[\x00-\x08\x0e-\x1f]")  # no word has control characters


def read_word_vectors(path: str | os.PathLike, words: Iterable[str]) -> dict[str, np.ndarray]:
    """Read the vectors of some words; those that the file lacks are left out.

    The file is text, a word and its numbers per line, with a first line "count dimension" (fastText's .vec) or without
    (GloVe). It is read line by line, and no further than to the last word wanted. A word is looked up as it is written,
    and in lower case if that is not there; the first of two equal rows counts. A row with more blanks than numbers is a
    word with blanks (GloVe's 840B file has some).

    Returns:
      Word -> float32 [dimension].

    Raises:
      InputError: naming file and line, for a file that is no text, a row of another length, a number that is none or
        not finite in a wanted row, and a file that ends before its count. What lies after the last wanted word is not
        looked at; a GloVe file cut off between two lines cannot be told from a whole one.
    """
    words = list(dict.fromkeys(words))
    forms = {form.encode() for word in words for form in (word, word.lower())}
    missing, found = {word.encode() for word in words}, {}
    for place, word, numbers in _rows(path) if words else ():
        if word in forms and word not in found:
            found[word] = _vector(place, word.decode(), numbers)
            missing.discard(word)
            if not missing:
                break
    keys = {word: word.encode() if word.encode() in found else word.lower().encode() for word in words}
    return {word: found[key] for word, key in keys.items() if key in found}


def close_words(path: str | os.PathLike, word: str, count: int = 3) -> list[str]:
    """Find the words of a file that are spelt most like one that it lacks, among those with its first three letters.

    Reads the whole file once more. Raises InputError as `read_word_vectors` does.
    """
    prefix = word[:3].lower()
    seen = {text for _, row, _ in _rows(path) if (text := row.decode(errors="ignore")).lower().startswith(prefix)}
    return difflib.get_close_matches(word.lower(), sorted(seen), n=count)


def words_of(name: str) -> list[str]:
    """Split the name of a class at blanks, hyphens and underscores."""
    return [word for word in re.split(r"[\s_-]+", name) if word]


def class_vectors(
    names: Sequence[str],
    vectors: Mapping[str, np.ndarray],
    dim: int,
    seed: int = 0,
    close: Callable[[str], Sequence[str]] | None = None,
) -> np.ndarray:
    """Mean of the vectors of every name's words, in `dim` dimensions.

    Vectors of fewer dimensions get zeros at the end, which changes no dot product. Vectors of more are projected on
    `dim` random orthonormal directions, always the same for one seed, which keeps angles approximately. PCA would fit
    the few class vectors at hand instead: it needs at least `dim` of them, and would change with the set of domains.

    Args:
      names: of the classes.
      vectors: word -> [dimension], for every word of the names (`words_of`).
      dim: d of the embeddings.
      seed: of the projection.
      close: words to suggest in place of a missing one; None: among the keys of `vectors`.

    Returns:
      float32 [n, dim], rows of unit length.

    Raises:
      InputError: naming class and word, if a word has no vector; or if a class has no words or a zero mean.
    """
    means = []
    for name in names:
        words = words_of(name)
        for word in words:
            if word not in vectors:
                near = close(word) if close else difflib.get_close_matches(word, list(vectors), n=3)
                hint = f"close are {', '.join(map(repr, near))}" if near else "no word is close"
                raise InputError(f"class {name!r}: no vector for the word {word!r} ({hint}); give a file that has it")
        if not words:
            raise InputError(f"class {name!r} has no word to look up; rename it")
        means.append(np.mean([np.asarray(vectors[word], np.float64) for word in words], axis=0))
    rows = np.stack(means)
    given = rows.shape[1]
    if given > dim:
        rows = rows @ orthonormal(given, dim, seed)
    elif given < dim:
        rows = np.pad(rows, ((0, 0), (0, dim - given)))
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    if not norms.all():
        raise InputError(f"class {names[int(norms.argmin())]!r}: its word vectors add up to zero; rename it")
    return (rows / norms).astype(np.float32)


def orthonormal(rows: int, columns: int, seed: int) -> np.ndarray:
    """Random matrix [rows, columns] with orthonormal columns, uniform among these."""
    # RandomState's streams are the same in every version of NumPy.
    q, r = np.linalg.qr(np.random.RandomState(seed).standard_normal((rows, columns)))
    return q * np.sign(np.diag(r))  # the signs that QR leaves open, so that every machine has the same matrix


def _vector(place: str, word: str, numbers: bytes) -> np.ndarray:
    """Numbers of a row as float32 [dimension]."""
    try:
        with np.errstate(over="ignore"):  # what float32 cannot hold is infinite
            vector = np.array([float(n) for n in numbers.split(b" ")], np.float32)
    except ValueError as error:
        raise InputError(f"{place}: the vector of {word!r} has something that is no number ({error})") from error
    if not np.isfinite(vector).all():
        raise InputError(f"{place}: the vector of {word!r} is not finite; the file is damaged")
    return vector


def _rows(path) -> Iterator[tuple[str, bytes, bytes]]:
    """Place, word and numbers of every row."""
    try:
        with open(os.path.expanduser(path), "rb", buffering=LONGEST) as file:
            lines = iter(lambda: file.readline(LONGEST), b"")
            first = next(lines, b"")
            fields = first.split()
            is_text = not _BINARY.search(first) and len(first) < LONGEST
            # No more digits than a number of 64 bits has: int() refuses thousands of them.
            is_head = len(fields) == 2 and all(f.isdigit() and len(f) < 20 for f in fields)
            if is_text and len(fields) > 2:
                yield from _text_rows(path, itertools.chain([first], lines), 1, len(fields) - 1, 0)
            elif is_text and is_head and 0 < int(fields[1]) <= LONGEST:
                yield from _text_rows(path, lines, 2, int(fields[1]), int(fields[0]))
            else:
                raise InputError(
                    f"{path}:1: is neither 'count dimension' nor a word and its numbers; give word vectors as text"
                )
    except OSError as error:
        raise InputError(f"{path}: these word vectors cannot be read ({error.strerror}); correct the path") from error


def _text_rows(path, lines, start, dim, count):
    seen = 0
    for number, line in enumerate(lines, start):
        if len(line) >= LONGEST:
            raise InputError(f"{path}:{number}: is longer than {LONGEST} bytes; the file is damaged")
        line = line.rstrip()
        if not line:
            continue
        word, _, numbers = line.partition(b" ")
        if numbers.count(b" ") != dim - 1:  # tabs, blanks in a row or in the word, or another length
            *head, numbers = _split_tail(line, dim)
            in_word = head[0].split() if head else []
            if not head or (len(in_word) > 1 and _is_number(in_word[-1])):
                got = len(line.split()) - 1
                why = "the file is binary: give it as text" if _BINARY.search(line) else "it is damaged or cut off"
                raise InputError(f"{path}:{number}: has {got} numbers, not {dim}; {why}")
            word = head[0]
        seen += 1
        yield f"{path}:{number}", word, numbers
    if seen < count:
        raise InputError(f"{path}: ends after {seen} of {count} vectors; it is cut off")


def _split_tail(line, dim):
    """Word and the text of the last `dim` numbers; the text alone where there are no more."""
    parts = line.rsplit(None, dim)
    return [*parts[:-dim], b" ".join(parts[-dim:])]


def _is_number(text):
    try:
        float(text)
    except ValueError:
        return False
    return True
