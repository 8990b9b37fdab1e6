"""``vllm serve`` as far as medvl uses it: takes its command line, and tells in each answer what it would serve."""

from __future__ import annotations

import argparse
import json
import sys
import threading
from pathlib import Path

import openai_server


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=["serve"])
    parser.add_argument("model")
    parser.add_argument("--served-model-name", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--enable-lora", action="store_true")
    parser.add_argument("--lora-modules", nargs="*", default=[])
    parser.add_argument("--die-after", type=int)
    words, _ = parser.parse_known_args()
    folders = {words.served_model_name: words.model}
    if words.enable_lora:
        folders |= dict(module.split("=", 1) for module in words.lora_modules)
    asked = 0

    def say(model: str, image: bytes) -> str:
        nonlocal asked
        asked += 1
        if words.die_after is not None and asked > words.die_after:
            print("RuntimeError: out of patience", flush=True)
            sys.stdout.flush()
            import os

            os._exit(7)
        folder = Path(folders[model])
        return json.dumps(
            {"model": model, "folder": str(folder), "files": sorted(path.name for path in folder.iterdir())}
        )

    with openai_server.running(words.port, models=list(folders), say=say):
        threading.Event().wait()


if __name__ == "__main__":
    main()
