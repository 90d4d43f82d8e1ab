"""Word vectors from text files (GloVe, fastText's .vec), and class names as their means."""

import difflib
import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np

from usss_jax.errors import InputError

LONGEST = 1 << 20  # bytes of a line; longer ones cannot be word vectors and are not kept in memory
_BINARY = re.compile(rb"[\x00-\x08\x0e-\x1f]")  # no word has control characters


def read_word_vectors(path: str | os.PathLike, words: Iterable[str]) -> dict[str, np.ndarray]:
    """Read the vectors of some words; words that the file lacks are left out.

    The file has a word and its numbers per line, with (fastText's .vec) or without (GloVe) a first line "count
    dimension". It is read line by line, up to the last of the words. A word is looked up as written, then in lower
    case; the first of several equal rows counts. Words may have blanks (as some of GloVe's 840B file).

    Returns:
      Word -> float32 [dimension].

    Raises:
      InputError: naming file and line, for a binary file, a row of another length, an invalid number in a row of one
        of the words, and a file that ends before its count. Later lines are not checked, and a GloVe file truncated
        between two lines is not detected.

    >>> import pathlib
    >>> _ = pathlib.Path("vectors.txt").write_text("road 1 0\\nsky 0 1\\n")
    >>> read_word_vectors("vectors.txt", ["Sky", "unicorn"])
    {'Sky': array([0., 1.], dtype=float32)}
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
    """Find the words of a file that are spelled most like `word`, among those with its first three letters.

    Reads the whole file. Raises InputError like `read_word_vectors`.

    >>> import pathlib
    >>> _ = pathlib.Path("vectors.txt").write_text("rickshaw 1 0\\nrick 0 1\\nroad 1 1\\n")
    >>> close_words("vectors.txt", "rickshaws")
    ['rickshaw', 'rick']
    """
    prefix = word[:3].lower()
    seen = {text for _, row, _ in _rows(path) if (text := row.decode(errors="ignore")).lower().startswith(prefix)}
    return difflib.get_close_matches(word.lower(), sorted(seen), n=count)


def words_of(name: str) -> list[str]:
    """Split the name of a class at blanks, hyphens and underscores.

    >>> words_of("traffic_sign"), words_of("non-drivable fallback")
    (['traffic', 'sign'], ['non', 'drivable', 'fallback'])
    """
    return [word for word in re.split(r"[\s_-]+", name) if word]


def class_vectors(
    names: Sequence[str],
    vectors: Mapping[str, np.ndarray],
    dim: int,
    seed: int = 0,
    close: Callable[[str], Sequence[str]] | None = None,
) -> np.ndarray:
    """Embed class names as the normalized mean vectors of their words, in `dim` dimensions.

    Shorter vectors are padded with zeros, which keeps dot products. Longer ones are projected on `dim` random
    orthonormal directions, which keeps angles approximately. PCA would need at least `dim` classes, and would change
    with the set of domains.

    Args:
      names: of the classes.
      vectors: word -> [dimension], for every word of the names (`words_of`).
      dim: d of the embeddings.
      seed: of the projection.
      close: function that suggests words in place of a missing one; None: keys of `vectors`.

    Returns:
      float32 [n, dim], rows of unit length.

    Raises:
      InputError: naming class and word, if a word has no vector; or if a class has no words or a zero mean.

    >>> vectors = {"traffic": np.array([1.0, 0.0]), "sign": np.array([0.0, 1.0])}
    >>> print(class_vectors(["sign", "traffic sign"], vectors, dim=3).round(2))
    [[0.   1.   0.  ]
     [0.71 0.71 0.  ]]
    """
    means = []
    for name in names:
        words = words_of(name)
        for word in words:
            if word not in vectors:
                near = close(word) if close else difflib.get_close_matches(word, list(vectors), n=3)
                hint = f"similar words: {', '.join(map(repr, near))}" if near else "no word is similar"
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
    """Sample a matrix [rows, columns] with orthonormal columns, uniformly.

    >>> q = orthonormal(5, 2, seed=0)
    >>> np.allclose(q.T @ q, np.eye(2))
    True
    """
    # RandomState's streams are the same in every version of NumPy.
    q, r = np.linalg.qr(np.random.RandomState(seed).standard_normal((rows, columns)))
    return q * np.sign(np.diag(r))  # fixes the signs that QR leaves open, so that all machines agree


def _vector(place: str, word: str, numbers: bytes) -> np.ndarray:
    """Numbers of a row as float32 [dimension]."""
    try:
        with np.errstate(over="ignore"):  # overflow in float32 gives infinity
            vector = np.array([float(n) for n in numbers.split(b" ")], np.float32)
    except ValueError as error:
        raise InputError(
            f"{place}: the vector of {word!r} has an invalid number ({error}); restore the file"
        ) from error
    if not np.isfinite(vector).all():
        raise InputError(f"{place}: the vector of {word!r} is not finite; restore the file")
    return vector


def _rows(path) -> Iterator[tuple[str, bytes, bytes]]:
    """Place, word and numbers of every row."""
    try:
        with open(os.path.expanduser(path), "rb", buffering=LONGEST) as file:
            lines = iter(lambda: file.readline(LONGEST), b"")
            first = next(lines, b"")
            fields = first.split()
            is_text = not _BINARY.search(first) and len(first) < LONGEST
            # At most 19 digits, since int() refuses thousands of them.
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
            raise InputError(f"{path}:{number}: is longer than {LONGEST} bytes; restore the file")
        line = line.rstrip()
        if not line:
            continue
        word, _, numbers = line.partition(b" ")
        if numbers.count(b" ") != dim - 1:  # tabs, blanks in a row or in the word, or another length
            *head, numbers = _split_tail(line, dim)
            in_word = head[0].split() if head else []
            if not head or (len(in_word) > 1 and _is_number(in_word[-1])):
                got = len(line.split()) - 1
                why = "the file is binary: give it as text" if _BINARY.search(line) else "it is damaged or truncated"
                raise InputError(f"{path}:{number}: has {got} numbers, not {dim}; {why}")
            word = head[0]
        seen += 1
        yield f"{path}:{number}", word, numbers
    if seen < count:
        raise InputError(f"{path}: ends after {seen} of {count} vectors; restore the file")


def _split_tail(line, dim):
    """Word and the text of the last `dim` numbers; only the text if the line has no more parts."""
    parts = line.rsplit(None, dim)
    return [*parts[:-dim], b" ".join(parts[-dim:])]


def _is_number(text):
    try:
        float(text)
    except ValueError:
        return False
    return True
