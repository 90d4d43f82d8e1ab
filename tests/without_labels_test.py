"""A domain without labels (labeled_per_domain=NAME=0): what it needs, what it is trained by, how it is scored."""

import json
import re
import sys

import jax
import numpy as np
import pytest
import tiny_data
from PIL import Image

from configs import demo
from usss_jax.config import checked
from usss_jax.data.check.domain import check_domain, uses_of
from usss_jax.data.check.findings import FAULT, find_faults
from usss_jax.data.check.labeled import check_labeled
from usss_jax.data.domains import get_domain
from usss_jax.data.options import Options, read_options
from usss_jax.data.pools import open_all, open_pools
from usss_jax.errors import InputError
from usss_jax.evaluation.metrics import iou
from usss_jax.methods.train import train
from usss_jax.methods.usss.plan import about_unlabeled
from usss_jax.models.upsample import upsample
from usss_jax.parallel.sharding import create_mesh
from usss_jax.runs.networks import load_best

pytestmark = pytest.mark.usefixtures("toy_encoder")

SIZE = (24, 32)
NO_MASKS = "  train: {images: train/images}\n"
SCORED = NO_MASKS + "  val: {images: val/images, masks: val/masks}\n"


def domain_file(folder, name="target", classes=("sky", "road"), splits=SCORED):
    """YAML file of a domain whose raw ids are 1, 2, ...; ignored: 0."""
    rows = [f"  - {{name: {c}, color: [{i}, 90, 9], ids: {i}}}" for i, c in enumerate(classes, start=1)]
    text = f"name: {name}\nroot: {name}\nsize: {list(SIZE)}\nignore_ids: [0]\nclasses:\n" + "\n".join(rows)
    (folder / f"{name}.yaml").write_text(f"{text}\nsplits:\n{splits}")
    return str(folder / f"{name}.yaml")


def write_domain(folder, masks=("val",)):
    """Images of train and val, and masks of some splits."""
    for split in ("train", "val"):
        for i in range(4):
            image, mask = tiny_data.scene(np.random.default_rng(i), SIZE, (1, 2), void=0)
            tiny_data.write(folder / f"{split}/images/{i}.png", image)
            if split in masks:
                tiny_data.write(folder / f"{split}/masks/{i}.png", mask)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_domain(folder / "target")
    domain_file(folder)
    return folder


def tiny(folder, **fields):
    config = demo.get_config("drn_d_22")
    config.data.domains = ["city_street", str(folder / "target.yaml")]
    config.data.image_size, config.model.encoder = "24x32", "toy"
    config.model.width, config.usss.embed_dim = 0.0625, 8
    config.data.labeled_per_domain = "city_street=4,target=0"
    config.train.batch_size = config.train.unlabeled_batch_size = config.train.unlabeled_batches = 2
    config.train.eval_batch_size, config.train.log_every = 60, 1
    config.train.steps = config.usss.single_steps = config.train.eval_every = config.train.checkpoint_every = 2
    config.update_from_flattened_dict(fields)
    return config


# ---- Its images, and what is told ----


def test_it_needs_no_masks_and_is_scored_by_the_first_domain_that_has_its_classes(folder):
    domains = ["town_street", "city_street", str(folder / "target.yaml")]
    labeled = "town_street=2,city_street=2,target=0"
    pools = open_all(checked(tiny(folder, **{"data.domains": domains, "data.labeled_per_domain": labeled})))
    target = pools["target"]
    assert len(target.labeled) == 0 and target.labeled_ids == [] and target.unlabeled.ids == ["0", "1", "2", "3"]
    assert len(target.test) == 4 and "label" in target.test[0]
    names = {"sky", "road"}
    first = next(d for d in ("town_street", "city_street") if names <= set(get_domain(d).class_names))
    assert target.scored_by == first and pools["city_street"].scored_by is None


@pytest.mark.parametrize(
    ("splits", "images"),
    [(NO_MASKS, 4), ("  unlabeled: {images: val/images}\n", 4), (SCORED.replace("val/masks", "lost"), 4)],
    ids=["train_alone", "unlabeled_alone", "masks_that_are_not_there"],
)
def test_it_needs_no_split_with_masks_at_all(tmp_path, splits, images):
    write_domain(tmp_path / "target", masks=())
    domain = get_domain(domain_file(tmp_path, splits=splits))
    pools = open_pools(domain, domain.folder, Options(labeled=0, on_bad_example="skip"))
    assert [len(s) for s in (pools.labeled, pools.unlabeled, pools.val, pools.test)] == [0, images, 0, 0]


