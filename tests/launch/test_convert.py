"""`launch.convert` as a person meets it."""

import sys

import commands
import pytest

FROM_HF = ("--from_hf=smollm2-135m-instruct", "--out=never")
TO_HF = ("--to_hf=never", "--checkpoint=never")


@pytest.mark.parametrize(
    ("way", "more", "message"),
    [
        (FROM_HF, ["--dtype=bfloat16"], "--dtype has no effect on --from_hf"),
        (FROM_HF, ["--adapter"], "--adapter has no effect on --from_hf"),
        (FROM_HF, ["--shard_gb=1"], "--shard_gb has no effect on --from_hf"),
        (
            TO_HF,
            ["--adapter", "--shard_gb=1"],
            "--shard_gb has no effect with --adapter",
        ),
    ],
)
def test_flags_without_effect_are_refused(tmp_path, way, more, message):
    command = [sys.executable, "-m", "agentrl.launch.convert", *way, *more]
    done = commands.run(command, cwd=tmp_path)
    assert done.returncode == 1 and message in done.stderr
    assert done.stderr.count("\n") == 1 and not list(tmp_path.iterdir())
