"""Figure 4: which classes match, the alignment of their centroids, the drawn pixels, and the whole entry."""

import dataclasses
import json
import pathlib
import shutil
import subprocess
import sys

import flax.linen as nn
import jax
import numpy as np
import pytest
from PIL import Image

from usss_jax import inference
from usss_jax.analysis import alignment, class_centroids
from usss_jax.analysis.class_matches import DomainClass, group_title, match_all, match_classes
from usss_jax.analysis.pixel_features import pixel_features, sample_pixels
from usss_jax.config import default_config
from usss_jax.data.domains import get_domain
from usss_jax.data.options import read_options
from usss_jax.errors import InputError
from usss_jax.models.encoder import Encoder
from usss_jax.models.universal import UniversalModel
from usss_jax.models.upsample import upsample
from usss_jax.parallel import sharding
from usss_jax.runs import finished
from usss_jax.runs.checkpoint import Checkpoints
from usss_jax.runs.networks import describe_network

pytestmark = pytest.mark.usefixtures("toy_encoder")

TWO = {"a": ("road", "sidewalk", "car", "sky"), "b": ("sky", "pavement", "road", "tree")}


class MeanColor(Encoder):
    """Stands for an encoder: the mean colour of every 8x8 block, in [0, 1]; no parameters."""

    out_channels = 3

    @nn.compact
    def __call__(self, x, train, groups):
        return nn.avg_pool(x, (8, 8), (8, 8))


class Memory(list):
    """Source of given examples."""


def example(blocks, labels, side=8):
    """Blocks of one colour and label each: [h, w, 3] and [h, w] -> image [8h, 8w, 3] and label [8h, 8w]."""
    grow = np.ones((side, side), np.uint8)
    image = np.stack([np.kron(np.asarray(blocks, np.uint8)[..., c], grow) for c in range(3)], axis=-1)
    return {"image": image, "label": np.kron(np.asarray(labels, np.uint8), grow)}


def titles(groups):
    return [group_title(g) for g in groups]


# ---- which classes match -------------------------------------------------------------------------------


def test_bare_name_stands_for_its_meaning_in_every_domain():
    groups = match_classes("pavement, car", TWO)
    assert [[str(c) for c in g] for g in groups] == [["a:sidewalk", "b:pavement"], ["a:car"]]


def test_equal_sign_matches_what_names_do_not():
    groups = match_classes("a:car=b:tree,a:sky,b:sky,a:road", TWO)
    assert [[str(c) for c in g] for g in groups] == [["a:car", "b:tree"], ["a:sky", "b:sky"], ["a:road"]]


def test_groups_with_a_class_of_equal_meaning_are_merged():
    groups = match_classes("a:road,b:sky,a:sky=b:road", TWO)
    assert [{str(c) for c in g} for g in groups] == [{"a:road", "b:sky", "a:sky", "b:road"}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a:raod", "a has no class 'raod'; did you mean 'road'"),
        ("a:pavement", "a has no class 'pavement'; there are road, sidewalk, car, sky"),
        ("pavemnt", "no domain has a class 'pavemnt'; did you mean 'pavement'"),
        ("c:road", "no domain 'c' in these jobs; they have a, b"),
        ("road=", "no domain has a class ''"),
    ],
)
def test_unknown_class_is_told_with_alternatives(text, message):
    with pytest.raises(InputError, match=message.replace("?", r"\?")):
        match_classes(text, TWO)


@pytest.mark.parametrize("text", ["road", "a:road,a:sky", "a:car,b:tree", "a:road,b:road,a:road"])
def test_choice_without_matching_and_other_pairs_is_bad_input(text):
    with pytest.raises(InputError, match="choose more"):
        alignment.check_pairs(match_classes(text, TWO))


# ---- the number ----------------------------------------------------------------------------------------


def hand_totals():
    """Two domains of two classes with features of two channels.

    a: 3 pixels of class 0 with mean (2, 0), 1 pixel of class 1 with (0, 2); b: 1 pixel (1, 0), 1 pixel (1, 2).
    """
    return {
        "a": {"count": np.array([3, 1]), "sum": np.array([[6.0, 0.0], [0.0, 2.0]])},
        "b": {"count": np.array([1, 1]), "sum": np.array([[1.0, 0.0], [1.0, 2.0]])},
    }


