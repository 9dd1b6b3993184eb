"""Recomputes the numbers of a study's page from stored episodes, with NumPy alone.

  python experiments/generalization/recompute.py W

Nothing of agentrl is imported: the outcome of every stored episode is read again, averaged
over samples and tasks, and given intervals by the formulas of docs/statistics.md, written
down a second time. Each number is compared with its cell in W/tables, as printed: percent
or points with one digit, nats with three. It covers success and score after each stage, of
all tasks and of tiers, as trained and with other settings, changes on easy and hard tasks,
transfer, forgetting, average and worst environment, and drift, from the log-ratios stored
for each episode; rows of other kinds are counted as not covered.
"""

import csv
import functools
import json
import pathlib
import sys

import numpy as np

NODES, WEIGHTS = np.polynomial.legendre.leggauss(200)


@functools.cache
def quantile(df, level=0.975):
    """Student's t, by integration over the angle atan(t / sqrt(df))."""

    def area(end):
        return end / 2 * (WEIGHTS * np.cos(end / 2 * (NODES + 1)) ** (df - 1)).sum()

    low, high, wanted = 0.0, np.pi / 2, (2 * level - 1) * area(np.pi / 2)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if area(middle) < wanted else (low, middle)
    return np.sqrt(df) * np.tan(low)


def holders(x):
    """Effective number of tasks that hold the total."""
    return x.sum() ** 2 / (x**2).sum() if x.any() else 0.0


def share(x, samples, level=0.975):
    """Wilson's interval for an effective number of samples; x: float[tasks]."""
    n, m, s2 = len(x), x.mean(), x.var(ddof=1)
    effect = np.clip(s2 / (m * (1 - m)), 1 / samples, 1) if 0 < m < 1 and s2 else 1.0
    evidence = min(holders(x), holders(1 - x)) ** 2
    size = n / ((evidence * effect + 1) / (evidence + 1))
    q = quantile(n - 1, level) ** 2
    half = np.sqrt(q * (m * (1 - m) / size + q / (4 * size**2))) / (1 + q / size)
    center = (m + q / (2 * size)) / (1 + q / size)
    return m, np.clip(center - half, 0, m), np.clip(center + half, m, 1)


def average(shares):
    """Mean of independent shares; rows of `shares` are mean, low and high."""
    mean, low, high = np.array(shares).T
    below, above = np.hypot.reduce(mean - low), np.hypot.reduce(high - mean)
    center, count = mean.mean(), len(shares)
    return center, max(center - below / count, 0), min(center + above / count, 1)


def join(parts, degrees):
    """Sum of variances and Satterthwaite's degrees of freedom of it."""
    total = sum(parts)
    return total, 1 / sum(
        (p / total) ** 2 / d for p, d in zip(parts, degrees, strict=True)
    )


def difference(tables, claim, step, end=1):
    """Mean over environments of float[seeds, tasks], for policies or for the recipe."""
    count, seeds = len(tables), len(tables[0])
    task_means = [t.mean(0) for t in tables]
    parts = [
        max(m.var(ddof=1) / m.size, (step / seeds / m.size) ** 2) for m in task_means
    ]
    total, df = join(parts, [m.size - 1 for m in task_means])
    mean, squares = np.mean([t.mean() for t in tables]), total / count**2
    if claim == "policies":
        half = quantile(df) * np.sqrt(squares)
    elif seeds == 2:  # one degree of freedom outweighs tasks
        spread = np.mean([t.mean(1) for t in tables], 0).var(ddof=1) / seeds
        smallest = (step / seeds / min(t.shape[1] for t in tables)) ** 2
        half = quantile(1) * np.sqrt(max(spread, smallest))
    else:
        rest = 0.0
        for t in tables:
            r = t - t.mean(1, keepdims=True) - t.mean(0, keepdims=True) + t.mean()
            rest += (r**2).sum() / ((t.shape[0] - 1) * (t.shape[1] - 1)) / t.size
        spread = np.mean([t.mean(1) for t in tables], 0).var(ddof=1) / seeds
        of_seeds = max(spread - 0.8 * rest / count**2, 0)
        half = np.sqrt(
            quantile(seeds - 1) ** 2 * of_seeds + quantile(df) ** 2 * squares
        )
    return mean, max(mean - half, -end), min(mean + half, end)


def task_means(stored, sums):
    """By task, means over its samples that were not lost: of the sums, and of tokens."""
    found = {}
    for item, of_task, tokens in zip(
        stored["item_ids"], sums, stored["tokens"], strict=True
    ):
        kept = [(s, n) for s, n in zip(of_task, tokens, strict=True) if s is not None]
        if kept:
            found[item] = np.mean(kept, axis=0)
    return found


