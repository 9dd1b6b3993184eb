import dataclasses
import functools
import sys

import commands
import jax
import jax.numpy as jnp
import pytest

from agentrl import config
from agentrl.engine import engine, turns
from agentrl.models import lora, model_config, transformer
from agentrl.parallel import sharding
from agentrl.planning import memory

SHAPE = model_config.ModelConfig(vocab_size=2048, hidden_size=256, num_layers=2)
WORK = memory.Workload(
    model=SHAPE,
    mesh=config.MeshConfig(data=1),
    slots_per_device=16,
    context=1024,
    append=16,
)


@pytest.mark.parametrize(
    ("tied", "append", "changes"),
    [
        (True, 16, {}),  # in groups of rows
        (False, 128, {}),
        (False, 128, {"mlp_size": 2048}),  # pieces of all rows
        (False, 128, {"attention": "xla"}),  # as accelerators prefill: all at once
    ],
)
def test_a_compiled_turn_takes_what_was_planned(tied, append, changes):
    shape = dataclasses.replace(SHAPE, tied_embeddings=tied, **changes)
    rollout = config.RolloutConfig(
        num_slots=16,
        cache_buckets=(1024,),
        append_buckets=(append,),
        max_action_tokens=4,
    )
    model = transformer.Model(shape)
    mesh = jax.sharding.Mesh([[jax.devices()[:1]]], sharding.AXES)
    rollouts = engine.Engine(
        model, mesh, rollout, stop_tokens=(1,), num_valid_tokens=2048
    )
    cache = jax.eval_shape(lambda: rollouts.new_cohort().cache)
    inputs = turns.BatchInputs(
        *(
            jax.ShapeDtypeStruct(s, jnp.int32)
            for s in ((16, append), (16,), (16,), (16,), (16, 2))
        )
    )
    params = jax.eval_shape(model.init, jax.random.key(0))
    turn = rollouts.turn.lower(params, cache, jax.random.key(0), inputs)
    taken = turn.compile().memory_analysis()

    found = memory.estimate(
        dataclasses.replace(WORK, model=shape, append=append)
    ).rollout
    held = found["rollout parameters"] + found["cache"]
    assert held == pytest.approx(taken.argument_size_in_bytes, rel=0.01)
    peak = held + taken.temp_size_in_bytes  # outputs take the place of arguments
    assert sum(found.values()) == pytest.approx(peak, rel=0.1)


@pytest.mark.parametrize(
    ("mesh", "adapters"),
    [
        (config.MeshConfig(data=8), None),
        (config.MeshConfig(data=2, fsdp=2, model=2), None),
        (config.MeshConfig(data=1, fsdp=8), model_config.LoraConfig(int8_base=True)),
    ],
    ids=["data", "all_axes", "lora_int8"],
)
def test_parameters_are_what_lies_on_a_device(mesh, adapters):
    model = transformer.Model(SHAPE)
    split = functools.partial(lora.split, lora=adapters, trainable=None, config=SHAPE)
    halves = split(model.init(jax.random.key(0)), jax.random.key(1))
    placed = sharding.with_shardings(halves, sharding.make_mesh(mesh))
    halves = jax.device_put(halves, jax.tree.map(lambda s: s.sharding, placed))
    on_first = [
        sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(half))
        for half in halves
    ]
    work = dataclasses.replace(WORK, mesh=mesh, lora=adapters)
    found = memory.estimate(work).state
    assert [found["trained parameters"], found["frozen parameters"]] == on_first


def test_adapters_in_8_bits_take_a_quarter_of_the_kernels():
    frozen = [
        memory.estimate(
            dataclasses.replace(WORK, lora=model_config.LoraConfig(int8_base=int8))
        ).state["frozen parameters"]
        for int8 in (False, True)
    ]
    vocabulary = SHAPE.vocab_size * SHAPE.hidden_size * 4
    assert frozen[1] - vocabulary == pytest.approx(
        (frozen[0] - vocabulary) / 4, rel=0.05
    )


def test_overlapping_phases_need_room_together():
    apart = memory.estimate(WORK)
    together = memory.estimate(dataclasses.replace(WORK, overlap=True))
    phases = [sum(phase.values()) for phase in (apart.update, apart.rollout)]
    assert together.peak - apart.peak == min(phases) > 0


