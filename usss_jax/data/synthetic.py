"""The synthetic domains: two kinds of streets and a room, rendered on demand, without a download.

Objects are placed in metres in front of a pinhole camera and painted from far to near. Except for the sensor noise, no
random number depends on the image size, so every size shows the same scene.
"""

import math
import zlib
from typing import Any

import numpy as np

from usss_jax.data.domain import Domain, map_labels, parse_classes
from usss_jax.data.synthetic_canvas import Scene, grid, oval, rect
from usss_jax.errors import InputError


def _domain(name, title, classes):
    counts = {"train": 300, "val": 48}
    size, source = (64, 96), "it is rendered on demand"
    return Domain(name, title, parse_classes(classes), (), name, size, size, synthetic=counts, how_to_get=source)


DOMAINS = (
    _domain(
        "city_street",
        "Synthetic street of a city",
        "road 128 64 128, sidewalk 244 35 232, building 70 70 70, wall 102 102 156, pole 153 153 153, "
        "traffic sign 220 220 0, vegetation 107 142 35, sky 70 130 180, person 220 20 60, car 0 0 142",
    ),
    _domain(
        "town_street",
        "Synthetic street of a small town",
        "sky 128 128 128, building 128 0 0, road 128 64 128, pavement 0 0 192, tree 128 128 0, "
        "fence 64 64 128, sign 192 128 128, pole 192 192 128, pedestrian 64 64 0, car 64 0 128",
    ),
    _domain(
        "indoor_room",
        "Synthetic room",
        "floor 222 184 135, wall 249 139 0, ceiling 0 218 0, window 135 206 235, bed 0 0 255, "
        "chair 149 0 240, table 240 35 235, lamp 255 240 60",
    ),
)

# camera: height in metres; horizon, share of the height; focal length, share of the width. light: gain, depth
# of the shadows, colour cast. optics: blur in pixels of an image 96 wide, noise, share of images with a bonnet.
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


