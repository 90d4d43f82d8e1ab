"""Which value of a mask is the class: every cell of the table in data/masks.py, and real masks in every encoding."""

import dataclasses
import io

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps
from png_files import GREY, GREY_ALPHA, PALETTE, RGB, RGBA, png
from small_files import H, W, camvid, complaint, open_camvid, real_data, write_image

from data_prep import prepare
from data_prep.builder import DomainBuilder, RecordsConfig
from usss_jax.data.domain import IGNORE, Domain, LabelClass, Layout
from usss_jax.data.domains import get_domain
from usss_jax.data.files import find_images
from usss_jax.data.mask_files import match_masks
from usss_jax.data.masks import decode_mask
from usss_jax.data.palettes import Palettes
from usss_jax.data.patterns import fill
from usss_jax.data.sources import open_source
from usss_jax.errors import InputError

RED, GREEN, BLUE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 0, 0)
CLASSES = (LabelClass("cat", RED), LabelClass("dog", GREEN), LabelClass("grass", BLUE))
DOMAIN = Domain("pets", "Pets", CLASSES, (), "", (H, W), (H, W))
IDS = Layout({}, raw_ids=((1,), (2,), (40,)), ignore_ids=(0,))
INDICES = np.arange(H * W).reshape(H, W) % 3  # samples 0, 1, 2


def decoded(data, layout=IDS, domain=DOMAIN, palettes=None):
    return decode_mask(data, "m.png", domain, layout, palettes)


def read_as(data, layout=IDS, domain=DOMAIN):
    """Train ids of the samples 0, 1, 2 of INDICES, or the complaint."""
    try:
        labels = decoded(data, layout, domain)
    except InputError as error:
        return str(error)
    found = [set(labels[i == INDICES].tolist()) for i in range(3)]
    assert all(len(one) == 1 for one in found)
    return [one.pop() for one in found]


def levels(*values, dtype=int):
    """Samples [H, W] that have these three values."""
    return np.asarray(values, dtype)[INDICES]


def channels(*colors, dtype=int):
    """Samples [H, W, channels]."""
    return np.asarray(colors, dtype)[INDICES]


# ---- grey ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["ids", "ids16"])
@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("bits", [8, 16])
def test_grey_levels_are_the_ids(bits, interlaced, encoding):
    layout = dataclasses.replace(IDS, encoding=encoding)
    assert read_as(png(levels(0, 2, 40), bits=bits, interlaced=interlaced), layout) == [IGNORE, 1, 2]


def test_ids_above_255_need_16_bits():
    layout = Layout({}, raw_ids=((7,), (500,), (65535,)))
    assert read_as(png(levels(7, 500, 65535), bits=16), layout) == [0, 1, 2]


@pytest.mark.parametrize("encoding", ["ids", "ids16"])
@pytest.mark.parametrize(
    ("bits", "raw_ids", "ignore_ids", "want"),
    [
        (2, ((0,), (1,), (2,)), (), [0, 1, 2]),  # the samples
        (2, ((0,), (85,), (170,)), (), [0, 1, 2]),  # the levels: 255 / 3 apart
        (4, ((0,), (1,), (2,)), (), [0, 1, 2]),
        (4, ((0,), (17,), (34,)), (), [0, 1, 2]),
        (4, ((0,), (1, 17), (2, 34)), (), "m.png: a 4-bit mask, for which the table allows both"),
        (2, ((0,), (1,), (3,)), (), "m.png: raw id 85, 170 are not in the table"),
    ],
)
def test_grey_mask_of_few_bits_is_read_as_the_table_allows(encoding, bits, raw_ids, ignore_ids, want):
    found = read_as(png(levels(0, 1, 2), bits=bits), Layout({}, raw_ids, ignore_ids, encoding=encoding))
    assert found == want if isinstance(want, list) else found.startswith(want)


