"""One table of types, from the experiment to the arrays."""

import dataclasses
import sys

import commands
import fake_run
import jax
import jax.numpy as jnp
import pytest

from agentrl import config, errors
from agentrl.experiment import files, precision
from agentrl.models import kv_cache, model_config, transformer
from agentrl.planning import memory, workloads

FIELDS = [field.name for field in dataclasses.fields(model_config.Precision)]
EXPERIMENT = """
import fake_run, dataclasses
from agentrl.models.model_config import ModelConfig, Precision
def get_config():
    model = ModelConfig(precision={})
    return dataclasses.replace(fake_run.make_settings(), model=model)
"""


@pytest.fixture
def load(tmp_path):
    """Function that loads an experiment with this source of a precision."""

    def load(source, *overrides, **arguments):
        path = tmp_path / "some.py"
        path.write_text(EXPERIMENT.format(source))
        return files.load(path, overrides, **arguments).model.precision

    return load


@pytest.mark.parametrize("platform", precision.PLATFORMS)
def test_a_platform_fills_what_an_experiment_leaves_out(load, platform):
    assert load("None", platform=platform) == precision.PLATFORMS[platform]
    own = "Precision(cache='bfloat16')"
    assert load(own, platform=platform) == model_config.Precision(cache="bfloat16")


def test_this_platform_is_a_cpu_and_computes_in_float32(load):
    assert load("None") == model_config.Precision()


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("platform", ["cpu", "tpu"])
def test_every_field_can_be_set(load, field, platform):
    defaults = dataclasses.asdict(precision.PLATFORMS[platform])
    others = {"float32": "bfloat16", "bfloat16": "float32", "compute": "int8"}
    other = others[defaults[field]]
    changed = load("None", f"model.precision.{field}={other}", platform=platform)
    assert dataclasses.asdict(changed) == defaults | {field: other}


@pytest.mark.parametrize("field", FIELDS)
def test_unknown_types_are_refused_by_field(load, field):
    message = rf"model\.precision\.{field}: 'float8' is not one of"
    with pytest.raises(errors.ConfigError, match=message):
        load(f"Precision({field}='float8')")
    with pytest.raises(errors.ConfigError, match=message):
        load("None", f"model.precision.{field}=float8")


def test_a_platform_without_defaults_is_named():
    with pytest.raises(errors.ConfigError, match=r"'abacus'.*\['cpu', 'gpu', 'tpu'\]"):
        precision.fill_in(fake_run.make_settings(), "abacus")


def test_what_was_filled_in_is_stored_with_the_run():
    settings = precision.fill_in(fake_run.make_settings(), "tpu")
    stored = files.from_json(files.to_json(settings))
    assert stored.model.precision == precision.PLATFORMS["tpu"]


@pytest.mark.parametrize("tied", [True, False])
def test_arrays_have_the_types_of_their_fields(tied):
    for chosen in FIELDS[:-1]:  # moments: tests/test_optimizer.py
        types = dict.fromkeys(FIELDS, "float32") | {chosen: "bfloat16"}
        shape = model_config.ModelConfig(
            precision=model_config.Precision(**types), tied_embeddings=tied
        )
        model = transformer.Model(shape)
        params = jax.eval_shape(model.init, jax.random.key(0))
        cache = jax.eval_shape(lambda s=shape: kv_cache.empty(s, 2, 8))
        tokens = jax.ShapeDtypeStruct((2, 3), jnp.int32)
        counts = jax.ShapeDtypeStruct((2,), jnp.int32)
        hidden, cache = jax.eval_shape(model.append, params, tokens, counts, cache)
        output = jax.eval_shape(model.unembedding, params)
        assert {str(x.dtype) for x in jax.tree.leaves(params)} == {types["params"]}
        assert {str(x.dtype) for x in cache.keys + cache.values} == {types["cache"]}
        assert (hidden.dtype, output.dtype) == (types["compute"], types["head"])


@pytest.mark.parametrize("implementation", ["matmul", "xla"])
@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
@pytest.mark.parametrize("cache", ["float32", "bfloat16"])
def test_cache_and_activations_may_differ(implementation, compute, cache):
    def last_hidden(**types):
        shape = model_config.ModelConfig(
            num_layers=1,
            attention=implementation,
            precision=model_config.Precision(**types),
        )
        model, tokens = transformer.Model(shape), jnp.arange(12).reshape(2, 6)
        rows = kv_cache.empty(shape, 2, 8)
        params = jax.jit(model.init)(jax.random.key(0))
        return jax.jit(model.append)(params, tokens, jnp.array([6, 4]), rows)[0]

    exact, found = last_hidden(), last_hidden(compute=compute, cache=cache)
    assert jnp.abs(exact - found).max() < 0.1 * jnp.abs(exact).max()
    assert (exact == found).all() == (compute == cache == "float32")


def test_the_planner_counts_the_same_types():
    def plan(*overrides):
        sizes = {"lora_rank": None, "int8_base": False}
        work = workloads.of_model("llama-3.2-1b", overrides, platform="tpu", **sizes)
        found = memory.estimate(
            dataclasses.replace(work, mesh=config.MeshConfig(data=1))
        )
        return {**found.state, **found.update, **found.rollout}

    before = plan()
    for field, part in (
        ("params", "trained parameters"),
        ("cache", "cache"),
        ("moments", "optimizer"),
    ):
        types = precision.PLATFORMS["tpu"]
        narrow = getattr(types, field) == "bfloat16"
        other = "float32" if narrow else "bfloat16"
        after = plan(f"model.precision.{field}={other}")[part]
        assert after / before[part] == pytest.approx(2 if narrow else 0.5, rel=1e-3)
    shape = workloads.presets.get("llama-3.2-1b")
    halved = plan("model.precision.head=bfloat16")["rollout parameters"]
    embedding = shape.vocab_size * shape.hidden_size
    assert before["rollout parameters"] - halved == 2 * embedding


def test_the_command_takes_the_same_override():
    command = [sys.executable, "-m", "agentrl.launch.plan", "--model=smollm2-135m"]
    flags = ["--hbm_gib=16", "--set=model.precision.moments=float8"]
    done = commands.run([*command, *flags])
    assert done.returncode == 1
    assert "model.precision.moments: 'float8' is not one of" in done.stderr
