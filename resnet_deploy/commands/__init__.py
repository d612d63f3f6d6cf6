"""The commands, of three parts each: parse, call, print. `cli` puts them together."""
