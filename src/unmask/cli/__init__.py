"""One file a verb; `main` finds it."""
