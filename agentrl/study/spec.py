"""A study as data: cells, each a chain of stages, on one model and its environments.

A study file is Python with `get_study(scale, environments) -> Study`; see
`experiments/generalization/study.py`.
"""

import dataclasses
import importlib.util
import pathlib
import sys
import traceback
from collections.abc import Mapping, Sequence

from agentrl import config, errors
from agentrl.envs import base, registry
from agentrl.experiment import packaged

# What a cell asks: where policies are trained, and where they are tested.
AXES = (
    "within",  # easy and hard tasks of one environment
    "across",  # one environment, tested on all
    "sequence",  # all environments, one after the other
    "pair",  # two of them; many cells, so only if asked for
    "mixture",  # several at once
    "interface",  # lists of actions in training and in tests
    "augmentation",  # irrelevant text in observations
    "control",  # training that can teach nothing
)
ON_DEMAND = ("pair",)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Variant:
    """An evaluation of a cell's last policy under other settings than its stages have."""

    name: str  # of its folder and its columns
    flags: tuple[str, ...]  # of launch.evaluate, such as "--max_turns=20"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """A chain of stages, which every seed of the study goes through."""

    axis: str
    name: str
    stages: tuple[config.StageConfig, ...]  # the whole chain, warm start included
    # In place of the study's, where the cell changes environments themselves.
    environments: Mapping[str, base.EnvConfig] | None = None
    evaluation: config.EvaluationConfig | None = None  # likewise
    learner: config.LearnerConfig | None = None  # likewise
    variants: tuple[Variant, ...] = ()

    @property
    def key(self) -> str:
        """Axis and name, such as "across/babyai"."""
        return f"{self.axis}/{self.name}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Published:
    """A number of the paper, to print beside ours."""

    what: str
    before: str  # as published; "" if there is one number only
    after: str
    model: str
    source: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
    """Cells that share one model, tokenizer and set of environments."""

    name: str
    base: config.RunConfig  # its stages are empty: each cell has its own
    cells: tuple[Cell, ...]
    seeds: tuple[int, ...] = (0, 1, 2)
    # By environment and tier, the subsets that make it up; structural tiers if empty.
    difficulty: Mapping[str, Mapping[str, tuple[str, ...]]] = dataclasses.field(
        default_factory=dict
    )
    # Episodes of each task from which a node's drift from its start and from the base of
    # its chain is measured, once it is done; 0 measures none.
    drift_samples: int = 0
    published: tuple[Published, ...] = ()
    note: str = ""  # what a reader of the page must know of the scale

    def validate(self) -> None:
        """Raises `ConfigError` if cells do not fit together."""
        if self.base.stages:
            raise errors.ConfigError(
                "a study's base has stages; leave them empty, each cell has its own."
            )
        if not self.cells or not self.seeds:
            raise errors.ConfigError(
                f"a study of {len(self.cells)} cells and {len(self.seeds)} seeds has "
                "nothing to train; give one or more of each."
            )
        if self.drift_samples < 0:
            raise errors.ConfigError(
                f"a study's drift_samples = {self.drift_samples}; give 0 or more."
            )
        keys = [cell.key for cell in self.cells]
        if twice := sorted({key for key in keys if keys.count(key) > 1}):
            raise errors.ConfigError(f"two cells are called {twice[0]!r}.")
        for cell in self.cells:
            if unseen := [s.name for s in cell.stages if not s.evaluate_after]:
                raise errors.ConfigError(
                    f"cell {cell.key!r}: stage {unseen[0]!r} has evaluate_after = False; "
                    "a study evaluates after each stage."
                )
            if cell.axis not in AXES:
                raise errors.ConfigError(
                    f"cell {cell.key!r}: there is no axis {cell.axis!r}; give one of "
                    f"{', '.join(AXES)}."
                )

    def select(self, axes: Sequence[str], seeds: Sequence[int]) -> "Study":
        """Keeps the cells of some axes, and other seeds; empty keeps what is there.

        Axes of `ON_DEMAND` have to be named.

        Raises:
          ConfigError: if an axis has no cell here.
        """
        known = tuple(dict.fromkeys(cell.axis for cell in self.cells))
        for axis in axes:
            if axis not in known:
                raise errors.ConfigError(
                    f"--axes: this study has no cell of the axis {axis!r}; it has "
                    f"{', '.join(known)}."
                )
        chosen = axes or [axis for axis in known if axis not in ON_DEMAND]
        kept = tuple(cell for cell in self.cells if cell.axis in chosen)
        return dataclasses.replace(
            self, cells=kept, seeds=tuple(dict.fromkeys(seeds)) or self.seeds
        )

    def settings_of(self, cell: Cell, seed: int) -> config.RunConfig:
        """The configuration of one seed's chain."""
        replaced = {
            name: value
            for name in ("environments", "evaluation", "learner")
            if (value := getattr(cell, name)) is not None
        }
        return dataclasses.replace(self.base, stages=cell.stages, seed=seed, **replaced)


def load(path: pathlib.Path, scale: str, environments: Sequence[str]) -> Study:
    """Imports a study file and calls its `get_study`.

    Args:
      path: the file.
      scale: one of those that the file knows.
      environments: names; empty takes all of the file's.

    Raises:
      ConfigError: if there is no such file, it fails, or returns something else.
    """
    packaged_file = packaged.FOLDER / path / "study.py"
    if not path.is_file() and packaged_file.is_file():  # such as "generalization"
        path = packaged_file
    if not path.is_file():
        raise errors.ConfigError(
            f"no study file at {path}; give --config, a Python file that defines "
            "get_study(scale, environments)."
        )
    for env in environments:
        if env not in registry.names():
            registry.get_spec(env)  # says what is registered
    spec = importlib.util.spec_from_file_location(f"_study_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise errors.ConfigError(f"{path} is not a Python file; name it with .py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
        if not hasattr(module, "get_study"):
            raise errors.ConfigError(
                f"{path} defines no get_study(scale, environments)."
            )
        study = module.get_study(scale, tuple(environments))
    except errors.ConfigError:
        raise
    except Exception as error:  # whatever a person has written into the file
        frames = traceback.extract_tb(error.__traceback__)
        numbers = [frame.lineno for frame in frames if frame.filename == str(path)]
        raise errors.ConfigError(
            f"the study file cannot be used. {path}:{numbers[-1] if numbers else 0}: "
            f"{type(error).__name__}: {error}"
        ) from error
    if not isinstance(study, Study):
        raise errors.ConfigError(
            f"get_study() in {path} returned {type(study).__name__}, not a Study."
        )
    study.validate()
    return study
