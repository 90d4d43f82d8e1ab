"""Label embeddings that need no network (appendix B.4 of the paper): random, from word vectors, from a file."""

import os
import pathlib
import zlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from usss_jax.data.word_vectors import class_vectors, close_words, read_word_vectors, words_of
from usss_jax.errors import InputError
from usss_jax.methods.usss import label_embeddings
from usss_jax.methods.usss.label_embeddings import LabelEmbeddings

PROTOTYPES, RANDOM, WORDS = "prototypes", "random", "words:"


def check_field(source: str, embeddings_per_class: int = 1):
    """Raise InputError unless `usss.label_embeddings` is valid and its file, if any, exists."""
    path = source.removeprefix(WORDS)
    if source.startswith(WORDS) and embeddings_per_class > 1:
        raise InputError(
            f"usss.embeddings_per_class={embeddings_per_class}: {WORDS}FILE gives one vector per class; "
            f"set it to 1, or usss.label_embeddings to {PROTOTYPES} or {RANDOM}"
        )
    if source.endswith(".npz") and embeddings_per_class > 1:
        raise InputError(
            f"usss.embeddings_per_class={embeddings_per_class}: the rows of {source} are taken as they are; set it to 1"
        )
    if source in (PROTOTYPES, RANDOM):
        return
    if not source.startswith(WORDS) and not source.endswith(".npz"):
        raise InputError(f"usss.label_embeddings={source}: give {PROTOTYPES}, {RANDOM}, {WORDS}FILE or an .npz file")
    if not os.path.isfile(os.path.expanduser(path)):
        raise InputError(f"usss.label_embeddings={source}: there is no file {path!r}; correct the path")


def make(
    source: str,
    classes: Mapping[str, Sequence[str]],
    dim: int,
    seed: int,
    embeddings_per_class: int = 1,
    theta: float = 1.0,
) -> tuple[dict[str, LabelEmbeddings], dict[str, Any]]:
    """Make the label embeddings of every domain by `usss.label_embeddings`, other than "prototypes".

    Args:
      source: "random", "words:FILE" or the path of an .npz file.
      classes: class names by domain.
      dim: d.
      seed: of random embeddings.
      embeddings_per_class: K of random embeddings; must be 1 for words and files.
      theta: of Eq. 7; below 1 a file must have one row per class.

    Returns:
      Embeddings by domain, and the metadata for their file: "method", "dim", "domains".

    Raises:
      InputError: if the file cannot be read or does not fit the domains, or if several embeddings per class are not
        possible.

    >>> made, meta = make("random", {"city": ("road", "sky")}, dim=8, seed=0, embeddings_per_class=2)
    >>> made["city"].embeddings.shape, made["city"].class_ids.tolist(), meta["domains"]["city"]["classes"]
    ((4, 8), [0, 0, 1, 1], ['road', 'road', 'sky', 'sky'])
    """
    check_field(source, embeddings_per_class)
    absent: dict[str, list[str]] = {domain: [] for domain in classes}
    if source == RANDOM:
        k = embeddings_per_class
        made = {d: _all_classes(random_rows(k * len(names), dim, seed, d), k) for d, names in classes.items()}
        several = f", {k} per class" if k > 1 else ""
        method = f"random: normal distribution, seed {seed} and the domain's name{several}, unit length"
    elif source.startswith(WORDS):
        made, method = from_words(source.removeprefix(WORDS), classes, dim)
    else:
        made, method = from_file(pathlib.Path(source).expanduser(), classes, dim)
        absent = {d: [n for i, n in enumerate(names) if i not in made[d].class_ids] for d, names in classes.items()}
        several_rows = [d for d, e in made.items() if len(set(e.class_ids)) < len(e.class_ids)]
        if several_rows and theta < 1:
            raise InputError(
                f"usss.label_embeddings={source}: {several_rows[0]} has several rows per class, but "
                f"usss.theta={theta:g} moves class means (Eq. 7); set usss.theta=1, or give one row per class"
            )
    about = {
        domain: {"classes": [names[i] for i in made[domain].class_ids], "absent": absent[domain]}
        for domain, names in classes.items()
    }
    return made, {"method": method, "dim": dim, "domains": about}


