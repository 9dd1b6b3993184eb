"""The scales of the generalization study, by name.

`laptop`     a model of 1.1 million parameters, random weights, two cores
`short`      the same for about half as long
`small`      SmolLM2-135M-Instruct or another small language model, one GPU
`small_cpu`  the same with fewer and shorter episodes, two cores for some hours
`paper`      Qwen2.5-3B/7B-Instruct with the settings known of arXiv 2603.12011
"""

from collections.abc import Callable, Sequence

from agentrl.experiments.generalization import laptop, paper, scale, small

SCALES: dict[str, Callable[[tuple[str, ...]], scale.Scale]] = {
    "laptop": laptop.laptop,
    "short": laptop.short,
    "small": small.small,
    "small_cpu": small.small_cpu,
    "paper": paper.paper,
}


def make(name: str, environments: Sequence[str]) -> scale.Scale:
    """Returns a scale for some environments; empty takes all five.

    Raises:
      ValueError: if there is no such scale, or it has no such environment.
    """
    for env in environments:
        if env not in scale.ENVIRONMENTS:
            raise ValueError(
                f"no environment {env!r}; give {', '.join(scale.ENVIRONMENTS)}"
            )
    if name not in SCALES:
        raise ValueError(f"no scale {name!r}; give one of {', '.join(SCALES)}")
    return SCALES[name](tuple(environments) or scale.ENVIRONMENTS)
