"""Slurm: a batch script with one task per node."""

import dataclasses

from agentrl.clusters import job

_SCRIPT = """\
#!/bin/bash
# Trains {name} on {hosts} nodes, one process for each with all of its devices; JAX learns
# of the other hosts from Slurm. Submit it with `sbatch`, in the checkout, on a file system
# that all nodes share, with .venv in it.
#SBATCH --job-name={name}
#SBATCH --nodes={hosts}
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node={gpus}
#SBATCH --cpus-per-task={cpus}
#SBATCH --exclusive
#SBATCH --requeue
#SBATCH --signal=TERM@{notice_s}
#SBATCH --time={time}
#SBATCH --open-mode=append
#SBATCH --output={name}-%j.log
{partition}set -euo pipefail
cd "$SLURM_SUBMIT_DIR"
# JAX would give each process one GPU; this one has all of its node.
JAX_LOCAL_DEVICE_IDS=$(seq -s, 0 {last_gpu})
export JAX_LOCAL_DEVICE_IDS
code=0
srun --kill-on-bad-exit=0 {command} || code=$?
# {restart}: interrupted in order, or another host was lost; above 128: ended by a signal.
# The same command goes on. Anything else would end the same way again.
case $code in
  {cases} | 12[89] | 1[3-9]? | 2??)
    if [ "${{SLURM_RESTART_COUNT:-0}}" -lt {max_restarts} ]; then
      scontrol requeue "$SLURM_JOB_ID"
    fi
    ;;
esac
exit "$code"
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Nodes:
    """What a node has, and for how long."""

    gpus: int = 8
    cpus: int = 64
    time: str = "1-00:00:00"
    notice_s: int = 600  # before its time is up: longer than an iteration and a save
    partition: str = ""


def render(run: job.Job, nodes: Nodes) -> str:
    """Returns the batch script."""
    return _SCRIPT.format(
        name=run.name,
        hosts=run.hosts,
        gpus=nodes.gpus,
        cpus=nodes.cpus,
        last_gpu=nodes.gpus - 1,
        notice_s=nodes.notice_s,
        time=nodes.time,
        partition=f"#SBATCH --partition={nodes.partition}\n" if nodes.partition else "",
        command=run.shell_command(".venv/bin/python", '--num_hosts="$SLURM_NNODES"'),
        restart=" and ".join(map(str, job.RESTART_CODES)),
        cases=" | ".join(map(str, job.RESTART_CODES)),
        max_restarts=run.max_restarts,
    )
