"""A run whose model sees one token: real stages around it, and episodes by hand.

Everything that a bigram model says can be computed without packing, row by row.
"""

import dataclasses
import types as pytypes

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from agentrl import config, loop, types
from agentrl.envs import base
from agentrl.hardware import timing
from agentrl.models import model_config
from agentrl.parallel import sharding
from agentrl.pending import experiences
from agentrl.rollout import collect
from agentrl.run import parameters, references, stages

V, D = 11, 6
TEMPERATURE = 0.8
ENVIRONMENTS = ("farm", "mine")


class Bigram:
    """Logits from the last token alone, and a critic that reads its embedding."""

    config = model_config.ModelConfig(vocab_size=V, hidden_size=D, critic=True)

    def init(self, key):
        keys = jax.random.split(key, 3)
        return {
            "embedding": jax.random.normal(keys[0], (V, D)),
            "head": jax.random.normal(keys[1], (D, V)),
            "critic": jax.random.normal(keys[2], (D,)),
        }

    def hidden(self, params, tokens, positions, segment_ids, *, remat, constrain, **_):
        del positions, segment_ids, remat
        return constrain(params["embedding"][tokens])

    def unembedding(self, params):
        return params["head"]

    def values(self, params, hidden):
        return hidden @ params["critic"]


def log_probabilities(params, tokens, temperature=TEMPERATURE):
    """log p of each token after the first, from all logits of one unpacked sequence."""
    logits = params["embedding"][tokens[:-1]] @ params["head"] / temperature
    return jax.nn.log_softmax(logits)[jnp.arange(len(tokens) - 1), tokens[1:]]


def tokens_of(trajectory):
    """All tokens, and which of them are actions."""
    parts = [
        (tokens, acted)
        for turn in trajectory.turns
        for tokens, acted in (
            (turn.observation_tokens, False),
            (turn.action_tokens, True),
        )
    ]
    mask = np.concatenate([np.full(len(tokens), acted) for tokens, acted in parts])
    return np.concatenate([tokens for tokens, _ in parts]), mask


def action_scores(params, trajectory, temperature=TEMPERATURE):
    """Log-probabilities and values of the action tokens, without packing; float[A]."""
    tokens, mask = tokens_of(trajectory)
    logprobs = log_probabilities(params, tokens, temperature)
    values = params["embedding"][tokens[:-1]] @ params["critic"]
    return np.asarray(logprobs)[mask[1:]], np.asarray(values)[mask[1:]]


def make_episode(
    seed, params, *, env="farm", group=0, sample=0, reward=0.0, num_turns=None, step=0
):
    """Random turns, with the log-probabilities that the policy gives to its actions."""
    rng = np.random.default_rng(seed)
    turns = []
    for _ in range(num_turns or rng.integers(1, 4)):
        observed, acted = (
            rng.integers(0, V, rng.integers(1, 5)).astype(np.int32) for _ in range(2)
        )
        turns.append(types.Turn(observed, acted, np.zeros(0), "see", "do", 0.0, True))
    turns[-1] = dataclasses.replace(turns[-1], reward=reward)
    task = types.Task(env, f"{env}_{group}", group, sample)
    ending = types.Ending.SOLVED if reward else types.Ending.FAILED
    episode = types.Trajectory(task, tuple(turns), ending, step, reward > 0, reward)
    scores, _ = action_scores(params, episode)
    ends = np.cumsum([len(turn.action_tokens) for turn in turns])[:-1]
    return dataclasses.replace(
        episode,
        turns=tuple(
            dataclasses.replace(turn, action_logprobs=part.astype(np.float32))
            for turn, part in zip(turns, np.split(scores, ends), strict=True)
        ),
    )


