"""Exported networks give what the network itself gives, where neither usss_jax nor flax is."""

import json
import subprocess
import sys

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image
from predict_test import DOMAINS, run, write_job  # noqa: F401  (a fixture)
from small_files import complaint, real_data, smooth
from tiny_models import assert_trees_close

import usss_jax
from usss_jax import packages
from usss_jax.config import default_config
from usss_jax.data.domains import get_domain
from usss_jax.errors import InputError
from usss_jax.export.onnx_graph import to_onnx
from usss_jax.export.program import any_images, scores_of
from usss_jax.export.write import export_network
from usss_jax.models.universal import create_model
from usss_jax.models.variables import abstract_variables, random_variables, seed_bits
from usss_jax.parallel import sharding
from usss_jax.runs.hub import read_hub, write_hub
from usss_jax.runs.networks import build_network, describe_network

# Of two sizes, one of them no multiple of the stride along any axis.
BATCHES = [np.stack([smooth(seed, size) for seed in range(count)]) for count, size in ((2, (48, 72)), (1, (45, 61)))]


@pytest.fixture(scope="module")
def hub(run, tmp_path_factory):  # noqa: F811
    folder = tmp_path_factory.mktemp("exported") / "hub"
    export_network(run, "hub", folder)
    return folder


def refusal(*arguments, **options):
    with pytest.raises(InputError) as error:
        export_network(*arguments, **options)
    return complaint(error)


def session(content):
    import onnxruntime

    return onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])


def assert_gives(predictor, outputs, images):
    """Logits whose softmax is the predictor's probabilities, and whose largest is its label."""
    assert set(outputs) == set(DOMAINS)
    for domain, logits in outputs.items():
        want = predictor.probabilities(images, domain)
        np.testing.assert_allclose(jax.nn.softmax(np.asarray(logits)), want, atol=1e-5)
        top = np.sort(want, axis=-1)
        clear = top[..., -1] - top[..., -2] > 1e-4
        assert clear.mean() > 0.9
        np.testing.assert_array_equal(np.argmax(logits, -1)[clear], predictor.predict(images, domain)[clear])


# ---- StableHLO ------------------------------------------------------------------------------------------

ALONE = """
import sys
sys.modules.update({"usss_jax": None, "flax": None, "orbax": None})
import jax, jax.export, numpy as np
with open(sys.argv[1], "rb") as file:
    exported = jax.export.deserialize(bytearray(file.read()))
assert exported.platforms == ("cpu", "cuda", "tpu")
batches = np.load(sys.argv[2])
outputs = {f"{name} {d}": of for name in batches for d, of in exported.call(batches[name]).items()}
np.savez(sys.argv[3], **outputs)
"""


