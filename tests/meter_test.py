"""The console line, the scalars that go with it, the watch on collapse, and the stop at a loss that is not finite."""

import time

import pytest

from usss_jax.engine.meter import Meter
from usss_jax.errors import Diverged
from usss_jax.methods.usss.terms import warn_of_collapse


class Lines:
    """Stands in for the metric files: remembers what was written."""

    def __init__(self):
        self.written = []

    def write(self, step, scalars):
        self.written.append((step, dict(scalars)))


def no_warnings(scalars):
    return {}


def fresh_progress():
    return {"seconds": 0.0, "train_seconds": 0.0, "wait_seconds": 0.0, "images": 0, "best": None}


def test_speed_is_counted_from_the_second_log_on_without_pauses():
    progress, lines = fresh_progress(), Lines()
    meter = Meter("full", 100, 8, progress, no_warnings)
    meter.log(1, {"loss": 2.0}, lines)  # this interval held the compilation
    assert progress["images"] == 0 and "images_per_second" not in lines.written[0][1]
    with meter.waiting():
        time.sleep(0.05)
    with meter.paused():
        time.sleep(0.3)
    time.sleep(0.05)
    meter.log(11, {"loss": 1.0}, lines)
    assert progress["images"] == 10 * 8
    assert 0.1 <= progress["train_seconds"] < 0.3
    assert 0.05 <= progress["wait_seconds"] < progress["train_seconds"]
    values = lines.written[1][1]
    assert values["images_per_second"] == pytest.approx(80 / progress["train_seconds"])
    assert values["data_wait_share"] == pytest.approx(progress["wait_seconds"] / progress["train_seconds"])


def test_console_line_has_step_speed_wait_and_eta(capsys):
    meter = Meter("basic", 30, 4, fresh_progress(), no_warnings)
    meter.log(10, {"loss": 2.0}, Lines())
    time.sleep(0.02)
    meter.log(20, {"loss": 1.25}, Lines())
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith("[basic] step 20/30  loss 1.250  ")
    for part in ("images/s", "data wait 0.0 %", "ETA 0:00"):
        assert part in line


def test_collapse_is_told_once_per_pair(capsys):
    meter = Meter("full", 30, 4, fresh_progress(), warn_of_collapse)
    for step, share in ((1, 0.95), (2, 0.97), (3, 0.99)):
        meter.log(step, {"loss": 1.0, "top_share/camvid/idd": share, "top_share/idd/idd": 0.4}, Lines())
    warnings = [line for line in capsys.readouterr().out.splitlines() if "warning" in line]
    assert len(warnings) == 1
    assert "step 2: 97 % of the cells of camvid images are nearest to the same class or embedding of idd" in warnings[0]


def test_loss_that_is_not_finite_stops_with_one_line():
    with pytest.raises(Diverged, match=r"^the loss is nan at step 5$"):
        Meter("full", 30, 4, fresh_progress(), no_warnings).log(5, {"loss": float("nan")}, Lines())
