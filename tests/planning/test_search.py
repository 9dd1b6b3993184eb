"""What makes a run fit, and how large it may become, by arithmetic."""

import dataclasses

import fake_run
import pytest

from agentrl import config, errors
from agentrl.hardware import devices, topology
from agentrl.planning import memory, search, workloads
from agentrl.programs import throughput
from agentrl.programs.hlo import Cost, ProgramCost

GIB = devices.GIB
RUN = fake_run.make_settings()


def work_of(name, **sizes):
    sizes = {"slots_per_device": 16, "context": 4096, "row_tokens": 4096} | sizes
    return workloads.of_model(
        name, [], platform="tpu", lora_rank=None, int8_base=False, **sizes
    )


def test_what_does_not_fit_is_changed_until_it_does_and_no_further():
    work, meshes = work_of("qwen2.5-0.5b"), [config.MeshConfig(data=8)]
    budget = 6 * GIB
    found = search.relax(work, meshes, budget, search.Calibration())
    assert search.peak(found, search.Calibration()) <= budget
    flags = search.flags_between(
        work, found, experiment=None, num_devices=8, num_local=4
    )
    assert "--lora_rank=32" in " ".join(flags)
    assert found.context == 4096  # the last resort was not needed
    # In the terms of an experiment every change is an override of a field.
    assert all(
        flag.startswith("--set=")
        for flag in search.flags_between(
            work, found, experiment=RUN, num_devices=8, num_local=4
        )
    )


def test_rollouts_of_single_environments_shrink_with_the_others():
    run = dataclasses.replace(
        RUN,
        evaluation=dataclasses.replace(
            RUN.evaluation, rollouts={"textcraft": RUN.evaluation.rollout}
        ),
    )
    work = workloads.of_run(run, platform="cpu", num_devices=1, tensor=None)
    smaller = dataclasses.replace(
        work, slots_per_device=2, append=8, context=16, row_tokens=16
    )
    flags = search.flags_between(
        work, smaller, experiment=run, num_devices=1, num_local=1
    )
    own = {f.partition("rollouts.")[2] for f in flags if "rollouts." in f}
    assert own == {
        "textcraft.num_slots=2", "textcraft.append_buckets=(8,)",
        "textcraft.max_tokens=16", "textcraft.cache_buckets=(16,)",
    }  # fmt: skip
    resized = workloads.to_run(run, smaller, num_devices=1, num_local=1)
    (rollout,) = resized.evaluation.rollouts.values()
    assert (rollout.num_slots, rollout.append_buckets[-1]) == (2, 8)
    assert rollout.max_tokens == rollout.cache_buckets[-1] == 16


def test_a_run_that_fits_is_left_alone_and_one_that_cannot_is_said_to():
    work, meshes = work_of("qwen2.5-0.5b"), [config.MeshConfig(data=1)]
    assert search.relax(work, meshes, 80 * GIB, search.Calibration()) == (
        dataclasses.replace(work, mesh=meshes[0])
    )
    assert search.relax(work, meshes, 0.1 * GIB, search.Calibration()) is None


@pytest.mark.parametrize("field", ["slots_per_device", "rows_per_device", "context"])
def test_the_largest_size_fits_and_the_next_does_not(field):
    work = dataclasses.replace(work_of("qwen2.5-0.5b"), mesh=config.MeshConfig(data=1))
    budget, calibration = 30 * GIB, search.Calibration()
    size = search.largest(work, field, budget, calibration)
    step = 256 if field == "context" else 1

    def peak(size):
        return search.peak(search.resized(work, field, size), calibration)

    assert size > getattr(work, field)
    assert peak(size) <= budget < peak(size + step)


def test_teachers_and_references_are_copies_of_what_is_trained():
    stage = config.StageConfig(
        name="student",
        algorithm=config.Distillation(
            teachers=(("babyai", "a"), ("textcraft", "b"), ("webshop", "a")),
            kl=config.KLConfig(coefficient=0.1),
        ),
        mixture=config.MixtureConfig(environments=(("babyai", 1.0),)),
        num_iterations=1,
    )
    assert workloads.num_references(stage) == 3  # two teachers, and where it started
    work = dataclasses.replace(work_of("qwen2.5-0.5b"), mesh=config.MeshConfig(data=1))
    state = memory.estimate(dataclasses.replace(work, references=3)).state
    assert state["references"] == 3 * state["trained parameters"]


def test_an_iteration_costs_what_its_calls_do():
    demand = throughput.Demand(
        tasks=4, group=8, turns=2, observation=100, action=10, fill=1.0
    )
    append, decode, update = throughput.phases(
        demand,
        update=ProgramCost(Cost(flops=1.0), Cost(flops=100.0)),
        turn=ProgramCost(Cost(bytes=7.0), Cost(bytes=3.0)),
        chunk=64,
        slots=16,
        row_tokens=1000,
        rows=2,
    )
    assert append.cost.bytes == 2 * 2 * 2 * 7  # waves, turns, chunks of 101 tokens
    assert decode.cost.bytes == 2 * 2 * 10 * 3
    assert decode.tokens == 32 * 2 * 10
    assert update.cost.flops == 1 + 4 * 100  # 7,040 tokens in rows of 2,000
    device = devices.get("v5e")
    assert next(iter(update.seconds(device))) == "compute"
    assert next(iter(decode.seconds(device))) == "memory bandwidth"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v5e-32", "no TPU slice"),
        ("h100:2x2", "no TPU slice"),
        ("v5e:2x2x2", "has 3 dimensions; a slice of v5e has 2"),
        ("v5p:4x4", "has 2 dimensions; a slice of v5p has 3"),
        ("v6e:0x4", "positive"),
        ("v5e:3x5", "no slices of this shape; those of v5e are 1x1, 2x2,"),
        ("v5e:2x8", "no slices of this shape"),
        ("v6e:16x8", "no slices of this shape"),
        ("v6e:16x32", "no slices of this shape"),
        ("v5p:1x1x3", "no slices of this shape; those of v5p are 2x2x1,"),
        ("v5p:2x2x8", "no slices of this shape"),
        ("v4:8x4x4", "ascending"),
    ],
)
def test_names_of_slices_that_do_not_exist_are_refused(name, message):
    with pytest.raises(errors.ConfigError, match=message):
        topology.parse(name)


def test_slices_that_exist_have_their_chips():
    names = ("v5e:1x1", "v6e:8x16", "v4:2x2x1", "v7x:2x2x2", "v5p:2x4x4", "v5p:4x8x12")
    assert [topology.parse(name)[1] for name in names] == [1, 128, 4, 8, 32, 384]


def test_slices_of_so_many_chips_have_a_shape_by_default():
    default = ("4x8", "2x2x1", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16")
    assert all(map(topology.is_default, default))
    assert not any(map(topology.is_default, ("4x4x16", "4x8x16", "4x16x16")))


def test_without_the_compiler_its_installation_is_named(monkeypatch):
    monkeypatch.setattr(topology.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(errors.ConfigError, match=r"pip install 'agentrl-jax\[tpu-plan"):
        topology.open_slice("v5e:2x2")
