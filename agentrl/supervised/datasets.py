"""Conversations to learn from: a file, or a data set on the Hub, in two common formats.

  AgentTraj-L  {"item_id": "babyai_3", "conversations":
               [{"from": "human" | "gpt", "value": text, "loss": true | false | null}]}
  OpenAI       {"messages": [{"role": "system" | "user" | "assistant", "content": text}]}

A file is a JSON list of such objects, or holds one in every line; Parquet files have one
in every row. Every answer is trained unless its `loss` is false.

A data set is named as `OWNER/NAME`, `OWNER/NAME@REVISION`, and with `:FILE` behind it if it
has several files. It comes from the Hugging Face cache if it is there.
"""

import json
import pathlib
from typing import Any

from agentrl import errors
from agentrl.chat.renderer import Message
from agentrl.sources import hub

_ROLES = {"human": "user", "gpt": "assistant"}
_FOLLOWS = {
    ("", "system"),
    ("", "user"),
    ("system", "user"),
    ("user", "assistant"),
    ("assistant", "user"),
}


def pin(where: str, begun: str = "") -> str:
    """Returns the name of a data set on the Hub with its commit; a path as it is.

    Args:
      where: a path or name, as `read` takes it.
      begun: the pinned name that a run began with; it stays unless `where` differs.

    Raises:
      ConfigError: if the data set can neither be found in the cache nor be fetched.
    """
    name, colon, file = where.partition(":")
    if not hub.is_name(name):
        return where
    known, _, known_file = begun.partition(":")
    if file == known_file:
        name = hub.keep_revision(name, known)
    _, pinned = hub.fetch(name, "dataset")
    return f"{pinned}{colon}{file}"


def locate(where: str) -> pathlib.Path:
    """Returns the file that a path or name of a data set means.

    Raises:
      ConfigError: if the data set cannot be found, or has no such file.
    """
    name, _, file = where.partition(":")
    if not hub.is_name(name):
        return pathlib.Path(where)
    folder, _ = hub.fetch(name, "dataset")
    return hub.choose_file(folder, file, name)


def read(where: str | pathlib.Path) -> list[tuple[str, list[Message]]]:
    """Reads (item id, messages) of every conversation; a missing id becomes its number.

    Args:
      where: a file, or the name of a data set; see the module docstring.

    Raises:
      ConfigError: if the file cannot be read, or a conversation has another form or no
        answer to train on.
    """
    path = locate(str(where))
    try:
        if path.suffix == ".parquet":
            stored = _read_parquet(path)
        else:
            stored = _parse(path.read_text("utf-8"))
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


def _parse(text: str) -> list[Any]:
    if text.lstrip().startswith("["):
        return json.loads(text)
    return [json.loads(line) for line in text.split("\n") if line.strip()]


def _read_parquet(path: pathlib.Path) -> list[Any]:
    try:
        from pyarrow import parquet  # type: ignore[import-not-found]
    except ImportError as error:
        raise errors.ConfigError(
            f"{path} is a Parquet file, which pyarrow reads; run `python -m pip install "
            "pyarrow`, or give a file of JSON lines."
        ) from error
    return parquet.read_table(path).to_pylist()


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
