"""ImageNet pretraining: data, crops, schedule, scores, resuming after a kill, and the weights it leaves."""

import importlib
import io
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from functools import partial

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from usss_jax.config import checked
from usss_jax.data import streams
from usss_jax.engine.optim import create_optimizer, create_schedule
from usss_jax.engine.state import create_state
from usss_jax.errors import InputError
from usss_jax.local_files import read_object
from usss_jax.methods.imagenet import batches, classify, images, plan
from usss_jax.methods.train import train
from usss_jax.models import pretrained
from usss_jax.models.universal import create_model
from usss_jax.parallel import sharding
from usss_jax.runs import encoder_weights
from usss_jax.runs.networks import load_best

pytestmark = pytest.mark.usefixtures("toy_encoder")
REPO = pathlib.Path(__file__).parent.parent
COLORS = {"n01_red": (200, 40, 40), "n02_green": (40, 200, 40), "n03_blue": (40, 40, 200)}
ENDINGS = (".JPEG", ".png", ".jpg")
# The smallest run: 24 images in batches of 8 are 3 steps an epoch.
QUICK = {
    "model.encoder": "toy",
    "model.width": 0.125,
    "imagenet.crop": 16,
    "imagenet.eval_resize": 18,
    "data.loader_threads": 2,
}
QUICK |= {"train.batch_size": 8, "train.eval_batch_size": 4}
LEARNS = {"imagenet.epochs": 15.0, "optim.lr": 0.02, "imagenet.decay_epochs": 10.0, "imagenet.eval_epochs": 3.0}


def picture(rng, color, size=None):
    """Image [h, w, 3] of noise around a colour."""
    height, width = size or rng.integers(20, 40, 2)
    return np.clip(np.asarray(color) + rng.normal(0, 20, (height, width, 3)), 0, 255).astype(np.uint8)


def encoded(image, ending=".png"):
    return cv2.imencode(ending.lower(), image[:, :, ::-1])[1].tobytes()


def write_folders(root, train=8, val=3):
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        for name, color in COLORS.items():
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                ending = ENDINGS[i % len(ENDINGS)]
                (root / split / name / f"{split}_{i}{ending}").write_bytes(encoded(picture(rng, color), ending))
    return root


