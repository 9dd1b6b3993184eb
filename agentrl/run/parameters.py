"""A run's parameters: where they come from, which are trained, what rollouts read."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from agentrl import types
from agentrl.config import RunConfig
from agentrl.initial import named
from agentrl.models import lora, transformer
from agentrl.parallel import rng, sharding


def check(settings: RunConfig) -> None:
    """Raises `ConfigError` if what is to be trained names no parameter of the model."""
    if settings.lora is not None or settings.trainable is not None:
        mesh = sharding.make_mesh(settings.mesh)
        _ = Parameters(settings, transformer.Model(settings.model), mesh).abstract


@dataclasses.dataclass(frozen=True, eq=False)
class Parameters:
    """A run's parameters, partitioned into trained and frozen ones.

    Only the trained ones are optimised and stored in checkpoints. Without `lora` and
    `trainable` in the configuration there are no others.
    """

    config: RunConfig
    model: transformer.Model
    mesh: Mesh  # the learner's

    @functools.cached_property
    def key(self) -> jax.Array:
        """The run's PRNG key."""
        return jax.random.key(self.config.seed)

    @functools.cached_property
    def abstract_model(self) -> types.PyTree:
        """Shapes of all parameters of the model, with their placements."""
        return sharding.with_shardings(
            jax.eval_shape(self.model.init, self.key), self.mesh
        )

    @functools.cached_property
    def _abstract(self) -> types.Params:
        shapes = jax.eval_shape(self._split, self.abstract_model)
        return sharding.with_shardings(shapes, self.mesh)

    @property
    def abstract(self) -> types.PyTree:
        """Shapes and placements of the trained parameters."""
        return self._abstract.trained

    @property
    def abstract_frozen(self) -> types.PyTree:
        """Shapes and placements of the frozen parameters."""
        return self._abstract.frozen

    def abstract_view(self, rollout_mesh: Mesh) -> types.PyTree:
        """Shapes and placements of the parameters that rollouts read."""
        shapes = jax.eval_shape(self._view, self._abstract)
        return sharding.with_shardings(shapes, rollout_mesh)

    def init(self) -> types.PyTree:
        """Returns the trained parameters as a run starts from them, where they belong.

        The caller owns them, and may donate them.
        """
        return self._load("trained")

    def zeros(self) -> types.PyTree:
        """Trained parameters that are all zero, to compile with."""
        return jax.tree.map(
            lambda s: jnp.zeros(s.shape, s.dtype, device=s.sharding), self.abstract
        )

    @functools.cached_property
    def frozen(self) -> types.PyTree:
        """The parameters that no stage changes; empty unless the run freezes some."""
        return self._load("frozen") if self._abstract.frozen else {}

    @functools.cached_property
    def frozen_digest(self) -> int:
        """What a checkpoint, which holds trained parameters only, names the others by."""
        return int(jax.jit(lora.digest)(self.frozen))

    def join(self, params: types.Params) -> types.PyTree:
        """Returns the one tree that the model reads."""
        adapters = self.config.lora
        return lora.join(
            params.trained,
            params.frozen,
            adapters.alpha / adapters.rank if adapters else 1,
        )

    def make_view(self, rollout_mesh: Mesh) -> Callable[[types.PyTree], types.PyTree]:
        """Returns the function from trained parameters to all that rollouts read."""
        hand_over = sharding.make_rollout_params(
            self.mesh, rollout_mesh, self._view, self._abstract
        )
        return lambda trained: hand_over(types.Params(trained, self.frozen))

    def _view(self, params: types.Params) -> types.PyTree:
        joined = self.join(params)
        return lora.for_rollouts(joined, self.config.lora, self.model.config)

    def _split(self, params: types.PyTree) -> types.Params:
        return types.Params(
            *lora.split(
                params,
                rng.stream_key(self.key, "adapters"),
                lora=self.config.lora,
                trainable=self.config.trainable,
                config=self.model.config,
            )
        )

    def _load(self, part: Literal["trained", "frozen"]) -> types.PyTree:
        """Loads one part, and keeps the other if it is frozen and was not there yet.

        The files are read once for both: a run needs its frozen parameters as soon as
        its trained ones.
        """
        placements = jax.tree.map(lambda s: s.sharding, self._abstract)
        split = jax.jit(self._split, donate_argnums=0, out_shardings=placements)
        params = split(self._load_model())
        if self._abstract.frozen:
            vars(self).setdefault(
                "frozen", params.frozen
            )  # what `cached_property` does
        return getattr(params, part)

    def _load_model(self) -> types.PyTree:
        """The whole model: weights that the configuration names, else random ones."""
        if self.config.start_from:
            from agentrl.run import fork

            return fork.load(
                self.config.start_from,
                self.config.model,
                self.mesh,
                self.abstract_model,
            )
        if self.config.weights:
            from agentrl.sources import locate  # slow to import

            return locate.find(self.config.weights).load(self.abstract_model)
        placements = jax.tree.map(lambda s: s.sharding, self.abstract_model)
        init = functools.partial(named.init, self.model)
        init = jax.jit(init, out_shardings=placements)
        return init(rng.stream_key(self.key, "parameters"))
