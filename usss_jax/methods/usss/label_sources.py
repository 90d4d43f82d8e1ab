"""Label embeddings that need no network (appendix B.4 of the paper): random ones, word vectors, those of a file."""

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
    """Raise InputError unless the config's `label_embeddings` is understood and its file, if any, is there."""
    path = source.removeprefix(WORDS)
    if source.startswith(WORDS) and embeddings_per_class > 1:
        raise InputError(
            f"usss.embeddings_per_class={embeddings_per_class}: {WORDS}FILE gives one vector per class; "
            f"set it to 1, or usss.label_embeddings to {PROTOTYPES} or {RANDOM}"
        )
    if source.endswith(".npz") and embeddings_per_class > 1:
        raise InputError(
            f"usss.embeddings_per_class={embeddings_per_class}: {source} has what it has per class; "
            "set it to 1, which takes all rows of the file"
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
    """Make the label embeddings of every domain by the config's `label_embeddings`, other than "prototypes".

    Args:
      source: "random", "words:FILE" or the path of an .npz file.
      classes: class names by domain.
      dim: d.
      seed: of random ones.
      embeddings_per_class: K of random ones; 1 for words, which have one, and a file, which has what it has.
      theta: of Eq. 7; below 1 a file may have one row per class only.

    Returns:
      Embeddings by domain, and what the file that keeps them says: "method", "dim", "domains".

    Raises:
      InputError: if the file cannot be read or does not fit the domains, or for several embeddings per class where
        there cannot be any.
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
                f"usss.theta={theta:g}: Eq. 7 moves class means; set usss.theta=1, or give a file with one row each"
            )
    about = {
        domain: {"classes": [names[i] for i in made[domain].class_ids], "absent": absent[domain]}
        for domain, names in classes.items()
    }
    return made, {"method": method, "dim": dim, "domains": about}


def random_rows(count: int, dim: int, seed: int, domain: str) -> np.ndarray:
    """Random directions, float32 [count, dim] with rows of unit length, that depend on no other domain."""
    # RandomState's streams are the same in every version of NumPy.
    state = np.random.RandomState(zlib.crc32(f"label embeddings/{seed}/{domain}".encode()))
    rows = state.standard_normal((count, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def from_words(path: str, classes: Mapping[str, Sequence[str]], dim: int) -> tuple[dict[str, LabelEmbeddings], str]:
    """Means of the word vectors of every class name, and how they were made; classes alike in name are alike."""
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
    """Label embeddings that `label_embeddings.save` wrote, of these domains and more, and how they were made.

    Classes that the file calls absent are left out, as with prototypes.

    Raises:
      InputError: naming what differs: domains, class names in their order, dimension, or rows not of unit length.
    """
    rows, meta = label_embeddings.load(path, "give a file as runs leave it in prototypes/")
    made = {}
    for domain, names in classes.items():
        ids = row_classes(path, meta, domain, names, "give another file")
        shape = (len(ids), dim)
        if rows[domain].shape != shape:
            its = f"set usss.embed_dim={rows[domain].shape[-1]}, or " if len(rows[domain]) == len(ids) else ""
            raise InputError(
                f"{path}: {domain}: embeddings are {rows[domain].shape}, not {shape}; {its}give another file"
            )
        if not (np.abs(np.linalg.norm(rows[domain], axis=1) - 1) < 1e-3).all():  # nan too
            raise InputError(f"{path}: {domain}: embeddings are not of unit length; divide each by its length")
        made[domain] = LabelEmbeddings(rows[domain].astype(np.float32), ids)
    return made, f"of the file {path}: {meta.get('method', 'it does not say how they were made')}"


def row_classes(
    path: pathlib.Path, meta: Mapping[str, Any], domain: str, names: Sequence[str], remedy: str
) -> np.ndarray:
    """Train ids of a domain's rows in a file of label embeddings that says `meta`, by the domain's class names.

    Raises:
      InputError: if the file lacks the domain, or a class of it that it does not call absent, or has others; `remedy`
        says what to do then.
    """
    if domain not in meta["domains"]:
        raise InputError(f"{path}: has no domain {domain!r}, only {', '.join(meta['domains'])}; {remedy}")
    try:
        theirs, absent = list(meta["domains"][domain]["classes"]), set(meta["domains"][domain]["absent"])
    except (KeyError, TypeError) as e:
        raise InputError(f"{path}: does not say the classes of {domain} ({e!r}); {remedy}") from e
    expected = [name for name in names if name not in absent]
    present = list(dict.fromkeys(theirs))  # a class may have several rows
    if present != expected:
        same = [a == b for a, b in zip(present, expected, strict=False)]
        i = same.index(False) if False in same else len(same)
        was, wanted = (repr(c[i]) if i < len(c) else "nothing" for c in (present, expected))
        raise InputError(f"{path}: {domain}: class {i + 1} is {was}, where the domain has {wanted}; {remedy}")
    return np.array([names.index(name) for name in theirs])


def _all_classes(rows: np.ndarray, per_class: int = 1) -> LabelEmbeddings:
    return LabelEmbeddings(rows, np.arange(len(rows)) // per_class)
