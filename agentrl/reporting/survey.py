"""What stored episodes show: how they end, why they fail, and which are worth reading."""

import collections
import dataclasses
import heapq
import pathlib
from collections.abc import Iterable

import numpy as np

from agentrl import config
from agentrl.envs import base
from agentrl.statistics import intervals
from agentrl.transcripts import episodes, failures

LATE = 0.75  # of a stage; episodes before that say little about what it led to
EXAMPLES = 3  # transcripts of each tag

_Key = tuple[str, str]  # stage, environment


@dataclasses.dataclass(frozen=True)
class Example:
    """A stored episode worth reading, and where it is stored."""

    episode: episodes.StoredEpisode
    place: str  # FILE:LINE, as `launch.play --replay` takes it
    number: int  # of the episode in `webpage.episode_index`


@dataclasses.dataclass(frozen=True)
class TagShare:
    """How often a tag is found in the failed episodes of an environment after a stage."""

    tag: str
    share: intervals.Estimate | None  # None: no rule can see it there
    count: int  # failed episodes that carry it, as the main tag or beside it


@dataclasses.dataclass
class Survey:
    """What the episodes of each (stage, environment) show.

    `find_examples` draws transcripts by a hash of where they stand, so that neither the
    first nor the last ones are shown for all.
    """

    main_tags: dict[_Key, collections.Counter[str]] = dataclasses.field(
        default_factory=lambda: collections.defaultdict(collections.Counter)
    )  # "" for what did not fail
    # By key and tag, episodes of each task; the tag "" counts all failures.
    _by_task: dict[_Key, dict[str, collections.Counter[str]]] = dataclasses.field(
        default_factory=dict
    )
    # By key and main tag, the examples of smallest hash, the largest first.
    _examples: dict[tuple[str, str, str], list[tuple[int, str, Example]]] = (
        dataclasses.field(default_factory=lambda: collections.defaultdict(list))
    )

    @classmethod
    def join(cls, surveys: Iterable["Survey"]) -> "Survey":
        """Returns surveys of different stages or environments as one."""
        joined = cls()
        for one in surveys:
            joined.main_tags |= one.main_tags
            joined._by_task |= one._by_task
            joined._examples |= one._examples
        return joined

    def add(
        self, episode: episodes.StoredEpisode, place: str, *, number: int = -1
    ) -> None:
        """Takes in one episode; those that their environment lost do not count.

        Args:
          episode: the episode.
          place: where it is stored, FILE:LINE.
          number: of the episode, for whoever keeps an index of them.
        """
        if episode.ending.lost:
            return
        key = (episode.stage, episode.env)
        main = episode.failures[0] if episode.failures else ""
        self.main_tags[key][main] += 1
        if not episode.success:
            counts = self._by_task.setdefault(
                key, collections.defaultdict(collections.Counter)
            )
            for tag in {"", *episode.failures}:
                counts[tag][episode.item_id] += 1
        drawn_by = base.stable_hash(
            *key, episode.iteration, episode.item_id, episode.group, episode.sample
        )
        drawn = self._examples[*key, main]
        heapq.heappush(drawn, (-drawn_by, place, Example(episode, place, number)))
        if len(drawn) > EXAMPLES:
            heapq.heappop(drawn)

    def find_examples(self, stage: str, env: str, tag: str) -> list[Example]:
        """Finds up to `EXAMPLES` transcripts with a main tag; "" means successes."""
        drawn = self._examples.get((stage, env, tag), [])
        return [example for *_, example in sorted(drawn, reverse=True)]

    def num_failed(self, stage: str, env: str) -> int:
        """Counts failed episodes, without lost ones."""
        return (
            self._by_task.get((stage, env), {}).get("", collections.Counter()).total()
        )

    def shares(self, stage: str, env: str) -> list[TagShare]:
        """Returns the share of each tag in failed episodes, with an interval over tasks.

        Empty if nothing failed. Tags that no rule can see there have no share.
        """
        counts = self._by_task.get((stage, env))
        if counts is None:
            return []
        tasks = list(counts[""])
        totals = np.array([counts[""][task] for task in tasks])
        hidden = failures.find_undetectable(env)
        found = []
        for tag in failures.TAGS:
            tagged = np.array([counts[tag][task] for task in tasks]) if tag in counts \
                else np.zeros(len(tasks), int)  # fmt: skip
            share = None if tag in hidden else intervals.ratio(tagged, totals)
            found.append(TagShare(tag, share, int(tagged.sum())))
        return found


def find_evaluations(
    workdir: pathlib.Path, stage: str, settings: config.RunConfig
) -> list[pathlib.Path]:
    """Files with the episodes of a stage's evaluation.

    Names are built, not searched for: a pattern for stage "a" would find those of "a.2".
    """
    folder = workdir / episodes.FOLDER
    names = dict.fromkeys((*settings.environments, *settings.evaluation.environments))
    paths = [folder / f"evaluation.{stage}.{env}.jsonl" for env in names]
    return sorted(path for path in paths if path.is_file())
