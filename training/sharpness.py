"""How sharp the minimum is in which a run ended: the rise of its loss under random changes of its weights.

    python -m training.sharpness RUN [RUN ...]        run folders, or folders of them

    rise(rho) = mean over xi of L(w + rho |w| xi) - L(w),    xi ~ N(0, 1) for every weight
    top, trace: of the Hessian of L, its eigenvalue of the largest magnitude, by power iteration, and its trace,
                the mean over v of v . H v, v of independent signs (Hutchinson 1989)
    weight_rms: the root mean square of w over the matrices, the embeddings among them

w: the last weights. L: the mean loss over fixed windows of what the run was trained on, in float32, dropout
off. A change is relative to each weight, so that a weight's scale does not matter to a rise; to the Hessian it
does: beside it belongs weight_rms. The draws are the same for all runs of one shape, so that runs can be
compared in pairs. What was measured of a run is written into its folder, as sharpness.json, which the analysis
reads.

What a rise means: the paper explains its gains by flat minima. In transformers sharpness by itself does not
correlate with generalization, but it does with the learning rate (Andriushchenko et al. 2023,
arXiv:2302.07011): compare runs of equal train loss and equal rate.
"""

import contextlib
import itertools
import math
import statistics

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from config import UserError, run_script, user_path
from data.files import lock, write_json
from noise import stream_seed
from training.evaluate import mean_loss, model_in, open_corpus
from training.machine import best_device, enough_memory, keep_float32
from training.run_files import corpus_meta, find_runs, load_checkpoint, read_result

RHOS = (0.02, 0.05, 0.1)  # relative to each weight
DRAWS = 10
TOKENS = 32_768  # of the train split, at most
HESSIAN_TOKENS = 4096  # the same of the Hessian's, whose graph is kept
STEPS, RESIDUAL = 100, 0.02  # of power iteration: it ends where |H v - top v| is under so much of |top|


def main(argv):
    if strange := [word for word in argv if word.startswith("-")]:
        raise UserError(f"{strange[0]} is no option of training.sharpness, which takes run folders alone")
    runs = [run for run in find_runs(map(user_path, argv)) if measurable(run)]
    if not runs:
        raise UserError("which finished runs? python -m training.sharpness out/quickstart/full/baseline/seed1")
    device, failed = best_device(), []
    keep_float32()
    for run in runs:
        print(f"{run}: {DRAWS} draws at each of {len(RHOS)} sizes", flush=True)
        try:
            with locked(run), enough_memory(device, "let no other process use it"):
                measured = sharpness(run, device)
                write_json(run / "sharpness.json", measured)
        except UserError as error:
            failed.append(str(error))
            continue
        means = (f"{statistics.mean(draws):+.4f} at rho {rho}" for rho, draws in measured["rises"].items())
        print(f"{run}: the loss rises by {', '.join(means)} (nats, means of {DRAWS} draws)")
        top, trace = measured["hessian"]["top"], statistics.mean(measured["hessian"]["traces"])
        print(f"{run}: of the Hessian the top eigenvalue is {top:.4g}, the trace {trace:.4g}", flush=True)
    if failed:
        raise UserError("; ".join(failed))
    return 0


@contextlib.contextmanager
def locked(run):
    """Hold a run's lock, so that no training takes its weights' place meanwhile."""
    held = lock(run / "lock", seconds=1)
    if held is None:
        raise UserError(f"another process is training into {run}: measure it afterwards")
    try:
        yield
    finally:
        held.release()


def measurable(run):
    """Whether a run was trained to its end and its weights are there; prints it where not."""
    try:
        result = read_result(run) or {"status": "not finished"}
    except UserError as error:
        result = {"status": str(error)}
    ended, kept = result["status"] == "finished", (run / "last.pt").is_file()
    if not (ended and kept):
        print(f"{run}: {'its weights are gone' if ended else result['status']}, left out")
    return ended and kept