def test_alignment_equals_the_numbers_by_hand():
    """Raw: matching 1 and 2/sqrt5, other 1/sqrt5 and 0. Centred: see the vectors."""
    groups = match_classes("x,y", {"a": ("x", "y"), "b": ("x", "y")})
    result = alignment.align(hand_totals(), groups, {"a": ("x", "y"), "b": ("x", "y")})
    assert result["raw"]["matching"] == pytest.approx((1 + 2 / 5**0.5) / 2)
    assert result["raw"]["other"] == pytest.approx((1 / 5**0.5 + 0) / 2)
    assert result["raw"]["difference"] == pytest.approx((1 + 1 / 5**0.5) / 2)

    def cosine(u, v):
        return (u[0] * v[0] + u[1] * v[1]) / ((u[0] ** 2 + u[1] ** 2) * (v[0] ** 2 + v[1] ** 2)) ** 0.5

    ax, ay, bx, by = (0.75, -0.75), (-1.25, 1.25), (-0.25, -0.75), (-0.25, 1.25)
    assert result["centred"]["matching"] == pytest.approx((cosine(ax, bx) + cosine(ay, by)) / 2)
    assert result["centred"]["other"] == pytest.approx((cosine(ax, by) + cosine(ay, bx)) / 2)
    pairs = {tuple(sorted(p["classes"])): p for p in result["pairs"]}
    assert set(pairs) == {("a:x", "b:x"), ("a:x", "b:y"), ("a:y", "b:x"), ("a:y", "b:y")}
    assert pairs["a:x", "b:x"]["match"] and not pairs["a:x", "b:y"]["match"]
    assert pairs["a:y", "b:x"]["centred"] == pytest.approx(cosine(ay, bx))


@pytest.mark.parametrize("batch_size", [1, 2])
def test_sums_are_of_all_labeled_pixels(batch_size):
    """Images of one colour, so that upsampling changes nothing; three, so that the batch of 2 is filled up."""
    red, green = [255, 0, 0], [0, 255, 0]
    source = Memory(
        [example([[red, red]], [[0, 255]]), example([[green, green]], [[0, 1]]), example([[red, red]], [[1, 1]])]
    )
    model = UniversalModel(MeanColor(), {"d": 3}, normalize="none")
    totals = class_centroids.sum_classes(model, {}, source, 3, batch_size=batch_size, mesh=sharding.create_mesh())
    np.testing.assert_array_equal(totals["count"], [128, 192, 0])
    np.testing.assert_allclose(totals["sum"], [[64, 64, 0], [128, 64, 0], [0, 0, 0]], atol=1e-3)
    means = class_centroids.centroids(totals)
    np.testing.assert_allclose(means[:2], [[0.5, 0.5, 0], [2 / 3, 1 / 3, 0]], atol=1e-5)
    assert np.isnan(means[2]).all()


def test_classes_without_a_pixel_are_left_out_or_told():
    groups = match_all(TWO)
    counts = {DomainClass(d, n): 5 for d, names in TWO.items() for n in names} | {DomainClass("b", "pavement"): 0}
    kept, left_out = alignment.drop_absent(groups, counts, may_drop=True)
    assert titles(kept) == ["road", "sky"]
    assert {str(c) for c in left_out} == {"a:sidewalk", "b:pavement"}
    with pytest.raises(InputError, match="b:pavement: no labeled pixel"):
        alignment.drop_absent(groups, counts, may_drop=False)


# ---- pixels of the picture -----------------------------------------------------------------------------


def test_drawn_pixels_have_their_class_and_depend_on_the_seed():
    r = np.random.RandomState(0)
    source = Memory([{"label": r.randint(0, 3, (20, 30)).astype(np.uint8)} for _ in range(4)])
    drawn = sample_pixels(source, [0, 2], 40, seed=1)
    for c, places in drawn.items():
        assert len(np.unique(places, axis=0)) == 40
        assert all(source[i]["label"][y, x] == c for i, y, x in places)
        assert set(places[:, 0]) == {0, 1, 2, 3}
    again, other = sample_pixels(source, [2], 40, seed=1), sample_pixels(source, [2], 40, seed=2)
    np.testing.assert_array_equal(drawn[2], again[2])
    assert not np.array_equal(drawn[2], other[2])


def test_features_at_pixels_are_the_upsampled_ones():
    """Along a row of cells with red 0 and 1, pixel x has max(0, min(1, (x - 3.5) / 8)): half-pixel bilinear."""
    source = Memory([example([[[255, 255, 0]] * 2], [[0, 0]]), example([[[0, 0, 0], [255, 0, 0]]], [[0, 0]])])
    pixels = np.array([[1, 0, 3], [0, 7, 9], [1, 5, 4], [1, 2, 8], [1, 2, 15]])
    model = UniversalModel(MeanColor(), {"d": 3}, normalize="none")
    for batch_size in (1, 2, 3):
        got = pixel_features(model, {}, source, pixels, batch_size=batch_size, mesh=sharding.create_mesh())
        np.testing.assert_allclose(got[:, 0], [0, 1, 0.5 / 8, 4.5 / 8, 1], atol=1e-6)
        np.testing.assert_allclose(got[:, 1], [0, 1, 0, 0, 0], atol=1e-6)


