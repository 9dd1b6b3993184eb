"""Assembly of a run's components, in one place for training and for evaluation."""

import contextlib
import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from agentrl import errors, storage, types
from agentrl.chat import renderer, tokenizer
from agentrl.config import EvaluationConfig, RolloutConfig, RunConfig
from agentrl.engine import engine
from agentrl.envs import base, demonstrations, prompts, tasks
from agentrl.envs.pool import EnvPool
from agentrl.hardware import compilation
from agentrl.models import transformer
from agentrl.parallel import processes, sharding
from agentrl.rollout import collect
from agentrl.run.parameters import Parameters

CHAT_FILE = "chat.json"
_VOCABULARY_TASKS = 200  # of each environment: their transcripts train a vocabulary


@dataclasses.dataclass(frozen=True, eq=False)
class Layout:
    """A run's model and parameters on its devices, without text and environments.

    The programs of a run are made from it, also for devices that are not there.
    """

    config: RunConfig
    mesh: Mesh
    rollout_mesh: Mesh
    model: transformer.Model
    parameters: Parameters

    @property
    def environments(self) -> tuple[str, ...]:
        """Names of all environments; environment ids index this tuple."""
        return tuple(self.config.environments)

    @property
    def num_valid_tokens(self) -> int:
        """Ids from here on are padding of the vocabulary."""
        return self.model.config.vocab_size

    @property
    def local_rows(self) -> frozenset[int]:
        """Rows of a microbatch, out of R, that this process's devices compute."""
        num_rows = self.config.learner.rows_per_microbatch
        return sharding.local_rows(self.mesh, num_rows)

    @property
    def stop_tokens(self) -> Sequence[int]:
        """Any of them ends an action."""
        return (0,)

    def make_engine(self, settings: RolloutConfig) -> engine.Engine:
        """Returns an engine of which nothing is compiled yet."""
        return engine.Engine(
            self.model,
            self.rollout_mesh,
            settings,
            stop_tokens=self.stop_tokens,
            num_valid_tokens=self.num_valid_tokens,
        )


