"""Files of judgements, and the episodes that a judge is asked about.

A line of the file holds `id`, a digest of what the judge was shown; `place`, where that
is stored; `tags`, `why` and `problem` of its verdict; and what all lines share: `model`,
`server` and `instructions`, a digest of them. An episode is not asked about twice, nor are
two episodes that read the same.
"""

import dataclasses
import functools
import hashlib
import heapq
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from agentrl import errors
from agentrl.envs import base, registry
from agentrl.judging import judge, judge_prompt
from agentrl.transcripts import episodes, jsonl

_GIVE_UP = 10  # answers without any of use
_FIELDS = ("id", "place", "tags", "why", "problem")


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A failed episode, and where it is stored, as FILE:LINE."""

    episode: episodes.StoredEpisode
    place: str


def draw(
    workdir: pathlib.Path, *, count: int, seed: int, env: str | None
) -> list[Drawn]:
    """Draws failed episodes of a run's evaluations, by a hash of each.

    The same ones for the same files and seed, and among them all that a smaller `count`
    draws. Episodes that their environment lost do not count.

    Args:
      workdir: of a run, or the --out of an evaluation.
      count: how many, if there are as many.
      seed: of the draw.
      env: of this environment alone; None takes all.

    Raises:
      ConfigError: if there is none, which says what there is.
      DamagedFileError: if a line is no stored episode.
    """
    paths = sorted((workdir / episodes.FOLDER).glob("evaluation.*.jsonl"))
    environments: set[str] = set()
    best: list[tuple[int, str, Drawn]] = []  # a heap, the largest hash first
    for path in paths:
        for number, episode in enumerate(episodes.read(path), start=1):
            environments.add(episode.env)
            if episode.success or episode.ending.lost or env not in (None, episode.env):
                continue
            place = f"{path}:{number}"
            hashed = base.stable_hash(
                seed,
                *(episode.stage, episode.env, episode.iteration),
                *(episode.item_id, episode.group, episode.sample),
            )
            heapq.heappush(best, (-hashed, place, Drawn(episode, place)))
            if len(best) > count:
                heapq.heappop(best)
    if not best:
        raise errors.ConfigError(_explain_none(workdir, env, environments))
    return [drawn for *_, drawn in sorted(best, key=lambda one: (-one[0], one[1]))]


def _explain_none(workdir: pathlib.Path, env: str | None, known: set[str]) -> str:
    if not known:
        return (
            f"{workdir} has no stored episodes of evaluations; `agentrl evaluate "
            "--checkpoint=... --out=DIR` stores some, for --workdir=DIR."
        )
    if env is not None and env not in known:
        return f"{workdir} has evaluated {sorted(known)}; --env={env} is none of them."
    return (
        f"no stored evaluation episode of {env or sorted(known)} in {workdir} failed."
    )


class Rules:
    """Instructions of environments, as the agent was given them."""

    def __init__(self):
        self.unknown: set[str] = set()  # environments that cannot be built here
        self._find = functools.cache(self._build)

    def find(self, episode: episodes.StoredEpisode) -> str | None:
        """Returns the rules of the episode's environment; None if they are not known."""
        return self._find(episode.env, json.dumps(episode.config or {}))

    def _build(self, env: str, settings: str) -> str | None:
        try:
            config = base.EnvConfig(**json.loads(settings))
            return registry.make(env, config).instruction
        except (base.EnvConfigError, base.MissingDataError, TypeError):
            self.unknown.add(env)
            return None


@dataclasses.dataclass(frozen=True)
class Question:
    """What a judge is asked about an episode."""

    id: str  # digest of the text: equal ones have equal ids
    text: str
    place: str


def write_questions(
    drawn: Sequence[Drawn], rules: Rules, *, max_chars: int
) -> list[Question]:
    """Returns the question about each episode; see `judge_prompt.write_question`."""
    found = []
    for one in drawn:
        text = judge_prompt.write_question(
            one.episode, rules.find(one.episode), max_chars=max_chars
        )
        id_ = hashlib.sha256(text.encode()).hexdigest()[:16]
        found.append(Question(id_, text, one.place))
    return found


