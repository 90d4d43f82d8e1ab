"""Lock and summaries of a workdir: whatever lies in their place is told in one line."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

import pytest

from usss_jax.config import checked, default_config
from usss_jax.errors import InputError
from usss_jax.local_files import read_object, write_object
from usss_jax.runs import divergence
from usss_jax.runs.checkpoint import Checkpoints
from usss_jax.runs.workdir import alone_in, claim_workdir, read_summary, written_summaries

# As another user, who may only read; without JAX's start, which needs a home.
COLLEAGUE = """
import fcntl, os, sys
sys.path.insert(0, sys.argv[2])
from usss_jax.runs.workdir import _open_lock
os.setuid(54321)
try:
    fcntl.flock(_open_lock(__import__("pathlib").Path(sys.argv[1])), fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError as e:
    print(type(e).__name__)
else:
    print("locked")
"""


def test_only_one_process_is_alone_in_a_workdir(tmp_path):
    with alone_in(tmp_path), pytest.raises(InputError, match="another process trains it now"), alone_in(tmp_path):
        pass
    with alone_in(tmp_path):  # free again
        pass


def test_lock_that_is_a_folder_is_told_and_a_named_pipe_does_not_hang(tmp_path):
    (tmp_path / "a" / ".lock").mkdir(parents=True)
    with pytest.raises(InputError, match=r"a/\.lock cannot be opened .*remove it"), alone_in(tmp_path / "a"):
        pass
    os.mkfifo(tmp_path / ".lock")
    with alone_in(tmp_path):
        pass


@pytest.fixture
def open_to_all():
    """Folder that other users can enter, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield pathlib.Path(folder)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="becomes another user, as root")
def test_lock_file_of_a_colleague_is_heeded(open_to_all):
    folder = open_to_all

    def colleague():
        repo = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        command = [sys.executable, "-c", COLLEAGUE, str(folder / ".lock"), repo]
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()

    with alone_in(folder):
        (folder / ".lock").chmod(0o644)
        assert colleague() == "BlockingIOError"
    assert colleague() == "locked"
    (folder / ".lock").chmod(0o600)
    assert colleague() == "PermissionError"


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"domains": []}', '{"domains": {"a": {}}}'])
def test_damaged_summary_counts_as_none_and_is_told(tmp_path, capsys, text):
    path = tmp_path / "summary.json"
    assert read_summary(path) is None and not capsys.readouterr().out
    path.write_text(text)
    assert read_summary(path) is None
    assert f"{path} is damaged" in capsys.readouterr().out


def test_workdir_with_a_field_that_there_is_not_is_refused_and_the_right_one_named(tmp_path):
    config = checked(default_config())
    (tmp_path / "config.json").write_text('{"alpha": 0.25}')
    with pytest.raises(InputError, match=r"config\.json: alpha: .* did you mean config\.usss\.alpha\?; give another"):
        claim_workdir(config, tmp_path, {})


def test_workdir_of_another_method_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(default_config("imagenet").to_dict()))
    with pytest.raises(InputError, match="method was 'imagenet', is now 'usss'"):
        claim_workdir(checked(default_config()), tmp_path, {})


def test_fields_that_change_no_number_may_change_and_the_others_may_not(tmp_path):
    """Where data.json says what the data is, fields that select data are compared by it."""
    config = checked(default_config())
    claim_workdir(config, tmp_path, {"a": {"labeled images": "1"}})
    config.train.log_every, config.data.cache_gb, config.data.split_seed = 3, 0.5, 7
    claim_workdir(config, tmp_path, {"a": {"labeled images": "1"}})
    with pytest.raises(InputError, match=r"a\.labeled images was .1., is now .2."):
        claim_workdir(config, tmp_path, {"a": {"labeled images": "2"}})
    config.optim.lr = 0.5
    with pytest.raises(InputError, match=r"belongs to another config: optim\.lr was 0\.001, is now 0\.5"):
        claim_workdir(config, tmp_path, {"a": {"labeled images": "1"}})


def test_learning_rates_may_change_after_a_job_diverged_until_it_has_trained_further(tmp_path, capsys):
    config = checked(default_config())
    claim_workdir(config, tmp_path, {})
    divergence.record(tmp_path / "full", config.to_dict(), "the loss is nan at step 3", Checkpoints(tmp_path / "none"))
    for config.optim.lr in (1e-5, 1e-4):
        claim_workdir(config, tmp_path, {})
    assert "optim.lr was 1e-05, is now 0.0001, after a training diverged" in capsys.readouterr().out
    assert read_object(tmp_path / "config.json")["optim"]["lr"] == 1e-4
    with pytest.raises(InputError, match=r"optim\.momentum was"):
        changed = config.copy_and_resolve_references()
        changed.optim.momentum = 0.5
        claim_workdir(changed, tmp_path, {})
    (tmp_path / "full/checkpoints/10").mkdir(parents=True)
    config.optim.lr = 1e-5
    with pytest.raises(InputError, match=r"belongs to another config: optim\.lr was 0\.0001, is now 1e-05"):
        claim_workdir(config, tmp_path, {})


def test_every_changed_byte_of_a_json_file_is_found(tmp_path):
    path = tmp_path / "summary.json"
    write_object(path, {"best_step": 1, "domains": {}})
    whole = path.read_bytes()
    for i in range(len(whole)):
        path.write_bytes(whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :])
        with pytest.raises(ValueError):
            read_object(path)


def test_summary_in_the_folder_of_another_job_counts_as_none(tmp_path, capsys):
    write_object(tmp_path / "backup/summary.json", {"job": "full", "best_step": 1})
    assert read_summary(tmp_path / "backup/summary.json") is None and written_summaries(tmp_path) == {}
    assert "backup/summary.json is not a summary of a job (it is of job full)" in capsys.readouterr().out


def test_portion_may_change_until_a_round_trains(tmp_path):
    config = checked(default_config())
    for config.rounds.portion in (0.01, 0.02):
        claim_workdir(config, tmp_path, {})
    assert read_object(tmp_path / "config.json")["rounds"]["portion"] == 0.02
    (tmp_path / "self_round0").mkdir()
    (tmp_path / "self_round0/config.json").write_text("{}")
    config.rounds.portion = 0.03
    with pytest.raises(InputError, match=r"belongs to another config: rounds\.portion was 0\.02, is now 0\.03"):
        claim_workdir(config, tmp_path, {})
