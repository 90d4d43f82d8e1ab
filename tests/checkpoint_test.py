"""Checkpoints come back as they were written, onto the devices that are there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from usss_jax.models.drn import DRN
from usss_jax.models.universal import UniversalModel
from usss_jax.training import optim, sharding
from usss_jax.training.checkpoint import Checkpoints
from usss_jax.training.state import abstract_variables, create_state

MODEL = UniversalModel(DRN(blocks=(1, 1, 1, 1), width=0.0625), {"a": 3}, 4)


@pytest.fixture(scope="module")
def state():
    tx = optim.create_optimizer(0.1, 10)
    created, _ = create_state(MODEL, tx, 0, sharding.create_mesh(), {"a": np.ones((3, 4), np.float32)})
    return created.replace(step=jnp.int32(7))


def test_state_and_meta_come_back_exactly(state, tmp_path):
    meta = {"progress": {"best": None, "seconds": 1.5}, "classes": {"a": ["x", "y", "z"]}}
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step() is None
        checkpoints.save(7, {"state": state}, meta)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step() == 7
        trees, read = checkpoints.restore(state=jax.tree.map(jnp.zeros_like, state)), checkpoints.meta()
    assert read == meta
    jax.tree.map(np.testing.assert_array_equal, trees["state"], state)
    assert type(trees["state"]) is type(state)


def test_only_the_newest_checkpoint_is_kept(state, tmp_path):
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        for step in (1, 2, 2):
            checkpoints.save(step, {"variables": state.variables}, {"step": step})
    assert [p.name for p in tmp_path.iterdir() if p.name.isdigit()] == ["2"]


def test_variables_are_restored_without_the_optimiser(state, tmp_path):
    mesh = sharding.create_mesh()
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, {"variables": state.variables}, {"step": 3})
        like = abstract_variables(MODEL, mesh)
        variables = checkpoints.restore(variables=like)["variables"]
    jax.tree.map(np.testing.assert_array_equal, variables, state.variables)


def test_unfinished_checkpoint_is_not_seen(state, tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, {"variables": state.variables}, {"step": 3})
    (tmp_path / "9.orbax-checkpoint-tmp").mkdir()
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step() == 3
