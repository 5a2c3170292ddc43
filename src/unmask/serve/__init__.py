"""Serving: an engine that decodes rows which join and leave at any pass, and what is built on it."""
