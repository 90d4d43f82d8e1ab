"""Evaluation of finished runs: protocols against independent predictions, files, and one line for bad input."""

import csv
import json
import shutil
import subprocess
import sys

import cv2
import jax
import numpy as np
import pytest
from PIL import Image
from predict_test import DOMAINS, run, write_job  # noqa: F401  (a fixture)
from scipy.special import softmax
from small_files import complaint, smooth
from tiny_runs import REPO, environment

import usss_jax
from usss_jax.analysis.score_files import evaluate_run
from usss_jax.data.domains import get_domain
from usss_jax.data.sources import open_source
from usss_jax.errors import InputError
from usss_jax.inference import scores
from usss_jax.inference.classify import create_classifier, create_protocol
from usss_jax.models.upsample import upsample

SIZE = (64, 96)


@pytest.fixture(scope="module")
def loaded(run):  # noqa: F811
    return usss_jax.load(run / "full")


def classify(predictor, images, window=None, scales=(1.0,), flip=False, classes=None):
    protocol = create_protocol(predictor, images.shape[1:3], window, scales, flip)
    labels, confidence = create_classifier(predictor, DOMAINS[0], classes, protocol)(images)
    return np.asarray(labels), np.asarray(confidence)


def assert_most_likely(found, probabilities):
    """Except where the two best classes are all but equal."""
    labels, confidence = found
    np.testing.assert_allclose(confidence, probabilities.max(-1), atol=1e-5)
    best = np.sort(probabilities, -1)
    clear = best[..., -1] - best[..., -2] > 1e-4
    assert clear.mean() > 0.9 and (labels == probabilities.argmax(-1))[clear].all()


def test_whole_images_and_windows_have_the_probabilities_of_prediction(loaded):
    images = np.stack([smooth(i, SIZE) for i in range(2)])
    for window in (None, 48):
        want = loaded.probabilities(images, DOMAINS[0], window=window)
        assert_most_likely(classify(loaded, images, window=window), want)


def test_scales_and_flips_are_averaged_as_probabilities(loaded):
    """Here by OpenCV on scores of every pixel of the scaled images."""
    image, scales, total = smooth(0, SIZE), (0.5, 1.0, 1.25), 0.0
    model, variables = loaded.model, loaded.variables
    for size in ((32, 48), (64, 96), (80, 120)):
        how = cv2.INTER_AREA if size < SIZE else cv2.INTER_LINEAR
        scaled = cv2.resize(image, size[::-1], interpolation=how)
        for flip in (False, True):
            given = scaled[:, ::-1] if flip else scaled
            features = model.apply(variables, given[None], method="encode")
            scores = model.apply(variables, features, DOMAINS[0], method="decode")
            pixels = np.array(upsample(scores, size, model.stride, model.upsample)[0])
            enlarged = np.dstack([cv2.resize(channel, SIZE[::-1]) for channel in np.moveaxis(pixels, -1, 0)])
            total = total + softmax(enlarged[:, ::-1] if flip else enlarged, axis=-1) / 6
    labels, confidence = classify(loaded, image[None], scales=scales, flip=True)
    assert_most_likely((labels[0], confidence[0]), total)


def test_candidates_are_some_classes_of_a_decoder(loaded):
    image, chosen = smooth(0, SIZE)[None], (2, 0)
    want = loaded.probabilities(image, DOMAINS[0])[..., chosen]
    assert_most_likely(classify(loaded, image, classes=chosen), want / want.sum(-1, keepdims=True))


