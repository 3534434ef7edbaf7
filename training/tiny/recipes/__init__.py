"""The example of docs/lora.md: data and score of a LoRA for a new style."""
