"""Plans that are compiled: here for the machine's own devices, and for a TPU slice."""

import dataclasses
import re
import subprocess
import sys

import jax
import pytest

from agentrl import config
from agentrl.hardware import topology
from agentrl.models import model_config
from agentrl.planning import compiled, memory, search, workloads

# As accelerators prefill: a chunk of all rows at once.
SHAPE = model_config.ModelConfig(
    vocab_size=512, hidden_size=64, num_layers=2, attention="xla"
)
WORK = memory.Workload(
    model=SHAPE,
    mesh=config.MeshConfig(data=1, fsdp=2, model=1),
    row_tokens=64,
    slots_per_device=2,
    context=64,
    append=16,
)


def test_the_programs_of_a_run_take_what_their_arrays_do():
    devices = jax.devices()[:2]
    target = topology.Slice("two devices", None, devices, devices)
    run = workloads.to_run(None, WORK, num_devices=2, num_local=2, max_action_tokens=4)
    plan = compiled.compile_run(run, target)
    estimate = memory.estimate(WORK)
    for name, size in estimate.state.items():
        assert plan.sizes["state"][name] == pytest.approx(size, rel=0.01), name
    held = sum(
        plan.sizes["state"][name] for name in ("trained parameters", "optimizer")
    )
    assert held <= plan.update.arguments < 1.1 * held  # and the batch
    rollout = plan.sizes["rollout"]
    assert rollout["cache"] == pytest.approx(estimate.rollout["cache"], rel=0.01)
    taken = rollout["rollout parameters"] + rollout["cache"]
    assert plan.turn.arguments == pytest.approx(taken, rel=0.02)
    assert plan.update.cost.trip.flops > plan.update.cost.once.flops  # microbatches
    assert 0 < plan.turn.cost.trip.flops < plan.turn.cost.once.flops  # single tokens
    ratios = search.Calibration.of(plan, estimate)
    assert ratios.apply(estimate).peak == pytest.approx(plan.peak, rel=0.05)


def run_plan(*flags):
    command = [sys.executable, "-m", "agentrl.launch.plan", *flags]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.slow
def test_a_run_that_does_not_fit_a_slice_fits_with_the_flags_it_is_given():
    pytest.importorskip(
        "libtpu", reason="`pip install '.[tpu-plan]'` compiles for TPUs"
    )
    flags = [
        *("--model=qwen2.5-0.5b", "--set=model.num_layers=2", "--topology=v5e:2x2"),
        *("--set=model.hidden_size=256", "--set=model.num_heads=4"),
        *("--set=model.mlp_size=512", "--set=model.vocab_size=2048"),
        *("--slots_per_device=4096", "--append=64", "--row_tokens=1024"),
    ]
    refused = run_plan(*flags)
    assert refused.returncode == 1, refused.stderr
    advice = re.search(r"it fits with (.*?) \((.*) of .*compiled", refused.stdout)
    assert advice, refused.stdout
    changed = [flag.partition("=")[0] for flag in advice[1].split()]
    kept = [flag for flag in flags if flag.partition("=")[0] not in changed]
    fits = run_plan(*kept, *advice[1].split())
    assert fits.returncode == 0, fits.stdout
    assert f"peak {advice[2]}" in fits.stdout
    assert "an iteration takes at least" in fits.stdout


def test_of_many_hosts_each_has_the_slots_of_its_configuration():
    run = workloads.to_run(
        None,
        dataclasses.replace(WORK, mesh=config.MeshConfig(data=8)),
        num_devices=8,
        num_local=4,
    )
    assert run.stages[0].rollout.num_slots == 8  # two for each device of a host
    work = workloads.of_run(
        run, platform="cpu", num_devices=8, num_local=4, tensor=None
    )
    assert work.slots_per_device == 2
