"""Completes the records of runs whose model was loaded without its vision tower."""

from __future__ import annotations

import threading
from dataclasses import replace

from sama.errors import EditError
from sama.model.named import short_name
from ui.media.runs import FinishedEdit
from ui.media.tokens import Tokens


class PlanReader:
    """Reads records with the tower of the app's preset; one at a time, because a tower takes gigabytes."""

    def __init__(self, tower: str | None) -> None:
        """tower: folder or Hub name of a SigLIP model; None for a preset that is loaded with its tower."""
        self.tower = tower
        self._lock = threading.Lock()

    def read(self, edit: FinishedEdit) -> Tokens:
        """The complete record of a run, which is then kept in its folder. The tower is fetched if it is not on this
        machine, and leaves the memory afterwards. Raises EditError for what the user should know."""
        with self._lock:
            tokens = edit.tokens()
            if tokens is None or self.tower is None:
                raise EditError("This edit has no record that a vision tower could read; run it again.")
            if tokens.source is not None and tokens.result is not None:  # read while this call waited
                return tokens
            complete = self._complete(tokens, self.tower, edit.instruction)
            complete.save(edit.folder / "tokens.npz")
            return complete

    def _complete(self, tokens: Tokens, tower: str, instruction: str) -> Tokens:
        import numpy as np
        import torch

        from sama.model.siglip import siglip_reader, words_for

        reader = siglip_reader(tower)
        if reader.width != tokens.plan.shape[-1]:
            raise EditError(
                f"The vision tower {short_name(tower)} has anchors of width {reader.width}, and this plan has "
                f"{tokens.plan.shape[-1]}: start the app with --tower and the one that the model was trained with."
            )
        source, result = (reader.tokens(picture) for picture in (tokens.anchor_source, tokens.anchor_result))
        named = None
        if reader.names_tokens:
            plan = torch.from_numpy(np.asarray(tokens.plan, np.float32))
            named = reader.names(torch.cat([source[None], result[None], plan]), words_for(instruction))
        name = short_name(tower)
        return replace(tokens, source=source.numpy(), result=result.numpy(), encoder=name, named=named)