@pytest.mark.parametrize(
    ("raw_ids", "ignore_ids", "want"),
    [
        (((0,), (255,)), (), [0, 1]),  # an optimiser packed the levels 0 and 255
        (((0,), (1,)), (), [0, 1]),  # other software packed the ids 0 and 1
        (((0,),), (1,), [0, IGNORE]),
        (((0,), (1,)), (255,), "a 1-bit mask.*save it with 8 bits"),  # either may be meant
        (((0,), (2,)), (), "raw id 255 is not in the table"),
    ],
)
def test_mask_of_one_bit_is_read_as_the_table_allows(raw_ids, ignore_ids, want):
    bits = np.eye(H, W, dtype=int)
    data, layout = png(bits, bits=1), Layout({}, raw_ids, ignore_ids)
    if isinstance(want, list):
        assert np.array_equal(decoded(data, layout), np.array(want)[bits])
    else:
        with pytest.raises(InputError, match=want):
            decoded(data, layout)


# ---- channels --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [RGB, RGBA, GREY_ALPHA])
@pytest.mark.parametrize("bits", [8, 16])
def test_equal_channels_are_ids_if_all_is_opaque(kind, bits):
    opaque = 2**bits - 1
    count = {RGB: 3, RGBA: 3, GREY_ALPHA: 1}[kind]
    values = channels(*([id_] * count + [opaque] * (kind != RGB) for id_ in (0, 2, 40)))
    assert read_as(png(values, kind, bits)) == [IGNORE, 1, 2]
    assert read_as(png(values, kind, bits), dataclasses.replace(IDS, encoding="ids16")) == [IGNORE, 1, 2]
    if kind != RGB:
        values[0, 0, -1] = opaque - 1
        assert read_as(png(values, kind, bits)).startswith("m.png: has transparent pixels, whose class is unclear")


@pytest.mark.parametrize("bits", [8, 16])
def test_different_channels_are_no_ids_but_of_ids16(bits):
    data = png(channels((0, 9, 9), (2, 0, 7), (40, 1, 1)), RGB, bits)
    found = read_as(data)
    own = "; or, in your own domain file, set encoding: ids16 if its first channel is the class"
    assert found == f"m.png: has colours, not class ids; use a mask of class ids{own}"
    assert read_as(data, dataclasses.replace(IDS, encoding="ids16")) == [IGNORE, 1, 2]


@pytest.mark.parametrize("third,others", [(BLACK, ""), ((9, 9, 9), " and other_colors: ignore")])
def test_encoding_of_colours_is_proposed_where_it_would_read_the_mask(third, others):
    data = png(channels(RED, GREEN, third), RGB)
    own = f"; or, in your own domain file, set encoding: color{others}, without ids and ignore_ids"
    assert read_as(data) == f"m.png: has colours, not class ids; use a mask of class ids{own}"
    assert read_as(data, dataclasses.replace(COLORS, other_colors=bool(others))) == [0, 1, IGNORE]
    assert read_as(png(channels((7, 2, 3), GREEN, BLACK), RGB)).endswith("without ids and ignore_ids")
    assert read_as(png(channels((7, 2, 3), (3, 2, 1), BLACK), RGB)).endswith("use a mask of class ids")


def test_colours_that_are_all_unknown_are_not_to_be_ignored():
    """Nothing would be left to learn from."""
    assert "other_colors" not in read_as(png(levels(1, 2, 0)), COLORS)


# ---- palettes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("interlaced", [False, True])
def test_palette_of_greys_is_a_grey_mask_encoded_again(bits, interlaced):
    greys = [(40,) * 3, (1,) * 3, (2,) * 3]  # the indices 1 and 2 are ids too
    data = png(INDICES, PALETTE, bits, greys, interlaced)
    assert read_as(data) == [2, 0, 1]
    assert read_as(data, dataclasses.replace(IDS, encoding="ids16")) == [2, 0, 1]


def test_level_that_is_no_id_is_refused_though_its_index_is_one():
    found = read_as(png(INDICES, PALETTE, 8, [(0,) * 3, (128,) * 3, (255,) * 3]))
    assert found.startswith("m.png: grey level of the palette 128, 255 are not in the table of domain 'pets'")


