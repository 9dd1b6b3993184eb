"""Stored episodes written by hand, for tests of what reads transcripts."""

import dataclasses

import fake_run

from agentrl import types
from agentrl.envs import base
from agentrl.transcripts import episodes


def play(env, *exchanges, ending="max_turns", success=False):
    """An episode of (observation, action, valid) exchanges and a last observation."""
    *exchanges, final = exchanges
    turns = tuple(
        episodes.StoredTurn(
            observation, action, 0.0, valid, observation_tokens=1, action_tokens=1
        )
        for observation, action, valid in exchanges
    )
    trajectory = fake_run.make_trajectory(env, success=success)
    stored = episodes.from_trajectory(
        trajectory, stage="s", iteration=0, env_config=base.EnvConfig()
    )
    return dataclasses.replace(
        stored, turns=turns, final_observation=final, ending=types.Ending(ending)
    )


def act(text):
    return f"Thought:\nLet me see.\n\nAction:\n{text}"
