"""The steps of the one path, each in a module that imports none of the others."""
