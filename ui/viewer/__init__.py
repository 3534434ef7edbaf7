"""Components of our own: the comparison viewer and the plan view, each a small script in a `gr.HTML`."""

from ui.viewer.plan import plan, plan_value
from ui.viewer.viewer import Comparison, viewer

__all__ = ["Comparison", "plan", "plan_value", "viewer"]