def test_greys_that_are_colours_of_classes_are_read_as_colours():
    """A palette cut down to black and the grey of a class is one of colours."""
    grey = dataclasses.replace(DOMAIN, classes=(*CLASSES[:2], LabelClass("stone", (128, 128, 128))))
    data = png(np.minimum(INDICES, 1), PALETTE, 8, [BLACK, (128, 128, 128)])
    assert set(decoded(data, domain=grey).ravel().tolist()) == {IGNORE, 2}


@pytest.mark.parametrize("bits", [2, 8])
def test_indices_are_the_ids_where_no_colour_contradicts_them(bits):
    for palette in (
        [(9, 9, 9), (1, 2, 3), (3, 2, 1)],  # for display only
        [BLACK, RED, GREEN],  # those of the classes
        [BLACK, RED, (3, 2, 1)],
        [RED, RED, GREEN],  # one to ignore has the colour of a class, as licence plates that of cars
    ):
        assert read_as(png(INDICES, PALETTE, bits, palette)) == [IGNORE, 0, 1]


def test_colours_decide_where_indices_contradict_them():
    assert read_as(png(INDICES, PALETTE, 8, [RED, GREEN, BLACK])) == [0, 1, IGNORE]
    assert read_as(png(INDICES, PALETTE, 8, [BLUE, BLACK, RED])) == [2, IGNORE, 0]


def test_entries_that_a_mask_does_not_use_show_the_order_of_its_palette():
    """All its pixels are to be ignored: black, at the index of class "cat"."""
    whole = png(np.ones((H, W), int), PALETTE, 8, [RED, BLACK, GREEN, BLUE])
    assert (decoded(whole) == IGNORE).all()


def test_index_and_colour_that_contradict_each_other_are_both_named():
    found = read_as(png(INDICES, PALETTE, 8, [(1, 2, 3), GREEN, RED]))
    assert found.startswith(
        "m.png: palette index 1 is 'cat' by its index 1 in domain 'pets', but has the colour (0, 255, 0) of 'dog', "
        "which is ambiguous (the colour (1, 2, 3) of index 0 is not that of one class); save the mask as a grey image"
    )


def test_black_that_alone_contradicts_its_index_is_refused():
    """Is it to be ignored, or class "grass" shown in black?"""
    layout = Layout({}, raw_ids=((1,), (2,), (0,)), ignore_ids=(5,))
    found = read_as(png(INDICES, PALETTE, 8, [BLACK, RED, GREEN]), layout)
    assert found.startswith(
        "m.png: palette index 0 is 'grass' by its index 0 in domain 'pets', but has the colour (0, 0"
    )
    assert "of ignored pixels, which is ambiguous; save the mask" in found
    assert read_as(png(INDICES, PALETTE, 8, [BLACK, (9, 9, 1), (8, 8, 1)]), layout) == [2, 0, 1]


def test_level_and_colour_that_both_fit_and_differ_are_refused():
    """White: is it class "light", or 255, which is to be ignored?"""
    grey = dataclasses.replace(DOMAIN, classes=(LabelClass("dark", BLACK), LabelClass("light", (255, 255, 255))))
    layout = Layout({}, raw_ids=((0,), (1,)), ignore_ids=(255,))
    found = read_as(png(np.minimum(INDICES, 1), PALETTE, 1, [BLACK, (255, 255, 255)]), layout, grey)
    assert "palette index 1 is to ignore by its level 255" in found and "of 'light', which is ambiguous" in found


def test_transparent_colours_of_files_without_alpha_are_not_looked_at():
    grey = png(levels(0, 2, 40), chunks=[(b"tRNS", bytes([0, 2]))])
    equal = png(channels((0,) * 3, (2,) * 3, (40,) * 3), RGB, chunks=[(b"tRNS", bytes([0, 2] * 3))])
    assert read_as(grey) == read_as(equal) == [IGNORE, 1, 2]


