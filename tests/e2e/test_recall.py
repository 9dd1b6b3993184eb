"""Whole runs of two small stages, in processes of their own."""

import json
import os
import pathlib
import signal
import sys
import time

import commands
import filelock
import metric_page
import pytest

from agentrl import session

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]
TIMING = (
    "time/",
    "wall_time",
    "perf/compilations",
    "perf/decode",
    "perf/device_memory",
    "perf/env_wait",
    "perf/host_memory",
    "perf/learner",
    "perf/mbu",
    "perf/mfu",
    "perf/prefill",
)


def command(module, *arguments):
    return [sys.executable, "-m", module, *arguments]


def train_command(workdir):
    experiment = HERE / "recall_experiment.py"
    return command(
        "agentrl.launch.train", f"--config={experiment}", f"--workdir={workdir}"
    )


@pytest.fixture(scope="module")
def environment():
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    variables = {"AGENTRL_ENVS": "recall=recall_env", "PYTHONPATH": paths}
    return os.environ | variables | {"JAX_PLATFORMS": "cpu"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory, environment):
    """A run that nobody disturbed."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    done = commands.run(train_command(workdir), env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "recall" in done.stdout and "report.html" in done.stdout
    return workdir


def read_metrics(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def without_timing(records):
    return [
        {name: v for name, v in record.items() if not name.startswith(TIMING)}
        for record in records
    ]


def test_a_run_leaves_everything_behind(finished):
    for name in ("run.json", "report.html", "metrics.jsonl", "tokenizer.model"):
        assert (finished / name).stat().st_size > 0
    assert len(read_metrics(finished)) == 36
    assert len(list((finished / "evaluations").glob("*.json"))) == 2
    assert (finished / "episodes" / "recall.jsonl").exists()


def test_all_metrics_are_documented(finished):
    names = {name for record in read_metrics(finished) for name in record}
    assert metric_page.undocumented(names) == set()


def test_warm_start_learns(finished):
    losses = [r["policy/loss"] for r in read_metrics(finished)[:30]]
    assert losses[-1] < 0.5 * losses[0]


def test_sampler_and_learner_agree_at_the_first_update(finished):
    gaps = [r.get("policy/first_logprob_mismatch") for r in read_metrics(finished)[30:]]
    assert max(gaps) < 1e-5


@pytest.mark.slow
def test_rollouts_with_rounded_kernels_train_and_resume(environment, tmp_path):
    precision = "--set=model.precision.rollout_kernels=int8"
    done = commands.run(
        [*train_command(tmp_path / "whole"), precision], env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    reinforced = read_metrics(tmp_path / "whole")[30:]
    gaps = [record["policy/first_logprob_mismatch"] for record in reinforced]
    assert min(gaps) > 1e-4 and max(gaps) < 0.01
    kill_and_resume(tmp_path / "killed", environment, [33], [precision])
    assert without_timing(read_metrics(tmp_path / "killed")) == without_timing(
        read_metrics(tmp_path / "whole")
    )


def test_nothing_is_compiled_after_the_first_iteration_of_a_stage(finished):
    for record in read_metrics(finished):
        if record["iteration"] > 0:
            assert record["perf/compilations"] == 0, record["iteration"]


def kill_and_resume(workdir, environment, after, arguments=()):
    """Kills a run whenever it has recorded so many iterations, and lets it end then.

    Args:
      workdir: of the run.
      environment: variables of its processes.
      after: numbers of recorded iterations, ascending: one kill at each.
      arguments: further ones of the command.
    """
    command = [*train_command(workdir), *arguments]
    metrics = workdir / "metrics.jsonl"
    for count in after:
        process = commands.Process(command, env=environment, process_group=0)
        deadline = time.monotonic() + 300
        while not metrics.exists() or len(metrics.read_text().splitlines()) < count:
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    done = commands.run(command, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]


def test_a_killed_run_ends_as_if_nothing_had_happened(finished, environment, tmp_path):
    workdir = tmp_path / "run"
    # In both stages, each time after a checkpoint and some iterations that are repeated.
    kill_and_resume(workdir, environment, after=[25, 33])

    expected = without_timing(read_metrics(finished))
    assert without_timing(read_metrics(workdir)) == expected
    for path in (finished / "evaluations").glob("*.json"):
        assert (workdir / "evaluations" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        [
            "algorithm.max_refills=2",
            "algorithm.entropy_coefficient=0.01",
            "rehearsal={'environments': [('recall', 1)], 'episodes_per_iteration': 4}",
        ],
        ["algorithm.name=ppo", "algorithm.gae_level=turn"],
    ],
    ids=["refills", "critic"],
)
def test_overlap_and_divergence_in_the_reward_resume_too(
    environment, tmp_path, options
):
    options += [
        "overlap=True",
        "num_iterations=5",
        "algorithm.kl.coefficient=0.01",
        "algorithm.kl.placement=reward",
    ]
    arguments = [
        "--set=stages.warm_start.num_iterations=2",
        "--set=stages.*.evaluate_after=False",
        "--set=save_every=3",
        "--set=token_hindsight=True",
        "--set=model.critic=True",
        *(f"--set=stages.recall.{option}" for option in options),
    ]
    done = commands.run(
        [*train_command(tmp_path / "whole"), *arguments], env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    kill_and_resume(tmp_path / "killed", environment, [6], arguments)

    records = read_metrics(tmp_path / "whole")
    assert without_timing(read_metrics(tmp_path / "killed")) == without_timing(records)
    # Only the first one is not played ahead: checkpoints keep what waits for its update.
    assert [r["policy/staleness"] for r in records[2:]] == [0, 1, 1, 1, 1]
    assert records[2]["policy/first_logprob_mismatch"] < 1e-5
    assert all(r["perf/compilations"] == 0 for r in records[4:])
    rehearsed = "algorithm.max_refills=2" in options
    assert all(("rehearsal/nll" in r) == rehearsed for r in records[2:])
    if rehearsed:
        for record in records[2:]:
            assert (
                record["rollout/refills"] == 2 or record["rollout/groups_missing"] == 0
            )


@pytest.mark.parametrize("overlap", [False, True])
def test_episodes_that_go_on_in_later_iterations_resume_too(
    environment, tmp_path, overlap
):
    arguments = [
        "--set=stages.warm_start.num_iterations=2",
        "--set=stages.*.evaluate_after=False",
        "--set=save_every=1",
        # Few slots: some episodes are half-way when enough groups are complete.
        "--set=stages.recall.rollout.num_slots=8",
        "--set=stages.recall.extra_groups=3",
        f"--set=stages.recall.overlap={overlap}",
        f"--set=stages.recall.max_staleness={1 + overlap}",
    ]
    done = commands.run(
        [*train_command(tmp_path / "whole"), *arguments], env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    kill_and_resume(tmp_path / "killed", environment, [4, 6], arguments)

    records = read_metrics(tmp_path / "whole")
    assert without_timing(read_metrics(tmp_path / "killed")) == without_timing(records)
    of_both = [
        (tmp_path / name / "episodes" / "recall.jsonl").read_bytes()
        for name in ("whole", "killed")
    ]
    assert of_both[0] == of_both[1]
    staleness = [r["policy/staleness"] for r in records[2:]]
    assert len(staleness) == 6 and max(staleness) == 1 + overlap
    left = [r["rollout/carried_episodes"] for r in records[2:]]
    assert max(left) > 0 and left[-1] == 0
    assert all(r["rollout/zero_variance_groups"] <= 1 for r in records[2:])


def test_evaluation_of_the_checkpoint_repeats_the_run(finished, environment, tmp_path):
    out = tmp_path / "results"
    before = f"{finished}/checkpoints/30"
    evaluate = command(
        "agentrl.launch.evaluate",
        f"--checkpoint={finished}",
        f"--out={out}",
        "--envs=recall",
        f"--compare_with={finished},{before},initial",
    )
    done = commands.run(evaluate, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    name = "recall.recall.test.all.json"
    assert "tier all, recall-1, digest " in done.stdout
    assert "KL(stage recall || other) on recall, in nats" in done.stdout
    repeated = json.loads((out / "evaluations" / name).read_text())
    itself, start, initial = repeated.pop("drifts")
    assert repeated == json.loads((finished / "evaluations" / name).read_text())
    assert {x for table in ("k1", "k3") for row in itself[table] for x in row} == {0.0}
    assert (start["policy"], start["stage"], start["step"]) == (
        before,
        "warm_start",
        30,
    )
    assert (initial["stage"], initial["step"]) == ("untrained", 0)
    moved = [sum(map(sum, one["k3"])) for one in (start, initial)]
    assert 0 < moved[0] < moved[1]


def test_calibration_writes_tiers_and_goes_on_where_it_ended(
    finished, environment, tmp_path
):
    out = tmp_path / "tiers.jsonl"
    arguments = ["--env=recall", f"--out={out}", "--samples=3"]
    calibrate = command(
        "agentrl.launch.calibrate", f"--checkpoint={finished}", *arguments
    )

    def run(*more):
        done = commands.run([*calibrate, *more], env=environment)
        return done.returncode, done.stdout, done.stderr

    code, printed, complaint = run()
    assert code == 0, complaint[-3000:]
    lines = list(map(json.loads, out.read_text().splitlines()))
    assert {line["item_id"] for line in lines} == {f"recall_{i}" for i in range(32)}
    tiers = [line["tier"] for line in lines]
    assert f"{tiers.count('easy')} easy, {tiers.count('hard')} hard" in printed
    for line in lines:
        assert line["n"] == 3 and line["pass_rate"] in (0, 1 / 3, 2 / 3, 1)
        assert (line["tier"] == "easy") == (line["pass_rate"] >= 0.5)

    whole = out.read_text()
    out.write_text(whole[: len(whole) // 2])
    assert run()[0] == 0
    assert out.read_text() == whole

    code, _, complaint = run("--threshold=0.9")
    assert code != 0 and "holds another calibration" in complaint
    assert "Traceback" not in complaint


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set=seed=1"], "another configuration"),
        (["--set=stages.recall.rollout.group_sise=2"], "group_size"),
        (["--set=stages.recall.rollout.temperature=0"], "temperature"),
    ],
)
def test_bad_input_is_refused_by_name(finished, environment, arguments, message):
    refuse(finished, environment, arguments, message)


def test_two_sessions_do_not_share_a_directory(finished, environment):
    with filelock.FileLock(finished / session.LOCK_FILE):
        refuse(finished, environment, [], "another process trains")


def refuse(workdir, environment, arguments, message):
    """Starts a run that must not begin, and must leave everything as it was."""
    before = (workdir / "metrics.jsonl").read_bytes()
    done = commands.run([*train_command(workdir), *arguments], env=environment)
    assert done.returncode != 0
    assert message in done.stderr and "Traceback" not in done.stderr
    assert (workdir / "metrics.jsonl").read_bytes() == before
