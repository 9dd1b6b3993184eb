"""A Gymnasium text environment, wrapped: say the number that the seed gave."""

import gymnasium

from agentrl.envs.adapters import gymnasium_text


class SayNumber(gymnasium.Env):
    observation_space = gymnasium.spaces.Text(40)
    action_space = gymnasium.spaces.Text(40)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.number = int(self.np_random.integers(100))
        return f"Say {self.number}.", {}

    def step(self, action):
        right = action == str(self.number)
        wrong_twice = action == "give up"
        return (
            "Right." if right else "No.",
            float(right),
            right or wrong_twice,
            False,
            {},
        )


SPEC = gymnasium_text.make_spec(
    "say_number",
    SayNumber,
    instruction="Say the number.",
    num_train=40,
    num_test=10,
    max_turns=5,
    is_hard=lambda index: index % 2 == 1,
)
