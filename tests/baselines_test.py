"""The baselines of the paper's tables: decoders on frozen encoders, plain fine-tuning, networks of another run."""

import json
import logging
import subprocess
import sys

import jax
import numpy as np
import optax
import pytest

from configs import demo
from usss_jax.config import checked
from usss_jax.data.domains import get_domain
from usss_jax.engine.state import create_state
from usss_jax.errors import InputError
from usss_jax.methods.train import train
from usss_jax.methods.usss import label_embeddings, label_sources, plan
from usss_jax.models.variables import abstract_variables
from usss_jax.parallel.sharding import create_mesh
from usss_jax.runs import encoder_weights
from usss_jax.runs import workdir as workdir_lib
from usss_jax.runs.checkpoint import Checkpoints
from usss_jax.runs.networks import build_network, describe_network, load_best

pytestmark = pytest.mark.usefixtures("shallow")


def tiny(**fields):
    config = demo.get_config()
    config.model.width, config.usss.embed_dim, config.data.image_size, config.data.labeled_per_domain = (
        0.0625,
        8,
        "16x24",
        4,
    )
    config.train.steps = config.usss.single_steps = config.train.eval_every = config.train.checkpoint_every = 2
    config.train.log_every = 1
    config.train.eval_batch_size = 60
    config.update_from_flattened_dict(fields)
    return config


