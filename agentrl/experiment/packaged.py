"""The experiments that are installed with the package, by name.

`demo` is `experiments/demo/demo.py`. A file that is not named like its folder carries
both names: `recipes/ppo` is `experiments/recipes/ppo.py`.
"""

import ast
import difflib
import pathlib

import agentrl
from agentrl import errors

FOLDER = pathlib.Path(agentrl.__file__).parent / "experiments"


def names() -> dict[str, pathlib.Path]:
    """Returns the file of each packaged experiment, by name."""
    found = {}
    for path in sorted(FOLDER.glob("*/*.py")):
        folder = path.parent.name
        if "def get_config(" in path.read_text(encoding="utf-8"):
            found[folder if path.stem == folder else f"{folder}/{path.stem}"] = path
    return found


def find(experiment: str | pathlib.Path) -> pathlib.Path:
    """Returns the file of an experiment.

    Args:
      experiment: path of a file, or the name of a packaged experiment. A file goes first.

    Raises:
      ConfigError: if there is neither.
    """
    path = pathlib.Path(experiment)
    if path.is_file():
        return path
    known = names()
    if str(experiment) in known:
        return known[str(experiment)]
    close = difflib.get_close_matches(str(experiment), known, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise errors.ConfigError(
        f"no experiment file at {experiment}, and no packaged experiment of that name."
        f"{hint} Give a Python file that defines get_config(), or one of: "
        f"{', '.join(known)}."
    )


def summary(path: pathlib.Path) -> str:
    """Returns the first line of the docstring of a Python file, without running it."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0]
