"""A server from its options on: what can be refused is refused before a model is loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hf_finetune.config.model_files.description import ADAPTER
from hf_finetune.release.serve.filters import check_filters
from hf_finetune.release.serve.options import ServeOptions, bind, check_names, check_packages, read_key


def serve_model(options: ServeOptions, loading: Callable[[], object], announce: Callable[[str, int], object]) -> None:
    """Serve a model until SIGTERM or Ctrl-C.

    `loading` is called once nothing is left that is refused without the model, and `announce` with host and port once
    requests are answered. Raises `ConfigError` where the address, the key, a name or a filter is not to be had,
    `MachineError` where a package is missing, and as `load_for_generation` and `open_classifier` do.
    """
    check_packages()
    key = read_key(options.host, options.key_file)
    # What a Hub id holds is seen when it is fetched.
    check_names(options, over_adapter=Path(options.model, ADAPTER).is_file())
    check_filters(options.filters)
    listening = bind(options.host, options.port)
    try:
        loading()
        # Not at the head: torch, and packages of the extra.
        from hf_finetune.models.saved import is_sequence_classifier
        from hf_finetune.release.serve.server import load_classifier_server, load_server, run_server

        load = load_classifier_server if is_sequence_classifier(options.model) else load_server
        running = load(options, key)
    except BaseException:
        listening.close()
        raise
    run_server(running, listening, announce)
