"""What is looked for before a training begins, with versions and GPUs that are made up; one check for real."""

from __future__ import annotations

import os
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny_model
import torch
import torch.distributed as dist
from pipeline_runs import SMALL, medvl
from ports import free_port

from medvl_jobs import errors
from medvl_jobs.model import versions
from medvl_jobs.settings.run import RunSettings, load_settings
from medvl_jobs.settings.storage import StorageSettings
from medvl_jobs.settings.train import LoraSettings
from medvl_jobs.storage.open import open_storage
from medvl_jobs.storage.publish import installed
from medvl_jobs.train.batches import Lengths, Schedule
from medvl_jobs.train.data import TrainingExamples
from medvl_jobs.train.lora import add_lora
from medvl_jobs.train.preflight import examples as of_examples
from medvl_jobs.train.preflight import gpus, libraries, machine
from medvl_jobs.train.preflight import model as of_model
from medvl_jobs.train.preflight.checks import Preflight
from medvl_jobs.train.preflight.findings import Finding, merged, require, table
from medvl_jobs.train.preflight.prompt import caption_findings, template_finding
from medvl_jobs.train.ranks import Ranks

GOOD = {"torch": "2.13.0", "transformers": "5.23.0", "peft": "0.21.2", "accelerate": "1.15.0"}
H100 = gpus.Gpu("NVIDIA H100 80GB HBM3", 85_520_809_984, (9, 0))
V100 = gpus.Gpu("Tesla V100-SXM2-32GB", 34_089_730_048, (7, 0))
PROMPT = "<|im_start|>user\nWhat?<|im_end|>\n<|im_start|>assistant\n"
NO_THOUGHT = "<think>\n\n</think>\n\n"


def settings(*words: str) -> RunSettings:
    return load_settings(None, words)


def refused(findings: list[Finding]) -> list[str]:
    return [each.name for each in findings if each.verdict == "refused"]


def host(*found: gpus.Gpu, **changes: Any) -> gpus.Machine:
    told: dict[str, Any] = {"torch": "2.13.0", "cuda": "12.8", "driver": "NVRM version: 570.1", **changes}
    told.setdefault("architectures", ("sm_70", "sm_80", "sm_90"))
    return gpus.Machine(found, **told)


# ---- findings


def test_the_first_refusal_is_raised_and_the_table_has_all() -> None:
    found = [
        Finding("disk", "enough"),
        Finding("store", "slow\nvery", "warning", "s3://b", "move it"),
        Finding("data", "is bad", "refused", "train", "mend it", errors.DataError),
        Finding("GPUs", "none", "refused"),
    ]
    with pytest.raises(errors.DataError, match="data: is bad") as raised:
        require(found)
    assert (raised.value.where, raised.value.remedy) == ("train", "mend it")
    lines = table(found).splitlines()
    assert lines[0] == "ok        disk   enough"
    assert [line.split()[0] for line in lines] == [
        "ok",
        "warning",
        "very",
        "where:",
        "remedy:",
        "refused",
        "where:",
        "remedy:",
        "refused",
    ]
    require(found[:2])
    assert table([]) == ""


def test_all_processes_refuse_the_same() -> None:
    full = Finding("disk", "is full", "refused", error=errors.TryAgainError)
    of_all = merged([[Finding("disk", "enough")], [Finding("disk", "enough")], [full]])
    assert [each.name for each in of_all] == ["disk", "disk (process 2)"]
    with pytest.raises(errors.TryAgainError, match=re.escape("disk (process 2): is full")):
        require(of_all)
    assert merged([[full], [full]]) == [full]


def test_an_error_becomes_a_finding_and_again_that_error() -> None:
    error = errors.AccessDeniedError("not allowed", where="s3://b", remedy="ask")
    with pytest.raises(errors.AccessDeniedError, match="store: not allowed"):
        require([Finding.of("store", error)])


# ---- libraries


def test_good_libraries_are_named() -> None:
    (found,) = libraries.library_findings(GOOD, settings())
    assert found.verdict == "ok"
    assert "torch 2.13.0" in found.value
    assert "flash-attn –" in found.value


