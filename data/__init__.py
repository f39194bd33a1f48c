"""Corpora: `building` makes them (no torch), `corpus` reads them, and the prepare.py of each folder gets one."""