# ---- the whole entry -----------------------------------------------------------------------------------


def compare(folder, out, **kw):
    return alignment.compare_jobs([folder / "basic", folder / "full"], out, picture=False, **kw)


@pytest.mark.slow
def test_numbers_of_two_trained_jobs(toy_run, tmp_path):
    result = compare(toy_run, tmp_path, classes="road,building,sidewalk,city_street:vegetation=town_street:tree")
    written = json.loads((tmp_path / "class_plot.json").read_text())
    assert [s["title"] for s in written["jobs"]] == ["basic", "full"]
    assert written["jobs"] == result["jobs"] and written["commit"] is not None
    assert list(written["pixels"]) == ["road", "building", "sidewalk / pavement", "vegetation / tree"]
    assert written["split"] == {"city_street": "val", "town_street": "val"}
    first, second = written["jobs"]
    assert len(first["pairs"]) == 16 and sum(p["match"] for p in first["pairs"]) == 4
    assert first["checkpoint"] == "basic/best/2"
    for job in (first, second):
        for kind in ("raw", "centred"):
            of_match = [p[kind] for p in job["pairs"] if p["match"]]
            assert job[kind]["matching"] == pytest.approx(np.mean(of_match))
            assert -1 <= job[kind]["other"] <= 1
    assert first["raw"] != second["raw"]
    assert not (tmp_path / "class_plot.png").exists()
    same = compare(toy_run, tmp_path / "again", classes="road,building,sidewalk,vegetation", split="val")
    assert same["jobs"][0]["centred"] == pytest.approx(first["centred"])  # the drawn domains have one split


@pytest.mark.slow
def test_centroids_of_a_trained_job_equal_those_of_full_resolution_features(toy_run, tmp_path):
    """Computed here with explicit upsampling of every image, one at a time."""
    job = finished.open_job(toy_run / "full")
    model, variables, _ = job.restore(sharding.create_mesh())
    source_of = {d: pool.test for d, pool in alignment.open_sources(job, "test", "").items()}

    @jax.jit
    def encode(image):
        return upsample(model.apply(variables, image, method="encode"), image.shape[1:3], model.stride)

    means = {}
    for domain, source in source_of.items():
        sums, counts = np.zeros((10, model.out_channels)), np.zeros(10)
        for i in range(len(source)):
            e = source[i]
            full = np.asarray(encode(e["image"][None]), np.float64)[0]
            for k in range(10):
                sums[k] += full[e["label"] == k].sum(0)
                counts[k] += (e["label"] == k).sum()
        means[domain] = sums / counts[:, None]
    names = job.class_names
    a = means["city_street"][names["city_street"].index("sidewalk")]
    b = means["town_street"][names["town_street"].index("pavement")]
    result = compare(toy_run, tmp_path, classes="sidewalk,road")
    pair = next(
        p for p in result["jobs"][1]["pairs"] if p["classes"] == ["city_street:sidewalk", "town_street:pavement"]
    )
    assert pair["raw"] == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), abs=1e-5)


def entry(*flags):
    command = pathlib.Path(__file__).parent / "tiny_command.py"
    return subprocess.run([sys.executable, command, "class_plot", *flags], capture_output=True, text=True)


