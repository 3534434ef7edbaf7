"""Small jobs that a newcomer can follow from beginning to end; see docs/lora.md."""
