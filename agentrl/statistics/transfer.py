"""What each stage did to every environment: gains, transfer, forgetting.

R[seed, stage, panel] is the result of one seed's policy after a stage. Differences are
averaged over the tasks of an environment first, then over environments of equal weight;
seeds stay together, as one seed trains for all environments. What is compared is fixed
by the configuration, never chosen by the numbers: the best of several noisy numbers
looks like a loss afterwards even where nothing was lost.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from agentrl import config
from agentrl.statistics import intervals, results, summaries


@dataclasses.dataclass(frozen=True)
class ResultMatrix:
    """R[seed, stage, panel]: results after each stage, panels in a fixed order."""

    seeds: tuple[int, ...]
    stages: tuple[str, ...]  # in the order in which the policy went through them
    panels: tuple[str, ...]  # environment, with split and tier where these differ
    environments: tuple[str, ...]  # of each panel
    cells: Mapping[tuple[int, str, str], results.EvaluationResult]

    def results_of(self, stage: str, panel: str) -> list[results.EvaluationResult]:
        """The results of all seeds that have one, in their order."""
        keys = ((seed, stage, panel) for seed in self.seeds)
        return [self.cells[key] for key in keys if key in self.cells]

    def evaluated(self, panel: str) -> tuple[str, ...]:
        """Stages after which a panel was played for at least one seed."""
        return tuple(s for s in self.stages if self.results_of(s, panel))

    def main_panels(self) -> dict[str, str]:
        """The largest panel of each environment."""
        chosen: dict[str, str] = {}
        for env, panel in zip(self.environments, self.panels, strict=True):
            if env not in chosen or self._size(panel) > self._size(chosen[env]):
                chosen[env] = panel
        return chosen

    def change(
        self,
        before: str,
        after: str,
        panel: str,
        *,
        measure: summaries.Measure = "success",
        claim: summaries.Claim = "policies",
    ) -> intervals.Estimate | None:
        """Paired change between two stages; None where either was not evaluated."""
        pairs = {panel: (before, after)}
        return self.mean_change(pairs, measure=measure, claim=claim)

    def mean_change(
        self,
        pairs: Mapping[str, tuple[str, str]],
        *,
        measure: summaries.Measure = "success",
        claim: summaries.Claim = "policies",
    ) -> intervals.Estimate | None:
        """Mean over panels of the change between two stages of each.

        Args:
          pairs: by panel, the stage before and the stage after.
          measure: what is compared.
          claim: of whom; see `summaries.Claim`.

        Returns:
          The change over the seeds that have all of these results; None if no seed has,
          if a panel has no task that all of them have finished, and for a recipe with
          fewer than two seeds.
        """
        seeds = [
            seed
            for seed in self.seeds
            if all(
                (seed, stage, panel) in self.cells
                for panel, both in pairs.items()
                for stage in both
            )
        ]
        before, after = (
            {
                panel: [self.cells[seed, both[side], panel] for seed in seeds]
                for panel, both in pairs.items()
            }
            for side in (0, 1)
        )
        if not seeds or not all(
            summaries.common_tasks([*before[panel], *after[panel]]) for panel in pairs
        ):
            return None
        return summaries.difference(before, after, measure=measure, claim=claim)

    def largest_loss(
        self, panel: str, measure: summaries.Measure = "success"
    ) -> float | None:
        """Chaudhry's forgetting of the mean over seeds; has no interval.

          max_{s < t} R[s, e] - R[t, e],  t the last stage

        Chaudhry et al. 2018, https://arxiv.org/abs/1801.10112, section 3.1. The maximum
        is chosen by the numbers, so it lies above 0 by chance alone: +3 points of 31
        tasks with six stages. None with fewer than two evaluated stages.
        """
        *earlier, last = self.evaluated(panel) or ("",)
        losses = [self.change(last, s, panel, measure=measure) for s in earlier]
        return max((loss.mean for loss in losses if loss is not None), default=None)

    def _size(self, panel: str) -> int:
        return max(len(r.item_ids) for (_, _, p), r in self.cells.items() if p == panel)


def to_matrix(
    found: Mapping[int, Sequence[results.EvaluationResult]],
) -> ResultMatrix:
    """Arranges the results of each seed, which are in the order of `results.load_all`."""
    flat = [result for of_seed in found.values() for result in of_seed]
    kinds = {(result.split, result.tier) for result in flat}

    def name_panel(result: results.EvaluationResult) -> str:
        if len(kinds) == 1:
            return result.env
        tier = "" if result.tier == "all" else f", {result.tier}"
        return f"{result.env} ({result.split}{tier})"

    environments = {name_panel(result): result.env for result in flat}
    return ResultMatrix(
        seeds=tuple(found),
        stages=tuple(dict.fromkeys(result.stage for result in flat)),
        panels=tuple(environments),
        environments=tuple(environments.values()),
        cells={
            (seed, result.stage, name_panel(result)): result
            for seed, of_seed in found.items()
            for result in of_seed
        },
    )


@dataclasses.dataclass(frozen=True)
class Plan:
    """What the configuration fixes about a chain of stages before any number is known."""

    baseline: str  # last evaluated stage before reinforcement learning; "" if none
    last: str  # last evaluated stage; "" if none
    own: Mapping[str, str]  # by environment, the stage that it was trained in
    # By environment, the evaluated stage before the first that trained on it.
    before_first: Mapping[str, str]
    trained: frozenset[str]  # environments that a reinforcement stage trained on

    @classmethod
    def of(
        cls, stages: Sequence[config.StageConfig], evaluated: Iterable[str]
    ) -> "Plan":
        """Reads the plan off stages.

        An environment's own stage is the last reinforcement stage that trained on it
        alone; if there is none, the last that trained on it. What it was like before its
        first such stage, alone or not, is another question: an environment that is
        trained on twice has learned from itself before its own stage.
        """
        known = set(evaluated)
        names = [stage.name for stage in stages if stage.name in known]
        if results.UNTRAINED_STAGE in known:  # the start of chains without a warm start
            names.insert(0, results.UNTRAINED_STAGE)
        mixtures = {
            stage.name: [env for env, _ in stage.mixture.environments]
            for stage in stages
            if not stage.supervised
        }
        own: dict[str, str] = {}
        for alone in (False, True):
            for name, mixture in mixtures.items():
                if not alone or len(mixture) == 1:
                    own |= dict.fromkeys(mixture, name)
        first_of: dict[str, str] = {}
        for name, mixture in mixtures.items():
            first_of = dict.fromkeys(mixture, name) | first_of
        first = next(
            (i for i, name in enumerate(names) if name in mixtures), len(names)
        )
        before = {
            env: names[names.index(stage) - 1]
            for env, stage in first_of.items()
            if stage in names and names.index(stage) > 0
        }
        return cls(
            baseline=names[first - 1] if first else "",
            last=names[-1] if names else "",
            own=own,
            before_first=before,
            trained=frozenset(own),
        )


@dataclasses.dataclass(frozen=True)
class TransferSummary:
    """The numbers of a chain; None where it has none. Differences are in shares."""

    held_in: intervals.Estimate | None  # last - baseline, environments trained on
    held_out: intervals.Estimate | None  # the others
    overall: intervals.Estimate | None
    backward: intervals.Estimate | None  # last - own stage
    forward: intervals.Estimate | None  # before its first stage - baseline
    forgetting: Mapping[str, intervals.Estimate | None]  # own stage - last, by panel
    largest_loss: Mapping[str, float | None]  # by panel; see `largest_loss`


def summarize(
    matrix: ResultMatrix,
    plan: Plan,
    *,
    measure: summaries.Measure = "success",
    claim: summaries.Claim = "policies",
) -> TransferSummary:
    """Held-In, Held-Out, Overall, backward and forward transfer, and forgetting.

    Backward and forward transfer: Lopez-Paz and Ranzato 2017,
    https://arxiv.org/abs/1706.08840, section 2, with the policy before reinforcement
    learning in place of random initialisation. An environment whose own stage is the last
    one has nothing to forget yet and takes no part in backward transfer. Forward transfer
    ends before the first stage that trained on an environment; one that the first stage
    after the baseline trained on takes no part in it.
    """
    panels = matrix.main_panels()

    def mean(pairs: Mapping[str, tuple[str, str]]) -> intervals.Estimate | None:
        by_panel = {
            panels[env]: both
            for env, both in pairs.items()
            if env in panels and all(both) and both[0] != both[1]
        }
        return matrix.mean_change(by_panel, measure=measure, claim=claim)

    whole = dict.fromkeys(panels, (plan.baseline, plan.last))
    forgotten = {
        panel: matrix.change(plan.last, plan.own[env], panel,
                             measure=measure, claim=claim)
        if env in plan.own and plan.own[env] != plan.last else None
        for env, panel in zip(matrix.environments, matrix.panels, strict=True)
    }  # fmt: skip
    return TransferSummary(
        held_in=mean({e: both for e, both in whole.items() if e in plan.trained}),
        held_out=mean({e: both for e, both in whole.items() if e not in plan.trained}),
        overall=mean(whole),
        backward=mean({e: (own, plan.last) for e, own in plan.own.items()}),
        forward=mean({e: (plan.baseline, s) for e, s in plan.before_first.items()}),
        forgetting=forgotten,
        largest_loss={p: matrix.largest_loss(p, measure) for p in matrix.panels},
    )


def average_environment(
    matrix: ResultMatrix, stage: str, measure: summaries.Measure = "success"
) -> intervals.Estimate | None:
    """Mean over environments after a stage, each with the same weight."""
    shares = _shares(matrix, stage, measure, level=intervals.LEVEL)
    return intervals.average_shares(list(shares.values())) if shares else None


def worst_environment(
    matrix: ResultMatrix, stage: str, measure: summaries.Measure = "success"
) -> tuple[str, intervals.Estimate] | None:
    """The environment with the lowest mean after a stage; see `smallest_share`."""
    count = max(len(matrix.main_panels()), 1)
    level = 1 - (1 - intervals.LEVEL) / count
    shares = _shares(matrix, stage, measure, level=level)
    if not shares:
        return None
    name = min(shares, key=lambda env: shares[env].mean)
    return name, intervals.smallest_share(list(shares.values()))


def gap(
    ours: Mapping[str, summaries.BySeed],
    theirs: Mapping[str, summaries.BySeed],
    *,
    measure: summaries.Measure = "success",
    claim: summaries.Claim = "policies",
) -> intervals.Estimate | None:
    """What a policy lacks of others on the environments that both were measured on.

    Args:
      ours: by environment, the results of each seed, such as those after the last stage
        of a sequence.
      theirs: likewise, of joint training, or of each environment's specialist. Seeds
        that share a warm start stand at the same place.
      measure: what is compared.
      claim: of whom; see `summaries.Claim`.

    Returns:
      Theirs minus ours, a positive number where ours lacks something.
    """
    shared = [env for env in ours if env in theirs]
    return summaries.difference(
        {env: ours[env] for env in shared},
        {env: theirs[env] for env in shared},
        measure=measure,
        claim=claim,
    )


def _shares(
    matrix: ResultMatrix, stage: str, measure: summaries.Measure, *, level: float
) -> dict[str, intervals.Estimate]:
    found = {
        env: matrix.results_of(stage, panel)
        for env, panel in matrix.main_panels().items()
    }
    return {
        env: summaries.average(of_env, measure, level=level)
        for env, of_env in found.items()
        if of_env
    }
