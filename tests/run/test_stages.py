"""What passes from stage to stage, and what a stage's objective is compared with."""

import bigram_run
import jax
import numpy as np
import pytest

from agentrl import config, errors, loop, types
from agentrl.checkpoints import checkpoint
from agentrl.learner import algorithms
from agentrl.models import model_config, transformer
from agentrl.run import parameters, references, resume


def train_a_little(run, stage, state, seed=0):
    """One iteration on two episodes."""
    params = bigram_run.copy(state.learner.params)
    episodes = [
        bigram_run.make_episode(seed + i, params, sample=i, reward=float(i))
        for i in range(2)
    ]
    return bigram_run.train_on(run, stage, state, episodes)


def moments(state):
    """First and second moments of Adam."""
    leaves = jax.tree.leaves(state.learner.opt_state)
    return [np.asarray(x) for x in leaves if np.ndim(x) > 0]


def counts(state):
    leaves = jax.tree.leaves(state.learner.opt_state)
    return {int(x) for x in leaves if np.issubdtype(x.dtype, np.integer)}


@pytest.mark.parametrize("carry", [False, True])
def test_a_stage_begins_where_the_one_before_ended(carry):
    run = bigram_run.make_run(
        bigram_run.make_stage("first", config.Grpo()),
        bigram_run.make_stage(
            "second",
            config.Dapo(),
            environments=("mine",),
            carry_optimizer=carry,
            optimizer=config.OptimizerConfig(learning_rate=0.05),
        ),
    )
    first, state = bigram_run.start(run)
    state, _ = train_a_little(run, first, state)
    before = bigram_run.copy(state)
    assert any(m.any() for m in moments(state)) and counts(state) == {1}

    second = loop.stages.build(run, 1)
    after = second.init_from_previous(run, state)

    # A border holds one state at a time.
    given_back = [state.learner.params, *([] if carry else [state.learner.opt_state])]
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(given_back))
    jax.tree.map(
        np.testing.assert_array_equal, after.learner.params, before.learner.params
    )
    assert int(after.learner.step) == 1
    np.testing.assert_array_equal(after.mixture.weights, [0, 1])  # of the new stage
    np.testing.assert_array_equal(after.mixture.cursors, [0, 0])
    if carry:
        jax.tree.map(np.testing.assert_array_equal, moments(after), moments(before))
        assert counts(after) == {1}
    else:
        assert not any(m.any() for m in moments(after))
        assert counts(after) == {0}
    # The state can be donated, and the rate is the second stage's.
    after, values = train_a_little(run, second, after, seed=5)
    np.testing.assert_allclose(values["optimizer/learning_rate"], 0.05, rtol=1e-6)
    assert int(after.learner.step) == 2 and counts(after) == {2 if carry else 1}


STAGE_START = config.KLConfig(coefficient=0.1)
RUN_START = config.KLConfig(coefficient=0.1, reference="run_start")


def with_checkpoints(tmp_path, *settings, ends=("first", "second")):
    """A run, its open checkpoints, and the parameters at the end of each stage."""
    run = bigram_run.make_run(*settings)
    _, state = bigram_run.start(run)
    stored = {}
    with checkpoint.Checkpoints(tmp_path, keep=1) as checkpoints:
        for step, name in enumerate(ends, start=1):
            params = bigram_run.Bigram().init(jax.random.key(step))
            learner = types.TrainState(np.int32(step), params, state.learner.opt_state)
            learner = jax.tree.map(jax.numpy.asarray, learner)
            checkpoints.save(
                types.RunState(learner, state.mixture),
                types.Progress(stage=step - 1, stage_name=name),
                end_of_stage=True,
            )
            stored[name] = params
    return run, stored


def load(run, index, tmp_path, *, trained=0):
    stage = loop.stages.build(run, index)
    state = stage.initial_state(run, run.parameters.init(), jax.numpy.int32(trained))
    with checkpoint.Checkpoints(tmp_path, read_only=True) as checkpoints:
        recorder = bigram_run.make_recorder(checkpoints)
        return references.load(run, stage, state, recorder.checkpoints)


def assert_equal(tree, expected):
    jax.tree.map(np.testing.assert_array_equal, tree, expected)


CHAIN = (
    bigram_run.make_stage("first", config.Grpo(kl=STAGE_START)),
    bigram_run.make_stage("second", config.Grpo(kl=STAGE_START)),
    bigram_run.make_stage("third", config.Grpo(kl=STAGE_START)),
    bigram_run.make_stage("fourth", config.Grpo(kl=RUN_START)),
    bigram_run.make_stage("plain", config.Grpo()),
    bigram_run.make_stage(
        "taught",
        config.Distillation(
            teachers=(("farm", "second"), ("mine", "first")), kl=RUN_START
        ),
    ),
)


