"""The folder of a study: where each node is, what state it is in, how it is begun.

    W/study.json                        cells, seeds and node ids; what the page is made of
    W/nodes/ID.STAGE.json               a node: configuration and the node it starts from
    W/nodes/ID.STAGE/                   its working directory, as launch.train leaves it
    W/nodes/ID.STAGE/variants/NAME/     evaluations under other settings
    W/nodes/ID.STAGE/drift/             evaluation with the drift, once the node is done
    W/nodes/ID.STAGE.log                output of its processes
    W/nodes/ID.STAGE.sessions.jsonl     when each process began and ended, and its code
    W/nodes/ID.STAGE.failed.json        failed attempts, with the last lines of output
    W/probe/                            some iterations of each kind of node, for its cost
    W/compilation_cache/                programs that nodes have compiled, by kind of host

Whether a node is done is read off its working directory alone, so nothing has to be
written at the moment a process is killed.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import filelock

from agentrl import errors, storage
from agentrl.checkpoints import checkpoint
from agentrl.experiment import files
from agentrl.statistics import results
from agentrl.study import graph, spec
from agentrl.transcripts import jsonl

MAX_ATTEMPTS = 2  # of a node, before it counts as failed
_SESSION_LOCK = ".lock"  # of launch.train, in the working directory
_TO_COPY = ("tokenizer.model", "chat.json", "run.json", "metrics.jsonl")
_TO_LINK = ("episodes", "evaluations")  # of finished stages: nobody writes them again

State = Literal["done", "running", "ready", "waiting", "failed", "blocked"]


@dataclasses.dataclass(frozen=True)
class Folder:
    """A study's folder, which several processes may work on."""

    root: pathlib.Path
    nodes: str = "nodes"  # within it
    _done: set[str] = dataclasses.field(default_factory=set, compare=False)  # ids

    def workdir(self, node: graph.Node) -> pathlib.Path:
        """Working directory of a node."""
        return self.root / self.nodes / node.name

    def beside(self, node: graph.Node, suffix: str) -> pathlib.Path:
        """A file beside the working directory."""
        return self.root / self.nodes / (node.name + suffix)

    def is_done(self, node: graph.Node) -> bool:
        """Whether a node is trained, saved and evaluated, with its variants.

        One that is stays so.
        """
        if node.id not in self._done and self._look(node):
            self._done.add(node.id)
        return node.id in self._done

    def _look(self, node: graph.Node) -> bool:
        paths = [
            results.find_path(
                self.workdir(node),
                stage=node.stage.name,
                env=env,
                split=node.settings.evaluation.split,
                tier=node.settings.evaluation.tier,
            )
            for env in node.settings.evaluation.environments
            or node.settings.environments
        ]
        if not all(path.exists() for path in paths):
            return False
        found = results.load(paths[-1])
        saved = self.find_checkpoint(node, found.step) / checkpoint.CHECKSUMS
        return (
            found.after_iteration == node.stage.num_iterations
            and saved.exists()
            and all(self.variant(node, v).exists() for v in node.variants)
        )

    def find_checkpoint(self, node: graph.Node, step: int) -> pathlib.Path:
        """Where the checkpoint of a step is, or would be."""
        return self.workdir(node) / checkpoint.FOLDER / str(step)

    def variant(self, node: graph.Node, variant: spec.Variant) -> pathlib.Path:
        """Where the evaluation of a variant is, or would be."""
        return self.workdir(node) / "variants" / variant.name

    def drift(self, node: graph.Node) -> pathlib.Path:
        """Where the evaluation that measures the node's drift is, or would be."""
        return self.workdir(node) / "drift"

    def lacks_drift(self, node: graph.Node) -> bool:
        """Whether drift is wanted of a node and has not been measured.

        A node is done without it: those of earlier versions have none, and what starts
        from a node does not wait for it.
        """
        wanted = bool(node.drift_samples and node.origins)
        return wanted and not self.drift(node).exists()

    def is_running(self, node: graph.Node) -> bool:
        """Whether a process works on a node, be it one whose worker was killed."""
        return _is_locked(self.beside(node, ".lock")) or self.is_training(node)

    def is_training(self, node: graph.Node) -> bool:
        """Whether a process trains in the node's working directory."""
        return _is_locked(self.workdir(node) / _SESSION_LOCK)

    def failure(self, node: graph.Node) -> Mapping[str, Any]:
        """What is known of failed attempts; empty if there were none."""
        path = self.beside(node, ".failed.json")
        if not path.exists():
            return {}
        return storage.read_json(path, advice="remove it to have the node tried again.")

    def states(self, wanted: graph.Graph) -> dict[str, State]:
        """The state of every node, by id."""
        found: dict[str, State] = {}
        for node in wanted.nodes.values():
            above = found[node.parent] if node.parent else "done"
            if self.is_done(node):
                found[node.id] = "done"
            elif self.is_running(node):
                found[node.id] = "running"
            elif self.failure(node).get("attempts", 0) >= MAX_ATTEMPTS:
                found[node.id] = "failed"
            elif above in ("failed", "blocked"):
                found[node.id] = "blocked"
            else:
                found[node.id] = "ready" if above == "done" else "waiting"
        return found

    @contextlib.contextmanager
    def claim(self, node: graph.Node) -> Iterator[bool]:
        """Yields whether this process may work on a node, and nobody else meanwhile.

        The lock ends with the process. One that a killed worker has left behind, and
        that trains on, keeps the node by the lock of its own.
        """
        path = self.beside(node, ".lock")
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(path, timeout=0)
        try:
            lock.acquire()
        except filelock.Timeout:
            yield False
            return
        try:
            yield not self.is_training(node)
        finally:
            lock.release()

    def describe(self, node: graph.Node) -> None:
        """Writes what a node is: launch.train takes the file as its experiment."""
        described = {
            "id": node.id,
            "parent": node.parent,
            "variants": [dataclasses.asdict(v) for v in node.variants],
            "config": files.to_json(node.settings),
        }
        path = self.beside(node, ".json")
        text = json.dumps(described, indent=2) + "\n"
        if not path.exists() or path.read_text() != text:
            storage.write(path, text)

    def prepare(self, node: graph.Node, parent: graph.Node | None) -> None:
        """Makes a node's working directory from its parent's.

        A directory that starts where another run's stage ended is that run, to be gone
        on with: the same files, of which those that no process writes again are shared.
        It appears whole, by a rename.

        Args:
          node: claimed by this process.
          parent: the finished node that it starts from; None for a first stage.
        """
        workdir = self.workdir(node)
        if parent is None or workdir.exists():
            return
        source, partial = self.workdir(parent), self.beside(node, ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for name in _TO_COPY:
            if (source / name).exists():
                shutil.copy2(source / name, partial / name)
        ends = {result.step for result in results.load_all(source)}
        folders = [pathlib.Path(name) for name in _TO_LINK]
        folders += [pathlib.Path(checkpoint.FOLDER, str(step)) for step in ends]
        for folder in folders:
            if (source / folder).is_dir():
                shutil.copytree(
                    source / folder, partial / folder, copy_function=_link_or_copy
                )
        partial.rename(workdir)

    def record(self, node: graph.Node, **event: Any) -> None:
        """Adds a line to the sessions of a node."""
        jsonl.append(self.beside(node, ".sessions.jsonl"), [event])

    def sessions(self, node: graph.Node) -> list[dict[str, Any]]:
        """When the processes of a node began and ended."""
        path = self.beside(node, ".sessions.jsonl")
        return list(jsonl.read(path)) if path.exists() else []

    def record_failure(self, node: graph.Node, code: int) -> Mapping[str, Any]:
        """Counts a failed attempt; returns what is known of all of them."""
        path = self.beside(node, ".log")
        lines = path.read_text(errors="replace").splitlines() if path.exists() else []
        attempts = self.failure(node).get("attempts", 0) + 1
        failure = {"attempts": attempts, "code": code, "last_lines": lines[-20:]}
        storage.write_json(self.beside(node, ".failed.json"), failure)
        return failure

    def claim_study(
        self, study: spec.Study, wanted: graph.Graph, *, write: bool
    ) -> None:
        """Adds cells to `study.json`, or only checks whether they may be added.

        Raises:
          ConfigError: if a cell of the same name and seed was another one before, naming
            the fields that differ.
        """
        if not write:
            self._add_cells(wanted)
            return
        self.root.mkdir(parents=True, exist_ok=True)
        path = self.root / files.STUDY_FILE
        # Commands that begin together add their cells one after the other.
        with filelock.FileLock(path.with_name(f".{path.name}.lock")):
            chains = self._add_cells(wanted)
            storage.write_json(path, {"name": study.name, "chains": chains})
        for node in wanted.nodes.values():
            self.describe(node)

    def _add_cells(self, wanted: graph.Graph) -> dict[str, list[str]]:
        """The chains of `study.json` and those of `wanted`, by cell and seed."""
        path = self.root / files.STUDY_FILE
        stored = storage.read_json(path, advice="restore it.") if path.exists() else {}
        chains = dict(stored.get("chains", {}))
        for (cell, seed), chain in wanted.chains.items():
            key = f"{cell}/{seed}"
            if chains.setdefault(key, list(chain)) != list(chain):
                raise errors.ConfigError(
                    f"{self.root} holds another study: its cell {cell}, seed {seed}, "
                    f"differs in {self._differences(chains[key], chain, wanted)}. Use "
                    "another --workdir."
                )
        return chains

    def _differences(
        self, stored: list[str], chain: tuple[str, ...], wanted: graph.Graph
    ) -> str:
        for one, other in zip(stored, chain, strict=False):
            paths = list((self.root / self.nodes).glob(f"{one}.*.json"))
            if one != other and paths:
                before = storage.read_json(paths[0], advice="restore it.")["config"]
                now = files.to_json(wanted.nodes[other].settings)
                return ", ".join(files.differences(before, now)[:8])
        return f"its stages ({len(stored)} there, {len(chain)} now)"


def _is_locked(path: pathlib.Path) -> bool:
    if not path.exists():
        return False
    lock = filelock.FileLock(path, timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        return True
    lock.release()
    return False


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, target)
