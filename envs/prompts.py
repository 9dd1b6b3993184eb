"""What opens an episode besides its first observation, and how a user replaces it.

Every environment takes the options `instruction` and `acknowledgement`: text that stands
in place of its own rules, and of the answer to them that the `agentgym` framing shows. A
value that begins with `@` names a file that holds the text:

    options={"instruction": "@prompts/webshop.txt", "acknowledgement": "Ok."}

What was replaced is part of a panel's version, and so of its digest, as results under
another prompt are other results.
"""

import hashlib
import pathlib
from collections.abc import Mapping

OPTIONS = ("instruction", "acknowledgement")
ACKNOWLEDGEMENT = "OK. I'll follow your instructions and try my best to solve the task."

_FILE_MARK = "@"


class PromptError(ValueError):
    """A replaced text is missing or empty."""


def read_given(options: Mapping[str, object], option: str) -> str | None:
    """Returns the text that an option gives, None without the option.

    Raises:
      PromptError: if the file cannot be read, or there is no text in it.
    """
    if option not in options:
        return None
    given = str(options[option])
    if not given.startswith(_FILE_MARK):
        text = given
    else:
        path = pathlib.Path(given.removeprefix(_FILE_MARK)).expanduser()
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise PromptError(
                f"option {option} = {given!r}: cannot read the file: {error}."
            ) from error
    if not text.strip():
        raise PromptError(
            f"option {option} = {given!r} holds no text; leave it out to use the "
            "environment's own."
        )
    return text.strip()


def describe_given(options: Mapping[str, object]) -> str:
    """Names replaced texts with digests, as `, instruction 5f0a1b2c`; or empty text."""
    parts = []
    for option in OPTIONS:
        text = read_given(options, option)
        if text is not None:
            digest = hashlib.sha256(text.encode()).hexdigest()[:8]
            parts.append(f", {option} {digest}")
    return "".join(parts)
