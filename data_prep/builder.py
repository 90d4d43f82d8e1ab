"""The tfds builder of all data sets: finished shards survive a killed run, and one rename publishes the records."""

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import dataset_builder, splits

from data_prep import inputs, report
from data_prep.encode import encode_example
from data_prep.shards import cannot_write, finished_shard, sync, write_shard
from usss_jax.data import content, masks, records
from usss_jax.data.domain import Domain
from usss_jax.data.files import others_text
from usss_jax.data.mask_files import match_masks
from usss_jax.data.palettes import Palettes
from usss_jax.data.sizes import height_width
from usss_jax.errors import InputError
from usss_jax.local_files import write_whole


@dataclasses.dataclass(eq=False, kw_only=True)
class RecordsConfig(tfds.core.BuilderConfig):
    """Which records to prepare.

    Attributes:
      name: derived from domain and size.
      domain: label space and file layout.
      source: folder of the original data set.
      size: (h, w) of the records; None keeps the original files.
      image_format: of resized images: "png", or "jpeg", which is lossy.
      on_bad_example: "error" stops at a faulty file, "skip" leaves out its example.
      missing_mask: "error", or "keep" for images without label in a labeled split.
      workers: number of threads.
    """

    name: str = dataclasses.field(init=False)
    domain: Domain
    source: str
    size: tuple[int, int] | None = None
    image_format: str = "png"
    on_bad_example: str = "error"
    missing_mask: str = "error"
    workers: int = 1

    def __post_init__(self):
        size = f"_{height_width(self.size)}" if self.size else ""
        self.name = self.domain.name + size + ("_jpeg" if self.image_format == "jpeg" else "")


class Job(NamedTuple):
    """One shard to write: its split, its file, the file of its statistics, its items and their fingerprint."""

    split: inputs.Split
    path: pathlib.Path
    notes: pathlib.Path
    items: tuple[inputs.Item, ...]
    fingerprint: str


