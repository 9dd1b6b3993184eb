"""Tables of how far rules, a judge and a reader's labels agree on failure tags."""

import dataclasses
import io
import math
from collections.abc import Iterable, Sequence

import rich.box
import rich.console
import rich.table

from agentrl.judging import judge, judge_prompt, judgements, labelled
from agentrl.statistics import agreement, intervals
from agentrl.transcripts import episodes, failures

TAGS = judge_prompt.TAGS
NOTE = (
    "Kappa: Cohen's; - where both always say the same. Left "
    "out: the tag timeout, which is recorded and not judged; episodes in whose environment "
    "no rule can see the tag; labels that a reader left unclear."
)
OVER_TASKS = "Intervals: 95 %, over tasks."
OVER_EPISODES = (
    "Intervals: 95 %, over episodes: labelled texts do not name their tasks. Where "
    "several are of one task, the intervals are too narrow."
)


@dataclasses.dataclass(frozen=True)
class Reading:
    """What one reader says of one episode."""

    tags: frozenset[str]
    main: str | None  # None if this reader names none
    unclear: frozenset[str] = frozenset()  # tags of which nothing is known

    @classmethod
    def of_rules(cls, episode: episodes.StoredEpisode) -> "Reading":
        """Returns what the rules find now, whatever was stored."""
        found = _readable(failures.find_tags(episode))
        hidden = failures.find_undetectable(episode.env)
        return cls(frozenset(found), found[0], hidden)

    @classmethod
    def of_judge(cls, verdict: judge.Verdict) -> "Reading":
        """Returns what a judge said, in an answer of use."""
        return cls(frozenset(verdict.tags), verdict.tags[0])

    @classmethod
    def of_labels(cls, label: labelled.Labelled) -> "Reading":
        """Returns what a reader labelled; labels have no main tag."""
        tags, unclear = frozenset(_readable(sorted(label.tags))), label.unclear
        if unclear and judge_prompt.NONE_FITS in tags:  # if not one of those
            unclear |= {judge_prompt.NONE_FITS}
        return cls(tags, None, unclear)


def _readable(tags: Iterable[str]) -> tuple[str, ...]:
    """Leaves out what a judge is not asked for."""
    return tuple(tag for tag in tags if tag in TAGS) or (judge_prompt.NONE_FITS,)


# Task, or episode where that is not known; first and second reader.
Pair = tuple[str, Reading, Reading]


def compare(pairs: Sequence[Pair]) -> dict[str, agreement.Agreement]:
    """Returns the agreement on each tag, over the episodes where both know of it."""
    return {
        tag: agreement.compare(
            (task, tag in first.tags, tag in second.tags)
            for task, first, second in pairs
            if tag not in first.unclear | second.unclear
        )
        for tag in TAGS
    }


def compare_main(pairs: Sequence[Pair]) -> intervals.Estimate | None:
    """Returns the share of episodes with the same main tag.

    None if a reader names none, or nothing was compared.
    """
    equal = [
        (task, True, first.main == second.main)
        for task, first, second in pairs
        if first.main is not None and second.main is not None
    ]
    return agreement.compare(equal).share


def format_run(
    drawn: Sequence[judgements.Drawn], verdicts: Sequence[judge.Verdict]
) -> str:
    """Formats how far rules and judge agree on episodes of a run."""
    pairs = [
        (
            f"{one.episode.env} {one.episode.item_id}",
            Reading.of_rules(one.episode),
            Reading.of_judge(verdict),
        )
        for one, verdict in zip(drawn, verdicts, strict=True)
        if verdict.tags
    ]
    table = format_agreement("rules", "judge", pairs)
    return "\n".join([table, *_count_unanswered(verdicts), f"{OVER_TASKS} {NOTE}"])


def format_labelled(
    labels: Sequence[labelled.Labelled], verdicts: Sequence[judge.Verdict]
) -> str:
    """Formats how far labels, rules and judge agree, each two of them."""
    by_judge, by_rules, beside = [], [], []
    for one, verdict in zip(labels, verdicts, strict=True):
        reader, rules = Reading.of_labels(one), Reading.of_rules(one.episode)
        by_rules.append((one.id, reader, rules))
        if verdict.tags:
            said = Reading.of_judge(verdict)
            by_judge.append((one.id, reader, said))
            beside.append((one.id, rules, said))
    tables = [
        format_agreement("labels", "judge", by_judge),
        format_agreement("labels", "rules", by_rules),
        format_agreement("rules", "judge", beside),
    ]
    return "\n".join([*tables, *_count_unanswered(verdicts), f"{OVER_EPISODES} {NOTE}"])


def _count_unanswered(verdicts: Sequence[judge.Verdict]) -> list[str]:
    problems = [verdict.problem for verdict in verdicts if not verdict.tags]
    if not problems:
        return []
    return [
        f"  no answer of use on {len(problems)} of {len(verdicts)} episodes, which do not "
        f"count; the first: {problems[0]}"
    ]


def format_agreement(first: str, second: str, pairs: Sequence[Pair]) -> str:
    """Formats the agreement of two readers as a table for a terminal.

    Args:
      first: name of the first reader.
      second: of the second.
      pairs: of each episode that both have read.
    """
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD)
    table.add_column("tag")
    columns = ("both", f"only {first}", f"only {second}", "neither", "the same in %")
    for column in (*columns, "kappa", "episodes"):
        table.add_column(column, justify="right")
    for tag, found in compare(pairs).items():
        counts = (found.both, found.only_first, found.only_second, found.neither)
        kappa = "-" if math.isnan(found.kappa) else f"{found.kappa:.2f}"
        shown = (*map(str, counts), _format_share(found.share), kappa, str(found.count))
        table.add_row(tag, *shown)
    output = io.StringIO()
    console = rich.console.Console(file=output, width=120, no_color=True)
    title = f"  {first} and {second}: {len(pairs)} episodes that both have read"
    console.print(title, highlight=False)
    console.print(table)
    if (main := compare_main(pairs)) is not None:
        console.print(f"  the same main tag: {_format_share(main)} %", highlight=False)
    return output.getvalue().rstrip()


def _format_share(value: intervals.Estimate | None) -> str:
    if value is None:
        return "-"
    ends = f"{100 * value.low:.1f}, {100 * value.high:.1f}"
    return f"{100 * value.mean:.1f} [{ends}]"
