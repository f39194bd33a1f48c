"""A corpus's vocabulary as a tokenizer of Hugging Face's: tokenizer.json and tokenizer_config.json.

    characters   each is a token; one that the vocabulary lacks is an error, as it is here
    bytes        the text's UTF-8 bytes, each a token; the same
    subwords     byte-level BPE. tiktoken merges by the rank of what comes out, tokenizers by the place in a
                 list: it has all ways to make each token, in the order of the tokens' ranks

The name of a special token is a text as any other, as it is here. Source: tokenizers 0.23, transformers 5.23.
"""

from pathlib import Path

from data.files import write_json


def write(folder, meta, length):
    """Write both files for a corpus of this meta. length: tokens that fit into the model."""
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": length,
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": True,
        **dict.fromkeys(("bos_token", "eos_token"), next(iter(meta.get("special", [])), None)),
    }
    write_json(Path(folder) / "tokenizer_config.json", config)
    write_json(Path(folder) / "tokenizer.json", tokenizer(meta))


def tokenizer(meta):
    """What tokenizer.json holds."""
    whole, special = meta["unit"] == "character", meta.get("special", [])
    as_bytes = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    if meta["unit"] == "token":
        steps = [split(meta["pattern"]), as_bytes]
    else:
        steps = [*([] if whole else [as_bytes]), split(r"[\s\S]")]
    start = len(meta["vocabulary"]) - len(special)
    return {
        **{"version": "1.0", "truncation": None, "padding": None, "normalizer": None, "post_processor": None},
        "added_tokens": [added(name, start + number) for number, name in enumerate(special)],
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "decoder": {"type": "Fuse"} if whole else as_bytes,
        "model": bpe(meta["vocabulary"][:start]) if meta["unit"] == "token" else symbols(meta),
    }


def split(pattern):
    """The step that cuts a text into what a pattern matches."""
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def added(name, number):
    """A special token."""
    how = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": name, **how, "special": True}


def symbols(meta):
    """The model of a vocabulary of characters or bytes; it has no token for what is not in it."""
    names = meta["vocabulary"] if meta["unit"] == "character" else [BYTES[byte] for byte in meta["vocabulary"]]
    return {
        "type": "WordLevel",
        "vocab": numbered(names),
        "unk_token": "a symbol that is not in the vocabulary",
    }


def bpe(tokens):
    """The model of subwords, given as data/subword.py has them, by their ranks."""
    ranks, merges = numbered(tokens), []
    for token in tokens:
        parts = [(token[:place], token[place:]) for place in range(1, len(token))]
        merges += [[shown(part) for part in pair] for pair in parts if ranks.keys() >= {*pair}]
    return {
        **{"type": "BPE", "dropout": None, "unk_token": None, "fuse_unk": False, "byte_fallback": False},
        **{"continuing_subword_prefix": None, "end_of_word_suffix": None, "ignore_merges": True},
        "vocab": numbered(map(shown, tokens)),
        "merges": merges,
    }


def numbered(names):
    return {name: number for number, name in enumerate(names)}


def printable():
    """The 256 bytes as GPT-2 shows them: those that latin-1 prints as they are, the others from chr(256) on."""
    plain = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = [byte for byte in range(256) if byte not in plain]
    return [chr(byte if byte in plain else 256 + others.index(byte)) for byte in range(256)]


BYTES = printable()


def shown(token):
    """A subword, its bytes decoded as latin-1, as GPT-2 shows it."""
    return "".join(BYTES[ord(byte)] for byte in token)