@pytest.mark.parametrize(
    ("changes", "words", "name"),
    [
        ({"torch": "2.9.0"}, (), "torch 2.9"),
        ({"torch": "2.9.1+cu128"}, (), "torch 2.9"),
        ({"transformers": "4.57.1"}, (), "transformers 4"),
        ({}, ("train.zero=3",), "deepspeed"),
        ({}, ("train.offload=optimizer",), "deepspeed"),
        ({}, ("model.attention=flash_attention_2",), "flash-attn"),
    ],
)
def test_known_traps_are_refused_by_name(changes: dict[str, str], words: tuple[str, ...], name: str) -> None:
    assert refused(libraries.library_findings(GOOD | changes, settings(*words))) == [name]


@pytest.mark.parametrize("version", ["2.8.0", "2.10.0", "2.90.0", "2.13.0+cpu"])
def test_other_torches_are_let_through(version: str) -> None:
    assert refused(libraries.library_findings(GOOD | {"torch": version}, settings())) == []


def test_a_missing_library_is_refused() -> None:
    assert refused(libraries.library_findings({"torch": "2.13.0"}, settings())) == [
        "transformers",
        "peft",
        "accelerate",
    ]


@pytest.mark.parametrize(
    ("torch_version", "capability", "there"),
    [
        ("2.13.0", (9, 0), True),
        ("2.10.0", (8, 0), True),
        ("2.8.0", (9, 0), True),
        ("2.8.0", (8, 0), False),
        ("2.8.0", (10, 0), False),
        ("2.13.0", (7, 5), False),
        ("2.13.0+cpu", None, True),
        ("2.8.0", None, False),
    ],
)
def test_grouped_mm_is_there_or_refused(torch_version: str, capability: tuple[int, int] | None, there: bool) -> None:
    found = libraries.grouped_mm_finding(torch_version, capability, "grouped_mm")
    assert (found.verdict == "ok") is there
    assert libraries.grouped_mm_finding(torch_version, capability, "eager").verdict == "warning"


def test_an_adapter_of_another_transformers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "installed", lambda packages: {"transformers": "5.23.0"})
    versions.require_same_major({"transformers": "5.0.1"}, "adapter")
    versions.require_same_major({}, "adapter")
    with pytest.raises(errors.SchemaMismatchError, match=re.escape("made with transformers 4.57.1, this is")):
        versions.require_same_major({"transformers": "4.57.1"}, "adapter")


def test_installed_versions_are_found() -> None:
    assert set(installed(versions.OF_AN_ADAPTER)) == {"transformers", "peft"}
    assert installed(["no-such-package-at-all"]) == {}


# ---- GPUs


def test_as_many_gpus_as_processes() -> None:
    found = gpus.gpu_findings(host(H100, H100), 2, settings())
    assert {each.verdict for each in found} == {"ok"}
    assert [each.name for each in found] == ["driver", "GPUs", "experts"]
    assert "2 × NVIDIA H100 80GB HBM3, 85.5 GB; 2 processes" in found[1].value


@pytest.mark.parametrize(
    ("machine_", "processes", "verdict"),
    [
        (host(H100), 2, "refused"),
        (host(H100, H100), 1, "warning"),
        (host(H100, gpus.Gpu("NVIDIA H200", 150_000_000_000, (9, 0))), 2, "warning"),
        (host(cuda=None), 1, "refused"),
        (host(complaint="The NVIDIA driver on your system is too old"), 1, "refused"),
        (host(driver=None), 1, "warning"),
        (host(driver=None, cuda=None), 1, "ok"),
    ],
)
def test_gpus_and_processes(machine_: gpus.Machine, processes: int, verdict: str) -> None:
    (found,) = (each for each in gpus.gpu_findings(machine_, processes, settings()) if each.name == "GPUs")
    assert found.verdict == verdict


@pytest.mark.parametrize(
    ("architectures", "capability", "runs"),
    [
        (("sm_80", "sm_90"), (9, 0), True),
        (("sm_80", "sm_86"), (8, 9), True),
        (("sm_80", "sm_90a"), (10, 0), False),
        (("sm_80", "sm_90", "compute_90"), (10, 0), True),
        (("sm_90",), (8, 0), False),
        (("compute_90",), (8, 0), False),
        (("sm_90", "sm_100", "sm_120"), (12, 0), True),
    ],
)
def test_torch_is_compiled_for_the_gpu(architectures: tuple[str, ...], capability: tuple[int, int], runs: bool) -> None:
    machine_ = host(gpus.Gpu("a GPU", 10**11, capability), architectures=architectures)
    assert refused(gpus.gpu_findings(machine_, 1, settings())) == ([] if runs else ["torch"])