@dataclasses.dataclass(frozen=True)
class JudgementFile:
    """The judgements of one judge, possibly not all yet."""

    path: pathlib.Path
    shared: Mapping[str, str]  # the fields that all lines share
    verdicts: dict[str, judge.Verdict]  # by id

    def add(self, id_: str, verdict: judge.Verdict, place: str) -> None:
        """Appends a judgement."""
        line = {"id": id_, "place": place, **dataclasses.asdict(verdict), **self.shared}
        jsonl.append(self.path, [line])
        self.verdicts[id_] = verdict


def open_file(path: pathlib.Path, shared: Mapping[str, str]) -> JudgementFile:
    """Opens a file for appending; drops a partially written last line.

    Raises:
      ConfigError: if it holds anything else, or judgements of another judge. It is then
        left as it is.
      DamagedFileError: if a line after the first is damaged.
      OSError: if it cannot be read or written.
    """
    if not path.exists():
        return JudgementFile(path, shared, {})
    verdicts: dict[str, judge.Verdict] = {}
    refusal = f"{path} holds something else than judgements; choose another --out."
    with path.open("rb") as file:
        start = b'{"id": "'
        if not start.startswith(file.read(len(start))):
            raise errors.ConfigError(refusal)
    for line in jsonl.read(path):
        if set(line) != {*_FIELDS, *shared}:
            raise errors.ConfigError(refusal)
        other = {name: line[name] for name in shared}
        if other != shared:
            raise errors.ConfigError(
                f"{path} holds judgements of another judge: {other}, not {dict(shared)}. "
                "Choose another --out, or repeat the command that wrote it."
            )
        verdicts[line["id"]] = _read_verdict(line, path)
    jsonl.cut(path, lambda line: True)
    return JudgementFile(path, shared, verdicts)


def _read_verdict(line: Mapping[str, Any], path: pathlib.Path) -> judge.Verdict:
    tags = line["tags"]
    if not isinstance(tags, list) or not set(map(str, tags)) <= set(judge_prompt.TAGS):
        raise errors.DamagedFileError(
            f"{path} has a judgement with tags {tags!r}, which are none; restore the file, "
            "or choose another --out."
        )
    return judge.Verdict(tuple(tags), str(line["why"]), str(line["problem"]))


def find_missing(
    file: JudgementFile, questions: Sequence[Question]
) -> dict[str, Question]:
    """Returns by id the questions that a file has no verdict on."""
    return {one.id: one for one in questions if one.id not in file.verdicts}


def ask_missing(
    asked: judge.Judge,
    file: JudgementFile,
    missing: Mapping[str, Question],
    *,
    concurrency: int,
) -> Iterator[judge.Verdict]:
    """Asks a judge, and appends each verdict to the file as it comes.

    Args:
      asked: the judge.
      file: where the verdicts go.
      missing: what to ask, from `find_missing`.
      concurrency: requests in flight.

    Yields:
      The verdicts, in the order in which they come.

    Raises:
      JudgeError: if the server fails, or nothing that the judge has said is of use.
      OSError: if the file cannot be written.
    """
    texts = {id_: question.text for id_, question in missing.items()}
    for id_, verdict in judge.ask_all(asked, texts, concurrency=concurrency):
        file.add(id_, verdict, missing[id_].place)
        if len(file.verdicts) == _GIVE_UP:
            _refuse_useless(file)
        yield verdict
    _refuse_useless(file)


def _refuse_useless(file: JudgementFile) -> None:
    if not any(verdict.tags for verdict in file.verdicts.values()):
        first = next(iter(file.verdicts.values()))
        raise judge.JudgeError(
            f"none of {len(file.verdicts)} answers is of use; the first: {first.problem}. "
            f"Try another --model or --max_tokens with another --out than {file.path}."
        )
