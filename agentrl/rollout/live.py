"""One episode while it is played: its context, its next action, its finished turns."""

import dataclasses
import itertools

import numpy as np

from agentrl import config, types
from agentrl.chat import history, renderer
from agentrl.engine import engine

# What ends a thought that has reached its limit. The policy reads it and goes on.
END_OF_THOUGHT = f"\n{renderer.THOUGHT_END}\n\n"
# Added to the number of a turn: what follows the limit of a thought has random numbers of
# its own.
_SECOND_PART = 1 << 30


@dataclasses.dataclass
class Episode:
    """An episode being played."""

    index: int  # position among the tasks of this rollout
    task: types.Task
    stream: int  # names its randomness, together with the turn
    chat: renderer.Chat
    env_slot: int = -1  # in the environment pool; -1 before it has one
    awaits_reply: bool = False  # to a reset or to an action
    policy_step: int = -1  # optimizer updates behind the parameters of its first turn
    needs_prefill: bool = False  # of its whole context: it has been in another cache
    tokens: list[int] = dataclasses.field(default_factory=list)  # new observation
    num_cut: int = 0  # tokens of the context that are taken back before them
    shared_prefix_lengths: tuple[int, ...] = ()  # of the prompt, see `engine.SlotInput`
    observation: str = ""
    # The last sampled token, which is not in the cache yet.
    uncached: list[int] = dataclasses.field(default_factory=list)
    num_tokens: int = 0  # of the context, up to the end of the last finished turn
    turns: list[types.Turn] = dataclasses.field(default_factory=list)
    # The beginning of an action that goes on after the limit of a thought.
    thought: engine.SlotOutput | None = None
    action: engine.SlotOutput | None = None
    action_text: str = ""
    # The stop token of an action that was cut, which the policy did not write: it is
    # part of the next observation, so it is read but not trained.
    closing: list[int] = dataclasses.field(default_factory=list)
    score: float = 0.0

    def open(self, instruction: str, observation: str) -> None:
        """Begins the context, and finds the prefixes of it that others share."""
        item_id = self.task.item_id
        messages = self.chat.episode(instruction, [(observation, "")], item_id)
        self._history = history.History(self.chat, messages[:-1])
        self.tokens, self.observation = self._history.opening, observation
        blank = self.chat.open(instruction, "", item_id)
        # All episodes of the environment share the instructions; those of a group share
        # the prompt but for its last token, whose hidden state each slot samples from.
        same = (a == b for a, b in zip(blank, self.tokens[:-1], strict=False))
        num_instructions = sum(itertools.takewhile(bool, same))
        lengths = (num_instructions, len(self.tokens) - 1)
        self.shared_prefix_lengths = tuple(length for length in lengths if length)

    def extend(self, observation: str) -> None:
        """Goes on with the observation that answers the last action."""
        assert self.action is not None
        sampled = [*self.action.tokens.tolist(), *self.closing]
        extension = self._history.extend(
            sampled, self.action_text, [renderer.Message("user", observation)]
        )
        self.observation = observation
        if extension.num_cut > len(self.closing):
            self.num_cut = extension.num_cut - len(self.closing)
            self.tokens, self.uncached = extension.tokens, []
        else:  # the closing token has not been read yet
            kept = self.closing[: len(self.closing) - extension.num_cut]
            self.num_cut, self.tokens = 0, [*kept, *extension.tokens]

    def budget(self, limits: config.RolloutConfig) -> int:
        """Returns the token budget of the next action; below 1 at the context limit."""
        room = limits.max_tokens - self.num_tokens + self.num_cut - len(self.tokens)
        return min(limits.max_action_tokens, room)

    @property
    def has_begun(self) -> bool:
        """Whether the policy has acted in it."""
        return self.policy_step >= 0

    @property
    def num_cached_cut(self) -> int:
        """Cached tokens that the next input does away with."""
        if self.needs_prefill or self.thought is not None:
            return 0
        # Of what is taken back, the last sampled token has never been in the cache.
        return max(0, self.num_cut - 1)

    def next_input(self, limits: config.RolloutConfig) -> engine.SlotInput:
        """Returns what is prefilled next, and how many tokens may follow."""
        budget, turn = self.budget(limits), len(self.turns)
        if self.thought is not None:
            written = self.thought.tokens.tolist()
            last = int(np.flatnonzero(self.thought.sampled_mask)[-1])
            following = engine.SlotInput(
                written[last:],
                stream=(self.stream, turn + _SECOND_PART),
                budget=budget - len(written),
            )
        else:
            if limits.max_thinking_tokens:
                budget = min(budget, limits.max_thinking_tokens)
            following = engine.SlotInput(
                self.uncached + self.tokens,
                stream=(self.stream, turn),
                budget=budget,
                shared_prefix_lengths=() if self.turns else self.shared_prefix_lengths,
            )
        if not self.needs_prefill:
            return following
        return dataclasses.replace(
            following,
            tokens=self._context(),
            shared_prefix_lengths=self.shared_prefix_lengths,
        )

    def _context(self) -> list[int]:
        """Returns all that the policy has read and written, up to its next token."""
        tokens: list[int] = []
        for turn in self.turns:
            tokens = tokens[: len(tokens) - turn.num_cut]
            tokens += [*turn.observation_tokens.tolist(), *turn.action_tokens.tolist()]
        thought = [] if self.thought is None else self.thought.tokens.tolist()
        return [*tokens[: len(tokens) - self.num_cut], *self.tokens, *thought]

    def resume(
        self, env_slot: int, policy_step: int, thought: engine.SlotOutput | None
    ) -> None:
        """Takes an episode up again that was played before, with an empty cache.

        Args:
          env_slot: of its environment.
          policy_step: of its first turn.
          thought: that its next action begins with.
        """
        self.env_slot, self.policy_step, self.thought = env_slot, policy_step, thought
        self.needs_prefill = True

    def repeat(self, turn: types.Turn) -> None:
        """Takes the action of a recorded turn, and records it again."""
        self.action = engine.SlotOutput(
            turn.action_tokens, turn.action_logprobs, turn.sampled
        )
        self.action_text, tokenizer = turn.action, self.chat.tokenizer
        stopped = int(turn.action_tokens[-1]) in tokenizer.stop_ids
        self.closing = [] if stopped else [tokenizer.stop_id]
        self.record_turn(reward=turn.reward, valid=turn.valid)

    def take(self, output: engine.SlotOutput, limits: config.RolloutConfig) -> bool:
        """Takes what was sampled; returns whether it is the whole action."""
        tokenizer = self.chat.tokenizer
        first = self.thought is None
        if self.thought is not None:
            output = self.thought.joined(output)
            self.thought = None
        self.action = output
        self.action_text = tokenizer.decode(output.tokens.tolist())
        stopped = int(output.tokens[-1]) in tokenizer.stop_ids
        self.closing = [] if stopped else [tokenizer.stop_id]
        if stopped or not first or len(output.tokens) != limits.max_thinking_tokens:
            return True
        opened = renderer.THOUGHT_START in self.action_text or self.chat.opens_thought
        ended = renderer.THOUGHT_END in self.action_text
        forced = tokenizer.encode(END_OF_THOUGHT) if opened and not ended else []
        if self.budget(limits) <= len(output.tokens) + len(forced):
            return True  # no room to go on
        self.thought = output.followed_by(forced)
        return False

    def record_turn(self, *, reward: float, valid: bool) -> None:
        """Records the turn whose action was sampled last."""
        assert self.action is not None
        turn = types.Turn(
            observation_tokens=np.asarray(self.tokens, np.int32),
            action_tokens=self.action.tokens,
            action_logprobs=self.action.logprobs,
            observation=self.observation,
            action=self.action_text,
            reward=reward,
            valid=valid,
            num_cut=self.num_cut,
            sampled=self.action.sampled,
        )
        self.turns.append(turn)
        self.num_tokens += len(turn.observation_tokens) + len(turn.action_tokens)
        self.num_tokens -= turn.num_cut
        self.uncached = [int(turn.action_tokens[-1])]
