"""Chat templates taken apart, so that turns are appended instead of rendered again.

A chat template renders a whole conversation. A rollout only ever appends: what an action
was sampled after can never change. So a few conversations of made-up words are rendered
once, the texts between the words become the delimiters of turns, and the contexts built
from these are compared with the template's own renderings. Where they differ, the
difference has a name:

  default_system  the template opens a conversation without a system message by one of its
                  own; contexts have it too
  date            the template prints the day; contexts print one fixed day, so that a run
                  that goes on tomorrow sees the same text
  prompt          the header of the answer to come differs from that of past answers;
                  contexts keep the former
  ending          the template renders the last answer of a conversation unlike past ones,
                  or writes something after its end; contexts end with the stop token
  before_stop     the template writes white space before the stop token; contexts do not
  whitespace      the template strips messages; contexts keep what was said
  thinking        the template drops the reasoning of past answers; contexts keep it,
                  unless tokenizer.past_reasoning = "drop"
  dropped         what the template leaves of an answer with reasoning is not what contexts
                  leave of it with tokenizer.past_reasoning = "drop"
  tokens          plain text is tokenized differently in turns and in one piece

A template is code of a stranger: it is rendered in a process of its own first.
"""

import json
import pathlib
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence

import jinja2
import jinja2.meta
import transformers

from agentrl import errors
from agentrl.chat import renderer
from agentrl.chat.tokenizer import Delimiters

_DAY = "26 Jul 2024"  # the day in Llama's templates where the caller gives none
_FIXED_DAY = "{%- macro strftime_now(format) -%}" + _DAY + "{%- endmacro -%}"
_SYSTEM = renderer.Message("system", "aqsystemqa")
_TURNS = tuple(
    message
    for turn in range(3)
    for message in (
        renderer.Message("user", f"aqquestion{turn}qa"),
        renderer.Message("assistant", f"aqanswer{turn}qa"),
    )
)
# What a template may do to a message: strip it, or drop the reasoning in it.
_CHANGED = {
    "whitespace": (" Look around.\n\n", "\n go north \n"),
    "thinking": ("Look around.", "<think>\nIt is dark.\n</think>\n\ngo north"),
}
_PROBE = pathlib.Path(__file__).with_name("template_probe.py")
_PROBE_SECONDS = 120  # of a loaded machine; the probe limits its own CPU time to less


def render(
    tokenizer: transformers.PreTrainedTokenizerBase,
    messages: Sequence[renderer.Message],
    *,
    prompt: bool,
    today: bool = False,
) -> str:
    """Renders a conversation by the template itself.

    Args:
      tokenizer: holds the template.
      messages: the conversation.
      prompt: whether to end with the header of the answer to come.
      today: print today's date where the template prints one, not the fixed day.

    Raises:
      ConfigError: if the template raises.
    """
    source = ("" if today else _FIXED_DAY) + _source(tokenizer)
    try:
        rendered = tokenizer.apply_chat_template(
            _plain(messages),
            chat_template=source,
            add_generation_prompt=prompt,
            tokenize=False,
        )
    except Exception as error:  # a template can raise whatever Python can
        roles = ", ".join(message.role for message in messages)
        raise errors.ConfigError(
            f"the chat template of {_file(tokenizer)} raises on a conversation of "
            f"{roles}: {type(error).__name__}: {' '.join(str(error).split())}"
        ) from error
    assert isinstance(rendered, str)
    return rendered


def check_limits(tokenizer: transformers.PreTrainedTokenizerBase) -> None:
    """Renders what this module will, in a process with little time and memory.

    Raises:
      ConfigError: if the template needs more of either.
    """
    source = _source(tokenizer)
    system, *turns = _PROBED
    conversations = [
        (_FIXED_DAY + source, _TURNS[:-1], True),
        (_FIXED_DAY + source, (_SYSTEM, *_TURNS[:-1]), True),
        (source, _TURNS[:1], True),
        (_FIXED_DAY + source, _TURNS, False),
        (_FIXED_DAY + source, turns, True),
        (_FIXED_DAY + source, (system, *turns), True),
        *(
            (_FIXED_DAY + source, _exchange(*texts), True)
            for texts in _CHANGED.values()
        ),
    ]
    asked = {
        "renderings": [(t, _plain(m), prompt) for t, m, prompt in conversations],
        "special_tokens": {
            name: str(token) for name, token in tokenizer.special_tokens_map.items()
        },
    }
    try:
        done = subprocess.run(
            [sys.executable, "-P", str(_PROBE)],
            input=json.dumps(asked),
            capture_output=True,
            text=True,
            timeout=_PROBE_SECONDS,
        )
    except subprocess.TimeoutExpired:
        reason = f"it has not ended after {_PROBE_SECONDS} s"
    else:
        if not done.returncode:
            return
        told = done.stderr.strip().splitlines()[-1:] if done.returncode > 0 else []
        reason = told[0] if told else "it takes seconds of computation"
    raise errors.ConfigError(
        f"the chat template of {_file(tokenizer)} was stopped while it rendered a few "
        f"short messages: {reason}. Give the template that the model was published with."
    )


