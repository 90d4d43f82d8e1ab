"""Every config file loads, names known domains, and keeps the paper's numbers where it claims a row of the paper."""

import importlib
import pathlib

import pytest

from usss_jax import packages
from usss_jax.config import ANCHORED, checked, default_config, flat, names
from usss_jax.data.domains import get_domain
from usss_jax.errors import InputError

CONFIGS = (pathlib.Path(__file__).parent.parent / "configs").glob("*.py")
NAMES = sorted(p.stem for p in CONFIGS if p.stem != "imagenet")  # that one is no segmentation: pretrain_test.py
LIGHT = ["cs256_cvd", "cs256_cvd_uda", "cvd_iddlite", "demo", "street_cvd_uda"]  # light encoder if installed
UDA = ["cs256_cvd_uda", "gta_cs", "street_cvd_uda", "synthia_cs"]  # of method=mlsl
WITH_CPU = ["cs256_cvd", "cs_cvd", "cs_idd", "cs_sun", "cvd_iddlite"]


def get_config(name, arg=None):
    return importlib.import_module(f"configs.{name}").get_config(arg)


@pytest.mark.parametrize("name", NAMES)
def test_config_has_exactly_the_known_fields_and_known_domains(name):
    config = checked(get_config(name))
    assert set(flat(config)) == set(flat(default_config(config.method)))
    for domain in config.data.domains:
        assert get_domain(domain).name == domain


@pytest.mark.parametrize("name", WITH_CPU)
def test_cpu_argument_shrinks_width_and_schedule(name):
    full, cpu = get_config(name, "drn_d_22"), get_config(name, "drn_d_22,cpu")
    assert cpu.model.width < full.model.width and cpu.train.steps < full.train.steps
    assert cpu.train.batch_size < full.train.batch_size and cpu.train.unlabeled_batches == 1
    assert cpu.data.image_size


@pytest.mark.parametrize("name", ["cs256_cvd", "cvd_iddlite"])
def test_small_images_get_the_light_encoder_if_its_weights_are_installed(name, monkeypatch):
    monkeypatch.setattr(packages, "installed", lambda encoder: encoder == "efficientnet_lite0")
    config = get_config(name, "cpu")
    assert (config.model.encoder, config.model.pretrained, config.model.width) == ("efficientnet_lite0", "imagenet", 1)
    assert config.model.precision == "float32" and config.train.batch_size == 4 and config.data.crop_size == "192x192"
    monkeypatch.setattr(packages, "installed", lambda encoder: False)
    config = get_config(name, "cpu")
    assert (config.model.encoder, config.model.pretrained, config.model.stride) == ("drn_d_22", "", 0)


@pytest.mark.parametrize("name", [*NAMES, "imagenet"])
def test_tiny_argument_leaves_a_few_small_steps_of_every_job(name):
    full, tiny = get_config(name, "drn_d_22" if name in LIGHT else None), get_config(name, "tiny")
    assert tiny.model.width == 0.0625 and tiny.train.batch_size == 2 and tiny.model.encoder == full.model.encoder
    if name == "imagenet":
        tiny.data.root = "somewhere"
        assert tiny.imagenet.epochs < 1e-3
        checked(tiny)
        return
    assert tiny.variants == full.variants and tiny.train.steps == tiny.train.eval_every == 2
    if name in UDA:
        source, target = tiny.data.domains
        assert target == tiny.mlsl.target and tiny.data.labeled_per_domain == f"{source}=4,{target}=0"
        assert (tiny.rounds.count, tiny.rounds.batch_size, tiny.rounds.patches) == (2, 2, 2)
    else:
        assert tiny.usss.single_steps == 2 and tiny.data.labeled_per_domain == 4
    checked(tiny)


def test_paper_row_of_table_3():
    """SGD 1e-3, momentum 0.9, decay 1e-4, poly 0.9, 200 epochs, batch 10, d = 128, alpha = beta = 1."""
    config = get_config("cs_cvd")
    assert (config.optim.lr, config.optim.momentum, config.optim.weight_decay, config.optim.poly_power) == (
        1e-3,
        0.9,
        1e-4,
        0.9,
    )
    assert (config.train.batch_size, config.usss.embed_dim, config.usss.alpha, config.usss.beta) == (10, 128, 1.0, 1.0)
    assert config.train.steps == config.usss.single_steps == 200 * 10
    assert config.train.eval_every == 5 * 10
    assert (config.model.encoder, config.data.labeled_per_domain, config.train.unlabeled_batches) == (
        "drn_d_22",
        100,
        "pool",
    )
    assert get_domain("cityscapes").size == (512, 1024) and get_domain("cityscapes").crop == (512, 512)
    assert get_domain("camvid").size == get_domain("camvid").crop == (360, 480)