def test_the_drivers_complaint_is_passed_on() -> None:
    (found,) = (each for each in gpus.gpu_findings(host(complaint="too old"), 1, settings()) if each.name == "GPUs")
    assert "too old" in found.value


def test_an_old_gpu_has_neither_bfloat16_nor_grouped_mm() -> None:
    assert refused(gpus.gpu_findings(host(V100), 1, settings())) == ["bfloat16", "experts"]
    assert refused(gpus.gpu_findings(host(V100), 1, settings("model.dtype=float32", "model.experts=eager"))) == []


def test_flash_attention_must_load() -> None:
    flash = "model.attention=flash_attention_2"
    asked = settings(flash)
    assert refused(gpus._flash_attention(host(), asked)) == ["flash-attn"]
    assert refused(gpus._flash_attention(host(V100), asked)) == ["flash-attn"]

    def broken(name: str) -> object:
        raise ImportError("flash_attn_2_cuda.so: undefined symbol: _ZN3c105ErrorC2E\nmore")

    (found,) = gpus._flash_attention(host(H100), asked, broken)
    assert (found.verdict, found.error) == ("refused", errors.SchemaMismatchError)
    assert found.value.endswith("undefined symbol: _ZN3c105ErrorC2E")
    loaded: list[str] = []
    assert refused(gpus._flash_attention(host(H100), asked, loaded.append)) == []
    assert loaded == ["flash_attn_2_cuda"]
    assert refused(gpus._flash_attention(host(H100), settings(flash, "model.dtype=float32"), print)) == ["flash-attn"]
    assert gpus._flash_attention(host(H100), settings(), broken) == []


def test_this_machine_can_be_read() -> None:
    found = gpus.read_machine()
    assert found.torch == torch.__version__
    assert len(found.gpus) == torch.cuda.device_count()


def test_memory_against_the_estimate() -> None:
    assert gpus.memory_finding(10**12, None, None).verdict == "ok"
    assert gpus.memory_finding(7 * 10**10, H100, 8 * 10**10).verdict == "ok"
    assert gpus.memory_finding(7 * 10**10, H100, 6 * 10**10).verdict == "warning"
    assert gpus.memory_finding(9 * 10**10, H100, 8 * 10**10).verdict == "refused"


# ---- machine


def test_disk_and_shared_memory(tmp_path: Path) -> None:
    assert machine.disk_finding(tmp_path, 10, 9).verdict == "refused"
    assert machine.disk_finding(tmp_path, 1).verdict == "ok"
    assert machine.disk_bytes(100, 120, 2) == 200 + 4 * 120
    assert [machine.checkpoint_bytes(10, *each) for each in ((0, 2), (2, 2), (3, 4))] == [120, 180, 200]
    assert machine.shared_memory_finding(10, 9).verdict == "refused"
    assert [machine.shared_memory_finding(*each).verdict for each in ((9, 9), (0, 0), (9, None))] == ["ok"] * 3


def test_the_store_is_tried(tmp_path: Path) -> None:
    storage = open_storage(StorageSettings(uri=str(tmp_path)))
    assert machine.store_finding(storage).verdict == "ok"

    def denied(_: Any) -> None:
        raise errors.AccessDeniedError("the store refused it")

    found = machine.store_finding(storage, denied)
    assert (found.verdict, found.error) == ("refused", errors.AccessDeniedError)


def test_one_process_needs_no_all_reduce() -> None:
    assert machine.all_reduce_finding(Ranks()).verdict == "ok"


@pytest.mark.parametrize(("second_comes", "verdict"), [(True, "ok"), (False, "refused")])
def test_all_reduce_of_two(tmp_path: Path, second_comes: bool, verdict: str) -> None:
    """The second one joins, and then takes part or not: without a timeout the first would wait for it for ever."""
    context = torch.multiprocessing.get_context("spawn")
    answers, over = context.Queue(), context.Event()
    processes = [
        context.Process(target=_all_reduce, args=(rank, str(tmp_path / "join"), second_comes, answers, over))
        for rank in range(2)
    ]
    for process in processes:
        process.start()
    found = answers.get(timeout=500)
    over.set()
    for process in processes:
        process.join(timeout=60)
    assert found.verdict == verdict
    assert found.error is (errors.SettingsError if second_comes else errors.TryAgainError)


