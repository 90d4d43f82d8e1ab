"""Whole runs on one device and on eight, with whole and with split parameters: the same numbers."""

import math
import shutil

import jax
import numpy as np
import pytest
import tiny_data
from jax.sharding import AbstractMesh, AxisType, PartitionSpec
from tiny_models import ThreeLayers
from tiny_runs import TINY, assert_same_training, run

from usss_jax.engine.optim import create_optimizer, create_schedule
from usss_jax.engine.state import create_state
from usss_jax.models.universal import UniversalModel, create_model
from usss_jax.models.variables import DUMMY_IMAGES
from usss_jax.parallel import sharding

RANDOM = (
    "--config.variants=full",
    "--config.usss.label_embeddings=random",
    "--config.data.domains=camvid",
    "--config.data.color_jitter=0.3",
    "--config.data.mix=classmix",
)


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    tiny_data.write_camvid(root / "camvid", count=5)
    return ("main", *TINY, *RANDOM, f"--config.data.root={root}")


@pytest.fixture(scope="module")
def one(words, tmp_path_factory):
    """Workdir of a run on one device."""
    workdir = tmp_path_factory.mktemp("one")
    code, out, err = run([*words, f"--workdir={workdir}"])
    assert code == 0, err
    assert "lr 0.01: as given, though train.batch_size=8 is not the paper's 10 (optim.lr_rule=fixed)" in out
    return workdir


@pytest.mark.nightly
@pytest.mark.parametrize("split", [False, True])
def test_eight_devices_train_and_evaluate_as_one_does(words, one, tmp_path, split):
    """Eight steps in float64: every scalar to 1e-10, the scores exactly."""
    code, _, err = run([*words, f"--workdir={tmp_path}", f"--config.train.shard_parameters={split}"], devices=8)
    assert code == 0, err
    assert_same_training(one / "full", tmp_path / "full")


@pytest.mark.slow
def test_checkpoint_of_one_device_resumes_on_eight_and_back(words, one, tmp_path):
    """From step 4 of one device on to 8 on eight with split parameters; from their step 6 to 8 on one, whole."""
    shutil.copytree(one, tmp_path, dirs_exist_ok=True)
    for devices, begins in ((8, 4), (1, 6)):
        shutil.rmtree(tmp_path / "full" / "checkpoints" / "8")
        (tmp_path / "full" / "summary.json").unlink()
        flags = [
            f"--config.train.shard_parameters={devices == 8}",
            "--config.train.checkpoint_every=2",
            f"--workdir={tmp_path}",
        ]
        code, out, err = run([*words, *flags], devices)
        assert code == 0, err
        assert f"[full] resumes from step {begins}\n" in out
        assert_same_training(one / "full", tmp_path / "full")


# ---- Where arrays lie ----


def mesh_of(devices):
    return AbstractMesh((devices,), ("data",), axis_types=(AxisType.Auto,))


@pytest.mark.parametrize(
    "shape,spec",
    [
        ((3, 3, 64, 128), (None, None, None, "data")),
        ((3, 3, 128, 64), (None, None, "data")),
        ((3, 3, 512, 11), (None, None, "data")),  # 11 classes cannot be divided by 8
        ((1, 1, 513, 1001), ()),  # nothing can
        ((3, 3, 16, 16), ()),  # 2304 elements: small
        ((512,), ()),
        ((), ()),
    ],
)
def test_large_arrays_are_split_on_their_largest_axis_that_can_be(shape, spec):
    assert sharding.leaf_sharding(mesh_of(8), shape).spec == PartitionSpec(*spec)
    assert sharding.leaf_sharding(mesh_of(8), shape, split=False).spec == PartitionSpec()


def test_a_state_is_born_as_it_always_was():
    """The same seed gives the weights that jit(model.init) gives, whatever the number of devices."""
    model = UniversalModel(ThreeLayers(width=0.25), {"a": 3}, 4)
    plain = jax.jit(model.init)(jax.random.key(7, impl="rbg"), DUMMY_IMAGES)
    for split in (False, True):
        tx = create_optimizer(create_schedule(0.1, 5))
        state, _ = create_state(model, tx, 7, sharding.create_mesh(), split=split)
        jax.tree.map(np.testing.assert_array_equal, state.variables, plain)


def test_split_parameters_take_an_eighth_of_the_memory():
    """Of the bytes of parameters on each of eight devices; the small arrays stay whole."""
    variables = jax.eval_shape(create_model("drn_d_22", {"a": 19}, embed_dim=128).init, jax.random.key(0), DUMMY_IMAGES)

    def on_a_device(split):
        shardings = sharding.tree_shardings(mesh_of(8), variables["params"], split)
        shards = jax.tree.map(lambda a, s: math.prod(s.shard_shape(a.shape)), variables["params"], shardings)
        return sum(jax.tree.leaves(shards))

    assert 1 / 8 < on_a_device(True) / on_a_device(False) < 0.13
