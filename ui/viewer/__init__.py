"""Components of our own: the comparison viewer and the plan view, each a small script in a `gr.HTML`."""

from ui.viewer.plan import plan_value, plan_view
from ui.viewer.viewer import Comparison, viewer

__all__ = ["Comparison", "plan_value", "plan_view", "viewer"]
