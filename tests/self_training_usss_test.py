"""Rounds of self-training on several domains: each one's own decoder labels its images."""

import dataclasses
import json
import math
import shutil
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from tiny_models import OneLayer, encode, enlarge

from usss_jax.config import checked, default_config, fields
from usss_jax.data.augment_device import DeviceAugment
from usss_jax.data.domains import get_domain
from usss_jax.data.pseudo_label_files import PseudoLabelFiles, open_folder, read_manifest
from usss_jax.errors import InputError
from usss_jax.evaluation.metrics import percent
from usss_jax.experiments import arguments, collect, commands, layout, naming
from usss_jax.methods import supervised
from usss_jax.methods.opening import open_run
from usss_jax.methods.supervised import LabeledBatches, supervised_loss
from usss_jax.methods.train import train
from usss_jax.methods.usss import terms
from usss_jax.methods.usss.plan import plan
from usss_jax.models.universal import UniversalModel
from usss_jax.models.upsample import upsample, upsample_bicubic
from usss_jax.parallel.sharding import create_mesh
from usss_jax.runs.networks import load_best

DOMAINS = ("city_street", "town_street")


# ---- The loss ----

CLASSES = {"a": 3, "b": 4}
MODEL = UniversalModel(OneLayer(), CLASSES, 2)


def case():
    """Variables of the model, and batches with and without a decoder of their name."""
    r = np.random.default_rng(0)
    variables = MODEL.init(jax.random.key(0), np.zeros((1, 8, 8, 3), np.float32))
    batch = {}
    for name, classes in (("a", 3), ("a pseudo", 3), ("b", 4)):
        label = r.integers(0, classes, (2, 16, 24))
        label[r.random(label.shape) < 0.3] = 255
        batch[name] = {"image": jnp.asarray(r.random((2, 16, 24, 3)), jnp.float32), "label": jnp.asarray(label)}
    return variables["params"], variables["batch_stats"], batch


def mean_cross_entropy(params, stats, data, decoder):
    """Written out on pixels, of one batch alone."""
    kernel, bias = params[f"decoder_{decoder}"]["kernel"][0, 0], params[f"decoder_{decoder}"]["bias"]
    logits = np.asarray(enlarge(encode(MODEL, params, stats, data["image"])[0] @ kernel + bias, (16, 24)), np.float64)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    label = np.asarray(data["label"])
    return -log_p[label != 255][np.arange((label != 255).sum()), label[label != 255]].mean()


@pytest.mark.parametrize("weight", [1.0, 0.25, 0.0])
def test_a_batch_has_the_decoder_and_the_weight_that_are_given_for_its_name(weight):
    params, stats, batch = case()
    want = {name: mean_cross_entropy(params, stats, data, name[0]) for name, data in batch.items()}
    use = LabeledBatches({"a pseudo": "a"}, {"a pseudo": weight})
    loss, (_, scalars, _) = jax.jit(lambda *args: supervised_loss(*args, model=MODEL, use=use))(params, stats, batch)
    assert float(loss) == pytest.approx(want["a"] + weight * want["a pseudo"] + want["b"], rel=1e-5)
    assert {name: float(v) for name, v in scalars.items()} == pytest.approx(
        {f"supervised/{name}": value for name, value in want.items()}, rel=1e-5
    )


def test_class_weights_make_the_loss_a_weighted_mean():
    params, stats, batch = case()
    weights, data = (0.5, 2.0, 3.0), batch["a"]
    use = LabeledBatches(class_weights={"a": weights})
    loss = jax.jit(lambda *args: supervised_loss(*args, model=MODEL, use=use)[0])(params, stats, {"a": data})
    total = 0.0
    label = np.asarray(data["label"])
    for c, weight in enumerate(weights):
        of_class = {**data, "label": np.where(label == c, label, 255)}
        total += weight * (label == c).sum() * mean_cross_entropy(params, stats, of_class, "a")
    assert float(loss) == pytest.approx(total / sum(w * (label == c).sum() for c, w in enumerate(weights)), rel=1e-5)


