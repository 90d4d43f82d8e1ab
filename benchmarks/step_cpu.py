"""Time and peak memory of one training step: ours against the same step in plain PyTorch (benchmarks/torch_step.py).

    pip install -e . torch
    python -m benchmarks.step_cpu --out=benchmarks/results/step_cpu.json

Two domains (19 and 11 classes), one labeled and one unlabeled batch each, SGD; supervised + within + cross, or
supervised + consistency with a teacher, an average of the network, on the same views of the images. Each
implementation runs in its own process, alternately, on the same weights and images; their first losses must agree.
`ratio.<network>.<batch>x<size>` is the time of the faster PyTorch layout over ours: above 1, ours is faster. Likewise
`memory_ratio`, of the process's peak memory during the steps (Linux), and `whole_memory_ratio`, since its start, with
imports and compilation. An implementation that crashes has the key `failed` and is not compared.
"""

import argparse
import copy
import json
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import numpy as np

CLASSES = {"cityscapes": 19, "camvid": 11}
EMBED_DIM = 128
LR, MOMENTUM, WEIGHT_DECAY = 1e-3, 0.9, 1e-4
IMPLEMENTATIONS = ("ours", "torch_nchw", "torch_channels_last")
TEACHER = {"decay": 0.99, "threshold": 0.2}
CASES = (  # encoder, width, batch, size, terms
    ("drn_d_22", 1.0, 4, 128, "entropy"),
    ("drn_d_22", 1.0, 2, 256, "entropy"),
    ("drn_d_22", 0.25, 4, 128, "entropy"),
    ("drn_d_22", 0.25, 2, 256, "entropy"),
    ("efficientnet_lite0", 1.0, 4, 256, "entropy"),  # of stride 16
    ("efficientnet_lite0", 1.0, 4, 256, "teacher"),
)


