"""One device and eight give the same numbers, because losses, statistics and prototype sums are global."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from usss_jax.parallel import sharding


@pytest.fixture(scope="module")
def comparison():
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    script = pathlib.Path(__file__).parent / "eight_devices.py"
    result = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    numbers = json.loads(result.stdout.splitlines()[-1])
    print(json.dumps(numbers, indent=2))
    assert numbers["devices"] == 8
    return numbers


@pytest.mark.slow
@pytest.mark.parametrize("method", ["usss", "hung", "teacher"])
def test_eight_devices_make_the_steps_of_one_in_float64(comparison, method):
    """Parameters, momentum, statistics, label embeddings, discriminator, teacher, scalars, prototypes."""
    assert len(comparison[method]) == {"usss": 4, "hung": 3, "teacher": 3}[method]
    for quantity, difference in comparison[method].items():
        assert difference < 1e-10, (quantity, difference)


@pytest.mark.slow
def test_the_steps_have_something_to_differ_in(comparison):
    assert comparison["gradient_norm"] > 0.1 and comparison["embeddings_moved_by"] > 0.1
    assert 0.01 < comparison["semi_share"] < 0.99 and 0.01 < comparison["kept"] < 0.99


@pytest.mark.slow
def test_kernels_gradients_are_exchanged_once_per_step_whatever_the_number_of_micro_batches(comparison):
    """Beside them are only losses and batch statistics, which every forward pass exchanges."""
    exchanged, kernels = comparison["exchanged"]  # of three micro-batches
    assert kernels <= exchanged < 1.2 * kernels


@pytest.mark.slow
def test_prototype_counts_of_eight_devices_are_exactly_those_of_one(comparison):
    assert comparison["counts_equal"]


@pytest.mark.parametrize(("sizes", "used"), [((10, 10), 5), ((16, 8), 8), ((2, 4), 2), ((7, 8), 1)])
def test_mesh_takes_as_many_devices_as_divide_the_batches_and_says_so(sizes, used, monkeypatch, capsys):
    monkeypatch.setattr(sharding, "create_mesh", len)
    assert sharding.widest_mesh(list(range(8)), *sizes) == used
    assert (f"uses {used} of 8 devices" in capsys.readouterr().out) == (used < 8)


def test_put_keeps_values_and_takes_the_sharding_of_each_part():
    mesh = sharding.create_mesh(jax.devices()[:1])
    parts = {"labeled": {"a": np.arange(4)}, "unlabeled": {"a": np.arange(6).reshape(2, 3)}}
    placed = sharding.put(parts, sharding.step_batch_shardings(mesh))
    np.testing.assert_array_equal(placed["labeled"]["a"], parts["labeled"]["a"])
    np.testing.assert_array_equal(placed["unlabeled"]["a"], parts["unlabeled"]["a"])
    assert placed["unlabeled"]["a"].sharding == sharding.micro_batch_sharding(mesh)
