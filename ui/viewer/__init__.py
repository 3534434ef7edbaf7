"""Components of our own: the comparison viewer and the plan view, each a small script over `gr.HTML`."""

from ui.viewer.plan import Plan
from ui.viewer.viewer import Comparison, Viewer

__all__ = ["Comparison", "Plan", "Viewer"]
