"""Reading of config fields that may differ between domains, of lists and sizes, and of `get_config`'s argument."""

import json
import pathlib
import re

import pytest
from ml_collections import ConfigDict

from usss_jax.config import (
    FIELDS,
    METHODS,
    checked,
    default_config,
    fields,
    filled,
    flat,
    names,
    nearest,
    parse_arg,
    per_domain,
    read_count,
    read_size,
)
from usss_jax.config.__main__ import page
from usss_jax.errors import InputError

DOMAINS = ("cityscapes", "camvid")


def complaint(error):
    text = str(error.value)
    assert "\n" not in text
    return text


# ---- One value, or one per domain ----


@pytest.mark.parametrize("value", [100, "100", " 100 "])
def test_one_value_is_for_all_domains(value):
    assert per_domain(value, DOMAINS, "n", read_count("all")) == {"cityscapes": 100, "camvid": 100}


def test_values_can_be_given_by_name_in_any_order():
    got = per_domain("camvid=all, cityscapes = 375", DOMAINS, "n", read_count("all"))
    assert got == {"cityscapes": 375, "camvid": "all"} and list(got) == list(DOMAINS)


def test_an_empty_field_gives_no_domain_a_value():
    assert per_domain("", DOMAINS, "image_size", read_size) == {"cityscapes": None, "camvid": None}


@pytest.mark.parametrize("value,wrong", [("camvd=5", "camvd"), ("camvid=5,kitti=3", "kitti"), ("camvid=5,7", "7")])
def test_an_unknown_domain_is_an_error_that_lists_the_known_ones(value, wrong):
    with pytest.raises(InputError) as error:
        per_domain(value, DOMAINS, "labeled_per_domain", read_count("all"))
    text = complaint(error)
    assert all(part in text for part in ("labeled_per_domain", value, repr(wrong), "cityscapes, camvid"))


@pytest.mark.parametrize("value,wrong", [("camvid=many", "many"), ("-3", "-3"), ("0", "0"), ("2.5", "2.5")])
def test_a_value_that_cannot_be_read_is_an_error_that_says_what_to_give(value, wrong):
    with pytest.raises(InputError) as error:
        per_domain(value, DOMAINS, "labeled_per_domain", read_count("all"))
    text = complaint(error)
    assert all(part in text for part in ("labeled_per_domain", repr(wrong), "whole number", "all"))


# ---- Sizes, counts, lists ----


@pytest.mark.parametrize("text", ["360", "360x", "x480", "360x480x3", "0x480", "360x0", "-1x5", "360,480", "axb", ""])
def test_a_wrong_size_is_an_error_with_an_example(text):
    with pytest.raises(ValueError, match=r"HEIGHTxWIDTH.*360x480"):
        read_size(text)


def test_another_word_is_not_a_count():
    with pytest.raises(ValueError, match="pool"):
        read_count("pool")("all")


@pytest.mark.parametrize(
    "value,want",
    [
        ("camvid", ["camvid"]),
        ("cityscapes, camvid", ["cityscapes", "camvid"]),
        ("a,,b,", ["a", "b"]),
        (["a", " b"], ["a", "b"]),
        (("a", "b"), ["a", "b"]),
        ("", []),
    ],
)
def test_a_list_of_names(value, want):
    assert names(value) == want


# ---- The argument of get_config ----

DEFAULTS = {"cpu": False, "n": 100, "lr": 0.1, "encoder": "drn_d_22"}


@pytest.mark.parametrize(
    "arg,changes",
    [
        (None, {}),
        ("", {}),
        ("cpu", {"cpu": True}),
        ("n=1500", {"n": 1500}),
        ("lr=1e-3", {"lr": 1e-3}),
        ("resnet50", {"encoder": "resnet50"}),
        ("drn_d_38", {"encoder": "drn_d_38"}),
        ("encoder=drn_d_54", {"encoder": "drn_d_54"}),
        ("resnet50, n=1500,cpu", {"encoder": "resnet50", "n": 1500, "cpu": True}),
    ],
)
def test_an_argument_changes_the_defaults(arg, changes):
    got = parse_arg(arg, **DEFAULTS)
    assert got.to_dict() == DEFAULTS | changes
    assert type(got.n) is int and type(got.cpu) is bool


@pytest.mark.parametrize("arg,wrong", [("gpu", "gpu"), ("n=5,size=3", "size=3"), ("100", "100"), ("n", "n")])
def test_an_unknown_argument_is_an_error_that_lists_the_known_ones(arg, wrong):
    with pytest.raises(InputError) as error:
        parse_arg(arg, **DEFAULTS)
    text = complaint(error)
    assert repr(wrong) in text and all(name in text for name in DEFAULTS)


def test_an_encoder_is_no_argument_of_a_config_without_that_choice():
    with pytest.raises(InputError, match="resnet50"):
        parse_arg("resnet50", n=100)


@pytest.mark.parametrize("arg", ["n=many", "lr=low"])
def test_a_value_of_the_wrong_type_is_named(arg):
    with pytest.raises(InputError, match=arg) as error:
        parse_arg(arg, **DEFAULTS)
    complaint(error)


# ---- The fields ----


