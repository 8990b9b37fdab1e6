#!/usr/bin/env bash
# Build one image of images/Dockerfile with Docker, at the versions of images/versions.env.
#   build_image.sh TARGET NAME [OPTION…]     the options go to docker buildx build
set -euo pipefail

target=$1 name=$2
shift 2
arguments=(--build-arg "GIT_SHA=$(git rev-parse HEAD)")
arguments+=(--build-arg "VERSION=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' medvl_jobs/__init__.py)")
while read -r line; do
  arguments+=(--build-arg "$line")
done < <(grep -E '^[A-Z_]+=' images/versions.env)
docker buildx build --file images/Dockerfile --target "$target" --tag "$name" "${arguments[@]}" "$@" .
