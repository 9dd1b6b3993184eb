"""A run's parameters: where they come from, which are trained, what rollouts read."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from agentrl import config as config_lib
from agentrl import types
from agentrl.models import lora, transformer
from agentrl.parallel import rng, sharding


@dataclasses.dataclass(frozen=True, eq=False)
class Parameters:
    """Both halves of a run's parameters: the trained, and the frozen beside them.

    Only the trained half is optimised and stored in checkpoints. Without `lora` and
    `trainable` in the configuration it is all there is.
    """

    config: config_lib.RunConfig
    model: transformer.Model
    mesh: Mesh  # the learner's

    @functools.cached_property
    def key(self) -> jax.Array:
        """The run's PRNG key."""
        return jax.random.key(self.config.seed)

    @functools.cached_property
    def abstract_model(self) -> types.PyTree:
        """Shapes of all parameters of the model, with their placements."""
        return sharding.place(jax.eval_shape(self.model.init, self.key), self.mesh)

    @functools.cached_property
    def _abstract_halves(self) -> tuple[types.PyTree, types.PyTree]:
        halves = jax.eval_shape(self._split, self.abstract_model)
        return sharding.place(halves, self.mesh)

    @property
    def abstract(self) -> types.PyTree:
        """Shapes and placements of the trained parameters."""
        return self._abstract_halves[0]

    def init(self) -> types.PyTree:
        """The trained parameters as a run starts from them, made where they are placed."""
        return self._load_half(0)

    def zeros(self) -> types.PyTree:
        """Trained parameters that are all zero, to compile with."""
        return jax.tree.map(
            lambda s: jnp.zeros(s.shape, s.dtype, device=s.sharding), self.abstract
        )

    @functools.cached_property
    def frozen(self) -> types.PyTree:
        """The parameters that no stage changes; empty unless the run freezes some."""
        return self._load_half(1) if self._abstract_halves[1] else {}

    @functools.cached_property
    def frozen_digest(self) -> int:
        """What a checkpoint, which holds trained parameters only, names the others by."""
        return int(jax.jit(lora.digest)(self.frozen))

    def join(self, trained: types.PyTree, frozen: types.PyTree) -> types.PyTree:
        """The model's view of trained and frozen parameters."""
        adapters = self.config.lora
        return lora.join(
            trained, frozen, adapters.alpha / adapters.rank if adapters else 1
        )

    def make_view(self, rollout_mesh: Mesh) -> Callable[[types.PyTree], types.PyTree]:
        """Returns the function from trained parameters to all that rollouts read."""

        def view(trained: types.PyTree, frozen: types.PyTree) -> types.PyTree:
            joined = self.join(trained, frozen)
            return lora.for_rollouts(joined, self.config.lora, self.model.config)

        place = sharding.make_rollout_params(
            self.mesh, rollout_mesh, view, *self._abstract_halves
        )
        return lambda trained: place(trained, self.frozen)

    def _split(self, params: types.PyTree) -> tuple[types.PyTree, types.PyTree]:
        return lora.split(
            params,
            rng.stream_key(self.key, "adapters"),
            lora=self.config.lora,
            trainable=self.config.trainable,
            config=self.model.config,
        )

    def _load_half(self, half: int) -> types.PyTree:
        placements = jax.tree.map(lambda s: s.sharding, self._abstract_halves[half])
        take = jax.jit(
            lambda params: self._split(params)[half],
            donate_argnums=0,
            out_shardings=placements,
        )
        return take(self._load())

    def _load(self) -> types.PyTree:
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
            from agentrl.pretrained import locate

            return locate.find(self.config.weights).load(self.abstract_model)
        placements = jax.tree.map(lambda s: s.sharding, self.abstract_model)
        init = jax.jit(self.model.init, out_shardings=placements)
        return init(rng.stream_key(self.key, "parameters"))
