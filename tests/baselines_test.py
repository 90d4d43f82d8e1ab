"""The baselines of the paper's tables: decoders on frozen encoders, plain fine-tuning, networks of another run."""

import json
import logging
import subprocess
import sys

import jax
import numpy as np
import optax
import pytest
import toy

from usss_jax.data.domains import get_domain
from usss_jax.engine.state import create_state
from usss_jax.errors import InputError
from usss_jax.local_files import read_object
from usss_jax.methods.train import train
from usss_jax.methods.usss import embeddings_pass, label_embeddings, label_sources
from usss_jax.methods.usss.singles import singles_folder
from usss_jax.models.variables import abstract_variables
from usss_jax.parallel.sharding import create_mesh
from usss_jax.runs import encoder_weights
from usss_jax.runs import workdir as workdir_lib
from usss_jax.runs.networks import build_network, describe_network, load_best

pytestmark = pytest.mark.usefixtures("toy_encoder")


def variables(folder):
    return jax.device_get(load_best(folder, create_mesh(jax.devices()[:1]))[1])


def network(config, decoders=None, **options):
    """Model of a config, for one domain of its own if none are given."""
    return build_network(describe_network(config, decoders or {"elsewhere": ["a", "b", "c"]}, **options))


def equal(a, b):
    same = jax.tree.map(np.array_equal, a, b)
    return [all(jax.tree.leaves(same[name])) for name in same]


@pytest.mark.slow
def test_decoder_is_trained_on_a_frozen_encoder_and_its_frozen_statistics(toy_run):
    single = variables(toy_run / "single_city_street")
    frozen = variables(toy_run / "frozen_city_street_town_street")
    assert equal(single["batch_stats"], frozen["batch_stats"]) == [True, True]
    for part in ("encoder", "lateral"):
        assert equal({part: single["params"][part]}, {part: frozen["params"][part]}) == [True]
    summary = json.loads((toy_run / "frozen_city_street_town_street" / "summary.json").read_text())
    assert list(summary["domains"]) == ["town_street"] and summary["job"].startswith("frozen")
    log = [json.loads(x) for x in (toy_run / "frozen_city_street_town_street/metrics.jsonl").read_text().splitlines()]
    losses = [x["loss"] for x in log if "loss" in x]
    assert losses[0] != losses[-1]  # the decoder changes


@pytest.mark.slow
def test_fine_tuning_changes_the_encoder_and_keeps_the_other_decoder(toy_run):
    single = variables(toy_run / "single_city_street")["params"]
    tuned = variables(toy_run / "finetune_city_street_town_street")["params"]
    assert equal({"d": single["decoder_city_street"]}, {"d": tuned["decoder_city_street"]}) == [True]
    assert equal({"e": single["encoder"]}, {"e": tuned["encoder"]}) == [False]
    summary = json.loads((toy_run / "finetune_city_street_town_street" / "summary.json").read_text())
    assert list(summary["domains"]) == ["city_street", "town_street"]  # what was forgotten is measured


@pytest.mark.slow
def test_table_has_a_row_for_every_baseline(toy_run):
    table = (toy_run / "table.md").read_text()
    scores = {p.parent.name: json.loads(p.read_text())["domains"] for p in toy_run.glob("*/summary.json")}
    own, other = scores["single_city_street"]["city_street"], scores["frozen_city_street_town_street"]["town_street"]
    cells = [f"{100 * x['miou_best']:.2f} / {100 * x['miou_last']:.2f}" for x in (own, other)]
    assert f"| city_street's encoder, frozen | {cells[0]} | {cells[1]} |" in table
    assert "| town_street, then fine-tuned on city_street |" in table


