"""The web app: an editor, repairs (the pretext tasks) and the plan of an edit, on top of `sama`.

Nothing heavy is imported here, with one exception: on a ZeroGPU Space, `spaces` has to come before torch.
"""

from __future__ import annotations

import os

if os.environ.get("SPACES_ZERO_GPU"):
    import spaces  # noqa: F401 - it prepares CUDA for the process that torch is imported in
