"""Two tiny domains on disk, a labeled source and a target, and the config of a run of method=mlsl on them."""

import numpy as np
import tiny_data

from usss_jax.config import checked, default_config, shrink_to_tiny

SIZE = (32, 48)
IMAGES = 4
SOURCE = {"road": 1, "sky": 2, "wood": 3, "rail": 4}  # classes, with their ids in masks; no pixel is rail
TARGET = {"street": 1, "sky": 2, "tree": 3, "track": 4, "boat": 5}
BECOMES = {"road": "street", "sky": "sky", "wood": "tree", "rail": "track"}  # nothing becomes a boat
EVERY = ["source", "minent", "minent_prior", "adversarial", "st", "cbst", "cbst_sp", "sisc", "sisc_pwl", "oracle"]


def domain_file(folder, name, classes, masks=("train", "val")):
    """Write the YAML file of a domain, and return its path."""
    rows = [f"  - {{name: {c}, color: [{40 * i}, 90, 9], ids: {i}}}" for c, i in classes.items()]
    splits = [
        f"  {split}: {{images: {split}/images{f', masks: {split}/masks' if split in masks else ''}}}"
        for split in ("train", "val")
    ]
    lines = [f"name: {name}", f"root: {name}", f"size: {list(SIZE)}", "ignore_ids: [0]", "classes:", *rows]
    (folder / f"{name}.yaml").write_text("\n".join([*lines, "splits:", *splits, ""]))
    return folder / f"{name}.yaml"


def map_file(folder, becomes=BECOMES, source="city.yaml", target="town.yaml", name="map"):
    """Write a class map, and return its path."""
    rows = "".join(f"  {a}: {b}\n" for a, b in becomes.items())
    (folder / f"{name}.yaml").write_text(f"source: {source}\ntarget: {target}\nclasses:\n{rows}")
    return folder / f"{name}.yaml"


def write_images(folder, ids, masks=("train", "val"), images=IMAGES, seed=0):
    """Write the images and masks of a domain."""
    for k, split in enumerate(("train", "val")):
        for i in range(images):
            image, mask = tiny_data.scene(np.random.default_rng([seed, k, i]), SIZE, ids, void=0)
            tiny_data.write(folder / f"{split}/images/{i}.png", image)
            if split in masks:
                tiny_data.write(folder / f"{split}/masks/{i}.png", mask)


def write_domains(folder, masks=("train", "val")):
    """Write city, the source, and town, the target, which has masks of these splits; and map.yaml from one to other."""
    write_images(folder / "city", (1, 2, 3))
    write_images(folder / "town", (1, 2, 3, 5), masks, seed=1)
    domain_file(folder, "city", SOURCE)
    domain_file(folder, "town", TARGET, masks)
    map_file(folder)


def config(folder, *variants, **fields):
    """Checked config of a run on the domains of `write_domains`; `fields` by their dotted names."""
    c = unchecked(folder, *variants)
    c.update_from_flattened_dict(fields)
    return checked(c)


def unchecked(folder, *variants):
    """Such a config, for changes that are refused."""
    c = default_config("mlsl")
    shrink_to_tiny(c)
    c.variants = list(variants)
    c.data.domains = [str(folder / "city.yaml"), str(folder / "town.yaml")]
    c.data.labeled_per_domain, c.data.image_size, c.data.crop_size = "city=all,town=0", "32x48", "24x32"
    c.mlsl.target, c.data.class_map = "town", str(folder / "map.yaml")
    c.model.encoder, c.optim.lr, c.rounds.lr, c.rounds.patch_size = "toy", 0.05, 0.05, 24
    c.rounds.portion, c.data.min_classes = 0.5, 1
    c.rounds.epochs = 1.0
    return c