def make_stage(name, algorithm, *, environments=ENVIRONMENTS, **changes):
    settings = {
        "num_iterations": 2,
        "rollout": config.RolloutConfig(
            tasks_per_iteration=2,
            group_size=2,
            temperature=TEMPERATURE,
            max_tokens=40,
        ),
        "optimizer": config.OptimizerConfig(learning_rate=0.1),
    }
    return config.StageConfig(
        name=name,
        algorithm=algorithm,
        mixture=config.MixtureConfig(
            environments=tuple((env, 1.0) for env in environments)
        ),
        **(settings | changes),
    )


class ScriptedCollector:
    """Plays nothing: hands out what it was given."""

    def __init__(self):
        self.episodes = []

    def collect(self, params, tasks, *, key, policy_step, max_turns):
        del params, tasks, key, policy_step, max_turns
        return self.episodes, collect.Statistics(seconds=1.0)


def make_run(*stage_settings, seed=0, **learner):
    """A run of the given stages on one device."""
    shape = {"row_tokens": 48, "rows_per_microbatch": 2, "max_microbatches": 8}
    settings = config.RunConfig(
        name="bigram",
        stages=stage_settings,
        environments={env: base.EnvConfig() for env in ENVIRONMENTS},
        model=Bigram().config,
        seed=seed,
        learner=config.LearnerConfig(**(shape | learner)),
    )
    mesh = Mesh([[jax.devices()[:1]]], sharding.AXES)
    held = parameters.Parameters(settings, Bigram(), mesh)
    collector = ScriptedCollector()
    return pytypes.SimpleNamespace(
        config=settings,
        mesh=mesh,
        model=held.model,
        parameters=held,
        num_valid_tokens=V,
        local_rows=None,  # all
        chat=None,
        key=held.key,
        environments=ENVIRONMENTS,
        pool=None,  # nothing is played
        demonstrations={},
        rollout_params=lambda params: jax.tree.map(jnp.copy, params),
        panel=lambda env, split, **_: base.TaskPanel(
            env, split, f"{env}-1", tuple(f"{env}_{i}" for i in range(4))
        ),
        collector=lambda settings: collector,
    )


def start(run, index=0):
    """A compiled stage and the state that it begins with."""
    stage = stages.build(run, index)
    state = stage.initial_state(run, run.parameters.init(), jnp.int32(0))
    return stage, state


def spy_on_updates(stage):
    """The stage with a list that collects the batches of its updates, and references."""
    seen = []

    def train_step(state, batch, reference):
        seen.append((batch, reference))
        return stage.train_step(state, batch, reference)

    return dataclasses.replace(stage, train_step=train_step), seen


def make_recorder(checkpoints=None):
    """Times, and checkpoints if there are any; what is to be written is lost."""
    writer = pytypes.SimpleNamespace(
        resume=lambda progress, step: None, hold=lambda signals, hindsight: None
    )
    return pytypes.SimpleNamespace(
        timers=timing.Timers(), checkpoints=checkpoints, writer=writer
    )


def train_on(run, stage, state, episodes, compared=None, iteration=0):
    """One iteration of reinforcement on the given episodes."""
    experience = experiences.Experience(iteration, episodes, state.mixture, {})
    state, values, ahead = loop.rl_iteration(
        run,
        stage,
        state,
        experiences.Ahead(experience),
        compared or references.References(),
        make_recorder(),
        at_end=True,
    )
    assert ahead == experiences.Ahead()
    return state, values


def copy(tree):
    """A copy that a donated update leaves alone."""
    return jax.tree.map(lambda x: np.array(x), tree)


def read_segments(batch):
    """Fields of each packed trajectory, by its tokens."""
    found = {}
    for row in np.ndindex(*batch.tokens.shape[:2]):
        ids = batch.segment_ids[row]
        for segment in range(1, ids.max() + 1):
            given = {k: v for k, v in vars(batch).items() if v is not None}
            fields = {k: v[row][ids == segment] for k, v in given.items()}
            found[tuple(fields["tokens"].tolist())] = fields
    return found


def key_of(trajectory):
    """What `read_segments` finds a trajectory under."""
    return tuple(tokens_of(trajectory)[0].tolist())
