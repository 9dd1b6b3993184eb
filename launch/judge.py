r"""Asks a model why episodes failed, and says how far it agrees with the rules.

  agentrl judge --workdir=runs/demo --server=http://127.0.0.1:8000/v1 --model=NAME \
      --out=judged.jsonl

draws 100 failed episodes of a run's evaluations, sends each to the model, which any
OpenAI-compatible server may run, and prints for each failure tag how often rules and judge
give it. Verdicts are appended to --out as they come: the same command goes on where it was
interrupted, and asks about nothing twice.

  agentrl judge --labels=babyai.csv --labelled=babyai.jsonl.gz --server=... --model=... \
      --out=judged.jsonl

does so with episodes that a reader has labelled, and compares all three
(docs/failures.md). A key is taken from the variable OPENAI_API_KEY.
"""

import os
import pathlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import app, flags

from agentrl import errors

if TYPE_CHECKING:
    from agentrl.judging import judge, judgements

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Working directory of a run, or the --out of an evaluation."
)
_LABELS = flags.DEFINE_string("labels", None, "Table of labels (CSV).")
_LABELLED = flags.DEFINE_string(
    "labelled", None, "Episodes that --labels is about (JSON lines, .gz or not)."
)
_SERVER = flags.DEFINE_string(
    "server", None, "Address of the server, such as http://127.0.0.1:8000/v1.",
    required=True,
)  # fmt: skip
_MODEL = flags.DEFINE_string("model", None, "The model's name there.", required=True)
_OUT = flags.DEFINE_string(
    "out", None, "File for the verdicts (JSON lines).", required=True
)
_EPISODES = flags.DEFINE_integer(
    "episodes", 100, "How many failed episodes to draw.", lower_bound=1
)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the draw.")
_ENV = flags.DEFINE_string("env", None, "Draw episodes of this environment alone.")
_CONCURRENCY = flags.DEFINE_integer(
    "concurrency", 4, "Requests in flight.", lower_bound=1, upper_bound=256
)
_TIMEOUT_S = flags.DEFINE_float(
    "timeout_s", 120.0, "Seconds that a request may take.", lower_bound=0.01
)
_MAX_CHARS = flags.DEFINE_integer(
    "max_chars",
    24_000,
    "Characters of a transcript; longer ones lose parts of their middle.",
    lower_bound=2000,
)
_MAX_TOKENS = flags.DEFINE_integer(
    "max_tokens", 2000, "Tokens of an answer, thoughts included.", lower_bound=1
)


def main(argv: Sequence[str]) -> None:
    """Asks about what --out lacks, then prints the tables."""
    if len(argv) > 1:
        raise errors.UsageError(
            f"unexpected arguments {argv[1:]}; did you mean --workdir=...?"
        )
    workdir, labels, labelled = _WORKDIR.value, _LABELS.value, _LABELLED.value
    if bool(labels) != bool(labelled) or bool(workdir) == bool(labels):
        raise errors.UsageError("give --workdir, or both --labels and --labelled.")
    from agentrl import refusals
    from agentrl.judging import judge

    try:
        asked = judge.Judge(
            _SERVER.value,
            _MODEL.value,
            key=os.environ.get(judge.KEY_VARIABLE, ""),
            timeout_s=_TIMEOUT_S.value,
            max_tokens=_MAX_TOKENS.value,
        )
        if workdir:
            _judge_run(asked, workdir)
        elif labels and labelled:
            _judge_labelled(asked, pathlib.Path(labelled), pathlib.Path(labels))
    except (*refusals.EXPECTED, judge.JudgeError) as error:
        sys.exit(f"launch.judge: {error}")
    except KeyboardInterrupt:
        sys.exit("launch.judge: interrupted. The same command goes on from there.")


def _judge_run(asked: "judge.Judge", workdir: str) -> None:
    from agentrl.buckets import mirror
    from agentrl.judging import judged, judgements

    drawn = judgements.draw(
        mirror.readable(workdir),
        count=_EPISODES.value,
        seed=_SEED.value,
        env=_ENV.value,
    )
    if len(drawn) < _EPISODES.value:
        print(f"{len(drawn)} episodes failed, fewer than --episodes.")
    print(judged.format_run(drawn, _ask(asked, drawn)))


def _judge_labelled(
    asked: "judge.Judge", texts: pathlib.Path, table: pathlib.Path
) -> None:
    from agentrl.judging import judged, judgements, labelled

    labels = list(labelled.read(texts, table))
    drawn = [
        judgements.Drawn(one.episode, f"{texts}:{number}")
        for number, one in enumerate(labels, start=1)
    ]
    print(judged.format_labelled(labels, _ask(asked, drawn)))


def _ask(
    asked: "judge.Judge", drawn: "Sequence[judgements.Drawn]"
) -> "list[judge.Verdict]":
    """Returns a verdict for each episode, asking about those that --out lacks."""
    from agentrl.judging import judgements

    file = judgements.open_file(pathlib.Path(_OUT.value), asked.identity)
    rules = judgements.Rules()
    questions = judgements.write_questions(drawn, rules, max_chars=_MAX_CHARS.value)
    for env in sorted(rules.unknown):
        print(f"Environment {env!r} cannot be built here: judged without its rules.")
    missing = judgements.find_missing(file, questions)
    print(
        f"{len(questions)} episodes, {len(missing)} of them to ask about; verdicts: "
        f"{file.path}",
        flush=True,
    )
    answers = judgements.ask_missing(
        asked, file, missing, concurrency=_CONCURRENCY.value
    )
    for number, _ in enumerate(answers, start=1):
        if number % 10 == 0:
            print(f"{number} of {len(missing)}", flush=True)
    return [file.verdicts[question.id] for question in questions]


if __name__ == "__main__":
    app.run(main)
