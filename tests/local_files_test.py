"""Paths and files of the user: what cannot be used is told in one line, and never half written."""

import errno
import os

import pytest

from usss_jax import config as config_lib
from usss_jax.errors import InputError
from usss_jax.local_files import check_paths, line_of, local_path, read_object, write_whole


@pytest.mark.parametrize("text", ["gs://bucket/x", "s3://b", "hdfs://host/x", "file:///x"])
def test_url_is_refused_with_the_remedy(text):
    with pytest.raises(InputError, match=f"--workdir={text}: .*mount it"):
        local_path(text, "--workdir")


def test_unknown_home_is_told():
    with pytest.raises(InputError, match="--out=~nosuchuser/x: the home folder ~nosuchuser is not known"):
        local_path("~nosuchuser/x", "--out")


@pytest.mark.parametrize("text", ["tfds:DIR", "a=DIR,b=/x", "words:glove.txt", "", "all", "~/data", "C:/x"])
def test_paths_in_fields_are_let_through(text):
    check_paths(text, "data.root")


FIELDS_WITH_PATHS = ["data.root", "model.pretrained", "usss.single_from", "data.labeled_list", "data.domains"]


@pytest.mark.parametrize("field", FIELDS_WITH_PATHS)
@pytest.mark.parametrize("value", ["a=/x,b=gs://bucket/x", "~nosuchuser/x", "tfds:s3://b", "words:~nosuchuser/v"])
def test_paths_in_a_config_are_checked(field, value):
    config = config_lib.default_config()
    config.update_from_flattened_dict({field: value})
    with pytest.raises(InputError, match=f"^{field}="):
        config_lib.checked(config)


@pytest.mark.parametrize("seed", [-1, 2**32, 2**70])
def test_seed_out_of_range_is_told_with_the_range(seed):
    for method, field in (("usss", "train.seed"), ("usss", "data.split_seed"), ("imagenet", "train.seed")):
        config = config_lib.default_config(method)
        config.update_from_flattened_dict({field: seed})
        with pytest.raises(InputError, match=f"^{field}={seed} must be from 0 to 4294967295"):
            config_lib.checked(config)


def test_a_number_is_no_name():
    for field in ("data.domains", "variants"):
        config = config_lib.default_config()
        config.update_from_flattened_dict({field: 0})
        if field == "variants":
            with pytest.raises(InputError, match="'0' is not one of"):
                config_lib.checked(config)
        else:
            assert config_lib.checked(config).data.domains == ("0",)  # which no domain is called


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "empty"),
        (b"\0\0", "empty"),
        (b"[1]", "no JSON object"),
        (b'{"a"', "Expecting"),
        (b"\xff", "utf-8"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_what_is_no_json_object_is_a_value_error(tmp_path, content, told):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(ValueError, match=told):
        read_object(tmp_path / "x.json")


def test_a_file_that_cannot_be_written_is_named_and_the_old_one_stays(tmp_path):
    path = tmp_path / "x.json"
    write_whole(path, "old")
    (tmp_path / "x.json.partial").symlink_to("/dev/full")
    with pytest.raises(OSError) as told:
        write_whole(path, "new")
    assert path.read_text() == "old"
    assert line_of(told.value) == (
        f"{path}: {os.strerror(errno.ENOSPC)}; files saved before, such as the last checkpoint, remain: free space and "
        "run the command again"
    )
