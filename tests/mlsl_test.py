"""Whole tiny runs of method=mlsl: jobs and files, what they open, resuming, and bad input."""

import contextlib
import dataclasses
import io
import itertools
import json
import pathlib
import re
import shutil
import sys

import jax
import numpy as np
import pytest
import tiny_uda
from PIL import Image
from tiny_uda import write_domains

import usss_jax
from usss_jax.data import pseudo_label_files
from usss_jax.data.streams import transform_of
from usss_jax.errors import InputError
from usss_jax.evaluation.metrics import percent
from usss_jax.local_files import read_object, write_object
from usss_jax.methods.mlsl import results, rounds
from usss_jax.methods.mlsl.adaptation import pair
from usss_jax.methods.opening import open_run
from usss_jax.methods.self_training import labelling, scores
from usss_jax.methods.self_training.round_images import Labeled
from usss_jax.methods.self_training.schedule import rounds_of
from usss_jax.methods.self_training.settings import labelling_of_round, never_labeled
from usss_jax.parallel import hosts
from usss_jax.parallel.sharding import create_mesh
from usss_jax.runs.logs import read_array
from usss_jax.runs.networks import load_best

pytestmark = pytest.mark.usefixtures("toy_encoder")

BASELINES = ["source", "source_pwl", "minent", "minent_prior", "adversarial"]
ROUNDS = [f"{v}_round{r}" for v in ("st", "cbst", "cbst_sp", "sisc", "sisc_pwl") for r in (0, 1)]
OPENED: list[str] = []
sys.addaudithook(lambda event, arguments: OPENED.append(str(arguments[0])) if event == "open" else None)


def config(folder, *variants, **fields):
    """With a second mean, and an image-level head that is trained with the source network."""
    return tiny_uda.config(folder, *variants, **{"mlsl.without": "boat", "mlsl.image_head_start": "source", **fields})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_domains(folder)
    return folder


@dataclasses.dataclass
class Whole:
    """A finished run of every variant in three commands: all but the oracle, with it, and all once more."""

    workdir: pathlib.Path
    summaries: dict
    opened: list[str]
    opened_by_oracle: list[str]
    before: dict
    after: dict
    told: str
    told_again: str


@pytest.fixture(scope="module")
def whole(toy_encoder, folder, tmp_path_factory):
    """The run, not to be changed."""
    workdir = tmp_path_factory.mktemp("whole")
    told, told_again = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(told):
        OPENED.clear()
        usss_jax.train(config(folder, *tiny_uda.EVERY[:-1]), workdir)
        opened = OPENED.copy()
        OPENED.clear()
        summaries = usss_jax.train(config(folder, *tiny_uda.EVERY), workdir)
    by_oracle, before = OPENED.copy(), times(workdir)
    with contextlib.redirect_stdout(told_again):
        usss_jax.train(config(folder, *tiny_uda.EVERY), workdir)
    return Whole(workdir, summaries, opened, by_oracle, before, times(workdir), told.getvalue(), told_again.getvalue())


def times(workdir):
    """Time of the last change of every file, in ns; but for what every command writes."""
    written = ("table.md", "predictions.png", ".lock", "config.json", "data.json")
    files = (p for p in workdir.rglob("*") if p.is_file() and (p.parent != workdir or p.name not in written))
    return {p: p.stat().st_mtime_ns for p in files}


def rows(workdir):
    """Cells of table.md by the title of the row, and the heads of the columns."""
    lines = [line for line in (workdir / "table.md").read_text().splitlines() if line.startswith("|")]
    head, _, *body = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {title: dict(zip(head[1:], cells, strict=True)) for title, *cells in body}


def variables(folder):
    return jax.device_get(load_best(folder, create_mesh(jax.devices()[:1]))[1])


