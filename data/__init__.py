"""Corpora: `building` makes them (no torch), `corpus` reads them, one folder each says where one is from."""
