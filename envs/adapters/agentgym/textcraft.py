"""TextCraft on an AgentGym server; item k is the goal with `data_idx` k."""

from typing import ClassVar

from agentrl.envs import parsing
from agentrl.envs.adapters.agentgym import server

_INSTRUCTION = """\
You craft items in Minecraft. At the start you see crafting commands of the form \
"craft [target object] using [input ingredients]" and a goal. Each round, answer with \
one action: "get" an ingredient from the environment, look at your "inventory", or \
"craft" something with one of the commands.
Answer in this form:
Thought:
your thoughts

Action:
your next action

1. Always give quantities: get 1 lapis lazuli; craft 1 blue dye using 1 lapis lazuli; \
craft 1 golden carrot using 8 gold nugget, 1 carrot
2. Do not say where an item to get comes from.
3. Use only the commands shown. Where one asks for a kind of item, such as "planks", a \
special kind will do, such as "dark oak planks"."""


class TextCraft(server.ServerEnvironment):
    """See the module docstring."""

    name = "textcraft"
    instruction_text = _INSTRUCTION
    turn_limits: ClassVar = {"strict": 20, "agentgym": 30}

    def _parse(self, text: str) -> parsing.ParsedAction:
        return parsing.parse_single_action(text)


SPEC = server.make_spec(TextCraft)
