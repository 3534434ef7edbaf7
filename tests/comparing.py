"""What has to hold before two runs are compared: nothing compares well to nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor


def assert_trained(
    log: Sequence[Mapping[str, Any]], before: Mapping[str, Tensor], after: Mapping[str, Tensor], still: str = ""
) -> None:
    """Every logged step has a finite loss and gradient norm and none was skipped; weights (and what else is in `after`)
    are finite, and each of `before` has moved. still: the start of names that need not move."""
    assert log, "nothing was logged"
    for line in log:
        for name in ("loss", "grad_norm"):
            assert math.isfinite(line.get(name, math.nan)), f"{name} of step {line['step']}: {line.get(name)}"
        assert line["skipped_steps"] == 0, f"step {line['step']}"
    assert before, "no weights to compare"
    for name, value in after.items():
        assert value.isfinite().all(), name
    for name, value in before.items():
        if not (still and name.startswith(still)):
            assert not value.equal(after[name]), f"{name} has not moved"
