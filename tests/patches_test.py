"""SISC against a plain loop over patches, and its special cases. The network is a function with a context of pixels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from usss_jax.errors import InputError
from usss_jax.methods.self_training.patches import Inference, image_probabilities, patch_corners
from usss_jax.methods.self_training.selection import most_probable, select_labels

H, W, PATCH, CLASSES = 24, 30, 9, 4
WEIGHTS = np.random.default_rng(0).standard_normal((3, CLASSES)).astype(np.float32)


def image(size=(H, W), seed=1):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3)).astype(np.uint8)


@jax.jit
def pointwise(images):
    return jax.nn.softmax(images.astype(jnp.float32) / 64 @ WEIGHTS, axis=-1)


@jax.jit
def with_context(images):
    """Depends on the pixel, on its left neighbour and on the mean of all it is shown."""
    x = images.astype(jnp.float32) / 64
    x = x - 0.5 * jnp.roll(x, 1, axis=2) + x.mean((1, 2), keepdims=True)
    return jax.nn.softmax(x @ WEIGHTS, axis=-1)


def corners(count=7, seed=0, round=0, name="a", size=(H, W)):
    return patch_corners(size, PATCH, count, seed=seed, round=round, image=name)


def plainly(network, picture, places, settings):
    """Mean of the votes, patch by patch; zeros (or the whole image) where there is none."""

    def vote(x):
        found = np.asarray(network(x[None])[0], np.float64)
        if settings.flip:
            found = (found + np.asarray(network(x[None, :, ::-1])[0, :, ::-1], np.float64)) / 2
        return np.eye(CLASSES)[found.argmax(-1)] if settings.vote == "onehot" else found

    votes = [[[] for _ in range(W)] for _ in range(H)]
    shown = [(0, 0, picture)] if settings.full_image else []
    for top, left in places:
        shown.append((top, left, picture[top : top + PATCH, left : left + PATCH]))
    for top, left, part in shown:
        for y, x in np.ndindex(part.shape[:2]):
            votes[top + y][left + x].append((part, y, x))
    cached = {id(part): vote(part) for _, _, part in shown}
    whole = vote(picture)
    out = np.zeros((H, W, CLASSES))
    for y, x in np.ndindex(H, W):
        found = [cached[id(part)][i, j] for part, i, j in votes[y][x]]
        if found:
            out[y, x] = np.mean(found, 0)
        elif settings.uncovered == "full":
            out[y, x] = whole[y, x]
    return out


@pytest.mark.parametrize("batch", [1, 3, 7, 10])
@pytest.mark.parametrize("vote", ["prob", "onehot"])
def test_patches_in_batches_equal_a_loop_over_patches(batch, vote):
    settings = Inference(PATCH, batch, vote=vote)
    got = image_probabilities(with_context, image(), corners(), settings)
    np.testing.assert_allclose(got, plainly(with_context, image(), corners(), settings), atol=1e-5)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(("full_image", "uncovered"), [(True, "ignore"), (False, "ignore"), (False, "full")])
def test_every_setting_equals_the_loop(full_image, uncovered, flip):
    settings = Inference(PATCH, 4, full_image=full_image, flip=flip, uncovered=uncovered)
    got = image_probabilities(with_context, image(), corners(), settings)
    np.testing.assert_allclose(got, plainly(with_context, image(), corners(), settings), atol=1e-5)


def test_patches_do_not_change_a_pointwise_network():
    single = image_probabilities(pointwise, image(), corners(0), Inference())
    got = image_probabilities(pointwise, image(), corners(20), Inference(PATCH))
    np.testing.assert_allclose(got, single, atol=1e-6)
    np.testing.assert_allclose(single, pointwise(image()[None])[0], atol=1e-6)


@pytest.mark.parametrize("vote", ["prob", "onehot"])
def test_with_the_whole_image_every_pixel_has_votes_with_the_sum_1(vote):
    got = image_probabilities(with_context, image(), corners(), Inference(PATCH, vote=vote))
    np.testing.assert_allclose(np.asarray(got).sum(-1), 1, atol=1e-5)


def test_the_patches_depend_on_seed_round_and_image_alone():
    first = corners()
    np.testing.assert_array_equal(first, corners())
    np.testing.assert_array_equal(first[:3], corners()[:3])
    for other in (corners(seed=1), corners(round=1), corners(name="b")):
        assert (first != other).any()


def test_without_the_whole_image_uncovered_pixels_have_no_prediction():
    places = corners(3)
    got = np.asarray(image_probabilities(with_context, image(), places, Inference(PATCH, full_image=False)))
    covered = np.zeros((H, W), bool)
    for top, left in places:
        covered[top : top + PATCH, left : left + PATCH] = True
    assert 0 < covered.sum() < H * W and np.isfinite(got).all()
    np.testing.assert_allclose(got.sum(-1), covered, atol=1e-5)
    assert ((np.asarray(most_probable(got)[0]) == 255) == ~covered).all()
    labels, _ = select_labels(got, np.full(CLASSES, 1e-6, np.float32))
    assert ((np.asarray(labels) == 255) == ~covered).all()


def test_patches_reach_every_border():
    found = corners(5000)
    assert found.min(0).tolist() == [0, 0] and found.max(0).tolist() == [H - PATCH, W - PATCH]
    counts = np.bincount(found[:, 0], minlength=H - PATCH + 1)
    assert len(counts) == 16 and counts.min() > 240 and counts.max() < 385  # 312 each; four deviations are 69


def test_an_image_as_large_as_a_patch_is_the_patch():
    small = image((PATCH, PATCH))
    places = corners(3, size=(PATCH, PATCH))
    assert (places == 0).all()
    got = image_probabilities(with_context, small, places, Inference(PATCH))
    np.testing.assert_allclose(got, image_probabilities(with_context, small, corners(0), Inference()), atol=1e-6)


@pytest.mark.parametrize("size", [(8, 30), (24, 8)])
def test_a_smaller_image_is_refused(size):
    with pytest.raises(InputError, match=r"patch=9 exceeds the image .*at most 8"):
        corners(size=size)


def test_the_network_is_compiled_once_for_patches_and_once_for_images():
    shapes = []

    @jax.jit
    def network(images):
        shapes.append(images.shape)
        return jnp.ones((*images.shape[:3], 2)) / 2

    for name in "abc":
        image_probabilities(network, image(), corners(7, name=name), Inference(PATCH, 4))
    assert sorted(shapes) == [(1, H, W, 3), (4, PATCH, PATCH, 3)]


def test_an_unknown_choice_is_refused():
    with pytest.raises(ValueError, match=r"vote='hard'.*prob.*onehot"):
        Inference(vote="hard")
    with pytest.raises(ValueError, match=r"uncovered='zero'.*ignore.*full"):
        Inference(uncovered="zero")
