"""Facts about a run's plan, computed from its record: where it means a change, what came of it, and how it formed.

The page's Plan tab, its sentence and its exports all read them from here.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sama.edit.composing.region import MEANT
from sama.model.named import Named
from sama.model.naming import name_record
from sama.model.semantics import NUM_LOCAL_TOKENS, cosines, match_to_grid, plan_region, split_tokens, token_scale
from ui.media.tokens import Tokens

Cells = NDArray[np.float32]
STAYS = 0.8
"""A plan is there from the step on after which at least this share of the cells that it or the last plan means to
change are the same in both."""


@dataclass(frozen=True)
class PlanFacts:
    """Facts about a plan. Distances are 1 - cosine, 0 for the same and up to 2; cells come in rows of 8.

    tokens: the record, its planned tokens in the order of the cells.
    limit: a cell with this distance or more is meant to change: where the editor draws the line, too.
    planned: (steps, 64), source to plan. done: (64,), source to result. missed: (steps, 64), plan to result.
    settled, followed: (steps,), mean cosine of a step's local tokens with the last plan's and with the result's.
    whole: (steps,), cosine of the token for the whole picture with the result's.
    named: names of source, result and each step's plan, (2 + steps, 65, 3), or None.
    """

    tokens: Tokens
    limit: float
    planned: Cells
    done: Cells
    missed: Cells
    settled: Cells
    followed: Cells
    whole: Cells
    named: Named | None

    @classmethod
    def of(cls, tokens: Tokens) -> PlanFacts:
        """The facts of a complete record. Raises ValueError for one without the tower's tokens."""
        if tokens.source is None or tokens.result is None:
            raise ValueError("this record has no tokens of source and result: read them with the model's tower first")
        plan, source, result = (as_tensor(array) for array in (tokens.plan, tokens.source, tokens.result))
        named = tokens.named
        if not tokens.ordered:
            order = [*match_to_grid(plan[-1, :NUM_LOCAL_TOKENS], result[:NUM_LOCAL_TOKENS]), NUM_LOCAL_TOKENS]
            plan = plan[:, order]
            tokens = replace(tokens, plan=tokens.plan[:, order])
            named = None if named is None else named.placed(order, 2)
        if named is None:
            named = name_record(torch.cat([source[None], result[None], plan]), tokens.encoder)
        local, globals_ = split_tokens(plan)

        def agreement(other: Tensor) -> Cells:
            return as_array(torch.cosine_similarity(local, other, dim=-1).mean(dim=-1))

        return cls(
            tokens,
            MEANT * token_scale(source),
            as_array(torch.stack([plan_region(source, step).flatten() for step in plan])),
            as_array(plan_region(source, result).flatten()),
            as_array(torch.stack([plan_region(step, result).flatten() for step in plan])),
            agreement(local[-1]),
            agreement(result[:NUM_LOCAL_TOKENS]),
            as_array(torch.cosine_similarity(globals_, result[NUM_LOCAL_TOKENS:], dim=-1)),
            named,
        )

    @property
    def meant(self) -> NDArray[np.bool_]:
        """The cells that the last plan means to change, (64,)."""
        return self.planned[-1] >= self.limit

    @property
    def changed(self) -> NDArray[np.bool_]:
        """The cells that differ that much between the source and what the model painted, (64,)."""
        return self.done >= self.limit

    @property
    def arrived(self) -> int:
        """The step, from 1, from which on the plan means to change the cells that the last one does."""
        last, first = self.meant, len(self.planned)
        for step in range(len(self.planned), 0, -1):
            here = self.planned[step - 1] >= self.limit
            either = (here | last).sum()
            if either and (here & last).sum() < STAYS * either:
                break
            first = step
        return first

    def cosines(self) -> NDArray[np.float32]:
        """Cosines between all cells, (3 + 3 * steps, 64, 64): source-source, source-result, result-result, and for each
        step plan-plan, source-plan, plan-result."""
        assert self.tokens.source is not None and self.tokens.result is not None
        source, result = (as_tensor(a)[:NUM_LOCAL_TOKENS] for a in (self.tokens.source, self.tokens.result))
        pairs = [(source, source), (source, result), (result, result)]
        for step in as_tensor(self.tokens.plan)[:, :NUM_LOCAL_TOKENS]:
            pairs += [(step, step), (source, step), (step, result)]
        return as_array(torch.stack([cosines(*pair) for pair in pairs]))

    def in_words(self) -> list[tuple[str, str, int]]:
        """What becomes what among the cells that the last plan means to change: name in the source, name in the plan,
        and how many cells; the most frequent first. Cells where one of both has no sure name are left out."""
        if self.named is None:
            return []
        before, after = self.named.sure_words(0), self.named.sure_words(-1)
        pairs = Counter(
            (before[cell], after[cell])
            for cell in np.flatnonzero(self.meant)
            if before[cell] and after[cell] and before[cell] != after[cell]
        )
        return [(*pair, count) for pair, count in pairs.most_common()]

    def csv(self) -> str:
        """A table of every step and cell: row and column from 1, cosines, and the nearest name of each token with its
        score."""
        out = io.StringIO()
        table = csv.writer(out, lineterminator="\n")
        columns = ["step", "row", "column", "source_plan", "plan_result", "source_result", "meant"]
        names = ["source_name", "source_score", "plan_name", "plan_score", "result_name", "result_score"]
        table.writerow(columns + (names if self.named else []))
        for step in range(len(self.planned)):
            for cell in range(NUM_LOCAL_TOKENS):
                distances = (self.planned[step, cell], self.missed[step, cell], self.done[cell])
                row = [step + 1, *(part + 1 for part in divmod(cell, 8)), *(f"{1 - float(d):.4f}" for d in distances)]
                row.append(int(self.planned[step, cell] >= self.limit))
                if self.named:
                    for which in (0, 2 + step, 1):
                        row += [self.named.word(which, cell), f"{float(self.named.scores[which, cell, 0]):.3f}"]
                table.writerow(row)
        return out.getvalue()


def as_tensor(array: np.ndarray) -> Tensor:
    """An array as a float32 tensor."""
    return torch.from_numpy(np.asarray(array, np.float32))


def as_array(tensor: Tensor) -> NDArray[np.float32]:
    """A tensor as a float32 array."""
    return np.asarray(tensor.float().numpy(), np.float32)
