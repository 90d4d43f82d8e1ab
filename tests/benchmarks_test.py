"""Benchmarks that read compiled programs: their counts against numbers made by hand, and docs against their results."""

import json
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import (
    convolutions,
    exchanged_bytes,
    flops,
    hlo,
    loss_strips,
    memory_table,
    profile_step,
    stem,
    step_cpu,
)
from benchmarks.compiled_step import Setting
from usss_jax.parallel.sharding import create_mesh

REPO = pathlib.Path(__file__).parent.parent
RESULTS = REPO / "benchmarks" / "results"
SPEED = (REPO / "docs" / "speed.md").read_text()

# Two devices; one all-reduce of two arrays in the entry, and a loop of 3 rounds that gathers and, in a loop of 4 inside
# it, permutes.
HLO = """
HloModule step

%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %add = f32[] add(%a, %b)
}

%low (p.2: (s32[], f32[8])) -> pred[] {
  %p.2 = (s32[], f32[8]{0}) parameter(0)
  %i.2 = s32[] get-tuple-element(%p.2), index=0
  %four = s32[] constant(4)
  ROOT %less.2 = pred[] compare(%i.2, %four), direction=LT
}

%inner (p.1: (s32[], f32[8])) -> (s32[], f32[8]) {
  %p.1 = (s32[], f32[8]{0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%p.1), index=0
  %x.1 = f32[8]{0:T(256)} get-tuple-element(%p.1), index=1
  %moved = f32[8]{0:T(256)} collective-permute(%x.1), metadata={op_name="jit(f)/move"}
  ROOT %t.1 = (s32[], f32[8]{0}) tuple(%i.1, %moved)
}

%high (p.3: (s32[], f32[8])) -> pred[] {
  %p.3 = (s32[], f32[8]{0}) parameter(0)
  ROOT %true = pred[] constant(true)
}

%outer (p.4: (s32[], f32[8])) -> (s32[], f32[8]) {
  %p.4 = (s32[], f32[8]{0}) parameter(0)
  %x.4 = f32[8]{0} get-tuple-element(%p.4), index=1
  %gather = (f32[8]{0}, f32[16]{0}) all-gather-start(%x.4), dimensions={0}, metadata={op_name="jit(f)/gather"}
  %gathered = f32[16]{0} all-gather-done(%gather)
  %i.4 = s32[] get-tuple-element(%p.4), index=0
  %start = (s32[], f32[8]{0}) tuple(%i.4, %x.4)
  ROOT %deep = (s32[], f32[8]) while(%start), body=%inner, condition=%low, metadata={op_name="jvp()/while"}
}

ENTRY %main (x: f32[8], y: bf16[3,5]) -> f32[8] {
  %x = f32[8]{0} parameter(0)
  %y = bf16[3,5]{1,0} parameter(1)
  %g = bf16[3,5]{1,0} negate(%y), metadata={op_name="transpose(jvp(UniversalModel.encode))/encoder/level3_conv/c"}
  %s = f32[8]{0} negate(%x), metadata={op_name="jvp(UniversalModel.encode)/encoder/level0_bn/reduce_sum"}
  %both = (f32[8]{0}, bf16[3,5]{1,0}) all-reduce(%s, %g), replica_groups={{0,1}}, to_apply=%sum
  %x.5 = f32[8]{0} get-tuple-element(%both), index=0
  %zero = s32[] constant(0)
  %begin = (s32[], f32[8]{0}) tuple(%zero, %x.5)
  %loop = (s32[], f32[8]) while(%begin), condition=%high, body=%outer, backend_config={"known_trip_count":{"n":"3"}}
  ROOT %out = f32[8]{0} get-tuple-element(%loop), index=1
}
"""


def test_collectives_count_as_often_as_their_loops_run():
    found = {c.name: c for c in hlo.collectives(hlo.parse(HLO), 2)}
    assert {name: (c.kind, c.times, c.bytes) for name, c in found.items()} == {
        "both": ("all-reduce", 1, 8 * 4 + 15 * 2),
        "gather": ("all-gather", 3, 2 * 8 * 4),
        "moved": ("collective-permute", 12, 8 * 4),
    }
    assert found["moved"].loops == ("", "jvp()/while") and found["both"].loops == ()


