"""Sources of text, and their way into rows of token ids."""
