"""Draws failed episodes to be labelled by reading, without what any rule says of them.

  python tests/reporting/labels/sample.py ENV 100 OUT.jsonl.gz RUN [RUN ...]

RUN is a working directory. The same number is drawn of each file of evaluated episodes of
the environment, with a fixed seed and at most one of each text. Only what a reader and the
rules see is kept: replies, answers, what was refused, how the episode ended.
"""

import gzip
import hashlib
import json
import pathlib
import random
import sys

SEED = 17
LOST = ("env_error", "env_timeout")  # the environment's failures, not the policy's


def reduce_to_text(line: str) -> dict | None:
    """An episode as it is labelled; None if it did not fail by the policy."""
    episode = json.loads(line)
    if episode["success"] or episode["ending"] in LOST:
        return None
    turns = [
        {key: turn[key] for key in ("observation", "action", "valid")}
        for turn in episode["turns"]
    ]
    kept = {
        "env": episode["env"],
        "ending": episode["ending"],
        "turns": turns,
        "final_observation": episode["final_observation"],
    }
    return {"id": name(kept), **kept}


def name(kept: dict) -> str:
    """First 8 hex digits of the SHA-256 of an episode's text."""
    return hashlib.sha256(json.dumps(kept).encode()).hexdigest()[:8]


def draw(env: str, count: int, runs: list[pathlib.Path]) -> list[dict]:
    """Failed episodes, as evenly over stages as there are enough."""
    rng, drawn = random.Random(SEED), {}
    paths = [
        p for r in runs for p in sorted(r.glob(f"episodes/evaluation.*.{env}.jsonl"))
    ]
    pools = []
    for path in paths:
        found = [e for e in map(reduce_to_text, path.open()) if e is not None]
        rng.shuffle(found)
        pools.append(found)
    while len(drawn) < count and any(pools):
        for pool in filter(None, pools):
            episode = pool.pop()
            if len(drawn) < count:
                drawn.setdefault(episode["id"], episode)
    episodes = list(drawn.values())
    rng.shuffle(episodes)  # a reader is not to know the stage
    return episodes


def main(env: str, count: str, out: str, *runs: str) -> None:
    """Writes the episodes, a JSON line each."""
    episodes = draw(env, int(count), [pathlib.Path(run) for run in runs])
    text = "".join(json.dumps(episode) + "\n" for episode in episodes)
    pathlib.Path(out).write_bytes(gzip.compress(text.encode(), mtime=0))


if __name__ == "__main__":
    main(*sys.argv[1:])
