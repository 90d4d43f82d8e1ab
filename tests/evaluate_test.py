"""Evaluation counts every pixel of a split once, whatever the batch size."""

import jax
import numpy as np
import pytest
from tiny_models import OneLayer

from usss_jax.evaluation.evaluate import create_evaluator, padded_batches, predict, sum_batches
from usss_jax.models.heads import linear
from usss_jax.models.universal import UniversalModel
from usss_jax.parallel import sharding


class Memory:
    """Source of random images and labels."""

    def __init__(self, count, size=(20, 28), classes=3):
        r = np.random.RandomState(0)
        self.examples = [
            {
                "image": r.randint(0, 256, (*size, 3)).astype(np.uint8),
                "label": np.where(r.rand(*size) < 0.2, 255, r.randint(0, classes, size)).astype(np.uint8),
            }
            for _ in range(count)
        ]

    def __len__(self):
        return len(self.examples)

    def __getitem__(self, i):
        return self.examples[i]


@pytest.fixture(scope="module")
def model_and_variables():
    model = UniversalModel(OneLayer(), {"a": 3, "b": 2})
    return model, jax.jit(model.init)(jax.random.key(0, impl="rbg"), np.zeros((1, 8, 8, 3), np.float32))


@pytest.mark.parametrize("batch_size", [1, 2, 5, 8])
@pytest.mark.slow
def test_confusion_matrix_does_not_depend_on_the_batch_size(model_and_variables, batch_size):
    """Counted here by loops over single images; 5 images are no multiple of 2 or 8, so the last batch is filled up."""
    model, variables = model_and_variables
    source = Memory(5)
    expected = np.zeros((3, 3), int)
    for example in source.examples:
        prediction = np.asarray(predict(variables, example["image"][None], domain="a", model=model))[0]
        for label, guess in zip(example["label"].flat, prediction.flat, strict=True):
            if label != 255:
                expected[label, guess] += 1
    mesh = sharding.create_mesh()
    evaluate = create_evaluator(mesh, "a", model=model)
    counted = evaluate(variables, source, batch_size)
    assert counted.dtype == np.int64
    assert counted.sum() == expected.sum()
    if batch_size == 1:
        np.testing.assert_array_equal(counted, expected)
    else:  # float32 sums in another order may turn a pixel whose two best scores are all but equal
        assert np.abs(counted - expected).sum() <= 4


def test_last_batch_is_filled_with_ignored_pixels():
    batches = list(padded_batches(Memory(5), 4))
    assert [b["image"].shape[0] for b in batches] == [4, 4]
    assert (batches[1]["label"][1:] == 255).all() and not (batches[1]["label"][0] == 255).all()


class OnDevice:
    """A result that tells when it is fetched."""

    dtype = np.dtype(np.int32)

    def __init__(self, value, fetched):
        self.value, self.fetched = value, fetched

    def __array__(self, dtype=None, copy=None):
        self.fetched()
        return np.asarray(self.value, np.int32)


def test_next_batch_is_read_and_under_way_before_the_result_of_one_is_waited_for():
    """Three batches of one image each; in int32 the sum would overflow: 3 (2^30 + 1) = 3221225475."""
    happened = []

    class Told(Memory):
        def __getitem__(self, i):
            happened.append(f"read {i}")
            return super().__getitem__(i)

    def count(variables, batch):
        number = sum(word.startswith("run") for word in happened)
        happened.append(f"run {number}")
        return OnDevice([2**30 + 1, number], lambda: happened.append(f"fetch {number}"))

    total = sum_batches(count, None, Told(3), 1, sharding.create_mesh(jax.devices()[:1]))
    assert total.tolist() == [3221225475, 3] and total.dtype == np.int64
    one_after_the_other = ["read 0", "run 0", "read 1", "run 1", "fetch 0", "read 2", "run 2", "fetch 1", "fetch 2"]
    assert happened == one_after_the_other


def test_image_level_heads_take_no_part_in_the_evaluation(model_and_variables):
    model, variables = model_and_variables
    scoring = model.clone(image_head=linear)
    unused = {f"image_{d}": {"kernel": np.full((1, 1, 6, n), np.nan, np.float32)} for d, n in (("a", 3), ("b", 2))}
    larger = {**variables, "params": {**variables["params"], **unused}}
    source, mesh = Memory(3), sharding.create_mesh()
    counted = create_evaluator(mesh, "a", model=scoring)(larger, source, 2)
    assert counted.sum() == sum((e["label"] != 255).sum() for e in source.examples)
    np.testing.assert_array_equal(counted, create_evaluator(mesh, "a", model=model)(variables, source, 2))


def test_prediction_uses_the_decoder_of_the_domain(model_and_variables):
    model, variables = model_and_variables
    images = Memory(2).examples[0]["image"][None]
    assert np.asarray(predict(variables, images, domain="b", model=model)).max() <= 1
    kernel = variables["params"]["decoder_b"]["bias"]
    changed = {**variables, "params": {**variables["params"], "decoder_b": {**variables["params"]["decoder_b"]}}}
    changed["params"]["decoder_b"]["bias"] = kernel + np.array([0.0, 1e6])
    assert (np.asarray(predict(changed, images, domain="b", model=model)) == 1).all()