def labels_of(folder):
    """Content of all files of a folder of pseudo-labels."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def assert_same(workdir, unbroken, jobs):
    """The same pseudo-labels, parameters and rows of the table, bit by bit."""
    for job in jobs:
        one, other = variables(workdir / job), variables(unbroken / job)
        jax.tree.map(np.testing.assert_array_equal, one, other)
        if "_round" in job:
            one, other = (labels_of(w / "pseudo_labels" / job) for w in (workdir, unbroken))
            assert one == other and any(name.startswith("labels/") for name in one)
    mine, theirs = rows(workdir), rows(unbroken)
    assert mine == {title: theirs[title] for title in mine} and len(mine) == len(jobs)


# ---- A run of all variants ----


@pytest.mark.slow
def test_all_jobs_and_pseudo_labels_are_there(whole):
    assert list(whole.summaries) == sorted([*BASELINES, *ROUNDS, "oracle"], key=list(whole.summaries).index)
    assert set(whole.summaries) == {*BASELINES, *ROUNDS, "oracle"}
    assert {p.name for p in (whole.workdir / "pseudo_labels").iterdir()} == set(ROUNDS)
    for job in ROUNDS:
        folder = whole.workdir / "pseudo_labels" / job
        names = {f"{i}.png" for i in range(tiny_uda.IMAGES)}
        assert {p.name for p in (folder / "labels").iterdir()} == names
        assert {p.name for p in (folder / "confidences").iterdir()} == names
        assert not (folder / "scores").exists()
        summary = json.loads((folder / "summary.json").read_text())
        labels = np.stack([np.asarray(Image.open(folder / f"labels/{name}")) for name in sorted(names)])
        assert summary["labeled_share"] == pytest.approx(np.mean(labels != 255), abs=1e-5) and (labels != 255).any()
        before = "source_pwl" if "pwl" in job else "source"
        start = before if job.endswith("0") else f"{job[:-1]}0"
        assert summary["network"].startswith(f"{start}/best/")


@pytest.mark.slow
def test_every_number_of_the_table_is_that_of_the_summary(whole):
    table = rows(whole.workdir)
    assert list(table) == [results.title(job) for jobs in results.by_variant(whole.summaries).values() for job in jobs]
    assert len(table) == len(whole.summaries) == 16
    for job, summary in whole.summaries.items():
        cells = table[results.title(job)]
        target = {**summary["domains"], **summary["without_labels"]}["town"]
        assert (set(summary["domains"]), set(summary["without_labels"])) == ({"city"}, {"town"})
        assert cells["town (test)"] == percent(target["miou_best"])
        assert cells["town (val)"] == percent(target["val_miou_best"])
        assert cells["city (val)"] == percent(summary["domains"]["city"]["val_miou_best"])
        kept = [v for name, v in target["iou"].items() if name != "boat" and v is not None]
        assert cells["without boat"] == percent(np.mean(kept))
        statistics = whole.workdir / job / "target_statistics.json"
        if job == "oracle":
            assert not statistics.exists() and cells["mutual information"] == "-"
        else:
            assert cells["mutual information"] == f"{json.loads(statistics.read_text())['mutual_information']:.3f}"


@pytest.mark.slow
def test_the_chosen_round_has_the_largest_mutual_information(whole):
    table, information = rows(whole.workdir), results.read_information(whole.workdir, list(whole.summaries))
    chosen = {title for title, cells in table.items() if cells["chosen"] == "x"}
    want = set()
    for jobs in results.by_variant(whole.summaries).values():
        if len(jobs) > 1:
            want.add(results.title(max(jobs, key=lambda job: information[job])))
    assert chosen == want and len(want) == 5


@pytest.mark.slow
def test_the_mutual_information_is_that_of_the_networks_predictions(whole, folder):
    model, weights = load_best(whole.workdir / "cbst_round1", create_mesh(jax.devices()[:1]))[:2]
    images = np.stack([np.asarray(Image.open(folder / f"town/train/images/{i}.png")) for i in range(tiny_uda.IMAGES)])
    features = model.apply(weights, images, method="encode")
    p = np.asarray(jax.nn.softmax(model.apply(weights, features, "town", method="decode")), np.float64)
    mean = p.mean((0, 1, 2))
    want = -(mean * np.log(mean)).sum() + (p * np.log(p)).sum(-1).mean()
    found = json.loads((whole.workdir / "cbst_round1/target_statistics.json").read_text())
    assert found["mutual_information"] == pytest.approx(want, abs=1e-5) and found["images"] == tiny_uda.IMAGES


@pytest.mark.slow
def test_the_prior_is_of_the_source_and_at_the_size_of_the_target(whole):
    prior = read_array(whole.workdir / "spatial_prior.npz")
    assert prior.shape == (*tiny_uda.SIZE, 5) and prior.dtype == np.float32
    assert (prior.max((0, 1)) > 0).tolist() == [True, True, True, False, False]


@pytest.mark.slow
def test_the_picture_has_a_column_for_the_last_network_of_every_variant(whole):
    """Image, truth, and 11 networks, of two images of each domain."""
    width, height = Image.open(whole.workdir / "predictions.png").size
    assert width >= 13 * tiny_uda.SIZE[1] and height >= 4 * tiny_uda.SIZE[0]


@pytest.mark.slow
def test_a_second_command_trains_nothing_again(whole):
    assert whole.before == whole.after and len(whole.before) > 100
    for job in whole.summaries:
        assert f"[{job}] finished earlier" in whole.told_again
    assert "labels]" not in whole.told_again and " steps, " not in whole.told_again


@pytest.mark.slow
def test_what_the_source_cannot_teach_is_told_and_not_refused(whole):
    assert "rail -> track" in whole.told and "none -> boat" in whole.told
    assert "city cannot teach boat of town" in whole.told
    assert "no label of its 4 images is used; scored on its val and test, the same 4 images" in whole.told


# ---- What it opens ----


def of_masks(opened, what):
    return [path for path in opened if what in path]


@pytest.mark.slow
def test_no_label_of_the_target_is_opened_but_by_the_oracle(whole):
    assert of_masks(whole.opened, "town/train/images") and of_masks(whole.opened, "city/train/masks")
    assert of_masks(whole.opened, "town/val/masks")  # scores
    assert not of_masks(whole.opened, "town/train/masks")
    assert len({*of_masks(whole.opened_by_oracle, "town/train/masks")}) == tiny_uda.IMAGES


# ---- Resuming ----


class Killed(BaseException):
    """Stands for the end of the process."""


def killing(function, at):
    """The function, which ends the process instead of one of its calls."""
    calls = itertools.count(1)

    def call(*arguments, **named):
        if next(calls) == at:
            raise Killed
        return function(*arguments, **named)

    return call


def in_the_scores(patch):
    """At the third image of the first pass."""
    patch.setattr(scores.Scorer, "__call__", killing(scores.Scorer.__call__, 3))


def in_the_selection(patch):
    """At the third image of the first pass, whose confidence is written, but not its label."""
    patch.setattr(pseudo_label_files, "save_png", killing(pseudo_label_files.save_png, 6))


def before_the_summary(patch):
    """When all labels of the first pass are written: thresholds.json comes first."""
    patch.setattr(labelling, "write_object", killing(labelling.write_object, 2))


def in_a_step(patch):
    """After the third of four steps of the first round, and a checkpoint of the second."""

    def preempted(step):
        if step == 3:
            raise Killed
        return False

    patch.setattr(hosts, "preempted", preempted)


def begun(whole, workdir):
    """A workdir with the source networks of the whole run alone, so that they are not trained again."""
    for job in ("source", "source_pwl"):
        shutil.copytree(whole.workdir / job, workdir / job)
    return workdir


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "kill", "rounds"),
    [
        ("sisc", in_the_scores, 2),
        ("cbst", in_the_selection, 1),
        ("cbst_sp", before_the_summary, 1),
        ("sisc_pwl", in_a_step, 1),
    ],
)
def test_killed_and_run_again_it_ends_bit_identical(
    whole, folder, tmp_path, monkeypatch, variant, kill, rounds, capsys
):
    workdir, run = begun(whole, tmp_path), config(folder, variant, **{"rounds.count": rounds})
    with monkeypatch.context() as patch:
        kill(patch)
        with pytest.raises(Killed):
            usss_jax.train(run, workdir)
    first = workdir / "pseudo_labels" / f"{variant}_round0"
    assert (first / labelling.SUMMARY).exists() == (kill is in_a_step)
    assert not (workdir / f"{variant}_round0" / "summary.json").exists()
    written = len(list(first.rglob("labels/*.png")))
    assert written == {in_the_scores: 0, in_the_selection: 2}.get(kill, tiny_uda.IMAGES)
    usss_jax.train(run, workdir)
    assert ("resumes from step 2" in capsys.readouterr().out) == (kill is in_a_step)
    assert_same(workdir, whole.workdir, ["source", "source_pwl", *(f"{variant}_round{r}" for r in range(rounds))])


@pytest.fixture
def labeled(whole, tmp_path):
    """A run that ended after its first pass."""
    begun(whole, tmp_path)
    name = "pseudo_labels/cbst_round0"
    shutil.copytree(whole.workdir / name, tmp_path / name)
    return tmp_path, tmp_path / name


@pytest.mark.slow
def test_only_a_damaged_pseudo_label_is_made_again(whole, folder, labeled, monkeypatch, capsys):
    workdir, pseudo = labeled
    damaged = pseudo / "labels/1.png"
    damaged.write_bytes(damaged.read_bytes()[:60])
    before, scored, score = times(pseudo), [], scores.Scorer.__call__
    monkeypatch.setattr(
        scores.Scorer, "__call__", lambda self, key, image: scored.append(key) or score(self, key, image)
    )
    usss_jax.train(config(folder, "cbst", **{"rounds.count": 1}), workdir)
    assert f"{pseudo}: 1 of 4 pseudo-labels are damaged or absent: made again\n" in capsys.readouterr().out
    assert scored == ["1"]
    changed = {p.relative_to(pseudo).as_posix() for p, when in times(pseudo).items() if before[p] != when}
    assert changed == {"labels/1.png", "confidences/1.png", "summary.json"}
    assert_same(workdir, whole.workdir, ["source", "source_pwl", "cbst_round0"])


@pytest.mark.slow
def test_pseudo_labels_of_another_portion_are_made_again_if_no_training_has_begun(folder, labeled):
    workdir, pseudo = labeled
    before = json.loads((pseudo / "summary.json").read_text())
    usss_jax.train(config(folder, "cbst", **{"rounds.count": 1, "rounds.portion": 0.25}), workdir)
    after = json.loads((pseudo / "summary.json").read_text())
    assert (before["portion"], after["portion"]) == (0.5, 0.25) and after["labeled_share"] < before["labeled_share"]


# ---- Bad input: pseudo-labels ----


def refusal(run, workdir):
    """What is wrong with the input of a run, in one line."""
    with pytest.raises(InputError) as caught:
        usss_jax.train(run, workdir)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.slow
def test_pseudo_labels_that_have_changed_are_told(folder, labeled):
    workdir, pseudo = labeled
    Image.fromarray(np.zeros(tiny_uda.SIZE, np.uint8)).save(pseudo / "labels/1.png")
    told = refusal(config(folder, "cbst"), workdir)
    assert told == f"{pseudo}: the labels have changed since they were made; remove the folder to make them again"


@pytest.mark.slow
def test_a_damaged_summary_is_told(folder, labeled):
    workdir, pseudo = labeled
    (pseudo / "summary.json").write_text("{")
    assert f"{pseudo}/summary.json: cannot be read" in refusal(config(folder, "cbst"), workdir)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("other", "told"),
    [
        ("cbst_round1", "round was 1, is now 0"),
        ("st_round0", "policy was .*, is now "),
        ("cbst_sp_round0", "prior was [Tt]rue, is now [Ff]alse"),
    ],
)
def test_pseudo_labels_of_another_round_or_variant_are_told(whole, folder, labeled, other, told):
    workdir, pseudo = labeled
    shutil.rmtree(pseudo)
    shutil.copytree(whole.workdir / "pseudo_labels" / other, pseudo)
    message = refusal(config(folder, "cbst"), workdir)
    assert message.startswith(f"{pseudo} has other pseudo-labels: ") and re.search(told, message)
    (pseudo / "summary.json").unlink()  # a pass that has not ended
    assert re.search(told, refusal(config(folder, "cbst"), workdir))


@pytest.mark.slow
@pytest.mark.parametrize(("key", "value"), [("seed", 1), ("network", "source/best/1"), ("flip", False)])
def test_finished_pseudo_labels_of_another_network_or_seed_are_told(folder, labeled, key, value):
    workdir, pseudo = labeled
    summary = json.loads((pseudo / "summary.json").read_text())
    write_object(pseudo / "summary.json", {**summary, key: value})
    assert f"{key} was {value}, is now {summary[key]}" in refusal(config(folder, "cbst"), workdir)


@pytest.mark.slow
@pytest.mark.parametrize(("key", "value"), [("classes", ["street", "sky"]), ("images", "0123"), ("size", [8, 8])])
def test_pseudo_labels_of_other_classes_or_images_are_told(folder, labeled, key, value):
    workdir, pseudo = labeled
    write_object(pseudo / "pseudo_labels.json", {**read_object(pseudo / "pseudo_labels.json"), key: value})
    message = refusal(config(folder, "cbst"), workdir)
    assert message.startswith(f"{pseudo} has other pseudo-labels: {key} was {json.dumps(value)}, is now ")


@pytest.mark.slow
def test_without_a_pixel_above_a_threshold_the_portion_can_be_raised(whole, folder, tmp_path, monkeypatch):
    run = config(folder, "cbst", **{"rounds.count": 1, "rounds.portion": 1e-6})
    told = refusal(run, begun(whole, tmp_path))
    assert "no pixel of 4 images reaches a threshold" in told and told.endswith("; raise rounds.portion")
    assert (
        "thresholds are street none, sky none, tree none, track none, boat none; highest scores are street 0." in told
    )
    model, weights = load_best(whole.workdir / "source", create_mesh(jax.devices()[:1]))[:2]
    score = scores.network_probabilities(model, weights, "town", create_mesh(jax.devices()[:1]))
    images = np.stack([np.asarray(Image.open(folder / f"town/train/images/{i}.png")) for i in range(tiny_uda.IMAGES)])
    highest = (np.asarray(score(images)) + np.asarray(score(images[:, :, ::-1]))[:, :, ::-1]).max((0, 1, 2)) / 2
    found = [float(word) for word in re.findall(r"\b0\.\d+", told.partition("highest")[2])]
    np.testing.assert_allclose(found, highest, atol=6e-4)
    # As the error says: a larger portion in the same workdir, without new scores.
    monkeypatch.setattr(scores.Scorer, "__call__", None)
    usss_jax.train(config(folder, "cbst", **{"rounds.count": 1}), tmp_path)
    assert_same(tmp_path, whole.workdir, ["source", "source_pwl", "cbst_round0"])
    assert "rounds.portion was 0.5, is now 0.2" in refusal(
        config(folder, "cbst", **{"rounds.count": 1, "rounds.portion": 0.2}), tmp_path
    )


# ---- Bad input: domains, classes, networks ----


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"mlsl.target": "camvid"}, "mlsl.target=camvid is not one of city, town"),
        ({"mlsl.target": ""}, "mlsl.target is empty: give the domain without labels, one of "),
        ({"mlsl.target": "city"}, "city is the target, whose labels are not used; set town=all,city=0"),
        ({"data.labeled_per_domain": "city=all,town=2"}, "town is the target, whose .* not used; set city=all,town=0"),
        ({"data.labeled_per_domain": "city=0,town=2"}, "town is the target, whose .* not used; set city=all,town=0"),
        ({"data.class_map": ""}, "class_map is empty, but city and town have different classes; give a class map"),
        ({"data.class_map": "city_street_to_camvid"}, "maps city_street to camvid, but data.domains are city, town"),
        ({"data.class_map": "city_street_to_camvi"}, "unknown class map .*did you mean 'city_street_to_camvid'"),
        ({"mlsl.without": "street,lake"}, "mlsl.without: 'lake' is not a class of town, which has street, sky, tree"),
        ({"mlsl.source_from": "absent/source"}, "source_from=absent/source: is not the folder of a finished job"),
        ({"data.mix": "classmix", "variants": "sisc_pwl"}, "data.mix: image-level labels .* need data.mix=none"),
    ],
)
def test_fields_that_cannot_be_used_are_told_before_the_workdir_is_made(folder, tmp_path, fields, told):
    """In one line each."""
    run = tiny_uda.unchecked(folder, "source", "cbst")
    run.update_from_flattened_dict(fields)
    assert re.search(told, refusal(run, tmp_path / "new"))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("count", [1, 3])
def test_other_numbers_of_domains_are_told(folder, tmp_path, count):
    run = tiny_uda.unchecked(folder, "source")
    run.data.domains = [*run.data.domains, "indoor_room"][-count:]
    assert "method=mlsl takes two domains, a source and a target" in refusal(run, tmp_path / "new")


@pytest.mark.parametrize(
    ("becomes", "told"),
    [
        ({"road": "stret"}, "'stret' is not a class of town; did you mean street?"),
        ({"lane": "street"}, "'lane' is not a class of city; there are road, sky, wood, rail"),
    ],
)
def test_a_class_map_with_an_unknown_class_is_told(folder, tmp_path, becomes, told):
    path = tiny_uda.map_file(folder, {**tiny_uda.BECOMES, **becomes}, name="wrong")
    message = refusal(tiny_uda.config(folder, "source", **{"data.class_map": str(path)}), tmp_path / "new")
    assert message.startswith(str(path)) and told in message


@pytest.mark.slow
def test_a_network_of_other_classes_is_no_source(whole, tmp_path):
    write_domains(tmp_path)
    tiny_uda.domain_file(tmp_path, "town", {**{c: i for c, i in tiny_uda.TARGET.items() if c != "boat"}, "ship": 5})
    run = tiny_uda.config(tmp_path, "cbst", **{"mlsl.source_from": str(whole.workdir / "source")})
    told = refusal(run, tmp_path / "new")
    assert f"source_from={whole.workdir}/source: has " in told and "boat" in told and "ship" in told
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("job", "fields", "told"),
    [
        ("source", {"mlsl.image_head_start": "source"}, "image_head is none there and every_relu here"),
        ("source_pwl", {"mlsl.image_head": "first_relu"}, "image_head is every_relu there and first_relu here"),
        ("source_pwl", {"mlsl.image_head_width": 0.5}, "image_head_width is 0.01 there and 0.5 here"),
        ("source_pwl", {"model.width": 0.5}, "model.width was 0.0625 there and is 0.5 here"),
    ],
)
def test_a_network_without_the_image_level_head_is_no_source_of_it(whole, folder, tmp_path, job, fields, told):
    run = tiny_uda.config(folder, "sisc_pwl", **{"mlsl.source_from": str(whole.workdir / job), **fields})
    assert f"mlsl.source_from={whole.workdir}/{job}: {told}" in refusal(run, tmp_path / "new")


# ---- Options ----


@pytest.mark.slow
def test_rounds_start_from_the_source_of_another_run_and_scores_may_be_computed_again(whole, folder, tmp_path):
    """With the same labels and parameters, to the bit."""
    fields = {"mlsl.source_from": str(whole.workdir / "source"), "rounds.count": 1, "rounds.keep_scores": False}
    assert list(usss_jax.train(config(folder, "cbst", **fields), tmp_path)) == ["cbst_round0"]
    assert not (tmp_path / "source").exists()
    assert_same(tmp_path, whole.workdir, ["cbst_round0"])


@pytest.mark.slow
def test_all_other_options_train(whole, folder, tmp_path):
    fields = {
        "rounds.count": 1,
        "rounds.pairing": "summed",
        "rounds.loss": "ohem",
        "rounds.sampled": "prob",
        "rounds.full_image": False,
        "rounds.vote": "onehot",
        "rounds.flip": False,
        "rounds.upsample": "bilinear",
        "rounds.batch_size": 3,
        "mlsl.loss_at": "cells",
        "mlsl.image_scope": "image",
        "mlsl.source_rule": "threshold",
        "mlsl.source_policy": "random",
        "mlsl.source_portion": 0.8,
        "mlsl.image_head": "first_relu",
        "mlsl.image_head_start": "random",
        "mlsl.adversarial_input": "information",
        "mlsl.prior": True,
        "rounds.label_scale": 0.75,
        "data.sampling": "rare",
        "data.scale": "0.7-1.3",
    }
    run = tiny_uda.config(folder, "adversarial", "sisc_pwl", "cbst_pwl", **fields)
    OPENED.clear()
    summaries = usss_jax.train(run, tmp_path)
    assert of_masks(OPENED, "town/train/images") and not of_masks(OPENED, "town/train/masks")
    assert set(summaries) == {"source", "adversarial", "sisc_pwl_round0", "cbst_pwl_round0"}
    lines = [json.loads(line) for line in (tmp_path / "cbst_pwl_round0/metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    assert len(steps) == 1  # 4 pseudo-labeled images, 3 in a step beside 3 of the source
    for line in steps:
        parts = [line[f"supervised/{d}"] + 0.025 * line[f"image_level/{d}"] for d in ("city", "town")]
        assert line["loss"] == pytest.approx(sum(parts), rel=1e-5)
    assert len(summaries["cbst_pwl_round0"]["source images"]) == 3


@pytest.mark.slow
def test_only_the_best_target_images_are_labeled(whole, folder, tmp_path):
    """Two of four, by the mean over classes of the mean confidence of the source network."""
    fields = {"mlsl.target_images": 2, "rounds.count": 1, "mlsl.source_from": str(whole.workdir / "source")}
    run = tiny_uda.config(folder, "cbst", "sisc", **fields)
    OPENED.clear()
    usss_jax.train(run, tmp_path)
    assert of_masks(OPENED, "town/train/images") and not of_masks(OPENED, "town/train/masks")
    chosen = (tmp_path / "target_images.txt").read_text().split()
    model, weights = load_best(whole.workdir / "source", create_mesh(jax.devices()[:1]))[:2]
    score = scores.network_probabilities(model, weights, "town", create_mesh(jax.devices()[:1]))
    found = []
    for i in range(tiny_uda.IMAGES):
        image = np.asarray(Image.open(folder / f"town/train/images/{i}.png"))[None]
        q = (np.asarray(score(image)) + np.asarray(score(image[:, :, ::-1]))[:, :, ::-1])[0] / 2
        predicted, confidence = q.argmax(-1), q.max(-1)
        found.append(np.mean([confidence[predicted == c].mean() for c in np.unique(predicted)]))
    assert chosen == [str(i) for i in sorted(np.argsort(found)[2:])]
    for variant in ("cbst", "sisc"):
        labels = tmp_path / f"pseudo_labels/{variant}_round0/labels"
        assert {p.stem for p in labels.iterdir()} == set(chosen)
    before = times(tmp_path)
    usss_jax.train(run, tmp_path)
    assert times(tmp_path) == before


@pytest.mark.slow
def test_a_target_may_get_the_classes_of_the_source(folder, tmp_path, capsys):
    """The class map in the other direction: from the target to the source."""
    fields = {"mlsl.target": "city", "data.labeled_per_domain": "town=all,city=0"}
    OPENED.clear()
    (summary,) = usss_jax.train(tiny_uda.config(folder, "source", **fields), tmp_path).values()
    assert set(summary["domains"]) == {"town"} and set(summary["without_labels"]["city"]["iou"]) == set(tiny_uda.TARGET)
    assert "cannot teach" not in capsys.readouterr().out
    assert of_masks(OPENED, "town/train/masks") and not of_masks(OPENED, "city/train/masks")


# ---- A target with fewer masks ----


@pytest.mark.slow
@pytest.mark.parametrize("masks", [(), ("val",)])
def test_a_target_needs_no_masks_and_is_scored_if_val_has_some(tmp_path, masks, capsys):
    write_domains(tmp_path, masks)
    run = tiny_uda.config(tmp_path, "source", "cbst", **{"rounds.count": 1})
    summaries = usss_jax.train(run, tmp_path / "run")
    told = "scored on its val and test, the same 4 images" if masks else "has no masks in val or test"
    assert told in capsys.readouterr().out
    for job, cells in zip(summaries, rows(tmp_path / "run").values(), strict=True):
        assert ("miou_best" in summaries[job]["without_labels"]["town"]) == bool(masks)
        assert (cells["town (test)"] == cells["town (val)"] == "-") == (not masks)
        assert float(cells["city (val)"]) >= 0 and float(cells["mutual information"]) > 0
    assert (tmp_path / "run/predictions.png").exists()


def test_an_oracle_without_masks_is_told_before_anything_is_trained(tmp_path):
    write_domains(tmp_path, ("val",))
    told = refusal(tiny_uda.config(tmp_path, "source", "oracle"), tmp_path / "new")
    assert "town" in told and "masks" in told and not (tmp_path / "new").exists()


# ---- Parts of a plan ----


@pytest.mark.slow
def test_no_pseudo_label_is_of_a_class_that_the_source_never_shows(whole):
    """Track and boat, 3 and 4, although the network predicts one of them somewhere."""
    predicted = 0
    for job in ROUNDS:
        about = json.loads((whole.workdir / f"pseudo_labels/{job}/summary.json").read_text())
        assert about["thresholds"]["track"] is None and about["thresholds"]["boat"] is None
        predicted += about["sizes"]["track"] + about["sizes"]["boat"]
        labels = [np.asarray(Image.open(whole.workdir / f"pseudo_labels/{job}/labels/{i}.png")) for i in range(4)]
        assert {*np.unique(labels)} <= {0, 1, 2, 255}
    assert predicted > 0
    assert "no label of track, boat: no labeled image has a pixel of that class" in whole.told


@pytest.mark.parametrize(("sampled", "threshold"), [("conf", 0.75), ("prob", 0.5)])
def test_thresholds_are_of_predicted_pixels_or_of_all(adaptation, sampled, threshold):
    """Street has the scores 0.75, 0.5, 0.25 and 0.25, of which the first alone is predicted; boat has no source."""
    run = config(pathlib.Path(), "cbst", **{"rounds.sampled": sampled, "rounds.sample_stride": 1})
    part = rounds_of(run)[0]
    settings = labelling_of_round(run, part, never=never_labeled(adaptation.pools("city")))
    q = np.zeros((1, 4, 5), np.float32)
    q[0, :, 0], q[0, 1:, 1] = [0.75, 0.5, 0.25, 0.25], [0.5, 0.75, 0.75]
    q[0, 1, 1:], q[0, 1, 4] = 0, 0.5625
    found = labelling.thresholds([q, q], dataclasses.replace(settings, portion=0.5), adaptation.domain)
    assert found.values[0] == threshold and found.values[4] == np.inf


@pytest.fixture(scope="module")
def adaptation(toy_encoder, folder, tmp_path_factory):
    run = config(folder, "sisc_pwl")
    return pair(open_run(run, tmp_path_factory.mktemp("run")))


def test_a_class_that_the_source_never_shows_is_never_an_image_level_label_of_the_target(adaptation):
    """Track, whose class in the source has no pixel, and boat, which has no class in the source."""
    pool = adaptation.pools("town")
    origins = {d: Labeled(adaptation.pools(d).unlabeled, transform_of(pool)) for d in ("city", "town")}
    found = rounds.with_image_labels(adaptation, origins)
    everything = np.repeat(np.arange(5, dtype=np.uint8), 100)[None]
    assert found["town"].classes(everything).tolist() == [1, 1, 1, 0, 0]
    assert found["city"].classes(everything).tolist() == [1, 1, 1, 1, 1]  # a source pixel would be one


@pytest.mark.parametrize("rule", ["presence", "threshold"])
def test_image_level_labels_of_the_source_are_by_the_rule_of_the_config(folder, adaptation, rule):
    """One pixel of 1000, where the source has a class on about a third of an image."""
    run = dataclasses.replace(adaptation.run, config=config(folder, "sisc_pwl", **{"mlsl.source_rule": rule}))
    changed = dataclasses.replace(adaptation, run=run)
    pool = adaptation.pools("town")
    found = rounds.with_image_labels(
        changed, {d: Labeled(pool.unlabeled, transform_of(pool)) for d in ("city", "town")}
    )
    label = np.zeros((20, 50), np.uint8)
    label[0, 0] = 1
    assert found["city"].classes(label).tolist() == [1, float(rule == "presence"), 0, 0, 0]
    assert found["town"].classes(label).tolist() == [1, 0, 0, 0, 0]


def test_the_pools_have_the_classes_and_the_decoder_of_the_target(adaptation):
    for pool in adaptation.run.pools.values():
        assert pool.domain.class_names == tuple(tiny_uda.TARGET) and pool.scored_by == "town"
    city = adaptation.pools("city")
    assert (city.label_counts.sum(0) > 0).tolist() == [True, True, True, False, False]
    assert not len(adaptation.pools("town").labeled)