class Study:
    """A study's folder: chains of nodes by cell and seed, and their episodes."""

    def __init__(self, root):
        self.root, self.chains = root, {}
        for key, ids in json.loads((root / "study.json").read_text())["chains"].items():
            cell, _, seed = key.rpartition("/")
            paths = [next((root / "nodes").glob(f"{i}.*.json"), None) for i in ids]
            paths = [p for p in paths if p and not p.name.endswith(".failed.json")]
            self.chains[cell, seed] = [
                json.loads(p.read_text()) | {"dir": p.with_suffix("")} for p in paths
            ]
        self.read = {}
        self.tiers = {
            (row["env"], row["item_id"]): row["tier"]
            for row in read_table(root, "tiers")
        }

    def outcomes(self, cell, seed, stage, env, measure, variant=""):
        """By task, success or score of each sample that its environment did not lose."""
        folder = f"variants/{variant}/episodes" if variant else "episodes"
        for node in reversed(self.chains[cell, seed]):
            path = node["dir"] / folder / f"evaluation.{stage}.{env}.jsonl"
            if path.exists() and (path, measure) not in self.read:
                tasks = self.read[path, measure] = {}
                for line in path.read_text().splitlines():
                    e = json.loads(line)
                    if e["ending"] not in ("env_error", "env_timeout"):
                        tasks.setdefault(e["item_id"], []).append(e[measure])
            if path.exists():
                return self.read[path, measure]
        raise FileNotFoundError(f"no episodes of {cell}, seed {seed}: {stage} on {env}")

    def table(self, policies, seeds, env, measure, variant="", tier=""):
        """float[policies, seeds, tasks] and the mean number of samples.

        A policy is a cell and a stage of it.
        """
        found = [
            [self.outcomes(cell, s, stage, env, measure, variant) for s in seeds]
            for cell, stage in policies
        ]
        flat = [f for row in found for f in row]
        common = [
            item
            for item in flat[0]
            if all(item in f for f in flat)
            and (not tier or self.tiers[env, item] == tier)
        ]
        table = np.array(
            [[[np.mean(f[i]) for i in common] for f in row] for row in found]
        )
        return table, np.mean([len(v) for f in found[0] for v in f.values()])

    def drifts(self, row, what):
        """Of each seed, by task: nats and tokens of a mean episode."""
        cell, found = f"{row['axis']}/{row['cell']}", []
        for (name, seed), chain in self.chains.items():
            if name != cell or row["seed"] not in (seed, "all"):
                continue
            last = {n["config"]["stages"][-1]["name"]: n for n in chain}
            folder = last[row["stage"]]["dir"] / "drift" / "evaluations"
            for path in folder.glob(f"{row['stage']}.{row['env']}.*.json"):
                stored = json.loads(path.read_text())
                for one in stored["drifts"]:
                    if one["stage"] == row["from_stage"]:
                        found.append(task_means(stored, one[what]))
        return found

    def gaps(self, what, cell, seed, envs):
        """By environment, a sequence's last policy and the one that it is compared with."""
        found = {}
        for env in envs:
            other = "mixture/equal" if what == "gap_to_joint" else f"across/{env}"
            if (other, seed) in self.chains:
                found[env] = [(c, self.plan(c, seed)[2][-1]) for c in (cell, other)]
        return found

    def plan(self, cell, seed):
        """By environment, its own stage and its first; all stages; all environments."""
        run = self.chains[cell, seed][-1]["config"]
        trained = {
            s["name"]: [name for name, _ in s["mixture"]["environments"]]
            for s in run["stages"]
            if s["algorithm"]["name"] != "supervised"
        }
        own, first = {}, {}
        for alone in (False, True):
            for stage, envs in trained.items():
                own |= {e: stage for e in envs if not alone or len(envs) == 1}
                for env in envs:
                    first.setdefault(env, stage)
        names = [s["name"] for s in run["stages"]]
        return own, first, names, list(run["environments"])


def recompute(study, row, kind):
    """Mean, low and high of a row; None for kinds of rows that are not covered."""
    if kind == "difficulty":
        return recompute_difficulty(study, row)
    cell = f"{row['axis']}/{row['cell']}"
    if kind == "results":
        return recompute_level(study, row, cell)
    seeds = row["seeds"].split()
    measure = row.get("measure", "success")
    if kind == "transfer" and row["what"] in ("average", "worst"):
        _, _, names, envs = study.plan(cell, seeds[0])
        level = 1 - 0.025 / (1 if row["what"] == "average" else len(envs))
        shares = []
        for env in envs:
            table, samples = study.table([(cell, names[-1])], seeds, env, measure)
            shares.append(share(table[0].mean(0), samples * len(seeds), level))
        return average(shares) if row["what"] == "average" else np.min(shares, axis=0)
    pairs = find_pairs(study, row, kind, cell, seeds[0])
    if pairs is None:
        return None
    tables, counts = [], []
    for env, pair in pairs.items():
        table, samples = study.table(pair, seeds, env, measure)
        tables.append(table[1] - table[0])
        counts.append(samples)
    return difference(tables, row["claim"], 1 / max(counts))


