"""What happened while rows were decoded, as typed events: recorded, replayed, written and read again."""
