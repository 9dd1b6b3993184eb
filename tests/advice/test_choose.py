"""Sizes from token counts, by hand."""

import ast
import dataclasses

import fake_run
import numpy as np
import pytest

from agentrl import config, errors, types
from agentrl.advice import choose, measure
from agentrl.models.model_config import ModelConfig

MODEL = ModelConfig(max_positions=4096)


def make_tokens(lengths=(100, 200, 300), *, prompts=(40, 60), max_turns=4, **changes):
    def episode(length):
        turns = [
            types.Turn(
                observation_tokens=np.zeros(count, np.int32),
                action_tokens=np.zeros(10, np.int32),
                action_logprobs=np.zeros(10, np.float32),
                observation="",
                action="",
                reward=0.0,
                valid=True,
            )
            for count in (50, length - 70)
        ]
        return dataclasses.replace(fake_run.make_trajectory(), turns=tuple(turns))

    found = measure.Tokens(
        env="textcraft",
        num_tasks=len(prompts),
        prompts=tuple(prompts),
        num_lost=0,
        episodes=tuple(map(episode, lengths)),
        max_turns=max_turns,
    )
    return dataclasses.replace(found, **changes)


def advise(*measured, model=MODEL, num_params=10**6, **wishes):
    return choose.advise(measured, model, num_params, choose.Wishes(**wishes))


def test_every_task_and_every_answer_fits():
    advice = advise(make_tokens())
    # Oracle answers have 10 tokens: 15, rounded up to 16. The longest episode has 300
    # tokens; a first observation, an action, and 3 turns of 230 + 16 would be 814.
    assert advice.rollout["max_action_tokens"] == 16
    assert advice.rollout["max_tokens"] == 464  # 1.5 x 300, rounded up
    assert "814" in advice.reasons["max_tokens"]
    # Few turns: everything fits.
    assert advise(make_tokens(max_turns=2)).rollout["max_tokens"] == 336
    # A prompt that is longer than any episode of the oracle.
    long = advise(make_tokens(prompts=(40, 1000)))
    assert long.rollout["max_tokens"] >= 1000 + 16


def test_rows_are_filled():
    advice = advise(make_tokens())
    assert advice.padding < 0.15
    assert advice.learner["row_tokens"] >= advice.rollout["max_tokens"]
    rows = advice.learner["rows_per_microbatch"] * advice.learner["max_microbatches"]
    longest = advice.rollout["max_tokens"]
    episodes = 8 * advice.rollout["tasks_per_iteration"]
    packed = choose.padding_of([longest] * episodes, advice.learner["row_tokens"], 1)
    assert rows * advice.learner["row_tokens"] * (1 - packed) >= longest * episodes
    many = advise(make_tokens(), devices=8)
    assert many.learner["rows_per_microbatch"] == 8
    assert many.rollout["num_slots"] % 8 == 0


def test_what_was_not_looked_at_gets_a_margin_and_a_note():
    some = make_tokens(prompts=(40, 1000), num_tasks=500)
    advice = advise(some)
    assert advice.rollout["max_tokens"] >= 1100 + 16
    assert "2 of 500 first observations" in advice.warnings[0]


def test_positions_bound_the_context():
    advice = advise(make_tokens(), model=ModelConfig(max_positions=400))
    assert advice.rollout["max_tokens"] == 400
    assert "cut to model.max_positions = 400" in advice.warnings[0]
    with pytest.raises(errors.ConfigError, match="begins with 60 tokens"):
        advise(make_tokens(), model=ModelConfig(max_positions=50))


@pytest.mark.parametrize(
    ("num_params", "adapters", "rate"),
    [(10**6, False, 3e-4), (10**6, True, 2e-3), (5 * 10**8, False, 5e-6),
     (7 * 10**9, False, 1e-6), (7 * 10**9, True, 1e-5)],
)  # fmt: skip
def test_learning_rates(num_params, adapters, rate):
    advice = advise(make_tokens(), num_params=num_params, adapters=adapters)
    assert advice.learning_rate == pytest.approx(rate)


def test_fragment_and_flags_say_the_same():
    advice = advise(make_tokens())
    names = {"config": config}
    code = choose.to_fragment(advice)
    assert ast.parse(code)
    exec(code, names)
    settings = choose.apply(fake_run.make_settings(), advice)
    assert all(stage.rollout == names["ROLLOUT"] for stage in settings.stages)
    assert settings.learner == names["LEARNER"]
    assert settings.stages[1].optimizer == names["OPTIMIZER"]
    assert settings.stages[0].algorithm == names["WARM_START"]
    settings.evaluation.validate("evaluation")