def test_colour_of_two_classes_cannot_decide():
    twins = dataclasses.replace(DOMAIN, classes=(LabelClass("cat", RED), LabelClass("dog", RED), CLASSES[2]))
    assert "is not that of one class" in read_as(png(INDICES, PALETTE, 8, [RED, BLUE, RED]), domain=twins)


def test_indices_that_have_other_colours_in_another_mask_are_refused():
    palettes = Palettes()
    first = png(INDICES, PALETTE, 8, [(9, 9, 9), (1, 2, 3), (3, 2, 1)])
    decoded(first, palettes=palettes)
    decode_mask(first, "same.png", DOMAIN, IDS, palettes)
    other = png(np.minimum(INDICES, 1), PALETTE, 8, [(9, 9, 9), (3, 2, 1)])
    with pytest.raises(InputError) as error:
        decode_mask(other, "other.png", DOMAIN, IDS, palettes)
    assert complaint(error).startswith(
        "other.png: palette index 1 has the colour (3, 2, 1) here but (1, 2, 3) in m.png, so the indices do not mean"
    )


def test_source_compares_the_palettes_of_its_masks(tmp_path):
    camvid(tmp_path, ["a", "b"])
    for name, palette in (("a", [RED, GREEN, BLUE]), ("b", [GREEN, RED, BLUE])):
        (tmp_path / f"trainannot/{name}.png").write_bytes(png(INDICES, PALETTE, 8, palette))
    source = open_camvid(tmp_path).select(["b", "a"])
    source.label(0)
    with pytest.raises(InputError, match=r"a\.png: palette index 0 has the colour \(255, 0, 0\) here but"):
        source[1]


@pytest.mark.parametrize("layout", [IDS, Layout({}, ignore_colors=(BLACK,), encoding="color")])
def test_index_outside_of_the_palette_is_damage(layout):
    with pytest.raises(InputError, match=r"m\.png: is damaged \(index 2 is not in its palette\)"):
        decoded(png(INDICES, PALETTE, 8, [RED, GREEN]), layout)


@pytest.mark.slow
def test_palette_masks_may_be_as_large_as_grey_ones():
    """More pixels than Pillow opens."""
    pixels = np.zeros((13400, 13400), np.uint8)
    pixels[-1, -1] = 1
    labels = decoded(png(pixels, PALETTE, 8, [RED, BLACK]))
    assert labels.shape == pixels.shape and labels[0, 0] == 0 and labels[-1, -1] == IGNORE


# ---- colours ---------------------------------------------------------------------------------------------

COLORS = Layout({}, ignore_colors=(BLACK,), encoding="color")


@pytest.mark.parametrize(
    "data",
    [
        png(channels(RED, GREEN, BLACK), RGB),
        png(channels((*RED, 255), (*GREEN, 255), (*BLACK, 255)), RGBA, interlaced=True),
        png(INDICES, PALETTE, 2, [RED, GREEN, BLACK]),
        png(INDICES, PALETTE, 8, [RED, GREEN, BLACK]),
    ],
)
def test_colours_are_read_from_channels_and_palettes(data):
    assert read_as(data, COLORS) == [0, 1, IGNORE]


def test_greys_are_colours_too():
    classes = LabelClass("dark", (85, 85, 85)), LabelClass("light", (170, 170, 170))
    for data in (png(levels(85, 170, 0)), png((INDICES + 1) % 3, bits=2)):
        assert read_as(data, COLORS, dataclasses.replace(DOMAIN, classes=classes)) == [0, 1, IGNORE]


@pytest.mark.parametrize("pixels,kind", [(levels(0, 1, 2), GREY), (channels(RED, GREEN, BLACK), RGB)])
def test_colours_of_16_bits_are_refused(pixels, kind):
    assert read_as(png(pixels, kind, 16), COLORS) == "m.png: has 16 bits per channel; save colour masks with 8 bits"


def test_transparent_colours_are_refused():
    data = png(channels((*RED, 255), (*GREEN, 254), (*BLACK, 255)), RGBA)
    assert read_as(data, COLORS).startswith("m.png: has transparent pixels")


