"""Exports the network of a finished run in one of several formats."""

import json
import pathlib
from collections.abc import Callable, Sequence

import jax

from usss_jax.errors import InputError
from usss_jax.export.card import model_card
from usss_jax.export.comparison import compare, read_images
from usss_jax.export.onnx_file import write_onnx
from usss_jax.export.program import bound, description
from usss_jax.export.stablehlo import write_stablehlo
from usss_jax.inference.predictor import Predictor, asked, load
from usss_jax.local_files import write_whole
from usss_jax.runs import hub
from usss_jax.runs.finished import open_job

DESCRIPTION, CARD = "model.json", "README.md"


def export_network(run: pathlib.Path, form: str, out: pathlib.Path, *, domain: str = "all", check: str | None = None):
    """Export a network, and print what was written.

    Args:
      run: folder of a run, of a job or of a hub export (see `load`).
      form: "stablehlo", "onnx" or "hub".
      out: folder for the files, empty or new.
      domain: decoder to export; "all": every decoder, as hub exports must.
      check: an image, a folder or a pattern: compare the result with the network on these images.

    Raises:
      InputError: if the run, the domain or an image cannot be used, or if `out` is not empty.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise InputError(f"--output={out}: is not an empty folder; give another")
    predictor = load(run)
    domains = asked(predictor, domain)
    photographs = read_images(predictor, check, out) if check else []
    name = predictor.job.parent / predictor.checkpoint
    if form == "hub" and domain != "all":
        raise InputError(f"--domain={domain}: a folder for a hub has all decoders; leave the flag out")
    if form == "hub" and hub.is_hub(predictor.job):
        raise InputError(f"--model={run}: is a folder for a hub already; copy it")
    print(f"exporting {name} ({', '.join(domains)}) as {form}", flush=True)
    write = {"stablehlo": write_stablehlo, "onnx": write_onnx, "hub": _write_hub}[form]
    exported, about = write(predictor, domains, out), {"format": form, **description(predictor, domains)}
    if check:
        found = compare(predictor, exported, domains, photographs)
        about["check"] = found
        largest = found["largest_difference"]
        print(
            f"{found['images']} images: logits differ by up to {largest['logits']:.2g}, probabilities by up to "
            f"{largest['probabilities']:.2g}; labels are equal at {100 * found['equal_labels']:.4f} % of the pixels"
        )
    if form != "hub":  # whose config.json says the same; last: where it is, the export is complete
        write_whole(out / DESCRIPTION, json.dumps(about, indent=2) + "\n")
    print(f"wrote {', '.join(sorted(path.name for path in out.iterdir()))} to {out}")


def _write_hub(predictor: Predictor, domains: Sequence[str], out: pathlib.Path) -> Callable:
    """Write weights, config and card, and return the network as `load` reads it back."""
    write_whole(out / CARD, model_card(open_job(predictor.job), predictor.model))
    about = {key: of for key, of in description(predictor, domains).items() if key != "outputs"}  # are in the network's
    hub.write_hub(out, predictor.variables, predictor.network, about)
    again = load(out)
    return jax.jit(bound(again, again.model, domains))