@pytest.mark.slow
def test_networks_of_another_run_are_used_and_not_trained_anew(toy_run, tmp_path):
    summaries = train(toy.config(variants=["full"], **{"usss.single_from": str(toy_run), "usss.alpha": 0.5}), tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_dir()) == ["full", "prototypes"]
    theirs = read_object(toy_run / "single_town_street" / "summary.json")
    assert summaries["single_town_street"] == theirs


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"optim.lr": 0.2}, r"optim\.lr was 0.1 there and is 0.2 here"),
        ({"usss.single_steps": 3}, r"usss\.single_steps was 2 there and is 3 here"),
        ({"data.domains": ["city_street", "town_street", "indoor_room"]}, "it has no network of indoor_room"),
    ],
)
def test_networks_of_a_run_with_another_config_are_refused(toy_run, tmp_path, fields, message):
    with pytest.raises(InputError, match=message):
        train(toy.config(variants=["full"], **{"usss.single_from": str(toy_run)}, **fields), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_encoder_of_a_finished_job_is_taken_bit_by_bit(toy_run):
    mesh = create_mesh(jax.devices()[:1])
    model = network(toy.config(), embed_dim=8)
    weights = encoder_weights.load(str(toy_run / "single_city_street"), "toy", model, mesh)
    theirs = variables(toy_run / "single_city_street")
    state, report = create_state(model, optax.sgd(0.1), 5, mesh, None, weights)
    ours = jax.device_get(state.variables)
    assert equal({"e": ours["params"]["encoder"]}, {"e": theirs["params"]["encoder"]}) == [True]
    assert equal({"e": ours["batch_stats"]["encoder"]}, {"e": theirs["batch_stats"]["encoder"]}) == [True]
    assert {name.split("/")[1] for name in report.missing} == {"lateral", "decoder_elsewhere", "embedding"}


def test_other_folders_are_refused_as_weights(toy_run, tmp_path):
    mesh = create_mesh(jax.devices()[:1])
    model = network(toy.config())
    with pytest.raises(InputError, match=r"pretrained: .* is a whole run; give one of its jobs: .*single_city_street"):
        encoder_weights.load(str(toy_run), "toy", model, mesh)
    with pytest.raises(InputError, match=r"pretrained: .* is not a job of a run"):
        encoder_weights.load(str(tmp_path), "toy", model, mesh)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model.width": 0.125}, r"base\.0\.0\.weight is .*`width` of the weights"),
        ({"data.normalize": "imagenet"}, "trained with data.normalize=none, here it is imagenet"),
    ],
)
def test_weights_that_do_not_fit_are_refused_before_the_workdir_is_claimed(toy_run, tmp_path, fields, message):
    """Those of another width, and of an encoder that saw other numbers."""
    weights = {"model.pretrained": str(toy_run / "single_city_street")}
    with pytest.raises(InputError, match=message):
        train(toy.config(variants=["basic"], **weights, **fields), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_workdir_of_pretraining_is_refused_as_weights_and_its_file_named(tmp_path):
    (tmp_path / "config.json").write_text('{"encoder": "drn_d_22"}')
    (tmp_path / "encoder.safetensors").write_bytes(b"")
    model = network(toy.config())
    with pytest.raises(InputError, match=r"is a run of configs/imagenet\.py; give its file .*encoder\.safetensors"):
        encoder_weights.load(str(tmp_path), "toy", model, create_mesh(jax.devices()[:1]))


@pytest.mark.parametrize("bias", [True, False])
def test_embedding_head_has_a_bias_if_the_network_says_so(bias):
    model = network(toy.config(), embed_dim=8, embed_bias=bias)
    params = abstract_variables(model)["params"]
    assert set(params["embedding"]) == ({"kernel", "bias"} if bias else {"kernel"})
    assert set(params["decoder_elsewhere"]) == {"kernel", "bias"}


@pytest.mark.parametrize("variant", ["frozen", "finetune"])
def test_transfer_from_a_domain_to_none_is_refused(tmp_path, variant):
    config = toy.config(**{"data.domains": ["city_street"]}, variants=["single", variant])
    with pytest.raises(InputError, match=f"variants: {variant} needs two domains with labels, but city_street is the"):
        train(config, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_config_that_is_no_object_is_told(tmp_path):
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(InputError, match=r"config\.json cannot be used \(it holds no JSON object\)"):
        workdir_lib.claim_workdir(toy.config(), tmp_path, {})
    with pytest.raises(InputError, match=r"not a workdir of a run \(it holds no JSON object\)"):
        singles_folder(toy.config(**{"usss.single_from": str(tmp_path)}), tmp_path / "new", {})


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda names: ["lane" if n == "road" else n for n in names], "is 'lane', but 'road' in the domain"),
        (lambda names: names[:-1], "is nothing, but"),
    ],
)
def test_label_embeddings_of_other_classes_are_refused_when_a_run_resumes(tmp_path, change, told):
    """A class of a domain was renamed, or added, since they were made."""
    names = {d: list(get_domain(d).class_names) for d in ("city_street", "town_street")}
    names["city_street"] = change(names["city_street"])
    made, meta = label_sources.make("random", names, 8, 0)
    label_embeddings.save(embeddings_pass.embeddings_file(tmp_path), made, meta)
    with pytest.raises(InputError, match=f"city_street: class .* {told}.*; restore the domain's classes") as error:
        train(toy.config(variants=["full"], **{"usss.label_embeddings": "random"}), tmp_path)
    assert "\n" not in str(error.value) and not (tmp_path / "full").exists()


