"""The published questions about learned policies: what is trained and measured to answer them, and the report."""
