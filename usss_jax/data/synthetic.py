"""The embedded data set: two streets that look different and a room, drawn on demand, without a download.

Everything stands in metres before a pinhole camera and is painted from far to near. No random number depends
on the size of the picture except the sensor noise, so every size shows the same scene.
"""

import functools
import math
import zlib

import cv2
import numpy as np

from usss_jax.data.domain import Domain
from usss_jax.errors import InputError

IGNORE = 255
_SHIFT = 4  # sub-pixel bits of OpenCV's polygon coordinates
_CIRCLE = np.exp(2j * np.pi * np.arange(24)[:, None] / 24).view(np.float64)  # x and y of its corners

# camera: height in metres; horizon, share of the height; focal length, share of the width. light: gain, depth
# of the shadows, colour cast. optics: blur in pixels of a picture 96 wide, noise, share of own bonnets seen.
_ROLES = "road,walk,building,barrier,pole,sign,plant,sky,person,car"
_LOOKS = {
    "city_street": {
        "classes": "road,sidewalk,building,wall,pole,traffic sign,vegetation,sky,person,car",
        "camera": ((1.2, 1.8), (0.46, 0.58), (0.6, 0.85)),
        "light": ((0.6, 1.05), (0.0, 0.25), (0.92, 1.0, 1.1)),
        "optics": (0.0, 7.0, 0.45),
        "storeys": (3, 9),
        "sky": "cdd4dc aab4c0 e4e6e8 96acc8",
        "facade": "807e7c 606268 9e988c 705c50 8c929a 544c48",
        "plant": "3e4e3a 54583c 303c34 605442",
        "ground": "58585c 6e6c6c 46484e 807c7c 747478 8e867e",
    },
    "town_street": {
        "classes": "road,pavement,building,fence,pole,sign,tree,sky,pedestrian,car",
        "camera": ((2.0, 3.0), (0.28, 0.42), (0.7, 1.0)),
        "light": ((0.85, 1.2), (0.3, 0.55), (1.07, 1.0, 0.88)),
        "optics": (0.7, 2.5, 0.12),
        "storeys": (1, 3),
        "sky": "78aae2 a4c6e8 dad8ce 8cb4dc",
        "facade": "a0543e cebe9e b66e50 ded8cc 864a3c bea070",
        "plant": "5c8434 426c30 8c8e3a a87836",
        "ground": "787268 8e8476 625e5c 9e8c78 887a6a aa968c",
    },
    "indoor_room": {
        "classes": "floor,wall,ceiling,window,bed,chair,table,lamp",
        "camera": ((1.2, 1.9), (0.34, 0.5), (0.5, 0.7)),
        "light": ((0.7, 1.1), (0.2, 0.45), (1.05, 1.0, 0.92)),
        "optics": (0.3, 4.0, 0.0),
    },
}
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
# Parts "kind role paint numbers", in metres from the foot of the thing. box: x0 y0 z0 x1 y1 z1; front, oval
# and edge (a diamond): z, then x y of two corners; side and wheel (an oval): x, then y z of two corners.
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