@pytest.mark.slow
def test_entry_draws_the_panels_side_by_side(toy_run, tmp_path):
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    both = f"--jobs={toy_run}/basic,{toy_run}/full"
    result = entry(both, f"--out={tmp_path}", "--classes=road,building", "--pixels=20", "--perplexity=8", "--seed=3")
    assert result.returncode == 0, result.stderr
    assert "full: centred cosine: matching" in result.stdout
    written = json.loads((tmp_path / "class_plot.json").read_text())
    assert written["tsne"] | {"scikit-learn": ""} == {
        **{"perplexity": 8.0, "seed": 3, "pixels_per_class": 20, "points": 80, "scikit-learn": ""}
    }
    assert all(s["tsne_divergence"] > 0 for s in written["jobs"])
    picture = np.asarray(Image.open(tmp_path / "class_plot.png"))
    height, width, _ = picture.shape
    assert width > 1.5 * height
    for color in ([31, 119, 180], [255, 127, 14]):  # tab10: road is blue, building orange; each in both panels
        near = (np.abs(picture.astype(int) - color).max(-1) < 40).sum(0)
        assert near[: width // 3].sum() > 50 and near[width // 2 : int(0.8 * width)].sum() > 50


@pytest.mark.slow
def test_missing_extra_is_one_line_with_the_command(toy_run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    monkeypatch.delitem(sys.modules, "usss_jax.analysis.scatter", raising=False)
    monkeypatch.delattr(inference, "scatter", raising=False)
    pytest.importorskip("matplotlib")
    with pytest.raises(InputError, match=r"needs sklearn: pip install 'usss_jax\[figures\]'"):
        alignment.compare_jobs([toy_run / "basic"], tmp_path)


@pytest.mark.slow
def test_perplexity_above_the_points_is_told_before_the_passes(toy_run, tmp_path):
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    with pytest.raises(InputError, match="perplexity=30 must be below the number of points, here 20"):
        alignment.compare_jobs([toy_run / "basic"], tmp_path, classes="road,sky", pixels=5)
    assert not list(tmp_path.iterdir())


# ---- folders that cannot be used -----------------------------------------------------------------------


def fake_job(folder, name="basic", best_step=2, **fields):
    """A finished job whose checkpoint has no more than the network's description."""
    config = default_config()
    config.update_from_flattened_dict({"data.domains": ["city_street", "town_street"], **fields})
    domains = {d: get_domain(d) for d in config.data.domains}
    options = read_options(config, domains)
    sized = {d: dataclasses.replace(of, size=options[d].size or of.size) for d, of in domains.items()}
    checkpoints = Checkpoints(folder / "best")
    network = describe_network(config, sized)
    checkpoints.save(best_step, {"variables": {"a": np.zeros(1)}}, {"network": network})
    (folder / "config.json").write_text(json.dumps({"job": name, **config.to_dict()}))
    (folder / "summary.json").write_text(json.dumps({"best_step": best_step, "domains": {}}))
    return folder


def test_folder_without_a_finished_job_is_told(tmp_path):
    with pytest.raises(InputError, match="not a job of a run"):
        finished.open_job(tmp_path)
    job = fake_job(tmp_path / "run" / "basic")
    (tmp_path / "run" / "config.json").write_text("{}")
    with pytest.raises(InputError, match="is a whole run; give one of its jobs: basic"):
        finished.open_job(tmp_path / "run")
    shutil.rmtree(job / "best")
    with pytest.raises(InputError, match="best/2 is unusable: it is missing"):
        finished.open_job(job)
    (job / "summary.json").unlink()
    with pytest.raises(InputError, match="is not finished"):
        finished.open_job(job)
    with pytest.raises(InputError, match="no network"):
        finished.open_job(fake_job(tmp_path / "run" / "prototypes", "prototypes"))


def test_job_of_an_older_version_lacks_newer_fields(tmp_path):
    job = fake_job(tmp_path / "basic")
    config = json.loads((job / "config.json").read_text())
    del config["usss"]["entropy_warmup"]
    (job / "config.json").write_text(json.dumps(config))
    assert finished.open_job(job).config.usss.entropy_warmup == 0
    (job / "config.json").write_text(json.dumps(config | {"of_the_future": 1}))
    with pytest.raises(InputError, match=r"config\.of_the_future: the config has no such field"):
        finished.open_job(job)


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"data.domains": ["city_street", "indoor_room"]}, "other domains"),
        ({"data.image_size": "town_street=32x48"}, r"other data\.image_size .*town_street"),
    ],
)
def test_jobs_on_different_data_cannot_be_compared(tmp_path, fields, what):
    folders = [fake_job(tmp_path / "one" / "basic"), fake_job(tmp_path / "two" / "basic", **fields)]
    with pytest.raises(InputError, match=what):
        finished.open_jobs(folders)


def test_jobs_of_equal_name_are_told_apart_by_their_run(tmp_path):
    folders = [fake_job(tmp_path / run / "basic") for run in ("seed0", "seed1")]
    assert [s.title for s in finished.open_jobs(folders)] == ["basic (seed0)", "basic (seed1)"]
    deeper = [*folders, fake_job(tmp_path / "row" / "seed0" / "basic")]
    assert len({s.title for s in finished.open_jobs(deeper)}) == 3


@pytest.mark.slow
def test_entry_tells_wrong_flags_in_one_line(tmp_path):
    for flags, message in (
        ((f"--jobs={tmp_path}",), "not a job of a run"),
        (("--split=train", "--jobs=x"), "split"),
    ):
        result = entry(*flags)
        assert result.returncode == 2 and "Traceback" not in result.stderr
        assert message in result.stderr and result.stderr.count("usss_jax: error: ") == 1
