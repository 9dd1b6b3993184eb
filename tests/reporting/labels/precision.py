"""Compares the rules for failure tags with what a reader found in the same episodes.

  python tests/reporting/labels/precision.py [ENV ...]

prints, per environment and tag: of the episodes to which the rules give the tag, in how
many a reader found it, did not, or left it unclear; and in how many the rules missed it.
"""

import collections
import csv
import gzip
import json
import pathlib
import sys
from collections.abc import Iterator

from agentrl import types
from agentrl.transcripts import episodes, failures

HERE = pathlib.Path(__file__).parent


def read(env: str) -> Iterator[tuple[str, episodes.StoredEpisode, set[str], set[str]]]:
    """Yields id, episode, tags and unclear tags of each labelled episode."""
    with (HERE / f"{env}.csv").open() as lines:
        labels = {row["id"]: row for row in csv.DictReader(lines)}
    with gzip.open(HERE / f"{env}.jsonl.gz", "rt") as lines:
        for stored in map(json.loads, lines):
            label = labels[stored["id"]]
            tags, unclear = (set(label[c].split()) for c in ("tags", "unclear"))
            yield stored["id"], restore(stored), tags, unclear


def restore(stored: dict) -> episodes.StoredEpisode:
    """The episode as rules take it; what they do not read is left at nothing."""
    turns = tuple(
        episodes.StoredTurn(**turn, reward=0.0, observation_tokens=0, action_tokens=0)
        for turn in stored["turns"]
    )
    return episodes.StoredEpisode(
        stage="",
        iteration=0,
        env=stored["env"],
        item_id=stored["id"],
        group=0,
        sample=0,
        policy_step=0,
        ending=types.Ending(stored["ending"]),
        success=False,
        score=0.0,
        reward=0.0,
        turns=turns,
        final_observation=stored["final_observation"],
    )


def compare(env: str) -> dict[str, collections.Counter]:
    """By tag, how many episodes are "right", "wrong", "unclear" and "missed"."""
    counts = {tag: collections.Counter() for tag in failures.TAGS}
    for _, episode, tags, unclear in read(env):
        found = set(failures.find_tags(episode))
        for tag in found | tags:
            if tag not in found:
                kind = "missed"
            elif tag in tags:
                kind = "right"
            else:
                kind = "unclear" if tag in unclear else "wrong"
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
