"""Drift on a bigram model, whose distributions are known in full, and what is refused."""

import dataclasses
import pathlib
import types as pytypes

import bigram_run
import fake_run
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agentrl import config, errors, storage, types
from agentrl.chat import tokenizer
from agentrl.checkpoints import checkpoint
from agentrl.evaluation import comparison
from agentrl.experiment import files
from agentrl.reporting import tables
from agentrl.statistics import drift, results, summaries

TASKS, SAMPLES = 12, 8
SETTINGS = config.EvaluationConfig(
    samples=SAMPLES,
    environments=bigram_run.ENVIRONMENTS,
    rollout=config.RolloutConfig(temperature=bigram_run.TEMPERATURE),
)


@dataclasses.dataclass(frozen=True)
class Known(comparison.Other):
    """A policy whose parameters need not be loaded."""

    params: object = None

    def load(self):
        progress = types.Progress(stage_name=self.name)
        return checkpoint.StoredPolicy(self.params, progress, 5)


def distributions(params):
    """log p of the next token after each token, float64[V, V]."""
    logits = params["embedding"] @ params["head"] / bigram_run.TEMPERATURE
    return np.asarray(jax.nn.log_softmax(logits), np.float64)


def play(params, env, seed):
    """Episodes whose actions are drawn from the policy itself, task by task."""
    rng, chances = np.random.default_rng(seed), np.exp(distributions(params))
    chances /= chances.sum(axis=1, keepdims=True)
    episodes = []
    for index in range(TASKS * SAMPLES):
        turns, last = [], 0
        for _ in range(rng.integers(1, 4)):
            observed = rng.integers(0, bigram_run.V, 2).astype(np.int32)
            last, acted = observed[-1], []
            for _ in range(rng.integers(1, 5)):
                last = rng.choice(bigram_run.V, p=chances[last])
                acted.append(last)
            acted = np.array(acted, np.int32)
            turns.append(types.Turn(observed, acted, 0.0 * acted, "", "", 0.0, True))
        task = types.Task(env, f"{env}_{index // SAMPLES}", 0, index % SAMPLES)
        ending = types.Ending.FAILED
        episodes.append(types.Trajectory(task, tuple(turns), ending, 0, False, 0.0))
    return episodes


@pytest.fixture(scope="module")
def measured():
    """Episodes of a policy, and its drift from itself and from three further away."""
    run = bigram_run.make_run(max_microbatches=64)
    params = run.parameters.init()
    noise = jax.random.normal(jax.random.key(9), params["head"].shape)
    moved = {
        name: {**params, "head": params["head"] + size * noise}
        for name, size in (("same", 0.0), ("near", 0.1), ("far", 0.3), ("away", 1.0))
    }
    others = [Known(name, run.parameters, None, other) for name, other in moved.items()]
    episodes = {
        env: play(params, env, n) for n, env in enumerate(SETTINGS.environments)
    }
    lost = dataclasses.replace(episodes["mine"][3], ending=types.Ending.ENV_ERROR)
    episodes["mine"][3] = lost
    found = comparison.measure(run, params, episodes, SETTINGS, others)
    return params, moved, episodes, found


def tokens_of(episodes):
    return [[t.num_action_tokens for t in episodes[i : i + SAMPLES]]
            for i in range(0, len(episodes), SAMPLES)]  # fmt: skip


def seeds_of(one, episodes):
    items = [episodes[i].task.item_id for i in range(0, len(episodes), SAMPLES)]
    return [drift.Measured(one, items, tokens_of(episodes))]


def test_each_episode_has_the_numbers_that_all_logits_give(measured):
    params, moved, episodes, found = measured
    for one in found["farm"]:
        k1, k3 = np.array(one.k1), np.array(one.k3)
        for index, episode in enumerate(episodes["farm"][:4]):
            (ours, _), (theirs, _) = (
                bigram_run.action_scores(p, episode)
                for p in (params, moved[one.policy])
            )
            ratio = theirs.astype(np.float64) - ours
            at = divmod(index, SAMPLES)
            assert k1[at] == pytest.approx(-ratio.sum(), rel=1e-5, abs=2e-5)
            assert k3[at] == pytest.approx(
                (np.exp(ratio) - 1 - ratio).sum(), rel=1e-5, abs=2e-5
            )