@pytest.fixture(scope="module")
def workdir(shallow, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    train(tiny(variants=["single", "frozen", "finetune", "hung"], **{"hung.semi_start": 0.5}), workdir)
    return workdir


def variables(folder):
    return jax.device_get(load_best(folder, create_mesh(jax.devices()[:1]))[1])


def network(config, decoders=None, **options):
    """Model of a config, for one domain of its own if none are given."""
    return build_network(describe_network(config, decoders or {"elsewhere": ["a", "b", "c"]}, **options))


def equal(a, b):
    same = jax.tree.map(np.array_equal, a, b)
    return [all(jax.tree.leaves(same[name])) for name in same]


@pytest.mark.slow
def test_decoder_is_trained_on_a_frozen_encoder_and_its_frozen_statistics(workdir):
    single = variables(workdir / "single_city_street")
    frozen = variables(workdir / "frozen_city_street_town_street")
    assert equal(single["batch_stats"], frozen["batch_stats"]) == [True]
    assert equal({"encoder": single["params"]["encoder"]}, {"encoder": frozen["params"]["encoder"]}) == [True]
    summary = json.loads((workdir / "frozen_city_street_town_street" / "summary.json").read_text())
    assert list(summary["domains"]) == ["town_street"] and summary["job"].startswith("frozen")
    log = [json.loads(x) for x in (workdir / "frozen_city_street_town_street/metrics.jsonl").read_text().splitlines()]
    losses = [x["loss"] for x in log if "loss" in x]
    assert losses[0] != losses[-1]  # the decoder changes


@pytest.mark.slow
def test_fine_tuning_changes_the_encoder_and_keeps_the_other_decoder(workdir):
    single = variables(workdir / "single_city_street")["params"]
    tuned = variables(workdir / "finetune_city_street_town_street")["params"]
    assert equal({"d": single["decoder_city_street"]}, {"d": tuned["decoder_city_street"]}) == [True]
    assert equal({"e": single["encoder"]}, {"e": tuned["encoder"]}) == [False]
    summary = json.loads((workdir / "finetune_city_street_town_street" / "summary.json").read_text())
    assert list(summary["domains"]) == ["city_street", "town_street"]  # what was forgotten is measured


@pytest.mark.slow
def test_table_has_a_row_for_every_baseline(workdir):
    table = (workdir / "table.md").read_text()
    scores = {p.parent.name: json.loads(p.read_text())["domains"] for p in workdir.glob("*/summary.json")}
    own, other = scores["single_city_street"]["city_street"], scores["frozen_city_street_town_street"]["town_street"]
    cells = [f"{100 * x['miou_best']:.2f} / {100 * x['miou_last']:.2f}" for x in (own, other)]
    assert f"| city_street's encoder, frozen | {cells[0]} | {cells[1]} |" in table
    assert "| town_street, then fine-tuned on city_street |" in table


@pytest.mark.slow
def test_networks_of_another_run_are_used_and_not_trained_anew(workdir, tmp_path):
    summaries = train(tiny(variants=["full"], **{"usss.single_from": str(workdir), "usss.alpha": 0.5}), tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_dir()) == ["full", "prototypes"]
    theirs = json.loads((workdir / "single_town_street" / "summary.json").read_text())
    assert summaries["single_town_street"] == theirs


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"optim.lr": 0.2}, r"optim\.lr was 0.1 there and is 0.2 here"),
        ({"usss.single_steps": 3}, r"usss\.single_steps was 2 there and is 3 here"),
        ({"data.domains": ["city_street", "town_street", "indoor_room"]}, "it has no network of indoor_room"),
    ],
)
def test_networks_of_a_run_with_another_config_are_refused(workdir, tmp_path, fields, message):
    with pytest.raises(InputError, match=message):
        train(tiny(variants=["full"], **{"usss.single_from": str(workdir)}, **fields), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_encoder_of_a_finished_job_is_taken_bit_by_bit(workdir):
    mesh = create_mesh(jax.devices()[:1])
    model = network(checked(tiny()), embed_dim=8)
    weights = encoder_weights.load(str(workdir / "single_city_street"), model, mesh)
    theirs = variables(workdir / "single_city_street")
    state, report = create_state(model, optax.sgd(0.1), 5, mesh, None, weights)
    ours = jax.device_get(state.variables)
    assert equal({"e": ours["params"]["encoder"]}, {"e": theirs["params"]["encoder"]}) == [True]
    assert equal(ours["batch_stats"], theirs["batch_stats"]) == [True]
    assert {name.split("/")[1] for name in report.missing} == {"decoder_elsewhere", "embedding"}


def test_other_folders_are_refused_as_weights(workdir, tmp_path):
    mesh = create_mesh(jax.devices()[:1])
    model = network(checked(tiny()))
    with pytest.raises(InputError, match=r"pretrained: .* is a whole run; give one of its jobs: .*single_city_street"):
        encoder_weights.load(str(workdir), model, mesh)
    with pytest.raises(InputError, match=r"pretrained: .* is no job of a run"):
        encoder_weights.load(str(tmp_path), model, mesh)


def test_weights_that_do_not_fit_are_refused_before_the_workdir_is_claimed(tmp_path):
    """Those of another width, and of an encoder that saw other numbers; the corrected command then runs there."""
    job, config = tmp_path / "run" / "basic", checked(tiny())
    names = get_domain("city_street").class_names
    described = describe_network(config, {"city_street": names})
    model = build_network(described)
    state, _ = create_state(model, optax.sgd(0.1), 0, create_mesh(jax.devices()[:1]))
    with Checkpoints(job / "best") as checkpoints:
        checkpoints.save(2, {"variables": state.variables}, {"network": described})
    scores = {"city_street": {"iou": dict.fromkeys(names, 0.5)}}
    (job / "config.json").write_text(json.dumps({"job": "basic", **config.to_dict()}))
    (job / "summary.json").write_text(json.dumps({"best_step": 2, "domains": scores}))

    assert config.data.normalize == "none"
    for fields, message in (
        ({"model.width": 0.125}, r"base\.0\.0\.weight is .* `width` another one"),
        ({"data.normalize": "imagenet"}, "trained with data.normalize=none, this config has imagenet"),
    ):
        with pytest.raises(InputError, match=message):
            train(tiny(variants=["basic"], **{"model.pretrained": str(job)}, **fields), tmp_path / "new")
        assert not (tmp_path / "new").exists()
    fits = network(config)
    assert encoder_weights.load(str(job), fits, create_mesh(jax.devices()[:1]))


def test_workdir_of_pretraining_is_refused_as_weights_and_its_file_named(tmp_path):
    (tmp_path / "config.json").write_text('{"encoder": "drn_d_22"}')
    (tmp_path / "encoder.safetensors").write_bytes(b"")
    model = network(checked(tiny()))
    with pytest.raises(InputError, match=r"is a run of configs/imagenet\.py; give its file .*encoder\.safetensors"):
        encoder_weights.load(str(tmp_path), model, create_mesh(jax.devices()[:1]))


@pytest.mark.parametrize("bias", [True, False])
def test_embedding_head_has_a_bias_if_the_network_says_so(bias):
    model = network(checked(tiny()), embed_dim=8, embed_bias=bias)
    params = abstract_variables(model)["params"]
    assert set(params["embedding"]) == ({"kernel", "bias"} if bias else {"kernel"})
    assert set(params["decoder_elsewhere"]) == {"kernel", "bias"}


@pytest.mark.parametrize("variant", ["frozen", "finetune"])
def test_transfer_from_a_domain_to_none_is_refused(tmp_path, variant):
    config = tiny(**{"data.domains": ["city_street"]}, variants=["single", variant])
    with pytest.raises(InputError, match=f"variants: {variant} trains on every other domain, and city_street is the"):
        train(config, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_config_that_is_no_object_is_told(tmp_path):
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(InputError, match=r"config\.json cannot be used \(it holds no JSON object\)"):
        workdir_lib.claim_workdir(checked(tiny()), tmp_path, {})
    with pytest.raises(InputError, match=r"no workdir of a run \(it holds no JSON object\)"):
        workdir_lib.singles_folder(checked(tiny(**{"usss.single_from": str(tmp_path)})), tmp_path / "new", {})


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda names: ["lane" if n == "road" else n for n in names], "is 'lane', where the domain has 'road'"),
        (lambda names: names[:-1], "is nothing, where the domain has"),
    ],
)
def test_label_embeddings_of_other_classes_are_refused_when_a_run_resumes(tmp_path, change, told):
    """A class of a domain was renamed, or added, since they were made."""
    names = {d: list(get_domain(d).class_names) for d in ("city_street", "town_street")}
    names["city_street"] = change(names["city_street"])
    made, meta = label_sources.make("random", names, 8, 0)
    label_embeddings.save(plan.embeddings_file(tmp_path), made, meta)
    with pytest.raises(InputError, match=f"city_street: class .* {told}.*; restore the domain's classes") as error:
        train(tiny(variants=["full"], **{"usss.label_embeddings": "random"}), tmp_path)
    assert "\n" not in str(error.value) and not (tmp_path / "full").exists()


