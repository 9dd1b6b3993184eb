"""Renders a chat template in a process of its own, within limits of time and memory.

Whoever writes a template can make it loop or fill the memory, and a sandbox forbids
neither. Reads one JSON object from standard input: a list of (template, messages, prompt)
and the special tokens. What a template raises is left for the caller to meet; only
leaving the limits ends this process with an error.
"""

import contextlib
import json
import resource
import sys

from transformers.utils import chat_template_utils

CPU_SECONDS = 5
BYTES = 4 << 30  # of addresses, libraries included


def main() -> None:
    """Renders everything once."""
    asked = json.load(sys.stdin)
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = int(used.ru_utime + used.ru_stime) + CPU_SECONDS
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
    with contextlib.suppress(ValueError, OSError):  # not on every system
        resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    for template, messages, prompt in asked["renderings"]:
        try:
            chat_template_utils.render_jinja_template(
                [messages],
                chat_template=template,
                add_generation_prompt=prompt,
                **asked["special_tokens"],
            )
        except MemoryError:
            sys.exit(f"it fills {BYTES >> 30} GiB of memory")
        except Exception:
            continue


if __name__ == "__main__":
    main()
