"""SciWorld on an AgentGym server; item k is variation k of upstream's list of tasks.

Scores run from 0 to 100, and to -100 for a wrong focus, which ends the episode. Rewards
are differences of scores: as they are in `agentgym`, and in `strict` of scores clipped
to [0, 100] and divided by 100.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from agentrl.envs.adapters.agentgym import server

_INSTRUCTION = """\
You do experiments in a world of rooms and things. Each round you see an observation \
and answer with one action towards the task. The actions:
open/close OBJ; de/activate OBJ; connect OBJ to OBJ; disconnect OBJ; use OBJ [on OBJ]; \
look around; look at OBJ; look in OBJ; read OBJ; move OBJ to OBJ; pick up OBJ; \
put down OBJ; pour OBJ into OBJ; dunk OBJ into OBJ; mix OBJ; go to LOC; eat OBJ; \
flush OBJ; focus on OBJ (says that a thing is what the task is about); wait (10 \
rounds); wait1 (1 round); task; inventory
Answer in this form:
Thought:
your thoughts.

Action:
your next action"""


class SciWorld(server.ServerEnvironment):
    """See the module docstring."""

    name = "sciworld"
    instruction_text = _INSTRUCTION
    turn_limits: ClassVar = {"strict": 20, "agentgym": 30}

    def _first_observation(self, reply: Any) -> str:
        self._last_score = 0.0
        return f"{reply['task_description']}\n{reply['observation']}"

    def _score(self, reply: Mapping[str, Any]) -> float:
        return float(reply["score"])

    def _succeeded(self, reply: Mapping[str, Any]) -> bool:
        return float(reply["score"]) >= 100.0

    def _reward(self, reply: Mapping[str, Any]) -> float:
        score = float(reply["score"])
        if self.config.profile == "strict":
            score = min(max(score, 0.0), 100.0) / 100.0
        reward, self._last_score = score - self._last_score, score
        return reward


SPEC = server.make_spec(SciWorld)
