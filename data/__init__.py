"""Corpora: a folder for each, with the prepare.py that makes it, and what they share.

corpus.py     reads a prepared corpus: batches and fixed windows, encode and decode (torch)
meta.py       what it is: the entries of its meta.json, and their check
build.py      writes one: the command line of a prepare.py, its lock, text to tokens
texts.py      tasks of texts and labels: GLUE, and files of one's own
subword.py    corpora of subwords: byte-level BPE as GPT-2's, a text of any length
unzip.py      corpora that are one text in a zip: enwik8 and text8
download.py   a file by path or from mirrors, checked by its SHA-256
connection.py a request that ends in time, whatever the server sends
files.py      atomic files, JSON, hashes, locks
"""
