"""What chance achieves: actions drawn among those that an environment lists."""

import collections
import random

import pytest

from agentrl.envs import base, episodes, parsing, pool, random_policy, registry, tasks


def play(name, env_config=None, *, count=4, samples=3, num_workers=2):
    env_config = env_config or base.EnvConfig()
    ids = tasks.select_tasks(name, "test", env_config, limit=count).item_ids
    with pool.EnvPool({name: env_config}, num_workers=num_workers) as envs:
        return random_policy.play(envs, ids, samples), ids


@pytest.mark.parametrize("name", ["textcraft", "babyai", "alfworld"])
def test_outcomes_are_those_of_listed_actions_and_do_not_depend_on_workers(name):
    env_config = base.EnvConfig(max_turns=4)
    outcomes, ids = play(name, env_config)
    assert outcomes == play(name, env_config, num_workers=1)[0]

    expected = []
    for item_id in ids:
        for sample in range(3):
            env = registry.make(name, env_config)
            env.reset(item_id)
            draws = random.Random(base.stable_hash("random policy", item_id, sample))
            turn, result = 0, None
            while result is None or not result.done:
                turn += 1
                action = draws.choice(list(env.available_actions()))
                result = env.step(parsing.render_react("", action))
                assert result.info.valid_action
            expected.append((result.info.success, result.info.score, turn))
    assert outcomes == expected


def test_all_actions_are_drawn_alike():
    env = registry.make("babyai")
    env.reset("babyai_3")
    counts = collections.Counter(
        episodes.RandomActor(env, "babyai_3", sample).act("") for sample in range(3000)
    )
    actions = {parsing.render_react("", a) for a in env.available_actions()}
    assert set(counts) == actions
    expected = 3000 / len(actions)
    assert max(abs(n - expected) for n in counts.values()) < 5 * expected**0.5


@pytest.mark.parametrize("name", ["searchqa", "webshop"])
def test_environments_whose_actions_are_to_be_written_have_no_random_policy(name):
    assert play(name, count=2)[0] is None
