"""Images and masks in every format, every complaint about their files, and sizes."""

import io
import re
import shutil
import struct
import subprocess
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps
from small_files import H, W, camvid, complaint, open_camvid, smooth, write_ids, write_image

from usss_jax.data.decode import decode_image, resize_image, resize_label
from usss_jax.errors import InputError


def encoded(image, file_format, **options):
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


# ---- formats of images and masks ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["grey", "grey and alpha", "alpha", "palette", "palette and alpha", "one bit"])
def test_png_of_any_kind_becomes_rgb(kind):
    rgb = Image.fromarray(smooth(3))
    image = {
        "grey": lambda: rgb.convert("L"),
        "grey and alpha": lambda: rgb.convert("LA"),
        "alpha": lambda: rgb.convert("RGBA"),
        "palette": lambda: rgb.quantize(16),
        "palette and alpha": lambda: rgb.quantize(16),
        "one bit": lambda: rgb.convert("1"),
    }[kind]()
    opaque = {"transparency": bytes([255] * 16)} if kind == "palette and alpha" else {}
    data = encoded(image, "PNG", **opaque)
    assert (b"tRNS" in data) == bool(opaque)
    pixels = decode_image(data, "a.png")
    assert pixels.dtype == np.uint8 and np.array_equal(pixels, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_grey_or_progressive_becomes_rgb(mode, progressive):
    image = Image.fromarray(smooth(3)).convert(mode)
    pixels = decode_image(encoded(image, "JPEG", quality=100, subsampling=0, progressive=progressive), "a.jpg")
    assert pixels.shape == (H, W, 3) and np.abs(pixels - np.asarray(image.convert("RGB"), int)).mean() < 3


def with_exif(orientation, file_format, order="big"):
    """A picture whose EXIF block has the orientation as its second tag; None: it is cut off before that."""
    code = {"big": ">", "little": "<"}[order]
    start = {"big": b"MM\0*", "little": b"II*\0"}[order] + struct.pack(code + "IH", 8, 2)
    exif = start + struct.pack(code + "HHIHH", 0x0100, 3, 1, 7, 0)
    if orientation is not None:
        exif += struct.pack(code + "HHIHHI", 0x0112, 3, 1, orientation, 0, 0)
    return encoded(Image.fromarray(smooth(0)), file_format, exif=b"Exif\0\0" + exif)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG"])
@pytest.mark.parametrize("order", ["big", "little"])
@pytest.mark.parametrize("orientation", [2, 3, 6, 8])
def test_image_that_exif_turns_is_refused(file_format, order, orientation):
    data = with_exif(orientation, file_format, order)
    assert Image.open(io.BytesIO(data)).getexif()[0x0112] == orientation
    with pytest.raises(InputError) as error:
        decode_image(data, "photos/a.jpg")
    text = complaint(error)
    assert text.startswith(f"photos/a.jpg: EXIF orientation {orientation}") and "(mogrify -" in text


@pytest.mark.skipif(not shutil.which("mogrify"), reason="needs ImageMagick")
@pytest.mark.parametrize("orientation", range(2, 9))
def test_the_command_that_is_proposed_turns_a_png_file(tmp_path, orientation):
    file = tmp_path / "a.png"
    file.write_bytes(with_exif(orientation, "PNG"))
    with pytest.raises(InputError) as error:
        decode_image(file.read_bytes(), "FILE")
    (command,) = re.findall(r"\((mogrify .*?) FILE\)", complaint(error))
    subprocess.run([*command.split(), str(file)], check=True)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(with_exif(orientation, "PNG"))))
    assert (decode_image(file.read_bytes(), "FILE") == np.asarray(upright)).all()


