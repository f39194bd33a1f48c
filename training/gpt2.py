"""The Hugging Face GPT-2 format, read and written.

    config.json          the shape; of the rest the keys in FIXED must have values that our GPT supports
    generation_config.json   how long a text may be, and its end; written alone
    model.safetensors    the weights; or shards of them, which model.safetensors.index.json names

    our parameter                    its tensor in the file, with or without "transformer." before it
    wte, wpe, ln_f                   the same
    blocks.0.ln_1, .ln_2             h.0.ln_1, .ln_2
    blocks.0.attn.qkv, .attn.proj    h.0.attn.c_attn, .attn.c_proj
    blocks.0.mlp.fc, .mlp.proj       h.0.mlp.c_fc, .mlp.c_proj

Both fuse query, key and value in this order. The matrices of a c_ layer are (in, out) there, (out, in) here.
Source: transformers 5.23, its GPT2Config and GPT2LMHeadModel.
"""

import hashlib
import re
from dataclasses import asdict, replace
from pathlib import Path

import safetensors.torch
import torch

from config import UserError
from data.files import read_json, replacing, say_if_large, write_json
from model import GPT, GPTConfig
from training.shape import check_size, parameter_count

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
GENERATION = "generation_config.json"
SHAPE = {"vocab_size": 50257, "n_positions": 1024, "n_embd": 768, "n_layer": 12, "n_head": 12}  # if not stated
FIXED = {  # values that config.json may have; the first is its default, and what we write
    "architectures": (["GPT2LMHeadModel"], ["GPT2Model"], None),
    "model_type": ("gpt2",),
    "layer_norm_epsilon": (1e-5,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "reorder_and_upcast_attn": (False,),
    "add_cross_attention": (False,),
    "tie_word_embeddings": (True,),
}
ACTIVATIONS = {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu"}  # the file's: ours
BUFFER = re.compile(r"h\.\d+\.attn\.(masked_)?bias")  # the causal mask, which old files hold


def is_model(folder):
    """Whether a folder holds a model in a format of Hugging Face's: a run's config.json has no model_type."""
    config = read_json(Path(folder) / "config.json") if Path(folder).is_dir() else None
    return isinstance(config, dict) and "model_type" in config


def read(folder):
    """(the GPT in a folder, float32 on the CPU, {"file": ..., "sha256": ...} of its weights).

    The SHA-256 of several files is that of their bytes one after the other, in the order of their names.
    UserError where there is no such model, where it is none that our GPT can be, or is damaged.
    """
    config = read_config(folder)
    files = weight_files(folder)
    size, count = say_if_large(files), parameter_count(config, config.vocab_size)
    if count > size:  # each has a byte at the least
        raise UserError(
            f"{folder}: its config.json makes it {count:,} parameters, and its weights, {files[0].name}"
            f"{' and others' * (len(files) > 1)}, are {size:,} bytes: restore it"
        )
    tensors, digest = read_tensors(files)
    state = to_state(tensors, config, folder)
    metadata = {"file": ", ".join(path.name for path in files), "sha256": digest}
    return GPT.from_weights({"config": asdict(config), "state": state}), metadata


def read_config(folder):
    """The GPTConfig for a folder's config.json; UserError where our GPT cannot be that model."""
    path = Path(folder) / "config.json"
    values = read_json(path)
    if not isinstance(values, dict):
        raise UserError(f"{path} is missing, or describes no model: a GPT-2 folder needs it")
    shape = {name: values.get(name, default) for name, default in SHAPE.items()}
    for name, value in shape.items():
        check_size(name, value, path)
    width = shape["n_embd"]
    for name, allowed in {**FIXED, "n_inner": (4 * width, None)}.items():
        if (value := values.get(name, allowed[0])) not in allowed:
            raise UserError(f"{path}: {name}={value!r}, and the GPT here has {allowed[0]!r} alone")
    activation = values.get("activation_function", "gelu_new")
    if activation not in (*ACTIVATIONS,):
        raise UserError(
            f"{path}: activation_function={activation!r}, and the GPT here has {', '.join(ACTIVATIONS)}"
        )
    if width % shape["n_head"]:
        raise UserError(f"{path}: n_embd={width} is not a multiple of n_head={shape['n_head']}")
    shape["block_size"] = shape.pop("n_positions")
    return GPTConfig(bias=True, activation=ACTIVATIONS[activation], **shape)


def weight_files(folder):
    """The paths of the weights in a folder, by name; UserError where there are none, or only pickles."""
    folder = Path(folder)
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        return shards(folder / INDEX)
    if any(folder.glob("*.bin")):
        raise UserError(
            f"{folder} holds its weights as a pickle, which is not read: save the model with safetensors, as"
            " save_pretrained of a recent transformers does"
        )
    raise UserError(f"{folder} has no {WEIGHTS}: restore it")


def shards(index):
    """The paths that an index names; UserError where it names none, or one that is not there."""
    values = read_json(index)
    places = values.get("weight_map") if isinstance(values, dict) else None
    names = places.values() if isinstance(places, dict) else []
    if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise UserError(f"{index} names no files of weights: restore it")
    paths = [index.with_name(name) for name in sorted(set(names))]
    if missing := [path.name for path in paths if not path.is_file()]:
        raise UserError(f"{index.parent} lacks {', '.join(missing)}: restore it")
    return paths


def read_tensors(paths):
    """({name: tensor} of all files, without "transformer.", the SHA-256 of the very bytes read)."""
    tensors, digest = {}, hashlib.sha256()
    for path in paths:
        data = path.read_bytes()  # once: an export may replace the file
        digest.update(data)
        check_download(path, data)
        try:
            part = safetensors.torch.load(data)
        except Exception:  # of several types, as the damage has it
            raise UserError(f"{path} is damaged or no safetensors file: restore it") from None
        for name, tensor in part.items():
            name = name.removeprefix("transformer.")
            if name in tensors:
                raise UserError(f"{path} holds {name} a second time: restore it")
            tensors[name] = tensor
    return tensors, digest.hexdigest()


def check_download(path, data):
    """UserError where a file is not what `hf download --local-dir` fetched, by the note that it left beside it:
    its second line is the ETag, of a large file the SHA-256."""
    note = path.parent / ".cache" / "huggingface" / "download" / f"{path.name}.metadata"
    match = re.match(rb"[^\n]*\n([0-9a-f]{64})\s", note.read_bytes() + b"\n") if note.is_file() else None
    if match and match[1].decode() != hashlib.sha256(data).hexdigest():
        raise UserError(f"{path} is damaged, or not what was downloaded, by the SHA-256 in {note}: restore it")


def to_state(tensors, config, folder):
    """A file's tensors as the state_dict of our model of this config; UserError where they are not just its."""
    left = {name: tensor for name, tensor in tensors.items() if not BUFFER.fullmatch(name)}
    head, state = left.pop("lm_head.weight", None), {}
    for name, like in parameters(config).items():
        there = gpt2_name(name)
        tensor = left.pop(there, None)
        if tensor is None:
            raise UserError(f"{folder} lacks the tensor {there}: restore it")
        shape = like.T.shape if is_transposed(name) else like.shape
        if tensor.shape != shape or not tensor.is_floating_point():
            raise UserError(
                f"{folder}: {there} is {tuple(tensor.shape)} {tensor.dtype}, where its config.json makes it"
                f" {tuple(shape)} of floats"
            )
        state[name] = (tensor.T if is_transposed(name) else tensor).float()
        if not state[name].isfinite().all():
            raise UserError(f"{folder}: {there} is not finite: restore it")
    if left:
        raise UserError(f"{folder} holds {', '.join(sorted(left)[:3])}, which no GPT-2 language model has")
    if head is not None and not torch.equal(head, tensors["wte.weight"]):
        raise UserError(f"{folder}: lm_head.weight is not wte.weight, and the GPT here has one for both")
    return state


def write(folder, config, weights, end_of_text=None):
    """Write a GPT of this GPTConfig into a folder, its weights, as `weights_of` gives them, last.

    end_of_text: the token that stands for the end of a text, where there is one.
    """
    shape = {"n_positions": config.block_size}
    shape |= {name: getattr(config, name) for name in SHAPE if name not in shape}
    rates = dict.fromkeys(("embd_pdrop", "attn_pdrop", "resid_pdrop"), config.dropout)
    ends = dict.fromkeys(("bos_token_id", "eos_token_id"), end_of_text)
    fixed = {name: allowed[0] for name, allowed in FIXED.items()}
    fixed["activation_function"] = next(name for name, ours in ACTIVATIONS.items() if ours == config.activation)
    write_json(Path(folder) / "config.json", {**fixed, **shape, "n_inner": None, **rates, **ends})
    write_json(Path(folder) / GENERATION, {"max_length": config.block_size, "do_sample": True, **ends})
    with replacing(Path(folder) / WEIGHTS) as file:
        file.write(weights)


def weights_of(model):
    """The bytes of model.safetensors for a GPT; biases that it does not have are zeros there."""
    state, tensors = model.state_dict(), {}
    for name, like in parameters(replace(model.config, bias=True)).items():
        tensor = state[name] if name in state else torch.zeros(like.shape)
        tensor = tensor.T if is_transposed(name) else tensor
        tensors[f"transformer.{gpt2_name(name)}"] = tensor.contiguous()
    return safetensors.torch.save(tensors, {"format": "pt"})


def parameters(config):
    """{name: parameter} of our model of this config, without memory for it."""
    with torch.device("meta"):
        return dict(GPT(config).named_parameters())


def gpt2_name(name):
    """The name in the file, without "transformer.", of a parameter of ours."""
    name = re.sub(r"^blocks\.", "h.", name).replace("attn.qkv", "attn.c_attn")
    return re.sub(r"\b(proj|fc)\b", r"c_\1", name)


def is_transposed(name):
    """Whether the file has a parameter of ours transposed."""
    return name.endswith(("qkv.weight", "proj.weight", "fc.weight"))
