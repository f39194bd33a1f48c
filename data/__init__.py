"""Corpora: `building` makes them (no torch), `corpus` reads them; the prepare.py in each folder gets one."""
