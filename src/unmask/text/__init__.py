"""Text -> token ids and back (tokenizers); text with holes -> its parts (templates)."""
