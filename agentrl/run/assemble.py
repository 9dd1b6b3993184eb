"""What a run is made of, assembled in one place for training and for evaluation."""

import contextlib
import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterator, Sequence

import jax
from jax.sharding import Mesh

from agentrl import config as config_lib
from agentrl import errors, storage, types
from agentrl.chat import renderer
from agentrl.chat import tokenizer as tokenizers
from agentrl.envs import base, demonstrations, tasks
from agentrl.envs import pool as env_pool
from agentrl.models import transformer
from agentrl.parallel import processes, sharding
from agentrl.rollout import collect, engine
from agentrl.run import parameters as parameters_lib

CHAT_FILE = "chat.json"
_VOCABULARY_TASKS = 200  # of each environment: their transcripts train a vocabulary


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """The parts that stay the same through all stages."""

    config: config_lib.RunConfig
    mesh: Mesh
    rollout_mesh: Mesh
    model: transformer.Model
    parameters: parameters_lib.Parameters
    chat: renderer.Chat
    pool: env_pool.EnvPool
    key: jax.Array  # the run's PRNG key
    _collectors: dict[config_lib.RolloutConfig, collect.Collector] = dataclasses.field(
        default_factory=dict
    )

    @property
    def environments(self) -> tuple[str, ...]:
        """All environments, in the order that environment ids count them."""
        return tuple(self.config.environments)

    @functools.cached_property
    def rollout_params(self) -> Callable[[types.PyTree], types.PyTree]:
        """Function from trained parameters to all of them in their layout in rollouts."""
        return self.parameters.make_view(self.rollout_mesh)

    def panel(
        self,
        env: str,
        split: str,
        *,
        tier: tasks.TierChoice,
        tier_file: str | None = None,
        subsets: Sequence[str] = (),
        limit: int | None = None,
    ) -> base.TaskPanel:
        """The tasks of one environment's split and tier."""
        return tasks.select_tasks(
            env,
            split,
            self.config.environments[env],
            tier=tier,
            tier_file=tier_file,
            subsets=subsets,
            limit=limit,
        )

    def collector(self, settings: config_lib.RolloutConfig) -> collect.Collector:
        """A policy compiled for `settings`, seated in the pool.

        Stages and evaluations whose settings differ only in the number of episodes share
        one, so that nothing is compiled twice.
        """
        key = dataclasses.replace(settings, tasks_per_iteration=1, group_size=1)
        if key not in self._collectors:
            self._collectors[key] = self._make_collector(key)
        return self._collectors[key]

    def _make_collector(self, settings: config_lib.RolloutConfig) -> collect.Collector:
        acting = engine.Policy(
            self.model,
            self.rollout_mesh,
            settings,
            stop_token=self.chat.tokenizer.stop_id,
            num_valid_tokens=self.chat.tokenizer.vocab_size,
        )
        acting.compile(self.rollout_params(self.parameters.zeros()), self.key)
        return collect.Collector(acting, self.pool, self.chat)


@contextlib.contextmanager
def assemble(
    settings: config_lib.RunConfig,
    workdir: pathlib.Path,
    *,
    chat: renderer.Chat | None = None,
) -> Iterator[Run]:
    """Builds a run around the files in `workdir`, and closes its workers at the end.

    Args:
      settings: the run.
      workdir: its directory.
      chat: what `make_chat` has made, if it has been called on this host.

    Raises:
      ConfigError: if tokenizer and model do not fit together.
    """
    with processes.first_then_others():
        chat = chat or make_chat(settings, workdir)
        if processes.is_first():
            keep_chat(chat, settings, workdir)
    with env_pool.EnvPool(
        settings.environments,
        num_workers=settings.num_env_workers,
        call_timeout_s=settings.env_timeout_s,
    ) as environments:
        model = transformer.Model(settings.model)
        mesh = sharding.make_mesh(settings.mesh)
        parameters = parameters_lib.Parameters(settings, model, mesh)
        yield Run(
            config=settings,
            mesh=mesh,
            rollout_mesh=sharding.make_rollout_mesh(settings.mesh),
            model=model,
            parameters=parameters,
            chat=chat,
            pool=environments,
            key=parameters.key,
        )


