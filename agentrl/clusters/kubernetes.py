"""Kubernetes: an Indexed Job with a headless service; on GKE a JobSet for a TPU slice."""

import dataclasses
import pathlib
import posixpath
from collections.abc import Sequence
from typing import Any

import yaml

from agentrl import errors
from agentrl.clusters import job

_INDEX = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
# Kind of TPU -> value of the node label `cloud.google.com/gke-tpu-accelerator`.
_GKE_ACCELERATORS = {
    "v4": "tpu-v4-podslice",
    "v5e": "tpu-v5-lite-podslice",
    "v5p": "tpu-v5p-slice",
    "v6e": "tpu-v6e-slice",
    "v7x": "tpu7x",
}
Manifest = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pods:
    """What every pod is made of."""

    image: str  # holds this package with the extra of its accelerator
    claim: str = ""  # of a ReadWriteMany volume for --workdir; "" mounts none
    mount: str = "/runs"
    memory: str = "128Gi"
    service_account: str = ""  # that may write to the bucket of --workdir
    grace_s: int = 600  # after SIGTERM: longer than an iteration and a save


def render_job(run: job.Job, pods: Pods, *, gpus: int) -> list[Manifest]:
    """Returns a headless service and an Indexed Job of one pod per node with GPUs.

    Raises:
      ConfigError: if what the run writes would not outlive its pods.
    """
    _refuse_folder_of_pod(run, pods)
    resources = {"limits": {"nvidia.com/gpu": gpus, "memory": pods.memory}}
    command = run.command(
        "python",
        f"--coordinator={run.name}-0.{run.name}:{job.PORT}",
        f"--num_hosts={run.hosts}",
        "--host_index=$(JOB_COMPLETION_INDEX)",
    )
    container = _container(pods, command, resources) | {
        "env": [
            {
                "name": "JOB_COMPLETION_INDEX",
                "valueFrom": {"fieldRef": {"fieldPath": _INDEX}},
            }
        ]
    }
    # Shared memory is NCCL's, within a node.
    spec = _pod_spec(pods, container, shared_memory=True) | {"subdomain": run.name}
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": run.name},
        "spec": {
            "clusterIP": "None",  # gives pods names, such as NAME-0.NAME
            "publishNotReadyAddresses": True,
            "selector": {"job-name": run.name},
        },
    }
    indexed = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": run.name},
        "spec": {
            **_job_spec(run, spec),
            # A pod that is started again finds the others waiting.
            "backoffLimit": run.max_restarts,
            "podFailurePolicy": {
                "rules": [
                    _on_exit_codes("FailJob", job.STOP_CODES),
                    _on_exit_codes("Ignore", job.RESTART_CODES),
                    _on_disruption(),
                ]
            },
        },
    }
    return [service, indexed]


def render_jobset(
    run: job.Job, pods: Pods, *, kind: str, shape: str, chips: int, spot: bool
) -> list[Manifest]:
    """Returns a JobSet that holds one TPU slice of a GKE node pool.

    Args:
      run: the run; its hosts are the nodes of the slice.
      pods: what pods are made of.
      kind: of TPU, such as v5e.
      shape: of its torus, such as 4x8.
      chips: of the whole slice.
      spot: whether the node pool is one of spot machines.

    Raises:
      ConfigError: if GKE has no TPUs of this kind, or what the run writes would not
        outlive its pods.
    """
    _refuse_folder_of_pod(run, pods)
    if kind not in _GKE_ACCELERATORS:
        raise errors.ConfigError(
            f"GKE has no TPUs of the kind {kind!r}; it has {sorted(_GKE_ACCELERATORS)}."
        )
    per_host = chips // run.hosts
    resources = {"limits": {"google.com/tpu": per_host, "memory": pods.memory}}
    command = run.command("python", f"--num_hosts={run.hosts}")
    spec = _pod_spec(pods, _container(pods, command, resources)) | {
        "nodeSelector": {
            "cloud.google.com/gke-tpu-accelerator": _GKE_ACCELERATORS[kind],
            "cloud.google.com/gke-tpu-topology": shape,
            **({"cloud.google.com/gke-spot": "true"} if spot else {}),
        }
    }
    if spot:
        spec["tolerations"] = [
            {
                "key": "cloud.google.com/gke-spot",
                "operator": "Equal",
                "value": "true",
                "effect": "NoSchedule",
            }
        ]
    template = {
        "spec": {
            **_job_spec(run, spec),
            "backoffLimit": 0,  # a slice starts again as a whole
            "podFailurePolicy": {"rules": [_on_exit_codes("FailJob", job.STOP_CODES)]},
        }
    }
    return [_jobset(run, template)]


