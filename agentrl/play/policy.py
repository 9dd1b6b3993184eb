"""A stored policy that answers: a run's checkpoint or a Hugging Face folder.

It runs on the first local device, one conversation at a time, compiled on first use.
"""

import dataclasses
import functools
import math
import pathlib
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from agentrl import config, errors, types
from agentrl.chat import history, huggingface, renderer, tokenizer
from agentrl.checkpoints import checkpoint
from agentrl.engine import engine
from agentrl.envs import base
from agentrl.experiment import files, precision
from agentrl.models import lora, transformer
from agentrl.ops import logprobs
from agentrl.parallel import sharding, startup
from agentrl.rollout import live
from agentrl.run import assemble, parameters
from agentrl.sources import locate

_Role = Literal["system", "user", "assistant"]
_ONE_DEVICE = config.MeshConfig(data=1, fsdp=1, model=1)
_SCORED_AT_ONCE = 256  # tokens whose logits exist at one time
_MAX_TOKENS = (
    4096  # of a conversation with a Hugging Face folder, unless told otherwise
)


@dataclasses.dataclass(frozen=True)
class Reply:
    """What a policy answered.

    In a further call it stands for the assistant's message, and its very tokens are read.
    """

    text: str
    tokens: tuple[int, ...]  # as sampled; the stop token is the last, unless cut off
    logprobs: tuple[
        float, ...
    ]  # of each token, nats, at temperature 1 among all tokens
    stopped: bool  # False if the answer was cut at the limit of tokens

    @property
    def probability(self) -> float:
        """Geometric mean of the probabilities of the tokens."""
        return math.exp(sum(self.logprobs) / len(self.logprobs))


Conversation = Sequence[Mapping[str, str] | Reply]


class NoRoomError(errors.ConfigError):
    """A conversation leaves no room for an answer."""

    def __init__(self, num_tokens: int, max_tokens: int):
        super().__init__(
            f"the conversation has {num_tokens} tokens and the policy room for "
            f"{max_tokens}, the answer included; shorten it, or load the "
            "policy with a larger max_tokens."
        )
        self.num_tokens = num_tokens
        self.max_tokens = max_tokens


@dataclasses.dataclass(frozen=True)
class _Parts:
    """What a policy is made of, from whichever kind of folder."""

    mesh: Mesh  # of one device
    model: transformer.Model
    params: types.PyTree  # as rollouts read them
    chat: renderer.Chat
    rollout: config.RolloutConfig
    environments: Mapping[str, base.EnvConfig]