def test_the_defaults_are_those_of_the_paper():
    config = default_config()
    assert (config.optim.lr, config.optim.momentum, config.optim.weight_decay, config.optim.poly_power) == (
        1e-3,
        0.9,
        1e-4,
        0.9,
    )
    assert (config.usss.alpha, config.usss.beta, config.usss.similarity_scale, config.usss.embed_dim) == (
        1.0,
        1.0,
        1.0,
        128,
    )
    assert (config.train.batch_size, config.train.unlabeled_batches, config.model.encoder) == (10, "pool", "drn_d_22")


@pytest.mark.parametrize(
    "name,value",
    [
        ("data.labeled_per_domain", "camvid=all"),
        ("data.domains", "a,b"),
        ("variants", "basic"),
        ("train.unlabeled_batches", 3),
    ],
)
def test_fields_that_may_differ_between_domains_take_numbers_and_text(name, value):
    config = default_config()
    config.update_from_flattened_dict({name: value})
    assert flat(config)[name] == value


def test_other_fields_keep_their_type():
    for name, value in (("optim.lr", "low"), ("train.steps", 2.5), ("model.encoder", 22)):
        with pytest.raises(TypeError):
            default_config().update_from_flattened_dict({name: value})


@pytest.mark.parametrize("method", METHODS)
def test_every_default_is_in_its_range_and_is_a_field_of_the_method_alone(method):
    config = default_config(method)
    if method == "imagenet":
        config.data.root = "somewhere"  # which has no default
    assert checked(config).method == method
    assert set(flat(config)) == set(fields(method))
    assert set().union(*map(fields, METHODS)) == set(FIELDS)


@pytest.mark.parametrize("method", METHODS)
def test_no_field_has_the_name_of_a_method_of_a_config(method):
    """`config.section.values` would be that method."""
    assert not [name for name in fields(method) if hasattr(ConfigDict, name.rpartition(".")[2])]


def test_page_is_that_of_the_declaration():
    written = (pathlib.Path(__file__).parent.parent / "docs/config.md").read_text()
    assert page() == written, "python -m usss_jax.config > docs/config.md"


def test_page_names_every_field_with_its_default():
    text = page()
    assert all(f"| `{name}` | " in text for name in FIELDS)
    assert "| `optim.lr` | `0.001`; mlsl: the same; imagenet: `0.1` | positive |" in text


def test_a_field_that_does_nothing_for_a_method_is_absent_and_left_out_of_older_configs():
    """Pseudo-labels of mlsl are of the target, which has no labels: no image is labeled and unlabeled."""
    assert "data.unlabeled_includes_labeled" not in fields("mlsl")
    old = {"method": "mlsl", "data": {"unlabeled_includes_labeled": False, "flip": False}}
    assert filled(old).data.to_dict() == {**default_config("mlsl").data.to_dict(), "flip": False}
    with pytest.raises(InputError, match="no such field"):
        checked(filled({"method": "mlsl", "data": {"unlabelled": False}}))


def test_an_unknown_method_is_told_with_the_known_ones():
    with pytest.raises(InputError, match="method=ussss must be one of usss, mlsl, imagenet"):
        default_config("ussss")


@pytest.mark.parametrize(
    "wrong,meant",
    [
        ("lr", "optim.lr"),
        ("optim.steps", "train.steps"),
        ("usss.alhpa", "usss.alpha"),
        ("model.pretrained_weights", "model.pretrained"),
        ("data_root", "data.root"),
        ("hung_lr", "hung.lr"),
        ("something", ""),
    ],
)
def test_a_wrong_name_gets_the_nearest_right_one_in_whatever_section(wrong, meant):
    assert nearest(wrong, fields()) == meant
    config = default_config()
    config.update_from_flattened_dict({wrong: 1})
    hint = rf"did you mean config\.{meant}\?" if meant else "docs/config.md lists all fields"
    with pytest.raises(InputError, match=rf"config\.{wrong}: the config has no such field; {hint}"):
        checked(config)


def test_a_missing_field_is_named():
    config = default_config()
    del config.usss.alpha
    with pytest.raises(InputError, match=r"config\.usss\.alpha is missing"):
        checked(config)


@pytest.mark.parametrize(
    "name,value",
    [
        ("train.batch_size", 0),
        ("optim.lr", 0.0),
        ("optim.lr", float("inf")),
        ("usss.beta", -0.1),
        ("usss.beta", float("nan")),
        ("hung.semi_start", 1.5),
        ("model.precision", "float16"),
        ("data.normalize", "cityscapes"),
    ],
)
def test_a_value_out_of_range_is_named_with_the_range(name, value):
    config = default_config()
    config.update_from_flattened_dict({name: value})
    with pytest.raises(InputError, match=f"^{name}={value} must be {re.escape(FIELDS[name].range.text)}$"):
        checked(config)


def test_a_config_as_json_is_read_again_and_newer_fields_have_their_defaults():
    config = default_config()
    config.usss.alpha = 0.5
    written = json.loads(json.dumps(checked(config).to_dict()))
    del written["usss"]["theta"]
    again = checked(filled(written))
    assert again.to_dict() == checked(config).to_dict() and again.usss.theta == 1.0
