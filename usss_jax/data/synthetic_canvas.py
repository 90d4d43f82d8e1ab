"""The canvas of the synthetic domains: camera, polygons, small objects, the final image."""

import functools
import math

import cv2
import numpy as np

from usss_jax.objectives import IGNORE

_SHIFT = 4  # sub-pixel bits of OpenCV's polygon coordinates
_CIRCLE = np.exp(2j * np.pi * np.arange(24)[:, None] / 24).view(np.float64)  # x and y of its corners
_PAINTS = {
    "made": "282c3c 962828 3c5082 beb4a0 465a40 1a1a1c c88c28 787c82 e2e2de 8c3c64 24403a a08060",
    "plate": "1e46a0 d2aa1e be1e24 e6e4e2 28704a",
    "skin": "d6ac8c a87858 6e4a38",
    "wood": "8a6240 b48c5c 5c3e2a c8c0b4 3c3634",
    "metal": "b4b6ba 8c8e92 2e3034 54463a",
    "dark": "1e1e20 2c2c30",
    "glass": "2a3036 505a64",
    "lights": "c81e1e f0ecd8",
    "shade": "f6ecc8 fff6dc e0b478 a0a8a0",
    "cloth": "e6e2dc c8ccd4",
    "plaster": "d8d0c0 a8b4b0 c8b8a8 8c98a8 e0dcd4 b89c84",
    "white": "e6e4de d0ccc4 b8b4b0",
    "outside": "d8e6f4 b0c8e0 26303e 9ab48c",
}
# Parts "kind role paint numbers", in metres from the object's foot. box: x0 y0 z0 x1 y1 z1; front, oval and
# edge (a diamond): z, then x y of two corners; side and wheel (an oval): x, then y z of two corners.
_PROPS = {
    "car": """box car made -.88 .2 0 .88 .95 4.2; box car made -.76 .9 .5 .76 1.55 3.2
        front - glass .5 -.66 1 .66 1.42; side - glass .8 1 .7 1.42 1.7; side - glass .8 1 1.9 1.42 3
        wheel car dark .9 0 .4 .64 1.1; wheel car dark .9 0 3 .64 3.7; front car dark 0 -.88 .05 .88 .3
        front - lights 0 -.84 .55 -.5 .75; front - lights 0 .5 .55 .84 .75""",
    "person": """front person made1 0 -.24 0 -.05 .9; front person made1 0 .04 0 .23 .9
        oval person made2 0 -.28 .75 .28 1.5; oval person skin 0 -.13 1.44 .13 1.74""",
    "pole": "front pole metal 0 -.12 0 .12 5",
    "street lamp": "front pole metal 0 -.12 0 .12 5.5; front pole metal 0 -1 5.3 1 5.5",
    "round sign": """front pole metal 0 -.08 0 .08 2.5
        oval sign plate1 0 -.45 2 .45 2.9; oval - plate2 0 -.25 2.2 .25 2.7""",
    "board": """front pole metal 0 -.08 0 .08 2.5
        front sign plate1 0 -.5 1.9 .5 2.7; front - plate2 0 -.4 2.4 .4 2.5""",
    "warning": """front pole metal 0 -.08 0 .08 2.5
        edge sign plate1 0 -.6 1.9 .6 3.1; edge - plate2 0 -.3 2.2 .3 2.8""",
    "bin": "box ignore made -.3 0 0 .3 .9 .5",
    "dog": "front ignore wood 0 -.35 .25 .35 .5; front ignore wood 0 -.3 0 .25 .3",
    "tree": """front plant dark 0 -.14 0 .14 2; oval plant plant1 0 -1.8 1.2 1 3.4
        oval plant plant1 0 -.6 1.4 1.8 3.2; oval plant plant1 0 -1.1 2.4 1.2 4.2
        oval - plant1 0 -1 2.6 .3 3.6; oval - plant1 0 .1 1.8 1.1 2.6""",
    "bed": """box bed wood -.75 0 1.9 .75 1 2; box bed made -.75 .1 0 .75 .5 1.9
        box bed cloth -.65 .5 1.4 -.1 .6 1.8; box bed cloth .1 .5 1.4 .65 .6 1.8""",
    "table": """front table dark .7 -.65 0 -.57 .7; front table dark .7 .57 0 .65 .7
        front table wood 0 -.65 0 -.55 .7; front table wood 0 .55 0 .65 .7
        box table wood -.7 .66 0 .7 .74 .8""",
    "chair": """front chair dark .4 -.22 0 -.15 .9; front chair dark .4 .15 0 .22 .9
        front chair made .4 -.24 .5 .24 .95; box chair made -.24 .4 0 .24 .47 .42
        front chair dark 0 -.22 0 -.15 .4; front chair dark 0 .15 0 .22 .4""",
    "lamp": """front lamp metal 0 -.035 0 .035 1.4; front lamp metal 0 -.18 0 .18 .06
        oval lamp shade 0 -.26 1.35 .26 1.7""",
    "pendant": "front lamp metal 0 -.03 2 .03 3.5; oval lamp shade 0 -.28 1.75 .28 2.1",
}