def test_estimates_agree_with_the_sum_over_the_vocabulary(measured):
    params, moved, episodes, found = measured
    ours = distributions(params)
    for env, one in [(e, one) for e, of in found.items() for one in of[1:]]:
        exact = (np.exp(ours) * (ours - distributions(moved[one.policy]))).sum(axis=1)
        entropy = -(np.exp(ours) * ours).sum(axis=1)
        before = [
            tokens[:-1][mask[1:]]
            for episode in episodes[env]
            if not episode.ending.lost
            for tokens, mask in [bigram_run.tokens_of(episode)]
        ]
        seeds = seeds_of(one, episodes[env])
        for what in ("k1", "k3"):
            per_token = drift.estimate(seeds, what=what)
            expected = exact[np.concatenate(before)].mean()
            # Nothing is drawn anew: four standard errors of tasks are wide enough.
            assert abs(per_token.mean - expected) < 4 * per_token.standard_error + 0.01
            per_episode = drift.estimate(seeds, per="episode", what=what)
            expected = np.mean([exact[tokens].sum() for tokens in before])
            error = abs(per_episode.mean - expected)
            assert error < 4 * per_episode.standard_error + 0.05
        told = drift.estimate(seeds, what="entropy")
        if env == "farm":
            assert told.mean == pytest.approx(
                entropy[np.concatenate(before)].mean(), rel=1e-4
            )


def test_drift_is_zero_from_itself_and_grows_with_the_distance(measured):
    *_, episodes, found = measured
    for env, (same, *further) in found.items():
        for table in (same.k1, same.k3):
            assert {x for row in table for x in row} - {None} == {0.0}
        for what in ("k1", "k3"):
            values = [
                drift.estimate(seeds_of(one, episodes[env]), what=what)
                for one in further
            ]
            means = [value.mean for value in values]
            assert means[0] < means[1] < means[2] and means[1] > 0
            assert means[0] > 0 or what == "k1"  # which is of either sign
        assert values[-1].low > 0


def test_lost_episodes_do_not_count(measured):
    found = measured[-1]
    for one in found["mine"]:
        for name in drift.TABLES:
            table = getattr(one, name)
            assert [row.count(None) for row in table] == [1] + [0] * (TASKS - 1)
            assert table[0][3] is None


def test_interval_of_a_ratio_by_hand():
    one = drift.Drift(
        policy="", stage="", step=0, k1=((2.0, 4.0), (1.0, None)), k3=((0.0,) * 2,) * 2,
        entropy=((0.0,) * 2,) * 2,
    )  # fmt: skip
    seeds = [drift.Measured(one, ["a", "b"], [[4, 8], [10, None]])]
    per_episode = drift.estimate(seeds, per="episode")
    per_token = drift.estimate(seeds)
    # Tasks: 3 nats of 6 tokens, and 1 nat of 10. (3 + 1) / (6 + 10) = 1/4.
    assert per_episode.mean == 2
    assert per_episode.standard_error == pytest.approx(1)  # of 3 and 1
    assert per_token.mean == 0.25
    # Linearised: 1/4 + (3 - 6/4) / 8 and 1/4 + (1 - 10/4) / 8, 3/8 apart.
    assert per_token.standard_error == pytest.approx(3 / 16)
    assert per_token.high == pytest.approx(0.25 + 12.706 * 3 / 16, rel=1e-4)


def make_result(drifts):
    made = fake_run.make_result(
        "warm", 8, "textcraft", 0.5, tasks=TASKS, samples=SAMPLES
    )
    return dataclasses.replace(made, drifts=drifts)


def test_results_keep_drift_and_are_as_before_without(measured, tmp_path):
    *_, found = measured
    plain, result = make_result(()), make_result(found["farm"])
    path = plain.save(tmp_path)
    assert "drift" not in path.read_text() and results.load(path) == plain
    assert results.load(result.save(tmp_path)) == result
    part = summaries.slice_result(result, lambda item: str(item.endswith("_1")))["True"]
    assert part.drifts[1].k1 == (found["farm"][1].k1[1],)
    text = tables.format_table([result])
    assert "KL(stage warm || other) on textcraft, in nats" in text
    assert "0.0000  [0.0000, 0.0000]" in text
    wrong = dataclasses.replace(found["farm"][0], k1=found["mine"][0].k1)
    path = make_result((wrong,)).save(tmp_path)
    with pytest.raises(errors.DamagedFileError, match="k1"):
        results.load(path)


