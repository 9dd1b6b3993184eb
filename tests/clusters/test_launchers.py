"""Launchers: what they render is what clusters take, and restarts what should restart."""

import dataclasses
import os
import pathlib
import subprocess
import sys

import pytest
import yaml

from agentrl import errors
from agentrl.clusters import job, kubernetes, slurm, tpu_vm

RUN = job.Job(
    name="demo",
    hosts=2,
    arguments=("demo", "--workdir=/runs/demo", "--set=name='a $(b) c'"),
    max_restarts=3,
)
PODS = kubernetes.Pods(image="registry.example.com/agentrl:1", claim="runs")
SLICE = tpu_vm.SliceRequest(kind="v5e", chips=8, zone="zone-a", poll_s=0, pause_s=0)


def render(target, run=RUN, pods=PODS):
    if target == "gke":
        return kubernetes.render_jobset(
            run, pods, kind="v5e", shape="2x4", chips=8, spot=True
        )
    return kubernetes.render_job(run, pods, gpus=8)


@pytest.mark.parametrize("target", ["k8s", "gke"])
def test_pods_stop_on_refusals_and_start_again_on_interruptions(target):
    manifest = render(target)[-1]
    spec = manifest["spec"]
    if target == "gke":
        policy = spec["failurePolicy"]
        assert policy["maxRestarts"] == 3  # whatever no rule matches starts again
        assert [rule["action"] for rule in policy["rules"]] == ["FailJobSet"]
        spec = spec["replicatedJobs"][0]["template"]["spec"]
    rules = {
        rule["action"]: rule["onExitCodes"]["values"]
        for rule in spec["podFailurePolicy"]["rules"]
        if "onExitCodes" in rule
    }
    assert rules["FailJob"] == [1, 2]
    assert rules.get("Ignore", [69, 75]) == [69, 75]
    container = spec["template"]["spec"]["containers"][0]
    assert "--set=name='a $$(b) c'" in container["command"]  # no variable of theirs
    assert "--num_hosts=2" in container["command"]
    assert yaml.safe_load_all(kubernetes.to_yaml(render(target)))


@pytest.mark.parametrize("target", ["k8s", "gke"])
@pytest.mark.parametrize("hosts", [1, 2])
@pytest.mark.parametrize(
    ("workdir", "pods", "message"),
    [
        ("/mnt/runs/demo", {"claim": ""}, "give the --claim .* --workdir=/runs/demo"),
        ("/mnt/runs/demo", {}, "not on the volume of --claim=runs"),
        ("/runs/demo", {"mount": "/data"}, "such as --workdir=/data/demo"),
        ("runs/demo", {"mount": "runs"}, "not on the volume"),  # of the image's folder
        ("/runs/../demo", {}, "not on the volume"),
        ("/runs2/demo", {}, "not on the volume"),
    ],
)
def test_a_folder_that_is_gone_with_its_pod_is_refused(
    target, hosts, workdir, pods, message
):
    run = dataclasses.replace(
        RUN, hosts=hosts, arguments=("demo", f"--workdir={workdir}")
    )
    with pytest.raises(errors.ConfigError, match=message):
        render(target, run, dataclasses.replace(PODS, **pods))


@pytest.mark.parametrize("target", ["k8s", "gke"])
def test_a_run_of_one_host_needs_no_volume_for_a_bucket(target):
    run = dataclasses.replace(
        RUN, hosts=1, arguments=("demo", "--workdir", "gs://bucket/run")
    )
    manifest = render(target, run, kubernetes.Pods(image="a", service_account="writer"))
    assert "gs://bucket/run" in kubernetes.to_yaml(manifest)


def run_slurm(tmp_path, code, restarts=0):
    """Runs the batch script with stubs of Slurm; returns its code, and who was called."""
    log = tmp_path / "log"
    for name, body in (("srun", f"exit {code}"), ("scontrol", f'echo "$@" >>{log}')):
        stub = tmp_path / name
        stub.write_text(f"#!/bin/bash\n{body}\n")
        stub.chmod(0o755)
    done = subprocess.run(
        ["bash", "-c", slurm.render(RUN, slurm.Nodes())],
        env={
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "SLURM_SUBMIT_DIR": str(tmp_path),
            "SLURM_JOB_ID": "7",
            "SLURM_NNODES": "2",
            "SLURM_RESTART_COUNT": str(restarts),
        },
    )
    return done.returncode, log.read_text() if log.exists() else ""


