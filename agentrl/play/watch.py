"""A stored policy in the terminal: watched, interrupted, or given a task of one's own."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping

import numpy as np
from rich import console as rich_console
from rich import rule, text

from agentrl.chat import renderer
from agentrl.envs import base, parsing
from agentrl.play import episode, policy

_TAKE_OVER = "Enter sends it; or type an action, ? to list them, again, or quit."
_OWN_TASK = (
    "You are the environment: type what the policy observes, \\n for a new line. `again` "
    "draws another answer; quit or Ctrl-D ends."
)
_ENDING = "ending max_tokens"  # as training names it
# Probability of a token below which it is shown in this style.
_STYLES = ((0.1, "bold red"), (0.5, "yellow"), (0.9, "default"), (math.inf, "green"))

Messages = list[Mapping[str, str] | policy.Reply]


def watch(
    stored: policy.Policy,
    name: str,
    item_id: str | None,
    changes: Mapping[str, object],
    out: rich_console.Console,
    *,
    show_tokens: bool = False,
    take_over: bool = False,
) -> bool:
    """Shows a policy playing a task.

    Args:
      stored: the policy, whose run, if any, configures the environment.
      name: of the environment.
      item_id: the task; None takes the first test task.
      changes: fields of the environment's configuration to replace.
      out: where to print.
      show_tokens: whether each token is shown with its probability.
      take_over: whether a person is asked before an answer is sent.

    Returns:
      Whether the task was solved.
    """
    known = stored.environments.get(name, base.EnvConfig())
    settings = dataclasses.replace(known, **changes)  # type: ignore[arg-type]
    chosen = item_id or episode.first_task(name, settings)
    with episode.opened(name, settings) as env:
        conversation: Messages = []

        def act(observation: str) -> str | episode.Stop | None:
            if conversation:
                conversation.append({"role": "user", "content": observation})
            else:
                conversation.extend(_open(stored.chat, env, observation, chosen))
            return _answer(stored, conversation, env, out, show_tokens, take_over)

        _, solved = episode.play(env, chosen, lambda: act, out, echo=True)
    return solved


def _answer(
    stored: policy.Policy,
    conversation: Messages,
    env: base.Environment,
    out: rich_console.Console,
    show_tokens: bool,
    take_over: bool,
) -> str | episode.Stop | None:
    """The answer to send, the policy's or a person's; the conversation gets it, too.

    Where training ends an episode for its tokens, it is a stop.
    """
    while True:
        try:
            reply = stored.act(conversation)
        except policy.NoRoomError as error:
            return episode.Stop(_out_of_tokens(error))
        out.print(describe(reply), style="dim", markup=False)
        if show_tokens:
            out.print(colour(stored, reply))
        if not take_over:
            if limit := _ending_limit(stored, reply):
                cut = f"the answer is cut off at {len(reply.tokens)} tokens, {limit}"
                return episode.Stop(f"{_ENDING}: {cut}: it is not sent", reply.text)
            conversation.append(reply)
            return reply.text
        if not show_tokens:
            out.print(reply.text.strip(), style="cyan", markup=False)
        out.print(_TAKE_OVER, style="dim", markup=False)
        typed = _ask(env, out)
        if typed is None:
            return None
        if typed == "again":
            continue
        if not typed:
            conversation.append(reply)
            return reply.text
        conversation.append({"role": "assistant", "content": typed})
        return typed


def _ask(env: base.Environment, out: rich_console.Console) -> str | None:
    """What a person types: an answer, nothing, or `again`; None to stop."""
    while True:
        try:
            typed = out.input("[bold cyan]> [/]").strip()
        except EOFError:
            return None
        if typed == "quit":
            return None
        if typed == "?":
            episode.show_actions(env, out)
            continue
        if not typed or typed == "again" or typed.startswith(episode.WHOLE_ANSWERS):
            return typed
        return parsing.render_react("", typed)


def converse(
    stored: policy.Policy,
    out: rich_console.Console,
    *,
    instruction: str = "",
    show_tokens: bool = False,
) -> None:
    """Lets a person be the environment: a task of one's own.

    Args:
      stored: the policy.
      out: where to print, and from whose terminal to read.
      instruction: what an environment would tell first, as the policy's frame has it.
      show_tokens: whether each token is shown with its probability.
    """
    out.print(_OWN_TASK, style="dim", markup=False)
    conversation: Messages = []
    for typed in _lines(out):
        if typed == "again" and conversation:
            conversation.pop()  # the reply
        elif conversation:
            conversation.append({"role": "user", "content": typed})
        else:
            opened = stored.chat.episode(instruction, [(typed, "")], "own_0")[:-1]
            conversation += [{"role": m.role, "content": m.text} for m in opened]
        try:
            reply = stored.act(conversation)
        except policy.NoRoomError as error:
            out.print(_out_of_tokens(error), style="yellow", soft_wrap=True)
            break
        conversation.append(reply)
        out.print(describe(reply), style="dim", markup=False)
        if show_tokens:
            out.print(colour(stored, reply))
        else:
            out.print(reply.text.strip(), style="cyan", markup=False)
    out.print(rule.Rule("stopped"))


def _ending_limit(stored: policy.Policy, reply: policy.Reply) -> str:
    """The limit at which a rollout ends an episode instead of sending a cut answer.

    Empty if it sends it: one that was not cut, or, where settings say so, one that only
    the limit of an answer cut.
    """
    limits = stored.rollout
    if reply.stopped:
        return ""
    if len(reply.tokens) < limits.max_action_tokens:
        return f"the conversation's limit being {limits.max_tokens}"
    if limits.cut_actions == "play":
        return ""
    return f"the limit being {limits.max_action_tokens}"


def _out_of_tokens(error: policy.NoRoomError) -> str:
    return (
        f"{_ENDING}: the conversation has {error.num_tokens} tokens, the limit being "
        f"{error.max_tokens} with the next answer"
    )


def _lines(out: rich_console.Console) -> Iterator[str]:
    while True:
        try:
            typed = out.input("[bold green]observation> [/]")
        except EOFError:
            return
        if typed == "quit":
            return
        if typed.strip():
            yield typed.replace("\\n", "\n")


def describe(reply: policy.Reply) -> str:
    """Returns a line on how sure the policy was of an answer."""
    least = int(np.argmin(reply.logprobs))
    cut = "" if reply.stopped else "; cut at the limit of tokens"
    return (
        f"{len(reply.tokens)} tokens, mean probability {reply.probability:.2f}, least "
        f"{math.exp(reply.logprobs[least]):.2f} at token {least + 1}{cut}"
    )


def colour(stored: policy.Policy, reply: policy.Reply) -> text.Text:
    """Returns the tokens of an answer, each with its probability, coloured by it."""
    shown = text.Text()
    decode: Callable[..., str] = stored.tokenizer.decode
    before = ""
    for index, (token, logprob) in enumerate(
        zip(reply.tokens, reply.logprobs, strict=True), start=1
    ):
        # What a token adds to the text: alone it may lose a space, or be a part of a
        # character, which is shown with its last part.
        after = decode(reply.tokens[:index])
        unfinished = after.endswith("\ufffd") and index < len(reply.tokens)
        added = "" if unfinished else after.removeprefix(before)
        before = before if unfinished else after
        ends = token in stored.tokenizer.stop_ids
        piece = added or ("<end>" if ends else "<>")
        chance = math.exp(logprob)
        style = next(style for limit, style in _STYLES if chance < limit)
        shown.append(piece.rstrip("\n"), style=style)
        shown.append(f"({chance:.2f})", style="dim")
        shown.append("\n" * (len(piece) - len(piece.rstrip("\n"))))
    return shown


def _open(
    chat: renderer.Chat, env: base.Environment, observation: str, item_id: str
) -> list[dict[str, str]]:
    """The messages that an episode begins with in the policy's frame."""
    acknowledged = {env.name: env.acknowledgement}
    chat = dataclasses.replace(chat, acknowledgements=acknowledged)
    messages = chat.episode(env.instruction, [(observation, "")], item_id)[:-1]
    return [{"role": message.role, "content": message.text} for message in messages]