def test_other_colours_are_refused_or_ignored_as_the_layout_says():
    data = png(channels(RED, GREEN, (9, 9, 9)), RGB)
    assert read_as(data, COLORS).endswith("ignore_colors, or set other_colors: ignore")
    assert read_as(data, dataclasses.replace(COLORS, other_colors=True)) == [0, 1, IGNORE]


# ---- whatever the encoding -------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["ids", "ids16", "color"])
def test_jpeg_is_refused(encoding):
    data = cv2.imencode(".jpg", np.zeros((H, W), np.uint8))[1].tobytes()
    found = read_as(data, dataclasses.replace(IDS, encoding=encoding))
    assert found == (
        "m.png: is a JPEG file, whose compression changes class ids; create this mask again as PNG (converting the "
        "JPEG file keeps the wrong ids)"
    )


def test_mask_that_exif_turns_is_refused():
    exif = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    assert read_as(png(levels(0, 1, 2), chunks=[(b"eXIf", exif)])).startswith("m.png: EXIF orientation 6")


def test_what_is_proposed_to_turn_a_mask_keeps_the_indices_of_its_palette():
    exif = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x03\0\0\0\0\0\0"
    colors = [(9, 9, i) for i in range(41)]
    data = png(levels(40, 2, 0), PALETTE, palette=colors, chunks=[(b"eXIf", exif)])
    assert "ImageOps.exif_transpose of Pillow" in read_as(data) and "mogrify" not in read_as(data)
    turned = io.BytesIO()
    ImageOps.exif_transpose(Image.open(io.BytesIO(data))).save(turned, "PNG")
    found = decode_mask(turned.getvalue(), "m.png", DOMAIN, IDS)
    assert (found == decode_mask(png(levels(40, 2, 0)), "m.png", DOMAIN, IDS)[::-1, ::-1]).all()


def test_unknown_id_names_the_file_the_ids_and_what_is_allowed(tmp_path):
    camvid(tmp_path, ["a"])
    path = tmp_path / "trainannot/a.png"
    path.write_bytes(png(levels(0, 12, 200)))
    with pytest.raises(InputError) as error:
        open_camvid(tmp_path)[0]
    text = complaint(error)
    assert text.startswith(str(path)) and "12, 200 are not" in text and "0-11" in text and "camvid" in text


# ---- real masks ------------------------------------------------------------------------------------------