def random_rows(count: int, dim: int, seed: int, domain: str) -> np.ndarray:
    """Random directions of unit length, float32 [count, dim], determined by the seed and the name of the domain.

    >>> np.linalg.norm(random_rows(2, 8, seed=0, domain="city"), axis=1).round(5).tolist()
    [1.0, 1.0]
    """
    # The stream of RandomState is the same in every version of NumPy.
    state = np.random.RandomState(zlib.crc32(f"label embeddings/{seed}/{domain}".encode()))
    rows = state.standard_normal((count, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def from_words(path: str, classes: Mapping[str, Sequence[str]], dim: int) -> tuple[dict[str, LabelEmbeddings], str]:
    """Means of the word vectors of each class name, and a description of the method."""
    words = dict.fromkeys(word for names in classes.values() for name in names for word in words_of(name))
    vectors = read_word_vectors(path, words)
    made = {}
    for domain, names in classes.items():
        try:
            made[domain] = _all_classes(class_vectors(names, vectors, dim, close=partial(close_words, path)))
        except InputError as e:
            raise InputError(f"usss.label_embeddings={WORDS}{path}: {domain}: {e}") from e
    given = len(next(iter(vectors.values())))
    change = "" if given == dim else ", random orthonormal projection" if given > dim else ", zeros appended"
    return made, f"words: mean of the word vectors ({given} dimensions) of {path}{change}, unit length"


def from_file(
    path: pathlib.Path, classes: Mapping[str, Sequence[str]], dim: int
) -> tuple[dict[str, LabelEmbeddings], str]:
    """Read label embeddings that `label_embeddings.save` wrote for at least these domains; describe their method.

    Raises:
      InputError: as `read_rows` does.
    """
    made, meta = read_rows(path, classes, dim, "give another file")
    return made, f"of the file {path}: {meta.get('method', 'unknown method')}"


def read_rows(
    path: pathlib.Path, classes: Mapping[str, Sequence[str]], dim: int, remedy: str, content: bytes | None = None
) -> tuple[dict[str, LabelEmbeddings], dict[str, Any]]:
    """Read label embeddings for at least these domains; return them by domain, and the metadata of the file.

    Classes that the file lists as absent get no embedding, as with prototypes.

    Args:
      path: of the file, for messages.
      classes: class names by domain.
      dim: d.
      remedy: end of an error message.
      content: of the file, from the process that has it; None: it is read from `path`.

    Raises:
      InputError: if domains, class names, their order or the dimension differ, or rows are not of unit length.
    """
    rows, meta = label_embeddings.load(path, "give the label_embeddings.npz of a run", content)
    made = {}
    for domain, names in classes.items():
        ids = row_classes(path, meta, domain, names, remedy)
        shape = (len(ids), dim)
        if rows[domain].shape != shape:
            its = f"set usss.embed_dim={rows[domain].shape[-1]}, or " if len(rows[domain]) == len(ids) else ""
            raise InputError(f"{path}: {domain}: embeddings are {rows[domain].shape}, not {shape}; {its}{remedy}")
        if not (np.abs(np.linalg.norm(rows[domain], axis=1) - 1) < 1e-3).all():  # nan too
            raise InputError(
                f"{path}: {domain}: embeddings are not of unit length; divide each by its length, or {remedy}"
            )
        made[domain] = LabelEmbeddings(rows[domain].astype(np.float32), ids)
    return made, meta


def row_classes(
    path: pathlib.Path | str, meta: Mapping[str, Any], domain: str, names: Sequence[str], remedy: str
) -> np.ndarray:
    """Train id of every row of a domain in a file of label embeddings, by the domain's class names.

    Args:
      path: of the file, for messages.
      meta: metadata of the file.
      domain: name of the domain.
      names: names of its classes, in the order of their train ids.
      remedy: end of an error message.

    Raises:
      InputError: if the file lacks the domain, or its classes and absent classes are not those of the domain.

    >>> meta = {"domains": {"city": {"classes": ["road", "car", "car"], "absent": ["sky"]}}}
    >>> row_classes("embeddings.npz", meta, "city", ["road", "sky", "car"], "give another file").tolist()
    [0, 2, 2]
    """
    if domain not in meta["domains"]:
        raise InputError(f"{path}: has no domain {domain!r}, only {', '.join(meta['domains'])}; {remedy}")
    try:
        row_names, absent = list(meta["domains"][domain]["classes"]), set(meta["domains"][domain]["absent"])
    except (KeyError, TypeError) as e:
        raise InputError(f"{path}: lacks the classes of {domain} ({e!r}); {remedy}") from e
    expected = [name for name in names if name not in absent]
    present = list(dict.fromkeys(row_names))  # a class may have several rows
    if present != expected:
        same = [a == b for a, b in zip(present, expected, strict=False)]
        i = same.index(False) if False in same else len(same)
        was, wanted = (repr(c[i]) if i < len(c) else "nothing" for c in (present, expected))
        raise InputError(f"{path}: {domain}: class {i + 1} is {was}, but {wanted} in the domain; {remedy}")
    return np.array([names.index(name) for name in row_names])


def _all_classes(rows: np.ndarray, per_class: int = 1) -> LabelEmbeddings:
    return LabelEmbeddings(rows, np.arange(len(rows)) // per_class)
