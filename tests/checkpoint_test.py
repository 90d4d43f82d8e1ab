"""Checkpoints come back as they were written, onto the devices that are there."""

import os
import shutil
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_models import OneLayer

from usss_jax.engine import optim
from usss_jax.engine.state import create_state
from usss_jax.errors import InputError
from usss_jax.models.universal import UniversalModel
from usss_jax.parallel import sharding
from usss_jax.runs.checkpoint import Checkpoints
from usss_jax.runs.networks import abstract_variables

MODEL = UniversalModel(OneLayer(), {"a": 3}, 4)


@pytest.fixture(scope="module")
def state():
    tx = optim.create_optimizer(optim.create_schedule(0.1, 10))
    created, _ = create_state(
        MODEL, tx, 0, sharding.create_mesh(), {"label_embeddings": {"a": np.ones((3, 4), np.float32)}}
    )
    return created.replace(step=jnp.int32(7))


def test_state_and_meta_come_back_exactly(state, tmp_path):
    meta = {"progress": {"best": None, "seconds": 1.5}, "classes": {"a": ["x", "y", "z"]}}
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.resume(print, state=state) is None
    checkpoints.save(7, {"state": state}, meta)
    checkpoints = Checkpoints(tmp_path)
    trees, read = checkpoints.resume(print, state=jax.tree.map(jnp.zeros_like, state))
    assert read == meta
    jax.tree.map(np.testing.assert_array_equal, trees["state"], state)
    assert type(trees["state"]) is type(state)


def test_only_the_newest_checkpoint_is_kept(state, tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=1)
    for step in (1, 2, 2):
        checkpoints.save(step, {"variables": state.variables}, {"step": step})
    assert [p.name for p in tmp_path.iterdir() if p.name.isdigit()] == ["2"]


def test_variables_are_restored_without_the_optimiser(state, tmp_path):
    mesh = sharding.create_mesh()
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(3, {"variables": state.variables}, {"step": 3})
    like = abstract_variables(MODEL, mesh)
    variables = checkpoints.restore(3, variables=like)["variables"]
    jax.tree.map(np.testing.assert_array_equal, variables, state.variables)


