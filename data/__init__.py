"""Corpora: `building` makes them (no torch), `corpus` reads them, and each has a folder with its source."""
