"""The report of a file of label embeddings: cosines by hand, names of rows, the picture."""

import json

import numpy as np
import pytest
from PIL import Image

from usss_jax.errors import InputError
from usss_jax.methods.usss import cosines, label_embeddings
from usss_jax.methods.usss.label_embeddings import LabelEmbeddings

ROWS = {
    "a": np.array([[1.0, 0.0], [0.6, 0.8]], np.float32),
    "b": np.array([[0.0, 1.0], [-1.0, 0.0], [0.8, -0.6]], np.float32),
}
META = {
    "method": "prototypes: m",
    "dim": 2,
    "domains": {
        "a": {"classes": ["road", "sky"], "absent": ["car"], "counts": {"road": 5, "sky": 7, "car": 0}},
        "b": {"classes": ["tree", "tree", "wall"], "absent": []},
    },
}


def report(**changes):
    return cosines.compare(ROWS, {**META, **changes}, {"a": np.array([0.7, 0.2])})


def test_cosines_between_all_rows():
    got = report()
    expected = [
        [1, 0.6, 0, -1, 0.8],
        [0.6, 1, 0.8, -0.6, 0],
        [0, 0.8, 1, 0, -0.6],
        [-1, -0.6, 0, 1, -0.8],
        [0.8, 0, -0.6, -0.8, 1],
    ]
    np.testing.assert_allclose(got["cosines"], expected, atol=1e-4)


def test_rows_are_numbered_where_classes_have_several():
    assert report()["rows"] == ["a:road", "a:sky", "b:tree:0", "b:tree:1", "b:wall:0"]


def test_nearest_class_takes_the_best_of_its_rows():
    nearest = report()["nearest"]
    assert nearest["a:road"] == {"b": {"class": "wall", "cosine": pytest.approx(0.8, abs=1e-4)}}
    assert nearest["a:sky"] == {"b": {"class": "tree", "cosine": pytest.approx(0.8, abs=1e-4)}}
    assert nearest["b:tree"] == {"a": {"class": "sky", "cosine": pytest.approx(0.8, abs=1e-4)}}
    assert nearest["b:wall"]["a"]["class"] == "road"


def test_variance_counts_and_absent_classes_of_every_domain():
    domains = report()["domains"]
    assert domains["a"]["explained_variance"] == [0.7, 0.2]
    assert domains["a"]["explained_variance_cumulative"] == [0.7, 0.9]
    assert domains["a"]["absent"] == ["car"] and domains["a"]["counts"]["sky"] == 7
    assert "explained_variance" not in domains["b"]


@pytest.mark.parametrize(
    ("method", "told"),
    [
        ("prototypes: x", "unrelated spaces"),
        ("words: x", "as meaningful as within a domain"),
        ("random: x", "their cosines mean nothing"),
        ("of the file x", "depends on how it was made"),
    ],
)
def test_note_says_what_cosines_between_domains_mean(method, told):
    assert told in report(method=method)["note"]


def test_files_are_written_beside_the_embeddings(tmp_path):
    made = {d: LabelEmbeddings(e, np.arange(len(e))) for d, e in ROWS.items()}
    label_embeddings.save(tmp_path / "label_embeddings.npz", made, META)
    label_embeddings.write_cosines(tmp_path / "label_embeddings.npz")
    content = json.loads((tmp_path / "cosines.json").read_text())
    assert len(content["cosines"]) == len(content["rows"]) == 5
    picture = np.asarray(Image.open(tmp_path / "cosines.png"))
    assert picture.shape[2] == 3 and min(picture.shape[:2]) >= 5 * 24
    red = np.rint(cosines.colors(np.ones((1, 1)))[0, 0])
    assert (picture == red).all(-1).sum() > 5 * 20 * 20  # at least the diagonal's cells
    with pytest.raises(InputError, match=r"absent\.npz"):
        label_embeddings.write_cosines(tmp_path / "absent.npz")
