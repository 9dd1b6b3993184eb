"""How far two readers of the same episodes agree on a yes or no."""

import collections
import dataclasses
import math
from collections.abc import Iterable

import numpy as np

from agentrl.statistics import intervals


@dataclasses.dataclass(frozen=True)
class Agreement:
    """Counts of the four outcomes, and the share of episodes in which both say the same."""

    both: int
    only_first: int
    only_second: int
    neither: int
    share: intervals.Estimate | None  # over tasks; None without any episode

    @property
    def count(self) -> int:
        """Episodes that were compared."""
        return self.both + self.only_first + self.only_second + self.neither

    @property
    def kappa(self) -> float:
        """Agreement beyond chance, 1 at most.

          kappa = (p - e) / (1 - e),   p = share of equal answers,
          e = a b + (1 - a) (1 - b),   a and b the shares of yes of each reader

        Cohen 1960, https://doi.org/10.1177/001316446002000104. NaN where chance explains
        all (each reader always says the same), or nothing was compared.
        """
        n = self.count
        first, second = self.both + self.only_first, self.both + self.only_second
        # Times n squared, in whole numbers, so that "chance explains all" is exact.
        chance = first * second + (n - first) * (n - second)
        if chance == n * n:
            return math.nan
        return (n * (self.both + self.neither) - chance) / (n * n - chance)


def compare(answers: Iterable[tuple[str, bool, bool]]) -> Agreement:
    """Compares two readers.

    Args:
      answers: task, first and second answer for each episode. Episodes of a task are not
        independent, so the interval is over tasks: see `intervals.ratio`.
    """
    outcomes = collections.Counter[tuple[bool, bool]]()
    equal, total = collections.Counter[str](), collections.Counter[str]()
    for task, first, second in answers:
        outcomes[first, second] += 1
        equal[task] += first == second
        total[task] += 1
    share = None
    if total:
        counts = [[counter[task] for task in total] for counter in (equal, total)]
        share = intervals.ratio(*np.array(counts))
    return Agreement(
        both=outcomes[True, True],
        only_first=outcomes[True, False],
        only_second=outcomes[False, True],
        neither=outcomes[False, False],
        share=share,
    )
