"""Buckets of array sizes: few shapes, so that few programs are compiled."""

from collections.abc import Sequence


def round_up(needed: int, buckets: Sequence[int]) -> int:
    """Returns the smallest bucket that is at least `needed`.

    Args:
      needed: tokens, cache positions or rows.
      buckets: sizes in ascending order.

    Raises:
      ValueError: if `needed` exceeds the largest bucket.
    """
    for bucket in buckets:
        if needed <= bucket:
            return bucket
    raise ValueError(
        f"a size of {needed} exceeds the largest bucket, {buckets[-1]}; the rollout "
        "configuration needs a larger one."
    )
