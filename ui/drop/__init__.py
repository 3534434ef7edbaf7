"""The slot of a clip: taking a visitor's file, playing it, and choosing the part of it to edit."""

from ui.drop.drop import asked_start, chosen_part, drop, drop_value, uploaded_file, wire_busy

__all__ = ["asked_start", "chosen_part", "drop", "drop_value", "uploaded_file", "wire_busy"]
