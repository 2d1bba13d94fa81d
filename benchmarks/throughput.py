"""Tokens per second of the training loop at nanoGPT's own shape: our recipe against nanoGPT.

    python benchmarks/throughput.py --nanogpt ../nanoGPT --text ../tinyshakespeare.txt
    python benchmarks/throughput.py --nanogpt ../nanoGPT --text ../tinyshakespeare.txt --gpu --peak-tflops 989

On a CPU the shape is that of nanoGPT's CPU recipe; each side in the precision that is its fastest there (nanoGPT's CPU
path has none but fp32). With --gpu it is the 124 M shape, 1,024 tokens, both in bf16 and compiled, and model FLOPs
utilisation is printed too: 6 per parameter and token plus attention's (Chowdhery et al., 2022, appendix B).
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path

from machine import bf16_is_fast, describe_machine
from nanogpt import Text, prepare_nanogpt, run_nanogpt, run_ours


@dataclass(frozen=True)
class Shape:
    layers: int
    heads: int
    hidden: int
    block: int
    batch: int
    steps: int

    def theirs(self) -> list[str]:
        return [
            f"--n_layer={self.layers}",
            f"--n_head={self.heads}",
            f"--n_embd={self.hidden}",
            f"--block_size={self.block}",
            f"--batch_size={self.batch}",
            f"--max_iters={self.steps}",
            "--dropout=0.0",
            "--eval_interval=1000000",
            "--eval_iters=1",
        ]

    def ours(self) -> list[str]:
        return [
            "model.scratch.family=gpt2",
            f"model.scratch.num_hidden_layers={self.layers}",
            f"model.scratch.num_attention_heads={self.heads}",
            f"model.scratch.hidden_size={self.hidden}",
            f"model.scratch.max_position_embeddings={self.block}",
            f"data.block_size={self.block}",
            f"train.per_device_train_batch_size={self.batch}",
            f"train.max_steps={self.steps}",
            "train.optim=adamw_torch_fused",
            "train.learning_rate=0.001",
            "train.logging_steps=50",
        ]


CPU = Shape(layers=4, heads=4, hidden=128, block=64, batch=12, steps=200)
GPU = Shape(layers=12, heads=12, hidden=768, block=1024, batch=16, steps=200)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nanogpt", type=Path, required=True, help="a checkout of nanoGPT")
    parser.add_argument("--text", type=Path, required=True, help="tinyshakespeare.txt")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--float32", action="store_true", help="also where the machine computes in bf16")
    parser.add_argument("--peak-tflops", type=float, help="of the GPU in bf16, dense: 312 A100, 989 H100 and H200")
    arguments = parser.parse_args()
    text = Text.read(arguments.text)
    shape = GPU if arguments.gpu else CPU
    theirs = ["--device=cuda", "--dtype=bfloat16"] if arguments.gpu else ["--device=cpu", "--compile=False"]
    bf16 = bf16_is_fast() and not arguments.float32
    ours = [f"train.bf16={str(bf16).lower()}", *(["train.torch_compile=true"] if arguments.gpu else [])]
    print(f"{describe_machine()}; ours in {'bf16' if bf16 else 'float32'}")
    ratios = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        copy = prepare_nanogpt(arguments.nanogpt, arguments.text, folder)
        for _ in range(arguments.rounds):
            peer = run_nanogpt(copy, *shape.theirs(), *theirs, tokens_per_step=shape.batch * shape.block)
            report = run_ours(folder / "ours", text, *shape.ours(), *ours)
            # Of the last logged steps: the first ones compile, and warm caches up.
            rate = report["train"]["history"][-1]["tokens_per_s"]
            print(f"nanoGPT {peer.tokens_per_s:10,.0f} tokens/s   ours {rate:10,.0f} tokens/s", flush=True)
            ratios.append(rate / peer.tokens_per_s)
            if arguments.peak_tflops:
                flops = 6 * report["parameters"]["total"] + 12 * shape.layers * shape.hidden * shape.block
                mfu = [each * flops / (arguments.peak_tflops * 1e12) for each in (peer.tokens_per_s, rate)]
                print(f"model FLOPs utilisation: nanoGPT {mfu[0]:.1%}   ours {mfu[1]:.1%}")
    print(f"ours / nanoGPT, tokens per second: {statistics.median(ratios):.2f} (median of {len(ratios)})")


if __name__ == "__main__":
    main()
