"""Label embeddings without a network: random, of words, of a file."""

import json

import numpy as np
import pytest

from usss_jax.errors import InputError
from usss_jax.methods.usss import label_embeddings, label_sources
from usss_jax.methods.usss.label_embeddings import LabelEmbeddings

CLASSES = {"a": ("road", "traffic light", "sky"), "b": ("sky", "car")}


@pytest.mark.parametrize("source", ["prototypes", "random"])
def test_words_of_the_field_are_understood(source):
    label_sources.check_field(source)


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("randm", "give prototypes, random, words:FILE or an .npz file"),
        ("", "give prototypes, random"),
        ("words:", "there is no file ''"),
        ("words:absent.txt", "there is no file 'absent.txt'"),
        ("absent.npz", "there is no file 'absent.npz'"),
    ],
)
def test_wrong_field_is_told(source, told):
    with pytest.raises(InputError) as error:
        label_sources.check_field(source)
    assert told in str(error.value) and f"label_embeddings={source}" in str(error.value)


def test_random_ones_depend_on_seed_and_domain_alone():
    made, meta = label_sources.make("random", CLASSES, 16, 0)
    for domain, names in CLASSES.items():
        assert made[domain].embeddings.shape == (len(names), 16) and made[domain].embeddings.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(made[domain].embeddings, axis=1), 1, rtol=1e-6)
        assert meta["domains"][domain] == {"classes": list(names), "absent": []}
    alone, _ = label_sources.make("random", {"b": CLASSES["b"]}, 16, 0)
    np.testing.assert_array_equal(alone["b"].embeddings, made["b"].embeddings)
    other, _ = label_sources.make("random", CLASSES, 16, 1)
    assert not np.allclose(other["b"].embeddings, made["b"].embeddings)
    assert not np.allclose(made["a"].embeddings[:2], made["b"].embeddings)
    assert meta["dim"] == 16 and "random" in meta["method"]
    many = label_sources.random_rows(2000, 3, 0, "d")
    assert np.abs(many.mean(0)).max() < 0.05  # every direction alike


def test_words_by_hand(tmp_path):
    path = tmp_path / "v.txt"
    path.write_text("sky 0 2\nroad 3 0\ntraffic 1 0\nlight 0 1\ncar -1 0\n")
    made, meta = label_sources.make(f"words:{path}", CLASSES, 2, 0)
    np.testing.assert_allclose(made["a"].embeddings, [[1, 0], [0.5**0.5, 0.5**0.5], [0, 1]], atol=1e-7)
    np.testing.assert_allclose(made["b"].embeddings, [[0, 1], [-1, 0]], atol=1e-7)
    np.testing.assert_array_equal(made["a"].class_ids, [0, 1, 2])
    assert meta["method"] == f"words: mean of the word vectors (2 dimensions) of {path}, unit length"
    _, wider = label_sources.make(f"words:{path}", CLASSES, 3, 0)
    assert "zeros appended" in wider["method"]
    _, narrower = label_sources.make(f"words:{path}", CLASSES, 1, 0)
    assert "random orthonormal projection" in narrower["method"]


def test_missing_word_names_file_domain_class_and_close_words(tmp_path):
    path = tmp_path / "v.txt"
    path.write_text("sky 0 2\nroad 3 0\ntraffic 1 0\nlights 0 1\ncar -1 0\n")
    with pytest.raises(InputError) as error:
        label_sources.make(f"words:{path}", CLASSES, 2, 0)
    for part in (f"words:{path}: a: ", "'traffic light'", "the word 'light'", "similar words: 'lights'"):
        assert part in str(error.value)


def write(tmp_path, about=None, dim=4, **changes):
    """A file of `save` for domain a without a traffic light, b, and one that the run lacks."""
    meta = {"method": "m", "domains": {d: {"classes": list(c), "absent": []} for d, c in CLASSES.items()}}
    meta["domains"]["a"] = {"classes": ["road", "sky"], "absent": ["traffic light"]}
    meta["domains"]["c"] = {"classes": ["x"], "absent": []}
    meta["domains"] |= about or {}
    made = {}
    for domain, one in meta["domains"].items():
        n = len(one["classes"])
        made[domain] = LabelEmbeddings(label_sources.random_rows(n, dim, 0, domain), np.arange(n))
    made |= changes
    label_embeddings.save(tmp_path / "e.npz", made, meta)
    return tmp_path / "e.npz", made


def test_file_of_another_run(tmp_path):
    path, written = write(tmp_path)
    made, meta = label_sources.make(str(path), CLASSES, 4, 0)
    assert list(made) == ["a", "b"]
    np.testing.assert_array_equal(made["a"].embeddings, written["a"].embeddings)
    np.testing.assert_array_equal(made["a"].class_ids, [0, 2])
    assert meta["domains"]["a"] == {"classes": ["road", "sky"], "absent": ["traffic light"]}
    assert meta["domains"]["b"] == {"classes": ["sky", "car"], "absent": []}
    assert meta["method"] == f"of the file {path}: m"
    json.dumps(meta)


