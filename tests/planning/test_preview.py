import dataclasses
import re

import fake_run
import jax
import pytest

from agentrl import config, errors
from agentrl.experiment import fields
from agentrl.models import lora, transformer
from agentrl.models.model_config import LoraConfig
from agentrl.planning import preview

SETTINGS = fake_run.make_settings()


def test_every_line_of_the_configuration_is_an_override():
    other = dataclasses.replace(SETTINGS, seed=5)
    for path, value in preview.flatten(SETTINGS):
        other = fields.override(other, f"{path}={value!r}")
    assert other == SETTINGS


def test_panels_are_those_that_stages_and_evaluation_play():
    printed = preview.describe(SETTINGS, num_devices=8)
    for stage in SETTINGS.stages:
        for env, _ in stage.mixture.environments:
            assert f"stage '{stage.name}': " in printed and f"of {env} train" in printed
    # The digest is that of the panel itself, not of anything that the preview makes.
    from agentrl.envs import tasks

    for env in SETTINGS.environments:
        panel = tasks.select_tasks(
            env,
            SETTINGS.evaluation.split,
            SETTINGS.environments[env],
            tier=SETTINGS.evaluation.tier,
            subsets=SETTINGS.evaluation.subsets,
            limit=SETTINGS.evaluation.tasks or None,
        )
        assert f"{len(panel.item_ids)} tasks of {env} test" in printed
        assert f"digest {panel.digest}" in printed


@pytest.mark.parametrize("adapters", [None, LoraConfig(rank=2, alpha=4.0)])
def test_parameters_are_counted_trained_ones_apart(adapters):
    settings = dataclasses.replace(SETTINGS, lora=adapters)
    params = transformer.Model(settings.model).init(jax.random.key(0))
    trained, _ = lora.split(
        params, jax.random.key(0), lora=adapters, trainable=None, config=settings.model
    )
    printed = preview.describe(settings, num_devices=8)
    found = re.search(r"^Parameters: (\S+) in the model, (\S+) trained", printed, re.M)
    sizes = [sum(x.size for x in jax.tree.leaves(tree)) for tree in (params, trained)]
    assert [int(number.replace(",", "")) for number in found.groups()] == sizes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"subsets": ("textcraft/depth_9",)}, "evaluation: .*depth_9"),
        ({"split": "tset"}, "evaluation: .*Did you mean 'test'"),
    ],
)
def test_tasks_that_do_not_exist_are_refused(change, message):
    wanted = dataclasses.replace(SETTINGS.evaluation, **change)
    settings = dataclasses.replace(SETTINGS, evaluation=wanted)
    with pytest.raises(errors.ConfigError, match=message):
        preview.describe(settings, num_devices=8)


def test_memory_is_that_of_the_mesh_of_the_run():
    mesh = config.MeshConfig(data=-1, fsdp=2, model=2)
    settings = dataclasses.replace(SETTINGS, mesh=mesh)
    printed = preview.describe(settings, num_devices=8)
    assert "each of 8 devices" in printed and "data 2, fsdp 2, model 2" in printed
    assert "gathered layers" in printed
