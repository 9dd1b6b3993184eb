r"""Other words around the same task, for robust training and for evaluation.

Options that every environment takes; none changes a task, its rewards, its state, or
what its oracles can solve:

  irrelevant_text    so many sentences without meaning for the task per sentence of an
                     observation, at most 20 in each: 0.25, 1, 3
  rename_verbs       true: actions begin with other words ("fetch 2 oak log"), in rules,
                     lists and answers; the usual words are not understood any more
  shuffle_sections   true: paragraphs and bullets of the rules, recipes of the first
                     observation and lists of actions stand in another order
  answer_format      "json" ({"thought": ..., "action": ...}) or "tags"
                     (<action>...</action>) in place of the environment's own form
  perturbation_seed  an integer; draws other sentences and orders

What is drawn depends on the seed, the item and the turn alone, so that the episodes of a
group read the same. What is perturbed is part of a panel's version, and of its digest.
Whether actions are listed at all is the field `list_actions` of `EnvConfig`.

Irrelevant text was found to help out of domain by https://arxiv.org/abs/2601.18217; other
names, sections and forms of answers are those of https://arxiv.org/abs/2607.01084.
"""

import dataclasses
import functools
import hashlib
import itertools
import json
import math
import random
import re
from collections.abc import Callable, Mapping, Sequence

OPTIONS = (
    *("irrelevant_text", "rename_verbs", "shuffle_sections", "answer_format"),
    "perturbation_seed",
)
ANSWER_FORMATS = ("native", "json", "tags")
MAX_SENTENCES = 20  # in one observation

_ACTION = re.compile(r"(Action:\s*)(\S.*)")
_REACT = re.compile(r"Thought:\n(.*?)\n\nAction:\n(.*)", re.DOTALL)
_EXAMPLE = re.compile(r"Thought:\n(.+)\n\nAction:\n(.+)")
_THOUGHT = re.compile(r"<think>(.*?)</think>\s*(.*)", re.DOTALL)
_IN_TAGS = re.compile(r"<action>(.*?)</action>", re.DOTALL)
_PART_END = re.compile(r"[.!?](?=\s|$)|\n")
_NOT_KNOWN = "no "  # before a usual word that was renamed: no action begins with it

_SUBJECTS = (
    *(
        "A clock",
        "A distant radio",
        "A loose shutter",
        "An old pipe",
        "The ventilation",
    ),
    *("Somebody next door", "A passing train", "The rain outside", "A sleepy dog"),
    *("The neighbor's piano", "A weather report", "A calendar on a wall", "A moth"),
)
_VERBS = (
    *("hums quietly", "makes a dull sound", "can be heard for a while", "falls silent"),
    *("is of no importance", "repeats itself", "goes on as yesterday", "pauses"),
    *("sounds farther away than before", "does nothing remarkable", "fades"),
)
_REMARKS = (
    *("It was the same last week.", "Nobody pays attention to it.", "It is a Tuesday."),
    *("The air is dry today.", "This has nothing to do with what you are doing."),
    *("Some people prefer tea in the morning.", "Clouds drift past a window."),
    *("A train is four minutes late.", "Somewhere a phone rings twice and stops."),
    *("The forecast for tomorrow is unclear.", "An anecdote is told and forgotten."),
)


class PerturbationError(ValueError):
    """An option has a value that cannot be used."""


