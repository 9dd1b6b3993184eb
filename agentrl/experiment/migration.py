"""Configurations that earlier versions stored, in the terms of this one."""

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

from agentrl import config
from agentrl.config import algorithm_configs
from agentrl.models import model_config

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
            _upgrade_stage(stage, is_first=index == 0)
            if isinstance(stage, dict) and "kind" in stage
            else stage
            for index, stage in enumerate(stages)
        ]
    _reset_unread(upgraded)
    return upgraded


def _reset_unread(stored: dict[str, Any]) -> None:
    """Gives fields that nothing reads their defaults; version 0.1 accepted others."""

    def reset(part: object, unread: bool, made: type, *names: str) -> None:
        for field in dataclasses.fields(made):
            if unread and field.name in names and field.name in _dict(part):
                _dict(part)[field.name] = field.default

    tokenizer = _dict(stored.get("tokenizer"))
    kind = tokenizer.get("kind", "train_sentencepiece")
    trained = kind == "train_sentencepiece"
    reset(tokenizer, not trained, config.TokenizerConfig, "vocab_size")
    reset(tokenizer, trained or kind == "bytes", config.TokenizerConfig, "path")
    played = _dict(_dict(stored.get("evaluation")).get("rollout"))
    greedy = played.get("temperature") == 0
    reset(played, greedy, config.RolloutConfig, "top_k", "top_p")
    given = bool(stored.get("weights") or stored.get("start_from"))
    reset(stored.get("model"), given, model_config.ModelConfig, "init")
    stages = stored.get("stages")
    for stage in stages if isinstance(stages, list) else ():
        mixture = _dict(_dict(stage).get("mixture"))
        optimizer = _dict(_dict(stage).get("optimizer"))
        tempered = mixture.get("kind") == "tempered"
        reset(mixture, not tempered, config.MixtureConfig, "temperature")
        tiered = mixture.get("tier", "all") != "all"
        reset(mixture, not tiered, config.MixtureConfig, "tier_file")
        decays = optimizer.get("schedule", "constant") != "constant"
        reset(optimizer, not decays, config.OptimizerConfig, "final_fraction")


def _dict(part: object) -> dict[str, Any]:
    return part if isinstance(part, dict) else {}


def _upgrade_stage(stage: dict[str, Any], *, is_first: bool) -> dict[str, Any]:
    """Rewrites a stage; settings that had no effect, refused today, are left out."""
    supervised = stage.pop("kind") == "warm_start"
    source = stage.pop("warm_start", {})
    old = stage["algorithm"]
    if is_first:
        stage["carry_optimizer"] = False
    if not supervised:
        return stage | {"algorithm": _upgrade_algorithm(old)}
    if source.get("conversations"):
        source = {name: source[name] for name in ("conversations", "episodes_per_step")}
    stage["mixture"] = stage["mixture"] | {"kind": "fixed"}  # others had no effect
    updates = old["updates_per_iteration"]
    new = {"name": "supervised", "updates_per_iteration": updates, **source}
    return stage | {"algorithm": new, "overlap": False, "max_turns": []}


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
    penalized = [name for name in endings if renamed.get(name) == "penalize"]
    if not penalized:
        renamed.pop("penalty", None)  # had no effect
    elif not renamed["penalty"]:
        renamed |= dict.fromkeys(penalized, "keep")
    own = {
        field.name for field in dataclasses.fields(algorithm_configs.find(old["name"]))
    }
    return {
        name: value
        for name, value in renamed.items()
        if name == "name" or (name in own and value is not None)
    }
