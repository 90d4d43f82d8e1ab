"""Pictures of where two networks of a trained run differ."""

import numpy as np
import pytest
from PIL import Image

from usss_jax.analysis.differences import draw_differences, judge
from usss_jax.errors import InputError

pytestmark = pytest.mark.usefixtures("toy_encoder")


def test_every_pixel_is_judged_by_its_truth():
    truth = np.array([[0, 0, 1, 1, 255]], np.uint8)
    first, second = np.array([[0, 0, 0, 0, 1]], np.uint8), np.array([[0, 1, 1, 0, 1]], np.uint8)
    assert judge(truth, first, second).tolist() == [[0, 1, 2, 3, 4]]  # both, first, second, neither, ignored


def test_a_network_differs_nowhere_from_itself(toy_run, tmp_path, capsys):
    draw_differences([toy_run / "basic", toy_run / "basic"], tmp_path, images=2)
    assert "more pixels right in 0 of" in capsys.readouterr().out
    for domain in ("city_street", "town_street"):
        with Image.open(tmp_path / f"{domain}.png") as picture:
            assert picture.width > picture.height > 160


def test_one_job_or_three_are_told(toy_run, tmp_path):
    with pytest.raises(InputError, match="--jobs: 1 given; give two finished jobs"):
        draw_differences([toy_run / "basic"], tmp_path)