@pytest.mark.parametrize("job", ["single_city_street", "full"])
def test_whole_images_score_as_in_the_summary(toy_run, tmp_path, job):
    """The table, its files and the Python function; with the batch size of the run, to the last bit."""
    evaluate_run(toy_run / job, "all", tmp_path)
    summary = json.loads((toy_run / job / "summary.json").read_text())
    found = json.loads((tmp_path / "evaluation.json").read_text())
    assert found["average"] == summary["average_best"] and set(found["domains"]) == set(summary["domains"])
    with np.load(toy_run / job / "test.npz") as kept:
        for name, one in found["domains"].items():
            assert one["iou"] == summary["domains"][name]["iou"]
            np.testing.assert_array_equal(one["confusion"], kept[f"best/{name}"])
    assert usss_jax.evaluate(toy_run / job, "city_street")["iou"] == found["domains"]["city_street"]["iou"]


def test_files_have_every_number_beside_its_protocol(run, tmp_path, capsys):  # noqa: F811
    evaluate_run(run, "all", tmp_path, split="val", batch_size=20, scales=(0.75, 1.0), flip=True)
    told = capsys.readouterr().out
    assert f"{run} is not finished: its last finished job full is used" in told
    written = json.loads((tmp_path / "evaluation.json").read_text())
    rows = list(csv.DictReader((tmp_path / "scores.csv").open()))
    for name in DOMAINS:
        domain, one = get_domain(name), written["domains"][name]
        text = "48 images of val, size 48x72, scales 0.75, 1, flip, whole images, full/best/2"
        text = text.replace("48x72", "x".join(map(str, domain.size)))
        assert f"{name}: {text}" in told and {"scales": [0.75, 1.0], "flip": True}.items() <= one["protocol"].items()
        source = open_source(domain, None, "val", size=domain.size)
        labels = np.stack([source.label(i) for i in range(len(source))])
        pixels = [int((labels == c).sum()) for c in range(domain.num_classes)]
        assert np.sum(one["confusion"], 1).tolist() == pixels
        assert sum(of["pixels"] for of in one["calibration"]["bins"]) == sum(pixels)
        mine = [row for row in rows if row["domain"] == name]
        assert {row["protocol"] for row in mine} == {text} and mine[-1]["class"] == "mean"
        assert [int(row["labeled_pixels"]) for row in mine] == [*pixels, sum(pixels)]
        assert float(mine[-1]["boundary_iou"]) == one["boundary"]["miou"] <= one["miou"]
        lines = list(csv.reader((tmp_path / f"{name}_confusion.csv").open()))
        assert [list(map(int, line[1:])) for line in lines[1:]] == one["confusion"] and text in lines[0][0]
        for picture in ("confusion", "reliability"):
            with Image.open(tmp_path / f"{name}_{picture}.png") as image:
                assert min(image.size) > 300


def test_a_second_run_is_compared_on_the_same_images(run, tmp_path):  # noqa: F811
    write_job(tmp_path / "other", seed=1)
    evaluate_run(run / "full", "city_street", tmp_path / "out", against=tmp_path / "other")
    written = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    one, two = written["domains"]["city_street"], written["against"]["domains"]["city_street"]
    found = written["against"]["differences"]["city_street"]["miou"]
    assert found["difference"] == pytest.approx(two["miou"] - one["miou"]) and found["difference"] != 0
    assert found["low"] <= found["difference"] <= found["high"]
    text = (tmp_path / "out" / "differences.md").read_text()
    assert "size 48x72, whole images, full/best/2; against other/best/2" in text.replace(
        "x".join(map(str, one["size"])), "48x72"
    )


def refusal(*arguments, **options):
    with pytest.raises(InputError) as error:
        evaluate_run(*arguments, **options)
    return complaint(error)


def test_what_cannot_be_evaluated_is_told(run, tmp_path):  # noqa: F811
    full, out = run / "full", tmp_path / "out"
    assert "there is no such folder" in refusal(tmp_path / "none", "all", out)
    text = refusal(full, "city_streat", out)
    assert "has no decoder for city_streat; give one of city_street, town_street, or the .yaml file" in text
    height, width = get_domain("city_street").size
    text = refusal(full, "city_street", out, window=max(height, width))
    assert f"images of {height}x{width} fit into it" in text and "smaller one" in text
    for scale in (0.0, -1.0, float("nan"), 5.0):
        assert "give factors above 0 and up to 4" in refusal(full, "city_street", out, scales=(1.0, scale))
    assert "smaller than one cell of the network, 8 pixels" in refusal(full, "all", out, scales=(0.01,))
    write_job(tmp_path / "single", DOMAINS[1:])
    text = refusal(full, "city_street", out, against=tmp_path / "single")
    assert "single has no decoder for city_street; give one of town_street" in text
    assert not out.exists()