class Scene:
    """A canvas at twice the size (red, green, blue, roughness), its label map and the camera."""

    def __init__(self, look, ids, size, seed):
        self.look, self.ids, self.size = look, ids, size
        self.rng = np.random.Generator(np.random.PCG64(seed))
        self.color = np.zeros((2 * size[0], 2 * size[1], 4), np.uint8)
        self.label = np.full(self.color.shape[:2], IGNORE, np.uint8)
        self.height, self.horizon, self.focal = (self.u(*span) for span in look["camera"])
        self.centre, self.haze, self.haze_color, self.shadows = self.u(0.36, 0.64), 0.0, np.zeros(3), []

    def u(self, low, high):
        """Sample uniformly from [low, high)."""
        return low + (high - low) * self.rng.random()

    def pick(self, paint, spread=6):
        """Sample a colour of a paint, with noise; digits at the end of its name distinguish two uses."""
        paint = paint.rstrip("0123456789")
        colors = _colors(self.look.get(paint) or _PAINTS[paint])
        return colors[int(self.u(0, len(colors)))] + self.rng.normal(0, spread, 3) + self.u(-3, 3) * spread

    def pixels(self, axis, at, shapes):
        """Project shapes [n, k, 2] on the plane where coordinate `axis` of (x, y, z) is `at` to OpenCV polygons."""
        w, h = self.label.shape[1] << _SHIFT, self.label.shape[0] << _SHIFT
        if axis == 2:  # most shapes; the formula below with one depth
            scale = self.focal / max(at, 0.4)
            origin = (w * self.centre, h * (self.horizon + 1.5 * self.height * scale))
            return list((shapes * (w * scale, -1.5 * h * scale) + origin).astype(np.int32))
        a, b = shapes[..., 0], shapes[..., 1]
        x, y, z = ((at, a, b), (a, at, b), (a, b, at))[axis]
        scale, pixels = self.focal / np.maximum(z, 0.4), np.empty(shapes.shape)
        pixels[..., 0] = (self.centre + x * scale) * w
        pixels[..., 1] = (self.horizon + 1.5 * (self.height - y) * scale) * h
        return list(pixels.astype(np.int32))

    def fill(self, axis, at, shapes, color, role=None, rough=8):
        """Paint shapes in colour and label; None leaves the colour or the label, role "ignore" is 255."""
        pixels = self.pixels(axis, at, shapes)
        if color is not None:
            keep = math.exp(-self.haze * (at if axis == 2 else shapes[..., 1].min()))
            red, green, blue = (self.haze_color + (color - self.haze_color) * keep).tolist()
            cv2.fillPoly(self.color, pixels, (red, green, blue, rough), shift=_SHIFT)
        if role is not None:
            cv2.fillPoly(self.label, pixels, self.ids.get(role, IGNORE), shift=_SHIFT)

    def box(self, x0, y0, z0, x1, y1, z1, color, role, rough=6):
        """Paint the visible faces of a box."""
        if x0 * x1 > 0:
            self.fill(0, x1 if x1 < 0 else x0, rect(y0, z0, y1, z1), color * 0.72, role, rough)
        if y1 < self.height:
            self.fill(1, y1, rect(x0, z0, x1, z1), color * 1.2, role, rough)
        self.fill(2, z0, rect(x0, y0, x1, y1), color, role, rough)

    def put(self, name, x, z):
        """Paint an object of `_PROPS` at (x, z), if it may be visible."""
        if abs(x) * self.focal > z + self.focal:
            return
        jitter, shade, rough = (0.12, 0.25, 24) if name == "tree" else (0.04, 0.05, 5)
        wide, tall, paints = self.u(0.88, 1.12), self.u(0.85, 1.15), {}
        for kind, role, paint, numbers in _parts(_PROPS[name]):
            if role == "-" and z > 20:
                continue  # too small to see
            color = paints[paint] = paints[paint] if paint in paints else self.pick(paint)
            look = (color * self.u(1 - shade, 1 + shade), None if role == "-" else role, rough)
            v = numbers * (1 + jitter * self.rng.standard_normal(len(numbers)))
            if kind == "box":
                x0, x1, y0, y1 = x + v[0] * wide, x + v[3] * wide, v[1] * tall, v[4] * tall
                self.box(x0, y0, z + v[2], x1, y1, z + v[5], *look)
            elif kind in ("side", "wheel"):
                shape, flank = rect if kind == "side" else oval, x - math.copysign(v[0] * wide, x)
                self.fill(0, flank, shape(v[1] * tall, z + v[2], v[3] * tall, z + v[4]), *look)
            else:
                corners = (x + v[1] * wide, v[2] * tall, x + v[3] * wide, v[4] * tall)
                shape = rect(*corners) if kind == "front" else oval(*corners, 1 if kind == "oval" else 6)
                self.fill(2, z + v[0], shape, *look)

    def cast_shadows(self):
        """Darken the ground below the shapes (x, z) in `shadows`."""
        mask = np.zeros(self.label.shape, np.uint8)
        for shape in self.shadows:
            cv2.fillPoly(mask, self.pixels(1, 0, shape), 255, shift=_SHIFT)
        dark = cv2.blur(mask, (3, 3)).astype(np.float32) * (self.u(*self.look["light"][1]) / 255)
        self.color[..., :3] = self.color[..., :3] * (1 - dark[..., None])

    def develop(self):
        """Return the camera's image of the canvas, and the label with ignored pixels at some class borders."""
        (h, w), rng, (blur, noise, _) = self.size, self.rng, self.look["optics"]
        rim = cv2.morphologyEx(self.label, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
        where = cv2.resize(rng.random((5, 7)), self.label.shape[::-1]) > 0.68
        label = np.where(rim & where, np.uint8(IGNORE), self.label)[::2, ::2]
        gain = self.u(*self.look["light"][0]) * np.array(self.look["light"][2]) * rng.normal(1, 0.05, 3)
        contrast, blur, grain = self.u(0.75, 1.15), blur * self.u(0.6, 1.3) * w / 96, 0
        for cells, weight in ((10, 0.5), (32, 0.6), (72, 0.9)):
            coarse = rng.standard_normal((cells, cells * 3 // 2), np.float32)
            grain = grain + weight * cv2.resize(coarse, (w, h))
        picture = cv2.resize(self.color, (w, h), interpolation=cv2.INTER_AREA).astype(np.float32)
        image = picture[..., :3] + (picture[..., 3] * grain)[..., None]
        image = cv2.GaussianBlur(image, (0, 0), blur) if blur else image
        image = (image * contrast + 110 * (1 - contrast)) * gain.astype(np.float32)
        image += noise * rng.standard_normal(image.shape, np.float32)
        return np.clip(image, 0, 255).astype(np.uint8), np.ascontiguousarray(label)


@functools.cache
def _colors(text):
    return np.array([[int(word[i : i + 2], 16) for i in (0, 2, 4)] for word in text.split()], np.float64)


@functools.cache
def _parts(text):
    words = [part.split() for part in text.replace("\n", ";").split(";")]
    return [(*word[:3], np.array(word[3:], np.float64)) for word in words]


def rect(a0, b0, a1, b1):
    """Return a rectangle, float64 [1, 4, 2], given two corners.

    >>> rect(0, 0, 2, 1)[0].tolist()
    [[0.0, 0.0], [2.0, 0.0], [2.0, 1.0], [0.0, 1.0]]
    """
    return np.array([[(a0, b0), (a1, b0), (a1, b1), (a0, b1)]], np.float64)


def oval(a0, b0, a1, b1, step=1):
    """Return an ellipse, float64 [1, 24 / step, 2], inside a rectangle.

    >>> oval(0, 0, 2, 1, step=6)[0].round(6).tolist()
    [[2.0, 0.5], [1.0, 1.0], [0.0, 0.5], [1.0, 0.0]]
    """
    return (np.array([a0 + a1, b0 + b1]) + _CIRCLE[::step] * (a1 - a0, b1 - b0))[None] / 2


@functools.cache
def _cells(columns, rows):
    return np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), -1).reshape(-1, 1, 2) + 0.5


def grid(a0, b0, a1, b1, columns, rows, fill_a, fill_b):
    """Return a grid of rectangles, float64 [columns * rows, 4, 2], each filling the given shares of its cell.

    >>> grid(0, 0, 4, 1, 2, 1, fill_a=0.5, fill_b=1)[:, 0].tolist()
    [[0.5, 0.0], [2.5, 0.0]]
    """
    shapes = _cells(columns, rows) + rect(-0.5, -0.5, 0.5, 0.5) * (fill_a, fill_b)
    return shapes * ((a1 - a0) / columns, (b1 - b0) / rows) + (a0, b0)