def test_unfinished_checkpoint_is_not_seen(state, tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(3, {"variables": state.variables}, {"step": 3})
    (tmp_path / "9.orbax-checkpoint-tmp").mkdir()
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.steps() == [3]


@pytest.fixture(scope="module")
def two(state, tmp_path_factory):
    """Folder of a job with checkpoints of steps 3 and 7."""
    folder = tmp_path_factory.mktemp("run") / "full"
    checkpoints = Checkpoints(folder / "checkpoints")
    for step in (3, 7):
        checkpoints.save(step, {"state": state.replace(step=jnp.int32(step))}, {"step": step})
    return folder


def largest(folder):
    return max(folder.rglob("*"), key=lambda path: path.is_file() and path.stat().st_size)


def cut(folder):
    """As a full quota or a power loss leaves the largest file."""
    os.truncate(largest(folder), 10)


def flip(path):
    """One bit, in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "flipped": lambda folder: flip(largest(folder / "7" / "state")),
    "checksums flipped": lambda folder: flip(folder / "7" / "checksums.json"),
    "file missing": lambda folder: largest(folder / "7" / "state").unlink(),
    "emptied": lambda folder: [path.write_bytes(b"") for path in (folder / "7").rglob("*") if path.is_file()],
    "older under a newer name": lambda folder: shutil.copytree(folder / "3", folder / "7", dirs_exist_ok=True),
    "cut": lambda folder: cut(folder / "7" / "state"),
    "no meta": lambda folder: shutil.rmtree(folder / "7" / "meta"),
    "meta cut": lambda folder: (folder / "7" / "meta" / "_METADATA").write_text(""),
    "empty": lambda folder: (shutil.rmtree(folder / "7"), (folder / "7").mkdir()),
    "stray": lambda folder: (folder / "7").rename(folder / "elsewhere") and (folder / "9999").mkdir(),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.slow
def test_damaged_newest_checkpoint_is_told_and_set_aside_and_the_one_before_it_used(two, state, tmp_path, damage):
    shutil.copytree(two, tmp_path / "full")
    folder = tmp_path / "full" / "checkpoints"
    DAMAGES[damage](folder)
    name = "9999" if damage == "stray" else "7"
    said = []
    checkpoints = Checkpoints(folder)
    trees, meta = checkpoints.resume(said.append, state=state)
    assert int(trees["state"].step) == 3 and meta == {"step": 3}
    (line,) = said
    assert f"{folder / name} is unusable" in line and "resumes from step 3" in line
    assert (folder / f"unusable_{name}").is_dir() and checkpoints.steps() == [3]
    for step in (4, 5):  # which must not be deleted in place of one that counts as newer
        checkpoints.save(step, {"state": state}, {"step": step})
    assert checkpoints.steps() == [4, 5]


def test_if_no_checkpoint_is_whole_the_folder_to_be_moved_away_is_told(two, state, tmp_path):
    shutil.copytree(two, tmp_path / "full")
    for step in ("3", "7"):
        cut(tmp_path / "full" / "checkpoints" / step / "state")
    checkpoints = Checkpoints(tmp_path / "full" / "checkpoints")
    with pytest.raises(InputError, match=f"no checkpoint is usable .*; move {tmp_path / 'full'} away"):
        checkpoints.resume(print, state=state)
    assert checkpoints.steps() == [3, 7]  # nothing was renamed
    with pytest.raises(InputError, match="checkpoints/7 is unusable: the checksum of"):
        checkpoints.restore(7, state=state)
    with pytest.raises(InputError, match="checkpoints/5 is unusable: it is missing"):
        checkpoints.restore(5, state=state)


def test_a_flipped_bit_is_found_in_every_file(two, tmp_path):
    """In whatever file of the checkpoint: without checksums, many of them load other numbers without a word."""
    shutil.copytree(two / "checkpoints" / "7", tmp_path / "7")
    for path in [path for path in (tmp_path / "7").rglob("*") if path.is_file() and path.stat().st_size]:
        whole = path.read_bytes()
        flip(path)
        assert path.name in Checkpoints(tmp_path).damage(7)
        path.write_bytes(whole)
    assert not Checkpoints(tmp_path).damage(7)


def test_values_that_are_not_finite_and_another_job_are_never_resumed_from(state, tmp_path):
    checkpoints, said = Checkpoints(tmp_path, keep=9), []
    params = {**state.params, "decoder_a": {**state.params["decoder_a"], "bias": jnp.array([0.0, jnp.inf, 0.0])}}
    for step, of, job in ((1, state, "full"), (2, state.replace(params=params), "full"), (3, state, "basic")):
        checkpoints.save(step, {"state": of}, {"job": job})
    _, meta = checkpoints.resume(said.append, lambda meta: "" if meta["job"] == "full" else "of basic", state=state)
    assert meta == {"job": "full"} and checkpoints.steps() == [1]
    assert ["of basic" in said[0], "it has values that are not finite" in said[1]] == [True, True]


def test_checkpoint_of_an_older_version_is_used_and_said_to_be_unverified(two, state, tmp_path, capsys):
    shutil.copytree(two, tmp_path / "full")
    (tmp_path / "full" / "checkpoints" / "7" / "checksums.json").unlink()
    checkpoints = Checkpoints(tmp_path / "full" / "checkpoints")
    assert checkpoints.resume(print, state=state)[1] == {"step": 7}
    assert capsys.readouterr().out.count("has no checksums.json, as those of older versions: used without") == 1


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounts a small file system, as root")
def test_full_disk_names_the_folder_and_leaves_the_checkpoint_before(state, tmp_path):
    large = np.random.default_rng(0).integers(0, 2**31, 10**6).astype(np.int32)  # nothing to compress
    state = state.replace(extra={"large": jnp.asarray(large)})
    size = sum(array.nbytes for array in jax.tree.leaves(state))
    options = ["mount", "-t", "tmpfs", "-o", f"size={int(1.9 * size)}", "none", str(tmp_path)]
    if subprocess.run(options, capture_output=True).returncode:
        pytest.skip("may not mount")
    try:
        checkpoints = Checkpoints(tmp_path / "checkpoints")
        checkpoints.save(1, {"state": state}, {"step": 1})
        with pytest.raises(OSError, match="No space left") as told:
            checkpoints.save(2, {"state": state}, {"step": 2})
        assert told.value.filename == str(tmp_path / "checkpoints" / "2")
        assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["1"]  # frees the space
        checkpoints = Checkpoints(tmp_path / "checkpoints")
        assert checkpoints.resume(print, state=state)[1] == {"step": 1}
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)
