"""Published benchmarks of instruction-guided video editing, judged by any OpenAI-compatible vision server."""