def run_plan(*arguments):
    command = [sys.executable, "-m", "agentrl.launch.plan", *arguments]
    return commands.run(command)


def test_the_command_finds_a_mesh_and_says_what_dominates():
    done = run_plan("--model=qwen2.5-7b", "--devices=16", "--accelerator=v5p")
    assert done.returncode == 0, done.stderr
    assert "mesh: data 4, fsdp 4, model 1" in done.stdout
    assert "largest: optimizer" in done.stdout


def test_the_command_says_what_to_change_where_nothing_fits():
    done = run_plan("--model=Qwen2.5-7B", "--devices=1", "--accelerator=v5e")
    assert done.returncode == 1
    assert "--lora_rank" in done.stdout
    assert "qwen2.5-7b" in run_plan("--model=gpt", "--hbm_gib=16").stderr


MODEL = ("--model=qwen2.5-7b", "--devices=8", "--accelerator=h100")
DEMO = ("--config=experiments/demo/demo.py", "--devices=1", "--hbm_gib=16")
SLICE = ("--model=qwen2.5-7b", "--topology=v5e:4x8")


@pytest.mark.parametrize(
    ("given", "flag", "message"),
    [
        (
            DEMO,
            "--lora_rank=8",
            "with --config. Change the experiment: --set=lora.rank=",
        ),
        (DEMO, "--int8_base", "--set=lora.int8_base"),
        (DEMO, "--context=4096", "--set=stages.*.rollout.cache_buckets"),
        (DEMO, "--slots_per_device=16", "--set=stages.*.rollout.num_slots"),
        (DEMO, "--row_tokens=4096", "--set=learner.row_tokens"),
        (DEMO, "--rows_per_device=1", "--set=learner.rows_per_microbatch"),
        (DEMO, "--logprob_chunk=64", "--set=learner.logprob_chunk"),
        (DEMO, "--append=64", "--set=stages.*.rollout.append_buckets"),
        (DEMO, "--kl", "--set=stages.*.algorithm.kl"),
        (DEMO, "--noremat", "--set=learner.remat"),
        (MODEL, "--int8_base", "no effect without --lora_rank"),
        (MODEL, "--largest", "no effect without --topology"),
        (DEMO, "--turns=2", "no effect without --topology"),
        (MODEL, "--observation_tokens=2", "no effect without --topology"),
        (SLICE, "--devices=8", "no effect with --topology"),
        (("--model=qwen2.5-7b",), "--hbm_gib=-3", "no size of a memory"),
        (("--model=qwen2.5-7b",), "--hbm_gib=0", "no size of a memory"),
        (("--model=qwen2.5-7b",), "--hbm_gib=nan", "no size of a memory"),
        (("--model=qwen2.5-7b",), "--hbm_gib=inf", "no size of a memory"),
    ],
)
def test_what_would_not_change_the_plan_is_refused(given, flag, message):
    done = run_plan(*given, flag)
    assert done.returncode == 1 and message in done.stderr
    assert done.stderr.count("\n") == 1 and not done.stdout


FLAGS_OF_PLAN = """
from agentrl.launch import plan
known = plan.flags.FLAGS
for name in plan.OF_TOPOLOGY:
    assert known[name].help.startswith("With --topology: "), name
sized = {flag.name for flag in plan._SIZES.values()}
demanded = {flag.name for flag in plan._DEMAND.values()}
assert set(plan.OF_MODEL) == sized | {"lora_rank", "int8_base", "remat", "kl"}
assert set(plan.OF_TOPOLOGY) == demanded | {"largest"}
defined = {flag.name for flag in known.get_key_flags_for_module(plan.__name__)}
special = {*plan.OF_MODEL, *plan.OF_TOPOLOGY, *plan.NOT_OF_TOPOLOGY}
assert defined - special == {
    "config", "model", "set", "topology", "accelerator", "hbm_gib", "headroom", "fsdp",
    "tensor",
}, defined - special
"""


def test_each_flag_of_a_plan_is_known_to_have_an_effect_or_not():
    checked = commands.run([sys.executable, "-c", FLAGS_OF_PLAN])
    assert checked.returncode == 0, checked.stderr
