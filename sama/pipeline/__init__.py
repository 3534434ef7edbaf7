"""The pipeline: a clip and an instruction in, frames and the plan behind them out."""

from sama.pipeline.pipeline import SamaPipeline
from sama.pipeline.types import SamaPipelineOutput, SamaStep

__all__ = ["SamaPipeline", "SamaPipelineOutput", "SamaStep"]
