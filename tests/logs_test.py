"""What a run writes can be read back, and going on leaves no line twice."""

import json

import pytest

from usss_jax.training import logs


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_metrics_are_one_json_object_per_line(tmp_path):
    writer = logs.MetricWriter(tmp_path, 0)
    writer.write(1, {"loss": 2.5})
    writer.write(2, {"loss": float("nan")})
    writer.close()
    assert lines(tmp_path) == [{"step": 1, "loss": 2.5}, {"step": 2, "loss": None}]
    assert list((tmp_path / "tensorboard").iterdir())


def test_going_on_drops_lines_after_the_checkpoint_and_a_line_cut_short(tmp_path):
    text = '{"step": 1, "loss": 3.0}\n{"step": 2, "loss": 2.0}\n{"step": 3, "loss": 1.0}\n{"step": 4, "lo'
    (tmp_path / "metrics.jsonl").write_text(text)
    writer = logs.MetricWriter(tmp_path, 2)
    writer.write(3, {"loss": 1.5})
    writer.close()
    assert [(line["step"], line["loss"]) for line in lines(tmp_path)] == [(1, 3.0), (2, 2.0), (3, 1.5)]


def test_json_file_is_replaced_whole_and_refuses_nan(tmp_path):
    path = tmp_path / "new" / "summary.json"
    logs.write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        logs.write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": 1}


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (61, "1:01"), (3599.6, "1:00:00"), (7325, "2:02:05")])
def test_duration(seconds, text):
    assert logs.duration(seconds) == text


def test_environment_names_device_versions_and_commit():
    found = logs.environment()
    assert "cpu" in found["device"] or "gpu" in found["device"].lower() or "tpu" in found["device"].lower()
    assert found["versions"]["jax"].count(".") >= 1
    assert found["commit"] is None or len(found["commit"].split("+")[0]) == 40
