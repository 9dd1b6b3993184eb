r"""How many tasks of a panel the oracles solve, and how many random choice does.

  python -m benchmarks.bench_oracles                 # all environments, test panels
  python -m benchmarks.bench_oracles --envs=babyai --by_subset --rounds=10

Each task is played once by each oracle and --rounds times by a policy that draws from the
listed actions, which it has whatever agents are shown; the keywords of WebShop's one
search are then the whole first observation. A task counts as solved when its
environment says so within the turn limit of profile `strict`.
"""

import collections
import random
import statistics
from collections.abc import Iterator, Sequence

from absl import app, flags
from rich import console as rich_console
from rich import table

from agentrl.envs import base, episodes, registry, tasks
from benchmarks import walks

_ENVS = flags.DEFINE_list("envs", [], "Environments to play; by default all.")
_SPLIT = flags.DEFINE_string("split", "test", "Whose panel is played.")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Random episodes per task.", lower_bound=0)
_BY_SUBSET = flags.DEFINE_bool("by_subset", False, "Lines for tiers and subsets, too.")

_POLICIES = ("privileged", "observational", "random")
_CONFIG = base.EnvConfig()


def play(name: str, item_id: str) -> Iterator[tuple[str, int]]:
    """Lets each policy play a task; yields its name and turns, 0 if unsolved."""
    for kind in registry.get_spec(name).oracles:
        try:
            turns = episodes.play_oracle(name, _CONFIG, item_id, kind)
        except base.OracleRefusalError:
            yield kind, 0
            continue
        yield kind, len(turns) if turns[-1][1].info.success else 0
    env = registry.make(name, _CONFIG)
    for number in range(_ROUNDS.value):
        env.reset(item_id)
        if env.available_actions() is None:
            return
        script, last = walks.play_random(env, item_id, random.Random(number))
        yield "random", len(script) if last.info.success else 0


def describe(turns: Sequence[int]) -> str:
    """What was solved, of how many episodes, and in how many turns on average."""
    if not turns:
        return "-"
    solved = list(filter(None, turns))
    mean = f"{statistics.mean(solved):.1f}" if solved else "-"
    return f"{len(solved)} of {len(turns)} = {len(solved) / len(turns):.1%}, {mean}"


def add_rows(out: table.Table, name: str) -> None:
    """Plays a panel and adds its lines to a table."""
    spec = registry.get_spec(name)
    found = collections.defaultdict(lambda: collections.defaultdict(list))
    for item_id in tasks.select_tasks(name, _SPLIT.value, _CONFIG).item_ids:
        labels = [name]
        if _BY_SUBSET.value:
            labels += [
                f"{name}, {label(item_id, _CONFIG)}"
                for label in (spec.tier, spec.subset)
            ]
        for policy, turns in play(name, item_id):
            for label in labels:
                found[label][policy].append(turns)
    for label, policies in sorted(found.items()):
        out.add_row(label, *(describe(policies[policy]) for policy in _POLICIES))


def main(argv: Sequence[str]) -> None:
    """Plays what the flags ask for and prints a table."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}; did you mean --envs?")
    out = table.Table(
        "environment", title="Solved of episodes, mean turns of the solved"
    )
    for policy in _POLICIES:
        out.add_column(policy, justify="right")
    for name in _ENVS.value or registry.names():
        try:
            add_rows(out, name)
        except base.MissingDataError as error:
            out.add_row(name, f"left out: {str(error)[:60]}")
    rich_console.Console(width=120).print(out)


if __name__ == "__main__":
    app.run(main)
