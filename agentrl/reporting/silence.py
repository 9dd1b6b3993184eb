"""Says so, while it happens, if a run learns nothing."""

from collections.abc import Mapping

PATIENCE = 10  # iterations in a row before the first message
_EVERY = 50  # iterations between it and the next ones

# What is wrong if a metric has this value, and what to do.
_SYMPTOMS = (
    (
        "rollout/zero_variance_groups",
        1.0,
        "all episodes of each group have the same return, so no group says which "
        "answers are better; choose easier or harder tasks, larger groups, a higher "
        "temperature, or a longer warm start",
    ),
    (
        "optimizer/grad_norm",
        0.0,
        "the gradient is zero, so the parameters stay as they are; look at "
        "rollout/zero_variance_groups and rollout/ending/* in metrics.jsonl",
    ),
)


class SilenceWatch:
    """Counts iterations in a row in which nothing can be learned."""

    def __init__(self, patience: int = PATIENCE):
        self._patience = patience
        self._counts: dict[str, int] = {}
        self._stage = ""

    def observe(
        self, stage: str, iteration: int, values: Mapping[str, float | None]
    ) -> str:
        """Takes in the metrics of an iteration.

        Returns:
          A message for the terminal; empty if there is nothing to say now.
        """
        if stage != self._stage:
            self._stage, self._counts = stage, {}
        messages = []
        for name, useless, explanation in _SYMPTOMS:
            count = self._counts.get(name, 0) + 1 if values.get(name) == useless else 0
            self._counts[name] = count
            since = count - self._patience
            if since >= 0 and since % _EVERY == 0:
                messages.append(
                    f"stage '{stage}', iteration {iteration}: nothing has been learned "
                    f"for {count} iterations ({name} = {useless:g}): {explanation}."
                )
        return messages[0] if messages else ""