def open_run(tmp_path, name, **changes):
    """A run that has a folder, and nothing in its checkpoint."""
    model = changes.pop("model", {})
    settings = fake_run.make_settings()
    settings = dataclasses.replace(
        settings,
        model=dataclasses.replace(settings.model, vocab_size=300, **model),
        tokenizer=config.TokenizerConfig(kind="bytes"),
        **changes,
    )
    workdir = tmp_path / name
    (workdir / "checkpoints" / "3").mkdir(parents=True)
    storage.write_json(workdir / files.RUN_FILE, files.describe_run(settings))
    made = bigram_run.make_run()
    return str(workdir), pytypes.SimpleNamespace(
        config=settings,
        environments=tuple(settings.environments),
        chat=pytypes.SimpleNamespace(tokenizer=tokenizer.ByteTokenizer()),
        mesh=made.mesh,
        parameters=made.parameters,
        pool=None,
    )


class OtherBytes(tokenizer.ByteTokenizer):
    def decode(self, ids):
        return super().decode(ids).replace("b", "c")


def test_policies_of_other_shapes_and_vocabularies_are_refused(tmp_path):
    one, run = open_run(tmp_path, "one")
    (same, start) = comparison.find(run, [one, comparison.INITIAL])
    assert same.held is start.held is run.parameters
    assert (same.path, start.path) == (pathlib.Path(one), None)
    another, _ = open_run(tmp_path, "seed", seed=7, model={"critic": True})
    assert comparison.find(run, [another])[0].held.config.seed == 7

    wide, _ = open_run(tmp_path, "wide", model={"hidden_size": 256})
    with pytest.raises(errors.ConfigError) as refused:
        comparison.find(run, [one, wide])
    assert str(refused.value) == (
        f"--compare_with={wide}: model.hidden_size = 256 there and 128 in the evaluated "
        "run; policies of one shape can be compared."
    )
    run.chat.tokenizer = OtherBytes()
    with pytest.raises(errors.ConfigError, match="id 98 for 'ab' there and for 'ac'"):
        comparison.find(run, [one])
    run.chat.tokenizer.vocab_size = 300
    with pytest.raises(errors.ConfigError, match="258 ids there and 300 in"):
        comparison.find(run, [one])
    with pytest.raises(errors.CheckpointError, match="no directory at"):
        comparison.find(run, [str(tmp_path / "nowhere")])


@pytest.mark.parametrize("change", [{"temperature": 0.0}, {"top_k": 5}, {"top_p": 0.9}])
def test_episodes_that_are_no_samples_of_the_policy_are_refused(tmp_path, change):
    _, run = open_run(tmp_path, "one")
    room = dataclasses.replace(run.config.evaluation.rollout, **change)
    wanted = dataclasses.replace(run.config.evaluation, rollout=room)
    run.config = dataclasses.replace(run.config, evaluation=wanted)
    assert comparison.find(run, []) == []
    with pytest.raises(errors.ConfigError, match=f"{next(iter(change))} = .*top_p = 1"):
        comparison.find(run, [comparison.INITIAL])


def test_episodes_longer_than_the_learners_rows_are_scored():
    run = bigram_run.make_run()  # rows of 48 tokens
    params = run.parameters.init()
    length = 100
    acted = np.arange(length, dtype=np.int32) % bigram_run.V
    turn = types.Turn(acted[:1], acted, 0.0 * acted, "", "", 0.0, True)
    task = types.Task("farm", "farm_0", 0, 0)
    episode = types.Trajectory(task, (turn,), types.Ending.FAILED, 0, False, 0.0)
    settings = dataclasses.replace(SETTINGS, samples=1)
    other = {**params, "head": jnp.zeros_like(params["head"])}
    others = [Known("flat", run.parameters, None, other)]
    (found,) = comparison.measure(run, params, {"farm": [episode]}, settings, others)[
        "farm"
    ]
    ours, _ = bigram_run.action_scores(params, episode)
    expected = ours.astype(np.float64).sum() + length * np.log(bigram_run.V)
    assert found.k1[0][0] == pytest.approx(expected, abs=1e-3)