def encodings(raw, domain, layout, rng):
    """PNG files of an 8-bit grey mask of ids, in all lossless ways that keep its meaning, by name."""
    used = np.unique(raw)
    order = rng.permutation(used)
    place = np.zeros(256, int)
    place[order] = np.arange(len(order))
    greys = np.repeat(order[:, None], 3, axis=1)
    names = {raw_id: one.color for one, ids in zip(domain.classes, layout.raw_ids, strict=True) for raw_id in ids}
    known = rng.permutation([*names, *layout.ignore_ids])
    at = np.zeros(256, int)
    at[known] = np.arange(len(known))
    colors = [names.get(raw_id, BLACK) for raw_id in known]
    three = np.repeat(raw[:, :, None], 3, axis=2)
    opaque = np.full_like(raw, 255)[:, :, None]
    files = {
        "grey": png(raw),
        "grey interlaced": png(raw, interlaced=True),
        "16 bit": png(raw, bits=16),
        "three equal channels": png(three, RGB),
        "three equal channels and alpha": png(np.concatenate([three, opaque], axis=2), RGBA),
        "grey and alpha": png(np.concatenate([raw[:, :, None], opaque], axis=2), GREY_ALPHA),
        "palette grey": png(place[raw], PALETTE, 8, greys),
        "palette grey of all levels": png(raw, PALETTE, 8, np.repeat(np.arange(256)[:, None], 3, axis=1)),
        "palette colour shuffled": png(at[raw], PALETTE, 8, colors),
        "palette colour shuffled interlaced": png(at[raw], PALETTE, 8, colors, interlaced=True),
    }
    for bits in (1, 2, 4):
        if len(used) <= 2**bits:
            files[f"palette grey of {bits} bits"] = png(place[raw], PALETTE, bits, greys)
        spread = {int(i) * (255 // (2**bits - 1)) for i in used[used > 0]}
        if used.max() < 2**bits and spread and not spread <= {0, *known.tolist()}:  # else refused: either may be meant
            files[f"grey of {bits} bits"] = png(raw, bits=bits)
    return files


def spoiled(raw, domain, layout):
    """PNG files of the mask whose ids mean something else, by name; all are to be refused."""
    used = np.unique(raw)
    greys = np.repeat((used.astype(int) * 3 % 256 + 100)[:, None], 3, axis=1) % 256
    place = np.zeros(256, int)
    place[used] = np.arange(len(used))
    seen = np.zeros((256, 3), int)
    for one, ids in zip(domain.classes, layout.raw_ids, strict=True):
        seen[list(ids)] = one.color
    wrong = [(1, 2, 3), *(one.color for one in reversed(domain.classes))]
    return {
        "stretched to 16 bits": png(raw.astype(int) * 257, bits=16),
        "other levels in the palette": png(place[raw], PALETTE, 8, greys),
        "colours": png(seen[raw], RGB),
        "colours of other classes, and a strange one": png(place[raw], PALETTE, 8, wrong),
    }


def real_masks(name, every):
    domain = get_domain(name)
    root = real_data(domain.folder)
    for split in dict.fromkeys(("train", domain.val_split, domain.test_split)):
        layout, files, images, *_ = find_images(domain, root, split, with_masks=True)
        for path in [*match_masks(domain, root, files, images)[0].values()][::every]:
            yield domain, layout, np.asarray(Image.open(path))


@pytest.mark.parametrize("every", [pytest.param(100, id="some"), pytest.param(1, id="all", marks=pytest.mark.nightly)])
@pytest.mark.parametrize("name", ["camvid", "cityscapes256", "idd_lite"])
@pytest.mark.slow
def test_real_masks_mean_the_same_in_every_lossless_encoding(name, every):
    rng = np.random.default_rng(0)
    count = 0
    for domain, layout, raw in real_masks(name, every):
        table = np.full(256, 77)
        for train_id, ids in enumerate(layout.raw_ids):
            table[list(ids)] = train_id
        table[list(layout.ignore_ids)] = IGNORE
        for encoding, data in encodings(raw, domain, layout, rng).items():
            assert np.array_equal(decoded(data, layout, domain), table[raw]), encoding
            count += 1
        if len(np.unique(raw)) > 3:
            for encoding, data in spoiled(raw, domain, layout).items():
                with pytest.raises(InputError):
                    pytest.fail(f"{encoding}: {np.unique(decoded(data, layout, domain))}")
    print(f"{name}: {count} files")


@pytest.mark.parametrize("name", ["camvid", "cityscapes256", "idd_lite"])
def test_real_masks_mean_the_same_through_folder_and_records(tmp_path, name):
    (domain, layout, raw), *_ = real_masks(name, 40)
    files = encodings(raw := np.ascontiguousarray(raw[::6, ::6]), domain, layout, np.random.default_rng(0))
    for split in {"train", domain.val_split, domain.test_split}:
        where = layout.splits[split]
        for encoding, data in files.items():
            write_image(tmp_path / "data" / f"{fill(where.images, encoding)}.png", 0, raw.shape)
            path = tmp_path / "data" / fill(where.masks, encoding)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    config = RecordsConfig(domain=domain, source=str(tmp_path / "data"))
    prepare.prepare(DomainBuilder, config, str(tmp_path / "records"))
    for root in (str(tmp_path / "data"), f"tfds:{tmp_path}/records"):
        source = open_source(domain, root, "train", size=raw.shape)
        assert source.ids == sorted(files)
        for index in range(len(source)):
            label = source[index]["label"]
            assert np.array_equal(label, np.where(np.isin(raw, layout.ignore_ids), IGNORE, raw))
            assert np.array_equal(label, source.label(index))