@dataclasses.dataclass(frozen=True)
class Perturbation:
    """What is perturbed in one environment, and how it is undone in answers."""

    irrelevant_text: float = 0.0
    shuffle_sections: bool = False
    answer_format: str = "native"
    seed: int = 0
    names: tuple[tuple[str, str], ...] = ()  # usual and other beginning of each action

    @classmethod
    def from_options(
        cls, options: Mapping[str, object], synonyms: Mapping[str, str]
    ) -> "Perturbation":
        """Reads the options; `synonyms` are the environment's words for `rename_verbs`.

        Raises:
          PerturbationError: naming the option whose value cannot be used.
        """
        amount = options.get("irrelevant_text", 0.0)
        if isinstance(amount, bool | str) or not 0 <= float(str(amount)) <= 10:
            raise PerturbationError(
                f"option irrelevant_text = {amount!r}; give a number from 0 to 10."
            )
        flags = {}
        for option in ("rename_verbs", "shuffle_sections"):
            flags[option] = options.get(option, False)
            if not isinstance(flags[option], bool):
                raise PerturbationError(
                    f"option {option} = {flags[option]!r}; give true or false."
                )
        form = options.get("answer_format", "native")
        if form not in ANSWER_FORMATS:
            raise PerturbationError(
                f"option answer_format = {form!r}; choose one of {ANSWER_FORMATS}."
            )
        seed = options.get("perturbation_seed", 0)
        if type(seed) is not int:
            raise PerturbationError(
                f"option perturbation_seed = {seed!r}; give an integer."
            )
        if flags["rename_verbs"] and not synonyms:
            raise PerturbationError(
                "option rename_verbs = True: this environment has no other words for its "
                "actions (`synonyms`); leave the option out."
            )
        ordered = sorted(synonyms.items(), key=lambda pair: -len(pair[0]))
        names = tuple(ordered) if flags["rename_verbs"] else ()
        shuffled = bool(flags["shuffle_sections"])
        return cls(float(str(amount)), shuffled, str(form), seed, names)

    @functools.cached_property
    def is_active(self) -> bool:
        """Whether anything differs from the environment as it is."""
        return dataclasses.replace(self, seed=0) != Perturbation()

    # What the agent reads.

    def instruct(self, text: str) -> str:
        """The rules in other words, order and form of answers."""
        if self.shuffle_sections:
            text = _shuffle_rules(text, self._draws("rules"))
        for usual, other in self.names:
            text = _compile(usual, anywhere=True).sub(_escape(other), text)
        if self.answer_format == "native":
            return text
        example = self._render("your thought", "your action")
        text, found = _EXAMPLE.subn(lambda m: self._render(m[1], m[2]), text)
        return text if found else f"{text}\nWrite each answer in this form:\n{example}"

    def observe(self, text: str, item_id: str, turn: int) -> str:
        """An observation with other names and order, and irrelevant text in it."""
        draws = self._draws(item_id, turn)
        lines = text.split("\n")
        if self.shuffle_sections and turn == 0:
            lines = _shuffle_runs(lines, draws, lambda line: line.partition(" ")[0])
        lines = [self._rename_line(line) for line in lines]
        count = math.ceil(self.irrelevant_text * max(len(_PART_END.findall(text)), 1))
        for _ in range(min(count, MAX_SENTENCES)):
            lines.insert(draws.randint(0, len(lines)), _make_sentence(draws))
        return "\n".join(lines)

    def arrange(self, actions: Sequence[str], item_id: str, turn: int) -> list[str]:
        """A list of available actions in other words and order."""
        arranged = [self._rename_action(action) for action in actions]
        if self.shuffle_sections:
            self._draws("actions", item_id, turn).shuffle(arranged)
        return arranged

    # What the agent writes.

    def read(self, answer: str) -> str:
        """The answer as the environment itself would have it."""
        if self.answer_format != "native":
            action = self._find_action(answer)
            tagged = action.lstrip().startswith("<")
            answer = action if tagged or not action else f"Action:\n{action}"
        for usual, other in self.names:
            if not usual[-1].isalpha():  # a tag or a bracket, which may stand anywhere
                answer = answer.replace(usual, usual[:-1] + "_" + usual[-1])
                answer = answer.replace(other, usual)
        return _ACTION.sub(lambda m: m[1] + self._restore(m[2]), answer)

    def write(self, answer: str) -> str:
        """An answer in the environment's own form, as the agent has to write it."""
        answer = _ACTION.sub(lambda m: m[1] + self._rename_action(m[2]), answer)
        for usual, other in self.names:
            if not usual[-1].isalpha():
                answer = answer.replace(usual, other)
        if self.answer_format == "native":
            return answer
        parts = _REACT.fullmatch(answer) or _THOUGHT.fullmatch(answer)
        thought, action = parts.groups() if parts else ("", answer)
        return self._render(thought, action.removeprefix("Action:").strip())

    def _render(self, thought: str, action: str) -> str:
        if self.answer_format == "json":
            content = {"thought": thought, "action": action}
            return json.dumps(content, ensure_ascii=False)
        return f"{thought}\n<action>{action}</action>"

    def _find_action(self, answer: str) -> str:
        """The action in another form of answers; empty if it does not have that form."""
        if self.answer_format == "tags":
            found = _IN_TAGS.findall(answer)
            return found[0].strip() if len(found) == 1 else ""
        start, end = answer.find("{"), answer.rfind("}")
        try:
            content = json.loads(answer[start : end + 1]) if start >= 0 else None
        except (ValueError, RecursionError):
            return ""
        action = content.get("action") if isinstance(content, dict) else None
        return action.strip() if isinstance(action, str) else ""

    def _rename_action(self, action: str) -> str:
        for usual, other in self.names:
            if _compile(usual).match(action):
                return other + action[len(usual) :]
        return action

    def _restore(self, action: str) -> str:
        by_length = sorted(self.names, key=lambda pair: -len(pair[1]))
        for usual, other in by_length:
            if usual[-1].isalpha() and _compile(other).match(action):
                return usual + action[len(other) :]
        if any(
            usual[-1].isalpha() and _compile(usual).match(action)
            for usual, _ in by_length
        ):
            return _NOT_KNOWN + action
        return action

    def _rename_line(self, line: str) -> str:
        for usual, other in self.names:
            if not usual[-1].isalpha():
                line = line.replace(usual, other)
        return self._rename_action(line)

    def _draws(self, *where: object) -> random.Random:
        content = "\x1f".join(map(str, ("perturbation", self.seed, *where)))
        digest = hashlib.sha256(content.encode()).digest()
        return random.Random(int.from_bytes(digest[:8], "big"))


