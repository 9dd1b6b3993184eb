"""WebShop on an AgentGym server; item k is the goal with `session_id` k."""

from typing import Any, ClassVar

from agentrl.envs import prompts
from agentrl.envs.adapters.agentgym import server

_INSTRUCTION = """\
You shop on the web, following an instruction. Each round you see a page and answer \
with one action on it: search, where the page has a search box, or a click on one of \
its buttons.
search[keywords]
click[value]
An invalid action changes nothing. Keywords are up to you, so choose them well; the \
value of a click must be on the page.
Answer in this form:

Thought:
I think ...

Action:
click[something]"""


class WebShop(server.ServerEnvironment):
    """See the module docstring."""

    name = "webshop"
    acknowledgements: ClassVar = {"strict": prompts.ACKNOWLEDGEMENT, "agentgym": "Ok."}
    instruction_text = _INSTRUCTION
    turn_limits: ClassVar = {"strict": 10, "agentgym": 10}
    instance_field = "env_idx"
    task_field = "session_id"
    observation_field = "state"

    def _first_observation(self, reply: Any) -> str:
        return self._call("GET", "observation", {})


SPEC = server.make_spec(WebShop)