@pytest.mark.parametrize(
    ("code", "restarts", "requeued"),
    [(0, 0, ""), (1, 0, ""), (75, 0, "requeue 7\n"), (69, 2, "requeue 7\n"),
     (137, 0, "requeue 7\n"), (75, 3, "")],
)  # fmt: skip
def test_slurm_requeues_what_goes_on(tmp_path, code, restarts, requeued):
    assert run_slurm(tmp_path, code, restarts) == (code, requeued)


# A cloud of one slice: hosts are folders, the state of the request is a file. The run on
# the first host ends with the next code of the file `codes`: `preempt` takes the slice
# away, `vanish` takes it before the request says so, `slow` waits for a file. A line of the
# file `faults` has a word of a command, and what happens in place of the first such
# command: `0` lets it pass.
GCLOUD = """\
import os, pathlib, shutil, subprocess, sys
cloud = pathlib.Path(os.environ["CLOUD"]); state = cloud / "state"; gone = cloud / "gone"
words = sys.argv[1:]
with (cloud / "calls").open("a") as calls: calls.write(" ".join(words[2:4]) + "\\n")
hosts = [cloud / str(host) for host in range(int(os.environ["HOSTS"]))]
sys.stdin.read()  # as ssh does
def fail(message):
    print("ERROR: (gcloud.compute.tpus)", message, file=sys.stderr); sys.exit(1)
faults = (cloud / "faults").read_text().splitlines()
for fault in faults:
    word, _, command = fault.partition(": ")
    if word in " ".join(words):
        faults.remove(fault); (cloud / "faults").write_text("\\n".join(faults))
        if command == "0": break
        sys.exit(subprocess.run(["bash", "-c", command], cwd=cloud).returncode)
if "describe" in words:
    if not state.exists(): fail("NOT_FOUND: Resource 'demo' was not found.")
    if gone.exists():
        gone.write_text(gone.read_text()[1:])
        if not gone.read_text(): state.write_text("SUSPENDED")
    print(state.read_text())
elif "create" in words:
    assert "--accelerator-type=v5litepod-8" in words, words
    if state.exists(): fail("ALREADY_EXISTS: Resource 'demo' already exists.")
    state.write_text("ACTIVE"); [host.mkdir() for host in hosts]
elif "delete" in words:
    state.unlink(); [shutil.rmtree(host) for host in hosts]; gone.unlink(missing_ok=True)
elif gone.exists() or state.read_text() != "ACTIVE":
    fail("the TPU is PREEMPTED.")
elif "scp" in words:
    files = [w for w in words if w.startswith("/")]
    [shutil.copy(f, host) for f in files for host in hosts]
else:
    worker = next(w for w in words if w.startswith("--worker"))[9:]
    command = next(w for w in words if w.startswith("--command"))[10:]
    chosen = hosts if worker == "all" else [hosts[int(worker)]]
    codes = [subprocess.run(["bash", "-c", command], cwd=host,
                            env=os.environ | {"HOME": str(host)}).returncode
             for host in chosen]
    sys.exit(next((code for code in codes if code), 0))
"""
# The Python of the images is 3.10 and makes no environments.
PYTHON = """\
#!/bin/bash
echo "ensurepip is not available" >&2
exit 1
"""
# Downloads what installs uv, whose environments have a python that trains. Words of the
# file `broken` do not work.
CURL = """\
#!/bin/bash
if grep -qs download "$CLOUD/broken"; then exit 22; fi
cat <<'EOF'
mkdir -p "$UV_UNMANAGED_INSTALL"
cp "$CLOUD/uv" "$UV_UNMANAGED_INSTALL/uv"
EOF
"""
UV = """\
#!/bin/bash
if grep -qs "$1" "$CLOUD/broken"; then exit 1; fi
case "$*" in
  "venv --quiet --python 3.11 .venv")
    mkdir -p .venv/bin
    cp "$CLOUD/train" .venv/bin/python
    ;;
  "pip install --quiet --python .venv/bin/python --editable .[tpu]") grep -q . setup.py ;;
  *) exit 2 ;;
esac
"""
TRAIN = """\
#!/bin/bash
if [ "$(basename "$HOME")" != 0 ]; then sleep 3; exit 0; fi
echo "$@" >>"$CLOUD/trained"
code=$(head -1 "$CLOUD/codes"); sed -i 1d "$CLOUD/codes"
case $code in # all of the host ends
  preempt) printf SUSPENDED >"$CLOUD/state"; kill -9 $PPID; exit 143 ;;
  vanish) printf 123 >"$CLOUD/gone"; kill -9 $PPID; exit 143 ;;
  slow) while [ ! -e "$CLOUD/finish" ]; do sleep 0.2; done; exit 0 ;;
esac
exit "$code"
"""


