#!/usr/bin/env bash
# Cloud TPU: starts one process on every host of a TPU VM slice. JAX finds the hosts by itself.
#
#   TPU=NAME ZONE=us-central2-b docs/launch/tpu_vm.sh --config=configs/cs_cvd.py --workdir=SHARED/cs_cvd
#
# On every host: the project in ~/usss_jax with pip install -U "jax[tpu]" and pip install -e . done, the data, and
# SHARED mounted (Filestore; a bucket by gcsfuse). batch_size and unlabeled_batch_size must be multiples of the number
# of chips. On GKE the pods run the python line alone. See docs/multihost.md.
set -euo pipefail
: "${TPU:?give TPU=NAME of the TPU VM}" "${ZONE:?give ZONE=...}"

words=$(printf '%q ' "$@")
exec gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all \
  --command="cd ~/usss_jax && python3 -m usss_jax.main --multihost $words"
