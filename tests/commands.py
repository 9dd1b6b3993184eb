"""Commands in processes of their own, without the seconds that their imports take.

A server imports once what commands import, JAX included, and forks for each command
before JAX has any device or thread. What the tests get is what `subprocess` gives them: a
process that can be killed, with its own exit status and output.
"""

import atexit
import contextlib
import functools
import json
import os
import pathlib
import select
import signal
import socket
import subprocess
import sys
import time
from concurrent import futures

HERE = pathlib.Path(__file__).parent
_MAX_MESSAGE = 1 << 18  # bytes; an environment has a few thousand


class Process:
    """A running `python -m module ...` or `python -c code ...`, as `subprocess.Popen`."""

    def __init__(self, command, *, env=None, cwd=None, process_group=None, stdin=None):
        """Starts it.

        Args:
          command: (interpreter, "-m" or "-c", module or code, arguments...).
          env: its variables; None takes those of this process.
          cwd: its directory.
          process_group: 0 gives it a group of its own.
          stdin: `subprocess.PIPE`, or None for an empty one.
        """
        _, flag, module, *arguments = map(str, command)
        self._server = _start_server()
        inner, self.stdin = os.pipe()
        (self.stdout, printed), (self.stderr, complaints) = os.pipe(), os.pipe()
        self.pid = self._server.start(
            [inner, printed, complaints],
            flag=flag,
            module=module,
            arguments=arguments,
            env=dict(os.environ if env is None else env),
            cwd=str(cwd or os.getcwd()),
            own_group=process_group == 0,
        )
        for fd in (inner, printed, complaints):
            os.close(fd)
        self.stdin = os.fdopen(self.stdin, "w")
        self.stdout, self.stderr = map(os.fdopen, (self.stdout, self.stderr))
        self.returncode = None
        if stdin is None:
            self.stdin.close()

    def poll(self):
        """Exit code, the negative number of the signal that killed it, or None."""
        if self.returncode is None:
            self.returncode = self._server.poll(self.pid)
        return self.returncode

    def wait(self, timeout=None):
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.poll() is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
            time.sleep(0.01)
        return self.returncode

    def communicate(self, typed="", timeout=None):
        if not self.stdin.closed:
            with contextlib.suppress(BrokenPipeError):
                self.stdin.write(typed)
                self.stdin.close()
        with futures.ThreadPoolExecutor(2) as pool:
            texts = [pool.submit(f.read) for f in (self.stdout, self.stderr)]
            found = tuple(text.result(timeout) for text in texts)
        self.wait(timeout)
        self.__del__()
        return found

    def __del__(self):
        for file in (self.stdin, self.stdout, self.stderr):
            with contextlib.suppress(BrokenPipeError):
                file.close()

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)


def run(command, *, typed="", timeout=None, **options):
    """Runs a command to its end; see `Process`."""
    process = Process(command, stdin=subprocess.PIPE, **options)
    printed, complaints = process.communicate(typed, timeout)
    return subprocess.CompletedProcess(command, process.returncode, printed, complaints)


class _Client:
    """The server, as the process of the tests sees it."""

    def __init__(self):
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        code = "import sys, commands; commands.serve(int(sys.argv[1]))"
        path = os.pathsep.join(
            [*filter(None, [os.environ.get("PYTHONPATH")]), str(HERE)]
        )
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-W", "ignore", "-c", code, str(theirs.fileno())],
            env=os.environ | {"PYTHONPATH": path, "JAX_PLATFORMS": "cpu"},
            pass_fds=[theirs.fileno()],
        )
        theirs.close()
        self._codes = {}
        atexit.register(self._end)

    def _end(self):
        self._socket.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=10)

    def start(self, fds, **request):
        socket.send_fds(self._socket, [json.dumps(request).encode()], fds)
        while True:
            told = self._receive()
            if "started" in told:
                return told["started"]

    def poll(self, pid):
        while select.select([self._socket], [], [], 0)[0]:
            self._receive()
        return self._codes.get(pid)

    def _receive(self):
        told = self._socket.recv(_MAX_MESSAGE)
        assert told, "the server of commands has ended"
        told = json.loads(told)
        if "ended" in told:
            self._codes[told["ended"]] = told["code"]
        return told


@functools.cache
def _start_server():
    return _Client()


def serve(fd):
    """Forks a process for each request until the other side has closed the socket."""
    import agentrl.api
    import agentrl.session  # noqa: F401

    connection = socket.socket(fileno=fd)
    running = {}  # pid by pidfd
    while True:
        for ready in select.select([connection, *running], [], [])[0]:
            if ready is connection:
                message, fds, *_ = socket.recv_fds(connection, _MAX_MESSAGE, 3)
                if not message:
                    return
                pid = os.fork()
                if pid == 0:
                    connection.close()
                    _become(json.loads(message), fds)
                    return
                for each in fds:
                    os.close(each)
                running[os.pidfd_open(pid)] = pid
                connection.send(json.dumps({"started": pid}).encode())
            else:
                pid = running.pop(ready)
                os.close(ready)
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                connection.send(json.dumps({"ended": pid, "code": code}).encode())


def _become(request, fds):
    """Makes this process what `python -m module arguments...` or `-c` would be."""
    import runpy

    import jax

    from agentrl.envs import registry

    # A shell that starts the tests in the background has it ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if request["own_group"]:
        os.setpgid(0, 0)
    for number, fd in enumerate(fds):
        os.dup2(fd, number)
        os.close(fd)
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:0] = [request["cwd"], *filter(None, given)]
    flag, module, arguments = (request[k] for k in ("flag", "module", "arguments"))
    sys.argv = [module if flag == "-m" else flag, *arguments]
    sys.orig_argv = [sys.executable, flag, module, *arguments]
    # What is read from the environment while modules are imported.
    registry._MODULES.update(registry._read_outside())
    if devices := os.environ.get("JAX_NUM_CPU_DEVICES"):
        jax.config.update("jax_num_cpu_devices", int(devices))
    if flag == "-m":
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    else:
        exec(compile(module, "<string>", "exec"), {"__name__": "__main__"})
