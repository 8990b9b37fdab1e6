"""The words of the command line: commands, options, and what help says."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import medvl_jobs
from medvl_jobs.errors import SettingsError
from medvl_jobs.settings.eval import Variant

_EPILOG = """\
settings: defaults < profile < --config file < MEDVL_SECTION__KEY variables < section.key=value words
exit codes: 0 ok, 64 usage or settings, 65 bad data, 66 missing input, 69 gave up, 75 try again,
            77 access denied, 78 does not fit (permanent), 143 stopped by SIGTERM, 70 a fault of medvl itself
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SettingsError(message, where=self.prog, remedy=f"see '{self.prog} --help'")


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The words as arguments. Raises `SettingsError` for one that is unknown.

    argparse takes positional words in one place only; here settings may stand anywhere, also between options.
    """
    top = parser()
    arguments, left = top.parse_known_args(words)
    if unknown := [word for word in left if word.startswith("-") or "=" not in word or arguments.command == "sample"]:
        top.error(f"unrecognized arguments: {' '.join(unknown)}")
    if left:
        arguments.overrides = [*arguments.overrides, *left]
    return arguments


def parser() -> argparse.ArgumentParser:
    """The whole command line. It is kept this small: a new knob is a setting, not an option."""
    top = _Parser(
        prog="medvl", description=medvl_jobs.__doc__, epilog=_EPILOG, formatter_class=argparse.RawTextHelpFormatter
    )
    top.add_argument("--version", action="version", version=medvl_jobs.__version__)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)
    sample = commands.add_parser("sample", help="write the demo's input: real images, true captions, a tiny model")
    sample.add_argument("--out", type=Path, required=True, help="folder to write")
    sample.add_argument("--rows", type=int, help="number of rows (default: all)")
    sample.add_argument("--seed", type=int, default=42)
    for name, text in (
        ("run", "the whole graph, here or on Kubernetes, finished stages skipped"),
        ("prep", "parquet, JSONL or archives -> prepared dataset"),
        ("model", "base model -> model.cache, for pods that have no way to the hub"),
        ("plan", "memory, hours and cost of a training, before it is scheduled"),
        ("train", "prepared dataset -> LoRA adapter"),
        ("export", "base model and adapter -> one merged model in a folder"),
        ("eval", "validation split -> predictions and scores"),
        ("report", "predictions -> comparison of base and tuned"),
        ("collect", "a finished report -> a folder; its gates set the exit code"),
        ("compare", "the tuned models of two finished runs -> a report in a folder"),
        ("chat", "a page on which base and tuned model answer side by side"),
        ("status", "how the stages of the run are, out of the store"),
        ("logs", "the last lines of its stages, or of those named, out of the store"),
    ):
        command = commands.add_parser(name, help=text, epilog=_EPILOG, formatter_class=argparse.RawTextHelpFormatter)
        command.add_argument("--config", type=Path, metavar="FILE", help="settings in YAML")
        _options(name, command)
    return top


def _options(name: str, command: argparse.ArgumentParser) -> None:
    """What one command takes besides its settings."""
    if name == "compare":
        for run in ("run_a", "run_b"):
            command.add_argument(run, metavar=run.upper(), help="name, or name/<run key>")
    metavar = "STAGE|section.key=value" if name == "logs" else "section.key=value"
    command.add_argument("overrides", nargs="*", metavar=metavar)
    match name:
        case "eval":
            command.add_argument("--variant", type=Variant, choices=list(Variant), required=True)
        case "collect" | "compare" | "export":
            what = "the merged model" if name == "export" else "the report"
            command.add_argument("--out", type=Path, required=True, metavar="DIR", help=f"folder for {what}")
        case "prep":
            command.add_argument("--check", action="store_true", help="judge the data and stop: table, card, page")
            command.add_argument("--workers", type=int, metavar="N", help="processes; the same as prep.workers=N")
        case "train":
            what = "look for all that would go wrong, and stop: table"
            command.add_argument("--check", action="store_true", help=what)
        case "status":
            command.add_argument("--json", action="store_true", help="one line for machines")
            command.add_argument("--watch", action="store_true", help="look again and again, until the report is there")
        case "logs":
            command.add_argument("--follow", action="store_true", help="print what comes, until the stages are over")
        case "run":
            command.add_argument("--executor", choices=("local", "cluster"), default="local")
            command.add_argument("--dry-run", action="store_true", help="print the plan and stop")