def run_tpu(tmp_path, codes, broken="", faults=(), hosts=1, more=(), **wanted):
    cloud, bin_folder = tmp_path / "cloud", tmp_path / "bin"
    for folder in (cloud, bin_folder):
        folder.mkdir(exist_ok=True, parents=True)
    (bin_folder / "gcloud").write_text(f"#!{sys.executable}\n{GCLOUD}")
    (bin_folder / "python3").write_text(PYTHON)
    (bin_folder / "curl").write_text(CURL)
    (cloud / "uv").write_text(UV)
    (cloud / "train").write_text(TRAIN)
    for name, lines in (("codes", codes), ("faults", faults)):
        (cloud / name).write_text("".join(f"{line}\n" for line in lines))
    (cloud / "broken").write_text(broken)
    for path in [*bin_folder.iterdir(), cloud / "uv", cloud / "train"]:
        path.chmod(0o755)
    run = dataclasses.replace(
        RUN, hosts=hosts, arguments=(*RUN.arguments, *more), max_restarts=6
    )
    done = subprocess.run(
        ["bash"],
        input=tpu_vm.render(
            run, dataclasses.replace(SLICE, **wanted)
        ),  # as launch does
        cwd=pathlib.Path(__file__).parents[2],
        env=os.environ
        | {
            "PATH": f"{bin_folder}:{os.environ['PATH']}",
            "CLOUD": str(cloud),
            "HOSTS": str(hosts),
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    calls = (cloud / "calls").read_text().split("\n")
    return done, cloud, [call.split()[-1] for call in calls if call]


def test_a_preempted_slice_is_got_again_and_given_back_at_the_end(tmp_path):
    done, cloud, calls = run_tpu(tmp_path, ["75", "preempt", "0"])
    assert done.returncode == 0, done.stderr
    trained = (cloud / "trained").read_text().splitlines()
    assert len(trained) == 3  # after the interruption on the same slice
    assert set(trained) == {
        "-m agentrl.launch.train --num_hosts=1 demo --workdir=/runs/demo "
        "--set=name='a $(b) c'"
    }
    assert calls.count("create") == 2 and calls.count("delete") == 2
    assert not (cloud / "state").exists()


def test_a_refusal_ends_the_launcher_and_keeps_the_slice(tmp_path):
    done, cloud, calls = run_tpu(tmp_path, ["1", "0"])
    assert done.returncode == 1 and "as it would again" in done.stderr
    assert (cloud / "state").read_text() == "ACTIVE" and "delete" not in calls


def test_a_slice_that_is_gone_before_the_request_says_so_is_got_again(tmp_path):
    done, cloud, calls = run_tpu(tmp_path, ["vanish", "0"])
    assert done.returncode == 0, done.stderr
    assert len((cloud / "trained").read_text().splitlines()) == 2
    assert calls.count("create") == 2 and not (cloud / "state").exists()


UNREACHABLE = "describe: echo UNAVAILABLE >&2; exit 1"
FINISH = "tail: touch finish; sleep 2; exit 255"


@pytest.mark.parametrize(
    "faults",
    [
        # At the start; then when the log is cut off.
        [UNREACHABLE, "describe: 0", "describe: 0", "tail: exit 255", UNREACHABLE],
        ["create: exit 1", "tail: exit 255", "scp: exit 1", "setsid: exit 255"],
        ["cat agentrl.code: exit 255", "delete: exit 1", "delete: exit 1"],
    ],
)
def test_a_connection_that_is_lost_ends_nothing(tmp_path, faults):
    done, cloud, calls = run_tpu(tmp_path, ["slow"], faults=[*faults, FINISH])
    assert done.returncode == 0, done.stderr
    # The run went on meanwhile, and was not started again when it had ended.
    assert len((cloud / "trained").read_text().splitlines()) == 1
    assert calls.count("create") == 1 + ("create: exit 1" in faults)
    assert not (cloud / "state").exists() and not (cloud / "faults").read_text()


def test_nothing_is_unpacked_where_the_run_is_alive(tmp_path):
    faults = [
        "tail: rm -r 1/* 1/.local; echo kept >0/agentrl/setup.py; exit 255",
        FINISH,
    ]
    done, cloud, _ = run_tpu(tmp_path, ["slow"], faults=faults, hosts=2, keep=True)
    assert done.returncode == 0, done.stderr
    assert len((cloud / "trained").read_text().splitlines()) == 1
    assert (cloud / "0" / "agentrl" / "setup.py").read_text() == "kept\n"
    assert (cloud / "1" / "agentrl" / ".venv" / ".installed").exists()  # it came anew


def test_a_slice_that_was_kept_takes_another_command(tmp_path):
    run_tpu(tmp_path, ["1"])
    done, cloud, calls = run_tpu(tmp_path, ["0"], more=("--set=seed=2",))
    assert done.returncode == 0, done.stderr
    first, second = (cloud / "trained").read_text().splitlines()
    assert second == f"{first} --set=seed=2" and calls.count("create") == 1


def test_every_host_is_set_up_before_each_start(tmp_path):
    setup = """echo "it's $(wc -l <"$CLOUD/codes")" >>"$CLOUD/setup\""""
    done, cloud, _ = run_tpu(tmp_path, ["preempt", "0"], setup=setup)
    assert done.returncode == 0, done.stderr
    assert (cloud / "setup").read_text() == "it's 2\nit's 1\n"  # before the run
    done, cloud, _ = run_tpu(tmp_path / "other", ["0"], setup="mount /nowhere; exit 5")
    assert done.returncode == 1 and not (cloud / "trained").exists()
    assert "cannot run the command of --setup;" in done.stderr


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("download", "cannot install uv;"),
        ("venv", "cannot install Python 3.11;"),
        ("pip", "cannot install the package;"),
    ],
)
def test_an_installation_that_fails_says_what_failed(tmp_path, broken, message):
    done, cloud, _ = run_tpu(tmp_path, ["0"], broken)
    assert done.returncode == 1 and message in done.stderr
    assert "cannot be started on its hosts; the slice is kept" in done.stderr
    assert not (cloud / "trained").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "Demo"}, "small letters"),
        ({"arguments": ("demo",)}, "no --workdir"),
        ({"arguments": ("demo", "--workdir")}, "--workdir has no value"),
        ({"arguments": ("demo", "--workdir=")}, "--workdir has no value"),
        (
            {"arguments": ("demo", "--workdir", "--set=seed=1")},
            "--workdir has no value",
        ),
        ({"arguments": ("demo", "--workdirs=x")}, "no --workdir"),
        ({"arguments": ("demo", "--workdir=x", "--num_hosts=2")}, "launcher's to give"),
        (
            {"hosts": 2, "arguments": ("demo", "--workdir=gs://bucket/run")},
            "gs://bucket/run: a run of 2 hosts needs .* that all of them share",
        ),
        (
            {"hosts": 2, "arguments": ("demo", "--workdir", "s3://bucket/run")},
            "a run of 2 hosts needs",
        ),
    ],
)
def test_jobs_that_cannot_work_are_refused(change, message):
    fields = {"name": "demo", "hosts": 1, "arguments": RUN.arguments} | change
    with pytest.raises(errors.ConfigError, match=message):
        job.Job(**fields)


@pytest.mark.parametrize(
    ("words", "workdir"),
    [
        (("--workdir=/runs/a=b",), "/runs/a=b"),
        (("--workdir", "/runs/demo"), "/runs/demo"),
        (("--workdir=x", "--workdir", "y"), "y"),  # as absl reads flags
        (("--workdir=gs://bucket/run",), "gs://bucket/run"),  # of one host
    ],
)
def test_the_working_directory_is_read_in_either_spelling(words, workdir):
    run = job.Job(name="demo", hosts=1, arguments=("demo", *words))
    assert run.workdir == workdir
    assert run.in_store == workdir.startswith("gs://")


def test_hosts_of_slices():
    assert [
        tpu_vm.count_hosts(kind, chips)
        for kind, chips in (("v5e", 1), ("v5e", 8), ("v5e", 16), ("v5p", 8))
    ] == [1, 1, 4, 2]
