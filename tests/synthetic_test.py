"""The drawn domains: a pure function, labels in range, all classes, one scene at every size, two looks."""

import dataclasses
import functools

import cv2
import numpy as np
import pytest

from usss_jax.data import synthetic
from usss_jax.data.domains import get_domain
from usss_jax.errors import InputError

NAMES = ("city_street", "town_street", "indoor_room")
SIZE = (64, 96)


def draw(name, index, split="train", size=SIZE):
    return synthetic.render(get_domain(name), split, index, size)


@functools.cache
def sample(name, count=60):
    images, labels = zip(*(draw(name, index) for index in range(count)), strict=True)
    return np.stack(images), np.stack(labels)


@pytest.mark.parametrize("name", NAMES)
def test_shapes_and_types(name):
    for size in (SIZE, (50, 71)):
        image, label = draw(name, 0, size=size)
        assert image.shape == (*size, 3) and image.dtype == np.uint8
        assert label.shape == size and label.dtype == np.uint8
        assert label.flags.c_contiguous and image.flags.c_contiguous


@pytest.mark.parametrize("name", NAMES)
def test_the_same_arguments_give_the_same_picture_in_any_order(name):
    forward = [draw(name, index) for index in (0, 1, 2)]
    np.random.seed(0)  # the global state has no say
    backward = [draw(name, index) for index in (2, 1, 0)][::-1]
    for (image, label), (image_again, label_again) in zip(forward, backward, strict=True):
        np.testing.assert_array_equal(image, image_again)
        np.testing.assert_array_equal(label, label_again)


@pytest.mark.parametrize("name", NAMES)
def test_another_index_or_split_gives_another_scene(name):
    image, label = draw(name, 0)
    for other_image, other_label in (draw(name, 1), draw(name, 0, split="val")):
        assert (label != other_label).mean() > 0.05
        assert np.abs(image.astype(float) - other_image).mean() > 5


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.slow
def test_labels_are_classes_or_ignore_and_every_class_is_there(name):
    _, labels = sample(name)
    num_classes = get_domain(name).num_classes
    assert set(np.unique(labels)) == {*range(num_classes), 255}
    shares = np.bincount(labels.ravel(), minlength=256) / labels.size
    assert shares[:num_classes].min() > 0.003
    assert 0.005 < shares[255] < 0.15


@pytest.mark.parametrize("name", NAMES)
def test_every_class_is_in_a_decent_share_of_images(name):
    _, labels = sample(name)
    for index in range(get_domain(name).num_classes):
        assert (labels == index).any((1, 2)).mean() > 0.3


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(128, 192), (48, 72)])
def test_another_size_shows_the_same_scene(name, size):
    for index in range(10):
        image, label = draw(name, index)
        other_image, other_label = draw(name, index, size=size)
        resized = cv2.resize(other_label, SIZE[::-1], interpolation=cv2.INTER_NEAREST)
        assert (resized == label).mean() > 0.85
        resized = cv2.resize(other_image, SIZE[::-1], interpolation=cv2.INTER_AREA)
        assert np.abs(resized.astype(float) - image).mean() < 12


def test_sky_is_above_and_road_below():
    for name in ("city_street", "town_street"):
        classes = get_domain(name).class_names
        _, labels = sample(name)
        upper, lower = labels[:, : SIZE[0] // 4], labels[:, SIZE[0] * 3 // 4 :]
        assert (upper == classes.index("road")).mean() < 0.01 < (upper == classes.index("sky")).mean()
        assert (lower == classes.index("sky")).mean() < 0.01 < (lower == classes.index("road")).mean()


def test_the_two_streets_look_different():
    city, town = (sample(name)[0].mean((1, 2)) for name in ("city_street", "town_street"))
    assert town.mean() - city.mean() > 15  # brighter
    warmth = (town[:, 0] - town[:, 2]).mean() - (city[:, 0] - city[:, 2]).mean()
    assert warmth > 20
    assert city.std(0).mean() > 8 and town.std(0).mean() > 8  # yet each varies


def test_labels_follow_the_order_of_the_domains_classes():
    domain = get_domain("indoor_room")
    turned = dataclasses.replace(domain, classes=domain.classes[::-1])
    image, label = synthetic.render(domain, "train", 3, SIZE)
    turned_image, turned_label = synthetic.render(turned, "train", 3, SIZE)
    np.testing.assert_array_equal(image, turned_image)
    known = label < 255
    np.testing.assert_array_equal(turned_label[known], domain.num_classes - 1 - label[known])


def test_domains_that_are_not_drawn_are_refused():
    domain = get_domain("indoor_room")
    with pytest.raises(InputError, match="moon"):
        synthetic.render(dataclasses.replace(domain, name="moon"), "train", 0, SIZE)
    with pytest.raises(InputError, match="lamp"):
        synthetic.render(dataclasses.replace(domain, classes=domain.classes[:-1]), "train", 0, SIZE)
