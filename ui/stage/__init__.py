"""The stage of the Edit tab: its title, the job at work, rows of cards, and suggestions."""

from pathlib import Path

STYLES = Path(__file__).with_name("stage.css")
"""Where the parts of the Edit tab stand on the page; each component brings its own style besides."""