def test_pseudo_labels_neither_supervise_similarities_nor_move_label_embeddings():
    params, stats, batch = case()
    objective = terms.create_objective(default_config().usss)
    objective = dataclasses.replace(objective, embedding_supervision=1.0, theta=0.5)
    embeddings = {"a": jnp.eye(3, 2), "b": jnp.eye(4, 2)}
    settings = {"model": MODEL, "objective": objective, "label_embeddings": embeddings}
    settings["label_classes"] = {"a": (0, 1, 2), "b": (0, 1, 2, 3)}

    def loss(batch, **labels):
        return jax.jit(lambda *args: terms.labeled_loss(*args, **settings, **labels))(params, stats, batch)

    whole, (_, scalars, sums) = loss(batch, use=LabeledBatches({"a pseudo": "a"}))
    without, _ = loss({name: batch[name] for name in CLASSES})
    assert set(sums) == set(CLASSES)
    assert {name for name in scalars if name.startswith("embedding")} == {f"embedding_supervision/{d}" for d in CLASSES}
    added = mean_cross_entropy(params, stats, batch["a pseudo"], "a")
    assert float(whole - without) == pytest.approx(added, rel=1e-4)


# ---- Config ----


def test_usss_and_mlsl_share_the_fields_with_defaults_of_their_own():
    mine, theirs = fields("usss"), fields("mlsl")
    shared = [name for name in mine if name.startswith("rounds.") and name in theirs]
    assert {name: (mine[name].default, theirs[name].default) for name in ("rounds.count", "rounds.patches")} == {
        "rounds.count": (1, 6),
        "rounds.patches": (0, 50),
    }
    assert mine["rounds.lr"].default == mine["optim.lr"].default
    assert all(mine[name].range is theirs[name].range for name in shared if name != "rounds.epochs")  # 0: train.steps
    assert not {"rounds.batch_size", "rounds.pairing", "rounds.loss"} & set(mine)
    assert mine["rounds.portion"].makes == ("self", "self_own", "self_full") and theirs["rounds.portion"].makes == ()


@pytest.mark.slow
def test_a_round_has_its_own_order_of_images(toy_encoder, tmp_path, workdir):
    run = open_run(small(workdir, **{"rounds.count": 2}), workdir)
    jobs = [job for job in plan(run, workdir) if getattr(job, "name", "").startswith("self_round")]
    assert [job.name for job in jobs] == ["self_round0", "self_round1"]
    one, other = (job.make_batches()[0]["labeled"] for job in jobs)
    for name in (DOMAINS[0], "town_street pseudo"):
        assert one[name]["image"].shape == (2, 16, 24, 3)
        assert not np.array_equal(one[name]["image"], other[name]["image"])


def test_patches_larger_than_an_image_are_an_error_before_anything_is_trained(toy_encoder, tmp_path):
    changes = {"rounds.patches": 2, "rounds.patch_size": 20}
    with pytest.raises(InputError, match=r"patch_size=20 exceeds the images of city_street, 16x24; set at most 16"):
        train(toy.config(variants=["self"], **changes), tmp_path / "new")
    assert not (tmp_path / "new").exists()


# ---- Whole runs ----


def small(folder, **changes):
    """Config with 6 unlabeled images per domain and two rounds."""
    path = folder.parent / "unlabeled.txt"
    path.write_text("".join(f"{i:05d}\n" for i in range(200, 206)))
    values = {"variants": ["basic", "self", "full", "self_full"], "rounds.count": 2, "rounds.epochs": 1.0}
    values |= {"data.unlabeled_list": str(path), "data.unlabeled_includes_labeled": False}
    return toy.config(**{**values, **changes})


