"""Every key in the store. Nobody else joins strings into keys.

    prepared/<key>/
      parts/00000-00000/                the first rows of the first source file; made by any worker, in any order
        examples.parquet                rows of `records.PREPARED`
        ledger.parquet                  the same rows of `records.LEDGER`: what the split is decided by
        quarantine.parquet              rows of `records.QUARANTINE`: what was refused, why, and the original bytes
        manifest.json
      captions.json                     how many captions there are, where they lie apart from their images
      train.parquet  val.parquet        rows of `records.SPLIT`: which rows of which part
      left_out.parquet                  rows of `records.LEFT_OUT`: accepted rows that are on neither side, and why
      llamafactory/                     mllm_train_data.json, mllm_val_data.json, dataset_info.json
        images/00000-00000/…            of one part, with a manifest.json of their own
      card.json                         counts and reasons
      manifest.json
    checks/<key>/                       `medvl prep --check`, of the parts under prepared/<key>/parts
      card.json  index.html             the same card and more, and the page to read
      manifest.json
    adapters/<key>/
      adapter_config.json  adapter_model.safetensors  README.md
      base_model.json                   fingerprint of the base model that it belongs to
      trainer_log.jsonl  training_loss.png  all_results.json
      checkpoints/step-000100/
        process-00000/…                 what each process has of it
        process-00001.5f1c02d9.json     the list of one, of the attempt 5f1c02d9, which the first process waits for
        manifest.json
      tensorboard/events.out.tfevents.…  one for each attempt that wrote a log line
      bad_steps/000007-0.json           examples of a step without a finite loss, of one process
      manifest.json
    predictions/<key>/
      part-00000.jsonl …                one line per finished example
      predict_results.json  scores.parquet  claims.parquet
      manifest.json
    runs/<name>/<run key>/
      run.yaml  plan.json
      previous.json                     the run of that name that was the newest when the report was first made
      report/index.html  report/report.json  report/report.md  report/figures/…
      live/train/status.json  log.txt   one folder for each stage, refreshed while it works
      manifest.json
    runs/<name>/current.json            the run key of that name that was started last
    runs/<name>/latest.json             the one whose report was finished last
    probes/…                            made and deleted again, to see what the store can do

A prefix without ``manifest.json`` does not exist: it is being made, or its maker died.
"""

from __future__ import annotations

MANIFEST = "manifest.json"
CARD = "card.json"
PAGE = "index.html"
EXAMPLES = "examples.parquet"
LEDGER = "ledger.parquet"
QUARANTINE = "quarantine.parquet"
LEFT_OUT = "left_out.parquet"
EXPORT = "llamafactory"
RUN_FILE = "run.yaml"
PLAN = "plan.json"
PREVIOUS = "previous.json"
PREDICT_RESULTS = "predict_results.json"
SCORES = "scores.parquet"
CLAIMS = "claims.parquet"
STATUS = "status.json"
LOG = "log.txt"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_BASE = "base_model.json"
TRAINER_LOG = "trainer_log.jsonl"
TRAINING_LOSS = "training_loss.png"
ALL_RESULTS = "all_results.json"


def prepared(key: str) -> str:
    """Prefix of one prepared dataset."""
    return f"prepared/{key}"


def parts(key: str) -> str:
    """Prefix of the parts of one prepared dataset."""
    return f"{prepared(key)}/parts"


def part_name(file: int, number: int) -> str:
    """The ``number``-th part of the ``file``-th source file: ``00003-00000``; name order is row order."""
    return f"{file:05d}-{number:05d}"


def shard_of(part: str) -> int:
    """Which source file a part is of."""
    return int(part.partition("-")[0])


def prepared_part(key: str, name: str) -> str:
    """Prefix of one part."""
    return f"{parts(key)}/{name}"


def captions(key: str) -> str:
    """Key of the counts of the captions that lie apart from their images."""
    return f"{prepared(key)}/captions.json"


def ledger(key: str, name: str) -> str:
    """Key of the ledger of one part."""
    return f"{prepared_part(key, name)}/{LEDGER}"


def export_images(key: str, name: str) -> str:
    """Prefix of the exported images of one part."""
    return f"{prepared(key)}/{EXPORT}/images/{name}"


def split_file(side: str) -> str:
    """File name of the list of rows on one side of the split."""
    return f"{side}.parquet"


def check(key: str) -> str:
    """Prefix of the dataset check of the prepared dataset of the same key, which need not be finished."""
    return f"checks/{key}"


def adapter(key: str) -> str:
    """Prefix of one trained adapter."""
    return f"adapters/{key}"


def tensorboard(key: str) -> str:
    """Prefix of TensorBoard's files of one adapter: a folder to give to TensorBoard."""
    return f"{adapter(key)}/tensorboard"


def tensorboard_file(name: str) -> str:
    """Where one of them lies under the adapter's prefix."""
    return f"tensorboard/{name}"


def checkpoints(key: str) -> str:
    """Prefix of the checkpoints of one adapter."""
    return f"{adapter(key)}/checkpoints"


def checkpoint(key: str, step: int) -> str:
    """Prefix of one checkpoint; zero-padded so that key order is step order."""
    return f"{checkpoints(key)}/step-{step:06d}"


def checkpoint_files(process: int) -> str:
    """Folder of one process's files, under a checkpoint."""
    return f"process-{process:05d}"


def checkpoint_list(key: str, step: int, process: int, attempt: str) -> str:
    """Key of the list of one process's files; ``attempt`` is new with every start of the training."""
    return f"{checkpoint(key, step)}/{checkpoint_files(process)}.{attempt}.json"


def bad_step(key: str, step: int, process: int) -> str:
    """What a step without a finite loss had, as one process saw it."""
    return f"{adapter(key)}/bad_steps/{step:06d}-{process}.json"


def predictions(key: str) -> str:
    """Prefix of the predictions of one variant."""
    return f"predictions/{key}"


def runs(name: str = "") -> str:
    """Prefix of all runs, or of those of one name."""
    return f"runs/{name}".rstrip("/")


def run(name: str, key: str) -> str:
    """Prefix of one run: its settings, plan and report."""
    return f"{runs(name)}/{key}"


def report_file(name: str, key: str, file: str) -> str:
    """One file of a run's report."""
    return f"{run(name, key)}/report/{file}"


def live(name: str, key: str, stage: str) -> str:
    """Prefix of what a stage of a run says of itself while it works."""
    return f"{run(name, key)}/live/{stage}"


def current(name: str) -> str:
    """The pointer to the run of a name that was started last."""
    return f"{runs(name)}/current.json"


def latest(name: str) -> str:
    """The pointer to the newest report of a name."""
    return f"{runs(name)}/latest.json"


def probe(name: str) -> str:
    """Key of a probe of the store."""
    return f"probes/{name}"


def part(number: int, suffix: str) -> str:
    """File name of the ``number``-th part: ``part-00007.parquet``."""
    return f"part-{number:05d}.{suffix}"


def manifest(prefix: str) -> str:
    """Key of the manifest that makes ``prefix`` exist."""
    return f"{prefix}/{MANIFEST}"
