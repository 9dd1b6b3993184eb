"""From observation text to tokens and back."""

from agentrl import pretrained  # noqa: F401  for what it keeps `transformers` from saying
