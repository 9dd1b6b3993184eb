"""Reinforcement fine-tuning of language-model agents over text environments, in JAX.

`agentrl.train`, `evaluate`, `load_policy`, `make_env` and `load_results` are the library;
`agentrl.api` documents them. They are imported at first use, so that `import agentrl`
imports neither JAX nor anything else.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentrl.api import evaluate, load_policy, load_results, make_env, train

__version__ = "0.2.0"
__all__ = ["evaluate", "load_policy", "load_results", "make_env", "train"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'agentrl' has no attribute {name!r}")
    from agentrl import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
