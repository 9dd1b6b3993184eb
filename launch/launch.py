r"""Starts a run on a cluster, and starts it again when it is interrupted.

  agentrl launch tpu-vm --name=demo --topology=v5e:4x4 --zone=us-west4-a --spot \
      -- demo --workdir=/mnt/runs/demo
  agentrl launch gke --name=demo --topology=v5e:4x4 --image=REGISTRY/agentrl:0.2 \
      --claim=runs -- demo --workdir=/runs/demo
  agentrl launch slurm --name=demo --hosts=2 -- demo --workdir=/shared/runs/demo
  agentrl launch k8s --name=demo --hosts=2 --image=REGISTRY/agentrl:0.2 \
      --claim=runs -- demo --workdir=/runs/demo

Behind -- stand the arguments of `agentrl train`. --dry_run prints the script or manifest
with the command that submits it, and does nothing. Exit codes 69 and 75 of a run, an ended
machine and a preemption start the same command again; a refusal does not.
docs/howto_pod.md goes from nothing to a resumed run.
"""

import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from absl import app, flags

from agentrl import errors

TARGETS = ("tpu-vm", "gke", "slurm", "k8s")
_NAME = flags.DEFINE_string("name", None, "Of the run's machines, job or pods.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print, and do nothing.")
_HOSTS = flags.DEFINE_integer(
    "hosts", None, "slurm, k8s: nodes of the run.", lower_bound=1
)
_TOPOLOGY = flags.DEFINE_string(
    "topology", None, "tpu-vm, gke: TPU slice, such as v5e:4x4 or v5p:2x2x4."
)
_MAX_RESTARTS = flags.DEFINE_integer(
    "max_restarts", 100, "How often a run starts again.", lower_bound=0
)
_ZONE = flags.DEFINE_string("zone", None, "tpu-vm: of the slice.")
_PROJECT = flags.DEFINE_string("project", "", "tpu-vm: by default gcloud's own.")
_SPOT = flags.DEFINE_bool("spot", False, "tpu-vm, gke: machines that are preempted.")
_KEEP = flags.DEFINE_bool(
    "keep", False, "tpu-vm: keep the slice when the run has ended."
)
_SETUP = flags.DEFINE_string(
    "setup",
    "",
    "tpu-vm: shell command that every host runs before each start, such as a mount.",
)
_IMAGE = flags.DEFINE_string("image", None, "gke, k8s: with this package installed.")
_CLAIM = flags.DEFINE_string(
    "claim",
    "",
    "gke, k8s: ReadWriteMany volume claim that holds --workdir, unless it is a bucket.",
)
_MOUNT = flags.DEFINE_string("mount", "/runs", "gke, k8s: where the claim is mounted.")
_MEMORY = flags.DEFINE_string("memory", "128Gi", "gke, k8s: of a pod.")
_ACCOUNT = flags.DEFINE_string(
    "service_account",
    "",
    "gke, k8s: Kubernetes service account of the pods. One that may write to a bucket lets "
    "a run of one host have its --workdir there.",
)
_GPUS = flags.DEFINE_integer("gpus", 8, "slurm, k8s: of a node.", lower_bound=1)
_CPUS = flags.DEFINE_integer("cpus", 64, "slurm: of a node.", lower_bound=1)
_TIME = flags.DEFINE_string("time", "1-00:00:00", "slurm: limit, as sbatch takes it.")
_PARTITION = flags.DEFINE_string("partition", "", "slurm: of the nodes.")
_GRACE = flags.DEFINE_integer(
    "grace_s",
    600,
    "slurm, gke, k8s: seconds between SIGTERM and the end; longer than an iteration and a "
    "save.",
    lower_bound=1,
)

# Targets that a flag has an effect on, as its help says; other flags have one on all.
ONLY_FOR = {
    "hosts": ("slurm", "k8s"),
    "topology": ("tpu-vm", "gke"),
    "zone": ("tpu-vm",),
    "project": ("tpu-vm",),
    "spot": ("tpu-vm", "gke"),
    "keep": ("tpu-vm",),
    "setup": ("tpu-vm",),
    "image": ("gke", "k8s"),
    "claim": ("gke", "k8s"),
    "mount": ("gke", "k8s"),
    "memory": ("gke", "k8s"),
    "service_account": ("gke", "k8s"),
    "gpus": ("slurm", "k8s"),
    "cpus": ("slurm",),
    "time": ("slurm",),
    "partition": ("slurm",),
    "grace_s": ("slurm", "gke", "k8s"),
}


