"""The file `tokenizer.json`: what decides the ids of a text, and who reads it otherwise.

`transformers` builds some tokenizers from parts of the file and settles the rest by class
or model type, so the same folder can give other ids. Whatever is loaded is compared with
the file.
"""

import json
import pathlib
import tempfile
from typing import Any

import tokenizers
import transformers

from agentrl import errors

FILE = "tokenizer.json"
CONFIG = "tokenizer_config.json"
CLASS = "PreTrainedTokenizerFast"  # takes the file as it is, in transformers 4 and 5
# Of a tokenizer's own machine or release, or code that nobody should run.
_LEFT_OUT = ("auto_map", "backend", "is_local", "local_files_only", "name_or_path")


def load(folder: pathlib.Path) -> transformers.PreTrainedTokenizerFast:
    """Reads a folder's tokenizer; its ids are those of `tokenizer.json`.

    Code that comes with the folder is never run, nor asked about.

    Raises:
      ConfigError: if there is no such file, it is damaged, or the files beside it change
        its ids.
    """
    path = folder / FILE
    if not path.is_file():
        raise errors.ConfigError(
            f"{folder} holds no {FILE}, which alone says what the ids of a text are; "
            "have transformers write one: AutoTokenizer.from_pretrained(FOLDER)"
            ".save_pretrained(FOLDER)."
        )
    try:
        file = tokenizers.Tokenizer.from_file(str(path))
        found = transformers.PreTrainedTokenizerFast.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # the library raises that very class
        raise errors.ConfigError(
            f"{folder} holds no tokenizer that transformers can read "
            f"({type(error).__name__}: {' '.join(str(error).split())[:300]}); fetch "
            f"{FILE}, {CONFIG} and the files beside them again."
        ) from error
    if changed := differences(file, found.backend_tokenizer):
        raise errors.ConfigError(
            f"read with the files beside it, {path} gives other ids: {changed}. Make "
            f"{CONFIG}, special_tokens_map.json and added_tokens.json agree with {FILE}."
        )
    return found


def differences(file: tokenizers.Tokenizer, read: tokenizers.Tokenizer) -> str:
    """Returns what makes ids differ between `read` and `file`; "" if nothing."""
    own, others = _added(file), _added(read)
    if changed := sorted(set(own.items()) ^ set(others.items())):
        index, content = changed[0]
        return f"the token {content!r} with id {index} is in one of them alone"
    ours, theirs = _parts(file), _parts(read)
    for name in ("normalizer", "pre_tokenizer"):
        if ours[name] != theirs[name]:
            return f"{name} is {ours[name]} in the file and {theirs[name]} as read"
    changed = [n for n in ours["model"] if ours["model"][n] != theirs["model"].get(n)]
    return f"the model's {', '.join(changed)} are others" if changed else ""


def read_otherwise(folder: pathlib.Path, model_type: str) -> str:
    """Returns how `transformers` changes ids for a model type; "" if it does not.

    Args:
      folder: holds the tokenizer's files.
      model_type: as `config.json` names it; `AutoTokenizer` goes by it.
    """
    file = tokenizers.Tokenizer.from_file(str(folder / FILE))
    with tempfile.TemporaryDirectory() as trial:
        (pathlib.Path(trial) / FILE).symlink_to((folder / FILE).resolve())
        written = {"config.json": {"model_type": model_type}}
        if (folder / CONFIG).is_file():
            written[CONFIG] = portable(json.loads((folder / CONFIG).read_text("utf-8")))
        for name, fields in written.items():
            (pathlib.Path(trial) / name).write_text(json.dumps(fields), "utf-8")
        read = transformers.AutoTokenizer.from_pretrained(
            trial, local_files_only=True, trust_remote_code=False
        )
    return differences(file, read.backend_tokenizer)


def portable(fields: dict[str, Any]) -> dict[str, Any]:
    """Returns a `tokenizer_config.json` with which all releases read `tokenizer.json`."""
    kept = {name: value for name, value in fields.items() if name not in _LEFT_OUT}
    # A list under this name is new in transformers 5; 4 knows the older name only.
    if isinstance(extra := kept.get("extra_special_tokens"), list):
        del kept["extra_special_tokens"]
        known = kept.get("additional_special_tokens") or []
        kept["additional_special_tokens"] = [
            *known,
            *(t for t in extra if t not in known),
        ]
    return kept | {"tokenizer_class": CLASS}


def _added(backend: tokenizers.Tokenizer) -> dict[int, str]:
    return {i: t.content for i, t in backend.get_added_tokens_decoder().items()}


def _parts(backend: tokenizers.Tokenizer) -> dict[str, Any]:
    """Returns the parts that decide ids, without empty ones and offsets."""
    stored = json.loads(backend.to_str())
    return {n: _plain(stored[n]) for n in ("normalizer", "pre_tokenizer", "model")}


def _plain(part: Any) -> Any:
    if isinstance(part, dict):
        return {
            name: _plain(value)
            for name, value in part.items()
            if value not in (None, "", False) and name != "trim_offsets"
        }
    return [_plain(value) for value in part] if isinstance(part, list) else part