def _all_reduce(rank: int, join: str, second_comes: bool, answers: Any, over: Any) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{join}", rank=rank, world_size=2)
    if rank == 0 or second_comes:
        found = machine.all_reduce_finding(Ranks.joined("cpu"), seconds=300.0 if second_comes else 2.0)
    if rank == 0:
        answers.put(found)
        answers.close()
        answers.join_thread()
    else:
        over.wait(500)
    os._exit(0)  # gloo waits for the one that has not come


# ---- the prompt


def test_no_think_tags_is_ok() -> None:
    assert template_finding(PROMPT, "", template_thinks=False).verdict == "ok"


@pytest.mark.parametrize(
    ("prompt", "prefix", "thinks", "verdict"),
    [
        (PROMPT, NO_THOUGHT, False, "warning"),  # the profile `tutorial`
        (PROMPT, NO_THOUGHT, True, "ok"),
        (f"{PROMPT}<think>\n", "", True, "refused"),
        (f"{PROMPT}{NO_THOUGHT}", "", True, "refused"),
        (f"{PROMPT}{NO_THOUGHT}", NO_THOUGHT, True, "refused"),
        (f"{PROMPT}<think>\n", "</think>\n\n", True, "ok"),
    ],
)
def test_think_tags(prompt: str, prefix: str, thinks: bool, verdict: str) -> None:
    assert template_finding(prompt, prefix, template_thinks=thinks).verdict == verdict


def test_captions_without_words_or_with_thoughts() -> None:
    captions = [
        ("a", "A skull."),
        ("b", " \n"),
        ("c", "<think>Hm.</think>A skull."),
        *((f"e{n}", "") for n in range(6)),
    ]
    empty, thinking = caption_findings(captions, template_thinks=False)
    assert empty.value.startswith("7 captions are empty")
    assert empty.where == "b, e0, e1, e2, e3, …"
    assert (thinking.where, thinking.error, empty.error) == ("c", errors.DataError, errors.DataError)
    assert caption_findings(captions[:1], template_thinks=False) == []
    assert caption_findings([captions[2]], template_thinks=True) == []


# ---- the data


def rows(*captions: str) -> Any:
    import datasets

    image = {"bytes": tiny_model.png(tiny_model.picture(0)), "path": None}
    return datasets.Dataset.from_list(
        [
            {"example_id": str(number), "image": image, "caption": caption, "width": 192, "height": 192}
            for number, caption in enumerate(captions)
        ]
    )


def test_the_first_batch_in_words() -> None:
    examples = TrainingExamples(rows(*tiny_model.CAPTIONS), tiny_model.renderer(), 512)
    schedule = Schedule(examples.lengths, settings("train.batch_size=2").train, 1)
    found = {each.name: each for each in of_examples.data_findings(examples, schedule, 0)}
    assert {each.verdict for each in found.values()} == {"ok"}
    first = found["first batch"].value.splitlines()[0]
    assert re.search(r"assistant\\n⟦[^⟧]+<\|im_end\|>\\n⟧$", first)
    assert "<|vision_start|><|image_pad|>×36<|vision_end|>" in first
    assert "as many as their grids have" in found["image tokens"].value
    assert "labelled" in found["tokens"].value
    assert "0 (0.0%) are too long" in found["examples"].value


def test_many_examples_left_out_are_a_warning() -> None:
    schedule = Schedule(Lengths(*(np.full(19, 9) for _ in range(3))), settings().train, 1)
    assert of_examples.examples_finding(19, 1, schedule).verdict == "ok"
    assert of_examples.examples_finding(19, 2, schedule).verdict == "warning"


def test_image_tokens_that_are_missing_are_counted_and_refused() -> None:
    renderer = tiny_model.renderer()
    encoded = tiny_model.examples(renderer)
    counted = [(len(each), int(each.mm_token_type_ids_L.sum())) for each in encoded]
    assert of_examples.image_tokens_finding(encoded, counted, renderer).verdict == "ok"
    cut = encoded[0].__class__(**{**vars(encoded[0]), "input_ids_L": encoded[0].input_ids_L[20:]})
    found = of_examples.image_tokens_finding([cut, *encoded[1:]], counted, renderer)
    assert (found.verdict, found.error) == ("refused", errors.SchemaMismatchError)
    assert "1 examples have others" in found.value
    wrong = [(tokens, images + 1) for tokens, images in counted]
    assert "3 examples have others" in of_examples.image_tokens_finding(encoded, wrong, renderer).value


