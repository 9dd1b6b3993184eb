"""Search and answer as an environment; see the package for its data sheet."""

import functools
from collections.abc import Mapping
from typing import ClassVar

from agentrl.envs import base, parsing, prompts
from agentrl.envs.searchqa import dataset, passage_files, records, scoring

DEFAULT_TOP_K = 3
MAX_TOP_K = 20

_CORRECT = "Congratulations! You have answered the question correctly."
_WRONG = "Sorry, your answer is incorrect."
_TRY_AGAIN = " Please try again."
_INVALID = (
    "Your previous action is invalid. If you want to search, you should put the query "
    "between <search> and </search>. If you want to give the final answer, you should "
    "put the answer between <answer> and </answer>. Please try again."
)
_NOT_ONE = (
    "Invalid: write exactly one action, <search>query</search> or "
    "<answer>answer</answer>."
)
_EMPTY = "Invalid: there is nothing between the tags."
_CLOSED = "Invalid: there is no search here; write <answer>answer</answer>."

_RULES = """\
First reason between <think> and </think>. {search}\
Give the final answer between <answer> and </answer>, as short as possible and without \
explanation, for example <answer> Beijing </answer>."""
_SEARCH_RULES = """\
If you lack knowledge, write a query between <search> and </search> and stop; what is \
found comes back between <information> and </information>. Never write <information> \
yourself. You may search again, with other words. """
_ONCE = " You can answer only once, and write only one action at a time."


class SearchQA(base.Environment):
    """Answering questions with the help of a search."""

    name = "searchqa"
    turn_limits: ClassVar[Mapping[base.Profile, int]] = {"strict": 4, "agentgym": 5}
    acknowledgements: ClassVar = {"strict": prompts.ACKNOWLEDGEMENT, "agentgym": "Ok."}
    synonyms: ClassVar = {
        "<search>": "<lookup>",
        "</search>": "</lookup>",
        "<answer>": "<reply>",
        "</answer>": "</reply>",
    }
    option_names = (
        *("questions", "train_questions", "test_questions", "top_k", "closed_book"),
        *("corpus", "wikipedia_file"),
        *("retriever", "retriever_timeout_s", "retriever_retries"),
        "copying_oracle",
    )

    question: records.Question

    def __init__(self, config: base.EnvConfig | None = None):
        super().__init__(config)
        dataset.Source.from_config(self.config)  # fails now rather than at a reset
        self._strict = self.config.profile == "strict"
        self._top_k = _read_top_k(self.config)
        self.closed_book = _read_flag(self.config, "closed_book")
        if (
            _read_flag(self.config, "copying_oracle")
            and "corpus" in self.config.options
        ):
            raise base.EnvConfigError(
                "environment 'searchqa': copying_oracle = True demonstrates on the default "
                "corpus only; leave out the option corpus, or copying_oracle."
            )

    @functools.cached_property
    def data(self) -> dataset.Dataset:
        """Questions and search, loaded at the first use in this process."""
        return dataset.load(self.config)

    @property
    def default_instruction(self) -> str:
        """The rules, in our own words."""
        rules = "Answer the question. " + self._rules
        return rules + _ONCE if self._strict else rules

    @property
    def _rules(self) -> str:
        return _RULES.format(search="" if self.closed_book else _SEARCH_RULES)

    def _start(self, index: int) -> str:
        self.question = self.data.get_question(index)
        self._found: set[str] = set()  # ids of the question's passages seen
        if self._strict:
            return f"Question: {self.question.text}"
        return f"{self._rules} Question: {self.question.text}"

    def _apply(self, text: str) -> base.StepResult:
        action = parsing.parse_tagged_action(text, self.config.profile)
        if action is None:
            return self._refuse(_NOT_ONE if self._strict else _INVALID)
        if self._strict and not action.content.strip():
            return self._refuse(_EMPTY)
        if action.name == "search":
            return self._search(action.content)
        return self._answer(action.content)

    def _refuse(self, reply: str, action: str = "") -> base.StepResult:
        info = base.StepInfo(
            valid_action=False,
            parse_error=not action,
            parsed_action=action,
            progress=self._progress(),
        )
        return base.StepResult(reply, info=info)

    def _search(self, query: str) -> base.StepResult:
        query = query.strip()[: parsing.MAX_PARSED_CHARS]
        action = f"search[{query}]"
        if self.closed_book:
            return self._refuse(_CLOSED, action)
        passages = self.data.index.search(query, self._top_k)
        self._found.update(p.id for p in passages if p.id in self.question.passages)
        listed = "\n".join(
            f"Doc {rank}(Title: {self._title(passage)}) {passage.text}"
            for rank, passage in enumerate(passages, start=1)
        )
        info = base.StepInfo(parsed_action=action, progress=self._progress())
        return base.StepResult(f"<information>{listed}</information>", info=info)

    def _title(self, passage: passage_files.Passage) -> str:
        """A passage's title; upstream shows the quotation marks that corpora have."""
        return passage.plain_title if self._strict else passage.title

    def _answer(self, answer: str) -> base.StepResult:
        """Ends the episode; under upstream's rules only if the answer is right."""
        answer = answer.strip()[: parsing.MAX_PARSED_CHARS]
        correct = scoring.is_correct(answer, self.question.answers)
        if self._strict and not scoring.normalize(answer):
            correct = False  # else "the" would match a gold answer such as "A"
        info = base.StepInfo(
            success=correct,
            score=float(correct),
            parsed_action=f"answer[{answer}]",
            progress=1.0 if correct else self._progress(),
        )
        if correct:
            return base.StepResult(_CORRECT, 1.0, terminated=True, info=info)
        reply = _WRONG if self._strict else _WRONG + _TRY_AGAIN
        return base.StepResult(reply, terminated=self._strict, info=info)

    def _progress(self) -> float:
        """Share reached of: each passage with a needed fact seen, question answered."""
        return len(self._found) / (len(set(self.question.passages)) + 1)


def _read_top_k(config: base.EnvConfig) -> int:
    top_k = config.options.get("top_k", DEFAULT_TOP_K)
    if type(top_k) is not int or not 1 <= top_k <= MAX_TOP_K:  # True is no number here
        raise base.EnvConfigError(
            f"environment 'searchqa': top_k = {top_k!r}; give an integer from 1 to "
            f"{MAX_TOP_K}."
        )
    return top_k


def _read_flag(config: base.EnvConfig, name: str) -> bool:
    value = config.options.get(name, False)
    if not isinstance(value, bool):
        raise base.EnvConfigError(
            f"environment 'searchqa': {name} = {value!r}; give true or false."
        )
    return value
