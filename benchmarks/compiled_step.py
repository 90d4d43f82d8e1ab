"""The universal training step compiled from shapes: for the available devices, or ahead of time for others.

Ahead-of-time compilation needs only the compiler: `pip install libtpu` for TPUs, `pip install "jax[cuda12]"` for GPUs
(with XLA_FLAGS=--xla_gpu_autotune_level=0, as there is no device for autotuning).
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import Mesh

from benchmarks.step_cpu import CLASSES, EMBED_DIM, TEACHER
from usss_jax.config import default_config
from usss_jax.data.augment_device import DeviceAugment
from usss_jax.engine.optim import create_optimizer, create_schedule
from usss_jax.engine.state import TrainState
from usss_jax.engine.step import jit_step
from usss_jax.methods.usss import consistency, terms
from usss_jax.methods.usss.teaching import create_teaching
from usss_jax.models.universal import UniversalModel, create_model
from usss_jax.models.variables import DUMMY_IMAGES
from usss_jax.parallel import sharding

OBJECTIVE = terms.create_objective(default_config().usss)
SIZES = {"512x512": (512, 512), "360x480": (360, 480)}  # height x width

# XLA's description of an H100 (SXM, 80 GB): limits of the hardware, and the version of cuDNN.
H100 = """
gpu_device_info {
  cuda_compute_capability { major: 9 }
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448 shared_memory_per_core: 233472
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98 device_memory_size: 84942979072
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


@dataclasses.dataclass(frozen=True)
class StepConfig:
    """Configuration of one training step.

    Attributes:
      encoder, width, precision, remat: of `create_model`.
      size: (H, W) of all images.
      batch: labeled images per domain.
      micro_batch: unlabeled images per domain and pass.
      passes: unlabeled passes per step; 0: a supervised step.
      theta: of `Objective`; below 1 the step also sums the embeddings of every class.
      split: whether parameters and momentum are sharded over the devices (shard_parameters).
    """

    encoder: str = "drn_d_22"
    width: float = 1.0
    precision: str = "float32"
    remat: str = ""
    size: tuple[int, int] = (512, 512)
    batch: int = 10
    micro_batch: int = 10
    passes: int = 1
    theta: float = 1.0
    split: bool = False

    def model(self) -> UniversalModel:
        """Create the network."""
        return create_model(
            self.encoder, CLASSES, embed_dim=EMBED_DIM, width=self.width, precision=self.precision, remat=self.remat
        )


def topology_mesh(name: str) -> Mesh:
    """Create a mesh over devices that need not exist: "h100:8", a TPU slice such as "v5e:2x4", or "v5e:1"."""
    kind, _, shape = name.partition(":")
    if kind == "h100":
        topology = {"target_config": H100, "topology": f"1x1x{shape}"}
        return sharding.create_mesh(topologies.get_topology_desc(platform="cuda", **topology).devices)
    slice_ = "2x2" if shape == "1" else shape
    devices = topologies.get_topology_desc(f"{kind}:{slice_}", "tpu").devices
    return sharding.create_mesh(devices[:1] if shape == "1" else devices)


def abstract_state(config: StepConfig, model: UniversalModel, tx, mesh: Mesh) -> TrainState:
    """Return shapes and shardings of the training state."""
    variables = jax.eval_shape(model.init, jax.random.key(0), DUMMY_IMAGES)
    parts = {"params": variables["params"], "opt_state": jax.eval_shape(tx.init, variables["params"])}
    parts = {name: _placed(part, sharding.tree_shardings(mesh, part, config.split)) for name, part in parts.items()}
    others = {
        "step": jax.ShapeDtypeStruct((), jnp.int32),
        "batch_stats": variables.get("batch_stats", {}),
        "extra": {
            "label_embeddings": {d: jax.ShapeDtypeStruct((n, EMBED_DIM), jnp.float32) for d, n in CLASSES.items()}
        },
    }
    return TrainState(**parts, **_placed(others, jax.tree.map(lambda _: sharding.replicated(mesh), others)))


def abstract_batch(config: StepConfig, mesh: Mesh) -> dict:
    """Return shapes and shardings of one step's batch, uint8 as from the loader."""
    images = jax.ShapeDtypeStruct((config.batch, *config.size, 3), jnp.uint8)
    labels = jax.ShapeDtypeStruct((config.batch, *config.size), jnp.uint8)
    batch: dict = {"labeled": {d: {"image": images, "label": labels} for d in CLASSES}}
    if config.passes:
        unlabeled = jax.ShapeDtypeStruct((config.passes, config.micro_batch, *config.size, 3), jnp.uint8)
        batch["unlabeled"] = {d: {"image": unlabeled} for d in CLASSES}
    of_parts = sharding.step_batch_shardings(mesh)
    return {name: _placed(part, jax.tree.map(lambda _, n=name: of_parts[n], part)) for name, part in batch.items()}


def _placed(tree, shardings):
    return jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), tree, shardings)


def lower_step(config: StepConfig, mesh: Mesh) -> jax.stages.Lowered:
    """Lower the library's training step for the mesh, without running it or creating arrays."""
    model, tx = config.model(), create_optimizer(create_schedule(1e-3, 10**6))
    state = abstract_state(config, model, tx, mesh)
    objective = dataclasses.replace(OBJECTIVE, theta=config.theta)
    step = usss_step(mesh, model, tx, objective=objective, has_unlabeled=bool(config.passes), like=state)
    return step.lower(state, abstract_batch(config, mesh))


def usss_step(
    mesh: Mesh,
    model: UniversalModel,
    tx,
    *,
    objective: terms.Objective = OBJECTIVE,
    has_unlabeled: bool = True,
    like: TrainState | None = None,
) -> jax.stages.Wrapped:
    """Return the training step of Univ-full for the domains of `CLASSES`, with one label embedding per class."""
    shardings = sharding.step_batch_shardings(mesh)
    if not has_unlabeled:
        del shardings["unlabeled"]
    compute = partial(
        terms.compute,
        model=model,
        augment=DeviceAugment(),
        seed=0,
        mesh=mesh,
        objective=objective,
        label_classes={d: tuple(range(n)) for d, n in CLASSES.items()},
    )
    return jit_step(mesh, compute=compute, tx=tx, batch_shardings=shardings, like=like)


def teacher_step(mesh: Mesh, model: UniversalModel, tx) -> jax.stages.Wrapped:
    """Return the training step of variant `teacher`, whose strong view is the image itself."""
    config = default_config()
    config.teacher.update({**TEACHER, "decay_warmup": False, "ramp": 0})
    teaching = dataclasses.replace(create_teaching(config, list(CLASSES)), strong=DeviceAugment())
    compute = partial(
        consistency.compute,
        model=model,
        augment=DeviceAugment(),
        seed=0,
        mesh=mesh,
        teaching=teaching,
        class_names={d: [str(c) for c in range(n)] for d, n in CLASSES.items()},
    )
    return jit_step(mesh, compute=compute, tx=tx, batch_shardings=sharding.step_batch_shardings(mesh))


def memory(compiled) -> dict[str, int]:
    """Return the bytes on one device by the compiler's analysis; `peak` is argument + output - alias + temporary."""
    found = compiled.memory_analysis()
    parts = {part: int(getattr(found, f"{part}_size_in_bytes")) for part in ("argument", "output", "alias", "temp")}
    return {**parts, "peak": parts["argument"] + parts["output"] - parts["alias"] + parts["temp"]}
