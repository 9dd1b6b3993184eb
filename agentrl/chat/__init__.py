"""From observation text to tokens and back."""
