"""Compares the rules for failure tags with what a reader found in the same episodes.

  python tests/reporting/labels/precision.py [ENV ...]

prints, per environment and tag: of the episodes to which the rules give the tag, in how
many a reader found it, did not, or left it unclear; and in how many the rules missed it.
"""

import collections
import pathlib
import sys
from collections.abc import Iterator

from agentrl.judging import labelled
from agentrl.transcripts import failures

HERE = pathlib.Path(__file__).parent


def read(env: str) -> Iterator[labelled.Labelled]:
    """Yields the labelled episodes of an environment."""
    return labelled.read(HERE / f"{env}.jsonl.gz", HERE / f"{env}.csv")


def compare(env: str) -> dict[str, collections.Counter]:
    """By tag, how many episodes are "right", "wrong", "unclear" and "missed"."""
    counts = {tag: collections.Counter() for tag in failures.TAGS}
    for one in read(env):
        found = set(failures.find_tags(one.episode))
        for tag in found | one.tags:
            if tag not in found:
                kind = "missed"
            elif tag in one.tags:
                kind = "right"
            else:
                kind = "unclear" if tag in one.unclear else "wrong"
            counts[tag][kind] += 1
    return counts


def main(*chosen: str) -> None:
    """Prints the table as Markdown."""
    names = chosen or sorted(path.stem for path in HERE.glob("*.csv"))
    print(
        "| environment | tag | given | right | unclear | wrong | precision | missed |"
    )
    print("|" + "---|" * 8)
    for env in names:
        for tag, n in compare(env).items():
            if not n:
                continue
            sure = n["right"] + n["wrong"]
            share = f"{100 * n['right'] / sure:.0f} %" if sure else "-"
            print(
                f"| {env} | {tag} | {sure + n['unclear']} | {n['right']} | "
                f"{n['unclear']} | {n['wrong']} | {share} | {n['missed']} |"
            )


if __name__ == "__main__":
    main(*sys.argv[1:])