def make_layout(
    settings: RunConfig, devices: Sequence[Any], local_devices: Sequence[Any]
) -> Layout:
    """Lays a run out over devices.

    Args:
      settings: the run.
      devices: all of the run.
      local_devices: of these, those of one process, on which it plays.

    Raises:
      ConfigError: if the mesh does not cover the devices.
    """
    model = transformer.Model(settings.model)
    mesh = sharding.make_mesh_of(settings.mesh, devices)
    return Layout(
        config=settings,
        mesh=mesh,
        rollout_mesh=sharding.make_rollout_mesh(settings.mesh, local_devices),
        model=model,
        parameters=Parameters(settings, model, mesh),
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Run(Layout):
    """The components that stay the same through all stages."""

    chat: renderer.Chat
    pool: EnvPool
    key: jax.Array  # the run's PRNG key
    # Of supervised stages, by name, if the checks before the run have played them.
    demonstrations: Mapping[str, Sequence[types.Trajectory]] = dataclasses.field(
        default_factory=dict
    )
    _engines: dict[RolloutConfig, engine.Engine] = dataclasses.field(
        default_factory=dict
    )

    @property
    def num_valid_tokens(self) -> int:
        """Ids from here on are padding of the vocabulary."""
        return self.chat.tokenizer.vocab_size

    @property
    def stop_tokens(self) -> Sequence[int]:
        """Any of them ends an action."""
        return self.chat.tokenizer.stop_ids

    @functools.cached_property
    def rollout_params(self) -> Callable[[types.PyTree], types.PyTree]:
        """Function from trained parameters to all parameters, in the rollout's layout."""
        return self.parameters.make_view(self.rollout_mesh)

    def panel(
        self,
        env: str,
        split: str,
        *,
        tier: tasks.TierChoice,
        tier_file: tasks.Files | None = None,
        item_file: tasks.Files | None = None,
        subsets: Sequence[str] = (),
        limit: int | None = None,
        stratify: tasks.Stratify = "",
    ) -> base.TaskPanel:
        """Returns tasks of one environment; see `tasks.select_tasks`."""
        return tasks.select_tasks(
            env,
            split,
            self.config.environments[env],
            tier=tier,
            tier_file=tier_file,
            item_file=item_file,
            subsets=subsets,
            limit=limit,
            stratify=stratify,
        )

    def collector(
        self, settings: RolloutConfig, params: types.PyTree | None = None
    ) -> collect.Collector:
        """Returns a collector with an engine compiled for `settings`, and the run's pool.

        Stages and evaluations whose settings differ only in the number of episodes share
        the engine, so that nothing is compiled twice.

        Args:
          settings: of the rollouts.
          params: in the rollout's layout, to compile with; None makes some for it, which
            takes their memory a second time where others are held.
        """
        key = dataclasses.replace(settings, tasks_per_iteration=1, group_size=1)
        if key not in self._engines:
            made = self.make_engine(key)
            if params is None:
                params = self.rollout_params(self.parameters.zeros())
            with compilation.progress("turns of rollouts", made.num_turns) as report:
                made.compile(params, self.key, report)
            self._engines[key] = made
        return collect.Collector(self._engines[key], self.pool, self.chat)


@contextlib.contextmanager
def open_evaluation(run: Run, settings: EvaluationConfig) -> Iterator[Run]:
    """Yields the run as an evaluation plays it.

    That is the run itself, unless evaluations have a turn limit, list of actions or
    options of their own: these environments are played in workers of their own.
    """
    if not settings.env_changes and not settings.env_options:
        yield run
        return
    changed = {
        env: settings.change_env(env_config)
        for env, env_config in run.config.environments.items()
    }
    wanted = dataclasses.replace(run.config, environments=changed)
    with open_pool(wanted) as environments:
        yield dataclasses.replace(run, config=wanted, pool=environments)


@contextlib.contextmanager
def assemble(
    settings: RunConfig,
    workdir: pathlib.Path,
    *,
    chat: renderer.Chat | None = None,
    demonstrations: Mapping[str, Sequence[types.Trajectory]] | None = None,
) -> Iterator[Run]:
    """Assembles a run from its configuration and `workdir`; closes its workers at exit.

    Args:
      settings: configuration of the run.
      workdir: working directory, with the tokenizer and `chat.json` if they exist.
      chat: what `make_chat` has made, if it has been called on this host.
      demonstrations: of supervised stages, by name, if they have been played here.

    Yields:
      The run.

    Raises:
      ConfigError: if the tokenizer has more ids than the model has embeddings.
    """
    with open_pool(settings) as environments:
        with processes.process_zero_first():
            chat = chat or make_chat(settings, workdir, environments)
            if processes.is_process_zero():
                write_chat(chat, settings, workdir)
        layout = make_layout(settings, jax.devices(), jax.local_devices())
        yield Run(
            **vars(layout),
            chat=chat,
            pool=environments,
            key=layout.parameters.key,
            demonstrations=demonstrations or {},
        )


def open_pool(settings: RunConfig) -> EnvPool:
    """Starts the workers that play the run's environments."""
    megabytes = settings.env_worker_memory_mb
    return EnvPool(
        settings.environments,
        num_workers=settings.num_env_workers,
        call_timeout_s=settings.env_timeout_s,
        max_observation_bytes=settings.env_observation_bytes,
        worker_memory_bytes=None if megabytes is None else megabytes * 10**6,
    )


def make_chat(
    settings: RunConfig, workdir: pathlib.Path, envs: EnvPool
) -> renderer.Chat:
    """Makes the run's tokenizer, chat format and examples; writes nothing.

    Args:
      settings: configuration of the run.
      workdir: where a trained tokenizer is stored.
      envs: plays the episodes whose text trains a tokenizer, and the examples.

    Raises:
      ConfigError: if tokenizer and model do not fit together, or examples are missing.
    """
    loaded = load_tokenizer(settings, workdir, envs)
    if loaded.vocab_size > settings.model.vocab_size:
        raise errors.ConfigError(
            f"the tokenizer has {loaded.vocab_size} ids but model.vocab_size = "
            f"{settings.model.vocab_size}; every id needs a row in the embedding."
        )
    return renderer.Chat(
        loaded,
        settings.tokenizer.frame,
        few_shot=settings.tokenizer.few_shot,
        examples=choose_few_shot_examples(settings, envs),
        acknowledgements=envs.acknowledgements,
        given_instructions=_read_given_instructions(settings),
        past_reasoning=settings.tokenizer.past_reasoning,
    )


def _read_given_instructions(settings: RunConfig) -> dict[str, str]:
    """Reads the instructions that replace those of environments."""
    given = {
        env: prompts.read_given(env_config.options, "instruction")
        for env, env_config in settings.environments.items()
    }
    return {env: text for env, text in given.items() if text is not None}


def write_chat(chat: renderer.Chat, settings: RunConfig, workdir: pathlib.Path) -> None:
    """Writes `chat.json` and a vocabulary of the run's own, or checks what is there."""
    path = workdir / tokenizer.SentencePieceTokenizer.FILE
    if settings.tokenizer.kind == "train_sentencepiece" and not path.exists():
        assert isinstance(chat.tokenizer, tokenizer.SentencePieceTokenizer)
        chat.tokenizer.save(workdir)
    check_or_write_chat_json(chat, workdir, settings.environments)


def load_tokenizer(
    settings: RunConfig, workdir: pathlib.Path, envs: EnvPool
) -> tokenizer.Tokenizer:
    """Loads the run's tokenizer, or trains the one that it does not have yet.

    Args:
      settings: configuration of the run.
      workdir: where a trained tokenizer is stored.
      envs: plays the episodes whose text trains it.
    """
    wanted = settings.tokenizer
    if wanted.kind != "train_sentencepiece":
        return tokenizer.load(
            wanted.kind, pathlib.Path(wanted.path), wanted.template_variables
        )
    path = workdir / tokenizer.SentencePieceTokenizer.FILE
    if not path.exists() and settings.start_from:  # WORKDIR/checkpoints/STEP#DIGEST
        path = pathlib.Path(settings.start_from).parents[1] / path.name
    if not path.exists():
        texts = collect_texts(settings, envs)
        return tokenizer.SentencePieceTokenizer.train(texts, wanted.vocab_size)
    return tokenizer.SentencePieceTokenizer.load(path)


def collect_texts(settings: RunConfig, envs: EnvPool) -> list[str]:
    """Plays the demonstrations whose texts train a vocabulary."""
    texts = []
    for env, env_config in settings.environments.items():
        panel = tasks.select_tasks(env, "train", env_config)
        solved = demonstrations.collect(
            envs,
            env,
            panel.item_ids[:_VOCABULARY_TASKS],
            max_error_fraction=settings.max_env_error_fraction,
        )
        texts += demonstrations.texts(solved)
    return texts


def choose_few_shot_examples(
    settings: RunConfig, envs: EnvPool
) -> dict[str, list[renderer.Example]]:
    """Chooses few-shot examples by environment, and a spare one for each.

    The spare example takes the place of an example that is the task itself.

    Raises:
      ConfigError: if an environment's oracle solves too few tasks.
    """
    examples = {}
    shown = settings.tokenizer.few_shot
    for env in settings.environments if shown else ():
        found = demonstrations.choose_examples(
            envs,
            env,
            shown + 1,
            max_error_fraction=settings.max_env_error_fraction,
        )
        if len(found) <= shown:
            raise errors.ConfigError(
                f"tokenizer.few_shot = {shown} needs {shown + 1} solved tasks, but the "
                f"oracle of '{env}' solves only {len(found)} of those drawn."
            )
        examples[env] = found
    return examples


def check_or_write_chat_json(
    chat: renderer.Chat, workdir: pathlib.Path, environments: Iterable[str] = ()
) -> None:
    """Writes `chat.json`, or checks that the chat format is the one it describes.

    Args:
      chat: the run's conversations.
      workdir: of the run.
      environments: of the run. Those that the file does not know have come later.

    Raises:
      ConfigError: if the digest of the chat format has changed.
    """
    path = workdir / CHAT_FILE
    names = list(environments)
    described = {**chat.describe(), "environments": names}
    if not path.exists():
        for name, text in described["template_exceptions"].items():
            print(f"Chat template, {name}: {text}", flush=True)
        storage.write_json(path, described)
        return
    advice = "remove it to have it written again from the run's tokenizer."
    stored = storage.read_json(path, advice=advice)
    known = stored.get("environments", names)
    earlier = chat.of_environments(known) if known != names else chat
    before, now = stored.get("digest"), earlier.describe()["digest"]
    if before != now:
        raise errors.ConfigError(
            f"{path} has digest {before} of frame, chat template, examples and "
            f"vocabulary, which now have digest {now}: the policy would "
            "see other tokens than it was trained on. Restore the tokenizer's files, or "
            "train in another --workdir."
        )
    if known != names:
        storage.write_json(path, described)


def make_tasks(
    item_ids: Sequence[str], num_samples: int, *, first_group: int = 0
) -> list[types.Task]:
    """Makes `num_samples` tasks of each item, a group per item.

    Args:
      item_ids: one for each group.
      num_samples: group size.
      first_group: index of the first group.
    """
    return [
        types.Task(item_id.rpartition("_")[0], item_id, first_group + group, sample)
        for group, item_id in enumerate(item_ids)
        for sample in range(num_samples)
    ]
