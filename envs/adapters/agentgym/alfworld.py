"""AlfWorld on an AgentGym server; item k is `game` k of its 2,420 + 200."""

from typing import ClassVar

from agentrl.envs.adapters.agentgym import server

_INSTRUCTION = """\
You are in a household and have a task to complete by actions. At the start you see \
the room, the task and the actions you may choose from; after each action, what came \
of it. Answer in one of two forms. With a thought:
Thought:
your thoughts.

Action:
your next action
or the action alone:
Action:
your next action
"Nothing happened" means that the action was invalid: try another.
1. Choose the action from the available ones; any other is invalid.
2. Think when you need to, else act."""


class AlfWorld(server.ServerEnvironment):
    """See the module docstring."""

    name = "alfworld"
    instruction_text = _INSTRUCTION
    turn_limits: ClassVar = {"strict": 30, "agentgym": 30}
    native_list = "first"
    task_field = "game"
    reset_body: ClassVar = {"world_type": "Text"}


SPEC = server.make_spec(AlfWorld)
