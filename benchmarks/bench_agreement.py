r"""Do sampler and learner give the sampled tokens the same log-probabilities?

  python -m benchmarks.bench_agreement --checkpoint=runs/demo
  python -m benchmarks.bench_agreement --checkpoint=runs/demo --dtype=bfloat16
  python -m benchmarks.bench_agreement --checkpoint=runs/demo --rollout_kernels=int8

Plays the training tasks of a run's environments with the policy of its last checkpoint,
packs the episodes, scores them as the learner does, and prints the absolute differences
in nats. The sampler appended turn by turn to a cache; the learner sees packed rows.
"""

import dataclasses
import pathlib
from collections.abc import Sequence

import jax
import numpy as np
from absl import app, flags

from agentrl import types
from agentrl.checkpoints import checkpoint
from agentrl.experiment import files
from agentrl.learner import packing
from agentrl.ops import logprobs
from agentrl.parallel import rng
from agentrl.run import assemble

_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Directory of a run.")
_EPISODES = flags.DEFINE_integer("episodes", 1000, "Episodes, over all environments.")
_DTYPE = flags.DEFINE_enum(
    "dtype", "float32", ["float32", "bfloat16"], "Of activations and cache, in both."
)
_HEAD = flags.DEFINE_enum(
    "head", "float32", ["float32", "bfloat16"], "Of the output matrix, in both."
)
_KERNELS = flags.DEFINE_enum(
    "rollout_kernels", "compute", ["compute", "int8"], "Of blocks, in the sampler."
)
_PER_BATCH = 100


def measure(run: assemble.Run, params, num_episodes: int) -> np.ndarray:
    """Differences float32[tokens] over episodes of all environments."""
    settings = run.config.stages[-1].rollout
    collector = run.collector(settings)
    placed = run.rollout_params(params)
    learner = dataclasses.replace(run.config.learner, max_microbatches=64)

    @jax.jit
    def score(batch):
        hidden = run.model.hidden(
            params, batch.tokens, batch.positions, batch.segment_ids
        )
        return logprobs.chunked_token_logprobs(
            hidden,
            run.model.unembedding(params),
            batch.tokens,
            chunk=learner.logprob_chunk,
            temperature=settings.temperature,
            num_valid=run.chat.tokenizer.vocab_size,
        )[0]

    found, played = [], 0
    while played < num_episodes:
        env = run.environments[played // _PER_BATCH % len(run.environments)]
        panel = run.panel(env, "train", tier="all").item_ids
        chosen = [panel[(played + i) % len(panel)] for i in range(_PER_BATCH)]
        trajectories, _ = collector.collect(
            placed,
            assemble.make_tasks(chosen, 1),
            key=rng.stream_key(run.key, "agreement", played),
            policy_step=0,
        )
        played += len(trajectories)
        (batch,), report = packing.pack(
            trajectories,
            [types.Signal(rl_weights=1.0)] * len(trajectories),
            learner_config=learner,
            num_batches=1,
            seed=0,
        )
        used = -(-report.num_rows // learner.rows_per_microbatch)
        for index in range(used):
            rows = jax.tree.map(lambda field, i=index: field[i], batch)
            gap = np.abs(np.asarray(score(rows)) - rows.behavior_logprobs)
            found.append(gap[rows.trained])
        turns = np.mean([len(t.turns) for t in trajectories])
        print(f"{played} episodes, last {env}, {turns:.1f} turns each", flush=True)
    return np.concatenate(found)


def main(argv: Sequence[str]) -> None:
    """Measures and prints."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}.")
    path = pathlib.Path(_CHECKPOINT.value or "")
    workdir, _ = checkpoint.find_checkpoint(path)
    settings = files.read_run(workdir)
    precision = dataclasses.replace(
        settings.model.dtypes,
        compute=_DTYPE.value,
        cache=_DTYPE.value,
        head=_HEAD.value,
        rollout_kernels=_KERNELS.value,
    )
    model = dataclasses.replace(settings.model, precision=precision)
    settings = dataclasses.replace(settings, model=model)
    with assemble.assemble(settings, workdir) as run:
        parameters = run.parameters
        stored = checkpoint.restore_policy(
            path, parameters.abstract, frozen_digest=parameters.frozen_digest
        )
        gaps = measure(run, stored.params, _EPISODES.value)
    print(
        f"{_DTYPE.value}, head {_HEAD.value}, rollouts' kernels {_KERNELS.value}: "
        f"{len(gaps)} tokens, "
        f"mean |difference| {gaps.mean():.2e}, "
        f"99.9 % below {np.quantile(gaps, 0.999):.2e}, largest {gaps.max():.2e} nats"
    )


if __name__ == "__main__":
    flags.mark_flag_as_required("checkpoint")
    app.run(main)
