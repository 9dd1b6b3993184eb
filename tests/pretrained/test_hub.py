"""Models and data sets by name: from a cache, offline, and from a Hub on this machine."""

import hashlib
import http.server
import json
import os
import pathlib
import subprocess
import sys
import threading

import jax
import pytest

from agentrl import errors
from agentrl.models import model_config, transformer
from agentrl.pretrained import hf_export, presets
from agentrl.sources import hub

sys.path.append(str(pathlib.Path(__file__).parents[1] / "chat"))
import chat_families

ROOT = pathlib.Path(__file__).parents[2]
FIRST, SECOND = "a" * 40, "b" * 40
SHAPE = model_config.ModelConfig(
    vocab_size=416, hidden_size=16, num_layers=1, head_dim=8, mlp_size=24
)
EPISODE = {"messages": [{"role": "user", "content": "hi"},
                        {"role": "assistant", "content": "go"}]}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    base = tmp_path_factory.mktemp("model")
    chat_families.make_family("qwen2.5").save_pretrained(base / "tokenizer")
    params = transformer.Model(SHAPE).init(jax.random.key(0))
    hf_export.write(params, SHAPE, base / "model", tokenizer_folder=base / "tokenizer")
    (base / "model" / "modeling_evil.py").write_text("raise SystemExit('code ran')")
    return base / "model"


def store(cache, name, kind, commit, files):
    """Puts a repository into a cache, laid out as huggingface_hub does."""
    folder = cache / f"{kind}s--{name.replace('/', '--')}"
    snapshot = folder / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (folder / "blobs").mkdir(exist_ok=True)
    for path, content in files.items():
        blob = folder / "blobs" / hashlib.sha256(content).hexdigest()
        blob.write_bytes(content)
        (snapshot / path).symlink_to(os.path.relpath(blob, snapshot))
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs" / "main").write_text(commit)
    return snapshot


