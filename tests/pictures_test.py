"""Pictures: the colours of labels, overlays and error maps, the grid of a comparison, PNG files."""

import numpy as np
import pytest

from usss_jax.data.pictures import Row, colorize, comparison, overlay, save_png
from usss_jax.errors import InputError

LEGENDS = {"street": [("road", (128, 64, 128)), ("sky", (70, 130, 180))], "room": [("floor", (9, 200, 9))]}


@pytest.fixture
def palette():
    return np.random.default_rng(0).integers(1, 256, (256, 3), np.uint8)


@pytest.fixture
def label():
    label = np.random.default_rng(1).integers(0, 10, (12, 18), np.uint8)
    label[0] = 255
    return label


def row(name="street", size=(64, 96), columns=2, color=(200, 40, 90)):
    return Row(name, [np.full((*size, 3), color, np.uint8)] * columns)


def test_colorize_looks_every_pixel_up(palette, label):
    colors = colorize(label, palette)
    assert colors.dtype == np.uint8 and colors.shape == (12, 18, 3)
    for y, x in np.ndindex(label.shape):
        expected = (0, 0, 0) if label[y, x] == 255 else palette[label[y, x]]
        np.testing.assert_array_equal(colors[y, x], expected)


def test_colorize_leaves_the_palette_alone(palette, label):
    before = palette.copy()
    colorize(label, palette)
    np.testing.assert_array_equal(palette, before)


def test_overlay_blends_and_leaves_ignore_as_the_image(palette, label):
    image = np.random.default_rng(2).integers(0, 256, (12, 18, 3), np.uint8)
    mixed = overlay(image, label, palette, alpha=0.25)
    assert mixed.dtype == np.uint8
    np.testing.assert_array_equal(mixed[0], image[0])
    expected = 0.75 * image[1:].astype(float) + 0.25 * palette[label[1:]]
    assert np.abs(mixed[1:] - expected).max() <= 0.5
    np.testing.assert_array_equal(overlay(image, label, palette, alpha=0.0), image)
    np.testing.assert_array_equal(overlay(image, label, palette, alpha=1.0)[1:], palette[label[1:]])


def test_different_sizes_are_refused():
    with pytest.raises(InputError, match="size"):
        overlay(np.zeros((4, 5), np.uint8), np.zeros((5, 4), np.uint8), np.zeros((256, 3)))


def test_a_palette_of_another_shape_is_refused(label):
    with pytest.raises(InputError, match="palette"):
        colorize(label, np.zeros((10, 3), np.uint8))


def test_comparison_grows_by_a_tile_per_row_and_column():
    one = comparison([row()], ["image", "truth"], LEGENDS)
    two = comparison([row(), row()], ["image", "truth"], LEGENDS)
    three = comparison([row(), row(), row()], ["image", "truth"], LEGENDS)
    assert one.dtype == np.uint8 and one.ndim == 3 and one.shape[2] == 3
    assert three.shape[0] - two.shape[0] == two.shape[0] - one.shape[0] >= 192  # 64 enlarged three times
    assert one.shape[1] == two.shape[1]
    wide = comparison([row(columns=3)], ["image", "truth", "prediction"], LEGENDS)
    assert wide.shape[1] - one.shape[1] >= 288


def test_comparison_enlarges_without_mixing_colours():
    tile = np.zeros((8, 8, 3), np.uint8)
    tile[2:4, 5:7] = (10, 200, 30)
    page = comparison([Row("a", [tile])], ["image"], {}, scale=25)
    assert (page == (10, 200, 30)).all(-1).sum() == 4 * 25**2


def test_comparison_brings_rows_to_one_height():
    page = comparison([row(size=(64, 96)), row(size=(30, 40), color=(1, 2, 3))], ["a", "b"], {})
    first, second = (page == (200, 40, 90)).all(-1), (page == (1, 2, 3)).all(-1)
    assert first.any(1).sum() == second.any(1).sum() == 192
    assert first.any(0).sum() == 2 * 288 and second.any(0).sum() == 2 * 256


def test_comparison_shows_every_legend_and_long_legends_wrap():
    page = comparison([row()], ["image", "truth"], LEGENDS)
    for legend in LEGENDS.values():
        for _, color in legend:
            assert (page == color).all(-1).any()
    long = {"street": [(f"class number {i}", (i, 0, 1)) for i in range(40)]}
    wrapped = comparison([row()], ["image", "truth"], long)
    assert wrapped.shape[1] == page.shape[1] and wrapped.shape[0] > page.shape[0]
    assert all((wrapped == color).all(-1).any() for _, color in long["street"])


def test_comparison_writes_titles_and_names():
    blank = comparison([row(name="")], ["", ""], {})
    assert not np.array_equal(comparison([row(name="town")], ["", ""], {}), blank)
    assert not np.array_equal(comparison([row(name="")], ["truth", ""], {}), blank)


@pytest.mark.parametrize(
    "rows, titles, scale",
    [
        ([], ["a"], None),
        ([row(columns=2)], ["a"], None),
        ([Row("a", [np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5, 3), np.uint8)])], ["a", "b"], None),
        ([Row("a", [np.zeros((4, 4), np.uint8)])], ["a"], None),
        ([row()], ["a", "b"], 0),
    ],
)
def test_bad_grids_are_refused(rows, titles, scale):
    with pytest.raises(InputError):
        comparison(rows, titles, {}, scale)


def test_png_comes_back_as_it_was(tmp_path):
    from PIL import Image

    array = np.random.default_rng(3).integers(0, 256, (7, 9, 3), np.uint8)
    path = tmp_path / "new" / "folder" / "picture.png"
    save_png(path, array)
    np.testing.assert_array_equal(np.asarray(Image.open(path)), array)
    save_png(path, array[:3])
    assert np.asarray(Image.open(path)).shape == (3, 9, 3)
    assert [entry.name for entry in path.parent.iterdir()] == ["picture.png"]


def test_a_png_that_cannot_be_written_is_an_input_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        save_png(tmp_path / "file" / "picture.png", np.zeros((2, 2, 3), np.uint8))