def test_classes_of_another_decoder_are_evaluated_by_it_and_a_split_without_masks_is_refused(run, tmp_path):  # noqa: F811
    """Of 2 images, road is everywhere: the arg max is over road and sky alone."""
    for i in range(2):
        image, mask = smooth(i, (48, 72)), np.ones((48, 72), np.uint8)
        for kind, pixels in (("images", image), ("others", image), ("masks", mask)):
            (tmp_path / kind).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / kind / f"{i}.png")
    file = tmp_path / "mine.yaml"
    file.write_text(
        """name: mine
root: .
size: [48, 72]
classes:
  - {name: sky, color: [70, 130, 180], ids: [2]}
  - {name: road, color: [128, 64, 128], ids: [1]}
splits:
  train: {images: images, masks: masks}
  val: {images: others}
"""
    )
    found = usss_jax.evaluate(run / "full", str(file), split="train")
    assert found["protocol"]["text"] == "size 48x72, whole images, decoder of city_street"
    assert found["confusion"].sum(1).tolist() == [0, 2 * 48 * 72] and found["iou"]["sky"] is None
    text = refusal(run / "full", str(file), tmp_path / "out", split="val")
    assert "split 'val' of domain 'mine': it has no labels" in text
    (tmp_path / "masks" / "1.png").unlink()
    with pytest.raises(InputError, match=r"1\.png"):
        usss_jax.evaluate(run / "full", str(file), split="train")
    job = shutil.copytree(run / "full", tmp_path / "lenient")
    config = json.loads((job / "config.json").read_text())
    config["data"]["on_bad_example"] = "skip"
    (job / "config.json").write_text(json.dumps(config))
    assert usss_jax.evaluate(job, str(file), split="train")["images"] == 1


def test_too_little_memory_is_told(run, monkeypatch):  # noqa: F811
    def classify(images):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    monkeypatch.setattr(scores, "create_classifier", lambda *_: classify)
    with pytest.raises(InputError) as error:
        usss_jax.evaluate(run / "full", "city_street", batch_size=6)
    assert "too little memory for 6 images at once; give a smaller batch_size" in complaint(error)


@pytest.mark.nightly
def test_command_shares_batches_among_devices(toy_run, tmp_path):
    def call(*words):
        command = [sys.executable, str(REPO / "tests" / "tiny_command.py"), "evaluate", f"--model={toy_run}"]
        command += ["--domain=town_street", f"--output={tmp_path / 'out'}", *words]
        return subprocess.run(command, env=environment(2), capture_output=True, text=True)

    done = call("--protocol=multiscale", "--scales=1,2")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())["domains"]["town_street"]
    alone = usss_jax.evaluate(toy_run, "town_street", scales=(1.0, 2.0), flip=True)
    assert found["protocol"]["text"] == alone["protocol"]["text"] == "size 16x24, scales 1, 2, flip, whole images"
    assert np.abs(alone["confusion"] - found["confusion"]).sum() <= 4  # pixels whose two best classes are equal
    for words, why in (
        (["--protocol=sliding"], "--window is missing"),
        (["--window=16"], "--window: is for --protocol=sliding, not whole"),
        (["--protocol=multiscale", "--scales=1,b"], "--scales=1,b: give numbers"),
    ):
        wrong = call(*words)
        assert wrong.returncode == 2 and f"usss_jax: error: {why}" in wrong.stderr
