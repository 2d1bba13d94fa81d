"""Wall time to a validation loss of 1.88 on Tiny Shakespeare by characters: our recipe against nanoGPT's CPU recipe.

    python benchmarks/time_to_loss.py --nanogpt ../nanoGPT --text ../tinyshakespeare.txt --rounds 3

Both train in turns on the same cores. nanoGPT runs the command of its README (4 layers, 4 heads, 128 wide, 64
characters, 2,000 steps). Ours has no more parameters, the same context and the same characters, and its loss is that of
the whole validation tenth. The time is that of training, start-up of the process included in neither.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

import torch
from machine import bf16_is_fast, describe_machine
from nanogpt import Text, prepare_nanogpt, run_nanogpt, run_ours

TARGET = 1.88
BLOCK = 64
README_COMMAND = [
    "--device=cpu",
    "--compile=False",
    "--eval_iters=20",
    "--block_size=64",
    "--batch_size=12",
    "--n_layer=4",
    "--n_head=4",
    "--n_embd=128",
    "--max_iters=2000",
    "--lr_decay_iters=2000",
    "--dropout=0.0",
]
OURS = [
    "data.block_size=64",
    "model.scratch.max_position_embeddings=64",
    # Chosen by docs/understanding.md#5-what-makes-a-small-model-learn-sooner: tables of n-grams in place of layers.
    "model.scratch.num_hidden_layers=1",
    "model.scratch.hidden_size=64",
    "model.scratch.num_attention_heads=2",
    "model.scratch.intermediate_size=256",
    "model.scratch.ngram_order=4",
    "model.scratch.ngram_vocab_size=3500",
    "train.max_steps=64",
    "train.per_device_train_batch_size=32",
    "train.learning_rate=0.05",
    "train.weight_decay=0.1",
    "train.optim_args=momentum=0.85,beta1=0.8",
    "train.lr_scheduler_type=linear",
    "train.logging_steps=20",
]


def nanogpt_loss_and_size(copy: Path, checkpoint: Path, validation: str) -> tuple[float, int]:
    """Loss of nanoGPT's model on the whole validation text, in windows of its context, and its parameters."""
    import pickle
    import sys

    sys.path.insert(0, str(copy))
    from model import GPT, GPTConfig

    saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
    model = GPT(GPTConfig(**saved["model_args"]))
    model.load_state_dict({name.removeprefix("_orig_mod."): value for name, value in saved["model"].items()})
    meta = pickle.loads((copy / "data" / "shakespeare_char" / "meta.pkl").read_bytes())  # written by nanoGPT just now
    ids = torch.tensor([meta["stoi"][character] for character in validation])
    windows = (len(ids) - 1) // BLOCK
    inputs, targets = ids[: windows * BLOCK].view(-1, BLOCK), ids[1 : windows * BLOCK + 1].view(-1, BLOCK)
    with torch.no_grad():
        batches = zip(inputs.split(256), targets.split(256), strict=True)
        losses = [model.eval()(x, y)[1].item() * len(x) for x, y in batches]
    return sum(losses) / windows, sum(parameter.numel() for parameter in model.parameters())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nanogpt", type=Path, required=True, help="a checkout of nanoGPT")
    parser.add_argument("--text", type=Path, required=True, help="tinyshakespeare.txt")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--float32", action="store_true", help="also where the machine computes in bf16")
    arguments = parser.parse_args()
    bf16 = bf16_is_fast() and not arguments.float32
    ours = [*OURS, f"train.bf16={str(bf16).lower()}"]
    print(f"{describe_machine()}; ours in {'bf16' if bf16 else 'float32'}")
    text = Text.read(arguments.text)
    ratios = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        copy = prepare_nanogpt(arguments.nanogpt, arguments.text, folder)
        for number in range(arguments.rounds):
            peer = run_nanogpt(copy, *README_COMMAND, tokens_per_step=12 * BLOCK)
            peer_loss, peer_size = nanogpt_loss_and_size(copy, peer.checkpoint, text.validation)
            report = run_ours(folder / "ours", text, *ours, f"train.seed={number}")
            seconds, loss = report["train"]["runtime_s"], report["evaluation"]["validation"]["loss"]
            size = report["parameters"]["total"]
            print(f"nanoGPT: loss {peer_loss:.4f} in {peer.seconds:6.1f} s, {peer_size:,} parameters")
            print(f"ours:    loss {loss:.4f} in {seconds:6.1f} s, {size:,} parameters", flush=True)
            if loss > TARGET or size > peer_size:
                raise SystemExit(f"ours must reach {TARGET} with at most {peer_size:,} parameters")
            ratios.append(seconds / peer.seconds)
    print(f"ours / nanoGPT, wall time to {TARGET}: {statistics.median(ratios):.3f} (median of {len(ratios)})")


if __name__ == "__main__":
    main()
