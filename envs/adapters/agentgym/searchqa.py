"""SearchQA on an AgentGym server; item k is the question with id k.

The server reads the whole answer, tags and all. A wrong answer leaves upstream's
episode open to further guesses; `strict` ends it.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from agentrl.envs import parsing, prompts
from agentrl.envs.adapters.agentgym import server

_WRONG = "Sorry, your answer is incorrect."  # how the server's reply begins

_INSTRUCTION = """\
Always reason inside <think>...</think> first. If you lack knowledge, write \
<search>...</search> and stop: no <information>, no <answer>. What is found comes back \
between <information> and </information>; go on only then. Skip no step, and do not \
answer ahead of it."""


class SearchQA(server.ServerEnvironment):
    """See the module docstring."""

    name = "searchqa"
    acknowledgements: ClassVar = {"strict": prompts.ACKNOWLEDGEMENT, "agentgym": "Ok."}
    instruction_text = _INSTRUCTION
    turn_limits: ClassVar = {"strict": 4, "agentgym": 5}
    instance_field = "env_idx"
    task_field = "id"
    create_body: ClassVar = {"id": 0}

    def _parse(self, text: str) -> parsing.ParsedAction:
        return parsing.ParsedAction(text)

    def _first_observation(self, reply: Any) -> str:
        return reply

    def _failed(self, reply: Mapping[str, Any]) -> bool:
        return reply["observation"].startswith(_WRONG)


SPEC = server.make_spec(SearchQA)
