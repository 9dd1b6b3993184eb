"""What each stage of a run did to every environment: gains, transfer, forgetting."""

import dataclasses
from collections.abc import Mapping, Sequence

from agentrl.reporting import results


@dataclasses.dataclass(frozen=True)
class ResultMatrix:
    """R[stage, panel]: results after each stage, panels in a fixed order."""

    stages: tuple[str, ...]  # in the order in which the policy went through them
    panels: tuple[str, ...]  # environment, with split and tier where these differ
    environments: tuple[str, ...]  # of each panel
    cells: Mapping[tuple[str, str], results.EvaluationResult]

    def change(
        self, before: str, after: str, panel: str, **options: int
    ) -> results.Estimate | None:
        """Paired gain between two stages, over the tasks that both have finished.

        None where either was not evaluated, or where there is no such task.
        """
        first, second = self.cells.get((before, panel)), self.cells.get((after, panel))
        if first is None or second is None:
            return None
        if not results.common_tasks(first, second):
            return None
        return results.paired_difference(first, second, **options)

    def forgetting(self, panel: str, **options: int) -> results.Estimate | None:
        """What the last stage has lost against the best one before it.

          max_{s < t} R[s, e] - R[t, e],  t the last stage

        Chaudhry et al. 2018, https://arxiv.org/abs/1801.10112, section 3.1. Positive is
        a loss. Each earlier stage is compared on the tasks that it and the last one have
        finished. None with fewer than two evaluated stages.
        """
        evaluated = [s for s in self.stages if (s, panel) in self.cells]
        losses = [
            self.change(evaluated[-1], s, panel, **options) for s in evaluated[:-1]
        ]
        known = [loss for loss in losses if loss is not None]
        return max(known, key=lambda loss: loss.mean, default=None)


def to_matrix(found: Sequence[results.EvaluationResult]) -> ResultMatrix:
    """Arranges results that are in the order of `results.load_all`."""
    kinds = {(result.split, result.tier) for result in found}

    def name_panel(result: results.EvaluationResult) -> str:
        if len(kinds) == 1:
            return result.env
        tier = "" if result.tier == "all" else f", {result.tier}"
        return f"{result.env} ({result.split}{tier})"

    environments = {name_panel(result): result.env for result in found}
    return ResultMatrix(
        stages=tuple(dict.fromkeys(result.stage for result in found)),
        panels=tuple(environments),
        environments=tuple(environments.values()),
        cells={(result.stage, name_panel(result)): result for result in found},
    )
