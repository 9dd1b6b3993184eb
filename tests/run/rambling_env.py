"""The recall game, whose oracle thinks at length where the letter is an a."""

import dataclasses

import recall_env


class Oracle(recall_env.Oracle):
    def act(self, observation):
        answer = super().act(observation)
        return "Thought: hm\n" * 100 + answer if self._letter == "a" else answer


SPEC = dataclasses.replace(
    recall_env.SPEC, oracles={"observational": Oracle, "privileged": Oracle}
)
