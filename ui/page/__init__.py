"""The frame of the page around its tabs: the header with what the model can do, and the theme."""