@pytest.mark.parametrize("file_format", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", [0, 1, 9, None])
def test_exif_that_turns_nothing_is_no_matter(file_format, orientation):
    image = decode_image(with_exif(orientation, file_format), "a")
    assert image.shape == (H, W, 3) and np.abs(image.astype(int) - smooth(0)).mean() < 20


def test_any_exif_block_is_read_without_a_crash():
    """Cut off at every byte, and with offsets and counts that point outside."""
    whole = with_exif(6, "JPEG")
    start = whole.index(b"Exif")
    exif = whole[start + 6 : start + 2 + int.from_bytes(whole[start - 2 : start], "big")]
    broken = [exif[:n] for n in range(len(exif))]
    broken += [exif[:4] + b"\xff\xff\xff\xf0" + exif[8:], exif[:8] + b"\xff\xff" + exif[10:], b"XX" + exif[2:]]
    for block in broken:
        data = encoded(Image.fromarray(smooth(0)), "JPEG", exif=b"Exif\0\0" + block)
        try:
            decode_image(data, "a.jpg")
        except InputError as error:
            assert "EXIF orientation 6" in str(error)


@pytest.mark.parametrize("progressive", [False, True])
def test_cmyk_image_is_refused(progressive):
    data = encoded(Image.fromarray(smooth(0)).convert("CMYK"), "JPEG", progressive=progressive)
    with pytest.raises(InputError) as error:
        decode_image(data, "photos/a.jpg")
    assert complaint(error).startswith("photos/a.jpg: is a CMYK image; convert it to RGB")


@pytest.mark.parametrize("shape", [(H, W), (H, W, 3), (H, W, 4)])
def test_image_of_16_bits_is_refused(shape):
    data = cv2.imencode(".png", np.zeros(shape, np.uint16))[1].tobytes()
    with pytest.raises(InputError) as error:
        decode_image(data, "photos/a.png")
    text = complaint(error)
    assert text.startswith("photos/a.png: has 16 bits") and "save it with 8 bits" in text


@pytest.mark.parametrize("kind", ["RGBA", "LA", "palette", "grey level", "colour"])
def test_image_with_a_transparent_pixel_is_refused(kind):
    rgb, extra = Image.fromarray(smooth(3)), {}
    if kind in ("RGBA", "LA"):
        image = rgb.convert(kind)
        alpha = Image.new("L", rgb.size, 255)
        alpha.putpixel((W - 1, H - 1), 254)
        image.putalpha(alpha)
    elif kind == "palette":
        image, extra = rgb.quantize(16), {"transparency": 0}
    elif kind == "grey level":
        image = rgb.convert("L")
        extra = {"transparency": image.getpixel((0, 0))}
    else:
        image, extra = rgb, {"transparency": rgb.getpixel((0, 0))}
    with pytest.raises(InputError) as error:
        decode_image(encoded(image, "PNG", **extra), "photos/a.png")
    text = complaint(error)
    assert text.startswith("photos/a.png: has transparent pixels; put it on a background")


def test_jpeg_with_a_thumbnail_and_bytes_after_its_end_is_read(tmp_path):
    camvid(tmp_path, ["a"])
    (tmp_path / "train/a.png").unlink()
    data = cv2.imencode(".jpg", smooth(0))[1]
    thumbnail = cv2.imencode(".jpg", smooth(1, (8, 8)))[1]
    segment = b"\xff\xe1" + struct.pack(">H", 2 + len(thumbnail)) + thumbnail.tobytes()
    (tmp_path / "train/a.jpg").write_bytes(data.tobytes()[:2] + segment + data.tobytes()[2:] + b"trailer" * 20)
    assert open_camvid(tmp_path)[0]["image"].shape == (H, W, 3)


# ---- damaged and wrong files ----------------------------------------------------------------------------


def damage(data, how):
    if how == "cut in half":
        return data[: len(data) // 2]
    if how == "cut at the end":
        return data[:-4]
    if how == "empty":
        return b""
    if how == "text":
        return b"version https://git-lfs.github.com/spec/v1\n"
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 0xFF]) + data[middle + 1 :]


@pytest.mark.parametrize(
    ("file", "how"),
    [
        (file, how)
        for file in ("train/a.png", "trainannot/a.png", "train/a.jpg")
        for how in ("cut in half", "cut at the end", "empty", "text", "one byte changed")
        if (file, how) != ("train/a.jpg", "one byte changed")  # JPEG has no checksum
    ],
)
def test_damaged_file_is_named(tmp_path, file, how):
    camvid(tmp_path, ["a"])
    path = tmp_path / file
    if file.endswith("jpg"):
        (tmp_path / "train/a.png").unlink()
        write_image(path)
    path.write_bytes(damage(path.read_bytes(), how))
    source = open_camvid(tmp_path)
    with pytest.raises(InputError) as error:
        source[0]
    assert complaint(error).startswith(str(path)) and "restore this file" in complaint(error)