def test_shared_memory_holds_what_the_workers_prepare() -> None:
    lengths = Lengths(np.array([50, 60]), np.array([10, 10]), np.array([36, 40]))
    schedule = Schedule(lengths, settings("train.batch_size=1", "train.batch_tokens=null").train, 1)
    pixels = tiny_model.examples(tiny_model.renderer())[0].pixel_values_PD
    assert pixels.shape[1] == of_examples.PATCH_VALUES
    assert of_examples.shared_memory_bytes(schedule, 2, 3) == 3 * 2 * 40 * 4 * of_examples.PATCH_VALUES * 2
    assert of_examples.shared_memory_bytes(schedule, 2, 0) == 0


# ---- the model


@pytest.fixture(scope="module")
def grouped() -> Any:
    from medvl_jobs.model.checkpoint import load_model

    return load_model(tiny_model.MODEL.model_copy(update={"experts": "grouped_mm"}))


def test_what_is_in_force(grouped: Any) -> None:
    assert of_model.attention_finding(grouped, "sdpa").verdict == "ok"
    found = of_model.experts_finding(grouped, "grouped_mm")
    assert found.verdict == "ok", found
    eager = of_model.experts_finding(tiny_model.base_model(), "eager")
    assert eager.verdict == "ok", eager


def test_another_implementation_than_the_one_asked_for_is_refused(grouped: Any) -> None:
    assert of_model.attention_finding(grouped, "flash_attention_2").verdict == "refused"
    found = of_model.experts_finding(tiny_model.base_model(), "grouped_mm")
    assert (found.verdict, found.error) == ("refused", errors.SettingsError)
    assert "eager is in force" in found.value