def make_batch(batch: int, size: tuple[int, int]) -> dict:
    """Return a random batch of uint8 as from the loader; blocky labels with some ignored pixels."""
    height, width = size
    rng = np.random.default_rng(0)
    out: dict = {"labeled": {}, "unlabeled": {}}
    for domain, classes in CLASSES.items():
        blocks = rng.integers(0, classes, (batch, -(-height // 16), -(-width // 16)), dtype=np.uint8)
        label = blocks.repeat(16, 1).repeat(16, 2)[:, :height, :width]
        label[:, :4] = 255
        image = rng.integers(0, 256, (2, batch, *size, 3), dtype=np.uint8)
        out["labeled"][domain] = {"image": image[0], "label": label}
        out["unlabeled"][domain] = {"image": image[1:]}
    return out


def make_label_embeddings() -> dict[str, np.ndarray]:
    """Return random unit vectors."""
    rng = np.random.default_rng(1)
    out = {d: rng.normal(size=(n, EMBED_DIM)).astype(np.float32) for d, n in CLASSES.items()}
    return {d: e / np.linalg.norm(e, axis=1, keepdims=True) for d, e in out.items()}


def prepare_ours(
    encoder: str,
    width: float,
    batch: int,
    size: tuple[int, int],
    weights: pathlib.Path,
    terms: str = "entropy",
    precision: str = "float32",
) -> Callable[[], float]:
    """Return a function that runs a step and returns its loss; write the initial weights if missing."""
    import jax

    from benchmarks.compiled_step import teacher_step, usss_step
    from usss_jax.engine import optim
    from usss_jax.engine.compiling import compiled
    from usss_jax.engine.state import create_state
    from usss_jax.methods.usss import average
    from usss_jax.models import pretrained
    from usss_jax.models.universal import create_model
    from usss_jax.parallel import sharding

    mesh = sharding.create_mesh(jax.devices()[:1])
    model = create_model(encoder, CLASSES, embed_dim=EMBED_DIM, width=width, precision=precision, normalize="none")
    tx = optim.create_optimizer(optim.create_schedule(LR, 10**6), momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    state, _ = create_state(model, tx, 0, mesh, {"label_embeddings": make_label_embeddings()})
    if not weights.exists():
        state_dict = pretrained.to_state_dict(
            jax.device_get(state.variables), list(CLASSES), names=model.encoder.tensor_names
        )
        pretrained.save_safetensors(str(weights), state_dict)
    raw = make_batch(batch, size)
    make_step = usss_step
    if terms == "teacher":
        state, make_step = average.begin(state), teacher_step
        for part in raw["unlabeled"].values():
            part["valid"] = np.ones(part["image"].shape[:-1], np.uint8)
    data = sharding.put(raw, sharding.step_batch_shardings(mesh))
    step = compiled(make_step(mesh, model, tx), state, data, "ours")

    def run() -> float:
        nonlocal state
        state, scalars = step(state, data)
        return float(scalars["loss"])

    return run


def prepare_torch(
    encoder: str,
    width: float,
    batch: int,
    size: tuple[int, int],
    weights: pathlib.Path,
    terms: str,
    channels_last: bool,
    device: str = "cpu",
) -> Callable[..., float]:
    """Return a function that runs a step, `train_step` of torch_step.py or its argument, and returns its loss."""
    import torch
    from safetensors.torch import load_file

    from benchmarks import torch_step

    layout = torch.channels_last if channels_last else torch.contiguous_format
    net = torch_step.Lite0() if encoder == "efficientnet_lite0" else torch_step.DRN(width)
    model = torch_step.Universal(net, list(CLASSES.values()), EMBED_DIM).train()
    heads = ("seg.", "en_map.")
    tensors = {n if n.startswith(heads) else f"encoder.{n}": t for n, t in load_file(weights).items()}
    wrong = model.load_state_dict(tensors, strict=False)
    assert all(name.endswith("num_batches_tracked") for name in wrong.missing_keys) and not wrong.unexpected_keys
    model = model.to(device, memory_format=layout)
    optimizer = torch.optim.SGD(model.parameters(), LR, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    raw = make_batch(batch, size)

    def image(array):
        return (torch.from_numpy(array).permute(0, 3, 1, 2).float() / 255).to(device, memory_format=layout)

    data = [
        {
            "image": image(raw["labeled"][d]["image"]),
            "label": torch.from_numpy(raw["labeled"][d]["label"]).long().to(device),
            "unlabeled": image(raw["unlabeled"][d]["image"][0]),
        }
        for d in CLASSES
    ]
    if terms == "teacher":
        teacher = copy.deepcopy(model).eval()
        return lambda: float(torch_step.teacher_step(model, teacher, optimizer, data, **TEACHER))
    constants = [torch.from_numpy(e).to(device) for e in make_label_embeddings().values()]
    return lambda train_step=torch_step.train_step: float(train_step(model, optimizer, data, constants))


def measure(
    implementation: str,
    encoder: str,
    width: float,
    batch: int,
    side: int,
    terms: str,
    steps: int,
    weights: pathlib.Path,
) -> dict:
    """Measure the losses of two steps, the seconds of the first and of `steps` further ones, and peak memory."""
    began, size = time.perf_counter(), (side, side)
    if implementation == "ours":
        run = prepare_ours(encoder, width, batch, size, weights, terms)
    else:
        run = prepare_torch(encoder, width, batch, size, weights, terms, implementation == "torch_channels_last")
    losses = [run()]
    first = time.perf_counter() - began
    losses.append(run())
    whole_peak = peak_bytes()
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    seconds = []
    for _ in range(steps):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    peak = {"peak_bytes": peak_bytes(), "whole_peak_bytes": max(whole_peak, peak_bytes())}
    return {"losses": losses, "seconds_to_first_step": first, "seconds": seconds, **peak}


def peak_bytes() -> int:
    """Return the peak memory of this process (Linux)."""
    status = pathlib.Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)[1])


def measure_apart(implementation: str, *case, steps: int, weights: pathlib.Path) -> dict:
    """Run `measure` in a new process."""
    words = [str(word) for word in (implementation, *case, steps, weights)]
    command = [sys.executable, "-m", "benchmarks.step_cpu", "--measure", *words]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        if implementation == "ours":
            raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
        return {"failed": f"exit code {done.returncode}: {(done.stderr.strip().splitlines() or [''])[-1]}"}
    return json.loads(done.stdout.splitlines()[-1])


def compare(*case, steps: int, rounds: int) -> dict:
    """Measure all implementations of one case alternately; medians over all steps of all rounds."""
    with tempfile.TemporaryDirectory() as folder:
        weights = pathlib.Path(folder) / "weights.safetensors"
        measure_apart("ours", *case, steps=0, weights=weights)  # writes the weights, which takes memory
        runs: dict[str, list[dict]] = {name: [] for name in IMPLEMENTATIONS}
        for _ in range(rounds):
            for name in IMPLEMENTATIONS:
                runs[name].append(measure_apart(name, *case, steps=steps, weights=weights))
    out: dict = {}
    for name, each in runs.items():
        if failures := [run["failed"] for run in each if "failed" in run]:
            out[name] = {"failed": failures[0]}
            continue
        np.testing.assert_allclose(each[0]["losses"], runs["ours"][0]["losses"], rtol=2e-3, err_msg=name)
        out[name] = {
            "losses": each[0]["losses"],
            "seconds": statistics.median(s for run in each for s in run["seconds"]),
            "seconds_per_round": [statistics.median(run["seconds"]) for run in each],
            "seconds_to_first_step": [run["seconds_to_first_step"] for run in each],
            **{key: max(run[key] for run in each) for key in ("peak_bytes", "whole_peak_bytes")},
        }
    return out


def markdown(result: dict) -> str:
    """Render the result as a table; a dash where PyTorch crashed."""
    lines = [
        "| network | images | ours | PyTorch NCHW | PyTorch channels_last | ratio | memory, ours | PyTorch's | ratio |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for network, cases in result["cases"].items():
        for case, measured in cases.items():
            seconds = [f"{m['seconds']:.3f} s" if "seconds" in m else "-" for m in measured.values()]
            ours, memory = measured["ours"]["peak_bytes"], result["memory_ratio"][network][case]
            numbers = [f"{result['ratio'][network][case]:.2f}", f"{ours / 1e9:.2f} GB", f"{ours * memory / 1e9:.2f} GB"]
            lines.append(f"| {network} | {case} | " + " | ".join([*seconds, *numbers, f"{memory:.2f}"]) + " |")
    return "\n".join(lines)


def main():
    """Measure and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--cases", type=int, nargs="*", default=range(len(CASES)), help="indices into CASES")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("benchmarks/results/step_cpu.json"))
    parser.add_argument("--measure", nargs=8, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        name, encoder, width, batch, size, terms, steps, weights = args.measure
        found = measure(name, encoder, float(width), int(batch), int(size), terms, int(steps), pathlib.Path(weights))
        print(json.dumps(found))
        return

    import torch

    from usss_jax.runs.logs import environment, write_json  # not at the top: PyTorch is measured without JAX

    result: dict = {"classes": CLASSES, "embed_dim": EMBED_DIM, "steps": args.steps, "rounds": args.rounds}
    ratios = {"ratio": "seconds", "memory_ratio": "peak_bytes", "whole_memory_ratio": "whole_peak_bytes"}
    result |= {"cases": {}, **{ratio: {} for ratio in ratios}}
    for encoder, width, batch, size, terms in (CASES[i] for i in args.cases):
        network = f"{encoder}, width {width:g}" + (", teacher" if terms == "teacher" else "")
        case = f"{batch}x{size}"
        measured = compare(encoder, width, batch, size, terms, steps=args.steps, rounds=args.rounds)
        faster = min((m for n, m in measured.items() if n != "ours" and "failed" not in m), key=lambda m: m["seconds"])
        result["cases"].setdefault(network, {})[case] = measured
        for ratio, key in ratios.items():
            result[ratio].setdefault(network, {})[case] = faster[key] / measured["ours"][key]
        print(f"{network}, {case}: " + ", ".join(f"{n} {m.get('seconds', 'failed')} s" for n, m in measured.items()))
        write_json(args.out, {**result, **environment(), "torch": torch.__version__})
    print(json.dumps({ratio: result[ratio] for ratio in ratios}, indent=2))


if __name__ == "__main__":
    main()
