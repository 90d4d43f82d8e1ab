"""Prediction from the folder of a finished run: real files in, label maps, pictures and shares out."""

import io
import json
import os
import pathlib
import shutil
import subprocess
import sys

import cv2
import jax
import numpy as np
import pytest
import toy
from PIL import Image, ImageOps
from png_files import GREY, RGBA, chunk, png
from small_files import complaint, smooth
from tiny_runs import environment

import usss_jax
from usss_jax.data.domains import get_domain
from usss_jax.data.headers import read_header
from usss_jax.data.photographs import decode_photograph, upright_size
from usss_jax.errors import InputError
from usss_jax.evaluation.evaluate import predict
from usss_jax.inference import predictor
from usss_jax.inference.files import predict_files
from usss_jax.models.variables import random_variables, seed_bits
from usss_jax.runs.checkpoint import Checkpoints
from usss_jax.runs.networks import build_network, describe_network

DOMAINS = ("city_street", "town_street")
SIZE = (48, 72)


def write_job(folder, domains=DOMAINS, seed=0):
    """Folder of a finished job with a random network, as training leaves it."""
    config = toy.config()
    network = describe_network(config, {name: get_domain(name) for name in domains})
    variables = random_variables(build_network(network), seed_bits(seed))
    checkpoints = Checkpoints(folder / "best")
    checkpoints.save(2, {"variables": variables}, {"network": network})
    (folder / "config.json").write_text(json.dumps({"job": folder.name, **config.to_dict()}))
    (folder / "summary.json").write_text(json.dumps({"best_step": 2, "domains": {}}))
    return folder


@pytest.fixture(scope="module")
def run(toy_encoder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "toy"
    write_job(folder / "full")
    (folder / "config.json").write_text(json.dumps(toy.config().to_dict()))
    return folder


@pytest.fixture(scope="module")
def loaded(run):
    return usss_jax.load(run / "full")


def save(path, image, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, **options)
    return path


def refusal(*arguments, **options):
    with pytest.raises(InputError) as error:
        predict_files(*arguments, **options)
    return complaint(error)


def labels_in(path):
    with Image.open(path) as image:
        assert image.mode == "P"
        return np.asarray(image), np.asarray(image.getpalette()).reshape(-1, 3)


# ---- sizes ----------------------------------------------------------------------------------------------


def test_labels_are_those_of_evaluation_and_pictures_show_every_domain(run, loaded, tmp_path, capsys):
    images = {name: smooth(i, SIZE) for i, name in enumerate("abc")}
    for name, image in images.items():
        save(tmp_path / "photos" / f"{name}.png", image)
    predict_files(run, "all", str(tmp_path / "photos"), tmp_path / "out", batch_size=2)
    assert f"{run / 'full' / 'best' / '2'} predicts city_street, town_street on 1 device" in capsys.readouterr().out
    found = json.loads((tmp_path / "out" / "predictions.json").read_text())
    batch = np.stack(list(images.values()))
    for domain in DOMAINS:
        want = np.asarray(predict(loaded.variables, batch, domain=domain, model=loaded.model))
        assert len(np.unique(want)) > 1
        for name, labels in zip(images, want, strict=True):
            got, palette = labels_in(tmp_path / "out" / "labels" / domain / f"{name}.png")
            np.testing.assert_array_equal(got, labels)
            colors = [one.color for one in get_domain(domain).classes]
            assert [tuple(palette[i]) for i in np.unique(got)] == [colors[i] for i in np.unique(got)]
            shares = found["images"][name]["shares"][domain]
            assert shares == {c: (labels == i).mean() for i, c in enumerate(get_domain(domain).class_names)}
    assert sorted(found["images"]) == ["a", "b", "c"] and found["checkpoint"] == "full/best/2"
    with Image.open(tmp_path / "out" / "overlays" / "a.png") as picture:
        assert picture.width > 3 * SIZE[1]  # image and two overlays


def test_windows_give_what_the_whole_image_gives(loaded):
    """The network sees fewer than 32 pixels around a pixel, half of the overlap of these windows."""
    image = smooth(3, (320, 608))
    assert loaded.windows_of((320, 608), 256) == 256
    whole, parts = (loaded.probabilities(image, "city_street", window=window) for window in (None, 256))
    np.testing.assert_allclose(parts, whole, atol=1e-5)
    top = np.sort(whole, axis=-1)
    clear = top[..., -1] - top[..., -2] > 1e-4
    labels = loaded.predict(image, "city_street", window=256)
    assert clear.mean() > 0.9 and (labels == whole.argmax(-1))[clear].all()


def test_padding_an_image_would_change_its_labels(loaded):
    """Why images are not padded to common sizes."""
    image = smooth(4, SIZE)
    padded = np.pad(image, [(0, 16), (0, 16), (0, 0)])
    alone = loaded.probabilities(image, "city_street")
    assert np.abs(loaded.probabilities(padded, "city_street")[: SIZE[0], : SIZE[1]] - alone).max() > 1e-3


def test_large_images_are_predicted_by_windows_and_this_is_told(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(predictor, "WHOLE_PIXELS", 60 * 60)
    monkeypatch.setattr(predictor, "WINDOW", 40)
    save(tmp_path / "large.png", smooth(0, (100, 90)))
    predict_files(run, "city_street", str(tmp_path / "large.png"), tmp_path / "out")
    assert "predicted by windows of 40x40" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "predictions.json").read_text())["images"]["large"]["window"] == 40
    assert labels_in(tmp_path / "out" / "labels" / "city_street" / "large.png")[0].shape == (100, 90)