def test_file_with_several_rows_of_a_class_that_move_is_refused_before_the_workdir_is_claimed(tmp_path):
    names = {d: get_domain(d).class_names for d in ("city_street", "town_street")}
    label_embeddings.save(tmp_path / "e.npz", *label_sources.make("random", names, 8, 0, embeddings_per_class=2))
    config = toy.config(variants=["full"], **{"usss.label_embeddings": str(tmp_path / "e.npz"), "usss.theta": 0.5})
    with pytest.raises(InputError, match=r"city_street has several rows per class, but usss\.theta=0\.5"):
        train(config, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_networks_of_no_run_or_of_an_unfinished_one_are_refused(tmp_path):
    with pytest.raises(InputError, match="not a workdir of a run"):
        train(toy.config(variants=["full"], **{"usss.single_from": str(tmp_path / "typo")}), tmp_path / "new")
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "config.json").write_text(json.dumps(toy.config().to_dict()))
    with pytest.raises(InputError, match="single_city_street is not finished there"):
        train(toy.config(variants=["full"], **{"usss.single_from": str(tmp_path / "begun")}), tmp_path / "new")


def test_a_workdir_from_before_a_field_existed_has_its_default(tmp_path):
    config = toy.config()
    old = json.loads(json.dumps(config.to_dict()))
    del old["usss"]["entropy_warmup"]
    (tmp_path / "config.json").write_text(json.dumps(old))
    workdir_lib.claim_workdir(config, tmp_path, {})
    with pytest.raises(InputError, match=r"usss\.entropy_warmup was 0, is now 5"):
        workdir_lib.claim_workdir(toy.config(**{"usss.entropy_warmup": 5}), tmp_path, {})


def test_a_workdir_that_another_process_trains_is_refused(tmp_path):
    hold = "import sys, pathlib\nfrom usss_jax.runs.workdir import alone_in\n"
    hold += "with alone_in(pathlib.Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", hold, tmp_path], **pipes) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(InputError, match="another process trains it now"):
            train(toy.config(variants=["basic"]), tmp_path)
        other.kill()
    with workdir_lib.alone_in(tmp_path):  # a process that died does not keep it
        pass


@pytest.mark.slow
def test_adversarial_networks_are_trained_one_per_domain(toy_run):
    """The self-taught term weighs from the second of two steps on."""
    assert {path.name for path in toy_run.glob("hung_*")} == {"hung_city_street", "hung_town_street"}
    summary = json.loads((toy_run / "hung_city_street" / "summary.json").read_text())
    assert list(summary["domains"]) == ["city_street"] and summary["config"]["hung"]["semi_start"] == 0.5
    assert "| Hung et al. (one network per domain) |" in (toy_run / "table.md").read_text()
    rows = [json.loads(line) for line in (toy_run / "hung_city_street/metrics.jsonl").read_text().splitlines()]
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
            fields = {"data.domains": ["city_street"], "train.steps": steps}
            train(toy.config(variants=["basic"], **fields), tmp_path / str(steps))
        messages = [record.getMessage() for record in caplog.records]
        counts.append(sum(message.startswith("Finished XLA compilation") for message in messages))
    assert counts[0] == counts[1] > 0
