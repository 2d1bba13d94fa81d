"""POST /classify."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from hf_finetune.errors import FinetuneError
from hf_finetune.release.serve.api.errors import ApiError
from hf_finetune.release.serve.api.schemas import ClassifyRequest, read_request
from hf_finetune.release.serve.api.service import queue_full
from hf_finetune.release.serve.labelling import Labeller, LabellerFull


async def classify_texts(
    labeller: Labeller, name: str, request: Request, count: Callable[[str, int], object]
) -> Response:
    """Label texts as `hf-finetune predict` does. Raises `ApiError`."""
    asked = await read_request(request, ClassifyRequest)
    texts = [asked.text] if isinstance(asked.text, str) else asked.text
    pairs = [asked.text_pair] if isinstance(asked.text_pair, str) else asked.text_pair
    if pairs is not None and len(pairs) != len(texts):
        raise ApiError(400, f"{len(pairs):,} second texts for {len(texts):,} texts", param="text_pair")
    try:
        results, truncated = await labeller.label(texts, pairs, asked.top_k)
    except LabellerFull:
        raise queue_full() from None
    except FinetuneError as refused:
        raise ApiError(400, refused.problems[0].what, code="invalid_prompt") from None
    if not all(np.isfinite(each.get("score", 0.0)).all() for each in results):
        raise ApiError(500, "the model's labels have NaN or infinite logits", code="non_finite")
    count(name, len(texts))
    return JSONResponse({"model": name, "results": results, "truncated": truncated})