def make_chat(settings: config_lib.RunConfig, workdir: pathlib.Path) -> renderer.Chat:
    """The run's tokenizer, frame and examples; writes nothing.

    Raises:
      ConfigError: if tokenizer and model do not fit together, or examples are missing.
    """
    tokenizer = load_tokenizer(settings, workdir)
    if tokenizer.vocab_size > settings.model.vocab_size:
        raise errors.ConfigError(
            f"the tokenizer has {tokenizer.vocab_size} ids but model.vocab_size = "
            f"{settings.model.vocab_size}; every id needs a row in the embedding."
        )
    return renderer.Chat(
        tokenizer,
        settings.tokenizer.frame,
        few_shot=settings.tokenizer.few_shot,
        examples=choose_examples(settings),
    )


def keep_chat(
    chat: renderer.Chat, settings: config_lib.RunConfig, workdir: pathlib.Path
) -> None:
    """Writes `chat.json` and a vocabulary of the run's own, or checks what is there."""
    path = workdir / tokenizers.SentencePieceTokenizer.FILE
    if settings.tokenizer.kind == "train_sentencepiece" and not path.exists():
        chat.tokenizer.save(workdir)
    claim_chat(chat, workdir)


def load_tokenizer(
    settings: config_lib.RunConfig, workdir: pathlib.Path
) -> tokenizers.Tokenizer:
    """Loads the run's tokenizer, or trains the one that it does not have yet."""
    wanted = settings.tokenizer
    if wanted.kind != "train_sentencepiece":
        return tokenizers.load(wanted.kind, pathlib.Path(wanted.path))
    path = workdir / tokenizers.SentencePieceTokenizer.FILE
    if not path.exists() and settings.start_from:  # WORKDIR/checkpoints/STEP#DIGEST
        path = pathlib.Path(settings.start_from).parents[1] / path.name
    if not path.exists():
        texts = []
        for env, env_config in settings.environments.items():
            panel = tasks.select_tasks(env, "train", env_config)
            solved = demonstrations.collect(
                env, env_config, panel.item_ids[:_VOCABULARY_TASKS]
            )
            texts += demonstrations.texts(solved)
        return tokenizers.SentencePieceTokenizer.train(texts, wanted.vocab_size)
    return tokenizers.SentencePieceTokenizer.load(path)


def choose_examples(
    settings: config_lib.RunConfig,
) -> dict[str, list[renderer.Example]]:
    """The run's few-shot examples, and one to spare: no task is its own example."""
    examples = {}
    shown = settings.tokenizer.few_shot
    for env, env_config in settings.environments.items() if shown else ():
        found = demonstrations.choose_examples(env, env_config, shown + 1)
        if len(found) <= shown:
            raise errors.ConfigError(
                f"tokenizer.few_shot = {shown} needs {shown + 1} solved tasks, but the "
                f"oracle of '{env}' solves only {len(found)} of those drawn."
            )
        examples[env] = found
    return examples


def claim_chat(chat: renderer.Chat, workdir: pathlib.Path) -> None:
    """Writes `chat.json`, or checks that the run's conversations still look alike."""
    path = workdir / CHAT_FILE
    described = chat.describe()
    if not path.exists():
        for name, text in described["template_exceptions"].items():
            print(f"Chat template, {name}: {text}", flush=True)
        storage.write_json(path, described)
        return
    advice = "remove it to have it written again from the run's tokenizer."
    stored = storage.read_json(path, advice=advice).get("digest")
    if stored != described["digest"]:
        raise errors.ConfigError(
            f"{path} has digest {stored} of frame, chat template, examples and "
            f"vocabulary, which now give {described['digest']}: the policy would see other "
            "tokens than it was trained on. Restore the tokenizer's files, or train in "
            "another --workdir."
        )


def make_tasks(
    item_ids: Sequence[str], num_samples: int, *, first_group: int = 0
) -> list[types.Task]:
    """`num_samples` episodes of each item, in groups."""
    return [
        types.Task(item_id.rpartition("_")[0], item_id, first_group + group, sample)
        for group, item_id in enumerate(item_ids)
        for sample in range(num_samples)
    ]
