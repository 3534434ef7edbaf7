"""What of an edit is shown: its own pixels, the source's, and the detail that it gets back."""
