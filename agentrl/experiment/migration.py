"""Configurations that earlier versions stored, in the terms of this one."""

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

from agentrl.config import algorithms

_RENAMED = {
    "step_weight": "step_advantage_weight",
    "max_first_gap": "max_logprob_mismatch",
}


def upgrade(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Rewrites the JSON of a `RunConfig`; that of this version is returned as it is.

    Until version 0.1 all algorithms shared one class, in which None stood for what was
    published, and a warm start was a kind of stage.
    """
    upgraded = copy.deepcopy(dict(stored))
    stages = upgraded.get("stages")
    if isinstance(stages, list):
        upgraded["stages"] = [
            _upgrade_stage(stage)
            if isinstance(stage, dict) and "kind" in stage
            else stage
            for stage in stages
        ]
    return upgraded


def _upgrade_stage(stage: dict[str, Any]) -> dict[str, Any]:
    supervised = stage.pop("kind") == "warm_start"
    source = stage.pop("warm_start", {})
    old = stage["algorithm"]
    if supervised:
        updates = old["updates_per_iteration"]
        new = {"name": "supervised", "updates_per_iteration": updates, **source}
    else:
        new = _upgrade_algorithm(old)
    return stage | {"algorithm": new}


def _upgrade_algorithm(old: dict[str, Any]) -> dict[str, Any]:
    renamed = {_RENAMED.get(name, name): value for name, value in old.items()}
    if (divided := renamed.pop("divide_by_std", None)) is not None:
        renamed["advantage_scale"] = "std" if divided else "none"
    coefficient = renamed.pop("kl_coefficient", 0.0)
    placement, estimator = renamed.pop("kl_in", ""), renamed.pop("kl_estimator", "")
    if coefficient:
        renamed["kl"] = {
            "coefficient": coefficient,
            "placement": placement,
            "estimator": estimator,
        }
    endings = ("on_max_turns", "on_max_tokens", "on_env_timeout")
    if not any(renamed.get(name) == "penalize" for name in endings):
        renamed.pop("penalty", None)  # had no effect
    own = {field.name for field in dataclasses.fields(algorithms.find(old["name"]))}
    return {
        name: value
        for name, value in renamed.items()
        if name == "name" or (name in own and value is not None)
    }
