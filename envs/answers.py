"""A hundred answers as models write them, and what the environments understand of them.

    python -m agentrl.envs.answers > docs/answers.md

writes the table in the documentation. The tests play the answers in the environments
and compare profile `agentgym` with what AgentGym's clients made of them.
"""

import dataclasses
import html

from agentrl.envs import parsing

_FORMS = (  # of whole answers around the actions of one environment
    "Thought:\nI should look around first.\n\nAction:\n{}",
    "Thought: I should look around first.\nAction: {}",
    "Action: {}",
    "Action:\n{}",
    "Action:\n\n{}",
    "Action:\n\n\n   {}   \n\n",
    "Action:{}",
    "Action:\t{}",
    "Action: \n \n{}\n",
    "{}",
    "\n\nAction: {}\n\n",
    "Thought:\r\nI look.\r\n\r\nAction:\r\n{}\r\n",
    "Thought: I look.\r\nAction: {}\r\n",
    "Thought: I look.\rAction: {}\r",
    "Thought: I look.\rAction:\r{}\rThat is all.",
    "Action:\u2028{}",
    "Action: {}\u2028Then I see.",
    "Action:\u00a0{}",
    "Action:\u3000{}",
    "Thought: I look.\x0bAction:\x0b{}\x0b",
    "Action:\x0c{}\x0c",
    "Action: {}\x85Done.",
    "**Thought:** I look.\n\n**Action:** {}",
    "Action: `{}`",
    "Action: '{}'",
    'Action: "{}"',
    "Action: {}.",
    "Action:\n```\n{}\n```",
    "### Thought\nI look.\n### Action: {}",
    "action: {}",
    "ACTION: {}",
    "Action : {}",
    "Actions: {}",
    "Final Action: {}",
    "Action: {}\nObservation: You see nothing.",
    "Action: {}\n\nThought: What now?",
    "Action: {} (to see more)",
    "Action: {}\nAction: {}",
    "Thought: My Action: is to look.\n\nAction:\n{}",
    "Action: {} Action: {}",
    "Action:\n\nAction: {}",
    "Thought: I look.\n\nAction:",
    "Thought: I look.\n\nAction:\n",
    "Thought: I look.",
    "",
    "Action: {}</s>",
    "Action:\n{}\n</s>",
    "Action: {}<|im_end|>",
    "Action: {}\u200b",
    "\ufeffAction: {}",
    "Action: \u202a{}\u202c",
    "Pensée : je regarde.\nAction: {}",
    "Thought: 先看看四周。\nAction: {}",
    "Action\uff1a{}",
    "1. Thought: I look.\n2. Action: {}",
    "- Action: {}",
    '{{"thought": "I look.", "action": "{}"}}',
    "<action>{}</action>",
    "<think>I should look.</think>\nAction: {}",
    "<think>\nI should look.\n</think>\n\nThought:\nI look.\n\nAction:\n{}",
    "<think></think>Action: {}",
    "<think>\n\n</think>\n\nAction: {}",
    "<think>Perhaps Action: wait</think>\nAction: {}",
    "<think>Action: wait\nAction: sleep</think>Action: {}",
    "<think>I could write\nAction: {}\nbut why?</think>",
    "<think>I still do not know whether\nAction: {}",
    "I should look. Perhaps Action: wait.\n</think>\n\nAction: {}",
    "I should look.\n</think>\n\nAction: {}",
    "Action: {}\n</think>",
    "<think>One <think>two</think> three</think>Action: {}",
    "<think>One.</think>Action: {}<think>Was that right? Action: wait</think>",
    "<think>I should look.</think>\r\n\r\nAction:\r\n{}",
    "Thought: <think> is a tag.\nAction: {}",
)
_TAGGED = (  # answers of SearchQA
    "<search>capital of France</search>",
    "<answer>Paris</answer>",
    "<answer> Paris </answer>",
    "<search>\ncapital of France\n</search>",
    "<search>capital\r\nof France</search>\r\n",
    "<think>I must look it up.</think>\n<search>capital of France</search>",
    "<think>\nI know.\n</think>\n\n<answer>Paris</answer>",
    "<think>I could <search>Paris</search> it.</think><answer>Paris</answer>",
    "<think>Is it <answer>Lyon</answer>?</think>\n<answer>Paris</answer>",
    "<think>Is it <answer>Paris</answer>?</think>",
    "<think>I wonder whether <answer>Paris</answer>",
    "I know it.</think><answer>Paris</answer>",
    "Is it <answer>Lyon</answer>? No.\n</think>\n<answer>Paris</answer>",
    "<search>capital of France</search><answer>Paris</answer>",
    "<answer>Lyon</answer><answer>Paris</answer>",
    "<search>capital of France",
    "<answer>Paris",
    "<search></search>",
    "<answer>  </answer>",
    "<search>capital of France</answer>",
    "<Search>capital of France</Search>",
    "<answer>Paris.</answer> I am sure.",
    "search[capital of France]",
    "Action: <search>capital of France</search>",
    "<search>capital of France</search><information>Doc 1(Title: Paris)</information>",
    "<information><answer>Lyon</answer></information><answer>Paris</answer>",
    "Thought: I buy it.\nclick[buy now]",
)


