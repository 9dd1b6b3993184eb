"""Workers: each claims a node that is ready and trains it in a process of its own.

Any number of workers, in one process or in many, on one machine or on many that share the
folder, may work on a study. What a killed one leaves is gone on with by any other.
"""

import contextlib
import dataclasses
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable

from agentrl import errors
from agentrl.hardware import compilation
from agentrl.statistics import results
from agentrl.study import cost, folder, graph

_SECONDS_BETWEEN_LOOKS = 1.0  # while others work on what this worker waits for


@dataclasses.dataclass
class Crew:
    """The workers of one process.

    Attributes:
      place: the study's folder.
      wanted: all nodes.
      only: ids of the nodes to work on; empty for all.
      max_nodes: nodes to train at most; 0 sets no limit.
      say: prints a line.
      package: with the commands `train` and `evaluate`.
    """

    place: folder.Folder
    wanted: graph.Graph
    only: frozenset[str] = frozenset()
    max_nodes: int = 0
    say: Callable[[str], None] = print
    package: str = "agentrl.launch"

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._guard = threading.Lock()
        self._processes: set[subprocess.Popen] = set()
        self._num_begun = 0
        self._unmeasured: set[str] = set()  # nodes whose drift could not be measured
        self._problems: list[BaseException] = []

    def run(self, num_workers: int) -> None:
        """Works until no node is left that could be trained.

        Raises:
          InterruptedRun: if a signal ended it; nodes under way have saved.
          ConfigError: if nodes failed, naming them and the last line of each.
        """
        threads = [threading.Thread(target=self._work) for _ in range(num_workers)]
        with self._signals():
            for thread in threads:
                thread.start()
            for thread in threads:
                while thread.is_alive():
                    thread.join(0.2)  # a bare join would keep signals waiting
        if self._problems:
            raise self._problems[0]
        if self._stop.is_set():
            raise errors.InterruptedRun("the nodes under way are saved.")

    def _work(self) -> None:
        try:
            while not self._stop.is_set():
                if self.train_next() is None:
                    left = {"running", "waiting", "ready"} & set(
                        self._states().values()
                    )
                    if not left or self._is_enough():
                        return
                    self._stop.wait(_SECONDS_BETWEEN_LOOKS)
        except BaseException as error:  # told by `run`, in the main thread
            self._problems.append(error)
            self.stop()

    def _states(self) -> dict[str, folder.State]:
        states = self.place.states(self.wanted)
        return {
            node: state
            for node, state in states.items()
            if not self.only or node in self.only
        }

    def _is_enough(self) -> bool:
        return bool(self.max_nodes) and self._num_begun >= self.max_nodes

    def train_next(self) -> graph.Node | None:
        """Trains the first node that is ready and free; returns it, None if none is.

        Where none is, measures the drift of one that is done.
        """
        for name, state in self._states().items():
            if state != "ready" or self._is_enough():
                continue
            node = self.wanted.nodes[name]
            with self.place.claim(node) as mine:
                if not mine or self.place.is_done(node):
                    continue
                with self._guard:
                    if self._is_enough():
                        return None
                    self._num_begun += 1
                self._train(node)
                return node
        return self._measure_next()

    def _measure_next(self) -> graph.Node | None:
        for name, state in self._states().items():
            node = self.wanted.nodes[name]
            if state != "done" or name in self._unmeasured:
                continue
            if not self.place.lacks_drift(node):
                continue
            with self.place.claim(node) as mine:
                if mine and self.place.lacks_drift(node):
                    self._measure_drift(node)
                    return node
        return None

    def _measure_drift(self, node: graph.Node) -> None:
        """Evaluates the node's policy once more, with its drift from its origins."""
        steps = {r.stage: r.step for r in results.load_all(self.place.workdir(node))}
        others = [
            str(self.place.find_checkpoint(node, steps[stage]))
            if stage != results.UNTRAINED_STAGE
            else "initial"
            for stage in dict.fromkeys(node.origins.values())
        ]
        code = self._evaluate(
            node,
            self.place.drift(node),
            f"--compare_with={','.join(others)}",
            f"--samples={node.drift_samples}",
            what=cost.DRIFT,
        )
        if not code:
            self.say(f"{node.name}: drift measured")
        elif not self._stop.is_set():
            self._unmeasured.add(node.id)
            log = self.place.beside(node, ".log")
            self.say(f"{node.name}: drift not measured, code {code}; see {log}")

    def _train(self, node: graph.Node) -> None:
        place, workdir = self.place, self.place.workdir(node)
        place.describe(node)
        place.prepare(node, self.wanted.nodes[node.parent] if node.parent else None)
        label = f"{node.name} (seed {node.settings.seed})"
        self.say(f"{label}: {'goes on' if place.sessions(node) else 'begins'}")
        begun = time.time()
        code = self.start(
            node,
            "train",
            f"--config={place.beside(node, '.json')}",
            f"--workdir={workdir}",
        )
        if code == 0:
            code = self._evaluate_variants(node)
        if code == 0 and place.is_done(node):
            place.beside(node, ".failed.json").unlink(missing_ok=True)
            self.say(f"{label}: done in {describe_seconds(time.time() - begun)}")
        elif code == errors.INTERRUPTED_CODE or self._stop.is_set():
            self.say(f"{label}: interrupted, saved")
            self.stop()
        elif place.is_training(node):  # it began there in the moment of our claim
            self.say(f"{label}: left to another process, which trains it")
        else:
            # A process that ends well and leaves a part undone fails, too.
            failure = place.record_failure(node, code)
            again = failure["attempts"] < folder.MAX_ATTEMPTS
            last = (failure["last_lines"] or [""])[-1]
            self.say(
                f"{label}: failed with code {code}{', tried once more' if again else ''}"
                f": {last:.300}"
            )

    def _evaluate_variants(self, node: graph.Node) -> int:
        """Evaluates the node's policy under other settings; returns the exit code."""
        for variant in node.variants:
            target = self.place.variant(node, variant)
            if target.exists():
                continue
            if code := self._evaluate(node, target, *variant.flags):
                return code
        return 0

    def _evaluate(
        self, node: graph.Node, target: pathlib.Path, *arguments: str, what: str = ""
    ) -> int:
        """Evaluates the node's policy; `target` appears whole. Returns the exit code."""
        partial = target.with_name(target.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        step = results.load_all(self.place.workdir(node))[-1].step
        checkpoint = f"--checkpoint={self.place.find_checkpoint(node, step)}"
        out = f"--out={partial}"
        code = self.start(node, "evaluate", checkpoint, out, *arguments, what=what)
        if not code:
            partial.rename(target)
        return code

    def start(
        self, node: graph.Node, command: str, *arguments: str, what: str = ""
    ) -> int:
        """Runs a command of this package, and waits for it; returns its exit code.

        The sessions of the node call it `what`, or by its name.
        """
        place = self.place
        with place.beside(node, ".log").open("ab") as log, self._guard:
            if self._stop.is_set():
                return errors.INTERRUPTED_CODE
            process = subprocess.Popen(
                [sys.executable, "-m", f"{self.package}.{command}", *arguments],
                env=os.environ | environment(place.root),
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C reaches it through `stop` alone
            )
            self._processes.add(process)
        place.record(
            node,
            event="start",
            command=what or command,
            time=time.time(),
            host=socket.gethostname(),
            pid=process.pid,
        )
        code = process.wait()
        with self._guard:
            self._processes.discard(process)
        place.record(node, event="end", time=time.time(), code=code)
        return code

    def stop(self) -> None:
        """Lets every process finish its iteration and save; no new one begins."""
        self._stop.set()
        with self._guard:
            for process in self._processes:
                process.terminate()

    @contextlib.contextmanager
    def _signals(self):
        def on_signal(number: int, _: object) -> None:
            name = signal.Signals(number).name
            print(f"{name}: nodes finish their iteration and save.", file=sys.stderr)
            # In a thread: the main one may be interrupted while it holds the guard.
            threading.Thread(target=self.stop).start()

        before = {
            number: signal.signal(number, on_signal)
            for number in (signal.SIGTERM, signal.SIGINT)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def environment(root: pathlib.Path) -> dict[str, str]:
    """Variables of a node's process: compiled programs are kept in the study's folder."""
    folder = str(root.resolve() / "compilation_cache")
    return {compilation.VARIABLE: os.environ.get(compilation.VARIABLE, folder)}


def describe_seconds(seconds: float) -> str:
    """Such as 4:10 (minutes and seconds) or 2:05:00."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
