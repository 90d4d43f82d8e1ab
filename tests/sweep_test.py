"""The sweep as a user runs it: commands in processes of their own, on the smallest drawn domains."""

import json
import pathlib
import shlex
import signal
import subprocess
import sys
import time

import pytest

from usss_jax.errors import InputError
from usss_jax.experiments import arguments, commands, execute, layout, rows
from usss_jax.local_files import read_object

REPO = pathlib.Path(__file__).parent.parent
TINY = """
from configs.demo import get_config as demo
from usss_jax.config import parse_arg

def get_config(arg=None):
    arg = parse_arg(arg, cpu=False, n=4, encoder="drn_d_22")
    config = demo("drn_d_22")
    config.data.labeled_per_domain = arg.n
    config.data.image_size, config.model.width, config.usss.embed_dim = "16x24", 0.0625, 8
    config.train.steps = config.usss.single_steps = config.train.eval_every = config.train.checkpoint_every = 2
    config.train.eval_batch_size, config.train.log_every = 60, 1
    return config
"""
DOMAINS = ("city_street", "town_street")


@pytest.fixture
def pair(tmp_path):
    path = tmp_path / "tiny.py"
    path.write_text(TINY)
    return path


@pytest.fixture
def toy_pair(pair):
    """The same with the encoder of toy.py, which every process that reads the config then has."""
    register = f"import sys\nsys.path.append({str(REPO / 'tests')!r})\nimport toy\ntoy.register()\n"
    pair.write_text(register + TINY.replace("    return", '    config.model.encoder = "toy"\n    return'))
    return pair


def command(pair, *arguments):
    folders = [f"--runs={pair.parent / 'runs'}", f"--results={pair.parent / 'results'}"]
    given = ["--table=3", f"--pair={pair}", "--n=4", "--scale=full", *folders, *arguments]
    return [sys.executable, "-m", "usss_jax.sweep", *given]


def sweep(pair, *arguments):
    return subprocess.run(command(pair, *arguments), cwd=REPO, capture_output=True, text=True)


def plan(chosen=(), extra=(), n=50, table=3, domains=("a", "b"), **fields):
    experiment = layout.Experiment("pair", n, "cpu")
    folders = pathlib.Path("runs"), pathlib.Path("results")
    what = commands.Sweep(experiment, f"pair.py:n={n},cpu", domains, *folders, **fields)
    return commands.commands_of(what, arguments.requested_rows(table, domains, chosen, extra), 1)


def test_table_3_is_four_rows_and_shares_the_single_networks():
    """basic needs no single networks; cross and full take them from the workdir that also trains the frozen ones."""
    by_name = {command.name: command for command in plan()}
    assert list(by_name) == ["single", "basic", "cross", "full", "frozen"]
    folder = "runs/pair_n50_cpu/seed1"
    assert [str(c.workdir) for c in by_name.values()] == [
        f"{folder}/{name}" for name in ("single", "basic", "cross", "full", "single")
    ]
    assert f"--config.usss.single_from={folder}/single" in by_name["full"].words()
    assert not any("single_from" in word for word in by_name["basic"].words())
    assert list(by_name["frozen"].jobs) == ["frozen_a_b", "frozen_b_a"]
    assert "--config.train.seed=1" in by_name["full"].words()


def test_random_words_and_direct_need_no_single_networks():
    assert [command.name for command in plan(["random", "direct", "basic"])] == ["random", "direct", "basic"]
    assert [command.name for command in plan(["k3"])] == ["single", "k3"]


def test_extra_row_is_univ_full_with_its_fields():
    single, extra = plan(extra=["alive:usss.embedding_supervision=1,usss.theta=0.9"])
    assert single.name == "single" and extra.variants == ("full",)
    assert {"--config.usss.embedding_supervision=1", "--config.usss.theta=0.9"} <= set(extra.words())
    assert plan(extra=["warm:variants=cross,usss.entropy_warmup=5"])[1].variants == ("cross",)
    assert [c.name for c in plan(extra=["blind:usss.label_embeddings=random"])] == ["blind"]


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("full:usss.theta=0.5", "is the name of a built-in row"),
        ("mine:usss.tetha=0.5", r"usss\.tetha: the config has no such field; did you mean config\.usss\.theta\?"),
        ("mine:usss.theta", "'usss.theta' is not FIELD=VALUE"),
        ("mine", "give NAME:FIELD=VALUE"),
        ("mine:train.seed=3", r"train\.seed is the same for all rows"),
        ("../mine:usss.theta=0.5", "give NAME:FIELD=VALUE"),
        ("mine:data.labeled_per_domain=50", r"data\.labeled_per_domain is the same for all rows"),
        ("mine:data.labeled_list=l.txt", r"data\.labeled_list is the same for all rows"),
        ("mine:data.color_jitter=0.5", r"data\.color_jitter changes the single-domain networks"),
        ("mine:usss.alpha=many", r"usss\.alpha=many: could not convert"),
        ("mine:usss.normalize_embedding=1", r"usss\.normalize_embedding=1: give True or False"),
    ],
)
def test_wrong_extra_row_is_named(extra, message):
    with pytest.raises(InputError, match=message):
        plan(extra=[extra])