def test_a_class_that_no_labeled_domain_has_leaves_it_without_a_score(tmp_path):
    write_domain(tmp_path / "target")
    domain_file(tmp_path, classes=("sky", "tree of life"))
    target = open_all(checked(tiny(tmp_path)))["target"]
    assert target.scored_by is None and "no labeled domain has all of its classes" in about_unlabeled(target)


OPENED: list[str] = []
sys.addaudithook(lambda event, arguments: OPENED.append(str(arguments[0])) if event == "open" else None)


def test_masks_that_it_has_in_train_are_never_opened(tmp_path):
    write_domain(tmp_path / "target", masks=("train", "val"))
    domain_file(tmp_path, splits=SCORED.replace("train/images", "train/images, masks: train/masks"))
    domain = get_domain(str(tmp_path / "target.yaml"))
    OPENED.clear()
    target = open_pools(
        domain, domain.folder, Options(labeled=0, on_bad_example="skip")
    )  # which reads all that is used
    assert len(target.unlabeled) == 4 and "label" not in target.unlabeled[0]
    assert any("target/train/images" in path for path in OPENED)
    assert not any("target/train/masks" in path for path in OPENED)


def remedy(error):
    return re.search(r"labeled_per_domain=([\w=,]+)(?!.*labeled_per_domain)", str(error.value))[1]


@pytest.mark.parametrize("given", ["city_street=4", "all", "city_street=all,target=2", "city_street=4,target=all"])
def test_a_domain_that_has_no_masks_is_told_what_to_give_which_then_works(folder, given):
    with pytest.raises(InputError) as error:
        open_all(checked(tiny(folder, **{"data.labeled_per_domain": given})))
    assert "target" in str(error.value) and "\n" not in str(error.value)
    of_city = "all" if "all" in (given, given.partition(",")[0].partition("=")[2]) else "4"
    assert remedy(error) == f"city_street={of_city},target=0"
    pools = open_all(checked(tiny(folder, **{"data.labeled_per_domain": remedy(error)})))
    assert pools["target"].scored_by == "city_street"


def test_several_domains_that_have_no_masks_are_told_at_once(folder, tmp_path):
    write_domain(tmp_path / "other", masks=())
    domains = ["city_street", str(folder / "target.yaml"), domain_file(tmp_path, "other", splits=NO_MASKS)]
    with pytest.raises(InputError) as error:
        open_all(checked(tiny(folder, **{"data.domains": domains, "data.labeled_per_domain": 4})))
    assert remedy(error) == "city_street=4,target=0,other=0"


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"data.labeled_per_domain": 0}, "labeled_per_domain=0: no domain has labels; give one of city_street, target"),
        (
            {"data.labeled_per_domain": "target=0"},
            "lacks city_street; .*=city_street=all,target=0",
        ),
        ({"data.labeled_per_domain": "city_street=4,target=-1"}, "target: give a whole number, 0 or more, or all"),
        ({"data.labeled_list": "target=list.txt"}, "labeled_list=list.txt does.*city_street=4,target=all, which"),
    ],
)
def test_labels_that_no_domain_or_a_list_has_are_told(folder, fields, told):
    with pytest.raises(InputError, match=told):
        open_all(checked(tiny(folder, **fields)))


def test_no_domain_with_masks_keeps_the_plain_error(folder):
    with pytest.raises(InputError, match="'target': it has no labels; give it masks in the domain's file"):
        alone = {"data.domains": [str(folder / "target.yaml")], "data.labeled_per_domain": "all"}
        open_all(checked(tiny(folder, **alone)))


def test_a_labeled_domain_without_its_select_split_is_told_what_to_do(tmp_path):
    write_domain(tmp_path / "target", masks=("train",))
    domain = get_domain(domain_file(tmp_path, splits="  train: {images: train/images, masks: train/masks}\n"))
    with pytest.raises(InputError, match=r"no split 'val'; it has train; name one of them as val_split, "):
        open_pools(domain, domain.folder, Options(labeled="all"))


def test_the_check_finds_no_fault_in_missing_masks_if_the_config_gives_no_labels(folder):
    domain = get_domain(str(folder / "target.yaml"))
    domains = {"city_street": get_domain("city_street"), "target": domain}
    options = read_options(checked(tiny(folder)), domains)["target"]
    report = check_domain(domain, domain.folder, uses_of(domain, without_labels=True))
    assert not [f for f in find_faults(report, without_labels=True) if f.level == FAULT and f.kind == "no masks"]
    labeled, found = check_labeled(report, options, [])
    assert not found and labeled.ids == [] and labeled.unlabeled == 4
    report = check_domain(domain, domain.folder, uses_of(domain))
    (fault,) = [f for f in find_faults(report) if f.kind == "no masks"]
    assert fault.level == FAULT and "data.labeled_per_domain=target=0" in str(fault)