def recompute_level(study, row, cell):
    """Success or score after a stage, of all tasks of a panel or of one tier."""
    folder = f"variants/{row['variant']}" if row["variant"] else ""
    name = f"evaluation.{row['stage']}.{row['env']}.jsonl"
    seeds = [
        seed
        for other, seed in study.chains
        if other == cell
        and row["seed"] in (seed, "all")
        and any(
            (n["dir"] / folder / "episodes" / name).exists()
            for n in study.chains[cell, seed]
        )
    ]
    where = ([(cell, row["stage"])], seeds, row["env"], row["measure"], row["variant"])
    table, samples = study.table(*where)
    if table.shape[2] != int(row["tasks"]):
        table, _ = study.table(*where, row["tier"])
    return share(table[0].mean(0), samples * len(seeds))


def recompute_difficulty(study, row):
    """A change on tasks of one tier, from before or from another way of training."""
    seeds, env = row["seeds"].split(), row["env"]
    cell = f"within/{env} {row['trained_on']}"
    stages = study.chains[cell, seeds[0]][-1]["config"]["stages"]
    before = [s["name"] for s in stages if s["algorithm"]["name"] == "supervised"]
    policies = [(cell, (before or ["untrained"])[-1]), (cell, stages[-1]["name"])]
    if row["compared_with"]:
        other = f"within/{env} {row['compared_with']}"
        stages = study.chains[other, seeds[0]][-1]["config"]["stages"]
        policies[0] = (other, stages[-1]["name"])
    table, samples = study.table(policies, seeds, env, "success", tier=row["tier"])
    return difference([table[1] - table[0]], row["claim"], 1 / samples)


def find_pairs(study, row, kind, cell, seed):
    """By environment, two policies that a row compares; None for other kinds of rows."""
    own, first, names, envs = study.plan(cell, seed)
    if kind == "transfer" and row["what"].startswith("gap_to_"):
        return study.gaps(row["what"], cell, seed, envs)
    if kind == "forgetting":
        stages = {row["env"]: (row["last_stage"], row["own_stage"])}
    else:
        before, last = row["baseline"], names[-1]
        order = [before, *names[names.index(before) + 1 if before in names else 0 :]]
        stages = {
            "change": {row["env"]: (before, last)},
            "held_in": dict.fromkeys(own, (before, last)),
            "held_out": {e: (before, last) for e in envs if e not in own},
            "overall": dict.fromkeys(envs, (before, last)),
            "backward": {e: (s, last) for e, s in own.items() if s != last},
            "forward": {
                e: (before, order[order.index(s) - 1])
                for e, s in first.items()
                if order.index(s) > 1
            },
        }.get(row["what"])
    return stages and {
        env: [(cell, stage) for stage in pair] for env, pair in stages.items()
    }


def recompute_drift(study, row):
    """Nats by column of a row, with their ends: a token's, and of a whole episode."""
    columns = {"": "k1", "episode_": "k1", "k3_": "k3", "entropy_": "entropy"}
    numbers = {}
    for prefix, what in columns.items():
        found = study.drifts(row, what)
        items = [item for item in found[0] if all(item in one for one in found)]
        table = np.array([[one[item] for item in items] for one in found])
        sums, tokens = table[..., 0], table[..., 1]
        if prefix != "episode_":  # a ratio of means, linearised
            mean = tokens.mean(1, keepdims=True)
            ratio = sums.mean(1, keepdims=True) / mean
            sums = ratio + (sums - ratio * tokens) / mean
        ends = difference([sums], "policies", 0, np.inf)
        numbers |= zip([prefix + n for n in ("mean", "low", "high")], ends, strict=True)
    return numbers


def read_table(root, kind):
    """Rows of a table; none of one that the study has no numbers for."""
    text = (root / "tables" / f"{kind}.csv").read_text()
    return list(csv.DictReader(text.splitlines()))


def main(root):
    """Compares all tables; returns a line for each number that differs."""
    study, covered, skipped, wrong = Study(root), 0, 0, []

    def compare(kind, row, numbers, scale, digits):
        for name, value in numbers.items():
            printed = f"{scale * float(row[name]):.{digits}f}"
            if f"{scale * value:.{digits}f}" != printed:
                wrong.append(f"{kind} {name}: {value} here, {row}")
        return len(numbers)

    for kind in ("results", "transfer", "forgetting", "difficulty"):
        for row in read_table(root, kind):
            found = recompute(study, row, kind)
            if found is None:
                skipped += 1
                continue
            numbers = dict(zip(("mean", "low", "high"), found, strict=True))
            covered += compare(kind, row, numbers, 100, 1)
    for row in read_table(root, "drift"):
        covered += compare("drift", row, recompute_drift(study, row), 1, 3)
    print(
        f"{covered} numbers recomputed, {len(wrong)} differ; {skipped} rows not covered"
    )
    return wrong


if __name__ == "__main__":
    sys.exit("\n".join(main(pathlib.Path(sys.argv[1]))) or 0)
