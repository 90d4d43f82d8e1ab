"""Variant teacher: its step against the loss written out, its moving average, and whole runs."""

import dataclasses
import json
import types
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from tiny_models import OneLayer, assert_trees_close, difference, encode, enlarge, largest

from usss_jax.config import checked, default_config
from usss_jax.config.files import read_named
from usss_jax.data.augment_device import DeviceAugment
from usss_jax.data.streams import step_batches
from usss_jax.engine.job import Fit
from usss_jax.engine.state import TrainState
from usss_jax.errors import InputError
from usss_jax.experiments import naming, rows, summaries
from usss_jax.methods.opening import open_run
from usss_jax.methods.train import train
from usss_jax.methods.usss import average, consistency
from usss_jax.methods.usss.plan import plan
from usss_jax.methods.usss.teacher import check_teacher
from usss_jax.methods.usss.teaching import Teaching, create_teaching
from usss_jax.models.universal import UniversalModel
from usss_jax.parallel.sharding import create_mesh
from usss_jax.runs.checkpoint import Checkpoints
from usss_jax.runs.networks import load_best

pytestmark = pytest.mark.usefixtures("scanned_teacher")

DOMAINS = ("city_street", "town_street")
CLASSES = {"a": 3, "b": 4}
SIZE = (16, 24)
MODEL = UniversalModel(OneLayer(), CLASSES)
NAMES = {d: [f"{d}{i}" for i in range(n)] for d, n in CLASSES.items()}
LIMITS = {"a": 0.5, "b": 0.4}
PLAIN = dataclasses.replace(
    create_teaching(checked(default_config()), list(CLASSES)), strong=DeviceAugment(), threshold=LIMITS
)


def teaching_of(**changed):
    """A teacher whose strong view is the image itself."""
    return dataclasses.replace(PLAIN, **changed)


def state_of(seed=0):
    """A student, and another network as its teacher."""
    one, two = (MODEL.init(jax.random.key(i), np.zeros((1, 8, 8, 3), np.float32)) for i in (seed, seed + 1))
    two = jax.tree.map(lambda a: 2 * a, two)  # not its own initial statistics, and confident
    return TrainState(jnp.asarray(3, jnp.int32), one["params"], one["batch_stats"], (), {"teacher": two})


def batch_of(passes=2):
    r = np.random.default_rng(0)
    images = {d: jnp.asarray(r.random((passes, 2, *SIZE, 3)), jnp.float32) for d in CLASSES}
    valid = {d: np.ones((passes, 2, *SIZE), np.uint8) for d in CLASSES}
    valid["a"][0, 1, :, 10:] = 0
    valid["b"][:, 0, 5:] = 0
    labels = {d: jnp.asarray(r.integers(0, n, (2, *SIZE))) for d, n in CLASSES.items()}
    return {
        "labeled": {d: {"image": images[d][0] / 2, "label": labels[d]} for d in CLASSES},
        "unlabeled": {d: {"image": images[d], "valid": jnp.asarray(valid[d])} for d in CLASSES},
    }


@partial(jax.jit, static_argnums=(2, 3))
def _computed(state, batch, teaching, seed):
    found = consistency.compute(
        state, batch, model=MODEL, augment=DeviceAugment(), seed=seed, teaching=teaching.value, class_names=NAMES
    )
    return found.gradients, found.scalars, found.extra


@dataclasses.dataclass(frozen=True, eq=False)
class Static:
    """Settings with dicts, for jit."""

    value: Teaching


def computed(state, batch, seed=0, **changed):
    return _computed(state, batch, Static(teaching_of(**changed)), seed)


# ---- One step ----


def scores(params, decoder, features):
    head = params[f"decoder_{decoder}"]
    return enlarge(features @ head["kernel"][0, 0] + head["bias"], SIZE)


def teachers(state, images, decoder):
    """Probabilities of the teacher, with its running statistics, as NumPy."""
    teacher = state.extra["teacher"]
    features = MODEL.apply(teacher, images, method="encode")
    return np.asarray(jax.nn.softmax(scores(teacher["params"], decoder, features)))


