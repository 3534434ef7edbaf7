"""Imports the libraries that every worker needs.

Nothing here touches a device: the process that imports this is forked afterwards.
"""

import sama.edit
import sama.model.processes
import sama.pipeline  # noqa: F401
