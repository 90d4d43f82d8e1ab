"""Tiny runs of entry points on several devices and in several processes, and what two of them must have in common."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np

from usss_jax.runs.logs import read_metrics

REPO = pathlib.Path(__file__).parent.parent
SCRIPT = str(REPO / "tests" / "hosts_run.py")
MEASURED = ("images_per_second", "data_wait_share")
TINY = (
    f"--config={REPO}/configs/cs_cvd.py",
    *(
        "--config.model.width=0.0625",
        "--config.usss.embed_dim=8",
        "--config.data.labeled_per_domain=4",
        "--config.optim.lr=0.01",
    ),
    *("--config.train.batch_size=8", "--config.train.unlabeled_batch_size=8", "--config.train.unlabeled_batches=1"),
    *("--config.data.image_size=24x32", "--config.data.crop_size=16x24", "--config.train.eval_batch_size=6"),
    *(
        "--config.train.steps=8",
        "--config.usss.single_steps=4",
        "--config.train.eval_every=4",
        "--config.train.checkpoint_every=4",
    ),
    *("--config.train.log_every=1", "--config.data.loader_threads=2"),
)


def environment(devices=1):
    """Of a process that has so many CPU devices."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    return {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(REPO)}


def start(words, devices=1):
    """Process of hosts_run.py."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, SCRIPT, *words], cwd=REPO, env=environment(devices), **pipes)


def run(words, devices=1):
    """Exit code, stdout and stderr of one process."""
    process = start(words, devices)
    out, err = process.communicate()
    return process.returncode, out, err


def free_port():
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]


def start_two(words, devices=2, of_each=((), ())):
    """Two processes that train together; `of_each` has further words of each."""
    together = [*words, "--multihost", f"--coordinator=localhost:{free_port()}", "--num_processes=2"]
    return [start([*together, f"--process_id={i}", *of_each[i]], devices) for i in range(2)]


def finish(processes):
    """(exit code, stdout, stderr) of each."""
    texts = [process.communicate() for process in processes]
    return [(p.returncode, out, err) for p, (out, err) in zip(processes, texts, strict=True)]


def error_of(result):
    """The one line of bad input: exit code 2, no traceback."""
    code, out, err = result
    assert code == 2 and "Traceback" not in out + err, err
    (line,) = [line for line in err.splitlines() if line.startswith("usss_jax: error: ")]
    return line


def scalars(folder, first=1):
    """All that metrics.jsonl says of a job, but for speed, from a step on: {(step, name): value}."""
    lines, _ = read_metrics(folder / "metrics.jsonl")
    named = ((line["step"], name, value) for line in lines for name, value in line.items())
    of_one = "encoder_grad_norm/"  # told on one device alone
    return {
        (step, name): v
        for step, name, v in named
        if name not in ("step", *MEASURED) and not name.startswith(of_one) and step >= first
    }


def assert_same_training(one, other, first=1):
    """Every scalar of every step agrees to 1e-10, and evaluation exactly."""
    mine, theirs = scalars(one, first), scalars(other, first)
    assert mine.keys() == theirs.keys() and any(name == "loss" for _, name in mine)
    for key, value in mine.items():
        np.testing.assert_allclose(theirs[key], value, rtol=1e-10, atol=1e-12, err_msg=str(key))
    a, b = (json.loads((folder / "summary.json").read_text()) for folder in (one, other))
    assert a["domains"] == b["domains"] and a["best_step"] == b["best_step"]


DEPTH = {"checkpoints": 2, "best": 2, "tensorboard": 1}  # what is told of these folders: checkpoints, not their insides


def files(workdir):
    """What a run leaves in its workdir."""
    found = set()
    for path in workdir.rglob("*"):
        parts = path.relative_to(workdir).parts
        depth = [i + DEPTH[part] for i, part in enumerate(parts) if part in DEPTH]
        if path.is_file() and path.name != ".lock":
            found.add("/".join(parts[: depth[0]] if depth else parts))
    return found