def written_out(params, state, batch, teaching):
    """Sum over domains of the mean over micro-batches of the loss, where the strong view is the image itself."""
    total = 0.0
    for d, part in batch["unlabeled"].items():
        for images, valid in zip(part["image"], part["valid"], strict=True):
            features, _ = encode(MODEL, params, state.batch_stats, images)
            p = teachers(state, images, d)
            inside = np.asarray(valid) != 0
            keep = (p.max(-1) >= teaching.threshold[d]) & inside
            target = p if teaching.targets == "soft" else np.eye(CLASSES[d])[p.argmax(-1)]
            log_q = jax.nn.log_softmax(scores(params, d, features))
            count = keep.sum() if teaching.mean_over == "kept" else inside.sum()
            loss = -(keep[..., None] * target * log_q).sum() / count
            if teaching.cross_weight:
                other = next(o for o in CLASSES if o != d)
                log_q = jax.nn.log_softmax(scores(params, other, features))
                of_other = inside[..., None] * teachers(state, images, other)
                loss = loss - teaching.cross_weight * (of_other * log_q).sum() / inside.sum()
            total = total + teaching.weight[d] * loss / len(part["image"])
    return total


SETTINGS = {
    "hard": {},
    "soft": {"targets": "soft", "weight": {"a": 1.0, "b": 0.3}},
    "kept_and_across": {"mean_over": "kept", "cross_weight": 0.7},
    "ramp": {"ramp": 8},  # the 4th of 8 steps: half of the weight
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_step_adds_the_consistency_written_out_with_the_teacher_as_a_constant(name):
    state, batch, teaching = state_of(), batch_of(), teaching_of(**SETTINGS[name])
    got, scalars, _ = computed(state, batch, **SETTINGS[name])
    without, none, _ = computed(state, batch, weight={"a": 0.0, "b": 0.0})
    value, want = jax.value_and_grad(written_out)(state.params, state, batch, teaching)
    share = 0.5 if teaching.ramp else 1.0
    assert float(scalars["loss"] - none["loss"]) == pytest.approx(share * float(value), rel=1e-4)
    added = jax.tree.map(np.subtract, got, without)
    assert_trees_close(added, jax.tree.map(lambda g: share * g, want), 2e-5)
    assert largest(want["encoder"]) > 1e-2
    for d, part in batch["unlabeled"].items():
        p = np.stack([teachers(state, images, d) for images in part["image"]])
        inside = np.asarray(part["valid"]) != 0
        keep = (p.max(-1) >= teaching.threshold[d]) & inside
        assert float(scalars[f"kept/{d}"]) == pytest.approx(keep.sum() / inside.sum(), abs=1e-3)
        for c, told in enumerate(NAMES[d]):
            of_class = inside & (p.argmax(-1) == c)
            want_share = (keep & of_class).sum() / max(of_class.sum(), 1)
            assert float(scalars[f"kept/{d}/{told}"]) == pytest.approx(want_share, abs=2e-3)
    assert 0.05 < float(scalars["kept/a"]) < 0.95


def test_the_teacher_predicts_the_weak_view_and_the_student_sees_the_strong_one():
    """Colours and mixing change the student's loss, and nothing of the teacher's scalars."""
    state, batch = state_of(), batch_of()
    _, weak, _ = computed(state, batch)
    _, strong, _ = computed(state, batch, strong=DeviceAugment(color_jitter=0.5, mix="cutmix"))
    assert {k: float(v) for k, v in weak.items() if k.startswith("kept")} == {
        k: float(v) for k, v in strong.items() if k.startswith("kept")
    }
    assert difference(weak["consistency/a/strong0"], strong["consistency/a/strong0"]) > 1e-3


def test_views_differ_and_share_the_weight_of_which_dropped_features_have_half():
    state, batch = state_of(), batch_of()
    settings = {"views": 2, "feature_dropout": 0.5, "strong": DeviceAugment(color_jitter=0.5, mix="classmix")}
    _, scalars, _ = computed(state, batch, **settings)
    each = {v: sum(float(scalars[f"consistency/{d}/{v}"]) for d in CLASSES) for v in ("strong0", "strong1", "features")}
    assert len(set(each.values())) == 3
    supervised = sum(float(scalars[f"supervised/{d}"]) for d in CLASSES)
    want = supervised + each["strong0"] / 4 + each["strong1"] / 4 + each["features"] / 2
    assert float(scalars["loss"]) == pytest.approx(want, rel=1e-5)
    _, other, _ = computed(state, batch, seed=1, **settings)
    assert float(other["loss"]) != float(scalars["loss"])


def test_adaptive_thresholds_move_with_the_predictions_and_stay_below_the_fixed_one():
    state, batch = state_of(), batch_of()
    before = {d: jnp.full(n, 1 / n) for d, n in CLASSES.items()}
    state = state.replace(extra={**state.extra, "confidence": before})
    _, scalars, extra = computed(state, batch, threshold_kind="adaptive", threshold_decay=0.5)
    for d, part in batch["unlabeled"].items():
        p = np.stack([teachers(state, images, d) for images in part["image"]])
        inside = np.asarray(part["valid"]) != 0
        for c, name in enumerate(NAMES[d]):
            of_class = p.max(-1)[inside & (p.argmax(-1) == c)]
            want = 0.5 / CLASSES[d] + 0.5 * of_class.mean() if len(of_class) else 1 / CLASSES[d]
            assert float(extra["confidence"][d][c]) == pytest.approx(want, rel=1e-3)
            assert float(scalars[f"threshold/{d}/{name}"]) == pytest.approx(min(want, LIMITS[d]), rel=1e-3)


# ---- The moving average ----


def number(step, value, teacher):
    extra = {"teacher": {"params": jnp.float32(teacher), "batch_stats": jnp.float32(0)}}
    return TrainState(jnp.int32(step), jnp.float32(value), jnp.float32(0), (), extra)


@pytest.mark.parametrize(
    ("warmup", "want"),
    [
        # With warm-up the mean of 0 and 1, of 0, 1 and 2, then 0.7 of it: rates 1/2, 2/3, 0.7.
        (True, [0.5, 1.0, 0.7 * 1.0 + 0.3 * 3]),
        (False, [0.3, 0.7 * 0.3 + 0.3 * 2, 0.7 * 0.81 + 0.3 * 3]),
    ],
)
def test_the_teacher_is_the_average_of_the_students_so_far(warmup, want):
    teacher, found = 0.0, []
    for step, value in ((1, 1.0), (2, 2.0), (3, 3.0)):
        state = average.follow(number(step, value, teacher), decay=0.7, warmup=warmup)
        teacher = float(state.extra["teacher"]["params"])
        found.append(teacher)
    assert found == pytest.approx(want, rel=1e-6)


def test_without_decay_the_teacher_is_exactly_the_student_and_frozen_weights_never_move():
    r = np.random.default_rng(0).standard_normal(100).astype(np.float32)
    old, new = jnp.asarray(r), jnp.asarray(r[::-1] * 1e-5)
    np.testing.assert_array_equal(average.moved(0.0, old, new), new)
    np.testing.assert_array_equal(average.moved(0.987, old, old), old)


# ---- Data ----


def small(folder=None, **changes):
    """Config of two domains with 6 unlabeled images each, cropped with padding."""
    values = {"variants": ["teacher"], "train.steps": 4, "train.eval_every": 4, "train.checkpoint_every": 1}
    values |= {"data.scale": "0.5-1.5", "teacher.threshold": 0.12, "teacher.decay": 0.9}
    return toy.config(**{**values, **changes})


def fit_of(config, workdir, name):
    run = open_run(config, workdir)
    (job,) = [j for j in plan(run, workdir) if isinstance(j, Fit) and j.name == name]
    return run, job


def test_padding_is_known_and_the_crops_are_those_without_the_map(toy_encoder, tmp_path):
    run = open_run(small(), tmp_path)
    settings = {"batch_size": 2, "unlabeled_batch_size": 3, "unlabeled_batches": dict.fromkeys(DOMAINS, 2)}
    (part, plain) = (
        step_batches(run.pools, **settings, validity=validity)[0]["unlabeled"][DOMAINS[0]] for validity in (True, False)
    )
    np.testing.assert_array_equal(part["image"], plain["image"])
    assert set(plain) == {"image"} and part["valid"].dtype == np.uint8
    padded = (part["image"] == (124, 116, 104)).all(-1)
    assert padded.mean() > 0.05 and (padded >= (part["valid"] == 0)).all()
    assert (padded & (part["valid"] != 0)).mean() < 0.02  # the image itself hardly has that colour
    assert set(np.unique(part["valid"])) == {0, 1}


def test_the_control_has_the_labeled_images_alone_and_as_many_batches(toy_encoder, tmp_path):
    config = small(variants=["teacher", "teacher_own"], **{"train.unlabeled_batches": "pool", "data.scale": ""})
    config.data.crop_size, config.data.flip = "", False  # whole images
    (run, job), (_, own) = (fit_of(config, tmp_path, name) for name in ("teacher", "teacher_own"))
    one, other = (j.make_batches()[0]["unlabeled"] for j in (job, own))
    for domain in DOMAINS:
        assert one[domain]["image"].shape == other[domain]["image"].shape
        labeled = [e["image"] for e in run.pools[domain].labeled]
        images = other[domain]["image"].reshape(-1, *SIZE, 3)
        assert all(any(np.array_equal(image, known) for known in labeled) for image in images)
    assert job.data["unlabeled_hash"] != own.data["unlabeled_hash"]
    assert job.data["split_hash"] == own.data["split_hash"]


def test_one_network_per_domain_has_the_images_of_its_domain_alone(toy_encoder, tmp_path):
    run = open_run(small(variants=["teacher_single"]), tmp_path)
    jobs = list(plan(run, tmp_path))
    assert [job.name for job in jobs] == [f"teacher_single_{d}" for d in DOMAINS]
    for job, domain in zip(jobs, DOMAINS, strict=True):
        batch = job.make_batches()[0]
        assert list(batch["labeled"]) == list(batch["unlabeled"]) == list(job.network["decoders"]) == [domain]
        assert job.steps == 4


def test_a_domain_without_labels_takes_no_part(toy_encoder, tmp_path):
    config = small(**{"data.labeled_per_domain": "city_street=4,town_street=0"})
    _, job = fit_of(config, tmp_path, "teacher")
    assert list(job.make_batches()[0]["unlabeled"]) == ["city_street"]


def test_a_domain_has_its_own_number_of_unlabeled_images(toy_encoder, tmp_path):
    config = small(**{"train.unlabeled_batch_size": "town_street=3,city_street=4"})
    _, job = fit_of(config, tmp_path, "teacher")
    unlabeled = job.make_batches()[0]["unlabeled"]
    assert [unlabeled[d]["image"].shape[:2] for d in DOMAINS] == [(1, 4), (1, 3)]
    assert job.images_per_step == 2 * 2 + 4 + 3


# ---- Bad input ----


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher.threshold": 1.5}, r"teacher.threshold=1.5: cannot read '1.5' for city_street: .* from 0 to 1"),
        ({"teacher.threshold": "town_street=-1"}, r"cannot read '-1' for town_street"),
        ({"teacher.weight": "paris=1"}, r"'paris' is not a domain of this run"),
        ({"teacher.mix": "cutmix", "train.unlabeled_batch_size": 1}, r"cutmix needs two images per batch"),
        ({"train.unlabeled_batch_size": "town_street=1"}, r"town_street: teacher.mix=cutmix needs two images"),
        ({"train.unlabeled_batch_size": 0}, r"unlabeled_batch_size=0: .* 1 or more"),
        ({"teacher.feature_dropout": 1.0}, r"teacher.feature_dropout=1.0 must be at least 0, below 1"),
        ({"teacher.across": "paste"}, r"teacher.across=paste must be one of none, labeled, unlabeled"),
        ({"teacher.across": "labeled", "teacher.mix": "none"}, r"across=labeled pastes .* but teacher.mix=none"),
        ({"teacher.similarity_weight": 0.5}, r"similarity_weight=0.5 needs usss.embedding_supervision above 0"),
        ({"variants": ["teacher_single"], "teacher.across": "labeled"}, r"teacher_single have one domain.*=none"),
        ({"variants": ["teacher_single"], "teacher.cross_weight": 1.0}, r"teacher_single have one domain.*=0"),
        (
            {"teacher.across": "labeled", "data.labeled_per_domain": "city_street=4,town_street=0"},
            r"teacher.across=labeled needs two domains with labels, but city_street is the only one",
        ),
    ],
)
def test_bad_values_are_an_error_before_anything_is_trained(toy_encoder, tmp_path, changes, message):
    with pytest.raises(InputError, match=message) as found:
        train(small(**changes), tmp_path / "new")
    assert "\n" not in str(found.value) and not (tmp_path / "new").exists()