def test_more_labels_than_camvid_has_takes_all_of_them():
    config = get_config("cs_cvd", "resnet101,n=375")
    assert config.data.labeled_per_domain == "cityscapes=375,camvid=all"
    assert config.model.encoder == "resnet101" and config.train.steps == 200 * 38


@pytest.mark.parametrize(
    ("name", "count"), [("cs256_cvd", "cityscapes256=375,camvid=all"), ("cvd_iddlite", "camvid=all,idd_lite=375")]
)
def test_more_labels_than_camvid_has_takes_all_of_them_in_the_small_pairs_too(name, count):
    assert get_config(name, "n=375").data.labeled_per_domain == count


@pytest.mark.parametrize("name", WITH_CPU)
def test_anchored_argument_changes_the_objective_alone(name):
    papers, ours = flat(get_config(name)), flat(get_config(name, "anchored"))
    assert {f: ours[f] for f in ours if ours[f] != papers[f]} == ANCHORED


@pytest.mark.parametrize("name", [*WITH_CPU, "imagenet"])
def test_a_bare_word_chooses_another_encoder(name):
    for encoder in ("convnext_tiny", "dinov2_vits14"):
        assert get_config(name, encoder).model.encoder == encoder


def test_idd_row_with_resnet50():
    config = get_config("cs_idd", "resnet50,n=1500")
    assert (config.model.encoder, config.data.labeled_per_domain, config.train.steps) == ("resnet50", 1500, 200 * 150)


def test_demo_takes_the_room_as_a_third_domain():
    assert list(get_config("demo", "room").data.domains) == ["city_street", "town_street", "indoor_room"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data.domains": []}, "data.domains"),
        ({"data.domains": "camvid,camvid"}, "each once"),
        ({"variants": "basic,ful"}, "'ful' is not one of"),
        ({"train.steps": 0}, r"train\.steps=0"),
    ],
)
def test_wrong_value_is_named(change, message):
    config = get_config("demo")
    config.update_from_flattened_dict(change)
    with pytest.raises(InputError, match=message):
        checked(config)


def test_lists_may_be_given_as_text():
    config = get_config("demo")
    config.data.domains, config.variants = "camvid, idd_lite", "basic"
    assert checked(config).data.domains == ("camvid", "idd_lite")
    assert checked(config).variants == ("basic",)


# ---- The configs of method=mlsl ----

_PAPER_ROUNDS = {
    "rounds.count": 6,
    "rounds.epochs": 2.0,
    "rounds.lr": 1e-4,
    "rounds.portion": 0.15,
    "rounds.portion_step": 0.05,
    "rounds.portion_max": 0.5,
    "rounds.mine_share": 0.8,
    "rounds.mine_classes": 3,
    "rounds.mine_below": 0.001,
    "rounds.pairing": "shuffled",
    "rounds.flip": True,
    "rounds.patch_size": 512,
    "rounds.full_image": True,
    "rounds.sampled": "conf",
    "rounds.sample_stride": 4,
    "rounds.label_scale": 1.0,
    "mlsl.source_portion": 0.03,
    "mlsl.source_step": 0.0025,
    "mlsl.source_max": 0.06,
    "mlsl.source_policy": "cumulative",
    "mlsl.image_scope": "crop",
}
_PAPER = {  # mlsl_paper, but for the batch size, which is 2, or 1 with image-level labels
    "rounds.patches": 50,
    "rounds.loss": "ce",
    "mlsl.prior": True,
    "mlsl.image_weight": 0.025,
    "mlsl.eta": 0.05,
    "mlsl.source_rule": "presence",
    "mlsl.image_head": "every_relu",
}
_RELEASED_SISC = {**_PAPER, "rounds.patches": 25, "rounds.loss": "ohem"}
_RELEASED_PWL = {
    **_PAPER,
    "rounds.patches": 25,
    "mlsl.image_weight": 0.04,
    "mlsl.eta": 0.0225,
    "mlsl.source_rule": "threshold",
    "mlsl.image_head": "first_relu",
}
_SI = {"rounds.label_scale": 1850 / 2048}  # single inference at 1850 pixels