@pytest.fixture(scope="module")
def workdir(toy_encoder, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run") / "workdir"
    train(small(workdir), workdir)
    return workdir


def scalars(folder):
    """{(step, name): value} of metrics.jsonl, without speeds."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {(x["step"], name): v for x in lines for name, v in x.items() if "/" in name or name == "loss"}


@pytest.mark.slow
def test_every_round_is_a_job_and_a_row(workdir):
    jobs = [f"{v}_round{r}" for v in ("self", "self_full") for r in range(2)]
    summaries = {job: json.loads((workdir / job / "summary.json").read_text()) for job in jobs}
    table = (workdir / "table.md").read_text()
    titles = {"self_round1": "Univ-basic, self-training", "self_full_round0": "Univ-full, self-training"}
    for job, title in titles.items():
        (row,) = [line for line in table.splitlines() if line.startswith(f"| {title}, round {job[-1]} |")]
        assert percent(summaries[job]["average_best"]) in row
    assert all(summary["steps"] == 3 for summary in summaries.values())  # one pass over 6 images, 2 per step
    lr = [summaries[job]["lr"] for job in jobs[:2]]
    assert lr[0] == small(workdir).rounds.lr and lr[1] == pytest.approx(lr[0] / math.sqrt(2))
    assert (workdir / "predictions.png").exists()


@pytest.mark.slow
def test_training_has_labels_and_pseudo_labels_of_every_domain_and_the_entropy_terms_in_self_full_alone(workdir):
    names = [*DOMAINS, *(f"{d} pseudo" for d in DOMAINS)]
    for variant in ("self", "self_full"):
        logged = scalars(workdir / f"{variant}_round0")
        of_entropy = [f"{kind}/{d}" for kind in ("within", "cross") for d in DOMAINS] if variant == "self_full" else []
        total = sum(logged[1, name] for name in (*(f"supervised/{n}" for n in names), *of_entropy))
        assert logged[1, "loss"] == pytest.approx(total, rel=1e-5)
        assert of_entropy or not any(name.startswith(("within", "cross")) for _, name in logged)


@pytest.mark.slow
@pytest.mark.parametrize(("job", "by"), [("self_round0", "basic"), ("self_round1", "self_round0")])
@pytest.mark.parametrize("domain", DOMAINS)
def test_pseudo_labels_are_classes_of_the_own_decoder_of_the_network_before(workdir, domain, job, by):
    folder = workdir / "pseudo_labels" / job / domain
    manifest = read_manifest(folder)
    assert manifest["classes"] == list(get_domain(domain).class_names)
    assert manifest["settings"]["network"].startswith(f"{by}/best/")
    pool = open_run(small(workdir), workdir).pools[domain]
    assert pool.unlabeled.ids == [f"{i:05d}" for i in range(200, 206)]
    model, variables, _, _ = load_best(workdir / by, create_mesh(jax.devices()[:1]))
    files = open_folder(folder, pool.domain, pool.unlabeled.ids)

    @jax.jit
    def predict(image):
        def scores(image):
            features = model.apply(variables, image, method="encode")
            cells = jax.nn.softmax(model.apply(variables, features, domain, method="decode"))
            return upsample_bicubic(cells, (16, 24), model.stride)

        return ((scores(image) + scores(image[:, :, ::-1])[:, :, ::-1]) / 2)[0]

    values = json.loads((folder / "summary.json").read_text())["thresholds"].values()
    thresholds = np.array([math.inf if value is None else value for value in values])
    shares = []
    for i, key in enumerate(pool.unlabeled.ids):
        ratios = np.asarray(predict(pool.unlabeled[i]["image"][None])) / thresholds
        want = np.where(ratios.max(-1) < 1, 255, ratios.argmax(-1))
        first, second = (np.sort(ratios, -1)[..., -k] for k in (1, 2))
        clear = (first - second > 1e-5) & (np.abs(first - 1) > 1e-5)
        label = files.label(key)
        np.testing.assert_array_equal(label[clear], want[clear])
        shares += [clear.mean(), (label != 255).mean()]
    assert np.mean(shares[::2]) > 0.9 and 0.3 < np.mean(shares[1::2]) < 0.9


@pytest.mark.slow
def test_a_second_command_trains_nothing(workdir):
    written = [*workdir.glob("*/summary.json"), *workdir.glob("*/metrics.jsonl"), *workdir.rglob("pseudo_labels/**/*")]
    before = {path: path.stat().st_mtime_ns for path in written}
    table = (workdir / "table.md").read_text()
    train(small(workdir), workdir)
    assert {path: path.stat().st_mtime_ns for path in written} == before and len(before) > 50
    assert (workdir / "table.md").read_text() == table


@pytest.mark.nightly
def test_an_interrupted_labelling_of_the_second_domain_is_finished_by_the_same_command(workdir, tmp_path, monkeypatch):
    again = tmp_path / "run" / "workdir"
    shutil.copytree(workdir, again, ignore=shutil.ignore_patterns("self*", "full", "prototypes", "single*"))
    shutil.rmtree(again / "pseudo_labels", ignore_errors=True)
    write, calls = PseudoLabelFiles.write, []

    def interrupted(self, key, *maps):
        calls.append(key)
        if len(calls) == 9:  # of 6 images per domain
            raise KeyboardInterrupt
        write(self, key, *maps)

    with monkeypatch.context() as patch:
        patch.setattr(PseudoLabelFiles, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(small(again, variants=["self"]), again)
    folder = again / "pseudo_labels/self_round0"
    assert [(folder / d / "summary.json").exists() for d in DOMAINS] == [True, False]
    train(small(again, variants=["self"]), again)
    for path in sorted((workdir / "pseudo_labels").glob("self_round*/*/*/*.png")):
        assert (again / path.relative_to(workdir)).read_bytes() == path.read_bytes()
    for job in ("self_round0", "self_round1"):
        assert scalars(again / job) == scalars(workdir / job)


@pytest.mark.slow
def test_a_domain_without_labels_has_no_pseudo_labels(toy_encoder, tmp_path):
    labeled = {"data.labeled_per_domain": "city_street=4,town_street=0", "rounds.count": 1, "variants": ["self"]}
    workdir = tmp_path / "workdir"
    summaries = train(small(workdir, **labeled), workdir)
    assert list(summaries) == ["basic", "self_round0"]  # which it starts from
    assert [path.name for path in (workdir / "pseudo_labels/self_round0").iterdir()] == ["city_street"]
    names = {name for _, name in scalars(workdir / "self_round0") if name.startswith("supervised")}
    assert names == {"supervised/city_street", "supervised/city_street pseudo"}


@pytest.mark.nightly
def test_a_domain_without_labels_takes_part_in_the_entropy_terms_of_every_round(toy_encoder, tmp_path):
    fields = {"data.labeled_per_domain": "city_street=4,town_street=0", "usss.label_embeddings": "random"}
    workdir = tmp_path / "workdir"
    summaries = train(small(workdir, variants=["self_full"], **fields, **{"rounds.count": 1}), workdir)
    assert list(summaries) == ["full", "self_full_round0"]
    assert "cross/town_street" in {name for _, name in scalars(workdir / "self_full_round0")}


# ---- Sweep and tables ----


def commands_of(*chosen, extra=(), **overrides):
    experiment = layout.Experiment("pair", 4, "cpu")
    sweep = commands.Sweep(experiment, "pair.py", DOMAINS, *map(layout.pathlib.Path, "rq"), overrides=overrides)
    return {c.name: c for c in commands.commands_of(sweep, arguments.requested_rows(3, DOMAINS, chosen, extra), 0)}


def test_rows_of_the_sweep_start_from_single_networks_where_they_need_label_embeddings():
    found = commands_of("self", "self_full", extra=["half:variants=self,rounds.count=3"])
    assert list(found) == ["single", "self", "self_full", "half"]
    assert found["self"].jobs == {"self": "self"} and found["self"].start is None
    assert found["self_full"].jobs == {"self_full": "self_full"} and found["self_full"].start is not None
    assert found["half"].jobs == {"half": "self"}


@pytest.mark.slow
def test_rounds_are_named_by_their_fields_and_compared_with_basic_despite_other_steps(workdir):
    (found,) = collect.read_folders([workdir], "", "")
    names = {f"{job}:rounds.count=2,rounds.epochs=1" for job in ("self", "self_full")}
    assert names | {"basic", "full"} <= set(found.summaries)
    plain = {"job": "self_round0", "config": checked(default_config()).to_dict()}
    assert naming.named_by_content(plain)[0] == "self"
    plain["config"]["rounds"]["count"] = 2  # the last round is missing
    assert naming.named_by_content(plain)[0].startswith("self_round0")


# ---- Fixed threshold, labels of all decoders, several networks, and the control ----


def test_labels_of_other_decoders_are_terms_of_their_own_on_the_same_features():
    params, stats, batch = case()
    other = batch.pop("b")["label"]
    batch["a"]["others"] = {"b": {"label": other}}
    del batch["a pseudo"]
    settings = {"model": MODEL, "use": LabeledBatches(weights={"a by b": 0.25})}
    loss, (_, scalars, _) = jax.jit(lambda *args: supervised_loss(*args, **settings))(params, stats, batch)
    own = mean_cross_entropy(params, stats, batch["a"], "a")
    by_other = mean_cross_entropy(params, stats, {"image": batch["a"]["image"], "label": other}, "b")
    assert float(loss) == pytest.approx(own + 0.25 * by_other, rel=1e-5)
    assert float(scalars["supervised/a by b"]) == pytest.approx(by_other, rel=1e-5)


def test_only_images_with_pseudo_labels_are_strong_views_and_all_their_labels_move_with_them():
    r = np.random.default_rng(0)
    image = jnp.asarray(r.integers(0, 256, (4, 16, 16, 3)), jnp.uint8)
    label = jnp.broadcast_to(jnp.arange(4)[:, None, None], (4, 16, 16)).astype(jnp.uint8)  # the image it is of
    part = {"image": image, "label": label, "others": {"b": {"label": label + 10}}}
    state = SimpleNamespace(step=3)
    strong = DeviceAugment(color_jitter=1.0, mix="cutmix")
    batch = {"labeled": {"a": {"image": image, "label": label}, "a pseudo": part}}
    found = supervised.augmented(state, batch, DeviceAugment(), 0, {"a pseudo": strong})
    np.testing.assert_array_equal(found["a"]["image"], image)
    np.testing.assert_array_equal(found["a"]["label"], label)
    mixed = found["a pseudo"]
    assert 0 < (mixed["label"] != label).mean() < 1
    np.testing.assert_array_equal(mixed["others"]["b"]["label"], mixed["label"] + 10)
    assert np.abs(mixed["image"] - image / 255).max() > 0.1


@pytest.fixture(scope="module")
def across(workdir, tmp_path_factory):
    """A run of self and self_own with labels of all decoders, by the mean of two networks of `workdir`."""
    folder = tmp_path_factory.mktemp("across") / "workdir"
    train(small(folder, **across_fields(workdir)), folder)
    return folder


def across_fields(workdir):
    fields = {"variants": ["self", "self_own"], "rounds.count": 1, "rounds.epochs": 0.0, "train.steps": 2}
    fields |= {"rounds.threshold": 0.17, "rounds.across_weight": 0.5, "rounds.start": "pretrained"}
    return fields | {
        "rounds.networks": f"{workdir}/basic,{workdir}/self_round1",
        "rounds.upsample": "bilinear",
        "rounds.strong": True,
    }


@pytest.mark.slow
def test_the_mean_of_several_networks_labels_above_a_fixed_threshold_by_every_decoder(workdir, across):
    mesh = create_mesh(jax.devices()[:1])
    networks = [load_best(workdir / job, mesh)[:2] for job in ("basic", "self_round1")]
    pools, shares = open_run(small(workdir), workdir).pools, []
    for domain, decoder in ((d, by) for d in DOMAINS for by in DOMAINS):
        folder = across / "pseudo_labels/self_round0" / (domain if domain == decoder else f"{domain}_by_{decoder}")
        images = pools[domain].unlabeled
        files = open_folder(folder, dataclasses.replace(pools[decoder].domain, size=(16, 24)), images.ids)
        for i, key in enumerate(images.ids):
            image, found = images[i]["image"][None], []
            for model, variables in networks:
                for flip in (1, -1):
                    features = model.apply(variables, image[:, :, ::flip], method="encode")
                    cells = jax.nn.softmax(model.apply(variables, features, decoder, method="decode"))
                    found.append(upsample(cells, (16, 24), model.stride, model.upsample)[0, :, ::flip])
            mean = np.mean(found, 0)
            want = np.where(mean.max(-1) >= 0.17, mean.argmax(-1), 255)
            first, second = (np.sort(mean, -1)[..., -k] for k in (1, 2))
            clear = (first - second > 1e-5) & (np.abs(first - 0.17) > 1e-5)
            np.testing.assert_array_equal(files.label(key)[clear], want[clear])
            shares.append((want != 255).mean())
    assert 0.05 < np.mean(shares) < 0.95


@pytest.mark.slow
def test_the_control_labels_the_labeled_images_alone(workdir, across):
    pools = open_run(small(workdir), workdir).pools
    for domain in DOMAINS:
        for variant, ids in (("self_own", pools[domain].labeled_ids), ("self", pools[domain].unlabeled.ids)):
            labels = (across / "pseudo_labels" / f"{variant}_round0" / domain / "labels").iterdir()
            assert sorted(path.stem for path in labels) == sorted(ids)


@pytest.mark.slow
def test_a_round_of_0_epochs_from_pretrained_weights_has_steps_and_start_of_other_trainings(workdir, across):
    summary = json.loads((across / "self_round0/summary.json").read_text())
    assert summary["steps"] == 2
    assert summary["views"] == dict.fromkeys([*DOMAINS, *(f"{d} pseudo" for d in DOMAINS)], 4)  # 2 images per step
    run = open_run(small(across, **across_fields(workdir)), across)
    (job,) = [job for job in plan(run, across) if getattr(job, "name", "") == "self_round0"]
    start = job.create_state()[0].params
    fresh = next(job for job in plan(open_run(small(workdir), workdir), workdir) if getattr(job, "name", "") == "basic")
    jax.tree.map(np.testing.assert_array_equal, start, fresh.create_state()[0].params)
    names = {f"supervised/{d} pseudo by {by}" for d, by in (DOMAINS, DOMAINS[::-1])}
    assert names <= {name for _, name in scalars(across / "self_round0")}


@pytest.mark.slow
def test_only_the_most_reliable_images_are_labeled(workdir, tmp_path):
    fields = across_fields(workdir) | {"variants": ["self"], "rounds.across_weight": 0.0, "train.steps": 1}
    train(small(tmp_path / "run", **fields, **{"rounds.images": "city_street=2,town_street=all"}), tmp_path / "run")
    folder = tmp_path / "run/pseudo_labels/self_round0"
    ids = (folder / "city_street_images.txt").read_text().split()
    counts = [len(list((folder / d / "labels").iterdir())) for d in DOMAINS]
    assert len(ids) == 2 and counts == [2, 6]


@pytest.mark.slow
def test_networks_that_cannot_label_are_told(workdir, tmp_path):
    fields = across_fields(workdir)
    cases = {f"{tmp_path} is not the folder of a finished job": str(tmp_path)}
    cases[r"single_city_street has no decoder of town_street"] = f"{workdir}/single_city_street"
    for message, networks in cases.items():
        with pytest.raises(InputError, match=message):
            train(small(tmp_path / "new", **{**fields, "rounds.networks": networks}), tmp_path / "new")
