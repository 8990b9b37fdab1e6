"""Settings of the server that answers in place of this process: any that speaks OpenAI's protocol, vLLM first."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, SecretStr

from medvl_jobs.settings.section import Section, operational


class ServerSettings(Section):
    """Where it is, or how it is started; how it is asked, and checked before it is believed."""

    url: str | None = operational(None, pattern=r"^https?://[^\s@]+$")
    """Base address, such as ``http://vllm:8000/v1``; none lets the job start vLLM itself."""
    api_key: SecretStr | None = operational(None, exclude=True)
    """Of a server at ``url``. Give it in ``MEDVL_EVAL__SERVER__API_KEY``: it is neither stored nor printed."""
    base_name: Annotated[str, Field(min_length=1)] = operational("base")
    """What the server calls the base model."""
    tuned_name: Annotated[str, Field(min_length=1)] = operational("tuned")
    """What it calls the tuned one."""
    concurrency: Annotated[int, Field(ge=1)] = operational(32)
    """Requests under way at a time."""
    retries: Annotated[int, Field(ge=0)] = operational(8)
    """Further attempts of a request that may do better later, with pauses that double from 1 to 60 seconds."""
    timeout_seconds: Annotated[float, Field(gt=0)] = operational(600.0)
    """What one answer may take."""
    canary: Annotated[int, Field(ge=0)] = operational(4)
    """Examples that are first answered in this process, to compare log-probabilities; 0: neither model nor memory."""
    canary_tolerance: Annotated[float, Field(gt=0)] = operational(0.1)
    """Mean difference of a token's log-probability, in nats; a single token's may be ten times as much."""
    command: tuple[str, ...] = operational(("/opt/vllm/bin/vllm", "serve"), min_length=1)
    """The program to start. vLLM lives in an environment of its own."""
    replicas: Annotated[int, Field(ge=1)] = operational(1)
    """Copies of the model that share the requests, each on GPUs of its own."""
    adapter: Literal["lora", "merged"] = operational("lora")
    """``lora``: vLLM adds the adapter as it computes. ``merged``: it gets a model with rounded sums, made for it."""
    arguments: tuple[str, ...] = operational(())
    """More words for its command line, behind medvl's own."""
    start_timeout_seconds: Annotated[float, Field(gt=0)] = operational(1800.0)
    """What loading the model may take."""