def test_sizes_that_cannot_be_predicted_are_refused_by_the_header(run, tmp_path, monkeypatch):
    small = save(tmp_path / "small.png", np.zeros((1, 1, 3), np.uint8))
    text = refusal(run, "all", str(small), tmp_path / "out")
    assert "is 1x1; the smallest image for this network is 8x8" in text
    huge = tmp_path / "huge.png"
    side = (40000).to_bytes(4, "big")
    parts = [(b"IHDR", side + side + bytes([8, 2, 0, 0, 0])), (b"IDAT", b""), (b"IEND", b"")]
    huge.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))
    text = refusal(run, "all", str(huge), tmp_path / "out")
    assert "40000x40000 (height x width), more than 537 million pixels" in text
    large = save(tmp_path / "large.png", np.zeros((4100, 4100), np.uint8))
    text = refusal(run, "all", str(large), tmp_path / "out", probabilities=True)
    assert "more than 17 million pixels" in text and not (tmp_path / "out").exists()
    assert "window=24: give at least 32 pixels" in refusal(run, "all", str(large), tmp_path / "out", window=24)


def test_out_of_memory_goes_on_with_windows(run, tmp_path, monkeypatch, capsys):
    """A device that holds 64x64 pixels at once."""
    whole = predictor.Predictor._call

    def call(self, kind, images, domains):
        if images[..., 0].size > 64 * 64:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
        return whole(self, kind, images, domains)

    monkeypatch.setattr(predictor.Predictor, "_call", call)
    for i in range(2):
        save(tmp_path / "photos" / f"{i}.png", smooth(i, (80, 96)))
    predict_files(run, "city_street", str(tmp_path / "photos"), tmp_path / "out", window=64)
    told = capsys.readouterr().out
    assert "from here on, one image at a time by windows of 32x32" in told and "by windows of 16" not in told
    found = json.loads((tmp_path / "out" / "predictions.json").read_text())["images"]
    assert [one["window"] for one in found.values()] == [32, 32]


# ---- files ----------------------------------------------------------------------------------------------