def test_a_domain_without_unlabeled_images_is_an_error():
    domain = types.SimpleNamespace(labeled=[1], unlabeled=[])
    config = checked(default_config())
    config.variants = ("teacher",)
    with pytest.raises(InputError, match="camvid: variant teacher needs unlabeled images"):
        check_teacher(config, {"camvid": domain})
    config.variants = ("teacher_own",)
    check_teacher(config, {"camvid": domain})


# ---- Whole runs ----

RICH = {
    "teacher.threshold_kind": "adaptive",
    "teacher.targets": "soft",
    "teacher.views": 2,
    "teacher.feature_dropout": 0.5,
    "teacher.cross_weight": 0.5,
    "teacher.mix": "classmix",
    "teacher.across": "unlabeled",
    "teacher.similarity_weight": 0.5,
    "usss.embedding_supervision": 1.0,
    "usss.label_embeddings": "random",
    "usss.theta": 0.9,
}


@pytest.fixture(scope="module")
def workdir(toy_encoder, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run") / "workdir"
    train(small(**RICH), workdir)
    return workdir


def logged(folder):
    """{(step, name): value} of metrics.jsonl, without speeds."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {(x["step"], name): v for x in lines for name, v in x.items() if "/" in name or name == "loss"}


def saved_state(config, workdir, step):
    """The state of variant teacher in the checkpoint of a step."""
    _, job = fit_of(config, workdir, "teacher")
    state, _ = job.create_state()
    checkpoints = Checkpoints(workdir / "teacher" / "checkpoints")
    return checkpoints.restore(step, state=state)["state"]


@pytest.mark.slow
def test_an_interrupted_training_resumes_to_the_same_bits(workdir, tmp_path, monkeypatch):
    again = tmp_path / "workdir"
    save, calls = Checkpoints.save, []

    def interrupted(self, step, *trees):
        save(self, step, *trees)
        calls.append(step)
        if step == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(small(**RICH), again)
    assert calls == [1, 2]
    train(small(**RICH), again)
    assert logged(again / "teacher") == logged(workdir / "teacher")
    one, other = (saved_state(small(**RICH), folder, 4) for folder in (workdir, again))
    assert set(one.extra) == {"teacher", "confidence", "label_embeddings"}
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.nightly
def test_one_network_per_domain_is_trained_with_thresholds_of_its_own_classes(toy_encoder, tmp_path):
    workdir = tmp_path / "workdir"
    settings = {"teacher.threshold_kind": "adaptive", "train.steps": 2, "train.eval_every": 2}
    summaries = train(small(variants=["teacher_single"], **settings), workdir)
    assert list(summaries) == [f"teacher_single_{d}" for d in DOMAINS]
    told = {name for _, name in logged(workdir / f"teacher_single_{DOMAINS[0]}") if name.startswith("threshold/")}
    assert told and all(name.startswith(f"threshold/{DOMAINS[0]}/") for name in told)
    assert "| teacher (one network per domain) |" in (workdir / "table.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("export", ["teacher", pytest.param("student", marks=pytest.mark.nightly)])
def test_the_chosen_network_selects_and_is_exported_and_both_are_scored(workdir, tmp_path, export):
    if export == "student":
        workdir = tmp_path / "workdir"
        train(small(**RICH, **{"teacher.export": "student"}), workdir)
    summary = json.loads((workdir / "teacher/summary.json").read_text())
    state = saved_state(small(**RICH, **{"teacher.export": export}), workdir, 4)
    _, variables, _, name = load_best(workdir / "teacher", create_mesh(jax.devices()[:1]))
    assert name == "teacher/best/4"
    networks = {"student": state.variables, "teacher": state.extra["teacher"]}
    jax.tree.map(np.testing.assert_array_equal, variables, networks[export])
    assert difference(networks["student"], networks["teacher"]) > 1e-4
    val = summary["val"]["best"]
    kinds = {"student": "val_miou", "teacher": "val_miou_teacher"}
    assert {f"{kind}/{d}" for kind in kinds.values() for d in (*DOMAINS, "average")} == set(val)
    assert summary["val_average_best"] == val[f"{kinds[export]}/average"]
    for d in DOMAINS:
        about = summary["domains"][d]
        assert about["val_miou_best"] == val[f"{kinds[export]}/{d}"] == about["miou_best"]  # its val is its test split
    title = "| Univ-basic, teacher |"
    assert any(line.startswith(title) for line in (workdir / "table.md").read_text().splitlines())
    assert (workdir / "predictions.png").exists()


# ---- Rows ----


def test_presets_are_rows_of_the_same_variant():
    known = rows.universal_rows(("a", "b"))
    for name in ("fixmatch", "mean_teacher", "unimatch"):
        for pair in ("cs256_cvd", "cvd_iddlite"):
            config = checked(read_named(f"configs/{pair}.py:{name},cpu,drn_d_22"))
            assert config.variants == ("basic", "teacher")
            summary = {"job": "teacher", "config": config.to_dict()}
            assert naming.named_by_content(summary) == (name, summary)
            assert naming.changed_fields(summary) == dict(known[name].overrides)
    plain = checked(read_named("configs/cs256_cvd.py:cpu,drn_d_22")).to_dict()
    assert naming.named_by_content({"job": "teacher_own", "config": plain})[0] == "teacher_own"
    assert summaries.kind("teacher_single_camvid") == "teacher_single" and summaries.kind("teacher") == "universal"
    plain["teacher"]["threshold"] = "camvid=0.9"
    assert naming.named_by_content({"job": "teacher", "config": plain})[0] == "teacher:teacher.threshold=camvid=0.9"
    with pytest.raises(InputError, match="fixmatch and unimatch: give one of them"):
        read_named("configs/cs256_cvd.py:unimatch,fixmatch")
