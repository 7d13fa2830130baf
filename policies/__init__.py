"""Pure decisions: values in, decision out; no I/O, no clock, no randomness."""