def test_arrays_of_one_collective_keep_their_purposes():
    found = exchanged_bytes.summarize(hlo.collectives(hlo.parse(HLO), 2))
    assert found["bytes"]["gradients"] == 30 and found["bytes"]["batch statistics"] == 32
    assert found["bytes_by_kind"] == {"all-gather": 192, "all-reduce": 62, "collective-permute": 384}
    assert found["exchanges"] == 1 + 3 + 12
    assert found["in_strips"] == ["moved"]


def test_a_loop_of_unknown_length_is_an_error():
    text = HLO.replace("constant(4)", "parameter(1)")
    with pytest.raises(ValueError, match="loop deep"):
        hlo.collectives(hlo.parse(text), 2)


def test_ring_moves_an_all_reduce_twice():
    assert exchanged_bytes.ring_seconds({"all-reduce": 800}, 4, 100) == 12
    assert exchanged_bytes.ring_seconds({"all-gather": 800}, 4, 100) == 6


def test_flops_of_one_convolution_are_xlas():
    """Without padding: products with it are counted by us alone."""
    x, kernel = jnp.zeros((2, 9, 11, 5)), jnp.zeros((3, 3, 5, 7))
    convolve = jax.jit(
        lambda x, k: jax.lax.conv_general_dilated(x, k, (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    )
    ours = flops.convolution_flops(2, (4, 5), kernel.shape)
    assert ours == 2 * 2 * 20 * 9 * 35
    assert convolve.lower(x, kernel).compile().cost_analysis()["flops"] == pytest.approx(ours, rel=1e-3)


def test_flops_of_a_small_network_are_those_counted_by_hand():
    """Width 1/16: channels 1, 1, 2, 4, 8, 16, 32, 32, 32; a 16x16 image."""
    counted = flops.model_flops(Setting(width=1 / 16, size=(16, 16)), images=3)
    assert counted["level0"] == {"forward": 6 * 256 * 49 * 3, "of_input": 0, "of_kernel": 6 * 256 * 49 * 3}
    assert counted["level2"]["forward"] == 6 * 64 * 9 * 1 * 2
    # Two blocks: 2 -> 4 channels with stride 2 and a 1x1 shortcut, then 4 -> 4 three times.
    assert counted["level3"]["of_input"] == 6 * 16 * (9 * 2 * 4 + 2 * 4 + 3 * 9 * 4 * 4)
    assert counted["level8"]["of_kernel"] == 6 * 4 * 9 * 32 * 32
    assert counted["heads"]["forward"] == 6 * 4 * 32 * (19 + 11 + 128)


def test_step_counts_labeled_and_unlabeled_images_of_both_domains():
    setting = Setting(width=1 / 16, size=(16, 16), batch=2, micro_batch=3, passes=4)
    assert flops.step_flops(setting) == flops.model_flops(setting, 2 * (2 + 12))


@pytest.mark.parametrize(
    "op_name, expected",
    [
        (
            "jit(train_step)/transpose(jvp(UniversalModel.encode))/encoder/level0_conv/transpose(jvp())/conv",
            ("level0", "convolution, gradients"),
        ),
        ("jit(train_step)/jvp(UniversalModel.encode)/encoder/level6_block1/conv2/c", ("level6", "convolution")),
        ("jit(train_step)/jvp(UniversalModel.encode)/encoder/level6_block1/bn2/mul", ("level6", "batch norm")),
        ("jit(train_step)/jvp(UniversalModel.encode)/encoder/jit(relu)/max", ("encoder, no level", "other")),
        ("jit(train_step)/jvp()/while/body/closed_call/exp", ("losses", "losses")),
        ("jit(train_step)/mul", ("optimiser", "optimiser")),
        ("", ("other", "other")),
    ],
)
def test_operations_are_put_where_their_names_say(op_name, expected):
    assert profile_step.place(op_name) == expected


def test_stem_in_blocks_is_the_same_function():
    with jax.enable_x64(True):
        r = np.random.default_rng(0)
        kernel = jnp.asarray(r.standard_normal((7, 7, 3, 4)))
        image = jnp.asarray(r.standard_normal((2, 10, 14, 3)))
        found = stem.from_blocks(stem.convolve(stem.to_blocks(image), stem.block_kernel(kernel)))
        np.testing.assert_allclose(found, stem.convolve(image, kernel), rtol=0, atol=1e-12)


@pytest.mark.nightly
def test_tiny_step_is_profiled_from_end_to_end(tmp_path):
    setting = Setting(width=0.0625, size=(32, 32), batch=2, micro_batch=2)
    found = profile_step.measure(setting, create_mesh(jax.devices()[:1]), tmp_path)
    assert found["seconds"] > 0 and found["memory"]["peak"] > 0 and found["costs"]["flops"] > 0
    parts = found["trace"]["parts"]
    assert {f"level{i}" for i in range(9)} <= set(parts)
    assert found["trace"]["together"] == pytest.approx(sum(s for kinds in parts.values() for s in kinds.values()))
    named = sum(s for part, kinds in parts.items() if part != "other" for s in kinds.values())
    assert named > 0.8 * found["trace"]["together"]
    json.dumps(found, allow_nan=False)
    assert "not run" not in profile_step.markdown({"steps": {"tiny": found}})


def read(name: str) -> dict:
    return json.loads((RESULTS / f"{name}.json").read_text())


@pytest.mark.parametrize("name", [path.stem for path in sorted(RESULTS.glob("profile_*.json"))])
def test_profiles_in_the_docs_are_the_results(name):
    result = read(name)
    assert profile_step.markdown(result) in SPEED
    assert profile_step.by_part_markdown(result) in SPEED and profile_step.by_kind_markdown(result) in SPEED
    assert profile_step.parts_markdown(result["steps"]["512x512, 10, float32"]) in SPEED
    assert {found["commit"][:7] for found in result["steps"].values()} <= set(re.findall(r"\b[0-9a-f]{7}\b", SPEED))


def test_stem_in_the_docs_is_the_result():
    result = read("stem")
    assert stem.markdown(result) in SPEED and result["commit"][:7] in SPEED
    assert result["difference"] < 1e-5


def test_memory_in_the_docs_is_the_result():
    result = read("memory_table")
    for topology in result["peaks"]:
        assert memory_table.markdown(result, topology) in SPEED
        assert memory_table.fits_markdown(result, topology) in SPEED


def test_exchanges_in_the_docs_are_the_result():
    result = read("exchanged_bytes")
    assert exchanged_bytes.markdown(result) in SPEED
    assert exchanged_bytes.estimate_markdown(result) in SPEED


def test_nothing_is_exchanged_in_the_loops_over_strips():
    for name, found in read("exchanged_bytes")["devices"].items():
        for how in ("whole", "split"):
            assert not found.get(how, {"in_strips": ()})["in_strips"], (name, how)


@pytest.mark.parametrize(
    "benchmark, file",
    [(step_cpu, "step_cpu.json"), (convolutions, "convolutions_cpu.json"), (loss_strips, "loss_strips.json")],
)
def test_table_of_the_docs_is_that_of_the_benchmark(benchmark, file):
    result = json.loads((RESULTS / file).read_text())
    assert benchmark.markdown(result) in SPEED and result["commit"][:7] in SPEED


def test_dilation_is_quoted_as_measured():
    result = json.loads((RESULTS / "convolutions_cpu.json").read_text())
    assert convolutions.dilation_markdown(result) in SPEED
    ours = result["milliseconds"]["0.25"]["ours"]
    slower = max(ours["level6"][part] / ours["level8"][part] for part in convolutions.PARTS)
    assert f"by at most {slower:.1f} times here" in SPEED


def test_memory_from_the_start_on_is_quoted_as_measured():
    result = json.loads((RESULTS / "step_cpu.json").read_text())
    values = [f"{value:.2f}" for cases in result["whole_memory_ratio"].values() for value in cases.values()]
    assert f"the ratio is {', '.join(values[:-1])} and {values[-1]}" in " ".join(SPEED.split())


def test_first_step_and_evaluation_are_quoted_as_measured():
    first, evaluation = read("first_step"), read("evaluation_cpu")
    text = " ".join(SPEED.split())
    seconds = {name: f"{values['to_first_step']:.0f} s with" for name, values in first["seconds"].items()}
    assert f"{seconds['cold']} an empty compilation cache" in text and f"{seconds['warm']} the cache" in text
    assert f"{evaluation['seconds']:.1f} s, {evaluation['images_per_second']:.2f} images/s" in text
    assert {first["commit"][:7], evaluation["commit"][:7]} <= set(re.findall(r"commit (\w{7})", text))


def test_readme_quotes_the_ratios_of_the_step():
    result = json.loads((RESULTS / "step_cpu.json").read_text())
    ratios = [value for cases in result["ratio"].values() for value in cases.values()]
    text = " ".join((REPO / "README.md").read_text().split())
    assert f"is {min(ratios):.2f} to {max(ratios):.2f} times as fast" in text
    assert f"benchmarks.step_cpu`, commit {result['commit'][:7]}" in text