def describe(options: Mapping[str, object]) -> str:
    """Names what is perturbed, as `, irrelevant_text 0.5`; or empty text."""
    given = {option: options[option] for option in OPTIONS if option in options}
    unset = (0, 0.0, False, "native")
    if all(value in unset for key, value in given.items() if key != OPTIONS[-1]):
        return ""
    return "".join(
        f", {key} {value}" for key, value in given.items() if value not in unset
    )


def _make_sentence(draws: random.Random) -> str:
    if draws.random() < 0.4:
        return draws.choice(_REMARKS)
    return f"{draws.choice(_SUBJECTS)} {draws.choice(_VERBS)}."


def _shuffle_rules(text: str, draws: random.Random) -> str:
    """Moves paragraphs, but for the first; what follows a colon stays behind it."""
    sections: list[list[str]] = []
    for block in text.split("\n\n"):
        if sections and (sections[-1][-1].endswith(":") or block.startswith("Action:")):
            sections[-1].append(block)
        else:
            sections.append([block])
    first, *others = sections
    draws.shuffle(others)
    blocks = [block for section in (first, *others) for block in section]
    return "\n\n".join(
        "\n".join(
            _shuffle_runs(block.split("\n"), draws, lambda line: line[:2] == "- ")
        )
        if "\n- " in f"\n{block}"
        else block
        for block in blocks
    )


def _shuffle_runs(
    lines: Sequence[str], draws: random.Random, kind: Callable[[str], object]
) -> list[str]:
    """Shuffles neighboring lines of one kind among themselves."""
    shuffled: list[str] = []
    for key, group in itertools.groupby(lines, kind):
        run = list(group)
        if key:
            draws.shuffle(run)
        shuffled += run
    return shuffled


@functools.cache
def _compile(word: str, *, anywhere: bool = False) -> re.Pattern[str]:
    """Finds a word: at the beginning of an action, or anywhere in a text."""
    end = r"(?![A-Za-z])" if word[-1].isalpha() else ""
    start = r"(?<![A-Za-z])" if anywhere and word[0].isalpha() else ""
    return re.compile(f"{start}{re.escape(word)}{end}")


def _escape(text: str) -> str:
    return text.replace("\\", r"\\")
