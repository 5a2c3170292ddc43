"""Text to ids and back: tokenizers, and prompts with holes."""
