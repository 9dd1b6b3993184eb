r"""Shows runs in a browser while they grow: the page of report.html, live.

  agentrl watch --workdir=runs/demo
  agentrl watch --workdir=runs/seed0 --workdir=runs/seed1
  agentrl watch --workdir=runs/demo --port=8800

Prints an address to open. The page follows training: curves, evaluations with their
intervals, endings and failure tags, throughput, and every stored episode as it comes.
Several runs stand beside each other: seeds of one recipe with their mean and spread,
and each two runs task by task. Nothing is written, and training is not disturbed.

On another machine, forward the port and open the printed address at home:

  ssh -L 8765:127.0.0.1:8765 MACHINE
"""

import pathlib
import sys
from collections.abc import Sequence

from absl import app, flags

from agentrl import errors

_WORKDIR = flags.DEFINE_multi_string(
    "workdir",
    None,
    "Working directory of a run, such as runs/demo; again for each further run.",
    required=True,
)
_PORT = flags.DEFINE_integer(
    "port",
    8765,
    "Port of this machine; 0 takes a free one.",
    lower_bound=0,
    upper_bound=65535,
)
_HOST = flags.DEFINE_string(
    "host",
    "127.0.0.1",
    "Interface to listen on. Any but the loopback lets the network ask, over HTTP in plain "
    "text; whoever knows the token then sees all episodes.",
)


def main(argv: Sequence[str]) -> None:
    """Serves the page until Ctrl-C."""
    if len(argv) > 1:
        raise errors.UsageError(
            f"unexpected arguments {argv[1:]}; did you mean --workdir=...?"
        )
    from agentrl import refusals
    from agentrl.live import server, watched
    from agentrl.webpage import run_data

    try:
        runs = watched.Watched(
            [run_data.RunData(pathlib.Path(workdir)) for workdir in _WORKDIR.value]
        )
        served = server.Server(runs, host=_HOST.value, port=_PORT.value)
    except refusals.EXPECTED as error:
        hint = ""
        if isinstance(error, OSError) and error.filename is None:
            hint = f" (port {_PORT.value} of {_HOST.value}; --port=0 takes a free one)"
        sys.exit(f"launch.watch: {error}{hint}")
    runs.start()
    print(f"Open {served.url}", flush=True)
    print("Ctrl-C ends watching; the run goes on.", flush=True)
    try:
        served.serve_forever()
    except KeyboardInterrupt:
        print()
    finally:
        served.server_close()
        runs.stop()


if __name__ == "__main__":
    app.run(main)