def test_encoder_is_that_of_the_table():
    assert rows.config_argument(4, 375, "full") == "resnet101,n=375"
    assert rows.config_argument(5, 1500, "cpu") == "resnet50,n=1500,cpu"
    assert rows.config_argument(4, 100, "full") == "resnet101,n=100"
    with pytest.raises(InputError, match="table 5 has a different encoder"):
        rows.config_argument(5, 200, "full")


def test_remaining_time_is_by_the_mean_of_the_same_row():
    assert execute.remaining(["full"], []) is None
    seconds = [("basic", 10.0), ("basic", 20.0), ("full", 60.0)]
    assert execute.remaining(["basic", "full"], seconds) == 15 + 60
    assert execute.remaining(["cross"], seconds) == 30


@pytest.mark.nightly
def test_results_are_the_summaries_and_a_failing_command_stops_no_other(toy_pair):
    """`words` fails, since its file is not there; the rest is trained once."""
    pair, given = toy_pair, ["--rows=words,basic", "--words=nowhere.txt", "--config.optim.lr=0.05"]
    first = sweep(pair, *given)
    assert first.returncode == 1 and "1 of 2 commands failed: tiny_n4_full/seed0/words" in first.stdout
    (told,) = [line for line in first.stdout.splitlines() if line.startswith("FAILED")]
    assert "exit code 2" in told and "nowhere.txt" in told
    assert str(pair.parent / "runs/tiny_n4_full/seed0/words.log") in told
    printed = [line for line in first.stdout.splitlines() if "usss_jax.main" in line]
    assert len(printed) == 2 and shlex.split(printed[0])[1:3] == ["-m", "usss_jax.main"]

    results = pair.parent / "results" / "tiny_n4_full"
    found = {str(path.relative_to(results)) for path in results.rglob("*") if path.is_file()}
    assert found == {"basic/seed0.json"}
    runs = pair.parent / "runs" / "tiny_n4_full" / "seed0"
    result = json.loads((results / "basic/seed0.json").read_text())
    row = result.pop("row")
    assert row == {"config": "tiny.py:drn_d_22,n=4", "variants": ["basic"], "overrides": {"optim.lr": "0.05"}}
    assert result == read_object(runs / "basic/basic/summary.json")
    assert json.loads((runs / "basic/config.json").read_text())["optim"]["lr"] == 0.05

    again = sweep(pair, "--rows=basic", "--config.optim.lr=0.05")
    assert again.returncode == 0 and "1 commands, 1 of them finished" in again.stdout
    other = sweep(pair, "--rows=basic", "--config.optim.lr=0.01")
    assert other.returncode == 2 and "was made with overrides {'optim.lr': '0.05'}" in other.stderr