class Imagenet2012(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """The form of the data set of that name, with three classes."""

    name = "imagenet2012"
    VERSION = tfds.core.Version("5.1.0")

    def _info(self):
        features = {
            "image": tfds.features.Image(encoding_format="jpeg"),
            "label": tfds.features.ClassLabel(names=list(COLORS)),
            "file_name": tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(8), "validation": self._generate_examples(3)}

    def _generate_examples(self, count):
        rng = np.random.default_rng(1)
        for name, color in COLORS.items():
            for i in range(count):
                key = f"{name}_{i}.JPEG"
                file = io.BytesIO(encoded(picture(rng, color), ".jpg"))
                yield key, {"image": file, "label": name, "file_name": key}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return write_folders(tmp_path_factory.mktemp("folders"))


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    root = tmp_path_factory.mktemp("records")
    Imagenet2012(data_dir=str(root), file_format="array_record").download_and_prepare()
    return root


def config_of(data, **fields):
    config = importlib.import_module("configs.imagenet").get_config("cpu")
    config.update_from_flattened_dict({**QUICK, "data.root": str(data), **fields})
    return config


@pytest.fixture(scope="module")
def finished(toy_encoder, folders, tmp_path_factory):
    """Workdir and summary of a run of 45 steps."""
    workdir = tmp_path_factory.mktemp("finished")
    return workdir, train(config_of(folders, **LEARNS), workdir)["classifier"]


# ---- The whole run --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_separable_classes_are_learned(finished):
    """Three colours; 9 images in batches of 4 to evaluate, so that the last batch is filled up."""
    workdir, summary = finished
    assert (summary["top1_best"], summary["top5_best"]) == (1.0, 1.0)
    assert (summary["steps"], summary["classes"], summary["images"]) == (45, 3, {"train": 24, "val": 9})
    for key in ("seconds", "device", "config", "images_per_second", "data_wait_share", "top1_last", "best_step"):
        assert summary[key] is not None, key
    assert "commit" in summary
    assert read_object(workdir / "classifier/summary.json") == summary
    lines = [json.loads(line) for line in (workdir / "classifier/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "val_top1" in line] == [9, 18, 27, 36, 45]


@pytest.mark.slow
def test_weights_give_segmentation_the_same_features_bit_by_bit(finished):
    workdir, summary = finished
    mesh = sharding.create_mesh(jax.devices()[:1])
    classifier, best, network, name = load_best(workdir / "classifier", mesh)
    assert network["decoders"] == {"fc": {"classes": sorted(COLORS)}}
    assert name == f"classifier/best/{summary['best_step']}"
    tensors = pretrained.load_file(str(workdir / "encoder.safetensors"))
    assert tensors["fc.weight"].shape == (3, 64, 1, 1) and tensors["fc.bias"].shape == (3,)
    assert "layer0.0.weight" in tensors
    model = create_model("toy", {"a": 5, "b": 2}, embed_dim=4, width=0.125, normalize="imagenet")
    state, report = create_state(model, create_optimizer(create_schedule(0.1, 1)), 7, mesh, weights=tensors)
    assert set(report.unused) == {"fc.weight", "fc.bias"}
    pictures = np.random.default_rng(0).integers(0, 256, (2, 32, 40, 3), np.uint8)
    ours = jax.jit(partial(model.apply, method="encode"))(state.variables, pictures)
    theirs = jax.jit(partial(classifier.apply, method="encode"))(best, pictures)
    assert np.array_equal(np.asarray(ours), np.asarray(theirs)) and np.asarray(ours).any()
    # The head too came out right: logits from the file's fc alone.
    logits = np.asarray(theirs).mean((1, 2)) @ tensors["fc.weight"][:, :, 0, 0].T + tensors["fc.bias"]
    np.testing.assert_allclose(classify.classify(best, pictures, model=classifier), logits, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_segmentation_starts_from_the_weights(finished, tmp_path, capsys):
    config = importlib.import_module("configs.demo").get_config("drn_d_22")
    config.variants, config.data.domains, config.data.labeled_per_domain = ["single"], ["city_street"], 2
    config.data.image_size = config.data.crop_size = "16x24"
    config.data.normalize, config.model.encoder, config.model.width = "imagenet", "toy", 0.125
    config.model.pretrained = str(finished[0] / "encoder.safetensors")
    config.usss.single_steps, config.train.eval_batch_size = 1, 50
    summaries = train(config, tmp_path)
    assert summaries["single_city_street"]["steps"] == 1
    assert "tensors matched" in capsys.readouterr().out


def test_normalisation_of_the_weights_is_compared_with_the_configs(finished):
    path, mesh = str(finished[0] / "encoder.safetensors"), sharding.create_mesh(jax.devices()[:1])
    same, other = (create_model("toy", {"a": 5}, width=0.125, normalize=n) for n in ("imagenet", "none"))
    assert encoder_weights.load(path, "toy", same, mesh)
    with pytest.raises(InputError, match=r"trained with data\.normalize=encoder, here it is none"):
        encoder_weights.load(path, "toy", other, mesh)


def test_workdir_whose_config_is_no_object_is_told(folders, tmp_path):
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(InputError, match="it holds no JSON object"):
        train(config_of(folders), tmp_path)


def test_finished_run_is_not_run_again_and_belongs_to_its_config(finished, folders):
    workdir, summary = finished
    again = config_of(folders, **LEARNS, **{"train.log_every": 3})
    assert train(again, workdir) == {"classifier": summary}
    with pytest.raises(InputError, match=r"lr was 0\.02, is now 0\.5"):
        train(config_of(folders, **{**LEARNS, "optim.lr": 0.5}), workdir)


def test_workdir_belongs_to_its_images(finished, tmp_path):
    other = write_folders(tmp_path, train=9)
    with pytest.raises(InputError, match="images"):
        train(config_of(other, **LEARNS), finished[0])


def command(workdir, data, *overrides):
    fields = {**QUICK, "data.root": data, "imagenet.epochs": 20, "imagenet.eval_epochs": 7}
    fields |= {"train.checkpoint_every": 10, "train.log_every": 1}
    flags = [f"--config.{field}={value}" for field, value in fields.items()]
    config = f"--config={REPO / 'configs/imagenet.py'}:cpu"
    return [sys.executable, REPO / "tests/tiny_command.py", "main", config, f"--workdir={workdir}", *flags, *overrides]


@pytest.mark.nightly
def test_killed_run_resumes_from_its_last_checkpoint_and_ends_alike(records, tmp_path):
    """From tfds records, with colours changed in the step: the same losses and the same weights, to the last bit."""
    data, jitter = f"tfds:{records}", "--config.data.color_jitter=0.4"
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    # What the first process compiles the others take from there.
    env = {
        **os.environ,
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    there = {"cwd": REPO, "env": env}
    subprocess.run(command(unbroken, data, jitter), **there, check=True, capture_output=True)
    process = subprocess.Popen(command(broken, data, jitter), **there, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while (
        not (broken / "classifier/checkpoints/10").exists() and time.monotonic() < deadline and process.poll() is None
    ):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (broken / "classifier/summary.json").exists(), "the run ended before it could be killed"
    again = subprocess.run(command(broken, data, jitter), **there, check=True, capture_output=True, text=True)
    assert "resumes from step" in again.stdout and "resumes from step 0" not in again.stdout

    def losses(workdir):
        lines = [json.loads(line) for line in (workdir / "classifier/metrics.jsonl").read_text().splitlines()]
        return {line["step"]: line["loss"] for line in lines if "loss" in line}

    assert losses(broken) == losses(unbroken) and len(losses(broken)) == 60
    assert (broken / plan.WEIGHTS).read_bytes() == (unbroken / plan.WEIGHTS).read_bytes()


@pytest.mark.slow
def test_command_says_what_is_wrong_in_one_line(tmp_path):
    config = f"--config={REPO / 'configs/imagenet.py'}"
    words = [sys.executable, "-m", "usss_jax.main", config, f"--workdir={tmp_path}"]
    result = subprocess.run(words, cwd=REPO, capture_output=True, text=True)
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert "usss_jax: error: data.root is empty" in result.stderr


# ---- Data -----------------------------------------------------------------------------------------------


def test_labels_are_the_sorted_names_of_the_class_folders(folders):
    data = images.open_data(str(folders))
    assert data.classes == tuple(sorted(COLORS))
    for source, count in ((data.train, 24), (data.val, 9)):
        assert len(source) == count
        for i, key in enumerate(source.ids):
            example = source[i]
            assert data.classes[example["label"]] == key.split("/")[0]
            assert example["image"].mean((0, 1)).argmax() == example["label"]


def test_records_give_the_same_form_as_folders(records):
    for root in (records, records / "imagenet2012", records / "imagenet2012" / "5.1.0"):
        data = images.open_data(f"tfds:{root}")
        assert data.classes == tuple(COLORS) and (len(data.train), len(data.val)) == (24, 9)
    labels = [int(data.train[i]["label"]) for i in range(24)]
    assert sorted(labels) == sorted([0, 1, 2] * 8)
    for i in range(24):
        assert data.train[i]["image"].mean((0, 1)).argmax() == labels[i]


def test_cmyk_and_turned_photos_are_taken_as_they_are_stored():
    """ImageNet has some of both; the left half is reddish, the right half greenish."""
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:, :8], pixels[:, 8:] = (200, 30, 60), (20, 180, 90)
    turned = Image.Exif()
    turned[0x0112] = 6
    for mode, extra in (("CMYK", {}), ("RGB", {"exif": turned})):
        file = io.BytesIO()
        Image.fromarray(pixels).convert(mode).save(file, "JPEG", quality=95, **extra)
        decoded = images.decode_photo(file.getvalue(), "x.jpg")
        assert abs(decoded[4, 3].astype(int) - (200, 30, 60)).max() < 4
        assert abs(decoded[4, 12].astype(int) - (20, 180, 90)).max() < 4


def damage(root):
    path = root / "train" / "n02_green" / "train_0.JPEG"
    path.write_bytes(path.read_bytes()[:-40])
    return path


def test_damaged_image_stops_the_stream_and_is_named(tmp_path):
    path = damage(write_folders(tmp_path))
    data = images.open_data(str(tmp_path))
    stream = batches.train_batches(data.train, batches.RandomResizedCrop(16), 8, seed=0)
    iterator = streams.iterate(stream, 0, 2)
    with pytest.raises(InputError, match=f"{path}.*truncated"):
        for _ in range(3):
            next(iterator)
    iterator.close()


def test_skipping_leaves_out_what_is_damaged_and_says_so(tmp_path, capsys):
    before = images.open_data(str(write_folders(tmp_path)))
    assert before.without_bad(2).fingerprint == before.fingerprint
    path = damage(tmp_path)
    after = images.open_data(str(tmp_path)).without_bad(2)
    assert set(before.train.ids) - set(after.train.ids) == {"n02_green/train_0.JPEG"}
    assert after.fingerprint != before.fingerprint and list(after.val.ids) == list(before.val.ids)
    assert str(path) in capsys.readouterr().out


def move_val_class(root):
    (root / "val" / "n03_blue").rename(root / "val" / "n04")


def empty_class(root):
    for path in (root / "train" / "n01_red").iterdir():
        path.unlink()


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda root: (root / "val").rename(root / "test"), r"val: the folder cannot be read"),
        (empty_class, r"train/n01_red: has no images"),
        (move_val_class, r"val/n04: is not a class of .*train"),
        (
            lambda root: (root / "val" / "a.JPEG").write_bytes(b""),
            r"val: has images outside of class folders, such as a\.JPEG",
        ),
        (lambda root: (root / "train" / "n01_red" / "a.webp").write_bytes(b""), r"a\.webp: is neither PNG nor JPEG"),
    ],
)
def test_wrong_folders_are_named(spoil, expected, tmp_path):
    spoil(write_folders(tmp_path))
    with pytest.raises(InputError, match=expected):
        images.open_data(str(tmp_path))


def test_wrong_records_are_named(tmp_path, records):
    with pytest.raises(InputError, match="has no tfds data set imagenet2012"):
        images.open_data(f"tfds:{tmp_path}")
    copy = tmp_path / "imagenet2012" / "5.1.0"
    copy.mkdir(parents=True)
    for path in (records / "imagenet2012" / "5.1.0").iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    (copy / "imagenet2012-train.array_record-00000-of-00001").unlink()
    with pytest.raises(InputError, match="cannot be read"):
        images.open_data(f"tfds:{tmp_path}").train[0]


def test_fewer_images_than_the_batch_and_wrong_fields_are_refused(folders, tmp_path):
    with pytest.raises(InputError, match="encoder='resnet7' is not one of"):
        train(config_of(folders, **{"model.encoder": "resnet7"}), tmp_path)
    with pytest.raises(InputError, match="batch_size=25 exceeds the 24 training images"):
        train(config_of(folders, **{"train.batch_size": 25}), tmp_path)
    for fields, expected in (
        ({"imagenet.crop": 20}, r"imagenet\.crop=20 must be at most imagenet\.eval_resize=18"),
        ({"imagenet.min_scale": 1.5}, "min_scale"),
        ({"imagenet.epochs": 0.0}, "epochs"),
        ({"data.on_bad_example": "ignore"}, "on_bad_example"),
    ):
        with pytest.raises(InputError, match=expected):
            checked(config_of(folders, **fields))
    assert not list(tmp_path.iterdir())


# ---- Batches --------------------------------------------------------------------------------------------


def test_batch_follows_from_seed_and_step(folders):
    source, crop = images.open_data(str(folders)).train, batches.RandomResizedCrop(16)

    def batch_of(step, seed):
        return batches.train_batches(source, crop, 8, seed)[step]

    iterator = streams.iterate(batches.train_batches(source, crop, 8, 3), 4, 2)
    gone_on = next(iterator)
    iterator.close()
    for key in ("image", "label"):
        assert np.array_equal(batch_of(4, 3)[key], gone_on[key])
    assert gone_on["image"].shape == (8, 16, 16, 3) and gone_on["label"].dtype == np.int32
    assert not np.array_equal(batch_of(4, 3)["image"], batch_of(4, 5)["image"])
    assert not np.array_equal(batch_of(1, 3)["image"], batch_of(4, 3)["image"])  # an epoch later


def test_an_epoch_shows_every_image_once():
    source = images.ClassImages([str(i) for i in range(12)], lambda key: (encoded(SQUARE), int(key), key))
    stream = batches.train_batches(source, batches.RandomResizedCrop(8), 4, seed=0)
    epochs = [np.concatenate([stream[s]["label"] for s in range(3 * e, 3 * e + 3)]) for e in range(2)]
    assert all(sorted(labels) == list(range(12)) for labels in epochs)
    assert list(epochs[0]) != list(epochs[1])


SQUARE = np.full((10, 10, 3), 90, np.uint8)


def test_evaluation_fills_the_last_batch_with_examples_that_do_not_count():
    source = images.ClassImages(["0", "1", "2"], lambda key: (encoded(SQUARE), int(key), key))
    stream = batches.eval_batches(source, batches.CenterCrop(9, 8), 2)
    assert [list(stream[i]["label"]) for i in range(len(stream))] == [[0, 1], [2, -1]]
    assert all(stream[i]["image"].shape == (2, 8, 8, 3) for i in range(2))


def test_random_parts_have_permitted_areas_and_shapes():
    rng = np.random.default_rng(0)
    boxes = [batches.random_box(300, 400, 0.08, rng) for _ in range(2000)]
    for top, left, height, width in boxes:
        assert 0 <= top <= 300 - height and 0 <= left <= 400 - width
        assert 0.074 < height * width / (300 * 400) <= 1.01 and 0.73 < width / height < 1.37
    shares = np.array([h * w / (300 * 400) for _, _, h, w in boxes])
    assert shares.min() < 0.1 and shares.max() > 0.9


def test_part_of_an_image_that_no_draw_fits_is_its_centre():
    """1000 x 2 pixels: the narrowest shape has width / height 3/4, so 2 columns and 2 / 0.75 = 2.67, 3 rows."""
    assert batches.random_box(1000, 2, 0.08, np.random.default_rng(0)) == (498, 0, 3, 2)


def test_crop_for_training_flips_half_of_the_images():
    image = np.zeros((12, 12, 3), np.uint8)
    image[:, 6:] = 255
    rng = np.random.default_rng(0)
    crop, never = (batches.RandomResizedCrop(8, 0.9, flip) for flip in (True, False))
    right = [crop.random_map({"image": image}, rng)["image"][0, -1, 0] for _ in range(200)]
    assert 70 < sum(value == 255 for value in right) < 130 and set(right) == {0, 255}
    assert all(never.random_map({"image": image}, rng)["image"][0, -1, 0] == 255 for _ in range(50))


def test_centre_crop_takes_the_centre_of_the_resized_image():
    """20 x 40 pixels of 2 x 2 blocks become 10 x 20; the centre of 8 x 8 starts at row 1, column 6."""
    rows, columns = np.mgrid[:20, :40] // 2
    image = np.stack([rows, columns, rows], -1).astype(np.uint8)
    out = batches.CenterCrop(10, 8).map({"image": image, "label": 5})
    assert out["image"].shape == (8, 8, 3) and out["label"] == 5
    assert np.array_equal(out["image"][:, 0, 0], range(1, 9)) and np.array_equal(out["image"][0, :, 1], range(6, 14))


# ---- Schedule and scores --------------------------------------------------------------------------------


def test_config_has_the_schedule_of_the_drn_paper():
    """1281167 images in batches of 256 are 5004.56 steps an epoch."""
    config = importlib.import_module("configs.imagenet").get_config()
    assert (config.optim.lr, config.optim.momentum, config.optim.weight_decay) == (0.1, 0.9, 1e-4)
    assert plan.schedule(config, 1281167) == (600547, [150137, 300274, 450410], 5005)


def test_learning_rate_falls_at_its_steps():
    tx = classify.create_optimizer_with_steps(0.5, 0.1, [2, 3], momentum=0.0, weight_decay=0.0)
    params = {"w": jnp.ones(())}
    state, updates = tx.init(params), []
    for _ in range(5):
        update, state = tx.update({"w": jnp.ones(())}, state, params)
        updates.append(float(update["w"]))
    np.testing.assert_allclose(updates, [-0.5, -0.5, -0.05, -0.005, -0.005], rtol=1e-6)


class Given:
    """A model whose images [B, 1, 1, n] are its logits."""

    def apply(self, variables, x, domain=None, method=None):
        return x


def test_hits_are_counted_by_hand():
    """Ranks of the labels: 1st, 5th, 6th; the fourth image fills up the batch."""
    logits = np.array([[9, 1, 2, 3, 4, 5, 0], [7, 6, 5, 4, 3, 2, 1], [7, 6, 5, 4, 3, 2, 1], [9, 1, 2, 3, 4, 5, 0]])
    batch = {"image": logits.astype(np.float32)[:, None, None], "label": np.array([0, 4, 5, -1], np.int32)}
    hits = classify.count_hits({"params": {}}, batch, model=Given())
    assert hits.tolist() == [1, 2]