def _refuse_folder_of_pod(run: job.Job, pods: Pods) -> None:
    """Raises `ConfigError` if the working directory is on no volume.

    Each pod would have a folder of its own then, and begin from nothing when it is started
    again.
    """
    if run.in_store:
        return
    workdir = pathlib.PurePosixPath(posixpath.normpath(run.workdir))
    example = posixpath.join(pods.mount, run.name)
    if not pods.claim:
        raise errors.ConfigError(
            f"--workdir={run.workdir} would be a folder of each pod, gone with it; give "
            "the --claim of a ReadWriteMany volume and a folder on it, such as "
            f"--workdir={example}."
            + " Or a bucket: the run has one host."
            * (run.hosts == 1)
        )
    if not workdir.is_absolute() or not workdir.is_relative_to(pods.mount):
        raise errors.ConfigError(
            f"--workdir={run.workdir} is not on the volume of --claim={pods.claim}, which "
            f"is mounted at --mount={pods.mount}; give a folder there, such as "
            f"--workdir={example}."
        )


def _jobset(run: job.Job, template: Manifest) -> Manifest:
    """Starts the slice again as a whole, except where its Job says that it is refused."""
    refused = {
        "name": "refused",
        "action": "FailJobSet",
        "onJobFailureReasons": ["PodFailurePolicy"],
    }
    placed = "alpha.jobset.sigs.k8s.io/exclusive-topology"
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {
            "name": run.name,
            "annotations": {placed: "cloud.google.com/gke-nodepool"},
        },
        "spec": {
            "failurePolicy": {"maxRestarts": run.max_restarts, "rules": [refused]},
            "replicatedJobs": [{"name": "slice", "replicas": 1, "template": template}],
        },
    }


def to_yaml(manifests: Sequence[Manifest]) -> str:
    """Returns manifests as the documents of one file."""
    return yaml.safe_dump_all(manifests, sort_keys=False, width=100)


def _job_spec(run: job.Job, spec: Manifest) -> Manifest:
    return {
        "completionMode": "Indexed",
        "completions": run.hosts,
        "parallelism": run.hosts,
        "template": {"spec": spec},
    }


def _container(pods: Pods, command: list[str], resources: Manifest) -> Manifest:
    mounts = [{"name": "runs", "mountPath": pods.mount}] if pods.claim else []
    return {
        "name": "train",
        "image": pods.image,
        "command": [_escape(word) for word in command],
        "ports": [{"containerPort": job.PORT}],
        "resources": resources,
        "volumeMounts": mounts,
    }


def _escape(word: str) -> str:
    """Keeps what Kubernetes would take for a variable, except the one that is meant."""
    index = "$(JOB_COMPLETION_INDEX)"
    return word if word.endswith(index) else word.replace("$(", "$$(")


def _pod_spec(
    pods: Pods, container: Manifest, *, shared_memory: bool = False
) -> Manifest:
    volumes: list[Manifest] = []
    if pods.claim:
        volumes.append(
            {"name": "runs", "persistentVolumeClaim": {"claimName": pods.claim}}
        )
    if shared_memory:
        volumes.append(
            {
                "name": "shared-memory",
                "emptyDir": {"medium": "Memory", "sizeLimit": "16Gi"},
            }
        )
        mount = {"name": "shared-memory", "mountPath": "/dev/shm"}
        container = container | {"volumeMounts": [*container["volumeMounts"], mount]}
    spec: Manifest = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": pods.grace_s,
        "containers": [container],
        "volumes": volumes,
    }
    if pods.service_account:
        spec["serviceAccountName"] = pods.service_account
    return spec


def _on_exit_codes(action: str, codes: tuple[int, ...]) -> Manifest:
    return {
        "action": action,
        "onExitCodes": {
            "containerName": "train",
            "operator": "In",
            "values": sorted(codes),
        },
    }


def _on_disruption() -> Manifest:
    condition = {"type": "DisruptionTarget", "status": "True"}
    return {"action": "Ignore", "onPodConditions": [condition]}
