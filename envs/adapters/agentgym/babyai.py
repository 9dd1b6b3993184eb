"""BabyAI on an AgentGym server; item k is level k % 40 + 1 with seed k // 40.

Upstream does not end an episode solved late, and pays its reward again for every
further action; `strict` ends it. The server lists the actions in each observation.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from agentrl.envs import parsing
from agentrl.envs.adapters.agentgym import server

_INSTRUCTION = """\
You explore rooms to reach a goal. Each round you see an observation and answer with a \
thought and one action:
- turn right
- turn left
- move forward
- go to <obj> <id>
- pick up <obj> <id>
- go through <door> <id>: the door must be open.
- toggle and go through <door> <id>: the door may be closed or locked; a locked one \
needs that you carry a key of its colour.
- toggle: opens a closed or locked door right in front of you.
Answer in this form:
Thought:
<Your Thought>

Action:
<Your Action>"""


class BabyAI(server.ServerEnvironment):
    """See the module docstring."""

    name = "babyai"
    instruction_text = _INSTRUCTION
    turn_limits: ClassVar = {"strict": 20, "agentgym": 20}

    def _parse(self, text: str) -> parsing.ParsedAction:
        return parsing.parse_single_action(text)

    def _score(self, reply: Mapping[str, Any]) -> float:
        return float(reply["score"])  # the running sum of rewards

    def _succeeded(self, reply: Mapping[str, Any]) -> bool:
        return float(reply["reward"]) > 0.0  # it falls with the steps taken


SPEC = server.make_spec(BabyAI)
