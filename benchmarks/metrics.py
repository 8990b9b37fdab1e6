"""How fast answers are scored beside LLaMA-Factory's own class, and whether the numbers agree; README.md says more."""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow.parquet as pq

from benchmarks import incumbent
from benchmarks.measure import timing
from benchmarks.slices import sources
from medvl_jobs.processes import processors

SEED = 42
PAIRS = 3000
ROUNDS = 3
BUSY_CORES = 0.15
"""Others that use more than this distort a measurement on two cores."""
ATTEMPTS = 3

LLAMAFACTORY = """\
import json, sys, time, warnings
warnings.simplefilter("ignore")
import medvl_benchmark
import numpy as np
import jieba
jieba.setLogLevel("WARNING")
from llamafactory.train.sft.metric import ComputeSimilarity
pairs = json.load(open(sys.argv[1], encoding="utf-8"))

class Texts:
    pad_token_id = 0
    def batch_decode(self, rows, skip_special_tokens):
        return [pairs[row // 2][row % 2] for [row] in rows]

class Batch:
    predictions = np.arange(0, 2 * len(pairs), 2)[:, None]
    label_ids = predictions + 1

scorer = ComputeSimilarity(Texts())
start = time.perf_counter()
scorer(Batch, compute_result=False)
seconds = time.perf_counter() - start
names, columns = list(scorer.score_dict), list(scorer.score_dict.values())
scores = [dict(zip(names, row)) for row in zip(*columns)]
json.dump({"seconds": seconds, "scores": scores, "mean": scorer._dump()}, open(sys.argv[2], "w"))
"""
"""Its class on texts: a tokenizer that has them ready takes no time of the incumbent's. Loading jieba's dictionary is
part of the first call, as it is in a run."""
MEDVL = """\
import json, sys, time
from medvl_jobs.eval.similarity import aggregate, score_pairs
pairs = json.load(open(sys.argv[1], encoding="utf-8"))
predictions, references = zip(*pairs)
start = time.perf_counter()
scores = score_pairs(predictions, references)
seconds = time.perf_counter() - start
mean = {name.removeprefix("predict_"): value for name, value in aggregate(scores).items()}
json.dump({"seconds": seconds, "scores": scores, "mean": mean}, open(sys.argv[2], "w"))
"""
ONE_CORE = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"

OPENINGS = ("这是一张", "图像显示的是", "从图片来看，这是", "根据影像，这张图片是")
FINDINGS = (
    "肺部纹理清晰，未见明显实变影", "左肺下叶可见一个约占图像面积{n}%的结节，边缘有毛刺", "纵隔居中，心影大小正常",
    "双侧胸腔未见积液", "肝脏形态规则，密度均匀", "脊柱椎体排列整齐，第{n}胸椎椎体压缩性骨折，椎管无明显狭窄",
    "右肺上叶见斑片状高密度影，CT值约{n} HU", "气管及主支气管通畅", "主动脉弓见钙化斑块", "建议结合临床进一步检查",
)  # fmt: skip
"""Answers of a model that was asked in Chinese, as the tutorial's base model was."""


def main() -> None:
    """Score the same pairs with both programs, in turns, each in a new process, and print how they compare."""
    options = _options()
    python = incumbent.installed(options.work / "llamafactory")
    print(f"{_machine()}; {len(os.sched_getaffinity(0))} processors")
    summary: dict[str, Any] = {}
    for name, pairs in pair_sets(options.pairs, options.work).items():
        file = options.work / f"pairs-{name}-{options.pairs}.json"
        file.write_text(json.dumps(pairs, ensure_ascii=False), encoding="utf-8")
        summary[name] = compare(name, file, python, options)
    print(json.dumps({"pairs": options.pairs, "processors": processors(), **summary}))


def compare(name: str, pairs: Path, python: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Median seconds of each program on these pairs, their ratio, and whether every score of every pair agrees."""
    programs = {
        "llamafactory": ["env", *incumbent.ENVIRONMENT, str(python), "-c", LLAMAFACTORY],
        "medvl": [sys.executable, "-c", MEDVL],
        "medvl_one_core": [sys.executable, "-c", ONE_CORE + MEDVL],
    }
    seconds: dict[str, list[float]] = {program: [] for program in programs}
    results: dict[str, dict[str, Any]] = {}
    contended = 0.0
    for _ in range(options.rounds):
        for program, words in programs.items():
            out = options.work / f"scores-{program}.json"
            others = _quietly([*words, str(pairs), str(out)], attempts=1 if options.force else ATTEMPTS)
            contended = max(contended, others)
            results[program] = json.loads(out.read_text(encoding="utf-8"))
            seconds[program].append(results[program].pop("seconds"))
            print(f"{name:10}{program:18}{seconds[program][-1]:8.2f} s{others:8.2f} others", flush=True)
    took = {program: round(median(each), 3) for program, each in seconds.items()}
    quiet = contended <= BUSY_CORES or options.force
    return {
        "seconds": took,
        "llamafactory_over_medvl": round(took["llamafactory"] / took["medvl"], 2) if quiet else None,
        "llamafactory_over_medvl_one_core": round(took["llamafactory"] / took["medvl_one_core"], 2) if quiet else None,
        "numbers_agree": all(result == results["llamafactory"] for result in results.values()),
        "others_cores": round(contended, 3),
    }


def pair_sets(count: int, work: Path) -> dict[str, list[tuple[str, str]]]:
    """Captions of `benchmarks.slices`, 60 words and more, each with an answer, of two kinds.

    ``tuned``: what was said of another slice. ``base``: Chinese, of about as many characters as the model has tokens.
    """
    rng = random.Random(SEED)
    captions = pq.read_table(sources(work, [count])[count], columns=["caption"])["caption"].to_pylist()
    others = rng.sample(captions, len(captions))
    return {
        "tuned": list(zip(others, captions, strict=True)),
        "base": [(chinese_answer(rng), caption) for caption in captions],
    }


def chinese_answer(rng: random.Random) -> str:
    """Some sentences with numbers that differ."""
    kind = rng.choice(("胸部CT轴位", "胸部CT冠状位", "脑部MRI矢状位", "腹部增强CT轴位"))
    findings = [each.format(n=rng.randint(1, 12)) for each in rng.choices(FINDINGS, k=rng.randint(4, 14))]
    return f"{rng.choice(OPENINGS)}{kind}图像。" + "；".join(findings) + "。"


def _quietly(command: Sequence[str], attempts: int) -> float:
    """A run that nothing disturbed, or the last one that was tried; gives the cores that others used."""
    for _ in range(attempts):
        others = timing(command).others_cores
        if others <= BUSY_CORES:
            break
    return others


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.metrics", description=__doc__)
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--force", action="store_true", help="give the ratios although the machine was busy")
    parser.add_argument("--work", type=Path, default=Path(".demo/bench"), help="folder for all that is made and kept")
    return parser.parse_args()


def _machine() -> str:
    return f"medvl {version('medvl')}, {', '.join((incumbent.RELEASE, *incumbent.METRICS))}"


if __name__ == "__main__":
    main()
