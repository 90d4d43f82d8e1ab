"""The Python API: light to import, its examples run, and a network is used without the data it was trained on."""

import doctest
import importlib
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from tiny_models import ShortMobile, ThreeLayers

import usss_jax
from usss_jax.data.sources import open_source
from usss_jax.errors import InputError
from usss_jax.models import drn, encoders

PUBLIC = sorted(set(usss_jax.__all__) - {"__version__"})


def test_importing_the_package_imports_no_jax():
    code = "import sys, usss_jax; print({'jax', 'flax', 'numpy', 'grain', 'tensorflow'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_unknown_name_is_no_attribute():
    with pytest.raises(AttributeError, match="lood"):
        _ = usss_jax.lood
    assert dir(usss_jax) == sorted([*PUBLIC, "__version__"])


def test_example_of_create_model_is_of_the_real_encoder(monkeypatch):
    monkeypatch.setitem(encoders.ENCODERS, "drn_d_22", drn.ENCODERS["drn_d_22"])  # `here` may have replaced it
    assert run_examples("create_model")


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """Folder where the example of `train` has run, with small encoders under the names of real ones."""
    folder = tmp_path_factory.mktemp("here")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(encoders.ENCODERS, "drn_d_22", ThreeLayers)
        patch.setitem(encoders.ENCODERS, "efficientnet_lite0", ShortMobile)
        patch.chdir(folder)
        assert run_examples("train") == 3
        yield folder


def run_examples(name):
    """Run the examples of a public function; their number."""
    thing = getattr(usss_jax, name)
    module = importlib.import_module(thing.__module__)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for test in doctest.DocTestFinder().find(thing, name, module=module):
        failures, _ = runner.run(test)
        assert not failures
    return runner.tries


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({*PUBLIC} - {"train", "create_model"}))
def test_example_runs(name, here, monkeypatch):
    monkeypatch.chdir(here)
    assert run_examples(name)


@pytest.mark.slow
def test_method_example_runs(here, monkeypatch):
    monkeypatch.chdir(here)
    from usss_jax.inference import predictor

    results = doctest.testmod(predictor)
    assert results.attempted >= 5 and not results.failed


@pytest.mark.slow
def test_prediction_is_that_of_evaluation_wherever_the_run_lies(here, tmp_path, monkeypatch):
    """Moved, without its workdir's files and without configs/: only the folder of the job is needed."""
    job = tmp_path / "elsewhere" / "net"
    shutil.copytree(here / "runs" / "demo" / "full", job)
    monkeypatch.chdir(tmp_path)
    predictor = usss_jax.load(job)
    domain = usss_jax.get_domain("city_street")
    size = tuple(predictor.domains["city_street"]["size"])
    source = open_source(domain, None, domain.test_split, size=size)
    confusion = np.zeros((domain.num_classes,) * 2, np.int64)
    for i in range(len(source)):
        example = source[i]
        labels = predictor.predict(example["image"], domain="city_street")
        counts = example["label"] != 255
        np.add.at(confusion, (example["label"][counts], labels[counts]), 1)
    with np.load(job / "test.npz") as kept:
        np.testing.assert_array_equal(confusion, kept["best/city_street"])
    summary = json.loads((job / "summary.json").read_text())
    scores = usss_jax.evaluate(job, "city_street")
    assert scores["iou"] == summary["domains"]["city_street"]["iou"]
    np.testing.assert_array_equal(scores["confusion"], confusion)


@pytest.mark.slow
def test_batch_is_predicted_as_its_images_are(here):
    predictor = usss_jax.load(here / "runs" / "demo" / "full")
    images = np.random.default_rng(0).integers(0, 256, (2, 40, 56, 3), np.uint8)
    both = predictor.predict(images, domain="town_street")
    assert both.shape == (2, 40, 56) and both.max() < len(predictor.domains["town_street"]["classes"])
    np.testing.assert_array_equal(both[1], predictor.predict(images[1], domain="town_street"))


@pytest.mark.slow
def test_wrong_input_is_told(here, tmp_path):
    run = here / "runs" / "demo"
    predictor = usss_jax.load(run / "full")
    with pytest.raises(InputError, match="decoders for city_street, town_street"):
        predictor.predict(np.zeros((8, 8, 3), np.uint8), domain="camvid")
    with pytest.raises(InputError, match=r"float64 \[8, 8, 3\]"):
        predictor.predict(np.zeros((8, 8, 3)), domain="city_street")
    with pytest.raises(InputError, match="is not a run"):
        usss_jax.load(tmp_path)
    with pytest.raises(InputError, match="no decoder for camvid; give one of city_street"):
        usss_jax.evaluate(run / "full", "camvid")