def main(argv: Sequence[str]) -> None:
    """Renders the target's script or manifest; submits it unless --dry_run."""
    if len(argv) < 2 or argv[1] not in TARGETS:
        raise errors.UsageError(f"name a target first: {', '.join(TARGETS)}.")
    if not _NAME.value:
        raise errors.UsageError("give --name.")
    for name, targets in ONLY_FOR.items():
        if flags.FLAGS[name].present and argv[1] not in targets:
            raise errors.UsageError(
                f"--{name} has no effect on {argv[1]}; it is for {', '.join(targets)}."
            )
    from agentrl import refusals

    try:
        text, command = _render(argv[1], tuple(argv[2:]))
    except refusals.EXPECTED as error:
        sys.exit(f"launch.launch: {error}")
    if _DRY_RUN.value:
        print(text, end="")
        print(f"# submitted with: {' '.join(command)} < the above", file=sys.stderr)
        return
    try:
        sys.exit(subprocess.run(command, input=text, text=True).returncode)
    except FileNotFoundError:
        sys.exit(f"launch.launch: {command[0]} is not installed here; see --dry_run.")


def _render(target: str, arguments: tuple[str, ...]) -> tuple[str, list[str]]:
    """Returns a script or manifest, and the command that takes it as its input."""
    from agentrl.clusters import job, kubernetes, slurm, tpu_vm

    kind, shape, chips = _slice() if target in ("tpu-vm", "gke") else ("", "", 0)
    hosts = tpu_vm.count_hosts(kind, chips) if chips else _require(_HOSTS)
    run = job.Job(
        name=_NAME.value or "",
        hosts=hosts,
        arguments=arguments,
        max_restarts=_MAX_RESTARTS.value,
    )
    if target == "tpu-vm":
        _refuse_other_shape(shape)
        wanted = tpu_vm.SliceRequest(
            kind=kind,
            chips=chips,
            zone=_require(_ZONE),
            project=_PROJECT.value,
            spot=_SPOT.value,
            keep=_KEEP.value,
            setup=_SETUP.value,
        )
        return tpu_vm.render(run, wanted), ["bash"]
    if target == "slurm":
        nodes = slurm.Nodes(
            gpus=_GPUS.value,
            cpus=_CPUS.value,
            time=_TIME.value,
            notice_s=_GRACE.value,
            partition=_PARTITION.value,
        )
        return slurm.render(run, nodes), ["sbatch"]
    pods = kubernetes.Pods(
        image=_require(_IMAGE),
        claim=_CLAIM.value,
        mount=_MOUNT.value,
        memory=_MEMORY.value,
        service_account=_ACCOUNT.value,
        grace_s=_GRACE.value,
    )
    manifests = (
        kubernetes.render_job(run, pods, gpus=_GPUS.value)
        if target == "k8s"
        else kubernetes.render_jobset(
            run, pods, kind=kind, shape=shape, chips=chips, spot=_SPOT.value
        )
    )
    return kubernetes.to_yaml(manifests), ["kubectl", "apply", "--filename=-"]


def _slice() -> tuple[str, str, int]:
    """Returns kind, shape and chips of --topology."""
    from agentrl.hardware import topology

    name = _require(_TOPOLOGY)
    device, chips = topology.parse(name)
    return device.name, name.partition(":")[2], chips


def _refuse_other_shape(shape: str) -> None:
    """Raises `ConfigError` unless a TPU VM of so many chips has this shape by default."""
    from agentrl.hardware import topology

    if not topology.is_default(shape):
        raise errors.ConfigError(
            f"--topology={_TOPOLOGY.value}: TPU VMs are asked for by number of chips, "
            "and slices of so many have another shape; give that one, or use gke."
        )


def _require(flag: flags.FlagHolder) -> Any:
    if flag.value is None:
        raise errors.UsageError(f"give --{flag.name}.")
    return flag.value


if __name__ == "__main__":
    app.run(main)
