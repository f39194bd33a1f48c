"""Corpora: a folder for each, with the prepare.py that makes it, and what they share.

corpus.py     reads a prepared corpus: batches and fixed windows, encode and decode (torch)
build.py      writes one: its format, the command line of a prepare.py, text to tokens
subword.py    corpora of subwords: byte-level BPE as GPT-2's
unzip.py      corpora that are one text in a zip: enwik8 and text8
download.py   a file by path or from mirrors, checked by its SHA-256
files.py      atomic files, JSON, hashes, locks
"""
