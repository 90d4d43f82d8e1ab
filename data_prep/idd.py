"""IDD Segmentation, 26 classes of level 3, as records; missing masks are rasterized from the polygons.

python -m data_prep.idd --source=DIR --data_dir=DIR [--size=512x1024] [--workers=N]
"""

import os

from data_prep import prepare
from data_prep.builder import DomainBuilder
from data_prep.idd_polygons import rasterize_level3
from usss_jax.data import patterns


class Idd(DomainBuilder):
    """IDD Segmentation, part I, II or both."""

    domains = ("idd",)

    def find_masks(self, folder, files, images):
        """Find the PNG of level 3, or else the polygons."""
        masks, missing = super().find_masks(folder, files, images)
        for key in list(missing):
            mask = os.path.join(folder, patterns.fill(files.masks, key))
            polygons = mask.replace("_labellevel3Ids.png", "_polygons.json")
            if os.path.isfile(polygons):
                masks[key] = polygons
                del missing[key]
        return masks, missing

    def decode_mask(self, layout, data, name):
        """Decode the PNG or rasterize the polygons: the ids of level 3 are the train ids."""
        if name.endswith(".json"):
            return rasterize_level3(data, name)
        return super().decode_mask(layout, data, name)


if __name__ == "__main__":
    prepare.run(Idd)