@pytest.mark.nightly
def test_killed_sweep_ends_its_training_and_the_next_one_resumes_it(pair):
    """SIGTERM while `basic` trains: no process is left that holds the log, and the next sweep finishes the row."""
    long = [
        "--rows=basic",
        "--config.train.steps=200",
        "--config.train.checkpoint_every=10",
        "--config.train.eval_every=200",
    ]
    checkpoints = pair.parent / "runs/tiny_n4_full/seed0/basic/basic/checkpoints"
    process = subprocess.Popen(command(pair, *long), cwd=REPO, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not [p for p in checkpoints.glob("*") if p.name.isdigit()] and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGTERM
    result = pair.parent / "results/tiny_n4_full/basic/seed0.json"
    assert not result.exists()
    second = sweep(pair, *long)
    assert second.returncode == 0, second.stdout
    assert json.loads(result.read_text())["steps"] == 200
    log = (pair.parent / "runs/tiny_n4_full/seed0/basic.log").read_text()
    assert "[basic] resumes from step " in log


def test_row_that_another_process_works_on_is_left_alone(pair, monkeypatch):
    """Two sweeps at once, or the training of a killed one that still runs."""
    import fcntl

    experiment = layout.Experiment("tiny", 4, "full")
    what = commands.Sweep(experiment, f"{pair}:n=4", DOMAINS, pair.parent / "runs", pair.parent / "results")
    (command,) = commands.commands_of(what, arguments.requested_rows(3, DOMAINS, ["basic"], []), 0)
    command.log.parent.mkdir(parents=True)
    monkeypatch.setattr(execute.subprocess, "Popen", lambda *a, **k: pytest.fail("it was started"))
    with command.log.open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert "another process is running it" in execute.run_command(command, print)


def test_rows_without_their_single_networks_fail_at_once(pair):
    experiment = layout.Experiment("tiny", 4, "full")
    what = commands.Sweep(experiment, f"{pair}:n=4", DOMAINS, pair.parent / "runs", pair.parent / "results")
    full = commands.commands_of(what, arguments.requested_rows(3, DOMAINS, ["full"], []), 0)[1]
    assert "single_city_street/summary.json is missing" in execute.run_command(full, print)


def test_lost_single_networks_are_trained_again(pair):
    """Their results are kept, their workdir is not."""
    experiment = layout.Experiment("tiny", 4, "full")
    what = commands.Sweep(experiment, f"{pair}:n=4", DOMAINS, pair.parent / "runs", pair.parent / "results")
    single, full = commands.commands_of(what, arguments.requested_rows(3, DOMAINS, ["full"], []), 0)
    for path in single.results().values():
        layout.write_whole(path, "{}")
    assert commands.missing_commands([single, full]) == [single, full]
    for path in full.absent_networks():
        layout.write_whole(path, "{}")
    assert commands.missing_commands([single, full]) == [full]


def test_row_without_label_embeddings_of_networks_may_change_any_field():
    names = [command.name for command in plan(extra=["jit:variants=basic,data.color_jitter=0.5"])]
    assert names == ["jit"]


def test_what_results_say_was_asked_has_no_folders():
    fields = {"usss.label_embeddings": "words:/data/glove.txt"}
    what = commands.Sweep(layout.Experiment("p", 4, "cpu"), "configs/p.py:n=4", ("a",), pathlib.Path(), pathlib.Path())
    command = commands.Command(what, "words", 0, ("full",), fields, {"words": "full"})
    assert command.requested["overrides"] == {"usss.label_embeddings": "words:glove.txt"}
    assert command.requested["config"] == "p.py:n=4"
    assert "--config.usss.label_embeddings=words:/data/glove.txt" in command.words()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rows=souly"], "souly is another work"),
        (["--config.data.labeled_per_domain=3"], "labeled_per_domain is set by the sweep"),
        (["--config.optim.lr=banana"], "lr=banana: could not convert"),
        (["--seeds=²"], "'²' is not a whole number"),
        (["--rows=table3/n4/full"], "full names include table and N"),
        (["--table=1"], "table=1"),
        (["--pair=nowhere"], "there is no configs/nowhere.py"),
        (["--rows=ful"], "'ful' is not one of"),
        (["--config.train.seed=3"], "seed is set by the sweep"),
        (["--config.tetha=3"], "--config.tetha=3: the config has no such field; did you mean config.usss.theta?"),
        (["--seeds=a"], "'a' is not a whole number"),
        (["--config=configs/demo.py"], "--pair=NAME"),
        (["--table=3,4"], "tiny.py:resnet101,n=4"),
        (["--pair=demo", "--n=4"], "'n=4' is unknown"),
    ],
)
def test_wrong_flag_is_one_line(arguments, message, pair):
    result = sweep(pair, *arguments)
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert message in result.stderr.splitlines()[-1]


def test_full_name_of_a_row_is_run(pair):
    given = [a for a in command(pair, "--dry_run", "--rows=table3/n4/basic") if a not in ("--table=3", "--n=4")]
    result = subprocess.run(given, cwd=REPO, capture_output=True, text=True)
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("python -m usss_jax.main")]
    assert "tiny.py:drn_d_22,n=4 " in line and "--config.variants=basic" in line


def test_dry_run_prints_commands_and_writes_nothing(pair):
    result = sweep(pair, "--dry_run", "--seeds=0,1", "--data_root=DATA", "--rows=basic,words")
    commands = [line for line in result.stdout.splitlines() if line.startswith("python -m usss_jax.main")]
    assert len(commands) == 2 and all("--config.data.root=DATA" in line for line in commands)
    assert "not run: tiny_n4_full/seed0/words: --words=FILE is not given" in result.stdout
    assert not (pair.parent / "runs").exists() and not (pair.parent / "results").exists()


def test_a_seed_of_lite0_chooses_labeled_images_and_rounds_start_from_its_basic(tmp_path):
    experiment = layout.Experiment("cs256_cvd", 20, "lite0")
    sweep = commands.Sweep(experiment, "configs/cs256_cvd.py:tiny", ("a", "b"), tmp_path / "runs", tmp_path / "results")
    known = rows.universal_rows(sweep.domains)
    found = {c.name: c for c in commands.commands_of(sweep, [known["rounds"], known["oracle"]], 2)}
    assert list(found) == ["basic", "rounds", "oracle"]  # basic, though it is not asked for, since rounds needs it
    words = found["rounds"].words()
    assert "--config.data.split_seed=2" in words
    assert f"--config.rounds.networks={tmp_path}/runs/cs256_cvd_n20_lite0/seed2/basic/basic" in words
    assert "--config.data.labeled_per_domain=all" in found["oracle"].words()
