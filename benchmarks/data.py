"""Images per second of the labeled stream and of a plain torch DataLoader, and time and memory of preparing records.

    python -m benchmarks.data --data_root=DATA --out=benchmarks/results/data.json

DATA contains `camvid/` and `cityscapes256/`. Rows of torch (`pip install torch`) are null if it is not installed.

Every loader yields batches of 10 training images with their masks, at the domain's size and crop, half of them flipped,
in a new order every epoch, with the same number of workers (threads of grain, processes of torch) and the same decoding
functions ("torch, Pillow" decodes with Pillow, like most torch code). "cold" decodes every time, "cached" is measured
once all decoded images are in memory. The loaders take turns; the result is the median of the rounds, each of about
`--seconds` after a warm-up.
"""

import argparse
import importlib.util
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial

import numpy as np
from PIL import Image

from usss_jax.data import streams
from usss_jax.data.augment import CropFlip, stack
from usss_jax.data.cache import Budget
from usss_jax.data.domains import get_domain
from usss_jax.data.files import find_images
from usss_jax.data.mask_files import match_masks
from usss_jax.data.options import Options
from usss_jax.data.pools import Pools, open_pools
from usss_jax.data.sizes import height_width
from usss_jax.runs import logs

BATCH = 10
DOMAINS = ("camvid", "cityscapes256")


# ---- Loaders: each a function (pool, workers) -> endless iterator of batches ----


def ours(pool: Pools, workers: int):
    """Yield batches of images of the project's stream."""
    iterator = streams.iterate(streams.step_batches({pool.domain.name: pool}, batch_size=BATCH), 0, workers)
    try:
        for batch in iterator:
            yield batch["labeled"][pool.domain.name]["image"]
    finally:
        iterator.close()


class TorchImages:
    """Map-style data set for torch: decodes with the project's functions, or with Pillow if `paths` are given."""

    def __init__(self, pool: Pools, paths: Sequence[tuple[str, str]] = ()):
        self.pool, self.paths = pool, paths
        self.transform = CropFlip(pool.crop)

    def __len__(self):
        return len(self.pool.labeled)

    def __getitem__(self, index):
        example = by_pillow(*self.paths[index]) if self.paths else self.pool.labeled[index]
        example = self.transform.random_map(example, np.random.default_rng(np.random.randint(2**31)))
        example = stack([example])  # torch needs writable arrays with positive strides; this is the fastest way
        return example["image"][0], example["label"][0]


def by_pillow(image: str, mask: str) -> dict[str, np.ndarray]:
    """Decode an image and its mask of train ids at their original size, like most torch code."""
    with Image.open(image) as file:
        pixels = np.asarray(file.convert("RGB"))
    with Image.open(mask) as file:
        return {"image": pixels, "label": np.asarray(file)}


def torch_loader(pool: Pools, workers: int, paths: Sequence[tuple[str, str]] = ()):
    """Yield batches of images of torch's DataLoader, epoch after epoch."""
    from torch.utils.data import DataLoader

    loader = DataLoader(
        TorchImages(pool, paths),
        batch_size=BATCH,
        shuffle=True,
        num_workers=workers,
        drop_last=True,
        persistent_workers=True,
    )
    while True:
        for images, _ in loader:
            yield images


# ---- Measuring ----


def images_per_second(iterator, seconds: float, warm_up: int = 10) -> float:
    """Measure the rate of an iterator of batches after `warm_up` batches."""
    for _ in range(warm_up):
        next(iterator)
    count, start = 0, time.perf_counter()
    while (spent := time.perf_counter() - start) < seconds:
        count += len(next(iterator))
    return count / spent