class Policy:
    """Answers conversations; made by `load`."""

    def __init__(self, parts: _Parts, *, seed: int):
        self._parts = parts
        self._key = jax.random.key(seed)
        self._num_answers = 0
        self._engine = engine.Engine(
            parts.model,
            parts.mesh,
            parts.rollout,
            stop_tokens=self.tokenizer.stop_ids,
            num_valid_tokens=self.tokenizer.vocab_size,
        )

    @property
    def tokenizer(self) -> tokenizer.Tokenizer:
        """Text to ids and back."""
        return self._parts.chat.tokenizer

    @property
    def chat(self) -> renderer.Chat:
        """The frame of conversations that the policy was trained in."""
        return self._parts.chat

    @property
    def environments(self) -> Mapping[str, base.EnvConfig]:
        """Environments as the policy's run configures them; empty without a run."""
        return self._parts.environments

    @property
    def rollout(self) -> config.RolloutConfig:
        """How answers are sampled, and their limits."""
        return self._parts.rollout

    def act(self, conversation: Conversation) -> Reply:
        """Samples the answer to a conversation.

        Args:
          conversation: messages in order, the last one by the user: each a mapping with
            `role` (system, user or assistant) and `content`, or an earlier `Reply` in
            the assistant's place.

        Returns:
          The answer. Each call draws anew; the n-th call after loading draws the same
          numbers whenever the seed is the same.

        Raises:
          ConfigError: if the conversation cannot be rendered in the policy's format, or
            has no room for an answer (`NoRoomError`).
        """
        tokens = self.render(conversation)
        limits = self._parts.rollout
        if len(tokens) >= limits.max_tokens:
            raise NoRoomError(len(tokens), limits.max_tokens)
        action = self._sample(tokens)
        ids = tuple(map(int, action.tokens))
        found = action.logprobs
        as_sampled = (limits.temperature, limits.top_k, limits.top_p) == (1.0, 0, 1.0)
        if action.sampled is not None or not as_sampled:
            found = self._score(tokens, ids)  # those drawn from are others
        return Reply(
            text=self.tokenizer.decode(ids),
            tokens=ids,
            logprobs=tuple(map(float, found)),
            stopped=ids[-1] in self.tokenizer.stop_ids,
        )

    def _sample(self, context: Sequence[int]) -> engine.SlotOutput:
        """Samples an answer as an episode does: a thought has a limit of its own."""
        nothing = types.Task(env="", item_id="", group=0, sample=0)
        episode = live.Episode(
            0, nothing, self._num_answers, self.chat, tokens=list(context)
        )
        self._num_answers += 1
        cohort = self._engine.new_cohort()
        whole = False
        while not whole:
            entry = episode.next_input(self.rollout)
            pending = self._engine.dispatch(
                self._parts.params, cohort, {0: entry}, self._key
            )
            output = self._engine.fetch(cohort, pending)[0]
            whole = episode.take(output, self.rollout)
        assert episode.action is not None
        return episode.action

    def _score(self, context: Sequence[int], answer: Sequence[int]) -> np.ndarray:
        """Log-probabilities float32[Ta] of an answer, as the policy itself gives them."""
        used = len(context) + len(answer)
        width = next(b for b in self._parts.rollout.cache_buckets if b >= used)
        ids = np.zeros((1, width), np.int32)
        ids[0, :used] = *context, *answer
        columns = np.arange(width)[None]
        found = self._score_row(
            self._parts.params, ids, (columns >= len(context)) & (columns < used)
        )
        return np.asarray(found)[0, len(context) : used]

    @functools.cached_property
    def _score_row(self) -> Callable[..., jax.Array]:
        model = self._parts.model

        def score(params: types.PyTree, ids: jax.Array, mask: jax.Array) -> jax.Array:
            positions = jnp.arange(ids.shape[1], dtype=jnp.int32)[None]
            hidden = model.hidden(params, ids, positions, jnp.ones_like(ids))
            return logprobs.chunked_token_logprobs(
                hidden,
                model.unembedding(params),
                ids,
                chunk=_SCORED_AT_ONCE,
                num_valid=self.tokenizer.vocab_size,
                mask=mask,
            )[0]

        return jax.jit(score)

    def render(self, conversation: Conversation) -> list[int]:
        """Returns the tokens of a conversation, up to where the answer begins.

        Raises:
          ConfigError: if a message has another form, or its role cannot stand there.
        """
        if not conversation or _role_of(conversation[-1]) == "assistant":
            raise errors.ConfigError(
                f"a conversation of {len(conversation)} messages must end with a user's."
            )
        ids: list[int] = []
        after = ""
        pending: list[renderer.Message] = []
        for message in conversation:
            role = _role_of(message)
            text = message.text if isinstance(message, Reply) else message["content"]
            rendered = None
            if role == "assistant":
                rendered = history.chat_answer(self.chat, text)
            if isinstance(message, Reply) and rendered is None:
                ids += self.chat.context(pending, after) + list(message.tokens)
                ids += [] if message.stopped else [self.tokenizer.stop_id]
                pending, after = [], "assistant"
            else:
                text = text if rendered is None else rendered
                pending.append(renderer.Message(role, text))
        return ids + self.chat.context(pending, after)


