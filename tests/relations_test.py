"""What the label spaces of a run share: counts, shares and agreements, as files."""

import csv
import json

import numpy as np
import pytest
from PIL import Image
from predict_test import DOMAINS, run, write_job  # noqa: F401  (a fixture)
from small_files import complaint, smooth

import usss_jax
from usss_jax.analysis.relations import describe, relate, row_shares
from usss_jax.errors import InputError


def test_agreement_counts_classes_with_equal_names_or_synonyms():
    """Road is seen as road, pavement (sidewalk) mostly as road; car has no partner and sky no pixel."""
    counts = np.array([[8, 2, 0], [3, 1, 0], [5, 5, 5], [0, 0, 0]])
    found = describe(counts, ["road", "pavement", "car", "sky"], ["road", "sidewalk", "sky"], ("a", "b"))
    assert set(found["matches"]) == {"road", "pavement"}
    assert found["matches"]["pavement"] == {"class": "sidewalk", "share": 0.25, "sees": "road"}
    assert found["agreement"] == {"classes": 0.5, "pixels": 9 / 14}
    assert describe(counts, list("wxyz"), list("abc"), ("a", "b"))["agreement"] is None


def test_relations_of_a_run_are_those_of_its_predictions(run, tmp_path):  # noqa: F811
    images = [smooth(seed, (40, 56)) for seed in range(3)]
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    relate(run, [str(tmp_path / "0.png"), str(tmp_path / "[12].png")], tmp_path / "out")
    predictor = usss_jax.load(run)
    labels = [predictor.predict_all(image) for image in images]
    one, other = DOMAINS
    rows, columns = (list(predictor.domains[d]["classes"]) for d in DOMAINS)
    want = np.zeros((len(rows), len(columns)), int)
    for of in labels:
        np.add.at(want, (of[one], of[other]), 1)
    written = json.loads((tmp_path / "out/relations.json").read_text())
    assert written["pairs"][f"{one} {other}"]["counts"] == want.tolist() and written["images"] == 3
    assert written["pairs"][f"{other} {one}"]["counts"] == want.T.tolist()
    lines = list(csv.reader((tmp_path / f"out/{one}_{other}.csv").open()))
    assert lines[0][1:] == columns and [line[0] for line in lines[1:]] == rows
    np.testing.assert_allclose([[float(v) for v in line[1:]] for line in lines[1:]], row_shares(want), atol=1e-6)
    with Image.open(tmp_path / f"out/{one}_{other}.png") as picture:
        assert picture.height > 30 * len(rows) and picture.width > 30 * len(columns)


def test_a_network_of_one_domain_has_no_relations(toy_encoder, tmp_path):
    write_job(tmp_path / "single", DOMAINS[:1])
    with pytest.raises(InputError) as error:
        relate(tmp_path / "single", [str(tmp_path)], tmp_path / "out")
    assert "has one decoder, of city_street" in complaint(error)