@pytest.mark.parametrize(
    ("arg", "variants", "batch", "values"),
    [
        (None, ["source", "sisc_pwl"], 1, _PAPER),
        ("sisc", ["source", "sisc"], 2, _PAPER),
        ("cbst", ["source", "cbst"], 2, _PAPER | _SI),
        ("cbst_sp", ["source", "cbst_sp"], 2, _PAPER | _SI),
        ("st", ["source", "st"], 2, _PAPER | _SI),
        ("cbst_pwl", ["source", "cbst_pwl"], 1, _PAPER),
        ("released_sisc", ["source", "sisc"], 2, _RELEASED_SISC),
        ("released_pwl", ["source", "sisc_pwl"], 1, _RELEASED_PWL),
    ],
)
def test_presets_of_gta5_are_those_of_the_paper_and_of_the_released_code(arg, variants, batch, values):
    config = checked(get_config("gta_cs", arg))
    assert list(config.variants) == variants
    want = {**_PAPER_ROUNDS, **values, "rounds.batch_size": batch}
    assert {name: flat(config)[name] for name in want} == want


def test_the_source_of_gta5_is_trained_as_released():
    """SGD 0.0016, constant, biases at twice the rate and without decay; 30 epochs of 24966 images in batches of 16."""
    config = get_config("gta_cs")
    want = {
        "model.encoder": "rna_a1",
        "model.head": "dilated",
        "model.batch_norm": "frozen",
        "mlsl.loss_at": "cells",
        "optim.name": "sgd",
        "optim.lr": 0.0016,
        "optim.schedule": "constant",
        "optim.momentum": 0.9,
        "optim.weight_decay": 5e-4,
        "optim.bias_lr_scale": 2.0,
        "optim.bias_decay_scale": 0.0,
        "data.scale": "0.7-1.3",
        "data.crop_size": "504x504",
        "train.batch_size": 16,
        "train.steps": 30 * (24966 // 16),
    }
    assert {name: flat(config)[name] for name in want} == want
    assert list(config.data.domains) == ["gta5", "cityscapes"] and config.mlsl.target == "cityscapes"


def test_synthia_differs_from_gta5_as_published():
    """No prior, 50 epochs of 9400 images, 2 % of the source and 20 % of the pixels at first, a mean over 13 classes."""
    gta, synthia = flat(get_config("gta_cs", "sisc")), flat(get_config("synthia_cs", "sisc"))
    own = {
        "data.domains": ["synthia", "cityscapes16"],
        "data.labeled_per_domain": "synthia=all,cityscapes16=0",
        "data.image_size": "synthia=760x1280,cityscapes16=1024x2048",
        "mlsl.target": "cityscapes16",
        "data.class_map": "synthia_to_cityscapes16",
        "mlsl.without": "wall,fence,pole",
        "mlsl.prior": False,
        "mlsl.source_portion": 0.02,
        "rounds.portion": 0.2,
        "train.steps": 50 * (9400 // 16),
        "train.eval_every": 9400 // 16,
        "train.checkpoint_every": 9400 // 16,
    }
    assert {name: value for name, value in synthia.items() if value != gta[name]} == own
    classes = get_domain("cityscapes16").class_names
    assert len([name for name in classes if name not in names(own["mlsl.without"])]) == 13


@pytest.mark.parametrize("name", UDA)
def test_several_variants_may_be_given_and_the_source_is_always_trained(name):
    assert list(get_config(name, "oracle,cbst,minent").variants) == ["source", "minent", "cbst", "oracle"]
    assert list(get_config(name, "source").variants) == ["source"]
    with pytest.raises(InputError, match="config argument 'cbts' is unknown"):
        get_config(name, "cbts")


@pytest.mark.parametrize("name", ["cs256_cvd_uda", "street_cvd_uda"])
@pytest.mark.parametrize("installed", [True, False])
def test_small_images_adapt_on_two_cores(name, installed, monkeypatch):
    monkeypatch.setattr(packages, "installed", lambda encoder: installed and encoder == "efficientnet_lite0")
    config = checked(get_config(name, "cpu,sisc_pwl"))
    assert config.model.encoder == ("efficientnet_lite0" if installed else "drn_d_22")
    assert (config.rounds.count, config.rounds.patches, config.rounds.batch_size) == (3, 8, 4)
    assert (config.train.steps, config.train.batch_size, config.model.precision) == (600, 4, "float32")
    assert config.mlsl.target == "camvid" and config.mlsl.loss_at == "pixels"
