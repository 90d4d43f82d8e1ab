"""What a run writes can be read back, and going on leaves no line twice."""

import threading

import pytest

from usss_jax.errors import InputError
from usss_jax.local_files import read_object
from usss_jax.runs import logs


def lines(folder):
    return logs.read_metrics(folder / "metrics.jsonl")[0]


def test_metrics_are_one_json_object_per_line(tmp_path):
    writer = logs.MetricWriter(tmp_path, 0)
    writer.write(1, {"loss": 2.5})
    writer.write(2, {"loss": float("nan")})
    writer.close()
    assert lines(tmp_path) == [{"step": 1, "loss": 2.5}, {"step": 2, "loss": None}]
    assert list((tmp_path / "tensorboard").iterdir())


def test_resuming_drops_lines_after_the_checkpoint_and_says_how_many_are_damaged(tmp_path, capsys):
    parts = [
        b'{"step": 1, "loss": 3.0}\n',
        b'{"step": 2, "lo{"step": 2, "loss": 9.0}\n',
        b'[1]\n\xff\xfe\n{"loss": 1.0}\n',
        b"[" * 100_000 + b"\n",
        b'{"step": 2, "loss": 2.0}\n{"step": 3, "loss": 1.0}\n',
        b"\0" * 300,
    ]
    (tmp_path / "metrics.jsonl").write_bytes(b"".join(parts))
    writer = logs.MetricWriter(tmp_path, 2)
    writer.write(3, {"loss": 1.5})
    writer.close()
    assert [(line["step"], line["loss"]) for line in lines(tmp_path)] == [(1, 3.0), (2, 2.0), (3, 1.5)]
    assert capsys.readouterr().out == f"{tmp_path / 'metrics.jsonl'}: 6 damaged line(s) dropped\n"


def test_every_changed_character_of_a_line_is_found(tmp_path):
    path = tmp_path / "metrics.jsonl"
    writer = logs.MetricWriter(tmp_path, 0)
    writer.write(1, {"loss": 2.5, "val_miou/a": None})
    writer.close()
    whole = path.read_bytes()
    for i in range(len(whole) - 1):
        path.write_bytes(whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :])
        assert logs.read_metrics(path) == ([], 1) or whole[i : i + 1] == b"\n", i
    path.write_text('{"step": 1, "loss": 2.5}\n')  # of an older version
    assert logs.read_metrics(path) == ([{"step": 1, "loss": 2.5}], 0)


def test_full_disk_is_an_error_of_the_file_and_no_thread_is_left_to_wait_for(tmp_path):
    threads = threading.active_count()
    writer = logs.MetricWriter(tmp_path, 0)
    assert threading.active_count() == threads
    writer.write(1, {"loss": 1.0})
    (tmp_path / "metrics.jsonl").unlink()
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as told:
        writer.write(2, {"loss": 1.0})
    assert told.value.filename == str(tmp_path / "metrics.jsonl")


def test_folder_that_was_renamed_during_the_run_is_told(tmp_path):
    writer = logs.MetricWriter(tmp_path / "full", 0)
    (tmp_path / "full").rename(tmp_path / "other")
    with pytest.raises(InputError, match="full was removed or renamed during the run; put it back"):
        writer.write(1, {"loss": 1.0})


def test_tensorboard_reads_what_was_written(tmp_path):
    from tensorboardX.proto.event_pb2 import Event

    events = logs.ScalarEvents(tmp_path, start=4)
    events.write(5, {"loss/a": 0.5})
    events.close()
    (path,) = tmp_path.iterdir()
    content, found = path.read_bytes(), []
    while content:  # length, its checksum, the event, its checksum
        length = int.from_bytes(content[:8], "little")
        found.append(Event.FromString(content[12 : 12 + length]))
        content = content[16 + length :]
    assert found[0].file_version == "brain.Event:2"
    assert found[1].step == 5 and found[1].session_log.status == 1  # START: hides later steps of before
    (value,) = found[2].summary.value
    assert (found[2].step, value.tag, value.simple_value) == (5, "loss/a", 0.5)


def test_json_file_is_replaced_whole_and_refuses_nan(tmp_path):
    path = tmp_path / "new" / "summary.json"
    logs.write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        logs.write_json(path, {"a": float("nan")})
    assert read_object(path) == {"a": 1}


def test_environment_names_device_versions_and_commit():
    found = logs.environment()
    assert "cpu" in found["device"] or "gpu" in found["device"].lower() or "tpu" in found["device"].lower()
    assert found["versions"]["jax"].count(".") >= 1
    assert found["commit"] is None or len(found["commit"].split("+")[0]) == 40
