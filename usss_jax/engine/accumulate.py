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
    """One summand of what a method minimises.

    Attributes:
      name: for the scalar encoder_grad_norm/NAME.
      loss: (params, batch_stats, batch) -> (loss, (new batch_stats, scalars, aux)). That of micro-batches also takes
        the number u of the micro-batch, and its aux is None.
      batch: a tree of arrays; of micro-batches {domain: tree of arrays [U, B, ...]}. Shapes may differ between domains.
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
      loss: the sum of the weighted terms, a scalar.
      gradients: of the parameters.
      batch_stats: running statistics after every forward pass.
      scalars: what the losses return by name, averaged over micro-batches, and on one device encoder_grad_norm/TERM.
      aux: of every term without micro-batches, by its name.
    """

    loss: Any
    gradients: Any
    batch_stats: Any
    scalars: dict[str, Any]
    aux: dict[str, Any]


def accumulate(
    terms: Sequence[Term], params, batch_stats, *, mesh: Mesh | None = None, unroll: bool | None = None
) -> Accumulated:
    """Sum the terms' losses and gradients; each forward pass updates the running statistics, in the terms' order.

    The devices of a mesh exchange the gradients of kernels once, after all terms. The norms of the terms are therefore
    reported on a single device only: on several, each would take an exchange of its own.

    Args:
      terms: those without a batch are left out.
      params: what to differentiate by, with a part named "encoder".
      batch_stats: running statistics before the step.
      mesh: devices over which the batches are split.
      unroll: whether to unroll the loop over micro-batches instead of scanning it; None: on CPU. XLA's CPU backend
        computes kernel gradients of convolutions some 30 times slower inside a loop, since it rewrites convolutions
        into their fast form in the entry computation alone.
    """
    loss: Any = None
    total: Any = None
    stats = batch_stats
    scalars: dict[str, Any] = {}
    aux: dict[str, Any] = {}
    alone = mesh is None or mesh.size == 1
    if unroll is None:
        unroll = jax.default_backend() == "cpu" if mesh is None else on_cpu(mesh)
    if mesh is not None and not alone:
        params = with_sums(params, mesh)
    for term in (term for term in terms if jax.tree.leaves(term.batch)):
        if term.micro_batches:
            carry = (jax.tree.map(jnp.zeros_like, params), stats, 0.0 if loss is None else loss)
            for bucket in _of_equal_shapes(term.batch):
                carry, told = _micro_batches(term, bucket, params, carry, total, unroll)
                scalars |= told
            gradients, stats, loss = carry
        else:
            (value, (stats, told, aux[term.name])), gradients = jax.value_and_grad(term.loss, has_aux=True)(
                params, stats, term.batch
            )
            gradients = jax.tree.map(partial(_weighted, weight=term.weight), gradients)
            value = _weighted(value, term.weight)
            loss = value if loss is None else loss + value
            scalars |= told
        if alone:
            scalars[f"encoder_grad_norm/{term.name}"] = optax.tree.norm(gradients["encoder"])
        total = gradients if total is None else jax.tree.map(jnp.add, total, gradients)
    return Accumulated(loss, total if alone else summed(total), stats, scalars, aux)


def _weighted(value, weight):
    return value if isinstance(weight, float) and weight == 1 else value * weight


def _of_equal_shapes(batch: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Domains whose arrays have equal shapes, together."""
    buckets: dict[Any, dict[str, Any]] = {}
    for domain, tree in batch.items():
        buckets.setdefault(str(jax.tree.map(jnp.shape, tree)), {})[domain] = tree
    return list(buckets.values())


def _micro_batches(term: Term, batch: Mapping[str, Any], params, carry: tuple, before, unroll: bool):
    """Add loss and gradients of all micro-batches to `carry` (gradients, statistics, loss); give the mean scalars."""
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
    """The batch unchanged, but known only when the gradients are: so that one pass follows the other.

    XLA's CPU scheduler would otherwise keep the activations of all passes at once, since they are independent. If a
    gradient is not finite the batch becomes 0; the norm of the step's gradient is not finite then, which ends the run.
    """
    total = sum(g.sum() for g in jax.tree.leaves(gradients))
    return jax.tree.map(partial(known_after, total), batch)
