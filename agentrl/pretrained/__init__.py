"""Models as they are published: weights, tokenizers and chat templates, in and out."""

import logging


def _is_wanted(record: logging.LogRecord) -> bool:
    return "Models won't be available" not in record.getMessage()


# On import, `transformers` advises to install PyTorch, which nothing here needs.
# This drops that line alone, before whichever module imports it.
logging.getLogger("transformers").addFilter(_is_wanted)
