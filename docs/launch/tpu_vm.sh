#!/usr/bin/env bash
# Cloud TPU: starts one process on every host of a TPU VM slice. JAX finds the hosts by itself.
#
#   TPU=NAME ZONE=us-central2-b docs/launch/tpu_vm.sh --config=configs/cs_cvd.py --workdir=SHARED/cs_cvd
#
# Every host needs the project in ~/usss_jax after pip install -U "jax[tpu]" and pip install -e ., the data, and SHARED
# mounted (Filestore, or a bucket by gcsfuse). train.batch_size and train.unlabeled_batch_size must be multiples of the
# number of chips. On GKE, the pods run the python line only. See docs/multihost.md.
set -euo pipefail
: "${TPU:?give TPU=NAME of the TPU VM}" "${ZONE:?give ZONE=...}"

words=$(printf '%q ' "$@")
exec gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all \
  --command="cd ~/usss_jax && python3 -m usss_jax.main --multihost $words"
