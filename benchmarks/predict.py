"""Time of a prediction, uint8 image in and uint8 labels out: ours against the same network in PyTorch.

    pip install -e . torch
    python -m benchmarks.predict --out=benchmarks/results/predict.json

EfficientNet-Lite0 of stride 16 with one decoder of 19 classes, upsampling and arg max, on whole images. Each
implementation runs in its own process, alternately, on the same weights and images; their labels must agree. `ratio` is
the median time of a later call of the faster PyTorch layout over ours: above 1, ours is faster. The first call
compiles, without a cache of compiled programs. onnxruntime is not measured, since there is no export.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import numpy as np

ENCODER, DOMAIN, CLASSES = "efficientnet_lite0", "cityscapes", 19
IMPLEMENTATIONS = ("ours", "torch_nchw", "torch_channels_last")
CASES = ((360, 480, 1), (360, 480, 8), (512, 1024, 1), (512, 1024, 4))  # height, width, batch


def make_images(height: int, width: int, batch: int) -> np.ndarray:
    """Return random images of blocks, uint8 [B, H, W, 3]."""
    blocks = np.random.default_rng(0).integers(0, 256, (batch, height // 8, width // 8, 3), dtype=np.uint8)
    return blocks.repeat(8, 1).repeat(8, 2)


def prepare_ours(weights: pathlib.Path) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function from images to labels; write the random weights if missing."""
    import jax

    from usss_jax.inference.predictor import Predictor
    from usss_jax.models import pretrained
    from usss_jax.models.universal import create_model
    from usss_jax.models.variables import random_variables, seed_bits
    from usss_jax.parallel import sharding

    mesh = sharding.create_mesh(jax.devices()[:1])
    model = create_model(ENCODER, {DOMAIN: CLASSES}, stride=16, normalize="none")
    variables = jax.jit(lambda bits: random_variables(model, bits))(seed_bits(0))
    if not weights.exists():
        state_dict = pretrained.to_state_dict(jax.device_get(variables), [DOMAIN], names=model.encoder.tensor_names)
        pretrained.save_safetensors(str(weights), state_dict)
    return Predictor(model, variables, {"decoders": {DOMAIN: {}}}, weights.parent, "", mesh).predict


def prepare_torch(weights: pathlib.Path, channels_last: bool) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function from images to labels."""
    import torch
    from safetensors.torch import load_file

    from benchmarks import torch_step

    layout = torch.channels_last if channels_last else torch.contiguous_format
    model = torch_step.Universal(torch_step.Lite0(), [CLASSES], 1)
    tensors = {n if n.startswith("seg.") else f"encoder.{n}": t for n, t in load_file(weights).items()}
    wrong = model.load_state_dict(tensors, strict=False)
    rest = ("num_batches_tracked", "en_map.weight", "en_map.bias")
    assert all(name.endswith(rest) for name in wrong.missing_keys) and not wrong.unexpected_keys
    model = model.eval().to(memory_format=layout)

    @torch.inference_mode()
    def predict(images: np.ndarray) -> np.ndarray:
        x = (torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255).contiguous(memory_format=layout)
        scores = torch_step.upsample(model.seg[0](model.encoder(x)), model.encoder.stride)
        return scores[:, :, : images.shape[1], : images.shape[2]].argmax(1).to(torch.uint8).numpy()

    return predict


def measure(implementation: str, case: tuple[int, int, int], calls: int, folder: pathlib.Path) -> dict:
    """Measure the seconds of the first call and of `calls` further ones, and write the labels."""
    images, weights = make_images(*case), folder / "weights.safetensors"
    if implementation == "ours":
        predict = prepare_ours(weights)
    else:
        predict = prepare_torch(weights, implementation == "torch_channels_last")
    seconds = []
    for _ in range(calls + 1):
        began = time.perf_counter()
        labels = predict(images)
        seconds.append(time.perf_counter() - began)
    np.save(folder / f"{implementation}.npy", labels)
    return {"first": seconds[0], "later": seconds[1:]}


def compare(case: tuple[int, int, int], calls: int, rounds: int) -> dict:
    """Measure all implementations of one case alternately, each time in a new process; medians over all later calls."""
    runs: dict[str, list[dict]] = {name: [] for name in IMPLEMENTATIONS}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            for name in IMPLEMENTATIONS:
                words = [name, *map(str, case), str(calls), folder]
                command = [sys.executable, "-m", "benchmarks.predict", "--measure", *words]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                runs[name].append(json.loads(done.stdout.splitlines()[-1]))
        labels = {name: np.load(pathlib.Path(folder) / f"{name}.npy") for name in IMPLEMENTATIONS}
    equal = min(float((of == labels["ours"]).mean()) for of in labels.values())
    assert equal > 0.999, f"labels differ: {equal}"
    out: dict = {"equal_labels": equal, "onnxruntime": None}
    for name, each in runs.items():
        seconds = statistics.median(s for run in each for s in run["later"])
        per_second = case[2] / seconds
        out[name] = {"seconds": seconds, "images_per_second": per_second, "first": [run["first"] for run in each]}
    return out


def markdown(result: dict) -> str:
    """Render the result as a table."""
    lines = [
        "| images (batch x height x width) | ours | PyTorch NCHW | PyTorch channels_last | ratio | first call, ours | "
        "PyTorch's |",
        "|---|---|---|---|---|---|---|",
    ]
    for case, measured in result["cases"].items():
        speeds = [f"{measured[name]['images_per_second']:.2f} images/s" for name in IMPLEMENTATIONS]
        firsts = [f"{statistics.median(measured[name]['first']):.2f} s" for name in IMPLEMENTATIONS[:2]]
        lines.append(f"| {case} | " + " | ".join([*speeds, f"{result['ratio'][case]:.2f}", *firsts]) + " |")
    return "\n".join(lines)


def main():
    """Measure and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("benchmarks/results/predict.json"))
    parser.add_argument("--measure", nargs=6, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        name, height, width, batch, calls, folder = args.measure
        measured = measure(name, (int(height), int(width), int(batch)), int(calls), pathlib.Path(folder))
        print(json.dumps(measured))
        return

    import torch

    from usss_jax.runs.logs import environment, write_json  # not at the top: PyTorch is measured without JAX

    result: dict = {"encoder": ENCODER, "classes": CLASSES, "calls": args.calls, "rounds": args.rounds}
    result |= {"cases": {}, "ratio": {}}
    for height, width, batch in CASES:
        name = f"{batch}x{height}x{width}"
        measured = compare((height, width, batch), args.calls, args.rounds)
        faster = min(measured[of]["seconds"] for of in IMPLEMENTATIONS[1:])
        result["cases"][name], result["ratio"][name] = measured, faster / measured["ours"]["seconds"]
        write_json(args.out, {**result, **environment(), "torch": torch.__version__})
    print(markdown(result))


if __name__ == "__main__":
    main()