def render(domain: Domain, split: str, index: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Draw an image uint8 [h, w, 3] and its label uint8 [h, w], 255 = ignore, from nothing but the arguments.

    `size` is (h, w). Raises InputError for a domain that is not drawn or lacks a class of it.
    """
    if domain.name not in _LOOKS:
        raise InputError(f"domain {domain.name!r} is not embedded, choose one of {', '.join(_LOOKS)}")
    look = _LOOKS[domain.name]
    classes = look["classes"].split(",")
    if missing := [name for name in classes if name not in domain.class_names]:
        raise InputError(f"domain {domain.name!r} lacks the embedded classes {', '.join(missing)}")
    roles = _ROLES.split(",") if "storeys" in look else classes
    ids = {role: domain.class_names.index(name) for role, name in zip(roles, classes, strict=True)}
    scene = _Scene(look, ids, size, zlib.crc32(f"{domain.name}/{split}/{index}".encode()))
    (_draw_street if "storeys" in look else _draw_room)(scene)
    return scene.develop()


class _Scene:
    """A canvas of twice the size (red, green, blue, roughness), its label map and the camera."""

    def __init__(self, look, ids, size, seed):
        self.look, self.ids, self.size = look, ids, size
        self.rng = np.random.Generator(np.random.PCG64(seed))
        self.color = np.zeros((2 * size[0], 2 * size[1], 4), np.uint8)
        self.label = np.full(self.color.shape[:2], IGNORE, np.uint8)
        self.height, self.horizon, self.focal = (self.u(*span) for span in look["camera"])
        self.centre, self.haze, self.haze_color, self.shadows = self.u(0.36, 0.64), 0.0, np.zeros(3), []

    def u(self, low, high):
        return low + (high - low) * self.rng.random()

    def pick(self, paint, spread=6):
        """One colour of a paint (a digit at its end tells two apart), a little changed."""
        paint = paint.rstrip("0123456789")
        colors = _colors(self.look.get(paint) or _PAINTS[paint])
        return colors[int(self.u(0, len(colors)))] + self.rng.normal(0, spread, 3) + self.u(-3, 3) * spread

    def pixels(self, axis, at, shapes):
        """OpenCV's polygons of shapes [n, k, 2] on the plane where coordinate `axis` of (x, y, z) is `at`."""
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
        """Paint shapes; without a colour only the label, without a role only the colour, "ignore" is 255."""
        pixels = self.pixels(axis, at, shapes)
        if color is not None:
            keep = math.exp(-self.haze * (at if axis == 2 else shapes[..., 1].min()))
            red, green, blue = (self.haze_color + (color - self.haze_color) * keep).tolist()
            cv2.fillPoly(self.color, pixels, (red, green, blue, rough), shift=_SHIFT)
        if role is not None:
            cv2.fillPoly(self.label, pixels, self.ids.get(role, IGNORE), shift=_SHIFT)

    def box(self, x0, y0, z0, x1, y1, z1, color, role, rough=6):
        """Paint the faces of a box that the camera sees."""
        if x0 * x1 > 0:
            self.fill(0, x1 if x1 < 0 else x0, _rect(y0, z0, y1, z1), color * 0.72, role, rough)
        if y1 < self.height:
            self.fill(1, y1, _rect(x0, z0, x1, z1), color * 1.2, role, rough)
        self.fill(2, z0, _rect(x0, y0, x1, y1), color, role, rough)

    def put(self, name, x, z):
        """Paint a thing of `_PROPS` at (x, z), if it can be in view."""
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
                shape, flank = _rect if kind == "side" else _oval, x - math.copysign(v[0] * wide, x)
                self.fill(0, flank, shape(v[1] * tall, z + v[2], v[3] * tall, z + v[4]), *look)
            else:
                corners = (x + v[1] * wide, v[2] * tall, x + v[3] * wide, v[4] * tall)
                shape = _rect(*corners) if kind == "front" else _oval(*corners, 1 if kind == "oval" else 6)
                self.fill(2, z + v[0], shape, *look)

    def cast_shadows(self):
        """Darken the ground under the shapes (x, z) in `shadows`."""
        mask = np.zeros(self.label.shape, np.uint8)
        for shape in self.shadows:
            cv2.fillPoly(mask, self.pixels(1, 0, shape), 255, shift=_SHIFT)
        dark = cv2.blur(mask, (3, 3)).astype(np.float32) * (self.u(*self.look["light"][1]) / 255)
        self.color[..., :3] = self.color[..., :3] * (1 - dark[..., None])

    def develop(self):
        """The picture that a camera takes of the canvas, and the label with rims of ignore here and there."""
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


def _rect(a0, b0, a1, b1):
    return np.array([[(a0, b0), (a1, b0), (a1, b1), (a0, b1)]], np.float64)


def _oval(a0, b0, a1, b1, step=1):
    return (np.array([a0 + a1, b0 + b1]) + _CIRCLE[::step] * (a1 - a0, b1 - b0))[None] / 2


@functools.cache
def _cells(columns, rows):
    return np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), -1).reshape(-1, 1, 2) + 0.5


def _grid(a0, b0, a1, b1, columns, rows, fill_a, fill_b):
    """Rectangles in the cells of a grid, each filling these shares of its cell."""
    shapes = _cells(columns, rows) + _rect(-0.5, -0.5, 0.5, 0.5) * (fill_a, fill_b)
    return shapes * ((a1 - a0) / columns, (b1 - b0) / rows) + (a0, b0)


def _draw_street(s):
    s.haze_color, town = s.pick("sky"), s.look["storeys"][0] == 1
    top = s.haze_color * s.u(0.7, 1.0)
    for i in range(8):
        color, rough = top + (s.haze_color - top) * i / 7, s.u(2, 9)
        s.fill(2, 99, _rect(-300, -99, 300, 130 - 15 * i), color, "sky", rough)
    s.haze, crossing = s.u(0.004, 0.02), s.u(16, 34) if s.u(0, 1) < 0.35 else -99
    curbs = {-1: s.u(2.5, 6.5), 1: s.u(2.5, 6.5)}  # metres from the camera
    fronts = {side: curbs[side] + s.u(1.8, 4.5) for side in curbs}  # of the lots
    for x in range(-75, 75, 15):
        _draw_lot(s, town, x, x + s.u(9, 16), 70, 90)
    things = [thing for side in curbs for thing in _place_things(s, side, curbs[side], fronts[side])]
    _draw_ground(s, town, curbs, crossing)
    for side in curbs:
        z = s.u(45, 60)
        while z > 3:
            far, z = z, z - s.u(6, 15)
            if abs((far + z) / 2 - crossing) > 7:
                _draw_lot(s, town, side * fronts[side], side * (fronts[side] + s.u(7, 14)), max(z, 1.5), far)
    for name, x, z in sorted(things, key=lambda thing: -thing[2]):
        s.put(name, x, z)
    if s.u(0, 1) < s.look["optics"][2]:  # the bonnet of the own car, one metre ahead
        x, half, y = s.u(-0.2, 0.2), s.u(0.5, 1.2), s.height - (1 - s.horizon) / (1.5 * s.focal)
        s.fill(2, 1, _oval(x - half, y - 1, x + half, y + s.u(0.03, 0.15)), s.pick("made"), "ignore", 3)


