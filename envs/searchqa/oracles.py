"""Scripted searchers: one that knows the answer, one that reads passages only."""

import re

from agentrl.envs import base
from agentrl.envs.searchqa import environment, relations, wiki_relations

_QUESTION = re.compile(r"Question: (.*)\Z", re.DOTALL)
_PASSAGE = re.compile(
    r"Doc \d+\(Title: (.*?)\) (.*?)(?=\nDoc \d+\(Title: |</information>\Z)", re.DOTALL
)

_OPENING = re.compile(
    r"^(What is|What are|Which country or territory's|Which|Who is|What) "
)

Docs = list[tuple[str, str]]  # title and text


def render(thought: str, kind: str, content: str) -> str:
    """Writes an answer of the environment; `kind` is search or answer."""
    return f"<think>{thought}</think>\n<{kind}>{content}</{kind}>"


class PrivilegedOracle:
    """Searches for the passages the question was made from, then gives the answer.

    Questions of other sources name no passages: it answers them at once, as it does
    where there is no search.
    """

    def __init__(self, env: base.Environment):
        assert isinstance(env, environment.SearchQA)
        self._env = env
        self._turn = 0

    def act(self, observation: str) -> str:
        """Returns the next search, or the answer."""
        question = self._env.question
        queries = () if self._env.closed_book else question.queries
        if self._turn < len(queries):
            query = queries[self._turn]
            self._turn += 1
            return render(f"I look up {query}.", "search", query)
        return render("I know it all.", "answer", question.answers[0])


class ObservationalOracle:
    """Takes a generated question apart and finds one fact after the other.

    It reads the question and the passages it finds, in the default corpus or, with
    `corpus = "wikipedia"`, in that one. What it cannot find, it answers with "unknown".
    With the option copying_oracle its first search is for the question's own words, and it
    repeats the label of the line that it takes the answer from: all that it writes can be
    copied. It solves fewer tasks then.

    Raises:
      ValueError: by `act`, for questions that were not generated, and where there is no
        search.
    """

    def __init__(self, env: base.Environment):
        self._closed = bool(env.config.options.get("closed_book"))
        self._copying = bool(env.config.options.get("copying_oracle"))
        self._label = ""  # of the line that the last search was for
        in_wikipedia = env.config.options.get("corpus") == "wikipedia"
        self._language = wiki_relations if in_wikipedia else relations
        self._hops: list[relations.Hop | wiki_relations.Hop] = []  # still to be made
        self._reached = ""  # the country, person or thing that the chain leads to
        self._begun = False

    def act(self, observation: str) -> str:
        """Returns the search for the next fact, or the answer."""
        known = ""
        if not self._begun:
            self._begin(observation)
        elif observation.startswith("<information>"):
            known = self._hops[0].find(self._reached, _read_passages(observation))
            if not known:
                return render("The passages do not say it.", "answer", "unknown")
            self._hops.pop(0)
            self._reached = known
        if not self._hops:
            thought = (
                f"{self._label}: {known}" if self._copying else f"I found {known}."
            )
            return render(thought, "answer", known)
        hop = self._hops[0]
        if self._copying:
            assert isinstance(hop, relations.Hop)  # of the default corpus
            self._label = "Title" if hop.value else hop.relation.label
            if not known:
                return f"<search>{_copy_query(observation)}</search>"
        thought = f"I found {known}. Next: " if known else "First: "
        query = hop.make_query(self._reached)
        aim = hop.relation.keywords or hop.relation.name
        return render(f"{thought}{aim}.", "search", query)

    def _begin(self, observation: str) -> None:
        asked = _QUESTION.search(observation)
        chain = self._language.parse_question(asked[1]) if asked else None
        if chain is None or self._closed:
            raise ValueError(
                "the observational oracle answers generated questions with the help of "
                f"searches; it cannot answer {observation[-99:]!r} with closed_book = "
                f"{self._closed}. Leave out the options questions and closed_book."
            )
        self._begun = True
        self._hops = list(chain.hops)
        self._reached = chain.start


def _copy_query(observation: str) -> str:
    """The question's own words, without those that it begins with."""
    asked = _QUESTION.search(observation)
    assert asked is not None  # `_begin` has read it
    return _OPENING.sub("", asked[1]).rstrip("?")


def _read_passages(observation: str) -> Docs:
    return [(title.strip('"'), text) for title, text in _PASSAGE.findall(observation)]
