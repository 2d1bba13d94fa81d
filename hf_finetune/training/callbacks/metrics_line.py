"""The metrics of one log entry as short text."""

from __future__ import annotations

from collections.abc import Mapping

# The metrics of a line, in order, with their formats.
METRIC_FORMATS = {
    "loss": "loss {:.4f}",
    "eval_loss": "validation loss {:.4f}",
    "eval_perplexity": "perplexity {:.2f}",
    "eval_token_accuracy": "token accuracy {:.1%}",
    "eval_bits_per_byte": "bits per byte {:.3f}",
    "eval_accuracy": "accuracy {:.1%}",
    "eval_f1_macro": "F1, macro {:.3f}",
    "eval_matthews_correlation": "Matthews correlation {:.3f}",
    "eval_mae": "mean absolute error {:.4g}",
    "grad_norm": "grad norm {:.2f}",
    "learning_rate": "lr {:.2e}",
    "tokens_seen": "{:,.0f} tokens seen",
    "tokens_per_s": "{:,.0f} tokens/s",
}


def format_metrics(logs: Mapping[str, float]) -> list[str]:
    """Format the known metrics of a log entry, in their order."""
    # {"loss": 0.25, "learning_rate": 2e-5, "epoch": 1.0} -> ["loss 0.2500", "lr 2.00e-05"]
    return [text.format(logs[name]) for name, text in METRIC_FORMATS.items() if name in logs]
