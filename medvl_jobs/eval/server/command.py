"""The command line that starts vLLM. Pure; the flags are those of vLLM 0.32."""

from __future__ import annotations

import json
from dataclasses import dataclass

from medvl_jobs.settings.run import RunSettings

HOST = "127.0.0.1"
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What ``--max-lora-rank`` takes."""


@dataclass(frozen=True)
class Served:
    """What is served."""

    model: str
    """A directory, or a hub id: the base, or a merged model."""
    revision: str | None
    """Of a hub id."""
    name: str
    """What the model is asked by."""
    longest: int
    """Tokens of the longest prompt and answer together."""
    lora: tuple[str, str, int] | None = None
    """Name, folder and rank of an adapter that is served beside the model."""


def command_line(settings: RunSettings, served: Served, port: int) -> list[str]:
    """The words that start vLLM on ``port`` of this machine.

    - ``--max-model-len``: Qwen3-VL's own 262,144 tokens need more key-value cache than is left on a GPU of 80 GB.
    - ``--mm-processor-kwargs``: images between the same areas as in this process, whatever the checkpoint says.
    - ``--data-parallel-size``: each replica holds the whole model, on GPUs of its own.
    - ``eval.server.arguments`` come last, and the last one counts.
    """
    server, model = settings.eval.server, settings.model
    size = {"shortest_edge": model.min_pixels, "longest_edge": model.max_pixels}
    words = [
        *server.command, served.model,
        "--served-model-name", served.name,
        "--host", HOST,
        "--port", str(port),
        "--dtype", model.dtype,
        "--max-model-len", str(served.longest),
        "--limit-mm-per-prompt", json.dumps({"image": 1, "video": 0}),
        "--mm-processor-kwargs", json.dumps({"size": size}),
        "--data-parallel-size", str(server.replicas),
        "--seed", "0",
        "--uvicorn-log-level", "warning",
    ]  # fmt: skip
    if served.revision:
        words += ["--revision", served.revision]
    if served.lora:
        name, folder, rank = served.lora
        allowed = next((each for each in RANKS if each >= rank), rank)
        words += ["--enable-lora", "--max-lora-rank", str(allowed), "--max-loras", "1"]
        words += ["--lora-modules", f"{name}={folder}"]
    return [*words, *server.arguments]