class DomainBuilder(dataset_builder.FileReaderBuilder, skip_registration=True):
    """Prepares one data set; subclasses name its domains.

    An example is {"id": text, "image": encoded image, "label": grey PNG of train ids with 255 = ignore, or None}.
    """

    VERSION = tfds.core.Version("1.0.0")
    domains: tuple[str, ...] = ()  # names of the data set's domains, the default first

    def find_masks(self, folder, files, images):
        """Return the paths of the masks, and messages about images without one, by id."""
        return match_masks(self.builder_config.domain, folder, files, images)

    @functools.cached_property
    def _palettes(self):
        return Palettes()

    def decode_mask(self, layout, data, name):
        """Decode a mask to train ids, uint8 [h, w]."""
        return masks.decode_mask(data, name, self.builder_config.domain, layout, self._palettes)

    def _info(self):
        features = {
            "id": tfds.features.Text(),
            "image": tfds.features.Image(shape=(None, None, 3)),
            # The file's bytes: an image feature cannot be None, as in a split without labels.
            "label": tfds.features.Scalar(np.object_, optional=True),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"{self.builder_config.domain.title}; images and masks of train ids, 255 = ignore.",
            features=tfds.features.FeaturesDict(features),
            metadata=tfds.core.MetadataDict(),
            disable_shuffling=True,
        )

    def download_and_prepare(self, *, progress: Callable[[str, int, int], Callable] | None = None) -> None:
        """Write the missing shards, then publish the folder; nothing is downloaded.

        The implementation of tfds would restart after a kill, and shuffle. `progress` is called with a name, the number
        of images and of finished ones; it returns a function called after each further image.

        Raises:
          InputError: for wrong input, a full disk, or existing records that are damaged or differ.
        """
        config, final = self.builder_config, pathlib.Path(self.data_dir)
        found, absent = inputs.find_splits(
            config.domain,
            config.source,
            self.find_masks,
            missing_mask=config.missing_mask,
            on_bad_example=config.on_bad_example,
        )
        source = self._fingerprint([item for s in found for item in s.items])
        if final.exists():
            self._check_finished(final, source)
            _clean_up(final)
            return
        for split in found:
            if split.others:
                print(f"{split.name}: {others_text(split.others)}; they are left out", flush=True)
        try:
            with _work_folder(final) as work:
                if final.exists():  # published by another run meanwhile
                    self._check_finished(final, source)
                    shutil.rmtree(work, ignore_errors=True)
                    return
                folder = work / final.name
                folder.mkdir(exist_ok=True)
                shards = self._write_shards([job for split in found for job in self._jobs(split, work)], progress)
                self._describe(found, shards, source)
                skipped = {split.name: split.skipped for split in found}
                summary = report.summarise(config, shards, skipped, absent)
                write_whole(folder / report.FILE, json.dumps(summary, indent=1))
                self.info.write_to_directory(folder)
                for file in (*folder.iterdir(), folder):
                    sync(file)
                os.rename(folder, final)
                sync(final.parent)
                shutil.rmtree(work, ignore_errors=True)  # the next run removes remaining files
        except OSError as error:
            raise cannot_write(error.filename or final, error) from error

    def _download_and_prepare(self, dl_manager, download_config=None):
        raise NotImplementedError("see download_and_prepare")

    def _check_finished(self, final, source):
        """Raise InputError unless a finished folder is complete and equals what would be prepared now."""
        config = self.builder_config
        written = {}
        for name in ("metadata.json", report.FILE, "dataset_info.json", "features.json"):
            try:
                written[name] = json.loads((final / name).read_text("utf-8"))
            except (OSError, ValueError) as error:  # for example after an interrupted removal
                cause = error.strerror if isinstance(error, OSError) else "damaged"
                raise InputError(
                    f"{final}: is incomplete: {name} cannot be read ({cause}); delete this folder and prepare it again"
                ) from error
        metadata, skipped = written["metadata.json"], written[report.FILE]["skipped"]
        records.check_label_space(final, metadata, config.domain)
        if metadata["source"] != source:
            raise InputError(
                f"{final}: was prepared from other files: names, sizes or times in {config.source}, or the domain's "
                "class table, have changed since; delete this folder to prepare it again, or give another --data_dir"
            )
        for split in metadata["splits"].values():
            records.check_files(final, split["shards"])
        if skipped and config.on_bad_example == "error":
            raise InputError(
                f"{final}: was prepared with --on_bad_example=skip and lacks the {len(skipped)} skipped examples of "
                f"{report.FILE}; give that flag again to accept it, or restore the files, delete this folder and "
                f"prepare it again; the first: {skipped[0]}"
            )

    def _jobs(self, split, work) -> Iterator[Job]:
        template = self._get_filename_template(split.name)
        shards = inputs.cut_into_shards(split.items)
        for index, items in enumerate(shards):
            path = work / str(self.version) / template.relative_filepath(shard_index=index, num_shards=len(shards))
            notes = work / f"{split.name}-{index:05d}.json"
            yield Job(split, path, notes, items, self._fingerprint(items))

    def _fingerprint(self, items):
        config = self.builder_config
        settings = [str(self.VERSION), content.label_space(config.domain), config.size, config.image_format]
        return inputs.fingerprint(items, settings)

    def _write_shards(self, jobs, progress) -> dict[str, list[dict]]:
        """Write the unfinished shards; return the statistics of all shards of each split."""
        config = self.builder_config
        stats = {job.path: finished_shard(job.path, job.notes, job.fingerprint, config.on_bad_example) for job in jobs}
        for file in jobs[0].path.parent.iterdir():
            if file not in stats:
                file.unlink()  # an unfinished or obsolete shard
        done = sum(len(job.items) for job in jobs if stats[job.path])
        total = sum(len(job.items) for job in jobs)
        step = progress(config.name, total, done) if progress else lambda: None
        with ThreadPoolExecutor(config.workers) as pool:
            for job in jobs:
                stats[job.path] = stats[job.path] or write_shard(
                    job.path,
                    job.notes,
                    job.items,
                    functools.partial(
                        encode_example,
                        decode_mask=functools.partial(self.decode_mask, job.split.layout),
                        size=config.size,
                        image_format=config.image_format,
                        features=self.info.features,
                    ),
                    pool=pool,
                    window=2 * config.workers + 2,
                    fingerprint=job.fingerprint,
                    on_bad_example=config.on_bad_example,
                    progress=step,
                )
        shards: dict[str, list[dict]] = {}
        for job in jobs:
            shards.setdefault(job.split.name, []).append(stats[job.path])
        for name, of_split in shards.items():
            if not any(s["ids"] for s in of_split):
                raise InputError(f"{config.source}: no example of split {name!r} can be used; restore its files")
        return shards

    def _describe(self, found, shards, source):
        """Set the contents of dataset_info.json and metadata.json."""
        config = self.builder_config
        infos = [
            splits.SplitInfo(
                name=name,
                shard_lengths=[len(s["ids"]) for s in of_split],
                num_bytes=sum(s["bytes"] for s in of_split),
                filename_template=self._get_filename_template(name),
            )
            for name, of_split in shards.items()
        ]
        self.info.set_splits(splits.SplitDict(infos))
        self.info.metadata.update(
            usss_jax_records=1,  # version of this format; see usss_jax/data/records.py
            domain=config.domain.name,
            classes=config.domain.class_names,
            label_space=content.label_space(config.domain),
            size=config.size,  # (h, w); None: original files
            lossy=config.image_format == "jpeg",
            source=source,
            splits={
                split.name: {
                    "labeled": split.labeled,
                    "ids": [key for s in shards[split.name] for key in s["ids"]],
                    "without_label": [key for s in shards[split.name] for key in s["without_label"] if split.labeled],
                    "shards": {s["file"]: s["bytes"] for s in shards[split.name]},
                }
                for split in found
            },
        )


def _work_path(final):
    return final.with_name(f".partial_{final.name}")


@contextlib.contextmanager
def _work_folder(final: pathlib.Path) -> Iterator[pathlib.Path]:
    """Folder for unfinished records next to the final one; only one run at a time may use it."""
    work = _work_path(final)
    work.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            lock = stack.enter_context(open(work / "lock", "w", encoding="utf-8"))
            if fcntl:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, FileNotFoundError) as error:  # the latter while another run removes the folder
            raise InputError(f"{work}: another run is preparing this; wait for it, or stop it") from error
        yield work


def _clean_up(final):
    """Remove the work folder of a run that was killed after publishing, unless another run uses it."""
    if _work_path(final).exists():
        with contextlib.suppress(InputError, OSError), _work_folder(final) as work:
            shutil.rmtree(work, ignore_errors=True)