def mark_delimiters(tokenizer: transformers.PreTrainedTokenizerBase) -> None:
    """Makes the tokens special that a template writes between messages.

    Some are published as ordinary added tokens, such as the roles of R1's distillations:
    an observation that contains their text would become them, and forge a turn. What marks
    a thought is written by the policy, so it stays an ordinary token.

    Raises:
      ConfigError: as `find_delimiters` does.
    """
    thought = (renderer.THOUGHT_START, renderer.THOUGHT_END)
    gaps = _find_gaps(tokenizer, _TURNS[:-1]).values()
    ordinary = [
        transformers.AddedToken(token.content, special=True, normalized=False)
        for token in tokenizer.added_tokens_decoder.values()
        if not token.special
        and token.content not in thought
        and any(token.content in gap for gap in gaps)
    ]
    if ordinary:
        tokenizer.add_tokens(ordinary, special_tokens=True)


def find_delimiters(
    tokenizer: transformers.PreTrainedTokenizerBase,
) -> tuple[Delimiters, int]:
    """Takes a tokenizer's chat template apart.

    Returns:
      Delimiters, without exceptions, and the id of the token that ends an answer.

    Raises:
      ConfigError: if the template raises, drops or repeats messages, renders turns by
        their position, or opens or ends an answer without a special token.
    """
    gaps = _find_gaps(tokenizer, _TURNS[:-1])
    refused = ""
    try:
        gaps = _find_gaps(tokenizer, [_SYSTEM, *_TURNS[:-1]]) | {
            ("", "user"): gaps["", "user"]
        }
    except errors.ConfigError as error:
        refused = f"{error} Choose tokenizer.frame = 'agentgym', which has none."
    pieces = {key: _split(tokenizer, gap) for key, gap in gaps.items()}
    after_answer = pieces["assistant", "user"]
    stop = next((i for i, p in enumerate(after_answer) if isinstance(p, int)), None)
    if stop is None or any(str(piece).strip() for piece in after_answer[:stop]):
        raise errors.ConfigError(
            f"the chat template of {_file(tokenizer)} ends an answer with "
            f"{gaps['assistant', 'user']!r}; a policy needs a special token to stop at."
        )
    for key in (("user", "assistant"), ("user", "prompt")):
        if not any(isinstance(piece, int) for piece in pieces[key]):
            raise errors.ConfigError(
                f"the chat template of {_file(tokenizer)} opens an answer with "
                f"{gaps[key]!r}, plain text that an observation can contain: it could "
                "speak in the policy's name. A header needs a special token."
            )
    pieces["assistant", "user"] = after_answer[stop + 1 :]
    stop_id = after_answer[stop]
    assert isinstance(stop_id, int)
    return Delimiters(pieces, refused=refused), stop_id


def set_variables(
    tokenizer: transformers.PreTrainedTokenizerBase,
    variables: Mapping[str, bool | int | float | str],
) -> None:
    """Fixes variables of a chat template, such as `enable_thinking` of Qwen3's.

    They become assignments at its beginning, so that whoever reads the saved template
    renders conversations as the policy saw them.

    Raises:
      ConfigError: if the template does not read one of them.
    """
    if not variables:
        return
    source = _source(tokenizer)
    try:
        read = jinja2.meta.find_undeclared_variables(jinja2.Environment().parse(source))
    except jinja2.TemplateError as error:
        raise errors.ConfigError(
            f"the chat template of {_file(tokenizer)} cannot be parsed ({error})."
        ) from error
    for name in variables:
        if name not in read:
            known = ", ".join(sorted(read - _GIVEN_VARIABLES)) or "none"
            raise errors.ConfigError(
                f"tokenizer.template_variables has {name!r}, which the chat template of "
                f"{_file(tokenizer)} does not read; its variables are {known}."
            )
    lines = (f"{{%- set {name} = {_literal(v)} -%}}" for name, v in variables.items())
    tokenizer.chat_template = "".join(lines) + source