def list_answers() -> tuple[str, ...]:
    """The hundred answers: 73 in the ReAct form, 27 with tags."""
    return (*(form.format(*("go to desk 1",) * 2) for form in _FORMS), *_TAGGED)


@dataclasses.dataclass(frozen=True)
class Understood:
    """What three kinds of environments take out of one answer."""

    last: str  # WebShop, AlfWorld, SciWorld
    single: str  # TextCraft, BabyAI; "(error)" for several actions
    tags: str  # SearchQA, as `search[...]` or `answer[...]`


def understand(answer: str, profile: parsing.Profile) -> Understood:
    """Applies the parsers as environments of that profile do.

    Empty text stands for an answer without an action.
    """
    text = parsing.read_answer(answer, profile)
    single = parsing.parse_single_action(text)
    tagged = parsing.parse_tagged_action(text, profile)
    return Understood(
        last=parsing.parse_last_action(text, profile).action,
        single="(error)" if single.error else single.action,
        tags=f"{tagged.name}[{tagged.content.strip()}]" if tagged else "",
    )


def render_table() -> str:
    """The page of the documentation, in Markdown."""
    lines = [_HEAD]
    for number, answer in enumerate(list_answers(), start=1):
        strict, agentgym = understand(answer, "strict"), understand(answer, "agentgym")
        cells = [str(number), _code(answer)]
        for field in dataclasses.fields(Understood):
            ours, theirs = getattr(strict, field.name), getattr(agentgym, field.name)
            same = ours == theirs
            cells.append(_code(ours) if same else f"{_code(ours)} / {_code(theirs)}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _code(text: str) -> str:
    """Text as inline code: control and unusual characters by their escapes."""
    if not text:
        return "-"
    shown = "".join(
        c if (c.isprintable() and not c.isspace()) or c == " " else _escape(c)
        for c in text
    )
    return f"<code>{html.escape(shown, quote=False).replace('|', '&#124;')}</code>"


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()


_HEAD = """\
# What environments understand of an answer

Written by `python -m agentrl.envs.answers`; a test keeps it up to date. Each row is an
answer as models write them, with escapes for line ends and other characters that do not
show, and the action that each kind of environment takes out of it. A dash means that
there is no action. Where the profiles differ, the cell shows `strict` / `agentgym`.

* **WebShop, AlfWorld, SciWorld** take everything after the last `Action:`.
* **TextCraft, BabyAI** take the one line after `Action:`, in letters, digits and commas;
  two of them are an error, which the agent is told.
* **SearchQA** takes `<search>...</search>` or `<answer>...</answer>`. `strict` takes
  exactly one, which must not be empty, and removes `<information>` that the agent wrote;
  `agentgym` obeys the first, and if that is an answer scores the last.

What holds for all of them, natively and through the adapters for AgentGym's servers:

* The whole answer is read, however long the reasoning; only an action of more than 20,000
  characters is cut.
* `<think>...</think>` is never searched, in either profile. A thought that is not closed
  reaches to the end of the answer; a `</think>` that was not opened, as under chat
  templates that open `<think>` in the prompt, ends a thought that began with the answer.
* Any white space may follow `Action:`. `strict` takes `\\r\\n`, `\\r` and Unicode's line
  ends as line ends.
* `agentgym` equals the parsers of AgentGym's clients (and of its SearchQA server, which
  reads the answer whole) on all answers without `<think>` or `</think>`, and on the others
  equals what they make of the answer without its thoughts. One oddity of theirs is kept:
  a closing `</s>` takes the character before it along.

| # | answer | WebShop, AlfWorld, SciWorld | TextCraft, BabyAI | SearchQA |
| --- | --- | --- | --- | --- |"""


if __name__ == "__main__":
    print(render_table(), end="")