def test_any_photograph_is_converted_and_this_is_told(run, loaded, tmp_path, capsys):
    """Against Pillow's conversion of the same file."""
    image = Image.fromarray(smooth(0, SIZE))
    exif = Image.Exif()
    exif[0x0112] = 6
    sixteen = np.asarray(image).astype(np.uint16) * 257
    clear = np.dstack([np.asarray(image), np.resize(np.arange(256, dtype=np.uint8), SIZE)])
    black = Image.new("RGBA", image.size, (0, 0, 0, 255))
    black.alpha_composite(Image.fromarray(clear))
    photos = tmp_path / "photos"
    want = {"grey": image.convert("L").convert("RGB"), "deep": image, "clear": black.convert("RGB")}
    save(photos / "grey.png", image.convert("L"))
    cv2.imwrite(str(photos / "deep.png"), sixteen[:, :, ::-1])
    save(photos / "clear.png", clear)
    save(photos / "turned.jpg", image, exif=exif)
    save(photos / "inks.jpg", image.convert("CMYK"), quality=95)
    with Image.open(photos / "turned.jpg") as turned:
        want["turned"] = ImageOps.exif_transpose(turned).convert("RGB")
    predict_files(run, "city_street", str(photos), tmp_path / "out")
    told = capsys.readouterr().out
    for what in ("grey to RGB", "16 to 8 bits", "transparency onto black", "as EXIF says", "CMYK to RGB"):
        assert f"{what}, 1 image such as {photos}" in told
    for name, picture in want.items():
        got, _ = labels_in(tmp_path / "out" / "labels" / "city_street" / f"{name}.png")
        np.testing.assert_array_equal(got, loaded.predict(np.asarray(picture), "city_street"))
    data = (photos / "inks.jpg").read_bytes()
    inks = decode_photograph(data, read_header(data, "inks.jpg"), "inks.jpg")
    assert np.abs(inks.astype(int) - np.asarray(image)).max() < 16  # inks are the complements of the colours


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_turned_as_by_pillow(orientation):
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    Image.fromarray(smooth(0)).save(file, "PNG", exif=exif)
    header = read_header(file.getvalue(), "a.png")
    got = decode_photograph(file.getvalue(), header, "a.png")
    with Image.open(file) as image:
        np.testing.assert_array_equal(got, np.asarray(ImageOps.exif_transpose(image)))
    assert upright_size(header) == got.shape[:2]


def test_transparent_levels_and_16_bit_alpha_are_put_on_black():
    grey, alpha = np.array([[0, 200]]), np.array([[0x8000, 0xFFFF]])
    data = png(grey, GREY, chunks=[(b"tRNS", bytes([0, 200]))])
    assert decode_photograph(data, read_header(data, "a.png"), "a.png")[0, :, 0].tolist() == [0, 0]
    data = png(np.dstack([grey * 257] * 3 + [alpha]), RGBA, bits=16)
    assert decode_photograph(data, read_header(data, "a.png"), "a.png")[0, :, 0].tolist() == [0, 200]
    data = png(grey * 257, GREY, bits=16, chunks=[(b"tRNS", bytes([200, 200]))])
    with pytest.raises(InputError, match="16-bit grey with a transparent level"):
        decode_photograph(data, read_header(data, "a.png"), "a.png")


def test_inputs_of_the_same_stem_keep_their_own_outputs(run, tmp_path):
    for i, name in enumerate(("a.png", "a.jpg", "sub/a.png")):
        save(tmp_path / "photos" / name, smooth(i, SIZE))
    predict_files(run, "city_street", str(tmp_path / "photos"), tmp_path / "out")
    labels = tmp_path / "out" / "labels" / "city_street"
    assert {p.relative_to(labels).as_posix() for p in labels.rglob("*.png")} == {
        "a.png.png",
        "a.jpg.png",
        "sub/a.png.png",
    }


