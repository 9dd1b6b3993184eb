"""Random choice of listed actions: a policy that knows nothing yet."""

import random

from agentrl.envs import base, episodes, parsing


def play_random(
    env: base.Environment, item_id: str, draw: random.Random
) -> tuple[episodes.Script, base.StepResult]:
    """Plays a task to its end.

    Listed actions are drawn from whatever agents are shown; the keywords of WebShop's
    one search are the whole first observation.

    Returns:
      All answers, and the last result.
    """
    first = env.reset(item_id)
    script: list[str] = []
    while True:
        action = draw.choice(env.available_actions() or ("",))
        script.append(parsing.render_react("", action.replace("<keywords>", first)))
        result = env.step(script[-1])
        if result.done:
            return script, result
