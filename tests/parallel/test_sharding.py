import dataclasses
import importlib.util
import logging
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from agentrl import config
from agentrl.models import model_config, transformer
from agentrl.parallel import sharding

SHAPE = model_config.ModelConfig(
    vocab_size=64, hidden_size=24, num_layers=3, num_heads=6, num_kv_heads=2,
    head_dim=8, mlp_size=48,
)  # fmt: skip


@pytest.fixture
def warnings(caplog):
    sharding._warn_replicated.cache_clear()
    caplog.set_level(logging.WARNING, logger="absl")
    return caplog


def shardings_of(shape, *, moments=False, **mesh):
    params = jax.eval_shape(transformer.Model(shape).init, jax.random.key(0))
    tree = {"params": params, "opt_state": [{"mu": params, "nu": params}]}
    return sharding.shardings_for(
        tree if moments else params,
        sharding.make_mesh(config.MeshConfig(**mesh)),
        sharding.TRANSFORMER_RULES,
    )


def test_what_can_be_divided_is_sharded_without_a_warning(warnings):
    found = shardings_of(SHAPE, moments=True, data=2, fsdp=2, model=2)
    query = found["params"]["blocks"][0]["attention"]["query"]
    assert tuple(query.spec) == ("fsdp", "model")
    assert not warnings.messages


def test_a_dimension_that_is_replicated_is_warned_of_once_per_parameter(warnings):
    # Two key-value heads cannot be divided over four devices; all other dimensions can.
    shape = dataclasses.replace(SHAPE, num_heads=8, qkv_bias=False)
    for _ in range(2):
        found = shardings_of(shape, moments=True, data=1, fsdp=2, model=4)
    for block in found["params"]["blocks"].values():
        assert tuple(block["attention"]["key"].spec) == ("fsdp", None)
        assert tuple(block["attention"]["query"].spec) == ("fsdp", "model")
    assert sorted(warnings.messages) == [
        f"blocks/*/attention/{name} (24, 2, 8): dimension 1 of size 2 is not divisible by "
        "the 4 devices of mesh.model; every one of them holds it in full."
        for name in ("key", "value")
    ]


def test_scalars_are_replicated_without_a_warning(warnings):
    mesh = sharding.make_mesh(config.MeshConfig(data=4, model=2))
    rules = [("query", jax.sharding.PartitionSpec("model"))]
    found = sharding.shardings_for({"query": jnp.zeros(())}, mesh, rules)
    assert tuple(found["query"].spec) == ()
    assert not warnings.messages


def test_leaves_without_a_rule_are_all_listed():
    mesh = sharding.make_mesh(config.MeshConfig())
    rules = [("head", jax.sharding.PartitionSpec())]
    tree = {name: jnp.zeros(8) for name in ("head", "gate", "up")}
    with pytest.raises(ValueError, match=r"2 parameters match no .*\['gate', 'up'\]"):
        sharding.shardings_for(tree, mesh, rules)


@pytest.mark.slow
def test_every_mesh_can_be_laid_out_on_slices():
    """Also those that have to split an axis of the torus."""
    if importlib.util.find_spec("libtpu") is None:  # imported, it would hold the TPU
        pytest.skip("needs libtpu (extra tpu-plan)")
    code = """
import itertools, os
from agentrl import config
from agentrl.hardware import topology
from agentrl.parallel import sharding

for name in ("v5e:4x8", "v5p:2x2x4", "v6e:4x8"):
    devices = topology.open_slice(name).devices
    for fsdp, model in itertools.product((1, 2, 4, 8, 16), (1, 2)):
        if len(devices) % (fsdp * model) == 0:
            mesh = sharding.make_mesh_of(
                config.MeshConfig(fsdp=fsdp, model=model), devices
            )
            assert {*mesh.devices.flat} == {*devices}, (name, fsdp, model)
os._exit(0)  # libtpu does not always end by itself
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
