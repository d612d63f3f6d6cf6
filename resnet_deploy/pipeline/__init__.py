"""The steps that take a network to files that can be trusted: one module a step, named after its command."""