def test_large_jpeg_that_lost_only_its_last_rows_is_refused(tmp_path):
    """Old decoders fill the missing rows with grey and say nothing."""
    camvid(tmp_path, ["a"])
    (tmp_path / "train/a.png").unlink()
    path = tmp_path / "train/a.jpg"
    write_image(path, size=(300, 400))
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(InputError, match="is truncated"):
        open_camvid(tmp_path)[0]


def test_png_that_is_not_a_picture_inside_is_named(tmp_path):
    camvid(tmp_path, ["a"])

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", W, H, 8, 0, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"junk") + chunk(b"IEND", b"")
    for file in ("trainannot/a.png", "train/a.png"):
        (tmp_path / file).write_bytes(data)
        with pytest.raises(InputError, match="cannot be decoded"):
            (open_camvid(tmp_path))[0]
        camvid(tmp_path, ["a"])


def test_unreadable_file_is_named(tmp_path):
    camvid(tmp_path, ["a"])
    (tmp_path / "train/b.png").symlink_to(tmp_path / "gone.png")
    source = open_camvid(tmp_path, with_masks=False)
    assert source.ids == ["a", "b"], "a broken link must not vanish"
    with pytest.raises(InputError, match=r"b\.png: cannot be read"):
        source[1]


def test_mask_of_another_size_names_both_files(tmp_path):
    camvid(tmp_path, ["a"])
    write_ids(tmp_path / "trainannot/a.png", [0], size=(H, W + 1))
    with pytest.raises(InputError) as error:
        open_camvid(tmp_path, size=(6, 8))[0]
    text = complaint(error)
    assert "trainannot/a.png" in text and "train/a.png" in text and "12x17" in text and "12x16" in text


# ---- sizes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(7, 9), (24, 32), (12, 5), (5, 40), (1, 1), (227, 320), (291, 223)])
@pytest.mark.parametrize("start", [(12, 16), (169, 340), (227, 320)])
def test_label_takes_the_pixel_under_each_centre(start, size):
    label = np.random.default_rng(0).integers(0, 20, start, dtype=np.uint8)
    resized = resize_label(label, size)
    expected = np.empty(size, np.uint8)
    for y in range(size[0]):
        for x in range(size[1]):
            expected[y, x] = label[int((y + 0.5) * start[0] / size[0]), int((x + 0.5) * start[1] / size[1])]
    assert resized.dtype == np.uint8 and np.array_equal(resized, expected)


def test_shrunk_image_has_the_mean_of_each_block():
    image = np.random.default_rng(0).integers(0, 256, (H, W, 3), dtype=np.uint8)
    blocks = image.reshape(H // 4, 4, W // 4, 4, 3).astype(float).mean((1, 3))
    assert np.abs(resize_image(image, (H // 4, W // 4)) - blocks).max() <= 0.5


def test_enlarged_image_stays_in_place():
    """A ramp stays the same ramp: no shift by half a pixel."""
    ramp = np.repeat(np.arange(0, 160, 10, dtype=np.uint8)[None, :, None], 3, axis=2)
    larger = resize_image(np.repeat(ramp, 4, axis=0), (4, 32))[0, :, 0].astype(float)
    centres = (np.arange(32) + 0.5) / 2 - 0.5
    assert np.abs(larger[1:-1] - 10 * centres[1:-1]).max() <= 0.5


def test_image_and_label_are_resized_alike(tmp_path):
    camvid(tmp_path, ["a"])
    half = np.zeros((H, W), np.uint8)
    half[:, W // 2 :] = 10
    Image.fromarray(half).save(tmp_path / "trainannot/a.png")
    Image.fromarray(np.repeat(half[:, :, None] * 25, 3, axis=2)).save(tmp_path / "train/a.png")
    for size in ((6, 8), (24, 32), (7, 22)):
        example = open_camvid(tmp_path, size=size)[0]
        assert example["image"].shape == (*size, 3) and example["label"].shape == size
        assert np.array_equal(example["image"][:, :, 0] > 125, example["label"] == 10)