def test_references_are_the_start_of_the_stage_or_of_the_run(tmp_path):
    run, stored = with_checkpoints(tmp_path, *CHAIN)
    beginning = run.parameters.init()

    for trained in (0, 7):  # at the start, and resumed later
        found = load(run, 0, tmp_path, trained=trained)
        assert_equal(found.divergence, beginning)
    assert_equal(load(run, 1, tmp_path, trained=7).divergence, stored["first"])
    assert_equal(load(run, 2, tmp_path, trained=7).divergence, stored["second"])
    assert_equal(load(run, 3, tmp_path, trained=7).divergence, beginning)
    assert load(run, 4, tmp_path) == references.References(None, None)


def test_teachers_are_the_ends_of_the_stages_that_are_named(tmp_path):
    run, stored = with_checkpoints(tmp_path, *CHAIN)

    found = load(run, 5, tmp_path, trained=7)

    assert set(found.teachers) == {"farm", "mine"}
    assert_equal(found.teachers["farm"], stored["second"])
    assert_equal(found.teachers["mine"], stored["first"])
    assert_equal(found.divergence, run.parameters.init())


@pytest.mark.parametrize(
    ("index", "missing"), [(1, "first"), (2, "second"), (5, "second")]
)
def test_a_missing_checkpoint_is_named(tmp_path, index, missing):
    ends = [name for name in ("first", "second") if name != missing]
    run, _ = with_checkpoints(tmp_path, *CHAIN, ends=ends)
    with pytest.raises(
        errors.CheckpointError,
        match=rf"with that of stage '{missing}', whose last checkpoint is missing or "
        rf"damaged; there are those of \['{ends[0]}'\]",
    ):
        load(run, index, tmp_path, trained=7)


def test_a_class_that_nothing_resolves_is_named():
    class Unknown(config.AlgorithmConfig):
        NAME = "unknown"

    stage = bigram_run.make_stage("only", Unknown())
    with pytest.raises(errors.ConfigError, match="resolves the algorithm 'unknown'"):
        algorithms.resolve(stage)


TINY = model_config.ModelConfig(
    vocab_size=24, hidden_size=16, num_layers=1, num_heads=2, num_kv_heads=1,
    head_dim=8, mlp_size=16,
)  # fmt: skip


@pytest.fixture
def adapted(monkeypatch):
    """Parameters of a run with adapters, and the calls that load its weights."""
    settings = config.RunConfig(
        name="adapted",
        stages=(),
        environments={},
        model=TINY,
        lora=model_config.LoraConfig(rank=2),
    )
    calls = []
    load_model = parameters.Parameters._load_model

    def counted(self):
        calls.append(1)
        return load_model(self)

    monkeypatch.setattr(parameters.Parameters, "_load_model", counted)
    mesh = bigram_run.make_run().mesh
    return parameters.Parameters(settings, transformer.Model(TINY), mesh), calls


def test_weights_are_read_once_for_both_parts(adapted):
    held, calls = adapted

    trained = held.init()
    frozen = held.frozen
    digest = held.frozen_digest

    assert len(calls) == 1
    assert "embedding" in frozen and "embedding" not in trained
    # What the parts stand for together does not depend on which of them came first.
    other = parameters.Parameters(held.config, held.model, held.mesh)
    assert other.frozen_digest == digest
    assert_equal(other.init(), trained)


def test_a_fresh_run_reads_its_weights_once(adapted, tmp_path):
    held, calls = adapted
    settings = bigram_run.make_stage("only", config.Grpo(kl=STAGE_START))
    run = bigram_run.make_run(settings)
    run.config = run.config.__class__(
        **(vars(run.config) | {"model": TINY, "lora": held.config.lora})
    )
    run.model, run.parameters = held.model, held
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        recorder = bigram_run.make_recorder(checkpoints)
        stage, state, progress, _ = resume.restore_or_init(
            run, checkpoints, recorder.writer, tmp_path
        )
        compared = references.load(run, stage, state, recorder.checkpoints)

    assert len(calls) == 1
    assert progress.frozen_digest == held.frozen_digest != 0
    assert_equal(compared.divergence, state.learner.params)
    # The learner donates its state: the reference is a copy.
    first = jax.tree.leaves(state.learner.params)[0]
    assert first is not jax.tree.leaves(compared.divergence)[0]


def test_demonstrations_that_the_checks_have_played_are_taken_over():
    run = bigram_run.make_run(bigram_run.make_stage("warm", config.Supervised()))
    played = [bigram_run.make_episode(0, run.parameters.init())]
    run.demonstrations["warm"] = played  # there is no pool that could play others
    assert loop.stages.build(run, 0).demonstrations is played
