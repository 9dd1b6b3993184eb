"""What an environment returned, checked and made plain before it leaves its worker.

The rest of the system trusts what passes here: every field has its declared type, numbers
are finite Python floats, texts can be encoded and are bounded in size. Scalars of NumPy and
of similar libraries are converted, lone surrogates replaced by U+FFFD. Anything else is a
`base.InvalidResultError`, which ends the episode.
"""

import math
import numbers
import re
import reprlib

from agentrl.envs import base

MAX_OBSERVATION_BYTES = 1 << 20  # of UTF-8; the default of the pool's option
MAX_ERROR_CHARS = 4_000  # of an error's text, which is stored with its episode
_SURROGATES = re.compile("[\ud800-\udfff]")
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80


def check_result(result: object, max_bytes: int) -> base.StepResult:
    """Returns what `step` returned, with plain values in all fields.

    Args:
      result: what the environment returned.
      max_bytes: UTF-8 bytes that each text may have.

    Raises:
      InvalidResultError: naming the first field that is wrong and its value.
    """
    if not isinstance(result, base.StepResult):
        raise base.InvalidResultError(
            f"step() returned {_show(result)}; it must return a StepResult."
        )
    info = result.info
    if not isinstance(info, base.StepInfo):
        raise base.InvalidResultError(f"info is {_show(info)}; it must be a StepInfo.")
    return base.StepResult(
        observation=check_text("observation", result.observation, max_bytes),
        reward=_check_number("reward", result.reward),
        terminated=_check_bool("terminated", result.terminated),
        truncated=_check_bool("truncated", result.truncated),
        info=base.StepInfo(
            success=_check_bool("info.success", info.success),
            score=_check_number("info.score", info.score),
            valid_action=_check_bool("info.valid_action", info.valid_action),
            parse_error=_check_bool("info.parse_error", info.parse_error),
            parsed_action=check_text(
                "info.parsed_action", info.parsed_action, max_bytes
            ),
            progress=_check_number("info.progress", info.progress),
        ),
    )


def check_text(field: str, value: object, max_bytes: int) -> str:
    """Returns `value` as a `str` that can be encoded.

    Raises:
      InvalidResultError: if it is not a text, or one of more than `max_bytes` bytes.
    """
    if not isinstance(value, str):
        raise base.InvalidResultError(f"{field} is {_show(value)}; it must be a str.")
    text = value if type(value) is str else str(value)
    if text.isascii():
        size = len(text)
    else:
        text = replace_surrogates(text)
        size = len(text.encode())
    if size > max_bytes:
        raise base.InvalidResultError(
            f"{field} has {size} bytes, over the limit of {max_bytes}; it begins "
            f"{text[:80]!r}. Shorten it in the environment."
        )
    return text


def replace_surrogates(text: str) -> str:
    """Replaces lone surrogates, which UTF-8 cannot encode, by U+FFFD."""
    return _SURROGATES.sub("\ufffd", text)


def shorten_error(text: str) -> str:
    """Returns an error's text as it may be stored: encodable, its middle left out."""
    half = MAX_ERROR_CHARS // 2
    if len(text) > MAX_ERROR_CHARS:
        left_out = len(text) - 2 * half
        text = f"{text[:half]}\n[{left_out} characters left out]\n{text[-half:]}"
    return replace_surrogates(text)


def _check_number(field: str, value: object) -> float:
    if type(value) is not float:
        plain = _to_scalar(value)
        if isinstance(plain, bool) or not isinstance(plain, numbers.Real):
            raise base.InvalidResultError(
                f"{field} is {_show(value)}; it must be a finite number."
            )
        try:
            value = float(plain)
        except OverflowError:
            value = math.inf
    if not math.isfinite(value):
        raise base.InvalidResultError(
            f"{field} is {value}; it must be a finite number."
        )
    return value


def _check_bool(field: str, value: object) -> bool:
    if value is True or value is False:
        return value
    plain = _to_scalar(value)
    if not isinstance(plain, bool):
        raise base.InvalidResultError(f"{field} is {_show(value)}; it must be a bool.")
    return plain


def _to_scalar(value: object) -> object:
    """Returns the Python scalar in a scalar of NumPy or a similar library."""
    if getattr(value, "shape", None) == ():
        return value.item()  # pyright: ignore[reportAttributeAccessIssue]
    return value


def _show(value: object) -> str:
    return f"{replace_surrogates(_SHORT.repr(value))} ({type(value).__name__})"
