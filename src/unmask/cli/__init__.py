"""The command line: `main` reads the verb, and a module of this package runs it."""
