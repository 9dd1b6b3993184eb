"""Exact match of answers, as the question answering data sets define it."""

import re
import string
import unicodedata
from collections.abc import Iterable

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLE = re.compile(r"\b(a|an|the)\b")


def normalize(answer: str) -> str:
    """Lower case, no ASCII punctuation, no articles, single spaces.

    Source: the evaluation script of SQuAD 1.1, https://arxiv.org/abs/1606.05250.
    """
    plain = answer.lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLE.sub(" ", plain).split())


def is_correct(answer: str, accepted: Iterable[str]) -> bool:
    """Whether `answer` equals one of the accepted ones, both normalized."""
    return normalize(answer) in map(normalize, accepted)


def without_accents(text: str) -> str:
    """The text in plain letters where Unicode can take letters and accents apart."""
    parts = unicodedata.normalize("NFKD", text)
    return "".join(part for part in parts if not unicodedata.combining(part))
