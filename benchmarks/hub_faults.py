"""200 pushes during which something goes wrong, to a Hub on loopback that speaks the real one's protocol.

    python benchmarks/hub_faults.py --pushes 200

Resets in mid-body, lost answers, 429, 500 to 504, 401, 403, 404, 409, 412, stalls, and clients that are killed. Each
push is of three shards and ten small files to a repository of its own; one that ends in exit code 6, or in a kill, is
given again. Printed are files that are not on the Hub at the end, commits that show a part, large files that arrived
twice, and requests that were made after one was refused for good: all four have to be 0.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

os.environ["HF_HUB_DISABLE_XET"] = "1"  # the Hub of the tests has no such storage
os.environ["HF_HUB_OFFLINE"] = "0"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from release.hub.hub_server import WRITE, running_hub


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pushes", type=int, default=200)
    parser.add_argument("--threads", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    with running_hub() as hub, tempfile.TemporaryDirectory() as folder:
        os.environ |= {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": WRITE}
        # After the environment, which huggingface_hub reads when it is imported.
        from release.hub.pushes_with_faults import KINDS, push_all

        from hf_finetune.release.hub import retries as hub_requests

        hub_requests.TIMEOUT = 2.0  # of stalls
        kinds = [KINDS[number % len(KINDS)] for number in range(options.pushes)]
        random.Random(options.seed).shuffle(kinds)
        start = time.perf_counter()
        outcomes = push_all(hub, kinds, Path(folder), options.threads)
        seconds = time.perf_counter() - start
        did_not_happen = sum(fault.times > 0 for fault in hub.faults)
    for name, count in sorted(Counter(kind.name for kind in kinds).items()):
        again = sum(outcome.pushes == 2 for outcome in outcomes if outcome.kind == name)
        print(f"{name:<34} {count:>4} pushes, {again:>3} given again")
    print(f"{len(outcomes)} pushes with a fault each in {seconds:.0f} s; faults that did not happen: {did_not_happen}")
    print(f"files lost:                      {sum(outcome.lost for outcome in outcomes)}")
    print(f"partial commits visible:         {sum(outcome.partial for outcome in outcomes)}")
    print(f"large files that arrived twice:  {sum(outcome.sent_again for outcome in outcomes)}")
    print(f"requests after a last refusal:   {sum(outcome.after_permanent for outcome in outcomes)}")


if __name__ == "__main__":
    main()