def _draw_ground(s, town, curbs, crossing):
    road, walk, rough, paint = s.pick("ground"), s.pick("ground"), s.u(3, 9), s.u(20, 110)
    s.fill(1, 0, _rect(-300, 0.5, 300, 300), walk, "walk", rough + 3)
    cobbles = _grid(-10, 2, 10, 14, *((30, 16) if town else (9, 8)), 0.8, 0.7)
    s.fill(1, 0, cobbles, walk * (s.u(1.2, 1.5) if town else s.u(1.0, 1.15)), None, rough)
    if crossing > 0:
        s.fill(1, 0, _rect(-300, crossing - 4, 300, crossing + 4), road, "road", rough)
    s.fill(1, 0, _rect(-curbs[-1], 0.5, curbs[1], 300), road, "road", rough)
    for side in curbs:
        s.fill(1, 0, _rect(side * curbs[side], 0.5, side * (curbs[side] + 0.25), 90), walk * 0.7, "walk", 2)
    middle, style, z = (curbs[1] - curbs[-1]) / 2, s.u(0, 1), s.u(5, 18)
    if style < 0.6:
        s.fill(1, 0, _grid(middle - 0.1, 1, middle + 0.1, 61, 1, 12, 1, s.u(0.4, 1)), road + paint)
    if style > 0.45:
        s.fill(1, 0, _grid(-curbs[-1], z, curbs[1], z + 3, 8, 1, 0.5, 1), road + paint)
    s.cast_shadows()


def _draw_lot(s, town, x0, x1, z0, z1):
    """What stands beside the street between z0 and z1: a building, a wall (city) or trees, a fence (town)."""
    if abs(x0) * s.focal > 0.7 * z1:
        return  # out of view
    kind, lit, plot = s.u(0, 1), s.u(0.65, 1.15), _rect(0, z0, 1, z1)
    if kind < 0.64:
        _draw_building(s, town, x0, x1, z0, z1 - town * s.u(0, 4), lit)
    elif kind < 0.82 and not town:
        color, y = s.pick("facade"), s.u(1.8, 3.6)
        s.fill(2, z0, _rect(x0, 0, x1, y), color * 0.8, "barrier", 10)
        s.fill(0, x0, plot * (y, 1), color * lit, "barrier", 10)
        s.fill(0, x0, _grid(0, z0, y, z1, 1, 5, 1, 0.08), color * lit * 0.8)
    elif kind < 0.95:
        for z in np.linspace(z1, z0 + 1, 1 if z0 >= 70 else 3):
            s.put("tree", x0 + math.copysign(s.u(1, 4), x0), z)
    if town and z0 < 70 and (style := s.u(0, 1)) < 0.85:
        x, y, hedge = x0 - math.copysign(s.u(0.1, 0.5), x0), s.u(0.8, 1.7), style < 0.2
        color = s.pick("plant" if hedge else "wood")
        shade = color * s.u(0.4, 0.8) if style < 0.6 else None  # without it, one looks through the pickets
        s.fill(0, x, plot * (y, 1), shade, "plant" if hedge else "barrier", 24 if hedge else 6)
        if not hedge:
            s.fill(0, x, _grid(0, z0, y, z1, 1, int(z1 - z0) * 2, 1, s.u(0.3, 0.8)), color, None, 6)


