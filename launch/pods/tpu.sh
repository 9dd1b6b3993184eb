#!/bin/bash
# Trains on a TPU pod slice: copies this checkout to every host and starts the same command
# on each. JAX learns the other hosts from the TPU's own metadata.
#
#   TPU=my-v5p-16 ZONE=us-east5-a HOSTS=2 launch/pods/tpu.sh \
#       --config=experiments/demo/demo.py --workdir=/mnt/shared/runs/demo
#
# The working directory has to be shared by all hosts: a Filestore mount, or a bucket
# mounted with gcsfuse. A preempted run saves and ends with exit code 75; repeat the command to
# go on.
set -euo pipefail
: "${TPU:?name of the TPU VM}" "${ZONE:?its zone}" "${HOSTS:?number of its hosts}"

on_all_hosts() {
  gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command="$1"
}

archive=$(mktemp --suffix=.tar.gz)
trap 'rm -f "$archive"' EXIT
git archive --format=tar.gz --output="$archive" HEAD
gcloud compute tpus tpu-vm scp "$archive" "$TPU":agentrl.tar.gz --zone="$ZONE" --worker=all
on_all_hosts "mkdir -p agentrl && tar -xzf agentrl.tar.gz -C agentrl && cd agentrl &&
  python3.11 -m venv .venv && .venv/bin/pip install --quiet --editable '.[tpu]'"
on_all_hosts "cd agentrl && .venv/bin/python -m agentrl.launch.train --num_hosts=$HOSTS $(printf '%q ' "$@")"
