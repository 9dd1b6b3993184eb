"""From an answer to an action: cleaning, thoughts, and the answer formats.

`read_answer` is applied to every answer before an environment sees it; the `parse_*`
functions then take the action out. Answers may be long, as models reason before they
act: everything here takes time linear in the length of the answer, reads all of it, and
cuts only the action.

In profile `agentgym` the results are those of AgentGym's clients, with one exception:
what stands between `<think>` and `</think>` is never searched, in either profile.
Source: WooooDyy/AgentGym, `agentenv/agentenv/controller/utils.py` and
`agentenv/agentenv/envs/*.py`; `docs/answers.md` compares them on 100 answers.
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import Literal

Profile = Literal["strict", "agentgym"]

MAX_PARSED_CHARS = 20_000  # of an action; more is cut, as replies may repeat it

_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")
_LINE_END = re.compile("\r\n|[\x0b\x0c\r\x1c-\x1e\x85\u2028\u2029]")
_CONTROL_SPACE = re.compile("[\x0b\x0c\r\x1c-\x1f]")
_THOUGHT_TAG = re.compile(r"<(/?)think>")
_ACTION_LINE = re.compile(r"Action:\s*([^\n]*)")
_ACTION_TAG = re.compile(r"</?(?:search|answer)>")
_OWN_INFORMATION = re.compile(r"<information>.*?(?:</information>|\Z)", re.DOTALL)
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


@dataclasses.dataclass(frozen=True)
class Tagged:
    """One `<name>content</name>` in an answer."""

    name: str
    content: str


def read_answer(text: str, profile: Profile = "strict") -> str:
    r"""Returns the part of an answer that may hold an action, fit to be printed.

    Thoughts are removed. Lone surrogates and control characters become U+FFFD, so that
    an environment can repeat an action without breaking transcripts or JSON lines.
    `strict` writes every line end as `\n`. `agentgym` does so with `\r\n` only and
    turns other control characters that count as white space into tabs, which upstream's
    parsers treat alike.
    """
    if profile == "strict":
        text = _LINE_END.sub("\n", text)
    else:
        text = _CONTROL_SPACE.sub("\t", text.replace("\r\n", "\n"))
    return remove_thoughts(replace_unprintable(text))


def replace_unprintable(text: str) -> str:
    r"""Replaces lone surrogates, and controls but `\n` and `\t`, by U+FFFD."""
    return _UNPRINTABLE.sub("\ufffd", text)


def remove_thoughts(text: str) -> str:
    """Removes `<think>...</think>` from an answer.

    A thought that is not closed, as in an answer that was cut short, reaches to the
    end. One that is closed but not opened, as under chat templates that open `<think>`
    in the prompt, reaches back to the beginning.
    """
    kept: list[str] = []
    start, thinking = 0, False
    for tag in _THOUGHT_TAG.finditer(text):
        closes = bool(tag[1])
        if closes and not thinking:
            kept.clear()
        elif not closes and not thinking:
            kept.append(text[start : tag.start()])
        thinking = not closes
        start = tag.end()
    if not thinking:
        kept.append(text[start:])
    return "".join(kept)


def parse_last_action(text: str, profile: Profile = "strict") -> ParsedAction:
    """Takes everything after the last `Action:` (WebShop, AlfWorld, SciWorld).

    Without `Action:` the action is empty, unless the text holds `search[` or `click[`,
    which is then taken whole. A closing `</s>` is not part of the action; upstream's
    clients take one more character off with it, and so does `agentgym`.
    """
    if text.endswith("</s>"):
        text = text[: -4 if profile == "strict" else -5]
    _, found, action = text.rpartition("Action:")
    if found:
        return _make_action(action)
    if "search[" in text or "click[" in text:
        return _make_action(text)
    return ParsedAction("")


def parse_single_action(text: str) -> ParsedAction:
    """Takes the one line after `Action:` (TextCraft, BabyAI), in letters and digits.

    The line may follow after any white space. Every character but letters, digits,
    comma and space is dropped and runs of spaces collapse, as upstream does; two or
    more actions are an error shown to the agent.
    """
    actions = _ACTION_LINE.findall(text)
    if len(actions) > 1:
        return ParsedAction("", MULTIPLE_ACTIONS)
    action = actions[0] if actions else ""
    return _make_action(_SPACES.sub(" ", _NOT_PLAIN.sub("", action)))


def find_tagged(text: str, names: Sequence[str]) -> list[Tagged]:
    r"""Finds each `<name>content</name>`, in order and without overlap (SearchQA).

    Equal to all matches of `<(a|b)>(.*?)</\1>` for the names a and b, but linear in
    the length of the text however many tags are left open.
    """
    opening = re.compile("<(" + "|".join(map(re.escape, names)) + ")>")
    closed = set(names)  # those of which a closing tag may still follow
    found: list[Tagged] = []
    position = 0
    while match := opening.search(text, position):
        name, position = match[1], match.end()
        end = text.find(f"</{name}>", position) if name in closed else -1
        if end < 0:
            closed.discard(name)
            continue
        found.append(Tagged(name, text[position:end]))
        position = end + len(f"</{name}>")
    return found


def parse_tagged_action(text: str, profile: Profile = "strict") -> Tagged | None:
    """Takes the search or the answer out of an answer of SearchQA.

    `agentgym` obeys the first one, and if that is an answer scores the last. `strict`
    wants exactly one, after removing what the agent wrote as `<information>`.

    Returns:
      The action, with `name` "search" or "answer", or None if there is none to take.
    """
    if profile == "strict":
        text = _OWN_INFORMATION.sub("", text)
        if len(_ACTION_TAG.findall(text)) != 2:
            return None
    found = find_tagged(text, ("search", "answer"))
    if found and found[0].name == "answer":
        return find_tagged(text, ("answer",))[-1]
    return found[0] if found else None


def render_react(thought: str, action: str) -> str:
    """Writes an answer in the ReAct form; an empty thought leaves only the action."""
    prefix = f"Thought:\n{thought}\n\n" if thought else ""
    return f"{prefix}Action:\n{action}"


def _make_action(text: str) -> ParsedAction:
    return ParsedAction(text.strip()[:MAX_PARSED_CHARS])