def files_of(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


def run(code, cache, **variables):
    """Runs code in a process whose client has read these variables at import."""
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "HF_HUB_CACHE": str(cache),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        **variables,
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        cwd=cache.parent,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()


FIND = """
from agentrl import errors
from agentrl.sources import locate
def find(name):
    try:
        found = locate.find(name)
        print(found.name, found.config.hidden_size, found.path.name)
    except errors.ConfigError as error:
        print("refused:", str(error).replace(chr(10), "NEWLINE"))
"""


def test_names_in_the_cache_are_found_offline_and_pinned(model, tmp_path):
    cache = tmp_path / "hub"
    store(cache, "Lab/Tiny-Instruct", "model", FIRST, files_of(model))
    store(cache, "Lab/Tiny-Instruct", "model", SECOND, files_of(model))
    store(cache, "Qwen/Qwen2.5-0.5B-Instruct", "model", FIRST, files_of(model))
    (tmp_path / "models").mkdir()
    code = FIND + (
        "find('Lab/Tiny-Instruct')\n"
        f"find('Lab/Tiny-Instruct@{FIRST}')\n"
        "find('qwen2.5-0.5b-instruct')\n"
        "find('Lab/Absent')\n"
        "find('models/absent')\n"
    )
    found = run(code, cache, HF_HUB_OFFLINE="1")
    assert found[:3] == [
        f"Lab/Tiny-Instruct@{SECOND} 16 {SECOND}",
        f"Lab/Tiny-Instruct@{FIRST} 16 {FIRST}",
        f"Qwen/Qwen2.5-0.5B-Instruct@{FIRST} 16 {FIRST}",
    ]
    assert found[3].startswith("refused: the model Lab/Absent is no folder here")
    assert str(cache) in found[3] and "HF_HUB_OFFLINE forbids" in found[3]
    assert found[3].endswith("this fetches it: hf download Lab/Absent")
    # Beside a folder `models` this is a folder that is missing, not a name.
    assert "it is neither a folder nor" in found[4]


class Hub(http.server.BaseHTTPRequestHandler):
    """Enough of the Hub's protocol for the client to list and fetch a repository."""

    repositories: dict  # API path -> (commit, files)
    requests: list

    def do_GET(self):
        self.requests.append(self.path)
        path = self.path.partition("?")[0]
        for name, (commit, files) in self.repositories.items():
            kind, _, repository = name.partition("/")
            if path.startswith(f"/api/{name}/tree/"):
                return self.answer([
                    {"type": "file", "path": p, "size": len(c),
                     "oid": hashlib.sha1(c).hexdigest()}
                    for p, c in files.items()
                ])  # fmt: skip
            if path.startswith(f"/api/{name}"):
                return self.answer({"id": repository, "sha": commit, "siblings": []})
            prefix = "" if kind == "models" else f"/{kind}"
            start = f"{prefix}/{repository}/resolve/{commit}/"
            if path.startswith(start) and path.removeprefix(start) in files:
                content = files[path.removeprefix(start)]
                return self.answer(content, commit)
        self.send_response(404)
        self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()
        return None

    do_HEAD = do_GET

    def answer(self, content, commit=""):
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Type", "application/json")
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        if commit:
            self.send_header("X-Repo-Commit", commit)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def endpoint(model):
    lines = "\n".join(json.dumps(EPISODE) for _ in range(3)).encode()
    handler = type("Handler", (Hub,), {"requests": [], "repositories": {
        "models/Lab/Tiny": (FIRST, files_of(model)),
        "datasets/Lab/Games": (SECOND, {"a.jsonl": lines, "b.jsonl": lines}),
    }})  # fmt: skip
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", handler
        server.shutdown()
        thread.join()


def test_a_model_is_fetched_once_and_its_code_is_left_there(endpoint, tmp_path):
    address, handler = endpoint
    cache = tmp_path / "hub"
    code = FIND + "find('Lab/Tiny')\nfind('Lab/Absent')\n"
    found = run(code, cache, HF_ENDPOINT=address)
    assert found[0] == f"Lab/Tiny@{FIRST} 16 {FIRST}"
    assert found[1].startswith(
        f"refused: there is no folder Lab/Absent here, and {address}"
    )
    assert not any("evil" in path for path in handler.requests if "resolve" in path)
    # What is there needs no network.
    pinned = run(FIND + f"find('Lab/Tiny@{FIRST}')", cache, HF_HUB_OFFLINE="1")
    assert pinned == found[:1]


def test_a_hub_that_does_not_answer_is_told_in_one_line(tmp_path):
    code = FIND + "find('Lab/Tiny')"
    (found,) = run(code, tmp_path / "hub", HF_ENDPOINT="http://127.0.0.1:9")
    assert "http://127.0.0.1:9 does not answer" in found and "NEWLINE" not in found
    assert found.endswith("hf download Lab/Tiny")


def test_data_sets_by_name(endpoint, tmp_path):
    address, _ = endpoint
    code = """
from agentrl import errors
from agentrl.supervised import datasets
pinned = datasets.pin("Lab/Games:b.jsonl")
print(pinned)
print(len(datasets.read(pinned)))
try:
    datasets.read("Lab/Games")
except errors.ConfigError as error:
    print(error)
"""
    pinned, count, refused = run(code, tmp_path / "hub", HF_ENDPOINT=address)
    assert pinned == f"Lab/Games@{SECOND}:b.jsonl" and count == "3"
    assert "2 files of data; say which one, as Lab/Games:FILE" in refused
    assert "It has a.jsonl, b.jsonl" in refused


def test_a_run_goes_on_with_the_revision_that_it_began_with():
    begun = f"Lab/Tiny@{FIRST}"
    assert hub.keep_revision("Lab/Tiny", begun) == begun
    assert hub.keep_revision(f"Lab/Tiny@{SECOND}", begun) == f"Lab/Tiny@{SECOND}"
    assert hub.keep_revision("Lab/Other", begun) == "Lab/Other"


def test_paths_are_no_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert hub.is_name("Qwen/Qwen2.5-0.5B-Instruct") and hub.is_name("a/b@v1.0")
    paths = (
        "./a/b",
        "/a/b",
        "a",
        "a/b/c",
        "data/x.jsonl",
        "a/b.gguf",
        "../a/b",
        "a/b@",
    )
    assert not any(map(hub.is_name, paths))


@pytest.mark.parametrize("name", presets.PRESETS)
def test_presets_have_weights_on_the_hub(name):
    repository = presets.repository(name)
    assert repository is not None and hub.is_name(repository)
    assert presets.get(repository) == presets.get(name)
    assert presets.get(presets.repository(f"{name}-instruct")) == presets.get(name)


def test_a_shape_that_nobody_knows_is_refused_with_the_closest_name():
    with pytest.raises(errors.ConfigError, match=r"Did you mean 'qwen2.5-7b'"):
        presets.get("Qwen/Qwen2.5-8B-Instruct")
