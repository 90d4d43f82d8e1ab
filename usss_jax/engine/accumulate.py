"""Gradients of a sum of terms, accumulated over micro-batches."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from usss_jax.models.convolution import known_after
from usss_jax.models.device_sums import summed, with_sums
from usss_jax.parallel.sharding import on_cpu


@dataclasses.dataclass(frozen=True)
class Term:
    """One term of a method's objective.

    Attributes:
      name: for the scalar encoder_grad_norm/NAME.
      loss: (params, batch_stats, batch) -> (loss, (new batch_stats, scalars, aux)). With micro-batches it takes the
        index u of the micro-batch as a fourth argument, and aux is None.
      batch: a tree of arrays; with micro-batches {domain: tree of arrays [U, B, ...]}, whose shapes may differ between
        domains.
      micro_batches: whether to average the loss over the U micro-batches of each domain, with a forward and a backward
        pass for each u. Domains of equal shapes share these passes.
      weight: factor on the loss, a number or a scalar array.
    """

    name: str
    loss: Callable
    batch: Any
    micro_batches: bool = False
    weight: Any = 1.0


@dataclasses.dataclass(frozen=True)
class Accumulated:
    """Result of `accumulate`.

    Attributes:
      loss: scalar, the weighted sum of the terms.
      gradients: gradients of the loss with respect to the parameters.
      batch_stats: running statistics after all forward passes.
      scalars: scalars of the losses by name, averaged over micro-batches, and on one device encoder_grad_norm/TERM.
      aux: {name: aux} of the terms without micro-batches.
    """

    loss: Any
    gradients: Any
    batch_stats: Any
    scalars: dict[str, Any]
    aux: dict[str, Any]


def accumulate(
    terms: Sequence[Term], params, batch_stats, *, mesh: Mesh | None = None, unroll: bool | None = None
) -> Accumulated:
    """Sum losses and gradients of the terms; their forward passes update the running statistics one after another.

    The devices of a mesh exchange the gradients of kernels once, after all terms. The gradient norm of each term is
    therefore reported on a single device only; on several it would need an exchange per term.

    Args:
      terms: terms with an empty batch are skipped.
      params: parameters to differentiate with respect to, with a part named "encoder".
      batch_stats: running statistics before the step.
      mesh: devices over which the batches are split.
      unroll: whether to unroll the loop over micro-batches instead of scanning; None: on CPU. There XLA runs the kernel
        gradient of a convolution some 30 times slower inside a loop, since it optimises convolutions in the entry
        computation only.

    >>> loss = lambda params, stats, batch: ((params["encoder"] * batch).sum(), (stats, {}, None))
    >>> terms = [Term("a", loss, jnp.array([1.0])), Term("b", loss, jnp.array([3.0]), weight=2.0)]
    >>> found = accumulate(terms, {"encoder": jnp.array([5.0])}, {})
    >>> float(found.loss), found.gradients["encoder"].tolist()  # 5 * 1 + 2 * 5 * 3, 1 + 2 * 3
    (35.0, [7.0])
    """
    loss: Any = None
    total: Any = None
    stats = batch_stats
    scalars: dict[str, Any] = {}
    aux: dict[str, Any] = {}
    single = mesh is None or mesh.size == 1
    if unroll is None:
        unroll = jax.default_backend() == "cpu" if mesh is None else on_cpu(mesh)
    if mesh is not None and not single:
        params = with_sums(params, mesh)
    for term in (term for term in terms if jax.tree.leaves(term.batch)):
        if term.micro_batches:
            carry = (jax.tree.map(jnp.zeros_like, params), stats, 0.0 if loss is None else loss)
            for bucket in _of_equal_shapes(term.batch):
                carry, term_scalars = _micro_batches(term, bucket, params, carry, total, unroll)
                scalars |= term_scalars
            gradients, stats, loss = carry
        else:
            (value, (stats, term_scalars, aux[term.name])), gradients = jax.value_and_grad(term.loss, has_aux=True)(
                params, stats, term.batch
            )
            gradients = jax.tree.map(partial(_weighted, weight=term.weight), gradients)
            value = _weighted(value, term.weight)
            loss = value if loss is None else loss + value
            scalars |= term_scalars
        if single:
            scalars[f"encoder_grad_norm/{term.name}"] = optax.tree.norm(gradients["encoder"])
        total = gradients if total is None else jax.tree.map(jnp.add, total, gradients)
    return Accumulated(loss, total if single else summed(total), stats, scalars, aux)


def _weighted(value, weight):
    return value if isinstance(weight, float) and weight == 1 else value * weight


def _of_equal_shapes(batch: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Group the domains whose arrays have equal shapes."""
    buckets: dict[Any, dict[str, Any]] = {}
    for domain, tree in batch.items():
        buckets.setdefault(str(jax.tree.map(jnp.shape, tree)), {})[domain] = tree
    return list(buckets.values())


def _micro_batches(term: Term, batch: Mapping[str, Any], params, carry: tuple, before, unroll: bool):
    """Add all micro-batches to `carry` (gradients, statistics, loss); return it and the mean scalars."""
    passes = jax.tree.leaves(batch)[0].shape[0]

    def micro_step(carry, numbered):
        (gradients, stats, loss), (u, micro_batch) = carry, numbered
        (value, (stats, scalars, _)), new = jax.value_and_grad(term.loss, has_aux=True)(params, stats, micro_batch, u)
        gradients = jax.tree.map(lambda a, b: a + b * (term.weight / passes), gradients, new)
        return (gradients, stats, loss + value * (term.weight / passes)), scalars

    if not unroll:
        carry, scalars = jax.lax.scan(micro_step, carry, (jnp.arange(passes), dict(batch)))
        return carry, {name: values.mean() for name, values in scalars.items()}
    each = []
    for u in range(passes):
        micro_batch = _after((before, carry[0]), jax.tree.map(lambda a, u=u: a[u], dict(batch)))
        carry, scalars = micro_step(carry, (u, micro_batch))
        each.append(scalars)
    return carry, {name: jnp.stack([scalars[name] for scalars in each]).mean() for name in each[0]}


def _after(gradients, batch):
    """Return the batch unchanged with a data dependency on the gradients, so that passes run one after another.

    They are independent, and XLA's CPU scheduler would keep the activations of all passes at once. If a gradient is not
    finite, the batch becomes 0; the gradient norm of the step is then not finite, which ends the run.
    """
    # Sorted: XLA would fuse a sum of hundreds of scalars into the copy of the batch, and repeat it for every value.
    sums = jnp.sort(jnp.stack([g.sum() for g in jax.tree.leaves(gradients)]))
    total = sums[0] + sums[-1]  # not finite if one of them is not
    return jax.tree.map(partial(known_after, total), batch)
