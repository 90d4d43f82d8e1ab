"""The flags of several processes, and what one process makes of the functions that several need."""

import socket
import subprocess
import sys

import numpy as np
import pytest
from tiny_runs import REPO, error_of, free_port

from usss_jax.config import checked, default_config
from usss_jax.engine import optim
from usss_jax.errors import InputError
from usss_jax.evaluation.evaluate import padded_batches
from usss_jax.parallel import hosts
from usss_jax.parallel.start import check_address

TOLD = ("--multihost", "--coordinator=localhost:9876", "--num_processes=2", "--process_id=1")


def main(*words, module="main"):
    config = [f"--config={REPO}/configs/demo.py", "--workdir=/nonexistent/run"]
    result = subprocess.run(
        [sys.executable, "-m", f"usss_jax.{module}", *config, *words], cwd=REPO, capture_output=True, text=True
    )
    return result.returncode, result.stdout, result.stderr


@pytest.mark.parametrize(
    "words,told",
    [
        (TOLD[1:], "--coordinator needs --multihost"),
        (("--process_id=0",), "--process_id needs --multihost"),
        (TOLD[:3], "--process_id is missing"),
        ((TOLD[0], TOLD[2], TOLD[3]), "--coordinator is missing"),
        ((*TOLD[:3], "--process_id=2"), "--process_id=2 must be below --num_processes=2"),
        ((*TOLD[:3], "--process_id=-1"), "process_id"),
        ((*TOLD[:2], "--num_processes=0", TOLD[3]), "num_processes"),
        ((TOLD[0], "--coordinator=localhost", *TOLD[2:]), "give HOST:PORT"),
        ((TOLD[0], "--coordinator=localhost:99999", *TOLD[2:]), "give HOST:PORT"),
        ((TOLD[0], "--coordinator=no.such.host.invalid:9876", *TOLD[2:]), "unknown host 'no.such.host.invalid'"),
        (("--multihost",), "JAX detects no cluster here"),
    ],
)
@pytest.mark.slow
def test_wrong_flags_are_told_in_one_line(words, told):
    assert told in error_of(main(*words))


def test_label_embeddings_take_the_flags_too():
    assert "--process_id needs --multihost" in error_of(main("--process_id=0", module="prototypes"))


def test_entry_points_of_one_process_do_not_know_the_flags():
    words = [sys.executable, "-m", "usss_jax.class_plot", "--jobs=nothing", "--multihost"]
    result = subprocess.run(words, cwd=REPO, capture_output=True, text=True)
    assert "Unknown command line flag 'multihost'" in error_of((result.returncode, result.stdout, result.stderr))


def test_port_that_is_taken_is_told():
    with socket.socket() as taken:
        taken.bind(("", port := free_port()))
        taken.listen()
        with pytest.raises(InputError, match=f"port {port} cannot be used here"):
            check_address(f"localhost:{port}", 2, 0)
        check_address(f"localhost:{port}", 2, 1)  # the other processes are to find it taken


# ---- One process ----


def test_one_process_is_the_writer_and_agrees_with_itself(tmp_path):
    def refuse():
        raise InputError("no")

    assert hosts.is_writer() and hosts.share() == (0, 1) and not hosts.preempted(1)
    assert hosts.gather_texts("ä") == ["ä"] and hosts.broadcast(b"\0a") == b"\0a"
    assert hosts.from_writer(max, 1, 2) == hosts.together(max, 1, 2) == 2
    for function in (hosts.from_writer, hosts.together):
        with pytest.raises(InputError, match=r"^no$"):
            function(refuse)
    hosts.check_same({"a": 1}, "")
    hosts.check_shared(tmp_path)
    assert not list(tmp_path.iterdir())


def test_file_of_another_host_is_waited_for(tmp_path):
    assert not hosts.sees(tmp_path / "word", "abc", patience=0)
    (tmp_path / "word").write_text("abc")
    assert hosts.sees(tmp_path / "word", "abc", patience=0)
    assert not hosts.sees(tmp_path / "word", "abcd", patience=0)


# ---- Shares of an evaluation ----


KEYS = {"image": (3,), "label": ()}


class Counted:
    """Source of tiny images that notes which are read."""

    def __init__(self, count):
        self.read = []
        self.examples = [
            {"image": np.full((2, 2, 3), i, "u1"), "label": np.full((2, 2), i, "u1")} for i in range(count)
        ]

    def __len__(self):
        return len(self.examples)

    def __getitem__(self, index):
        self.read.append(index)
        return self.examples[index]


@pytest.mark.parametrize("count", [1, 5, 6, 8, 9])
def test_shares_of_an_evaluation_are_all_images_once_and_in_order(count):
    """Batches of 4 in 2 shares: each reads its half, and what is filled up is ignored."""
    sources = [Counted(count), Counted(count)]
    batches = [list(padded_batches(source, 4, (i, 2))) for i, source in enumerate(sources)]
    assert len(batches[0]) == len(batches[1]) == -(-count // 4)
    found = []
    for parts in zip(*batches, strict=True):
        for part in parts:
            assert part["image"].shape == (2, 2, 2, 3)
            found += [int(label[0, 0]) for label in part["label"]]
    assert [label for label in found if label != 255] == list(range(count))
    assert set(sources[0].read) & set(sources[1].read) <= {count - 1}


# ---- The learning rate of another batch size ----


def test_learning_rate_follows_the_batch_only_where_it_is_told_to():
    assert optim.learning_rate(0.02, "fixed", 10) == (0.02, "lr 0.02 (optim.lr_rule=fixed)")
    assert optim.learning_rate(0.02, "fixed", 40)[0] == 0.02
    assert "as given, though train.batch_size=40 is not the paper's 10" in optim.learning_rate(0.02, "fixed", 40)[1]
    value, line = optim.learning_rate(0.02, "linear", 40)
    assert value == pytest.approx(0.08)
    assert line == "lr 0.08: 0.02 times train.batch_size=40 / 10 (optim.lr_rule=linear)"
    assert optim.learning_rate(0.02, "linear", 10)[0] == 0.02


def test_unknown_rule_is_told():
    config = default_config()
    config.optim.lr_rule = "sqrt"
    with pytest.raises(InputError, match=r"optim\.lr_rule=sqrt must be one of fixed, linear"):
        checked(config)