def render(domain: Domain, split: str, index: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Render an image and its label as a pure function of the arguments.

    Args:
      domain: one of the synthetic domains.
      split, index: of the image.
      size: (h, w).

    Returns:
      uint8 [h, w, 3] and uint8 [h, w], 255 = ignore.

    Raises:
      InputError: for a domain that is not synthetic or lacks one of its classes.

    >>> image, label = render(DOMAINS[0], "train", 0, size=(32, 48))
    >>> image.shape, label.shape
    ((32, 48, 3), (32, 48))
    """
    if domain.name not in _LOOKS:
        raise InputError(f"domain {domain.name!r} is not synthetic; choose one of {', '.join(_LOOKS)}")
    look: dict[str, Any] = _LOOKS[domain.name]
    classes, known = look["classes"].split(","), domain.original.class_names
    if missing := [name for name in classes if name not in known]:
        raise InputError(f"domain {domain.name!r} lacks the synthetic classes {', '.join(missing)}; add them")
    roles = _ROLES.split(",") if "storeys" in look else classes
    ids = {role: known.index(name) for role, name in zip(roles, classes, strict=True)}
    scene = Scene(look, ids, size, zlib.crc32(f"{domain.name}/{split}/{index}".encode()))
    (_draw_street if "storeys" in look else _draw_room)(scene)
    image, label = scene.develop()
    return image, map_labels(label, domain)


def _draw_street(s):
    s.haze_color, town = s.pick("sky"), s.look["storeys"][0] == 1
    top = s.haze_color * s.u(0.7, 1.0)
    for i in range(8):
        color, rough = top + (s.haze_color - top) * i / 7, s.u(2, 9)
        s.fill(2, 99, rect(-300, -99, 300, 130 - 15 * i), color, "sky", rough)
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
    if s.u(0, 1) < s.look["optics"][2]:  # the bonnet of the camera's car, one metre ahead
        x, half, y = s.u(-0.2, 0.2), s.u(0.5, 1.2), s.height - (1 - s.horizon) / (1.5 * s.focal)
        s.fill(2, 1, oval(x - half, y - 1, x + half, y + s.u(0.03, 0.15)), s.pick("made"), "ignore", 3)


def _draw_ground(s, town, curbs, crossing):
    road, walk, rough, paint = s.pick("ground"), s.pick("ground"), s.u(3, 9), s.u(20, 110)
    s.fill(1, 0, rect(-300, 0.5, 300, 300), walk, "walk", rough + 3)
    cobbles = grid(-10, 2, 10, 14, *((30, 16) if town else (9, 8)), 0.8, 0.7)
    s.fill(1, 0, cobbles, walk * (s.u(1.2, 1.5) if town else s.u(1.0, 1.15)), None, rough)
    if crossing > 0:
        s.fill(1, 0, rect(-300, crossing - 4, 300, crossing + 4), road, "road", rough)
    s.fill(1, 0, rect(-curbs[-1], 0.5, curbs[1], 300), road, "road", rough)
    for side in curbs:
        s.fill(1, 0, rect(side * curbs[side], 0.5, side * (curbs[side] + 0.25), 90), walk * 0.7, "walk", 2)
    middle, style, z = (curbs[1] - curbs[-1]) / 2, s.u(0, 1), s.u(5, 18)
    if style < 0.6:
        s.fill(1, 0, grid(middle - 0.1, 1, middle + 0.1, 61, 1, 12, 1, s.u(0.4, 1)), road + paint)
    if style > 0.45:
        s.fill(1, 0, grid(-curbs[-1], z, curbs[1], z + 3, 8, 1, 0.5, 1), road + paint)
    s.cast_shadows()


def _draw_lot(s, town, x0, x1, z0, z1):
    """Draw a building, a wall (city) or trees, a fence (town) along the street between z0 and z1."""
    if abs(x0) * s.focal > 0.7 * z1:
        return  # out of view
    kind, lit, plot = s.u(0, 1), s.u(0.65, 1.15), rect(0, z0, 1, z1)
    if kind < 0.64:
        _draw_building(s, town, x0, x1, z0, z1 - town * s.u(0, 4), lit)
    elif kind < 0.82 and not town:
        color, y = s.pick("facade"), s.u(1.8, 3.6)
        s.fill(2, z0, rect(x0, 0, x1, y), color * 0.8, "barrier", 10)
        s.fill(0, x0, plot * (y, 1), color * lit, "barrier", 10)
        s.fill(0, x0, grid(0, z0, y, z1, 1, 5, 1, 0.08), color * lit * 0.8)
    elif kind < 0.95:
        for z in np.linspace(z1, z0 + 1, 1 if z0 >= 70 else 3):
            s.put("tree", x0 + math.copysign(s.u(1, 4), x0), z)
    if town and z0 < 70 and (style := s.u(0, 1)) < 0.85:
        x, y, hedge = x0 - math.copysign(s.u(0.1, 0.5), x0), s.u(0.8, 1.7), style < 0.2
        color = s.pick("plant" if hedge else "wood")
        shade = color * s.u(0.4, 0.8) if style < 0.6 else None  # None: the fence is see-through
        s.fill(0, x, plot * (y, 1), shade, "plant" if hedge else "barrier", 24 if hedge else 6)
        if not hedge:
            s.fill(0, x, grid(0, z0, y, z1, 1, int(z1 - z0) * 2, 1, s.u(0.3, 0.8)), color, None, 6)


def _draw_building(s, town, x0, x1, z0, z1, lit):
    rows = int(s.u(*s.look["storeys"]) + 0.5)
    color, glass, y, dim = s.pick("facade"), s.pick("made" if town else "sky"), 3.1 * rows, 1.6 - lit
    s.fill(2, z0, rect(x0, 0, x1, y), color * dim, "building", 12)
    s.fill(0, x0, rect(0, z0, y, z1), color * lit, "building", 12)
    if town:  # a pitched roof
        ridge, peak, roof = (x0 + x1) / 2, y + s.u(1.5, 4), s.pick("facade") * 0.75 * lit
        slope = np.array([[(y, z0), (peak, z0), (peak, z1), (y, z1)]])
        s.fill(2, z0, np.array([[(x0, y), (x1, y), (ridge, peak)]]), color * dim, "building", 12)
        s.fill(0, np.array([x0, ridge, ridge, x0]), slope, roof, "building", 14)
    wide, tall, glass = s.u(0.3, 0.8), s.u(0.3, 0.7), glass * s.u(0.3, 0.8)
    s.fill(0, x0, grid(0, z0, y, z1, rows, max(1, int((z1 - z0) / s.u(1.8, 4))), tall, wide), glass * lit)
    s.fill(2, z0, grid(x0, 0, x1, y, 3, rows, wide, tall), glass * dim)
    if s.u(0, 1) < 0.5:  # shops or doors
        s.fill(0, x0, grid(0, z0, s.u(2, 3), z1, 1, 3, 1, s.u(0.2, 0.95)), s.pick("made") * lit)


def _place_things(s, side, curb, front):
    """Return the objects on one side of the street, (name, x, z), and add their shadows to the scene."""
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
        s.shadows.append(rect(x - half, z, x + half, z + 4) + slant)
    for z in range(4, 60, 12):  # of the lots
        s.shadows.append(rect(side * front, z, side * (front - s.u(0, 4)), z + s.u(5, 12)))
    return things


def _draw_room(s):
    half, depth, top = s.u(1.8, 3.2), s.u(3.6, 6), s.u(2.3, 3)
    paint, floor = s.pick("plaster"), s.pick("wood")
    s.fill(1, 0, rect(-half, 0.4, half, depth), floor, "floor")
    s.fill(1, 0, grid(-half, 0.4, half, depth, int(s.u(4, 14)), 1, 0.85, 1), floor * 1.1)
    s.fill(1, 0, oval(-s.u(0, 2), 2, s.u(0, 2), s.u(2, depth)), s.pick("made"))  # a rug
    s.fill(1, top, rect(-half, 0.4, half, depth), s.pick("white"), "ceiling", 5)
    s.fill(2, depth, rect(-half, 0, half, top), paint, "wall", 7)
    for axis, at, middle in ((0, -half, depth / 2), (0, half, depth / 2), (2, depth, 0)):
        if axis == 0:
            s.fill(0, at, rect(0, 0.4, top, depth), paint * s.u(0.7, 1.1), "wall", 7)
        c, wide, low, high, kind = (middle + s.u(-0.8, 1), s.u(0.4, 0.8), s.u(0.7, 1.1), s.u(1.8, 2.2), s.u(0, 1))
        corners = (low, c - wide, high, c + wide) if axis == 0 else (c - wide, low, c + wide, high)
        if kind < 0.6:
            s.fill(axis, at, rect(*corners), s.pick("white" if kind < 0.3 else "wood"), "window", 5)
            s.fill(axis, at, grid(*corners, 2, 2, 0.85, 0.85), s.pick("outside"))
        elif kind < 0.75:
            s.fill(axis, at, rect(*corners), s.pick("made"), "ignore", 20)  # a picture
    things = [("bed", s.u(-1, 1) * (half - 0.8), depth - s.u(2.1, 2.6))] if s.u(0, 1) < 0.75 else []
    for name, least, most in (("table", 0.3, 2), ("chair", 1, 4), ("lamp", 0, 2), ("pendant", 0.3, 1.6)):
        for _ in range(int(s.u(least, most))):
            things.append((name, s.u(-0.75, 0.75) * half, s.u(1.8, depth - 0.8)))
    s.shadows = [rect(x - 0.5, z, x + 0.7, z + 1) for name, x, z in things if name != "pendant"]
    s.cast_shadows()
    for name, x, z in sorted(things, key=lambda thing: -thing[2]):
        s.put(name, x, z)
