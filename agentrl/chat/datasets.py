"""Files of conversations to learn from, in two common formats.

  AgentTraj-L  {"item_id": "babyai_3", "conversations":
               [{"from": "human" | "gpt", "value": text, "loss": true | false | null}]}
  OpenAI       {"messages": [{"role": "system" | "user" | "assistant", "content": text}]}

A file is a JSON list of such objects, or holds one in every line. Every answer is trained
unless its `loss` is false.
"""

import json
import pathlib
from typing import Any

from agentrl import errors
from agentrl.chat.renderer import Message

_ROLES = {"human": "user", "gpt": "assistant"}
_FOLLOWS = {
    ("", "system"),
    ("", "user"),
    ("system", "user"),
    ("user", "assistant"),
    ("assistant", "user"),
}


def read(path: pathlib.Path) -> list[tuple[str, list[Message]]]:
    """Reads (item id, messages) of every conversation; a missing id becomes its number.

    Raises:
      ConfigError: if the file cannot be read, or a conversation has another form or no
        answer to train on.
    """
    try:
        text = path.read_text("utf-8")
        if text.lstrip().startswith("["):
            stored = json.loads(text)
        else:
            stored = [json.loads(line) for line in text.split("\n") if line.strip()]
    except (OSError, ValueError) as error:
        raise errors.ConfigError(
            f"cannot read conversations from {path}: {error}"
        ) from error
    found = []
    for number, item in enumerate(stored, 1):
        try:
            messages = _read_messages(item)
        except (KeyError, TypeError, ValueError) as error:
            raise errors.ConfigError(
                f"{path}, conversation {number}: {type(error).__name__}: {error}; it is "
                "neither in AgentTraj-L's format nor in OpenAI's."
            ) from error
        found.append((str(item.get("item_id", number)), messages))
    return found


def _read_messages(item: dict[str, Any]) -> list[Message]:
    messages = []
    for turn in item["conversations"] if "conversations" in item else item["messages"]:
        role = turn["from"] if "from" in turn else turn["role"]
        text = turn["value"] if "value" in turn else turn["content"]
        role = _ROLES.get(role, role)
        if role not in ("system", "user", "assistant") or not isinstance(text, str):
            raise ValueError(f"a message of {role!r} holds {str(text)[:40]!r}")
        previous = messages[-1].role if messages else ""
        if (previous, role) not in _FOLLOWS:
            raise ValueError(f"{role!r} after {previous or 'the start'!r}")
        trained = role == "assistant" and turn.get("loss") is not False
        messages.append(Message(role, text, trained))
    if not any(message.trained for message in messages):
        raise ValueError("no answer to train on")
    return messages
