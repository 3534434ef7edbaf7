"""Where a model's weights lie while it works: one device, one part after another, or streamed."""