@pytest.mark.parametrize("variant", ["frozen", "finetune"])
def test_transfer_needs_two_domains_with_labels(folder, tmp_path, variant):
    with pytest.raises(InputError, match="needs two domains with labels, but city_street is the only one"):
        train(tiny(folder, variants=[variant]), tmp_path / "new")


# ---- A run ----


@pytest.fixture(scope="module")
def workdir(toy_encoder, folder, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    train(tiny(folder, variants=["single", "basic", "full"]), workdir)
    return workdir


def scalars(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    values = {(x["step"], name): v for x in lines for name, v in x.items() if "/" in name or "loss" in name}
    assert values
    return values


def network(folder):
    """Model and variables of a job."""
    return load_best(folder, create_mesh(jax.devices()[:1]))[:2]


@pytest.mark.slow
def test_univ_basic_is_bit_by_bit_what_it_is_without_the_domain(folder, workdir, tmp_path):
    alone = tiny(folder, **{"data.domains": ["city_street"], "data.labeled_per_domain": 4}, variants=["basic"])
    train(alone, tmp_path)
    mine, theirs = scalars(workdir / "basic"), scalars(tmp_path / "basic")
    assert theirs == {key: value for key, value in mine.items() if key[1] != "val_miou/target"}
    trees = [network(w / "basic")[1] for w in (workdir, tmp_path)]
    jax.tree.map(np.testing.assert_array_equal, *trees)
    summaries = [json.loads((w / "basic/summary.json").read_text()) for w in (workdir, tmp_path)]
    for key in ("domains", "average_best", "average_last", "best_step", "split_hash"):
        assert summaries[0][key] == summaries[1][key]


@pytest.mark.slow
def test_full_has_the_cross_term_alone_on_its_images(workdir):
    logged = scalars(workdir / "full")
    for step in (1, 2):
        assert logged[step, "within/target"] == 0 == logged[step, "cross/city_street"]
        assert logged[step, "cross/target"] == logged[step, "entropy/target/city_street"] > 0
        terms = ("supervised/city_street", "cross/target", "within/city_street")
        assert logged[step, "loss"] == pytest.approx(sum(logged[step, name] for name in terms), rel=1e-5)
    assert not any(name.startswith("supervised/target") for _, name in logged)
    with np.load(workdir / "prototypes/label_embeddings.npz") as file:
        assert not [name for name in file.files if "target" in name]
    assert not (workdir / "single_target").exists()


@pytest.mark.slow
def test_its_score_is_that_of_the_other_decoder_by_names_of_classes_and_not_in_the_average(folder, workdir):
    config = checked(tiny(folder))
    model, weights = network(workdir / "basic")
    assert set(model.num_classes) == {"city_street"}
    pool = open_all(config)["target"]
    theirs = get_domain("city_street").class_names
    examples = [pool.test[i] for i in range(4)]
    images, labels = (np.stack([e[key] for e in examples]) for key in ("image", "label"))

    @jax.jit
    def predict(weights, images):
        features = model.apply(weights, images, method="encode")
        logits = model.apply(weights, features, "city_street", method="decode")
        return upsample(logits, SIZE, model.stride, model.upsample)

    scores = predict(weights, images)
    is_road = np.asarray(scores[..., theirs.index("road")] > scores[..., theirs.index("sky")], int)
    confusion = np.zeros((2, 2), np.int64)
    known = labels != 255
    np.add.at(confusion, (labels[known], is_road[known]), 1)
    summary = json.loads((workdir / "basic/summary.json").read_text())
    about = summary["without_labels"]["target"]
    assert about["scored_by"] == "city_street"
    assert list(about["iou"].values()) == pytest.approx(list(iou(confusion)), abs=2e-3)
    assert about["images"] == {"labeled": 0, "unlabeled": 4, "test": 4}
    assert summary["average_best"] == summary["domains"]["city_street"]["miou_best"]
    assert list(summary["domains"]) == ["city_street"]
    table = (workdir / "table.md").read_text()
    assert "| city_street (val) | average | target (val), decoder of city_street |" in table
    (row,) = [line for line in table.splitlines() if line.startswith("| Univ-basic")]
    assert row.endswith(f"| {100 * about['miou_best']:.2f} / {100 * about['miou_last']:.2f} |")


@pytest.mark.slow
def test_the_picture_shows_it_with_the_other_decoder(workdir):
    """Four rows of 168 pixels, two for each domain; the target's own colours are in its truth alone."""
    picture = np.asarray(Image.open(workdir / "predictions.png"))
    assert picture.shape[0] > 4 * 168
    own = (picture == (1, 90, 9)).all(-1)
    rows = np.flatnonzero(own.any(1))
    assert rows[0] > 2 * 168 and own.sum() > 100