def find_stripped(
    tokenizer: transformers.PreTrainedTokenizerBase, delimiters: Delimiters
) -> str | None:
    """Finds what a template strips off a past answer whose reasoning it drops.

    Returns:
      The characters; None if the template keeps reasoning, or leaves something else.
    """
    question, answer = _CHANGED["thinking"]
    theirs = render(tokenizer, _exchange(question, answer), prompt=True)
    header = _join(tokenizer, delimiters.pieces["user", "assistant"])
    rest = theirs.partition(question)[2].removeprefix(header)
    remains = answer.rpartition(renderer.THOUGHT_END)[2]
    for stripped in ("\n", ""):
        if rest.startswith(remains.lstrip(stripped)):
            return stripped
    return None


def find_exceptions(
    tokenizer: transformers.PreTrainedTokenizerBase, framed: renderer.Chat
) -> dict[str, str]:
    """Compares contexts with the template's renderings.

    Args:
      tokenizer: holds the template.
      framed: renders with the delimiters that were found in it.

    Returns:
      Name and description of every difference; the module docstring lists the names.
    """
    found = _gap_exceptions(tokenizer, framed)
    for name, (question, answer) in _CHANGED.items():
        theirs = render(tokenizer, _exchange(question, answer), prompt=True)
        if question not in theirs or answer not in theirs:
            found[name] = (
                f"the template renders {question!r} and {answer!r} as {theirs!r}; contexts "
                "keep them as they are."
            )
    stripped = find_stripped(tokenizer, framed.delimiters)
    if "thinking" in found and stripped is None:
        found["dropped"] = (
            "what it leaves of it is not what stands behind </think>, which contexts keep "
            "with tokenizer.past_reasoning = 'drop'."
        )
    messages = _PROBED[1:] if framed.delimiters.refused else _PROBED
    text = render(tokenizer, messages, prompt=True)
    theirs = tokenizer.encode(text, add_special_tokens=False)
    ours = turn_by_turn(framed, messages)
    if ours != theirs and not {"prompt", "before_stop"} & found.keys():
        found["tokens"] = f"{text!r} is {theirs} in one piece, but {ours} in contexts."
    return found


def turn_by_turn(
    framed: renderer.Chat, messages: Sequence[renderer.Message]
) -> list[int]:
    """Tokens of a conversation as a rollout appends them, up to the next answer."""
    ids: list[int] = []
    start, after = 0, ""
    for index, message in enumerate(messages):
        if message.role == "assistant":
            ids += framed.context(messages[start:index], after)
            ids += [*framed.tokenizer.encode(message.text), framed.tokenizer.stop_id]
            start, after = index + 1, "assistant"
    return ids + framed.context(messages[start:], after)


def _gap_exceptions(
    tokenizer: transformers.PreTrainedTokenizerBase, framed: renderer.Chat
) -> dict[str, str]:
    found = {}
    delimiters = framed.delimiters.pieces
    texts = {key: _join(tokenizer, pieces) for key, pieces in delimiters.items()}
    stop = _join(tokenizer, (framed.tokenizer.stop_id,))
    opening = texts["", "user"].removeprefix(str(tokenizer.bos_token or ""))
    if not (stop + texts["assistant", "user"]).endswith(opening):
        found["default_system"] = (
            f"a conversation without a system message opens with {opening!r}."
        )
    fixed, today = (
        render(tokenizer, _TURNS[:1], prompt=True, today=today)
        for today in (False, True)
    )
    if fixed != today:
        found["date"] = f"the template prints the day; contexts print {_DAY!r}."
    if texts["user", "prompt"] != texts["user", "assistant"]:
        found["prompt"] = (
            f"before the answer to come stands {texts['user', 'prompt']!r}, before past "
            f"answers {texts['user', 'assistant']!r}; contexts keep the former."
        )
    whole = _find_gaps(tokenizer, _TURNS[:-1])
    answer_end = whole["assistant", "user"].split(stop)[0]
    if answer_end:
        found["before_stop"] = (
            f"the template writes {answer_end!r} between an answer and {stop!r}."
        )
    last = render(tokenizer, _TURNS, prompt=False).partition(_TURNS[-2].text)[2]
    expected = texts["user", "assistant"] + _TURNS[-1].text + answer_end + stop
    if last != expected:
        found["ending"] = (
            f"the template ends a conversation with {last!r}, contexts with {expected!r}."
        )
    return found


