"""What several modules of tests of one environment share."""

import os
import pathlib
import subprocess
import sys

import pytest
import small_corpus

from agentrl.envs.searchqa import dataset

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="session")
def factbook_builds(tmp_path_factory):
    """Two processes ask for SearchQA's own corpus at once.

    Returns the cache folder that they build, and what each printed and its exit status.
    """
    cache = tmp_path_factory.mktemp("cache")
    (cache / f"{dataset.FOLDER}.partial").mkdir()  # of a killed process
    code = (
        "from agentrl.envs import registry; env = registry.make('searchqa'); "
        "print(env.reset('searchqa_9')); print(env.step('<search>a</search>'))"
    )
    environment = os.environ | {
        "AGENTRL_CACHE": str(cache),
        "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
    }
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env=environment | {"PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
        )
        for seed in ("1", "2")
    ]
    return cache, [(p.communicate()[0], p.returncode) for p in running]


@pytest.fixture(scope="module")
def factbook_cache(factbook_builds):
    """Tests of a module use the built corpus, and leave the user's cache alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AGENTRL_CACHE", str(factbook_builds[0]))
        yield


@pytest.fixture
def small(tmp_path, monkeypatch):
    """Options with a corpus of four passages and two questions; an empty cache."""
    monkeypatch.setenv("AGENTRL_CACHE", str(tmp_path / "cache"))
    corpus = [
        {"id": name, "contents": f'"{title}"\n{text}'}
        for name, title, text in small_corpus.PASSAGES
    ]
    questions = small_corpus.QUESTIONS
    return {
        "corpus": str(small_corpus.write_lines(tmp_path / "space.jsonl", corpus)),
        "questions": str(small_corpus.write_lines(tmp_path / "quiz.jsonl", questions)),
    }
