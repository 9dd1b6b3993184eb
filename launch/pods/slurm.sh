#!/bin/bash
# Trains under Slurm, one process per node with all of its GPUs. JAX learns the other
# hosts from Slurm's variables.
#
#   sbatch --nodes=2 launch/pods/slurm.sh \
#       --config=experiments/demo/demo.py --workdir=/shared/runs/demo
#
# Submit from the checkout, on a file system that all nodes share, with `.venv` made by
# `pip install --editable '.[cuda]'`. Ten minutes before its time is up, or when it is
# preempted, the run gets SIGTERM: it finishes the iteration, saves and ends with exit code
# 75, on which the job requeues and resumes. So it does if a node is lost (69).
#SBATCH --job-name=agentrl
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --exclusive
#SBATCH --requeue
#SBATCH --signal=TERM@600
#SBATCH --open-mode=append
#SBATCH --output=agentrl-%j.log
set -euo pipefail
cd "$SLURM_SUBMIT_DIR"
# JAX would give each process one GPU; ours has all of its node.
devices=$(seq --separator=, 0 $((SLURM_GPUS_PER_NODE - 1)))
export JAX_LOCAL_DEVICE_IDS="$devices"
code=0
srun --kill-on-bad-exit=0 .venv/bin/python -m agentrl.launch.train \
  --num_hosts="$SLURM_NNODES" "$@" || code=$?
if [ "$code" = 75 ] || [ "$code" = 69 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