def _exchange(question: str, answer: str) -> tuple[renderer.Message, ...]:
    """Returns a question, its answer, and the question again."""
    user = renderer.Message("user", question)
    return user, renderer.Message("assistant", answer), user


def _plain(messages: Sequence[renderer.Message]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.text} for message in messages]


_PROBED = (renderer.Message("system", "Obey."), *_exchange("Look.", "go north"))


# What `transformers` itself gives to every template.
_GIVEN_VARIABLES = {
    *("messages", "tools", "documents", "add_generation_prompt", "bos_token"),
    *("eos_token", "unk_token", "pad_token", "raise_exception", "strftime_now"),
}


def _literal(value: bool | int | float | str) -> str:
    """Writes a value as Jinja reads it."""
    return str(value).lower() if isinstance(value, bool) else json.dumps(value)


def _find_gaps(
    tokenizer: transformers.PreTrainedTokenizerBase,
    messages: Sequence[renderer.Message],
) -> dict[tuple[str, str], str]:
    """Texts between messages, by the roles on both sides."""
    rest = render(tokenizer, messages, prompt=True)
    gaps: dict[tuple[str, str], str] = {}
    roles = ["", *(message.role for message in messages), "prompt"]
    for index, message in enumerate(messages):
        if rest.count(message.text) != 1:
            raise errors.ConfigError(
                f"the chat template of {_file(tokenizer)} renders message {index} "
                f"({message.role}) {rest.count(message.text)} times, not once and in order."
            )
        gap, _, rest = rest.partition(message.text)
        key = (roles[index], message.role)
        if gaps.setdefault(key, gap) != gap:
            raise errors.ConfigError(
                f"the chat template of {_file(tokenizer)} writes {gap!r} between "
                f"{key[0]} and {key[1]} where it wrote {gaps[key]!r} earlier in the same "
                "conversation, so turns cannot be appended."
            )
    return gaps | {(roles[-2], "prompt"): rest}


def _split(
    tokenizer: transformers.PreTrainedTokenizerBase, text: str
) -> tuple[str | int, ...]:
    """Splits a text of the template into plain texts and ids of special tokens."""
    ids = {
        token.content: index
        for index, token in tokenizer.added_tokens_decoder.items()
        if token.special
    }
    longest_first = sorted(ids, key=len, reverse=True)
    parts = re.split("(" + "|".join(map(re.escape, longest_first)) + ")", text)
    return tuple(ids.get(part, part) for part in parts if part)


def _join(
    tokenizer: transformers.PreTrainedTokenizerBase, pieces: Sequence[str | int]
) -> str:
    tokens: Mapping[int, transformers.AddedToken] = tokenizer.added_tokens_decoder
    return "".join(p if isinstance(p, str) else tokens[p].content for p in pieces)


def _file(tokenizer: transformers.PreTrainedTokenizerBase) -> str:
    """Returns the file of a tokenizer's template, for messages."""
    folder = pathlib.Path(tokenizer.name_or_path)
    for name in ("chat_template.jinja", "tokenizer_config.json"):
        if (folder / name).is_file():
            return str(folder / name)
    return tokenizer.name_or_path


def _source(tokenizer: transformers.PreTrainedTokenizerBase) -> str:
    if not tokenizer.chat_template:
        raise errors.ConfigError(
            f"{tokenizer.name_or_path} has no chat template; put the one that the model "
            "was trained with into chat_template.jinja beside its tokenizer.json."
        )
    try:
        return tokenizer.get_chat_template()
    except ValueError as error:
        raise errors.ConfigError(
            f"{_file(tokenizer)} names several chat templates, none of them 'default' "
            f"({error}); keep the one to train with."
        ) from error