def test_the_silent_fall_back_is_found(grouped: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU without the kernel: the configuration says grouped_mm, and a loop runs."""
    import transformers.integrations.moe

    monkeypatch.setattr(transformers.integrations.moe, "_can_use_grouped_mm", lambda *_: False)
    found = of_model.experts_finding(grouped, "grouped_mm")
    assert found.verdict == "refused"
    assert "falls back" in found.value


def test_experts_that_compute_something_else_are_refused(grouped: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_model, "try_experts", lambda _: ({of_model.GROUPED}, 0.3, 1e-4))
    assert "differs from eager" in of_model.experts_finding(grouped, "grouped_mm").value
    monkeypatch.setattr(of_model, "try_experts", lambda _: ({of_model.GROUPED}, float("nan"), 1e-4))
    assert of_model.experts_finding(grouped, "grouped_mm").verdict == "refused"


def test_trying_the_experts_draws_nothing_from_the_training(grouped: Any) -> None:
    before = torch.get_rng_state()
    of_model.experts_finding(grouped, "grouped_mm")
    assert torch.equal(before, torch.get_rng_state())


def test_under_zero_3_the_experts_are_gathered_and_the_adapter_is_counted_whole() -> None:
    context = torch.multiprocessing.get_context("spawn")
    answers = context.Queue()
    process = context.Process(target=_under_zero_3, args=(answers,))
    process.start()
    process.join(timeout=500)
    assert process.exitcode == 0
    experts, lora, dtypes = answers.get(timeout=10)
    assert experts.verdict == "ok", experts
    assert dtypes == {"torch.bfloat16"}  # DeepSpeed would cast none, and there is no autocast
    whole = of_model.lora_finding(add_lora(tiny_model.base_model(), LoraSettings(rank=2)))
    assert lora.value == whole.value


def _under_zero_3(answers: Any) -> None:
    from transformers import TrainingArguments

    from medvl_jobs.model.checkpoint import load_model
    from medvl_jobs.train import zero
    from medvl_jobs.train.loss import AnswerLossModel

    torch.set_num_threads(1)
    asked = settings("train.zero=3", "model.dtype=bfloat16")
    config = zero.deepspeed_config(asked.train, asked.model)
    zero.prepare_process(config)
    arguments = TrainingArguments(deepspeed=config, bf16=True, use_cpu=True, report_to=[])
    base = tiny_model.MODEL.model_copy(update={"experts": "grouped_mm", "dtype": "bfloat16"})
    model = add_lora(load_model(base, None, kind=AnswerLossModel), LoraSettings(rank=2))
    assert arguments.deepspeed is not None  # while it lives, models are dealt out
    dtypes = {str(each.dtype) for each in model.parameters() if each.requires_grad}
    answers.put((of_model.experts_finding(model, "grouped_mm"), of_model.lora_finding(model), dtypes))


def test_experts_without_weights_are_refused(grouped: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    experts = next(each for each in grouped.modules() if type(each).__name__.endswith("TextExperts"))
    monkeypatch.setattr(experts.down_proj, "data", torch.zeros_like(experts.down_proj))
    assert of_model.experts_finding(grouped, "grouped_mm").verdict == "refused"


def test_no_model_is_refused_as_such(tmp_path: Path) -> None:
    found, _ = of_model.planned_lora_finding(
        tiny_model.MODEL.model_copy(update={"path": str(tmp_path)}), LoraSettings()
    )
    assert (found.verdict, found.error) == ("refused", errors.MissingInputError)


@pytest.mark.parametrize("experts", ["none", "all"])
def test_the_adapters_table_is_known_before_the_weights(experts: Any) -> None:
    lora = LoraSettings(rank=2, experts=experts)
    planned, count = of_model.planned_lora_finding(tiny_model.MODEL, lora)
    loaded = add_lora(tiny_model.base_model(), lora)
    found = of_model.lora_finding(loaded)
    assert planned == found
    assert found.verdict == "ok"
    assert count == loaded.get_nb_trainable_parameters()[0]
    assert "layers.*.self_attn.q_proj.lora_A" in found.value
    assert of_model.experts_finding(loaded, "eager").verdict == "ok"


def test_an_adapter_that_fits_nowhere_is_refused_without_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    from medvl_jobs.train import lora

    monkeypatch.setattr(lora, "target_pattern", lambda _: r"language_model\.layers\.\d+\.nothing")
    found, count = of_model.planned_lora_finding(tiny_model.MODEL, LoraSettings())
    assert (found.verdict, found.error, count) == ("refused", errors.SchemaMismatchError, 0)


def test_anything_else_that_is_trained_is_refused() -> None:
    model = add_lora(tiny_model.base_model(), LoraSettings(rank=2))
    model.base_model.model.model.visual.patch_embed.proj.weight.requires_grad_(True)
    found = of_model.lora_finding(model)
    assert found.verdict == "refused"
    assert "also trained: model.visual.patch_embed.proj" in found.value
    model.requires_grad_(False)
    assert "nothing is trained" in of_model.lora_finding(model).value


# ---- the command


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    folder = tmp_path_factory.mktemp("check")
    medvl("sample", "--out", str(folder / "data"), "--rows", "24")
    words = ("--config", str(folder / "data" / "run.yaml"), *SMALL, f"storage.uri={folder / 'store'}")
    medvl("prep", *words)
    return words


def test_a_check_prints_the_table_and_trains_nothing(prepared: tuple[str, ...]) -> None:
    ran = medvl("train", "--check", *prepared)
    names = {line.split()[1] for line in ran.stdout.splitlines() if line.startswith(("ok", "warning"))}
    assert {"libraries", "LoRA", "store", "disk", "all-reduce", "examples", "tokens", "attention", "experts"} <= names
    assert "refused" not in ran.stdout
    store = Path(prepared[-1].partition("=")[2])
    assert not list(store.glob("adapters/*"))
    assert not list(store.glob("probes/*"))


def test_a_check_refuses_with_the_errors_own_code(prepared: tuple[str, ...]) -> None:
    ran = medvl("train", "--check", *prepared, "model.attention=flash_attention_2", check=False)
    assert ran.returncode == errors.SettingsError.exit_code
    assert "medvl: flash-attn: is not installed" in ran.stderr
    ran = medvl("train", "--check", *prepared, "train.max_tokens=20", check=False)
    assert ran.returncode == errors.DataError.exit_code


def test_a_check_of_two_processes(prepared: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PET_NPROC_PER_NODE": "2", "OMP_NUM_THREADS": "1", "MASTER_PORT": str(free_port())}.items():
        monkeypatch.setenv(name, value)
    ran = medvl("train", "--check", *prepared)
    assert ran.stdout.count("2 processes over gloo") == 1


def test_the_disk_is_looked_at_again_when_the_stage_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints of DeepSpeed are half as large again."""
    preflight = Preflight(settings(), open_storage(StorageSettings(uri=str(tmp_path))))
    preflight.scratch, preflight.trained = tmp_path, 1000
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: SimpleNamespace(free=40_000))
    assert [each.verdict for each in (*preflight._disk(0, 0), *preflight._disk(0, 2))] == ["ok", "refused"]
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert Preflight(settings(), preflight.storage)._disk(10**9, 0) == []  # the first process has looked for both
