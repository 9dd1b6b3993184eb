"""Initial models by name, as `ModelConfig.init` has them."""

import jax

from agentrl import types
from agentrl.initial import induction
from agentrl.models import transformer


def init(model: transformer.Model, key: jax.Array) -> types.PyTree:
    """Draws the initial parameters that `model.config.init` names.

    Args:
      model: the transformer.
      key: PRNG key.

    Returns:
      Nested dictionaries of arrays, in the type of parameters that are trained.
    """
    if model.config.init == "induction":
        return induction.init(model, key)
    return model.init(key)
