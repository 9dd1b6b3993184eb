"""Models and data sets by their names on the Hugging Face Hub, through its cache.

A name is `owner/name`, with a revision (branch, tag or commit) as `owner/name@revision`.
What is fetched is pinned: the name that comes back holds the commit. The client's own
variables count: `HF_HOME`, `HF_HUB_CACHE`, `HF_HUB_OFFLINE`, `HF_ENDPOINT`, `HF_TOKEN`.
"""

import pathlib
import re
from typing import Literal

from agentrl import errors

Kind = Literal["model", "dataset"]

# All that is read of a model; never code, nor the same weights in other formats.
MODEL_FILES = (
    "*.safetensors",
    "*.json",
    "*.jinja",
    "*.model",
    "merges.txt",
    "*.tiktoken",
)
DATA_FILES = ("*.json", "*.jsonl", "*.parquet")
_FILE_SUFFIXES = (".json", ".jsonl", ".parquet", ".gguf", ".safetensors", ".py")
_NAME = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([\w./-]+))?")


def is_name(where: str) -> bool:
    """Whether this may be a name on the Hub; a path that is there goes first.

    So does a path below a folder that is there, `models/qwen` beside a folder `models`,
    and a path of a file by its suffix: if they are missing, the Hub is not asked.
    """
    path = pathlib.Path(where)
    if _NAME.fullmatch(where) is None or path.suffix in _FILE_SUFFIXES:
        return False
    return not (path.exists() or pathlib.Path(path.parts[0]).is_dir())


def split(name: str) -> tuple[str, str]:
    """Returns repository and revision of a name; the revision is empty without one."""
    repository, _, revision = name.partition("@")
    return repository, revision


def keep_revision(name: str, begun: str) -> str:
    """Returns what a name means to a run that has begun.

    Args:
      name: as a person writes it.
      begun: the pinned name that the run began with.

    Returns:
      `begun`, if it is of the same repository and `name` asks for no other revision.
    """
    (wanted, revision), (known, _) = split(name), split(begun)
    return begun if wanted == known and not revision else name


def fetch(name: str, kind: Kind = "model") -> tuple[pathlib.Path, str]:
    """Finds a repository in the cache, or fetches it.

    Args:
      name: `owner/name` or `owner/name@revision`.
      kind: of repository.

    Returns:
      The folder of its files, and the name with the commit as revision.

    Raises:
      ConfigError: if it is neither in the cache nor to be had, with the next step.
    """
    import huggingface_hub
    from huggingface_hub import utils

    repository, revision = split(name)
    utils.logging.set_verbosity_error()  # what it warns of is in our message
    try:
        folder = pathlib.Path(
            huggingface_hub.snapshot_download(
                repository,
                repo_type=kind,
                revision=revision or None,
                allow_patterns=list(MODEL_FILES if kind == "model" else DATA_FILES),
                ignore_patterns=["*/*"] if kind == "model" else None,
            )
        )
    except Exception as error:  # many classes, some of the client's HTTP library
        raise errors.ConfigError(_explain(error, repository, revision, kind)) from error
    return folder, f"{repository}@{folder.name}"


def choose_file(folder: pathlib.Path, wanted: str, name: str) -> pathlib.Path:
    """Returns one file of a data set.

    Args:
      folder: of the data set.
      wanted: path in it; empty if it holds only one.
      name: of the data set, for messages.

    Raises:
      ConfigError: if there is no such file, or several to choose from.
    """
    found = {
        path.relative_to(folder).as_posix(): path
        for pattern in DATA_FILES
        for path in sorted(folder.rglob(pattern))
    }
    if wanted in found:
        return found[wanted]
    if not wanted and len(found) == 1:
        return next(iter(found.values()))
    complaint = f"no file {wanted!r}" if wanted else f"{len(found)} files of data"
    raise errors.ConfigError(
        f"the data set {name} has {complaint}; say which one, as {split(name)[0]}:FILE. "
        f"It has {', '.join(found) or 'none in ' + ' or '.join(DATA_FILES)}."
    )


def command(repository: str, revision: str, kind: Kind) -> str:
    """Returns the command that fetches a repository into the cache."""
    parts = ["hf download", repository]
    parts += ["--repo-type=dataset"] if kind == "dataset" else []
    parts += [f"--revision={revision}"] if revision else []
    return " ".join(parts)


def _explain(error: Exception, repository: str, revision: str, kind: Kind) -> str:
    from huggingface_hub import constants
    from huggingface_hub import errors as hub_errors

    what = f"{'model' if kind == 'model' else 'data set'} {repository}"
    get = command(repository, revision, kind)
    if isinstance(error, hub_errors.GatedRepoError):
        return (
            f"the Hub gives the {what} only to those who have accepted its "
            f"terms: do so at {constants.ENDPOINT}/{repository}, run `hf auth login`, "
            f"then `{get}`."
        )
    if isinstance(error, hub_errors.RepositoryNotFoundError):
        return (
            f"there is no folder {repository} here, and {constants.ENDPOINT} has no "
            f"{what}, or a private one: correct the name, or run `hf auth login`."
        )
    if isinstance(error, hub_errors.RevisionNotFoundError):
        return (
            f"the {what} has no revision {revision!r}; leave it out, or name "
            "a branch, a tag or a commit."
        )
    if constants.HF_HUB_OFFLINE:
        reason = "HF_HUB_OFFLINE forbids to ask the Hub"
    else:
        reason = f"{constants.ENDPOINT} does not answer ({_first_line(error)})"
    return (
        f"the {what} is no folder here and not whole in the Hugging Face cache "
        f"({constants.HF_HUB_CACHE}), and {reason}. With a network, this fetches it: {get}"
    )


def _first_line(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