def measure_domain(name: str, root: pathlib.Path, workers: int, rounds: int, seconds: float, with_torch: bool) -> dict:
    """Measure all loaders on one domain."""
    domain = get_domain(name)

    def pool(cache_bytes: int) -> Pools:
        return open_pools(domain, str(root / domain.folder), Options(labeled="all"), Budget(cache_bytes))

    cold, cached = pool(0), pool(10**11)
    for index in range(len(cached.labeled)):
        cached.labeled[index]
    loaders = {"ours, cold": (ours, cold), "ours, cached": (ours, cached)}
    if with_torch:
        loaders["torch"] = (torch_loader, cold)
        _, files, images, *_ = find_images(domain, root / domain.folder, "train", with_masks=True)
        masks, _ = match_masks(domain, root / domain.folder, files, images)
        paths = [(images[i].path, masks[i]) for i in cold.labeled.ids]
        loaders["torch, Pillow"] = (partial(torch_loader, paths=paths), cold)
    rates: dict[str, list[float]] = {loader: [] for loader in loaders}
    for turn in range(rounds):
        for loader, (create, data) in loaders.items():
            iterator = create(data, workers)
            rates[loader].append(images_per_second(iterator, seconds))
            iterator.close()
            print(f"{name}, round {turn + 1}: {loader} {rates[loader][-1]:.0f} images/s", flush=True)
    median = {loader: statistics.median(values) for loader, values in rates.items()}
    torch = median.get("torch")
    return {
        "size": list(domain.size),
        "crop": list(cold.crop),
        "images": len(cold.labeled),
        "cache_bytes": cached.budget.used,
        "images_per_second": {loader: median.get(loader) for loader in (*loaders, "torch", "torch, Pillow")},
        "rounds": rates,
        "cold_over_torch": torch and median["ours, cold"] / torch,
        "cached_over_torch": torch and median["ours, cached"] / torch,
    }


# Runs a module and prints the peak memory of the process. (ru_maxrss would include that of this process, as it survives
# the exec that starts the child.)
RUN_AND_PRINT_MEMORY = """
import re, runpy, sys
module, sys.argv = sys.argv[1], sys.argv[1:]
try:
    runpy.run_module(module, run_name="__main__", alter_sys=True)
except SystemExit as end:
    assert not end.code, end.code
print("VmHWM", re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
"""


def measure_preparation(root: pathlib.Path, workers: int) -> dict:
    """Measure the seconds and peak memory (Linux) of preparing `cityscapes256` as records, in a new process."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["--domain=cityscapes256", f"--source={root / 'cityscapes256'}", f"--data_dir={folder}"]
        start = time.perf_counter()
        out = subprocess.run(
            [sys.executable, "-c", RUN_AND_PRINT_MEMORY, "data_prep.cityscapes", *words, f"--workers={workers}"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        seconds = time.perf_counter() - start
        written = sum(path.stat().st_size for path in pathlib.Path(folder).rglob("*") if path.is_file())
    return {"seconds": seconds, "peak_memory_bytes": 1024 * int(out.split()[-1]), "written_bytes": written}


def markdown(result: dict) -> str:
    """Render the table of docs/data.md."""
    lines = ["| images/s | ours, cold | ours, cached | torch | torch, Pillow | cold / torch | cached / torch |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for name, of in result["domains"].items():
        rates = [of["images_per_second"][loader] for loader in ("ours, cold", "ours, cached", "torch", "torch, Pillow")]
        cells = ["n/a" if rate is None else f"{rate:.0f}" for rate in rates]
        ratios = [of["cold_over_torch"], of["cached_over_torch"]]
        cells += ["n/a" if ratio is None else f"{ratio:.1f}" for ratio in ratios]
        lines.append(f"| {name}, {height_width(of['size'])} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main():
    """Measure everything, print the ratios, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_root", type=pathlib.Path, required=True)
    parser.add_argument("--domains", nargs="+", default=DOMAINS)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--out", type=pathlib.Path)
    flags = parser.parse_args()
    with_torch = importlib.util.find_spec("torch") is not None
    has_256 = (flags.data_root / "cityscapes256").is_dir()
    result = {
        "command": "python -m benchmarks.data " + " ".join(sys.argv[1:]),
        "workers": flags.workers,
        "preparation_of_cityscapes256": measure_preparation(flags.data_root, flags.workers) if has_256 else None,
        "domains": {
            name: measure_domain(name, flags.data_root, flags.workers, flags.rounds, flags.seconds, with_torch)
            for name in flags.domains
        },
        **logs.environment(),
    }
    print(markdown(result))
    print(f"preparation of cityscapes256: {result['preparation_of_cityscapes256']}")
    if flags.out:
        logs.write_json(flags.out, result)
    else:
        print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
