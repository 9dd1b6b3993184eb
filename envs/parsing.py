"""Answer formats shared by several environments: the two ReAct dialects of AgentGym."""

import dataclasses
import re

_ACTION_LINE = re.compile(r"Action:[ \t]*\n?(.*)")
_NOT_PLAIN = re.compile(r"[^A-Za-z0-9, ]+")
_SPACES = re.compile(r" +")

MULTIPLE_ACTIONS = (
    "Error: Only one 'Action' is allowed per response. Please adjust your response."
)


@dataclasses.dataclass(frozen=True)
class ParsedAction:
    """An action extracted from an answer; `error` is text for the agent, or empty."""

    action: str
    error: str = ""


def parse_last_action(text: str) -> ParsedAction:
    """Takes everything after the last `Action:` (WebShop, AlfWorld, SciWorld).

    Without `Action:` the action is empty, unless the text holds `search[` or `click[`,
    which is then taken whole. Source: AgentGym's ReAct client, `agentenv` utilities.
    """
    text = text.removesuffix("</s>")
    _, found, action = text.rpartition("Action:")
    if found:
        return ParsedAction(action.strip())
    if "search[" in text or "click[" in text:
        return ParsedAction(text.strip())
    return ParsedAction("")


def parse_single_action(text: str) -> ParsedAction:
    """Takes the one `Action:` line (TextCraft, BabyAI), reduced to letters and digits.

    Every character but letters, digits, comma and space is dropped and runs of spaces
    collapse, as upstream does; two or more actions are an error shown to the agent.
    """
    actions = _ACTION_LINE.findall(text)
    if len(actions) > 1:
        return ParsedAction("", MULTIPLE_ACTIONS)
    action = actions[0] if actions else ""
    return ParsedAction(_SPACES.sub(" ", _NOT_PLAIN.sub("", action)).strip())


def render_react(thought: str, action: str) -> str:
    """Writes an answer in the ReAct form; an empty thought leaves only the action."""
    prefix = f"Thought:\n{thought}\n\n" if thought else ""
    return f"{prefix}Action:\n{action}"