def load(
    path: str | pathlib.Path,
    *,
    temperature: float | None = None,
    max_action_tokens: int | None = None,
    max_tokens: int | None = None,
    seed: int = 0,
) -> Policy:
    """Loads a policy to converse with.

    Args:
      path: a run's working directory, one of its checkpoints/STEP, or what
        `train --model` takes, a Hugging Face folder or name, whose tokenizer has a chat
        template.
      temperature: of sampling; 0 is greedy. None takes the run's in evaluation, or 1.
      max_action_tokens: most tokens of an answer; None takes the run's, or 512. Of one
        that leaves no room after the run's limit of a thought, a thought takes half.
      max_tokens: most tokens of a conversation; None takes the run's, or what the model
        was trained for, at most 4,096.
      seed: of sampling.

    Raises:
      CheckpointError: if the checkpoint is missing or damaged.
      ConfigError: if there is no model at `path`, or a setting cannot work.
    """
    changes = {
        "temperature": temperature,
        "max_action_tokens": max_action_tokens,
        "max_tokens": max_tokens,
    }
    given = {name: value for name, value in changes.items() if value is not None}
    if locate.is_model(str(path)):
        parts = _read_model(str(path), given)
    else:
        parts = _read_run(pathlib.Path(path), given)
    return Policy(parts, seed=seed)


def _first_device() -> Mesh:
    return sharding.make_mesh_of(_ONE_DEVICE, jax.local_devices()[:1])


def _read_run(path: pathlib.Path, changes: Mapping[str, float]) -> _Parts:
    workdir, _ = checkpoint.find_checkpoint(path)
    settings = files.read_run(workdir)
    startup.prepare_cpu(settings.mesh)  # as whatever this process does next expects it
    mesh = _first_device()
    with assemble.open_pool(settings) as envs:
        chat = assemble.make_chat(settings, workdir, envs)
    model = transformer.Model(settings.model)
    owned = parameters.Parameters(settings, model, mesh)
    stored = checkpoint.restore_policy(
        path, owned.abstract, frozen_digest=owned.frozen_digest
    )
    return _Parts(
        mesh,
        model,
        owned.make_view(mesh)(stored.params),
        chat,
        _one_row(settings.evaluation.rollout, changes),
        settings.environments,
    )


def _read_model(where: str, changes: Mapping[str, float]) -> _Parts:
    found = locate.find(where)
    mesh = _first_device()
    shape = dataclasses.replace(
        found.config, precision=precision.PLATFORMS.get(jax.default_backend())
    )
    model = transformer.Model(shape)
    like = sharding.with_shardings(jax.eval_shape(model.init, jax.random.key(0)), mesh)
    room = min(shape.max_positions, int(changes.get("max_tokens", _MAX_TOKENS)))
    rollout = config.RolloutConfig(
        max_tokens=room,
        max_action_tokens=min(512, room),
        cut_actions="play",  # there is no run that would end an episode there
        append_buckets=(64, 256),
        cache_buckets=tuple(sorted({min(512, room), min(1024, room), room})),
    )
    return _Parts(
        mesh,
        model,
        lora.for_rollouts(found.load(like), None, shape),
        renderer.Chat(
            huggingface.HuggingFaceTokenizer.load(pathlib.Path(where)), "plain"
        ),
        _one_row(rollout, changes),
        {},
    )


def _one_row(
    rollout: config.RolloutConfig, changes: Mapping[str, float]
) -> config.RolloutConfig:
    """The settings of a rollout, for one conversation at a time."""
    changed = dataclasses.replace(
        rollout, num_slots=1, num_cohorts=1, row_buckets=(), **changes
    )
    if changed.max_thinking_tokens >= changed.max_action_tokens:
        half = changed.max_action_tokens // 2
        changed = dataclasses.replace(changed, max_thinking_tokens=half)
    if "temperature" in changes and not changed.temperature:
        # Greedy answers know no limits of the run's own sampling.
        changed = dataclasses.replace(changed, top_k=0, top_p=1.0)
    buckets = [b for b in rollout.cache_buckets if b < changed.max_tokens]
    changed = dataclasses.replace(changed, cache_buckets=(*buckets, changed.max_tokens))
    changed.validate("load_policy", training=False)
    return changed


def _role_of(message: Mapping[str, str] | Reply) -> _Role:
    if isinstance(message, Reply):
        return "assistant"
    roles = typing.get_args(_Role)
    if message.get("role") not in roles or not isinstance(message.get("content"), str):
        raise errors.ConfigError(
            f"a message has the keys role (one of {list(roles)}) and content (a text), "
            f"or is an earlier Reply; found {dict(message)}."
        )
    return typing.cast(_Role, message["role"])
