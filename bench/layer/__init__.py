"""A sparse layer timed against the equal dense one: the figure that mixtures of experts are announced with, measured."""