@pytest.mark.slow
def test_stablehlo_runs_in_a_process_that_has_jax_alone(run, tmp_path):  # noqa: F811
    export_network(run, "stablehlo", tmp_path / "out")
    np.savez(tmp_path / "images.npz", *BATCHES)
    words = [tmp_path / "out" / "model.stablehlo", tmp_path / "images.npz", tmp_path / "scores.npz"]
    done = subprocess.run([sys.executable, "-c", ALONE, *words], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    predictor, scores = usss_jax.load(run), np.load(tmp_path / "scores.npz")
    for i, images in enumerate(BATCHES):
        assert_gives(predictor, {d: scores[f"arr_{i} {d}"] for d in DOMAINS}, images)
    about = json.loads((tmp_path / "out" / "model.json").read_text())
    assert about["input"]["shape"] == ["batch", "height", "width", 3] and about["checkpoint"] == "toy/full/best/2"
    for domain, of in about["outputs"].items():
        known = get_domain(domain)
        assert of["classes"] == list(known.class_names)
        assert of["colors"] == [list(one.color) for one in known.classes]


# ---- ONNX -----------------------------------------------------------------------------------------------


def test_onnx_gives_what_the_network_gives_at_any_size(run, tmp_path):  # noqa: F811
    export_network(run, "onnx", tmp_path)
    one = session(tmp_path / "model.onnx")
    assert one.get_inputs()[0].shape == ["batch", "height", "width", 3]
    predictor = usss_jax.load(run)
    for images in BATCHES:
        assert_gives(predictor, dict(zip(DOMAINS, one.run(list(DOMAINS), {"image": images}), strict=True)), images)


@pytest.mark.parametrize(
    "name, fields",
    [
        pytest.param("efficientnet_lite0", {"lateral": 8, "head": "dilated", "width": 0.25}, marks=pytest.mark.nightly),
        pytest.param("dinov2_vits14", {"width": 0.25}, marks=pytest.mark.nightly),
        pytest.param("mobilenet_v2", {"stride": 8, "upsample": "drn"}, marks=pytest.mark.nightly),
        pytest.param("drn_d_54", {"width": 0.25}, marks=pytest.mark.nightly),
        pytest.param("convnext_tiny", {"width": 0.25}, marks=pytest.mark.nightly),
        pytest.param("rna_a1", {"width": 0.0625}, marks=pytest.mark.nightly),
    ],
)
def test_every_encoder_is_exported_for_any_size(name, fields):
    model = create_model(name, {"one": 3, "other": 2}, **fields)
    variables = jax.device_get(jax.jit(lambda bits: random_variables(model, bits))(seed_bits(0)))

    def scores(images):
        return scores_of(images, model=model, variables=variables, domains=["other", "one"])

    names, images = ["one", "other"], BATCHES[1]
    want = jax.jit(scores)(images)
    by_onnx = session(to_onnx(scores, any_images(model), "image").SerializeToString()).run(names, {"image": images})
    by_jax = jax.export.export(jax.jit(scores))(any_images(model)).call(images)
    for i, domain in enumerate(names):
        limit = 1e-5 * float(np.abs(want[domain]).max())
        np.testing.assert_allclose(by_onnx[i], want[domain], atol=limit)
        np.testing.assert_allclose(by_jax[domain], want[domain], atol=limit)


def test_onnx_computes_sizes_as_python_does():
    """Divisions of negative sizes round down, and remainders have the sign of the divisor."""
    (height,) = jax.export.symbolic_shape("height", constraints=("height >= 2",))

    def sizes(h):
        return [-(-h // 4), (3 - h) // 5, (3 - h) % 5, h % 3, 2 * h * h - 1]

    def function(x):
        return {str(i): jnp.asarray(size, jnp.int32) for i, size in enumerate(sizes(x.shape[0]))}

    one = session(to_onnx(function, jax.ShapeDtypeStruct((height,), jnp.uint8), "x").SerializeToString())
    for h in (2, 3, 4, 8, 11):
        assert one.run(list("01234"), {"x": np.zeros(h, np.uint8)}) == sizes(h)


def test_onnx_refuses_what_it_does_not_translate():
    with pytest.raises(NotImplementedError, match="sort"):
        to_onnx(lambda x: {"y": jnp.sort(x)}, jax.ShapeDtypeStruct((3,), jnp.float32), "x")


def test_onnx_without_its_package_names_the_extra(run, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert "--format=onnx needs onnxruntime: pip install 'usss_jax[onnx]'" in refusal(run, "onnx", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_check_compares_with_the_network_on_real_images(run, tmp_path, capsys):  # noqa: F811
    images = sorted((real_data("camvid") / "val").glob("*"))[:3]
    for path in images:
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / "images" / path.name).write_bytes(path.read_bytes())
    export_network(run, "onnx", tmp_path / "out", domain=DOMAINS[1], check=str(tmp_path / "images"))
    about = json.loads((tmp_path / "out" / "model.json").read_text())
    assert list(about["outputs"]) == [DOMAINS[1]] and about["check"]["images"] == 3
    assert 0 < about["check"]["largest_difference"]["logits"] < 1e-4 and about["check"]["equal_labels"] > 0.9999
    assert "3 images: logits differ by up to" in capsys.readouterr().out


# ---- hub ------------------------------------------------------------------------------------------------


def test_a_hub_folder_predicts_bit_for_bit_what_the_run_does(run, hub):  # noqa: F811
    """Whether loaded by Python or exported again; the files are text and safetensors, nothing to execute."""
    assert sorted(path.name for path in hub.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    mine, theirs = usss_jax.load(hub), usss_jax.load(run)
    assert mine.checkpoint == "hub/model.safetensors" and mine.domains == theirs.domains
    for images in BATCHES:
        for domain in DOMAINS:
            np.testing.assert_array_equal(mine.probabilities(images, domain), theirs.probabilities(images, domain))
        assert all(np.array_equal(of, theirs.predict(images, d)) for d, of in mine.predict_all(images).items())


def test_a_network_without_batch_statistics_is_read_back(tmp_path):
    decoder = {"classes": ["road", "sky"], "colors": [[0, 0, 0], [9, 9, 9]], "size": [64, 64]}
    config = default_config("usss")
    config.model.encoder, config.model.width = "dinov2_vits14", 0.02
    network = {**describe_network(config, {}), "decoders": {"street": decoder}}
    model = build_network(network)
    variables = jax.tree.map(lambda a: np.full(a.shape, 0.5, a.dtype), abstract_variables(model))
    write_hub(tmp_path, variables, network, {})
    again, read, _, _ = read_hub(tmp_path, sharding.create_mesh(jax.devices()[:1]))
    assert again == model and read["batch_stats"] == {}
    assert_trees_close(read, variables, tolerance=0)


def test_card_says_data_scores_limits_and_licences(run, tmp_path):  # noqa: F811
    job = write_job(tmp_path / "lately" / "full")
    hashes = {"labeled images": "4, hash aaaa", "images of val": "7, hash bbbb"}
    (tmp_path / "lately" / "data.json").write_text(json.dumps({"domains": {DOMAINS[0]: hashes}, "files": {}}))
    (tmp_path / "lately" / "config.json").write_text((run / "config.json").read_text())
    scores = {"split": "val", "val_split": "val", "image_size": [48, 72], "miou_best": 0.5, "iou": {"road": 0.96}}
    other = {**scores, "split": "test", "miou_best": 0.25, "iou": {"car": 0.04, "sky": None}}
    summary = {"best_step": 2, "domains": dict(zip(DOMAINS, (scores, other), strict=True)), "split_hash": "cccc"}
    (job / "summary.json").write_text(json.dumps({**summary, "convention": "mIoU = a mean"}))
    export_network(tmp_path / "lately", "hub", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    size = "x".join(map(str, get_domain(DOMAINS[0]).size))
    assert f"| city_street | {size} | 4, hash aaaa | - | 7, hash bbbb | - |" in card and "`cccc`" in card
    assert "| city_street | val (also chose the checkpoint) | 48x72 | 50.00 |" in card
    assert "| town_street | test | 48x72 | 25.00 |" in card and "one scale, no flip; mIoU = a mean." in card
    assert "Hardly found in town_street (IoU below 10 %): car." in card and "sky absent" in card
    assert "Initial weights of the encoder: none, it was trained from random weights." in card


def test_licence_of_packaged_weights_is_that_of_the_package():
    if not packages.installed("efficientnet_lite0"):
        pytest.skip("the extra weights is not installed")
    assert packages.licence("efficientnet_lite0") == "Apache Software License 2.0"


def tampered(hub, tmp_path, change):
    """A copy of the folder after a change of its config and tensors in place."""
    config = json.loads((hub / "config.json").read_text())
    tensors = safetensors.numpy.load_file(hub / "model.safetensors")
    change(config, tensors)
    (tmp_path / "config.json").write_text(json.dumps(config))
    safetensors.numpy.save_file(tensors, tmp_path / "model.safetensors")
    return tmp_path


@pytest.mark.parametrize(
    "change, told",
    [
        (lambda c, t: c.pop("network"), "config.json: 'network' is missing"),
        (lambda c, t: c["network"].update(encoder="vgg"), "config.json: model.encoder='vgg' is not one of"),
        (lambda c, t: c["network"]["decoders"][DOMAINS[0]].update(colors=[[1, 2, 3]]), "config.json: cannot be used"),
        (lambda c, t: c["network"].update(width="wide"), "config.json: cannot be used"),
        (lambda c, t: t.popitem(), "is missing in model.safetensors, but float32"),
        (lambda c, t: t.update(extra=np.zeros(3)), "extra is float64 [3] in model.safetensors, but missing by"),
        (lambda c, t: c["network"].update(embed_dim=4), "params/embedding/bias is missing in model.safetensors"),
    ],
)
def test_a_damaged_hub_folder_is_refused_in_one_line(hub, tmp_path, change, told):
    with pytest.raises(InputError) as error:
        usss_jax.load(tampered(hub, tmp_path, change))
    assert told in complaint(error)


def test_cut_off_weights_are_refused(hub, tmp_path):
    (tmp_path / "config.json").write_bytes((hub / "config.json").read_bytes())
    (tmp_path / "model.safetensors").write_bytes((hub / "model.safetensors").read_bytes()[:-1])
    with pytest.raises(InputError) as error:
        usss_jax.load(tmp_path)
    assert "model.safetensors: cannot be read" in complaint(error)


# ---- what is refused ------------------------------------------------------------------------------------


def test_what_cannot_be_exported_is_refused_in_one_line(run, hub, tmp_path):  # noqa: F811
    assert "there is no such folder" in refusal(tmp_path / "absent", "hub", tmp_path / "out")
    assert "give one of city_street, town_street, all" in refusal(run, "onnx", tmp_path / "out", domain="moon")
    assert "has all decoders" in refusal(run, "hub", tmp_path / "out", domain=DOMAINS[0])
    assert "is a folder for a hub already" in refusal(hub, "hub", tmp_path / "out")
    assert "no file matches this pattern" in refusal(run, "onnx", tmp_path / "out", check=str(tmp_path / "*.png"))
    Image.fromarray(np.zeros((1500, 1500, 3), np.uint8)).save(tmp_path / "large.png")
    told = refusal(run, "onnx", tmp_path / "out", check=str(tmp_path / "large.png"))
    assert "large.png is too large to be predicted whole" in told
    assert not (tmp_path / "out").exists()
    assert "is not an empty folder; give another" in refusal(run, "hub", tmp_path)
    assert "is not an empty folder" in refusal(run, "hub", tmp_path / "large.png")


def test_an_unfinished_run_exports_its_finished_job_and_says_which(run, tmp_path, capsys):  # noqa: F811
    write_job(tmp_path / "run" / "basic")
    unfinished = write_job(tmp_path / "run" / "full", seed=1)
    (unfinished / "summary.json").unlink()
    (tmp_path / "run" / "config.json").write_text((run / "config.json").read_text())
    export_network(tmp_path / "run", "hub", tmp_path / "out")
    assert f"exporting {tmp_path}/run/basic/best/2 (city_street, town_street) as hub" in capsys.readouterr().out


@pytest.mark.slow
def test_an_unknown_format_lists_the_known_ones(run, tmp_path):  # noqa: F811
    words = [f"--model={run}", "--format=tflite", f"--output={tmp_path / 'out'}"]
    done = subprocess.run([sys.executable, "-m", "usss_jax.export", *words], capture_output=True, text=True)
    assert done.returncode == 2 and "stablehlo|onnx|hub" in done.stderr and "Traceback" not in done.stderr