def test_file_may_have_several_rows_of_a_class(tmp_path):
    path, _ = write(tmp_path, {"b": {"classes": ["sky", "sky", "car"], "absent": []}})
    made, _ = label_sources.make(str(path), CLASSES, 4, 0)
    np.testing.assert_array_equal(made["b"].class_ids, [0, 0, 1])


@pytest.mark.parametrize(
    ("about", "told"),
    [
        ({"b": {"classes": ["car", "sky"], "absent": []}}, "b: class 1 is 'car', but 'sky' in the domain"),
        ({"b": {"classes": ["sky"], "absent": []}}, "b: class 2 is nothing, but 'car' in the domain"),
        ({"b": {"classes": ["sky", "car", "dog"], "absent": []}}, "b: class 3 is 'dog', but nothing in the domain"),
        ({"b": {"classes": ["sky", "car"]}}, "lacks the classes of b"),
    ],
)
def test_file_of_other_classes_is_told(tmp_path, about, told):
    path, _ = write(tmp_path, about)
    with pytest.raises(InputError) as error:
        label_sources.make(str(path), CLASSES, 4, 0)
    assert told in str(error.value) and str(path) in str(error.value)


def test_file_of_another_dimension_domain_or_length_is_told(tmp_path):
    path, _ = write(tmp_path)
    with pytest.raises(InputError, match=r"a: embeddings are \(2, 4\), not \(2, 5\); set usss.embed_dim=4, or"):
        label_sources.make(str(path), CLASSES, 5, 0)
    with pytest.raises(InputError, match="has no domain 'd', only a, b, c"):
        label_sources.make(str(path), {"d": ("x",)}, 4, 0)
    for value in (2.0, np.nan):
        path, _ = write(tmp_path, b=LabelEmbeddings(np.full((2, 4), value, np.float32), np.arange(2)))
        with pytest.raises(InputError, match="b: embeddings are not of unit length"):
            label_sources.make(str(path), CLASSES, 4, 0)


def test_file_that_is_none_is_told(tmp_path):
    for content in (b"", b"PK\x03\x04 nothing", b"text"):
        (tmp_path / "e.npz").write_bytes(content)
        with pytest.raises(
            InputError, match=r"e\.npz: cannot be read as label embeddings .*give the label_embeddings.npz of a run"
        ) as e:
            label_sources.make(str(tmp_path / "e.npz"), CLASSES, 4, 0)
        assert "pickle" not in str(e.value)  # NumPy advises to load it unsafely
    with open(tmp_path / "e.npz", "wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(InputError, match="cannot be read as label embeddings"):
        label_sources.make(str(tmp_path / "e.npz"), CLASSES, 4, 0)


def test_random_ones_may_be_several_per_class():
    made, meta = label_sources.make("random", CLASSES, 16, 0, embeddings_per_class=3)
    assert len(np.unique(made["b"].embeddings, axis=0)) == 6
    assert "3 per class" in meta["method"]


def test_several_of_words_are_refused(tmp_path):
    path = tmp_path / "v.txt"
    path.write_text("sky 0 2\n")
    for call in (
        lambda: label_sources.check_field(f"words:{path}", 3),
        lambda: label_sources.make(f"words:{path}", CLASSES, 2, 0, 3),
    ):
        with pytest.raises(InputError, match="embeddings_per_class=3: words:FILE gives one vector per class"):
            call()


def test_a_number_of_rows_per_class_is_refused_beside_a_file_which_has_its_own(tmp_path):
    path, _ = write(tmp_path, {"b": {"classes": ["sky", "sky", "car"], "absent": []}})
    for call in (
        lambda: label_sources.check_field(str(path), 5),
        lambda: label_sources.make(str(path), CLASSES, 4, 0, embeddings_per_class=5),
    ):
        with pytest.raises(InputError, match=r"embeddings_per_class=5: .*e\.npz are taken as they are"):
            call()


def test_file_with_several_rows_of_a_class_is_refused_where_label_embeddings_move(tmp_path):
    path, _ = write(tmp_path, {"b": {"classes": ["sky", "sky", "car"], "absent": []}})
    with pytest.raises(
        InputError, match=r"e\.npz: b has several rows per class, but usss\.theta=0\.5 moves class means"
    ) as error:
        label_sources.make(str(path), CLASSES, 4, 0, theta=0.5)
    assert "\n" not in str(error.value)
    one_each, _ = write(tmp_path)
    assert label_sources.make(str(one_each), CLASSES, 4, 0, theta=0.5)[0]["b"].class_ids.tolist() == [0, 1]