def _draw_building(s, town, x0, x1, z0, z1, lit):
    rows = int(s.u(*s.look["storeys"]) + 0.5)
    color, glass, y, dim = s.pick("facade"), s.pick("made" if town else "sky"), 3.1 * rows, 1.6 - lit
    s.fill(2, z0, _rect(x0, 0, x1, y), color * dim, "building", 12)
    s.fill(0, x0, _rect(0, z0, y, z1), color * lit, "building", 12)
    if town:  # a pitched roof
        ridge, peak, roof = (x0 + x1) / 2, y + s.u(1.5, 4), s.pick("facade") * 0.75 * lit
        slope = np.array([[(y, z0), (peak, z0), (peak, z1), (y, z1)]])
        s.fill(2, z0, np.array([[(x0, y), (x1, y), (ridge, peak)]]), color * dim, "building", 12)
        s.fill(0, np.array([x0, ridge, ridge, x0]), slope, roof, "building", 14)
    wide, tall, glass = s.u(0.3, 0.8), s.u(0.3, 0.7), glass * s.u(0.3, 0.8)
    s.fill(0, x0, _grid(0, z0, y, z1, rows, max(1, int((z1 - z0) / s.u(1.8, 4))), tall, wide), glass * lit)
    s.fill(2, z0, _grid(x0, 0, x1, y, 3, rows, wide, tall), glass * dim)
    if s.u(0, 1) < 0.5:  # shops or doors
        s.fill(0, x0, _grid(0, z0, s.u(2, 3), z1, 1, 3, 1, s.u(0.2, 0.95)), s.pick("made") * lit)


def _place_things(s, side, curb, front):
    """What stands on one side of the street, (name, x, z); the shadows are noted in the scene."""
    things, z, lean = [], s.u(4.5, 9), s.u(-2, 2)
    while z < 40:
        names = ("pole", "street lamp", "street lamp", "round sign", "board", "warning")
        things.append((names[int(s.u(0, 6))], side * (curb + 0.4), z))
        z += s.u(5, 12)
    for name, most, near, far, depth in (
        ("person", 5, curb - 1, front, 4),
        ("car", 3.5, 1.4, max(1.5, curb - 1), 6),
        ("tree", 1.8, curb + 0.5, front, 6),
        ("bin", 1.15, curb + 0.5, front, 3),
        ("dog", 1.15, curb - 1, front, 2),
    ):
        for _ in range(int(s.u(0, most))):
            things.append((name, side * s.u(near, far), 4.8 * depth ** s.u(0, 1)))
    slant = np.array([(0, 0), (0, 0), (lean, 0), (lean, 0)])
    for name, x, z in things:
        half = 1.0 if name == "car" else 0.25
        s.shadows.append(_rect(x - half, z, x + half, z + 4) + slant)
    for z in range(4, 60, 12):  # of the lots
        s.shadows.append(_rect(side * front, z, side * (front - s.u(0, 4)), z + s.u(5, 12)))
    return things


def _draw_room(s):
    half, depth, top = s.u(1.8, 3.2), s.u(3.6, 6), s.u(2.3, 3)
    paint, floor = s.pick("plaster"), s.pick("wood")
    s.fill(1, 0, _rect(-half, 0.4, half, depth), floor, "floor")
    s.fill(1, 0, _grid(-half, 0.4, half, depth, int(s.u(4, 14)), 1, 0.85, 1), floor * 1.1)
    s.fill(1, 0, _oval(-s.u(0, 2), 2, s.u(0, 2), s.u(2, depth)), s.pick("made"))  # a rug
    s.fill(1, top, _rect(-half, 0.4, half, depth), s.pick("white"), "ceiling", 5)
    s.fill(2, depth, _rect(-half, 0, half, top), paint, "wall", 7)
    for axis, at, middle in ((0, -half, depth / 2), (0, half, depth / 2), (2, depth, 0)):
        if axis == 0:
            s.fill(0, at, _rect(0, 0.4, top, depth), paint * s.u(0.7, 1.1), "wall", 7)
        c, wide, low, high, kind = (
            middle + s.u(-0.8, 1),
            s.u(0.4, 0.8),
            s.u(0.7, 1.1),
            s.u(1.8, 2.2),
            s.u(0, 1),
        )
        corners = (low, c - wide, high, c + wide) if axis == 0 else (c - wide, low, c + wide, high)
        if kind < 0.6:
            s.fill(axis, at, _rect(*corners), s.pick("white" if kind < 0.3 else "wood"), "window", 5)
            s.fill(axis, at, _grid(*corners, 2, 2, 0.85, 0.85), s.pick("outside"))
        elif kind < 0.75:
            s.fill(axis, at, _rect(*corners), s.pick("made"), "ignore", 20)  # a picture
    things = [("bed", s.u(-1, 1) * (half - 0.8), depth - s.u(2.1, 2.6))] if s.u(0, 1) < 0.75 else []
    for name, least, most in (("table", 0.3, 2), ("chair", 1, 4), ("lamp", 0, 2), ("pendant", 0.3, 1.6)):
        for _ in range(int(s.u(least, most))):
            things.append((name, s.u(-0.75, 0.75) * half, s.u(1.8, depth - 0.8)))
    s.shadows = [_rect(x - 0.5, z, x + 0.7, z + 1) for name, x, z in things if name != "pendant"]
    s.cast_shadows()
    for name, x, z in sorted(things, key=lambda thing: -thing[2]):
        s.put(name, x, z)