def test_pattern_names_files_of_several_folders(run, tmp_path):
    for i, name in enumerate(("x/left.png", "y/left.png", "y/right.png")):
        save(tmp_path / name, smooth(i, SIZE))
    predict_files(run, "city_street", str(tmp_path / "*" / "left.png"), tmp_path / "out", probabilities=True)
    kept = tmp_path / "out" / "probabilities" / "city_street"
    assert {p.relative_to(kept).as_posix() for p in kept.rglob("*.npz")} == {"x/left.npz", "y/left.npz"}
    with np.load(kept / "x" / "left.npz") as content:
        likely, classes = content["probabilities"], content["classes"]
    assert likely.shape == (*SIZE, len(classes)) and np.abs(likely.astype(float).sum(-1) - 1).max() < 0.01
    labels, _ = labels_in(tmp_path / "out" / "labels" / "city_street" / "x" / "left.png")
    np.testing.assert_allclose(np.take_along_axis(likely, labels[..., None], -1)[..., 0], likely.max(-1), atol=1e-3)


def test_damaged_file_is_told_before_any_prediction(run, tmp_path):
    save(tmp_path / "photos" / "a.png", smooth(0, SIZE))
    whole = save(tmp_path / "photos" / "b.png", smooth(1, SIZE)).read_bytes()
    (tmp_path / "photos" / "b.png").write_bytes(whole[: len(whole) // 2])
    assert "b.png: is truncated; restore it, or leave it out" in refusal(
        run, "all", str(tmp_path / "photos"), tmp_path / "out"
    )
    assert not (tmp_path / "out").exists()


def test_interrupted_call_leaves_no_summary_of_another(run, tmp_path, monkeypatch):
    """Labels of an earlier call stay, but predictions.json, which stands for all files, is gone."""
    save(tmp_path / "photos" / "a.png", smooth(0, SIZE))
    predict_files(run, "city_street", str(tmp_path / "photos"), tmp_path / "out")
    assert (tmp_path / "out" / "predictions.json").exists()
    damaged = bytearray(save(tmp_path / "photos" / "b.jpg", smooth(1, SIZE)).read_bytes())
    at = damaged.index(b"\xff\xda")
    damaged[at + 2 : -2] = bytes(len(damaged) - at - 4)  # its pixels alone
    (tmp_path / "photos" / "b.jpg").write_bytes(damaged)
    assert "b.jpg: cannot be decoded" in refusal(run, "city_street", str(tmp_path / "photos"), tmp_path / "out")
    assert not (tmp_path / "out" / "predictions.json").exists()
    assert (tmp_path / "out" / "labels" / "city_street" / "a.png").exists()


def test_inputs_that_are_none_are_told(run, tmp_path):
    out, photos = tmp_path / "out", tmp_path / "photos"
    photos.mkdir()
    assert "no PNG or JPEG file" in refusal(run, "all", str(photos), out)
    (photos / "notes.txt").write_text("no image")
    assert "1 other file" in refusal(run, "all", str(photos), out)
    assert "notes.txt: is not a PNG or JPEG file" in refusal(run, "all", str(photos / "notes.txt"), out)
    assert "no file matches" in refusal(run, "all", str(photos / "*.png"), out)
    assert "no such file" in refusal(run, "all", str(tmp_path / "nothing"), out)
    save(photos / "a.png", smooth(0, SIZE))
    assert "is in the folder --input" in refusal(run, "all", str(photos), photos / "out")
    assert "a.png of --input is in it" in refusal(run, "all", str(photos / "*.png"), photos)
    assert "give one of city_street, town_street, all" in refusal(run, "camvid", str(photos), out)


# ---- runs -----------------------------------------------------------------------------------------------


def test_run_stands_for_its_last_job_with_all_decoders(run, tmp_path):
    workdir = tmp_path / "run"
    for second, (name, domains) in enumerate(
        {"basic": DOMAINS, "full": DOMAINS, "single_city_street": DOMAINS[:1]}.items()
    ):
        job = write_job(workdir / name, domains)
        os.utime(job / "summary.json", (1e9 + second, 1e9 + second))
    shutil.copy(run / "config.json", workdir)
    assert usss_jax.load(workdir).checkpoint == "full/best/2"
    (workdir / "full" / "summary.json").unlink()  # half finished
    assert usss_jax.load(workdir).job == workdir / "basic"
    (workdir / "basic" / "summary.json").unlink()
    assert list(usss_jax.load(workdir).domains) == ["city_street"]
    with pytest.raises(InputError, match="full is not finished: run its command again"):
        usss_jax.load(workdir / "full")
    (workdir / "single_city_street" / "summary.json").unlink()
    with pytest.raises(InputError, match="no network of this run is finished"):
        usss_jax.load(workdir)
    with pytest.raises(InputError, match="there is no such folder"):
        usss_jax.load(tmp_path / "nothing")


# ---- videos ---------------------------------------------------------------------------------------------


def write_video(path, frames):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 5, frames[0].shape[1::-1])
    for frame in frames:
        writer.write(np.ascontiguousarray(frame[:, :, ::-1]))
    writer.release()
    return str(path)


def test_video_becomes_a_video_of_as_many_frames(run, loaded, tmp_path):
    path = write_video(tmp_path / "drive.mp4", [smooth(i, SIZE) for i in range(5)])
    predict_files(run, "all", path, tmp_path / "out", batch_size=2)
    made = cv2.VideoCapture(str(tmp_path / "out" / "videos" / "drive.mp4"))
    assert made.get(cv2.CAP_PROP_FRAME_COUNT) == 5 and made.get(cv2.CAP_PROP_FPS) == 5
    found = json.loads((tmp_path / "out" / "predictions.json").read_text())["videos"]["drive"]
    read, counts = cv2.VideoCapture(path), np.zeros(get_domain("city_street").num_classes)
    for _ in range(5):
        labels = loaded.predict(read.read()[1][:, :, ::-1], "city_street")
        counts += np.bincount(labels.ravel(), minlength=len(counts))
    np.testing.assert_allclose(list(found["shares"]["city_street"].values()), counts / counts.sum(), atol=1e-4)
    assert [p.name for p in (tmp_path / "out" / "videos").iterdir()] == ["drive.mp4"]


def test_video_without_frames_is_told(run, tmp_path):
    (tmp_path / "empty.mp4").write_bytes(b"no video")
    assert "no frame of this video can be read" in refusal(run, "all", str(tmp_path / "empty.mp4"), tmp_path / "out")
    path = write_video(tmp_path / "drive.mp4", [smooth(0, SIZE)])
    text = refusal(run, "all", path, tmp_path / "out", probabilities=True)
    assert "are written for images, not for a video" in text


# ---- the command ----------------------------------------------------------------------------------------


def command(*words, devices=1):
    script = pathlib.Path(__file__).parent / "tiny_command.py"
    given = [sys.executable, str(script), "predict", *words]
    return subprocess.run(given, capture_output=True, text=True, env=environment(devices))


@pytest.mark.slow
def test_command_on_several_devices_writes_what_one_device_predicts(run, loaded, tmp_path):
    for i in range(3):
        save(tmp_path / "photos" / f"{i}.png", smooth(i, SIZE))
    words = (f"--model={run}", "--domain=city_street", f"--input={tmp_path / 'photos'}", f"--output={tmp_path / 'out'}")
    done = command(*words, devices=2)
    assert done.returncode == 0 and "on 2 devices" in done.stdout, done.stderr
    for i in range(3):
        got, _ = labels_in(tmp_path / "out" / "labels" / "city_street" / f"{i}.png")
        assert (got == loaded.predict(smooth(i, SIZE), "city_street")).mean() > 0.999  # other rounding of equal scores


@pytest.mark.slow
def test_command_tells_wrong_flags_in_one_line(run, tmp_path):
    for words, told in (
        (["--model=nowhere", "--domain=all", "--input=a.png", "--output=out"], "nowhere: there is no such folder"),
        (["--domain=all"], "--model is missing"),
        ([f"--model={run}", "a.png"], "put a pattern in quotes"),
    ):
        done = command(*words)
        assert done.returncode == 2 and told in done.stderr and "Traceback" not in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