def test_file_with_several_rows_of_a_class_that_move_is_refused_before_the_workdir_is_claimed(tmp_path):
    names = {d: get_domain(d).class_names for d in ("city_street", "town_street")}
    label_embeddings.save(tmp_path / "e.npz", *label_sources.make("random", names, 8, 0, embeddings_per_class=2))
    config = tiny(variants=["full"], **{"usss.label_embeddings": str(tmp_path / "e.npz"), "usss.theta": 0.5})
    with pytest.raises(InputError, match=r"city_street has several rows per class, but usss\.theta=0\.5"):
        train(config, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_networks_of_no_run_or_of_an_unfinished_one_are_refused(tmp_path):
    with pytest.raises(InputError, match="no workdir of a run"):
        train(tiny(variants=["full"], **{"usss.single_from": str(tmp_path / "typo")}), tmp_path / "new")
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "config.json").write_text(json.dumps(checked(tiny()).to_dict()))
    with pytest.raises(InputError, match="single_city_street is not finished there"):
        train(tiny(variants=["full"], **{"usss.single_from": str(tmp_path / "begun")}), tmp_path / "new")


def test_a_workdir_from_before_a_field_existed_has_its_default(tmp_path):
    config = checked(tiny())
    old = json.loads(json.dumps(config.to_dict()))
    del old["usss"]["entropy_warmup"]
    (tmp_path / "config.json").write_text(json.dumps(old))
    workdir_lib.claim_workdir(config, tmp_path, {})
    with pytest.raises(InputError, match=r"usss\.entropy_warmup was 0, is now 5"):
        workdir_lib.claim_workdir(checked(tiny(**{"usss.entropy_warmup": 5})), tmp_path, {})


def test_a_workdir_that_another_process_trains_is_refused(tmp_path):
    hold = "import sys, pathlib\nfrom usss_jax.runs.workdir import alone_in\n"
    hold += "with alone_in(pathlib.Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", hold, tmp_path], **pipes) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(InputError, match="another process trains it now"):
            train(tiny(variants=["basic"]), tmp_path)
        other.kill()
    with workdir_lib.alone_in(tmp_path):  # a process that died does not keep it
        pass


@pytest.mark.slow
def test_adversarial_networks_are_trained_one_per_domain(workdir):
    """The self-taught term weighs from the second of two steps on."""
    assert {path.name for path in workdir.glob("hung_*")} == {"hung_city_street", "hung_town_street"}
    summary = json.loads((workdir / "hung_city_street" / "summary.json").read_text())
    assert list(summary["domains"]) == ["city_street"] and summary["config"]["hung"]["semi_start"] == 0.5
    assert "| Hung et al. (one network per domain) |" in (workdir / "table.md").read_text()
    rows = [json.loads(line) for line in (workdir / "hung_city_street/metrics.jsonl").read_text().splitlines()]
    told = [row for row in rows if "loss" in row]
    assert len(told) == 2 and {"semi/city_street", "discriminator/city_street"} <= set(told[0])


@pytest.mark.nightly
def test_more_steps_compile_nothing_more(tmp_path, caplog):
    """The loop's test of this has a job of two numbers; here are a real step and evaluation."""
    counts = []
    for steps in (2, 6):
        caplog.clear()
        with jax.log_compiles(True), caplog.at_level(logging.WARNING, "jax"):
            jax.clear_caches()
            fields = {"data.domains": ["city_street"], "train.steps": steps, "train.log_every": 1}
            train(tiny(variants=["basic"], **fields), tmp_path / str(steps))
        messages = [record.getMessage() for record in caplog.records]
        counts.append(sum(message.startswith("Finished XLA compilation") for message in messages))
    assert counts[0] == counts[1] > 0
