"""vLLM for one evaluation: the model that it gets, started, ready."""

from __future__ import annotations

import json
import logging
from contextlib import ExitStack
from pathlib import Path

from medvl_jobs.contracts import layout
from medvl_jobs.eval.server.command import Served, command_line
from medvl_jobs.eval.server.process import ServerProcess, free_port
from medvl_jobs.model.merge import base_folder, check_merged, merge_files
from medvl_jobs.model.prompts import PromptRenderer
from medvl_jobs.model.weights import place
from medvl_jobs.settings.run import RunSettings
from medvl_jobs.storage.files import os_errors, scratch_folder

log = logging.getLogger(__name__)

SPARE_TOKENS = 64
"""Images of odd shapes are rounded up to a few more tokens than their area says."""


def start_vllm(
    settings: RunSettings, adapter: Path | None, name: str, renderer: PromptRenderer, resources: ExitStack
) -> ServerProcess:
    """Start it with the base model, or with the adapter as ``eval.server.adapter`` says, and wait until it is ready.

    ``resources`` end it and remove what was made for it. Raises what `ServerProcess` and merging raise.
    """
    server = settings.eval.server
    path, revision = place(settings.model)
    lora = None
    if adapter is not None and server.adapter == "merged":
        out = resources.enter_context(scratch_folder("medvl-merged-")) / "model"
        with os_errors(out):
            merge_files(base_folder(settings.model), adapter, out, {"base": settings.model.path})
        check_merged(settings.model, out)
        path, revision = str(out), None
    elif adapter is not None:
        rank = int(json.loads((adapter / layout.ADAPTER_CONFIG).read_text(encoding="utf-8"))["r"])
        lora = (name, str(adapter), rank)
    served = Served(path, revision, server.base_name if lora else name, longest(settings, renderer), lora)
    port = free_port()
    process = ServerProcess(command_line(settings, served, port), port)
    resources.callback(process.close)
    process.wait_ready(server.start_timeout_seconds)
    return process


def longest(settings: RunSettings, renderer: PromptRenderer) -> int:
    """Tokens of the question, of the largest image and of the longest answer, and a few to spare."""
    side = renderer.processor.image_processor.patch_size * renderer.merge_size
    image = -(-settings.model.max_pixels // side**2)
    return renderer.count_tokens(side, side) + image + settings.eval.max_new_tokens + SPARE_TOKENS