def sharpness(run, device):
    """The content of sharpness.json: {"iter", "tokens", "weight_rms", "rises": {rho: the rise at each draw,
    nats}, "hessian": {"tokens", "top", "residual", "traces": [of each draw]}}."""
    path, meta = run / "last.pt", corpus_meta(run)
    checkpoint = load_checkpoint(path)
    model = model_in(checkpoint, meta, path).to(device)
    corpus, size = open_corpus(run, meta, device), model.config.block_size

    def loss():
        return mean_loss(model, corpus.windows("train", size, TOKENS))

    tokens = sum(y.numel() for _, y in corpus.windows("train", size, TOKENS))
    by_rho = {str(rho): rises(model, loss, rho) for rho in RHOS}
    if not all(map(math.isfinite, itertools.chain(*by_rho.values()))):
        raise UserError(f"{run}: the loss is not finite where its weights are changed")
    print(f"{run}: the Hessian, {DRAWS + STEPS} products with it at most", flush=True)
    curved = hessian(model, list(corpus.windows("train", size, HESSIAN_TOKENS)))
    if not all(map(math.isfinite, (curved["top"], curved["residual"], *curved["traces"]))):
        raise UserError(f"{run}: its Hessian is not finite")
    measured = {"iter": checkpoint["step"], "tokens": tokens, "weight_rms": weight_rms(model)}
    return {**measured, "rises": by_rho, "hessian": curved}


def weight_rms(model):
    matrices = [parameter.detach().cpu().double() for parameter in model.parameters() if parameter.dim() > 1]
    squares = sum(matrix.square().sum().item() for matrix in matrices)
    return math.sqrt(squares / sum(matrix.numel() for matrix in matrices))


@torch.no_grad()
def rises(model, loss, rho):
    """[loss() with the weights changed - loss() without], one for each draw; the weights are put back."""
    weights = [parameter.clone() for parameter in model.parameters()]
    before, differences = loss(), []
    for draw in range(DRAWS):
        for place, (parameter, weight) in enumerate(zip(model.parameters(), weights)):
            generator = torch.Generator().manual_seed(stream_seed(draw, "sharpness", place))
            xi = torch.randn(weight.shape, generator=generator).to(weight.device)
            parameter.copy_(weight + rho * weight.abs() * xi)
        differences.append(loss() - before)
    for parameter, weight in zip(model.parameters(), weights):
        parameter.copy_(weight)
    return differences


def hessian(model, batches):
    """{"tokens", "top", "residual", "traces"} of the mean loss over batches of windows, (x, y) each."""
    model.eval()
    parameters, tokens = list(model.parameters()), sum(y.numel() for _, y in batches)
    with sdpa_kernel(SDPBackend.MATH):  # the fused ones have no second derivatives
        loss = sum(model(x, y)[1] * (y.numel() / tokens) for x, y in batches)
    gradients = torch.autograd.grad(loss, parameters, create_graph=True)

    def times(vector):
        return torch.autograd.grad(gradients, parameters, vector, retain_graph=True)

    def drawn(*counters):
        generator = torch.Generator().manual_seed(stream_seed(*counters))
        return [torch.randn(p.shape, generator=generator).to(p.device) for p in parameters]

    signs = ([xi.sign() for xi in drawn(draw, "trace")] for draw in range(DRAWS))
    traces = [dot(v, times(v)) for v in signs]
    top, residual = top_eigenvalue(times, drawn(0, "top eigenvalue"))
    return {"tokens": tokens, "top": top, "residual": residual, "traces": traces}


def top_eigenvalue(times, vector):
    """(the eigenvalue of largest magnitude of a symmetric matrix, by power iteration from a vector;
    |H v - top v| / |top| at its end). times: H v of a v, a list of tensors."""
    for _ in range(STEPS):
        norm = math.sqrt(dot(vector, vector))
        vector = [part / norm for part in vector]
        product = times(vector)
        top = dot(vector, product)
        residual = math.sqrt(max(0.0, dot(product, product) - top**2)) / (abs(top) or 1.0)
        if residual < RESIDUAL:
            break
        vector = product
    return top, residual


def dot(vector, other):
    return sum((a * b).sum().item() for a, b in zip(vector, other))


if __name__ == "__main__":
    run_script(main, __doc__)
