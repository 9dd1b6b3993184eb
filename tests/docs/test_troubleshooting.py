"""Messages that docs/troubleshooting.md explains are messages of the code."""

import pathlib
import re

ROOT = pathlib.Path(__file__).parents[2]
PAGE = ROOT / "docs" / "troubleshooting.md"
JOINED = re.compile(r'"\s*\n\s*f?r?"')  # between two parts of a literal


def source():
    paths = [
        path
        for folder in ("agentrl", "envs", "launch")
        for path in sorted((ROOT / folder).rglob("*.py"))
    ]
    return JOINED.sub("", "\n".join(path.read_text() for path in paths))


def quoted_messages():
    """Parts of messages in first columns, without what `...` stands for."""
    for line in PAGE.read_text().splitlines():
        if line.startswith("| `"):
            for quoted in re.findall(r"`([^`]+)`", line.split("|")[1]):
                yield from filter(None, map(str.strip, quoted.split("...")))


def test_every_quoted_message_is_in_the_code():
    code, quoted = source(), list(quoted_messages())
    assert len(quoted) > 20
    assert [message for message in quoted if message not in code] == []
